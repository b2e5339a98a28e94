"""The disk of a simulated server: the few files that a real one would keep over a power cut."""

import os
import shutil
from pathlib import Path

HOST_KEY = "/etc/ssh/ssh_host_ed25519_key"
NEXT_HOST_KEY = "/etc/ssh/clawdet_next_ed25519_key"
AUTHORIZED_KEYS = "/root/.ssh/authorized_keys"
TOOL = "/usr/local/lib/clawdet/provision-openclaw.sh"
TLS_KEY, TLS_REQUEST, TLS_CERTIFICATE = (f"/etc/caddy/tls/origin.{kind}" for kind in ("key", "csr", "pem"))
PULL_CA = "/etc/caddy/tls/pull-ca.pem"
CADDYFILE = "/etc/caddy/Caddyfile"
ENVIRONMENT = "/var/lib/openclaw/.openclaw/.env"
SECRETS = "/var/lib/openclaw/.openclaw/secrets.json"
CONFIGURATION = "/var/lib/openclaw/.openclaw/openclaw.json"
DEVICES = "/var/lib/openclaw/.openclaw/state/devices.json"
WORKSPACE = "/var/lib/openclaw/workspace"
PREPARED, CONFIGURED, MODEL, OWN_HOST_KEY, GATEWAY_STAMP, CADDY_STAMP, BUNDLE, PATCHES, CLAIM, ROTATED = (
    f"/var/lib/clawdet/{name}"
    for name in (
        *("prepared", "configured", "model", "host-key", "gateway.stamp", "caddy.stamp", "bundle", "patches"),
        *("claim", "claim.used"),
    )
)
LANDING_PAGE = "/var/www/clawdet/index.html"
NONCE = "/var/www/clawdet/.well-known/clawdet-nonce"
INSTALLED = "/opt/simulated"
"""Below it lies a mark for everything that a real server would have installed."""


class SimulatedDisk:
    """Files by the paths they would have on a real server, kept below a folder of this machine."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def exists(self, path: str) -> bool:
        """Whether there is such a file."""
        return self.host_path(path).is_file()

    def text(self, path: str) -> str:
        """Return a file's content; empty when there is none."""
        try:
            return self.host_path(path).read_text()
        except FileNotFoundError:
            return ""

    def write(self, path: str, text: str) -> None:
        """Write a file, readable by its owner alone, at once or not at all."""
        target = self.host_path(path)
        target.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        temporary = target.with_name(target.name + ".new")
        temporary.unlink(missing_ok=True)
        with os.fdopen(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
            file.write(text)
        temporary.replace(target)

    def append(self, path: str, text: str) -> None:
        """Add to a file that is there."""
        with self.host_path(path).open("a") as file:
            file.write(text)

    def size(self, path: str) -> int:
        """Return a file's length in bytes; raise FileNotFoundError when there is none."""
        return self.host_path(path).stat().st_size

    def part(self, path: str, start: int, end: int) -> bytes:
        """Return the bytes from start to end."""
        with self.host_path(path).open("rb") as file:
            file.seek(start)
            return file.read(max(0, end - start))

    def host_path(self, path: str) -> Path:
        """Return where a file lies on this machine."""
        return self._folder / path.lstrip("/")

    def delete(self) -> None:
        """Delete everything."""
        shutil.rmtree(self._folder, ignore_errors=True)
