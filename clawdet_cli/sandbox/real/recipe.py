"""What decides the content of a base image."""

import hashlib
import json
from dataclasses import asdict, dataclass
from pathlib import Path

PACKAGES = (
    "ca-certificates",
    "cloud-init",
    "curl",
    "dbus",
    "iproute2",
    "locales",
    "netbase",
    "nftables",
    "openssh-server",
    "openssl",
    "procps",
    "sudo",
    "systemd",
    "systemd-sysv",
    "unattended-upgrades",
    "xz-utils",
    "zstd",  # as the provider's Ubuntu has it
)

CLOUD_CONFIG = """\
# The provider's images log root in by key, and their network is there before cloud-init looks.
datasource_list: [NoCloud, None]
disable_root: false
locale: C.UTF-8
network: {config: disabled}
"""

# They would take the package lock at a moment of their own, and so make every run a little different.
MASKED_UNITS = ("dpkg-db-backup.timer", "e2scrub_all.timer")

# These too, but they must be enabled as in the provider's images: so they wait for longer than any server stays.
SLOW_TIMERS = ("apt-daily.timer", "apt-daily-upgrade.timer")
SLOWLY = "[Timer]\nOnCalendar=\nOnBootSec=52w\nPersistent=no\n"


@dataclass(frozen=True)
class Recipe:
    """All that decides what an image contains, so that its digest names the image."""

    suite: str
    sources: tuple[str, ...]  # lines of sources.list; empty: the tool's own default for the suite
    apt_settings: tuple[str, ...]
    certificates: tuple[tuple[str, str], ...]  # (file name, PEM) of the authorities that this machine trusts besides
    npm_settings: tuple[str, ...]
    packages: tuple[str, ...] = PACKAGES
    cloud_config: str = CLOUD_CONFIG
    masked_units: tuple[str, ...] = MASKED_UNITS
    slow_timers: tuple[str, ...] = SLOW_TIMERS
    revision: int = 4  # count up when `images` does something else

    @property
    def digest(self) -> str:
        """Twelve hexadecimal digits that change with anything in the recipe."""
        return hashlib.sha256(json.dumps(asdict(self), sort_keys=True).encode()).hexdigest()[:12]

    def finish(self, root: Path) -> None:
        """Change an image further, when all that every image has is there."""


def write(path: Path, content: str) -> None:
    """Write a file that everybody may read, with the folders above it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content)
    path.chmod(0o644)
