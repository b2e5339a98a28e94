import pytest

from clawdet_cli.adapters.budget import RESERVE, Budget
from clawdet_cli.adapters.retry import NotYet


@pytest.fixture
def now(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    clock = [1000.0]
    monkeypatch.setattr("clawdet_cli.adapters.budget.time.monotonic", lambda: clock[0])
    return clock


def test_without_any_answer_everything_goes_through() -> None:
    budget = Budget("Hetzner")
    budget.sent()
    budget.spend(changing=False)
    assert budget.calls == 1


@pytest.mark.parametrize(("limit", "left"), [(None, "5"), ("3600", None), ("x", "5"), ("3600", "-1"), ("²", "1")])
def test_headers_that_say_nothing_hold_nothing_up(limit: str | None, left: str | None) -> None:
    budget = Budget("Hetzner")
    budget.answered(limit, left, per_second=1.0)
    budget.spend(changing=False)


def test_reading_leaves_a_reserve_to_changes(now: list[float]) -> None:
    budget = Budget("Hetzner")
    budget.answered("3600", str(RESERVE - 5), per_second=1.0)
    budget.spend(changing=True)
    with pytest.raises(NotYet) as caught:
        budget.spend(changing=False)
    assert str(caught.value) == ("Hetzner's limit of requests is nearly used up (15 of 3600 left): waiting 6 s")
    assert caught.value.pause == 6
    assert not caught.value.maybe_done
    now[0] += 6
    budget.spend(changing=False)


def test_a_change_waits_only_when_nothing_is_left(now: list[float]) -> None:
    budget = Budget("Hetzner")
    budget.answered("3600", "0", per_second=1.0)
    with pytest.raises(NotYet, match=r"0 of 3600 left\): waiting 1 s"):
        budget.spend(changing=True)
    now[0] += 1
    budget.spend(changing=True)


def test_a_window_is_waited_for_to_its_end(now: list[float]) -> None:
    budget = Budget("Cloudflare")
    budget.answered("1200", "3", full_in=40.0)
    now[0] += 10
    with pytest.raises(NotYet, match="waiting 30 s"):
        budget.spend(changing=False)
    now[0] += 30
    budget.spend(changing=False)


def test_a_small_limit_keeps_a_small_reserve() -> None:
    budget = Budget("Hetzner")
    budget.answered("10", "3", per_second=1.0)
    budget.spend(changing=False)
