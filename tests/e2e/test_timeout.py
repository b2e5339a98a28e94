"""Whatever hangs, no command goes on for long past --timeout."""

import socket
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest

from clawdet_cli.stages import verify as stages
from clawdet_cli.stages.runner import Run
from tests.e2e.operator import Operator
from tests.e2e.test_bad_input import provision

TIMEOUT = 3.0
GRACE = 2.0
"""What README promises; the rest of a command takes this machine some tenths of a second."""
OWN = 0.7

EVERYTHING = ["hetzner", "cloudflare", "edge", "ssh", "outside"]


@pytest.fixture
def silent() -> Iterator[tuple[str, int]]:
    """Return an address where whoever connects is never answered."""
    with socket.create_server(("127.0.0.1", 0), backlog=128) as listening:
        yield listening.getsockname()


@pytest.fixture
def never() -> Iterator[threading.Event]:
    """Return what is waited for in vain until the test ends."""
    event = threading.Event()
    yield event
    event.set()


@pytest.mark.parametrize("hangs", [["edge"], ["ssh"], ["outside"], EVERYTHING], ids="-".join)
def test_verify_ends_with_its_timeout(
    hangs: list[str],
    operator: Operator,
    silent: tuple[str, int],
    never: threading.Event,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert provision(operator).code == 0
    for cloud in {"hetzner", "cloudflare"}.intersection(hangs):
        operator.control(cloud, "POST", "faults", {"kind": "hang_before", "times": None})
    if "edge" in hangs:
        monkeypatch.setattr(stages, "open_connection", lambda *_: socket.create_connection(silent))
    if "ssh" in hangs:
        connect = Run.ssh

        def elsewhere(run: Any, *arguments: Any) -> Any:
            monkeypatch.setattr(type(run.settings.endpoints), "dial", lambda *_: silent)
            return connect(run, *arguments)

        monkeypatch.setattr(Run, "ssh", elsewhere)
    if "outside" in hangs:
        monkeypatch.setattr(stages, "_exposed", lambda _: [] if never.wait(60) else [443])
    began = time.monotonic()
    said = operator.clawdet("verify", "alice", "--sandbox", "--json", "--timeout", str(TIMEOUT))
    took = time.monotonic() - began
    assert said.code == 6, said.err
    assert TIMEOUT - OWN < took < TIMEOUT + GRACE + OWN, f"{took:.1f} s"
    amiss = {check["name"]: check["evidence"] for check in said.document["instance"]["checks"] if not check["ok"]}
    assert amiss, "what hangs is not told"


COMMANDS = {
    "provision": ("provision", "alice", "--yes"),
    "dry-run": ("provision", "alice", "--dry-run"),
    "destroy": ("destroy", "alice", "--yes"),
    "reconcile": ("reconcile",),
    "doctor": ("doctor",),
    "firewall": ("firewall", "refresh"),
    "pool": ("pool", "fill", "1", "--yes"),
    "rebuild": ("state", "rebuild"),
    "verify-all": ("status", "--live", "alice", "bob"),
}


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_ends_with_its_timeout_where_both_clouds_hang(name: str, operator: Operator) -> None:
    if name in {"destroy", "reconcile", "verify-all"}:
        assert provision(operator).code == 0
    for cloud in ("hetzner", "cloudflare"):
        operator.control(cloud, "POST", "faults", {"kind": "hang_before", "times": None})
    began = time.monotonic()
    said = operator.clawdet(*COMMANDS[name], "--sandbox", "--timeout", "1")
    took = time.monotonic() - began
    assert said.code in {6, 7}, said.err
    assert took < 1 + GRACE + OWN, f"{took:.1f} s"
