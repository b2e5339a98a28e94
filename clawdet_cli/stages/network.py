"""What of this machine's network would fail once something is paid for, looked at while the accounts are checked.

A VPS is reached over IPv4: SSH at port 22, and at port 443 Cloudflare in front of it. No API is asked for this. What
cannot be judged: port 22, before there is a server of ours that could answer, since nobody else's is asked.
"""

import contextlib
import errno
import socket
from collections.abc import Iterator, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from functools import partial
from urllib.parse import urlsplit

from clawdet_cli.adapters import Clouds
from clawdet_cli.adapters.clock import SET_IT
from clawdet_cli.adapters.threads import begin
from clawdet_cli.errors import ConfigError
from clawdet_cli.model import Right, Verdict
from clawdet_cli.settings import Settings
from clawdet_cli.stages.runner import Run

PROBE_SECONDS = 0.8
"""For a connection to be made: more than the way around the world and back, and less than anybody notices."""
MAX_SERVERS = 3
"""So many of our own servers are asked whether SSH gets through."""
NAME = "network"
"""In place of a token's name, in what doctor tells."""

_NO_ROUTE = frozenset({errno.ENETUNREACH, errno.EHOSTUNREACH, errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT})


@dataclass(frozen=True)
class Finding:
    """What was found out about one way."""

    name: str
    text: str
    ok: bool = True
    certain: bool = False
    """Whether nothing can come of it: then nothing may be ordered."""


class Outlook:
    """Looks in the background from the moment it is made."""

    def __init__(self, settings: Settings, servers: Sequence[str]) -> None:
        self._settings = settings
        self._https: Future[Finding | None] = begin(self._reach_edge)
        self._ssh: Future[Finding | None] = begin(lambda: self._reach_servers(servers))

    def findings(self, clouds: Clouds) -> list[Finding]:
        """Return what was found, waiting for it hardly longer than a probe takes: a name server may be slow."""
        found = [_clock(clouds)]
        for probe in (self._https, self._ssh):
            with contextlib.suppress(TimeoutError):
                found.append(probe.result(timeout=PROBE_SECONDS + 0.2))
        return [one for one in found if one is not None]

    def _reach_edge(self) -> Finding | None:
        name, endpoints = "HTTPS over IPv4", self._settings.endpoints
        url = urlsplit(endpoints.cloudflare_url)
        host, port = url.hostname or "", url.port or 443
        if self._settings.network.proxy_for(host) is not None:
            return None  # the proxy connects, and the API's answer shows that it does
        if not _has_route(endpoints.unused_address):
            return Finding(
                name,
                "this machine has no IPv4 address that leads out, and a VPS, and Cloudflare in front of it, are"
                " reached over IPv4",
                ok=False,
                certain=True,
            )
        with contextlib.suppress(OSError):
            found = socket.getaddrinfo(host, port, socket.AF_INET, socket.SOCK_STREAM)
            with socket.create_connection((str(found[0][4][0]), port), timeout=PROBE_SECONDS):
                return Finding(name, "Cloudflare answers at port 443")
        text = f"{host} does not answer over IPv4 from here (port {port}), where the finished instance is looked at"
        return Finding(name, text, ok=False)

    def _reach_servers(self, servers: Sequence[str]) -> Finding | None:
        name, settings = "SSH over IPv4", self._settings
        if settings.ssh_proxy is not None:
            return Finding(name, "through the command of ssh_proxy")
        if not _has_route(settings.endpoints.unused_address):
            return Finding(name, "a VPS is installed over SSH, and no IPv4 address leads out", ok=False, certain=True)
        if not servers:
            return None
        asked = [begin(partial(_says_ssh, settings.endpoints.dial(ipv4, 22))) for ipv4 in servers]
        for answer in asked:
            if answer.result():
                return Finding(name, "a server of yours answers at port 22")
        text = (
            f"no server of yours answers at port 22 from here (asked: {', '.join(servers)}): this network may keep it"
            " shut, or --ssh-from does not name it"
        )
        return Finding(name, text, ok=False)


def look(run: Run) -> Outlook:
    """Begin to look; many runs of one command look once."""
    return run.clouds.once("network", lambda: Outlook(run.settings, run.state.addresses(MAX_SERVERS)))


def remarks(outlook: Outlook, clouds: Clouds) -> list[str]:
    """Return what whoever orders should know. Raises ConfigError where nothing can come of an order."""
    wrong = [finding for finding in outlook.findings(clouds) if not finding.ok]
    certain = [finding for finding in wrong if finding.certain]
    if certain:
        raise ConfigError(
            "A VPS could not be reached from this machine, so none is ordered.",
            details=[f"{finding.name}: {finding.text}" for finding in certain],
            next_steps=[
                "run it on a machine with IPv4",
                "or name ways that have it: HTTPS_PROXY=http://HOST:PORT, and --ssh-proxy 'ssh -W %h:%p JUMPHOST'",
            ],
        )
    return [finding.text for finding in wrong]


def rows(outlook: Outlook, clouds: Clouds, settings: Settings) -> Iterator[Right]:
    """Yield how the ways stand, as doctor tells it beside the tokens' rights."""
    for host in (
        urlsplit(url).hostname or "" for url in (settings.endpoints.hetzner_url, settings.endpoints.cloudflare_url)
    ):
        if proxy := settings.network.proxy_for(host):
            yield Right(NAME, "proxy", Verdict.HAS, f"{host} is reached through {proxy}")
    for finding in outlook.findings(clouds):
        lacking = Verdict.LACKS if finding.certain else Verdict.GOES_WITHOUT
        yield Right(NAME, finding.name, Verdict.HAS if finding.ok else lacking, finding.text)


def _clock(clouds: Clouds) -> Finding | None:
    told = {"Hetzner": clouds.hetzner.clock, "Cloudflare": clouds.cloudflare.clock}
    known = {name: clock for name, clock in told.items() if clock.ahead is not None}
    if not known:
        return None
    if text := wrong_clock(clouds):
        return Finding("clock", text, ok=False)
    return Finding("clock", f"agrees with that of {' and '.join(known)}")


def wrong_clock(clouds: Clouds) -> str:
    """Return how this machine's clock differs from those of the clouds; empty where it is right, or nobody knows."""
    told = {"Hetzner": clouds.hetzner.clock, "Cloudflare": clouds.cloudflare.clock}
    wrong = {name: clock for name, clock in told.items() if clock.is_wrong}
    if not wrong:
        return ""
    by = next(iter(wrong.values())).described(" and ".join(wrong))
    return f"this machine's clock is {by}: certificates are judged by it; {SET_IT}"


def _has_route(address: str) -> bool:
    """Return whether a packet to an address would leave this machine; none is sent."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as plain:
        try:
            plain.connect((address, 9))
        except OSError as error:
            return error.errno not in _NO_ROUTE
    return True


def _says_ssh(address: tuple[str, int]) -> bool:
    # Not the connection alone: some networks accept every one.
    with contextlib.suppress(OSError), socket.create_connection(address, timeout=PROBE_SECONDS) as plain:
        plain.settimeout(PROBE_SECONDS)
        return plain.recv(4) == b"SSH-"
    return False
