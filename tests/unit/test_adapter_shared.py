"""Many ask, few calls are made, and no answer is older than its question."""

import signal
import threading
from collections.abc import Callable, Sequence
from typing import Any

import pytest

from clawdet_cli import stopping
from clawdet_cli.adapters import shared
from clawdet_cli.adapters.shared import Flights, Once
from clawdet_cli.errors import CloudError, WaitError
from clawdet_cli.model import Deadline

SOON = 10.0
"""Seconds in which every test has ended if what it tests works."""


@pytest.fixture(autouse=True)
def without_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shared, "FIRST_PAUSE", 0.0)


class Cloud:
    """Counts flights, and keeps each in the air until it may land."""

    def __init__(self) -> None:
        self.flights: list[list[str]] = []
        self.version = 0
        self.in_the_air = threading.Semaphore(0)
        self.may_land = threading.Semaphore(0)
        self.fails: BaseException | None = None

    def fly(self, questions: Sequence[str]) -> tuple[Sequence[str], int]:
        seen = self.version  # at the start, as a list shows it
        self.flights.append(list(questions))
        self.in_the_air.release()
        assert self.may_land.acquire(timeout=SOON)
        if self.fails is not None:
            failure, self.fails = self.fails, None
            raise failure
        return [f"{question} at {seen}" for question in questions], 1

    def await_flight(self) -> None:
        assert self.in_the_air.acquire(timeout=SOON)


class Asker:
    """A thread with one question."""

    def __init__(self, ask: Callable[[], Any]) -> None:
        self.answer: Any = None
        self.error: BaseException | None = None
        self.thread = threading.Thread(target=self._run, args=(ask,), daemon=True)
        self.thread.start()

    def _run(self, ask: Callable[[], Any]) -> None:
        try:
            self.answer = ask()
        except BaseException as error:  # noqa: BLE001 - it is what is looked at
            self.error = error

    def end(self) -> Any:
        self.thread.join(SOON)
        assert not self.thread.is_alive()
        return self.answer


@pytest.fixture
def cloud() -> Cloud:
    return Cloud()


@pytest.fixture
def flights() -> Flights[str, str]:
    return Flights()


def asking(flights: Flights[str, str], cloud: Cloud, question: str, seconds: float = SOON) -> Asker:
    return Asker(lambda: flights.ask(question, cloud.fly, deadline=Deadline.after(seconds), what="the list"))


def until_waiting(flights: Flights[str, str], count: int) -> None:
    end = Deadline.after(SOON)
    while len(flights._waiting) != count:
        assert end.left() > 0


def test_who_asks_during_a_flight_is_answered_by_the_next_one_and_all_together(
    flights: Flights[str, str], cloud: Cloud
) -> None:
    first = asking(flights, cloud, "a")
    cloud.await_flight()
    cloud.version = 1  # what the first flight cannot have seen
    others = [asking(flights, cloud, question) for question in "bcd"]
    until_waiting(flights, 3)
    cloud.may_land.release()
    assert first.end() == "a at 0"
    cloud.await_flight()
    assert flights._waiting == []
    cloud.may_land.release()
    assert sorted(one.end() for one in others) == ["b at 1", "c at 1", "d at 1"]
    assert [len(questions) for questions in cloud.flights] == [1, 3]


def test_a_refusal_is_told_to_all_who_asked_and_each_may_add_to_it(flights: Flights[str, str], cloud: Cloud) -> None:
    first = asking(flights, cloud, "a")
    cloud.await_flight()
    others = [asking(flights, cloud, question) for question in "bc"]
    until_waiting(flights, 2)
    cloud.may_land.release()
    cloud.await_flight()
    cloud.fails = CloudError("it said no", details=["403"])
    cloud.may_land.release()
    first.end()
    for one in others:
        one.end()
    errors = [one.error for one in others]
    assert [(type(error), str(error)) for error in errors] == [(CloudError, "it said no")] * 2
    assert errors[0] is not errors[1]


@pytest.mark.parametrize("reason", [WaitError("its time was up"), KeyboardInterrupt()])
def test_what_concerns_only_who_flies_does_not_concern_the_others(
    reason: BaseException, flights: Flights[str, str], cloud: Cloud
) -> None:
    first = asking(flights, cloud, "a")
    cloud.await_flight()
    others = [asking(flights, cloud, question) for question in "bc"]
    until_waiting(flights, 2)
    cloud.may_land.release()
    cloud.await_flight()
    cloud.fails = reason
    cloud.may_land.release()
    cloud.await_flight()
    cloud.may_land.release()
    first.end()
    answers = [one.end() for one in others]
    assert [type(one.error) for one in others].count(type(reason)) == 1
    assert len([answer for answer in answers if answer]) == 1
    assert [len(questions) for questions in cloud.flights] == [1, 2, 1]


def test_nobody_waits_beyond_his_own_deadline(flights: Flights[str, str], cloud: Cloud) -> None:
    first = asking(flights, cloud, "a")
    cloud.await_flight()
    hasty = asking(flights, cloud, "b", seconds=0.01)
    hasty.end()
    assert isinstance(hasty.error, WaitError)
    cloud.may_land.release()
    assert first.end() == "a at 0"
    # Nor does anybody make a flight for a question that was given up.
    later = asking(flights, cloud, "c")
    cloud.await_flight()
    cloud.may_land.release()
    assert later.end() == "c at 0"
    assert cloud.flights == [["a"], ["c"]]


def test_a_stop_ends_the_wait_but_not_of_what_is_held(flights: Flights[str, str], cloud: Cloud) -> None:
    def held() -> str:
        with stopping.held():
            answer = flights.ask("b", cloud.fly, deadline=Deadline.after(SOON), what="the list")
            said.append(answer)
        return answer

    said: list[str] = []

    def story() -> None:
        first = asking(flights, cloud, "a")
        cloud.await_flight()
        holding = Asker(held)
        until_waiting(flights, 1)
        waiting = asking(flights, cloud, "c")
        until_waiting(flights, 2)
        signal.raise_signal(signal.SIGINT)
        stopping.tell_all()
        waiting.end()
        assert isinstance(waiting.error, KeyboardInterrupt)
        cloud.may_land.release()
        first.end()
        # Between two flights nothing is under way: there, a stop is obeyed also within an effect.
        holding.end()
        assert isinstance(holding.error, KeyboardInterrupt)

    with pytest.raises(KeyboardInterrupt), stopping.listening(), stopping.held():
        story()
    assert said == []


def test_pauses_grow_with_the_calls_that_a_flight_takes_and_begin_anew_after_a_silence(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    now, slept = [1000.0], list[float]()
    monkeypatch.setattr(shared, "FIRST_PAUSE", 0.1)
    monkeypatch.setattr("clawdet_cli.adapters.shared.time.monotonic", lambda: now[0])
    monkeypatch.setattr("clawdet_cli.adapters.shared.stopping.pause", slept.append)
    flights = Flights[str, str]()
    deadline = Deadline(now[0] + 10_000)

    def fly(questions: Sequence[str]) -> tuple[Sequence[str], int]:
        return questions, 4

    for _ in range(12):
        flights.ask("a", fly, deadline=deadline, what="the list")
        now[0] = max(now[0], flights._not_before - 0.001 * len(slept))
    flights._not_before, slept[:] = now[0], []
    assert flights._pause == shared.MOST_PAUSE
    now[0] += shared.IDLE_SECONDS + 1
    flights.ask("a", fly, deadline=deadline, what="the list")
    assert slept == [0.0]
    assert flights._not_before - now[0] == pytest.approx(0.4)
    flights.ask("a", fly, deadline=deadline, what="the list")
    assert slept[1] == pytest.approx(0.4)
    assert flights._not_before - now[0] == pytest.approx(4 * 0.15)


def test_a_thing_that_does_not_change_is_found_out_once_for_all(cloud: Cloud) -> None:
    once = Once()

    def find() -> str:
        return cloud.fly(["zone"])[0][0]

    askers = [Asker(lambda: once.get("zone", find, deadline=Deadline.after(SOON))) for _ in range(5)]
    cloud.await_flight()
    cloud.may_land.release()
    assert [one.end() for one in askers] == ["zone at 0"] * 5
    assert cloud.flights == [["zone"]]


def test_a_failure_to_find_it_out_is_not_kept() -> None:
    once, answers = Once(), [CloudError("busy"), None]

    def find() -> str:
        failure = answers.pop(0)
        if failure:
            raise failure
        return "found"

    with pytest.raises(CloudError, match="busy"):
        once.get("zone", find, deadline=Deadline.after(SOON))
    assert once.get("zone", find, deadline=Deadline.after(SOON)) == "found"
