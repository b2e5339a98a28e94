"""Everything that can be known to fail before anything is made or bought."""

from collections.abc import Sequence

from clawdet_cli import pins
from clawdet_cli.adapters import Clouds
from clawdet_cli.adapters.cloudflare import Cloudflare
from clawdet_cli.errors import CloudError, ConfigError, StateError
from clawdet_cli.model import DnsRecord, Instance, Plan, Server, ServerOffer, Zone, maker_of
from clawdet_cli.settings import CLOUDFLARE_HOW_TO, Settings
from clawdet_cli.stages import firewall

MINIMUM_MEMORY_GB = 3.5
"""OpenClaw 2026.9.6 is killed for memory below 1 GB, and npm beside it needs as much again (failure-modes F19)."""


def usable_zone(cloudflare: Cloudflare, name: str) -> Zone:
    """Give the zone if a proxied name in it can serve over strict TLS. Raises ConfigError with the exact fix."""
    zone = cloudflare.zone(name)
    if zone is None:
        _refuse_a_deeper_name(cloudflare, name)
        raise ConfigError(
            f"The Cloudflare token sees no zone {name}: it is not in the account, or the token has no Zone Read on it.",
            next_steps=[f"add {name} at https://dash.cloudflare.com, or widen the token", CLOUDFLARE_HOW_TO],
        )
    if zone.status != "active" or zone.paused:
        servers = " and ".join(zone.name_servers)
        fix = f"set the name servers of {name} at your registrar to {servers}, and wait until the zone is active"
        if zone.paused:
            fix = f"un-pause it: https://dash.cloudflare.com, {name}, Overview, Advanced Actions"
        raise ConfigError(
            f"The zone {name} is {'paused' if zone.paused else zone.status} at Cloudflare: it cannot proxy a name yet.",
            next_steps=[fix],
        )
    return zone


def _refuse_a_deeper_name(cloudflare: Cloudflare, name: str) -> None:
    parent = name.partition(".")[2]
    if "." in parent and cloudflare.zone(parent) is not None:
        raise ConfigError(
            f"{name} is not a zone but a name inside the zone {parent}, and Cloudflare's universal certificate covers"
            " one level below a zone only.",
            next_steps=[f"use the zone itself: --zone {parent}"],
        )


def strict_tls(cloudflare: Cloudflare, zone: Zone) -> str | None:
    """Make sure that Cloudflare authenticates the VPS; give a remark if the token cannot see it. Raises ConfigError."""
    mode = cloudflare.ssl_mode(zone.id)
    if mode is None:
        return "the token has no Zone Settings Read, so the SSL mode could not be checked; it must be Full (strict)"
    if mode != "strict":
        raise ConfigError(
            f"The SSL mode of {zone.name} is '{mode}', not 'strict': Cloudflare would not check whom it talks to.",
            next_steps=[
                f"https://dash.cloudflare.com, {zone.name}, SSL/TLS, Overview, Configure: choose Full (strict)",
                "it holds for the whole zone: other hosts in it then need a valid certificate too",
            ],
        )
    if cloudflare.always_use_https(zone.id) is False:
        return "'Always Use HTTPS' is off in this zone, so http:// visitors are not sent on to https:// by Cloudflare"
    return None


def origin_pulls(cloudflare: Cloudflare, zone_id: str, settings: Settings) -> str | None:
    """Make sure that the edge shows its certificate where the VPS is to want one; give a remark if nobody can see it.

    Raises ConfigError: without it, nobody would get in any more.
    """
    if not settings.origin_pull_ca:
        return None
    shown = cloudflare.origin_pulls(zone_id)
    if shown is None:
        return "the token has no Zone Settings Read, so it could not be checked that Authenticated Origin Pulls are on"
    if not shown:
        raise ConfigError(
            "The VPS is to let in Cloudflare's certificate alone, and the zone does not show it.",
            next_steps=[
                "https://dash.cloudflare.com, your zone, SSL/TLS, Origin Server: switch Authenticated Origin Pulls on",
                "or leave --origin-pull-ca out",
            ],
        )
    return None


def own_server(clouds: Clouds, instance: Instance) -> Server | None:
    """Find the instance's server: by recorded id, else by name and labels. Raises StateError for a foreign one."""
    if instance.server_id is not None:
        server = clouds.hetzner.server(instance.server_id)
        if server is not None:
            return server
    server = clouds.hetzner.find_server(instance.server_name)
    if server is None or instance.labels.items() <= dict(server.labels).items():
        return server
    raise StateError(
        f"A server named {server.name} (id {server.id}) exists at Hetzner that is not this instance's:"
        " it was not touched.",
        next_steps=_steps_past(
            server.labels.get("managed-by") == "clawdet" and server.labels.get("user") == instance.user,
            instance,
            "rename or remove that server in the Hetzner console",
        ),
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
    ours = [record for record in records if record.comment == instance.comment or record.id == instance.record_id]
    foreign = [record for record in records if record not in ours and record.type != "TXT"]
    if foreign:
        taken = ", ".join(f"{record.type} {record.content}" for record in foreign)
        raise StateError(
            f"The name {instance.host} is taken by a DNS record that is not this instance's ({taken}):"
            " it was not touched.",
            next_steps=_steps_past(
                all((maker_of(record.comment) or ("", ""))[0] == instance.user for record in foreign),
                instance,
                "remove that record in the Cloudflare dashboard",
            ),
        )
    return next((record for record in ours if record.type == "A"), None)


def _steps_past(clawdets: bool, instance: Instance, otherwise: str) -> list[str]:
    """Say what to do about what has the instance's name; clawdet's own, of another database, can be destroyed."""
    steps = [f"choose another user name, or {otherwise}"]
    if clawdets:
        steps.insert(0, f"clawdet destroy {instance.user}    (removes it: clawdet made it, with another database)")
    return steps


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


def check_quota(cloudflare: Cloudflare, zone: Zone) -> None:
    """Make sure that one more DNS record fits. Raises CloudError."""
    used, quota = cloudflare.record_usage(zone.id)
    if quota is not None and used >= quota:
        raise CloudError(
            f"The zone {zone.name} holds {used} of {quota} DNS records: no room for another.",
            next_steps=["remove records that are not needed, or raise the plan of the zone"],
        )


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
