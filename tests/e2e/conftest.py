"""Sandboxes for whole runs of the program: one with simulated servers, one with real ones."""

import os
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import platformdirs
import pytest

from tests.e2e.operator import Operator


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
    """An operator of simulated servers, who finds both clouds empty and leaves them in working order."""
    assert simulated_sandbox.holdings() == (0, 0, 0)
    yield simulated_sandbox
    simulated_sandbox.reset()
    if not Path(simulated_sandbox.info()["state_file"]).exists():
        return
    with closing(sqlite3.connect(simulated_sandbox.info()["state_file"])) as database:
        left = database.execute("SELECT user FROM instances WHERE status != 'destroyed'").fetchall()
    if any(user.startswith("pool.") for (user,) in left):
        simulated_sandbox.clawdet("pool", "drain", "--yes", "--sandbox")
    for (user,) in left:
        simulated_sandbox.clawdet("destroy", user, "--yes", "--sandbox")


@pytest.fixture(scope="session")
def real_sandbox(tmp_path_factory: pytest.TempPathFactory, cache: Path, guest: str) -> Iterator[Operator]:
    """A sandbox whose servers are real systemd machines."""
    operator = Operator(tmp_path_factory.mktemp("real"), cache)
    up = operator.clawdet("sandbox", "up", "--servers", "real", "--guest", guest, "--boot-seconds", "1", "--yes")
    assert up.code == 0, up.err
    yield operator
    down = operator.clawdet("sandbox", "down", "--yes")
    assert down.code == 0, down.err
