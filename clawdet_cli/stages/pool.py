"""How a server comes into the pool: all that is the same for everybody is done, and then it waits.

```
stage             Hetzner            VPS                                           database
check_project     types, prices                                                    pending
create_server     firewall, /servers                                               creating_vps
await_ssh         running?           SSH with the pinned key                       installing
join_prepare                         the npm lock, for OpenClaw
replace_host_key  label              a host key of its own making
prepare_vps                          until all is installed and patched, and the
                                     gateway is up, with a token that no user gets
restart_patched                      a restart, if a patch waits for one            complete
```

Nothing of a user is on it: name, certificate, keys and a new token come with the claim.
"""

from contextlib import suppress

from clawdet_cli import bootstrap
from clawdet_cli.adapters.retry import NotYet, until
from clawdet_cli.adapters.ssh import ConnectionLost
from clawdet_cli.errors import GuestError, WaitError
from clawdet_cli.model import Status
from clawdet_cli.stages import bundle, network, preflight
from clawdet_cli.stages.host_key import replace_host_key
from clawdet_cli.stages.provision import approve_order, await_ssh, create_server, join_prepare, prepare_vps
from clawdet_cli.stages.runner import Run, Stage

RESTART_SECONDS = 300.0
"""How long a VPS may take until it is back with its gateway."""
REACH_SECONDS = 20.0
"""How long each connecting may take meanwhile."""


def check_project(run: Run) -> None:
    """Find out what would fail, before anything is bought."""
    bundle.check(run)
    outlook = network.look(run)
    run.clouds.hetzner.check()
    if preflight.own_server(run) is None:
        run.remarks = network.remarks(outlook, run.clouds)
        approve_order(run)


def restart_patched(run: Run) -> None:
    """Restart the VPS if one of its patches, as of the kernel, waits for that: later there is a user on it."""
    if _asked(run, bootstrap.REBOOT_REQUIRED) != "yes":
        return
    run.note("a patch waits for a restart of the VPS: restarting it")
    with run.effect("reboot_vps", run.instance.server_name), suppress(ConnectionLost, WaitError):
        # The answer may be lost in what it begins.
        run.ssh().run(bootstrap.REBOOT, timeout=run.deadline.within(REACH_SECONDS).left())
    run.hang_up()

    def is_back() -> bool:
        report = bootstrap.parse_values(_asked(run, bootstrap.installed("report")))
        if report.get("reboot_required") != "no" or report.get("gateway_health") != "ok":
            run.hang_up()  # it may be on its way down
            raise NotYet("it is not back yet, or its gateway does not answer yet")
        return True

    until(
        is_back,
        deadline=run.deadline.within(RESTART_SECONDS),
        what="the VPS to be back after its restart",
        every=1.0,
        catching=(ConnectionLost, WaitError),
    )


def _asked(run: Run, command: str) -> str:
    answer = run.remote(command, seconds=60, reach=REACH_SECONDS)
    if answer.code != 0:
        raise GuestError("The VPS could not be asked whether it waits for a restart.", details=answer.complaint)
    return answer.out.strip()


FILL = (
    Stage("check_project", Status.PENDING, "Checking the project and prices", check_project),
    Stage("create_server", Status.CREATING_VPS, "Ordering the VPS", create_server),
    Stage("await_ssh", Status.INSTALLING, "Waiting for the VPS to boot", await_ssh),
    Stage("join_prepare", Status.INSTALLING, "Joining the installation that it began", join_prepare),
    Stage("replace_host_key", Status.INSTALLING, "Replacing the host key that was sent", replace_host_key),
    Stage("prepare_vps", Status.INSTALLING, "Installing Node.js, Caddy and OpenClaw", prepare_vps),
    Stage("restart_patched", Status.INSTALLING, "Restarting it if a patch waits for that", restart_patched),
)
