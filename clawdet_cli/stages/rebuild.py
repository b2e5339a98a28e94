"""Makes the rows of a lost database anew: labels, comments and the machines themselves tell what they were."""

from collections.abc import Iterator, Mapping
from dataclasses import replace

from clawdet_cli import bootstrap
from clawdet_cli.adapters import Clouds, ssh
from clawdet_cli.errors import ClawdetError
from clawdet_cli.model import (
    DnsRecord,
    Instance,
    Server,
    Status,
    maker_by_labels,
    maker_of,
    member_by_labels,
    now_text,
    zone_by_labels,
)
from clawdet_cli.money import Price
from clawdet_cli.settings import Settings
from clawdet_cli.stages import certificates
from clawdet_cli.stages.host_key import label_names
from clawdet_cli.stages.provision import found, request_of_vps
from clawdet_cli.stages.runner import Run, Stage

ERROR = "rebuilt from what the clouds show, and not checked yet"


def lost_instances(settings: Settings, clouds: Clouds, *, sandbox: bool) -> Iterator[Instance]:
    """Give an instance for each user and run that a server's labels or a record's comment name."""
    servers = [one for one in clouds.hetzner.all_servers() if one.labels.get("managed-by") == "clawdet"]
    zones = {zone_by_labels(one.labels) or settings.zone for one in servers} | {settings.zone}
    records: dict[str, list[DnsRecord]] = {}
    for name in filter(None, zones):
        zone = clouds.cloudflare.zone(name)
        records[name] = clouds.cloudflare.all_records(zone.id) if zone else []
    prices = clouds.hetzner.prices() if servers else {}
    made: set[str] = set()
    for server in servers:
        if (member := member_by_labels(server.labels)) is not None:
            # Failed, so nobody gets it: another database may know it, or may have given it away a moment ago.
            yield _with_server(_blank(member, server.labels["run"], "", sandbox=sandbox), server, prices)
            continue
        labelled, zone_name = maker_by_labels(server.labels), zone_by_labels(server.labels) or settings.zone
        if labelled is None or zone_name is None or server.name != f"clawdet-{labelled[0]}":
            continue
        user, run = labelled
        made.add(user)
        blank = _blank(user, run, zone_name, sandbox=sandbox)
        yield _with_record(_with_server(blank, server, prices), records[zone_name])
    for zone_name, those in records.items():
        for record in those:
            maker = maker_of(record.comment)
            if maker is not None and record.type == "A" and maker[0] not in made:
                made.add(maker[0])
                yield _with_record(_blank(*maker, zone_name, sandbox=sandbox), those)


def ask_the_machine(run: Run) -> None:
    """Find out what only the VPS knows: its host key, checked against the label, its request, and its software."""
    instance = run.instance
    if instance.pooled:
        return
    zone = run.clouds.cloudflare.zone(instance.zone)
    run.record(zone_id=zone.id if zone else None)
    server = run.clouds.hetzner.server(instance.server_id) if instance.server_id is not None else None
    if server is None or server.ipv4 is None:
        return
    address = run.settings.endpoints.dial(server.ipv4, 22)
    try:
        shown = ssh.shown_host_key(address, run.deadline.within(30), run.settings.ssh_proxy)
        if not label_names(server, shown):
            run.note(f"{server.name} shows another host key than it was ordered with: nothing on it is believed")
            return
        run.record(host_key=shown)
        report = run.ssh(run.deadline.within(30)).run(
            bootstrap.installed("report"), timeout=run.deadline.within(60).left()
        )
        version = bootstrap.parse_values(report.out).get("openclaw_version") if report.code == 0 else None
        if version:
            run.record(openclaw_version=version, installed=bootstrap.installed_text(bootstrap.parse_values(report.out)))
        request = request_of_vps(run)
    except ClawdetError as error:
        run.note(f"{server.name} could not be asked: {error.what}")
        return
    run.record(csr=request)
    zone_id = run.instance.zone_id
    if zone_id is not None:
        seen = certificates.look(run, zone_id)
        run.record(certificate_id=seen.own[0].id if seen.own else None)
        for thing in seen.not_judged:
            run.note(f"{thing}: it was not recorded")


REBUILD = (Stage("rebuild", Status.FAILED, "Asking the VPS what the clouds cannot tell", ask_the_machine),)


def _blank(user: str, run: str, zone: str, *, sandbox: bool) -> Instance:
    return Instance(user, zone, run, Status.FAILED, sandbox, now_text(), now_text(), error=ERROR)


def _with_server(blank: Instance, server: Server, prices: Mapping[tuple[str, str], Price]) -> Instance:
    monthly = prices.get((server.server_type, server.location))
    return replace(
        blank, **found(server), monthly=str(monthly) if monthly else None, created_at=server.created.isoformat()
    )


def _with_record(blank: Instance, records: list[DnsRecord]) -> Instance:
    own = [one for one in records if one.comment == blank.comment and one.name == blank.host and one.type == "A"]
    return replace(blank, record_id=own[0].id) if own else blank
