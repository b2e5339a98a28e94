"""Proposes new pins, for a person to review: `python -m clawdet_cli.pins --into FOLDER --node 24.22.0 ...`.

Nothing of clawdet is changed. The folder gets what `clawdet_cli/pins/` would hold, to be compared with `diff -r`.
"""

import argparse
import hashlib
import io
import json
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
import tomllib
import urllib.request
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

NPM_SECONDS = 600.0
LOCKED = "the lock beside it pins every package by its integrity digest."
LEFT_OUT = {"resolved", "license", "funding"}
"""What npm writes into a lock and nobody needs; a download address would bind the VPS to one registry."""

_VERSION = re.compile(r"[0-9]+\.[0-9]+\.[0-9]+", re.ASCII)
_HERE = Path(__file__).parent

Fetch = Callable[[str], bytes]


class ProposalError(Exception):
    """What the vendors publish does not fit together, or cannot be had."""


def fetch(url: str) -> bytes:
    """Download over HTTPS. Raises ProposalError."""
    try:
        with urllib.request.urlopen(url, timeout=300) as answer:  # noqa: S310 - the two vendors' own addresses, all HTTPS
            return bytes(answer.read())
    except OSError as error:
        raise ProposalError(f"{url} cannot be had: {error}") from None


@dataclass(frozen=True)
class Vendor:
    """Where a vendor publishes a program, and how."""

    base: str
    sums: str
    """The list of the archives' digests."""
    kind: str
    """The digests' kind, as hashlib names it."""
    archives: Mapping[str, str]
    program: str
    """The executable's path in an archive."""


NODE = Vendor(
    "https://nodejs.org/dist/v{version}",
    "SHASUMS256.txt",
    "sha256",
    {"x86": "node-v{version}-linux-x64.tar.xz", "arm": "node-v{version}-linux-arm64.tar.xz"},
    "bin/node",
)
CADDY = Vendor(
    "https://github.com/caddyserver/caddy/releases/download/v{version}",
    "caddy_{version}_checksums.txt",
    "sha512",
    {"x86": "caddy_{version}_linux_amd64.tar.gz", "arm": "caddy_{version}_linux_arm64.tar.gz"},
    "caddy",
)


def download_pins(vendor: Vendor, version: str, table: str, get: Fetch) -> str:
    """Give the TOML of a download for each architecture, once its archive fits the vendor's own digests."""
    base, sums = vendor.base.format(version=version), vendor.sums.format(version=version)
    lines = [line.split() for line in get(f"{base}/{sums}").decode().splitlines()]
    published = {line[1].lstrip("*"): line[0] for line in lines if len(line) == 2}
    blocks = []
    for architecture, pattern in vendor.archives.items():
        name = pattern.format(version=version)
        if name not in published:
            raise ProposalError(f"{base}/{sums} names no {name}")
        archive = get(f"{base}/{name}")
        if hashlib.new(vendor.kind, archive).hexdigest() != published[name]:
            raise ProposalError(f"{base}/{name} is not what {sums} says it is")
        blocks.append(
            f"[{table}.{architecture}]\n"
            f'url = "{base}/{name}"\n'
            f'archive_{vendor.kind} = "{published[name]}"\n'
            f'executable_sha256 = "{hashlib.sha256(_member(archive, vendor.program)).hexdigest()}"\n'
        )
    return "\n".join(blocks)


def npm_of(version: str, get: Fetch) -> str:
    """Give the version of npm inside a version of Node."""
    archive = get(f"{NODE.base}/{NODE.archives['x86']}".format(version=version))
    return str(json.loads(_member(archive, "lib/node_modules/npm/package.json"))["version"])


def openclaw_lock(version: str, folder: Path) -> tuple[bytes, str]:
    """Resolve a version of OpenClaw with npm, and give its lock and what it wants of Node. Raises ProposalError."""
    manifest = {
        "name": "clawdet-openclaw",
        "version": "0.0.0",
        "private": True,
        "description": f"What a VPS installs for OpenClaw {version}; {LOCKED}",
        "dependencies": {"openclaw": version},
    }
    folder.mkdir(parents=True)
    (folder / "package.json").write_text(json.dumps(manifest, indent=2) + "\n")
    npm = shutil.which("npm")
    if npm is None:
        raise ProposalError("npm is needed to resolve what OpenClaw needs")
    command = [npm, "install", "--package-lock-only", "--ignore-scripts", "--no-audit", "--no-fund"]
    try:
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=NPM_SECONDS, check=False)
    except subprocess.TimeoutExpired:
        raise ProposalError(f"npm did not resolve openclaw {version} within {NPM_SECONDS:.0f} s") from None
    if done.returncode:
        raise ProposalError(f"npm cannot resolve openclaw {version}: {done.stderr.strip()[-500:]}")
    lock = json.loads((folder / "package-lock.json").read_text())
    for place, package in lock["packages"].items():
        lock["packages"][place] = {name: value for name, value in package.items() if name not in LEFT_OUT}
        if place and not package.get("inBundle") and not str(package.get("integrity")).startswith("sha512-"):
            raise ProposalError(f"{place} has no integrity digest in the registry")
    content = json.dumps(lock, indent=1).encode() + b"\n"
    (folder / "package-lock.json").write_bytes(content)
    return content, str(lock["packages"]["node_modules/openclaw"].get("engines", {}).get("node", "any"))


def propose(
    old: str, into: Path, *, openclaw: str | None, node: str | None, caddy: str | None, get: Fetch
) -> list[str]:
    """Write the folder as it would be, and tell what a reviewer must look at. Raises ProposalError."""
    text, known, remarks = old, tomllib.loads(old), []
    if node is not None and node not in known["node"]:
        block, npm = download_pins(NODE, node, f'node."{node}"', get), npm_of(node, get)
        head, _, tail = text.partition("# The npm that the vendor's")
        text = f"{head}{block}\n# The npm that the vendor's{tail}" + f'"{node}" = "{npm}"\n'
        remarks.append(f"Node {node} (npm {npm}): is it an LTS line, and what does its changelog say of security?")
    if caddy is not None and caddy != known["caddy"]["version"]:
        head, _, rest = text.partition("[caddy]\n")
        tail = rest[rest.index("[node.") :]
        block = download_pins(CADDY, caddy, "caddy", get)
        text = f'{head}[caddy]\nversion = "{caddy}"\n\n{block}\n{tail}'
        remarks.append(f"Caddy {caddy}: does its changelog name a regression of the reverse proxy?")
    if openclaw is not None and openclaw not in known["openclaw"]:
        lock, engines = openclaw_lock(openclaw, into / f"openclaw-{openclaw}")
        before = known["openclaw"][known["default_openclaw"]]
        models = "".join(f'{variable} = "{model}"\n' for variable, model in before["models"].items())
        block = (
            f'[openclaw."{openclaw}"]\n'
            f'node = "{node or before["node"]}"\n'
            f'lock_sha256 = "{hashlib.sha256(lock).hexdigest()}"\n\n'
            f'[openclaw."{openclaw}".models]\n{models}\n'
        )
        head, _, tail = text.partition("[openclaw.")
        text = f"{head}{block}[openclaw.{tail}"
        text = re.sub(r'^default_openclaw = ".*"$', f'default_openclaw = "{openclaw}"', text, flags=re.MULTILINE)
        remarks.append(f"OpenClaw {openclaw} wants Node {engines}; it is paired with {node or before['node']}")
        remarks.append("its default models are those of the version before: compare them with its own onboarding")
    tomllib.loads(text)
    into.mkdir(parents=True, exist_ok=True)
    (into / "pins.toml").write_text(text)
    return remarks


def main(arguments: list[str]) -> int:
    """Run the command line."""
    parser = argparse.ArgumentParser(prog="python -m clawdet_cli.pins", description=__doc__.split("\n\n")[0])
    parser.add_argument(
        "--into", type=Path, required=True, metavar="FOLDER", help="where the proposal is written: a new folder"
    )
    for name in ("openclaw", "node", "caddy"):
        parser.add_argument(f"--{name}", metavar="VERSION", type=_version)
    wanted: Any = parser.parse_args(arguments)
    if wanted.into.exists():
        parser.error(f"{wanted.into} exists already")
    try:
        with tempfile.TemporaryDirectory() as scratch:
            folder = Path(scratch) / "pins"
            remarks = propose(
                (_HERE / "pins.toml").read_text(),
                folder,
                openclaw=wanted.openclaw,
                node=wanted.node,
                caddy=wanted.caddy,
                get=fetch,
            )
            shutil.copytree(folder, wanted.into)
    except ProposalError as error:
        sys.stderr.write(f"{error}\n")
        return 1
    lines = [
        *remarks,
        "",
        f"Look at it:   diff -r {_HERE} {wanted.into}",
        f"Take it over: cp -r {wanted.into}/. {_HERE}/",
    ]
    lines.append("The checksums come from where the archives come from: compare them with a second source.")
    sys.stdout.write("\n".join(lines) + "\n")
    return 0


def _version(text: str) -> str:
    if not _VERSION.fullmatch(text):
        raise argparse.ArgumentTypeError(f"{text!r} is no version such as 24.21.0")
    return text


def _member(archive: bytes, path: str) -> bytes:
    """Give a file of an archive, by its path below the archive's own folder, if it has one."""
    with tarfile.open(fileobj=io.BytesIO(archive)) as packed:
        for member in packed:
            if member.isfile() and (member.name == path or member.name.partition("/")[2] == path):
                content = packed.extractfile(member)
                if content is not None:
                    return content.read()
    raise ProposalError(f"an archive holds no {path}")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
