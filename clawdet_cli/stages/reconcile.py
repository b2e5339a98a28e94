"""Looks at everything that there is, and mends what can be mended without a decision."""

from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from clawdet_cli import bootstrap
from clawdet_cli.adapters import Clouds
from clawdet_cli.adapters.ssh import Ssh
from clawdet_cli.errors import ClawdetError
from clawdet_cli.model import Category, Deadline, Finding, Instance, Server, Status, maker_by_labels, zone_by_labels
from clawdet_cli.money import Price
from clawdet_cli.settings import Settings
from clawdet_cli.stages import certificates, firewall
from clawdet_cli.stages.certificates import NOT_ANSWERED, PATIENCE
from clawdet_cli.stages.comparison import Seen
from clawdet_cli.stages.provision import found
from clawdet_cli.stages.runner import Run, Stage

VPS_AT_ONCE = 8
VPS_SECONDS = 30.0
"""How long one machine may take to answer."""


@dataclass(frozen=True)
class _Machine:
    """What a machine said of itself."""

    wrong: str
    """Empty when nothing is."""
    certificate: str = ""
    """The SHA-256 of the one that it serves; empty where it said none."""


def look(
    settings: Settings,
    clouds: Clouds,
    instances: Sequence[Instance],
    busy: Mapping[str, str],
    deadline: Deadline,
    *,
    requests: Sequence[tuple[str, str, str]],
) -> Seen:
    """Read both clouds, with one list for each kind and zone, and ask every machine that should be at work.

    `requests` are the certificate requests that were ever sent, with their users and host names.
    """
    servers = clouds.hetzner.all_servers()
    records, listed, unlisted = {}, {}, {}
    hosts = {instance.host for instance in instances} | {host for _, host, _ in requests}
    for name in _zones(settings, instances, servers):
        zone = clouds.cloudflare.zone(name)
        if zone is not None:
            records[name] = clouds.cloudflare.all_records(zone.id)
            try:
                cloudflare = clouds.cloudflare.hurried(PATIENCE)
                listed[name] = cloudflare.in_full(cloudflare.certificates(zone.id), hosts)
            except NOT_ANSWERED as error:
                unlisted[name] = error.what
    recorded = {instance.server_id for instance in instances}
    unknown = any(one.labels.get("managed-by") == "clawdet" and one.id not in recorded for one in servers)
    prices: Mapping[tuple[str, str], Price] = clouds.hetzner.prices() if unknown else {}
    firewalls = clouds.hetzner.all_firewalls()
    machines = _machines(settings, [one for one in instances if one.user not in busy], servers, deadline)
    ours = next((one for one in firewalls if firewall.is_ours(one)), None)
    return Seen(
        instances=instances,
        servers=servers,
        ssh_keys=clouds.hetzner.all_ssh_keys(),
        firewalls=firewalls,
        wall=firewall.wanted_rules(settings, clouds, ours) if ours else (),
        records=records,
        certificates=listed,
        requests=requests,
        unlisted=unlisted,
        vps={user: machine.wrong for user, machine in machines.items()},
        served={user: machine.certificate for user, machine in machines.items() if machine.certificate},
        prices=prices,
        busy=busy,
    )


def mending(status: Status, findings: Sequence[Finding]) -> Stage:
    """Give the stage that does what can be done about one user's findings; it changes no status by itself."""

    def mend(run: Run) -> None:
        for finding in findings:
            if finding.fix and finding.kind != "journal":
                _mend(run, finding)
                run.note(f"{finding.kind} {finding.name}: {finding.what}; --fix {finding.fix}")

    return Stage("reconcile", status, "Mending what differs", mend)


def _mend(run: Run, finding: Finding) -> None:
    match finding.category, finding.kind:
        case Category.ADOPTABLE, "server":
            server = run.clouds.hetzner.server(int(finding.id))
            if server is not None:
                monthly = str(finding.monthly) if finding.monthly else run.instance.monthly
                run.record(**found(server), monthly=monthly)
        case Category.ADOPTABLE, "record":
            run.record(record_id=finding.id)
        case Category.ADOPTABLE, "certificate":
            run.record(certificate_id=finding.id)
        case Category.GHOST, kind:
            _forget(run, finding, {"server": "server_id", "record": "record_id"}.get(kind, "certificate_id"))
        case Category.DRIFTED, "record":
            _point_again(run, finding)
        case Category.DRIFTED | Category.ORPHAN, "certificate":
            certificate = run.clouds.cloudflare.certificate(finding.id)
            if certificate is not None:
                certificates.revoke(run, certificate)


def _forget(run: Run, finding: Finding, field: str) -> None:
    run.record(**{field: None})
    if run.instance.pooled:
        run.record(status=Status.DESTROYED)
    elif run.instance.status != Status.DESTROYING:
        run.record(status=Status.FAILED, error=f"the {finding.kind} {finding.name} (id {finding.id}): {finding.what}")


def _point_again(run: Run, finding: Finding) -> None:
    instance, cloudflare = run.instance, run.clouds.cloudflare
    zone_id, ipv4 = instance.zone_id, instance.ipv4
    record = cloudflare.record(zone_id, finding.id) if zone_id else None
    if record is None or zone_id is None or ipv4 is None:
        return
    with run.effect("update_dns_record", record.id, on=record, content=ipv4):
        cloudflare.update_a_record(zone_id, record, ipv4, instance.comment)


def _zones(settings: Settings, instances: Sequence[Instance], servers: Sequence[Server]) -> list[str]:
    """Give the names of all zones that something of ours may be in."""
    named = {zone_by_labels(server.labels) for server in servers if maker_by_labels(server.labels)}
    return sorted(filter(None, {settings.zone, *named, *(instance.zone for instance in instances)}))


def _machines(
    settings: Settings, instances: Iterable[Instance], servers: Sequence[Server], deadline: Deadline
) -> dict[str, _Machine]:
    """Ask the machines of complete instances how they stand, several at once."""
    running = {server.id: server.ipv4 for server in servers if server.status == "running"}
    asked = [
        one
        for one in instances
        if one.status is Status.COMPLETE and one.server_id is not None and running.get(one.server_id) == one.ipv4
    ]
    with ThreadPoolExecutor(VPS_AT_ONCE) as pool:
        answers = pool.map(lambda one: _machine(settings, one, deadline.within(VPS_SECONDS)), asked)
        return {one.user: answer for one, answer in zip(asked, answers, strict=True)}


def _machine(settings: Settings, instance: Instance, deadline: Deadline) -> _Machine:
    if instance.ipv4 is None or not instance.host_keys:
        return _Machine("no address or host key of it is recorded")
    address = settings.endpoints.dial(instance.ipv4, 22)
    try:
        proxy = settings.ssh_proxy
        with Ssh.connect(address, instance.host_keys, settings.ssh_key, deadline, proxy_command=proxy) as ssh:
            answer = ssh.run(bootstrap.installed("report"), timeout=max(1.0, deadline.left()))
    except ClawdetError as error:
        return _Machine(error.what.removesuffix("."))
    report = bootstrap.parse_values(answer.out) if answer.code == 0 else {}
    unit = report.get("openclaw_unit", "unknown")
    return _Machine("" if unit == "active" else f"OpenClaw's unit is '{unit}'", report.get("certificate_sha256", ""))
