"""How this machine's clock stands to that of a cloud, by answers that were received anyway."""

import time
from email.utils import parsedate_to_datetime


class CloudClock:
    """Learns from the first answer that says what time it is there."""

    def __init__(self) -> None:
        self.ahead: float | None = None
        """How many seconds ours is ahead; negative where it is behind, None where no answer said the time."""

    def learn(self, date: str | None) -> None:
        """Take note of an answer's `Date`, which is cut to whole seconds."""
        if self.ahead is None and date is not None:
            try:
                self.ahead = time.time() - parsedate_to_datetime(date).timestamp()
            except (ValueError, TypeError, OverflowError):
                return
