"""Runs the program as processes that are killed or stopped where the caller wants, several at a time.

`python -m tests.kill.launcher` imports the program once, and forks for each command that it reads as a line of JSON:
every command is a process of its own, without the second that Python takes to import the SDKs.
"""

import json
import os
import select
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import Future
from dataclasses import asdict, dataclass
from pathlib import Path
from types import FrameType, TracebackType
from typing import Any, Self

from tests.kill.child import FILES, Boundary, become
from tests.kill.warm import warm

SETTLE_SECONDS = 0.2
"""How long the commands wait for an order that may be on its way: where it is the kill that is tried, none is."""
ENDED_SECONDS = 60.0
"""How long a killed process may take to end."""
LOOK_SECONDS = 0.0005
"""How often a process is looked at that is to be killed some time after its first change."""


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


class Process:
    """A command that runs."""

    def __init__(self, folder: "tempfile.TemporaryDirectory[str]") -> None:
        self._folder = folder
        self.path = Path(folder.name)
        self.begun: Future[int] = Future()
        self.over: Future[int] = Future()

    @property
    def pid(self) -> int:
        """Return the number of the process."""
        return self.begun.result(60)

    def signal(self, number: int) -> bool:
        """Send a signal; return whether the process was still there."""
        if self.over.done():
            return False
        try:
            os.kill(self.pid, number)
        except ProcessLookupError:
            return False
        return True

    def at_work(self) -> bool:
        """Return whether it has written down that it is about to change something."""
        return (self.path / "passed").stat().st_size > 0

    def stopped(self, timeout: float) -> bool:
        """Wait until it has stopped itself where that was asked for; return whether it did, and not ended instead."""
        until = time.monotonic() + timeout
        while time.monotonic() < until and not self.over.done():
            if (self.path / "stopped").stat().st_size and _state(self.pid) == "T":
                return True
            time.sleep(0.02)
        return False

    def wait(self, timeout: float | None = None) -> Ended:
        """Wait for its end, and return what it said. Raises TimeoutError."""
        code = self.over.result(timeout)
        out, err, passed, places = ((self.path / name).read_text(errors="replace") for name in FILES[:4])
        self._folder.cleanup()
        return Ended(code, out, err, tuple(passed.splitlines()), tuple(places.splitlines()))


class Launcher:
    """Starts the commands of operators."""

    def __init__(self) -> None:
        self._server = subprocess.Popen(
            [sys.executable, "-m", "tests.kill.launcher"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        assert self._server.stdout is not None
        assert self._server.stdout.readline() == "ready\n"
        self._lock = threading.Lock()
        self._running: dict[int, Process] = {}
        self._number = 0
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def run(self, arguments: Sequence[str], environment: Mapping[str, str], **options: Any) -> Ended:
        """Run `clawdet ARGUMENTS` to its end, or until it is killed; the options are those of `start`."""
        return self.start(arguments, environment, **options).wait()

    def start(
        self,
        arguments: Sequence[str],
        environment: Mapping[str, str],
        *,
        kill_at: Boundary | None = None,
        kill_after: float | None = None,
        at_work: bool = False,
        stop_at: Boundary | None = None,
        settle: float = SETTLE_SECONDS,
        constants: Mapping[str, float] | None = None,
        machine: str | None = None,
        sandbox: Mapping[str, Any] | None = None,
    ) -> Process:
        """Start `clawdet ARGUMENTS`, to be killed at a boundary or after some seconds, or to stop itself somewhere.

        With `at_work` the seconds are counted from the first thing that it does and writes down. `constants` are set in
        the process (`module:NAME`), `machine` is what it takes its machine for, and `sandbox` what it is told of the
        sandbox, in place of what that says of itself.
        """
        process = Process(tempfile.TemporaryDirectory(prefix="clawdet-kill-"))
        for name in FILES:
            (process.path / name).touch()
        order = {
            "arguments": list(arguments),
            "environment": dict(environment),
            "folder": str(process.path),
            "kill_at": asdict(kill_at) if kill_at else None,
            "kill_after": kill_after,
            "at_work": at_work,
            "stop_at": asdict(stop_at) if stop_at else None,
            "settle": settle,
            "constants": dict(constants or {}),
            "machine": machine,
            "sandbox": dict(sandbox) if sandbox is not None else None,
        }
        assert self._server.stdin is not None
        with self._lock:
            self._number += 1
            self._running[self._number] = process
            self._server.stdin.write(json.dumps({"number": self._number, **order}) + "\n")
            self._server.stdin.flush()
        return process

    def _read(self) -> None:
        assert self._server.stdout is not None
        for line in self._server.stdout:
            told = json.loads(line)
            process = self._running[told["number"]]
            if "pid" in told:
                process.begun.set_result(told["pid"])
            else:
                process.over.set_result(told["code"])
                del self._running[told["number"]]

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        assert self._server.stdin is not None
        assert self._server.stdout is not None
        self._server.stdin.close()
        self._server.wait(10)
        self._reader.join(10)
        self._server.stdout.close()


def _state(pid: int) -> str:
    """Return the letter that stat(5) has for a process; empty when it is gone."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (OSError, IndexError):
        return ""


@dataclass
class _Child:
    number: int
    order: Mapping[str, Any]
    since: float | None

    def due(self) -> bool:
        """Return whether it is to be killed now."""
        if self.order["kill_after"] is None:
            return False
        if self.since is None and (Path(self.order["folder"]) / "passed").stat().st_size:
            self.since = time.monotonic()
        return self.since is not None and time.monotonic() >= self.since + self.order["kill_after"]


class _Server:
    """Forks for each command that stdin names, and tells the process's number and how it ended."""

    def __init__(self) -> None:
        self._children: dict[int, _Child] = {}
        self._wake_read, self._wake_write = os.pipe()
        for end in (self._wake_read, self._wake_write):
            os.set_blocking(end, False)

    def serve(self) -> None:
        """Go on until stdin ends."""
        signal.signal(signal.SIGCHLD, self._woken)
        signal.set_wakeup_fd(self._wake_write, warn_on_full_buffer=False)
        warm()
        os.write(1, b"ready\n")
        rest = b""
        while True:
            hurried = any(child.order["kill_after"] is not None for child in self._children.values())
            ready, _, _ = select.select([0, self._wake_read], [], [], LOOK_SECONDS if hurried else None)
            if self._wake_read in ready:
                os.read(self._wake_read, 1000)
            self._reap()
            if 0 in ready:
                news = os.read(0, 1 << 20)
                if not news:
                    return
                *lines, rest = (rest + news).split(b"\n")
                for line in lines:
                    self._fork(json.loads(line))
            for pid, child in self._children.items():
                if child.due():
                    os.kill(pid, signal.SIGKILL)

    def _woken(self, _number: int, _frame: FrameType | None) -> None:
        """Let the wake-up descriptor do the work."""

    def _fork(self, order: Mapping[str, Any]) -> None:
        pid = os.fork()
        if pid == 0:
            signal.set_wakeup_fd(-1)
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            os.close(self._wake_read)
            os.close(self._wake_write)
            become(order)
        self._children[pid] = _Child(order["number"], order, None if order["at_work"] else time.monotonic())
        self._tell({"number": order["number"], "pid": pid})

    def _reap(self) -> None:
        while self._children:
            pid, status = os.waitpid(-1, os.WNOHANG)
            if pid == 0:
                return
            child = self._children.pop(pid)
            self._tell({"number": child.number, "code": os.waitstatus_to_exitcode(status)})

    @staticmethod
    def _tell(what: Mapping[str, Any]) -> None:
        os.write(1, json.dumps(what).encode() + b"\n")


if __name__ == "__main__":
    _Server().serve()
