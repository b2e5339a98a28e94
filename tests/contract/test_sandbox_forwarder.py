"""The public side of a server, over loopback, with a small server in the guest's place."""

import asyncio
import socket
import struct
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from clawdet_cli.sandbox import network
from clawdet_cli.sandbox.forwarder import Forwarder
from clawdet_cli.sandbox.network import Network

SERVER = 7
Guest = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


class Front:
    """A forwarder with one server, whose firewall and peers can be looked at."""

    def __init__(self, net: Network) -> None:
        self.net = net
        self.address = net.server_address(2)
        self.allowed = True
        self.asked: list[tuple[int, str, int]] = []
        self.peers: list[tuple[str, int]] = []
        self.forwarder = Forwarder(net, self._allows)
        self._guest: asyncio.Server | None = None

    def _allows(self, server_id: int, peer: str, port: int) -> bool:
        self.asked.append((server_id, peer, port))
        return self.allowed

    async def power_on(self, guest: Guest | None) -> None:
        """Power on a guest on whose ports `guest` answers, or None: nobody."""
        if guest is not None:
            self._guest = await asyncio.start_server(guest, "127.0.0.1", 0)
        self.forwarder.powered(SERVER, self._connect)

    async def _connect(self, peer: str, port: int) -> socket.socket:
        self.peers.append((peer, port))
        if self._guest is None:
            raise ConnectionRefusedError
        sock = socket.socket()
        sock.setblocking(False)
        await asyncio.get_running_loop().sock_connect(sock, self._guest.sockets[0].getsockname())
        return sock

    async def close(self) -> None:
        await self.forwarder.close(SERVER, self.address)
        if self._guest is not None:
            self._guest.close()
            await self._guest.wait_closed()
        self.net.close()

    async def dial(self, port: int) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        return await asyncio.open_connection(*self.net.dial(self.address, port))


@asynccontextmanager
async def front(tmp_path: Path) -> AsyncIterator[Front]:
    made = Front(network.claim(tmp_path / "dial.json"))
    await made.forwarder.open(SERVER, made.address)
    try:
        async with asyncio.timeout(10):
            yield made
    finally:
        await made.close()


async def shout(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Answer only when the visitor has said that there is no more: a half-closed connection must still carry."""
    writer.write((await reader.read()).upper())
    await writer.drain()
    writer.close()


async def nothing_comes(reader: asyncio.StreamReader) -> bool:
    try:
        async with asyncio.timeout(0.2):
            return not await reader.read(1)
    except TimeoutError:
        return True


def test_bytes_pass_both_ways_and_each_way_ends_by_itself(tmp_path: Path) -> None:
    async def story() -> None:
        async with front(tmp_path) as it:
            await it.power_on(shout)
            reader, writer = await it.dial(443)
            writer.write(b"hello " * 100_000)
            writer.write_eof()
            assert await reader.read() == b"HELLO " * 100_000
            writer.close()
            assert it.asked == [(SERVER, "127.0.0.1", 443)]
            assert it.peers == [("127.0.0.1", 443)]

    asyncio.run(story())


def test_a_closed_port_is_a_reset(tmp_path: Path) -> None:
    async def story() -> None:
        async with front(tmp_path) as it:
            await it.power_on(None)
            reader, writer = await it.dial(22)
            with pytest.raises(ConnectionResetError):
                await reader.read(1)
            writer.close()

    asyncio.run(story())


def test_what_the_firewall_drops_stays_silent_and_never_reaches_the_guest(tmp_path: Path) -> None:
    async def story() -> None:
        async with front(tmp_path) as it:
            await it.power_on(shout)
            it.allowed = False
            reader, writer = await it.dial(22)
            writer.write(b"hello")
            assert await nothing_comes(reader)
            assert not reader.at_eof()
            assert it.peers == []
            writer.close()

    asyncio.run(story())


def test_a_server_that_is_off_stays_silent(tmp_path: Path) -> None:
    async def story() -> None:
        async with front(tmp_path) as it:
            await it.power_on(shout)
            it.forwarder.powered(SERVER, None)
            reader, writer = await it.dial(443)
            assert await nothing_comes(reader)
            assert not reader.at_eof()
            writer.close()

    asyncio.run(story())


def test_a_guest_that_breaks_off_is_a_reset_for_the_visitor(tmp_path: Path) -> None:
    async def break_off(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(1)
        linger = struct.pack("ii", 1, 0)
        writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
        writer.transport.abort()

    async def story() -> None:
        async with front(tmp_path) as it:
            await it.power_on(break_off)
            reader, writer = await it.dial(443)
            writer.write(b"hello")
            with pytest.raises(ConnectionResetError):
                await reader.read()
            writer.close()

    asyncio.run(story())


def test_a_removed_server_refuses_and_its_open_connections_end(tmp_path: Path) -> None:
    async def greet(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"hello")
        await reader.read()
        writer.close()

    async def story() -> None:
        async with front(tmp_path) as it:
            await it.power_on(greet)
            reader, writer = await it.dial(443)
            assert await reader.readexactly(5) == b"hello"
            where = it.net.dial(it.address, 443)
            await it.forwarder.close(SERVER, it.address)
            with pytest.raises(ConnectionResetError):
                await reader.read(1)
            writer.close()
            with pytest.raises(ConnectionRefusedError):
                await asyncio.open_connection(*where)

    asyncio.run(story())
