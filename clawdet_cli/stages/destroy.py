"""The way back: the name first, so that it never points at an address that somebody else may get next.

```
stage                 Cloudflare                    Hetzner                     database
delete_dns_record     DELETE dns_records                                        destroying
revoke_certificate    DELETE certificates
delete_server                                       DELETE /servers
delete_ssh_key                                      DELETE /ssh_keys, when no server of ours has this key any more
delete_firewall                                     DELETE /firewalls, when the last server of ours is gone
prove_absence         every resource is read again                              destroyed
```
"""

from collections.abc import Sequence

from clawdet_cli.adapters import ssh
from clawdet_cli.adapters.retry import until
from clawdet_cli.errors import CloudError, ConfigError, WaitError
from clawdet_cli.model import Certificate, DnsRecord, Instance, Server, Status, maker_by_labels
from clawdet_cli.stages import certificates, firewall, operator_keys, ownership, preflight
from clawdet_cli.stages.runner import Run, Stage

LAG_SECONDS = 20.0
"""How long a cloud may go on showing what it has deleted."""


def delete_dns_record(run: Run) -> None:
    """Delete the instance's DNS records, and nobody else's.

    Raises ForeignError, before anything is deleted, when something is recorded that is not provably the instance's.
    """
    _refuse_foreign(run)
    for record in own_records(run):
        with run.effect("delete_dns_record", record.id, on=record, host=record.name) as effect:
            run.clouds.cloudflare.delete_record(_zone_id(run), record.id)
            effect.made("", **({"record_id": None} if record.id == run.instance.record_id else {}))
        run.removed.append(f"DNS record {record.name} -> {record.content}")
    if _zone_id(run):
        run.record(record_id=None)


def revoke_certificate(run: Run) -> None:
    """Revoke the instance's origin certificate; others for the same host are left alone and told of.

    One that cannot be revoked is named, and the server is deleted all the same: it costs money, and holds the key.
    """
    for certificate in own_certificates(run):
        try:
            certificates.revoke(run, certificate)
        except certificates.NOT_ANSWERED as error:
            run.note(f"Origin CA certificate {certificate.id} could not be revoked: {error.what}")
            return
        run.removed.append(f"Origin CA certificate {certificate.id}")
    if _zone_id(run) and not run.unseen_certificates:
        run.record(certificate_id=None)


def delete_server(run: Run) -> None:
    """Delete the instance's server and wait until Hetzner does not know it any more."""
    server = own_server(run)
    if server is not None:
        with run.effect("delete_server", str(server.id), on=server, server=server.name) as effect:
            run.clouds.hetzner.delete_server(server.id)
            effect.made("", server_id=None)
        run.removed.append(f"server {server.name} (id {server.id})")
    else:
        preflight.refuse_another_project(run.clouds, run.instance)
    run.record(server_id=None)


def delete_ssh_key(run: Run) -> None:
    """Delete the operator's key from the project when no server of ours is left that was made with it."""
    servers = run.clouds.hetzner.servers("managed-by=clawdet")
    if any(operator_keys.LABEL not in one.labels for one in servers) or not run.settings.ssh_key.exists():
        return
    try:
        public = ssh.operator_key(run.settings.ssh_key, make=False)
    except ConfigError as error:
        # It costs nothing, and must not keep the proof that nothing else is left from being made.
        run.note(f"the SSH key in the Hetzner project was left there: {error.what}")
        return
    if any(one.labels.get(operator_keys.LABEL) == operator_keys.mark(public) for one in servers):
        return
    key = run.clouds.hetzner.ssh_key(public)
    if key is None or key.labels.get("managed-by") != "clawdet":
        return
    with run.effect("delete_ssh_key", str(key.id), on=key, key=key.name):
        run.clouds.hetzner.delete_ssh_key(key.id)
    run.removed.append("SSH key of clawdet in the Hetzner project")


def prove_absence(run: Run) -> None:
    """Read everything again. Raises CloudError that names what is left."""
    left: list[str] = []

    def gone() -> bool | None:
        left[:] = _what_is_left(run)
        return True if not left else None

    try:
        # A cloud may show for a moment what it has just deleted.
        until(gone, deadline=run.deadline.within(LAG_SECONDS), what="everything to be gone")
    except WaitError:
        raise CloudError("Not everything is gone.", details=left) from None
    instance = run.instance
    if not _zone_id(run) and not run.zone_gone:
        _refuse_what_nobody_saw(instance)
    seen = _certificates(run)
    run.not_judged += seen.not_judged
    for thing in seen.not_judged:
        run.note(f"{thing}; it costs nothing, and can be revoked at {certificates.DASHBOARD}")
    foreign = _foreign(run, seen)
    for thing in foreign.values():
        run.note(f"{thing} is not provably this instance's, and was not touched")
    absent = {
        "DNS record": f"DNS record {instance.host}",
        "certificate": f"Origin CA certificate for {instance.host}",
        "server": f"server {instance.server_name}",
    }
    if instance.pooled:
        absent = {"server": absent["server"]}
    elif not _zone_id(run):
        run.note(f"Cloudflare shows this token no zone {instance.zone}: look for what is left of {instance.host} there")
        del absent["DNS record"], absent["certificate"]
    if seen.not_judged:
        absent.pop("certificate", None)
    _tell_what_may_appear(run, absent)
    run.absent += [what for kind, what in absent.items() if kind not in foreign]
    of_cloudflare = {"record_id": None, "certificate_id": None, "csr": None}
    run.record(**of_cloudflare, ipv4=None, host_key=None, next_host_key=None, installed=None, url=None, error=None)


def _tell_what_may_appear(run: Run, absent: dict[str, str]) -> None:
    """Take what a cloud may still make, for an earlier run that was killed, from what is called absent, and say so."""
    for kind, absent_kind in _MADE.items():
        if kind in run.may_appear and absent_kind in absent:
            del absent[absent_kind]
            run.note(
                f"{run.may_appear[kind]} may still appear: a run that was killed had just asked for it."
                " In two minutes 'clawdet reconcile' tells"
            )
        else:
            run.may_appear.pop(kind, None)


_MADE = {"create_server": "server", "create_dns_record": "DNS record", "sign_certificate": "certificate"}


def _refuse_what_nobody_saw(instance: Instance) -> None:
    """Keep in mind what is recorded in a zone that the token does not show. Raises CloudError."""
    unseen = [f"DNS record {instance.host} (id {instance.record_id})"] if instance.record_id else []
    unseen += [f"Origin CA certificate {instance.certificate_id}"] if instance.certificate_id else []
    if unseen:
        raise CloudError(
            f"Cloudflare shows this token no zone {instance.zone}, so nobody has seen that all is gone.",
            details=unseen,
            next_steps=[
                f"give the token (CLOUDFLARE_API_TOKEN) Zone Read on {instance.zone}, then run the command again",
                f"clawdet destroy {instance.user} --zone-gone    (if the zone has left Cloudflare: forgets them)",
            ],
        )


def _what_is_left(run: Run) -> list[str]:
    left = [f"DNS record {record.name} -> {record.content}" for record in own_records(run)]
    left += [f"Origin CA certificate {certificate.id}" for certificate in own_certificates(run)]
    server = own_server(run)
    return left + ([f"server {server.name} (id {server.id}), which costs money"] if server else [])


DESTROY = (
    Stage("delete_dns_record", Status.DESTROYING, "Deleting the DNS record", delete_dns_record),
    Stage("revoke_certificate", Status.DESTROYING, "Revoking the certificate", revoke_certificate),
    Stage("delete_server", Status.DESTROYING, "Deleting the server", delete_server),
    Stage("delete_ssh_key", Status.DESTROYING, "Deleting the SSH key if it is the last", delete_ssh_key),
    Stage("delete_firewall", Status.DESTROYING, "Deleting the firewall if it was the last", firewall.delete_firewall),
    Stage("prove_absence", Status.DESTROYING, "Making sure that all is gone", prove_absence),
)


DRAIN = (*DESTROY[2:],)
"""For a server of the pool, which has neither name nor certificate."""


def own_records(run: Run) -> list[DnsRecord]:
    """Return the A records at the instance's name that carry its comment."""
    return [record for record in _records(run) if run.owns(record)]


def _records(run: Run) -> list[DnsRecord]:
    zone_id = _zone_id(run)
    return run.clouds.cloudflare.records(zone_id, run.instance.host) if zone_id else []


def _refuse_foreign(run: Run) -> None:
    """Raise ForeignError for what is recorded and exists without our mark; where that was allowed, forget it."""
    instance = run.instance
    recorded = [record for record in _records(run) if record.id == instance.record_id and not run.owns(record)]
    server = run.clouds.hetzner.server(instance.server_id) if instance.server_id is not None else None
    if server is not None and not run.owns(server) and not _given_away(run, server):
        if not run.forget_foreign:
            raise ownership.foreign(instance, server)
        run.note(f"{ownership.described(server)} is forgotten: it was not touched")
        run.record(server_id=None)
    for record in recorded:
        if not run.forget_foreign:
            raise ownership.foreign(instance, record)
        run.note(f"{ownership.described(record)} is forgotten: it was not touched")
        run.record(record_id=None)


def _certificates(run: Run) -> certificates.Certificates:
    """Return the certificates for the instance's host; none where there is no zone."""
    zone_id = _zone_id(run)
    return certificates.look(run, zone_id) if zone_id else certificates.Certificates()


def own_certificates(run: Run) -> Sequence[Certificate]:
    """Return those that are provably the instance's; none where there is no zone."""
    zone_id = _zone_id(run)
    return certificates.own(run, zone_id) if zone_id else ()


def own_server(run: Run) -> Server | None:
    """Return the instance's server: the recorded one, else the one of its name, and by its labels in both cases."""
    hetzner, instance = run.clouds.hetzner, run.instance
    by_id = hetzner.server(instance.server_id) if instance.server_id is not None else None
    if by_id is not None and run.owns(by_id):
        return by_id
    if by_id is not None and _given_away(run, by_id):
        run.note(f"the server {by_id.name} (id {by_id.id}) is a user's by its labels, and was not touched")
        return None
    if by_id is not None and not run.forget_foreign:
        raise ownership.foreign(instance, by_id)
    server = hetzner.find_server(instance.server_name)
    return server if server is not None and run.owns(server) else None


def _given_away(run: Run, server: Server) -> bool:
    """Return whether a server of the pool is a user's by now, as another database may have given it away."""
    return run.instance.pooled and maker_by_labels(server.labels) is not None


def _foreign(run: Run, seen: certificates.Certificates) -> dict[str, str]:
    """Tell what has the names of the instance and is not provably its own."""
    instance, zone_id = run.instance, _zone_id(run)
    found = {}
    server = run.clouds.hetzner.find_server(instance.server_name)
    if server is not None:
        found["server"] = f"server {server.name} (id {server.id})"
    if zone_id:
        for record in run.clouds.cloudflare.records(zone_id, instance.host):
            found["DNS record"] = f"DNS record {record.type} {record.name} -> {record.content}"
    for certificate in seen.foreign:
        found["certificate"] = f"Origin CA certificate {certificate.id} for {instance.host}"
    return found


def _zone_id(run: Run) -> str:
    """Return the zone's id; empty when the zone is gone, and with it every record.

    Cloudflare may refuse to list a zone that a token cannot reach, in place of listing none (certbot pull request
    8015): where somebody said that it is gone, that is the same.
    """
    if run.zone is None and not run.instance.pooled:
        try:
            run.zone = run.clouds.cloudflare.zone(run.instance.zone)
        except ConfigError as refused:
            if run.zone_gone:
                return ""
            gone = f"clawdet destroy {run.instance.user} --zone-gone    (if the zone has left Cloudflare: forgets it)"
            refused.next_steps = (*refused.next_steps, gone)
            raise
    return run.zone.id if run.zone else ""
