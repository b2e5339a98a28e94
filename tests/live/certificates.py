"""An Origin CA certificate of seven days: signed, read, listed, revoked, revoked again."""

from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from tests.live.run import Run

DAYS = 7
"""The shortest that Origin CA signs."""
NOBODYS_ID = "1" * 48


def look(run: Run) -> None:
    """Try a certificate's whole life."""
    judge, call = run.verdicts.judge, run.cloudflare.call
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, run.host[:64])])
    csr = x509.CertificateSigningRequestBuilder().subject_name(subject).sign(key, hashes.SHA256())
    order = {
        "csr": csr.public_bytes(serialization.Encoding.PEM).decode(),
        "hostnames": [run.host],
        "request_type": "origin-ecc",
        "requested_validity": DAYS,
    }
    with run.step("sign a certificate of 7 days"):
        run.journal.intend("certificate", run.host)
        signed = call("POST", "/certificates", "sign", body=order).must(200).content["result"]
        run.journal.made("certificate", run.host, signed["id"])
    judge(
        "cloudflare.certificate-signed",
        signed.get("hostnames") == [run.host] and bool(signed.get("expires_on")) and _has_key(signed, key.public_key()),
        f"fields: {', '.join(sorted(signed))}",
    )
    said = "with csr" if signed.get("csr") else "without csr"
    judge("cloudflare.certificate-created-with-csr", bool(signed.get("csr")), said)
    path = f"/certificates/{signed['id']}"
    with run.step("read it by id and in the list"):
        by_id = call("GET", path, "read").must(200).content["result"]
        listed = call("GET", f"/certificates?zone_id={run.zone_id}&page=1&per_page=50", "list").must(200).content
        of_list = next((one for one in all_listed(run) if str(one["id"]) == str(signed["id"])), None)
    reads = {"by id": by_id, **({"in the list": of_list} if of_list else {})}
    with_csr = [where for where, one in reads.items() if one.get("csr")]
    judge(
        "cloudflare.certificate-read-without-csr",
        len(reads) == 2 and not with_csr,
        f"csr {' and '.join(with_csr)}" if with_csr else f"read {' and '.join(reads)} without csr",
    )
    days = {where: one.get("requested_validity", "none") for where, one in reads.items()}
    judge(
        "cloudflare.certificate-list-validity-zero",
        days.get("in the list") == 0,
        ", ".join(f"{where}: {value}" for where, value in days.items()),
    )
    without_pem = [where for where, one in reads.items() if not _has_key(one, key.public_key())]
    judge(
        "cloudflare.certificate-read-pem",
        len(reads) == 2 and not without_pem,
        f"no certificate with our key {' and '.join(without_pem)}" if without_pem else "both",
    )
    counted = listed.get("result_info") or {}
    judge(
        "cloudflare.certificate-list-counted",
        counted.keys() >= {"page", "per_page", "total_count"},
        f"result_info: {', '.join(sorted(counted)) or 'none'}",
    )
    with run.step("revoke it, read it, revoke it again"):
        call("DELETE", path, "revoke").must(200)
        after = call("GET", path, "read-revoked")
        still = [one for one in all_listed(run) if str(one["id"]) == str(signed["id"])]
        dated = after.status == 200 and bool(after.content["result"].get("revoked_at"))
        judge(
            "cloudflare.certificate-revoked-still-read",
            dated and not still,
            f"{after.said}, {'with' if dated else 'without'} revoked_at; {'' if still else 'not '}listed",
        )
        again = call("DELETE", path, "revoke-again")
        judge("cloudflare.certificate-revoked-twice", again.status >= 400 and 1014 in again.codes, again.said)
    with run.step("read an unknown one"):
        unknown = call("GET", f"/certificates/{NOBODYS_ID}", "read-unknown")
        judge("cloudflare.certificate-unknown", unknown.status >= 400 and 1101 in unknown.codes, unknown.said)


def all_listed(run: Run) -> list[dict[str, Any]]:
    """Return the zone's certificates from as many pages as there are: an empty or a repeated one is the end."""
    found: dict[str, dict[str, Any]] = {}
    page = 0
    while True:
        page += 1
        path = f"/certificates?zone_id={run.zone_id}&page={page}&per_page=50"
        new = {str(one["id"]): one for one in run.cloudflare.call("GET", path).must(200).content["result"]}
        if new.keys() <= found.keys():
            return list(found.values())
        found |= new


def _has_key(certificate: dict[str, Any], key: ec.EllipticCurvePublicKey) -> bool:
    try:
        return x509.load_pem_x509_certificate(certificate["certificate"].encode()).public_key() == key
    except (KeyError, AttributeError, ValueError):
        return False
