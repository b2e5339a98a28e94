"""What the emulated Cloudflare account holds, and the look-ups that its API, its DNS and its edge share.

The state is plain data, so that the daemon can save it as JSON:

    zones         id -> {id, name, status, paused, plan, record_quota, name_servers, created_on, modified_on,
                         activated_on, serial, settings: {name: {value, modified_on}}, records: {id: record},
                         bot_fight_mode: whether addresses of data centres are challenged (no setting of the API's),
                         universal_ssl: {enabled, status}: of the edge's certificate `active`, or `initializing`,
                         `pending_validation`, ... while there is none}
    certificates  id (decimal serial) -> what the API answers, and `revoked_at` once it is revoked
    tokens        SHA-256 of the token -> {id, status, owner, rights, zones}
    certificate_reads    {create, get, list} -> which of `csr`, `certificate` (the PEM) and `requested_validity`
                         such an answer holds
    limits        {requests, seconds, block_seconds, headers}; headers is `documented`, `old` or `both`
    refusals      {zones, signing}: how a list of zones answers a token without the right, `empty` or `forbidden`; the
                         code with which the Origin CA refuses to sign anything, such as 1000, or 0
"""

import datetime as dt
import hashlib
import secrets
from collections.abc import Iterable
from typing import Any

ACCOUNT_ID = "01a7362d577a6c3019a474fd6f485823"
RIGHTS = ("zone:read", "dns:edit", "ssl:edit", "settings:read", "settings:edit", "pagerules:read")
ADVISED = ("zone:read", "dns:edit", "ssl:edit", "settings:read")
"""What the sandbox's own token may do: what users are told to give theirs, so that every run proves it is enough."""
PROXIABLE = ("A", "AAAA", "CNAME")
PLAN_QUOTAS = {"free": 200, "pro": 3500, "business": 3500, "enterprise": 3500}
AUTOMATIC_TTL = 300  # what "1" and every proxied record mean in a DNS answer
SETTINGS = {
    "ssl": ("off", "flexible", "full", "strict"),
    "always_use_https": ("on", "off"),
    "tls_client_auth": ("on", "off"),
    "websockets": ("on", "off"),
    "min_tls_version": ("1.0", "1.1", "1.2", "1.3"),
    "security_level": ("off", "essentially_off", "low", "medium", "high", "under_attack"),
    "browser_check": ("on", "off"),
}
REFUSALS = {"zones": "empty", "signing": 0}
CERTIFICATE_READS = {
    "create": ("csr", "certificate", "requested_validity"),
    "get": ("certificate",),
    "list": ("certificate",),
}
DEFAULT_SETTINGS = {
    "ssl": "strict",
    "always_use_https": "on",
    "tls_client_auth": "off",
    "websockets": "on",
    "min_tls_version": "1.0",
    "security_level": "medium",
    "browser_check": "on",
}


def seed(state: dict[str, Any], zone: str, tokens: Iterable[str]) -> None:
    """Fill an empty state: the zone to work in, a pending one, one of SSL mode `full`; and make the tokens known."""
    state.setdefault("limits", {"requests": 1200, "seconds": 300, "block_seconds": 300}).setdefault(
        "headers", "documented"
    )
    state.setdefault("certificate_reads", {kind: list(fields) for kind, fields in CERTIFICATE_READS.items()})
    state.setdefault("refusals", dict(REFUSALS))
    state.setdefault("certificates", {})
    state.setdefault("tokens", {})
    if "zones" not in state:
        state["zones"] = {}
        label, _, rest = zone.partition(".")
        add_zone(state, zone)
        add_zone(state, f"{label}-pending.{rest}", status="pending")
        add_zone(state, f"{label}-full.{rest}", ssl="full")
    for known in state["zones"].values():  # saved by an earlier version
        known.setdefault("bot_fight_mode", False)
        known.setdefault("universal_ssl", {"enabled": True, "status": "active"})
        for name, value in DEFAULT_SETTINGS.items():
            known["settings"].setdefault(name, {"value": value, "modified_on": None})
    for token in tokens:
        if _digest(token) not in state["tokens"]:
            add_token(state, token, rights=ADVISED)


def add_zone(
    state: dict[str, Any], name: str, *, status: str = "active", plan: str = "free", ssl: str = "strict"
) -> dict[str, Any]:
    """Add a zone to the account."""
    created = now()
    zone: dict[str, Any] = {
        "id": secrets.token_hex(16),
        "name": name,
        "status": status,
        "paused": False,
        "plan": plan,
        "record_quota": PLAN_QUOTAS[plan],
        "name_servers": ["ada.ns.cloudflare.test", "bob.ns.cloudflare.test"],
        "created_on": created,
        "modified_on": created,
        "activated_on": created if status == "active" else None,
        "serial": 2_300_000_000,
        "settings": {key: {"value": value, "modified_on": None} for key, value in DEFAULT_SETTINGS.items()},
        "records": {},
        "bot_fight_mode": False,
        "universal_ssl": {"enabled": True, "status": "active"},
    }
    zone["settings"]["ssl"]["value"] = ssl
    state["zones"][zone["id"]] = zone
    return zone


def add_token(
    state: dict[str, Any],
    token: str,
    *,
    rights: Iterable[str] = RIGHTS,
    zones: Iterable[str] | None = None,
    status: str = "active",
    owner: str = "user",
) -> None:
    """Make a token known; `zones` are zone names, None means every zone; `owner` is `user` or `account`."""
    state["tokens"][_digest(token)] = {
        "id": secrets.token_hex(16),
        "status": status,
        "owner": owner,
        "rights": sorted(rights),
        "zones": None if zones is None else sorted(zones),
    }


def find_token(state: dict[str, Any], token: str) -> dict[str, Any] | None:
    """Return what is known of a token."""
    found: dict[str, Any] | None = state["tokens"].get(_digest(token))
    return found


def zone_named(state: dict[str, Any], name: str) -> dict[str, Any] | None:
    """Return the zone of exactly this name, of several the active one."""
    named = [zone for zone in state["zones"].values() if zone["name"] == name]
    return next((zone for zone in named if zone["status"] == "active"), named[0] if named else None)


def zone_holding(state: dict[str, Any], host: str) -> dict[str, Any] | None:
    """Return the most specific zone that a host name lies in, of several of one name the active one."""
    holding = [zone for zone in state["zones"].values() if host == zone["name"] or host.endswith("." + zone["name"])]
    return max(holding, key=lambda zone: (len(zone["name"]), zone["status"] == "active"), default=None)


def records_at(zone: dict[str, Any], host: str) -> list[dict[str, Any]]:
    """Return the records that answer for a host name: its own, else those of the closest wildcard (RFC 4592)."""
    exact = [record for record in zone["records"].values() if record["name"] == host]
    if exact or name_exists(zone, host):
        return exact
    parent = host
    while parent != zone["name"]:
        parent = parent.partition(".")[2]
        wildcard = [record for record in zone["records"].values() if record["name"] == "*." + parent]
        if wildcard or name_exists(zone, parent):
            return wildcard
    return []


def name_exists(zone: dict[str, Any], host: str) -> bool:
    """Tell whether a name has records or lies above one that has (an empty non-terminal)."""
    return host == zone["name"] or any(
        record["name"] == host or record["name"].endswith("." + host) for record in zone["records"].values()
    )


def is_served_by_edge(zone: dict[str, Any], record: dict[str, Any]) -> bool:
    """Tell whether the edge stands before a record: it is proxied, and its zone is active and not paused."""
    return bool(record["proxied"]) and zone["status"] == "active" and not zone["paused"]


def origin_addresses(state: dict[str, Any], zone: dict[str, Any], host: str) -> list[str]:
    """Return the origin addresses of a name, IPv4 first, following CNAMEs inside the account."""
    for _ in range(8):  # longer chains are loops
        records = records_at(zone, host)
        for kind in ("A", "AAAA"):
            if found := [record["content"] for record in records if record["type"] == kind]:
                return found
        target = next((record["content"] for record in records if record["type"] == "CNAME"), None)
        holder = zone_holding(state, target) if target else None
        if not target or holder is None:
            return []
        zone, host = holder, target
    return []


def is_revoked(state: dict[str, Any], serial: int) -> bool:
    """Tell whether the Origin CA has revoked the certificate of this serial number."""
    certificate = state["certificates"].get(str(serial))
    return certificate is not None and certificate.get("revoked_at") is not None


def now() -> str:
    """Return the present in the API's form."""
    return dt.datetime.now(dt.UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")


def new_ray() -> str:
    """Return a request number in the vendor's form; FRA is the airport code of the data centre."""
    return f"{secrets.token_hex(8)}-FRA"


def _digest(token: str) -> str:
    return hashlib.sha256(token.encode()).hexdigest()
