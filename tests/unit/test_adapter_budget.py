import itertools
import threading

import pytest

from clawdet_cli.adapters.budget import RESERVE, Budget
from clawdet_cli.adapters.retry import NotYet


@pytest.fixture
def now(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    clock = [1000.0]
    monkeypatch.setattr("clawdet_cli.adapters.budget.time.monotonic", lambda: clock[0])
    return clock


def spend(budget: Budget, *, changing: bool = False) -> None:
    with budget.spent(changing=changing):
        pass


def test_without_any_answer_everything_goes_through() -> None:
    budget = Budget("Hetzner")
    budget.sent()
    spend(budget)
    assert budget.calls == 1


@pytest.mark.parametrize(("limit", "left"), [(None, "5"), ("3600", None), ("x", "5"), ("3600", "-1"), ("²", "1")])
def test_headers_that_say_nothing_hold_nothing_up(limit: str | None, left: str | None) -> None:
    budget = Budget("Hetzner")
    budget.answered(limit, left, per_second=1.0)
    spend(budget)


def test_reading_leaves_a_reserve_to_changes(now: list[float]) -> None:
    budget = Budget("Hetzner")
    budget.answered("3600", str(RESERVE - 5), per_second=1.0)
    spend(budget, changing=True)
    with pytest.raises(NotYet) as caught:
        spend(budget)
    assert str(caught.value) == ("Hetzner's limit of requests is nearly used up (15 of 3600 left): waiting 6 s")
    assert caught.value.pause == 6
    assert not caught.value.maybe_done
    now[0] += 6
    spend(budget)


def test_a_change_waits_only_when_nothing_is_left(now: list[float]) -> None:
    budget = Budget("Hetzner")
    budget.answered("3600", "0", per_second=1.0)
    with pytest.raises(NotYet, match=r"0 of 3600 left\): waiting 1 s"):
        spend(budget, changing=True)
    now[0] += 1
    spend(budget, changing=True)


def test_a_window_is_waited_for_to_its_end(now: list[float]) -> None:
    budget = Budget("Cloudflare")
    budget.answered("1200", "3", full_in=40.0)
    now[0] += 10
    with pytest.raises(NotYet, match="waiting 30 s"):
        spend(budget)
    now[0] += 30
    spend(budget)


def test_a_small_limit_keeps_a_small_reserve() -> None:
    budget = Budget("Hetzner")
    budget.answered("10", "3", per_second=1.0)
    spend(budget)


@pytest.mark.usefixtures("now")
def test_many_threads_do_not_overshoot() -> None:
    budget = Budget("Hetzner")
    left = RESERVE + 5
    budget.answered("3600", str(left), per_second=1.0)
    together, through, refused = threading.Barrier(40), list[int](), list[float]()

    def work() -> None:
        together.wait(10)
        try:
            with budget.spent(changing=False):
                budget.sent()
                through.append(1)
                both.wait(10)  # they are all in the air at once
        except NotYet as reason:
            refused.append(reason.pause or 0.0)
            both.wait(10)

    both = threading.Barrier(40)
    threads = [threading.Thread(target=work) for _ in range(40)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(10)
    assert len(through) == left - RESERVE
    # Each of the others has a turn of its own, a second after the one before it.
    turns = sorted(refused)
    assert len(turns) == 35
    assert all(later - earlier == pytest.approx(1.0) for earlier, later in itertools.pairwise(turns))


def test_who_comes_later_does_not_take_the_turn_of_who_waits(now: list[float]) -> None:
    budget = Budget("Hetzner")
    budget.answered("3600", "0", per_second=1.0)
    with pytest.raises(NotYet) as waiting:
        spend(budget, changing=True)
    now[0] += waiting.value.pause or 0
    refused: list[NotYet] = []

    def latecomer() -> None:
        now[0] -= 0.5
        try:
            spend(budget, changing=True)
        except NotYet as reason:
            refused.append(reason)
        now[0] += 0.5

    thread = threading.Thread(target=latecomer)
    thread.start()
    thread.join(10)
    assert [reason.pause for reason in refused] == [pytest.approx(1.5)]
    spend(budget, changing=True)


@pytest.mark.usefixtures("now")
def test_an_answer_that_was_overtaken_says_nothing_new() -> None:
    budget = Budget("Hetzner")
    budget.sent()

    def overtake() -> None:
        budget.sent()
        budget.answered("3600", "0", per_second=1.0)

    thread = threading.Thread(target=overtake)
    thread.start()
    thread.join(10)
    budget.answered("3600", "100", per_second=1.0)
    with pytest.raises(NotYet):
        spend(budget, changing=True)


def test_a_window_that_has_passed_is_whole_again_and_no_more(now: list[float]) -> None:
    budget = Budget("Cloudflare")
    budget.answered("1200", "0", full_in=40.0)
    now[0] += 40
    spend(budget)
    assert budget._left == 1200
