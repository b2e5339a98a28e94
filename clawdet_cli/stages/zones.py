"""What of a zone at Cloudflare would keep an instance in it from being reached, found before anything is paid for."""

from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, replace

from clawdet_cli.adapters import Clouds
from clawdet_cli.adapters.cloudflare import Cloudflare
from clawdet_cli.errors import CloudError, ConfigError, WaitError
from clawdet_cli.model import EdgeCertificate, Zone
from clawdet_cli.settings import CLOUDFLARE_HOW_TO, Settings

SETTINGS = ("ssl", "always_use_https", "websockets", "security_level", "min_tls_version")
"""What decides whether visitors, browsers and apps reach an instance."""
ORIGIN_PULLS = "tls_client_auth"
_UNREADABLE = "could not be checked (it takes Zone Settings Read, and an answer from Cloudflare)"
PATIENCE = 5.0
"""Seconds for each call that is only good to know: a provision goes on without it."""


@dataclass(frozen=True)
class Problem:
    """Something that would break the result, and how it is mended."""

    name: str
    """What it is about: a setting, or `edge_certificate`."""
    what: str
    steps: tuple[str, ...]


@dataclass(frozen=True)
class Look:
    """What Cloudflare says of a zone, read at one moment."""

    zone: Zone
    settings: Mapping[str, str | None]
    """By name; None where the token may not read it."""
    certificates: Sequence[EdgeCertificate] | None
    """None where nobody can tell."""
    universal_ssl: bool | None = None
    """Looked at only where no certificate is active; None where nobody can tell."""

    def has_certificate(self) -> bool:
        """Return whether a certificate of the edge's is active for the names below the zone."""
        return any(one.status.startswith("active") for one in self._covering())

    def problems(self, *, origin_pulls: bool) -> Iterator[Problem]:
        """Return what would break the result; `origin_pulls` is whether the VPS is to want the edge's certificate."""
        mode, dashboard = self.settings["ssl"], f"https://dash.cloudflare.com, {self.zone.name}"
        if mode not in {"strict", None}:
            steps = (
                f"{dashboard}, SSL/TLS, Overview, Configure: choose Full (strict)",
                "it holds for the whole zone: other hosts in it then need a valid certificate too",
            )
            what = f"The SSL mode of {self.zone.name} is '{mode}', not 'strict'"
            yield Problem("ssl", f"{what}: Cloudflare would not check whom it talks to", steps)
        if self.settings["websockets"] == "off":
            what = f"WebSockets are off in {self.zone.name}: no browser could talk to the assistant"
            yield Problem("websockets", what, (f"{dashboard}, Network: switch WebSockets on",))
        if origin_pulls and self.settings.get(ORIGIN_PULLS) == "off":
            what = "The VPS is to let in Cloudflare's certificate alone, and the zone does not show it"
            steps = (
                f"{dashboard}, SSL/TLS, Origin Server: switch Authenticated Origin Pulls on",
                "or leave --origin-pull-ca out",
            )
            yield Problem(ORIGIN_PULLS, what, steps)
        if (missing := self._no_certificate()) is not None:
            yield missing

    def remarks(self, *, origin_pulls: bool) -> Iterator[str]:
        """Return what is worth knowing, and what could not be found out."""
        if self.settings["ssl"] is None:
            yield f"the SSL mode {_UNREADABLE}; it must be Full (strict)"
        if origin_pulls and self.settings.get(ORIGIN_PULLS) is None:
            yield f"whether Authenticated Origin Pulls are on {_UNREADABLE}"
        if self.settings["always_use_https"] == "off":
            yield "'Always Use HTTPS' is off in this zone, so Cloudflare does not send http:// visitors on to https://"
        if self.settings["security_level"] == "under_attack":
            yield (
                "'I'm Under Attack' is on in this zone: browsers see a challenge first, apps and programs do not get"
                " through, and what clawdet checks from outside cannot be judged (Security, Settings)"
            )
        if self.settings["min_tls_version"] == "1.3":
            yield "this zone lets in nobody whose TLS is older than 1.3 (SSL/TLS, Edge Certificates)"
        if self.certificates is None:
            yield f"whether Cloudflare has a certificate for *.{self.zone.name} could not be checked"

    def _covering(self) -> list[EdgeCertificate]:
        return [one for one in self.certificates or () if f"*.{self.zone.name}" in one.hosts]

    def _no_certificate(self) -> Problem | None:
        """Return what is wrong where no certificate of the edge's covers the names below the zone."""
        if self.certificates is None or self.has_certificate():
            return None
        place = f"https://dash.cloudflare.com, {self.zone.name}, SSL/TLS, Edge Certificates"
        if self.universal_ssl is False:
            what = (
                f"Universal SSL is switched off in {self.zone.name}, and no other certificate covers *.{self.zone.name}"
            )
            return Problem("edge_certificate", what, (f"{place}: enable Universal SSL",))
        if covering := self._covering():
            statuses = ", ".join(sorted({one.status for one in covering}))
            what = f"Cloudflare's certificate for *.{self.zone.name} is not active yet ({statuses})"
            return Problem("edge_certificate", what, (f"wait until it is: {place} (a new zone takes up to 24 hours)",))
        return None  # as far as one can see it makes one: what is not listed is no proof that it is missing


def look(cloudflare: Cloudflare, zone: Zone, *, origin_pulls: bool) -> Look:
    """Read all that is of interest, side by side: one after the other would take a second over a real line."""
    names = (*SETTINGS, ORIGIN_PULLS) if origin_pulls else SETTINGS
    cloudflare = cloudflare.hurried(PATIENCE)

    def setting(name: str) -> str | None:
        with suppress(CloudError, WaitError):  # none of it is needed for the work itself
            return cloudflare.setting(zone.id, name)
        return None

    def certificates() -> Sequence[EdgeCertificate] | None:
        with suppress(CloudError, WaitError):
            return cloudflare.certificate_packs(zone.id)
        return None

    with ThreadPoolExecutor(len(names) + 1) as pool:
        listed, values = pool.submit(certificates), list(pool.map(setting, names))
        found = Look(zone, dict(zip(names, values, strict=True)), listed.result())
    if found.certificates is None or found.has_certificate():
        return found
    with suppress(CloudError, WaitError):
        return replace(found, universal_ssl=cloudflare.hurried(PATIENCE).universal_ssl(zone.id))
    return found


def check(clouds: Clouds, zone: Zone, settings: Settings) -> list[str]:
    """Make sure that an instance in the zone can be reached; return remarks.

    Raises ConfigError that names everything that has to be mended.
    """
    pulls = bool(settings.origin_pull_ca)
    seen = clouds.once(f"zone {zone.id}", lambda: look(clouds.cloudflare, zone, origin_pulls=pulls))
    problems = list(seen.problems(origin_pulls=pulls))
    if problems:
        what = [problem.what for problem in problems]
        raise ConfigError(
            f"{what[0]}." if len(what) == 1 else f"{len(what)} things in the zone {zone.name} have to be mended first.",
            details=what if len(what) > 1 else [],
            next_steps=[step for problem in problems for step in problem.steps],
        )
    return list(seen.remarks(origin_pulls=pulls))


def check_origin_pulls(cloudflare: Cloudflare, zone_id: str, settings: Settings) -> None:
    """Make sure that the edge shows its certificate where the VPS is to want one. Raises ConfigError."""
    pulls = None
    with suppress(CloudError, WaitError):  # as in look(): what cannot be found out is no reason to stop here
        pulls = cloudflare.hurried(PATIENCE).setting(zone_id, ORIGIN_PULLS) if settings.origin_pull_ca else None
    if pulls == "off":
        raise ConfigError(
            "The VPS is to let in Cloudflare's certificate alone, and the zone does not show it.",
            next_steps=[
                "https://dash.cloudflare.com, your zone, SSL/TLS, Origin Server: switch Authenticated Origin Pulls on",
                "or leave --origin-pull-ca out",
            ],
        )


def usable(cloudflare: Cloudflare, name: str) -> Zone:
    """Return the zone if a proxied name in it can serve over strict TLS. Raises ConfigError with the exact fix."""
    zone = cloudflare.zone(name)
    if zone is None:
        _refuse_a_deeper_name(cloudflare, name)
        raise ConfigError(
            f"The Cloudflare token sees no zone {name}: it is not in the account, or the token has no Zone Read on it.",
            next_steps=[f"add {name} at https://dash.cloudflare.com, or widen the token", CLOUDFLARE_HOW_TO],
        )
    if zone.status != "active" or zone.paused:
        servers = " and ".join(zone.name_servers)
        fix = f"set the name servers of {name} at your registrar to {servers}, and wait until the zone is active"
        if zone.paused:
            fix = f"un-pause it: https://dash.cloudflare.com, {name}, Overview, Advanced Actions"
        raise ConfigError(
            f"The zone {name} is {'paused' if zone.paused else zone.status} at Cloudflare: it cannot proxy a name yet.",
            next_steps=[fix],
        )
    return zone


def _refuse_a_deeper_name(cloudflare: Cloudflare, name: str) -> None:
    parent = name.partition(".")[2]
    if "." in parent and cloudflare.zone(parent) is not None:
        raise ConfigError(
            f"{name} is not a zone but a name inside the zone {parent}, and Cloudflare's universal certificate covers"
            " one level below a zone only.",
            next_steps=[f"use the zone itself: --zone {parent}"],
        )


def check_room(cloudflare: Cloudflare, zone: Zone) -> str | None:
    """Make sure that one more DNS record fits; return a remark where nobody can tell. Raises CloudError."""
    try:
        used, quota = cloudflare.hurried(PATIENCE).record_usage(zone.id)
    except (CloudError, ConfigError, WaitError) as error:
        return f"how many DNS records the zone {zone.name} may still have could not be checked: {error.what}"
    if quota is not None and used >= quota:
        raise CloudError(
            f"The zone {zone.name} holds {used} of {quota} DNS records: no room for another.",
            next_steps=["remove records that are not needed, or raise the plan of the zone"],
        )
    return None
