"""Everything that can be known to fail before anything is made or bought."""

from collections.abc import Sequence

from clawdet_cli import pins
from clawdet_cli.adapters import Clouds
from clawdet_cli.errors import AnotherDatabaseError, ConfigError, StateError
from clawdet_cli.model import DnsRecord, Instance, Plan, Server, ServerOffer, Zone, maker_by_labels, maker_of
from clawdet_cli.settings import Settings
from clawdet_cli.stages import another_database, firewall, ownership
from clawdet_cli.stages.runner import Run

MINIMUM_MEMORY_GB = 3.5
"""OpenClaw 2026.9.6 is killed for memory below 1 GB, and npm beside it needs as much again (failure-modes F19)."""


def own_server(run: Run) -> Server | None:
    """Find the instance's server: by recorded id, else by name, and by labels. Raises StateError for a foreign one."""
    hetzner, instance = run.clouds.hetzner, run.instance
    if instance.server_id is not None:
        server = hetzner.server(instance.server_id)
        if server is not None:
            ownership.refuse_foreign(instance, server, run.state)
            return server
    server = hetzner.find_server(instance.server_name)
    if server is None or run.owns(server):
        return server
    raise _in_the_way(
        f"A server named {server.name} (id {server.id}) exists at Hetzner that is not this instance's:"
        " it was not touched.",
        (maker_by_labels(server.labels) or ("", ""))[0] == instance.user,
        instance,
        "rename or remove that server in the Hetzner console",
        another_database.described(server),
    )


def refuse_another_project(clouds: Clouds, instance: Instance) -> None:
    """Doubt that a recorded server is gone when nothing at all of clawdet's is in the project. Raises ConfigError.

    Where it was ordered there is a firewall of ours until the last server is destroyed. So this may be another project,
    and in the right one the server goes on to cost money.
    """
    wall = clouds.hetzner.firewall(firewall.NAME)
    if instance.server_id is None or (wall is not None and firewall.is_ours(wall)):
        return
    if any(key.labels.get("managed-by") == "clawdet" for key in clouds.hetzner.all_ssh_keys()):
        return
    raise ConfigError(
        f"The project of this token (HCLOUD_TOKEN) has no server {instance.server_name} (id {instance.server_id}), and"
        " nothing else of clawdet's: it may be another project than the one that the server is in.",
        next_steps=[
            "set HCLOUD_TOKEN to a token of the project that the server was ordered in, then run the command again",
            "clawdet reconcile --fix    (if it is gone for certain: takes it out of the database)",
        ],
    )


def own_record(clouds: Clouds, zone: Zone, instance: Instance) -> DnsRecord | None:
    """Find the instance's DNS record. Raises StateError where the name is used by something else."""
    records = clouds.cloudflare.records(zone.id, instance.host)
    for record in records:
        if record.id == instance.record_id and not ownership.owns_record(instance, record):
            raise ownership.foreign(instance, record)
    ours = [record for record in records if ownership.owns_record(instance, record)]
    foreign = [record for record in records if record not in ours and record.type != "TXT"]
    if foreign:
        taken = ", ".join(f"{record.type} {record.content}" for record in foreign)
        raise _in_the_way(
            f"The name {instance.host} is taken by a DNS record that is not this instance's ({taken}):"
            " it was not touched.",
            all((maker_of(record.comment) or ("", ""))[0] == instance.user for record in foreign),
            instance,
            "remove that record in the Cloudflare dashboard",
        )
    return next(iter(ours), None)


def _in_the_way(what: str, clawdets: bool, instance: Instance, otherwise: str, *details: str) -> StateError:
    """Return the error for what has the instance's name; where it is clawdet's own it may be another operator's."""
    if clawdets:
        steps = another_database.ways(instance.user, "or choose another user name")
        return AnotherDatabaseError(what, details=details, next_steps=steps)
    return StateError(what, details=details, next_steps=[f"choose another user name, or {otherwise}"])


def choose_offers(clouds: Clouds, settings: Settings) -> tuple[ServerOffer, ...]:
    """Give what may be ordered, in the order to try. Raises ConfigError if nothing that was asked for can do."""
    offers = clouds.hetzner.offers(settings.server_types, settings.locations)
    enough = tuple(offer for offer in offers if offer.memory_gb >= MINIMUM_MEMORY_GB)
    if not enough:
        raise ConfigError(
            f"None of {', '.join(settings.server_types)} can be ordered at {', '.join(settings.locations)}"
            f" with the {MINIMUM_MEMORY_GB:g} GB of memory that OpenClaw needs.",
            next_steps=["name others with --server-type and --location"],
        )
    for architecture in dict.fromkeys(offer.architecture for offer in enough):
        clouds.hetzner.image_for(settings.image, architecture)
    return enough


def make_plan(
    settings: Settings, instance: Instance, offers: Sequence[ServerOffer], exists: Sequence[str], notes: Sequence[str]
) -> Plan:
    """Put together what would be made."""
    version = instance.openclaw_version or settings.openclaw_version
    pinned = pins.load().for_openclaw(version, offers[0].architecture if offers else "x86")
    if not settings.provider_keys:
        notes = [*notes, "no provider key is set: OpenClaw will run, but can talk to no model until it has one"]
    return Plan(
        user=instance.user,
        host=instance.host,
        url=f"https://{instance.host}/",
        server_name=instance.server_name,
        image=instance.image or settings.image,
        candidates=tuple(offers),
        openclaw_version=version,
        node_version=pinned.node_version,
        caddy_version=pinned.caddy_version,
        model=settings.model or pinned.default_model(settings.provider_keys),
        provider_keys=tuple(settings.provider_keys),
        exists=tuple(exists),
        notes=tuple(notes),
    )
