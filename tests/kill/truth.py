"""What exists, what is recorded, and what `reconcile` names: read without a line of the product."""

import json
import sqlite3
import urllib.request
from collections.abc import Collection, Iterable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

Things = dict[str, dict[str, dict[str, Any]]]
"""By kind and id."""

ROW_OF = {"servers": "server_id", "records": "record_id", "certificates": "certificate_id"}
KINDS_OF_ROWS = {
    "servers": "server",
    "records": "record",
    "certificates": "certificate",
    "ssh_keys": "ssh_key",
    "firewalls": "firewall",
    "primary_ips": "server",
}
NAMED = {"adoptable", "orphan", "drifted", "right"}
"""Categories of `reconcile` that say that a thing is there and clawdet's."""
DESTROYED = "destroyed"
PER_PAGE = 50


@dataclass(frozen=True)
class Cloud:
    """Both emulated clouds, read with a token of one's own."""

    hetzner_url: str
    hetzner_token: str
    cloudflare_url: str
    cloudflare_token: str
    zone: str
    hetzner_token_to_write: str = ""

    @classmethod
    def of(cls, info: Mapping[str, Any]) -> "Cloud":
        """Return those of a sandbox, by what it says of itself."""
        return cls(
            info["hetzner_url"],
            info["hetzner_read_token"],
            info["cloudflare_url"],
            info["cloudflare_token"],
            info["zone"],
            info["hetzner_token"],
        )

    def things(self) -> Things:
        """List all that there is."""
        found = {kind: self._hetzner(kind) for kind in ("servers", "ssh_keys", "firewalls", "primary_ips")}
        zone = self._zone_id()
        found["records"] = self._cloudflare(f"/zones/{zone}/dns_records?")
        certificates = self._cloudflare(f"/certificates?zone_id={zone}&")
        found["certificates"] = {key: one for key, one in certificates.items() if not one.get("revoked_at")}
        return found

    def delete(self, kind: str, number: str) -> None:
        """Delete a thing by hand, by the kind that `reconcile` calls it."""
        hetzner = {"server": "servers", "ssh_key": "ssh_keys", "firewall": "firewalls"}
        if kind in hetzner:
            url, path, token = self.hetzner_url, f"/{hetzner[kind]}/{number}", self.hetzner_token_to_write
        else:
            path = "/certificates" if kind == "certificate" else f"/zones/{self._zone_id()}/dns_records"
            url, path, token = self.cloudflare_url, f"{path}/{number}", self.cloudflare_token
        request = urllib.request.Request(url + path, method="DELETE", headers={"Authorization": f"Bearer {token}"})
        with urllib.request.urlopen(request, timeout=30):
            pass

    def _zone_id(self) -> str:
        return str(self._get(self.cloudflare_url, f"/zones?name={self.zone}", self.cloudflare_token)["result"][0]["id"])

    def _hetzner(self, kind: str) -> dict[str, dict[str, Any]]:
        found: dict[str, dict[str, Any]] = {}
        page: int | None = 1
        while page is not None:
            answer = self._get(self.hetzner_url, f"/{kind}?per_page={PER_PAGE}&page={page}", self.hetzner_token)
            found |= {str(one["id"]): one for one in answer[kind]}
            page = answer["meta"]["pagination"]["next_page"]
        return found

    def _cloudflare(self, path: str) -> dict[str, dict[str, Any]]:
        found: dict[str, dict[str, Any]] = {}
        page = 1
        while True:
            answer = self._get(self.cloudflare_url, f"{path}per_page={PER_PAGE}&page={page}", self.cloudflare_token)
            new = {str(one["id"]): one for one in answer["result"] or []}
            if new.keys() <= found.keys():
                return found
            found |= new
            page += 1

    @staticmethod
    def _get(url: str, path: str, token: str) -> Any:
        request = urllib.request.Request(url + path, headers={"Authorization": f"Bearer {token}"})
        with urllib.request.urlopen(request, timeout=30) as answer:
            return json.loads(answer.read())


def living(database: Path) -> list[dict[str, Any]]:
    """Return the instances in a database that are not destroyed; none where there is no database."""
    if not database.exists():
        return []
    with closing(sqlite3.connect(database)) as connection:
        connection.row_factory = sqlite3.Row
        rows = connection.execute("SELECT * FROM instances WHERE status != ?", (DESTROYED,))
        return [dict(row) for row in rows]


def not_complete(row: Mapping[str, Any], things: Things) -> list[str]:
    """Return what is not as it should be of an instance that should be complete, by its row and what exists."""
    user, host = row["user"], f"{row['user']}.{row['zone']}"
    server = things["servers"].get(str(row["server_id"]))
    record = things["records"].get(str(row["record_id"]))
    certificate = things["certificates"].get(str(row["certificate_id"]))
    if server is None or record is None or certificate is None:
        return [f"{user}: something of it is missing: {server and 1, record and 1, certificate and 1}"]
    labels = {"managed-by": "clawdet", "user": user, "run": row["run_id"]}
    ipv4 = server["public_net"]["ipv4"]["ip"]
    wanted: dict[str, tuple[Any, Any]] = {
        "status": ("complete", row["status"]),
        "server": (f"clawdet-{user}", server["name"]),
        "labels": (labels, {key: server["labels"].get(key) for key in labels}),
        "address": (ipv4, row["ipv4"]),
        "record": ((host, ipv4, True), (record["name"], record["content"], record["proxied"])),
        "comment": (f"clawdet:{user}:{row['run_id']}", record["comment"]),
        "names of the certificate": ([host], certificate["hostnames"]),
    }
    return [
        f"{user}: {what} is {is_} and should be {should}" for what, (should, is_) in wanted.items() if should != is_
    ]


@dataclass
class Account:
    """Which databases know a thing, and which rows of `reconcile` name it."""

    things: Things
    databases: Mapping[str, Sequence[Mapping[str, Any]]]
    """By name: the instances that live in it."""
    findings: Mapping[str, Sequence[Mapping[str, Any]]] = field(default_factory=dict)
    """By name of the database: the rows of its `reconcile`."""

    def wrong(self, foreign: Mapping[str, Collection[str]]) -> list[str]:
        """Return what is in no database and named by nobody, or in more than one; `foreign` is by kind of thing."""
        found: list[str] = []
        for kind, things in self.things.items():
            for number, thing in things.items():
                if number in foreign.get(kind, ()) or str(thing.get("assignee_id")) in foreign.get("servers", ()):
                    continue
                found += self._of_one(kind, number, thing)
        return found

    def _of_one(self, kind: str, number: str, thing: Mapping[str, Any]) -> Iterable[str]:
        called = f"{kind} {number} ({thing.get('name') or thing.get('hostnames')})"
        if kind in {"ssh_keys", "firewalls"} and self._needed():
            return
        if kind == "primary_ips" and (server := thing.get("assignee_id")):
            kind, number = "servers", str(server)
        owners = [name for name, rows in self.databases.items() if self._knows(rows, kind, number)]
        if len(owners) > 1:
            yield f"{called} is in the databases {', '.join(owners)}"
        if not owners and not self._named(KINDS_OF_ROWS[kind], number):
            yield f"{called} is in no database, and no row of reconcile names it"

    def _needed(self) -> bool:
        """Return whether anything is there that a key or a firewall of the project is for."""
        return any(rows for rows in self.databases.values()) or any(
            server["labels"].get("managed-by") == "clawdet" for server in self.things["servers"].values()
        )

    @staticmethod
    def _knows(rows: Iterable[Mapping[str, Any]], kind: str, number: str) -> bool:
        return kind in ROW_OF and any(str(row[ROW_OF[kind]]) == number for row in rows)

    def _named(self, kind: str, number: str) -> bool:
        return any(
            row["kind"] == kind and str(row["id"]) == number and row["category"] in NAMED
            for rows in self.findings.values()
            for row in rows
        )


def changed(before: Things, now: Things, foreign: Mapping[str, Collection[str]]) -> list[str]:
    """Return which of the foreign things are not as they were."""
    return [
        f"foreign {kind} {number} ({before[kind][number].get('name')}) was {'changed' if found else 'deleted'}"
        for kind, numbers in foreign.items()
        for number in numbers
        if (found := now[kind].get(number)) != before[kind][number]
    ]
