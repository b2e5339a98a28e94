"""What the tokens may do, beside what clawdet needs, and how the zone is set; nothing is changed by finding out."""

from collections.abc import Iterator

from clawdet_cli.adapters import Clouds
from clawdet_cli.adapters.cloudflare import Cloudflare
from clawdet_cli.adapters.cloudflare_rights import (
    DNS_EDIT,
    SETTINGS_EDIT,
    SETTINGS_READ,
    SSL_EDIT,
    TOKENS_READ,
    ZONE_READ,
)
from clawdet_cli.adapters.hetzner import Hetzner
from clawdet_cli.errors import ConfigError
from clawdet_cli.model import Right, Verdict, Zone
from clawdet_cli.stages import zones

HETZNER, CLOUDFLARE = "HCLOUD_TOKEN", "CLOUDFLARE_API_TOKEN"

NEEDED = {
    DNS_EDIT: "to point names at servers",
    # origin-ca-issuer issue 212: the right is no narrower than this.
    SSL_EDIT: (
        "to have the servers' certificates signed; it may also change the zone's SSL mode, minimum TLS and Always Use"
        " HTTPS, and there is no narrower one"
    ),
}
OPTIONAL = {SETTINGS_READ: "without it the zone's settings are not checked: the SSL mode must be Full (strict)"}
UNWANTED = {
    SETTINGS_EDIT: "it could switch off what keeps the zone's traffic safe; clawdet only reads",
    TOKENS_READ: "it could look at your other tokens",
}


def rights(clouds: Clouds, zone_name: str) -> list[Right]:
    """Judge both tokens and the zone; a token that is refused is a row too, so that the other one is judged as well."""
    return [*_of_hetzner(clouds.hetzner), *_of_cloudflare(clouds.cloudflare, zone_name)]


def _of_zone(cloudflare: Cloudflare, zone: Zone) -> Iterator[Right]:
    """Judge what of the zone decides whether visitors reach an instance in it."""
    where = f"zone {zone.name}"
    if zone.status != "active" or zone.paused:
        text = f"it is {'paused' if zone.paused else zone.status}, so that it cannot proxy a name yet"
        yield Right(where, "status", Verdict.LACKS, text)
    seen = zones.look(cloudflare, zone, origin_pulls=False)
    problems = {problem.name: problem for problem in seen.problems(origin_pulls=False)}
    for name, value in seen.settings.items():
        if name in problems:
            yield Right(where, name, Verdict.LACKS, f"{problems[name].what}: {problems[name].steps[0]}")
        elif value is not None:
            yield Right(where, name, Verdict.HAS, value)
    if "edge_certificate" in problems:
        problem = problems["edge_certificate"]
        yield Right(where, problem.name, Verdict.LACKS, f"{problem.what}: {problem.steps[0]}")
    elif seen.certificates is not None:
        covered = "active" if seen.has_certificate() else "not listed: Cloudflare makes one as soon as a name needs it"
        yield Right(where, "edge_certificate", Verdict.HAS, covered)
    for remark in seen.remarks(origin_pulls=False):
        if "Zone Settings Read" not in remark:
            yield Right(where, "remark", Verdict.GOES_WITHOUT, remark)


def _of_hetzner(hetzner: Hetzner) -> Iterator[Right]:
    try:
        hetzner.check()
    except ConfigError as refused:
        yield Right(HETZNER, "Read", Verdict.LACKS, refused.what)
        return
    yield Right(HETZNER, "Read", Verdict.HAS, "to find servers, keys and firewalls")
    verdict = Verdict.HAS if hetzner.may_write() else Verdict.LACKS
    yield Right(HETZNER, "Write", verdict, "to order and delete them")
    foreign = [server for server in hetzner.all_servers() if server.labels.get("managed-by") != "clawdet"]
    if foreign:
        # Hetzner's tokens cannot be narrowed: a project is all that bounds them.
        text = f"it reaches {len(foreign)} servers that are not clawdet's: give clawdet a project of its own"
        yield Right(HETZNER, "the whole project", Verdict.TOO_MUCH, text)


def _of_cloudflare(cloudflare: Cloudflare, zone_name: str) -> Iterator[Right]:
    try:
        cloudflare.check()
        zone = cloudflare.zone(zone_name)
    except ConfigError as refused:
        yield Right(CLOUDFLARE, ZONE_READ, Verdict.LACKS, refused.what)
        return
    if zone is None:
        yield Right(CLOUDFLARE, ZONE_READ, Verdict.LACKS, f"it sees no zone {zone_name}: none there, or not within it")
        return
    yield Right(CLOUDFLARE, ZONE_READ, Verdict.HAS, f"to find {zone_name}")
    for right, text in NEEDED.items():
        yield _judged(right, cloudflare.may(right, zone), (Verdict.HAS, text), (Verdict.LACKS, text))
    for right, text in OPTIONAL.items():
        has, without = (Verdict.HAS, "to check the zone's settings"), (Verdict.GOES_WITHOUT, text)
        yield _judged(right, cloudflare.may(right, zone), has, without)
    for right, text in UNWANTED.items():
        may = cloudflare.may(right, zone)
        if may is not False:
            yield _judged(right, may, (Verdict.TOO_MUCH, text), (Verdict.LACKS, ""))
    others = [name for name in cloudflare.zone_names() if name != zone_name]
    if others:
        named = ", ".join(others[:3]) + (", ..." if len(others) > 3 else "")
        yield Right(CLOUDFLARE, "other zones", Verdict.TOO_MUCH, f"it reaches {named}: clawdet needs {zone_name} alone")
    yield from _of_zone(cloudflare, zone)


def _judged(right: str, may: bool | None, having: tuple[Verdict, str], lacking: tuple[Verdict, str]) -> Right:
    if may is None:
        return Right(CLOUDFLARE, right, Verdict.UNKNOWN, "Cloudflare gave no answer that tells: ask again later")
    return Right(CLOUDFLARE, right, *(having if may else lacking))
