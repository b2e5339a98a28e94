"""Makes a bundle: the pinned downloads, OpenClaw as npm installs it from the pinned lock, and nothing else.

What is built for the other architecture never runs here: npm chooses that one's platform packages, and the pinned
Node of this machine does the work.
"""

import hashlib
import json
import os
import platform
import re
import shutil
import stat
import subprocess
import tarfile
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from clawdet_cli import __version__, pins
from clawdet_cli.bundle import confined, fetch, manifest, pack, tree
from clawdet_cli.bundle.manifest import Manifest
from clawdet_cli.bundle.prune import prune
from clawdet_cli.errors import ConfigError
from clawdet_cli.network import from_environment
from clawdet_cli.pins import Download, Pinned

NPM_SECONDS = 900.0
NPM = "lib/node_modules/npm"
SYSTEM_PATH = "/usr/sbin:/usr/bin:/sbin:/bin"
_NPM_READS = re.compile(
    r"npm_config_.*|HOME|LANG|LC_ALL|TMPDIR|(https?|all|no)_proxy|NODE_EXTRA_CA_CERTS|SSL_CERT_(FILE|DIR)",
    re.IGNORECASE,
)
NPM_CPUS: Mapping[str, str] = {"x86": "x64", "arm": "arm64"}

Tell = Callable[[str], None]


def build(openclaw_version: str, architecture: str, into: Path, artifacts: Mapping[str, Any], tell: Tell) -> Manifest:
    """Make a bundle and the manifest beside it in a folder. Raises ConfigError, and leaves nothing half-made.

    `artifacts` names download locations in place of the vendors', as `Endpoints.artifacts` does.
    """
    pack.compressor()
    known, host = pins.load(), host_architecture()
    pinned = known.for_openclaw(openclaw_version, architecture)
    into.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".clawdet-bundle-", dir=into) as temporary:
        scratch, root = Path(temporary), Path(temporary) / "root"
        confined.make_room(scratch)
        node, caddy = _located(pinned, architecture, artifacts)
        tell(f"Getting Node {node.version} and Caddy {caddy.version} for {architecture}")
        _unpack_node(node, root / "node" / node.version, scratch)
        _unpack_caddy(caddy, root / "caddy", scratch)
        own_node = root / "node" / node.version
        if architecture != host:
            own_node = scratch / "own-node"
            tell(f"Getting Node {node.version} for this machine, which is {host}")
            own = _located(known.for_openclaw(openclaw_version, host), host, artifacts)[0]
            _unpack_node(own, own_node, scratch)
        tell(f"Installing OpenClaw {openclaw_version} from its lock")
        folder = root / "openclaw" / openclaw_version
        _install_openclaw(pinned, folder, own_node, architecture, scratch)
        prune(folder / "node_modules")
        tree.normalise(root)
        tree.check(root)
        ran = _try_out(pinned, root, scratch) if architecture == host else ()
        made = _manifest(pinned, architecture, root)
        (root / manifest.NAME).write_text(made.text())
        (root / manifest.NAME).chmod(0o644)
        tell(f"Packing {made.files} files")
        archive = scratch / "archive"
        digest, size = pack.pack(root, archive, pack.moment(openclaw_version))
        made = made.of_archive(digest, size, _circumstances(ran))
        beside = scratch / "beside"
        beside.write_text(made.text())
        for path in (archive, beside):
            path.chmod(0o644)
        beside.replace(into / f"{made.file_name}.json")
        archive.replace(into / made.file_name)
    return made


def host_architecture() -> str:
    """Give the architecture of this machine. Raises ConfigError where no bundle can be built."""
    found = {"x86_64": "x86", "aarch64": "arm"}.get(platform.machine())
    if found is None or platform.system() != "Linux":
        raise ConfigError(
            f"A bundle is built on Linux (x86-64 or arm64); this is {platform.system()} on {platform.machine()}.",
            next_steps=["build it there, for example in CI, and name it here: --bundle URL"],
        )
    return found


def _located(pinned: Pinned, architecture: str, artifacts: Mapping[str, Any]) -> tuple[Download, Download]:
    """Give both downloads, from a mirror where there is one: its archives' digests come with it."""
    mirror = artifacts.get(f"{pinned.node_version}/{architecture}")
    if mirror is None:
        if artifacts:
            raise ConfigError(f"The mirror has no Node {pinned.node_version} for {architecture}.")
        return pinned.node, pinned.caddy
    node, caddy = (
        Download(
            one.version, mirror[f"{name}_url"], {"sha256": mirror[f"{name}_archive_sha256"]}, one.executable_sha256
        )
        for name, one in (("node", pinned.node), ("caddy", pinned.caddy))
    )
    return node, caddy


def _unpack_node(node: Download, folder: Path, scratch: Path) -> None:
    archive = scratch / "download"
    fetch.file(node.url, archive, dict(node.archive_digests), from_environment(os.environ))

    def wanted(member: tarfile.TarInfo, path: str) -> tarfile.TarInfo | None:
        _, _, member.name = member.name.partition("/")
        # The script leaves headers and manuals out, too; corepack would only fetch other package managers.
        kept = member.name.startswith(("bin/", "lib/node_modules/npm/")) or member.name == "LICENSE"
        return tarfile.data_filter(member, path) if kept and "corepack" not in member.name else None

    folder.mkdir(parents=True)
    with tarfile.open(archive) as content:
        content.extractall(folder, filter=wanted)  # noqa: S202  # the filter is tarfile's own, and more
    _check_executable(folder / "bin" / "node", node, "Node")
    archive.unlink()


def _unpack_caddy(caddy: Download, target: Path, scratch: Path) -> None:
    archive = scratch / "download"
    fetch.file(caddy.url, archive, dict(caddy.archive_digests), from_environment(os.environ))
    with tarfile.open(archive) as content:
        packed = content.extractfile("caddy")
        if packed is None:
            raise ConfigError(f"The archive of Caddy {caddy.version} holds no 'caddy'.")
        with target.open("wb") as into:
            shutil.copyfileobj(packed, into)
    target.chmod(0o755)
    _check_executable(target, caddy, "Caddy")
    archive.unlink()


def _check_executable(path: Path, download: Download, what: str) -> None:
    found = _sha256(path) if path.is_file() else "nothing"
    if found != download.executable_sha256:
        raise ConfigError(
            f"The executable of {what} {download.version} is not the pinned one: sha256 {found[:16]}….",
            next_steps=["do not trust where it comes from"],
        )


def _install_openclaw(pinned: Pinned, folder: Path, node: Path, architecture: str, scratch: Path) -> None:
    folder.mkdir(parents=True)
    (folder / "package.json").write_bytes(pinned.package_json)
    lock = folder / "package-lock.json"
    npm = [str(node / "bin/node"), str(node / "lib/node_modules/npm/bin/npm-cli.js")]
    environment = _npm_environment(node)
    registry = _run([*npm, "config", "get", "registry"], scratch, environment).strip().rstrip("/")
    lock.write_text(_addressed(pinned.package_lock, registry))
    flags = "--omit=dev --ignore-scripts --no-audit --no-fund --loglevel=error --no-progress".split()
    target = [f"--cpu={NPM_CPUS[architecture]}", "--os=linux", "--libc=glibc"]
    _run([*npm, "ci", "--prefix", str(folder), *flags, *target], scratch, environment)
    # npm's own note of what it did, with addresses; nobody but npm reads it.
    (folder / "node_modules" / ".package-lock.json").unlink(missing_ok=True)
    lock.write_bytes(pinned.package_lock)
    package = folder / "node_modules" / "openclaw"
    if json.loads((package / "package.json").read_text())["version"] != pinned.openclaw_version:
        raise ConfigError("The lock installs another version of OpenClaw.")
    # OpenClaw finishes its installation at its first run, which is JavaScript alone; on a VPS it could not write there.
    confined.hand_over(package)
    first_run = confined.confined(scratch, node / "bin", node / "bin/node", package / "openclaw.mjs", "--version")
    _run(first_run, scratch, {"PATH": SYSTEM_PATH})
    confined.take_back(package)
    if (package / ".openclaw-lifecycle-pending").exists():
        raise ConfigError("OpenClaw did not finish its installation.")


def _npm_environment(node: Path) -> dict[str, str]:
    """Return what npm needs of this environment: its own settings and the way out, and no token of anything else."""
    kept = {name: value for name, value in os.environ.items() if _NPM_READS.fullmatch(name)}
    return {**kept, "PATH": f"{node / 'bin'}:{SYSTEM_PATH}", "npm_config_update_notifier": "false"}


def _addressed(lock: bytes, registry: str) -> str:
    """Fill in the usual download addresses, so that npm asks for no metadata; the digests decide either way."""
    content = json.loads(lock)
    for place, entry in content["packages"].items():
        if entry.get("integrity"):
            name = entry.get("name") or place.rpartition("node_modules/")[2]
            entry["resolved"] = f"{registry}/{name}/-/{name.rpartition('/')[2]}-{entry['version']}.tgz"
    return json.dumps(content)


def _run(command: list[str], cwd: Path, environment: Mapping[str, str]) -> str:
    try:
        done = subprocess.run(
            command,
            cwd=cwd,
            env=dict(environment),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=NPM_SECONDS,
            check=False,
            umask=0o022,
        )
    except subprocess.TimeoutExpired:
        raise ConfigError(f"npm did not end within {NPM_SECONDS:.0f} s: nothing was built.") from None
    if done.returncode:
        raise ConfigError(
            "OpenClaw could not be installed with npm: nothing was built.",
            details=(done.stderr or done.stdout).strip().splitlines()[-8:],
            next_steps=["see whether npm reaches its registry: npm ping"],
        )
    return done.stdout


def _try_out(pinned: Pinned, root: Path, scratch: Path) -> tuple[str, ...]:
    """Run what is for this machine's architecture, and give what ran. Raises ConfigError for another version."""
    node = root / "node" / pinned.node_version / "bin/node"
    program = root / "openclaw" / pinned.openclaw_version / "node_modules/openclaw/openclaw.mjs"
    commands: tuple[tuple[tuple[str | Path, ...], str], ...] = (
        ((node, "--version"), pinned.node_version),
        ((root / "caddy", "version"), pinned.caddy_version),
        ((node, program, "--version"), pinned.openclaw_version),
    )
    for command, expected in commands:
        if expected not in _run(confined.confined(scratch, node.parent, *command), scratch, {"PATH": SYSTEM_PATH}):
            raise ConfigError(f"{Path(command[-2]).name} in the bundle is not version {expected}.")
    return ("node --version", "caddy version", "openclaw --version")


def _circumstances(ran: tuple[str, ...]) -> dict[str, Any]:
    """Give what is told beside an archive, and is no part of it: the archive is the same wherever it is built."""
    zstandard = pack.compressor()
    return {
        "clawdet": __version__,
        "zstandard": zstandard.__version__,
        "zstd": ".".join(str(number) for number in zstandard.ZSTD_VERSION),
        "ran": list(ran),
        "not_run": [] if ran else ["anything in it: it was built on the other architecture"],
    }


def _manifest(pinned: Pinned, architecture: str, root: Path) -> Manifest:
    files = [status for _, status in tree.members(root) if stat.S_ISREG(status.st_mode)]
    return Manifest(
        openclaw_version=pinned.openclaw_version,
        node_version=pinned.node_version,
        caddy_version=pinned.caddy_version,
        architecture=architecture,
        node_executable_sha256=_sha256(root / "node" / pinned.node_version / "bin/node"),
        caddy_executable_sha256=_sha256(root / "caddy"),
        lock_sha256=hashlib.sha256(pinned.package_lock).hexdigest(),
        npm_sha256=tree.digest(root / "node" / pinned.node_version / NPM, ["."]),
        tree_sha256=tree.digest(root),
        files=len(files),
        unpacked_bytes=sum(status.st_size for status in files),
    )


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
