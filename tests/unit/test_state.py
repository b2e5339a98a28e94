import os
import signal
import sqlite3
import stat
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from clawdet_cli import filesystem
from clawdet_cli import state as module
from clawdet_cli.errors import RecordError, StateError
from clawdet_cli.model import Check, EffectOutcome, Instance, Result, StageRun, Standing, Status, now_text
from clawdet_cli.state import MIGRATIONS, State

THEN, LATER = "2026-01-01T00:00:00.000+00:00", "2026-01-02T00:00:00.000+00:00"


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "home" / "clawdet.db"


@pytest.fixture
def state(path: Path) -> Iterator[State]:
    with closing(State(path)) as opened:
        yield opened


def instance(user: str = "alice", run_id: str = "abcdef012345", **more: Any) -> Instance:
    made = Instance(user, "example.com", run_id, Status.PENDING, sandbox=False, created_at=THEN, updated_at=THEN)
    return replace(made, **more)


def recorded(state: State, user: str = "alice") -> Instance:
    found = state.instance(user)
    assert found is not None
    return found


def ask(path: Path, query: str, *values: Any) -> list[Any]:
    """Look at, or change, the file behind the back of `State`."""
    with closing(sqlite3.connect(path)) as connection, connection:
        return connection.execute(query, values).fetchall()


class TestFile:
    @pytest.mark.parametrize("umask", [0o000, 0o022, 0o077, 0o277, 0o777])
    def test_only_the_owner_can_read_it(self, tmp_path: Path, umask: int) -> None:
        path = tmp_path / "new" / "home" / "clawdet.db"
        before = os.umask(umask)
        try:
            with closing(State(path)) as state:
                state.add(instance())
                files = {file.name: stat.S_IMODE(file.stat().st_mode) for file in path.parent.iterdir()}
        finally:
            os.umask(before)
        assert files == {"clawdet.db": 0o600, "clawdet.db-wal": 0o600, "clawdet.db-shm": 0o600}
        assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
        assert stat.S_IMODE(path.parent.parent.stat().st_mode) == 0o700

    def test_what_is_written_reaches_the_disk(self, state: State) -> None:
        connection = state._connection
        assert connection.execute("PRAGMA journal_mode").fetchone()[0] == "wal"
        assert connection.execute("PRAGMA synchronous").fetchone()[0] == 2  # FULL
        assert connection.execute("PRAGMA busy_timeout").fetchone()[0] >= 1000

    def test_only_what_a_person_reads_does_not_wait_for_it(self, state: State) -> None:
        state.add(instance())
        said: list[str] = []
        state._connection.set_trace_callback(said.append)
        effect = state.begin_effect(instance(), "create_server", "create_server", "clawdet-alice", {})
        state.end_effect(effect, EffectOutcome.DONE, "4711", {"server_id": 4711})
        state.record("alice", status=Status.INSTALLING)
        state.save_checks(instance(), [])
        assert not [statement for statement in said if "synchronous" in statement]
        state.end_stage(state.begin_stage(instance(), "verify"), "done", 1.0)
        assert [statement for statement in said if "synchronous" in statement] == [
            "PRAGMA synchronous = NORMAL",
            "PRAGMA synchronous = FULL",
        ] * 2

    def test_what_follows_a_failed_write_of_that_kind_reaches_the_disk_again(self, state: State) -> None:
        state._connection.execute("DROP TABLE stage_runs")
        with pytest.raises(RecordError):
            state.begin_stage(instance(), "verify")
        self.test_what_is_written_reaches_the_disk(state)

    @pytest.mark.parametrize("kind", ["nfs4", "cifs", "9p", "virtiofs", "fuse", "fuse.glusterfs"])
    def test_where_machines_may_share_it_there_are_locks_in_place_of_shared_memory(
        self, path: Path, kind: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        with closing(State(path)) as state:
            state.add(instance())
        monkeypatch.setattr(filesystem, "kind_of", lambda _: kind)
        with closing(State(path)) as state:
            assert state._connection.execute("PRAGMA journal_mode").fetchone()[0] == "delete"
            state.record("alice", ipv4="192.0.2.1")
            with closing(State(path)) as another:
                assert another.instance("alice") == state.instance("alice")
            assert [file.name for file in path.parent.iterdir()] == ["clawdet.db"]

    @pytest.mark.parametrize("kind", sorted(module.LOCKLESS))
    def test_where_locks_hold_on_one_machine_only_it_is_not_used(
        self, path: Path, kind: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(filesystem, "kind_of", lambda _: kind)
        with pytest.raises(RecordError, match=f"network file system .{kind}. without locks") as caught:
            State(path)
        assert "--state FOLDER" in caught.value.next_steps[0]
        assert list(path.parent.iterdir()) == []

    def test_everything_is_there_when_it_is_opened_again(self, path: Path) -> None:
        full = instance(
            server_id=4711,
            server_type="cpx22",
            location="nbg1",
            image="ubuntu-24.04",
            monthly="7.99",
            ipv4="192.0.2.1",
            host_key="ssh-ed25519 AAAA",
            zone_id="z",
            record_id="r",
            certificate_id="c",
            csr="PEM",
            openclaw_version="2026.9.6",
            url="https://alice.example.com/",
            error="none",
            sandbox=True,
        )
        with closing(State(path)) as state:
            state.add(full)
        with closing(State(path)) as state:
            assert state.instance("alice") == full
            assert state.instance("bob") is None

    def test_it_holds_no_column_for_a_secret(self, state: State, path: Path) -> None:
        state.add(instance())
        tables = {
            table: [row[1] for row in ask(path, f"PRAGMA table_info({table})")]
            for (table,) in ask(path, "SELECT name FROM sqlite_schema WHERE type = 'table'")
        }
        # A new column is added here once somebody has made sure that what it holds may be read by anybody.
        assert {table: " ".join(columns) for table, columns in tables.items()} == {
            "instances": (
                "user zone run_id status sandbox created_at updated_at server_id server_type location image monthly"
                " ipv4 host_key zone_id record_id certificate_id csr openclaw_version url error next_host_key installed"
            ),
            "stage_runs": "id user run_id name status started_at seconds",
            "checks": "user run_id name position evidence at result",
            "effects": "id user run_id stage kind name data begun_at outcome result ended_at",
            "leases": "user owner verb host pid process machine since heartbeat number",
            "fences": "user number",
        }

    def test_a_folder_that_may_not_be_written_is_a_failure_with_a_next_step(self) -> None:
        with tempfile.TemporaryDirectory() as name, _nobody_special():
            folder = Path(name)
            if folder.stat().st_uid == os.geteuid():
                folder.chmod(0o500)
            with pytest.raises(RecordError, match="Permission denied") as caught:
                State(folder / "home" / "clawdet.db")
        assert name in caught.value.what
        assert "--state" in caught.value.next_steps[-1]

    def test_a_file_that_is_no_database_is_a_failure_with_a_next_step(self, tmp_path: Path) -> None:
        path = tmp_path / "clawdet.db"
        path.write_text("this is no database, but it is long enough to have a header" * 10)
        before = path.read_bytes()
        with pytest.raises(RecordError, match="not a database") as caught:
            State(path)
        restore, aside, rebuild = caught.value.next_steps
        assert restore.startswith("clawdet state restore FILE")
        assert rebuild.startswith("clawdet state rebuild")
        assert path.read_bytes() == before
        # The second is a command, and loses nothing.
        subprocess.run(["sh", "-c", aside], check=True)
        (kept,) = tmp_path.glob("clawdet.db.broken-*")
        assert (kept / path.name).read_bytes() == before
        with closing(State(path)) as state:
            assert state.instances() == []

    def test_a_damaged_database_is_a_failure_with_a_next_step(self, path: Path) -> None:
        with closing(State(path)) as state:
            state.add(instance())
        size = path.stat().st_size
        with path.open("r+b") as file:
            file.seek(100)
            file.write(b"\xff" * (size - 100))
        with pytest.raises(RecordError) as caught, closing(State(path)) as state:
            state.instance("alice")
        assert str(path) in caught.value.what
        assert caught.value.next_steps

    def test_a_link_in_its_place_is_not_followed(self, tmp_path: Path) -> None:
        target = tmp_path / "target"
        (tmp_path / "clawdet.db").symlink_to(target)
        with pytest.raises(RecordError):
            State(tmp_path / "clawdet.db")
        assert not target.exists()

    def test_a_full_disk_is_named_and_what_was_written_before_stays(self, state: State) -> None:
        state.add(instance())
        pages = state._connection.execute("PRAGMA page_count").fetchone()[0]
        state._connection.execute(f"PRAGMA max_page_count = {pages}")
        with pytest.raises(RecordError, match="full"):
            state.record("alice", status=Status.FAILED, error="x" * 100_000)
        assert state.instance("alice") == instance()
        state.record("alice", status=Status.FAILED)
        assert recorded(state).status == Status.FAILED

    def test_the_reason_is_told_where_sqlite_has_rolled_back_by_itself(self, state: State) -> None:
        state.add(instance())
        with pytest.raises(RecordError, match="disk is full"), state.transaction() as connection:
            _roll_back_and_fail(connection)
        state.record("alice", server_id=1)
        assert recorded(state).server_id == 1


def _roll_back_and_fail(connection: sqlite3.Connection) -> None:
    # As SQLite does on some errors of the disk, which no test can cause.
    connection.execute("ROLLBACK")
    raise sqlite3.OperationalError("database or disk is full")


@contextmanager
def _nobody_special() -> Iterator[None]:
    """Give up root for a while: root may write everywhere."""
    if os.geteuid() != 0:
        yield
        return
    os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(0)


class TestMigrations:
    def test_an_empty_file_becomes_a_database_of_this_version(self, path: Path) -> None:
        path.parent.mkdir()
        path.touch()
        with closing(State(path)) as state:
            state.add(instance())
        assert ask(path, "PRAGMA user_version") == [(len(MIGRATIONS),)]

    @pytest.mark.parametrize("version", range(1, len(MIGRATIONS) + 1))
    def test_what_a_released_version_wrote_is_kept(
        self, path: Path, monkeypatch: pytest.MonkeyPatch, version: int
    ) -> None:
        with monkeypatch.context() as patch:
            patch.setattr(module, "MIGRATIONS", MIGRATIONS[:version])
            State(path).close()
        ask(
            path,
            "INSERT INTO instances (user, zone, run_id, status, sandbox, created_at, updated_at, server_id)"  # noqa: S608 - ours
            f" VALUES ('alice', 'example.com', 'abcdef012345', 'complete', 0, '{THEN}', '{THEN}', 4711)",
        )
        column, passed, failed = ("result", "'ok'", "'failed'") if version > 5 else ("ok", 1, 0)
        for position, (name, value) in enumerate((("server", passed), ("dns", failed))):
            ask(
                path,
                f"INSERT INTO checks (user, run_id, name, position, {column}, evidence, at)"  # noqa: S608 - ours
                f" VALUES ('alice', 'abcdef012345', '{name}', {position}, {value}, 'seen', '{THEN}')",
            )
        checks = (Check("server", Result.OK, "seen", THEN), Check("dns", Result.FAILED, "seen", THEN))
        with closing(State(path)) as state:
            assert state.instance("alice") == instance(status=Status.COMPLETE, server_id=4711, checks=checks)
        assert ask(path, "PRAGMA user_version") == [(len(MIGRATIONS),)]

    def test_the_next_migration_runs_once_and_only_itself(self, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        with closing(State(path)) as state:
            state.add(instance())
        monkeypatch.setattr(
            module, "MIGRATIONS", (*MIGRATIONS, "ALTER TABLE instances ADD COLUMN note TEXT; CREATE TABLE more (a INT)")
        )
        for _ in range(2):
            with closing(State(path)) as state:
                assert state.instance("alice") == instance()
        assert ask(path, "SELECT note FROM instances") == [(None,)]
        assert ask(path, "PRAGMA user_version") == [(len(MIGRATIONS) + 1,)]

    def test_a_migration_that_fails_leaves_the_file_as_it_was(
        self, path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        with closing(State(path)) as state:
            state.add(instance())
        with monkeypatch.context() as patch:
            patch.setattr(module, "MIGRATIONS", (*MIGRATIONS, "CREATE TABLE more (a INT); CREATE TABLE more (a INT)"))
            with pytest.raises(RecordError, match="more"):
                State(path)
        assert ask(path, "PRAGMA user_version") == [(len(MIGRATIONS),)]
        assert ask(path, "SELECT name FROM sqlite_schema WHERE name = 'more'") == []
        with closing(State(path)) as state:
            assert state.instance("alice") == instance()

    def test_a_newer_version_is_refused_and_not_touched(self, path: Path) -> None:
        State(path).close()
        ask(path, f"PRAGMA user_version = {len(MIGRATIONS) + 1}")
        with pytest.raises(StateError, match="newer clawdet") as caught:
            State(path)
        assert "--state" in caught.value.next_steps[0]
        assert ask(path, "PRAGMA user_version") == [(len(MIGRATIONS) + 1,)]


class TestInstances:
    def test_a_change_is_kept(self, state: State, path: Path) -> None:
        state.add(instance())
        state.record("alice", status=Status.CREATING_VPS, server_id=4711)
        changed = recorded(state)
        assert (changed.status, changed.server_id) == (Status.CREATING_VPS, 4711)
        assert datetime.fromisoformat(changed.updated_at) > datetime.now(UTC) - timedelta(minutes=1)
        assert changed.created_at == THEN
        assert ask(path, "SELECT status, server_id FROM instances") == [("creating_vps", 4711)]

    def test_nothing_is_read_for_a_change(self, state: State) -> None:
        state.add(instance())
        said: list[str] = []
        state._connection.set_trace_callback(said.append)
        state.record("alice", server_id=4711)
        assert [word for statement in said if (word := statement.split()[0]) != "PRAGMA"] == [
            "BEGIN",
            "UPDATE",
            "COMMIT",
        ]

    def test_a_change_survives_the_death_of_the_process(self, state: State, path: Path) -> None:
        state.add(instance())
        code = (
            "import os, pathlib, sys; from clawdet_cli.state import State; s = State(pathlib.Path(sys.argv[1]));"
            "s.record('alice', server_id=4711); os.kill(os.getpid(), 9)"
        )
        done = subprocess.run([sys.executable, "-c", code, str(path)], check=False)
        assert done.returncode == -signal.SIGKILL
        assert recorded(state).server_id == 4711

    def test_a_change_touches_no_other_instance(self, state: State) -> None:
        state.add(instance())
        state.add(instance("bob"))
        state.record("alice", server_id=1)
        assert state.instance("bob") == instance("bob")

    def test_a_field_that_does_not_exist_is_a_bug(self, state: State) -> None:
        state.add(instance())
        with pytest.raises(ValueError, match="gateway_token"):
            state.record("alice", gateway_token="x")

    def test_a_change_of_what_is_gone_is_a_failure(self, state: State) -> None:
        with pytest.raises(StateError, match="alice is not in"):
            state.record("alice", server_id=1)

    def test_all_are_listed_by_user_but_for_destroyed_ones(self, state: State) -> None:
        for user in ("carol", "alice", "bob"):
            state.add(instance(user))
        state.record("bob", status=Status.DESTROYED)
        assert [found.user for found in state.instances()] == ["alice", "carol"]
        destroyed = state.instance("bob")
        assert destroyed is not None
        assert destroyed.status == Status.DESTROYED

    def test_a_new_instance_takes_the_place_of_a_destroyed_one_with_nothing_of_it(self, state: State) -> None:
        old = instance(server_id=4711, error="x")
        state.add(old)
        state.save_checks(old, [Check("server", Result.OK, "runs", THEN)])
        state.end_stage(state.begin_stage(old, "create_server"), "done", 1.0)
        state.record("alice", status=Status.DESTROYED)
        new = instance(run_id="zzzzzz012345")
        state.add(new)
        assert state.instance("alice") == new


class TestHistory:
    def test_the_newest_run_of_each_stage_in_the_order_of_their_first(self, state: State) -> None:
        made = instance()
        state.add(made)
        for name, status, seconds in (
            ("check_accounts", "done", 1.0),
            ("create_server", "failed", 2.0),
            ("create_server", "done", 4.0),
            ("check_accounts", "done", 3.0),
        ):
            state.end_stage(state.begin_stage(made, name), status, seconds)
        state.begin_stage(made, "create_dns_record")
        found = state.instance("alice")
        assert found is not None
        assert found.stages == (
            StageRun("check_accounts", "done", 3.0),
            StageRun("create_server", "done", 4.0),
            StageRun("create_dns_record", "running", 0.0),
        )

    def test_stages_of_others_and_of_earlier_runs_are_not_shown(self, state: State) -> None:
        state.add(instance())
        state.add(instance("bob"))
        state.begin_stage(instance("bob"), "verify")
        state.begin_stage(instance(run_id="earlier"), "verify")
        assert state.instance("alice") == instance()

    def test_the_forecast_is_the_median_of_the_last_successes(self, state: State) -> None:
        assert state.typical_seconds("prepare_vps") is None
        slow_once = [1000.0, 1000.0, 1000.0]
        for seconds in (*slow_once, 90.0, 10.0, 80.0, 20.0, 70.0, 30.0, 60.0, 40.0, 50.0):
            state.end_stage(state.begin_stage(instance(), "prepare_vps"), "done", seconds)
        for _ in range(5):
            state.end_stage(state.begin_stage(instance(), "prepare_vps"), "failed", 0.1)
        state.end_stage(state.begin_stage(instance(), "verify"), "done", 7.0)
        assert state.typical_seconds("prepare_vps") == 50.0
        assert state.typical_seconds("verify") == 7.0
        said: list[str] = []
        state._connection.set_trace_callback(said.append)
        assert state.typical_seconds("verify") == 7.0
        assert said == []

    def test_newer_checks_replace_older_ones_in_their_order(self, state: State) -> None:
        made = instance()
        state.add(made)
        state.add(instance("bob"))
        older = (Check("server", Result.OK, "runs", THEN), Check("dns", Result.OK, "points", THEN))
        newer = (Check("openclaw", Result.NOT_JUDGED, "kept out", LATER), Check("dns", Result.FAILED, "no", LATER))
        state.save_checks(made, older)
        state.save_checks(instance("bob"), older)
        state.save_checks(made, newer)
        alice, bob = state.instance("alice"), state.instance("bob")
        assert alice is not None
        assert bob is not None
        assert (alice.checks, bob.checks) == (newer, older)

    def test_an_effect_is_open_from_its_intent_to_its_end(self, state: State, path: Path) -> None:
        state.add(instance())
        begun = state.begin_effect(instance(), "create_server", "create_server", "clawdet-alice", {"monthly": "7.99"})
        assert state.open_effects("alice") == [begun]
        assert state.open_effects("bob") == []
        state.end_effect(begun, EffectOutcome.DONE, "4711", {"server_id": 4711})
        assert state.open_effects("alice") == []
        made = state.instance("alice")
        assert made is not None
        assert made.server_id == 4711
        rows = ask(path, "SELECT user, run_id, kind, name, data, outcome, result FROM effects")
        assert [tuple(row) for row in rows] == [
            ("alice", "abcdef012345", "create_server", "clawdet-alice", '{"monthly": "7.99"}', "done", "4711")
        ]

    def test_the_end_of_an_effect_and_what_it_changes_are_written_together_or_not_at_all(self, state: State) -> None:
        state.add(instance())
        begun = state.begin_effect(instance(), "create_server", "create_server", "clawdet-alice", {})
        with pytest.raises(ValueError, match="no such fields"):
            state.end_effect(begun, EffectOutcome.DONE, "4711", {"no_such_field": 1})
        assert state.open_effects("alice") == [begun]


class TestManyInstances:
    def fill(self, state: State, count: int) -> None:
        for number in range(count):
            one = instance(f"user{number:03d}", f"run{number:09d}")
            state.add(one)
            state.save_checks(one, [Check("server", Result.OK, f"seen {number}"), Check("dns", Result.FAILED, "gone")])
            state.end_stage(state.begin_stage(one, "create_server"), "done", float(number))
            state.begin_effect(one, "create_server", "create_server", one.server_name, {"number": number})

    @pytest.mark.parametrize(("read", "queries"), [(State.instances, 5), (lambda state: state.standings({}), 2)])
    def test_a_thousand_take_as_many_queries_as_one(
        self, state: State, read: Callable[[State], list[Instance | Standing]], queries: int
    ) -> None:
        asked: list[str] = []
        taken = []
        for count in (1, 60):
            self.fill(state, count)
            state._connection.set_trace_callback(asked.append)
            assert len(read(state)) == count
            state._connection.set_trace_callback(None)
            taken.append(len(asked))
            asked.clear()
        assert taken == [queries, queries]

    def test_each_is_given_its_own(self, state: State) -> None:
        self.fill(state, 12)
        assert state.instances() == [state.instance(f"user{number:03d}") for number in range(12)]
        seventh = state.instances()[7]
        assert [check.evidence for check in seventh.checks] == ["seen 7", "gone"]
        assert [stage.seconds for stage in seventh.stages] == [7.0]
        assert [effect.data for effect in seventh.open_effects] == [{"number": 7}]

    def test_a_line_of_each_says_what_the_whole_says(self, state: State) -> None:
        self.fill(state, 3)
        state.add(instance("unchecked"))
        state.record("user001", status=Status.COMPLETE)
        state.save_checks(
            recorded(state, "user001"),
            [
                Check("server", Result.OK, "seen", now_text()),
                Check("gateway", Result.NOT_JUDGED, "kept out", now_text()),
            ],
        )
        state.record("user002", status=Status.DESTROYED)
        lines = state.standings({})
        assert lines == [one.standing for one in state.instances()]
        assert [(one.user, one.checks, one.failed, one.not_judged, one.healthy) for one in lines] == [
            ("unchecked", 0, (), (), False),
            ("user000", 2, ("dns",), (), False),
            ("user001", 2, (), ("gateway",), True),
        ]


def test_threads_share_it_without_getting_into_each_others_transactions(state: State) -> None:
    users = [f"user{number}" for number in range(8)]
    failed: list[BaseException] = []

    def work(user: str) -> None:
        try:
            state.add(instance(user))
            for number in range(25):
                effect = state.begin_effect(instance(user), "stage", "create_server", f"{user}-{number}", {})
                state.end_effect(effect, EffectOutcome.DONE, "made", {"server_id": number})
        except BaseException as error:  # noqa: BLE001 - it is what is looked at
            failed.append(error)

    threads = [threading.Thread(target=work, args=(user,)) for user in users]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert failed == []
    assert [one.server_id for one in state.instances()] == [24] * 8
    assert all(state.open_effects(user) == [] for user in users)
