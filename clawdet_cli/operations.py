"""What clawdet can do, as a Python API: no terminal in it, and every failure a ClawdetError."""

import secrets
import string
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, closing, contextmanager, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from clawdet_cli import archive, pins, runlog
from clawdet_cli.errors import ClawdetError, GuestError, StateError, Terminated, UsageError
from clawdet_cli.lease import holder_of, lease
from clawdet_cli.model import (
    POOL,
    PROJECT,
    Deadline,
    Destroyed,
    Device,
    Devices,
    Event,
    Finding,
    Firewall,
    Holdings,
    Instance,
    Member,
    Plan,
    PoolPlan,
    Reconciled,
    Result,
    Right,
    Server,
    Standing,
    Status,
    Watcher,
    checked_user,
    maker_by_labels,
    maker_of,
    member_by_labels,
    now_text,
    zone_by_labels,
)
from clawdet_cli.private import private_folder, write_private
from clawdet_cli.secret import Secret
from clawdet_cli.settings import Settings
from clawdet_cli.state import State

if TYPE_CHECKING:
    from clawdet_cli.adapters import SharedClouds
    from clawdet_cli.bundle.manifest import Manifest
    from clawdet_cli.restore import Restored
    from clawdet_cli.stages.runner import Run


@dataclass(frozen=True)
class Outcome:
    """What `provision` came to."""

    instance: Instance
    already_complete: bool
    calls: Mapping[str, int] = field(default_factory=dict)
    """How many calls it took, by cloud."""


@dataclass(frozen=True)
class Common:
    """What many runs of one command share: the database, and both clouds' clients with their reads."""

    state: State
    clouds: "SharedClouds"
    side_by_side: int = 1

    def recorded(self, user: str) -> Instance | None:
        """Return what is recorded of a user's instance now, as far as that can be read."""
        with suppress(StateError):
            return self.state.instance(user)
        return None

    def calls(self) -> dict[str, int]:
        """Give how many calls all runs made so far, by cloud."""
        return self.clouds.calls()


@contextmanager
def sharing(settings: Settings, side_by_side: int = 1) -> Iterator[Common]:
    """Open what many runs share, so many of them at a time. Raises ConfigError when a token is missing."""
    from clawdet_cli.adapters import share

    with closing(share(settings, Deadline.after(settings.timeout))) as clouds, _database(settings) as state:
        yield Common(state, clouds, side_by_side)


def default_openclaw() -> str:
    """Give the OpenClaw version that is installed where none is asked for."""
    return pins.load().default_openclaw


def build_bundles(
    openclaw_version: str,
    architectures: Sequence[str | None],
    into: Path,
    artifacts: Mapping[str, Any],
    tell: Callable[[str], None],
) -> "list[Manifest]":
    """Build a bundle for each architecture (None is this machine's), with its manifest beside it. Raises ConfigError.

    `artifacts` name download locations in place of the vendors', as `Endpoints.artifacts` does.
    """
    from clawdet_cli.bundle.build import build, host_architecture

    chosen = [one or host_architecture() for one in architectures]
    return [build(openclaw_version, one, into, artifacts, tell) for one in chosen]


def plan(settings: Settings, user: str, watch: Watcher, common: Common | None = None) -> Plan:
    """Find out what provisioning would make; nothing is changed, here or in the clouds."""
    from clawdet_cli.stages import claim, network, preflight, zones

    checked_user(user)
    with (
        _database(settings, user, common) as state,
        _run(settings, _known_or_new(settings, state, user), state, watch, common=common) as run,
    ):
        instance, clouds = run.instance, run.clouds
        outlook = network.look(run)
        clouds.hetzner.check()
        clouds.cloudflare.check()
        zone = zones.usable(clouds.cloudflare, instance.zone)
        remarks = zones.check(clouds, zone, settings)
        server = preflight.own_server(run)
        record = preflight.own_record(clouds, zone, instance)
        if record is None and (remark := zones.check_room(clouds.cloudflare, zone)):
            remarks.append(remark)
        remarks += [] if server else network.remarks(outlook, clouds)
        exists = [f"server {server.name} (id {server.id})"] if server else []
        exists += [f"DNS record {record.name} -> {record.content}"] if record else []
        prepared = [] if server else claim.waiting(run)
        if prepared and common is None:
            exists += [f"server {prepared[0].server_name} of the pool (id {prepared[0].server_id}), prepared"]
        elif prepared:
            # Who of them gets it is not known yet, so the price that is approved is that of a server for each.
            remarks.append(f"what waits in the pool ({len(prepared)}) is taken first, so that less is ordered")
        offers = () if server or (prepared and common is None) else preflight.choose_offers(clouds, settings)
        return preflight.make_plan(settings, instance, offers, exists, remarks)


def provision(
    settings: Settings, user: str, watch: Watcher, approve: Callable[[Plan], bool], common: Common | None = None
) -> Outcome:
    """Bring one user's instance up, or on from where it stopped. Raises ClawdetError."""
    from clawdet_cli.stages.provision import PROVISION
    from clawdet_cli.stages.runner import execute

    checked_user(user)
    pins.load().for_openclaw(settings.openclaw_version, "x86")
    with _database(settings, user, common) as state, _leased(settings, state, user, "provision", watch):
        # Only now: what was read before the lease may be what another command has changed since.
        instance = _known_or_new(settings, state, user)
        with _logged(settings, user, "provision", watch) as watching:
            recorded = state.instance(user)
            if recorded is None or recorded.run_id != instance.run_id:
                state.add(instance)
            with _run(settings, instance, state, watching, approve=approve, common=common) as run:
                _recover(run, on_failure=Status.FAILED)
                if instance.status == Status.COMPLETE and _still_complete(run):
                    changed = set(run.steps_done) - {"gateway-ready", "promises"}
                    return Outcome(_recorded(state, user), already_complete=not changed, calls=run.clouds.calls())
                # The first stage only looks: that a cloud cannot be asked now makes nothing of a complete one worse.
                looked_at = Status.COMPLETE if instance.status == Status.COMPLETE else Status.FAILED
                execute(run, PROVISION[:1], on_failure=looked_at)
                execute(run, PROVISION[1:], on_failure=Status.FAILED)
                run.record(status=Status.COMPLETE, error=None)
            return Outcome(_recorded(state, user), already_complete=False, calls=run.clouds.calls())


def verify(settings: Settings, user: str, watch: Watcher, common: Common | None = None) -> Instance:
    """Check the six criteria now and record what was seen; a failing check is in the answer, not an error."""
    from clawdet_cli.stages.verify import six_checks

    with _database(settings, user, common) as state:
        instance = _living(state, user)
        with (
            _logged(settings, user, "verify", watch) as watching,
            _run(settings, instance, state, watching, common=common) as run,
        ):
            state.save_checks(instance, six_checks(run, patience=0))
        return _recorded(state, user)


def standings(settings: Settings) -> tuple[list[Standing], dict[str, StateError]]:
    """Return in a line each how all instances stand, as recorded, and those whose rows cannot be read."""
    with _database(settings) as state:
        damaged = state.damaged()
        return state.standings(damaged), damaged


def damaged(settings: Settings) -> dict[str, StateError]:
    """Return what is wrong with the rows of users that no list shows, servers of the pool included."""
    with _database(settings) as state:
        return state.damaged()


def status(settings: Settings, users: Sequence[str], *, live: bool, watch: Watcher) -> list[Instance]:
    """Tell how instances stand: as recorded, or (`live`) as clouds and VPS say now. No user means all."""
    with _database(settings) as state:
        wanted = [_recorded(state, user) for user in users] if users else state.instances()
    if not live:
        return wanted
    return [verify(settings, instance.user, watch) for instance in wanted]


def refuse_another_zone(settings: Settings, users: Iterable[str], zone: str) -> None:
    """Raise StateError where one of these users has an instance in another zone than the one that was named."""
    if not settings.state_file.exists():
        return
    with _database(settings) as state:
        for user in users:
            instance = state.instance(user)
            if instance is not None and instance.status != Status.DESTROYED and instance.zone != zone:
                raise StateError(
                    f"{user} is not in {zone}: it is recorded as {instance.host}. Nothing was removed.",
                    next_steps=[f"clawdet status {user}    (shows it)", "or name its zone, or none, with --zone"],
                )


def holdings(
    settings: Settings,
    user: str,
    common: Common | None = None,
    *,
    forget_foreign: bool = False,
    of_another_database: bool = False,
) -> Holdings:
    """Find what a destroy would remove, also when the local database knows nothing of it."""
    from clawdet_cli.stages import destroy as way_back

    checked_user(user)
    with _database(settings, user, common) as state:
        seen: list[str] = []
        allowed = seen.append if of_another_database else None
        instance = _recorded_or_adopted(settings, state, user, add=False, common=common, tell_of_another=allowed)
        if instance is None or instance.status == Status.DESTROYED:
            zone = settings.zone or (instance.zone if instance else "")
            return Holdings(user, f"{user}.{zone}" if zone else user, (), None, None)
        with _run(settings, instance, state, lambda _: None, common=common) as run:
            run.forget_foreign = forget_foreign
            server = way_back.own_server(run)
            found = [f"DNS record {record.name} -> {record.content}" for record in way_back.own_records(run)]
            found += [f"Origin CA certificate {certificate.id}" for certificate in way_back.own_certificates(run)]
        found += [f"server {server.name} (id {server.id}, {server.server_type}, {server.location})"] if server else []
        return Holdings(user, instance.host, tuple(found), instance.monthly if server else None, instance, tuple(seen))


def destroy(
    settings: Settings,
    user: str,
    watch: Watcher,
    common: Common | None = None,
    *,
    zone_gone: bool = False,
    forget_foreign: bool = False,
    of_another_database: bool = False,
) -> Destroyed:
    """Remove an instance from both clouds and prove that it is gone. Raises ClawdetError naming what is left.

    With `zone_gone` what was in a zone that Cloudflare does not show any more is forgotten, with `forget_foreign` what
    is recorded and does not carry clawdet's mark. What this database does not record is removed only with
    `of_another_database`.
    """
    from clawdet_cli.stages.destroy import DESTROY
    from clawdet_cli.stages.recover import may_still_appear
    from clawdet_cli.stages.runner import execute

    checked_user(user)
    with (
        _database(settings, user, common) as state,
        _leased(settings, state, user, "destroy", watch),
        _logged(settings, user, "destroy", watch) as watching,
    ):

        def tell(text: str) -> None:
            watching(Event("note", now_text(), text=f"of another database: {text}"))

        allowed = tell if of_another_database else None
        instance = _recorded_or_adopted(settings, state, user, add=True, common=common, tell_of_another=allowed)
        if instance is None or instance.status == Status.DESTROYED:
            return Destroyed(user, (), (), may_appear=may_still_appear(state, user))
        with _run(settings, instance, state, watching, common=common) as run:
            run.zone_gone, run.forget_foreign = zone_gone, forget_foreign
            _recover(run, on_failure=Status.DESTROYING)
            execute(run, DESTROY, on_failure=Status.DESTROYING)
            run.record(status=Status.DESTROYED)
        perhaps = tuple(run.may_appear.values())
        return Destroyed(
            user, tuple(run.removed), tuple(run.absent), run.clouds.calls(), tuple(run.not_judged), perhaps
        )


def pool(settings: Settings) -> list[Member]:
    """Tell what waits in the pool, and what else was made for it, as recorded."""
    from clawdet_cli.stages import claim

    with _database(settings) as state:
        return [Member(one, claim.unfit(one, settings), claim.age_days(one)) for one in state.pool()]


def changing_pool(settings: Settings, verb: str, common: Common, watch: Watcher) -> AbstractContextManager[None]:
    """Keep every other fill and drain away."""
    return _leased(settings, common.state, POOL, verb, watch)


@contextmanager
def planned_pool(settings: Settings, wanted: int, common: Common, watch: Watcher) -> Iterator[PoolPlan]:
    """Find what filling the pool would come to, and keep every other fill away until that is done."""
    from clawdet_cli.stages import claim, preflight

    if wanted and not settings.pool_days:
        raise UsageError(
            "With --pool-days 0 nothing that waits is ever given away, so none is made.",
            next_steps=[f"clawdet pool fill {wanted} --pool-days 7", "clawdet pool drain    (removes what waits)"],
        )
    begun = {Status.PENDING, Status.CREATING_VPS, Status.INSTALLING}
    with changing_pool(settings, "pool fill", common, watch):
        members = common.state.pool()
        ready = [one for one in members if claim.unfit(one, settings) is None]
        missing = max(0, wanted - len(ready))
        # What failed after it was ready, or has no host key here, somebody else may have: that is only told of.
        failed = [one for one in members if one.status is Status.FAILED and one.installed is None]
        unfinished = [one for one in members if one.status in begun or one in failed]
        unfinished = [one for one in unfinished if one.host_key or one.server_id is None]
        young = [one for one in unfinished if not claim.is_old(one, settings)]
        old = [one for one in members if one.status is Status.COMPLETE and claim.outdated(one, settings)]
        removed = [one for one in members if one.status is Status.DESTROYING]
        resumed = young[:missing]
        unneeded = [one for one in unfinished if one not in resumed]
        new = [POOL + _random_word(8) for _ in range(missing - len(resumed))]
        ordered = len(new) + sum(one.server_id is None for one in resumed)
        with _run(settings, _blank(settings, POOL, ""), common.state, watch, common=common) as run:
            offers = preflight.choose_offers(run.clouds, settings) if ordered else ()
        yield PoolPlan(
            wanted=wanted,
            ready=tuple(ready),
            fill=(*(one.user for one in resumed), *new),
            drain=(*old, *removed, *unneeded),
            offers=tuple(offers),
            ordered=ordered,
        )


def fill(settings: Settings, name: str, watch: Watcher, common: Common) -> Instance:
    """Make a server of the pool, or make one ready that was begun before. Raises ClawdetError."""
    from clawdet_cli.stages.pool import FILL
    from clawdet_cli.stages.runner import execute

    with (
        _database(settings, name, common) as state,
        _leased(settings, state, name, "pool fill", watch),
        _logged(settings, name, "pool-fill", watch) as watching,
    ):
        instance = state.instance(name)
        if instance is None:
            instance = _blank(settings, name, "")
            state.add(instance)
        with _run(settings, instance, state, watching, common=common) as run:
            _recover(run, on_failure=Status.FAILED)
            execute(run, FILL, on_failure=Status.FAILED)
            # Its age counts from here: what an earlier run began may be days old.
            run.record(status=Status.COMPLETE, error=None, created_at=now_text())
        return _recorded(state, name)


def drain(settings: Settings, name: str, watch: Watcher, common: Common) -> Destroyed:
    """Remove a server of the pool and prove that it is gone; one that a user has got meanwhile stays."""
    from clawdet_cli.stages.destroy import DRAIN
    from clawdet_cli.stages.runner import execute

    with (
        _database(settings, name, common) as state,
        _leased(settings, state, name, "pool drain", watch),
        _logged(settings, name, "pool-drain", watch) as watching,
    ):
        instance = _recorded(state, name)
        if instance.status is Status.DESTROYED:
            return Destroyed(name, (), ())
        with _run(settings, instance, state, watching, common=common) as run:
            _recover(run, on_failure=Status.DESTROYING)
            execute(run, DRAIN, on_failure=Status.DESTROYING)
            run.record(status=Status.DESTROYED)
        perhaps = tuple(run.may_appear.values())
        return Destroyed(name, tuple(run.removed), tuple(run.absent), may_appear=perhaps)


def refresh_firewall(settings: Settings, watch: Watcher) -> Firewall | None:
    """Bring the project's firewall up to date, with every server of clawdet's behind it; None where none is needed."""
    from clawdet_cli.stages import firewall
    from clawdet_cli.stages.recover import recover

    with (
        _database(settings) as state,
        _leased(settings, state, PROJECT, "firewall refresh", watch),
        _logged(settings, PROJECT, "firewall", watch) as watching,
        # Of the project, not of a user: this instance is never recorded, and only the journal knows its name.
        _run(settings, _blank(settings, PROJECT, settings.zone or ""), state, watching) as run,
    ):
        recover(run)
        hetzner = run.clouds.hetzner
        labelled = hetzner.servers("managed-by=clawdet")
        servers = [one for one in labelled if maker_by_labels(one.labels) or member_by_labels(one.labels)]
        if not servers and hetzner.firewall(firewall.NAME) is None:
            return None
        wall = firewall.project_firewall(run, list_needed=True)
        for server in servers:
            firewall.attach(run, server, wall)
        return hetzner.firewall(firewall.NAME)


def rights(settings: Settings, watch: Watcher) -> list[Right]:
    """Find out what both tokens may do, by requests that change nothing."""
    from clawdet_cli.adapters import connect
    from clawdet_cli.stages import doctor, network

    deadline = Deadline.after(settings.timeout)
    zone = settings.required_zone()
    clouds = connect(settings, deadline, watch=lambda text: watch(Event("note", now_text(), text=text)))
    servers: list[str] = []
    if settings.state_file.exists():
        with _database(settings) as state:
            servers = state.addresses(network.MAX_SERVERS)
    outlook = network.Outlook(settings, servers)
    try:
        return [*doctor.rights(clouds, zone), *network.rows(outlook, clouds, settings)]
    finally:
        clouds.close()


def reconcile(settings: Settings, *, fix: bool, watch: Watcher) -> Reconciled:
    """Compare the database, both clouds and every VPS; `fix` mends what needs no decision. Raises ClawdetError."""
    with _database(settings) as state:
        seen, result = _compared(settings, state, watch)
        fixable: dict[str, list[Finding]] = {}
        for finding in result.findings:
            if fix and finding.fix:
                fixable.setdefault(finding.user, []).append(finding)
        for user, his in fixable.items():
            if not user:
                _mend_project(settings, state, his, watch)
                continue
            # Of a destroyed one there may be a certificate.
            instance = seen.get(user) or state.instance(user)
            if instance is not None:
                _mend(settings, state, instance, his, watch)
        if not fixable:
            return result
        mended = tuple(finding for his in fixable.values() for finding in his)
        return replace(_compared(settings, state, watch)[1], mended=mended)


@dataclass(frozen=True)
class Rebuilt:
    """What `rebuild` came to."""

    instances: Sequence[Instance]
    left: Mapping[str, Sequence[str]]
    """By user, how those stand that were not recorded, since nothing shows that they are not another database's."""


def rebuild(settings: Settings, users: Sequence[str], watch: Watcher, *, of_another_database: bool = False) -> Rebuilt:
    """Record again what the clouds hold of these users, or of all; rows that live stay as they are.

    What another database may know is recorded where the VPS lets in this state folder's SSH key; the rest only with
    `of_another_database`.
    """
    from clawdet_cli.adapters import connect
    from clawdet_cli.stages import another_database
    from clawdet_cli.stages.rebuild import REBUILD, lost_instances
    from clawdet_cli.stages.runner import execute

    with _database(settings) as state:
        clouds = connect(settings, Deadline.after(settings.timeout))
        try:
            found = lost_instances(settings, clouds, sandbox=bool(settings.endpoints.sandbox))
            lost = [instance for instance in found if not users or instance.user in users]
        finally:
            clouds.close()
        rebuilt = []
        left: dict[str, Sequence[str]] = {}
        held = {one.server_id for one in state.instances()}
        waiting = {one.server_id for one in state.pool()}
        damaged = state.damaged()
        for instance in lost:
            # A server that waits by its row and is a user's by its labels was given away after that row was written.
            if instance.server_id is not None and instance.server_id in (held | waiting if instance.pooled else held):
                continue
            if instance.user in damaged:
                watch(Event("note", now_text(), text=f"left as it is: {damaged[instance.user].what}"))
                continue
            with (
                _leased(settings, state, instance.user, "state rebuild", watch),
                _logged(settings, instance.user, "rebuild", watch) as watching,
            ):
                known = state.instance(instance.user)
                # A provision that was refused for what is rebuilt here has left a row of which nothing was made.
                if known is not None and known.status != Status.DESTROYED and not _never_ordered(known, state):
                    continue
                with _run(settings, instance, state, watching) as run:
                    ours = state.has_run(instance.user, instance.run_id)
                    seen = [] if ours else another_database.seen_unless_ours(run)
                    if seen and not of_another_database:
                        left[instance.user] = seen
                        continue
                    for line in seen:
                        run.note(f"{instance.user}, of another database: {line}")
                    state.add(instance)
                    execute(run, REBUILD, on_failure=Status.FAILED)
                    run.record(error=instance.error)
                rebuilt.append(_recorded(state, instance.user))
        return Rebuilt(rebuilt, left)


def export_state(settings: Settings) -> dict[str, Any]:
    """Give everything that is recorded as one document."""
    with _database(settings) as state:
        return archive.export(state)


def import_state(settings: Settings, document: object, *, replace_living: bool) -> list[str]:
    """Take such a document in, and give its users. Raises UsageError or StateError, and nothing is changed then."""
    with _database(settings) as state:
        return archive.load(state, document, replace=replace_living, sandbox=bool(settings.endpoints.sandbox))


def backup_state(settings: Settings, target: Path) -> None:
    """Copy the database to a new file, consistent also while a run writes to it."""
    with _database(settings) as state:
        archive.backup(state, target)


def restore_state(settings: Settings, source: Path) -> "Restored":
    """Put a backup in the database's place. Raises StateError, and nothing is changed then."""
    from clawdet_cli.restore import restore

    return restore(settings.state_file, source, sandbox=bool(settings.endpoints.sandbox))


def token(settings: Settings, user: str) -> Secret:
    """Read the gateway token from the VPS; it is stored nowhere else."""
    from clawdet_cli import bootstrap

    with _database(settings, user) as state, _run(settings, _living(state, user), state, lambda _: None) as run:
        answer = run.ssh(run.deadline.within(60)).run(
            bootstrap.installed("token"), timeout=run.deadline.within(30).left()
        )
        if answer.code != 0:
            raise GuestError(
                f"The VPS of {user} has no gateway token: the installation is not finished.",
                next_steps=[f"clawdet provision {user}"],
            )
        return bootstrap.parse_token(answer.out)


def devices(settings: Settings, user: str) -> Devices:
    """Tell which browsers and apps ask to use a user's gateway, and which may."""
    from clawdet_cli.stages import devices as pairing

    with _database(settings, user) as state, _run(settings, _living(state, user), state, lambda _: None) as run:
        return pairing.devices(run)


def approve(settings: Settings, user: str, request: str | None, watch: Watcher) -> Device | None:
    """Let one of them in, by its request or (None) because it is the only one; None when nobody waits.

    Raises UsageError for what is no request's id, StateError for one that waits no more, and where several wait.
    """
    from clawdet_cli import bootstrap
    from clawdet_cli.stages import devices as pairing

    if request is not None and not bootstrap.is_request(request):
        raise UsageError(f"{request!r} is no request's id.", next_steps=[f"clawdet approve {user}    (lists them)"])
    with (
        _database(settings, user) as state,
        _leased(settings, state, user, "approve", watch),
        _logged(settings, user, "approve", watch) as watching,
    ):
        instance = _living(state, user)
        with _run(settings, instance, state, watching) as run:
            _recover(run, on_failure=instance.status)
            chosen = request or pairing.only_request(run)
            return pairing.let_in(run, chosen) if chosen else None


def ssh_command(settings: Settings, user: str, command: Sequence[str]) -> list[str]:
    """Give the OpenSSH command line that reaches the VPS with the right key and the pinned host key."""
    from clawdet_cli.adapters import ssh

    with _database(settings, user) as state:
        instance = _living(state, user)
    if instance.ipv4 is None or not instance.host_keys or instance.server_id is None:
        raise StateError(f"{user} has no VPS yet.", next_steps=[f"clawdet provision {user}"])
    # Known hosts by server, not by address: addresses come back with other machines behind them.
    alias = f"clawdet-{instance.server_id}"
    known_hosts = settings.state_dir / "ssh" / f"known_hosts-{instance.server_id}"
    try:
        private_folder(known_hosts.parent)
        write_private(known_hosts, "".join(f"{ssh.known_hosts_line(alias, key)}\n" for key in instance.host_keys))
    except OSError as error:
        raise StateError(
            f"{known_hosts} cannot be written: {error.strerror}.",
            next_steps=["make room, or name another state folder with --state"],
        ) from None
    address = settings.endpoints.dial(instance.ipv4, 22)
    return ssh.openssh_command(
        address, settings.ssh_key, known_hosts, alias, list(command), proxy_command=settings.ssh_proxy
    )


@contextmanager
def _database(settings: Settings, user: str = "", common: Common | None = None) -> Iterator[State]:
    """Open the database; a failure that ends the work on a user tells what exists, also outside of every stage."""
    state = common.state if common else State(settings.state_file)
    try:
        yield state
    except (ClawdetError, KeyboardInterrupt, Terminated) as error:
        if not user:
            raise
        from clawdet_cli.stages.runner import addressed, left_behind, shaped

        failure = shaped(error, f"working on {user}")
        status_of = "clawdet pool status" if user.startswith(POOL) else f"clawdet status {user}"
        steps = failure.next_steps or (f"{status_of}    (shows how it stands)",)
        failure.next_steps = tuple(addressed(step, user) for step in steps)
        if failure.stage is None:
            with suppress(StateError):
                instance = state.instance(user)
                failure.left_behind = left_behind(instance, state.open_effects(user)) if instance else ()
        if failure is error:
            raise
        raise failure from error
    finally:
        if common is None:
            state.close()


def _leased(settings: Settings, state: State, user: str, verb: str, watch: Watcher) -> AbstractContextManager[None]:
    """Hold the right to change an instance, after waiting for another run as long as the settings allow."""

    def tell(text: str) -> None:
        watch(Event("note", now_text(), text=text))

    return lease(state, user, verb, wait=settings.lock_wait, tell=tell)


@contextmanager
def _logged(settings: Settings, user: str, verb: str, watch: Watcher) -> Iterator[Watcher]:
    """Write the run's log, and name it in a failure."""
    with runlog.RunLog(settings.state_dir, user, verb) as log:

        def both(event: Event) -> None:
            log.write(event)
            watch(event)

        try:
            yield both
        except BaseException as error:
            log.failure(error)
            if isinstance(error, ClawdetError):
                error.log_file = str(log.path)
            raise


def _compared(settings: Settings, state: State, watch: Watcher) -> tuple[dict[str, Instance], Reconciled]:
    """Look at everything, and give the instances as they were then beside what differs."""
    from clawdet_cli.adapters import connect
    from clawdet_cli.stages.comparison import compare
    from clawdet_cli.stages.reconcile import look

    instances = [*state.instances(), *state.pool()]
    holders = {instance.user: holder_of(state, instance.user) for instance in instances}
    busy = {user: str(holder) for user, holder in holders.items() if holder is not None}
    damaged = {user: damage.what for user, damage in state.damaged().items()}
    deadline = Deadline.after(settings.timeout)
    clouds = connect(settings, deadline, watch=lambda text: watch(Event("note", now_text(), text=text)))
    try:
        seen = look(settings, clouds, instances, busy | damaged, deadline, requests=state.all_requests())
        findings, foreign = compare(replace(seen, runs=state.runs()))
    finally:
        clouds.close()
    return {instance.user: instance for instance in instances}, Reconciled(
        tuple(findings), foreign, busy=busy, damaged=damaged
    )


def _mend(settings: Settings, state: State, seen: Instance, findings: Sequence[Finding], watch: Watcher) -> None:
    """Mend what differs in one instance, unless another run has changed it since it was looked at."""
    from clawdet_cli.stages.reconcile import mending
    from clawdet_cli.stages.runner import execute

    with (
        _leased(settings, state, seen.user, "reconcile", watch),
        _logged(settings, seen.user, "reconcile", watch) as watching,
    ):
        instance = state.instance(seen.user)
        if instance is None or instance.updated_at != seen.updated_at:
            return
        with _run(settings, instance, state, watching) as run:
            _recover(run, on_failure=instance.status)
            execute(run, [mending(run.instance.status, findings)], on_failure=instance.status)


def _mend_project(settings: Settings, state: State, findings: Sequence[Finding], watch: Watcher) -> None:
    """Mend what belongs to no user: remove SSH keys that no server needs, by what the project shows now."""
    from clawdet_cli.stages import operator_keys
    from clawdet_cli.stages.recover import recover

    with (
        _leased(settings, state, PROJECT, "reconcile", watch),
        _logged(settings, PROJECT, "reconcile", watch) as watching,
        _run(settings, _blank(settings, PROJECT, settings.zone or ""), state, watching) as run,
    ):
        recover(run)
        operator_keys.remove_unneeded(run, [finding.id for finding in findings if finding.kind == "ssh_key"])


def _recover(run: "Run", *, on_failure: Status) -> None:
    """Look at what an interrupted run left open, before anything else is done."""
    from clawdet_cli.stages.recover import recovery
    from clawdet_cli.stages.runner import execute

    if run.open_effects:
        execute(run, [recovery(run.instance.status)], on_failure=on_failure)


def _still_complete(run: "Run") -> bool:
    """Check a complete instance, and hand it the provider keys and model that are set now."""
    from clawdet_cli.stages.provision import KEEP_FIREWALL, RECONFIGURE
    from clawdet_cli.stages.runner import execute
    from clawdet_cli.stages.verify import six_checks

    execute(run, KEEP_FIREWALL, on_failure=Status.COMPLETE)
    checks = six_checks(run, patience=0)
    run.state.save_checks(run.instance, checks)
    if any(check.result is Result.FAILED for check in checks):
        run.note("it is not as it should be any more: going through all stages again")
        return False
    if run.settings.provider_keys or run.settings.model or run.settings.origin_pull_ca is not None:
        execute(run, RECONFIGURE, on_failure=Status.FAILED)
    return True


def _run(
    settings: Settings,
    instance: Instance,
    state: State,
    watch: Watcher,
    *,
    approve: Callable[[Plan], bool] = lambda _: True,
    common: Common | None = None,
) -> "Run":
    from clawdet_cli.adapters import connect
    from clawdet_cli.stages.runner import Run

    deadline = Deadline.after(settings.timeout)

    def tell(text: str) -> None:
        run.note(text)

    def fence() -> None:
        run.fence()

    clouds = (common.clouds if common else connect(settings, deadline)).of_run(deadline, tell, fence)
    run = Run(
        instance,
        settings,
        clouds=clouds,
        state=state,
        watch=watch,
        deadline=deadline,
        approve=approve,
        side_by_side=common.side_by_side if common else 1,
    )
    return run


def _recorded(state: State, user: str) -> Instance:
    instance = state.instance(user)
    if instance is None:
        raise StateError(
            f"{user!r} is not known here: {state.path} has no such instance.",
            next_steps=["clawdet status    (lists all)", "or name another state folder with --state"],
        )
    return instance


def _living(state: State, user: str) -> Instance:
    """Return the recorded instance. Raises StateError for one that was destroyed, too."""
    instance = _recorded(state, user)
    if instance.status is Status.DESTROYED:
        raise StateError(
            f"{user} was destroyed at {instance.updated_at[:16].replace('T', ' ')} UTC.",
            next_steps=["clawdet status    (lists all that live)", f"clawdet provision {user}    (makes a new one)"],
        )
    return instance


def _known_or_new(settings: Settings, state: State, user: str) -> Instance:
    """Give the recorded instance, or a new one that is not recorded yet."""
    instance = state.instance(user)
    if instance is None or instance.status == Status.DESTROYED or _never_ordered(instance, state):
        return _blank(settings, user, settings.required_zone())
    if settings.zone is not None and settings.zone != instance.zone:
        raise StateError(
            f"{user} exists already as {instance.host}, and a user has one instance.",
            next_steps=["choose another user name", f"or look at that one first: clawdet status {user}"],
        )
    if instance.status == Status.DESTROYING:
        raise StateError(f"{user} is being destroyed.", next_steps=[f"clawdet destroy {user}"])
    return instance


def _blank(settings: Settings, user: str, zone: str) -> Instance:
    return Instance(
        user=user,
        zone=zone,
        run_id=_random_word(12),
        status=Status.PENDING,
        sandbox=bool(settings.endpoints.sandbox),
        created_at=now_text(),
        updated_at=now_text(),
    )


def _random_word(length: int) -> str:
    return "".join(secrets.choice(string.ascii_lowercase + string.digits) for _ in range(length))


def _never_ordered(instance: Instance, state: State) -> bool:
    """Say whether a run ended before it made anything; its zone may have been a slip of the pen.

    The host key is recorded before the first order is sent, so without one there was none. A claim that was cut off has
    told its run's id to a machine of the pool, which is nobody else's now.
    """
    made = instance.host_key or instance.server_id or instance.record_id
    return made is None and not state.has_claimed(instance.run_id)


def _recorded_or_adopted(
    settings: Settings,
    state: State,
    user: str,
    *,
    add: bool,
    common: Common | None,
    tell_of_another: Callable[[str], None] | None,
) -> Instance | None:
    """Return the recorded instance, else one that a server's labels or a record's comment tell of; None for neither.

    One that is not of a run of this database is told of in lines; without `tell_of_another` it is refused, with
    StateError.
    """
    from clawdet_cli.stages import another_database

    instance = state.instance(user)
    if instance is not None and instance.status != Status.DESTROYED and not _never_ordered(instance, state):
        return instance
    if instance is not None and settings.zone is None:
        settings = replace(settings, zone=instance.zone)
    blank = _known_or_new(settings, state, user)
    with _run(settings, blank, state, lambda _: None, common=common) as run:
        server = run.clouds.hetzner.find_server(blank.server_name)
        zone = run.clouds.cloudflare.zone(blank.zone)
        records = run.clouds.cloudflare.records(zone.id, blank.host) if zone else []
    makers = [maker_of(record.comment) for record in records if record.type == "A"]
    runs = [maker[1] for maker in makers if maker is not None and maker[0] == user]
    if server is not None:
        labels = dict(server.labels)
        maker = maker_by_labels(labels)
        if maker is None or maker[0] != user:
            if instance is not None and instance.status != Status.DESTROYED:
                return instance
            raise StateError(
                f"A server named {server.name} (id {server.id}) exists at Hetzner that clawdet did not make:"
                " it was not touched.",
                next_steps=["look at it in the Hetzner console"],
            )
        adopted = _adopted(replace(blank, zone=zone_by_labels(labels) or blank.zone), maker[1], server)
    elif runs:
        adopted = _adopted(blank, runs[0], None)
    else:
        return instance
    if not state.has_run(user, adopted.run_id):
        with _run(settings, adopted, state, lambda _: None, common=common) as run:
            seen = another_database.health(run, server, records)
        if tell_of_another is None:
            raise another_database.refusal(adopted, seen, "Nothing was removed.")
        for line in seen:
            tell_of_another(line)
    if add:
        state.add(adopted)
    return adopted


def _adopted(blank: Instance, run_id: str, server: Server | None) -> Instance:
    found = replace(blank, run_id=run_id, status=Status.FAILED, error="found in the cloud, not in the database")
    if server is None:
        return found
    return replace(
        found, server_id=server.id, server_type=server.server_type, location=server.location, ipv4=server.ipv4
    )
