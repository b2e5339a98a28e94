"""The sandbox's share of the loopback network: addresses, ports, and the dial map where they differ."""

import contextlib
import errno
import ipaddress
import json
import os
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

from clawdet_cli.sandbox.errors import SandboxError
from clawdet_cli.sandbox.machines import OutOfAddressesError

Endpoint = tuple[str, int]

NUMBERS = range(1, 201)
SERVER_PORTS = (22, 80, 443, 18789)
_KEEPER_PORT = 47018  # bound and never listened on: it marks the number as taken
_DNS_ATTEMPTS = 5
_LAST_PARTS = range(2, 251)  # of a server's address
_SERVERS = range(8 * len(_LAST_PARTS))  # from 127.18.S.2 to 127.25.S.250


class Network:
    """The addresses 127.17.S.x, and 127.18.S.x to 127.25.S.x, of the sandbox with number S.

    Where a port cannot be had (no root, or the machine's own service listens on it everywhere), another one is bound
    and `dial()` leads there; the map is kept in a file for clients outside this process.
    """

    def __init__(self, number: int, keeper: socket.socket, dial_file: Path) -> None:
        self.number = number
        self._keeper = keeper
        self._dial_file = dial_file
        self._dial_map: dict[Endpoint, Endpoint] = {}
        self._of_edge: set[int] = set()  # ports
        dial_file.unlink(missing_ok=True)

    @property
    def edge_range(self) -> str:
        """The CIDR from which the edge connects to servers."""
        return f"127.17.{self.number}.0/24"

    def service_address(self, last: int) -> str:
        """Return 127.17.S.`last`, an address of the sandbox's own services."""
        return f"127.17.{self.number}.{last}"

    def server_address(self, place: int) -> str:
        """Return the public IPv4 of a server: 127.18.S.2 for the first place."""
        block, last = divmod(place, len(_LAST_PARTS))
        return f"127.{18 + block}.{self.number}.{_LAST_PARTS[last]}"

    def dial(self, ip: str, port: int) -> Endpoint:
        """Return where `ip:port` really listens; raise TimeoutError where nothing of the sandbox's can be.

        Nothing answers at such an address, which is what the edge makes 522 of; and nothing is sent to it.
        """
        if not ipaddress.ip_address(ip).is_loopback:
            raise TimeoutError
        return self._dial_map.get((ip, port), (ip, port))

    def bind(self, ip: str, port: int) -> socket.socket:
        """Bind a TCP socket to `ip:port`, or to what can be had, and remember where."""
        for candidate in ((ip, port), (ip, 0), ("127.0.0.1", 0)):
            try:
                sock = _bound(socket.SOCK_STREAM, *candidate)
            except OSError as exc:
                if exc.errno not in (errno.EACCES, errno.EADDRINUSE, errno.EADDRNOTAVAIL):
                    raise
                continue
            actual: Endpoint = sock.getsockname()
            if actual != (ip, port):
                self._dial_map[ip, port] = actual
                self._write_dial_map()
            return sock
        raise SandboxError(f"no port can be bound for {ip}:{port}", "see which program holds the ports: ss -ltnp")

    def bind_dns(self, ip: str) -> tuple[socket.socket, socket.socket]:
        """Bind UDP and TCP sockets to one and the same port, 53 where it can be had."""
        for _ in range(_DNS_ATTEMPTS):
            tcp = self.bind(ip, 53)
            with contextlib.suppress(OSError):
                return _bound(socket.SOCK_DGRAM, *tcp.getsockname()), tcp
            tcp.close()
        raise SandboxError("no port is free for DNS on both UDP and TCP")

    def edge_socket(self) -> socket.socket:
        """Return a socket that connects from the edge's address; where the system lacks it, one that passes for it."""
        try:
            return _bound(socket.SOCK_STREAM, self.service_address(1), 0)
        except OSError as exc:
            if exc.errno != errno.EADDRNOTAVAIL:
                raise
        # Systems other than Linux have 127.0.0.1 only, and firewalls tell the edge from others by its address.
        sock = _bound(socket.SOCK_STREAM, "127.0.0.1", 0)
        self._of_edge.add(sock.getsockname()[1])
        return sock

    def seen_as(self, peer: Endpoint) -> str:
        """Return the address that a connection from there has; the question may be asked once."""
        if peer[0] == "127.0.0.1" and peer[1] in self._of_edge:
            self._of_edge.discard(peer[1])
            return self.service_address(1)
        return peer[0]

    def release(self, ip: str, port: int) -> None:
        """Forget where `ip:port` was bound."""
        if self._dial_map.pop((ip, port), None) is not None:
            self._write_dial_map()

    def maps_server_ports(self) -> bool:
        """Whether a server's ports cannot be bound as they are, so that clients need the dial map."""
        ip = f"127.18.{self.number}.1"
        try:
            for port in SERVER_PORTS:
                _bound(socket.SOCK_STREAM, ip, port).close()
        except OSError:
            self._write_dial_map()
            return True
        return False

    def close(self) -> None:
        """Give the number back."""
        self._keeper.close()
        self._dial_file.unlink(missing_ok=True)

    def _write_dial_map(self) -> None:
        content = {f"{ip}:{port}": f"{host}:{actual}" for (ip, port), (host, actual) in self._dial_map.items()}
        temporary = self._dial_file.with_suffix(".new")
        temporary.write_text(json.dumps(content, indent=1))
        temporary.replace(self._dial_file)


class AddressPool:
    """The servers' public addresses, given out in turn so that a freed one rests before it is used again.

    `state` keeps which are taken, over restarts.
    """

    def __init__(self, network: Network, state: dict[str, Any], on_change: Callable[[], None]) -> None:
        self._network = network
        self._state = state
        self._on_change = on_change
        state.setdefault("taken", [])
        state.setdefault("last", _SERVERS[-1])

    def claim(self) -> str:
        """Take a free address; raise OutOfAddressesError when there is none."""
        start = self._state["last"] + 1
        for step in range(len(_SERVERS)):
            place = (start + step) % len(_SERVERS)
            address = self._network.server_address(place)
            if address not in self._state["taken"]:
                self._state["taken"].append(address)
                self._state["last"] = place
                self._on_change()
                return address
        raise OutOfAddressesError("every address of the sandbox is taken")

    def release(self, address: str) -> None:
        """Give an address back; nothing when it is not taken."""
        if address in self._state["taken"]:
            self._state["taken"].remove(address)
            self._on_change()


def claim(dial_file: Path, wanted: int | None = None) -> Network:
    """Claim a free number, or exactly the wanted one; raise SandboxError where none is to be had."""
    # Starting at a place of its own keeps several sandboxes from racing for 1.
    start = sum(os.fsencode(dial_file)) % len(NUMBERS)
    candidates = [wanted] if wanted else [NUMBERS[(start + step) % len(NUMBERS)] for step in range(len(NUMBERS))]
    for number in candidates:
        try:
            keeper = _keeper(number)
        except OSError:
            continue
        return Network(number, keeper, dial_file)
    if wanted:
        raise SandboxError(
            f"the addresses 127.17.{wanted}.x and 127.18.{wanted}.x of this sandbox's servers are taken",
            "stop the other sandbox that uses them, or remove this one: clawdet sandbox down",
        )
    raise SandboxError("no address range in 127.17.0.0/16 is free", "stop a sandbox: clawdet sandbox down")


def _keeper(number: int) -> socket.socket:
    try:
        return _bound(socket.SOCK_STREAM, f"127.17.{number}.2", _KEEPER_PORT)
    except OSError as exc:
        if exc.errno != errno.EADDRNOTAVAIL:
            raise
    # Systems other than Linux have 127.0.0.1 only.
    return _bound(socket.SOCK_STREAM, "127.0.0.1", _KEEPER_PORT + number)


def _bound(kind: socket.SocketKind, ip: str, port: int) -> socket.socket:
    # With the protocol's number asyncio sends small answers at once, and not 40 ms later (TCP_NODELAY).
    sock = socket.socket(socket.AF_INET, kind, socket.IPPROTO_TCP if kind == socket.SOCK_STREAM else 0)
    try:
        if kind == socket.SOCK_STREAM and port not in (0, _KEEPER_PORT):
            # A restarted sandbox must get its ports although old connections linger in TIME_WAIT.
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind((ip, port))
    except OSError:
        sock.close()
        raise
    sock.setblocking(False)
    return sock
