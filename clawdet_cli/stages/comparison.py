"""What the database says against what the clouds and the machines show: a pure function of both."""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field, replace

from clawdet_cli import public_key
from clawdet_cli.model import (
    Category,
    Certificate,
    DnsRecord,
    Finding,
    Firewall,
    FirewallRule,
    Instance,
    Server,
    SshKey,
    Status,
    maker_by_labels,
    maker_of,
    member_by_labels,
    zone_by_labels,
)
from clawdet_cli.money import Price
from clawdet_cli.stages import operator_keys, ownership
from clawdet_cli.stages.certificates import DASHBOARD, not_judged, not_seen
from clawdet_cli.stages.claim import is_of_pool
from clawdet_cli.stages.firewall import NAME, described, is_ours


@dataclass(frozen=True)
class Seen:
    """All that is compared, read at one moment."""

    instances: Sequence[Instance]
    """Those that are not destroyed, with what is under way."""
    servers: Sequence[Server]
    ssh_keys: Sequence[SshKey]
    firewalls: Sequence[Firewall]
    records: Mapping[str, Sequence[DnsRecord]]
    """By zone; a zone that the token cannot see is missing."""
    certificates: Mapping[str, Sequence[Certificate]]
    """By zone; one whose certificates could not be listed is missing, too."""
    requests: Sequence[tuple[str, str, str]] = ()
    """The certificate requests that were ever sent, with their users and host names."""
    unlisted: Mapping[str, str] = field(default_factory=dict)
    """By zone, why its certificates could not be listed."""
    vps: Mapping[str, str] = field(default_factory=dict)
    """By user, of the machines that were asked: what is wrong, or nothing."""
    served: Mapping[str, str] = field(default_factory=dict)
    """By user, the SHA-256 of the certificate that a machine says it serves."""
    wall: Sequence[FirewallRule] = ()
    """The rules that the project's firewall should have."""
    prices: Mapping[tuple[str, str], Price] = field(default_factory=dict)
    busy: Mapping[str, str] = field(default_factory=dict)
    """Users that another run is working on."""
    runs: AbstractSet[tuple[str, str]] = frozenset()
    """User and run of all that this database has ever ordered or recorded, what is destroyed among it."""


LONGEST_NAME = 80
LONGEST_SENTENCE = 500
REFRESH = "clawdet firewall refresh"


def compare(seen: Seen) -> tuple[list[Finding], dict[str, int]]:
    """Give a finding for each thing that is clawdet's, and how many others there are of each kind."""
    claimed = _Claimed()
    findings: list[Finding] = []
    for instance in seen.instances:
        found = list(_of_instance(instance, seen, claimed))
        if instance.user not in seen.busy:
            findings += found
    orphans, foreign = _unclaimed(seen, claimed)
    return [_bounded(finding) for finding in findings + orphans], foreign


def _bounded(finding: Finding) -> Finding:
    """Shorten what an API says: names have no end there, and a row of them would hide the others."""
    name, what = _beginning(finding.name, LONGEST_NAME), _beginning(finding.what, LONGEST_SENTENCE)
    return replace(finding, name=name, what=what)


def _beginning(text: str, most: int) -> str:
    return text if len(text) <= most else text[: most - 1] + "…"


@dataclass
class _Claimed:
    """Ids of what belongs to an instance."""

    servers: set[int] = field(default_factory=set)
    records: set[str] = field(default_factory=set)
    certificates: set[str] = field(default_factory=set)


def _of_instance(instance: Instance, seen: Seen, claimed: _Claimed) -> Iterator[Finding]:
    found = [*_server(instance, seen, claimed), *_records(instance, seen, claimed)]
    found += [*_certificates(instance, seen, claimed), *_vps(instance, seen)]
    yield from found
    for effect in instance.open_effects:
        yield Finding(
            Category.ADOPTABLE,
            "journal",
            instance.user,
            effect.name,
            str(effect.id),
            f"{effect.kind} was begun at {effect.begun_at[:19].replace('T', ' ')} UTC by a run that is dead",
            fix="looks what came of it, and records that",
        )
    yield _status(instance, anything=bool(found or instance.open_effects))


def _status(instance: Instance, *, anything: bool) -> Finding:
    finding = Finding(
        Category.RIGHT,
        "pool" if instance.pooled else "instance",
        instance.user,
        instance.host,
        instance.run_id,
        f"it is {instance.status}",
    )
    if instance.status is Status.COMPLETE:
        return finding
    if not anything:
        return _but(finding, Category.RIGHT, f"it is {instance.status}, and nothing of it was made")
    why = f": {instance.error}" if instance.error else ""
    return _but(
        finding,
        Category.DRIFTED,
        f"it is {instance.status}, and no run is at work on it{why}",
        decision=_again(instance),
    )


def _server(instance: Instance, seen: Seen, claimed: _Claimed) -> Iterator[Finding]:
    user, price = instance.user, Price(instance.monthly) if instance.monthly else None
    server = next((one for one in seen.servers if one.id == instance.server_id), None)
    owner = maker_by_labels(server.labels) if server is not None else None
    if server is not None and owner is not None and owner[0] != user:
        what = f"it is {owner[0]}'s by its labels"
        what += ": another database has given it away" if instance.pooled else ", and not this instance's"
        yield Finding(
            Category.GHOST, "server", user, server.name, str(server.id), what, fix="takes it out of the database"
        )
        if instance.pooled:
            return
    elif server is not None:
        claimed.servers.add(server.id)
        finding = Finding(Category.RIGHT, "server", user, server.name, str(server.id), "it runs", price)
        wrong, decision = _drift_of(server, instance, seen)
        yield _but(finding, Category.DRIFTED, wrong, decision=decision) if wrong else finding
        if ownership.carries_labels(instance, server):
            return
    elif instance.server_id is not None:
        yield Finding(
            Category.GHOST,
            "server",
            user,
            instance.server_name,
            str(instance.server_id),
            "it is recorded, and Hetzner has no server with this id",
            fix="takes it out of the database",
            decision=_anew(instance),
        )
    by_labels = next(
        (one for one in seen.servers if one.name == instance.server_name and ownership.carries_labels(instance, one)),
        None,
    )
    if by_labels is not None:
        claimed.servers.add(by_labels.id)
        yield Finding(
            Category.ADOPTABLE,
            "server",
            user,
            by_labels.name,
            str(by_labels.id),
            "it has this instance's labels, and its id is not recorded",
            seen.prices.get((by_labels.server_type, by_labels.location)),
            fix="records it",
        )


def _drift_of(server: Server, instance: Instance, seen: Seen) -> tuple[str, str]:
    again = _again(instance)
    if not ownership.carries_labels(instance, server):
        return _drift_of_labels(server, instance)
    if server.name != instance.server_name:
        return f"it was renamed from {instance.server_name}", "name it so again in the Hetzner console"
    if server.status != "running":
        return f"it is {server.status}", f"switch it on in the Hetzner console, then: {again}"
    if server.ipv4 != instance.ipv4:
        return f"its address is {server.ipv4}, and {instance.ipv4} is recorded", again
    if not any(is_ours(wall) and wall.id in server.firewall_ids for wall in seen.firewalls):
        return f"it is not behind the firewall {NAME}", REFRESH
    return "", ""


def _drift_of_labels(server: Server, instance: Instance) -> tuple[str, str]:
    if is_of_pool(server) and not instance.pooled:
        return "it was taken from the pool, and still has the pool's name and labels", _again(instance)
    labels = ", ".join(f"{key}={value}" for key, value in instance.labels.items())
    return "its labels were changed", _back_or_forget(instance, f"its labels in the Hetzner console: {labels}")


def _back_or_forget(instance: Instance, mark: str) -> str:
    """Return what to do about a recorded thing without our mark: nobody but the operator knows whose it is."""
    if instance.pooled:
        return f"put back {mark}"
    user = instance.user
    return f"clawdet destroy {user} --forget-foreign    (destroys {user}, and leaves this; or put back {mark})"


def _records(instance: Instance, seen: Seen, claimed: _Claimed) -> Iterator[Finding]:
    if instance.zone not in seen.records:
        if instance.record_id is not None:
            what = f"Cloudflare shows this token no zone {instance.zone}"
            decision = "give the token the right Zone Read on it, or look there yourself"
            yield _of(
                instance, "record", Category.DRIFTED, (instance.host, instance.record_id), what, decision=decision
            )
        return
    records = seen.records[instance.zone]
    recorded = next((one for one in records if one.id == instance.record_id), None)
    if recorded is not None:
        claimed.records.add(recorded.id)
        finding = _of(instance, "record", Category.RIGHT, (recorded.name, recorded.id), f"it points at {instance.ipv4}")
        wrong = _drift_of_record(recorded, instance)
        if wrong and instance.ipv4 and ownership.owns_record(instance, recorded):
            yield _but(finding, Category.DRIFTED, wrong, fix="sets it right")
        elif wrong and recorded.comment != instance.comment:
            decision = _back_or_forget(instance, f"its comment in the Cloudflare dashboard: {instance.comment}")
            yield _but(finding, Category.DRIFTED, wrong, decision=decision)
        elif wrong:
            yield _but(finding, Category.DRIFTED, wrong, decision=f"clawdet provision {instance.user}")
        else:
            yield finding
    elif instance.record_id is not None:
        what = "it is recorded, and Cloudflare has no record with this id"
        yield _of(
            instance,
            "record",
            Category.GHOST,
            (instance.host, instance.record_id),
            what,
            fix="takes it out of the database",
            decision=_anew(instance),
        )
    for other in records:
        if other.id in claimed.records or other.comment != instance.comment:
            continue
        claimed.records.add(other.id)
        if recorded is None and other.name == instance.host and other.type == "A":
            recorded = other
            what = "it has this run's comment, and its id is not recorded"
            yield _of(instance, "record", Category.ADOPTABLE, (other.name, other.id), what, fix="records it")
        else:
            what = f"it has this run's comment beside the recorded one ({other.type} {other.content})"
            decision = "delete it in the Cloudflare dashboard, or take the comment away"
            yield _of(instance, "record", Category.DRIFTED, (other.name, other.id), what, decision=decision)


def _drift_of_record(record: DnsRecord, instance: Instance) -> str:
    wrong = []
    if (record.type, record.name) != ("A", instance.host):
        wrong.append(f"it is {record.type} {record.name}")
    if record.content != instance.ipv4:
        wrong.append(f"it points at {record.content}, and {instance.ipv4} is recorded")
    if not record.proxied:
        wrong.append("it is not proxied, so it shows the server's address")
    if record.comment != instance.comment:
        wrong.append("its comment was changed")
    return "; ".join(wrong)


def _certificates(instance: Instance, seen: Seen, claimed: _Claimed) -> Iterator[Finding]:
    if instance.zone in seen.unlisted and instance.csr is not None:
        what = not_seen(instance, seen.unlisted[instance.zone])
        thing, again = (instance.host, instance.certificate_id or ""), "run clawdet reconcile again"
        yield _of(instance, "certificate", Category.DRIFTED, thing, what, decision=again)
    if instance.zone not in seen.certificates:
        return
    listed, key = seen.certificates[instance.zone], public_key.of_request(instance.csr or "")
    for one in listed:
        if one.id != instance.certificate_id and one.may_be_of(instance.host) and one.hostnames:
            claimed.certificates.add(one.id)
            thing, look = (instance.host, one.id), f"look at {DASHBOARD}"
            yield _of(instance, "certificate", Category.DRIFTED, thing, not_judged(one), decision=look)
    own = [
        one
        for one in listed
        if one.is_of(instance.host, key) or (one.id == instance.certificate_id and one.may_be_of(instance.host))
    ]
    claimed.certificates.update(one.id for one in own)
    # A recorded id may be of before a restored backup; without one, only a certificate that is alone is surely it.
    serving = next((one for one in own if _is_served(one, seen.served.get(instance.user))), None)
    recorded = next((one for one in own if one.id == instance.certificate_id), None)
    kept = serving or recorded or (own[0] if len(own) == 1 else None)
    for one in own:
        thing = (instance.host, one.id)
        if one is not kept:
            yield _second(instance, one, is_known=serving is not None)
        elif one is recorded:
            yield _of(instance, "certificate", Category.RIGHT, thing, "it is valid")
        else:
            what = "it was signed for this instance's key, and its id is not recorded"
            yield _of(instance, "certificate", Category.ADOPTABLE, thing, what, fix="records it")
    if instance.certificate_id is not None and kept is None:
        yield _of(
            instance,
            "certificate",
            Category.GHOST,
            (instance.host, instance.certificate_id),
            "it is recorded, and Cloudflare has no valid certificate with this id",
            fix="takes it out of the database",
            decision=_anew(instance),
        )


def _is_served(certificate: Certificate, digest: str | None) -> bool:
    return digest is not None and public_key.digest_of_certificate(certificate.pem) == digest


def _second(instance: Instance, one: Certificate, *, is_known: bool) -> Finding:
    """Return the finding for another certificate of the same key; `is_known` is whether it is surely not in use."""
    what, thing = "it is a second one for the same key and name", (instance.host, one.id)
    if is_known:
        return _of(instance, "certificate", Category.DRIFTED, thing, what, fix="revokes it")
    asked = instance.status is Status.COMPLETE
    decision = "run clawdet reconcile again once the VPS answers" if asked else _anew(instance)
    what = f"{what}, and the VPS {'did not say' if asked else 'was not asked'} which of them it serves"
    return _of(instance, "certificate", Category.DRIFTED, thing, what, decision=decision)


def _vps(instance: Instance, seen: Seen) -> Iterator[Finding]:
    if instance.user not in seen.vps:
        return
    wrong, address = seen.vps[instance.user], instance.ipv4 or ""
    if wrong:
        where = (instance.server_name, address)
        yield _of(instance, "vps", Category.DRIFTED, where, wrong, decision=_again(instance))
    else:
        what = "it answers with the pinned host key, and OpenClaw's unit is active"
        yield _of(instance, "vps", Category.RIGHT, (instance.server_name, address), what)


def _unclaimed(seen: Seen, claimed: _Claimed) -> tuple[list[Finding], dict[str, int]]:
    """Give what clawdet made and no instance claims, and count the rest."""
    foreign = Counter(servers=0, records=0, certificates=0, ssh_keys=0, firewalls=0)
    orphans: list[Finding] = []
    for server in (one for one in seen.servers if one.id not in claimed.servers):
        orphans += _orphan_or_foreign("servers", _orphaned_server(server, seen), foreign)
    for zone, records in seen.records.items():
        for record in (one for one in records if one.id not in claimed.records):
            orphans += _orphan_or_foreign("records", _orphaned_record(record, zone, seen), foreign)
    for key in seen.ssh_keys:
        if key.labels.get("managed-by") != "clawdet":
            foreign["ssh_keys"] += 1
        elif not _is_awaited(seen) and not operator_keys.is_needed(key, seen.servers, claimed.servers):
            what = "clawdet added it, and no server of clawdet's in the project was ordered with it"
            by_hand = "delete it in the Hetzner console: Security, SSH keys"
            fix, decision = ("removes it", "") if operator_keys.is_ours(key) else ("", by_hand)
            row = Finding(Category.ORPHAN, "ssh_key", "", key.name, str(key.id), what, fix=fix, decision=decision)
            orphans.append(row)
    for wall in seen.firewalls:
        if not is_ours(wall):
            foreign["firewalls"] += 1
        elif not _needed(seen):
            what = "clawdet made it, and there is no server of clawdet's in the project"
            decision = "delete it in the Hetzner console: Firewalls"
            orphans.append(Finding(Category.ORPHAN, "firewall", "", wall.name, str(wall.id), what, decision=decision))
        elif set(wall.rules) != set(seen.wall):
            what = f"it lets in: {described(wall.rules)}; it should: {described(seen.wall)}"
            unknown = any(not rule.sources for rule in seen.wall)
            decision = f"{REFRESH} --ssh-from NETWORKS" if unknown else REFRESH
            orphans.append(Finding(Category.DRIFTED, "firewall", "", wall.name, str(wall.id), what, decision=decision))
    for certificates in seen.certificates.values():
        for certificate in (one for one in certificates if one.id not in claimed.certificates):
            orphans += _orphan_or_foreign("certificates", _orphaned_certificate(certificate, seen), foreign)
    return [orphan for orphan in orphans if orphan.user not in seen.busy], dict(foreign)


def _orphaned_certificate(certificate: Certificate, seen: Seen) -> Finding | None:
    """Find who had a certificate signed that no instance has: its key, and exactly its host name, are in the journal.

    It may have been signed for a run that another one took over from, or after its instance was destroyed.
    """
    for user, host, request in seen.requests:
        if certificate.hostnames == (host,) and certificate.is_of(host, public_key.of_request(request)):
            what, fix, decision = "this database had it signed, and none of its instances has it", "revokes it", ""
            if _is_served(certificate, seen.served.get(user)):
                what, fix, decision = f"{what}, but the VPS serves it", "", f"clawdet provision {user}"
            thing = ("certificate", user, host, certificate.id)
            return Finding(Category.ORPHAN, *thing, what, fix=fix, decision=decision)
    return None


def _orphan_or_foreign(kind: str, orphan: Finding | None, foreign: Counter[str]) -> list[Finding]:
    if orphan is None:
        foreign[kind] += 1
        return []
    return [orphan]


def _is_awaited(seen: Seen) -> bool:
    """Return whether a run of this database may order a server, now or again, with a key that is there already."""
    there = {server.id for server in seen.servers}
    return any(instance.server_id not in there for instance in seen.instances)


def _needed(seen: Seen) -> bool:
    """Return whether a firewall of clawdet's may be of use: to a server that is there, or one that is still ordered."""
    return bool(seen.instances) or any(server.labels.get("managed-by") == "clawdet" for server in seen.servers)


def _orphaned_record(record: DnsRecord, zone: str, seen: Seen) -> Finding | None:
    made = maker_of(record.comment)
    if made is None or record.type != "A":
        return None
    user, run = made
    by_hand = f"delete it in the Cloudflare dashboard, zone {zone}"
    if made in seen.runs:
        what, decision = _late(user, seen, by_hand)
    else:
        what = f"run {run} of {user} made it, and this database knows none such (another one may)"
        decision = _removal(user, seen, by_hand, zone)
    return Finding(Category.ORPHAN, "record", user, record.name, record.id, what, decision=decision)


def _orphaned_server(server: Server, seen: Seen) -> Finding | None:
    def orphan(user: str, what: str, decision: str) -> Finding:
        price = seen.prices.get((server.server_type, server.location))
        return Finding(Category.ORPHAN, "server", user, server.name, str(server.id), what, price, decision=decision)

    if (member := member_by_labels(server.labels)) is not None:
        return orphan(
            member,
            "it was made for the pool, and this database knows none such (another one may)",
            "clawdet state rebuild    (records it, then: clawdet pool drain)",
        )
    if (maker := maker_by_labels(server.labels)) is None:
        return None
    user, run = maker
    by_hand = f"delete server {server.id} in the Hetzner console"
    if maker in seen.runs:
        return orphan(user, *_late(user, seen, by_hand))
    return orphan(
        user,
        f"run {run} of {user} ordered it, and this database knows none such (another one may); it is {server.status},"
        f" ordered {server.created:%Y-%m-%d %H:%M} UTC",
        _removal(user, seen, by_hand, zone_by_labels(server.labels)),
    )


def _late(user: str, seen: Seen, by_hand: str) -> tuple[str, str]:
    """Return what is said of something that a run of this database ordered, and what to do about it."""
    what = "this database ordered it, and no instance has it: the order was carried out late"
    return what, by_hand if _has_another(user, seen) else f"clawdet destroy {user}"


def _has_another(user: str, seen: Seen) -> bool:
    """Return whether a user has an instance in the database, which a command for the user would be about.

    A row of which nothing was made, as a refused provision leaves it, is in nobody's way.
    """
    return any(
        one.user == user and (one.host_key or one.server_id or one.record_id or one.open_effects)
        for one in seen.instances
    )


def _removal(user: str, seen: Seen, by_hand: str, zone: str | None) -> str:
    """Return how to deal with an orphan: it may be another database's, so nothing that is said first removes it."""
    if _has_another(user, seen):
        return f"if no other database has it: {by_hand}"
    at = f" --zone {zone}" if zone else ""
    return f"clawdet state rebuild {user}{at}    (if it is yours; else leave it to the database that knows it)"


def _again(instance: Instance) -> str:
    """Say which command brings it to its end."""
    if instance.pooled:
        made = instance.status in {Status.COMPLETE, Status.FAILED} and instance.installed is not None
        return (
            f"clawdet pool drain {instance.user}" if made else "clawdet pool fill 1    (makes it ready, or removes it)"
        )
    return f"clawdet {'destroy' if instance.status is Status.DESTROYING else 'provision'} {instance.user}"


def _anew(instance: Instance) -> str:
    if instance.pooled:
        return _again(instance)
    if instance.status is Status.DESTROYING:
        return f"clawdet destroy {instance.user}"
    return f"clawdet provision {instance.user}    (makes it again)"


def _of(
    instance: Instance,
    kind: str,
    category: Category,
    thing: tuple[str, str],
    what: str,
    *,
    fix: str = "",
    decision: str = "",
) -> Finding:
    return Finding(category, kind, instance.user, *thing, what, fix=fix, decision=decision)


def _but(finding: Finding, category: Category, what: str, *, fix: str = "", decision: str = "") -> Finding:
    return Finding(category, finding.kind, finding.user, finding.name, finding.id, what, finding.monthly, fix, decision)
