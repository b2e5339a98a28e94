"""A simulated server while it is powered on: its files, its units, and how time passes in it."""

import asyncio
import hashlib
import json
import ssl
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime

from clawdet_cli.sandbox.simulated import disk as at
from clawdet_cli.sandbox.simulated.devices import Devices
from clawdet_cli.sandbox.simulated.disk import SimulatedDisk
from clawdet_cli.sandbox.simulated.knobs import Knobs

ADDRESS = "10.0.2.100"
"""The server's own non-loopback address, as it sees itself."""
GATEWAY_READY_SECONDS = 12.0


@dataclass(frozen=True)
class Gateway:
    """OpenClaw's gateway since its last start."""

    since: datetime
    ready_at: float
    """In the event loop's time."""
    token: str
    origin: str
    version: str
    devices: Devices
    wrong_tokens: Counter[str] = field(default_factory=Counter)
    """By client address."""


@dataclass(frozen=True)
class Caddy:
    """The web server since its last start: a restart is what makes a new certificate count."""

    host: str
    tls: ssl.SSLContext


@dataclass
class PhaseUnit:
    """The transient unit of a phase, as systemd knows it."""

    state: str = "inactive"
    result: str = "success"
    code: int = 0
    news: asyncio.Event = field(default_factory=asyncio.Event)
    """Set, and replaced by a fresh one, at each change of the unit or its log."""

    def changed(self) -> None:
        """Wake whoever waits for news."""
        self.news.set()
        self.news = asyncio.Event()


class Guest:
    """What the commands, the phases and the web server of one server share.

    It is touched in the event loop's thread only, except where a single attribute is read.
    """

    def __init__(self, name: str, image: str, disk: SimulatedDisk, knobs: Knobs, scale: float) -> None:
        self.name = name
        self.image = image
        self.disk = disk
        self.knobs = knobs
        self.uploads: dict[str, dict[str, bytes]] = {}
        """Files below /run/clawdet by folder: gone with the power."""
        self.units: dict[str, PhaseUnit] = {}
        self.gateway: Gateway | None = None
        self.caddy: Caddy | None = None
        self.phase_lock = asyncio.Lock()
        self.waiting: set[str] = set()
        """The phases that wait for the lock: where `configure` does, the gateway is left to that."""
        self.first_boot_over = asyncio.Event()
        self.joined = asyncio.Event()
        """Set when somebody has brought the files for which the phase that was begun at boot waits."""
        self.reboot_required = False
        """Whether an update waits for a restart; gone with the power."""
        self.not_simulated = ""
        """What of user_data would have had an effect that a simulated server does not have."""
        self.drop_connections: Callable[[], None] = lambda: None
        self.restart: Callable[[], None] = lambda: None
        self.tasks: set[asyncio.Task[None]] = set()
        self._scale = scale

    async def take(self, seconds: float, *, since: float | None = None) -> None:
        """Let the scaled time pass that something takes on a real server, from a moment of `time.monotonic()` on."""
        passed = 0.0 if since is None else time.monotonic() - since
        await asyncio.sleep(max(0.0, seconds * self._scale - passed))

    def unit(self, verb: str) -> PhaseUnit:
        """Return the unit of a phase."""
        return self.units.setdefault(verb, PhaseUnit())

    def values(self, path: str) -> dict[str, str]:
        """Return the key=value lines of a file."""
        return dict(line.split("=", 1) for line in self.disk.text(path).splitlines() if "=" in line)

    @property
    def gateway_is_ready(self) -> bool:
        """Whether /readyz answers 200."""
        return self.gateway is not None and asyncio.get_running_loop().time() >= self.gateway.ready_at

    def start_gateway(self, version: str) -> None:
        """Start, or restart, the gateway on its present configuration."""
        now = asyncio.get_running_loop().time()
        self.gateway = Gateway(
            since=datetime.now(UTC),
            ready_at=now + GATEWAY_READY_SECONDS * self._scale,
            token=self.secrets()["OPENCLAW_GATEWAY_TOKEN"],
            origin=json.loads(self.disk.text(at.CONFIGURATION))["gateway"]["publicOrigin"],
            version=version,
            devices=Devices(self.disk),
        )

    def reload_gateway(self) -> None:
        """Have the running gateway take over its present configuration: no restart, and no device forgotten."""
        if self.gateway is not None:
            origin = json.loads(self.disk.text(at.CONFIGURATION))["gateway"]["publicOrigin"]
            self.gateway = replace(self.gateway, token=self.secrets()["OPENCLAW_GATEWAY_TOKEN"], origin=origin)

    def secrets(self) -> dict[str, str]:
        """Return the gateway token and the providers' keys."""
        kept: dict[str, dict[str, str]] = json.loads(self.disk.text(at.SECRETS) or "{}")
        return next(reversed(kept.values()), {})

    def start_caddy(self) -> None:
        """Start, or restart, Caddy on its present configuration. Raises OSError when the certificate is unusable."""
        host = self.disk.text(at.CADDYFILE).strip()
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        context.load_cert_chain(self.disk.host_path(at.TLS_CERTIFICATE), self.disk.host_path(at.TLS_KEY))
        context.set_alpn_protocols(["http/1.1"])
        if self.disk.exists(at.PULL_CA):
            context.load_verify_locations(cadata=self.disk.text(at.PULL_CA))
            context.verify_mode = ssl.CERT_REQUIRED

        def choose(_connection: ssl.SSLObject, name: str | None, _context: ssl.SSLContext) -> int | None:
            return None if name == host else ssl.ALERT_DESCRIPTION_INTERNAL_ERROR

        context.sni_callback = choose
        self.caddy = Caddy(host, context)

    def start_enabled(self) -> None:
        """Start what was enabled before the power went."""
        if self.disk.exists(at.GATEWAY_STAMP):
            # What its unit names: the step `prepared` may not have been reached.
            self.start_gateway(self.disk.text(f"{at.INSTALLED}/units").split()[-1])
        if self.disk.exists(at.CADDY_STAMP):
            self.start_caddy()

    def stamp(self, *paths: str) -> str:
        """Return a digest of what a service was started with."""
        return hashlib.sha256("\0".join(self.disk.text(path) for path in paths).encode()).hexdigest()
