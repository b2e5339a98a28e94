"""Whose something in a cloud is: asked at the moment of every change and deletion, whatever is recorded.

A recorded id proves nothing: the row may come from an import, from another database, or be older than the thing. So the
thing itself must carry our mark: a server the labels of user and run, a record the whole comment, a certificate the key
that the VPS made and exactly our host, a firewall and a key of the project the label of clawdet. `Run.effect` asks; a
test reads out of the code that every change of something that exists passes there.
"""

from collections.abc import Mapping, Sequence
from typing import Protocol

from clawdet_cli import public_key
from clawdet_cli.errors import ForeignError
from clawdet_cli.model import (
    POOL,
    PROJECT,
    Certificate,
    DnsRecord,
    Firewall,
    Instance,
    Server,
    SshKey,
    maker_by_labels,
    member_by_labels,
)

FIREWALL = "clawdet"
"""The name of the project's firewall."""
LABELS = {"managed-by": "clawdet"}
"""Of the firewall and the SSH keys of the project."""

Thing = Server | DnsRecord | Certificate | Firewall | SshKey


class Journal(Protocol):
    """What the database knows beyond the instance."""

    def claims(self, run_id: str) -> Mapping[int, str]:
        """Return the servers of the pool that a run has claimed, by id with their names there."""

    def requests(self, user: str) -> Sequence[str]:
        """Return the certificate requests that were sent for a user."""


def owns(instance: Instance, thing: Thing, journal: Journal) -> bool:
    """Return whether something in a cloud is provably an instance's, by what it carries itself."""
    match thing:
        case Server():
            return _owns_server(instance, thing, journal)
        case DnsRecord():
            return owns_record(instance, thing)
        case Certificate():
            requests = [instance.csr] if instance.csr else []
            requests += journal.requests(instance.user)
            return any(thing.is_of(instance.host, public_key.of_request(request)) for request in requests)
        case Firewall():
            return is_project_firewall(thing)
        case SshKey():
            return _has_labels(LABELS, thing.labels)


def carries_labels(instance: Instance, server: Server) -> bool:
    """Return whether a server has the labels of the instance's user (or place in the pool) and run."""
    taken = instance.pooled and maker_by_labels(server.labels) is not None
    return _has_labels(instance.labels, server.labels) and not taken


def owns_record(instance: Instance, record: DnsRecord) -> bool:
    """Return whether a record has the instance's name and its whole comment."""
    marked = record.type == "A" and record.comment == instance.comment
    return marked and record.name.lower() == instance.host.lower()


def is_project_firewall(firewall: Firewall) -> bool:
    """Return whether clawdet made a firewall for the servers of the project."""
    return firewall.name == FIREWALL and _has_labels(LABELS, firewall.labels)


def refuse_foreign(instance: Instance, thing: Thing, journal: Journal) -> None:
    """Raise ForeignError for what is not provably the instance's, with the name that the cloud gives it."""
    if not owns(instance, thing, journal):
        raise foreign(instance, thing)


def foreign(instance: Instance, thing: Thing) -> ForeignError:
    """Return the error for something that a change was meant for and that is not provably the instance's."""
    user = instance.user
    forget = f"clawdet destroy {user} --forget-foreign    (destroys {user}; what is not clawdet's is left as it is)"
    steps = ["clawdet reconcile"] if user == PROJECT or user.startswith(POOL) else [forget]
    if isinstance(thing, Server):
        wanted = ", ".join(f"{key}={value}" for key, value in instance.labels.items())
        steps.insert(0, f"if it is {user}'s, put its labels back in the Hetzner console: {wanted}")
    elif isinstance(thing, DnsRecord):
        steps.insert(0, f"if it is {user}'s, put its comment back in the Cloudflare dashboard: {instance.comment}")
    error = ForeignError(
        f"{described(thing)} is not provably {user}'s: it was not touched.", details=[_marks(thing)], next_steps=steps
    )
    if isinstance(thing, Server) and thing.id == instance.server_id:
        error.recorded_as = "server_id"
    elif isinstance(thing, DnsRecord) and thing.id == instance.record_id:
        error.recorded_as = "record_id"
    return error


def described(thing: Thing) -> str:
    """Return what a thing is called by its cloud."""
    match thing:
        case Server():
            return f"The server {thing.name} (id {thing.id})"
        case DnsRecord():
            return f"The DNS record {thing.type} {thing.name} -> {thing.content} (id {thing.id})"
        case Certificate():
            return (
                f"The Origin CA certificate {thing.id} for {', '.join(thing.hostnames) or 'names that are not shown'}"
            )
        case Firewall():
            return f"The firewall {thing.name} (id {thing.id})"
        case SshKey():
            return f"The SSH key {thing.name} (id {thing.id})"


def _owns_server(instance: Instance, server: Server, journal: Journal) -> bool:
    if instance.user == PROJECT:
        return (maker_by_labels(server.labels) or member_by_labels(server.labels)) is not None
    if carries_labels(instance, server):
        return True
    member = member_by_labels(server.labels)
    if instance.pooled or member is None:
        return False
    # Taken from the pool by this run, and not labelled as the user's yet.
    return journal.claims(instance.run_id).get(server.id) == f"clawdet-{member}"


def _marks(thing: Thing) -> str:
    match thing:
        case DnsRecord():
            return f"its comment: {thing.comment!r}"
        case Certificate():
            return "its key is not one that this database had certified for this name"
        case _:
            labels = ", ".join(f"{key}={value}" for key, value in sorted(thing.labels.items()))
            return f"its labels: {labels or 'none'}"


def _has_labels(wanted: Mapping[str, str], there: Mapping[str, str]) -> bool:
    return wanted.items() <= dict(there).items()
