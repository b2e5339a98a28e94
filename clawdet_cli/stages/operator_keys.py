"""Which SSH key of the project each server of clawdet's was ordered with, so that a key goes with its last server.

A server does not say which keys it lets in. So each carries a label with the beginning of its key's digest; one without
it, ordered before there was such a label, may need any key.
"""

from collections.abc import Container, Iterable

from clawdet_cli.adapters import ssh
from clawdet_cli.model import Server, SshKey
from clawdet_cli.settings import Settings
from clawdet_cli.stages.runner import Run

LABEL = "ssh-key"
MARK_LENGTH = 16


def own(settings: Settings) -> str:
    """Return the public half of the operator's key; make one where clawdet keeps its own and none is.

    Raises ConfigError when the file cannot serve.
    """
    return ssh.operator_key(settings.ssh_key, make=settings.ssh_key.is_relative_to(settings.state_dir))


def mark(public: str) -> str:
    """Return what a key is called by: in a server's label, and in the name that clawdet gives it in the project."""
    return ssh.pin_label(public)[:MARK_LENGTH].lower()


def name_of(public: str) -> str:
    """Return the name that clawdet gives a key in the project."""
    return f"clawdet-{mark(public)}"


def is_needed(key: SshKey, servers: Iterable[Server], recorded: Container[int] = ()) -> bool:
    """Return whether one of these servers was ordered with this key, or may have been.

    Those that are not clawdet's by their labels do not count, unless they are among the `recorded` ids.
    """
    ours = [one for one in servers if one.labels.get("managed-by") == "clawdet" or one.id in recorded]
    return any(one.labels.get(LABEL) in {None, mark(key.public)} for one in ours)


def is_ours(key: SshKey) -> bool:
    """Return whether clawdet added a key: it has our label, and the name that its own digest makes."""
    return key.labels.get("managed-by") == "clawdet" and key.name == name_of(key.public)


def remove_unneeded(run: Run, ids: Iterable[str]) -> None:
    """Delete those of these keys that are clawdet's and, as it is now, of no use to any server."""
    hetzner, wanted = run.clouds.hetzner, set(ids)
    servers, recorded = hetzner.all_servers(), run.state.server_ids()
    for key in hetzner.all_ssh_keys():
        if str(key.id) in wanted and is_ours(key) and not is_needed(key, servers, recorded):
            with run.effect("delete_ssh_key", str(key.id), on=key, key=key.name):
                hetzner.delete_ssh_key(key.id)
            run.note(f"the SSH key {key.name} was removed from the Hetzner project")
