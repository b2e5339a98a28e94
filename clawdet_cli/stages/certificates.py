"""Whose an Origin CA certificate is, and how one of ours is revoked.

It carries no label, and Cloudflare does not give back the request that it was made from. Ours is one with the public
key of the recorded request, for exactly our host name. What cannot be judged, because Cloudflare shows too little of it
or nothing at all, is named and never touched: it costs nothing, and must not keep a server that does from being
deleted.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from math import inf

from clawdet_cli import public_key
from clawdet_cli.adapters.cloudflare import Cloudflare
from clawdet_cli.errors import ClawdetError, CloudError, ConfigError, WaitError
from clawdet_cli.model import Certificate, Instance
from clawdet_cli.stages.runner import Run

PATIENCE = 20.0
"""Seconds for a call about certificates, where no other ones are given: it must not keep a server that costs money."""

NOT_ANSWERED = (CloudError, ConfigError, WaitError)
"""What a look at certificates may end with that says nothing of them."""

DASHBOARD = "https://dash.cloudflare.com, your zone, SSL/TLS, Origin Server"


@dataclass(frozen=True)
class Certificates:
    """The certificates for an instance's host name, by what can be said of them."""

    own: Sequence[Certificate] = ()
    foreign: Sequence[Certificate] = ()
    not_judged: Sequence[str] = ()
    """A sentence for each thing of which nobody knows whose it is."""


def own(run: Run, zone_id: str, *, patience: float | None = None) -> Sequence[Certificate]:
    """Return those that are provably the instance's: none where it never asked for one."""
    return look(run, zone_id, patience=patience).own if run.instance.csr else ()


def look(run: Run, zone_id: str, *, patience: float | None = None) -> Certificates:
    """List the certificates for the instance's host name; that they cannot be listed is a part of the answer.

    With a patience of `inf` they are asked for until the run's deadline, whatever an earlier look ended with.
    """
    instance = run.instance
    if run.unseen_certificates and patience != inf:
        return Certificates(not_judged=run.unseen_certificates)  # not asked again: it would only take as long again
    try:
        found = hurried(run, patience).certificates_for(zone_id, instance.host)
    except NOT_ANSWERED as error:
        remember_unseen(run, error)
        return Certificates(not_judged=run.unseen_certificates)
    return sorted_out(instance, found)


def hurried(run: Run, patience: float | None = None) -> Cloudflare:
    """Return Cloudflare with PATIENCE, or another one, for what must not keep a server from being deleted."""
    if patience == inf:
        return run.clouds.cloudflare
    return run.clouds.cloudflare.hurried(PATIENCE if patience is None else patience)


def remember_unseen(run: Run, error: ClawdetError) -> None:
    """Keep the run from asking again for certificates that could not be seen, and name them at its end."""
    run.unseen_certificates = (not_seen(run.instance, error.what),)


def sorted_out(instance: Instance, found: Sequence[Certificate]) -> Certificates:
    """Tell an instance's certificates from others for the same host name."""
    key = public_key.of_request(instance.csr or "")
    own = [one for one in found if one.is_of(instance.host, key)]
    unclear = [one for one in found if one.may_be_of(instance.host)]
    foreign = [one for one in found if one not in own and one not in unclear]
    return Certificates(own, foreign, [not_judged(one) for one in unclear])


def not_judged(certificate: Certificate) -> str:
    """Return the sentence for a certificate of which Cloudflare does not show the key."""
    names = ", ".join(certificate.hostnames) or "names that are not shown"
    return f"Origin CA certificate {certificate.id} for {names}: Cloudflare does not show whose key is in it"


def not_seen(instance: Instance, why: str) -> str:
    """Return the sentence for certificates that could not be listed."""
    which = f"certificate {instance.certificate_id}" if instance.certificate_id else "a certificate, if there is one,"
    return f"Origin CA {which} for {instance.host}: {why.removesuffix('.')}"


def revoke(run: Run, certificate: Certificate, *, patience: float | None = None) -> None:
    """Revoke one certificate that is provably ours."""
    cloudflare = hurried(run, patience)
    with run.effect("revoke_certificate", certificate.id, on=certificate) as effect:
        cloudflare.revoke(certificate.id)
        effect.made("", **({"certificate_id": None} if certificate.id == run.instance.certificate_id else {}))
