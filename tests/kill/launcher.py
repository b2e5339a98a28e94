"""Runs the program as processes that are killed where the caller wants.

`python -m tests.kill.launcher` imports the program once, and forks for each command that it reads as a line of JSON:
every command is a process of its own, without the second that Python takes to import the SDKs.
"""

import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import clawdet_cli

# Imported before any fork, the SDKs too: it is this second that the forks save.
from clawdet_cli import operations
from clawdet_cli.adapters import connect
from clawdet_cli.cli import main
from clawdet_cli.model import Effect, EffectOutcome
from clawdet_cli.stages import destroy, provision, recover
from clawdet_cli.stages.runner import Pending, Run

IMPORTED = (operations, connect, destroy, provision)

FILES = ("out", "err", "passed", "places")
SETTLE_SECONDS = 0.2
"""How long the commands wait for an order that may be on its way: where it is the kill that is tried, none is."""


@dataclass(frozen=True)
class Boundary:
    """A moment in a run: before or after something that it does and writes down."""

    what: int | str
    """Its number in the run, or how its kind and name begin."""
    moment: str
    """`before`: the intent is durable, and nothing was done. `after`: it was done, and the result is not written.
    `written`: that is written too, and nothing else is done yet."""


@dataclass(frozen=True)
class Ended:
    """How a process ended, and what it passed on its way."""

    code: int
    """The exit code; of a process that was killed, the signal's number below zero."""
    out: str
    err: str
    passed: tuple[str, ...]
    """What it did and wrote down, in order: kind and name."""
    places: tuple[str, ...] = ()
    """Where in the code that was: file and line of each `with run.effect(...)`."""

    @property
    def killed(self) -> bool:
        """Whether it was killed, rather than that it ended."""
        return self.code == -signal.SIGKILL


class Launcher:
    """Starts the commands of one operator."""

    def __init__(self) -> None:
        self._server = subprocess.Popen(
            [sys.executable, "-m", "tests.kill.launcher"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )

    def run(
        self,
        arguments: Sequence[str],
        environment: Mapping[str, str],
        *,
        kill_at: Boundary | None = None,
        kill_after: float | None = None,
        at_work: bool = False,
        settle: float = SETTLE_SECONDS,
    ) -> Ended:
        """Run `clawdet ARGUMENTS` to its end, or until it is killed: at a boundary, or after some seconds.

        With `at_work` the seconds are counted from the first thing that it does and writes down.
        """
        assert self._server.stdin is not None
        assert self._server.stdout is not None
        with tempfile.TemporaryDirectory(prefix="clawdet-kill-") as folder:
            order = {
                "arguments": list(arguments),
                "environment": dict(environment),
                "folder": folder,
                "kill_at": asdict(kill_at) if kill_at else None,
                "kill_after": kill_after,
                "at_work": at_work,
                "settle": settle,
            }
            self._server.stdin.write(json.dumps(order) + "\n")
            self._server.stdin.flush()
            code = int(self._server.stdout.readline())
            out, err, passed, places = ((Path(folder) / name).read_text(errors="replace") for name in FILES)
        return Ended(code, out, err, tuple(passed.splitlines()), tuple(places.splitlines()))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        assert self._server.stdin is not None
        assert self._server.stdout is not None
        self._server.stdin.close()
        self._server.wait(10)
        self._server.stdout.close()


def serve() -> None:
    """Fork for each command that stdin names, and say how it ended."""
    for line in sys.stdin:
        order = json.loads(line)
        for name in FILES:
            (Path(order["folder"]) / name).touch()
        process = os.fork()
        if process == 0:
            _become(order)
        print(_end_of(process, order), flush=True)


def _end_of(process: int, order: Mapping[str, Any]) -> int:
    passed = Path(order["folder"]) / "passed"
    since = None if order["at_work"] else time.monotonic()
    while order["kill_after"] is not None:
        ended, status = os.waitpid(process, os.WNOHANG)
        if ended:
            return os.waitstatus_to_exitcode(status)
        if since is None and passed.stat().st_size:
            since = time.monotonic()
        if since is not None and time.monotonic() >= since + order["kill_after"]:
            os.kill(process, signal.SIGKILL)
            break
        time.sleep(0.0005)
    return os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])


def _become(order: Mapping[str, Any]) -> None:
    """Turn the forked process into the command; does not return."""
    code = 70
    try:
        folder = Path(order["folder"])
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        os.dup2(os.open(folder / "out", os.O_WRONLY), 1)
        os.dup2(os.open(folder / "err", os.O_WRONLY), 2)
        os.environ.clear()
        os.environ.update(order["environment"])
        recover.SETTLE_SECONDS = order["settle"]
        wanted = order["kill_at"]
        _watch_boundaries(folder, Boundary(**wanted) if wanted else None)
        code = main(order["arguments"])
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def _watch_boundaries(folder: Path, kill_at: Boundary | None) -> None:
    """Note every boundary that this process passes, and kill it at the wanted one."""
    journal, places = (os.open(folder / name, os.O_WRONLY | os.O_APPEND) for name in ("passed", "places"))
    count = 0

    def wanted(what: str) -> bool:
        nonlocal count
        count += 1
        os.write(journal, f"{what}\n".encode())
        if kill_at is None:
            return False
        return what.startswith(kill_at.what) if isinstance(kill_at.what, str) else count == kill_at.what

    def moment(name: str) -> None:
        if kill_at is not None and kill_at.moment == name:
            os.kill(os.getpid(), signal.SIGKILL)

    begin, settle = Run.effect, Run.settle

    @contextmanager
    def watched_effect(self: Run, kind: str, name: str, **data: Any) -> Iterator[Pending]:
        os.write(places, f"{_place()}\n".encode())
        here = wanted(f"{kind} {name}")
        with begin(self, kind, name, **data) as pending:
            if here:
                moment("before")
            yield pending
            if here:
                moment("after")
        if here:
            moment("written")

    def watched_settle(
        self: Run, effect: Effect, outcome: EffectOutcome, result: str, changes: Mapping[str, Any]
    ) -> None:
        if self.stage != "recover":
            settle(self, effect, outcome, result, changes)
            return
        here = wanted(f"recover {effect.kind}")
        if here:
            moment("before")
        settle(self, effect, outcome, result, changes)
        if here:
            moment("after")

    Run.effect = watched_effect  # type: ignore[method-assign]  # the point of this program
    Run.settle = watched_settle  # type: ignore[method-assign]  # the same


def _place() -> str:
    """Give where the `with` stands that is being entered: the first frame that is neither ours nor the library's."""
    frame = sys._getframe(1)
    while frame.f_code.co_filename in {__file__, contextlib.__file__} and frame.f_back is not None:
        frame = frame.f_back
    return f"{Path(frame.f_code.co_filename).relative_to(Path(clawdet_cli.__file__).parent)}:{frame.f_lineno}"


if __name__ == "__main__":
    serve()
