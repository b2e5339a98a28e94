"""How a stop, which only the main thread hears of, reaches the runs in other threads."""

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest

from clawdet_cli import stopping
from clawdet_cli.errors import Terminated

SOON = 10.0
"""Seconds in which every test has ended if what it tests works."""


class Worker:
    """A thread that does something until it is stopped."""

    def __init__(self, work: Callable[["Worker"], None]) -> None:
        self.begun = threading.Event()
        self.go_on = threading.Event()
        self.ended_by: BaseException | None = None
        self.said: list[str] = []
        self._thread = threading.Thread(target=self._run, args=(work,), daemon=True)
        self._thread.start()
        assert self.begun.wait(SOON)

    def _run(self, work: Callable[["Worker"], None]) -> None:
        try:
            work(self)
        except BaseException as error:  # noqa: BLE001 - it is what is looked at
            self.ended_by = error

    def end(self) -> BaseException | None:
        self._thread.join(SOON)
        assert not self._thread.is_alive()
        return self.ended_by


@contextmanager
def stoppable(number: signal.Signals = signal.SIGINT) -> Iterator[None]:
    """Be a main thread that holds a stop until its workers have ended."""
    stop = Terminated if number is signal.SIGTERM else KeyboardInterrupt
    with pytest.raises(stop), stopping.listening(), stopping.held():
        yield


def ask_to_stop(number: signal.Signals = signal.SIGINT) -> None:
    signal.raise_signal(number)
    stopping.tell_all()


@pytest.mark.parametrize(("number", "kind"), [(signal.SIGINT, KeyboardInterrupt), (signal.SIGTERM, Terminated)])
@pytest.mark.parametrize("held", [False, True])
def test_a_pause_of_another_thread_ends_at_once(number: signal.Signals, kind: type[BaseException], held: bool) -> None:
    def work(worker: Worker) -> None:
        worker.begun.set()
        if not held:
            stopping.pause(1000)
        with stopping.held():
            stopping.pause(1000)

    with stoppable(number):
        worker = Worker(work)
        ask_to_stop(number)
        assert isinstance(worker.end(), kind)


def test_what_is_held_is_finished_first() -> None:
    def work(worker: Worker) -> None:
        with stopping.held():
            with stopping.interruptible(lambda: worker.said.append("cut")):
                worker.begun.set()
                assert worker.go_on.wait(SOON)
            worker.said.append("finished")
        worker.said.append("went on")

    with stoppable():
        worker = Worker(work)
        ask_to_stop()
        worker.go_on.set()
        assert isinstance(worker.end(), KeyboardInterrupt)
    assert worker.said == ["finished"]


def test_a_wait_that_can_be_cut_is_cut_and_its_failure_counts_as_the_stop() -> None:
    def work(worker: Worker) -> None:
        with stopping.interruptible(worker.go_on.set):
            worker.begun.set()
            assert worker.go_on.wait(SOON)
            raise ConnectionError("the connection was cut")

    with stoppable():
        worker = Worker(work)
        ask_to_stop()
        assert isinstance(worker.end(), KeyboardInterrupt)


def test_a_wait_that_begins_too_late_to_be_cut_does_not_begin() -> None:
    def work(worker: Worker) -> None:
        worker.begun.set()
        assert worker.go_on.wait(SOON)
        with stopping.interruptible(lambda: None):
            worker.said.append("waited")

    with stoppable():
        worker = Worker(work)
        ask_to_stop()
        worker.go_on.set()
        assert isinstance(worker.end(), KeyboardInterrupt)
    assert worker.said == []


def test_a_thread_is_stopped_once_so_that_it_can_clear_up() -> None:
    def work(worker: Worker) -> None:
        try:
            worker.begun.set()
            stopping.pause(1000)
        except KeyboardInterrupt:
            stopping.pause(0)
            with stopping.interruptible(lambda: worker.said.append("cut")), stopping.held():
                worker.said.append("cleared up")

    with stoppable():
        worker = Worker(work)
        ask_to_stop()
        assert worker.end() is None
    assert worker.said == ["cleared up"]


def test_without_a_request_nothing_is_stopped() -> None:
    with stopping.listening():
        stopping.check()
        assert not stopping.asked()
        with stopping.interruptible(lambda: None):
            stopping.pause(0)
