"""Carries stages out: the only place for progress, failure and their record."""

import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self

from clawdet_cli.adapters import Clouds
from clawdet_cli.adapters.ssh import Ssh
from clawdet_cli.errors import (
    ClawdetError,
    CloudError,
    ConfigError,
    RecordError,
    StateError,
    StoppedError,
    Terminated,
)
from clawdet_cli.model import Deadline, Event, Instance, Plan, ServerOffer, Status, Watcher, Zone, now_text
from clawdet_cli.settings import Secret, Settings
from clawdet_cli.state import State


@dataclass(frozen=True)
class Stage:
    """A part of a run that does something and checks it."""

    name: str
    status: Status
    title: str
    act: Callable[["Run"], None]


class Run:
    """What the stages of one command share: the instance as it is now, the clouds, the way to the VPS."""

    def __init__(
        self,
        instance: Instance,
        settings: Settings,
        *,
        clouds: Clouds,
        state: State,
        watch: Watcher,
        deadline: Deadline,
        approve: Callable[[Plan], bool] = lambda _: True,
        secrets: list[Secret] | None = None,
    ) -> None:
        self.instance = instance
        self.settings = settings
        self.clouds = clouds
        self.state = state
        self.watch = watch
        self.deadline = deadline
        self.approve = approve
        self.secrets = secrets if secrets is not None else []
        """What the run log masks; a stage that learns a secret adds it."""
        self.stage = ""
        self.zone: Zone | None = None
        """Set by the first stage of each list."""
        self.offers: Sequence[ServerOffer] = ()
        """Set by the first stage: what may be ordered, in the order in which it is tried."""
        self.configured: Mapping[str, str] = {}
        """Set by the configure stage: what the script says of the machine."""
        self.steps_done: list[str] = []
        """Steps of the script that changed the machine or checked it; the others were skipped."""
        self.removed: list[str] = []
        self.absent: list[str] = []
        self._ssh: Ssh | None = None

    def record(self, **changes: Any) -> None:
        """Write what is known now, durable when this returns."""
        self.instance = self.state.record(self.instance.user, **changes)

    def intend(self, effect: str, **data: Any) -> None:
        """Write what is about to be done, before it is done: after a crash the clouds are asked about it."""
        self.state.event(self.instance, f"intent:{effect}", data)

    def note(self, text: str) -> None:
        """Tell the watcher something."""
        self.emit("note", text=text)

    def emit(self, kind: str, *, step: str = "", text: str = "", status: str = "", seconds: float = 0.0) -> None:
        """Send the watcher an event of the running stage."""
        self.watch(Event(kind, now_text(), self.stage, step, text, status, seconds))

    def ssh(self, deadline: Deadline | None = None) -> Ssh:
        """Give the connection to the VPS, opening it when there is none. Only the pinned host key is accepted."""
        if self._ssh is None or not self._ssh.alive:
            self.hang_up()
            if self.instance.ipv4 is None or self.instance.host_key is None:
                raise StateError(
                    f"No address or host key of {self.instance.user}'s VPS is recorded.",
                    next_steps=[f"clawdet provision {self.instance.user}"],
                )
            self._ssh = Ssh.connect(
                self.settings.endpoints.dial(self.instance.ipv4, 22),
                self.instance.host_key,
                self.settings.ssh_key,
                deadline or self.deadline,
            )
        return self._ssh

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.hang_up()
        self.clouds.close()

    def hang_up(self) -> None:
        """Close the connection to the VPS."""
        if self._ssh is not None:
            self._ssh.close()
            self._ssh = None


def execute(run: Run, stages: Sequence[Stage], *, on_failure: Status) -> None:
    """Carry the stages out in order. Raises every failure as a ClawdetError that knows its stage and what exists."""
    try:
        for stage in stages:
            _carry_out(run, stage, on_failure)
    finally:
        run.stage = ""


def _carry_out(run: Run, stage: Stage, on_failure: Status) -> None:
    run.stage = stage.name
    row: int | None = None
    started = time.monotonic()
    try:
        run.record(status=stage.status)
        row = run.state.begin_stage(run.instance, stage.name)
        run.emit("stage_started", text=stage.title, seconds=run.state.typical_seconds(stage.name) or 0.0)
        stage.act(run)
        seconds = time.monotonic() - started
        run.state.end_stage(row, "done", seconds)
    except BaseException as error:
        seconds = time.monotonic() - started
        failure = shaped(error, stage.title)
        failure.stage = stage.name
        failure.left_behind = left_behind(run.instance, sure=_refused(failure))
        failure.next_steps = (*failure.next_steps, *_ways_on(run.instance, on_failure))
        run.emit("stage_finished", text=failure.what, status="failed", seconds=seconds)
        # The failure itself is what the user must learn, also when the disk is full and the record of it fails.
        with suppress(StateError):
            if row is not None:
                run.state.end_stage(row, "failed", seconds)
            run.record(status=on_failure, error=failure.what)
        if failure is error:
            raise  # with its own cause, which the run log shows
        raise failure from error
    run.emit("stage_finished", text=stage.title, status="done", seconds=seconds)


def shaped(error: BaseException, title: str) -> ClawdetError:
    """Give a failure as an error of ours; `title` says what was being done."""
    match error:
        case ClawdetError():
            return error
        case KeyboardInterrupt():
            return StoppedError(f"Stopped by Ctrl-C while: {title}.", signal_number=2)
        case Terminated():
            return StoppedError(f"Stopped by SIGTERM while: {title}.", signal_number=15)
        case _:
            # Its text is not ours and may quote anything, so it goes to the log only, where secrets are masked.
            return ClawdetError(f"A bug in clawdet: {type(error).__name__} while: {title}.")


def _refused(error: ClawdetError) -> bool:
    """Say whether nothing can have been made without our knowing: a clear no, before or instead of an effect."""
    # When it was the database that failed, the id of what was just made may be what it could not write.
    return isinstance(error, CloudError | ConfigError | StateError) and not isinstance(error, RecordError)


def left_behind(instance: Instance, *, sure: bool = True) -> tuple[str, ...]:
    """Tell what exists now, and what of it costs money."""
    found = []
    if instance.server_id is not None:
        price = f"EUR {instance.monthly} per month" if instance.monthly else "it costs money"
        found.append(
            f"server {instance.server_name} (id {instance.server_id}, {instance.server_type} in {instance.location}):"
            f" {price} until it is destroyed"
        )
    elif instance.status == Status.CREATING_VPS and not sure:
        found.append(
            f"perhaps a server {instance.server_name}: the order may have been accepted;"
            " running the command again looks for it and goes on with it"
        )
    if instance.record_id is not None:
        found.append(f"DNS record {instance.host} -> {instance.ipv4}: free of charge")
    if instance.certificate_id is not None:
        found.append(f"Origin CA certificate {instance.certificate_id}: free of charge")
    return tuple(found)


def _ways_on(instance: Instance, on_failure: Status) -> tuple[str, ...]:
    if on_failure == Status.DESTROYING:
        return (f"clawdet destroy {instance.user}",)
    return (
        f"clawdet provision {instance.user}    (goes on from here)",
        f"clawdet destroy {instance.user}    (removes what exists)",
    )
