"""Takes a server that waits in the pool for a user.

```
VPS                              database                       Hetzner
is it well, and nobody's?
is this run's from here on
                                 it leaves the pool, and is
                                 the user's, in one step
                                                                name and labels: the user's
```

Two runs never get the same one: of one database because of the step in the middle, of two (one may be a copy of the
other) because the machine itself gives itself to one run only. Whatever is wrong with one, the next is looked at, and
after the last a server is ordered.
"""

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from clawdet_cli import bootstrap
from clawdet_cli.adapters import ssh
from clawdet_cli.adapters.ssh import CommandResult, ConnectionLost
from clawdet_cli.errors import (
    ClawdetError,
    ConfigError,
    GuestError,
    RecordError,
    StateError,
    StoppedError,
    WaitError,
)
from clawdet_cli.lease import lease
from clawdet_cli.model import EffectOutcome, Instance, Server, Status, member_by_labels
from clawdet_cli.money import Price
from clawdet_cli.settings import Settings
from clawdet_cli.stages import operator_keys, preflight
from clawdet_cli.stages.host_key import LABEL
from clawdet_cli.stages.runner import Run

ANOTHERS = 4
"""The exit code of `claim` for a machine that another run has taken."""
PATIENCE = 20.0
"""Seconds that one machine of the pool has to answer: ordering another takes a minute."""


class UnwellError(GuestError):
    """What a machine of the pool showed to be wrong with itself: it is of no use to anybody, and is to be removed."""


def waiting(run: Run) -> list[Instance]:
    """Give what waits in the pool and is what a new server would be, in the order in which it is tried."""
    if run.instance.pooled:
        return []
    fitting = [member for member in run.state.pool() if unfit(member, run.settings) is None]
    types = run.settings.server_types
    return sorted(fitting, key=lambda member: (bool(member.error), types.index(member.server_type or "")))


def unfit(member: Instance, settings: Settings) -> str | None:
    """Say why a server of the pool is not given to anybody; None for one that waits to be."""
    if member.status is not Status.COMPLETE:
        return f"it is {member.status}" + (f": {member.error}" if member.error else "")
    if not (member.server_id and member.ipv4 and member.host_key):
        return "its record is not whole"
    if member.server_type not in settings.server_types or member.location not in settings.locations:
        return f"it is a {member.server_type} in {member.location}, which is not asked for"
    if member.image != settings.image:
        return f"it runs {member.image}, not {settings.image}"
    if member.openclaw_version != settings.openclaw_version:
        return f"it has OpenClaw {member.openclaw_version}, not {settings.openclaw_version}"
    return outdated(member, settings)


def outdated(member: Instance, settings: Settings) -> str | None:
    """Say why a server that was ready is rather made anew."""
    if is_old(member, settings):
        return f"it was prepared more than {settings.pool_days:g} days ago"
    said = dict(item.split("=", 1) for item in (member.installed or "").split() if "=" in item)
    if not _as_now(member, settings).items() <= said.items():
        return "it was prepared by another version of clawdet, or with other downloads"
    return None


def _as_now(member: Instance, settings: Settings) -> dict[str, str]:
    """Give what a server of this kind would say of itself if it were prepared now."""
    architecture = "arm" if (member.server_type or "").startswith("cax") else "x86"
    version = member.openclaw_version or settings.openclaw_version
    return bootstrap.prepared_as(bootstrap.prepare_input(settings, version, architecture))


def is_old(member: Instance, settings: Settings) -> bool:
    """Say whether it has waited so long that it is rather made anew: what it runs may have known holes by now."""
    return age_days(member) >= settings.pool_days


def age_days(member: Instance) -> float:
    """Give how many days ago it was recorded; a clock that was set back makes none younger than nothing."""
    return max(0.0, (datetime.now(UTC) - datetime.fromisoformat(member.created_at)).total_seconds() / 86400)


def from_pool(run: Run) -> Server | None:
    """Take the first that is well, and make it the user's; None when none is to be had.

    Raises ConfigError for a token of another project than the one that the pool is in.
    """
    for member in waiting(run):
        try:
            with lease(run.state, member.user, "provision", tell=run.note):
                with run.holding(member.user):
                    server = _take(run, member)
                return hand_over(run, server)
        except (StoppedError, RecordError, ConfigError):
            raise
        except ClawdetError as error:
            if run.instance.server_id is not None:
                raise
            run.hang_up()
            _settled(run)
            seen = run.state.instance(member.user)
            condemned = seen is not None and seen.status is Status.DESTROYING
            then = " 'clawdet pool fill' replaces it" if condemned else ""
            run.note(f"{member.server_name} of the pool is not taken: {' '.join([error.what, *error.details])}{then}")
            if isinstance(error, WaitError):
                # It may be the way to all of them that is cut.
                break
    return None


def _settled(run: Run) -> None:
    """Close the claim that came to nothing: the server that is ordered in its place ends this run well."""
    for effect in [one for one in run.open_effects if one.kind == "claim_server"]:
        run.settle(effect, EffectOutcome.LEFT, "another server is taken", {})


def hand_over(run: Run, server: Server) -> Server:
    """Give a server that was taken from the pool the user's name and labels; any other one stays as it is."""
    instance = run.instance
    if not is_of_pool(server) or server.id != instance.server_id:
        return server
    # The key that is about to be used: else the label would be put there twice.
    newest = instance.next_host_key or instance.host_key or ""
    labels = {**instance.labels, **instance.zone_label, LABEL: ssh.pin_label(newest)}
    labels |= {name: value for name, value in server.labels.items() if name == operator_keys.LABEL}
    with run.effect("label_server", server.name, on=server, keys=labels):
        return run.clouds.hetzner.label_server(server.id, labels, instance.server_name)


def is_of_pool(server: Server) -> bool:
    """Say whether a server still has the pool's labels."""
    return member_by_labels(server.labels) is not None


def _take(run: Run, member: Instance) -> Server:
    """Take one. Raises ClawdetError when it cannot be had; what is not as it should be is not offered again."""
    current = run.state.instance(member.user)
    if current is None or unfit(current, run.settings):
        raise StateError("another run has taken it.")
    server = run.clouds.hetzner.server(member.server_id or 0)
    if server is None:
        # Another project's token shows none of them.
        preflight.refuse_another_project(run.clouds, member)
    try:
        return _examined(run, member, server)
    except (ConnectionLost, WaitError) as error:
        run.state.record(member.user, error=error.what)
        raise
    except UnwellError as error:
        run.state.condemn(member, Status.DESTROYING, " ".join([error.what, *error.details]))
        raise
    except _GoneError as error:
        # Told of, and left: somebody may have it, or know why.
        run.state.condemn(member, Status.FAILED, error.what)
        raise


class _GoneError(GuestError):
    """It is not the pool's any more, by all that can be seen."""


def _examined(run: Run, member: Instance, server: Server | None) -> Server:
    """Look whether it is what is recorded, and well, and make it the user's. Raises ClawdetError."""
    if server is None:
        raise _GoneError(f"Hetzner has no server with its id {member.server_id}.")
    if not member.labels.items() <= dict(server.labels).items() or not is_of_pool(server):
        raise _GoneError("its labels were changed.")
    if server.status == "off":
        raise UnwellError("it is switched off.")
    if server.ipv4 is None or server.ipv4 != member.ipv4:
        raise _GoneError(f"its address is {server.ipv4}, and {member.ipv4} is recorded.")
    if server.status != "running":
        raise StateError(f"it is '{server.status}'.")
    address = run.settings.endpoints.dial(server.ipv4, 22)
    patience = run.deadline.within(PATIENCE)
    key, proxy = run.settings.ssh_key, run.settings.ssh_proxy
    # Makes a key where none is: a database that was brought here knows of servers, which let in another machine's.
    operator_keys.own(run.settings)
    connected = ssh.Ssh.connect(
        address, member.host_keys, key, patience, auth_grace=0.0, proxy_command=proxy, fence=run.fence
    )
    run.keep(connected)
    with run.effect("claim_server", member.server_name, server=member.server_id) as effect:
        command = bootstrap.installed("claim", run.instance.run_id)
        answer = run.ssh().run(command, timeout=run.deadline.within(PATIENCE).left())
        said = bootstrap.parse_values(answer.out)
        wrong = _wrong(run, member, answer, said)
        if wrong is None:
            # Within, so that no stop comes between the machine's word and the record of it.
            run.instance = run.state.give(member, run.instance.user, **_given(member, said))
            effect.made(member.server_id)
    if wrong is not None:
        raise wrong
    run.prepared = said
    price = f"{Price(member.monthly).shown} per month" if member.monthly else "its price is not known"
    run.note(f"{member.server_name} of the pool is taken, prepared {age_days(member):.1f} days ago: {price}")
    return server


def _given(member: Instance, said: Mapping[str, str]) -> dict[str, Any]:
    kept = ("server_id", "server_type", "location", "image", "monthly", "ipv4", "openclaw_version", "installed")
    keys = {"host_key": said["current"], "next_host_key": said.get("next") or None}
    return {name: getattr(member, name) for name in kept} | keys


def _wrong(run: Run, member: Instance, answer: CommandResult, said: Mapping[str, str]) -> GuestError | None:
    """Say what is wrong with the machine, by its own answer."""
    if answer.code == ANOTHERS:
        if run.state.has_claimed(said.get("claim", "")):
            return UnwellError("a run that is over has taken it.")
        return _GoneError("a run of another database has taken it.")
    if answer.code != 0:
        return UnwellError("it is not well:", details=answer.complaint)
    # What it says is compared with what it has proved to have.
    if said.get("current") != run.ssh().host_key or (said.get("next") and not ssh.is_host_key(said["next"])):
        return UnwellError("it gives no readable answer about its host key.")
    if not _as_now(member, run.settings).items() <= said.items():
        return UnwellError("it was prepared by another version of clawdet, or with other downloads.")
    return None
