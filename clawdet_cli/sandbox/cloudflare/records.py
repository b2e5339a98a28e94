"""The rules of Cloudflare's DNS records: what may be written, what excludes what, and how lists are filtered.

Codes and texts are those seen in public issue threads of clients (certbot, ddns-go, the Terraform provider and
others); where Cloudflare is known to answer in two forms, one is taken.
"""

import copy
import ipaddress
import re
import secrets
from collections.abc import Mapping
from typing import Any

from clawdet_cli.sandbox.cloudflare import state as account
from clawdet_cli.sandbox.cloudflare import structured
from clawdet_cli.sandbox.cloudflare.envelope import ApiError, validation_error

Zone = dict[str, Any]
Record = dict[str, Any]

TYPES = ("A", "AAAA", "CAA", "CNAME", "MX", "NS", "SRV", "TXT")
BATCH_LIMITS = {"free": 200}  # records per batch call; paid plans 3,500
COMMENT_LIMITS = {"free": 100}  # characters; paid plans 500
TAG_QUOTAS = {"free": 0}  # paid plans 20
LABEL = re.compile(r"(?!-)[a-z0-9_-]{1,63}(?<!-)")
LONGEST_NAME = 253
PRIORITIES = range(65536)
TEXT_FILTERS = ("exact", "contains", "startswith", "endswith")


def create(zone: Zone, body: dict[str, Any]) -> Record:
    """Add a record and return it."""
    stamp = account.now()
    record: Record = {"id": secrets.token_hex(16), **_defaults(), "created_on": stamp}
    record["comment_modified_on"] = None
    _fill(zone, record, body, stamp)
    if len(zone["records"]) >= zone["record_quota"]:
        raise ApiError(400, 81045, "Record quota exceeded.")
    return _store(zone, record, stamp)


def patch(zone: Zone, record_id: str, body: dict[str, Any]) -> Record:
    """Change the given fields of a record; omitted ones keep their value."""
    stamp = account.now()
    record = copy.deepcopy(find(zone, record_id))
    _fill(zone, record, body, stamp)
    return _store(zone, record, stamp)


def put(zone: Zone, record_id: str, body: dict[str, Any]) -> Record:
    """Replace a record; omitted fields fall back to their defaults, `proxied` to false."""
    stamp = account.now()
    record = copy.deepcopy(find(zone, record_id)) | _defaults()
    record.pop("data", None)  # what is written as fields has to be written anew
    _fill(zone, record, body, stamp)
    return _store(zone, record, stamp)


def delete(zone: Zone, record_id: str) -> Record:
    """Remove a record and return what it was."""
    record = find(zone, record_id)
    del zone["records"][record_id]
    zone["serial"] += 1
    return record


def find(zone: Zone, record_id: str) -> Record:
    """Return the record of an id."""
    if record_id not in zone["records"]:
        raise ApiError(404, 81044, "Record does not exist.")
    record: Record = zone["records"][record_id]
    return record


def batch(zone: Zone, body: dict[str, Any]) -> dict[str, list[Record]]:
    """Apply deletes, patches, puts and posts in this order, all or nothing."""
    kinds = ("deletes", "patches", "puts", "posts")
    todo = {kind: body.get(kind) or [] for kind in kinds}
    if not all(isinstance(rows, list) and all(isinstance(row, dict) for row in rows) for rows in todo.values()):
        raise ApiError(400, 9207, "Request body is invalid.")
    limit = BATCH_LIMITS.get(zone["plan"], 3500)
    if sum(len(rows) for rows in todo.values()) > limit:
        raise ApiError(400, 81062, f"A batch may hold at most {limit} records.")  # number and wording are guesses
    draft: Zone = zone | {"records": dict(zone["records"])}  # records are replaced, never changed in place
    done = {
        "deletes": [delete(draft, str(row.get("id"))) for row in todo["deletes"]],
        "patches": [patch(draft, str(row.get("id")), row) for row in todo["patches"]],
        "puts": [put(draft, str(row.get("id")), row) for row in todo["puts"]],
        "posts": [create(draft, row) for row in todo["posts"]],
    }
    zone.update(draft)
    return done


def select(zone: Zone, query: Mapping[str, str]) -> list[Record]:
    """Return the records that match the filters of a list call, in its order."""
    tests: list[Any] = []
    if "type" in query:
        tests.append(lambda row: row["type"] == query["type"].upper())
    if "proxied" in query:
        tests.append(lambda row: row["proxied"] == (query["proxied"] == "true"))
    for field in ("name", "content", "comment"):
        if field in query:
            tests.append(_text_test(field, "exact", query[field]))
        tests += [_text_test(field, how, query[f"{field}.{how}"]) for how in TEXT_FILTERS if f"{field}.{how}" in query]
    if "comment.present" in query:
        tests.append(lambda row: bool(row["comment"]))
    if "comment.absent" in query:
        tests.append(lambda row: not row["comment"])
    if query.get("search"):
        tests.append(lambda row: query["search"].lower() in f"{row['name']} {row['content']} {row['comment']}".lower())
    quantify = any if query.get("match") == "any" and tests else all
    rows = [row for row in zone["records"].values() if quantify(test(row) for test in tests)]
    order = query.get("order", "type")
    if order not in {"type", "name", "content", "ttl", "proxied"}:
        raise ApiError(400, 1001, "Invalid value for order")  # number and wording are guesses
    return sorted(rows, key=lambda row: (row[order], row["name"]), reverse=query.get("direction") == "desc")


def full_name(zone: Zone, name: object) -> str:
    """Return the name as stored: lower-case punycode, completed with the zone unless it ends in it."""
    if not isinstance(name, str) or not name:
        raise validation_error(9000, "DNS name is invalid.")
    try:
        plain = name.rstrip(".").lower() if name.isascii() else name.rstrip(".").encode("idna").decode().lower()
    except UnicodeError:
        raise validation_error(9000, "DNS name is invalid.") from None
    if plain in {"@", zone["name"]}:
        return str(zone["name"])
    full = plain if plain.endswith("." + zone["name"]) else f"{plain}.{zone['name']}"
    if len(full) > LONGEST_NAME or not all(LABEL.fullmatch(label) for label in full.removeprefix("*.").split(".")):
        raise validation_error(9000, "DNS name is invalid.")
    return full


def _text_test(field: str, how: str, wanted: str) -> Any:
    # Ansible looks for SRV records in their older form, with tabs between the fields. That it finds them is a guess.
    needle = wanted.lower().replace("\t", " ")
    compare = {
        "exact": str.__eq__,
        "contains": str.__contains__,
        "startswith": str.startswith,
        "endswith": str.endswith,
    }
    return lambda row: row[field] is not None and compare[how](row[field].lower(), needle)


def _defaults() -> dict[str, Any]:
    return {"proxied": False, "ttl": 1, "settings": {}, "meta": {}, "comment": None, "tags": []}


def _fill(zone: Zone, record: Record, body: dict[str, Any], stamp: str) -> None:
    """Write the fields of a request into a record, each after its check; unknown fields are ignored, as there."""
    kind = body.get("type", record.get("type"))
    if kind not in TYPES:
        raise validation_error(9001, f"DNS record type {kind!r} is not one of {', '.join(TYPES)}.")
    name = full_name(zone, body.get("name", record.get("name")))
    if kind in structured.KINDS:
        record |= structured.fields(kind, body.get("data", record.get("data")))
    content = (
        record["content"]
        if kind in structured.KINDS
        else _content(kind, body.get("content", record.get("content")), name)
    )
    proxied = body.get("proxied", record["proxied"])
    if not isinstance(proxied, bool):
        raise ApiError(400, 9207, "Request body is invalid.")
    if proxied and kind not in account.PROXIABLE:
        raise validation_error(9041, f"This record type cannot be proxied: {kind}.")
    record |= {
        "name": name,
        "type": kind,
        "content": content,
        "proxiable": kind in account.PROXIABLE,
        "proxied": proxied,
        "ttl": _ttl(zone, body.get("ttl", record["ttl"]), proxied=proxied),
        "tags": _tags(zone, body.get("tags", record["tags"])),
    }
    if isinstance(body.get("settings"), dict):
        if not all(isinstance(value, bool | None) for value in body["settings"].values()):
            raise ApiError(400, 9207, "Request body is invalid.")
        record["settings"] = body["settings"]
    comment = _comment(zone, body.get("comment", record["comment"]))
    if comment != record["comment"]:
        record["comment_modified_on"] = stamp
    record["comment"] = comment
    if kind == "MX":
        record["priority"] = body.get("priority", record.get("priority"))
        if type(record["priority"]) is not int or record["priority"] not in PRIORITIES:
            raise validation_error(9101, "priority is a required data field.")


def _store(zone: Zone, record: Record, stamp: str) -> Record:
    others = [row for row in zone["records"].values() if row["name"] == record["name"] and row["id"] != record["id"]]
    kinds = {row["type"] for row in others}
    if any(row["type"] == record["type"] and row["content"] == record["content"] for row in others):
        raise ApiError(400, 81058, "An identical record already exists.")
    if record["type"] == "CNAME" and kinds & set(account.PROXIABLE):
        raise ApiError(400, 81053, "An A, AAAA, or CNAME record with that host already exists.")
    if record["type"] in {"A", "AAAA"} and "CNAME" in kinds:
        raise ApiError(
            400,
            81054,
            "A CNAME record with that host already exists. For more details, refer to <https://developers.cloudflare.com"
            "/dns/manage-dns-records/troubleshooting/records-with-same-name/>.",
        )
    if record["type"] in account.PROXIABLE and "NS" in kinds:
        raise ApiError(400, 81056, "NS records with that host already exist.")
    record["modified_on"] = stamp
    zone["records"] = zone["records"] | {record["id"]: record}
    zone["serial"] += 1
    return record


def _content(kind: str, content: object, name: str) -> str:
    if not isinstance(content, str) or not content.strip():
        content = ""
    content = content.strip()
    match kind:
        case "A":
            try:
                return str(ipaddress.IPv4Address(content))
            except ValueError:
                raise ApiError(400, 9005, "Content for A record must be a valid IPv4 address.") from None
        case "AAAA":
            try:
                # Without a zone index (`%eth0`), which means nothing beyond its machine.
                return str(ipaddress.IPv6Address(content.replace("%", "no address")))
            except ValueError:
                raise ApiError(400, 9006, "Content for AAAA record must be a valid IPv6 address.") from None
        case "TXT":
            if not content:
                raise validation_error(9002, "Content for TXT record is invalid.")  # number is a guess
            return content
        case _:
            host = content.rstrip(".").lower()
            if len(host) > LONGEST_NAME or not all(LABEL.fullmatch(label) for label in host.split(".")) or host == name:
                raise validation_error(9007, f"Content for {kind} record is invalid.")
            return host


def _ttl(zone: Zone, ttl: object, *, proxied: bool) -> int:
    smallest = 30 if zone["plan"] == "enterprise" else 60
    if isinstance(ttl, bool) or not isinstance(ttl, int | float) or (ttl != 1 and not smallest <= ttl <= 86400):
        reason = f"Invalid TTL. Must be between {smallest} and 86400 seconds, or 1 for Automatic."
        raise validation_error(9021, reason)
    return 1 if proxied else int(ttl)


def _tags(zone: Zone, tags: object) -> list[str]:
    if not isinstance(tags, list) or not all(isinstance(tag, str) for tag in tags):
        raise ApiError(400, 9207, "Request body is invalid.")
    quota = TAG_QUOTAS.get(zone["plan"], 20)
    if len(tags) > quota:
        raise validation_error(9300, f"DNS record has {len(tags)} tags, exceeding the quota of {quota}.")
    return sorted(tags)


def _comment(zone: Zone, comment: object) -> str | None:
    if comment is None or comment == "":
        return None
    if not isinstance(comment, str):
        raise ApiError(400, 9207, "Request body is invalid.")
    limit = COMMENT_LIMITS.get(zone["plan"], 500)
    if len(comment) > limit:
        raise ApiError(400, 9313, f"DNS record comment exceeds the maximum length of {limit} characters.")
    if "\r" in comment or "\n" in comment:
        raise validation_error(9314, "DNS record comment must not contain line breaks.")  # number is a guess
    return comment
