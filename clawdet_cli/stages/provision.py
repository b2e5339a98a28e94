"""The way to a running instance.

```
stage                  Hetzner            Cloudflare         VPS                          database
check_accounts         types, prices      zone, SSL mode                                  pending
create_server          firewall, /servers (or one that waits in the pool, by claim.py)    creating_vps
create_dns_record                         POST dns_records                                configuring_dns
                       (boots, and begins by itself: ------> Node, Caddy, OpenClaw)
await_ssh              running?                              SSH with the pinned key      installing
join_prepare                                                 the npm lock, for OpenClaw
replace_host_key       label                                 a host key of its own making
install_certificate                       sign the CSR       key and CSR, made there
send_configuration                                           host, keys and certificate, to wait there
prepare_vps                                                  until all is installed
configure_openclaw                                           until the gateway runs with them, and Caddy
check_origin                                                 443 through the SSH tunnel
verify                 server             record, edge       unit, gateway, page          complete, URL
```

Every stage finds what is there before it makes anything, so running the list again goes on from where it stopped.
What user_data begins goes on while other stages wait for other things; where it did not begin, join_prepare starts it.
"""

from contextlib import suppress
from dataclasses import replace
from math import inf
from typing import Any, TypeVar

from clawdet_cli import bootstrap, csr, public_key
from clawdet_cli.adapters import ssh
from clawdet_cli.adapters.retry import until
from clawdet_cli.errors import (
    CloudError,
    ConfigError,
    GuestError,
    MissingError,
    SoldOutError,
    StateError,
    StoppedError,
    WaitError,
)
from clawdet_cli.model import (
    Certificate,
    DnsRecord,
    EffectOutcome,
    Firewall,
    Result,
    Server,
    ServerOrder,
    SshKey,
    Status,
    Zone,
)
from clawdet_cli.stages import bundle, certificates, claim, firewall, network, operator_keys, preflight, verify, zones
from clawdet_cli.stages.host_key import LABEL, label_names, replace_host_key
from clawdet_cli.stages.phase import Phase
from clawdet_cli.stages.runner import Run, Stage
from clawdet_cli.stages.user_data import user_data

T = TypeVar("T")

RACE_SECONDS = 20.0
"""How long a later claim to the same name may take to be withdrawn by the run that made it."""


def check_accounts(run: Run) -> None:
    """Find out what would fail, before anything is made; ask for approval where something is to be bought."""
    clouds, settings, instance = run.clouds, run.settings, run.instance
    bundle.check(run)
    outlook = network.look(run)
    clouds.hetzner.check()
    clouds.cloudflare.check()
    run.zone = zones.usable(clouds.cloudflare, instance.zone)
    remarks = zones.check(clouds, run.zone, settings)
    server = preflight.own_server(run)
    record = preflight.own_record(clouds, run.zone, instance)
    if record is None and (remark := zones.check_room(clouds.cloudflare, run.zone)):
        remarks.append(remark)
    run.record(zone_id=run.zone.id)
    if server is None and instance.server_id is not None:
        preflight.refuse_another_project(clouds, instance)
        run.note(f"the server {instance.server_name} (id {instance.server_id}) is gone from Hetzner")
        run.record(server_id=None)
    if server is not None:
        run.note(f"the server {server.name} (id {server.id}) is there already and is kept")
        return
    run.remarks = [*remarks, *network.remarks(outlook, clouds)]
    run.exists = [f"DNS record {instance.host} -> {record.content}"] if record else []
    # What waits in the pool is paid for already; if none of it turns out to be well, the order asks.
    if not claim.waiting(run):
        approve_order(run)


def approve_order(run: Run) -> None:
    """Find what can be ordered, and ask for approval. Raises StoppedError without it."""
    run.offers = preflight.choose_offers(run.clouds, run.settings)
    plan = preflight.make_plan(run.settings, run.instance, run.offers, run.exists, run.remarks)
    for note in plan.notes:
        run.note(note)
    if not run.approve(plan):
        raise StoppedError("Not approved: nothing was ordered.")


def create_server(run: Run) -> None:
    """Find or order the VPS, and record its id at once: from here on it costs money."""
    server = preflight.own_server(run) or claim.from_pool(run)
    if server is None and not run.offers:
        approve_order(run)
    wall = _firewall(run)
    if server is None:
        server = _order(run, wall)
    else:
        recorded = run.instance
        # Rescaled by hand, or taken over from an order whose answer was lost.
        another = (server.server_type, server.location) != (recorded.server_type, recorded.location)
        run.record(**found(server), **({"monthly": None} if another else {}))
        server = claim.hand_over(run, server)
        firewall.attach(run, server, wall)
    if run.instance.monthly is None:
        run.record(monthly=price_of(run, server))
    _refuse_another_host_key(run, server)
    if server.ipv4 is None:
        raise CloudError(
            f"Hetzner gave the server {server.name} no IPv4 address: the project's quota of primary IPs may be spent.",
            next_steps=[
                "see Primary IPs and limits in the Hetzner console",
                "clawdet destroy USER    (then provision again: this one gets no address any more)",
            ],
        )


def create_dns_record(run: Run) -> None:
    """Point the name at the VPS, early, so that it spreads while the rest is installed."""
    instance, cloudflare = run.instance, run.clouds.cloudflare
    zone_id, ipv4 = _known(instance.zone_id), _known(instance.ipv4)
    zone = run.zone or zones.usable(cloudflare, instance.zone)
    record = preflight.own_record(run.clouds, zone, instance)
    if record is None:
        with run.effect("create_dns_record", instance.host, content=ipv4, comment=instance.comment) as effect:
            made = cloudflare.create_a_record(zone_id, instance.host, ipv4, instance.comment)
            effect.made(made.id, record_id=made.id)
        _refuse_to_share_the_name(run, zone, made)
        return
    run.record(record_id=record.id)
    if (record.content, record.proxied, record.comment) != (ipv4, True, instance.comment):
        with run.effect("update_dns_record", record.id, on=record, content=ipv4):
            cloudflare.update_a_record(zone_id, record, ipv4, instance.comment)


def await_ssh(run: Run) -> None:
    """Wait until the VPS runs and answers with the pinned host key."""
    server = run.clouds.hetzner.server(_known(run.instance.server_id))
    if server is None:
        raise CloudError(f"The server {run.instance.server_name} is gone from Hetzner.")
    server = run.clouds.hetzner.await_running(server)
    if server.ipv4 != run.instance.ipv4:
        raise CloudError(f"The server's address changed from {run.instance.ipv4} to {server.ipv4}.")
    if run.settings.ssh_from:
        run.note(f"SSH is let in from {', '.join(sorted(run.settings.ssh_from))} only: this machine must be within")
    run.ssh()


def join_prepare(run: Run) -> None:
    """Find the installation that the VPS began as it booted, or begin it, and give it the npm lock."""
    if run.prepared is not None:
        return  # by the pool, and it said so a moment ago
    instance = run.instance
    version = instance.openclaw_version or run.settings.openclaw_version
    architecture = {"x86_64": "x86", "aarch64": "arm"}.get(run.remote("uname -m", seconds=20).out.strip(), "")
    if version != run.settings.openclaw_version:
        run.note(f"OpenClaw {version} is installed there and is kept; {run.settings.openclaw_version} is not installed")
    # Before the lock: what user_data began takes that for a sign that no bundle is on its way any more.
    brought = bundle.bring(run, version, architecture)
    values = _prepare_input(run, version, architecture) | brought
    phase = Phase(run, "prepare", values, bootstrap.prepare_files(version), expected=bootstrap.prepared_as(values))
    if not phase.take_over():
        phase.begin()
    # From there on the script is on the machine, and its other verbs can be used.
    phase.reach("tool")
    run.preparing = phase


def prepare_vps(run: Run) -> None:
    """Wait until Node.js, Caddy and OpenClaw are installed: nothing personal yet."""
    if run.prepared is not None:
        return
    phase = _known(run.preparing)
    said = phase.end()
    if phase.restarts:
        run.configuring = None  # it came before there was anything to configure, if it outlived the restart at all
    bundle.tell(run, said)
    if said.get("swap") == "failed":
        run.note("no swap could be added to the VPS: OpenClaw runs without it, until the memory is full")
    # Only now, so that a version that cannot be installed does not stick to the instance.
    run.record(openclaw_version=phase.values["openclaw_version"], installed=bootstrap.installed_text(said))


def install_certificate(run: Run) -> None:
    """Have the VPS's own key certified for strict TLS; the key never leaves the VPS."""
    instance, cloudflare = run.instance, run.clouds.cloudflare
    asked = request_of_vps(run)
    if instance.csr is None or not csr.same_key(instance.csr, asked):
        # Another key means another machine: what the old one had must not stay valid beside it.
        for certificate in certificates.own(run, _known(instance.zone_id), patience=inf):
            certificates.revoke(run, certificate, patience=inf)
        # Certificates carry no label: this request, written before the call, is what makes one ours.
        run.record(csr=asked, certificate_id=None)
    zone_id, request = _known(instance.zone_id), _known(run.instance.csr)
    signed = cloudflare.certificate_for(zone_id, instance.host, request)
    if signed is not None and signed.pem:
        run.certificate = signed
        run.record(certificate_id=signed.id)
        return
    with run.effect("sign_certificate", instance.host, csr=request) as effect:
        run.certificate = cloudflare.sign(zone_id, instance.host, request)
        effect.made(run.certificate.id, certificate_id=run.certificate.id)
    if not run.certificate.pem:
        raise CloudError(
            f"Cloudflare signed a certificate for {instance.host} (id {run.certificate.id}) and does not give it out.",
            next_steps=[f"look at {certificates.DASHBOARD}, then run the command again"],
        )


def request_of_vps(run: Run) -> str:
    """Give the request of the VPS's own key, which it makes if it has none. Raises GuestError for a strange one."""
    host = run.instance.host
    # Made where it stays; a second request finds the key of the first.
    with run.effect("make_vps_key", host):
        answer = run.remote(bootstrap.installed("certificate-request", host), seconds=60)
    if answer.code != 0:
        raise GuestError("The VPS could not make a key and request.", details=answer.complaint)
    csr.check(answer.out, host)
    return answer.out


def send_configuration(run: Run) -> None:
    """Leave with the VPS what it begins with as soon as all is installed, so that the gateway starts with its user."""
    # Behind an installation of somebody else it would come too early: that may have to be followed by one of ours.
    if run.prepared is not None or _known(run.preparing).ours:
        run.configuring = _begun_configuration(run)


def _begun_configuration(run: Run) -> Phase:
    certificate = run.certificate or _recorded_certificate(run)
    if certificate is None:
        install_certificate(run)
        certificate = _known(run.certificate)
    # Again, for an instance that is complete: what comes before its first stage was not done for it.
    zones.check_origin_pulls(run.clouds.cloudflare, _known(run.instance.zone_id), run.settings)
    phase = Phase(run, "configure", bootstrap.configure_input(run.settings, run.instance, certificate.pem), {})
    phase.begin()
    return phase


def _recorded_certificate(run: Run) -> Certificate | None:
    """Return the certificate of an instance that is complete, if Cloudflare gives it out and it is the VPS's own."""
    instance = run.instance
    found = run.clouds.cloudflare.certificate(instance.certificate_id) if instance.certificate_id else None
    ours = found is not None and found.is_of(instance.host, public_key.of_request(instance.csr or ""))
    return found if ours and found is not None and found.pem else None


def configure_openclaw(run: Run) -> None:
    """Give the machine its user: host name, certificate, provider keys, configuration, landing page."""
    phase = run.configuring or _begun_configuration(run)
    phase.reach("gateway-reload")
    # After somebody else's comes one of ours, which a report of now would not know of.
    if phase.ours and run.instance.status is not Status.COMPLETE:
        # From here on it is what it will be: the VPS gathers what verify wants to know while it checks its promises.
        verify.ask_ahead(run)
    run.configured = phase.end()
    run.record(url=f"https://{run.instance.host}/")


def check_origin(run: Run) -> None:
    """Read the page on the VPS itself, past DNS and edge, so that a later failure says which hop broke."""
    verify.check_origin(run)


def verify_from_outside(run: Run) -> None:
    """Check the six criteria as a visitor, an operator and the clouds see them."""
    checks = verify.six_checks(run, patience=120)
    run.state.save_checks(run.instance, checks)
    failed = [check for check in checks if check.result is Result.FAILED]
    if failed:
        raise GuestError(
            f"{len(failed)} of {len(checks)} checks failed: {', '.join(check.name for check in failed)}.",
            details=[f"{check.name}: {check.evidence}" for check in failed],
            next_steps=[f"clawdet verify {run.instance.user}"],
        )


PROVISION = (
    Stage("check_accounts", Status.PENDING, "Checking accounts, prices and names", check_accounts),
    Stage("create_server", Status.CREATING_VPS, "Ordering the VPS", create_server),
    Stage("create_dns_record", Status.CONFIGURING_DNS, "Pointing the name at it", create_dns_record),
    Stage("await_ssh", Status.INSTALLING, "Waiting for the VPS to boot", await_ssh),
    Stage("join_prepare", Status.INSTALLING, "Joining the installation that it began", join_prepare),
    Stage("replace_host_key", Status.INSTALLING, "Replacing the host key that was sent", replace_host_key),
    Stage("install_certificate", Status.INSTALLING, "Certifying the VPS's own key", install_certificate),
    Stage("send_configuration", Status.INSTALLING, "Sending its configuration", send_configuration),
    Stage("prepare_vps", Status.INSTALLING, "Installing Node.js, Caddy and OpenClaw", prepare_vps),
    Stage("configure_openclaw", Status.INSTALLING, "Configuring and starting OpenClaw", configure_openclaw),
    Stage("check_origin", Status.INSTALLING, "Checking the VPS directly", check_origin),
    Stage("verify", Status.INSTALLING, "Verifying from outside", verify_from_outside),
)


def _refuse_to_share_the_name(run: Run, zone: Zone, made: DnsRecord) -> None:
    """Look who else took the name since it was found free: Cloudflare takes two A records of one name.

    The older record keeps it. Raises StateError for the later one, whose record is deleted again.
    """
    instance, cloudflare = run.instance, run.clouds.cloudflare

    def alone() -> bool | None:
        others = [r for r in cloudflare.records(zone.id, instance.host) if r.id != made.id and r.type != "TXT"]
        if any((other.created, other.id) < (made.created, made.id) for other in others):
            with run.effect("delete_dns_record", made.id, on=made, host=made.name) as effect:
                cloudflare.delete_record(zone.id, made.id)
                effect.made("", record_id=None)
            preflight.own_record(run.clouds, zone, run.instance)
        return None if others else True

    try:
        until(alone, deadline=run.deadline.within(RACE_SECONDS), what=f"{instance.host} to be ours alone")
    except WaitError:
        preflight.own_record(run.clouds, zone, instance)


def _refuse_another_host_key(run: Run, server: Server) -> None:
    """Compare the label that the order carried with the key that is recorded."""
    if not any(label_names(server, key) for key in run.instance.host_keys):
        raise StateError(
            f"The server {server.name} was ordered with a host key that is not recorded here, so it cannot be trusted.",
            next_steps=["clawdet destroy USER", "clawdet provision USER"],
        )


def _known(value: T | None) -> T:
    """Give a value that an earlier stage recorded; its absence is a bug in the order of the stages."""
    if value is None:
        raise ValueError("an earlier stage recorded nothing")
    return value


RECONFIGURE = (Stage("configure_openclaw", Status.COMPLETE, "Handing over keys and model", configure_openclaw),)
"""For a complete instance: what is changed by setting it in the environment and running the command again."""


def keep_firewall(run: Run) -> None:
    """Keep the VPS behind the provider's firewall, and that in step with Cloudflare's networks."""
    server = preflight.own_server(run)
    # Without one nothing is made: this may be another project than the server's.
    if server is not None:
        firewall.attach(run, server, _firewall(run))


def _firewall(run: Run) -> Firewall:
    return run.clouds.once("the project's firewall", lambda: firewall.project_firewall(run))


KEEP_FIREWALL = (Stage("keep_firewall", Status.COMPLETE, "Looking at the firewall", keep_firewall),)
"""For a complete instance: Cloudflare's networks change, and hands change firewalls."""


def _order(run: Run, wall: Firewall) -> Server:
    """Try the candidates in turn until Hetzner accepts one."""
    instance, settings = run.instance, run.settings
    key = run.clouds.once("the SSH key at Hetzner", lambda: _key_at_hetzner(run))
    version = instance.openclaw_version or settings.openclaw_version
    run.hang_up()  # from a server that is gone
    host_key = ssh.make_host_key()
    run.record(host_key=host_key.public, next_host_key=None, image=settings.image)
    labels = {**instance.labels, **instance.zone_label, LABEL: ssh.pin_label(host_key.public)}
    labels[operator_keys.LABEL] = operator_keys.mark(key.public)
    tried = []
    for offer in run.offers:
        order = ServerOrder(
            name=instance.server_name,
            server_type=offer.server_type,
            location=offer.location,
            image=settings.image,
            ssh_key_id=key.id,
            user_data=user_data(
                host_key,
                _prepare_input(run, version, offer.architecture)
                | bundle.lines(settings, version, offer.architecture, run.deadline)[0],
            ),
            labels=labels,
            # Named in the order, so that it holds from the first packet.
            firewall_ids=(wall.id,),
        )
        monthly = str(offer.monthly)
        run.note(f"ordering {offer.server_type} in {offer.location} for {offer.monthly.shown} per month")
        wanted: dict[str, Any] = {"type": offer.server_type, "location": offer.location, "monthly": monthly}
        try:
            server = _ordered(run, order, wanted)
        except SoldOutError as refusal:
            tried.append(f"{offer.server_type} in {offer.location}: {refusal.what}")
            run.note(f"not to be had: {tried[-1]}")
        else:
            for earlier in [one for one in run.open_effects if (one.kind, one.name) == ("create_server", order.name)]:
                # The name is unique: nothing else can come of that order any more.
                run.settle(earlier, EffectOutcome.ABSENT, f"server {server.id} has the name", {})
            return server
    raise CloudError(
        "Hetzner has none of the wanted servers to sell at the moment.",
        details=tried,
        next_steps=["name other types or locations: --server-type cx33 --location hel1", "or try again later"],
    )


def _ordered(run: Run, order: ServerOrder, wanted: dict[str, Any]) -> Server:
    """Place an order; where its firewall or SSH key is gone meanwhile, once more with those that are there now.

    The destroy of another instance that was the last one takes both with it.
    """
    try:
        return _ordered_once(run, order, wanted)
    except MissingError as missing:
        run.note(f"{missing.what} Looking for it, or making it, and ordering again")
    walls, gone = order.firewall_ids, order.ssh_key_id
    # By the old one's number, so that of many runs of a command one looks for all.
    wall = run.clouds.once(f"the firewall after {walls}", lambda: firewall.project_firewall(run))
    key = run.clouds.once(f"the SSH key after {gone}", lambda: _key_at_hetzner(run))
    return _ordered_once(run, replace(order, firewall_ids=(wall.id,), ssh_key_id=key.id), wanted)


def _ordered_once(run: Run, order: ServerOrder, wanted: dict[str, Any]) -> Server:
    with run.effect("create_server", order.name, labels=order.labels, **wanted) as effect:
        server = run.clouds.hetzner.create_server(order)
        # Not the one of an earlier order, whose answer was lost and which was carried out late.
        as_ordered = (server.server_type, server.location) == (order.server_type, order.location)
        effect.made(server.id, **found(server), monthly=wanted["monthly"] if as_ordered else None)
    return server


def _prepare_input(run: Run, version: str, architecture: str) -> dict[str, str]:
    values = bootstrap.prepare_input(run.settings, version, architecture)
    return {**values, "pool": "yes"} if run.instance.pooled else values


def _key_at_hetzner(run: Run) -> SshKey:
    """Return the operator's key in the project, which new servers let in; add it if it is not there."""
    public = operator_keys.own(run.settings)
    key = run.clouds.hetzner.ssh_key(public)
    if key is None:
        name = operator_keys.name_of(public)
        with run.effect("add_ssh_key", name, public_key=public) as effect:
            key = run.clouds.hetzner.add_ssh_key(public, name, {"managed-by": "clawdet"})
            effect.made(key.id)
    return key


def price_of(run: Run, server: Server) -> str | None:
    """Give what a server costs per month by its own type and location; None when that cannot be read now."""
    # What exists must be recorded and looked after, with its price or without.
    with suppress(CloudError, ConfigError, WaitError):
        monthly = run.clouds.hetzner.prices().get((server.server_type, server.location))
        return str(monthly) if monthly is not None else None
    return None


def found(server: Server) -> dict[str, Any]:
    """Give what is recorded of a server."""
    return {
        "server_id": server.id,
        "server_type": server.server_type,
        "location": server.location,
        "ipv4": server.ipv4,
    }
