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

from clawdet_cli import bootstrap, stopping
from clawdet_cli.adapters import ssh
from clawdet_cli.adapters.ssh import ConnectionLost
from clawdet_cli.errors import (
    ClawdetError,
    GuestError,
    RecordError,
    StateError,
    StoppedError,
    WaitError,
)
from clawdet_cli.lease import lease
from clawdet_cli.model import Instance, Server, Status
from clawdet_cli.settings import Settings
from clawdet_cli.stages.host_key import LABEL
from clawdet_cli.stages.runner import Run

PATIENCE = 20.0
"""Seconds that one machine of the pool has to answer: ordering another takes a minute."""


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
    if member.server_type not in settings.server_types or member.location not in settings.locations:
        return f"it is a {member.server_type} in {member.location}, which is not asked for"
    if member.image != settings.image:
        return f"it runs {member.image}, not {settings.image}"
    if member.openclaw_version != settings.openclaw_version:
        return f"it has OpenClaw {member.openclaw_version}, not {settings.openclaw_version}"
    if is_old(member, settings):
        return f"it was prepared more than {settings.pool_days:g} days ago"
    return None


def is_old(member: Instance, settings: Settings) -> bool:
    """Say whether it has waited so long that it is rather made anew: what it runs may have known holes by now."""
    return age_days(member) >= settings.pool_days


def age_days(member: Instance) -> float:
    """Give how many days ago it was recorded; a clock that was set back makes none younger than nothing."""
    return max(0.0, (datetime.now(UTC) - datetime.fromisoformat(member.created_at)).total_seconds() / 86400)


def from_pool(run: Run) -> Server | None:
    """Take the first that is well, and record it as the user's; None when none is to be had."""
    for member in waiting(run):
        try:
            with lease(run.state, member.user, "provision", tell=run.note):
                return _take(run, member)
        except (StoppedError, RecordError):
            raise
        except ClawdetError as error:
            if run.instance.server_id is not None:
                raise
            seen = run.state.instance(member.user)
            condemned = seen is not None and seen.status is Status.DESTROYING
            then = " 'clawdet pool fill' replaces it" if condemned else ""
            run.note(f"{member.server_name} of the pool is not taken: {error.what}{then}")
    return None


def hand_over(run: Run, server: Server) -> Server:
    """Give a server that was taken from the pool the user's name and labels; any other one stays as it is."""
    instance = run.instance
    if not is_of_pool(server) or server.id != instance.server_id:
        return server
    # The key that is about to be used: else the label would be put there twice.
    newest = instance.next_host_key or instance.host_key or ""
    labels = {**instance.labels, **instance.zone_label, LABEL: ssh.pin_label(newest)}
    with run.effect("label_server", server.name, keys=labels):
        return run.clouds.hetzner.label_server(server.id, labels, instance.server_name)


def is_of_pool(server: Server) -> bool:
    """Say whether a server still has the pool's labels."""
    return server.labels.get("managed-by") == "clawdet" and "pool" in server.labels


def _take(run: Run, member: Instance) -> Server:
    """Take one. Raises ClawdetError when it cannot be had; what is not as it should be is to be removed then."""
    current = run.state.instance(member.user)
    if current is None or unfit(current, run.settings):
        raise StateError("another run has taken it.")
    # Outside of what follows: that Hetzner cannot be asked is no failing of the machine.
    found = run.clouds.hetzner.server(member.server_id or 0)
    try:
        server, said = _examined(run, member, found)
    except RecordError:
        run.hang_up()
        raise
    except (ConnectionLost, WaitError) as error:
        # It may be the way to it that is cut, for all of them: it stays, and is tried after the others from now on.
        run.hang_up()
        run.state.record(member.user, error=error.what)
        raise
    except (GuestError, StateError) as error:
        run.hang_up()
        run.state.record(member.user, status=Status.DESTROYING, error=error.what)
        raise
    shown, following = said.get("current", ""), said.get("next", "")
    with stopping.held():
        run.instance = run.state.give(
            member,
            run.instance.user,
            server_id=member.server_id,
            server_type=member.server_type,
            location=member.location,
            image=member.image,
            monthly=member.monthly,
            ipv4=member.ipv4,
            host_key=shown,
            next_host_key=following or None,
            openclaw_version=member.openclaw_version,
            installed=member.installed,
        )
    run.prepared = said
    days, price = age_days(member), f"EUR {member.monthly} per month" if member.monthly else "its price is not known"
    run.note(f"{member.server_name} of the pool is taken, prepared {days:.1f} days ago: {price}")
    return server


def _examined(run: Run, member: Instance, server: Server | None) -> tuple[Server, Mapping[str, str]]:
    """Look whether it is what is recorded, and give it with what it says of itself. Raises ClawdetError."""
    if server is None:
        raise StateError(f"Hetzner has no server with its id {member.server_id}.")
    if not member.labels.items() <= dict(server.labels).items():
        raise StateError("its labels were changed.")
    if server.status != "running" or server.ipv4 is None or server.ipv4 != member.ipv4:
        raise StateError(f"it is '{server.status}' with address {server.ipv4}; recorded is {member.ipv4}.")
    address = run.settings.endpoints.dial(server.ipv4, 22)
    patience = run.deadline.within(PATIENCE)
    run.keep(ssh.Ssh.connect(address, member.host_keys, run.settings.ssh_key, patience))
    said = _asked(run, member)
    _refuse_another_script(run, member, said)
    return server, said


def _asked(run: Run, member: Instance) -> Mapping[str, str]:
    """Have the machine look after itself and become this run's, and give what it says."""
    with run.effect("claim_server", member.server_name, server=member.server_id):
        command = bootstrap.installed("claim", run.instance.run_id)
        answer = run.ssh().run(command, timeout=run.deadline.within(PATIENCE).left())
    if answer.code != 0:
        raise GuestError("it is not well, or another run's.", details=answer.complaint)
    said = bootstrap.parse_values(answer.out)
    # What it says is compared with what it has proved to have.
    if said.get("current") != run.ssh().host_key or (said.get("next") and not ssh.is_host_key(said["next"])):
        raise GuestError("it gives no readable answer about its host key.")
    return said


def _refuse_another_script(run: Run, member: Instance, said: Mapping[str, str]) -> None:
    """Compare what was installed with what would be installed now. Raises GuestError."""
    architecture = "arm" if (member.server_type or "").startswith("cax") else "x86"
    wanted = bootstrap.prepared_as(bootstrap.prepare_input(run.settings, member.openclaw_version or "", architecture))
    if not wanted.items() <= said.items():
        raise GuestError("it was prepared by another version of clawdet, or with other downloads.")
