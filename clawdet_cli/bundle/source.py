"""Where `--bundle` says that a bundle is."""

import re
import urllib.parse
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from clawdet_cli.bundle import manifest
from clawdet_cli.bundle.fetch import shown
from clawdet_cli.bundle.manifest import Manifest
from clawdet_cli.errors import ConfigError
from clawdet_cli.secret import Secret

Fetch = Callable[[Secret], str]

_NAMED = re.compile(r"clawdet-bundle-([0-9.]+)-(x86|arm)\.tar\.zst", re.ASCII)


@dataclass(frozen=True)
class Source:
    """A bundle's place, and what vouches for it."""

    url: Secret | None
    """Where the VPS downloads it; None for a file of ours."""
    file: Path | None
    sha256: str
    """Of the archive; empty when only the manifest tells it."""

    @property
    def shown(self) -> str:
        """Name it in a message, without a mirror's password or the query of a signed address."""
        return str(self.file) if self.url is None else shown(self.url)

    def manifest(self, fetch: Fetch) -> Manifest | None:
        """Read the manifest beside the archive; None where the address itself carries the digest.

        Raises ConfigError.
        """
        if self.file is not None:
            beside = self.file.with_name(f"{self.file.name}.json")
            try:
                text = beside.read_text()
                size = self.file.stat().st_size
            except (OSError, ValueError) as error:
                raise ConfigError(
                    f"The bundle {self.file} cannot be used: {error}.",
                    next_steps=["clawdet bundle build    (makes the archive, and its manifest beside it)"],
                ) from None
            found = manifest.parse(text, str(beside))
            if size != found.archive_bytes:
                raise ConfigError(
                    f"{self.file} has {size} bytes, and its manifest says {found.archive_bytes}.",
                    next_steps=["copy both again, or build it anew: clawdet bundle build"],
                )
            return found
        if self.sha256 or self.url is None:
            return None
        parts = urllib.parse.urlsplit(self.url.reveal())
        # What of it is secret is known by now.
        beside_url = Secret(urllib.parse.urlunsplit(parts._replace(path=f"{parts.path}.json")), ())
        return manifest.parse(fetch(beside_url), f"{self.shown}.json")

    def named_otherwise(self, openclaw_version: str, architecture: str) -> str | None:
        """Say what its name tells against it, where there is no manifest to look at."""
        address = "" if self.url is None else self.url.reveal()
        named = _NAMED.fullmatch(address.partition("?")[0].rpartition("/")[2])
        if named and named.groups() != (openclaw_version, architecture):
            wanted = f"{openclaw_version} for {architecture}"
            return f"by its name it holds OpenClaw {named[1]} for {named[2]}, and {wanted} is wanted"
        return None


def parse(value: Path | Secret) -> Source:
    """Read the setting: a file, an address, or that with #sha256=DIGEST. Its shape was checked with the settings."""
    if isinstance(value, Path):
        return Source(None, value, "")
    address, _, digest = value.reveal().partition("#sha256=")
    return Source(Secret(address, ()), None, digest)
