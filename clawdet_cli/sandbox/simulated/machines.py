"""Servers that are only played, for machines that cannot boot real ones, for hundreds at once, and for faults.

Each speaks real SSH and real TLS, and understands what clawdet asks of a server; anything else it refuses by name.
"""

import asyncio
import base64
import bz2
import gzip
import json
import re
import socket
import zlib
from collections import deque
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path, PurePosixPath
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from clawdet_cli.sandbox.forwarder import Forwarder
from clawdet_cli.sandbox.machines import MachineSpec
from clawdet_cli.sandbox.network import AddressPool
from clawdet_cli.sandbox.simulated import disk as at
from clawdet_cli.sandbox.simulated import host_keys
from clawdet_cli.sandbox.simulated.commands import BOOT_FOLDER, START_AT_BOOT, Stdin, execute, start_unit
from clawdet_cli.sandbox.simulated.disk import SimulatedDisk
from clawdet_cli.sandbox.simulated.guest import ADDRESS, Guest
from clawdet_cli.sandbox.simulated.knobs import Knobs
from clawdet_cli.sandbox.simulated.ssh import SshDaemon
from clawdet_cli.sandbox.simulated.verbs import Said
from clawdet_cli.sandbox.simulated.web import serve_connection

COMMANDS_PATH = "/_sandbox/servers/commands"
LOGGED_COMMANDS = 10_000
_USUAL_BOOT_SECONDS = 10.0  # of the provider's clock; all times below are for it
_SSH_SECONDS = 8.0  # from power-on until the port opens
_CLOUD_INIT_SECONDS = 4.0  # from then on until the first boot is over
_WORKERS = 32
_WEB_PORTS = (80, 443)
_KNOWN_USER_DATA = {"ssh_keys", "ssh_deletekeys", "disable_root", "ssh_pwauth", "package_update", "package_upgrade"}
_BEGUN_AT_BOOT = [["cloud-init-per", "once", "clawdet", "sh", "-c", START_AT_BOOT]]
_HOST_KEY = re.compile(
    r"ed25519_private\W+-----BEGIN OPENSSH PRIVATE KEY-----([A-Za-z0-9+/=\s\\]+?)-----END OPENSSH PRIVATE KEY-----"
)


class SimulatedMachines:
    """Plays the servers inside the sandbox's own process."""

    def __init__(
        self,
        *,
        folder: Path,
        addresses: AddressPool,
        forwarder: Forwarder,
        boot_seconds: float,
        state: dict[str, Any],
        on_change: Callable[[], None],
    ) -> None:
        self._folder = folder
        self._addresses = addresses
        self._forwarder = forwarder
        self._scale = boot_seconds / _USUAL_BOOT_SECONDS
        self._running: dict[int, _Server] = {}
        self._restarts: set[asyncio.Task[None]] = set()
        self._workers = ThreadPoolExecutor(_WORKERS, thread_name_prefix="simulated-ssh")
        self.knobs = Knobs(state, on_change)
        self.commands: deque[str] = deque(maxlen=LOGGED_COMMANDS)
        """What was asked over SSH, the oldest first."""

    def routes(self) -> list[Route]:
        """Return the control routes: faults of servers, and GET and DELETE of the commands that they were given."""

        async def commands(request: Request) -> Response:
            if request.method == "DELETE":
                self.commands.clear()
            return JSONResponse({"commands": list(self.commands)})

        return [*self.knobs.routes(), Route(COMMANDS_PATH, commands, methods=["GET", "DELETE"])]

    async def resume(self) -> None:
        """Listen for the servers of an earlier process; those that were on are booted by the emulated API."""
        for folder in self._folder.glob("*"):
            if address := (folder / "address").read_text():
                await self._forwarder.open(int(folder.name), address)

    def claim_address(self) -> str:
        """Return a free public IPv4."""
        return self._addresses.claim()

    def release_address(self, ipv4: str) -> None:
        """Give a claimed address back."""
        self._addresses.release(ipv4)

    async def boot(self, spec: MachineSpec) -> None:
        """Power on, making the disk at the first boot."""
        if spec.server_id in self._running:
            return
        folder = self._folder / str(spec.server_id)
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        (folder / "address").write_text(spec.ipv4)
        if spec.ipv4:
            await self._forwarder.open(spec.server_id, spec.ipv4)
        server = self._running[spec.server_id] = _Server(
            spec,
            SimulatedDisk(folder / "files"),
            self.knobs,
            self._workers,
            scale=self._scale,
            seen=self.commands.append,
            restart=lambda: self._restart(spec),
        )
        self._forwarder.powered(spec.server_id, server.connect)

    async def power_off(self, server_id: int, *, graceful: bool) -> None:  # noqa: ARG002  # nothing here needs a farewell
        """Power off; the disk and the address stay."""
        self._forwarder.powered(server_id, None)
        server = self._running.pop(server_id, None)
        if server is not None:
            await server.close()

    def _restart(self, spec: MachineSpec) -> None:
        """Restart of the server's own accord: what powers it off cannot wait for itself, and is a task of its own."""

        async def again() -> None:
            await self.power_off(spec.server_id, graceful=False)
            await self.boot(spec)

        task = asyncio.create_task(again())
        self._restarts.add(task)
        task.add_done_callback(self._restarts.discard)

    async def remove(self, server_id: int) -> None:
        """Power off and delete the disk."""
        await self.power_off(server_id, graceful=False)
        folder = self._folder / str(server_id)
        if folder.exists():
            await self._forwarder.close(server_id, (folder / "address").read_text())
            SimulatedDisk(folder).delete()

    async def stop(self) -> None:
        """Shut all servers down, for the end of the sandbox's process."""
        await asyncio.gather(*self._restarts, return_exceptions=True)
        await asyncio.gather(*(self.power_off(server_id, graceful=True) for server_id in list(self._running)))
        self._workers.shutdown()


class _Server:
    """One server from power-on to power-off."""

    def __init__(
        self,
        spec: MachineSpec,
        disk: SimulatedDisk,
        knobs: Knobs,
        workers: ThreadPoolExecutor,
        *,
        scale: float,
        seen: Callable[[str], None],
        restart: Callable[[], None],
    ) -> None:
        self._guest = Guest(spec.name, spec.image, disk, knobs, scale)
        self._seen = seen
        self._first_boot(spec)
        self._answers = False
        self._tasks: set[asyncio.Task[None]] = set()
        self._ssh = SshDaemon(
            public_keys=[line for line in disk.text(at.AUTHORIZED_KEYS).splitlines() if line],
            execute=self._execute,
            reachable=self._reachable,
            connect=self._connect_from_inside,
            workers=workers,
        )
        self._guest.drop_connections = self._ssh.drop
        self._guest.restart = restart
        self._keep(asyncio.create_task(self._boot()))

    async def _execute(self, command: str, stdin: Stdin) -> Said:
        self._seen(command)
        return await execute(self._guest, command, stdin)

    def _first_boot(self, spec: MachineSpec) -> None:
        """Do what cloud-init does once."""
        config = _plain(spec.user_data)
        self._guest.not_simulated = _unknown_parts(config)
        disk = self._guest.disk
        if not disk.exists(at.HOST_KEY):
            self._guest.uploads.update(_begun_at_boot(config))
            disk.write(at.HOST_KEY, _injected_host_key(config) or host_keys.new())
            disk.write(at.AUTHORIZED_KEYS, "".join(f"{key}\n" for key in spec.public_keys))

    async def _boot(self) -> None:
        await self._guest.take(_SSH_SECONDS)
        self._answers = True
        if BOOT_FOLDER in self._guest.uploads:
            start_unit(self._guest, "prepare", BOOT_FOLDER)
        self._guest.start_enabled()
        await self._guest.take(_CLOUD_INIT_SECONDS)
        self._guest.first_boot_over.set()

    def _keep(self, task: asyncio.Task[None]) -> None:
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def _reachable(self, host: str, port: int) -> bool | None:
        if host != ADDRESS or port not in _WEB_PORTS:
            return None
        return self._guest.caddy is not None

    async def _connect_from_inside(self, _host: str, port: int) -> socket.socket:
        return await self.connect(ADDRESS, port)

    async def connect(self, peer: str, port: int) -> socket.socket:
        """Return a connection to a port; raise ConnectionRefusedError where nothing listens."""
        caddy = self._guest.caddy
        is_ssh = port == 22 and not self._guest.knobs.all()["ssh_never"]
        if not self._answers or not (is_ssh or (port in _WEB_PORTS and caddy is not None)):
            raise ConnectionRefusedError
        outer, inner = socket.socketpair()
        try:
            if is_ssh:
                wrong = self._guest.knobs.all()["ssh_wrong_host_key"]
                self._ssh.take(inner, host_keys.new() if wrong else self._guest.disk.text(at.HOST_KEY))
            elif caddy is not None:
                inner.setblocking(False)
                serving = serve_connection(self._guest, caddy, inner, peer, tls=port == 443)
                self._keep(asyncio.create_task(serving))
        except BaseException:
            outer.close()
            inner.close()
            raise
        outer.setblocking(False)
        return outer

    async def close(self) -> None:
        """Cut the power."""
        self._answers = False
        tasks = [*self._tasks, *self._guest.tasks]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await self._ssh.close()


def _plain(user_data: str) -> str:
    """Undo base64 and gzip, as cloud-init does."""
    try:
        content = base64.b64decode(user_data, validate=True)
    except ValueError:  # no base64; binascii.Error is one, and so is what a letter beyond ASCII raises
        return user_data
    if content.startswith(b"\x1f\x8b"):
        try:
            content = gzip.decompress(content)
        except (OSError, EOFError, zlib.error):
            return user_data
    return content.decode(errors="replace")


def _unknown_parts(config: str) -> str:
    """Name what of a cloud-config would have had an effect here."""
    if not config.strip():
        return ""
    header, _, body = config.partition("\n")
    if header.strip() != "#cloud-config":
        return "anything but a cloud-config"
    try:
        keys = set(json.loads(body))
    except (ValueError, TypeError):
        keys = set(re.findall(r"^(\w+):", body, re.MULTILINE))
    if _begun_at_boot(config):
        keys -= {"write_files", "bootcmd"}
    return ", ".join(sorted(keys - _KNOWN_USER_DATA))


def _begun_at_boot(config: str) -> dict[str, dict[str, bytes]]:
    """Return the files with which a cloud-config begins the first phase; nothing for any other one."""
    try:
        content = json.loads(config.partition("\n")[2])
        begun, written = content["bootcmd"], content["write_files"]
        files = dict(_written(file) for file in written)
    except (ValueError, TypeError, KeyError, AttributeError, OSError):
        return {}
    if begun != _BEGUN_AT_BOOT or {str(path.parent) for path in files} != {BOOT_FOLDER}:
        return {}
    return {BOOT_FOLDER: {path.name: text for path, text in files.items()}}


def _written(file: dict[str, str]) -> tuple[PurePosixPath, bytes]:
    """Return a file of `write_files`, without the packing that the command at boot takes off."""
    path, content = PurePosixPath(file["path"]), file["content"].encode()
    if file.get("encoding") == "b64":
        content = base64.b64decode(content, validate=True)
    if path.suffix == ".bz2":
        return path.with_suffix(""), bz2.decompress(content)
    return path, content


def _injected_host_key(config: str) -> str | None:
    match = _HOST_KEY.search(config)
    if match is None:
        return None
    body = re.sub(r"\\n|\s", "", match[1])
    return f"-----BEGIN OPENSSH PRIVATE KEY-----\n{body}\n-----END OPENSSH PRIVATE KEY-----\n"
