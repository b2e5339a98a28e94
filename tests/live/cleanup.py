"""Everything that the journal names is removed, and looked for once more; nothing else is touched.

What counts as this run's: at Hetzner its name and its label, in the zone its name and its comment, of certificates
exactly its host name, which no other run has. Of the product's: what it marks as its user's.
"""

import time
from collections.abc import Callable
from functools import partial

from tests.live.api import Api, ApiError
from tests.live.certificates import all_listed
from tests.live.journal import Thing
from tests.live.product import clawdet
from tests.live.run import MARK, Run

PATIENCE = 240.0
"""Seconds for each thing: a firewall may be in use for a while after its server."""
PROOF_PATIENCE = 30.0
"""Seconds in which a look has to succeed."""
SETTLE_SECONDS = 5.0
SHARED = ("firewalls", "ssh_keys")
"""What the product has in a project for all its users."""


def everything(run: Run) -> list[str]:
    """Remove all that the journal names and prove that it is gone; return what could not be removed, and why."""
    left: list[str] = []
    things = run.journal.things()
    if not all(thing.id for thing in things):
        # An order that nobody got an answer to may be carried out a moment later.
        with run.step("wait for what may be on its way"):
            time.sleep(SETTLE_SECONDS)
    for thing in things:
        try:
            with run.step(f"remove the {thing.kind} {thing.name}"):
                _remove(run, thing)
            run.journal.gone(thing)
        except Exception as error:  # noqa: BLE001  # whatever it is: the other things have to go all the same
            left.append(f"{thing.kind} {thing.name}: {error}")
    return left


def prove(run: Run) -> list[str]:
    """Look once more for all that was ever made; return what is still there, or cannot be looked for."""
    left: list[str] = []
    for thing in run.journal.ever():
        try:
            found = run.until(partial(_looked_for, run, thing), "the look", PROOF_PATIENCE)
            left += [f"{thing.kind} {thing.name} is still there ({path})" for _, path in found]
        except Exception as error:  # noqa: BLE001  # what cannot be looked for is not proved to be gone
            left.append(f"{thing.kind} {thing.name} cannot be looked for: {error}")
    # What it has for all users goes with the last of them, and was there before if there were others.
    if any(thing.kind == "instance" for thing in run.journal.ever()):
        try:
            new = shared_things(run) - {*run.journal.about["shared"].split()}
        except ApiError as error:
            new = {f"cannot be looked for: {error}"}
        left += [f"clawdet's own in the Hetzner project, which costs nothing: {one}" for one in sorted(new)]
    return left


def shared_things(run: Run) -> set[str]:
    """Return what the product has in the project for all its users, as kinds with ids."""
    found = set()
    for kind in SHARED:
        content = run.hetzner.call("GET", f"/{kind}?label_selector=managed-by=clawdet").must(200).content
        found |= {f"{kind}/{one['id']}" for one in content[kind]}
    return found


def taken(run: Run) -> list[str]:
    """Return what already has a name that this run would give."""
    names = {"ssh_keys": [run.name], "firewalls": [run.name], "servers": [run.name, f"clawdet-{run.user}"]}
    found = []
    for kind, wanted in names.items():
        for name in wanted:
            content = run.hetzner.call("GET", f"/{kind}?name={name}").must(200).content
            found += [f"{kind} {name}" for _ in content[kind]]
    hosts = [run.host, f"{run.user}.{run.place.zone}"]
    for host in hosts:
        content = run.cloudflare.call("GET", f"/zones/{run.zone_id}/dns_records?name.exact={host}").must(200).content
        found += [f"DNS record {host}" for _ in content["result"]]
    found += [f"certificate of {host}" for one in all_listed(run) for host in hosts if host in one["hostnames"]]
    return found


def _remove(run: Run, thing: Thing) -> None:
    if thing.kind == "instance":
        clawdet(run, "destroy", thing.name, "--yes")
    last = ""

    def gone() -> bool | None:
        nonlocal last
        try:
            found = _FINDERS[thing.kind](run, thing)
            for api, path in found:
                last = api.call("DELETE", path).said
        except ApiError as error:
            last = str(error)
            return None
        return None if found else True

    try:
        run.until(gone, "the removal", PATIENCE)
    except ApiError as error:
        raise ApiError(f"{error}; the last answer was {last}") from None


Found = list[tuple[Api, str]]


def _looked_for(run: Run, thing: Thing) -> Found | None:
    try:
        return _FINDERS[thing.kind](run, thing)
    except ApiError:
        return None


def _at_hetzner(run: Run, thing: Thing) -> Found:
    kind = f"{thing.kind}s"
    listed = run.hetzner.call("GET", f"/{kind}?name={thing.name}").must(200).content[kind]
    ours = [one for one in listed if one["labels"].get(MARK) == run.word]
    return [(run.hetzner, f"/{kind}/{one['id']}") for one in ours]


def _record(run: Run, thing: Thing, comment: str = "") -> Found:
    path = f"/zones/{_zone(run)}/dns_records"
    listed = run.cloudflare.call("GET", f"{path}?name.exact={thing.name}").must(200).content["result"]
    ours = [one for one in listed if (one.get("comment") or "").startswith(comment or run.name)]
    return [(run.cloudflare, f"{path}/{one['id']}") for one in ours]


def _certificate(run: Run, thing: Thing) -> Found:
    _zone(run)
    listed = [one for one in all_listed(run) if one["hostnames"] == [thing.name] and not one.get("revoked_at")]
    return [(run.cloudflare, f"/certificates/{one['id']}") for one in listed]


def _instance(run: Run, thing: Thing) -> Found:
    host = Thing("record", f"{thing.name}.{run.place.zone}")
    listed = run.hetzner.call("GET", f"/servers?name=clawdet-{thing.name}").must(200).content["servers"]
    ours = [one for one in listed if one["labels"].get("user") == thing.name]
    servers: Found = [(run.hetzner, f"/servers/{one['id']}") for one in ours]
    return [*_record(run, host, f"clawdet:{thing.name}:"), *_certificate(run, host), *servers]


def _zone(run: Run) -> str:
    if not run.zone_id:
        raise ApiError("the zone cannot be read")
    return run.zone_id


_FINDERS: dict[str, Callable[[Run, Thing], Found]] = {
    "instance": _instance,
    "record": _record,
    "certificate": _certificate,
    "server": _at_hetzner,
    "firewall": _at_hetzner,
    "ssh_key": _at_hetzner,
}
