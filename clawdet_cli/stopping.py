"""Ctrl-C and SIGTERM: a run stops between its effects, and at once when it is asked again.

Elsewhere than in `held()` a signal raises where the main thread happens to be. Within it, what was begun is finished
and recorded first: one call to a cloud, one write to the database.
"""

import os
import signal
import sys
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
class _Requests:
    """What the handlers and the main thread tell each other: signals belong to the process, so there is one."""

    asked: signal.Signals | None = None
    asked_at: float = 0.0
    delivered: bool = False
    holds: int = 0
    tell: Callable[[], None] | None = None


_requests = _Requests()


@contextmanager
def listening() -> Iterator[None]:
    """Take both signals as requests to stop, for as long as this lasts. For the main thread only."""
    vars(_requests).update(vars(_Requests()))
    before = {number: signal.signal(number, _handle) for number in GRACE_SECONDS}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def held(tell: Callable[[], None] | None = None) -> Iterator[None]:
    """Finish what is within before a stop is obeyed; `tell` is called when one arrives and has to wait."""
    before, _requests.tell = _requests.tell, tell or _requests.tell
    _requests.holds += 1
    try:
        yield
    finally:
        _requests.holds -= 1
        _requests.tell = before
    # Not after a failure: that one ends the run just as well, and says more.
    if _requests.holds == 0:
        check()


def check() -> None:
    """Obey a request to stop that had to wait. Raises KeyboardInterrupt or Terminated, once."""
    if _requests.asked is None or _requests.delivered:
        return
    _requests.delivered = True
    raise Terminated if _requests.asked is signal.SIGTERM else KeyboardInterrupt


def pause(seconds: float) -> None:
    """Sleep; a stop ends it at once, also within `held()`: between two attempts nothing is under way."""
    before, _requests.holds = _requests.holds, 0
    try:
        check()
        time.sleep(seconds)
    finally:
        _requests.holds = before


def _handle(number: int, _frame: FrameType | None) -> None:
    now, wanted = time.monotonic(), signal.Signals(number)
    if _requests.asked is not None:
        if wanted is not _requests.asked or now - _requests.asked_at > GRACE_SECONDS[wanted]:
            _end_at_once(wanted)
        return
    _requests.asked, _requests.asked_at = wanted, now
    if _requests.holds == 0:
        check()
    elif _requests.tell is not None:
        # A view in the middle of drawing may refuse; the request itself must not get lost over it.
        with suppress(Exception):
            _requests.tell()


def _end_at_once(number: signal.Signals) -> None:
    # Neither handlers nor clean-up: as after a SIGKILL, the journal tells the next run what was under way.
    with suppress(OSError):
        show_cursor = "\x1b[?25h\n" if sys.stderr.isatty() else ""
        os.write(2, (show_cursor + AT_ONCE).encode())
    os._exit(128 + number)
