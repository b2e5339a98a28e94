"""Puts a host key of the VPS's own making in the place of the one that was sent to it.

```
VPS                    Hetzner                       database
makes a new key
                       label host-key-next
                                                     next_host_key
lets it take over
shows it                                             host_key
                       label host-key
```

The sent one came in user_data, which stays readable on the VPS to whoever asks the metadata service there. The new one
is written down everywhere before it is used, and until it was seen both are accepted: a run that is cut off anywhere in
between, or a database that is lost then, can still tell the VPS from another machine.
"""

from clawdet_cli import bootstrap
from clawdet_cli.adapters import ssh
from clawdet_cli.adapters.retry import until
from clawdet_cli.errors import CloudError, GuestError
from clawdet_cli.model import Server
from clawdet_cli.secret import excerpt
from clawdet_cli.stages.runner import Run

LABEL = "host-key"
NEXT_LABEL = "host-key-next"
SEEN_SECONDS = 30.0
"""How long sshd may take until it shows its new key."""


def replace_host_key(run: Run) -> None:
    """Have the VPS make a host key, pin it, let it take the place of the one that was sent, and see it."""
    current, following = _keys_of_vps(run)
    if following:
        _label(run, {LABEL: ssh.pin_label(current), NEXT_LABEL: ssh.pin_label(following)})
        run.record(next_host_key=following)
        with run.effect("switch_host_key", run.instance.server_name, key=following):
            command = bootstrap.installed("switch-host-key", following.split()[1])
            answer = run.ssh().run(command, timeout=run.deadline.within(60).left())
        if answer.code != 0:
            raise GuestError("The VPS could not change its host key.", details=answer.complaint)
        current = _seen(run, following)
    if run.instance.host_key != current or run.instance.next_host_key is not None:
        run.record(host_key=current, next_host_key=None)
    _label(run, {LABEL: ssh.pin_label(current)})


def label_names(server: Server, host_key: str) -> bool:
    """Say whether a server's labels name this host key, as the one in use or as the next."""
    return ssh.pin_label(host_key) in {server.labels.get(LABEL), server.labels.get(NEXT_LABEL)}


def _keys_of_vps(run: Run) -> tuple[str, str]:
    """Give the key in use, and the next one; that is empty when the one in use is of the machine's own making."""
    with run.effect("make_host_key", run.instance.server_name):
        answer = run.ssh().run(bootstrap.installed("host-key"), timeout=run.deadline.within(60).left())
    if answer.code != 0:
        raise GuestError("The VPS could not make a host key.", details=answer.complaint)
    values = bootstrap.parse_values(answer.out)
    current, following = values.get("current", ""), values.get("next", "")
    # What it says is compared with what it has proved to have.
    if current != run.ssh().host_key or (following and not ssh.is_host_key(following)):
        raise GuestError("The VPS gives no readable answer about its host key.", details=[excerpt(answer.out, 300)])
    return current, following


def _seen(run: Run, wanted: str) -> str:
    """Connect anew until the VPS shows the new key; only then is the old one forgotten."""

    def shown() -> bool | None:
        run.hang_up()
        return True if run.ssh().host_key == wanted else None

    until(shown, deadline=run.deadline.within(SEEN_SECONDS), what="the VPS to show its new host key", every=0.2)
    return wanted


def _label(run: Run, keys: dict[str, str]) -> None:
    server = run.clouds.hetzner.server(run.instance.server_id or 0)
    if server is None:
        raise CloudError(f"The server {run.instance.server_name} is gone from Hetzner.")
    labels = {name: value for name, value in server.labels.items() if name not in {LABEL, NEXT_LABEL}} | keys
    if labels != dict(server.labels):
        with run.effect("label_server", server.name, keys=keys):
            run.clouds.hetzner.label_server(server.id, labels)
