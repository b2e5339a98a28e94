"""What many runs of one command find out together: one call answers all who ask at about the same time."""

import copy
import threading
import time
from collections.abc import Callable, Hashable, Sequence
from typing import Any, Generic, TypeVar, cast

from clawdet_cli import stopping
from clawdet_cli.errors import ClawdetError, StoppedError, WaitError
from clawdet_cli.model import Deadline

Q = TypeVar("Q")
A = TypeVar("A")
T = TypeVar("T")

FIRST_PAUSE = 0.1
MOST_PAUSE = 2.0
"""Seconds between two flights for each call that the first of them took: so all of them together take half of what
Hetzner's limit refills, however many ask."""
GROWTH = 1.5
IDLE_SECONDS = 10.0
"""Who asks after so long a silence is not kept waiting for the questions of before."""

Fly = Callable[[Sequence[Q]], tuple[Sequence[A], int]]
"""Answers questions, and says how many calls that took."""


class _Ticket(Generic[Q, A]):
    """A question, and what becomes of it."""

    def __init__(self, question: Q) -> None:
        self.question = question
        self.news = threading.Event()
        self.flies = False
        """Whether who asked is to make the next flight."""
        self.landed = False
        self.answer: A | None = None
        self.error: ClawdetError | None = None


class Flights(Generic[Q, A]):
    """Takes questions along in the next flight that starts: so no answer is older than its question.

    Whoever asks first makes the flight, for all who have asked until it starts. One is in the air at a time, and
    pauses grow between them.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._waiting: list[_Ticket[Q, A]] = []
        self._manned = False
        """Whether somebody makes the next flight, or is in the air."""
        self._pause = FIRST_PAUSE
        self._not_before = 0.0

    def ask(self, question: Q, fly: "Fly[Q, A]", *, deadline: Deadline, what: str) -> A:
        """Give the answer of a flight that starts from now on.

        Raises what the flight raises, WaitError at the deadline, and a request to stop outside of `stopping.held()`.
        """
        ticket = _Ticket[Q, A](question)
        with self._lock:
            self._waiting.append(ticket)
            if not self._manned:
                self._manned = ticket.flies = True
        try:
            while not ticket.landed:
                if ticket.flies:
                    self._make(ticket, fly, deadline)
                else:
                    _await_news(ticket, deadline, what)
        except BaseException:
            self._leave(ticket)
            raise
        if ticket.error is not None:
            raise ticket.error
        return cast("A", ticket.answer)

    def _make(self, ticket: _Ticket[Q, A], fly: "Fly[Q, A]", deadline: Deadline) -> None:
        now = time.monotonic()
        if now > self._not_before + IDLE_SECONDS:
            self._pause = FIRST_PAUSE
        stopping.pause(max(0.0, min(self._not_before - now, deadline.left())))
        with self._lock:
            aboard, self._waiting = self._waiting, []
        try:
            answers, calls = fly([one.question for one in aboard])
        except BaseException as error:
            self._lost(ticket, aboard, error)
            raise
        with self._lock:
            for one, answer in zip(aboard, answers, strict=True):
                one.answer, one.landed = answer, True
            self._land(ticket, aboard, calls)

    def _lost(self, ticket: _Ticket[Q, A], aboard: Sequence[_Ticket[Q, A]], error: BaseException) -> None:
        """Tell the others why they get no answer, or have them fly again if the reason is who made this flight."""
        own_reason = not isinstance(error, ClawdetError) or isinstance(error, WaitError | StoppedError)
        others = [one for one in aboard if one is not ticket]
        with self._lock:
            if own_reason:
                self._waiting = others + self._waiting
            else:
                for one in others:
                    # A copy for each: whoever reports it adds what it means for his own instance.
                    one.error, one.landed = copy.copy(cast("ClawdetError", error)), True
            self._land(ticket, others, 1)

    def _land(self, ticket: _Ticket[Q, A], aboard: Sequence[_Ticket[Q, A]], calls: int) -> None:
        self._not_before = time.monotonic() + self._pause * calls
        self._pause = min(MOST_PAUSE, self._pause * GROWTH)
        ticket.flies = False
        for one in aboard:
            if one.landed:
                one.news.set()
        self._hand_over()

    def _hand_over(self) -> None:
        self._manned = bool(self._waiting)
        if self._waiting:
            self._waiting[0].flies = True
            self._waiting[0].news.set()

    def _leave(self, ticket: _Ticket[Q, A]) -> None:
        """Give up a question, and with it the next flight if it was to be made by who asked."""
        with self._lock:
            if ticket in self._waiting:
                self._waiting.remove(ticket)
            if ticket.flies:
                ticket.flies = False
                self._hand_over()


def _await_news(ticket: _Ticket[Q, A], deadline: Deadline, what: str) -> None:
    with stopping.interruptible(ticket.news.set):
        told = ticket.news.wait(deadline.left())
    if not told:
        raise WaitError(f"Waited in vain for {what}.", next_steps=["run the command again"])


class Once:
    """Finds out once for all runs of a command what does not change while it runs."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._known: dict[Hashable, Any] = {}
        self._flights: dict[Hashable, Flights[None, Any]] = {}

    def get(self, name: Hashable, find: Callable[[], T], *, deadline: Deadline) -> T:
        """Give what is known by this name, or what `find` gives for all; a failure of it is not kept."""
        with self._lock:
            if name in self._known:
                return cast("T", self._known[name])
            flights = self._flights.setdefault(name, Flights())

        def fly(questions: Sequence[None]) -> tuple[Sequence[T], int]:
            if name not in self._known:
                self._known[name] = find()
            return [self._known[name]] * len(questions), 0

        return cast("T", flights.ask(None, fly, deadline=deadline, what=str(name)))
