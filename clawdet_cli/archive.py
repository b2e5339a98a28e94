"""The database as a document that can be carried elsewhere, and as a consistent copy."""

import json
import os
import re
import sqlite3
from collections import Counter
from collections.abc import Callable, Mapping
from contextlib import closing
from pathlib import Path
from typing import Any

from clawdet_cli.errors import RecordError, StateError, UsageError
from clawdet_cli.lease import holder_of
from clawdet_cli.model import PROJECT, ZONE, Status, is_member, is_user
from clawdet_cli.private import new_private_file
from clawdet_cli.rows import MONEY, fault
from clawdet_cli.state import MIGRATIONS, State
from clawdet_cli.state_file import new_generation

VERSION = 1
TABLES = ("instances", "checks", "stage_runs", "effects")
"""What is carried; leases belong to processes."""
NUMBERED = {"stage_runs", "effects"}
"""Tables whose rows get new ids where they arrive."""


_HOST_KEY = re.compile(r"ssh-ed25519 [A-Za-z0-9+/]{20,100}={0,2}", re.ASCII)
_PUBLIC_KEY = re.compile(r"[a-z0-9@.-]{3,60} [A-Za-z0-9+/]{20,4000}={0,2}", re.ASCII)
_ID = re.compile(r"[0-9A-Za-z-]{1,64}", re.ASCII)
_NUMBER = re.compile(r"[0-9]{1,18}", re.ASCII)
_WORD = re.compile(r"[0-9A-Za-z._:/ -]{1,255}", re.ASCII)
_USABLE: Mapping[str, Callable[[Any], bool]] = {
    "zone": lambda value: not value or ZONE.fullmatch(value) is not None,
    "run_id": lambda value: re.fullmatch(r"[a-z0-9]{12}", value, re.ASCII) is not None,
    "ipv4": lambda value: re.fullmatch(r"[0-9]{1,3}(\.[0-9]{1,3}){3}", value, re.ASCII) is not None,
    "host_key": lambda value: _HOST_KEY.fullmatch(value) is not None,
    "next_host_key": lambda value: _HOST_KEY.fullmatch(value) is not None,
    "zone_id": lambda value: _ID.fullmatch(value) is not None,
    "record_id": lambda value: _ID.fullmatch(value) is not None,
    "certificate_id": lambda value: _ID.fullmatch(value) is not None,
}
"""What becomes a part of a path, a command line or a file here: an export may come from anywhere."""


def _is(pattern: re.Pattern[str]) -> Callable[[Any], bool]:
    return lambda value: isinstance(value, str) and pattern.fullmatch(value) is not None


def _is_text(value: object) -> bool:
    return isinstance(value, str) and len(value) <= 10_000


def _are_texts(value: object) -> bool:
    return isinstance(value, dict) and all(_is_text(text) for text in value.values())


EFFECTS: Mapping[str, tuple[re.Pattern[str], Mapping[str, Callable[[Any], bool]]]] = {
    "create_server": (
        _WORD,
        {"labels": _are_texts, "type": _is(_WORD), "location": _is(_WORD), "monthly": _is(MONEY)},
    ),
    "create_dns_record": (_WORD, {"comment": _is_text}),
    "sign_certificate": (_WORD, {"csr": _is_text}),
    "add_ssh_key": (_WORD, {"public_key": _is(_PUBLIC_KEY)}),
    "delete_dns_record": (_ID, {}),
    "revoke_certificate": (_ID, {}),
    "delete_server": (_NUMBER, {}),
    "delete_ssh_key": (_NUMBER, {}),
    "delete_firewall": (_NUMBER, {}),
    "update_dns_record": (_ID, {}),
    "approve_device": (_WORD, {}),
    **dict.fromkeys(("create_firewall", "set_firewall_rules", "attach_firewall", "label_server"), (_WORD, {})),
    **dict.fromkeys(("join_boot", "upload", "start", "put_nonce", "make_vps_key"), (_WORD, {})),
    **dict.fromkeys(("make_host_key", "switch_host_key", "claim_server", "reboot_vps"), (_WORD, {})),
}
"""What an effect may be called, and which of its data the next run reads when it looks what came of it; by kind."""


def export(state: State) -> dict[str, Any]:
    """Give everything that is recorded, as one moment shows it; there is no secret in it."""
    with state.reading() as connection:
        tables = {
            name: [dict(row) for row in connection.execute(f"SELECT * FROM {name} ORDER BY rowid")]  # noqa: S608 - ours
            for name in TABLES
        }
    return {"clawdet_export": VERSION, "schema": len(MIGRATIONS), **tables}


def load(state: State, document: object, *, replace: bool, sandbox: bool) -> list[str]:
    """Take an export in, all of it or nothing, and give its users; others are left as they are.

    `sandbox` is whether the database is a sandbox's: the real clouds know nothing of what another one's rows name.
    Raises UsageError that names what is wrong with it, StateError for a living instance that `replace` does not allow
    to be overwritten, or that a run is working on.
    """
    found = _checked(state, document)
    if any(bool(row["sandbox"]) != sandbox for row in found["instances"]):
        raise _unusable("it is not a sandbox's" if sandbox else "it is a sandbox's")
    users = [str(row["user"]) for row in found["instances"]]
    for user in users:
        holder = holder_of(state, user)
        if holder is not None:
            raise StateError(f"{user} is being worked on by {holder}.", next_steps=["wait until it has ended"])
        with state.reading() as connection:
            living = connection.execute("SELECT status FROM instances WHERE user = ?", (user,)).fetchone()
        if living is not None and living["status"] != Status.DESTROYED and not replace:
            raise StateError(
                f"{user} is recorded here already: nothing was imported.",
                next_steps=["to take what the file says in its place, add --replace"],
            )
    with state.transaction() as connection:
        for name in TABLES:
            for user in users:
                connection.execute(f"DELETE FROM {name} WHERE user = ?", (user,))  # noqa: S608 - the names are ours
            for row in found[name]:
                columns = [column for column in row if not (column == "id" and name in NUMBERED)]
                connection.execute(
                    f"INSERT INTO {name} ({', '.join(columns)}) VALUES ({', '.join('?' * len(columns))})",  # noqa: S608
                    [row[column] for column in columns],
                )
    return users


def backup(state: State, target: Path) -> None:
    """Copy the database to a new file that its owner alone can read, also while a run writes to it.

    Raises StateError when the file exists or cannot be written.
    """
    try:
        os.close(new_private_file(target))
    except FileExistsError:
        raise StateError(f"{target} exists already: nothing was copied.", next_steps=["name a new file"]) from None
    except OSError as error:
        raise StateError(f"{target} cannot be made: {error.strerror}.", next_steps=["name another file"]) from None
    try:
        with closing(sqlite3.connect(state.path, timeout=5.0)) as source, closing(sqlite3.connect(target)) as copy:
            source.backup(copy)
            # One file, to be carried about: without it a copy would make -wal and -shm beside it when it is read.
            copy.execute("PRAGMA journal_mode = DELETE")
            # Another file than the database from here on: no -wal of that is one of the copy's.
            copy.execute(f"PRAGMA application_id = {new_generation()}")
        for path in (target, target.parent):
            opened = os.open(path, os.O_RDONLY)
            try:
                os.fsync(opened)
            finally:
                os.close(opened)
    except (sqlite3.Error, OSError) as error:
        target.unlink(missing_ok=True)
        raise RecordError(
            f"The database {state.path} could not be copied to {target}: {error}.",
            next_steps=["look whether the disk is full: df -h"],
        ) from error


def _checked(state: State, document: object) -> dict[str, list[Mapping[str, Any]]]:
    """Give the tables of an export, after a look at every field."""
    if not isinstance(document, dict) or document.get("clawdet_export") != VERSION:
        raise _unusable("it does not begin as one")
    if document.get("schema") != len(MIGRATIONS):
        raise _unusable(f"its schema is {document.get('schema')!r}, and this clawdet's is {len(MIGRATIONS)}")
    found: dict[str, list[Mapping[str, Any]]] = {}
    for name in TABLES:
        rows = document.get(name)
        if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
            raise _unusable(f"'{name}' is no list of objects")
        with state.reading() as connection:
            columns = {row[1]: row for row in connection.execute(f"PRAGMA table_info({name})")}
        for number, row in enumerate(rows):
            if set(row) != set(columns):
                strange = sorted(set(row) ^ set(columns))
                raise _unusable(f"{name}[{number}] has too many fields or too few: {', '.join(strange)}")
            for field, value in row.items():
                _check_value(f"{name}[{number}].{field}", value, columns[field])
        # What was done for the project as a whole, such as to its firewall, is of no instance: done anew when due.
        found[name] = [row for row in rows if row["user"] != PROJECT]
    users = {row["user"] for row in found["instances"]}
    for name in TABLES:
        for number, row in enumerate(found[name]):
            _check_row(f"{name}[{number}]", row, users)
    if len(users) != len(found["instances"]):
        raise _unusable("'instances' names a user twice")
    servers = [row["server_id"] for row in found["instances"] if row["server_id"] and row["status"] != Status.DESTROYED]
    for server, times in Counter(servers).items():
        if times > 1:
            raise _unusable(f"'instances' has the server {server} {times} times")
    return found


def _check_value(where: str, value: object, column: Any) -> None:
    _, _, kind, not_null, _, key = column
    wanted = {"TEXT": (str,), "INTEGER": (int,), "REAL": (float, int)}[kind]
    if value is None and not not_null and not key:
        return
    if not isinstance(value, wanted) or isinstance(value, bool):
        raise _unusable(f"{where} is {value!r}")


def _check_row(where: str, row: Mapping[str, Any], users: set[str]) -> None:
    if not (is_user(row["user"]) or is_member(row["user"])):
        raise _unusable(f"{where}.user is {row['user']!r}")
    if row["user"] not in users:
        raise _unusable(f"{where}.user is {row['user']!r}, of whom it has no instance")
    if where.startswith("instances"):
        if is_user(row["user"]) and not row["zone"]:
            raise _unusable(f"{where}.zone is empty")
        for field, usable in _USABLE.items():
            if row[field] is not None and not usable(row[field]):
                raise _unusable(f"{where}.{field} is {row[field]!r}")
    if found := fault(where.partition("[")[0], row):
        raise _unusable(f"{where}.{found[0]} is {found[1]}")
    if "data" in row:
        _check_effect(where, row, json.loads(row["data"]))


def _check_effect(where: str, row: Mapping[str, Any], data: Mapping[str, Any]) -> None:
    """Look at what the next run would go by: names become a part of paths, and its data of what is recorded."""
    if row["kind"] not in EFFECTS:
        raise _unusable(f"{where}.kind is {row['kind']!r}")
    name, needed = EFFECTS[row["kind"]]
    if not name.fullmatch(row["name"]):
        raise _unusable(f"{where}.name is {row['name']!r}")
    for field, usable in needed.items():
        if not usable(data.get(field)):
            raise _unusable(f"{where}.data has {data.get(field)!r} for {field!r}")


def _unusable(why: str) -> UsageError:
    return UsageError(
        f"This is no export of this clawdet: {why}. Nothing was imported.",
        next_steps=["make one where the database is: clawdet state export FILE"],
    )
