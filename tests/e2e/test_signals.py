"""Ctrl-C and SIGTERM: a run stops between its effects, and says what exists; asked twice, it stops at once."""

import json
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from tests.e2e.faults import leave_nothing, ledger_differs
from tests.e2e.operator import Operator
from tests.e2e.test_recovery import recorded
from tests.kill.invariants import not_complete, rows, unfinished

PROVISION = ("provision", "alice", "--sandbox")
DESTROY = ("destroy", "alice", "--yes", "--sandbox")


class Running:
    """A command that runs as a process of its own, followed by its events."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self.process = process
        self.seen: list[str] = []

    def until(self, wanted: Callable[[dict[str, Any]], bool]) -> None:
        """Read events until one is the wanted one."""
        assert self.process.stderr is not None
        for line in self.process.stderr:
            self.seen.append(line)
            if line.startswith("{") and wanted(json.loads(line)):
                return
        raise AssertionError("".join(self.seen))

    def end(self) -> dict[str, Any]:
        """Wait for the end, and give the error document."""
        assert self.process.stdout is not None
        assert self.process.stderr is not None
        self.seen += self.process.stderr.readlines()
        out = self.process.stdout.read()
        self.process.wait(30)
        return dict(json.loads(out).get("error", {})) if out else {}


@contextmanager
def running(operator: Operator, *command: str) -> Iterator[Running]:
    process = subprocess.Popen(
        [sys.executable, "-m", "clawdet_cli", *command, "--json", "--events"],
        env=operator.environment(),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    with process:
        try:
            yield Running(process)
        finally:
            process.kill()


def slow(operator: Operator, cloud: str, method: str, path: str, seconds: float = 1.0) -> None:
    operator.control(cloud, "POST", "faults", {"kind": "delay", "method": method, "path": path, "seconds": seconds})


def in_the_air(operator: Operator, cloud: str, method: str) -> None:
    """Wait until the slow call has arrived."""
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline:
        seen = operator.control(cloud, "GET", "requests")["requests"]
        if any(one["fault"] == "delay" and one["method"] == method and one["status"] is None for one in seen):
            return
    raise AssertionError("the call never came")


SIGNALS = pytest.mark.parametrize(
    ("number", "code", "name"), [(signal.SIGINT, 130, "Ctrl-C"), (signal.SIGTERM, 143, "SIGTERM")]
)

ORDER = ("hetzner", "POST", "/v1/servers")
MOMENTS = {
    "create_server": ORDER,
    "create_dns_record": ("cloudflare", "POST", ".*/dns_records"),
    "install_certificate": ("cloudflare", "POST", ".*/certificates"),
}


@SIGNALS
@pytest.mark.parametrize("stage", MOMENTS)
def test_what_is_under_way_is_finished_and_recorded_before_it_stops(
    stage: str, number: signal.Signals, code: int, name: str, operator: Operator
) -> None:
    slow(operator, *MOMENTS[stage])
    with running(operator, *PROVISION) as run:
        in_the_air(operator, *MOMENTS[stage][:2])
        run.process.send_signal(number)
        run.until(lambda event: "stopping after this step" in event.get("text", ""))
        error = run.end()
        assert run.process.returncode == code
    assert error["what"].startswith(f"Stopped by {name} while: ")
    assert error["stage"] == stage
    assert "EUR 19.99 per month until it is destroyed" in error["left_behind"][0]
    assert not any("perhaps" in what for what in error["left_behind"])
    assert [step.partition("  #")[0] for step in error["next_steps"]] == [
        "clawdet provision alice --sandbox",
        "clawdet destroy alice --sandbox",
    ]
    assert unfinished(operator) == []
    assert ledger_differs(operator) == []
    assert recorded(operator, "status") == "failed"
    assert operator.clawdet(*PROVISION, "--quiet").code == 0
    assert not_complete(operator, "alice") == []
    leave_nothing(operator)


def test_a_second_ctrl_c_stops_at_once_and_loses_nothing(operator: Operator) -> None:
    slow(operator, *ORDER, seconds=3)
    with running(operator, *PROVISION) as run:
        in_the_air(operator, "hetzner", "POST")
        run.process.send_signal(signal.SIGINT)
        run.until(lambda event: "stopping after this step" in event.get("text", ""))
        time.sleep(0.15)  # a second signal right behind the first is taken for the same one
        asked = time.monotonic()
        run.process.send_signal(signal.SIGINT)
        assert run.process.wait(20) == 130
        assert time.monotonic() - asked < 2
        run.end()
        assert "Stopped at once. The next run finds what exists; clawdet reconcile lists it." in "".join(run.seen)
    assert [row["kind"] for row in rows(operator, "SELECT kind FROM effects WHERE outcome IS NULL")] == [
        "create_server"
    ]
    again = operator.clawdet(*PROVISION)
    assert again.code == 0, again.err
    assert not_complete(operator, "alice") == []
    leave_nothing(operator)


@SIGNALS
def test_a_wait_is_stopped_at_once(number: signal.Signals, code: int, name: str, operator: Operator) -> None:
    operator.control("hetzner", "PUT", "servers/knobs", {"ssh_never": True})
    with running(operator, *PROVISION) as run:
        run.until(lambda event: event["kind"] == "stage_started" and event["stage"] == "await_ssh")
        asked = time.monotonic()
        run.process.send_signal(number)
        error = run.end()
        assert (run.process.returncode, time.monotonic() - asked < 5) == (code, True)
    assert error["what"] == f"Stopped by {name} while: Waiting for the VPS to boot."
    assert unfinished(operator) == []
    operator.reset()
    assert operator.clawdet(*PROVISION, "--quiet").code == 0
    assert not_complete(operator, "alice") == []


@SIGNALS
def test_a_destroy_finishes_its_deletion_and_goes_on_later(
    number: signal.Signals, code: int, name: str, operator: Operator
) -> None:
    assert operator.clawdet(*PROVISION, "--quiet").code == 0
    slow(operator, "hetzner", "DELETE", "/v1/servers/.*")
    with running(operator, *DESTROY) as run:
        in_the_air(operator, "hetzner", "DELETE")
        run.process.send_signal(number)
        error = run.end()
        assert run.process.returncode == code
    assert error["stage"] == "delete_server"
    assert name in error["what"]
    assert error["next_steps"] == ["clawdet destroy alice --sandbox"]
    assert recorded(operator, "status") == "destroying"
    # The deletion itself is answered; the wait for the server to be gone is not kept up.
    gone = recorded(operator, "server_id") is None
    assert [what.rpartition(", ")[2] for what in error["left_behind"]] == ([] if gone else ["which was under way"])
    assert [what.split()[:3] for what in unfinished(operator)] == (
        [] if gone else [["open", "intent", "delete_server"]]
    )
    leave_nothing(operator)


def test_a_signal_at_any_moment_leaves_nothing_unknown(operator: Operator) -> None:
    chosen = random.Random(4)  # noqa: S311 - the same moments each time, as far as a clock allows
    wrong = []
    for _ in range(8):
        seconds, number = chosen.uniform(0.1, 2.2), chosen.choice((signal.SIGINT, signal.SIGTERM))
        with running(operator, *PROVISION) as run:
            try:
                run.process.wait(seconds)
            except subprocess.TimeoutExpired:
                run.process.send_signal(number)
            error = run.end()
        when = f"{number.name} after {seconds:.2f} s ({error.get('stage')})"
        wrong += [f"{when}: {what}" for what in unknown(operator)]
        leave_nothing(operator)
    assert wrong == []


def unknown(operator: Operator) -> list[str]:
    return unfinished(operator) + ledger_differs(operator)
