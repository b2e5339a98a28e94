"""The JSON documents of `--json`: the contract with scripts, so keys are only ever added."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from typing import Any

from clawdet_cli.errors import ClawdetError
from clawdet_cli.model import (
    Destroyed,
    Device,
    Devices,
    Event,
    Finding,
    Firewall,
    Instance,
    Member,
    Plan,
    Reconciled,
    Result,
    Right,
    ServerOffer,
)
from clawdet_cli.money import EURO, Price, totals

VERSION = 1

Document = dict[str, Any]


def document(**content: Any) -> Document:
    """Give a document of the current version."""
    return {"version": VERSION, **content}


def instance(value: Instance) -> Document:
    """Describe an instance."""
    return {
        "user": value.user,
        "status": value.status.value,
        "server_id": value.server_id,
        "ipv4": value.ipv4,
        "record_id": value.record_id,
        "url": value.url,
        "sandbox": value.sandbox,
        "checks": [
            {
                "name": c.name,
                "ok": c.result is Result.OK,
                "result": c.result.value,
                "evidence": c.evidence,
                "at": c.at or None,
            }
            for c in value.checks
        ],
        "stages": [{"name": s.name, "status": s.status, "seconds": round(s.seconds, 3)} for s in value.stages],
        "open_effects": [
            {"kind": e.kind, "name": e.name, "stage": e.stage, "run_id": e.run_id, "begun_at": e.begun_at}
            for e in value.open_effects
        ],
        "zone": value.zone,
        "run_id": value.run_id,
        "server_type": value.server_type,
        "location": value.location,
        "image": value.image,
        **_price(Price(value.monthly) if value.monthly else None),
        "openclaw_version": value.openclaw_version,
        "installed": dict(item.split("=", 1) for item in (value.installed or "").split() if "=" in item),
        "certificate_id": value.certificate_id,
        "created_at": value.created_at,
        "updated_at": value.updated_at,
        "error": value.error,
    }


def instances(values: Sequence[Instance]) -> list[Document]:
    """Describe instances."""
    return [instance(value) for value in values]


def plan(value: Plan) -> Document:
    """Describe what would be made."""
    content = asdict(value)
    content["candidates"] = [_offer(offer) for offer in value.candidates]
    return content


def destroyed(value: Destroyed) -> Document:
    """Describe what was removed."""
    return {
        "user": value.user,
        "removed": list(value.removed),
        "absent": list(value.absent),
        "not_judged": list(value.not_judged),
        "may_appear": list(value.may_appear),
    }


def reconciled(value: Reconciled) -> Document:
    """Describe how everything stands."""
    return {
        "clean": value.clean,
        "rows": [
            *(_finding(one, fixed=True) for one in value.mended),
            *(_finding(one, fixed=False) for one in value.findings),
        ],
        "foreign": dict(value.foreign),
        "busy": dict(value.busy),
        "damaged": dict(value.damaged),
        **{f"orphans_{name}": content for name, content in total(value.orphans_monthly).items()},
    }


def firewall(value: Firewall | None) -> Document | None:
    """Describe the project's firewall."""
    if value is None:
        return None
    return {
        "id": value.id,
        "name": value.name,
        "rules": [
            {
                "port": rule.port,
                "protocol": rule.protocol,
                "direction": rule.direction,
                "networks": sorted(rule.sources),
            }
            for rule in value.rules
        ],
    }


def pool(values: Sequence[Member]) -> Document:
    """Describe what waits in the pool."""
    held = [one.instance for one in values if one.instance.server_id is not None and one.instance.monthly]
    return {
        "pool": [
            {
                "name": one.instance.user,
                "ready": one.unfit is None,
                "reason": one.unfit,
                "status": one.instance.status.value,
                "server_id": one.instance.server_id,
                "server_type": one.instance.server_type,
                "location": one.instance.location,
                "image": one.instance.image,
                "ipv4": one.instance.ipv4,
                "openclaw_version": one.instance.openclaw_version,
                **_price(Price(one.instance.monthly) if one.instance.monthly else None),
                "created_at": one.instance.created_at,
                "age_days": round(one.days, 2),
            }
            for one in values
        ],
        "ready": sum(one.unfit is None for one in values),
        **total(Price(one.monthly) for one in held if one.monthly),
    }


def total(prices: Iterable[Price]) -> Document:
    """Describe what several things cost together; one sum of euro there is only where all is paid in euro."""
    found = {price.currency: float(price) for price in totals(prices)}
    return {"monthly_eur": found.get(EURO, 0.0) if found.keys() <= {EURO} else None, "monthly": found}


def devices(value: Devices) -> Document:
    """Describe who waits for an approval, and who has one."""
    return {"pending": [device(one) for one in value.pending], "paired": [device(one) for one in value.paired]}


def rights(values: Sequence[Right]) -> list[Document]:
    """Describe what the tokens may do."""
    return [
        {"token": value.token, "right": value.name, "verdict": value.verdict.value, "text": value.text}
        for value in values
    ]


def device(value: Device) -> Document:
    """Describe a device."""
    content = {
        "device_id": value.id,
        "platform": value.platform,
        "client": value.client,
        "address": value.address,
        "scopes": list(value.scopes),
        "at": value.at or None,
    }
    return {"request_id": value.request, **content} if value.request else content


def calls(values: Sequence[Mapping[str, int]]) -> Document:
    """Sum up the calls that runs made, by cloud; nothing when none were counted."""
    total: Counter[str] = Counter()
    for value in values:
        total.update(value)
    return {"calls": dict(total)} if total else {}


def error(failure: ClawdetError, next_steps: Sequence[str]) -> Document:
    """Describe a failure."""
    return {
        "kind": failure.kind,
        "exit_code": failure.exit_code,
        "what": failure.what,
        "stage": failure.stage,
        "left_behind": list(failure.left_behind),
        "next_steps": list(next_steps),
        "details": list(failure.details),
        "log_file": failure.log_file,
    }


def event(value: Event) -> Document:
    """Describe a step of a run, without the fields that say nothing."""
    return document(**{name: content for name, content in asdict(value).items() if content not in {"", 0.0}})


def _price(monthly: Price | None) -> Document:
    if monthly is None:
        return {"monthly_eur": None, "monthly": None, "currency": None}
    return {"monthly_eur": monthly.euro, "monthly": float(monthly), "currency": monthly.currency}


def _finding(value: Finding, *, fixed: bool) -> Document:
    content = asdict(value)
    content["category"] = value.category.value
    texts = {"fix": value.fix or None, "decision": value.decision or None}
    return {**content, **texts, **_price(value.monthly), "fixed": fixed}


def _offer(value: ServerOffer) -> Document:
    return asdict(value) | _price(value.monthly)
