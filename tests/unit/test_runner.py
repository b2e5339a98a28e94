from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, cast
from unittest.mock import ANY

import pytest
from pytest_mock import MockerFixture

from clawdet_cli import uptime
from clawdet_cli.adapters import Clouds, connect
from clawdet_cli.adapters.ssh import Ssh
from clawdet_cli.errors import (
    ClawdetError,
    CloudError,
    ConfigError,
    ForeignError,
    GuestError,
    LeaseLostError,
    RecordError,
    StateError,
    StoppedError,
    Terminated,
    WaitError,
)
from clawdet_cli.model import Deadline, Effect, EffectOutcome, Event, Instance, Server, StageRun, Status
from clawdet_cli.settings import Settings, load
from clawdet_cli.stages import verify
from clawdet_cli.stages.runner import Run, Stage, execute, left_behind
from clawdet_cli.state import State

THEN = "2026-01-01T00:00:00.000+00:00"
INSTANCE = Instance(
    "alice", "example.com", "abcdef012345", Status.PENDING, sandbox=False, created_at=THEN, updated_at=THEN
)
WITH_SERVER: dict[str, Any] = {
    "server_id": 4711,
    "server_type": "cpx22",
    "location": "nbg1",
    "monthly": "7.99",
    "ipv4": "192.0.2.1",
}


class Story:
    """A run of fake stages, and what could be seen of it."""

    def __init__(self, folder: Path, settings: Settings, clouds: Clouds) -> None:
        self.state = State(folder / "clawdet.db")
        self.state.add(INSTANCE)
        self.events: list[Event] = []
        self.acted: list[tuple[str, Status]] = []
        self.run = Run(
            INSTANCE,
            settings,
            clouds=clouds,
            state=self.state,
            watch=self.events.append,
            deadline=Deadline.after(60),
        )

    def stage(self, name: str, status: Status, act: Callable[[Run], None] = lambda _: None) -> Stage:
        def acting(run: Run) -> None:
            # What a crash in this moment would leave on the disk.
            self.acted.append((name, self.recorded.status))
            act(run)

        return Stage(name, status, f"the title of {name}", acting)

    def fail(self, error: BaseException, *, on_failure: Status = Status.FAILED, **made: Any) -> ClawdetError:
        """Carry out three stages, the second of which makes something and fails."""

        def act(run: Run) -> None:
            if made:
                run.record(**made)
            raise error

        stages = [
            self.stage("first", Status.PENDING),
            self.stage("second", Status.CREATING_VPS, act),
            self.stage("third", Status.INSTALLING),
        ]
        return self.failure(stages, on_failure)

    def failure(self, stages: Sequence[Stage], on_failure: Status = Status.FAILED) -> ClawdetError:
        with pytest.raises(ClawdetError) as caught:
            execute(self.run, stages, on_failure=on_failure)
        return caught.value

    @property
    def recorded(self) -> Instance:
        found = self.state.instance("alice")
        assert found is not None
        return found

    def told(self) -> list[tuple[str, str, str, str]]:
        return [(event.kind, event.stage, event.status, event.text) for event in self.events]


@pytest.fixture(scope="module")
def settings(tmp_path_factory: pytest.TempPathFactory) -> Settings:
    folder = tmp_path_factory.mktemp("settings")
    environment = {
        "CLAWDET_CONFIG": str(folder / "none"),
        "HCLOUD_TOKEN": "never-sent-anywhere",
        "CLOUDFLARE_API_TOKEN": "never-sent-anywhere",
    }
    return load({"state": folder}, environment, default_openclaw="2026.9.6")


@pytest.fixture(scope="module")
def clouds(settings: Settings) -> Clouds:
    """Make the real clients, once: it takes a while, and no fake stage calls them."""
    return connect(settings, Deadline.after(60))


@pytest.fixture
def story(tmp_path: Path, settings: Settings, clouds: Clouds) -> Iterator[Story]:
    told = Story(tmp_path, settings, clouds)
    with closing(told.state):
        yield told


def test_stages_act_in_order_each_after_its_status_was_written(story: Story) -> None:
    stages = [
        story.stage("first", Status.CREATING_VPS),
        story.stage("second", Status.CONFIGURING_DNS, lambda run: run.note("half way")),
        story.stage("third", Status.INSTALLING),
    ]
    execute(story.run, stages, on_failure=Status.FAILED)
    assert story.acted == [
        ("first", Status.CREATING_VPS),
        ("second", Status.CONFIGURING_DNS),
        ("third", Status.INSTALLING),
    ]
    assert story.told() == [
        ("stage_started", "first", "", "the title of first"),
        ("stage_finished", "first", "done", "the title of first"),
        ("stage_started", "second", "", "the title of second"),
        ("note", "second", "", "half way"),
        ("stage_finished", "second", "done", "the title of second"),
        ("stage_started", "third", "", "the title of third"),
        ("stage_finished", "third", "done", "the title of third"),
    ]
    assert [(stage.name, stage.status) for stage in story.recorded.stages] == [
        ("first", "done"),
        ("second", "done"),
        ("third", "done"),
    ]
    assert story.run.stage == ""


def test_a_stage_begins_with_a_forecast_from_earlier_runs(story: Story) -> None:
    story.state.end_stage(story.state.begin_stage(INSTANCE, "first"), "done", 12.5)
    execute(
        story.run,
        [story.stage("first", Status.PENDING), story.stage("new", Status.PENDING)],
        on_failure=Status.FAILED,
    )
    assert [event.seconds for event in story.events if event.kind == "stage_started"] == [12.5, 0.0]


@pytest.mark.parametrize(
    ("error", "kind", "exit_code", "what"),
    [
        (ConfigError("refused"), ConfigError, 3, "refused"),
        (StateError("taken"), StateError, 4, "taken"),
        (CloudError("sold out"), CloudError, 5, "sold out"),
        (GuestError("broken"), GuestError, 6, "broken"),
        (WaitError("not ready"), WaitError, 7, "not ready"),
        (KeyboardInterrupt(), StoppedError, 130, "Stopped by Ctrl-C while: the title of second."),
        (Terminated(), StoppedError, 143, "Stopped by SIGTERM while: the title of second."),
        (KeyError("id"), ClawdetError, 1, "A bug in clawdet: KeyError while: the title of second."),
        (SystemExit(3), ClawdetError, 1, "A bug in clawdet: SystemExit while: the title of second."),
    ],
    ids=["config", "state", "cloud", "guest", "wait", "Ctrl-C", "SIGTERM", "bug", "exit"],
)
def test_every_failure_gets_the_same_shape(
    story: Story, error: BaseException, kind: type[ClawdetError], exit_code: int, what: str
) -> None:
    failure = story.fail(error, **WITH_SERVER)
    assert type(failure) is kind
    assert (failure.exit_code, failure.what, failure.stage) == (exit_code, what, "second")
    assert failure.left_behind == (
        "server clawdet-alice (id 4711, cpx22 in nbg1): EUR 7.99 per month until it is destroyed",
    )
    assert [step.split("    ")[0] for step in failure.next_steps] == [
        "clawdet provision alice",
        "clawdet destroy alice",
    ]
    assert (story.recorded.status, story.recorded.error) == (Status.FAILED, what)
    assert [name for name, _ in story.acted] == ["first", "second"]
    assert [(stage.name, stage.status) for stage in story.recorded.stages] == [("first", "done"), ("second", "failed")]
    assert story.told() == [
        ("stage_started", "first", "", "the title of first"),
        ("stage_finished", "first", "done", "the title of first"),
        ("stage_started", "second", "", "the title of second"),
        ("stage_finished", "second", "failed", what),
    ]
    assert story.run.stage == ""


def test_a_failure_keeps_its_cause_for_the_run_log(story: Story) -> None:
    refused = ValueError("what the SDK said")
    error = CloudError("refused")
    error.__cause__ = refused
    assert story.fail(error).__cause__ is refused


def test_a_bug_has_its_traceback_for_the_run_log(story: Story) -> None:
    bug = KeyError("id")
    assert story.fail(bug).__cause__ is bug


def test_the_failures_own_next_steps_come_first(story: Story) -> None:
    steps = story.fail(CloudError("sold out", next_steps=["try another location"])).next_steps
    assert steps[0] == "try another location"
    assert len(steps) == 3


def test_a_destroy_that_fails_goes_on_with_destroy(story: Story) -> None:
    failure = story.fail(CloudError("locked"), on_failure=Status.DESTROYING)
    assert failure.next_steps == ("clawdet destroy alice",)
    assert story.recorded.status == Status.DESTROYING


def test_a_run_after_a_failure_shows_the_newest_of_each_stage(story: Story) -> None:
    story.fail(CloudError("sold out"))
    execute(story.run, [story.stage("second", Status.CREATING_VPS)], on_failure=Status.FAILED)
    seconds = [replace(stage, seconds=0.0) for stage in story.recorded.stages]
    assert seconds == [StageRun("first", "done", 0.0), StageRun("second", "done", 0.0)]


def test_a_database_that_fails_too_does_not_hide_the_failure(story: Story) -> None:
    def act(run: Run) -> None:
        run.record(**WITH_SERVER)
        run.state.close()
        raise CloudError("sold out")

    failure = story.failure([story.stage("only", Status.CREATING_VPS, act)])
    assert (type(failure), failure.what, failure.stage) == (CloudError, "sold out", "only")
    assert "id 4711" in failure.left_behind[0]
    assert story.told()[-1] == ("stage_finished", "only", "failed", "sold out")


def test_a_database_that_fails_between_stages_still_tells_what_costs_money(story: Story) -> None:
    def act(run: Run) -> None:
        run.record(**WITH_SERVER)
        run.state.close()

    stages = [story.stage("first", Status.CREATING_VPS, act), story.stage("second", Status.INSTALLING)]
    failure = story.failure(stages)
    assert (type(failure), failure.stage) == (RecordError, "first")
    assert "id 4711" in failure.left_behind[0]
    assert [name for name, _ in story.acted] == ["first"]


def test_a_database_that_fails_before_a_stage_acts_still_tells_what_costs_money(story: Story) -> None:
    story.run.record(**WITH_SERVER)
    story.state.close()
    failure = story.failure([story.stage("only", Status.INSTALLING)])
    assert (type(failure), failure.stage) == (RecordError, "only")
    assert "id 4711" in failure.left_behind[0]
    assert story.acted == []


def order(run: Run, outcome: BaseException | None = None, before_the_answer: Callable[[], None] | None = None) -> None:
    """Order a server of a cloud that answers as told."""
    with run.effect("create_server", "clawdet-alice", monthly="7.99") as effect:
        if before_the_answer:
            before_the_answer()
        if outcome:
            raise outcome
        effect.made(4711, **WITH_SERVER)


def test_an_effect_is_in_the_database_before_it_is_made_and_its_result_with_it(story: Story) -> None:
    seen: list[list[Effect]] = []
    order(story.run, before_the_answer=lambda: seen.append(story.state.open_effects("alice")))
    assert [(effect.kind, effect.name, effect.data) for effect in seen[0]] == [
        ("create_server", "clawdet-alice", {"monthly": "7.99", "boot": uptime.boot(), "uptime": ANY})
    ]
    assert 0 <= uptime.seconds() - seen[0][0].data["uptime"] < 60
    assert story.state.open_effects("alice") == []
    assert story.run.open_effects == []
    assert story.recorded.server_id == story.run.instance.server_id == 4711


def test_what_stands_in_the_database_is_not_written_again(story: Story) -> None:
    story.run.record(zone_id="one", status=Status.INSTALLING)
    with story.state.transaction() as connection:
        connection.execute("UPDATE instances SET updated_at = ?", (THEN,))
    story.run.record(zone_id="one")
    assert story.recorded.updated_at == THEN
    story.run.record(zone_id="one", status=Status.COMPLETE)
    assert story.recorded.updated_at != THEN
    assert story.recorded.status is Status.COMPLETE


def test_a_server_whose_id_could_not_be_written_is_not_forgotten(story: Story) -> None:
    def act(run: Run) -> None:
        order(run, before_the_answer=run.state.close)

    failure = story.failure([story.stage("only", Status.CREATING_VPS, act)])
    assert type(failure) is RecordError
    assert failure.left_behind == (
        "server clawdet-alice (id 4711, cpx22 in nbg1): EUR 7.99 per month until it is destroyed",
    )


@pytest.mark.parametrize("error", [CloudError("no"), ConfigError("no"), StateError("taken")])
def test_after_a_clear_no_nothing_was_made(story: Story, error: ClawdetError) -> None:
    failure = story.failure([story.stage("only", Status.CREATING_VPS, lambda run: order(run, error))])
    assert failure.left_behind == ()
    assert story.state.open_effects("alice") == []


def unsettled() -> CloudError:
    """Give a no that came after a call whose answer was lost."""
    error = CloudError("no")
    error.unsettled = True
    return error


@pytest.mark.parametrize(
    "error", [WaitError("no answer"), KeyboardInterrupt(), Terminated(), ValueError("bug"), unsettled()]
)
def test_after_a_break_in_the_order_there_may_be_a_server(story: Story, error: BaseException) -> None:
    failure = story.failure([story.stage("only", Status.CREATING_VPS, lambda run: order(run, error))])
    (line,) = failure.left_behind
    assert line.startswith("perhaps a server clawdet-alice (EUR 7.99 per month): the order may have been accepted;")
    assert [effect.kind for effect in story.state.open_effects("alice")] == ["create_server"]


def take_over(story: Story) -> None:
    story.state.held["alice"] = ("this run", 1)


@pytest.mark.parametrize("at", ["before it is sent", "before its answer"])
def test_who_lost_the_lease_within_an_effect_records_nothing_and_claims_nothing(at: str, story: Story) -> None:
    def act(run: Run) -> None:
        with run.effect("create_server", "clawdet-alice", monthly="7.99") as effect:
            take_over(story)
            if at == "before it is sent":
                run.fence()
            effect.made(4711, **WITH_SERVER)

    failure = story.failure([story.stage("only", Status.CREATING_VPS, act)])
    assert type(failure) is LeaseLostError
    assert failure.left_behind == ()
    assert not any("clawdet provision" in step for step in failure.next_steps)
    story.state.held.clear()
    assert (story.recorded.status, story.recorded.server_id) == (Status.CREATING_VPS, None)
    with story.state.transaction() as connection:
        (outcome,) = connection.execute("SELECT outcome FROM effects").fetchone()
    assert outcome == ("refused" if at == "before it is sent" else "orphaned")


def test_a_loss_of_the_lease_explains_a_failure_that_came_after_it(story: Story) -> None:
    def act(run: Run) -> None:
        with run.effect("create_server", "clawdet-alice", monthly="7.99"):
            take_over(story)
            raise CloudError("the firewall is gone")

    failure = story.failure([story.stage("only", Status.CREATING_VPS, act)])
    assert type(failure) is LeaseLostError
    assert failure.details == ("the firewall is gone",)


def test_what_is_foreign_is_refused_before_the_intent_is_written(story: Story) -> None:
    created = datetime.now(UTC)
    shop = Server(9, "shop-db", "running", "192.0.2.9", "cx23", "nbg1", {"owner": "shop"}, created)

    def act(run: Run) -> None:
        with run.effect("delete_server", "9", on=shop):
            pytest.fail("it was deleted")

    failure = story.failure([story.stage("only", Status.DESTROYING, act)], Status.DESTROYING)
    assert type(failure) is ForeignError
    assert story.state.open_effects("alice") == []
    assert story.recorded.status is Status.DESTROYING


def test_what_an_earlier_run_left_open_is_told_until_it_is_looked_at(story: Story) -> None:
    story.state.begin_effect(INSTANCE, "create_server", "create_server", "clawdet-alice", {})
    later = Run(
        INSTANCE,
        story.run.settings,
        clouds=story.run.clouds,
        state=story.state,
        watch=story.events.append,
        deadline=Deadline.after(60),
    )
    (effect,) = later.open_effects
    assert left_behind(INSTANCE, later.open_effects)[0].startswith("perhaps a server clawdet-alice")
    later.settle(effect, EffectOutcome.ABSENT, "", {})
    assert later.open_effects == []
    assert story.state.open_effects("alice") == []


def test_all_that_is_left_behind_is_told_with_what_it_costs() -> None:
    everything = replace(INSTANCE, status=Status.INSTALLING, record_id="r", certificate_id="c", **WITH_SERVER)
    assert left_behind(everything) == (
        "server clawdet-alice (id 4711, cpx22 in nbg1): EUR 7.99 per month until it is destroyed",
        "DNS record alice.example.com -> 192.0.2.1: free of charge",
        "Origin CA certificate c: free of charge",
    )
    without_price = left_behind(replace(everything, monthly=None, record_id=None, certificate_id=None))
    assert without_price == ("server clawdet-alice (id 4711, cpx22 in nbg1): it costs money until it is destroyed",)
    assert left_behind(INSTANCE) == ()


class Connection:
    """Stands for an open SSH connection."""

    alive = True
    closed = False

    def close(self) -> None:
        self.closed = True


@pytest.mark.parametrize("error", [None, CloudError("sold out"), KeyboardInterrupt()])
def test_the_connection_to_the_vps_is_closed_at_every_end(story: Story, error: BaseException | None) -> None:
    connection = Connection()

    def act(run: Run) -> None:
        run._ssh = cast(Ssh, connection)
        assert run.ssh() is run._ssh
        if error:
            raise error

    stages = [story.stage("only", Status.INSTALLING, act)]
    with story.run:
        if error:
            story.failure(stages)
        else:
            execute(story.run, stages, on_failure=Status.FAILED)
        open_inside = not connection.closed
    assert open_inside
    assert connection.closed
    assert story.run._ssh is None


def test_without_a_pinned_key_no_connection_is_made(story: Story) -> None:
    story.run.record(ipv4="192.0.2.1", host_key=None)
    with pytest.raises(StateError, match="No address or host key") as caught:
        story.run.ssh()
    assert caught.value.next_steps == ("clawdet provision alice",)


def test_a_run_that_lost_its_lease_begins_no_further_check(story: Story, mocker: MockerFixture) -> None:
    evidence = mocker.patch.object(verify, "_Evidence")
    mocker.patch.object(verify, "begin")
    take_over(story)
    with pytest.raises(LeaseLostError):
        verify.six_checks(story.run, patience=0)
    assert evidence.return_value.method_calls == []
