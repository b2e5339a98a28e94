"""A backup takes the place of the database only when it is whole and nobody works; what was there is kept."""

import os
import sqlite3
import stat
import subprocess
import sys
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from clawdet_cli import archive, restore
from clawdet_cli.errors import RecordError, StateError
from clawdet_cli.lease import lease
from clawdet_cli.model import Instance, Status, now_text
from clawdet_cli.state import MIGRATIONS, State
from tests.unit.test_state import instance
from tests.unit.test_state_file import killed_at_work, work


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A database with three users, of which `copy` has two."""
    path = tmp_path / "home" / "clawdet.db"
    work(path, 0, 2)
    with closing(State(path)) as state:
        archive.backup(state, tmp_path / "copy.db")
    work(path, 2, 1)
    return path


@pytest.fixture
def copy(path: Path, tmp_path: Path) -> Path:
    assert path.exists()
    return tmp_path / "copy.db"


def users(path: Path) -> list[str]:
    with closing(State(path)) as state:
        return [one.user for one in state.instances()]


def files(path: Path) -> dict[str, bytes]:
    return {one.name: one.read_bytes() for one in path.parent.iterdir()}


def change(file: Path, statement: str) -> None:
    with closing(sqlite3.connect(file)) as database, database:
        database.execute(statement)


def test_a_wal_whose_database_is_missing_is_kept_too(path: Path, copy: Path) -> None:
    killed_at_work(path, 10, 2)
    left = path.with_name("clawdet.db-wal").read_bytes()
    path.unlink()
    done = restore.restore(path, copy, sandbox=False)
    assert done.replaced is not None
    assert done.replaced.name.endswith("-wal")
    assert done.replaced.read_bytes() == left
    assert users(path) == ["user0", "user1"]


def test_a_disk_that_is_full_at_the_last_step_changes_nothing(
    path: Path, copy: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(_: sqlite3.Connection) -> None:
        raise sqlite3.OperationalError("database or disk is full")

    monkeypatch.setattr(restore, "change_generation", full)
    before = files(path)
    with pytest.raises(StateError, match=r"could not be restored to .*: database or disk is full") as caught:
        restore.restore(path, copy, sandbox=False)
    assert "df -h" in caught.value.next_steps[0]
    assert files(path) == before


def test_what_was_there_is_kept_and_nothing_else_is_left(path: Path, copy: Path) -> None:
    before = path.read_bytes()
    done = restore.restore(path, copy, sandbox=False)
    assert done.replaced is not None
    assert (done.instances, done.schema) == (2, len(MIGRATIONS))
    assert set(files(path)) == {"clawdet.db", done.replaced.name}
    assert done.replaced.read_bytes() == before
    assert {stat.S_IMODE(one.stat().st_mode) for one in path.parent.iterdir()} == {0o600}
    assert users(path) == ["user0", "user1"]
    again = restore.restore(path, done.replaced, sandbox=False)
    assert again.replaced not in (None, done.replaced)
    assert users(path) == ["user0", "user1", "user2"]


@pytest.mark.parametrize("how", ["missing", "spoilt", "newer", "foreign -wal"])
def test_it_works_where_the_database_cannot_be_used(how: str, path: Path, copy: Path) -> None:
    match how:
        case "missing":
            path.unlink()
        case "spoilt":
            path.write_bytes(b"\xff" * 5000)
        case "newer":
            change(path, "PRAGMA user_version = 99")
        case _:
            killed_at_work(path, 10, 3)
            path.write_bytes(copy.read_bytes())
            path.with_name("clawdet.db-shm").unlink()
            with pytest.raises(RecordError):
                State(path)
    before = files(path)
    done = restore.restore(path, copy, sandbox=False)
    assert users(path) == ["user0", "user1"]
    kept = done.replaced
    assert (kept is None) == (how == "missing")
    if kept is not None:
        found = {name.replace(kept.name, "clawdet.db"): data for name, data in files(path).items() if kept.name in name}
        assert found == before


def test_it_is_refused_while_a_run_is_at_work(path: Path, copy: Path) -> None:
    with closing(State(path)) as state, lease(state, "user1", "destroy", tell=print):
        with pytest.raises(StateError, match="user1 is being worked on by clawdet destroy"):
            restore.restore(path, copy, sandbox=False)
        assert not list(path.parent.glob("*replaced*"))
    assert users(path) == ["user0", "user1", "user2"]


def test_the_lease_of_a_dead_run_does_not_hinder_it(path: Path, copy: Path) -> None:
    change(
        path,
        "INSERT INTO leases (user, owner, verb, host, pid, process, machine, since, heartbeat)"
        " VALUES ('user1', 'x', 'destroy', 'h', 1, 'x', 'x', 'then', 'then')",
    )
    assert restore.restore(path, copy, sandbox=False).instances == 2


HOLDER = """
import sqlite3, sys
database = sqlite3.connect(sys.argv[1])
database.execute("SELECT COUNT(*) FROM instances").fetchone()
print("open", flush=True)
sys.stdin.read()
"""


def test_it_is_refused_while_another_program_has_it_open(
    path: Path, copy: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(restore, "LOCK_SECONDS", 0.2)
    holder = [sys.executable, "-c", HOLDER, str(path)]
    with subprocess.Popen(holder, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == "open\n"
        with pytest.raises(StateError, match=r"Another program has .*clawdet\.db open") as caught:
            restore.restore(path, copy, sandbox=False)
    assert caught.value.next_steps[0] == f"see which: fuser {path}"
    assert set(files(path)) == {"clawdet.db"}
    assert users(path) == ["user0", "user1", "user2"]


def test_an_older_schema_is_brought_up_to_ours(path: Path, tmp_path: Path) -> None:
    old = tmp_path / "old.db"
    with closing(sqlite3.connect(old)) as database:
        for migration in MIGRATIONS[:3]:
            database.executescript(migration)
        database.execute("PRAGMA user_version = 3")
    assert restore.restore(path, old, sandbox=False).schema == 3
    with closing(State(path)) as state:
        state.add(instance())


def test_what_a_crash_left_beside_the_file_belongs_to_it(path: Path, tmp_path: Path) -> None:
    crashed = tmp_path / "crashed" / "clawdet.db"
    killed_at_work(crashed, 5, 3)
    before = files(crashed)
    assert restore.restore(path, crashed, sandbox=False).instances == 3
    assert files(crashed) == before


def _foreign_wal(file: Path) -> None:
    other = file.with_name("elsewhere") / "clawdet.db"
    killed_at_work(other, 0, 2)
    other.with_name("clawdet.db-wal").rename(f"{file}-wal")


def _damaged_index(file: Path) -> None:
    with closing(sqlite3.connect(file)) as database, database:
        database.execute("PRAGMA writable_schema = ON")
        database.execute("UPDATE sqlite_schema SET rootpage = 3 WHERE name = 'effects_open'")


@pytest.mark.parametrize(
    ("spoil", "why"),
    [
        (lambda file: file.unlink(), "No such file"),
        (lambda file: file.write_text("hello"), "it is no SQLite database"),
        (lambda file: file.write_bytes(file.read_bytes()[:9000]), "malformed"),
        (lambda file: change(file, "PRAGMA user_version = 99"), "written by a newer clawdet .its schema is 99"),
        (lambda file: change(file, "PRAGMA user_version = 0"), "it is a database of another program"),
        (lambda file: change(file, "DROP TABLE effects"), "its index effects_of is not clawdet's"),
        (
            lambda file: change(file, "CREATE TRIGGER evil AFTER INSERT ON leases BEGIN DELETE FROM leases; END"),
            "its trigger evil is not clawdet's",
        ),
        (_foreign_wal, "copy.db-wal was made with another file"),
        (_damaged_index, "it is damaged: "),
    ],
)
def test_a_file_that_cannot_be_used_is_named_and_nothing_is_changed(
    spoil: Callable[[Path], Any], why: str, path: Path, copy: Path
) -> None:
    spoil(copy)
    before = files(path)
    with pytest.raises(StateError, match=why) as caught:
        restore.restore(path, copy, sandbox=False)
    assert str(copy) in caught.value.what
    assert caught.value.next_steps
    assert files(path) == before


def test_the_database_itself_is_no_backup(path: Path) -> None:
    with pytest.raises(StateError, match="is the database itself"):
        restore.restore(path, path, sandbox=False)


def test_what_is_a_sandboxs_is_not_restored_among_the_real(tmp_path: Path) -> None:
    path, copy = tmp_path / "state" / "clawdet.db", tmp_path / "copy.db"
    with closing(State(tmp_path / "sandbox" / "clawdet.db")) as state:
        state.add(Instance("shop", "clawdet.test", "abcdefabcdef", Status.COMPLETE, True, now_text(), now_text()))
        archive.backup(state, copy)
    with pytest.raises(StateError, match="it is a sandbox's"):
        restore.restore(path, copy, sandbox=False)
    assert not path.exists()
    assert restore.restore(path, copy, sandbox=True).instances == 1


def test_what_is_no_regular_file_is_refused_at_once(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(StateError, match="is no regular file"):
        restore.restore(tmp_path / "state" / "clawdet.db", tmp_path / "pipe", sandbox=False)
