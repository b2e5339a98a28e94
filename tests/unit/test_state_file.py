"""A -wal is played into the file that it was made with, and into no other; a file that is gone is noticed."""

import os
import random
import shutil
import signal
import sqlite3
import struct
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import pytest

from clawdet_cli import archive, state_file
from clawdet_cli import state as module
from clawdet_cli.errors import RecordError
from clawdet_cli.lease import lease
from clawdet_cli.model import EffectOutcome
from clawdet_cli.state import State
from tests.unit.test_state import instance


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "home" / "clawdet.db"


@pytest.fixture
def state(path: Path) -> Iterator[State]:
    with closing(State(path)) as opened:
        yield opened


def work(path: Path, first: int, count: int) -> None:
    """Do what a run does, for some users."""
    with closing(State(path)) as state:
        for number in range(first, first + count):
            one = instance(f"user{number}")
            state.add(one)
            effect = state.begin_effect(one, "create_server", "create_server", one.server_name, {"text": "x" * 500})
            state.end_effect(effect, EffectOutcome.DONE, str(number), {"server_id": number + 1})


def in_a_process(act: Callable[[], object], *, kill_after: float | None = None) -> None:
    """Do something in a process that is killed: when it is done, or after so many seconds."""
    process = os.fork()
    if process == 0:
        act()
        os.kill(os.getpid(), signal.SIGKILL)
    if kill_after is not None:
        time.sleep(kill_after)
        os.kill(process, signal.SIGKILL)
    os.waitpid(process, 0)


def killed_at_work(path: Path, first: int, count: int) -> None:
    def act() -> None:
        state = State(path)
        for number in range(first, first + count):
            state.add(instance(f"user{number}"))
            state.begin_effect(instance(f"user{number}"), "create_server", "create_server", "x", {})

    in_a_process(act)
    assert path.with_name(path.name + "-wal").stat().st_size > 0


def backed_up(path: Path, copy: Path) -> None:
    with closing(State(path)) as state:
        archive.backup(state, copy)


def copied(path: Path, copy: Path) -> None:
    assert not path.with_name(path.name + "-wal").exists()
    shutil.copyfile(path, copy)


def of_another_folder(_: Path, copy: Path) -> None:
    work(copy.with_name("other") / "clawdet.db", 0, 5)
    shutil.copyfile(copy.with_name("other") / "clawdet.db", copy)


SOURCES = [backed_up, copied, of_another_folder]


class TestForeignWal:
    @pytest.mark.parametrize("runs_between", [0, 2])
    @pytest.mark.parametrize("source", SOURCES)
    def test_a_copy_beside_the_wal_of_a_dead_run_is_refused_and_nothing_is_played(
        self, source: Callable[[Path, Path], None], runs_between: int, path: Path, tmp_path: Path
    ) -> None:
        work(path, 0, 8)
        source(path, tmp_path / "copy.db")
        for run in range(runs_between):
            work(path, 100 * (run + 1), 4)
        killed_at_work(path, 1000, 4)
        shutil.copyfile(tmp_path / "copy.db", path)
        files = [path, path.with_name("clawdet.db-wal")]
        before = [file.read_bytes() for file in files]
        with pytest.raises(RecordError, match="is another file than the one that this was written for") as caught:
            State(path)
        assert caught.value.exit_code == 4
        assert "clawdet.db-wal" in caught.value.what
        assert "clawdet state restore FILE" in caught.value.next_steps[0]
        assert [file.read_bytes() for file in files] == before
        # The second way out is a command, and leaves the copy as it is.
        subprocess.run(["sh", "-c", caught.value.next_steps[1]], check=True)
        with closing(State(path)) as state, closing(sqlite3.connect(tmp_path / "copy.db")) as copy:
            wanted = copy.execute("SELECT COUNT(*) FROM instances").fetchone()[0]
            assert len(state.instances()) == wanted
            assert state._connection.execute("PRAGMA integrity_check").fetchone()[0] == "ok"

    def test_a_wal_without_its_database_is_refused(self, path: Path) -> None:
        killed_at_work(path, 0, 3)
        path.unlink()
        with pytest.raises(RecordError, match="is missing") as caught:
            State(path)
        assert not path.exists()
        assert any("mv " in step for step in caught.value.next_steps)

    def test_the_database_of_a_run_that_was_killed_at_any_moment_is_its_own(
        self, path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        chance = random.Random(21)  # noqa: S311 - chance for a test
        left = 0
        monkeypatch.setattr(module, "MAX_WAL", 60_000)

        def act() -> None:
            number = 0
            while True:
                work(path, number % 40, chance.randint(0, 8))
                number += 7

        for _ in range(15):
            in_a_process(act, kill_after=chance.random() / 8)
            left += state_file.beside(path, "-wal").exists()
            if path.exists():
                with closing(State(path)) as state:
                    assert state._connection.execute("PRAGMA integrity_check").fetchone()[0] == "ok"
        assert left > 3

    def test_a_run_that_was_killed_while_the_generation_changed_left_its_own(self, path: Path) -> None:
        """Each moment between two statements, before and after the file has the new one."""
        work(path, 0, 3)
        shutil.copyfile(path, path.with_name("whole.db"))

        for moment in range(14):
            for end in ("-wal", "-shm"):
                state_file.beside(path, end).unlink(missing_ok=True)
            shutil.copyfile(path.with_name("whole.db"), path)

            def act(moment: int = moment) -> None:
                state = State(path)
                left = [moment]

                def count(_: str) -> None:
                    left[0] -= 1
                    if left[0] < 0:
                        os.kill(os.getpid(), signal.SIGKILL)

                state._connection.set_trace_callback(count)
                state_file.change_generation(state._connection)

            in_a_process(act)
            with closing(State(path)) as state:
                assert len(state.instances()) == 3

    def test_where_another_program_wrote_it_is_not_refused(self, path: Path) -> None:
        work(path, 0, 3)

        def act() -> None:
            database = sqlite3.connect(path, isolation_level=None)
            database.execute("UPDATE instances SET error = 'by hand'")

        in_a_process(act)
        with closing(State(path)) as state:
            assert {one.error for one in state.instances()} == {"by hand"}

    @pytest.mark.parametrize("size", [0, 2, 2**31])
    def test_a_page_size_that_sqlite_has_not_is_no_reason(self, size: int, path: Path) -> None:
        killed_at_work(path, 0, 3)
        wal = state_file.beside(path, "-wal")
        head = bytearray(wal.read_bytes())
        head[8:12] = size.to_bytes(4, "big")
        order = ">" if head[3] & 1 else "<"
        head[24:32] = struct.pack(">2I", *state_file._checksum(bytes(head[:24]), (0, 0), order))
        wal.write_bytes(head)
        assert not state_file.is_foreign(wal, None)

    def test_a_torn_end_that_sqlite_does_not_play_is_no_reason(self, path: Path) -> None:
        killed_at_work(path, 0, 3)
        wal = state_file.beside(path, "-wal")
        with wal.open("r+b") as file:
            file.seek(60)
            file.write(b"\xff" * 8)
        with closing(State(path)) as state:
            assert state.instances() == []

    def test_a_long_wal_is_brought_in_before_the_next_write(self, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(module, "MAX_WAL", 100_000)
        with closing(State(path)) as state:
            state.add(instance())
            sizes = []
            for number in range(40):
                state.record("alice", error=f"{number}" * 3000)
                sizes.append(state._file.wal_size() or 0)
        assert max(sizes) < 120_000
        assert sizes != sorted(sizes)

    def test_reading_leaves_the_file_alone(self, path: Path) -> None:
        work(path, 0, 3)
        before = path.read_bytes()
        with closing(State(path)) as state:
            state.instances()
            archive.export(state)
        assert path.read_bytes() == before


def deleted(path: Path, _: Path) -> None:
    path.unlink()


def moved_away(path: Path, _: Path) -> None:
    path.rename(path.with_name("elsewhere.db"))


def another_put_there(path: Path, copy: Path) -> None:
    shutil.copyfile(copy, path.with_name("new.db"))
    path.with_name("new.db").rename(path)


def overwritten(path: Path, copy: Path) -> None:
    shutil.copyfile(copy, path)


def without_its_wal(path: Path, _: Path) -> None:
    state_file.beside(path, "-wal").unlink()


ACCIDENTS = [deleted, moved_away, another_put_there, overwritten, without_its_wal]


class TestBeneathARun:
    @pytest.mark.parametrize("accident", ACCIDENTS)
    def test_nothing_more_is_written_and_the_next_commands_are_told(
        self, accident: Callable[[Path, Path], None], state: State, path: Path, tmp_path: Path
    ) -> None:
        state.add(instance())
        archive.backup(state, tmp_path / "copy.db")
        state.record("alice", server_id=4711)
        effect = state.begin_effect(instance(), "create_server", "create_server", "x", {})
        accident(path, tmp_path / "copy.db")
        for change in (
            lambda: state.record("alice", ipv4="192.0.2.1"),
            lambda: state.begin_effect(instance(), "create_server", "create_server", "x", {}),
            lambda: state.end_effect(effect, EffectOutcome.DONE, "4711", {}),
        ):
            with pytest.raises(RecordError, match=r"was (deleted|replaced by another file) while") as caught:
                change()
            assert str(path) in caught.value.what
            assert [step.split()[1] for step in caught.value.next_steps] == ["state", "state", "reconcile"]

    @pytest.mark.parametrize("more", [0, 30])
    @pytest.mark.parametrize("mode", ["WAL", "DELETE"])
    def test_a_backup_that_is_copied_over_it_before_the_first_write_is_noticed(
        self, mode: str, more: int, path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(module, "_journal_mode", lambda _: mode)
        work(path, 0, 5)
        backed_up(path, tmp_path / "copy.db")
        # With as many pages as before it is a sound database to SQLite.
        work(path, 10, more)
        with closing(State(path)) as state:
            assert len(state.instances()) == 5 + more
            shutil.copyfile(tmp_path / "copy.db", path)
            with pytest.raises(RecordError, match="was replaced by another file"):
                state.record("user1", error="written")
        assert path.read_bytes() == (tmp_path / "copy.db").read_bytes()

    def test_what_another_run_brings_in_between_two_looks_is_no_replacement(
        self, path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        work(path, 0, 3)
        with closing(State(path)) as state, closing(State(path)) as other:
            look, looks = (
                state_file.generation,
                iter([lambda: state_file.change_generation(other._connection)]),
            )

            def slow(connection: sqlite3.Connection) -> int:
                seen = look(connection)
                if connection is state._connection:
                    next(looks, lambda: None)()
                return seen

            monkeypatch.setattr(state_file, "generation", slow)
            state.record("user1", error="written")
            assert {one.error for one in state.instances()} == {None, "written"}

    def test_it_is_noticed_within_a_transaction_too(self, state: State, path: Path) -> None:
        state.add(instance())
        with pytest.raises(RecordError, match="was deleted"), state.transaction():
            path.unlink()

    @pytest.mark.parametrize("accident", [another_put_there, overwritten])
    def test_what_was_put_in_its_place_is_not_touched_when_the_run_ends(
        self, accident: Callable[[Path, Path], None], path: Path, tmp_path: Path
    ) -> None:
        with closing(State(path)) as state:
            state.add(instance())
            archive.backup(state, tmp_path / "copy.db")
            for number in range(20):
                state.add(instance(f"user{number}"))
            accident(path, tmp_path / "copy.db")
            whole = path.read_bytes()
            with pytest.raises(RecordError):
                state.record("alice", server_id=4711)
        assert path.read_bytes() == whole
        # The -wal of the run is still there, and foreign now.
        with pytest.raises(RecordError, match="is another file"):
            State(path)

    def test_the_heart_makes_no_file(self, state: State, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("clawdet_cli.lease.HEARTBEAT_SECONDS", 0.01)
        tried = []
        transaction = State.transaction
        monkeypatch.setattr(State, "transaction", lambda self: tried.append(1) or transaction(self))  # type: ignore[func-returns-value]  # a list's append
        with lease(state, "alice", "provision", tell=print):
            path.unlink()
            tried.clear()
            deadline = time.monotonic() + 10
            while len(tried) < 3:
                assert time.monotonic() < deadline
                time.sleep(0.005)
            assert not path.exists()
        assert not path.exists()
