"""Servers that are real: a systemd machine each, with cloud-init, a disk and a network of its own.

Everything that belongs to a server carries a name made from the sandbox's tag and the server's id, and the server's
folder is there before any of it is. So whatever a crash left behind can be found by name and cleared.
"""

import asyncio
import base64
import binascii
import contextlib
import json
import os
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from starlette.routing import Route

from clawdet_cli.sandbox.forwarder import Forwarder
from clawdet_cli.sandbox.leftovers import clear_server, control_group
from clawdet_cli.sandbox.machines import MachineSpec
from clawdet_cli.sandbox.network import AddressPool
from clawdet_cli.sandbox.real import cgroups
from clawdet_cli.sandbox.real.disks import Disk
from clawdet_cli.sandbox.real.metadata import download_app, metadata_app
from clawdet_cli.sandbox.real.namespace import (
    DOWNLOAD_ADDRESS,
    HAS_IPV6,
    METADATA_ADDRESS,
    METADATA_ADDRESS_6,
    ServerNetwork,
)
from clawdet_cli.sandbox.serve import serve

MEMORY_BYTES = 4 * 1024**3  # cx23 and cpx22, which clawdet orders
_SHUTDOWN_SECONDS = 30.0
_WANTS_REBOOT = 133  # how systemd-nspawn --keep-unit ends when the guest asked for a reboot

# Joins the control groups first, so that no process of the machine is ever outside of them.
_JOIN_AND_RUN = 'while [ "$1" != -- ]; do echo $$ > "$1" || exit 125; shift; done; shift; exec "$@"'


@dataclass
class _Running:
    """What a powered-on server consists of in this process."""

    network: ServerNetwork
    services: list[asyncio.Task[None]] = field(default_factory=list)
    nspawn: asyncio.subprocess.Process | None = None
    watch: asyncio.Task[None] | None = None


class RealMachines:
    """Plays the servers with systemd-nspawn."""

    def __init__(
        self,
        *,
        folder: Path,
        tag: str,
        base: Path,
        downloads: Path,
        addresses: AddressPool,
        forwarder: Forwarder,
        on_power_lost: Callable[[int], None],
    ) -> None:
        self._folder = folder
        self._trash = folder.with_name("deleted")
        self._tag = tag
        self._base = base
        self._downloads = downloads
        self._addresses = addresses
        self._forwarder = forwarder
        self._on_power_lost = on_power_lost
        self._running: dict[int, _Running] = {}

    def routes(self) -> list[Route]:
        """Return no control routes: a real machine is disturbed as one that is not emulated is."""
        return []

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
        folder = self._server_folder(spec.server_id)
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "address").write_text(spec.ipv4)
        await asyncio.to_thread(self._clear, spec.server_id)
        await asyncio.to_thread(_prepare_disk, Disk(folder), self._base, spec)
        if spec.ipv4:
            await self._forwarder.open(spec.server_id, spec.ipv4)
        network = ServerNetwork(self._name(spec.server_id), _guest_address(spec.ipv4))
        running = self._running[spec.server_id] = _Running(network)
        try:
            await network.up()
            await self._serve_inside(running, spec)
            await self._start(running, spec)
        except BaseException:
            await self._dismantle(spec.server_id)
            raise
        self._forwarder.powered(spec.server_id, network.connect)

    async def power_off(self, server_id: int, *, graceful: bool) -> None:
        """Power off; the disk and the address stay."""
        running = self._running.get(server_id)
        if running is None:
            return
        if running.watch is not None:
            running.watch.cancel()
        if graceful and running.nspawn is not None and running.nspawn.returncode is None:
            running.nspawn.terminate()  # systemd-nspawn passes it on as a request to power off
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_SHUTDOWN_SECONDS):
                    await running.nspawn.wait()
        await self._dismantle(server_id)

    async def remove(self, server_id: int) -> None:
        """Power off and delete the disk."""
        await self.power_off(server_id, graceful=False)
        folder = self._server_folder(server_id)
        if not folder.exists():
            return
        await self._forwarder.close(server_id, (folder / "address").read_text())
        await asyncio.to_thread(self._clear, server_id)
        await asyncio.to_thread(Disk(folder).discard, self._trash)

    async def stop(self) -> None:
        """Shut all servers down, for the end of the sandbox's process."""
        await asyncio.gather(*(self.power_off(server_id, graceful=True) for server_id in list(self._running)))

    async def _serve_inside(self, running: _Running, spec: MachineSpec) -> None:
        for address, app in (
            (METADATA_ADDRESS, metadata_app(spec)),
            *([(METADATA_ADDRESS_6, metadata_app(spec))] if HAS_IPV6 else []),
            (DOWNLOAD_ADDRESS, download_app(self._downloads)),
        ):
            sock = await running.network.listen(address, 80)
            running.services.append(asyncio.create_task(serve(app, sock)))

    async def _start(self, running: _Running, spec: MachineSpec) -> None:
        folder = self._server_folder(spec.server_id)
        name = self._name(spec.server_id)
        joins = await asyncio.to_thread(
            cgroups.make, control_group(self._tag, spec.server_id), memory_bytes=MEMORY_BYTES
        )
        console = os.open(folder / "console.log", os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
        try:
            running.nspawn = await asyncio.create_subprocess_exec(
                *("sh", "-c", _JOIN_AND_RUN, "sh", *map(str, joins), "--"),
                # A killed sandbox is a power cut for its servers: nothing may run on unobserved.
                *("setpriv", "--pdeathsig", "KILL"),
                *("systemd-nspawn", "--quiet", "--boot", "--console=pipe", "--register=no", "--keep-unit"),
                *(f"--directory={folder / 'root'}", f"--machine={name}"),
                f"--network-namespace-path={running.network.guest_path}",
                # systemd-nspawn takes it away together with the network otherwise, and nft needs it.
                "--capability=CAP_NET_ADMIN",
                *("--resolv-conf=off", "--link-journal=no", "--timezone=off"),
                stdin=asyncio.subprocess.DEVNULL,
                stdout=console,
                stderr=console,
            )
        finally:
            os.close(console)
        running.watch = asyncio.create_task(self._watch(running, running.nspawn, spec))

    async def _watch(self, running: _Running, nspawn: asyncio.subprocess.Process, spec: MachineSpec) -> None:
        """Do what the guest itself asked for: start again after a reboot, be off after a power-off."""
        code = await nspawn.wait()
        if code == _WANTS_REBOOT:
            await self._start(running, spec)
            return
        running.watch = None
        await self._dismantle(spec.server_id)
        self._on_power_lost(spec.server_id)

    async def _dismantle(self, server_id: int) -> None:
        """Take a server's machine and network away, whatever there is of them."""
        self._forwarder.powered(server_id, None)
        running = self._running.pop(server_id, None)
        if running is not None:
            if running.watch is not None:
                running.watch.cancel()
            if running.nspawn is not None and running.nspawn.returncode is None:
                running.nspawn.kill()
                await running.nspawn.wait()
            for service in running.services:
                service.cancel()
            await asyncio.gather(*running.services, return_exceptions=True)
            await running.network.down()
        await asyncio.to_thread(self._clear, server_id)

    def _clear(self, server_id: int) -> None:
        clear_server(self._tag, self._server_folder(server_id))

    def _server_folder(self, server_id: int) -> Path:
        return self._folder / str(server_id)

    def _name(self, server_id: int) -> str:
        return f"{self._tag}-{server_id}"


def _guest_address(ipv4: str) -> str:
    """Return the address on the guest's own interface; 127.18.S.N cannot be one."""
    return f"198.51.100.{ipv4.rpartition('.')[2] or 1}"


def _prepare_disk(disk: Disk, base: Path, spec: MachineSpec) -> None:
    disk.mount(base, spec.disk_gigabytes)
    seed = disk.root / "var/lib/cloud/seed/nocloud"
    seed.mkdir(parents=True, exist_ok=True, mode=0o700)
    metadata = {
        "instance-id": str(spec.server_id),
        "local-hostname": spec.name,
        "public-keys": list(spec.public_keys),
    }
    _write_private(seed / "meta-data", json.dumps(metadata).encode())
    _write_private(seed / "user-data", unpacked(spec.user_data))


def unpacked(user_data: str) -> bytes:
    """Undo base64 as cloud-init's Hetzner data source does, which NoCloud does not: only if nothing else is in it."""
    try:
        return base64.b64decode(user_data, validate=True)
    except binascii.Error:
        return user_data.encode()


def _write_private(path: Path, content: bytes) -> None:
    path.unlink(missing_ok=True)
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
        file.write(content)
