"""What a forked process does before it becomes the command: it notes what it passes, and dies or stops as told."""

import contextlib
import importlib
import os
import signal
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import clawdet_cli

# Imported before any fork, the SDKs too: it is this second that the forks save.
from clawdet_cli import fleet, lease, operations, uptime
from clawdet_cli.adapters import connect
from clawdet_cli.cli import configure, main, pool
from clawdet_cli.model import Effect, EffectOutcome
from clawdet_cli.stages import claim, destroy, provision, reconcile, recover
from clawdet_cli.stages.runner import Pending, Run
from tests.kill.stops import Stops

IMPORTED = (claim, connect, destroy, fleet, operations, pool, provision, reconcile)

FILES = ("out", "err", "passed", "places", "stopped")


@dataclass(frozen=True)
class Boundary:
    """A moment in a run: before or after something that it does and writes down."""

    what: int | str
    """Its number in the run, or how its kind and name begin."""
    moment: str
    """To be killed: `before`: the intent is durable, and nothing was done. `after`: it was done, and the result is not
    written. `written`: that is written too, and nothing else is done yet. To stop: a moment of `tests.kill.stops`."""

    def fits(self, number: int, what: str) -> bool:
        """Return whether this is about what a run does as its `number`-th thing."""
        return what.startswith(self.what) if isinstance(self.what, str) else number == self.what


def become(order: Mapping[str, Any]) -> None:
    """Turn the forked process into the command; does not return."""
    code = 70
    try:
        folder = Path(order["folder"])
        signal.signal(signal.SIGINT, signal.SIG_DFL)  # until the program listens itself
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        os.dup2(os.open(folder / "out", os.O_WRONLY), 1)
        os.dup2(os.open(folder / "err", os.O_WRONLY), 2)
        os.environ.clear()
        os.environ.update(order["environment"])
        _tune(order)
        kill_at, stop_at = (Boundary(**order[name]) if order[name] else None for name in ("kill_at", "stop_at"))
        _watch_boundaries(folder, kill_at, stop_at)
        code = main(order["arguments"])
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def _tune(order: Mapping[str, Any]) -> None:
    """Have the process wait less than operators do, take its machine for another one, and reach the clouds as told."""
    recover.SETTLE_SECONDS = order["settle"]
    for place, value in order["constants"].items():
        module, _, name = place.partition(":")
        found = importlib.import_module(module)
        if not hasattr(found, name):
            raise AttributeError(f"{module} has no {name} any more")
        setattr(found, name, value)
    if (machine := order["machine"]) is not None:
        lease._machine = lambda: machine
        uptime.boot = lambda: machine  # type: ignore[assignment]  # without its cache
    if (sandbox := order["sandbox"]) is not None:
        vars(configure)["description"] = lambda *_, **__: sandbox


def _watch_boundaries(folder: Path, kill_at: Boundary | None, stop_at: Boundary | None) -> None:
    """Note every boundary that this process passes; kill it at the wanted one, or stop it in the wanted effect."""
    journal, places = (os.open(folder / name, os.O_WRONLY | os.O_APPEND) for name in ("passed", "places"))
    stops = Stops(stop_at.moment, folder / "stopped") if stop_at else None
    count = 0

    def wanted(what: str) -> bool:
        nonlocal count
        count += 1
        os.write(journal, f"{what}\n".encode())
        return kill_at is not None and kill_at.fits(count, what)

    def moment(name: str) -> None:
        if kill_at is not None and kill_at.moment == name:
            os.kill(os.getpid(), signal.SIGKILL)

    begin, settle = Run.effect, Run.settle

    @contextmanager
    def watched_effect(self: Run, kind: str, name: str, **data: Any) -> Iterator[Pending]:
        os.write(places, f"{_place()}\n".encode())
        what = f"{kind} {name}"
        here = wanted(what)
        stop_here = stop_at is not None and stops is not None and stop_at.fits(count, what)
        with begin(self, kind, name, **data) as pending:
            if here:
                moment("before")
            with stops.within() if stops is not None and stop_here else contextlib.nullcontext():
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
    """Return where the `with` stands that is being entered: the first frame that is neither ours nor the library's."""
    frame = sys._getframe(1)
    while frame.f_code.co_filename in {__file__, contextlib.__file__} and frame.f_back is not None:
        frame = frame.f_back
    return f"{Path(frame.f_code.co_filename).relative_to(Path(clawdet_cli.__file__).parent)}:{frame.f_lineno}"
