"""Waiting and asking again, always within the command's deadline: the only importer of tenacity."""

import time
from collections.abc import Callable, Sequence
from typing import TypeVar

from tenacity import RetryCallState, RetryError, Retrying, retry_if_exception_type, wait_exponential, wait_random

from clawdet_cli import stopping
from clawdet_cli.errors import ClawdetError, CloudError, WaitError
from clawdet_cli.model import Deadline

T = TypeVar("T")

PATIENCE = 120.0
"""Seconds for which one call bears lost connections and server errors; limits (423, 429, 503) wait for the deadline."""

FIRST_PATIENCE = 15.0
"""The same for the first call to a cloud: nothing was begun yet that would be worth a longer wait."""

AGAIN = ("run the command again: it goes on where it stopped", "or give it more time with --timeout")
"""What to do after a wait that ended."""

Fence = Callable[[], None]
"""Raises an error when the run that wants to change something has lost the right to."""

Watch = Callable[[str], None]
"""Is told in a few words what a wait saw, whenever that changes."""


class NotYet(Exception):  # noqa: N818  # it is an answer, not an error: the thing may still come
    """What was seen in place of what is waited for.

    `pause` is the number of seconds that the other side asked for; `maybe_done` says that a change may have had effect.
    """

    def __init__(self, seen: str, *, pause: float | None = None, maybe_done: bool = False) -> None:
        super().__init__(seen)
        self.pause = pause
        self.maybe_done = maybe_done


class Lost(NotYet):
    """No usable answer came: the connection broke, or the other side failed."""

    def __init__(self, seen: str) -> None:
        super().__init__(seen, maybe_done=True)


def until(
    condition: Callable[[], T | None],
    *,
    deadline: Deadline,
    what: str,
    every: float = 1.0,
    most: float | None = None,
    first: float | None = None,
    catching: tuple[type[Exception], ...] = (),
    watch: Watch | None = None,
    in_vain: Callable[[], Sequence[str]] | None = None,
) -> T:
    """Poll until the condition gives something; it may raise NotYet to say what it saw.

    `every` and `first`, the pause before the first look, are seconds; with `most`, pauses grow from `every` to that.
    There is always a last look at the deadline. Raises WaitError with the last thing seen, and with the next steps that
    `in_vain` gives, if any, in place of the usual ones.
    """
    if first is not None:
        stopping.pause(min(first, deadline.left()))

    def look() -> tuple[T]:
        found = condition()
        if found is None:
            raise NotYet("nothing yet")
        return (found,)

    def pause(state: RetryCallState) -> float:
        return every if most is None else min(most, every * 1.25 ** (state.attempt_number - 1))

    return _poll(look, pause, deadline=deadline, what=what, catching=catching, watch=watch, in_vain=in_vain)


def ask(
    read: Callable[[], T], *, deadline: Deadline, what: str, patience: float | None = None, watch: Watch | None = None
) -> T:
    """Make a call that changes nothing, as often as it takes.

    Raises WaitError at the deadline, and CloudError when no usable answer came for `patience` seconds, else PATIENCE.
    """
    attempt = _with_patience(lambda: (read(),), what, patience)
    return _poll(attempt, _growing, deadline=deadline, what=what, watch=watch)


def change(
    act: Callable[[], T],
    look: Callable[[], T | None],
    *,
    deadline: Deadline,
    what: str,
    watch: Watch | None = None,
    fence: Fence | None = None,
) -> T:
    """Make a call that changes something, and `look` before making it again when its outcome is unknown.

    `look` gives what the call would have given, or None when it had no effect yet. `fence` is asked before each call,
    since any time may pass before one. Raises as `ask` does, and what `fence` raises.
    """
    look_first = unknown = False

    def attempt() -> tuple[T]:
        nonlocal look_first, unknown
        if look_first:
            found = look()
            if found is not None:
                return (found,)
        look_first = False
        if fence is not None:
            fence()
        try:
            return (act(),)
        except NotYet as reason:
            look_first = reason.maybe_done
            # For good: a call whose answer was lost may be carried out after the look, whatever a later one is told.
            unknown = unknown or reason.maybe_done
            raise

    try:
        return _poll(_with_patience(attempt, what), _growing, deadline=deadline, what=what, watch=watch)
    except ClawdetError as error:
        error.unsettled = unknown or bool(error.unsettled)
        raise


_growing = wait_exponential(multiplier=0.25, max=8.0) + wait_random(0, 0.25)
"""Jitter keeps many operators, held up by one limit, from coming back in the same second."""


def _with_patience(attempt: Callable[[], T], what: str, seconds: float | None = None) -> Callable[[], T]:
    since: float | None = None
    patience = PATIENCE if seconds is None else seconds

    def patient() -> T:
        nonlocal since
        began = time.monotonic()
        try:
            result = attempt()
        except Lost as trouble:
            since = began if since is None else since
            if time.monotonic() - since > patience:
                raise CloudError(
                    f"Waited {time.monotonic() - since:.0f} s for {what}, and no usable answer came.",
                    details=[str(trouble)],
                    next_steps=["look at your connection and the provider's status page, then run the command again"],
                ) from None
            raise
        except NotYet:
            since = None
            raise
        return result

    return patient


def _poll(
    attempt: Callable[[], tuple[T]],
    pause: Callable[[RetryCallState], float],
    *,
    deadline: Deadline,
    what: str,
    catching: tuple[type[Exception], ...] = (),
    watch: Watch | None,
    in_vain: Callable[[], Sequence[str]] | None = None,
) -> T:
    stopping.check()
    began = time.monotonic()
    seen = ""

    def wait(state: RetryCallState) -> float:
        reason = state.outcome.exception() if state.outcome else None
        asked = reason.pause if isinstance(reason, NotYet) else None
        return min(pause(state) if asked is None else asked, deadline.left())

    def note(state: RetryCallState) -> None:
        nonlocal seen
        reason = state.outcome.exception() if state.outcome else None
        now = str(reason) or type(reason).__name__
        if watch is not None and now != seen:
            watch(now)
        seen = now

    retrying = Retrying(
        retry=retry_if_exception_type((NotYet, *catching)),
        wait=wait,
        stop=lambda _: deadline.left() <= 0,
        after=note,
        sleep=stopping.pause,
    )
    try:
        return retrying(attempt)[0]
    except RetryError:
        raise WaitError(
            f"Waited {time.monotonic() - began:.0f} s for {what}; last seen: {seen.rstrip('.')}.",
            next_steps=(in_vain and in_vain()) or AGAIN,
        ) from None
