"""What a run that was cut off left open in the journal: each is looked at before anything else is done.

An effect is adopted when its name and run id match (a certificate: the key of its recorded request); everything else is
left alone and named.
"""

import base64
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, TypeVar

from clawdet_cli import csr, uptime
from clawdet_cli.adapters.retry import NotYet, until
from clawdet_cli.errors import ConfigError, WaitError
from clawdet_cli.model import Effect, EffectOutcome, Status
from clawdet_cli.stages import certificates
from clawdet_cli.stages.firewall import is_ours
from clawdet_cli.stages.provision import found, price_of
from clawdet_cli.stages.runner import Run, Stage
from clawdet_cli.state import State

T = TypeVar("T")

SETTLE_SECONDS = 5.0
"""How long after the first look an order that nobody waited for is looked for: it may have been on its way when the
process died. Without this, a destroy could look a moment too early and leave a server that nobody knows of."""
HELD_SECONDS = 120.0
"""How long after its intent a cloud may still carry it out: clouds and what stands before them hold a request for a
minute. Until then what is not there is not said to be absent for good."""


@dataclass(frozen=True)
class Seen:
    """What a look at the other side showed."""

    outcome: EffectOutcome
    text: str
    result: str = ""
    changes: Mapping[str, Any] = field(default_factory=dict)


def recover(run: Run) -> None:
    """Look at every open intent of this user, and close it with what was seen."""
    for effect in run.state.open_effects(run.instance.user):
        try:
            seen = LOOKS[effect.kind](run, effect)
        except ConfigError as refused:
            if not (run.zone_gone and effect.kind in IN_ZONE):
                raise
            seen = Seen(EffectOutcome.LEFT, f"the zone is said to be gone, and is not shown: {refused.what}")
        except (LookupError, ValueError, TypeError, AttributeError):
            # Of a newer clawdet, or imported: what nobody can read must not keep a destroy from working.
            seen = Seen(EffectOutcome.LEFT, "what was noted of it cannot be read: clawdet reconcile looks for it")
        run.settle(effect, seen.outcome, seen.result, seen.changes)
        if seen.outcome is EffectOutcome.ABSENT and effect.kind in MAY_APPEAR and _age(effect) < HELD_SECONDS:
            run.may_appear[effect.kind] = f"{MAY_APPEAR[effect.kind]} {effect.name}"
        run.note(f"an earlier run was cut off at {effect.kind} {effect.name}: {seen.text}")


def recovery(status: Status) -> Stage:
    """Give the stage that comes before all others when the journal has open intents; it changes no status."""
    return Stage("recover", status, "Looking at what an interrupted run left", recover)


def _ordered_server(run: Run, effect: Effect) -> Seen:
    server = _if_it_comes(run, effect, lambda: run.clouds.hetzner.find_server(effect.name))
    if server is None:
        return Seen(EffectOutcome.ABSENT, "nothing was ordered")
    if not run.owns(server) or effect.run_id != run.instance.run_id:
        return Seen(EffectOutcome.LEFT, f"server {server.id} has the name but not this run's labels: left alone")
    as_ordered = (server.server_type, server.location) == (effect.data["type"], effect.data["location"])
    monthly = effect.data["monthly"] if as_ordered else price_of(run, server)
    changes = {**found(server), "monthly": monthly}
    return Seen(EffectOutcome.DONE, f"server {server.id} was ordered and is kept", str(server.id), changes)


def _created_record(run: Run, effect: Effect) -> Seen:
    zone_id = run.instance.zone_id or ""

    def look() -> str | None:
        records = run.clouds.cloudflare.records(zone_id, effect.name)
        return next((r.id for r in records if r.type == "A" and r.comment == effect.data["comment"]), None)

    record_id = _if_it_comes(run, effect, look)
    if record_id is None:
        return Seen(EffectOutcome.ABSENT, "it was not made")
    if effect.run_id != run.instance.run_id:
        return Seen(EffectOutcome.LEFT, f"record {record_id} belongs to another run: left alone")
    return Seen(EffectOutcome.DONE, f"record {record_id} was made and is kept", record_id, {"record_id": record_id})


def _signed_certificate(run: Run, effect: Effect) -> Seen:
    zone_id, cloudflare = run.instance.zone_id or "", certificates.hurried(run)
    try:
        certificate = _if_it_comes(
            run, effect, lambda: cloudflare.certificate_for(zone_id, effect.name, effect.data["csr"])
        )
    except certificates.NOT_ANSWERED as error:
        # Its request is recorded: whoever can list certificates finds it by its key.
        certificates.remember_unseen(run, error)
        return Seen(EffectOutcome.LEFT, f"whether it was signed could not be seen: {error.what}")
    if certificate is None:
        return Seen(EffectOutcome.ABSENT, "it was not signed")
    if not csr.same_key(effect.data["csr"], run.instance.csr or ""):
        return Seen(EffectOutcome.LEFT, f"certificate {certificate.id} is for another key: left alone")
    changes = {"certificate_id": certificate.id}
    return Seen(EffectOutcome.DONE, f"certificate {certificate.id} was signed and is kept", certificate.id, changes)


def _added_ssh_key(run: Run, effect: Effect) -> Seen:
    public = effect.data["public_key"]
    base64.b64decode(public.split()[1])  # what is no key cannot be asked for
    key = run.clouds.hetzner.ssh_key(public)
    if key is None:
        return Seen(EffectOutcome.ABSENT, "it was not added")
    return Seen(EffectOutcome.DONE, f"key {key.id} was added and is kept", str(key.id))


def _created_firewall(run: Run, effect: Effect) -> Seen:
    found = run.clouds.hetzner.firewall(effect.name)
    if found is None:
        return Seen(EffectOutcome.ABSENT, "it was not made")
    if not is_ours(found):
        return Seen(EffectOutcome.LEFT, f"firewall {found.id} has the name but not clawdet's label: left alone")
    return Seen(EffectOutcome.DONE, f"firewall {found.id} was made and is kept", str(found.id))


def _deleted_record(run: Run, effect: Effect) -> Seen:
    changes = {"record_id": None} if effect.name == run.instance.record_id else {}
    return _gone(run.clouds.cloudflare.record(run.instance.zone_id or "", effect.name), changes)


def _revoked_certificate(run: Run, effect: Effect) -> Seen:
    changes = {"certificate_id": None} if effect.name == run.instance.certificate_id else {}
    try:
        found = certificates.hurried(run).certificate(effect.name)
    except certificates.NOT_ANSWERED as error:
        certificates.remember_unseen(run, error)
        return Seen(EffectOutcome.LEFT, f"whether it is revoked could not be seen: {error.what}")
    return _gone(found, changes)


def _deleted_server(run: Run, effect: Effect) -> Seen:
    changes = {"server_id": None} if int(effect.name) == run.instance.server_id else {}
    return _gone(run.clouds.hetzner.server(int(effect.name)), changes)


def _gone(there: object, changes: Mapping[str, Any]) -> Seen:
    if there is None:
        return Seen(EffectOutcome.DONE, "it is gone", changes=changes)
    return Seen(EffectOutcome.ABSENT, "it is still there")


def _found_later(_run: Run, _effect: Effect) -> Seen:
    """Leave to the stage that did it: it compares, or asks the VPS, and repeats what is missing."""
    return Seen(EffectOutcome.LEFT, "its stage finds how far it came")


IN_ZONE = frozenset({"create_dns_record", "delete_dns_record"})
"""Kinds that are looked for in the zone."""

LOOKS: Mapping[str, Callable[[Run, Effect], Seen]] = {
    "create_server": _ordered_server,
    "create_dns_record": _created_record,
    "sign_certificate": _signed_certificate,
    "add_ssh_key": _added_ssh_key,
    "delete_dns_record": _deleted_record,
    "revoke_certificate": _revoked_certificate,
    "delete_server": _deleted_server,
    "create_firewall": _created_firewall,
    "delete_ssh_key": _found_later,
    "set_firewall_rules": _found_later,
    "attach_firewall": _found_later,
    "delete_firewall": _found_later,
    "update_dns_record": _found_later,
    "join_boot": _found_later,
    "upload": _found_later,
    "start": _found_later,
    "make_vps_key": _found_later,
    "put_nonce": _found_later,
    "make_host_key": _found_later,
    "label_server": _found_later,
    "switch_host_key": _found_later,
    "claim_server": _found_later,
    "reboot_vps": _found_later,
    "approve_device": _found_later,
}
"""One for each kind of effect in the stages; a test compares them with the code."""


MAY_APPEAR = {
    "create_server": "server",
    "create_dns_record": "DNS record",
    "sign_certificate": "Origin CA certificate for",
}
"""Kinds of what is made, and may be made late, with what each is called."""


def may_still_appear(state: State, user: str) -> tuple[str, ...]:
    """Return what an earlier destroy did not find, and a cloud may still make for a run that was killed."""
    held = [
        effect for effect in state.absent_effects(user) if effect.kind in MAY_APPEAR and _age(effect) < HELD_SECONDS
    ]
    return tuple(f"{MAY_APPEAR[effect.kind]} {effect.name}" for effect in held)


def _age(effect: Effect) -> float:
    """Give the seconds since an intent, by the clock on the wall only when it is of another boot or machine.

    One that jumps ahead would make an order of a moment ago look as old as if nothing could be on its way any more.
    """
    begun = effect.data.get("uptime")
    if effect.data.get("boot") == uptime.boot() and isinstance(begun, int | float):
        return uptime.seconds() - begun
    return (datetime.now(UTC) - datetime.fromisoformat(effect.begun_at)).total_seconds()


def _if_it_comes(run: Run, effect: Effect, look: Callable[[], T | None]) -> T | None:
    """Look until the thing is there, or it is long ago that it was asked for, or has not come for a while."""
    thing = look()
    if thing is not None or _age(effect) >= HELD_SECONDS:
        return thing
    # Counted from the first look that was answered: until then nothing was seen of it.
    patience = run.deadline.within(SETTLE_SECONDS)
    answered = True

    def there() -> T:
        nonlocal answered
        answered = False
        thing = look()
        answered = True
        if thing is None:
            raise NotYet(f"no {effect.name} yet, and it may be on its way")
        return thing

    try:
        return until(there, deadline=patience, what=effect.name, every=0.5)
    except WaitError:
        if not answered:
            raise  # nobody saw that it is not there
        return None
