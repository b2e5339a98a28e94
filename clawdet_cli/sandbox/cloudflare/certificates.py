"""Cloudflare's Origin CA: it really signs, so that a real web server can serve what it gives.

What a revocation leaves behind is not documented. Here a revoked certificate can still be read by its id, with
`revoked_at`, and is no longer listed; the Terraform provider reads that field to tell a revoked certificate. Numbers of
refusals: Cloudflare's own older list, as clients quote it (1000 general error, on request; 1010 host name, 1011 CSR,
1012 zone id missing, 1014 already revoked, 1101 not readable); the others are guesses.
"""

import re
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec, rsa

from clawdet_cli.sandbox.authority import Authority
from clawdet_cli.sandbox.cloudflare import state as account
from clawdet_cli.sandbox.cloudflare.envelope import ApiError

VALIDITIES = (7, 30, 90, 365, 730, 1095, 5475)  # days
KEY_TYPES: dict[str, type] = {"origin-ecc": ec.EllipticCurvePublicKey, "origin-rsa": rsa.RSAPublicKey}
HOSTNAME = re.compile(r"(\*\.)?([a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?\.)+[a-z0-9-]{2,63}")
MOST_NAMES = 200
SIGNING_REFUSALS = {1000: "General error", 1016: "User is not authorized to perform this action"}
OPTIONAL = ("csr", "certificate", "requested_validity")
"""What an answer may leave out: `certificate_reads` in the account's state says for each kind what it holds.

A validity is not left out, but said to be 0.
"""


def create(state: dict[str, Any], authority: Authority, body: dict[str, Any]) -> dict[str, Any]:
    """Sign a CSR for host names of the account's zones."""
    if code := state["refusals"]["signing"]:
        raise ApiError(400, code, SIGNING_REFUSALS.get(code, "Error"))
    hostnames, csr = body.get("hostnames"), body.get("csr")
    if not isinstance(hostnames, list) or not 0 < len(hostnames) <= MOST_NAMES:
        raise ApiError(400, 1005, f"The hostnames field must hold between 1 and {MOST_NAMES} host names")
    names = list(dict.fromkeys(_hostname(state, name) for name in hostnames))
    days = body.get("requested_validity", 5475)
    if not isinstance(days, int) or days not in VALIDITIES:
        raise ApiError(400, 1008, f"The requested_validity field must be one of {', '.join(map(str, VALIDITIES))}")
    request_type = body.get("request_type")
    if not isinstance(request_type, str) or request_type not in KEY_TYPES:
        raise ApiError(400, 1007, "The request_type field must be one of origin-rsa, origin-ecc")
    try:
        key = x509.load_pem_x509_csr(str(csr).encode()).public_key()
        if not isinstance(key, KEY_TYPES[request_type]):
            raise ApiError(400, 1009, f"The key of the CSR does not fit the request type {request_type}")
        issued = authority.sign_csr(str(csr), names, days)
    except ValueError:
        raise ApiError(400, 1011, "Failed to parse the certificate signing request") from None
    certificate = {
        "id": str(issued.serial),
        "certificate": issued.certificate,
        "hostnames": names,
        "expires_on": issued.not_after.strftime("%Y-%m-%d %H:%M:%S +0000 UTC"),
        "request_type": request_type,
        "requested_validity": days,
        "csr": csr,
    }
    state["certificates"][certificate["id"]] = certificate
    return _shown(certificate, state["certificate_reads"]["create"])


def read(state: dict[str, Any], certificate: dict[str, Any]) -> dict[str, Any]:
    """Return what reading a certificate by its id answers."""
    return _shown(certificate, state["certificate_reads"]["get"])


def listed(state: dict[str, Any], zone: dict[str, Any]) -> list[dict[str, Any]]:
    """Return what a list answers of the certificates in force that name a host of the zone, newest first."""
    rows = [row for row in state["certificates"].values() if not row.get("revoked_at")]
    own = [row for row in reversed(rows) if zone["id"] in _zone_ids(state, row)]
    return [_shown(row, state["certificate_reads"]["list"]) for row in own]


def find(state: dict[str, Any], certificate_id: str) -> dict[str, Any]:
    """Return the certificate of an id."""
    if certificate_id not in state["certificates"]:
        # the text is the vendor's (python-cloudflare issue 38), the status and the number are guesses
        raise ApiError(404, 1101, "Failed to read certificate from Database")
    certificate: dict[str, Any] = state["certificates"][certificate_id]
    return certificate


def revoke(state: dict[str, Any], certificate_id: str) -> dict[str, Any]:
    """Revoke a certificate; a second time is refused."""
    certificate = find(state, certificate_id)
    if certificate.get("revoked_at"):
        raise ApiError(400, 1014, "Certificate already revoked")
    certificate["revoked_at"] = account.now()
    return {"id": certificate_id, "revoked_at": certificate["revoked_at"]}


def zone_names(state: dict[str, Any], certificate: dict[str, Any]) -> set[str]:
    """Return the names of the zones that a certificate's host names lie in."""
    return {state["zones"][zone_id]["name"] for zone_id in _zone_ids(state, certificate)}


def _shown(certificate: dict[str, Any], fields: list[str]) -> dict[str, Any]:
    """Return a certificate without the fields that its kind of answer leaves out."""
    shown = {name: value for name, value in certificate.items() if name not in OPTIONAL or name in fields}
    return {"requested_validity": 0} | shown


def _zone_ids(state: dict[str, Any], certificate: dict[str, Any]) -> set[str]:
    zones = (account.zone_holding(state, name.removeprefix("*.")) for name in certificate["hostnames"])
    return {zone["id"] for zone in zones if zone is not None}


def _hostname(state: dict[str, Any], name: object) -> str:
    lower = str(name).lower()
    if HOSTNAME.fullmatch(lower) and account.zone_holding(state, lower.removeprefix("*.")) is not None:
        return lower
    raise ApiError(
        400,
        1010,
        f"Failed to validate requested hostname {name}: This zone is either not part of your account, "
        "or you do not have access to it",
    )
