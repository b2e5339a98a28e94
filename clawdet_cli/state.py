"""The local record of every instance: the only SQL, and never a secret in it."""

import json
import os
import shlex
import shutil
import sqlite3
import threading
from collections.abc import Callable, Container, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import fields
from pathlib import Path
from typing import Any, TypeVar

from clawdet_cli import filesystem, rows, state_file, stopping
from clawdet_cli.errors import LeaseLostError, RecordError, StateError
from clawdet_cli.model import POOL, Check, Effect, EffectOutcome, Instance, Result, StageRun, Standing, Status, now_text
from clawdet_cli.private import new_private_file, private_folder, refuse_files_of_others
from clawdet_cli.secret import hide

T = TypeVar("T")

MIGRATIONS: Sequence[str] = (
    """
    CREATE TABLE instances (
        user TEXT PRIMARY KEY, zone TEXT NOT NULL, run_id TEXT NOT NULL, status TEXT NOT NULL,
        sandbox INTEGER NOT NULL, created_at TEXT NOT NULL, updated_at TEXT NOT NULL,
        server_id INTEGER, server_type TEXT, location TEXT, image TEXT, monthly TEXT, ipv4 TEXT, host_key TEXT,
        zone_id TEXT, record_id TEXT, certificate_id TEXT, csr TEXT, openclaw_version TEXT, url TEXT, error TEXT
    ) STRICT;
    CREATE TABLE stage_runs (
        id INTEGER PRIMARY KEY, user TEXT NOT NULL, run_id TEXT NOT NULL, name TEXT NOT NULL, status TEXT NOT NULL,
        started_at TEXT NOT NULL, seconds REAL NOT NULL
    ) STRICT;
    CREATE INDEX stage_runs_of ON stage_runs (user, run_id);
    CREATE TABLE checks (
        user TEXT NOT NULL, run_id TEXT NOT NULL, name TEXT NOT NULL, position INTEGER NOT NULL, ok INTEGER NOT NULL,
        evidence TEXT NOT NULL, at TEXT NOT NULL, PRIMARY KEY (user, name)
    ) STRICT;
    CREATE TABLE events (
        id INTEGER PRIMARY KEY, at TEXT NOT NULL, user TEXT NOT NULL, run_id TEXT NOT NULL, kind TEXT NOT NULL,
        data TEXT NOT NULL
    ) STRICT;
    CREATE INDEX events_of ON events (user, run_id);
    CREATE TABLE leases (
        user TEXT PRIMARY KEY, owner TEXT NOT NULL, host TEXT NOT NULL, pid INTEGER NOT NULL, process TEXT NOT NULL,
        since TEXT NOT NULL, heartbeat TEXT NOT NULL
    ) STRICT;
    """,
    """
    CREATE TABLE effects (
        id INTEGER PRIMARY KEY, user TEXT NOT NULL, run_id TEXT NOT NULL, stage TEXT NOT NULL, kind TEXT NOT NULL,
        name TEXT NOT NULL, data TEXT NOT NULL, begun_at TEXT NOT NULL, outcome TEXT, result TEXT, ended_at TEXT
    ) STRICT;
    CREATE INDEX effects_open ON effects (user) WHERE outcome IS NULL;
    CREATE INDEX effects_of ON effects (user, run_id);
    DROP TABLE events;
    """,
    """
    DROP TABLE leases;
    CREATE TABLE leases (
        user TEXT PRIMARY KEY, owner TEXT NOT NULL, verb TEXT NOT NULL, host TEXT NOT NULL, pid INTEGER NOT NULL,
        process TEXT NOT NULL, machine TEXT NOT NULL, since TEXT NOT NULL, heartbeat TEXT NOT NULL
    ) STRICT;
    """,
    "ALTER TABLE instances ADD COLUMN next_host_key TEXT",
    "ALTER TABLE instances ADD COLUMN installed TEXT",
    """
    ALTER TABLE checks ADD COLUMN result TEXT NOT NULL DEFAULT 'failed';
    UPDATE checks SET result = 'ok' WHERE ok = 1;
    ALTER TABLE checks DROP COLUMN ok;
    """,
    """
    CREATE TABLE fences (user TEXT PRIMARY KEY, number INTEGER NOT NULL) STRICT;
    ALTER TABLE leases ADD COLUMN number INTEGER NOT NULL DEFAULT 0;
    """,
)
"""Append only: a released migration is never edited, because databases exist that ran it."""

SHARED = {"nfs", "nfs4", "cifs", "smb3", "smbfs", "9p", "afs", "ceph", "lustre", "gfs2", "ocfs2", "beegfs", "vboxsf"}
"""File systems that several machines may see: WAL wants memory in common, which they have not, and locks will do.
So will locks on `virtiofs` and all of FUSE, of which nothing tells whether others see it."""
LOCKLESS = {"fuse.sshfs", "fuse.rclone", "fuse.s3fs", "fuse.gcsfuse", "fuse.goofys", "fuse.davfs", "davfs"}
"""Those whose locks hold on one machine only: two would work on one user, and lose what the other wrote."""

MAX_WAL = 4 * 1024 * 1024
"""Bytes: where SQLite's -wal has more, it is brought into the database file before the next write."""

LEAST_ROOM = 65536
"""Bytes: with less than these left on the disk, an I/O error of the database is for want of room."""

_EFFECTS = "SELECT id, user, run_id, stage, kind, name, data, begun_at FROM effects WHERE"
_OPEN_EFFECTS = f"{_EFFECTS} outcome IS NULL"
_RUNS = (
    "SELECT user, run_id FROM instances WHERE status != ? UNION SELECT user, run_id FROM effects"
    " WHERE kind IN ('create_server', 'claim_server', 'create_dns_record')"
)

_USERS = "WHERE status != ? AND user NOT LIKE ?"
_OF_USERS = (Status.DESTROYED, f"{POOL}%")
_COLUMNS = tuple(field.name for field in fields(Instance) if field.name not in {"checks", "stages", "open_effects"})


class _Masking(sqlite3.Connection):
    """Keeps secrets out of the database, whoever's words they came in."""

    def execute(self, statement: str, values: Any = (), /) -> sqlite3.Cursor:
        """Run a statement with what may be kept of its values."""
        return super().execute(statement, _masked(values))

    def executemany(self, statement: str, rows: Any, /) -> sqlite3.Cursor:
        """Run a statement for each row."""
        return super().executemany(statement, map(_masked, rows))


def _masked(values: Sequence[Any]) -> list[Any]:
    return [hide(value) if isinstance(value, str) else value for value in values]


def _fields(data: str) -> Mapping[str, Any]:
    """Return what an effect was begun with; nothing where that was damaged."""
    return rows.as_object(data) or {}


def _effect(row: sqlite3.Row) -> Effect:
    number, user, run_id, stage, kind, name, data, begun_at = row
    return Effect(number, user, run_id, stage, kind, name, json.loads(data), begun_at)


def _instance(
    row: sqlite3.Row,
    checks: Mapping[str, Sequence[Check]],
    stages: Mapping[str, Sequence[StageRun]],
    effects: Mapping[str, Sequence[Effect]],
) -> Instance:
    values = dict(zip(_COLUMNS, row, strict=True))
    user = values["user"]
    return Instance(
        **{**values, "status": Status(values["status"]), "sandbox": bool(values["sandbox"])},
        checks=tuple(checks.get(user, ())),
        stages=tuple(stages.get(user, ())),
        open_effects=tuple(effects.get(user, ())),
    )


def _journal_mode(folder: Path) -> str:
    """Choose how SQLite keeps several processes apart there. Raises RecordError where it cannot."""
    kind = filesystem.kind_of(folder)
    if kind in LOCKLESS:
        raise RecordError(
            f"{folder} is on a network file system ({kind}) without locks between machines: two runs could spoil the"
            " database.",
            next_steps=["name a folder on a local disk, or on NFS or SMB: --state FOLDER"],
        )
    return "DELETE" if kind in SHARED or kind.startswith(("fuse", "virtiofs")) else "WAL"


class State:
    """The database of one state folder."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._lock = threading.RLock()
        """Many runs of one command share the connection: with one each, they would wait for each other by polling."""
        self.held: dict[str, tuple[str, int]] = {}
        """The owner and the number of the leases that this process took, by user; `lease` keeps it."""
        self._max_wal = MAX_WAL
        self._typical: dict[str, float] = {}
        """How long stages take, as far as it was asked for."""
        with self._translated():
            private_folder(path.parent, link=True)
            own = (path.name, *(f"{path.name}-{suffix}" for suffix in ("wal", "shm", "journal")))
            refuse_files_of_others(path.parent, *own, "logs", "ssh", "ssh/id_ed25519")
            self._journal = _journal_mode(path.parent)
            if not path.exists():
                state_file.refuse_foreign_wal(path, None)
            # Made by us with its mode, since SQLite would use the umask; -wal and -shm take the same mode.
            with suppress(FileExistsError):
                os.close(new_private_file(path))
            self._file = state_file.DatabaseFile(path)
            try:
                self._connection = self._connect()
            except BaseException:
                self._file.close()
                raise
            try:
                self._generation = state_file.generation(self._connection)
                self._check_file()
                self._migrate()
            except BaseException:
                self.close()
                raise

    def close(self) -> None:
        """Close the database."""
        with self._lock:
            guard = state_file.guard_against_checkpoint(self._file, self._connection)
            self._connection.close()
            if guard is not None:
                guard.close()
            self._file.close()

    def instance(self, user: str) -> Instance | None:
        """Return what is recorded of a user, a destroyed instance too. Raises StateError for a damaged row."""
        self._refuse_damaged(user)
        found = self._instances("WHERE user = ?", (user,), {})
        return found[0] if found else None

    def instances(self) -> list[Instance]:
        """Return every user's instance that is not destroyed; `damaged` tells of those that cannot be read."""
        return self._instances(_USERS, _OF_USERS, self.damaged())

    def damaged(self, user: str | None = None) -> dict[str, StateError]:
        """Return what is wrong with the rows of users of which none is shown: of this one, or of all."""
        found = self._rows(rows.SUSPECTS, ()) if user is None else self._rows(rows.SUSPECT, (user,) * 4)
        suspects = sorted(str(row["user"]) for row in found)
        return {one: damage for one in suspects if (damage := self._damage_of(one)) is not None}

    def _refuse_damaged(self, user: str) -> None:
        if damage := self.damaged(user).get(user):
            raise damage

    def _damage_of(self, user: str) -> StateError | None:
        read = {table: self._rows(query, (user,)) for table, query in rows.OF_USER.items()}
        faults = ((table, rows.fault(table, dict(row))) for table, found in read.items() for row in found)
        table, found = next(((table, found) for table, found in faults if found is not None), ("", None))
        if found is None:
            return None
        field, value = found
        damage = StateError(
            f"What {self.path} records of {user} is damaged: {table}.{field} is {value}.",
            next_steps=[
                "clawdet state restore FILE    (takes up a backup)",
                "clawdet state export FILE    (or correct it there, then: clawdet state import FILE --replace)",
            ],
        )
        damage.left_behind = tuple(
            f"perhaps server clawdet-{user} (id {row['server_id']}): it costs money until it is destroyed"
            for row in read["instances"]
            if row["server_id"] is not None
        )
        return damage

    def standings(self, damaged: Container[str]) -> list[Standing]:
        """Return how every user's instance stands that is not destroyed, but for the `damaged`."""
        amiss = self._by_user(
            "SELECT user, name, result FROM checks WHERE result != 'ok' ORDER BY position", (), lambda row: row[1:]
        )

        def named(user: str, result: Result) -> tuple[str, ...]:
            return tuple(name for name, found in amiss.get(user, ()) if found == result)

        found = self._rows(
            "SELECT user, status, url, ipv4, server_type, created_at, error, count, checked_at FROM instances LEFT JOIN"  # noqa: S608 - called with constants only
            " (SELECT user, COUNT(*) AS count, MIN(at) AS checked_at FROM checks GROUP BY user) USING (user)"
            f" {_USERS} ORDER BY user",
            _OF_USERS,
        )
        return [
            Standing._make(
                (
                    user,
                    Status(status),
                    *seen,
                    count or 0,
                    named(user, Result.FAILED),
                    named(user, Result.NOT_JUDGED),
                    checked_at or "",
                )
            )
            for user, status, *seen, count, checked_at in found
            if user not in damaged
        ]

    def pool(self) -> list[Instance]:
        """Give every server of the pool that nobody has got and that is not destroyed, the oldest first."""
        found = self._instances("WHERE status != ? AND user LIKE ?", (Status.DESTROYED, f"{POOL}%"), self.damaged())
        return sorted(found, key=lambda one: (one.created_at, one.user))

    def give(self, member: Instance, user: str, **changes: Any) -> Instance:
        """Take a server out of the pool and record it as a user's, in one step.

        Raises StateError when it is not to be had any more.
        """
        with self.transaction() as connection:
            waiting = connection.execute(
                "SELECT COUNT(*) FROM instances WHERE user = ? AND status = ? AND server_id = ?",
                (member.user, Status.COMPLETE, member.server_id),
            ).fetchone()
            if not waiting[0]:
                raise StateError(f"{member.server_name} waits in the pool no more.")
            gone = {"status": Status.DESTROYED, "server_id": None, "ipv4": None, "error": f"given to {user}"}
            self._update(connection, member.user, gone)
            # Nobody will work on it again, and so take the lease of a run over that dies from here on.
            connection.execute("DELETE FROM leases WHERE user = ?", (member.user,))
            self._update(connection, user, changes)
        return self._instances("WHERE user = ?", (user,), {})[0]

    def add(self, instance: Instance) -> None:
        """Record a new instance, in the place of a destroyed one of the same user."""
        values = [getattr(instance, name) for name in _COLUMNS]
        with self.transaction() as connection:
            self._refuse_without_lease(connection, instance.user)
            connection.execute("DELETE FROM checks WHERE user = ?", (instance.user,))
            connection.execute(
                f"INSERT OR REPLACE INTO instances ({', '.join(_COLUMNS)})"  # noqa: S608 - the column names are ours
                f" VALUES ({', '.join('?' * len(_COLUMNS))})",
                values,
            )

    def record(self, user: str, **changes: Any) -> None:
        """Write changed fields of an instance, durable when this returns. Raises StateError when it is not there."""
        with self.transaction() as connection:
            if not self._update(connection, user, changes):
                raise StateError(f"{user} is not in {self.path} any more.", next_steps=["clawdet status"])

    def condemn(self, member: Instance, status: Status, why: str) -> None:
        """Take a server of the pool out of what is given away, unless it was given meanwhile."""
        with self.transaction() as connection:
            self._refuse_without_lease(connection, member.user)
            connection.execute(
                "UPDATE instances SET status = ?, error = ?, updated_at = ?"
                " WHERE user = ? AND status = ? AND server_id = ?",
                (status, why, now_text(), member.user, Status.COMPLETE, member.server_id),
            )

    def runs(self) -> set[tuple[str, str]]:
        """Return user and run of all that this database records, or has ever made.

        Not of what it only destroyed: the database that had made it may make it anew under the same run.
        """
        rows = self._rows(_RUNS, (Status.DESTROYED,))
        return {(row["user"], row["run_id"]) for row in rows}

    def has_run(self, user: str, run_id: str) -> bool:
        """Return whether a run is one of `runs`."""
        query = f"SELECT 1 FROM ({_RUNS}) WHERE user = ? AND run_id = ?"  # noqa: S608 - a constant
        return bool(self._rows(query, (Status.DESTROYED, user, run_id)))

    def server_ids(self) -> set[int]:
        """Return the ids of all servers that are recorded, those of the pool among them."""
        rows = self._rows("SELECT server_id FROM instances WHERE server_id IS NOT NULL", ())
        return {int(row["server_id"]) for row in rows}

    def addresses(self, most: int) -> list[str]:
        """Return the addresses of some servers that were complete at last."""
        query = "SELECT ipv4 FROM instances WHERE status = ? AND ipv4 IS NOT NULL ORDER BY updated_at DESC LIMIT ?"
        return [str(row["ipv4"]) for row in self._rows(query, (Status.COMPLETE, most))]

    def ssh_networks(self) -> set[str]:
        """Return the networks that runs of this database have let in to SSH."""
        found = self._rows(
            "SELECT data FROM effects WHERE kind IN ('create_firewall', 'set_firewall_rules') AND outcome = ?"
            " AND CASE WHEN json_valid(data) THEN json_type(data, '$.ssh_from') = 'text' ELSE 0 END",
            (EffectOutcome.DONE,),
        )
        return {network for row in found for network in json.loads(row["data"])["ssh_from"].split(",")} - {""}

    def has_claimed(self, run_id: str) -> bool:
        """Say whether a run of this database has told a machine of the pool to be its own."""
        return bool(self._rows("SELECT 1 FROM effects WHERE kind = 'claim_server' AND run_id = ? LIMIT 1", (run_id,)))

    def claims(self, run_id: str) -> dict[int, str]:
        """Return the servers of the pool that a run has told to be its own, by id with their names there."""
        claimed = self._rows("SELECT name, data FROM effects WHERE kind = 'claim_server' AND run_id = ?", (run_id,))
        # One that cannot be read says nothing: what it is about is not taken for ours.
        found = ((_fields(row["data"]).get("server"), row["name"]) for row in claimed)
        return {number: name for number, name in found if isinstance(number, int)}

    def requests(self, user: str) -> list[str]:
        """Return the certificate requests that were sent for a user."""
        return [request for _, _, request in self._requests("AND user = ?", (user,))]

    def all_requests(self) -> list[tuple[str, str, str]]:
        """Return every certificate request that was sent, with its user and host name."""
        return self._requests("", ())

    def _requests(self, where: str, values: Sequence[Any]) -> list[tuple[str, str, str]]:
        query = f"SELECT DISTINCT user, name, data FROM effects WHERE kind = 'sign_certificate' {where}"  # noqa: S608 - called with constants only
        found = ((row["user"], row["name"], _fields(row["data"]).get("csr")) for row in self._rows(query, values))
        return [(user, host, request) for user, host, request in found if isinstance(request, str)]

    def begin_effect(self, instance: Instance, stage: str, kind: str, name: str, data: Mapping[str, Any]) -> Effect:
        """Write what is about to be done; durable when this returns, and only then may it be done."""
        begun_at = now_text()
        with self.transaction() as connection:
            self._refuse_without_lease(connection, instance.user)
            cursor = connection.execute(
                "INSERT INTO effects (user, run_id, stage, kind, name, data, begun_at) VALUES (?, ?, ?, ?, ?, ?, ?)",
                (instance.user, instance.run_id, stage, kind, name, json.dumps(data, sort_keys=True), begun_at),
            )
            number = int(cursor.lastrowid or 0)
        return Effect(number, instance.user, instance.run_id, stage, kind, name, dict(data), begun_at)

    def end_effect(self, effect: Effect, outcome: EffectOutcome, result: str, changes: Mapping[str, Any]) -> None:
        """Write what came of an effect, and with it, in one step, what that changes in the instance.

        Raises LeaseLostError when another run has taken the instance over: then what was done is kept as an orphan.
        """
        with self.transaction() as connection:
            lost = self._lost(connection, effect.user)
            if lost is not None:
                self._end_without_lease(connection, effect, outcome, result)
            else:
                self._end(connection, effect, outcome, result, changes)
        if lost is not None:
            if outcome is EffectOutcome.DONE:
                thing = f"{effect.kind} {effect.name}" + (f" ({result})" if result else "")
                lost.details = (f"{thing} was answered only after that: it is not recorded as {effect.user}'s",)
                lost.next_steps = (*lost.next_steps, "clawdet reconcile    (names what is in no database)")
            raise lost

    def _end_without_lease(
        self, connection: sqlite3.Connection, effect: Effect, outcome: EffectOutcome, result: str
    ) -> None:
        """Write what came of an effect of which the run that took over may have written something already."""
        if outcome is EffectOutcome.DONE:
            outcome = EffectOutcome.ORPHANED
        connection.execute(
            "UPDATE effects SET outcome = ?, result = ?, ended_at = ?"
            " WHERE id = ? AND (outcome IS NULL OR (? = ? AND outcome IN (?, ?)))",
            (
                *(outcome, result, now_text(), effect.id),
                # It was looked for before it came: what the look found is not what came of it.
                *(outcome, EffectOutcome.ORPHANED, EffectOutcome.ABSENT, EffectOutcome.LEFT),
            ),
        )

    def _end(
        self,
        connection: sqlite3.Connection,
        effect: Effect,
        outcome: EffectOutcome,
        result: str,
        changes: Mapping[str, Any],
    ) -> None:
        connection.execute(
            "UPDATE effects SET outcome = ?, result = ?, ended_at = ? WHERE id = ?",
            (outcome, result, now_text(), effect.id),
        )
        if changes:
            self._update(connection, effect.user, changes)

    def open_effects(self, user: str) -> list[Effect]:
        """Give what was begun for a user and is not known to have ended, in the order in which it was begun."""
        self._refuse_damaged(user)
        return [_effect(row) for row in self._rows(f"{_OPEN_EFFECTS} AND user = ? ORDER BY id", (user,))]

    def absent_effects(self, user: str) -> list[Effect]:
        """Return what was begun for a user, was cut off, and was not there when it was looked for."""
        found = self._rows(f"{_EFFECTS} outcome = 'absent' AND user = ? ORDER BY id", (user,))
        readable = [row for row in found if rows.is_time(row["begun_at"]) and rows.as_object(row["data"]) is not None]
        return [_effect(row) for row in readable]

    def begin_stage(self, instance: Instance, name: str) -> int:
        """Note that a stage began, and give the row to end."""
        with self._unsynced() as connection:
            cursor = connection.execute(
                "INSERT INTO stage_runs (user, run_id, name, status, started_at, seconds)"
                " VALUES (?, ?, ?, 'running', ?, 0)",
                (instance.user, instance.run_id, name, now_text()),
            )
            return int(cursor.lastrowid or 0)

    def end_stage(self, row: int, status: str, seconds: float) -> None:
        """Note how a stage ended and how long it took."""
        with self._unsynced() as connection:
            connection.execute("UPDATE stage_runs SET status = ?, seconds = ? WHERE id = ?", (status, seconds, row))

    def typical_seconds(self, name: str) -> float | None:
        """Give the median duration of the last finished runs of a stage, for a forecast; read once a command."""
        if name not in self._typical:
            done = self._rows(
                "SELECT seconds FROM stage_runs WHERE name = ? AND status = 'done' AND seconds BETWEEN 0 AND ?"
                " ORDER BY id DESC LIMIT 9",
                (name, rows.MAX_SECONDS),
            )
            if not done:
                return None
            self._typical[name] = sorted(row["seconds"] for row in done)[len(done) // 2]
        return self._typical[name]

    def save_checks(self, instance: Instance, checks: Sequence[Check]) -> None:
        """Replace the recorded checks of an instance by newer ones."""
        with self.transaction() as connection:
            self._refuse_without_lease(connection, instance.user)
            connection.execute("DELETE FROM checks WHERE user = ?", (instance.user,))
            connection.executemany(
                "INSERT INTO checks (user, run_id, name, position, result, evidence, at) VALUES (?, ?, ?, ?, ?, ?, ?)",
                [
                    (instance.user, instance.run_id, check.name, position, check.result, check.evidence, check.at)
                    for position, check in enumerate(checks)
                ],
            )

    def refuse_without_lease(self, user: str) -> None:
        """Raise LeaseLostError when a lease that this process took on a user is not its own any more."""
        if user in self.held:
            with self._translated(), self._lock:
                self._refuse_without_lease(self._connection, user)

    def _refuse_without_lease(self, connection: sqlite3.Connection, user: str) -> None:
        lost = self._lost(connection, user)
        if lost is not None:
            raise lost

    def _lost(self, connection: sqlite3.Connection, user: str) -> LeaseLostError | None:
        """Return the error for a run that slept while another one took its lease over; None while it has it."""
        if user not in self.held:
            return None
        owner, number = self.held[user]
        row = connection.execute("SELECT owner, number, verb, host, pid FROM leases WHERE user = ?", (user,)).fetchone()
        if row is not None and (row["owner"], row["number"]) == (owner, number):
            return None
        by = f"clawdet {row['verb']} (process {row['pid']} on {row['host']})" if row else "a run that has ended"
        return LeaseLostError(
            f"{user} was taken over by {by} while this run slept: this one changes nothing more.",
            next_steps=["clawdet pool status" if user.startswith(POOL) else f"clawdet status {user}"],
        )

    def _update(self, connection: sqlite3.Connection, user: str, changes: Mapping[str, Any]) -> bool:
        """Change an instance's row, and say whether there is one."""
        unknown = set(changes) - set(_COLUMNS)
        if unknown:
            raise ValueError(f"no such fields: {unknown}")
        self._refuse_without_lease(connection, user)
        values = {**changes, "updated_at": now_text()}
        assignments = ", ".join(f"{name} = ?" for name in values)
        changed = connection.execute(
            f"UPDATE instances SET {assignments} WHERE user = ?",  # noqa: S608 - the column names are ours
            [*values.values(), user],
        )
        return changed.rowcount > 0

    def _instances(self, where: str, values: Sequence[Any], damaged: Container[str]) -> list[Instance]:
        """Read instances and what belongs to them, but for the damaged: as many queries for ten thousand as for one."""
        found = self._rows(f"SELECT {', '.join(_COLUMNS)} FROM instances {where} ORDER BY user", values)  # noqa: S608 - called with constants only
        if not found:
            return []
        wanted = f"(SELECT user, run_id FROM instances {where})"  # noqa: S608 - as above
        checks = self._by_user(
            f"SELECT user, name, result, evidence, at FROM checks JOIN {wanted} USING (user) ORDER BY position",  # noqa: S608 - as above
            values,
            lambda row: Check(row[1], Result(row[2]), row[3], row[4]),
            damaged,
        )
        # The newest row of each stage, in the order in which the stages first began.
        stages = self._by_user(
            "SELECT user, name, status, seconds FROM stage_runs JOIN"  # noqa: S608 - as above
            " (SELECT MAX(id) AS newest, MIN(id) AS first FROM stage_runs"
            f" JOIN {wanted} USING (user, run_id) GROUP BY user, name) ON id = newest ORDER BY first",
            values,
            lambda row: StageRun(*row[1:]),
            damaged,
        )
        of_these = f"{_OPEN_EFFECTS} AND user IN (SELECT user FROM instances {where}) ORDER BY id"  # noqa: S608 - as above
        effects = self._by_user(of_these, values, _effect, damaged, user=1)
        return [_instance(row, checks, stages, effects) for row in found if row["user"] not in damaged]

    def _by_user(
        self,
        query: str,
        values: Sequence[Any],
        made: Callable[[sqlite3.Row], T],
        damaged: Container[str] = (),
        user: int = 0,
    ) -> dict[str, list[T]]:
        """Read rows as values of ours, by what stands in the column of the user; the damaged users' are left out."""
        found: dict[str, list[T]] = {}
        for row in self._rows(query, values):
            if row[user] not in damaged:
                found.setdefault(row[user], []).append(made(row))
        return found

    def _rows(self, query: str, values: Sequence[Any]) -> list[sqlite3.Row]:
        with self._translated(), self._lock:
            return self._connection.execute(query, values).fetchall()

    def _connect(self) -> sqlite3.Connection:
        connection = sqlite3.connect(
            self.path, timeout=5.0, isolation_level=None, factory=_Masking, check_same_thread=False
        )
        connection.row_factory = sqlite3.Row
        try:
            connection.execute(f"PRAGMA journal_mode = {self._journal}")
            connection.execute("PRAGMA synchronous = FULL")
            # `_keep_wal_own` does it, so that each -wal begins with the generation of the file as it is then.
            connection.execute("PRAGMA wal_autocheckpoint = 0")
        except sqlite3.Error:
            connection.close()
            raise
        return connection

    def _check_file(self) -> None:
        """Raise RecordError when the file was deleted or replaced: what is written now would be lost."""
        if self._journal == "WAL":
            overwritten = self._file.is_overwritten(lambda: state_file.generation(self._connection))
        else:
            # Nobody changes it there: another one is another file's, which was written into this one.
            seen = state_file.generation(self._connection)
            overwritten = seen != self._generation
        lost = self.path if not self._file.is_at_its_path() else None
        if lost is None and self._journal == "WAL" and self._file.wal_size() is None:
            lost = self._file.wal
        if lost is None and not overwritten:
            return
        what = "was deleted" if lost is not None and not lost.exists() else "was replaced by another file"
        raise RecordError(
            f"The database {lost or self.path} {what} while it was in use: nothing more is changed.",
            next_steps=[
                "clawdet state restore FILE    (takes up a backup)",
                "clawdet state rebuild    (or records again what the clouds hold)",
                "clawdet reconcile    (then tells what differs)",
            ],
        )

    def _keep_wal_own(self) -> None:
        """Have the database file change before a -wal begins, so that none fits to a copy from before."""
        if self._journal == "WAL":
            size = self._file.wal_size()
            if not size or size >= self._max_wal:
                state_file.change_generation(self._connection)
                # Where a reader hinders it, the next one shall not wait for him as well.
                self._max_wal = max(MAX_WAL, 2 * (self._file.wal_size() or 0))

    def _migrate(self) -> None:
        # Mostly there is nothing to do, and a reader must not queue up behind those who write.
        version = self._connection.execute("PRAGMA user_version").fetchone()[0]
        if version == len(MIGRATIONS):
            return
        if version > len(MIGRATIONS):
            raise StateError(
                f"{self.path} was written by a newer clawdet (its schema is {version}, ours {len(MIGRATIONS)}).",
                next_steps=["install the newer clawdet, or name another folder with --state"],
            )
        with self.transaction() as connection:
            version = connection.execute("PRAGMA user_version").fetchone()[0]
            for number, migration in enumerate(MIGRATIONS[version:], version + 1):
                for statement in migration.split(";"):
                    connection.execute(statement)
                connection.execute(f"PRAGMA user_version = {number}")

    @contextmanager
    def transaction(self) -> Iterator[sqlite3.Connection]:
        """Write several things together or not at all; durable at the end, and never cut off by a stop."""
        with self._translated(), stopping.held(), self._lock:
            self._check_file()
            self._keep_wal_own()
            self._connection.execute("BEGIN IMMEDIATE")
            try:
                before = self._connection.total_changes
                yield self._connection
                self._check_file()
                if self._connection.total_changes != before:
                    state_file.take_along(self._connection)
                self._connection.execute("COMMIT")
            except BaseException:
                # A full disk makes SQLite roll back by itself; a second one would hide why.
                if self._connection.in_transaction:
                    self._connection.execute("ROLLBACK")
                raise

    @contextmanager
    def reading(self) -> Iterator[sqlite3.Connection]:
        """Read several things as one moment shows them."""
        with self._translated(), self._lock:
            self._connection.execute("BEGIN")
            try:
                yield self._connection
            finally:
                self._connection.execute("ROLLBACK")

    @contextmanager
    def _unsynced(self) -> Iterator[sqlite3.Connection]:
        """Write what a person reads and no run rests on: it may be gone after a power failure, as nothing else is.

        The disk is not waited for, which is most of what a write takes; whoever kills the process loses nothing.
        """
        with self._translated(), self._lock:
            try:
                # Within: a stop that is obeyed here must not leave what it then records unsynced too.
                self._connection.execute("PRAGMA synchronous = NORMAL")
                with self.transaction() as connection:
                    yield connection
            finally:
                self._connection.execute("PRAGMA synchronous = FULL")

    @contextmanager
    def _translated(self) -> Iterator[None]:
        try:
            yield
        except (sqlite3.Error, OSError) as error:
            reason = f"{error}: the disk is full" if self._is_unnamed_full_disk(error) else f"{error}"
            raise RecordError(
                f"The database {self.path} cannot be used: {reason}.", next_steps=self._ways_out(error)
            ) from error

    def _is_unnamed_full_disk(self, error: Exception) -> bool:
        """Say whether there is no room, which SQLite calls an I/O error where it cannot make its shared memory."""
        if getattr(error, "sqlite_errorcode", 0) & 0xFF != sqlite3.SQLITE_IOERR:
            return False
        try:
            return shutil.disk_usage(self.path.parent).free < LEAST_ROOM
        except OSError:
            return False

    def _ways_out(self, error: Exception) -> list[str]:
        """Say what helps, by what SQLite says is wrong."""
        make_room = f"make room, then run the command again: df -h {self.path.parent}"
        if self._is_unnamed_full_disk(error):
            return [make_room]
        match getattr(error, "sqlite_errorcode", 0) & 0xFF:
            case sqlite3.SQLITE_CORRUPT | sqlite3.SQLITE_NOTADB:
                ends = ("", *state_file.BESIDE)
                there = [state_file.beside(self.path, end) for end in ends]
                names = shlex.join(str(one) for one in there if one.exists())
                into = shlex.quote(f"{self.path}.broken-XXXXXX")
                return [
                    "clawdet state restore FILE    (takes up a backup, and keeps what is there now)",
                    f'mv {names} "$(mktemp -d {into})"  # or begins anew, together with the next line',
                    "clawdet state rebuild    (records again what the clouds hold)",
                ]
            case sqlite3.SQLITE_BUSY | sqlite3.SQLITE_LOCKED:
                return [
                    f"see which program has it open: fuser -v {self.path}    (on each machine that shares the folder)",
                    "or wake one that was stopped (T in ps): kill -CONT PID",
                    "or wait, and run the command again",
                ]
            case sqlite3.SQLITE_FULL:
                return [make_room]
        return [
            f"see who may write to it: ls -ld {self.path.parent} {self.path}",
            "or name another folder with --state",
        ]
