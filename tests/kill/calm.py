"""After a round: runs what everybody wants in the end, and tells what does not come to it."""

import shlex
import ssl
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from http.client import HTTPSConnection
from socket import create_connection
from typing import Any

from tests.kill import truth
from tests.kill.plan import SITES, Round
from tests.kill.world import World

TRIES = 4
"""How often a command may be run again, as it says, until it ends well."""
EDGE_SECONDS = 20
BROWSER = {"User-Agent": "Mozilla/5.0 (X11; Linux x86_64; rv:140.0) Gecko/20100101 Firefox/140.0"}
"""What says nothing of itself is kept out by the edge."""

Row = Mapping[str, Any]


@dataclass
class Calm:
    """The end of one round."""

    world: World
    plan: Round

    def settle(self) -> list[str]:
        """Run what everybody wants in the end; tell what does not come to it."""
        wrong = []
        for user, (home, verb) in self.plan.wanted.items():
            for site in SITES:
                if site != home and self._recorded(site, user):
                    wrong += self._until_well(site, "destroy", user)
            wrong += self._until_well(home, verb, user)
        for site in self.plan.drained:
            wrong += self._until_well(site, "pool", "drain")
        if wrong:
            return wrong
        for site in SITES:
            self._mend(site)
        # Only now: what one has mended may be what the other one had seen.
        findings = {site: self.world.reconciled(site) or [] for site in SITES}
        wrong += [
            f"{site}: reconcile is not clean: {dict(row)}"
            for site, rows in findings.items()
            for row in self._open(site, rows)
        ]
        wrong += self.world.accounts("in the end", findings)
        if self.world.history_lost:
            self.world.forget_certificates()
        things = self.world.cloud.things()
        for user, (home, verb) in self.plan.wanted.items():
            rows = [row for row in self.world.living(home) if row["user"] == user]
            if verb == "provision":
                wrong += [f"{user} has no row" for _ in range(not rows)]
                wrong += [what for row in rows for what in truth.not_complete(row, things)]
                wrong += [] if wrong else self._seen_from_outside(user)
            else:
                wrong += [f"{user} is {row['status']} after a destroy" for row in rows]
        return wrong

    def _recorded(self, site: str, user: str) -> bool:
        return any(row["user"] == user for row in self.world.living(site))

    def _until_well(self, site: str, verb: str, user: str) -> list[str]:
        """Run a command until it ends well, with what it says in between."""
        words: tuple[str, ...] = (verb, user, "--yes")
        for _ in range(TRIES):
            ended = self.world.run(site, *words)
            if ended.code == 0:
                return []
            if verb == "destroy" and ended.code == 4 and "known" in ended.err and not self._recorded(site, user):
                return []  # nobody knows it: it is gone
            if verb == "destroy" and "--of-another-database" in ended.err and "--of-another-database" not in words:
                words = (*words, "--of-another-database")
            elif verb == "provision" and (
                (ended.code == 4 and f"clawdet destroy {user}" in ended.err)
                # Its row came from the other folder, whose key the server lets in.
                or (ended.code == 6 and "or destroy and provision again" in ended.err)
            ):
                wrong = self._until_well(site, "destroy", user)
                if wrong:
                    return wrong
        return [f"{site}: {' '.join(words)} never ended well; at last with {ended.code}:\n{ended.err}"]

    def _mend(self, site: str) -> None:
        """Do what `reconcile` says, in what is not right there."""
        if self._open(site, self.world.reconciled(site) or []):
            for row in self._open(site, self.world.reconciled(site, "--fix") or []):
                self._decide(site, row)

    def _open(self, site: str, rows: Sequence[Row]) -> list[Row]:
        """Return what is not right, without what is the other database's, and foreign."""
        theirs = {
            str(row[column])
            for other in SITES
            if other != site
            for row in self.world.living(other)
            for column in truth.ROW_OF.values()
        }
        planted = {number for numbers in self.world.foreign.values() for number in numbers}
        return [row for row in rows if row["category"] != "right" and str(row["id"]) not in theirs | planted]

    def _decide(self, site: str, row: Row) -> None:
        """Do as a row says that leaves its thing to a person."""
        decision = str(row["decision"])
        if decision.startswith("clawdet pool"):
            words = shlex.split(decision, comments=True)[1:]
            self.world.run(site, "pool", *(["fill", "1"] if words[1] == "fill" else words[1:]), "--yes")
        elif decision.startswith("clawdet provision"):
            self.world.run(site, "provision", str(row["user"]), "--yes")
        elif row["category"] == "orphan" or (row["kind"] in {"record", "certificate"} and "again" not in decision):
            self.world.lines.append(f"by hand: {row['kind']} {row['id']}")
            self.world.cloud.delete(row["kind"], str(row["id"]))

    def _seen_from_outside(self, user: str) -> list[str]:
        host, (address, _, port) = f"{user}.{self.world.info['zone']}", self.world.info["edge_address"].rpartition(":")
        context = ssl.create_default_context(cafile=self.world.info["ca_file"])
        connection = HTTPSConnection(host, timeout=EDGE_SECONDS)
        try:
            raw = create_connection((address, int(port)), EDGE_SECONDS)
            connection.sock = context.wrap_socket(raw, server_hostname=host)
            connection.request("GET", "/", headers=BROWSER)
            status = connection.getresponse().status
        except OSError as error:
            return [f"https://{host}/ cannot be reached: {error}"]
        finally:
            connection.close()
        return [] if status == 200 else [f"https://{host}/ answers {status}"]
