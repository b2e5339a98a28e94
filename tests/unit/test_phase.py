"""A phase that a restart of the VPS ends, as the driver sees it."""

from collections.abc import Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any, cast

import pytest

from clawdet_cli import bootstrap, stopping
from clawdet_cli.adapters.ssh import CommandResult, ConnectionLost
from clawdet_cli.errors import GuestError
from clawdet_cli.model import Deadline
from clawdet_cli.stages.phase import Phase
from clawdet_cli.stages.runner import Run


class FakeRun:
    """A run whose VPS ends the phase's first run for this reason, and lets the second one end well."""

    def __init__(self, reason: str, states: list[str]) -> None:
        self.reason = reason
        self.states = states
        """What the machine says of itself after that; `gone` means that the connection breaks."""
        self.asked: list[str] = []
        self.notes: list[str] = []
        self.deadline = Deadline.after(60)
        self.pace = 1.0
        self.steps_done: list[str] = []
        self.starts = 0

    def remote(self, command: str, **_: Any) -> CommandResult:
        return self.run(command)

    def ssh(self, *_: Any) -> "FakeRun":
        return self

    def run(self, command: str, **_: Any) -> CommandResult:
        if command == bootstrap.SYSTEM_STATE:
            self.asked.append("state")
            if (state := self.states.pop(0)) == "gone":
                raise ConnectionLost("it broke")
            return CommandResult(0, state + "\n", "")
        if command.endswith("echo started"):
            self.asked.append("start")
            self.starts += 1
            return CommandResult(0, "started\n", "")
        if command.startswith("p=$("):
            return CommandResult(0, self.log(), "")
        return CommandResult(0, "", "")

    def log(self) -> str:
        state, log = "active Result=success", "@result ok\n"
        if self.starts == 1:
            state = "failed Result=exit-code"
            log = f"@step fail caddy 143 {self.reason}\n@result failed step=caddy code=143\n"
        return f"ActiveState={state} ExecMainStatus=0 Offset={len(log)}\n{log}"

    @contextmanager
    def effect(self, *_: Any, **__: Any) -> Iterator[Any]:
        yield SimpleNamespace(made=lambda *_: None)

    def note(self, text: str) -> None:
        self.notes.append(text)

    def emit(self, *_: Any, **__: Any) -> None:
        pass

    def hang_up(self) -> None:
        pass


@pytest.fixture(autouse=True)
def _no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stopping, "pause", lambda _: None)


def begun(run: FakeRun) -> Phase:
    phase = Phase(cast(Run, run), "prepare", {"host": "a"}, {})
    phase.begin()
    return phase


def test_a_phase_that_a_restart_ended_is_begun_anew_when_the_machine_is_back() -> None:
    run = FakeRun(bootstrap.GOING_DOWN, ["stopping", "gone", "starting"])
    phase = begun(run)
    assert phase.end()["@result"] == "ok"
    assert run.asked == ["start", "state", "state", "state", "start"]
    assert phase.restarts == 1
    assert run.notes == ["the VPS restarted in the middle of 'prepare': beginning it anew"]


def test_a_phase_that_somebody_stopped_on_a_running_machine_has_failed() -> None:
    run = FakeRun("stopped by SIGTERM", [])
    with pytest.raises(GuestError, match="stopped by SIGTERM"):
        begun(run).end()
    assert run.starts == 1
