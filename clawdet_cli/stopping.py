"""Ctrl-C and SIGTERM: a run stops between its effects, and at once when it is asked again.

Elsewhere than in `held()` a signal raises where the main thread happens to be. Within it, what was begun is finished
and recorded first: one call to a cloud, one write to the database.

Signals reach the main thread alone. A run in another thread hears of them from `tell_all()`, which ends its pauses and
its interruptible waits; elsewhere it obeys when it next asks with `check()`, or leaves `held()`.
"""

import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from types import FrameType

from clawdet_cli.errors import Terminated

GRACE_SECONDS = {signal.SIGTERM: 3.0, signal.SIGINT: 0.1}
"""timeout(1) and some CI runners send a signal twice, to the process and to its group: that is one request."""

AT_ONCE = "Stopped at once. The next run finds what exists; clawdet reconcile lists it.\n"


@dataclass
class _Request:
    """What the handlers were asked for: signals belong to the process, so there is one."""

    asked: signal.Signals | None = None
    asked_at: float = 0.0


class _Here(threading.local):
    """How this thread stands to a request."""

    delivered = False
    holds = 0
    tell: Callable[[], None] | None = None


@dataclass(eq=False)
class _Wait:
    """A wait of some thread that can be cut short."""

    cut: Callable[[], None]
    held: bool


_request = _Request()
_here = _Here()
_told = threading.Event()
"""Set once the other threads are told: it ends their pauses."""
_waits: set[_Wait] = set()
_lock = threading.Lock()


@contextmanager
def listening() -> Iterator[None]:
    """Take both signals as requests to stop, for as long as this lasts. For the main thread only."""
    _forget()
    before = {number: signal.signal(number, _handle) for number in GRACE_SECONDS}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        _forget()


@contextmanager
def held(tell: Callable[[], None] | None = None) -> Iterator[None]:
    """Finish what is within before a stop is obeyed; `tell` is called when one arrives and has to wait."""
    before, _here.tell = _here.tell, tell or _here.tell
    _here.holds += 1
    try:
        yield
    finally:
        _here.holds -= 1
        _here.tell = before
    # Not after a failure: that one ends the run just as well, and says more.
    check()


def check() -> None:
    """Obey a request to stop. Raises KeyboardInterrupt or Terminated, once in each thread, and not within `held()`."""
    if _request.asked is None or _here.delivered or _here.holds:
        return
    _here.delivered = True
    raise Terminated if _request.asked is signal.SIGTERM else KeyboardInterrupt


def ignore() -> None:
    """Have this thread go on through a stop: it works for runs that are not over yet, and they end it."""
    _here.delivered = True


def asked() -> signal.Signals | None:
    """Give the signal by which a stop was asked for."""
    return _request.asked


def pause(seconds: float) -> None:
    """Sleep; a stop ends it at once, also within `held()`: between two attempts nothing is under way."""
    before, _here.holds = _here.holds, 0
    try:
        check()
        if threading.current_thread() is threading.main_thread() or _here.delivered:
            # Not on a lock: the handler raises out of it, wherever it is.
            time.sleep(seconds)
        else:
            _told.wait(seconds)
            check()
    finally:
        _here.holds = before


@contextmanager
def interruptible(cut: Callable[[], None]) -> Iterator[None]:
    """Wait for something that no signal ends in this thread: a stop calls `cut`, unless this is within `held()`."""
    waiting = _Wait(cut, held=_here.holds > 0 or _here.delivered)
    with _lock:
        _waits.add(waiting)
    try:
        # Asked between the last check and here, nobody would cut this one.
        check()
        yield
    finally:
        with _lock:
            _waits.discard(waiting)
        # Also in the place of a failure: what is cut short fails somehow.
        check()


def tell_all() -> None:
    """Tell all other threads of a request to stop; called by the main thread, but not by its handler."""
    _told.set()
    with _lock:
        to_cut = [waiting for waiting in _waits if not waiting.held]
    for waiting in to_cut:
        waiting.cut()


def _forget() -> None:
    vars(_request).update(vars(_Request()))
    vars(_here).clear()
    _told.clear()


def _handle(number: int, _frame: FrameType | None) -> None:
    now, wanted = time.monotonic(), signal.Signals(number)
    if _request.asked is not None:
        if wanted is not _request.asked or now - _request.asked_at > GRACE_SECONDS[wanted]:
            _end_at_once(wanted)
        return
    _request.asked, _request.asked_at = wanted, now
    if _here.holds == 0:
        check()
    elif _here.tell is not None:
        # A view in the middle of drawing may refuse; the request itself must not get lost over it.
        with suppress(Exception):
            _here.tell()


def _end_at_once(number: signal.Signals) -> None:
    # Neither handlers nor clean-up: as after a SIGKILL, the journal tells the next run what was under way.
    with suppress(OSError):
        show_cursor = "\x1b[?25h\n" if sys.stderr.isatty() else ""
        os.write(2, (show_cursor + AT_ONCE).encode())
    os._exit(128 + number)
