"""Packs the archives that a server downloads, in the vendors' layout, from what the language registries offer."""

import contextlib
import fcntl
import gzip
import hashlib
import json
import lzma
import os
import shutil
import sys
import tarfile
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO, Literal

from clawdet_cli.sandbox.errors import SandboxError
from clawdet_cli.sandbox.process import run

Report = Callable[[str], None]
Processor = Literal["x86", "arm"]

_NODE_NAMES: Mapping[Processor, str] = {"x86": "x64", "arm": "arm64"}
_CADDY_NAMES: Mapping[Processor, str] = {"x86": "amd64", "arm": "arm64"}


@dataclass(frozen=True)
class NodeWanted:
    """A version of Node, the npm that its vendor packs with it, and the digest that its executable must have."""

    version: str
    npm_version: str
    executable_sha256: str


@dataclass(frozen=True)
class CaddyWanted:
    """A version of Caddy, and the digest that its executable must have."""

    version: str
    executable_sha256: str


@dataclass(frozen=True)
class Artifact:
    """An archive of the mirror."""

    file: str
    url_path: str
    archive_sha256: str
    executable_sha256: str


@dataclass(frozen=True)
class Manifest:
    """What the mirror offers."""

    folder: Path
    """What is to be served."""
    nodes: Mapping[str, Artifact]
    """By version."""
    caddy: Artifact
    processor: Processor

    def downloads(self, base_url: str) -> dict[str, dict[str, str]]:
        """Give the locations and digests in place of the vendors', by `<version of Node>/<processor>`.

        The keys within are those of the provisioning script's input.
        """
        base = base_url.rstrip("/")
        return {
            f"{version}/{self.processor}": {
                "node_url": base + node.url_path,
                "node_archive_sha256": node.archive_sha256,
                "caddy_url": base + self.caddy.url_path,
                "caddy_archive_sha256": self.caddy.archive_sha256,
            }
            for version, node in self.nodes.items()
        }


def build(
    cache: Path,
    nodes: Sequence[NodeWanted],
    caddy: CaddyWanted,
    processor: Processor,
    report: Report,
    *,
    caddy_program: Path | None = None,
) -> Manifest:
    """Make what is missing in `<cache>/artifacts` and describe all of it; a second process waits for the first.

    `caddy_program` is the executable beside `sys.executable` unless given. Raises SandboxError when an executable is
    not the pinned one, or npm cannot deliver.
    """
    folder = cache / "artifacts"
    folder.mkdir(parents=True, exist_ok=True)
    with _alone(folder / ".lock", report):
        made = {node.version: _node(folder, node, processor, report) for node in nodes}
        web_server = _caddy(folder, caddy, processor, caddy_program or Path(sys.executable).parent / "caddy", report)
    return Manifest(folder, made, web_server, processor)


def _node(folder: Path, wanted: NodeWanted, processor: Processor, report: Report) -> Artifact:
    name = f"node-v{wanted.version}-linux-{_NODE_NAMES[processor]}"
    target = folder / f"{name}.tar.xz"
    if known := _known(target, wanted.executable_sha256):
        return known
    npm = shutil.which("npm")
    if npm is None:
        raise SandboxError("npm is not on PATH, and the sandbox fetches Node with it.", "install npm")
    with tempfile.TemporaryDirectory(prefix=".node-", dir=folder) as temporary:
        here = Path(temporary)
        report(f"Fetching Node {wanted.version} and npm {wanted.npm_version}")
        tree = here / name
        _unpack(npm, here, f"node-linux-{_NODE_NAMES[processor]}@{wanted.version}", tree)
        _unpack(npm, here, f"npm@{wanted.npm_version}", tree / "lib" / "node_modules" / "npm")
        _check(tree / "bin" / "node", wanted.executable_sha256, "Node", wanted.version)
        # Headers and manuals, which no server needs, would cost more time than the rest.
        for surplus in ("include", "share"):
            shutil.rmtree(tree / surplus, ignore_errors=True)
        (tree / "package.json").unlink()
        for command in ("npm", "npx"):
            (tree / "bin" / command).symlink_to(f"../lib/node_modules/npm/bin/{command}-cli.js")
        report(f"Packing Node {wanted.version}")
        # The vendor compresses harder; here the archive travels no further than this machine.
        with lzma.open(here / "archive", "wb", preset=0) as packed:
            _pack(packed, tree, name)
        return _publish(here / "archive", target, wanted.executable_sha256)


def _unpack(npm: str, here: Path, package: str, target: Path) -> None:
    packs = here / "packs"
    packs.mkdir(exist_ok=True)
    command = [npm, "pack", package, "--pack-destination", str(packs), "--silent", "--ignore-scripts"]
    # npm reads the settings of the folder it works in, so this is an empty one.
    archive = packs / run(["env", "-C", str(packs), *command], seconds=600).split()[-1]
    target.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(archive) as content:
        content.extractall(here / "unpacked", filter="data")
    (here / "unpacked" / "package").rename(target)


def _caddy(folder: Path, wanted: CaddyWanted, processor: Processor, program: Path, report: Report) -> Artifact:
    target = folder / f"caddy_{wanted.version}_linux_{_CADDY_NAMES[processor]}.tar.gz"
    if known := _known(target, wanted.executable_sha256):
        return known
    if not program.is_file():
        raise SandboxError(f"{program} is missing.", "install clawdet with its sandbox: pip install 'clawdet[sandbox]'")
    _check(program, wanted.executable_sha256, "Caddy", wanted.version)
    with tempfile.TemporaryDirectory(prefix=".caddy-", dir=folder) as temporary:
        report(f"Packing Caddy {wanted.version}")
        with gzip.open(Path(temporary) / "archive", "wb", compresslevel=1) as packed:
            _pack(packed, program, "caddy")
        return _publish(Path(temporary) / "archive", target, wanted.executable_sha256)


def _pack(stream: IO[bytes] | gzip.GzipFile | lzma.LZMAFile, source: Path, name: str) -> None:
    def by_root(member: tarfile.TarInfo) -> tarfile.TarInfo:
        member.uid = member.gid = 0
        member.uname = member.gname = "root"
        return member

    with tarfile.open(fileobj=stream, mode="w") as archive:
        archive.add(source, name, filter=by_root)


def _check(executable: Path, expected: str, what: str, version: str) -> None:
    found = _sha256(executable)
    if found != expected:
        raise SandboxError(
            f"The executable of {what} {version} is not the pinned one: SHA-256 {found}, expected {expected}.",
            f"install the pinned version of {what}; if it is, do not trust this copy",
        )


def _known(archive: Path, executable_sha256: str) -> Artifact | None:
    """Give what an earlier run made, if it is whole and holds the wanted executable."""
    try:
        artifact = Artifact(**json.loads(_note(archive).read_text()))
        whole = _sha256(archive) == artifact.archive_sha256
    except (OSError, ValueError, TypeError):
        return None
    return artifact if whole and artifact.executable_sha256 == executable_sha256 else None


def _publish(made: Path, target: Path, executable_sha256: str) -> Artifact:
    made.chmod(0o644)
    artifact = Artifact(target.name, f"/{target.name}", _sha256(made), executable_sha256)
    with made.open("rb") as file:
        os.fsync(file.fileno())
    made.replace(target)
    note = made.with_name("note")
    note.write_text(json.dumps(asdict(artifact), indent=1) + "\n")
    note.replace(_note(target))
    return artifact


def _note(archive: Path) -> Path:
    return archive.with_name(f"{archive.name}.json")


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@contextlib.contextmanager
def _alone(lock: Path, report: Report) -> Iterator[None]:
    with lock.open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            report("Another process is packing the archives; waiting for it")
            fcntl.flock(file, fcntl.LOCK_EX)
        yield
