"""Carries stages out: the only place for progress, failure and their record."""

import re
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from clawdet_cli import stopping, uptime
from clawdet_cli.adapters import Clouds
from clawdet_cli.adapters.ssh import CommandResult, ConnectionLost, Ssh
from clawdet_cli.errors import (
    AnotherDatabaseError,
    ClawdetError,
    CloudError,
    ConfigError,
    ForeignError,
    LeaseLostError,
    RecordError,
    StateError,
    StoppedError,
    Terminated,
    WaitError,
)
from clawdet_cli.model import (
    POOL,
    Certificate,
    Deadline,
    Effect,
    EffectOutcome,
    Event,
    Instance,
    Plan,
    ServerOffer,
    Status,
    Watcher,
    Zone,
    now_text,
)
from clawdet_cli.money import Price
from clawdet_cli.settings import Settings
from clawdet_cli.stages import ownership
from clawdet_cli.stages.ownership import Thing
from clawdet_cli.state import State

if TYPE_CHECKING:
    from clawdet_cli.stages.phase import Phase


CONNECTIONS = 3
"""How often a command is sent to the VPS over a connection that breaks."""

AT_FULL_PACE, SLOWEST_PACE = 20, 5.0
"""So many runs side by side look at their VPSs as often as one does. More of them look less often: nobody reads a
hundred logs line by line, and each look takes this machine a millisecond or more."""


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
        side_by_side: int = 1,
    ) -> None:
        self.instance = instance
        self.settings = settings
        self.clouds = clouds
        self.state = state
        self.watch = watch
        self.deadline = deadline
        self.approve = approve
        self.pace = min(SLOWEST_PACE, max(1.0, side_by_side / AT_FULL_PACE))
        """How much longer than alone it waits between two looks at its VPS."""
        self.stage = ""
        self.zone: Zone | None = None
        """Set by the first stage of each list."""
        self.offers: Sequence[ServerOffer] = ()
        """Set by the first stage: what may be ordered, in the order in which it is tried."""
        self.exists: Sequence[str] = ()
        self.remarks: Sequence[str] = ()
        """Set by the first stage: what is there already, and what else whoever approves an order should know."""
        self.prepared: Mapping[str, str] | None = None
        """Set by a claim from the pool: what the machine says that is installed there."""
        self.preparing: Phase | None = None
        """Set by join_prepare: the installation, which goes on while other stages do something else."""
        self.configuring: Phase | None = None
        """Set by send_configuration: the configuration, which waits on the VPS for the installation's end."""
        self.certificate: Certificate | None = None
        """Set by the stage that has it signed, for the next one."""
        self.configured: Mapping[str, str] = {}
        """Set by the configure stage: what the script says of the machine."""
        self.report: Future[CommandResult] | None = None
        """What the VPS says of itself, asked while something else is looked at."""
        self.origin_checked = False
        """Set by check_origin: the VPS answered as it should, past Cloudflare."""
        self.steps_done: list[str] = []
        """Steps of the script that changed the machine or checked it; the others were skipped."""
        self.forget_foreign = False
        """Somebody said that what is recorded and does not carry our mark is not ours: it is forgotten."""
        self.zone_gone = False
        """Somebody said that the zone is at Cloudflare no more: what was in it is forgotten."""
        self.removed: list[str] = []
        self.absent: list[str] = []
        self.not_judged: list[str] = []
        """What a destroy left, since nobody could tell whose it is."""
        self.may_appear: dict[str, str] = {}
        """What an earlier run asked a cloud for a moment before it died, and is not there yet, by kind of effect."""
        self.unseen_certificates: tuple[str, ...] = ()
        """Set once Cloudflare has refused to show them: what is said of those that could not be looked at."""
        self.open_effects = state.open_effects(instance.user)
        """What is not known to have ended: of this run, and of one before that was cut off."""
        self.also_holds: tuple[str, ...] = ()
        """Set by a claim: the server of the pool that it holds beside its user."""
        self._ssh: Ssh | None = None

    def record(self, **changes: Any) -> None:
        """Write what is known now, durable when this returns."""
        if all(getattr(self.instance, name) == value for name, value in changes.items()):
            # It stands there already, and each write waits for the disk.
            return
        with stopping.held():
            self.state.record(self.instance.user, **changes)
            self.instance = replace(self.instance, **changes)

    @contextmanager
    def effect(self, kind: str, name: str, *, on: Thing | None = None, **data: Any) -> Iterator["Pending"]:
        """Journal a change to a cloud or a VPS: the intent is durable before what is within runs, its result after.

        `on` is what is changed or deleted, if it exists already. Raises ForeignError, before anything is done, when
        that is not provably the instance's.

        Every call that changes something outside stands in one of these. What ends neither well nor with a clear no
        stays open in the journal, and the next run looks at it. A stop waits until the result is written.
        """
        if on is not None:
            ownership.refuse_foreign(self.instance, on, self.state)
        with stopping.held(lambda: self.note("stopping after this step; asked once more, at once")):
            begun_on = {"boot": uptime.boot(), "uptime": uptime.seconds()}
            begun = self.state.begin_effect(self.instance, self.stage, kind, name, {**data, **begun_on})
            self.open_effects.append(begun)
            pending = Pending()
            try:
                yield pending
            except ClawdetError as error:
                if _refused(error):
                    self.open_effects.remove(begun)
                    # The refusal is what the user must learn; an open intent is only looked at once more.
                    with suppress(StateError):
                        self.state.end_effect(begun, EffectOutcome.REFUSED, error.what, {})
                raise
            self.settle(begun, EffectOutcome.DONE, pending.result, pending.changes)

    def settle(self, effect: Effect, outcome: EffectOutcome, result: str, changes: Mapping[str, Any]) -> None:
        """Write what came of an effect, and with it what that changes in the instance."""
        with stopping.held():
            # Known from here on, also when it cannot be written: whoever is told what exists must hear of it.
            self.instance = replace(self.instance, **changes)
            self.state.end_effect(effect, outcome, result, changes)
            self.open_effects = [other for other in self.open_effects if other.id != effect.id]

    def fence(self) -> None:
        """Raise LeaseLostError when another run has taken over what this one works on, as while it slept."""
        for user in (self.instance.user, *self.also_holds):
            self.state.refuse_without_lease(user)

    @contextmanager
    def holding(self, user: str) -> Iterator[None]:
        """Ask for the lease on another user too before each change."""
        self.also_holds = (user,)
        try:
            yield
        finally:
            self.also_holds = ()

    def owns(self, thing: Thing) -> bool:
        """Return whether something in a cloud is provably this instance's."""
        return ownership.owns(self.instance, thing, self.state)

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
            if self.instance.ipv4 is None or not self.instance.host_keys:
                raise StateError(
                    f"No address or host key of {self.instance.user}'s VPS is recorded.",
                    next_steps=[f"clawdet provision {self.instance.user}"],
                )
            self._ssh = Ssh.connect(
                self.settings.endpoints.dial(self.instance.ipv4, 22),
                self.instance.host_keys,
                self.settings.ssh_key,
                deadline or self.deadline,
                pace=self.pace,
                proxy_command=self.settings.ssh_proxy,
                fence=self.fence,
            )
        return self._ssh

    def keep(self, ssh: Ssh) -> None:
        """Use this connection from now on: it leads to the machine that becomes, or is, the instance's."""
        self.hang_up()
        self._ssh = ssh

    def remote(self, command: str, *, stdin: bytes = b"", seconds: float, reach: float = float("inf")) -> CommandResult:
        """Run a command on the VPS that does no harm when it comes twice: again when the connection breaks over it.

        As it does when the VPS restarts in between. Each connecting may take `reach` seconds. Raises ConnectionLost
        when it breaks each time.
        """
        for _ in range(CONNECTIONS - 1):
            try:
                return self._remote_once(command, stdin, seconds, reach)
            except ConnectionLost:
                self.note("the connection to the VPS broke: connecting anew")
        return self._remote_once(command, stdin, seconds, reach)

    def _remote_once(self, command: str, stdin: bytes, seconds: float, reach: float) -> CommandResult:
        return self.ssh(self.deadline.within(reach)).run(
            command, stdin=stdin, timeout=self.deadline.within(seconds).left()
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.hang_up()
        self.clouds.close()
        calls = self.clouds.calls()
        if any(calls.values()):
            self.note(f"calls made: Hetzner {calls['hetzner']}, Cloudflare {calls['cloudflare']}")

    def hang_up(self) -> None:
        """Close the connection to the VPS."""
        if self._ssh is not None:
            self._ssh.close()
            self._ssh = None


@dataclass
class Pending:
    """What a `with run.effect(...)` learns, to be written together with the effect's end."""

    result: str = ""
    changes: dict[str, Any] = field(default_factory=dict)

    def made(self, result: object, **changes: Any) -> None:
        """Tell what the other side calls the thing, and what that changes in the instance."""
        self.result = str(result)
        self.changes = changes


def execute(run: Run, stages: Sequence[Stage], *, on_failure: Status) -> None:
    """Carry the stages out in order. Raises every failure as a ClawdetError that knows its stage and what exists."""
    for stage in stages:
        attempt = _Attempt(run, stage)
        try:
            attempt.begin()
            stage.act(run)
            attempt.end()
        except BaseException as error:
            # From here on a stop has nothing to add: what was done is written down first.
            with stopping.held():
                failure = attempt.fail(error, on_failure)
            if failure is error:
                raise  # with its own cause, which the run log shows
            raise failure from error
    run.stage = ""


class _Attempt:
    """One carrying-out of a stage, and its record."""

    def __init__(self, run: Run, stage: Stage) -> None:
        self.run = run
        self.stage = stage
        self.row: int | None = None
        self.started = time.monotonic()

    def begin(self) -> None:
        run, stage = self.run, self.stage
        run.stage = stage.name
        run.record(status=stage.status)
        self.row = run.state.begin_stage(run.instance, stage.name)
        run.emit("stage_started", text=stage.title, seconds=run.state.typical_seconds(stage.name) or 0.0)

    def end(self) -> None:
        seconds = time.monotonic() - self.started
        if self.row is not None:
            self.run.state.end_stage(self.row, "done", seconds)
        self.run.emit("stage_finished", text=self.stage.title, status="done", seconds=seconds)

    def fail(self, error: BaseException, on_failure: Status) -> ClawdetError:
        """Record the failure, and give it as an error of ours."""
        run, seconds = self.run, time.monotonic() - self.started
        failure = self._lease_lost(shaped(error, self.stage.title))
        failure.stage = self.stage.name
        if isinstance(failure, LeaseLostError):
            # What exists, and how to go on, is the other run's to say.
            run.emit("stage_finished", text=failure.what, status="failed", seconds=seconds)
            run.stage = ""
            return failure
        ours = run.instance
        if isinstance(failure, ForeignError) and failure.recorded_as:
            nothing: dict[str, Any] = {failure.recorded_as: None}
            ours = replace(ours, **nothing)
        failure.left_behind = left_behind(ours, run.open_effects)
        # Adapters know no users, and say USER.
        failure.next_steps = tuple(addressed(step, run.instance.user) for step in failure.next_steps)
        said = {step.partition("    (")[0] for step in failure.next_steps}
        final = isinstance(failure, AnotherDatabaseError | ForeignError)
        ways_on = () if final else _ways_on(run.instance, on_failure)
        failure.next_steps = (*failure.next_steps, *(way for way in ways_on if way.partition("    (")[0] not in said))
        # The failure itself is what the user must learn, also when the disk is full and the record of it fails.
        with suppress(StateError):
            if self.row is not None:
                run.state.end_stage(self.row, "failed", seconds)
            run.record(status=on_failure, error=failure.what)
        # Last, and whatever a view does with it: a broken pipe must not keep the record from being written.
        with suppress(Exception):
            run.emit("stage_finished", text=failure.what, status="failed", seconds=seconds)
        run.stage = ""
        return failure

    def _lease_lost(self, failure: ClawdetError) -> ClawdetError:
        """Return the loss of the lease in place of a failure that came after it: that explains the other one."""
        if isinstance(failure, LeaseLostError | StoppedError):
            return failure
        try:
            self.run.fence()
        except LeaseLostError as lost:
            lost.details = (failure.what, *failure.details)
            return lost
        except StateError:
            pass  # the database failed too: the failure itself is what the user must learn
        return failure


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
    """Say whether nothing was changed: a clear no, before or instead of an effect."""
    # When it was the database that failed, the id of what was just made may be what it could not write.
    clear_no = isinstance(error, CloudError | ConfigError | StateError) and not isinstance(error, RecordError)
    # A wait that ended counts only when it was for a call that was refused each time, as by a limit of requests.
    waited_in_vain = isinstance(error, WaitError) and error.unsettled is False
    return (clear_no and not error.unsettled) or waited_in_vain


def left_behind(instance: Instance, open_effects: Sequence[Effect] = ()) -> tuple[str, ...]:
    """Tell what exists now or may exist, and what of it costs money."""
    found = []
    under_way = {effect.kind: effect for effect in open_effects}
    if instance.server_id is not None:
        price = f"{Price(instance.monthly).shown} per month" if instance.monthly else "it costs money"
        line = (
            f"server {instance.server_name} (id {instance.server_id}, {instance.server_type} in {instance.location}):"
            f" {price} until it is destroyed"
        )
        found.append(line + (", which was under way" if "delete_server" in under_way else ""))
    elif order := under_way.get("create_server"):
        monthly = order.data.get("monthly")
        price = f"{Price(monthly).shown} per month" if monthly else "it would cost money"
        found.append(
            f"perhaps a server {order.name} ({price}): the order may have been accepted;"
            " the next run looks for it and goes on with it"
        )
    if instance.record_id is not None:
        found.append(f"DNS record {instance.host} -> {instance.ipv4}: free of charge")
    elif record := under_way.get("create_dns_record"):
        found.append(f"perhaps a DNS record {record.name}: free of charge")
    if instance.certificate_id is not None:
        found.append(f"Origin CA certificate {instance.certificate_id}: free of charge")
    elif certificate := under_way.get("sign_certificate"):
        found.append(f"perhaps an Origin CA certificate for {certificate.name}: free of charge")
    return tuple(found)


def addressed(step: str, user: str) -> str:
    """Put the user's name where an adapter said USER; for a server of the pool say what helps there."""
    if user.startswith(POOL):
        step = step.replace("clawdet provision USER", "clawdet pool fill 1").replace("destroy USER", "pool drain")
    return re.sub(r"\bUSER\b", user, step)


def _ways_on(instance: Instance, on_failure: Status) -> tuple[str, ...]:
    if instance.pooled:
        return ("clawdet pool status", "clawdet pool drain    (removes what waits in the pool)")
    if on_failure == Status.DESTROYING:
        return (f"clawdet destroy {instance.user}",)
    return (
        f"clawdet provision {instance.user}    (goes on from here)",
        f"clawdet destroy {instance.user}    (removes what exists)",
    )
