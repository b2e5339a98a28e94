"""A server's network: its own namespace, a router before it, and the way out in user mode.

    internet ... slirp4netns -- [tap0  router  guest0] -- [eth0  guest] systemd-nspawn

The guest has one address on eth0 with an on-link gateway, as at Hetzner. The router is a namespace of its own because
the sandbox listens in it (metadata, downloads) on port 80, which in the guest's namespace would take that port from
the guest's web server.
"""

import asyncio
import ctypes
import os
import socket
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

from clawdet_cli.sandbox.errors import SandboxError
from clawdet_cli.sandbox.process import run, run_async

METADATA_ADDRESS = "169.254.169.254"
METADATA_ADDRESS_6 = "fe80::a9fe:a9fe"  # link-local: a guest names its interface with it
DOWNLOAD_ADDRESS = "169.254.169.253"
EDGE_RANGE_INSIDE = "192.0.2.0/24"  # how a server sees the edge: 127.17.S.x as 192.0.2.x
_VISITOR = "198.51.100.254"  # how a server sees everybody else
_GATEWAY = "172.31.1.1"  # Hetzner's
HAS_IPV6 = Path("/proc/net/if_inet6").exists()  # a kernel can be without
_RUN = Path("/run/netns")
_CLONE_NEWNET = 0x40000000

_Result = TypeVar("_Result")


class ServerNetwork:
    """The two namespaces of one server, called `name` and `name`-r."""

    def __init__(self, name: str, guest_address: str) -> None:
        self.guest = name
        self.router = f"{name}-r"
        self.guest_address = guest_address
        self._slirp: asyncio.subprocess.Process | None = None
        # setns moves a thread for good, so this one only ever makes sockets for the router.
        self._inside = ThreadPoolExecutor(max_workers=1, thread_name_prefix=self.router)

    @property
    def guest_path(self) -> Path:
        """What a program enters to be in the guest's namespace."""
        return _RUN / self.guest

    async def up(self) -> None:
        """Make the namespaces and connect them to each other and to the outside."""
        await run_async(["ip", "-batch", "-"], stdin=f"netns add {self.router}\nnetns add {self.guest}\n")
        await self._run_inside(lambda: _set({"ip_forward": "1"}))
        await run_async(["ip", "-n", self.router, "-batch", "-"], stdin=self._router_set_up())
        await run_async(["ip", "-n", self.guest, "-batch", "-"], stdin=self._guest_set_up())
        await self._connect_to_outside()
        # slirp4netns looks for the guest by ARP on tap0; the router answers for it, without the usual pause.
        await self._run_inside(lambda: _set({"conf/tap0/proxy_arp": "1", "neigh/tap0/proxy_delay": "0"}))

    async def down(self) -> None:
        """Stop the way out and delete the namespaces; sockets made here keep working until they are closed."""
        self._inside.shutdown(wait=False)
        if self._slirp is not None:
            if self._slirp.returncode is None:
                self._slirp.kill()
            await self._slirp.wait()
            self._slirp = None
        await asyncio.to_thread(delete, self.guest)

    async def listen(self, ip: str, port: int) -> socket.socket:
        """Return a socket that listens in the router, where the guest reaches it."""
        return await self._run_inside(lambda: _listening(ip, port))

    async def connect(self, peer: str, port: int) -> socket.socket:
        """Connect to a port of the guest, which will see a public address for `peer`."""
        sock = await self._run_inside(lambda: socket.socket(socket.AF_INET, socket.SOCK_STREAM))
        try:
            sock.setblocking(False)
            sock.bind((_seen_from_inside(peer), 0))
            await asyncio.get_running_loop().sock_connect(sock, (self.guest_address, port))
        except BaseException:
            sock.close()
            raise
        return sock

    async def _run_inside(self, action: Callable[[], _Result]) -> _Result:
        def enter_and_act() -> _Result:
            _enter(_RUN / self.router)
            return action()

        try:
            running = asyncio.get_running_loop().run_in_executor(self._inside, enter_and_act)
        except RuntimeError:  # the pool was shut down: the server is being powered off
            raise ConnectionRefusedError(self.router) from None
        return await running

    def _router_set_up(self) -> str:
        return f"""\
link set lo up
addr add {METADATA_ADDRESS}/32 dev lo
addr add {DOWNLOAD_ADDRESS}/32 dev lo
addr add {_VISITOR}/32 dev lo
route add local {EDGE_RANGE_INSIDE} dev lo
link add guest0 type veth peer name eth0 netns {self.guest}
link set guest0 up
addr add {_GATEWAY}/32 dev guest0
{f"addr add {METADATA_ADDRESS_6}/64 dev guest0 nodad" if HAS_IPV6 else ""}
route add {self.guest_address}/32 dev guest0
"""

    def _guest_set_up(self) -> str:
        return f"""\
link set lo up
addr add {self.guest_address}/32 dev eth0
link set eth0 up
route add {_GATEWAY} dev eth0 scope link
route add default via {_GATEWAY}
"""

    async def _connect_to_outside(self) -> None:
        ready_read, ready_write = os.pipe()
        try:
            self._slirp = await asyncio.create_subprocess_exec(
                *("setpriv", "--pdeathsig", "KILL", "slirp4netns", "--netns-type=path", "--configure"),
                *("--disable-host-loopback", f"--ready-fd={ready_write}", str(_RUN / self.router), "tap0"),
                stdin=asyncio.subprocess.DEVNULL,
                stdout=asyncio.subprocess.DEVNULL,
                stderr=asyncio.subprocess.PIPE,
                pass_fds=(ready_write,),
            )
            os.close(ready_write)
            ready = await asyncio.to_thread(os.read, ready_read, 1)
        finally:
            os.close(ready_read)
        if not ready:
            words = (await self._slirp.communicate())[1].decode(errors="replace")
            raise SandboxError(f"slirp4netns did not start: {words.strip()}")


def existing(prefix: str) -> list[str]:
    """Return the names of the namespaces that begin with a prefix, guests' and routers'."""
    return sorted(path.name for path in _RUN.glob(f"{prefix}*")) if _RUN.is_dir() else []


def delete(name: str) -> bool:
    """Delete a server's namespaces; return whether there were any."""
    there = [one for one in (name, f"{name}-r") if (_RUN / one).exists()]
    for one in there:
        run(["ip", "netns", "delete", one])
    return bool(there)


def _listening(ip: str, port: int) -> socket.socket:
    if ":" not in ip:
        return socket.create_server((ip, port))
    # Of every interface's link-local addresses, the one towards the guest.
    sock = socket.socket(socket.AF_INET6, socket.SOCK_STREAM)
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind((ip, port, 0, socket.if_nametoindex("guest0")))
        sock.listen()
    except OSError:
        sock.close()
        raise
    return sock


def _set(settings: dict[str, str]) -> None:
    for name, value in settings.items():
        Path("/proc/sys/net/ipv4", name).write_text(value)


def _enter(namespace: Path) -> None:
    libc = ctypes.CDLL(None, use_errno=True)  # os.setns comes with Python 3.12
    descriptor = os.open(namespace, os.O_RDONLY | os.O_CLOEXEC)
    try:
        if libc.setns(descriptor, _CLONE_NEWNET) != 0:
            number = ctypes.get_errno()
            raise OSError(number, os.strerror(number), str(namespace))
    finally:
        os.close(descriptor)


def _seen_from_inside(peer: str) -> str:
    first, second, _, last = peer.split(".")
    return f"192.0.2.{last}" if (first, second) == ("127", "17") else _VISITOR
