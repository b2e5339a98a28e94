"""The zone as the token sees it, other zones, its settings, and the same with a token that may do too little."""

from tests.live.api import Answer, ApiError
from tests.live.run import Run

FOREIGN = "example.com"
"""Reserved (RFC 2606): nobody's account has it."""
SETTINGS = ("ssl", "security_level", "browser_check", "websockets", "min_tls_version", "always_use_https")
NO_SETTING = "clawdet-no-such-setting"
MAKE_CRIPPLED = "set CLOUDFLARE_CRIPPLED_TOKEN to a token that has Zone Read for this zone, and nothing else"


def find(run: Run) -> None:
    """Find the zone: nothing at Cloudflare can be tried without it. Raises ApiError."""
    answer = run.cloudflare.call("GET", f"/zones?name={run.place.zone}", "own-zone").must(200)
    found = [zone for zone in answer.content["result"] if zone["status"] == "active"]
    if len(found) != 1:
        seen = ", ".join(zone["status"] for zone in answer.content["result"]) or "none"
        raise ApiError(f"the token has to see exactly one active zone {run.place.zone}; it sees {seen}")
    (zone,) = found
    run.zone_id, run.name_servers = zone["id"], tuple(zone.get("name_servers") or ())
    fields = {"id", "name", "status", "paused", "name_servers", "account"} - zone.keys()
    run.verdicts.judge(
        "cloudflare.zone-by-name",
        not fields and zone["name"] == run.place.zone,
        f"{len(answer.content['result'])} found; missing: {', '.join(sorted(fields)) or 'nothing'}",
    )


def look(run: Run) -> None:
    """Try look-ups, usage, settings and Universal SSL."""
    with run.step("zones: foreign and parent"):
        parent = run.place.zone.partition(".")[2]
        foreign = run.cloudflare.call("GET", f"/zones?name={FOREIGN}", "foreign-zone")
        above = run.cloudflare.call("GET", f"/zones?name={parent}", "parent-zone")
        run.verdicts.judge(
            "cloudflare.zone-out-of-reach",
            _out_of_reach(foreign) and _out_of_reach(above),
            f"foreign: {_found(foreign)}; parent: {_found(above)}",
        )
    with run.step("usage, settings, Universal SSL with the token of README"):
        _settings(run)
    with run.step("the same with a token that may only read zones"):
        _crippled(run)


def _settings(run: Run) -> None:
    zone, call, judge = f"/zones/{run.zone_id}", run.cloudflare.call, run.verdicts.judge
    usage = call("GET", f"{zone}/dns_records/usage", "usage")
    judge(
        "cloudflare.record-usage",
        usage.status == 200 and usage.content["result"].keys() >= {"record_usage", "record_quota"},
        usage.said,
    )
    answers = {name: call("GET", f"{zone}/settings/{name}", f"setting-{name}") for name in SETTINGS}
    refused = [f"{name}: {answer.said}" for name, answer in answers.items() if answer.status != 200]
    values = {name: answer.content["result"]["value"] for name, answer in answers.items() if answer.status == 200}
    run.settings = {name: str(value) for name, value in values.items()}
    judge(
        "cloudflare.zone-settings",
        not refused,
        "; ".join(refused) or ", ".join(f"{name} {value}" for name, value in values.items()),
    )
    unknown = call("GET", f"{zone}/settings/{NO_SETTING}", "setting-unknown")
    judge("cloudflare.setting-unknown", unknown.status == 400 and 1006 in unknown.codes, unknown.said)
    universal = call("GET", f"{zone}/ssl/universal/settings", "universal-ssl")
    verified = call("GET", f"{zone}/ssl/verification", "ssl-verification")
    enabled = universal.status == 200 and isinstance(universal.content["result"].get("enabled"), bool)
    listed = verified.status == 200 and isinstance(verified.content["result"], list)
    judge("cloudflare.universal-ssl", enabled and listed, f"settings {universal.said}; verification {verified.said}")


def _crippled(run: Run) -> None:
    token = run.place.crippled_token
    if token is None:
        run.verdicts.not_tried("cloudflare.missing-right", MAKE_CRIPPLED)
        run.verdicts.not_tried("cloudflare.certificate-right-lacking", MAKE_CRIPPLED)
        return
    zone, call = f"/zones/{run.zone_id}", run.cloudflare.call
    paths = {
        "setting": f"{zone}/settings/ssl",
        "usage": f"{zone}/dns_records/usage",
        "records": f"{zone}/dns_records?name.exact={run.host}",
        "universal": f"{zone}/ssl/universal/settings",
    }
    answers = {name: call("GET", path, f"crippled-{name}", token=token) for name, path in paths.items()}
    run.verdicts.judge(
        "cloudflare.missing-right",
        all(answer.status == 403 and {10000, 9109} & {*answer.codes} for answer in answers.values()),
        "; ".join(f"{name} {answer.said}" for name, answer in answers.items()),
    )
    # With a request that cannot be signed: nothing is made even if the token turns out to have the right.
    order = {"csr": "none", "hostnames": [run.place.zone], "request_type": "origin-ecc", "requested_validity": 7}
    signing = call("POST", "/certificates", "crippled-sign", body=order, token=token)
    run.verdicts.judge(
        "cloudflare.certificate-right-lacking",
        signing.status in {400, 403} and bool({10000, 1016} & {*signing.codes}),
        signing.said,
    )


def _out_of_reach(answer: Answer) -> bool:
    if answer.status == 200:
        return not answer.content["result"]
    return answer.status == 403 and 0 in answer.codes


def _found(answer: Answer) -> str:
    return f"{len(answer.content['result'])} zones" if answer.status == 200 else answer.said
