"""What must hold after any number of crashes, once a command has ended well."""

import base64
import hashlib
import json
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

if TYPE_CHECKING:
    from tests.e2e.operator import Operator


def in_clouds(operator: "Operator") -> dict[str, list[dict[str, Any]]]:
    """List all that exists in both clouds, by kind."""
    return {
        "servers": operator.servers(),
        "records": operator.records(),
        "certificates": operator.certificates(),
        **{kind: operator.cloud("hetzner", f"/{kind}")[kind] for kind in ("ssh_keys", "primary_ips", "firewalls")},
    }


def rows(operator: "Operator", query: str) -> list[dict[str, Any]]:
    """Ask the database of the operator's state folder; one that a run was just about to make holds nothing."""
    file = Path(operator.info()["state_file"])
    if not file.exists():
        return []
    with closing(sqlite3.connect(file)) as database:
        database.row_factory = sqlite3.Row
        if database.execute("PRAGMA user_version").fetchone()[0] == 0:
            return []
        return [dict(row) for row in database.execute(query)]


def unfinished(operator: "Operator") -> list[str]:
    """Tell what is in the database that only a run at work may have there."""
    wrong = [f"open intent {row['kind']} {row['name']}" for row in rows(operator, _OPEN)]
    return wrong + [f"lease of {row['user']}" for row in rows(operator, "SELECT user FROM leases")]


def not_complete(operator: "Operator", *users: str) -> list[str]:
    """Tell what is wrong where exactly these users should be complete, with one of each thing."""
    found, wrong = in_clouds(operator), unfinished(operator)
    counts = {kind: len(things) for kind, things in found.items()}
    one_each = dict.fromkeys(("servers", "records", "certificates"), len(users))
    # Two primary IPs: an IPv4 and an IPv6 address.
    wanted = {**one_each, "ssh_keys": 1, "primary_ips": 2 * len(users), "firewalls": 1}
    if counts != wanted:
        wrong.append(f"the clouds hold {counts}")
    wrong += [f"an SSH key with labels {key['labels']}" for key in found["ssh_keys"] if key["labels"] != _OURS]
    wrong += [f"a firewall with labels {wall['labels']}" for wall in found["firewalls"] if wall["labels"] != _OURS]
    walls = {wall["id"] for wall in found["firewalls"]}
    for server in found["servers"]:
        behind = {(wall["id"], wall["status"]) for wall in server["public_net"]["firewalls"]}
        wrong += [] if behind == {(wall, "applied") for wall in walls} else [f"{server['name']} is behind {behind}"]
    living = {row["user"]: row for row in rows(operator, "SELECT * FROM instances WHERE status != 'destroyed'")}
    if set(living) != set(users):
        wrong.append(f"the database holds {sorted(living)}")
    for user in users:
        if user in living:
            wrong += [f"{user}: {what}" for what in _differences(operator, living[user], found)]
    return wrong


def not_waiting(operator: "Operator") -> list[str]:
    """Tell what is wrong where exactly one server should wait in the pool, and nothing else should be."""
    found, wrong = in_clouds(operator), unfinished(operator)
    counts = {kind: len(things) for kind, things in found.items()}
    wanted = {"servers": 1, "records": 0, "certificates": 0, "ssh_keys": 1, "primary_ips": 2, "firewalls": 1}
    if counts != wanted:
        wrong.append(f"the clouds hold {counts}")
    living = rows(operator, "SELECT * FROM instances WHERE status != 'destroyed'")
    if len(living) != 1:
        return [*wrong, f"the database holds {[row['user'] for row in living]}"]
    (row,) = living
    labels = {**_OURS, "pool": row["user"].removeprefix("pool."), "run": row["run_id"], **_of_key(found)}
    for server in found["servers"]:
        labels["host-key"] = _pin(row["host_key"] or "none AA==")
        wrong += [] if server["labels"] == labels else [f"labels are {server['labels']} and should be {labels}"]
        wrong += [] if server["id"] == row["server_id"] else [f"server {row['server_id']} is recorded"]
    return wrong + ([] if (row["status"], bool(row["monthly"])) == ("complete", True) else [f"it is {row['status']}"])


def not_empty(operator: "Operator") -> list[str]:
    """Tell what is wrong where nothing should be left, in the clouds or under way."""
    wrong = [f"{kind}: {json.dumps(things)}" for kind, things in in_clouds(operator).items() if things]
    living = rows(operator, "SELECT user, status FROM instances WHERE status != 'destroyed'")
    return wrong + [f"{row['user']} is {row['status']}" for row in living] + unfinished(operator)


def _differences(operator: "Operator", row: dict[str, Any], found: dict[str, list[dict[str, Any]]]) -> list[str]:
    host, name = f"{row['user']}.{row['zone']}", f"clawdet-{row['user']}"
    server = next((one for one in found["servers"] if one["name"] == name), None)
    record = next((one for one in found["records"] if one["name"] == host), None)
    certificate = next((one for one in found["certificates"] if one["hostnames"] == [host]), None)
    if server is None or record is None or certificate is None:
        return ["something of it is missing in the clouds"]
    ipv4 = server["public_net"]["ipv4"]["ip"]
    labels = {**_OURS, "user": row["user"], "run": row["run_id"], **_of_key(found)}
    wanted = {
        "status": ("complete", row["status"]),
        "url": (f"https://{host}/", row["url"]),
        "server_id": (server["id"], row["server_id"]),
        "record_id": (record["id"], row["record_id"]),
        "certificate_id": (certificate["id"], row["certificate_id"]),
        "ipv4": (ipv4, row["ipv4"]),
        "record": ((ipv4, True, f"clawdet:{row['user']}:{row['run_id']}"), _of_record(record)),
        "labels": (labels, {key: server["labels"].get(key) for key in labels}),
        "key": (_key(operator.certificate(certificate["id"])["certificate"]), _key(row["csr"] or "none")),
        "type": (server["server_type"]["name"], row["server_type"]),
        "host key": ({"host-key": _pin(row["host_key"] or "none AA==")}, _pins(server)),
        "next host key": (None, row["next_host_key"]),
    }
    differing = [f"{what} is {is_} and should be {should}" for what, (should, is_) in wanted.items() if should != is_]
    return differing + ([] if row["monthly"] else ["no price is recorded"])


def _pin(public: str) -> str:
    """Return what the label of a server has of its host key: the base32 SHA-256 of the public key."""
    return base64.b32encode(hashlib.sha256(base64.b64decode(public.split()[1])).digest()).decode().rstrip("=")


def _of_key(found: dict[str, list[dict[str, Any]]]) -> dict[str, str]:
    """Return the label that names the project's one SSH key, with which the server was ordered."""
    return {"ssh-key": ", ".join(key["name"].removeprefix("clawdet-") for key in found["ssh_keys"])}


def _key(pem: str) -> bytes:
    """Return the public key in a certificate or a request."""
    read = x509.load_pem_x509_csr if "REQUEST" in pem else x509.load_pem_x509_certificate
    return read(pem.encode()).public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)


def _of_record(record: dict[str, Any]) -> tuple[str, bool, str]:
    return record["content"], record["proxied"], record["comment"]


def _pins(server: dict[str, Any]) -> dict[str, str]:
    return {name: value for name, value in server["labels"].items() if name.startswith("host-key")}


_OURS = {"managed-by": "clawdet"}
_OPEN = "SELECT * FROM effects WHERE outcome IS NULL"
