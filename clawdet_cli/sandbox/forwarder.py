"""The public side of the servers: their addresses, the provider's firewall, and the way to the guest."""

import asyncio
import contextlib
import socket
import struct
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

from clawdet_cli.sandbox.network import SERVER_PORTS, Network

Allows = Callable[[int, str, int], bool]
Connect = Callable[[str, int], Awaitable[socket.socket]]

_CONNECT_SECONDS = 10.0
_CHUNK = 64 * 1024
_RESET_ON_CLOSE = struct.pack("ii", 1, 0)


@dataclass
class _Front:
    """One server as the internet sees it."""

    connect: Connect | None = None  # None: powered off
    listeners: list[asyncio.Server] = field(default_factory=list)
    tasks: set[asyncio.Task[None]] = field(default_factory=set)


class Forwarder:
    """Listens on every server's public address and passes on what the provider's firewall allows.

    What the firewall drops, and everything while a server is powered off, is a connection that stays silent: a
    listener in user space cannot leave a SYN unanswered. A closed port of the guest is a reset after the accept.
    """

    def __init__(self, network: Network, allows: Allows) -> None:
        self._network = network
        self._allows = allows
        self._fronts: dict[int, _Front] = {}

    async def open(self, server_id: int, ipv4: str) -> None:
        """Listen for a server that is still powered off; nothing when it is listened for already."""
        if server_id in self._fronts:
            return
        front = self._fronts[server_id] = _Front()
        for port in SERVER_PORTS:
            sock = self._network.bind(ipv4, port)

            async def accepted(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, port: int = port) -> None:
                task = asyncio.current_task()
                if task is not None:
                    front.tasks.add(task)
                    task.add_done_callback(front.tasks.discard)
                await self._serve(server_id, front, port, reader, writer)

            front.listeners.append(await asyncio.start_server(accepted, sock=sock, limit=_CHUNK))

    def powered(self, server_id: int, connect: Connect | None) -> None:
        """Say how to reach the guest's ports, or None that it is powered off."""
        if front := self._fronts.get(server_id):
            front.connect = connect

    async def close(self, server_id: int, ipv4: str) -> None:
        """Stop listening for a server and cut its connections."""
        front = self._fronts.pop(server_id, None)
        if front is None:
            return
        for listener in front.listeners:
            listener.close()
        tasks = list(front.tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await asyncio.sleep(0)  # their sockets are closed in the loop's next turn
        for port in SERVER_PORTS:
            self._network.release(ipv4, port)

    async def _serve(
        self, server_id: int, front: _Front, port: int, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        peer = self._network.seen_as(writer.get_extra_info("peername"))
        try:
            if front.connect is None or not self._allows(server_id, peer, port):
                await _stay_silent(reader)
            else:
                await _pass_on(front.connect, peer, port, reader, writer)
        except (OSError, asyncio.CancelledError, TimeoutError):
            _reset(writer)
        finally:
            writer.close()


async def _stay_silent(reader: asyncio.StreamReader) -> None:
    while await reader.read(_CHUNK):
        pass


async def _pass_on(
    connect: Connect, peer: str, port: int, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
) -> None:
    async with asyncio.timeout(_CONNECT_SECONDS):
        sock = await connect(peer, port)
    try:
        guest_reader, guest_writer = await asyncio.open_connection(sock=sock, limit=_CHUNK)
    except BaseException:
        sock.close()
        raise
    try:
        async with asyncio.TaskGroup() as both:
            both.create_task(_pump(reader, guest_writer))
            both.create_task(_pump(guest_reader, writer))
    except* OSError:
        # One side broke off: so must the other, or it would wait for ever.
        _reset(guest_writer)
        _reset(writer)
    finally:
        guest_writer.close()


async def _pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while data := await reader.read(_CHUNK):
        writer.write(data)
        await writer.drain()
    writer.write_eof()


def _reset(writer: asyncio.StreamWriter) -> None:
    sock = writer.get_extra_info("socket")
    with contextlib.suppress(OSError):
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET_ON_CLOSE)
    writer.transport.abort()
