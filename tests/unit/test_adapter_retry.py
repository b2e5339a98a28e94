import time
from collections.abc import Callable

import pytest

from clawdet_cli.adapters import retry
from clawdet_cli.adapters.answers import unknown_shape
from clawdet_cli.adapters.retry import Lost, NotYet, ask, change, until
from clawdet_cli.errors import ClawdetError, CloudError, LeaseLostError, WaitError
from clawdet_cli.model import Deadline

Step = Exception | object


def script(*steps: Step) -> Callable[[], object]:
    """Give a call that raises or returns each step in turn, and fails when asked more often."""
    left = list(steps)

    def call() -> object:
        step = left.pop(0)
        if isinstance(step, Exception):
            raise step
        return step

    return call


class TestUntil:
    def test_gives_the_first_thing_that_is_something(self) -> None:
        found = until(script(None, NotYet("not there"), 0), deadline=Deadline.after(5), what="a number", every=0.001)
        assert found == 0

    def test_tells_each_new_thing_seen_once(self) -> None:
        told: list[str] = []
        steps = script(NotYet("off"), NotYet("off"), OSError("cable"), NotYet("on"), "up")
        until(steps, deadline=Deadline.after(5), what="x", every=0.001, catching=(OSError,), watch=told.append)
        assert told == ["off", "cable", "on"]

    def test_says_at_the_deadline_what_it_waited_for_and_saw_last(self) -> None:
        def off() -> None:
            raise NotYet("it is off")

        began = time.monotonic()
        with pytest.raises(WaitError, match=r"Waited 0 s for the lamp; last seen: it is off\.") as caught:
            until(off, deadline=Deadline.after(0.1), what="the lamp", every=60)
        assert time.monotonic() - began < 5
        assert caught.value.next_steps

    def test_looks_once_even_when_there_is_no_time(self) -> None:
        assert until(script("there"), deadline=Deadline.after(0), what="x", first=60) == "there"

    def test_other_errors_end_it_at_once(self) -> None:
        with pytest.raises(OSError, match="cable"):
            until(script(OSError("cable")), deadline=Deadline.after(5), what="x")

    def test_an_interrupt_ends_it(self) -> None:
        def interrupt() -> None:
            raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            until(interrupt, deadline=Deadline.after(5), what="x")


class TestAsk:
    def test_asks_again_and_takes_none_for_an_answer(self) -> None:
        steps = script(Lost("cut"), NotYet("later", pause=0), None)
        assert ask(steps, deadline=Deadline.after(5), what="x") is None

    def test_pauses_as_long_as_it_is_told(self) -> None:
        began = time.monotonic()
        ask(script(NotYet("later", pause=0.4), 1), deadline=Deadline.after(5), what="x")
        assert time.monotonic() - began >= 0.4

    def test_runs_out_of_patience_with_lost_answers_only(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(retry, "PATIENCE", 0.1)
        assert ask(script(NotYet("a", pause=0), NotYet("b", pause=0), 1), deadline=Deadline.after(5), what="x") == 1
        with pytest.raises(CloudError, match="no usable answer came") as caught:
            ask(script(Lost("cut"), Lost("cut again")), deadline=Deadline.after(5), what="x")
        assert caught.value.details == ("cut again",)


class TestChange:
    def change(self, act: Callable[[], object], look: Callable[[], object]) -> object:
        return change(act, look, deadline=Deadline.after(5), what="x")

    def test_acts_once_when_all_is_well(self) -> None:
        assert self.change(script("made"), script()) == "made"

    def test_finds_what_an_unknown_outcome_made(self) -> None:
        assert self.change(script(Lost("cut")), script("made after all")) == "made after all"

    def test_acts_again_only_after_a_look_that_found_nothing(self) -> None:
        assert self.change(script(Lost("cut"), Lost("cut"), "made"), script(None, None)) == "made"

    def test_looks_until_it_has_seen(self) -> None:
        assert self.change(script(Lost("cut"), "made"), script(Lost("cut"), NotYet("later", pause=0), None)) == "made"

    def test_a_refusal_for_now_needs_no_look(self) -> None:
        assert self.change(script(NotYet("busy", pause=0), "made"), script()) == "made"

    def test_an_answer_that_is_not_understood_leaves_open_whether_it_was_done(self) -> None:
        with pytest.raises(CloudError) as caught:
            self.change(script(unknown_shape("Hetzner Cloud", "order", KeyError("server"))), script())
        assert caught.value.unsettled

    def test_a_refusal_leaves_nothing_open(self) -> None:
        with pytest.raises(CloudError) as caught:
            self.change(script(CloudError("no")), script())
        assert not caught.value.unsettled

    @pytest.mark.parametrize("repeated", [(CloudError("sold out"),), (NotYet("limit of requests", pause=9),) * 2])
    def test_a_refusal_of_the_repeat_does_not_settle_the_call_whose_answer_was_lost(
        self, repeated: tuple[Exception, ...]
    ) -> None:
        with pytest.raises(ClawdetError) as caught:
            change(script(Lost("cut"), *repeated), script(None), deadline=Deadline.after(1), what="x")
        assert caught.value.unsettled

    def test_the_fence_is_asked_before_each_call_and_each_repeat(self) -> None:
        asked: list[str] = []

        def fence() -> None:
            asked.append("fence")
            if len(asked) == 3:
                raise LeaseLostError("taken over")

        def act() -> str:
            assert asked[-1] == "fence"
            raise Lost("cut")

        with pytest.raises(LeaseLostError) as caught:
            change(act, script(None, None), deadline=Deadline.after(5), what="x", fence=fence)
        assert asked == ["fence"] * 3
        assert caught.value.unsettled, "the calls before may have been carried out"

    def test_what_the_fence_refuses_was_never_sent(self) -> None:
        def fence() -> None:
            raise LeaseLostError("taken over")

        with pytest.raises(LeaseLostError) as caught:
            change(script(), script(), deadline=Deadline.after(5), what="x", fence=fence)
        assert not caught.value.unsettled
