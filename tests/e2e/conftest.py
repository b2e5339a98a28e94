"""Sandboxes for whole runs of the program: one with simulated servers, one with real ones."""

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import platformdirs
import pytest

from tests.e2e.operator import Operator
from tests.kill.launcher import ENDED_SECONDS, Launcher
from tests.kill.scenes import Life


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Run what needs a real server on the guests that CLAWDET_GUEST names, separated by commas."""
    if "guest" in metafunc.fixturenames:
        wanted = os.environ.get("CLAWDET_GUEST", "debian12")
        metafunc.parametrize("guest", wanted.split(","), scope="session")


@pytest.fixture(scope="session")
def cache() -> Path:
    """The cache that sandboxes share: what is downloaded and built once on a machine."""
    return Path(os.environ.get("CLAWDET_CACHE") or platformdirs.user_cache_path("clawdet"))


@pytest.fixture(scope="session")
def simulated_sandbox(tmp_path_factory: pytest.TempPathFactory, cache: Path) -> Iterator[Operator]:
    """A sandbox whose servers install nothing and boot at once."""
    operator = Operator(tmp_path_factory.mktemp("simulated"), cache, in_process=True)
    up = operator.clawdet("sandbox", "up", "--servers", "simulated", "--boot-seconds", "0")
    assert up.code == 0, up.err
    operator.unlimited()
    yield operator
    down = operator.clawdet("sandbox", "down", "--yes")
    assert down.code == 0, down.err


@pytest.fixture
def operator(simulated_sandbox: Operator) -> Iterator[Operator]:
    """An operator of simulated servers, who finds both clouds empty and leaves them so."""
    assert simulated_sandbox.holdings() == (0, 0, 0)
    yield simulated_sandbox
    simulated_sandbox.sweep()


@pytest.fixture(scope="module")
def launcher() -> Iterator[Launcher]:
    """Starts commands as processes of their own that can be killed and stopped."""
    with Launcher() as started:
        yield started


@pytest.fixture
def life(operator: Operator, launcher: Launcher) -> Iterator[Life]:
    """The operator, with commands that are processes of their own; none of them outlives the test."""
    started = Life(operator, launcher)
    yield started
    for process in started.processes:
        if process.signal(signal.SIGKILL):
            process.wait(ENDED_SECONDS)


@pytest.fixture(scope="session")
def real_sandbox(tmp_path_factory: pytest.TempPathFactory, cache: Path, guest: str) -> Iterator[Operator]:
    """A sandbox whose servers are real systemd machines."""
    operator = Operator(tmp_path_factory.mktemp("real"), cache)
    up = operator.clawdet("sandbox", "up", "--servers", "real", "--guest", guest, "--boot-seconds", "1", "--yes")
    assert up.code == 0, up.err
    yield operator
    down = operator.clawdet("sandbox", "down", "--yes")
    assert down.code == 0, down.err
