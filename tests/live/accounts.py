"""Each cloud asked for what costs nothing and changes nothing: headers, prices, refusals."""

import re

from tests.live.run import Offer, Run

NOBODYS_ID = 2**53 - 1
PREFERRED = ("cx23", "cx33", "cpx22")
"""Server types with memory enough for OpenClaw, the cheapest first as they stand in 2026."""
PLACES = ("nbg1", "fsn1", "hel1")
LIMIT = re.compile(r'"[^"]+";\s*r=\d+;\s*t=\d+')
POLICY = re.compile(r'"[^"]+";\s*q=\d+;\s*w=\d+.*')


def look(run: Run) -> None:
    """Try what needs no thing of ours."""
    with run.step("headers of one GET at Hetzner"):
        _hetzner(run)
    with run.step("headers of one GET at Cloudflare"):
        headers = run.cloudflare.call("GET", "/user/tokens/verify", "verify-token").headers
        limit, policy = headers.get("ratelimit", ""), headers.get("ratelimit-policy", "")
        older = [name for name in headers if name.startswith("x-ratelimit-")]
        run.verdicts.judge(
            "cloudflare.ratelimit-headers",
            bool(LIMIT.fullmatch(limit) and POLICY.fullmatch(policy)),
            f"Ratelimit: {limit or 'none'}; Ratelimit-Policy: {policy or 'none'}; older: {', '.join(older) or 'none'}",
        )


def _hetzner(run: Run) -> None:
    judge, call = run.verdicts.judge, run.hetzner.call
    locations = call("GET", "/locations", "locations").must(200)
    shown = {name: locations.headers.get(f"ratelimit-{name}") for name in ("limit", "remaining", "reset")}
    judge(
        "hetzner.rate-limit", None not in shown.values(), ", ".join(f"{name} {value}" for name, value in shown.items())
    )
    unrouted, unsigned = call("GET", "/nothing", "unrouted", bare=True), call("GET", "/servers", "no-token", bare=True)
    judge(
        "hetzner.unrouted-before-token",
        (unrouted.status, unsigned.status) == (404, 401),
        f"unknown path {unrouted.said}; known path {unsigned.said}",
    )
    gone = call("GET", "/datacenters", "datacenters")
    judge("hetzner.datacenters-gone", gone.status == 410, gone.said)
    actions = call("GET", "/actions", "actions")
    judge("hetzner.actions-need-ids", actions.status == 410, actions.said)
    many, none = (
        call("GET", "/server_types?per_page=1000", "per-page-1000"),
        call("GET", "/locations?page=0", "page-0"),
    )
    size = many.content["meta"]["pagination"]["per_page"] if many.status == 200 else None
    judge("hetzner.per-page", size == 50 and none.status >= 400, f"per_page 1000 gives {size}; page 0 is {none.said}")
    selected = call("GET", "/locations?label_selector=clawdet-live", "selector")
    judge(
        "hetzner.selector-without-labels",
        selected.status == 200 and len(selected.content["locations"]) == len(locations.content["locations"]),
        selected.said,
    )
    unknown = call("DELETE", f"/ssh_keys/{NOBODYS_ID}", "delete-nobodys-key")
    judge("hetzner.unknown-ssh-key", unknown.status == 404 and unknown.codes == ["not_found"], unknown.said)


def read_offers(run: Run) -> None:
    """Find what can be ordered and what an hour of it costs: before anybody is asked for consent."""
    pricing = run.hetzner.call("GET", "/pricing", "pricing").must(200).content["pricing"]
    run.currency = str(pricing.get("currency", ""))
    run.verdicts.judge("hetzner.currency", bool(run.currency), f"currency {run.currency or 'none'}")
    types = [
        kind
        for name in PREFERRED  # one by one: all together may be more than a page
        for kind in run.hetzner.call("GET", f"/server_types?name={name}", f"type-{name}")
        .must(200)
        .content["server_types"]
    ]
    addresses = {
        price["location"]: float(price["price_hourly"]["gross"])
        for kind in pricing["primary_ips"]
        if kind["type"] == "ipv4"
        for price in kind["prices"]
    }
    flags = [place.get("available") for one in types for place in one["locations"]]
    run.verdicts.judge("hetzner.location-flags", None not in flags, f"{len(flags) - flags.count(None)} of {len(flags)}")
    for one in types:
        free = {place["name"] for place in one["locations"] if place.get("available", True)}
        for price in one["prices"]:
            place = price["location"]
            if place in PLACES and place in free:
                hourly = float(price["price_hourly"]["gross"]) + addresses.get(place, 0.0)
                run.offers.append(Offer(one["name"], place, hourly))
    run.offers.sort(key=lambda offer: (offer.hourly, PLACES.index(offer.location)))
