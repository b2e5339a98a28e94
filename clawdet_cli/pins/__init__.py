"""What a VPS installs: versions, digests, and the lock of OpenClaw's packages."""

import hashlib
import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from clawdet_cli.errors import ConfigError

_FOLDER = Path(__file__).parent
_ARCHITECTURES = ("x86", "arm")


@dataclass(frozen=True)
class Download:
    """A vendor's archive, and the executable inside it."""

    version: str
    url: str
    archive_digests: Mapping[str, str]
    """Hex digests by algorithm: `sha256` or `sha512`, as the vendor publishes them."""
    executable_sha256: str

    def script_input(self, name: str) -> dict[str, str]:
        """Give the lines about this download for the input of the script's prepare phase."""
        digests = {f"{name}_archive_{kind}": digest for kind, digest in self.archive_digests.items()}
        return {
            f"{name}_version": self.version,
            f"{name}_url": self.url,
            **digests,
            f"{name}_executable_sha256": self.executable_sha256,
        }


@dataclass(frozen=True)
class Pinned:
    """All that one VPS installs."""

    openclaw_version: str
    node: Download
    npm_version: str
    """The npm inside the vendor's archive of Node."""
    caddy: Download
    models: Mapping[str, str]
    """The default model by the variable that holds its provider's key."""
    package_json: bytes
    package_lock: bytes
    """Names every package with its integrity digest, and no download address."""

    @property
    def node_version(self) -> str:
        """The Node that this OpenClaw's `engines` ask for."""
        return self.node.version

    @property
    def caddy_version(self) -> str:
        """The web server's version."""
        return self.caddy.version

    def default_model(self, keys: Iterable[str]) -> str | None:
        """Give the model of the first provider that has a key; None where there is no key."""
        return next((self.models[key] for key in keys), None)

    @property
    def lock_sha256(self) -> str:
        """The digest of the lock file's bytes."""
        return hashlib.sha256(self.package_lock).hexdigest()

    def script_input(self) -> dict[str, str]:
        """Give the input of the script's prepare phase."""
        return {
            "openclaw_version": self.openclaw_version,
            **self.node.script_input("node"),
            **self.caddy.script_input("caddy"),
            "lock_sha256": self.lock_sha256,
        }


@dataclass(frozen=True)
class Pins:
    """The reviewed versions."""

    default_openclaw: str
    _content: Mapping[str, Any]

    @property
    def openclaw_versions(self) -> tuple[str, ...]:
        """The versions of OpenClaw that can be installed, the newest first."""
        return tuple(sorted(self._content["openclaw"], key=lambda v: [int(n) for n in v.split(".")], reverse=True))

    def for_openclaw(self, version: str, architecture: str) -> Pinned:
        """Give what a VPS of this architecture (`x86` or `arm`) installs. Raises ConfigError for what is not pinned."""
        if version not in self._content["openclaw"]:
            raise ConfigError(
                f"OpenClaw {version} is not among the tested versions.",
                next_steps=[f"use one of: {', '.join(self.openclaw_versions)}"],
            )
        if architecture not in _ARCHITECTURES:
            raise ConfigError(f"Nothing is pinned for the architecture '{architecture}'; known are x86 and arm.")
        chosen = self._content["openclaw"][version]
        lock = (_FOLDER / f"openclaw-{version}" / "package-lock.json").read_bytes()
        if hashlib.sha256(lock).hexdigest() != chosen["lock_sha256"]:
            raise ConfigError(
                f"The lock of OpenClaw {version} is not the reviewed one.", next_steps=["install clawdet again"]
            )
        return Pinned(
            openclaw_version=version,
            node=_download(chosen["node"], self._content["node"][chosen["node"]][architecture]),
            npm_version=self._content["npm"][chosen["node"]],
            caddy=_download(self._content["caddy"]["version"], self._content["caddy"][architecture]),
            models=chosen["models"],
            package_json=(_FOLDER / f"openclaw-{version}" / "package.json").read_bytes(),
            package_lock=lock,
        )


@cache
def load() -> Pins:
    """Read the pins."""
    content = tomllib.loads((_FOLDER / "pins.toml").read_text())
    return Pins(content["default_openclaw"], content)


def packages_program() -> bytes:
    """Give the program that unpacks OpenClaw's packages on a VPS, which lies beside the lock there."""
    return (_FOLDER / "packages.js").read_bytes()


def _download(version: str, entry: Mapping[str, str]) -> Download:
    digests = {key.removeprefix("archive_"): value for key, value in entry.items() if key.startswith("archive_")}
    return Download(version, entry["url"], digests, entry["executable_sha256"])
