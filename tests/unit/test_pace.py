"""What many runs side by side do otherwise than one alone: they look less often, and stay on one CPU."""

import os
import socket
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from clawdet_cli import fleet, operations, stopping
from clawdet_cli.adapters.ssh import PAUSE, Ssh, make_host_key, operator_key
from clawdet_cli.model import Deadline, Instance, Status
from clawdet_cli.settings import Settings, load
from clawdet_cli.stages.phase import _Follower
from clawdet_cli.stages.runner import SLOWEST_PACE, Run

INSTANCE = Instance("alice", "example.com", "r1", Status.PENDING, False, "2026-01-02", "2026-01-02")


class AskedError(Exception):
    """Something was asked for, which is all that a test wants to know."""


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    environment = {
        "CLAWDET_CONFIG": str(tmp_path / "none"),
        "HCLOUD_TOKEN": "never-sent-anywhere",
        "CLOUDFLARE_API_TOKEN": "never-sent-anywhere",
    }
    return load({"state": tmp_path}, environment, default_openclaw="2026.9.6")


@pytest.mark.parametrize(("side_by_side", "pace"), [(1, 1.0), (20, 1.0), (60, 3.0), (100, 5.0), (1000, SLOWEST_PACE)])
def test_a_run_slows_down_by_how_many_there_are(settings: Settings, side_by_side: int, pace: float) -> None:
    with operations.sharing(settings, side_by_side) as common:
        run = operations._run(settings, INSTANCE, common.state, lambda _: None, common=common)
        assert run.pace == pace


@pytest.mark.parametrize(
    "begin",
    [
        lambda s, users, n: fleet.provision(s, users, _ignore, None, parallel=n),
        lambda s, users, n: fleet.verify(s, users, _ignore, parallel=n),
        lambda s, users, n: fleet.destroy(s, users, _ignore, None, parallel=n),
        lambda s, users, n: fleet.drain(s, users, _ignore, parallel=n),
        lambda s, users, n: fleet.fill(s, len(users), _ignore, lambda _: True, parallel=n),
    ],
    ids=["provision", "verify", "destroy", "drain", "fill"],
)
@pytest.mark.parametrize("users", [30, 3])
def test_a_fleet_tells_how_many_there_are(
    monkeypatch: pytest.MonkeyPatch,
    settings: Settings,
    begin: Callable[[Settings, Sequence[str], int], object],
    users: int,
) -> None:
    told: list[int] = []

    def sharing(_settings: Settings, side_by_side: int) -> AbstractContextManager[Any]:
        told.append(side_by_side)
        raise AskedError

    monkeypatch.setattr(operations, "sharing", sharing)
    with pytest.raises(AskedError):
        begin(settings, [f"user{number}" for number in range(users)], 8)
    assert told == [min(users, 8)]


@pytest.mark.parametrize(("pace", "seconds"), [(1.0, "1"), (5.0, "5"), (1.5, "1.5")])
def test_a_log_is_gathered_for_longer(pace: float, seconds: str) -> None:
    asked: list[str] = []

    def run(command: str, **_: object) -> None:
        asked.append(command)
        raise AskedError

    waiting = SimpleNamespace(pace=pace, ssh=lambda: SimpleNamespace(run=run), deadline=Deadline.after(60))
    follower = _Follower(cast(Run, waiting), "prepare")
    follower.offset = 10
    with pytest.raises(AskedError):
        follower.look()
    assert f"then timeout {seconds} tail " in asked[0]


def test_connecting_pauses_for_longer(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    key, host_key = tmp_path / "ssh" / "key", make_host_key().public
    operator_key(key, make=True)
    pauses: list[float] = []

    def pause(seconds: float) -> None:
        pauses.append(seconds)
        raise AskedError

    monkeypatch.setattr(stopping, "pause", pause)
    with socket.create_server(("127.0.0.1", 0)) as taken:
        closed = taken.getsockname()
    with pytest.raises(AskedError):
        Ssh.connect(closed, (host_key,), key, Deadline.after(60), pace=4.0)
    assert pauses == [PAUSE * 4.0]


@pytest.mark.parametrize(("parallel", "kept"), [(fleet.CROWD, True), (fleet.CROWD - 1, False)])
def test_a_crowd_stays_on_one_cpu_and_leaves_the_others_to_whoever_comes_after(
    monkeypatch: pytest.MonkeyPatch, parallel: int, kept: bool
) -> None:
    kept_to: list[set[int]] = [{3, 5, 7}]  # of a machine with more CPUs than this one may have
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: kept_to[-1])
    monkeypatch.setattr(os, "sched_setaffinity", lambda _, cpus: kept_to.append(cpus))
    common = SimpleNamespace(recorded=lambda _: None, calls=dict)
    users = [f"user{number}" for number in range(30)]
    ended = fleet._all(cast(operations.Common, common), users, parallel, _ignore, lambda _user, _told: len(kept_to[-1]))
    assert set(ended.done.values()) == {1 if kept else 3}
    assert kept_to[-1] == {3, 5, 7}
    assert all(cpus <= {3, 5, 7} for cpus in kept_to)


def _refuse(*_: object) -> None:
    raise PermissionError


@pytest.mark.parametrize("forbidden", [False, True])
def test_where_a_system_cannot_do_that_a_crowd_works_all_the_same(
    monkeypatch: pytest.MonkeyPatch, forbidden: bool
) -> None:
    if forbidden:
        monkeypatch.setattr(os, "sched_setaffinity", _refuse)
    else:
        monkeypatch.delattr(os, "sched_setaffinity")
    common = SimpleNamespace(recorded=lambda _: None, calls=dict)
    users = [f"user{number}" for number in range(30)]
    ended = fleet._all(cast(operations.Common, common), users, 30, _ignore, lambda user, _: user)
    assert list(ended.done) == users


def _ignore(_: object) -> None:
    pass
