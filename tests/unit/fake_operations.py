"""Stands in for `clawdet_cli.operations`: answers as told, and remembers what was asked."""

import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from types import ModuleType
from typing import Any, cast

import clawdet_cli
from clawdet_cli import cli
from clawdet_cli.cli import output
from clawdet_cli.errors import CloudError, StateError, StoppedError
from clawdet_cli.model import (
    CHECK_NAMES,
    Check,
    Destroyed,
    Device,
    Devices,
    Event,
    Holdings,
    Instance,
    Plan,
    Result,
    ServerOffer,
    StageRun,
    Standing,
    Status,
    Watcher,
    now_text,
)
from clawdet_cli.money import Price
from clawdet_cli.secret import Secret
from clawdet_cli.settings import Settings

OFFERS = (
    ServerOffer("cpx22", "nbg1", "x86", 2, 4.0, 80, Price("19.99"), available=True),
    ServerOffer("cx23", "nbg1", "x86", 2, 4.0, 40, Price("5.99"), available=True),
)


A_DEVICE = Device(
    "ab" * 32, "12345678-9abc", "Linux x86_64", "openclaw-control-ui", "192.0.2.7", ("operator.read",), ""
)
ONE_WAITS = Devices((A_DEVICE,), ())


def an_instance(
    user: str = "alice", *, failing: Sequence[str] = (), unseen: Sequence[str] = (), **changes: Any
) -> Instance:
    """Give a finished instance, in which the named checks failed, or were not judged."""
    results = dict.fromkeys(failing, Result.FAILED) | dict.fromkeys(unseen, Result.NOT_JUDGED)
    now = now_text()
    finished = Instance(
        user=user,
        zone="example.com",
        run_id="abc123def456",
        status=Status.COMPLETE,
        sandbox=False,
        created_at=now,
        updated_at=now,
        server_id=4711,
        server_type="cpx22",
        location="nbg1",
        image="ubuntu-24.04",
        monthly="19.99",
        ipv4="203.0.113.7",
        record_id="r1",
        certificate_id="c1",
        openclaw_version="2026.9.6",
        url=f"https://{user}.example.com/",
        checks=tuple(Check(name, results.get(name, Result.OK), f"{name} was looked at", now) for name in CHECK_NAMES),
        stages=(StageRun("create_server", "done", 1.25), StageRun("prepare_vps", "done", 48.5)),
    )
    return replace(finished, **changes)


@dataclass
class Outcome:
    """As `operations.Outcome`."""

    instance: Instance
    already_complete: bool
    calls: dict[str, int] = field(default_factory=dict)


@dataclass
class Common:
    """As `operations.Common`."""

    fake: "FakeOperations"

    def recorded(self, user: str) -> Instance | None:
        """Give the instance of that user."""
        return self.fake.instances.get(user)

    def calls(self) -> dict[str, int]:
        """Give some numbers."""
        return {"hetzner": 20, "cloudflare": 30}


@dataclass
class FakeOperations:
    """The functions of `clawdet_cli.operations`, each with an answer that a test may change."""

    instances: dict[str, Instance] = field(default_factory=lambda: {"alice": an_instance()})
    already: bool = False
    may_appear: tuple[str, ...] = ()
    found: tuple[str, ...] = ("DNS record alice.example.com -> 203.0.113.7", "server clawdet-alice (id 4711)")
    during: Callable[[str], None] = lambda _: None
    """Called in the middle of every operation, with the user: raises what a test wants to see fail."""
    events: tuple[Event, ...] = (
        Event("stage_started", "2026-01-02T03:04:05.000+00:00", "create_server", text="Ordering the VPS"),
        Event("note", "2026-01-02T03:04:05.500+00:00", "create_server", text="ordering cpx22 in nbg1"),
        Event("stage_finished", "2026-01-02T03:04:06.000+00:00", "create_server", status="done", seconds=1.0),
    )
    known: Devices = ONE_WAITS
    unreadable: dict[str, StateError] = field(default_factory=dict)
    asked: list[tuple[Any, ...]] = field(default_factory=list)
    settings: list[Settings] = field(default_factory=list)

    @contextmanager
    def sharing(self, settings: Settings, _side_by_side: int = 1) -> Iterator[Common]:
        """Give what many runs share."""
        self.settings.append(settings)
        yield Common(self)

    def default_openclaw(self) -> str:
        """Give a version."""
        return "2026.9.6"

    def plan(self, settings: Settings, user: str, watch: Watcher, _common: Common | None = None) -> Plan:
        """Give a plan."""
        self._begin(settings, "plan", user)
        self._play(watch, user)
        return self._plan(settings, user)

    def provision(
        self,
        settings: Settings,
        user: str,
        watch: Watcher,
        approve: Callable[[Plan], bool],
        _common: Common | None = None,
    ) -> Outcome:
        """Give the instance of that user."""
        self._begin(settings, "provision", user)
        approved = approve(self._plan(settings, user))
        self.asked.append(("approved", user, approved))
        if not approved:
            raise StoppedError("Not approved: nothing was ordered.")
        self._play(watch, user)
        return Outcome(self.instances[user], self.already)

    def verify(self, settings: Settings, user: str, watch: Watcher, _common: Common | None = None) -> Instance:
        """Give the instance of that user."""
        self._begin(settings, "verify", user)
        self._play(watch, user)
        return self.instances[user]

    def standings(self, settings: Settings) -> tuple[list[Standing], dict[str, StateError]]:
        """Give a line of each instance."""
        self._begin(settings, "standings")
        return [one.standing for one in self.instances.values()], self.unreadable

    def damaged(self, _settings: Settings) -> dict[str, StateError]:
        """Return which rows cannot be read."""
        return self.unreadable

    def refuse_another_zone(self, _settings: Settings, _users: Sequence[str], _zone: str) -> None:
        """Refuse nothing."""

    def status(self, settings: Settings, users: Sequence[str], *, live: bool, watch: Watcher) -> list[Instance]:
        """Give the instances of these users, or all."""
        self._begin(settings, "status", *users, live)
        if live:
            self._play(watch, "")
        return [self.instances[user] for user in users or self.instances]

    def holdings(
        self,
        settings: Settings,
        user: str,
        _common: Common | None = None,
        *,
        forget_foreign: bool = False,
        of_another_database: bool = False,
    ) -> Holdings:
        """Tell what there is."""
        self.of_another_database = of_another_database
        self._begin(settings, "holdings", user)
        self.forget_foreign = forget_foreign
        return Holdings(user, f"{user}.example.com", self.found, "19.99", self.instances.get(user))

    def destroy(
        self,
        settings: Settings,
        user: str,
        watch: Watcher,
        _common: Common | None = None,
        *,
        zone_gone: bool = False,
        forget_foreign: bool = False,
        of_another_database: bool = False,
    ) -> Destroyed:
        """Tell what was removed."""
        self.of_another_database = of_another_database
        self._begin(settings, "destroy", user)
        self.zone_gone, self.forget_foreign = zone_gone, forget_foreign
        self._play(watch, user)
        absent = tuple(f"no {name}" for name in self.found)
        return Destroyed(user, self.found, absent, may_appear=self.may_appear)

    def token(self, settings: Settings, user: str) -> Secret:
        """Give a token."""
        self._begin(settings, "token", user)
        self.during(user)
        return Secret("token-of-" + user)

    def devices(self, settings: Settings, user: str) -> Devices:
        """Tell who waits, and who is let in."""
        self._begin(settings, "devices", user)
        return self.known

    def approve(self, settings: Settings, user: str, request: str | None, watch: Watcher) -> Device | None:
        """Let in the one that is meant."""
        self._begin(settings, "approve", user, request)
        self._play(watch, user)
        return self.known.pending[0] if self.known.pending else None

    def ssh_command(self, settings: Settings, user: str, command: Sequence[str]) -> list[str]:
        """Give a command line that can be run anywhere."""
        self._begin(settings, "ssh_command", user, *command)
        return ["echo", user, *command]

    def _begin(self, settings: Settings, *what: Any) -> None:
        self.asked.append(what)
        self.settings.append(settings)

    def _play(self, watch: Watcher, user: str) -> None:
        for event in self.events:
            watch(event)
        self.during(user)

    def _plan(self, settings: Settings, user: str) -> Plan:
        return Plan(
            user=user,
            host=f"{user}.example.com",
            url=f"https://{user}.example.com/",
            server_name=f"clawdet-{user}",
            image="ubuntu-24.04",
            candidates=OFFERS,
            openclaw_version=settings.openclaw_version,
            node_version="24.21.0",
            caddy_version="2.11.7",
            model=settings.model,
            provider_keys=tuple(settings.provider_keys),
            exists=(),
        )


def install(fake: FakeOperations) -> None:
    """Put the fake in the place of the real operations, for this process."""
    sys.modules["clawdet_cli.operations"] = cast(ModuleType, fake)
    setattr(clawdet_cli, "operations", fake)  # noqa: B010 - as importing would; an assignment is a type error


def _wait_for_a_signal(_user: str) -> None:
    sys.stderr.write("waiting\n")
    sys.stderr.flush()
    while True:
        signal.pause()


def _wait_for_a_key(user: str) -> None:
    """Have all users at work until somebody presses Enter; then one of them fails."""
    if user == LAST_OF_FLEET:
        sys.stdin.readline()
        _pressed.set()
    _pressed.wait()
    if user == FAILING_OF_FLEET:
        raise CloudError("There is no room for it.")


FLEET = tuple(f"user{number:02d}" for number in range(12))
LAST_OF_FLEET, FAILING_OF_FLEET = FLEET[-1], FLEET[3]
_pressed = threading.Event()


if __name__ == "__main__":
    # A whole process with the fake in it, for what only a process has: signals, a terminal, an exit code.
    behaviour = FakeOperations()
    if os.environ.get("FAKE") in {"wait", "twice"}:
        behaviour.during = _wait_for_a_signal
    if os.environ.get("FAKE") == "twice":
        report = output.failure

        def interrupted(*arguments: Any, **options: Any) -> None:
            os.kill(os.getpid(), signal.SIGTERM)
            report(*arguments, **options)

        output.failure = interrupted
    if os.environ.get("FAKE") == "fleet":
        behaviour.during = _wait_for_a_key
        behaviour.instances = {user: an_instance(user) for user in FLEET}
    install(behaviour)
    sys.exit(cli.main(sys.argv[1:]))
