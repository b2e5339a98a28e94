import asyncio
import contextlib
import os
import shutil
import socket
import ssl
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import websockets

from clawdet_cli.sandbox.authority import Authority
from tests.contract.edge_world import (
    HOST,
    ORIGIN,
    WAIT,
    ZONE,
    World,
    answering,
    assert_error,
    one_get,
    read_head,
    run,
    running,
)


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)


def test_a_request_passes_through(world: World) -> None:
    heads: list[str] = []
    answer = one_get(
        world,
        answering(heads=heads),
        world.certificate(),
        path="/a?b=c",
        headers={"CF-Connecting-IP": "6.6.6.6", "X-Forwarded-For": "5.5.5.5", "X-Own": "kept", "CF-Ray": "forged"},
    )
    assert (answer.status_code, answer.text) == (200, "hello")
    assert answer.headers["server"] == "cloudflare"
    (head,) = heads
    lines = head.split("\r\n")
    assert lines[0] == "get /a?b=c http/1.1"
    assert {
        f"host: {HOST}",
        "x-own: kept",
        "cf-connecting-ip: 127.0.0.1",
        "x-forwarded-for: 5.5.5.5, 127.0.0.1",
        "x-forwarded-proto: https",
        'cf-visitor: {"scheme":"https"}',
        "cdn-loop: cloudflare; loops=1",
        f"cf-ray: {answer.headers['cf-ray'].lower()}",
    } <= set(lines)
    assert sum(line.startswith(("cf-connecting-ip:", "cf-ray:")) for line in lines) == 2


def test_the_origin_sees_the_edge_come_from_the_published_range(world: World) -> None:
    peers: list[str] = []

    async def story() -> httpx.Response:
        async with (
            running(world, source="127.17.0.9"),
            world.origin(answering(peers=peers), world.certificate()),
        ):
            return await world.get()

    if sys.platform != "linux":
        pytest.skip("only Linux answers on the whole of 127.0.0.0/8")
    assert run(story()).status_code == 200
    assert peers == ["127.17.0.9"]


def test_521_nobody_listens(world: World) -> None:
    async def story() -> httpx.Response:
        with socket.socket() as closed:
            closed.bind(("127.0.0.1", 0))
            world.where[ORIGIN, 443] = closed.getsockname()
            async with running(world):
                return await world.get()

    assert_error(run(story()), 521)


def test_522_a_firewall_that_drops(world: World) -> None:
    async def silent(reader: asyncio.StreamReader, _: asyncio.StreamWriter) -> None:
        while await reader.read(4096):
            pass

    assert_error(one_get(world, silent, None, limits={"connect": 0.2}), 522)


def test_522_a_server_that_takes_no_more_connections(world: World) -> None:
    async def story() -> httpx.Response:
        with socket.socket() as full, contextlib.ExitStack() as stack:
            full.bind(("127.0.0.1", 0))
            full.listen(0)
            world.where[ORIGIN, 443] = full.getsockname()
            for _ in range(3):  # fills the queue of the kernel, which drops what comes then
                waiting = stack.enter_context(socket.socket())
                waiting.setblocking(False)
                waiting.connect_ex(full.getsockname())
            async with running(world, connect=0.3):
                return await world.get()

    assert_error(run(story()), 522)


def test_523_no_route(world: World) -> None:
    async def story() -> httpx.Response:
        async with running(world):
            return await world.get()

    assert_error(run(story()), 523)


def test_525_no_certificate_for_the_name(world: World) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)  # has no certificate at all
    assert_error(one_get(world, answering(), context), 525)


def test_525_no_tls_at_all(world: World) -> None:
    async def plain(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(4096)
        writer.write(b"HTTP/1.1 400 Bad Request\r\n\r\n")

    assert_error(one_get(world, plain, None), 525)


def test_525_the_origin_hangs_up_in_the_handshake(world: World) -> None:
    async def hang_up(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(4096)
        writer.transport.abort()

    assert_error(one_get(world, hang_up, None), 525)


@pytest.mark.parametrize("fault", ["unknown_ca", "other_name", "expired", "revoked"])
def test_526_a_certificate_that_is_not_valid(world: World, fault: str, tmp_path: Path) -> None:
    context = {
        "unknown_ca": lambda: world.certificate(ca=Authority(tmp_path / "other", "Some CA")),
        "other_name": lambda: world.certificate(host="bob.clawdet.test"),
        "expired": lambda: world.certificate(days=-1),
        "revoked": lambda: world.certificate(revoked=True),
    }[fault]()
    assert_error(one_get(world, answering(), context), 526)


def test_mode_full_checks_nothing(world: World, tmp_path: Path) -> None:
    world.setting("ssl", "full")
    context = world.certificate(ca=Authority(tmp_path / "other", "Some CA"), host="x.test", days=-1)
    assert one_get(world, answering(), context).text == "hello"


def test_mode_flexible_uses_port_80(world: World) -> None:
    world.setting("ssl", "flexible")
    assert one_get(world, answering("plain"), None, port=80).text == "plain"


def test_mode_off_sends_visitors_to_http(world: World) -> None:
    world.setting("ssl", "off")
    answer = one_get(world, answering(), None, port=80, path="/x?y")
    assert (answer.status_code, answer.headers["location"]) == (301, f"http://{HOST}/x?y")


def test_http_visitors_are_redirected_or_served_from_port_80(world: World) -> None:
    heads: list[str] = []
    world.setting("always_use_https", "on")
    answer = one_get(world, answering(), None, port=80, scheme="http", path="/x")
    assert (answer.status_code, answer.headers["location"]) == (301, f"https://{HOST}/x")
    world.setting("always_use_https", "off")
    assert one_get(world, answering("plain", heads), None, port=80, scheme="http").text == "plain"
    assert "x-forwarded-proto: http\r\n" in heads[0]


@pytest.mark.parametrize("answer", [b"", b"what is this\r\n\r\n", b"HTTP/1.1 200 OK\r\nx: " + b"y" * 300_000])
def test_520_an_answer_that_is_none(world: World, answer: bytes) -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await read_head(reader)
        writer.write(answer)
        await writer.drain()

    assert_error(one_get(world, serve, world.certificate()), 520)


def test_524_too_slow(world: World) -> None:
    async def slow(reader: asyncio.StreamReader, _: asyncio.StreamWriter) -> None:
        await read_head(reader)
        await reader.read()

    assert_error(one_get(world, slow, world.certificate(), limits={"response": 0.5}), 524)


def test_530_an_alias_that_leads_nowhere(world: World) -> None:
    world.record("lost", "nowhere.example", "CNAME")
    assert_error(one_get(world, answering(), None, host="lost.clawdet.test"), 530, 1016)


def test_an_alias_leads_to_the_origin_under_its_own_name(world: World) -> None:
    world.record("www", HOST, "CNAME")
    context = world.certificate(host="www.clawdet.test")
    assert one_get(world, answering(), context, host="www.clawdet.test").text == "hello"


def test_names_that_the_edge_does_not_serve(world: World) -> None:
    world.record("direct", ORIGIN, proxied=False)

    async def story() -> None:
        async with running(world), world.origin(answering(), world.certificate()):
            assert_error(await world.get(host="nobody.clawdet.test"), 409, 1001)
            assert_error(await world.get(host="direct.clawdet.test"), 409, 1001)
            assert_error(await world.get(host="example.com", scheme="http"), 409, 1001)
            assert_error(await world.get(host="127.0.0.1", sni=HOST), 403, 1003)
            assert_error(await world.get(host="127.0.0.1", scheme="http"), 403, 1003)
            assert_error(await world.get(host="x.clawdet-full.test", sni=HOST), 403, 1003)
            world.zone["paused"] = True
            assert_error(await world.get(), 409, 1001)

    run(story())


@pytest.mark.parametrize("name", ["a.alice.clawdet.test", "alice.clawdet-pending.test", "example.com", None])
def test_no_certificate_beyond_the_first_level_of_an_active_zone(world: World, name: str | None) -> None:
    world.record("a.alice", ORIGIN)
    context = world.trust()
    context.check_hostname = name is not None

    async def story() -> None:
        async with running(world):
            with pytest.raises(ssl.SSLError, match=r"(?i)handshake.failure"):
                await asyncio.open_connection("127.0.0.1", world.tls_port, ssl=context, server_hostname=name or "")

    run(story())


def test_the_edge_does_not_call_itself(world: World) -> None:
    assert_error(
        one_get(world, answering(), world.certificate(), headers={"CDN-Loop": "cloudflare; loops=1"}), 403, 1000
    )


def test_the_edge_answers_its_trace_without_an_origin(world: World) -> None:
    async def story() -> httpx.Response:
        async with running(world):
            return await world.get("/cdn-cgi/trace", headers={"User-Agent": "probe"})

    answer = run(story())
    assert answer.status_code == 200
    trace = dict(line.split("=", 1) for line in answer.text.splitlines())
    assert trace["h"] == HOST
    assert trace["ip"] == "127.0.0.1"
    assert trace["visit_scheme"] == "https"
    assert trace["uag"] == "probe"
    assert trace["tls"].startswith("TLSv1.")


def test_a_connection_serves_several_requests(world: World) -> None:
    async def story() -> list[str]:
        async with running(world), world.origin(answering(), world.certificate()):
            reader, writer = await asyncio.open_connection(
                "127.0.0.1", world.tls_port, ssl=world.trust(), server_hostname=HOST
            )
            heads = []
            for path in ("/", "/cdn-cgi/trace", "/"):
                writer.write(f"GET {path} HTTP/1.1\r\nHost: {HOST}\r\nUser-Agent: a test\r\n\r\n".encode())
                heads.append(await read_head(reader))
                length = heads[-1].split("content-length: ")[1].split("\r\n")[0]
                await reader.readexactly(int(length))
            writer.close()
            await writer.wait_closed()
            return heads

    assert [head.split()[1] for head in run(story())] == ["200", "200", "200"]


def test_a_body_streams_in_both_directions(world: World) -> None:
    """The origin sends a second part only after the first has reached the visitor, and the other way round."""
    seen = asyncio.Queue[bytes]()
    more = asyncio.Event()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await read_head(reader)
        await seen.put(await reader.readuntil(b"first\r\n"))
        await seen.put(await reader.readuntil(b"0\r\n\r\n"))
        writer.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nearly\r\n")
        await more.wait()
        writer.write(b"4\r\nlate\r\n0\r\n\r\n")
        await writer.drain()

    async def upload() -> AsyncIterator[bytes]:
        yield b"first"
        assert await seen.get() == b"5\r\nfirst\r\n"
        yield b"second"

    async def story() -> list[bytes]:
        async with running(world), world.origin(serve, world.certificate()), world.client() as client:
            request = client.build_request(
                "POST",
                f"https://127.0.0.1:{world.tls_port}/",
                content=upload(),
                headers={"Host": HOST},
                extensions={"sni_hostname": HOST},
            )
            answer = await client.send(request, stream=True)
            parts = []
            async for part in answer.aiter_raw():
                parts.append(part)  # the event is set between two parts
                more.set()
            return parts

    assert run(story()) == [b"early", b"late"]


def test_a_large_body_arrives_whole(world: World) -> None:
    async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await read_head(reader)
        length = int(head.split("content-length: ")[1].split("\r\n")[0])
        writer.write(f"HTTP/1.1 200 OK\r\nContent-Length: {length}\r\n\r\n".encode())
        while length:
            part = await reader.read(65536)
            length -= len(part)
            writer.write(part)
            await writer.drain()

    body = os.urandom(3_000_000)
    answer = one_get(world, echo, world.certificate(), method="POST", content=body)
    assert answer.content == body


def test_head_and_bodiless_answers(world: World) -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await read_head(reader)
        if head.startswith("head"):
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n")
        else:
            writer.write(b"HTTP/1.1 304 Not Modified\r\n\r\n")
        await writer.drain()

    answer = one_get(world, serve, world.certificate(), method="HEAD")
    assert (answer.status_code, answer.headers["content-length"], answer.content) == (200, "1000", b"")
    assert one_get(world, serve, world.certificate()).status_code == 304


def test_a_visitor_who_asks_first_may_send(world: World) -> None:
    heads: list[str] = []

    async def story() -> list[str]:
        async with running(world), world.origin(answering(heads=heads), world.certificate()):
            reader, writer = await asyncio.open_connection(
                "127.0.0.1", world.tls_port, ssl=world.trust(), server_hostname=HOST
            )
            writer.write(
                f"POST / HTTP/1.1\r\nHost: {HOST}\r\nUser-Agent: a test\r\n"
                "Expect: 100-continue\r\nContent-Length: 2\r\n\r\n".encode()
            )
            first = await read_head(reader)
            writer.write(b"ok")
            second = await read_head(reader)
            writer.close()
            await writer.wait_closed()
            return [first.split()[1], second.split()[1]]

    assert run(story()) == ["100", "200"]
    assert "expect:" not in heads[0]


def test_half_an_answer_is_not_passed_off_as_whole(world: World) -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await read_head(reader)
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nhalf")
        await writer.drain()

    with pytest.raises(httpx.TransportError):
        one_get(world, serve, world.certificate())


def test_a_head_without_end_is_refused(world: World) -> None:
    async def story() -> httpx.Response:
        async with running(world):
            return await world.get(headers={"X-Long": "x" * 200_000})

    assert run(story()).status_code == 431


def test_what_is_no_http_is_refused(world: World) -> None:
    async def story() -> bytes:
        async with running(world):
            reader, writer = await asyncio.open_connection("127.0.0.1", world.http_port)
            writer.write(b"EHLO mail.example.com\r\n\r\n")
            answer = await reader.read()
            writer.close()
            await writer.wait_closed()
            return answer

    assert run(story()).startswith(b"HTTP/1.1 400 ")


@contextlib.asynccontextmanager
async def websocket_origin(world: World) -> AsyncIterator[None]:
    async def echo(connection: websockets.ServerConnection) -> None:
        async for message in connection:
            await connection.send(message)

    async with websockets.serve(echo, "127.0.0.1", 0, ssl=world.certificate()) as server:
        world.where[ORIGIN, 443] = next(iter(server.sockets)).getsockname()[:2]
        yield


def visit_websocket(world: World) -> websockets.connect:
    return websockets.connect(
        f"wss://{HOST}/app", host="127.0.0.1", port=world.tls_port, ssl=world.trust(), open_timeout=WAIT, proxy=None
    )


def test_websockets_pass_through(world: World) -> None:
    async def story() -> tuple[Any, Any, int | None]:
        async with running(world), websocket_origin(world), visit_websocket(world) as visitor:
            await visitor.send("hello")
            first = await visitor.recv()
            await visitor.send(b"x" * 200_000)
            second = await visitor.recv()
            await visitor.close(1000)
            return first, second, visitor.close_code

    first, second, code = run(story())
    assert first == "hello"
    assert second == b"x" * 200_000
    assert code == 1000


def test_an_idle_websocket_is_cut(world: World) -> None:
    async def story() -> None:
        async with running(world, websocket=0.3), websocket_origin(world), visit_websocket(world) as visitor:
            with pytest.raises(websockets.ConnectionClosedError):
                await asyncio.wait_for(visitor.recv(), WAIT)

    run(story())


def test_a_websocket_in_use_outlives_the_idle_limit(world: World) -> None:
    async def story() -> None:
        loop = asyncio.get_running_loop()
        async with running(world, websocket=1.0), websocket_origin(world), visit_websocket(world) as visitor:
            end = loop.time() + 2.2
            while loop.time() < end:
                await visitor.send("still here")
                assert await visitor.recv() == "still here"

    run(story())


def test_a_zone_without_websockets_asks_for_none(world: World) -> None:
    world.setting("websockets", "off")
    heads: list[str] = []
    one_get(
        world, answering(heads=heads), world.certificate(), headers={"Upgrade": "websocket", "Connection": "Upgrade"}
    )
    assert "upgrade" not in heads[0]


def test_before_a_real_caddy(world: World) -> None:
    caddy = shutil.which("caddy", path=str(Path(sys.executable).parent))
    if caddy is None:
        pytest.skip("the caddy program is not installed")
    world.certificate()
    world.record("bob", ORIGIN)
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    caddyfile = world.folder / "Caddyfile"
    caddyfile.write_text(f"""
        {{
            admin off
            auto_https disable_redirects
            persist_config off
        }}
        {HOST}:{port} {{
            bind 127.0.0.1
            tls {world.folder}/origin.pem {world.folder}/origin.key
            respond "caddy for {{host}} from {{http.request.header.CF-Connecting-IP}}"
        }}
    """)

    async def story() -> None:
        process = await asyncio.create_subprocess_exec(
            caddy,
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
                answer = await world.get()
                deadline = asyncio.get_running_loop().time() + 2 * WAIT
                while answer.status_code == 521:  # until it listens
                    assert asyncio.get_running_loop().time() < deadline
                    answer = await world.get()
                assert (answer.status_code, answer.text) == (200, f"caddy for {HOST} from 127.0.0.1")
                # a name without a site ends in a TLS alert
                assert_error(await world.get(host="bob.clawdet.test"), 525)
        finally:
            process.terminate()
            await process.wait()

    run(story())


def test_the_end_of_the_edge_cuts_its_visitors(world: World) -> None:
    async def story() -> None:
        async with websocket_origin(world):
            async with running(world):
                visitor = await visit_websocket(world)
                await visitor.send("hello")
                assert await visitor.recv() == "hello"
            with pytest.raises(websockets.ConnectionClosedError):
                await asyncio.wait_for(visitor.recv(), WAIT)

    run(story())


@pytest.mark.parametrize("method", ["CONNECT", "TRACE"])
def test_what_is_no_request_to_an_origin_ends_at_the_edge(world: World, method: str) -> None:
    async def story() -> bytes:
        async with running(world), world.origin(answering(), world.certificate()):
            reader, writer = await asyncio.open_connection(
                "127.0.0.1", world.tls_port, ssl=world.trust(), server_hostname=HOST
            )
            writer.write(f"{method} / HTTP/1.1\r\nHost: {HOST}\r\nConnection: close\r\n\r\n".encode())
            async with asyncio.timeout(WAIT):
                answer = await reader.read()
            writer.close()
            assert (await world.get()).text == "hello"  # the edge lives
            return answer

    assert run(story()).startswith(b"HTTP/1.1 405 ")


@pytest.mark.parametrize("label", ["", "x.", "a" * 64, "-a", "a b", "*", "\xfc"])
def test_a_host_that_no_origin_could_be_asked_for_is_a_bad_request(world: World, label: str) -> None:
    world.record(f"*.{ZONE}", ORIGIN)
    host = f"{label}.{ZONE}".encode("latin-1")
    answer = one_get(world, answering(), world.certificate(), host=host, sni=HOST)
    assert answer.status_code == 400
    assert answer.headers["server"] == "cloudflare"


def test_an_error_of_the_edge_does_not_leave_the_visitor_waiting(
    world: World, caplog: pytest.LogCaptureFixture
) -> None:
    world.zone["settings"].pop("ssl")
    with pytest.raises(httpx.RemoteProtocolError):
        one_get(world, answering(), world.certificate())
    assert "a visit from 127.0.0.1 failed" in caplog.text


def test_an_origin_that_the_edge_has_no_address_for_is_unreachable(world: World) -> None:
    world.where[ORIGIN, 443] = ("::1", 9)

    async def story() -> httpx.Response:
        async with running(world):
            return await world.get()

    assert_error(run(story()), 523)
