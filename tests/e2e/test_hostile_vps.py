"""What a VPS says is data: it paints nothing, leaves the run's log alone, and neither fills memory nor disk."""

import json
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from clawdet_cli import bootstrap
from clawdet_cli.stages import phase
from tests.e2e.operator import Operator, Said
from tests.e2e.test_hostile_api import EVIL, PROVISION, files, is_harmless

RUNNING = "ActiveState=activating Result=success ExecMainStatus=0 Offset={end}\n"
ENDED = "ActiveState=active Result=success ExecMainStatus=0 Offset=9\n"
SOME_STEPS = {None, *(f"s{number}" for number in range(phase.MOST_STEPS))}
MOST_SAID = 64 * 1024
"""Bytes that one command may say, and add to the database, whatever the VPS says."""


@pytest.fixture
def victim(operator: Operator) -> Operator:
    """Somebody with a complete instance, whose VPS then falls into other hands."""
    made = operator.clawdet(*PROVISION)
    assert made.code == 0, made.err
    return operator


def lie(operator: Operator, **says: str) -> None:
    """Have the VPS say something else than the truth."""
    operator.control("hetzner", "PUT", "servers/knobs", {"says": {k.replace("_", "-"): v for k, v in says.items()}})


def recorded(operator: Operator) -> str:
    with closing(sqlite3.connect(operator.info()["state_file"])) as database:
        return "\n".join(database.iterdump())


def is_bounded(said: Said, before: str, after: str) -> bool:
    return len(said.out) + len(said.err) < MOST_SAID and len(after) - len(before) < MOST_SAID


LIES = ["", EVIL, "=" * 100, "x" * 300_000, "current=\n" * 9000, "openclaw_version=" + EVIL * 99]


@pytest.mark.parametrize("verb", ["report", "token", "host-key", "certificate-request", "devices"])
def test_an_answer_that_is_none_ends_with_a_sentence(victim: Operator, verb: str) -> None:
    before = files(victim)
    for text in LIES:
        lie(victim, **{verb: text})
        for command in (("verify", "alice"), ("token", "alice"), ("approve", "alice"), ("reconcile",)):
            earlier = recorded(victim)
            said = victim.clawdet(*command, "--sandbox")
            assert said.code in {0, 4, 6}, (command, text[:20], said.err)
            assert is_harmless(said), (command, text[:20])
            assert "Traceback" not in said.err
            assert is_bounded(said, earlier, recorded(victim)), (command, text[:20])
    assert files(victim) == before


@pytest.mark.parametrize(
    "log",
    [
        RUNNING + "y" * 200_000,
        RUNNING + "a line\n" * 20_000,
        RUNNING + f"@step done {EVIL} 1\n" * 2_000,
        RUNNING.format(end=0) + "y" * 200_000,
        RUNNING.format(end=0) + "a line\n" * 20_000,
    ],
    ids=["one line", "many lines", "many steps", "one line of no length", "many lines of no length"],
)
def test_a_log_without_end_is_not_read_to_it(operator: Operator, log: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bootstrap, "MOST_LOG", 2 * bootstrap.MAX_NEWS)
    lie(operator, follow=log)
    said = operator.clawdet(*PROVISION)
    assert (said.code, is_harmless(said)) == (6, True)
    assert "has written more than 524288 bytes of log: it is not read on." in said.err
    newest = max((operator.state / "sandbox" / "logs").iterdir())
    assert newest.stat().st_size < 16 * bootstrap.MAX_NEWS
    operator.reset()
    assert operator.clawdet("destroy", "alice", "--sandbox", "--yes").code == 0


def test_steps_without_number_are_not_all_shown(operator: Operator, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bootstrap, "MOST_LOG", bootstrap.MAX_NEWS)
    lie(operator, follow=RUNNING + "".join(f"@step begin s{number} and\n" for number in range(9_000)))
    said = operator.clawdet(*PROVISION, "--events")
    assert said.code == 6
    assert {"s0", "s99"} < {event.get("step") for event in map(json.loads, said.err.splitlines())} <= SOME_STEPS


@pytest.mark.parametrize(
    "says",
    [
        {"follow": ENDED + f"{EVIL}\n"},
        {"follow": "Offset=-1\n"},
        {"follow": EVIL},
        {"follow": ENDED + "@result ok openclaw_version=$(id) node_sha256=" + "f" * 9999},
        {"start": EVIL},
        {"architecture": EVIL},
        {"cloud_init": EVIL},
        {"host-key": f"current=ssh-ed25519 {EVIL}\nnext=ssh-ed25519 {EVIL}\n"},
        {"certificate-request": EVIL * 99},
    ],
    ids=lambda says: next(iter(says)),
)
def test_a_vps_that_lies_while_it_is_made_is_not_complete(operator: Operator, says: dict[str, Any]) -> None:
    lie(operator, **says)
    earlier = recorded(operator) if Path(operator.info()["state_file"]).exists() else ""
    said = operator.clawdet(*PROVISION, "--timeout", "20")
    assert is_harmless(said)
    assert "Traceback" not in said.err
    assert is_bounded(said, earlier, recorded(operator))
    assert "$(id)" not in recorded(operator)
    if "cloud_init" not in says:
        assert said.code in {3, 6, 7}, said.err
        found = operator.clawdet("status", "alice", "--sandbox", "--json").document["instance"]
        assert found["status"] != "complete"
    operator.reset()
    assert operator.clawdet("destroy", "alice", "--sandbox", "--yes").code == 0
