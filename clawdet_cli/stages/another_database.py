"""What clawdet made and this database does not record: another operator's, or one's own whose database was lost.

Labels and comments tell which user and run it is of, not whose. So it is neither removed nor taken over unless somebody
says that it is meant, after being told how it stands. One thing proves that it is one's own: the VPS shows the host key
that its label names, and lets in the SSH key of this state folder.
"""

from collections.abc import Sequence

from clawdet_cli.adapters import ssh
from clawdet_cli.adapters.ssh import Ssh
from clawdet_cli.errors import AnotherDatabaseError, ClawdetError
from clawdet_cli.model import DnsRecord, Instance, Server
from clawdet_cli.stages import verify
from clawdet_cli.stages.host_key import label_names
from clawdet_cli.stages.runner import Run

FLAG = "--of-another-database"
KEY_SECONDS = 15.0
"""How long a VPS may take to let our key in."""


def described(server: Server) -> str:
    """Return in a line how a server stands."""
    return f"server {server.name} (id {server.id}) is {server.status}, ordered {server.created:%Y-%m-%d %H:%M} UTC"


def health(run: Run, server: Server | None, records: Sequence[DnsRecord]) -> list[str]:
    """Return what can be seen of an instance from outside, a line for each thing."""
    seen = [described(server)] if server else [f"no server {run.instance.server_name} is at Hetzner"]
    if run.instance.pooled:
        return seen
    own = [record for record in records if record.type == "A" and record.comment == run.instance.comment]
    for record in own:
        proxied = "proxied" if record.proxied else "not proxied"
        seen.append(f"DNS record {record.name} -> {record.content}, {proxied}")
    return [*seen, verify.page_seen(run)] if own else [*seen, f"no DNS record of it is at {run.instance.host}"]


def is_opened_by_our_key(run: Run, server: Server | None) -> bool:
    """Return whether a server lets in the SSH key of this state folder and shows the host key that its label names."""
    if server is None or server.ipv4 is None or server.status != "running":
        return False
    address, proxy = run.settings.endpoints.dial(server.ipv4, 22), run.settings.ssh_proxy
    deadline = run.deadline.within(KEY_SECONDS)
    try:
        shown = ssh.shown_host_key(address, deadline, proxy)
        if not label_names(server, shown):
            return False
        # Without patience for a key that is refused: it is not a server that still boots.
        Ssh.connect(address, (shown,), run.settings.ssh_key, deadline, auth_grace=0.0, proxy_command=proxy).close()
    except ClawdetError:
        return False
    return True


def seen_unless_ours(run: Run) -> list[str]:
    """Return how an instance stands, in lines; none where its VPS proves that it was ordered with our key."""
    instance, clouds = run.instance, run.clouds
    server = clouds.hetzner.server(instance.server_id) if instance.server_id is not None else None
    if is_opened_by_our_key(run, server):
        return []
    zone = None if instance.pooled else clouds.cloudflare.zone(instance.zone)
    return health(run, server, clouds.cloudflare.records(zone.id, instance.host) if zone else [])


def refusal(instance: Instance, seen: Sequence[str], what: str) -> AnotherDatabaseError:
    """Return the error for an instance of another database; `what` is what was not done."""
    return AnotherDatabaseError(
        f"{instance.user} (run {instance.run_id}) is not in this database: clawdet made it with another one, perhaps"
        f" another operator's, or with one that was lost. {what}",
        details=seen,
        next_steps=ways(instance.user),
    )


def ways(user: str, *others: str) -> list[str]:
    """Return what can be done about it, what removes it last."""
    return [
        f"clawdet state rebuild {user}    (if it is yours: records it here where your SSH key opens it)",
        "or use the database that knows it: --state FOLDER",
        *others,
        f"clawdet state rebuild {user} {FLAG}    (takes it over, if its database is lost)",
        f"clawdet destroy {user} {FLAG}    (removes it for good, whoever uses it)",
    ]
