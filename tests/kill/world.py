"""Two databases on one emulated cloud: runs commands there, and compares what exists with what is recorded."""

import json
import os
import shutil
import sqlite3
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import closing, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.kill import truth
from tests.kill.launcher import Ended, Launcher, Process
from tests.kill.plan import SITES

PATIENCE = {
    "clawdet_cli.lease:HEARTBEAT_SECONDS": 0.3,
    "clawdet_cli.lease:STALE_SECONDS": 1.5,
    "clawdet_cli.lease:WATCH_SECONDS": 0.75,
    "clawdet_cli.lease:RETRY_SECONDS": 0.1,
    "clawdet_cli.adapters.hetzner:ANSWER_SECONDS": 3.0,
    "clawdet_cli.adapters.cloudflare:ANSWER_SECONDS": 3.0,
    "clawdet_cli.adapters.ssh:AUTH_GRACE": 3.0,
}
"""What operators wait for in minutes is over in seconds here, in the same order of size."""
SETTLE_SECONDS = 1.5
SUFFIXES = ("", "-wal", "-shm")


@dataclass
class World:
    """Where the rounds are played."""

    info: Mapping[str, Any]
    """What the sandbox says of itself."""
    states: Mapping[str, Path]
    """The state folder of each database."""
    environment: Mapping[str, str]
    launcher: Launcher
    foreign: Mapping[str, Sequence[str]]
    """By kind, the ids of what is nobody's here."""
    canaries: Sequence[str]
    """Secrets."""
    commands: int = 0
    history_lost: bool = False
    """A database was deleted or put back: certificates that it alone knew carry no mark, and nobody can name them."""
    lines: list[str] = field(default_factory=list)
    """What happened in the round, in order."""

    def __post_init__(self) -> None:
        self.cloud = truth.Cloud.of(self.info)
        self.planted = self.cloud.things()

    def database(self, site: str) -> Path:
        """Return the file of a database."""
        return self.states[site] / "sandbox" / "clawdet.db"

    def start(self, site: str, machine: str, words: Sequence[str], info: Mapping[str, Any] | None = None) -> Process:
        """Start a command; `info` is what it is told of the sandbox, where that is not the plain truth."""
        self.commands += 1
        return self.launcher.start(
            (*words, "--sandbox"),
            {**self.environment, "CLAWDET_STATE": str(self.states[site])},
            settle=SETTLE_SECONDS,
            constants=PATIENCE,
            machine=machine,
            sandbox=self.info if info is None else info,
        )

    def run(self, site: str, *words: str) -> Ended:
        """Run a command to its end, undisturbed."""
        ended = self.start(site, "one", (*words, "--timeout=120")).wait()
        self.lines.append(f"{site}: {' '.join(words)}: {ended.code}")
        return ended

    def reconciled(self, site: str, *more: str) -> list[dict[str, Any]] | None:
        """Return the rows of `reconcile`; None when it is refused."""
        ended = self.run(site, "reconcile", "--json", *more)
        try:
            return list(json.loads(ended.out)["reconcile"]["rows"])
        except (ValueError, KeyError):
            self.lines.append(f"reconcile said: {ended.out}{ended.err}")
            return None

    def living(self, site: str) -> list[dict[str, Any]]:
        """Read the instances of a database."""
        with tempfile.TemporaryDirectory(prefix="clawdet-copies-") as folder:
            return truth.living(self._copied(site, Path(folder)))

    def damage(self, site: str) -> str:
        """Return what SQLite finds wrong with a database; empty when nothing is."""
        with tempfile.TemporaryDirectory(prefix="clawdet-copies-") as folder:
            copy = self._copied(site, Path(folder))
            if not copy.exists():
                return ""
            try:
                with closing(sqlite3.connect(copy)) as connection:
                    found = str(connection.execute("PRAGMA integrity_check").fetchone()[0])
            except sqlite3.Error as error:
                return str(error)
            return "" if found == "ok" else found

    def _copied(self, site: str, folder: Path) -> Path:
        """Copy a database: to open the one itself would change what the product finds there."""
        for suffix in SUFFIXES[:2]:
            with suppress(FileNotFoundError):
                shutil.copyfile(f"{self.database(site)}{suffix}", folder / f"clawdet.db{suffix}")
        return folder / "clawdet.db"

    def accounts(self, when: str, findings: Mapping[str, Sequence[Mapping[str, Any]]] | None = None) -> list[str]:
        """Compare what exists with what the databases hold and `reconcile` names.

        `findings` are its rows by database, where they were read already.
        """
        wrong: list[str] = []
        if findings is None:
            findings, wrong = self._findings()
        things = self.cloud.things()
        if self.history_lost:
            del things["certificates"]
        account = truth.Account(things, {site: self.living(site) for site in findings}, findings)
        wrong += account.wrong(self.foreign) + self._exposed()
        return [f"{when}: {what}" for what in wrong]

    def _findings(self) -> tuple[dict[str, list[dict[str, Any]]], list[str]]:
        """Return the rows of `reconcile` by database, and what is wrong with these; replace what it refuses to open."""
        findings, wrong = {}, []
        for site in SITES:
            damage, rows = self.damage(site), self.reconciled(site)
            if rows is None:
                # Refused by name. Whoever has no better copy begins with nothing: all that exists is named then.
                self.lines.append(f"database {site} is refused: {damage or 'by its own signs'}")
                remove(*self.database(site).parent.glob("clawdet.db*"))
                self.history_lost = True
                rows = self.reconciled(site)
            elif damage:
                wrong.append(f"the database {site} is damaged, and clawdet does not see it: {damage}")
            if rows is None:
                wrong.append(f"reconcile cannot look at the database {site}: {self.lines[-1]}")
            else:
                findings[site] = rows
        return findings, wrong

    def forget_certificates(self) -> None:
        """Revoke by hand what a lost database alone knew."""
        known = {str(row["certificate_id"]) for site in SITES for row in self.living(site)}
        for number in self.cloud.things()["certificates"].keys() - known - set(self.foreign["certificates"]):
            self.cloud.delete("certificate", number)
        self.history_lost = False

    def foreign_changes(self) -> list[str]:
        """Return which of the foreign things are not as they were."""
        return truth.changed(self.planted, self.cloud.things(), self.foreign)

    def _exposed(self) -> list[str]:
        found = []
        for file in (file for state in self.states.values() for file in state.rglob("*")):
            with suppress(OSError):
                content = file.read_bytes() if file.is_file() else b""
                found += [f"a secret in {file}" for canary in self.canaries if canary.encode() in content]
        return found


def remove(*files: Path) -> None:
    """Delete what is there of these."""
    for file in files:
        file.unlink(missing_ok=True)


def exchange(one: Path, other: Path) -> None:
    """Have two files, of which one or both may be missing, change places."""
    between = one.with_name(f"{one.name}.between")
    for old, new in ((one, between), (other, one), (between, other)):
        new.unlink(missing_ok=True)
        with suppress(FileNotFoundError):
            old.rename(new)


def waited_for_cpu(pid: int) -> float:
    """Return for how many seconds a process was ready to run and waited, by that of its threads that waited most."""
    found = [0.0]
    with suppress(OSError):
        for thread in os.scandir(f"/proc/{pid}/task"):
            with suppress(OSError, ValueError, IndexError):
                found.append(int(Path(thread.path, "schedstat").read_text().split()[1]) / 1e9)
    return max(found)
