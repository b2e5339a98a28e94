"""What one command's calls take out of a cloud's limit of requests, in however many threads they are made."""

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

from clawdet_cli.adapters.retry import NotYet
from clawdet_cli.adapters.values import header_count

RESERVE = 20
"""Calls that reading leaves to changes: a deletion must never have to wait for somebody's looks."""


class _Mine(threading.local):
    """What a thread knows of its own calls."""

    number = 0
    """Of its last one, in the order of sending."""
    turn: float | None = None
    """When it may go at last, if it had to wait."""


class Budget:
    """Counts a command's calls to one cloud, and keeps it from using up the limit: it waits instead, and says so."""

    def __init__(self, cloud: str) -> None:
        self._cloud = cloud
        self.calls = 0
        self._lock = threading.Lock()
        self._mine = _Mine()
        self._limit = 0
        self._left: float | None = None
        """How many calls the newest answer left; None when no answer said it."""
        self._at = 0.0
        self._per_second = 0.0
        self._full_in: float | None = None
        self._newest = 0
        """The number of the call whose answer that was."""
        self._going = 0
        """Calls that were let through and have not ended: whether that answer counted them cannot be known."""
        self._last_turn = {True: 0.0, False: 0.0}
        """When the last of those who wait to change, or to read, may go."""

    def sent(self) -> None:
        """Count a call."""
        with self._lock:
            self.calls += 1
            self._mine.number = self.calls

    def answered(
        self, limit: str | None, left: str | None, *, per_second: float = 0.0, full_in: float | None = None
    ) -> None:
        """Take note of an answer's headers: a limit that refills evenly, or one that is full again in some seconds."""
        limit_number, left_number = header_count(limit), header_count(left)
        if limit_number is None or left_number is None:
            return
        with self._lock:
            if self._mine.number < self._newest:
                # It was overtaken: what it tells of is older, and others have been counted since.
                self._left = min(float(left_number), self._left or 0.0)
                return
            self._newest = self._mine.number
            self._limit, self._left, self._at = limit_number, float(left_number), time.monotonic()
            self._per_second, self._full_in = per_second, full_in

    @contextmanager
    def spent(self, *, changing: bool) -> Iterator[None]:
        """Let a call through. Raises NotYet, with the seconds to wait, when too little of the limit is left for it."""
        with self._lock:
            self._spend(changing=changing)
            self._going += 1
        try:
            yield
        finally:
            with self._lock:
                self._going -= 1

    def _spend(self, *, changing: bool) -> None:
        turn, self._mine.turn = self._mine.turn, None
        if self._left is None:
            return
        now = time.monotonic()
        if self._full_in is not None and now - self._at >= self._full_in:
            self._left, self._at, self._full_in = float(self._limit), now, None
        left = self._left + (now - self._at) * self._per_second - self._going
        wanted = 1 if changing else min(RESERVE, self._limit // 5) + 1
        waited = turn is not None and now >= turn
        if left >= wanted and (waited or now >= self._last_turn[changing]):
            return
        if self._per_second:
            # In turn, one for each that refills: who wakes up together would only send all but one to sleep again.
            self._mine.turn = max(
                now + (wanted - left) / self._per_second, self._last_turn[changing] + 1 / self._per_second
            )
            self._last_turn[changing] = self._mine.turn
            wait = self._mine.turn - now
        elif self._full_in is not None:
            wait = self._full_in - (now - self._at)
        else:
            return
        raise NotYet(
            f"{self._cloud}'s limit of requests is nearly used up ({max(0.0, left):.0f} of {self._limit} left):"
            f" waiting {wait:.0f} s",
            pause=wait,
        )
