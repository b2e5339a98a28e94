"""A call that never ends holds nobody up, and threads are used again."""

import threading
import weakref
from collections import deque

import pytest

from clawdet_cli.adapters import threads
from clawdet_cli.adapters.threads import begin


@pytest.fixture(autouse=True)
def idle(monkeypatch: pytest.MonkeyPatch) -> deque[threads._Thread]:
    none: deque[threads._Thread] = deque()
    monkeypatch.setattr(threads, "_idle", none)
    return none


def test_who_asks_again_gets_the_same_thread() -> None:
    asked = [begin(threading.get_ident).result(10) for _ in range(5)]
    assert len(set(asked)) == 1
    assert asked[0] != threading.get_ident()


def test_one_that_does_not_end_holds_up_no_other_one(idle: deque[threads._Thread]) -> None:
    never = threading.Event()
    left = begin(never.wait)
    with pytest.raises(TimeoutError):
        left.result(0.01)
    assert begin(lambda: "done").result(10) == "done"
    never.set()
    assert left.result(10)
    assert len(idle) == 2


@pytest.mark.parametrize("error", [ValueError("no"), KeyboardInterrupt(), SystemExit(1)])
def test_whatever_it_raises_is_raised_where_it_is_waited_for(error: BaseException) -> None:
    def fail() -> int:
        raise error

    failed = begin(fail)
    with pytest.raises(type(error)) as caught:
        failed.result(10)
    assert caught.value is error
    assert begin(lambda: 1).result(10) == 1


def test_an_idle_one_keeps_nothing_of_its_last_call(idle: deque[threads._Thread]) -> None:
    class Content:
        pass

    def called() -> weakref.ref[Content]:
        content = Content()
        assert begin(lambda: content).result(10) is content
        return weakref.ref(content)

    kept = called()
    assert begin(lambda: None).result(10) is None  # by then the thread has left the call before
    assert len(idle) == 1
    assert kept() is None
