"""The emulated edge speaks HTTP/2 to an origin that knows it, here to the real Caddy, and HTTP/1.1 to any other."""

import asyncio
import contextlib
import os
import shutil
import socket
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, cast

import h2.config
import h2.connection
import h11
import httpx
import pytest
import websockets

from clawdet_cli.sandbox.edge.http2 import Http2Stream
from clawdet_cli.sandbox.edge.knobs import EdgeKnobs
from tests.contract.edge_world import HOST, ORIGIN, WAIT, World, answering, assert_error, read_head, run, running

CADDY = shutil.which("caddy", path=str(Path(sys.executable).parent))
pytestmark = pytest.mark.skipif(CADDY is None, reason="the caddy program is not installed")


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port: int = free.getsockname()[1]
        return port


@contextlib.asynccontextmanager
async def caddy(world: World, site: str) -> AsyncIterator[None]:
    """Run Caddy as the origin, and the edge before it."""
    port = free_port()
    world.certificate()
    caddyfile = world.folder / "Caddyfile"
    caddyfile.write_text(
        "{\nadmin off\nauto_https disable_redirects\npersist_config off\n}\n"
        f"{HOST}:{port} {{\nbind 127.0.0.1\ntls {world.folder}/origin.pem {world.folder}/origin.key\n{site}\n}}\n"
    )
    process = await asyncio.create_subprocess_exec(
        str(CADDY),
        "run",
        "--config",
        str(caddyfile),
        env={"HOME": str(world.folder), "PATH": "/usr/bin:/bin"},
        stdout=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.DEVNULL,
    )
    try:
        world.where[ORIGIN, 443] = ("127.0.0.1", port)
        async with running(world):
            deadline = asyncio.get_running_loop().time() + 2 * WAIT
            while (await world.get()).status_code == 521:  # until it listens
                assert asyncio.get_running_loop().time() < deadline
            yield
    finally:
        process.terminate()
        await process.wait()


@contextlib.asynccontextmanager
async def echo() -> AsyncIterator[int]:
    """Run a server of HTTP/1.1 that sends bodies back, and an echoing WebSocket; give its port."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = (await reader.readuntil(b"\r\n\r\n")).decode().lower()
        length = int(head.partition("content-length: ")[2].partition("\r\n")[0] or 0)
        writer.write(b"HTTP/1.1 200 OK\r\nConnection: close\r\nX-Seen: echo\r\n\r\n")
        while length:
            part = await reader.read(65536)
            length -= len(part)
            writer.write(part)
            await writer.drain()
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with server:
        yield server.sockets[0].getsockname()[1]


PROTOCOL_SITE = (
    'header X-Host "{host}"\nheader X-Ip "{http.request.header.CF-Connecting-IP}"\nrespond "{http.request.proto}"'
)


def test_an_origin_that_offers_it_is_spoken_to_in_http2(world: World) -> None:
    async def story() -> list[httpx.Response]:
        async with caddy(world, PROTOCOL_SITE):
            first = await world.get(headers={"X-Own": "kept"})
            EdgeKnobs(world.state).set({"http2_to_origin": False})
            return [first, await world.get()]

    over_h2, over_http1 = run(story())
    assert (over_h2.status_code, over_h2.text) == (200, "HTTP/2.0")
    assert (over_h2.headers["x-host"], over_h2.headers["x-ip"]) == (HOST, "127.0.0.1")
    assert over_h2.headers["server"] == "cloudflare"
    assert over_http1.text == "HTTP/1.1"


def test_an_origin_that_does_not_offer_it_is_spoken_to_in_http11(world: World) -> None:
    heads: list[str] = []
    context = world.certificate()
    context.set_alpn_protocols(["http/1.1"])

    async def story() -> None:
        async with running(world), world.origin(answering(heads=heads), context):
            await world.get()

    run(story())
    assert heads[0].startswith("get / http/1.1")


def test_bodies_pass_whole_in_both_directions(world: World) -> None:
    body = os.urandom(3_000_000)

    async def story() -> httpx.Response:
        async with echo() as port, caddy(world, f"reverse_proxy 127.0.0.1:{port}"):
            return await world.get("/echo", method="POST", content=body)

    answer = run(story())
    assert answer.content == body
    assert answer.headers["x-seen"] == "echo"


def test_head_and_bodiless_answers(world: World) -> None:
    site = '@none path /none\nrespond @none 204\nrespond "hello"'

    async def story() -> list[httpx.Response]:
        async with caddy(world, site):
            return [await world.get(method="HEAD"), await world.get("/none")]

    head, none = run(story())
    assert (head.status_code, head.headers["content-length"], head.content) == (200, "5", b"")
    assert (none.status_code, none.content) == (204, b"")


def test_an_answer_that_is_broken_off_is_not_passed_off_as_whole(world: World) -> None:
    async def half(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await read_head(reader)
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\nhalf")
        writer.close()

    async def story() -> None:
        server = await asyncio.start_server(half, "127.0.0.1", 0)
        port = server.sockets[0].getsockname()[1]
        site = f"handle /half {{\nreverse_proxy 127.0.0.1:{port}\n}}\nhandle {{\nrespond ok\n}}"
        async with server, caddy(world, site):
            with pytest.raises(httpx.RemoteProtocolError):
                await world.get("/half")

    run(story())


def test_what_came_before_a_reset_is_passed_on_also_when_both_came_at_once() -> None:
    class Sent:
        data = b""

        def write(self, data: bytes) -> None:
            self.data += data

        async def drain(self) -> None:
            pass

    async def story() -> list[Any]:
        reader, sent = asyncio.StreamReader(), Sent()
        stream = Http2Stream(reader, cast(asyncio.StreamWriter, sent))
        await stream.send(h11.Request(method="GET", target="/", headers=[("host", "a.test")]))
        await stream.send(h11.EndOfMessage())
        origin = h2.connection.H2Connection(h2.config.H2Configuration(client_side=False))
        origin.initiate_connection()
        origin.receive_data(sent.data)
        origin.send_headers(1, [(":status", "200"), ("content-length", "1000")])
        origin.send_data(1, b"half")
        origin.reset_stream(1)
        reader.feed_data(origin.data_to_send())
        found: list[Any] = [await stream.next_event(5), await stream.next_event(5)]
        with pytest.raises(ConnectionResetError):
            await stream.next_event(5)
        return found

    head, body = run(story())
    assert (head.status_code, bytes(body.data)) == (200, b"half")


def test_an_origin_that_breaks_off_before_its_answer_is_a_520(world: World) -> None:
    async def story() -> httpx.Response:
        async with caddy(world, "@cut path /cut\nabort @cut\nrespond ok"):
            return await world.get("/cut")

    assert_error(run(story()), 520)


def test_websockets_stay_http11(world: World) -> None:
    async def back(connection: websockets.ServerConnection) -> None:
        async for message in connection:
            await connection.send(message)

    async def story() -> str | bytes:
        async with websockets.serve(back, "127.0.0.1", 0) as server:
            port = next(iter(server.sockets)).getsockname()[1]
            site = f"handle /app {{\nreverse_proxy 127.0.0.1:{port}\n}}\nhandle {{\nrespond ok\n}}"
            async with (
                caddy(world, site),
                websockets.connect(
                    f"wss://{HOST}/app",
                    host="127.0.0.1",
                    port=world.tls_port,
                    ssl=world.trust(),
                    open_timeout=WAIT,
                    proxy=None,
                ) as visitor,
            ):
                await visitor.send("hello")
                return await visitor.recv()

    assert run(story()) == "hello"
