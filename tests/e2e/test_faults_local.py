"""The fault matrix of the VPS and of the operator's own machine: exit code, all of stderr, and the way on.

What the command says is in `faults_local.txt`, to be read as somebody would who is woken by it.
"""

import os
import re
import sqlite3
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from dataclasses import replace
from datetime import UTC, datetime, timedelta, tzinfo
from pathlib import Path
from typing import Any, Self

import pytest

from clawdet_cli import bootstrap, lease, model, operations, runlog, uptime
from clawdet_cli.adapters.cloudflare import Cloudflare
from clawdet_cli.adapters.hetzner import Hetzner
from clawdet_cli.adapters.ssh import ConnectionLost, Ssh
from clawdet_cli.stages import recover
from clawdet_cli.stages.phase import MOST_RESTARTS, Phase
from clawdet_cli.stages.runner import CONNECTIONS
from clawdet_cli.state import State
from tests.e2e.faults import follow, leave_nothing, ledger_differs, whole
from tests.e2e.operator import Operator, Said
from tests.e2e.test_faults_clouds import DESTROY, PROVISION, SHORT
from tests.e2e.test_recovery import recorded
from tests.kill.invariants import not_complete, not_empty, rows
from tests.kill.wire import COMMANDS, READING

SECTIONS = (Path(__file__).parent / "faults_local.txt").read_text().split("=== ")[1:]
TEXTS = {head: text.strip() for head, _, text in (section.partition("\n") for section in SECTIONS)}


def said_as_written(name: str, said: Said, operator: Operator) -> None:
    assert f"exit {said.code}\n{whole(said, operator)}" == TEXTS[name]


FULL = "the disk is full: make room on /, then run this again ({})"
"""What the script says, whichever step it is that finds no room."""


def full_at(phase: str, step: str, why: str) -> dict[str, Any]:
    return {"fail_step": {phase: {"step": step, "reason": FULL.format(why)}}}


ON_THE_VPS: dict[str, dict[str, Any]] = {
    "the VPS's disk is full when OpenClaw is installed": full_at(
        "prepare", "openclaw", "npm could not install OpenClaw"
    ),
    "the VPS's disk is full when it is configured": full_at("configure", "gateway-config", "exit 1"),
    "SSH never answers": {"ssh_never": True},
    "SSH answers with another host key": {"ssh_wrong_host_key": True},
    "a step of the script fails": {"fail_step": {"prepare": "node"}},
}


@pytest.mark.parametrize("what", ON_THE_VPS)
def test_a_vps_that_does_not_do_its_part_is_told_and_gone_on_with(what: str, operator: Operator) -> None:
    operator.control("hetzner", "PUT", "servers/knobs", ON_THE_VPS[what])
    said = operator.clawdet(*PROVISION, *SHORT)
    operator.reset()
    said_as_written(what, said, operator)
    assert ledger_differs(operator) == []
    follow(operator, said)
    leave_nothing(operator)


def test_a_full_disk_is_told_of_in_the_scripts_own_words() -> None:
    assert FULL.format("${REASON:-exit $code}") in bootstrap.script().decode()


@pytest.mark.parametrize("what", ["ssh_never", "ssh_wrong_host_key"])
def test_a_vps_that_cannot_be_reached_is_destroyed_all_the_same(what: str, operator: Operator) -> None:
    assert operator.clawdet(*PROVISION).code == 0
    operator.control("hetzner", "PUT", "servers/knobs", {what: True})
    gone = operator.clawdet(*DESTROY)
    assert (gone.code, gone.err) == (0, "")
    leave_nothing(operator)


HELD = {"prepare": "machine", "configure": "gateway-config"}
"""A step of each phase at which it can be kept at work."""


@pytest.mark.parametrize("phase", HELD)
def test_a_connection_that_breaks_in_the_middle_is_made_again_in_silence(
    phase: str, operator: Operator, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, lost = Ssh.run, []

    def counted(self: Ssh, command: str, **options: Any) -> Any:
        try:
            return run(self, command, **options)
        except ConnectionLost:
            lost.append(command)
            if len(lost) == 2:
                # It stays at its step until here, and a restart is what lets it go on.
                operator.control("hetzner", "PUT", "servers/knobs", {"restart_in_phase": {phase: 1}})
            raise

    monkeypatch.setattr(Ssh, "run", counted)
    knobs = {"hold_step": {phase: HELD[phase]}, "drop_connection_in_phase": {phase: 2}}
    operator.control("hetzner", "PUT", "servers/knobs", knobs)
    said = operator.clawdet(*PROVISION)
    assert (said.code, said.err) == (0, "")
    assert len(lost) >= 2
    left = operator.control("hetzner", "GET", "servers/knobs")
    assert left["drop_connection_in_phase"] == left["hold_step"] == left["restart_in_phase"] == {}
    assert ledger_differs(operator) == not_complete(operator, "alice") == []
    leave_nothing(operator)


def test_a_restart_that_the_configuration_came_after_has_it_sent_again(
    operator: Operator, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, started = Ssh.run, []

    def restarting(self: Ssh, command: str, **options: Any) -> Any:
        kind = kind_of(command)
        if kind == "make_vps_key" and operator.control("hetzner", "GET", "servers/knobs")["hold_step"]:
            operator.control("hetzner", "PUT", "servers/knobs", {"restart_in_phase": {"prepare": 1}})
            with suppress(ConnectionLost):
                run(self, bootstrap.follow("prepare", 0), **options)
            raise self._lost(None)
        if kind == "start":
            started.append("configure" if "clawdet-configure" in command else "prepare")
        return run(self, command, **options)

    monkeypatch.setattr(Ssh, "run", restarting)
    operator.control("hetzner", "PUT", "servers/knobs", {"hold_step": {"prepare": "openclaw"}})
    said = operator.clawdet(*PROVISION)
    assert said.code == 0, said.err
    assert started == ["configure", "prepare", "configure"]
    assert ledger_differs(operator) == not_complete(operator, "alice") == []
    leave_nothing(operator)


@pytest.mark.parametrize("phase", HELD)
def test_a_connection_that_breaks_for_ever_is_told_and_gone_on_with(phase: str, operator: Operator) -> None:
    knobs = {"hold_step": {phase: HELD[phase]}, "drop_connection_in_phase": {phase: 1_000_000}}
    operator.control("hetzner", "PUT", "servers/knobs", knobs)
    said = operator.clawdet(*PROVISION, "--timeout", "6")
    assert (
        operator.control("hetzner", "GET", "servers/knobs")["drop_connection_in_phase"][phase] < 1_000_000 - CONNECTIONS
    )
    operator.reset()
    said_as_written(f"breaks for ever in {phase}", said, operator)
    assert ledger_differs(operator) == []
    # It stays at its step until the power goes, and whatever else is followed waits for it.
    operator.control("hetzner", "PUT", "servers/knobs", {"restart_in_phase": dict.fromkeys(HELD, 1)})
    follow(operator, said)
    leave_nothing(operator)


NOT_ASKED = {
    "approve_device",
    "claim_server",
    "reboot_vps",
    r"if grep -qsx lock_sha256=.*",
    r"if \[ -e /run/reboot-required \]; then echo yes; fi",
    r"openclaw devices list --json",
}
"""What no provision of a new server asks the VPS."""
ASKED = {*COMMANDS, *READING} - NOT_ASKED


def kind_of(asked: str) -> str:
    """Give the name or the pattern of what a server was asked, or its own words."""
    patterns = {**COMMANDS, **{pattern: pattern for pattern in READING}}
    return next((kind for kind, pattern in patterns.items() if re.fullmatch(pattern, asked, re.DOTALL)), asked)


@pytest.mark.parametrize("kind", sorted(ASKED))
def test_a_connection_that_breaks_over_one_command_each_time_is_told_and_gone_on_with(
    kind: str, operator: Operator, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, broken = Ssh.run, []

    def breaking(self: Ssh, command: str, **options: Any) -> Any:
        if kind_of(command) != kind:
            return run(self, command, **options)
        broken.append(command)
        self.close()
        raise self._lost(None)

    with monkeypatch.context() as patched:
        patched.setattr(Ssh, "run", breaking)
        said = operator.clawdet(*PROVISION, "--timeout", "6")
    assert len(broken) >= CONNECTIONS
    said_as_written(f"breaks each time over {kind}", said, operator)
    assert ledger_differs(operator) == []
    follow(operator, said)
    leave_nothing(operator)


@pytest.mark.parametrize("after", [False, True], ids=["before its effect", "after its effect"])
def test_every_command_bears_a_connection_that_breaks_over_it(
    after: bool, operator: Operator, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, broken = Ssh.run, set[str]()

    def breaking(self: Ssh, command: str, **options: Any) -> Any:
        kind = re.sub(r"[0-9a-f]{12,}|AAAA\S+", "", command)
        if kind in broken:
            return run(self, command, **options)
        broken.add(kind)
        if after:
            run(self, command, **options)
        self.close()
        raise ConnectionLost("The SSH connection was lost.")

    monkeypatch.setattr(Ssh, "run", breaking)
    operator.control("hetzner", "DELETE", "servers/commands")
    said = operator.clawdet(*PROVISION)
    assert (said.code, said.err) == (0, "")
    assert {kind_of(each) for each in commands(operator)} == {kind_of(each) for each in broken} == ASKED
    assert ledger_differs(operator) == not_complete(operator, "alice") == []
    leave_nothing(operator)


def commands(operator: Operator) -> list[str]:
    """Give the commands that servers were sent."""
    return list(operator.control("hetzner", "GET", "servers/commands")["commands"])


def restarts(operator: Operator, phase: str, step: str, times: int) -> None:
    """Have the server restart when it is followed while a phase stays at a step, so often."""
    operator.control(
        "hetzner", "PUT", "servers/knobs", {"hold_step": {phase: step}, "restart_in_phase": {phase: times}}
    )


def newest_log(operator: Operator) -> str:
    """Give the run log that was written last: a clock that jumps makes names out of order."""
    logs = (Path(operator.info()["state_file"]).parent / "logs").glob("*.log")
    return max(logs, key=lambda log: log.stat().st_mtime_ns).read_text()


def notes(operator: Operator) -> list[str]:
    """Give what the newest run log has to tell beside its stages."""
    return [line.partition(" note ")[2] for line in newest_log(operator).splitlines() if " note " in line]


@pytest.mark.parametrize("times", [1, MOST_RESTARTS])
@pytest.mark.parametrize(
    ("phase", "step"), [("prepare", "machine"), ("configure", "gateway-config"), ("configure", "promises")]
)
def test_a_guest_that_restarts_in_the_middle_is_begun_anew_in_silence(
    phase: str, step: str, times: int, operator: Operator
) -> None:
    restarts(operator, phase, step, times)
    said = operator.clawdet(*PROVISION)
    assert (said.code, said.err) == (0, "")
    anew = [note for note in notes(operator) if "restarted in the middle" in note]
    assert [note.split("'")[1] for note in anew] == [phase] * times
    assert ledger_differs(operator) == not_complete(operator, "alice") == []
    leave_nothing(operator)


def test_a_guest_that_restarts_while_openclaw_is_installed_is_begun_anew_in_silence(
    operator: Operator, monkeypatch: pytest.MonkeyPatch
) -> None:
    wait_for_it = Phase.end

    def restarting(phase: Phase) -> dict[str, str]:
        # Only now, when nothing else is done but waiting: before that it is followed too.
        if phase.verb == "prepare":
            operator.control("hetzner", "PUT", "servers/knobs", {"restart_in_phase": {"prepare": 1}})
        return wait_for_it(phase)

    monkeypatch.setattr(Phase, "end", restarting)
    operator.control("hetzner", "PUT", "servers/knobs", {"hold_step": {"prepare": "openclaw"}})
    said = operator.clawdet(*PROVISION)
    assert (said.code, said.err) == (0, "")
    assert any("restarted in the middle of 'prepare'" in note for note in notes(operator))
    assert ledger_differs(operator) == not_complete(operator, "alice") == []
    leave_nothing(operator)


@pytest.mark.parametrize(("phase", "step"), [("prepare", "machine"), ("configure", "gateway-config")])
def test_a_guest_that_restarts_for_ever_is_told_and_gone_on_with(phase: str, step: str, operator: Operator) -> None:
    restarts(operator, phase, step, 99)
    said = operator.clawdet(*PROVISION)
    operator.reset()
    said_as_written(f"restarts for ever in {phase}", said, operator)
    assert ledger_differs(operator) == []
    follow(operator, said)
    leave_nothing(operator)


VERBS = pytest.mark.parametrize("command", [PROVISION, DESTROY], ids=["provision", "destroy"])

Break = Callable[[State], Any]
BROKEN: dict[str, Break] = {
    "full": lambda state: state._connection.execute(
        f"PRAGMA max_page_count = {state._connection.execute('PRAGMA page_count').fetchone()[0]}"
    ),
    "read-only": lambda state: state._connection.execute("PRAGMA query_only = ON"),
}
AFTER = {
    "the server was ordered": (Hetzner, "create_server"),
    "the record was made": (Cloudflare, "create_a_record"),
    "the certificate was signed": (Cloudflare, "sign"),
    "the record was deleted": (Cloudflare, "delete_record"),
    "the certificate was revoked": (Cloudflare, "revoke"),
    "the server was deleted": (Hetzner, "delete_server"),
}
IN_DESTROY = {"the record was deleted", "the certificate was revoked", "the server was deleted"}


def command_of(moment: str, operator: Operator) -> tuple[str, ...]:
    """Bring the clouds to where a moment can come, and give the command in which it does."""
    if moment not in IN_DESTROY:
        return PROVISION
    assert operator.clawdet(*PROVISION).code == 0
    return DESTROY


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch) -> list[State]:
    """The databases that the program opens, the newest last."""
    states: list[State] = []

    def remembered(path: Path) -> State:
        states.append(State(path))
        return states[-1]

    monkeypatch.setattr(operations, "State", remembered)
    return states


def breaks_after(moment: str, how: Callable[[], Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """Have the disk fail just when something was done, and its result is to be written."""
    owner, name = AFTER[moment]
    call = getattr(owner, name)

    def called(self: Any, *arguments: Any) -> Any:
        result = call(self, *arguments)
        how()
        return result

    monkeypatch.setattr(owner, name, called)


def lengthened(end: Callable[..., None]) -> Callable[..., None]:
    def longer(state: State, effect: Any, outcome: Any, result: str, changes: Any) -> None:
        end(state, effect, outcome, result + " " * 100_000, changes)

    return longer


@pytest.mark.parametrize("moment", AFTER)
@pytest.mark.parametrize("what", BROKEN)
def test_what_was_done_when_the_disk_failed_is_named_and_found_again(
    what: str, moment: str, operator: Operator, opened: list[State], monkeypatch: pytest.MonkeyPatch
) -> None:
    command = command_of(moment, operator)
    with monkeypatch.context() as patched:
        breaks_after(moment, lambda: BROKEN[what](opened[-1]), patched)
        # A long result, so that there is no room for it in the pages that there are.
        patched.setattr(State, "end_effect", lengthened(State.end_effect))
        said = operator.clawdet(*command)
    assert said.code == 4, said.err
    said_as_written(f"{what} when {moment}", said, operator)
    if moment == "the server was ordered":
        assert f"(id {operator.servers()[0]['id']}, " in said.err
    assert ledger_differs(operator) == []
    follow(operator, said)
    leave_nothing(operator)


@pytest.fixture
def small_disk(operator: Operator, tmp_path: Path) -> Iterator[Operator]:
    """The same operator with a state folder on a file system of its own, and the same clouds."""
    if os.geteuid() != 0:
        pytest.skip("only root can mount one; SQLite's own limit is tried above")
    folder, disk = Path(operator.info()["state_file"]).parent, tmp_path / "disk"
    disk.mkdir(mode=0o700)
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={DISK_BYTES},mode=700", "clawdet-test", disk], check=True)
    try:
        own = disk / "sandbox"
        own.mkdir(mode=0o700)
        (own / "cloud").symlink_to(folder / "cloud")
        yield replace(operator, state=disk, known={})
    finally:
        subprocess.run(["umount", "--lazy", disk], check=True)


DISK_BYTES = 4 * 1024 * 1024


def fill(operator: Operator) -> None:
    """Leave no byte on the disk of the state folder."""
    with (operator.state / "filler").open("ab", buffering=0) as filler, suppress(OSError):
        while True:
            filler.write(b"x" * 512)


def full_disk_said(name: str, said: Said, operator: Operator) -> None:
    assert said.code == 4, said.err
    said_as_written(name, said, operator)
    (operator.state / "filler").unlink()


@VERBS
def test_a_disk_that_is_full_from_the_start_is_told_before_anything_is_done(
    command: tuple[str, ...], small_disk: Operator
) -> None:
    operator = small_disk
    if command == DESTROY:
        assert operator.clawdet(*PROVISION).code == 0
    before = operator.holdings()
    fill(operator)
    said = operator.clawdet(*command)
    assert operator.holdings() == before
    full_disk_said(f"disk full at the start of {command[0]}", said, operator)
    assert operator.clawdet(*command).code == 0
    leave_nothing(operator)


@pytest.mark.parametrize("moment", AFTER)
def test_a_disk_that_is_full_when_something_was_done_is_told_and_gone_on_with(
    moment: str, small_disk: Operator, monkeypatch: pytest.MonkeyPatch
) -> None:
    operator, command = small_disk, command_of(moment, small_disk)
    with monkeypatch.context() as patched:
        breaks_after(moment, lambda: fill(operator), patched)
        said = operator.clawdet(*command)
    full_disk_said(f"disk full when {moment}", said, operator)
    assert ledger_differs(operator) == []
    follow(operator, said)
    leave_nothing(operator)


def held_by(operator: Operator) -> dict[str, Any]:
    """Give all that both clouds hold."""
    return {"servers": operator.servers(), "records": operator.records(), "certificates": operator.certificates()}


def done_by(command: tuple[str, ...], operator: Operator) -> list[str]:
    """Run a command, and tell what it has not come to."""
    said = operator.clawdet(*command)
    assert (said.code, said.err) == (0, "")
    return not_complete(operator, "alice") if command == PROVISION else not_empty(operator)


@pytest.fixture
def locker(operator: Operator, monkeypatch: pytest.MonkeyPatch) -> Iterator[sqlite3.Connection]:
    """Somebody else's connection to the database, for which clawdet does not wait long."""
    path, connect = Path(operator.info()["state_file"]), State._connect
    State(path).close()

    def impatient(state: State) -> sqlite3.Connection:
        connection = connect(state)
        connection.execute("PRAGMA busy_timeout = 100")
        return connection

    monkeypatch.setattr(State, "_connect", impatient)
    with closing(sqlite3.connect(path, isolation_level=None, check_same_thread=False)) as other:
        yield other


@pytest.mark.parametrize("moment", AFTER)
def test_what_was_done_when_somebody_else_locked_the_database_is_named_and_found_again(
    moment: str, operator: Operator, locker: sqlite3.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    command = command_of(moment, operator)
    with monkeypatch.context() as patched:
        breaks_after(moment, lambda: locker.execute("BEGIN EXCLUSIVE"), patched)
        said = operator.clawdet(*command)
    locker.execute("ROLLBACK")
    said_as_written(f"locked when {moment}", said, operator)
    assert ledger_differs(operator) == []
    follow(operator, said)
    leave_nothing(operator)


@VERBS
def test_a_database_that_is_locked_from_the_start_is_told_before_anything_is_done(
    command: tuple[str, ...], operator: Operator, locker: sqlite3.Connection
) -> None:
    if command == DESTROY:
        assert operator.clawdet(*PROVISION).code == 0
    before = held_by(operator)
    locker.execute("BEGIN EXCLUSIVE")
    said = operator.clawdet(*command)
    locker.execute("ROLLBACK")
    assert held_by(operator) == before
    said_as_written(f"locked at the start of {command[0]}", said, operator)
    assert ledger_differs(operator) == done_by(command, operator) == []
    leave_nothing(operator)


@VERBS
def test_a_database_that_takes_no_writes_from_the_start_is_told_before_anything_is_done(
    command: tuple[str, ...], operator: Operator, monkeypatch: pytest.MonkeyPatch
) -> None:
    # There is one: what cannot be made is another matter.
    assert operator.clawdet(*(PROVISION if command == DESTROY else ("status", "--sandbox"))).code == 0
    before, connect = held_by(operator), State._connect

    def reading(state: State) -> sqlite3.Connection:
        connection = connect(state)
        connection.execute("PRAGMA query_only = ON")
        return connection

    with monkeypatch.context() as patched:
        patched.setattr(State, "_connect", reading)
        said = operator.clawdet(*command)
    assert held_by(operator) == before
    said_as_written(f"read-only at the start of {command[0]}", said, operator)
    assert ledger_differs(operator) == done_by(command, operator) == []
    leave_nothing(operator)


@VERBS
def test_a_disk_that_is_read_only_from_the_start_is_told_before_anything_is_done(
    command: tuple[str, ...], small_disk: Operator
) -> None:
    operator = small_disk
    if command == DESTROY:
        assert operator.clawdet(*PROVISION).code == 0
    before = held_by(operator)
    subprocess.run(["mount", "-o", "remount,ro", operator.state], check=True)
    try:
        said = operator.clawdet(*command)
    finally:
        subprocess.run(["mount", "-o", "remount,rw", operator.state], check=True)
    assert held_by(operator) == before
    said_as_written(f"disk read-only at the start of {command[0]}", said, operator)
    assert done_by(command, operator) == ledger_differs(operator) == []
    leave_nothing(operator)


SPOILT: dict[str, Callable[[bytes], bytes]] = {
    "overwritten": lambda whole_file: whole_file[:100] + b"\xff" * (len(whole_file) - 100),
    "cut short": lambda whole_file: whole_file[:3000],
    "no database at all": lambda _: b"hello" * 1000,
}


@VERBS
@pytest.mark.parametrize("how", SPOILT)
def test_a_broken_database_is_put_aside_and_made_anew_by_the_commands_that_are_printed(
    how: str, command: tuple[str, ...], operator: Operator
) -> None:
    assert operator.clawdet(*PROVISION).code == 0
    path = Path(operator.info()["state_file"])
    with closing(sqlite3.connect(path)) as database:
        database.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    path.write_bytes(SPOILT[how](path.read_bytes()))
    before = held_by(operator)
    for each in (PROVISION, DESTROY, ("status", "--sandbox"), ("reconcile", "--sandbox", "--quiet")):
        said = operator.clawdet(*each)
        said_as_written(f"{how} database", said, operator)
        assert held_by(operator) == before
    _, move, rebuild = (line.strip() for line in said.err.partition("\nNext:\n")[2].split("\n\n")[0].splitlines())
    subprocess.run(["sh", "-c", move], check=True)
    assert operator.clawdet(*rebuild.partition("  #")[0].split()[1:]).code == 0
    assert ledger_differs(operator) == []
    assert done_by(command, operator) == ledger_differs(operator) == []
    assert held_by(operator) == before or command == DESTROY
    leave_nothing(operator)


@pytest.mark.parametrize("when", ["2001-01-01T00:00:00.000+00:00", "2061-01-01T00:00:00.000+00:00"])
def test_a_clock_that_jumped_changes_nothing(when: str, operator: Operator) -> None:
    assert operator.clawdet(*PROVISION).code == 0
    state = State(Path(operator.info()["state_file"]))
    row = state.instance("alice")
    assert row is not None
    data = {"labels": row.labels, "monthly": "5.99", "type": "cx23", "location": "nbg1"}
    state.begin_effect(row, "create_server", "create_server", row.server_name, data)
    state.close()
    with closing(sqlite3.connect(operator.info()["state_file"])) as database, database:
        database.execute("UPDATE effects SET begun_at = ?", (when,))
        database.execute("UPDATE instances SET created_at = ?, updated_at = ?", (when, when))
    shown = operator.clawdet("status", "alice", "--sandbox")
    assert "-" not in shown.out.partition("Made")[2].partition(" ago")[0]
    said = operator.clawdet(*PROVISION)
    assert (said.code, said.err) == (0, "")
    assert recorded(operator, "server_id") == operator.servers()[0]["id"]
    assert not_complete(operator, "alice") == []
    leave_nothing(operator)


def jumping(monkeypatch: pytest.MonkeyPatch, hours: float) -> list[str]:
    """Have the clock on the wall jump with every stage; give the names of the stages so far."""
    stages: list[str] = []
    begin, clock = State.begin_stage, time.time

    class Jumping(datetime):
        @classmethod
        def now(cls, tz: tzinfo | None = None) -> Self:
            return super().now(tz) + timedelta(hours=hours * (len(stages) % 2))

    def begun(state: State, instance: Any, name: str) -> int:
        stages.append(name)
        return begin(state, instance, name)

    for module in (model, lease, recover, runlog):
        monkeypatch.setattr(module, "datetime", Jumping)
    monkeypatch.setattr(time, "time", lambda: clock() + hours * 3600 * (len(stages) % 2))
    monkeypatch.setattr(State, "begin_stage", begun)
    return stages


def course(operator: Operator, monkeypatch: pytest.MonkeyPatch, hours: float) -> list[list[str]]:
    """Provision, do so again, and destroy, with a clock that jumps so far; give the stages of each."""
    courses = []
    with monkeypatch.context() as patched:
        stages = jumping(patched, hours)
        for command in (PROVISION, PROVISION, DESTROY):
            earlier = len(stages)
            said = operator.clawdet(*command)
            assert (said.code, said.err) == (0, ""), newest_log(operator)
            assert ledger_differs(operator) == []
            courses.append(stages[earlier:])
    leave_nothing(operator)
    return courses


def newest_stage(operator: Operator) -> int:
    """Give the number of the newest stage on record."""
    (found,) = rows(operator, "SELECT COALESCE(MAX(id), 0) AS newest FROM stage_runs")
    return int(found["newest"])


@pytest.mark.parametrize("hours", [1, -1])
def test_a_clock_that_jumps_between_the_stages_changes_nothing(
    hours: float, operator: Operator, monkeypatch: pytest.MonkeyPatch
) -> None:
    undisturbed = course(operator, monkeypatch, 0)
    earlier = newest_stage(operator)
    assert course(operator, monkeypatch, hours) == undisturbed
    first, again, _ = undisturbed
    assert "await_ssh" in first
    assert "await_ssh" not in again
    took = [row["seconds"] for row in rows(operator, f"SELECT seconds FROM stage_runs WHERE id > {earlier}")]  # noqa: S608 - a number
    assert len(took) == sum(map(len, undisturbed))
    assert 0 <= min(took) <= max(took) < 600


@pytest.mark.parametrize("hours", [1, -1])
def test_an_order_of_a_moment_ago_is_waited_for_though_the_clock_jumped(hours: float, operator: Operator) -> None:
    assert operator.clawdet(*PROVISION).code == 0
    with closing(State(Path(operator.info()["state_file"]))) as state:
        row = state.instance("alice")
        assert row is not None
        began = {"boot": uptime.boot(), "uptime": uptime.seconds()}
        data = {"labels": row.labels, "monthly": "5.99", "type": "cx23", "location": "nbg1", **began}
        effect = state.begin_effect(row, "create_server", "create_server", "clawdet-of-a-moment-ago", data)
    then = datetime.now(UTC) - timedelta(hours=hours)
    old = replace(effect, begun_at=then.isoformat())
    assert 0 <= recover._age(old) < recover.SETTLE_SECONDS
    elsewhere = replace(old, data={**data, "boot": "another"})
    assert recover._age(elsewhere) == pytest.approx(hours * 3600, abs=5)
    leave_nothing(operator)


def test_every_text_belongs_to_a_fault() -> None:
    disk = {f"{what} when {moment}" for what in BROKEN for moment in AFTER}
    disk |= {f"{what} when {moment}" for what in ("disk full", "locked") for moment in AFTER}
    starts = ("disk full", "disk read-only", "read-only", "locked")
    disk |= {f"{what} at the start of {verb}" for what in starts for verb in ("provision", "destroy")}
    databases = {f"{how} database" for how in SPOILT}
    phases = {f"{what} for ever in {phase}" for what in ("restarts", "breaks") for phase in HELD}
    commands = {f"breaks each time over {kind}" for kind in ASKED}
    assert set(TEXTS) == {*ON_THE_VPS, *phases, *commands, *disk, *databases}
