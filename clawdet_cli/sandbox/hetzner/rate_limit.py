"""The request budget of a project."""

import math
from collections.abc import Callable
from datetime import datetime


class RateLimit:
    """A bucket that holds an hour's requests and refills evenly."""

    def __init__(self, per_hour: int, now: Callable[[], datetime]) -> None:
        self.per_hour = per_hour
        self._now = now
        self._left = float(per_hour)
        self._filled_at = now()

    def take(self) -> bool:
        """Take one request out, if there is one."""
        now = self._now()
        refill = (now - self._filled_at).total_seconds() * self.per_hour / 3600
        self._left = min(float(self.per_hour), self._left + refill)
        self._filled_at = now
        if self._left < 1:
            return False
        self._left -= 1
        return True

    def headers(self) -> dict[str, str]:
        """Return the RateLimit-* headers; Reset is the Unix time at which the bucket is full again."""
        full_in = (self.per_hour - self._left) * 3600 / self.per_hour
        return {
            "RateLimit-Limit": str(self.per_hour),
            "RateLimit-Remaining": str(math.floor(self._left)),
            "RateLimit-Reset": str(math.ceil(self._filled_at.timestamp() + full_in)),
        }
