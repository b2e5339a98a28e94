import os
import signal
import socket
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from clawdet_cli import lease as module
from clawdet_cli import stopping
from clawdet_cli.errors import CloudError, LeaseLostError, RecordError, StateError
from clawdet_cli.lease import holder_of, lease
from clawdet_cli.model import Check, EffectOutcome, Instance, Result, Status, now_text
from clawdet_cli.state import State

HOLDER = """
import pathlib, sys
from clawdet_cli.lease import lease
from clawdet_cli.state import State
with lease(State(pathlib.Path(sys.argv[1])), "alice", "destroy", tell=print):
    print("held", flush=True)
    sys.stdin.readline()
"""


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "clawdet.db"


@pytest.fixture
def state(path: Path) -> Iterator[State]:
    with closing(State(path)) as opened:
        yield opened


@pytest.fixture
def told() -> list[str]:
    return []


def ask(path: Path, query: str, *values: Any) -> list[Any]:
    with closing(sqlite3.connect(path)) as database, database:
        return database.execute(query, values).fetchall()


@contextmanager
def holder(path: Path) -> Iterator[subprocess.Popen[str]]:
    """Run another process that holds alice's lease until its stdin is closed or it is killed."""
    process = subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    with process:
        assert process.stdout is not None
        try:
            assert process.stdout.readline() == "held\n"
            yield process
        finally:
            process.kill()


def held_elsewhere(path: Path, silent: float) -> None:
    heartbeat = (datetime.now(UTC) - timedelta(seconds=silent)).isoformat()
    ask(
        path,
        "INSERT OR REPLACE INTO leases (user, owner, verb, host, pid, process, machine, since, heartbeat)"
        " VALUES ('alice', 'x', 'provision', 'another-host', 1, 'x', 'another', '2026-01-01', ?)",
        heartbeat,
    )


def enter(state: State, wait: float = 0.0, told: list[str] | None = None) -> None:
    told = [] if told is None else told
    with lease(state, "alice", "provision", wait=wait, tell=told.append):
        pass


def test_it_is_held_and_given_back(state: State, path: Path, told: list[str]) -> None:
    with lease(state, "alice", "provision", tell=told.append):
        (row,) = ask(path, "SELECT user, verb, host, pid FROM leases")
        assert row == ("alice", "provision", socket.gethostname(), os.getpid())
    assert ask(path, "SELECT * FROM leases") == []
    assert told == []


def test_it_is_given_back_after_a_failure_too(state: State, path: Path) -> None:
    with pytest.raises(CloudError, match="sold out"), lease(state, "alice", "provision", tell=print):
        raise CloudError("sold out")
    assert ask(path, "SELECT * FROM leases") == []


def test_it_is_given_back_when_a_stop_comes_the_moment_it_is_written(
    state: State, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    written = module._acquire

    def stopped(*arguments: Any) -> None:
        written(*arguments)
        raise KeyboardInterrupt

    monkeypatch.setattr(module, "_acquire", stopped)
    with pytest.raises(KeyboardInterrupt), lease(state, "alice", "provision", tell=print):
        pass
    assert ask(path, "SELECT user FROM leases") == []


def test_a_failure_is_not_hidden_when_it_cannot_be_given_back(path: Path) -> None:
    state = State(path)
    with pytest.raises(CloudError, match="sold out"), lease(state, "alice", "provision", tell=print):
        _close_and_fail(state)


def _close_and_fail(state: State) -> None:
    state.close()
    raise CloudError("sold out")


def test_a_live_process_keeps_it_and_is_named(state: State, path: Path) -> None:
    with holder(path) as process:
        named = rf"clawdet destroy \(process {process.pid} on {socket.gethostname()}, since 20.* UTC\)"
        with pytest.raises(StateError, match=named) as caught:
            enter(state)
        assert not isinstance(caught.value, RecordError)
        assert caught.value.next_steps[0] == "clawdet provision alice --lock-wait 900    (waits for it)"
        living = holder_of(state, "alice")
        assert living is not None
        assert living.pid == process.pid
        with lease(state, "bob", "provision", tell=print):
            pass
        process.communicate("\n")
        assert process.returncode == 0
        assert holder_of(state, "alice") is None
        enter(state)


def test_one_that_merely_sleeps_keeps_it_however_long(
    state: State, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "STALE_SECONDS", 0.0)
    monkeypatch.setattr(module, "WATCH_SECONDS", 0.0)
    with holder(path) as process:
        process.send_signal(signal.SIGSTOP)
        with pytest.raises(StateError, match=str(process.pid)):
            enter(state)
        process.send_signal(signal.SIGCONT)


def test_who_may_wait_gets_it_when_the_other_ends(state: State, path: Path, told: list[str]) -> None:
    with holder(path) as process:

        def end(text: str) -> None:
            told.append(text)
            assert process.stdin is not None
            process.stdin.write("\n")
            process.stdin.close()

        with lease(state, "alice", "provision", wait=60, tell=end):
            assert ask(path, "SELECT pid FROM leases") == [(os.getpid(),)]
    (waiting,) = told
    assert waiting.startswith(f"waiting for clawdet destroy (process {process.pid} on ")


def test_who_waited_long_enough_is_told_who_has_it(
    state: State, path: Path, told: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "RETRY_SECONDS", 0.01)
    with holder(path), pytest.raises(StateError, match="is being worked on by clawdet destroy"):
        enter(state, wait=0.1, told=told)
    assert len(told) == 1


def test_one_that_this_process_could_not_give_back_is_nobodys(state: State, path: Path) -> None:
    with lease(state, "alice", "provision", tell=print):
        state._connection.execute("PRAGMA query_only = ON")
    assert len(ask(path, "SELECT * FROM leases")) == 1
    state._connection.execute("PRAGMA query_only = OFF")
    assert holder_of(state, "alice") is None
    enter(state)


def test_another_thread_of_this_process_keeps_it_too(state: State, path: Path) -> None:
    refused = []

    def attempt() -> None:
        with closing(State(path)) as other:
            try:
                enter(other)
            except StateError as error:
                refused.append(error.what)

    with lease(state, "alice", "provision", tell=print):
        thread = threading.Thread(target=attempt)
        thread.start()
        thread.join()
    assert len(refused) == 1


def test_it_is_taken_over_from_a_dead_process_and_that_is_said(state: State, path: Path, told: list[str]) -> None:
    with holder(path) as process:
        process.kill()
        process.wait()
    assert holder_of(state, "alice") is None
    with lease(state, "alice", "provision", tell=told.append):
        assert ask(path, "SELECT pid FROM leases") == [(os.getpid(),)]
    assert told[0].startswith(f"taking over from clawdet destroy (process {process.pid}")


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="processes have no start time here")
def test_it_is_taken_over_from_a_killed_process_that_nobody_has_waited_for(state: State, path: Path) -> None:
    with holder(path) as process:
        process.kill()
        os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
        enter(state)


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="processes have no start time here")
def test_it_is_taken_over_when_another_process_has_the_number_of_the_dead_one(state: State, path: Path) -> None:
    with holder(path):
        ask(path, "UPDATE leases SET process = '1'")
        with lease(state, "alice", "provision", tell=print):
            assert ask(path, "SELECT pid FROM leases") == [(os.getpid(),)]


def test_another_machine_keeps_it_while_its_heart_beats(state: State, path: Path) -> None:
    held_elsewhere(path, silent=module.STALE_SECONDS - 30)
    with pytest.raises(StateError, match="another-host"):
        enter(state)


@pytest.mark.parametrize("silent", [61, -3600], ids=["fell silent", "clock ahead"])
def test_it_is_taken_over_from_another_machine_whose_heart_is_seen_not_to_beat(
    silent: float, state: State, path: Path, told: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "WATCH_SECONDS", 0.05)
    monkeypatch.setattr(module, "RETRY_SECONDS", 0.01)
    held_elsewhere(path, silent=silent)
    with lease(state, "alice", "provision", tell=told.append):
        assert ask(path, "SELECT host FROM leases") == [(socket.gethostname(),)]
    assert [text.split(" clawdet")[0] for text in told] == ["no sign of life from", "taking over from"]


def test_another_machine_whose_clock_is_wrong_keeps_it_when_its_heart_beats(
    state: State, path: Path, told: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    held_elsewhere(path, silent=3600)
    # By its clock it is an hour behind, but its heart beats while it is watched.
    monkeypatch.setattr("clawdet_cli.stopping.pause", lambda _: held_elsewhere(path, silent=3590))
    with pytest.raises(StateError, match="another-host"):
        enter(state, told=told)
    assert [text.split(" clawdet")[0] for text in told] == ["no sign of life from"]


def test_who_lost_it_does_not_give_back_anothers(state: State, path: Path) -> None:
    with lease(state, "alice", "provision", tell=print):
        held_elsewhere(path, silent=0)
    assert ask(path, "SELECT host FROM leases") == [("another-host",)]


@pytest.mark.parametrize("finished", [False, True])
def test_who_lost_it_changes_nothing_more(finished: bool, state: State, path: Path) -> None:
    alice = Instance("alice", "example.com", "abcdef012345", Status.PENDING, False, now_text(), now_text())
    state.add(alice)
    with lease(state, "alice", "provision", tell=print):
        begun = state.begin_effect(alice, "create_server", "create_server", "clawdet-alice", {})
        held_elsewhere(path, silent=0)
        if finished:
            ask(path, "DELETE FROM leases")
        with pytest.raises(StateError, match="was taken over by"):
            state.begin_effect(alice, "create_dns_record", "create_dns_record", "alice.example.com", {})
        with pytest.raises(StateError, match="changes nothing more"):
            state.record("alice", status=Status.FAILED)
    assert [effect.id for effect in state.open_effects("alice")] == [begun.id]
    after = state.instance("alice")
    assert after is not None
    assert after.status == Status.PENDING


def test_each_lease_has_a_greater_number_than_those_before_it(state: State, path: Path) -> None:
    numbers = []
    for _ in range(3):
        with lease(state, "alice", "provision", tell=print):
            numbers.append(state.held["alice"][1])
            assert ask(path, "SELECT number FROM leases") == [(numbers[-1],)]
    with lease(state, "bob", "provision", tell=print):
        assert state.held["bob"][1] == 1
    assert numbers == [1, 2, 3]


def test_an_owner_with_an_older_number_has_lost_it(state: State, path: Path) -> None:
    with lease(state, "alice", "provision", tell=print):
        state.refuse_without_lease("alice")
        ask(path, "UPDATE leases SET number = number + 1")
        with pytest.raises(LeaseLostError, match="was taken over by"):
            state.refuse_without_lease("alice")


def outcome_of(state: State, path: Path, recovered_as: str | None) -> list[Any]:
    """Lose the lease between the sending of an order and its answer, and return what the journal says of it."""
    alice = Instance("alice", "example.com", "abcdef012345", Status.PENDING, False, now_text(), now_text())
    state.add(alice)
    with lease(state, "alice", "provision", tell=print):
        begun = state.begin_effect(alice, "create_server", "create_server", "clawdet-alice", {})
        held_elsewhere(path, silent=0)
        if recovered_as is not None:
            ask(path, "UPDATE effects SET outcome = ?, result = 'seen'", recovered_as)
        with pytest.raises(LeaseLostError) as caught:
            state.end_effect(begun, EffectOutcome.DONE, "4711", {"server_id": 4711})
        assert "create_server clawdet-alice (4711) was answered only after that" in caught.value.details[0]
        assert any("clawdet reconcile" in step for step in caught.value.next_steps)
    after = state.instance("alice")
    assert after is not None
    assert after.server_id is None
    return ask(path, "SELECT outcome, result FROM effects")


@pytest.mark.parametrize("recovered_as", [None, "absent", "left"])
def test_an_answer_after_the_loss_is_kept_as_an_orphan(recovered_as: str | None, state: State, path: Path) -> None:
    assert outcome_of(state, path, recovered_as) == [("orphaned", "4711")]


def test_what_the_run_that_took_over_has_adopted_stays_its_own(state: State, path: Path) -> None:
    assert outcome_of(state, path, "done") == [("done", "seen")]


def test_who_lost_it_records_no_checks_and_no_instance(state: State, path: Path) -> None:
    alice = Instance("alice", "example.com", "abcdef012345", Status.PENDING, False, now_text(), now_text())
    state.add(alice)
    with lease(state, "alice", "provision", tell=print):
        held_elsewhere(path, silent=0)
        with pytest.raises(LeaseLostError):
            state.save_checks(alice, [Check("server", Result.OK, "it runs", now_text())])
        with pytest.raises(LeaseLostError):
            state.add(replace(alice, run_id="b" * 12))
    after = state.instance("alice")
    assert after is not None
    assert (after.checks, after.run_id) == ((), alice.run_id)


def test_the_heart_beats_while_it_is_held(state: State, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "HEARTBEAT_SECONDS", 0.01)
    with lease(state, "alice", "provision", tell=print):
        ask(path, "UPDATE leases SET heartbeat = 'long ago'")
        deadline = time.monotonic() + 10
        while ask(path, "SELECT heartbeat FROM leases") == [("long ago",)]:
            assert time.monotonic() < deadline
        assert ask(path, "SELECT heartbeat FROM leases")[0][0] <= now_text()


def test_the_heart_beats_on_when_the_run_is_asked_to_stop(
    state: State, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "HEARTBEAT_SECONDS", 0.01)

    def work() -> None:
        with stopping.listening(), lease(state, "alice", "provision", tell=print), stopping.held():
            signal.raise_signal(signal.SIGINT)
            # The first beat after it was once the last.
            for _ in range(2):
                ask(path, "UPDATE leases SET heartbeat = 'long ago'")
                deadline = time.monotonic() + 10
                while ask(path, "SELECT heartbeat FROM leases") == [("long ago",)]:
                    assert time.monotonic() < deadline

    with pytest.raises(KeyboardInterrupt):
        work()


def test_heartbeats_leave_a_margin_before_a_lease_is_stale() -> None:
    assert 3 * module.HEARTBEAT_SECONDS <= module.STALE_SECONDS
    assert 2 * module.HEARTBEAT_SECONDS <= module.WATCH_SECONDS


def test_one_thread_beats_for_all_of_a_process_and_ends_with_the_last(
    state: State, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "HEARTBEAT_SECONDS", 0.01)
    before = set(threading.enumerate())
    with lease(state, "alice", "provision", tell=print), lease(state, "bob", "provision", tell=print):
        (beating,) = set(threading.enumerate()) - before
        ask(path, "UPDATE leases SET heartbeat = 'long ago'")
        deadline = time.monotonic() + 10
        while ("long ago",) in ask(path, "SELECT heartbeat FROM leases"):
            assert time.monotonic() < deadline
    beating.join(10)
    assert not beating.is_alive()
