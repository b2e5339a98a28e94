"""What one command's calls take out of a cloud's limit of requests."""

import time

from clawdet_cli.adapters.retry import NotYet

RESERVE = 20
"""Calls that reading leaves to changes: a deletion must never have to wait for somebody's looks."""


class Budget:
    """Counts a command's calls to one cloud, and keeps it from using up the limit: it waits instead, and says so."""

    def __init__(self, cloud: str) -> None:
        self._cloud = cloud
        self.calls = 0
        self._limit = 0
        self._left: float | None = None
        """How many calls the last answer left; None when no answer said it."""
        self._at = 0.0
        self._per_second = 0.0
        self._full_in: float | None = None

    def sent(self) -> None:
        """Count a call."""
        self.calls += 1

    def answered(
        self, limit: str | None, left: str | None, *, per_second: float = 0.0, full_in: float | None = None
    ) -> None:
        """Take note of an answer's headers: a limit that refills evenly, or one that is full again in some seconds."""
        if limit is None or left is None or not (limit.isdecimal() and left.isdecimal()):
            return
        self._limit, self._left, self._at = int(limit), float(left), time.monotonic()
        self._per_second, self._full_in = per_second, full_in

    def spend(self, *, changing: bool) -> None:
        """Let a call through. Raises NotYet, with the seconds to wait, when too little of the limit is left for it."""
        if self._left is None:
            return
        since = time.monotonic() - self._at
        if self._full_in is not None and since >= self._full_in:
            return
        left = self._left + since * self._per_second
        wanted = 1 if changing else min(RESERVE, self._limit // 5) + 1
        if left >= wanted:
            return
        if self._per_second:
            wait = (wanted - left) / self._per_second
        elif self._full_in is not None:
            wait = self._full_in - since
        else:
            return
        raise NotYet(
            f"{self._cloud}'s limit of requests is nearly used up ({left:.0f} of {self._limit} left):"
            f" waiting {wait:.0f} s",
            pause=wait,
        )
