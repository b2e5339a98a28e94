"""Puts a host key of the VPS's own making in the place of the one that was sent to it.

```
VPS                    Hetzner                       database
makes a new key
                                                     next_host_key, beside host_key
                       label host-key
lets it take over
shows it                                             host_key, alone
```

The sent one came in user_data, which stays readable on the VPS to whoever asks the metadata service there. The new one
is written down everywhere before it is used, and until it was seen the database holds both, and both are accepted: a
run that is cut off anywhere in between can still tell the VPS from another machine. The label names one key only, since
each change of it is a call for each instance: a database that is lost between label and switch (a second; in a claim
from the pool also while the DNS record is made) leaves a VPS that is not believed any more, and whoever goes on is told
so.
"""

from clawdet_cli import bootstrap
from clawdet_cli.adapters import ssh
from clawdet_cli.adapters.retry import until
from clawdet_cli.errors import CloudError, GuestError
from clawdet_cli.model import Server
from clawdet_cli.secret import excerpt
from clawdet_cli.stages.runner import Run

LABEL = "host-key"
SEEN_SECONDS = 30.0
"""How long sshd may take until it shows its new key."""


def replace_host_key(run: Run) -> None:
    """Have the VPS make a host key, pin it, let it take the place of the one that was sent, and see it."""
    current, following = _keys_of_vps(run)
    if following:
        run.record(next_host_key=following)
        _label(run, following)
        with run.effect("switch_host_key", run.instance.server_name, key=following):
            command = bootstrap.installed("switch-host-key", following.split()[1])
            answer = run.remote(command, seconds=60)
        if answer.code != 0:
            raise GuestError("The VPS could not change its host key.", details=answer.complaint)
        current = _seen(run, following)
    else:
        _label(run, current)
    if run.instance.host_key != current or run.instance.next_host_key is not None:
        run.record(host_key=current, next_host_key=None)


def label_names(server: Server, host_key: str) -> bool:
    """Say whether a server's label names this host key."""
    return server.labels.get(LABEL) == ssh.pin_label(host_key)


def _keys_of_vps(run: Run) -> tuple[str, str]:
    """Give the key in use, and the next one; that is empty when the one in use is of the machine's own making."""
    with run.effect("make_host_key", run.instance.server_name):
        answer = run.remote(bootstrap.installed("host-key"), seconds=60)
    if answer.code != 0:
        raise GuestError("The VPS could not make a host key.", details=answer.complaint)
    values = bootstrap.parse_values(answer.out)
    current, following = values.get("current", ""), values.get("next", "")
    shown = run.ssh().host_key
    if not following and current == run.instance.next_host_key and current != shown:
        # The files were switched, and sshd could not be restarted: the switch is asked for once more, and restarts it.
        return shown, current
    # What it says is compared with what it has proved to have.
    if current != shown or (following and not ssh.is_host_key(following)):
        raise GuestError("The VPS gives no readable answer about its host key.", details=[excerpt(answer.out, 300)])
    return current, following


def _seen(run: Run, wanted: str) -> str:
    """Connect anew until the VPS shows the new key; only then is the old one forgotten."""

    def shown() -> bool | None:
        run.hang_up()
        return True if run.ssh().host_key == wanted else None

    until(shown, deadline=run.deadline.within(SEEN_SECONDS), what="the VPS to show its new host key", every=0.2)
    return wanted


def _label(run: Run, host_key: str) -> None:
    """Have the server's label name this key."""
    server = run.clouds.hetzner.server(run.instance.server_id or 0)
    if server is None:
        raise CloudError(f"The server {run.instance.server_name} is gone from Hetzner.")
    if not label_names(server, host_key):
        keys = {LABEL: ssh.pin_label(host_key)}
        with run.effect("label_server", server.name, on=server, keys=keys):
            run.clouds.hetzner.label_server(server.id, {**server.labels, **keys})
