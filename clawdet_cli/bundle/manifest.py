"""What a bundle says of itself, and whether it is what a VPS is to install."""

import json
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from typing import Any

from clawdet_cli.errors import ConfigError
from clawdet_cli.pins import Pinned

FORMAT = 2
"""2 tells npm's digest."""
MOST_MANIFEST = 65536
"""Characters; ours has some 2,000."""
NAME = "manifest.json"
"""Inside the archive, without what only the archive's own digest can say."""

_DIGEST = re.compile(r"[0-9a-f]{64}", re.ASCII)
_WORD = re.compile(r"[0-9a-z.-]{1,40}", re.ASCII)


@dataclass(frozen=True)
class Manifest:
    """The versions and digests of a bundle."""

    openclaw_version: str
    node_version: str
    caddy_version: str
    architecture: str
    """`x86` or `arm`, Hetzner's words."""
    node_executable_sha256: str
    caddy_executable_sha256: str
    lock_sha256: str
    """Of OpenClaw's npm lock."""
    npm_sha256: str
    """Of the npm in the pinned archive of Node, as `tree_sha256` is made: of npm's folder.

    For whoever builds the bundle again: the VPS unpacks nothing whose `tree_sha256` is another one, npm included.
    """
    tree_sha256: str
    """Over everything in it but the manifest: sorted paths, modes, links and contents."""
    files: int
    unpacked_bytes: int
    archive_sha256: str = ""
    archive_bytes: int = 0
    built: Mapping[str, Any] = field(default_factory=dict)
    """With what it was built, and what of it ran on the machine that built it."""

    @property
    def file_name(self) -> str:
        """Give the archive's name."""
        return file_name(self.openclaw_version, self.architecture)

    def text(self) -> str:
        """Write it as JSON, the same for the same bundle."""
        return json.dumps({"format": FORMAT, **asdict(self)}, indent=1, sort_keys=True) + "\n"

    def of_archive(self, sha256: str, size: int, built: Mapping[str, Any]) -> "Manifest":
        """Give it with what is not inside of the archive."""
        return replace(self, archive_sha256=sha256, archive_bytes=size, built=built)

    def unfit(self, pinned: Pinned, architecture: str) -> str | None:
        """Say why it is not what a VPS of this architecture is to install; None when it is."""
        if self.architecture != architecture:
            return f"it is for {self.architecture}, and the VPS is {architecture}"
        wanted = {
            "OpenClaw": (self.openclaw_version, pinned.openclaw_version),
            "Node": (self.node_version, pinned.node_version),
            "Caddy": (self.caddy_version, pinned.caddy_version),
        }
        for what, (has, wants) in wanted.items():
            if has != wants:
                return f"it holds {what} {has}, and {wants} is wanted"
        digests = {
            "Node": (self.node_executable_sha256, pinned.node.executable_sha256),
            "Caddy": (self.caddy_executable_sha256, pinned.caddy.executable_sha256),
            "OpenClaw's lock": (self.lock_sha256, pinned.lock_sha256),
        }
        return next((f"its {what} is not the pinned one" for what, (a, b) in digests.items() if a != b), None)


def file_name(openclaw_version: str, architecture: str) -> str:
    """Give the name of a bundle's archive."""
    return f"clawdet-bundle-{openclaw_version}-{architecture}.tar.zst"


def parse(text: str, where: str) -> Manifest:
    """Read a manifest that came with an archive. Raises ConfigError for what is none."""
    try:
        content = json.loads(text[: MOST_MANIFEST + 1]) if len(text) <= MOST_MANIFEST else None
    except (ValueError, RecursionError):
        content = None
    known = {one.name: one for one in fields(Manifest)}
    if not isinstance(content, dict) or content.pop("format", None) != FORMAT or set(content) != set(known):
        raise _malformed(where)
    for name, value in content.items():
        if name == "built":
            good = isinstance(value, dict)
        elif known[name].type is int:
            good = type(value) is int and value >= 0
        else:
            shape = _DIGEST if name.endswith("_sha256") else _WORD
            good = isinstance(value, str) and shape.fullmatch(value) is not None
        if not good:
            raise _malformed(where)
    return Manifest(**content)


def _malformed(where: str) -> ConfigError:
    return ConfigError(
        f"{where} is no manifest of a bundle that this clawdet can read.",
        next_steps=["build it anew: clawdet bundle build", "or go without a bundle: OpenClaw comes with npm then"],
    )
