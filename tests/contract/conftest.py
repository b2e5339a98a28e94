"""Serves an emulated API on loopback, as the sandbox does, to clients of the real kind."""

from collections.abc import Callable, Iterator

import pytest
from starlette.types import ASGIApp

from tests.contract.hetzner_emulator import Emulator
from tests.contract.served import LoopThread, Served


@pytest.fixture(scope="session")
def loop_thread() -> Iterator[LoopThread]:
    thread = LoopThread()
    yield thread
    thread.close()


@pytest.fixture
def serve_app(loop_thread: LoopThread) -> Iterator[Callable[[ASGIApp], Served]]:
    """Return a function that serves an application on a free loopback port until the test ends."""
    started: list[Served] = []

    def start(app: ASGIApp) -> Served:
        started.append(loop_thread.serve(app))
        return started[-1]

    yield start
    for served in started:
        # Its end takes uvicorn a few tenths of a second, which the next test need not wait for.
        served.running.cancel()


@pytest.fixture
def hetzner(serve_app: Callable[[ASGIApp], Served]) -> Iterator[Emulator]:
    """Serve an emulated Hetzner Cloud in which everything takes no time; start it again for another pace."""
    emulator = Emulator(serve_app)
    yield emulator.start()
    emulator.close()
