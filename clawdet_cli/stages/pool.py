"""How a server comes into the pool: all that is the same for everybody is done, and then it waits.

```
stage             Hetzner            VPS                                           database
check_project     types, prices                                                    pending
create_server     firewall, /servers                                               creating_vps
await_ssh         running?           SSH with the pinned key                       installing
join_prepare                         the npm lock, for OpenClaw
replace_host_key  label              a host key of its own making
prepare_vps                          until all is installed and patched, and the
                                     gateway is up, with a token that no user gets  complete
```

Nothing of a user is on it: name, certificate, keys and a new token come with the claim.
"""

from clawdet_cli.model import Status
from clawdet_cli.stages import bundle, network, preflight
from clawdet_cli.stages.host_key import replace_host_key
from clawdet_cli.stages.provision import approve_order, await_ssh, create_server, join_prepare, prepare_vps
from clawdet_cli.stages.runner import Run, Stage


def check_project(run: Run) -> None:
    """Find out what would fail, before anything is bought."""
    bundle.check(run)
    outlook = network.look(run)
    run.clouds.hetzner.check()
    if preflight.own_server(run.clouds, run.instance) is None:
        run.remarks = network.remarks(outlook, run.clouds)
        approve_order(run)


FILL = (
    Stage("check_project", Status.PENDING, "Checking the project and prices", check_project),
    Stage("create_server", Status.CREATING_VPS, "Ordering the VPS", create_server),
    Stage("await_ssh", Status.INSTALLING, "Waiting for the VPS to boot", await_ssh),
    Stage("join_prepare", Status.INSTALLING, "Joining the installation that it began", join_prepare),
    Stage("replace_host_key", Status.INSTALLING, "Replacing the host key that was sent", replace_host_key),
    Stage("prepare_vps", Status.INSTALLING, "Installing Node.js, Caddy and OpenClaw", prepare_vps),
)
