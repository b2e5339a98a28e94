"""Puts a backup in the database's place: checked first, all at once, and what was there is kept."""

import fcntl
import os
import secrets
import shutil
import sqlite3
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from clawdet_cli import stopping
from clawdet_cli.errors import RecordError, StateError
from clawdet_cli.lease import holder_of
from clawdet_cli.private import new_private_file, private_folder
from clawdet_cli.state import MIGRATIONS, State
from clawdet_cli.state_file import BESIDE, MAGIC, beside, change_generation, is_foreign

LOCK_SECONDS = 5.0
_SQLITE_LOCK_AT, _SQLITE_LOCK_BYTES = 0x40000002, 510
"""Where SQLite locks a file that it has open: https://www.sqlite.org/fileformat2.html, "The Lock-Byte Page"."""


@dataclass(frozen=True)
class Restored:
    """What came of it."""

    replaced: Path | None
    """Where the database that was there is now; None when there was none."""
    instances: int
    """How many it records that are not destroyed, servers of the pool included."""
    schema: int
    """That of the file, before it was brought up to ours."""


def restore(path: Path, source: Path, *, sandbox: bool) -> Restored:
    """Put a copy of a backup in the place of the database. Raises StateError, and nothing is changed then.

    `sandbox` is whether the database is a sandbox's: the real clouds know nothing of what another one's rows name.
    """
    try:
        if source.exists() and not source.is_file():
            raise StateError(f"{source} is no regular file.", next_steps=["name a backup: clawdet state backup FILE"])
        private_folder(path.parent, link=True)
        if path.exists() and path.samefile(source):
            raise StateError(f"{source} is the database itself.", next_steps=["name a backup of it"])
        _refuse_living_runs(path)
        prepared = path.with_name(f".{path.name}.restore-{secrets.token_hex(6)}")
        try:
            schema, instances = _prepare(source, prepared, sandbox=sandbox)
            return Restored(_install(prepared, path), instances, schema)
        finally:
            for one in (prepared, *(beside(prepared, end) for end in BESIDE)):
                one.unlink(missing_ok=True)
    except OSError as error:
        raise StateError(
            f"{source} could not be restored to {path}: {error.strerror}.",
            next_steps=[f"see who may read and write them: ls -ld {source} {path.parent}", "or make room: df -h"],
        ) from error


def _refuse_living_runs(path: Path) -> None:
    """Raise StateError when a run works with the database that is there, as far as that can be read."""
    if not path.exists():
        return
    try:
        with closing(State(path)) as state:
            with state.reading() as connection:
                users = [str(row[0]) for row in connection.execute("SELECT user FROM leases ORDER BY user")]
            holders = {user: holder_of(state, user) for user in users}
    except StateError:
        # Spoilt, foreign or newer: whether somebody has it open is looked at before it is replaced.
        return
    for user, holder in holders.items():
        if holder is not None:
            raise StateError(
                f"{user} is being worked on by {holder}: nothing was restored.",
                next_steps=["wait until that has ended, then run the command again"],
            )


def _prepare(source: Path, prepared: Path, *, sandbox: bool) -> tuple[int, int]:
    """Make a checked copy of a backup, in our schema; give the schema it had, and how many instances it records."""
    _copy(source, prepared)
    # One that was kept or copied after a crash has a part of what it holds there.
    for end in ("-wal", "-journal"):
        if beside(source, end).exists():
            _copy(beside(source, end), beside(prepared, end))
    with prepared.open("rb") as file:
        if file.read(len(MAGIC)) != MAGIC:
            raise _unusable(source, "it is no SQLite database")
        if is_foreign(beside(prepared, "-wal"), file.fileno()):
            raise _unusable(source, f"{beside(source, '-wal')} was made with another file")
    schema = _checked_schema(source, prepared)
    try:
        with closing(State(prepared)) as state:
            difference = _foreign_parts(state)
            if difference:
                raise _unusable(source, f"its {difference} is not clawdet's")
            with state.reading() as connection:
                (instances,) = connection.execute(
                    "SELECT COUNT(*) FROM instances WHERE status != 'destroyed'"
                ).fetchone()
                (others,) = connection.execute(
                    "SELECT COUNT(*) FROM instances WHERE sandbox != ?", (int(sandbox),)
                ).fetchone()
            if others:
                raise _unusable(source, "it is a sandbox's" if not sandbox else "it is not a sandbox's")
            change_generation(state._connection)  # noqa: SLF001 - it is a file that nobody else has
    except RecordError as error:
        raise _unusable(source, error.what) from error
    except sqlite3.Error as error:
        raise StateError(
            f"{source} could not be restored to {prepared.parent}: {error}. Nothing was changed.",
            next_steps=[f"make room, then run the command again: df -h {prepared.parent}"],
        ) from error
    return schema, int(instances)


def _copy(source: Path, target: Path) -> None:
    with source.open("rb") as read, os.fdopen(new_private_file(target), "wb") as write:
        shutil.copyfileobj(read, write)
        write.flush()
        os.fsync(write.fileno())


def _checked_schema(source: Path, prepared: Path) -> int:
    """Return the schema of a copy, after a look at all of its pages."""
    try:
        with closing(sqlite3.connect(prepared)) as connection:
            wrong = connection.execute("PRAGMA integrity_check(1)").fetchone()[0]
            schema = int(connection.execute("PRAGMA user_version").fetchone()[0])
            tables = {row[0] for row in connection.execute("SELECT name FROM sqlite_schema WHERE type = 'table'")}
    except sqlite3.Error as error:
        raise _unusable(source, f"{error}") from error
    if wrong != "ok":
        raise _unusable(source, f"it is damaged: {wrong}")
    if schema > len(MIGRATIONS):
        raise StateError(
            f"{source} was written by a newer clawdet (its schema is {schema}, ours {len(MIGRATIONS)}): nothing was"
            " restored.",
            next_steps=["install the newer clawdet, then run the command again"],
        )
    if schema < 1 or "instances" not in tables:
        raise _unusable(source, "it is a database of another program")
    return schema


def _foreign_parts(state: State) -> str:
    """Name what a database holds beside or in place of clawdet's own tables; empty when it is nothing."""
    query = "SELECT type, name, sql FROM sqlite_schema WHERE name NOT LIKE 'sqlite_%'"
    with closing(sqlite3.connect(":memory:")) as fresh:
        for migration in MIGRATIONS:
            fresh.executescript(migration)
        wanted = {tuple(row) for row in fresh.execute(query)}
    with state.reading() as connection:
        found = {tuple(row) for row in connection.execute(query)}
    strange = sorted(f"{kind} {name}" for kind, name, _ in found ^ wanted)
    return strange[0] if strange else ""


def _install(prepared: Path, path: Path) -> Path | None:
    """Put the copy where the database is, at once and durable; give where that is now."""
    with _alone(path):
        kept = _keep(path)
        prepared.replace(path)
        # A run that dies here leaves a -wal that is foreign to the new file, which is refused until it is restored.
        for end in BESIDE:
            beside(path, end).unlink(missing_ok=True)
        folder = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)
    return kept


@contextmanager
def _alone(path: Path) -> Iterator[None]:
    """Keep every other program away from a database, and raise StateError when one has it open."""
    try:
        opened = os.open(path, os.O_RDWR | os.O_NOFOLLOW)
    except FileNotFoundError:
        yield
        return
    try:
        until = time.monotonic() + LOCK_SECONDS
        while True:
            try:
                fcntl.lockf(opened, fcntl.LOCK_EX | fcntl.LOCK_NB, _SQLITE_LOCK_BYTES, _SQLITE_LOCK_AT)
                break
            except OSError:
                if time.monotonic() >= until:
                    raise StateError(
                        f"Another program has {path} open: nothing was restored.",
                        next_steps=[f"see which: fuser {path}", "wait until it has ended, then run the command again"],
                    ) from None
                stopping.pause(0.05)
        yield
    finally:
        os.close(opened)


def _keep(path: Path) -> Path | None:
    """Link the database that is there, with what lies beside it, to another name as well."""
    there = [end for end in ("", "-wal", "-journal") if beside(path, end).exists()]
    if not there:
        return None
    at = datetime.now(UTC).strftime("%Y%m%dT%H%M%SZ")
    kept = path.with_name(f"{path.name}.replaced-{at}")
    for number in range(2, 1000):
        if not any(beside(kept, end).exists() for end in there):
            break
        kept = path.with_name(f"{path.name}.replaced-{at}-{number}")
    for end in there:
        _second_name(beside(path, end), beside(kept, end))
    return beside(kept, there[0])


def _second_name(path: Path, other: Path) -> None:
    path.chmod(0o600)
    try:
        # Not a copy: opening and closing the file would drop our lock on it, and the disk may be nearly full.
        other.hardlink_to(path)
    except OSError:
        # Some file systems have no second names. Then the first one is taken away, shortly before the new file comes.
        path.rename(other)


def _unusable(source: Path, why: str) -> StateError:
    return StateError(
        f"{source} cannot be restored: {why.rstrip('.')}. Nothing was changed.",
        next_steps=[
            "name a file that 'clawdet state backup' wrote",
            "clawdet state rebuild    (records again what the clouds hold)",
        ],
    )
