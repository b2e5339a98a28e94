"""Threads for calls that may never end: whoever waits for one can leave it, and it goes on by itself.

They are used again, as a hundred runs side by side make some ten thousand such calls. They are not a pool of the
standard library's: for the threads of one the interpreter waits at its end.
"""

import threading
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from queue import SimpleQueue
from typing import TypeVar

T = TypeVar("T")

_idle: deque["_Thread"] = deque()
"""Those that wait for a call, the last used at the end."""


def begin(call: Callable[[], T]) -> Future[T]:
    """Make a call in a thread of its own; whatever it raises is raised by the future's `result()`."""
    answer: Future[T] = Future()

    def carry_out() -> None:
        try:
            result = call()
        except BaseException as error:  # noqa: BLE001 - whatever it is, it is raised again where it is waited for
            _idle.append(thread)
            answer.set_exception(error)
        else:
            # First, so that who has the answer and asks again takes no other one.
            _idle.append(thread)
            answer.set_result(result)

    try:
        thread = _idle.pop()
    except IndexError:
        thread = _Thread()
        thread.start()
    thread.calls.put(carry_out)
    return answer


class _Thread(threading.Thread):
    """Makes one call after another."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.calls: SimpleQueue[Callable[[], None]] = SimpleQueue()

    def run(self) -> None:
        while True:
            self.calls.get()()
