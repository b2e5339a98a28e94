"""What the HTTP layer is told of the call that it makes: one client serves many runs, each with its own deadline."""

import threading
from collections.abc import Callable
from typing import TypeVar

from clawdet_cli.adapters.answers import Amount, in_time
from clawdet_cli.model import Deadline

T = TypeVar("T")


class Calling(threading.local):
    """What is known of a call in the thread that makes it, which makes no other one at the time."""

    deadline: Deadline | None = None

    def __init__(self) -> None:
        self.amount = Amount()
        """Of all pages of the answer."""

    def make(self, call: Callable[[], T], deadline: Deadline) -> T:
        """Make a call within a deadline. Raises TimeoutError."""

        def told() -> T:
            self.deadline = deadline
            self.amount = Amount()
            return call()

        return in_time(told, deadline)

    def left(self) -> float:
        """Give the seconds that the call has, one at least: what is sent should also be heard."""
        return 1.0 if self.deadline is None else max(1.0, self.deadline.left())
