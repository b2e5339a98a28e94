"""Brings a sandbox up and down, and looks at it, from outside of its process."""

import contextlib
import fcntl
import json
import os
import platform
import shutil
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from clawdet_cli.sandbox import leftovers, tools
from clawdet_cli.sandbox.errors import SandboxError
from clawdet_cli.sandbox.info import Files, SandboxInfo, write_private
from clawdet_cli.sandbox.process import is_alive, without_secrets
from clawdet_cli.sandbox.real import disks, images
from clawdet_cli.sandbox.real.artifacts import CaddyWanted, NodeWanted, Processor, build
from clawdet_cli.sandbox.real.namespace import DOWNLOAD_ADDRESS

Report = Callable[[str], None]

_START_SECONDS = 60.0
_STOP_SECONDS = 60.0
_PAUSE = 0.03
_PACKAGE_PARENT = Path(__file__).parents[2]


@dataclass(frozen=True)
class ServerStatus:
    """One emulated server."""

    id: int
    name: str
    state: str  # as the emulated API says it
    ipv4: str
    kind: str  # "real" or "simulated"


@dataclass(frozen=True)
class SandboxStatus:
    """What there is of a sandbox."""

    running: bool
    servers: tuple[ServerStatus, ...]
    info: SandboxInfo | None


def up(
    folder: Path,
    cache: Path,
    *,
    servers: str = "auto",
    guest: str = "debian12",
    boot_seconds: float = 10.0,
    install_tools: bool = False,
    nodes: Sequence[NodeWanted] = (),
    caddy: CaddyWanted | None = None,
    report: Report,
) -> SandboxInfo:
    """Start the sandbox in this folder unless it runs already, and return when everything in it answers.

    `nodes` and `caddy` are what real servers find in the download mirror; `artifacts` of the result says where.
    """
    folder, cache = folder.absolute(), cache.absolute()
    for path in (folder, cache):
        disks.check_path(path)
        for one in reversed((path, *path.parents)):
            with contextlib.suppress(FileExistsError):
                one.mkdir(mode=0o700)  # with parents=True, the umask would decide about those above
                one.chmod(0o700)
    files = Files(folder)
    with _alone(folder):
        running = files.read_info()
        if running is not None:
            _check_same(running, {"servers": servers, "guest": guest, "boot_seconds": boot_seconds})
            return running
        kind = tools.servers_possible(servers, report, install=install_tools)
        _check_same_kind(files, kind)
        arguments = [f"--servers={kind}", f"--guest={guest}", f"--boot-seconds={boot_seconds}"]
        downloads = cache / "artifacts"
        artifacts: Mapping[str, Any] = {}
        if kind == "real":
            arguments.append(f"--base={images.ensure(guest, cache, report)}")
            if caddy is not None:
                manifest = build(cache, nodes, caddy, _processor(), report)
                downloads, artifacts = manifest.folder, manifest.downloads(f"http://{DOWNLOAD_ADDRESS}")
        write_private(files.artifacts, json.dumps(artifacts))
        return _start(files, [*arguments, f"--downloads={downloads}"])


def local_downloads(
    cache: Path, *, nodes: Sequence[NodeWanted], caddy: CaddyWanted, report: Report
) -> tuple[Path, str, dict[str, dict[str, str]]]:
    """Fill the download mirror, without a sandbox; give its folder, its address for servers, and the files here."""
    manifest = build(cache.absolute(), nodes, caddy, _processor(), report)
    return manifest.folder, f"http://{DOWNLOAD_ADDRESS}", manifest.downloads(manifest.folder.as_uri())


def down(folder: Path, cache: Path, *, purge: bool = False, report: Report) -> list[str]:
    """Remove the sandbox in this folder, running, crashed or half made, and return what was removed.

    With `purge` the cache goes too, unless another sandbox on this machine uses it.
    """
    folder, cache = folder.absolute(), cache.absolute()
    files = Files(folder)
    removed = []
    with contextlib.suppress(SandboxError):  # what cannot be read can still be removed
        removed += [f"server {one.name} ({one.ipv4 or 'no address'})" for one in _servers(files)]
    if pid := files.daemon():
        report(f"stopping the sandbox (process {pid})")
        _stop(files, pid)
        removed.append(f"process {pid}")
    existed = folder.is_dir() and any(path.exists() for path in files.everything)
    with _alone(folder) if folder.is_dir() else contextlib.nullcontext():
        removed += leftovers.clear(files)
    if existed:
        removed.append(f"the sandbox's files in {folder}")
    if purge:
        removed += _purge(cache)
    return removed


def status(folder: Path) -> SandboxStatus:
    """Say whether the sandbox in this folder runs, and which servers it has."""
    files = Files(folder.absolute())
    running = files.read_info()
    return SandboxStatus(running is not None, _servers(files), running)


def info(folder: Path) -> SandboxInfo | None:
    """Return how to reach the sandbox in this folder; None when it does not run."""
    return Files(folder.absolute()).read_info()


def _processor() -> Processor:
    return "arm" if platform.machine() in {"aarch64", "arm64"} else "x86"


def _servers(files: Files) -> tuple[ServerStatus, ...]:
    ledger = files.read_ledger()
    return tuple(
        ServerStatus(server["id"], server["name"], server["status"], _ipv4(tables, server["id"]), ledger["servers"])
        for tables in ledger.get("hetzner", {}).get("projects", {}).values()
        for server in tables.get("server", {}).values()
    )


def _start(files: Files, arguments: list[str]) -> SandboxInfo:
    search_path = os.pathsep.join(filter(None, (str(_PACKAGE_PARENT), os.environ.get("PYTHONPATH"))))
    log = os.open(files.log, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
    try:
        os.fchmod(log, 0o600)
        # The shell ends at once, so that the process is nobody's child and outlives its caller cleanly.
        started = subprocess.run(
            [
                *("sh", "-c", '"$@" >&2 & echo $!', "sh"),
                *(sys.executable, "-m", "clawdet_cli.sandbox", str(files.folder), *arguments),
            ],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=log,
            cwd="/",  # the folder it was called from may be unmounted or deleted one day
            env=without_secrets() | {"PYTHONPATH": search_path},
            umask=_umask_of_others(),
            start_new_session=True,
            text=True,
            check=True,
        )
    finally:
        os.close(log)
    pid = int(started.stdout)
    deadline = time.monotonic() + _START_SECONDS
    while time.monotonic() < deadline:
        if not is_alive(pid):
            last = files.log.read_text().strip().splitlines()[-1:]
            raise SandboxError(f"the sandbox did not start: {''.join(last)}", f"see {files.log}")
        found = files.read_info()
        if found is not None and _answers(found.hetzner_url) and _answers(found.cloudflare_url):
            return found
        time.sleep(_PAUSE)
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)
    raise SandboxError(f"the sandbox did not answer within {_START_SECONDS:.0f} s", f"see {files.log}")


def _answers(url: str) -> bool:
    try:
        urllib.request.build_opener(urllib.request.ProxyHandler({})).open(url, timeout=5).close()
    except urllib.error.HTTPError as error:
        error.close()
    except OSError:
        return False
    return True


def _stop(files: Files, pid: int) -> None:
    for number, seconds in ((signal.SIGTERM, _STOP_SECONDS), (signal.SIGKILL, _STOP_SECONDS)):
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, number)
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            if not is_alive(pid):
                return
            time.sleep(_PAUSE)
    raise SandboxError(f"process {pid} does not end", f"see {files.log}")


def _check_same(running: SandboxInfo, wanted: Mapping[str, Any]) -> None:
    for name, value in wanted.items():
        has = getattr(running, name)
        if value not in (has, "auto"):
            raise SandboxError(
                f"the sandbox runs already, with {name} {has} and not {value}",
                "use it as it is, or remove it first: clawdet sandbox down",
            )


def _check_same_kind(files: Files, kind: str) -> None:
    """Refuse to go on with servers of one kind as servers of the other."""
    has = _servers(files)
    if has and has[0].kind != kind:
        raise SandboxError(
            f"the stopped sandbox in {files.folder} has {has[0].kind} servers, and now they would be {kind}",
            f"ask for {has[0].kind} ones, or remove it first: clawdet sandbox down",
        )


def _ipv4(tables: Mapping[str, Any], server_id: int) -> str:
    for address in tables.get("primary_ip", {}).values():
        if address.get("assignee_id") == server_id and address.get("type") == "ipv4":
            return str(address["ip"])
    return ""


def _purge(cache: Path) -> list[str]:
    removed = []
    used = disks.lower_layers_in_use() if sys.platform.startswith("linux") else set()
    if any(layer.is_relative_to(cache) for layer in used):
        raise SandboxError(
            f"another sandbox uses the images in {cache}",
            "remove that one first: clawdet sandbox down, with its --state",
        )
    for name in ("images", "artifacts"):
        if (cache / name).is_dir():
            shutil.rmtree(cache / name)
            removed.append(f"cache {cache / name}")
    return removed


@contextlib.contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Keep a second `up` or `down` of the same folder waiting."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_CLOEXEC)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def _umask_of_others() -> int:
    """Give the umask, but for what it takes from the owner: the sandbox has to read what it wrote."""
    umask = os.umask(0o077)
    os.umask(umask)
    return umask & 0o077
