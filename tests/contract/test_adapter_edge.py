"""The product's visitor and DNS question, against the emulated edge and name server and the test's own origin."""

import asyncio
import contextlib
import hashlib
import json
import os
import re
import socket
import ssl
import threading
import time
from collections.abc import Callable, Coroutine, Iterator
from http import HTTPStatus
from pathlib import Path
from typing import Any, TypeVar

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding
from websockets.asyncio.server import Server, ServerConnection, serve
from websockets.datastructures import Headers
from websockets.exceptions import ConnectionClosed
from websockets.http11 import Request, Response
from websockets.server import ServerProtocol

from clawdet_cli import USER_AGENT
from clawdet_cli.adapters import edge as adapter
from clawdet_cli.adapters.edge import CONNECT_REQUEST, Visitor, answers_directly, edge_addresses, explain_52x
from clawdet_cli.errors import GuestError
from clawdet_cli.model import Deadline
from clawdet_cli.sandbox.authority import Authority
from clawdet_cli.sandbox.cloudflare import records
from clawdet_cli.sandbox.cloudflare import state as account
from clawdet_cli.sandbox.dns import serve_dns
from clawdet_cli.sandbox.edge.knobs import EdgeKnobs
from clawdet_cli.sandbox.edge.origin import Timeouts
from clawdet_cli.sandbox.edge.proxy import Edge
from tests.contract.served import LoopThread

ZONE, HOST, ORIGIN = "clawdet.test", "alice.clawdet.test", "127.18.0.1"
EDGE = "127.17.0.1"
T = TypeVar("T")


class World:
    """An edge, a name server and an origin that behaves as Caddy and OpenClaw do, in a loop of their own."""

    def __init__(self, folder: Path, loop_thread: LoopThread) -> None:
        self.folder = folder
        self.loop = loop_thread.loop
        self.state: dict[str, Any] = {}
        self.edge_ca = Authority(folder / "edge", "Edge CA")
        self.origin_ca = Authority(folder / "origin", "Origin CA")
        account.seed(self.state, ZONE, [])
        self.seen: list[Headers] = []
        self.origin_address = ("127.0.0.1", 1)  # nothing listens there
        self.origin_server: Server | None = None
        self.tasks: list[asyncio.Task[Any]] = []
        self.edge_socket = socket.create_server(("127.0.0.1", 0))
        timeouts = Timeouts(connect=5, response=5, websocket=5, visitor=5)
        edge = Edge(
            self.state,
            self.edge_ca,
            self.origin_ca,
            self.edge_ca,  # any authority: the origin asks for no certificate
            dial=lambda _ip, _port: self.origin_address,
            timeouts=timeouts,
        )
        self.start(edge.serve(self.edge_socket))

    def wait_for(self, story: Coroutine[Any, Any, T]) -> T:
        return asyncio.run_coroutine_threadsafe(story, self.loop).result(10)

    def start(self, story: Coroutine[Any, Any, Any]) -> None:
        async def begin() -> None:
            self.tasks.append(asyncio.create_task(story))

        self.wait_for(begin())

    @property
    def zone(self) -> dict[str, Any]:
        zone = account.zone_named(self.state, ZONE)
        assert zone is not None
        return zone

    def record(self, name: str, content: str, *, proxied: bool = True) -> None:
        records.create(self.zone, {"name": name, "type": "A", "content": content, "proxied": proxied})

    def origin(self, ca: Authority | None = None) -> str:
        """Start the origin with a certificate, and give that one's SHA-256."""
        certificate, key = (ca or self.origin_ca).issue_server([HOST])
        (self.folder / "pair.pem").write_text(certificate + key)
        tls = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        tls.load_cert_chain(self.folder / "pair.pem")

        async def listen() -> Server:
            return await serve(self.gateway, "127.0.0.1", 0, ssl=tls, process_request=self.page, compression=None)

        self.origin_server = self.wait_for(listen())
        self.origin_address = next(iter(self.origin_server.sockets)).getsockname()[:2]
        der = x509.load_pem_x509_certificate(certificate.encode()).public_bytes(Encoding.DER)
        return hashlib.sha256(der).hexdigest()

    def page(self, _connection: ServerConnection, request: Request) -> Response | None:
        self.seen.append(request.headers)
        if request.headers.get("Upgrade"):
            return Response(404, "Not Found", Headers(), b"") if request.path != "/app" else None
        body = b"x" * 3_000_000 if request.path == "/large" else f"this is {request.path}".encode()
        token = request.headers.get("Authorization")
        status = HTTPStatus.UNAUTHORIZED if request.path == "/app/secret" and not token else HTTPStatus.OK
        headers = Headers({"Content-Length": str(len(body)), "X-Nonce": "abc", "Connection": "close"})
        return Response(status.value, status.phrase, headers, body)

    async def gateway(self, connection: ServerConnection) -> None:
        await connection.send(json.dumps({"type": "event", "event": "connect.challenge", "payload": {"nonce": "n"}}))
        with contextlib.suppress(ConnectionClosed):
            frame = json.loads(await connection.recv())
            own = connection.request and connection.request.headers["Origin"] == f"https://{HOST}"
            code = "CONTROL_UI_DEVICE_IDENTITY_REQUIRED" if own else "CONTROL_UI_ORIGIN_NOT_ALLOWED"
            error = {"code": "INVALID_REQUEST", "message": "no", "details": {"code": code}}
            await connection.send(json.dumps({"type": "res", "id": frame["id"], "ok": False, "error": error}))
            await connection.close(1008, "no")

    def visitor(self, **options: Any) -> Visitor:
        address = self.edge_socket.getsockname()
        return Visitor(HOST, lambda: socket.create_connection(address, 5), self.edge_ca.ca_path, **options)

    def direct(self, pinned: str) -> Visitor:
        return Visitor(
            HOST, lambda: socket.create_connection(self.origin_address, 5), None, pinned, hop="the server itself"
        )

    def close(self) -> None:
        async def end() -> None:
            if self.origin_server:
                self.origin_server.close()
                await self.origin_server.wait_closed()
            for task in self.tasks:
                task.cancel()
            await asyncio.gather(*self.tasks, return_exceptions=True)

        self.wait_for(end())


@pytest.fixture
def world(tmp_path: Path, loop_thread: LoopThread) -> Iterator[World]:
    made = World(tmp_path, loop_thread)
    made.record(HOST, ORIGIN)
    yield made
    made.close()


def as_host(ca: Authority, folder: Path) -> ssl.SSLContext:
    """Give what a server needs to pass for the host."""
    certificate, key = ca.issue_server([HOST])
    (folder / "host.pem").write_text(certificate + key)
    tls = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    tls.load_cert_chain(folder / "host.pem")
    return tls


@contextlib.contextmanager
def dripping(ca: Authority, folder: Path, begins: bytes) -> Iterator[tuple[str, int]]:
    """Listen, and answer one request with so many bytes, and then with one more every now and then for ten seconds."""
    tls = as_host(ca, folder)
    over = threading.Event()

    def answer() -> None:
        with server.accept()[0] as plain, tls.wrap_socket(plain, server_side=True) as stream:
            stream.recv(65536)
            stream.sendall(begins)
            until = Deadline.after(10)
            with contextlib.suppress(OSError):
                while until.left() and not over.wait(0.05):
                    stream.sendall(b"x")

    with socket.create_server(("127.0.0.1", 0)) as server:
        thread = threading.Thread(target=answer)
        thread.start()
        yield server.getsockname()
        over.set()
        thread.join()


@contextlib.contextmanager
def leaving(ca: Authority, folder: Path, answers: bytes) -> Iterator[tuple[str, int]]:
    """Listen, and end each connection after one answer, about which that does not say anything."""
    tls = as_host(ca, folder)

    def answer() -> None:
        with contextlib.suppress(OSError):
            while True:
                with server.accept()[0] as plain, tls.wrap_socket(plain, server_side=True) as stream:
                    if stream.recv(65536):
                        stream.sendall(answers)

    with socket.create_server(("127.0.0.1", 0)) as server:
        thread = threading.Thread(target=answer)
        thread.start()
        try:
            yield server.getsockname()
        finally:
            server.shutdown(socket.SHUT_RDWR)
            thread.join(10)
        assert not thread.is_alive()


class TestHttp:
    def test_a_page_is_read_through_the_edge(self, world: World) -> None:
        world.origin()
        answer = world.visitor().get("/here", {"X-Asked": "yes"})
        assert (answer.status, answer.body, answer.headers["x-nonce"]) == (200, b"this is /here", "abc")
        assert answer.headers["server"] == "cloudflare"
        assert world.seen[0]["X-Asked"] == "yes"
        assert world.seen[0]["Host"] == HOST

    def test_it_introduces_itself_to_edge_and_server(self, world: World) -> None:
        pinned = world.origin()
        world.visitor().get("/")
        world.direct(pinned).get("/")
        world.visitor().websocket("/app", f"https://{HOST}")
        assert [headers.get_all("User-Agent") for headers in world.seen] == [[USER_AGENT]] * 3
        assert re.fullmatch(r"clawdet/[0-9.]+ \(\+https://\S+\)", USER_AGENT)

    def test_a_challenge_and_a_ban_are_told_apart_from_the_servers_answers(self, world: World) -> None:
        world.origin()
        assert world.visitor().get("/").kept_out == ""
        world.zone["bot_fight_mode"] = True
        answer = world.visitor().get("/")
        assert answer.status == 403
        assert "cf-mitigated: challenge" in answer.kept_out
        world.zone["bot_fight_mode"] = False
        EdgeKnobs(world.state).set({"blocked_paths": ["/app"]})
        assert "error code: 1020" in world.visitor().get("/app").kept_out

    def test_a_token_is_sent_where_it_is_asked_for(self, world: World) -> None:
        world.origin()
        visitor = world.visitor()
        assert visitor.get("/app/secret").status == 401
        assert visitor.get("/app/secret", {"Authorization": "Bearer x"}).status == 200

    def test_a_page_is_read_from_the_server_itself_by_its_certificate(self, world: World) -> None:
        answer = world.direct(world.origin()).get("/here")
        assert (answer.status, answer.body) == (200, b"this is /here")
        assert "CF-Ray" not in world.seen[0]

    def test_another_certificate_than_the_issued_one_is_refused(self, world: World) -> None:
        world.origin()
        with pytest.raises(
            GuestError, match=f"as the server itself serves it: it shows the certificate .*, {'0' * 64}"
        ):
            world.direct("0" * 64).get("/")
        assert world.seen == []

    def test_an_authority_that_is_not_trusted_is_told(self, world: World) -> None:
        with pytest.raises(GuestError, match="as the edge serves it: its certificate is refused: unable to get"):
            Visitor(HOST, lambda: socket.create_connection(world.edge_socket.getsockname(), 5), None).get("/")

    def test_a_name_without_a_certificate_is_told(self, world: World) -> None:
        visitor = Visitor(
            "a.b.clawdet.test",
            lambda: socket.create_connection(world.edge_socket.getsockname(), 5),
            world.edge_ca.ca_path,
        )
        with pytest.raises(GuestError, match="the TLS handshake failed"):
            visitor.get("/")

    def test_a_closed_port_is_told(self, world: World) -> None:
        with pytest.raises(GuestError, match="no connection") as caught:
            world.direct("0" * 64).get("/")
        assert "refused" in caught.value.details[0]

    def test_silence_is_told(self, world: World) -> None:
        with socket.create_server(("127.0.0.1", 0)) as silent:
            visitor = Visitor(
                HOST, lambda: socket.create_connection(silent.getsockname(), 5), world.edge_ca.ca_path, timeout=0.3
            )
            with pytest.raises(GuestError, match="the TLS handshake failed") as caught:
                visitor.get("/")
        assert "timed out" in caught.value.details[0]

    @pytest.mark.parametrize("begins", [b"HTTP/1.1 200 OK\r\nX: ", b"HTTP/1.1 200 OK\r\n\r\n"], ids=["head", "body"])
    def test_an_answer_that_never_ends_is_told_in_time(self, world: World, begins: bytes) -> None:
        began = time.monotonic()
        with dripping(world.edge_ca, world.folder, begins) as address:
            visitor = Visitor(HOST, lambda: socket.create_connection(address, 5), world.edge_ca.ca_path, timeout=1)
            with pytest.raises(GuestError, match="GET / got no whole answer"):
                visitor.get("/")
        assert time.monotonic() - began < 5

    def test_an_error_of_the_edge_is_an_answer_that_can_be_explained(self, world: World) -> None:
        status = world.visitor().get("/").status
        assert status == 521
        assert "refuses connections on port 443" in explain_52x(status)

    def test_a_wrong_certificate_at_the_server_too(self, world: World) -> None:
        world.origin(ca=world.edge_ca)
        status = world.visitor().get("/").status
        assert status == 526
        assert "not from the Origin CA" in explain_52x(status)

    def test_no_more_than_a_part_of_a_large_page_is_kept(self, world: World) -> None:
        assert len(world.direct(world.origin()).get("/large").body) == adapter.MOST_BODY

    def test_what_is_no_error_of_the_edge_needs_no_explanation(self) -> None:
        assert explain_52x(200) == ""
        assert all(explain_52x(status).startswith(str(status)) for status in (*range(520, 527), 530, 1016))


class TestVisit:
    """Several requests over one connection."""

    def visitor(self, address: tuple[str, int], world: World, opened: list[socket.socket]) -> Visitor:
        def connect() -> socket.socket:
            opened.append(socket.create_connection(address, 5))
            return opened[-1]

        return Visitor(HOST, connect, world.edge_ca.ca_path, timeout=5)

    def test_one_connection_is_enough(self, world: World) -> None:
        world.origin()
        opened: list[socket.socket] = []
        with self.visitor(world.edge_socket.getsockname(), world, opened).visit() as visit:
            answers = [visit.get("/a"), visit.get("/app/secret"), visit.get("/app/secret", {"Authorization": "x"})]
        assert [answer.status for answer in answers] == [200, 401, 200]
        assert answers[0].body == b"this is /a"
        assert len(opened) == 1
        assert visit._stream is None  # closed, and not left to whoever collects garbage

    def test_a_connection_that_the_other_side_is_to_close_is_not_used_again(self, world: World) -> None:
        world.origin(ca=world.edge_ca)
        opened: list[socket.socket] = []
        with self.visitor(world.origin_address, world, opened).visit() as visit:
            assert (visit.get("/a").body, visit.get("/b").body) == (b"this is /a", b"this is /b")
        assert len(opened) == 2

    def test_one_that_it_ended_without_a_word_is_replaced(self, world: World) -> None:
        opened: list[socket.socket] = []
        answer = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
        with (
            leaving(world.edge_ca, world.folder, answer) as address,
            self.visitor(address, world, opened).visit() as visit,
        ):
            assert [visit.get("/").body for _ in range(3)] == [b"ok"] * 3
        assert len(opened) == 3

    def test_one_with_more_of_an_answer_than_was_read_is_not_used_again(self, world: World) -> None:
        opened: list[socket.socket] = []
        size = adapter.MOST_BODY + 9
        answer = f"HTTP/1.1 200 OK\r\nContent-Length: {size}\r\n\r\n".encode() + bytes(size)
        with (
            leaving(world.edge_ca, world.folder, answer) as address,
            self.visitor(address, world, opened).visit() as visit,
        ):
            assert len(visit.get("/").body) == adapter.MOST_BODY
            assert visit._stream is None  # what is left could pass for the next answer
            assert len(visit.get("/").body) == adapter.MOST_BODY

    def test_a_fresh_connection_without_an_answer_is_not_replaced(self, world: World) -> None:
        opened: list[socket.socket] = []
        with (
            leaving(world.edge_ca, world.folder, b"") as address,
            self.visitor(address, world, opened).visit() as visit,
            pytest.raises(GuestError, match="GET / got no whole answer"),
        ):
            visit.get("/")
        assert len(opened) == 1


Gateway = Callable[[ssl.SSLSocket, ServerProtocol], None]
"""What a gateway does after the handshake, which it has not sent yet."""


@contextlib.contextmanager
def one_websocket(world: World, gateway: Gateway) -> Iterator[Visitor]:
    """Serve one WebSocket, and give a visitor with a patience of two seconds."""
    tls = as_host(world.edge_ca, world.folder)

    def serve_one() -> None:
        plain, _ = listening.accept()
        with tls.wrap_socket(plain, server_side=True) as stream, contextlib.suppress(OSError):
            asked = b""
            while b"\r\n\r\n" not in asked:
                asked += stream.recv(65536)
            protocol = ServerProtocol()
            protocol.receive_data(asked)
            (request,) = protocol.events_received()
            assert isinstance(request, Request)
            protocol.send_response(protocol.accept(request))
            gateway(stream, protocol)

    with socket.create_server(("127.0.0.1", 0)) as listening:
        serving = threading.Thread(target=serve_one)
        serving.start()
        try:
            address = listening.getsockname()
            yield Visitor(HOST, lambda: socket.create_connection(address, 5), world.edge_ca.ca_path, timeout=2)
        finally:
            serving.join(30)
        assert not serving.is_alive()


def challenge(stream: ssl.SSLSocket, protocol: ServerProtocol) -> None:
    """Send the handshake and the first frame."""
    protocol.send_text(b'{"event": "connect.challenge"}')
    stream.sendall(b"".join(protocol.data_to_send()))


def _until_closed(stream: ssl.SSLSocket) -> None:
    while stream.recv(65536):
        pass


class TestWebSocket:
    def test_the_first_frame_is_the_challenge(self, world: World) -> None:
        world.origin()
        answer = world.visitor().websocket("/app", f"https://{HOST}")
        assert answer.status == 101
        assert answer.first is not None
        assert answer.first["event"] == "connect.challenge"
        assert (answer.refusal, answer.close_code) == (None, None)

    def test_a_challenge_in_its_place_is_told(self, world: World) -> None:
        world.origin()
        world.zone["bot_fight_mode"] = True
        answer = world.visitor().websocket("/app", f"https://{HOST}")
        assert (answer.status, answer.first) == (403, None)
        assert "cf-mitigated: challenge" in answer.kept_out
        world.zone["bot_fight_mode"] = False
        EdgeKnobs(world.state).set({"blocked_paths": ["/app"]})
        assert "error code: 1020" in world.visitor().websocket("/app", f"https://{HOST}").kept_out

    def test_a_foreign_origin_is_refused_after_its_request(self, world: World) -> None:
        world.origin()
        answer = world.visitor().websocket("/app", "https://evil.example", CONNECT_REQUEST)
        assert (answer.status, answer.close_code) == (101, 1008)
        assert answer.refusal == "CONTROL_UI_ORIGIN_NOT_ALLOWED"

    def test_so_is_a_device_without_identity_for_another_reason(self, world: World) -> None:
        answer = world.direct(world.origin()).websocket("/app", f"https://{HOST}", CONNECT_REQUEST)
        assert (answer.refusal, answer.close_code) == ("CONTROL_UI_DEVICE_IDENTITY_REQUIRED", 1008)

    def test_half_a_record_does_not_keep_it_waiting_for_ever(self, world: World) -> None:
        def half(stream: ssl.SSLSocket, protocol: ServerProtocol) -> None:
            challenge(stream, protocol)
            with socket.socket(fileno=os.dup(stream.fileno())) as plain:
                plain.sendall(b"\x17\x03\x03")
            _until_closed(stream)

        with one_websocket(world, half) as visitor:
            answer = visitor.websocket("/app", f"https://{HOST}", CONNECT_REQUEST)
        assert (answer.first, answer.refusal, answer.close_code) == ({"event": "connect.challenge"}, None, None)

    def test_frames_without_end_are_not_read_without_end(self, world: World) -> None:
        def talk(stream: ssl.SSLSocket, protocol: ServerProtocol) -> None:
            while True:
                challenge(stream, protocol)

        with one_websocket(world, talk) as visitor:
            answer = visitor.websocket("/app", f"https://{HOST}", CONNECT_REQUEST)
        assert (answer.status, answer.refusal, answer.close_code) == (101, None, None)

    def test_a_message_may_come_in_parts(self, world: World) -> None:
        def in_parts(stream: ssl.SSLSocket, protocol: ServerProtocol) -> None:
            protocol.send_text(b'{"event": ', fin=False)
            protocol.send_continuation(b'"connect.challenge"}', fin=True)
            for byte in b"".join(protocol.data_to_send()):
                stream.sendall(bytes([byte]))

        with one_websocket(world, in_parts) as visitor:
            assert visitor.websocket("/app", f"https://{HOST}").first == {"event": "connect.challenge"}

    def test_a_server_that_hangs_up_instead_of_answering_is_told_as_such(self, world: World) -> None:
        with (
            one_websocket(world, lambda stream, _: stream.close()) as visitor,
            pytest.raises(GuestError, match="the WebSocket /app was not opened") as caught,
        ):
            visitor.websocket("/app", f"https://{HOST}")
        assert caught.value.details == ("connection closed while reading HTTP status line",)

    def test_a_server_that_does_not_answer_is_not_waited_for_for_ever(self, world: World) -> None:
        with (
            one_websocket(world, lambda stream, _: _until_closed(stream)) as visitor,
            pytest.raises(GuestError, match="the WebSocket /app was not opened"),
        ):
            visitor.websocket("/app", f"https://{HOST}")

    def test_no_second_thread_touches_the_connection(self, world: World) -> None:
        # Python 3.11 lets two threads into one TLS connection at once, and then both may wait for the other side.
        at_work: list[threading.Thread] = []

        def look(stream: ssl.SSLSocket, protocol: ServerProtocol) -> None:
            at_work.extend(threading.enumerate())
            challenge(stream, protocol)

        before = set(threading.enumerate())
        with one_websocket(world, look) as visitor:
            visitor.websocket("/app", f"https://{HOST}")
        assert len(set(at_work) - before) == 1, "the server's"

    def test_where_there_is_none_the_status_says_so(self, world: World) -> None:
        world.origin()
        assert world.visitor().websocket("/", f"https://{HOST}").status == 404

    def test_an_error_of_the_edge_is_an_answer(self, world: World) -> None:
        assert world.visitor().websocket("/app", f"https://{HOST}").status == 521


class TestDns:
    @pytest.fixture
    def dns(self, world: World) -> tuple[str, int]:
        tcp = socket.create_server(("127.0.0.1", 0))
        udp = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        udp.bind(tcp.getsockname())
        world.start(serve_dns(world.state, [EDGE], udp, tcp))
        address: tuple[str, int] = tcp.getsockname()
        return address

    def test_a_proxied_name_leads_to_the_edge(self, dns: tuple[str, int]) -> None:
        assert edge_addresses(HOST, [], dns, Deadline.after(10)) == [EDGE]

    def test_one_that_is_not_shows_its_address(self, world: World, dns: tuple[str, int]) -> None:
        world.record("bob.clawdet.test", "127.18.0.2", proxied=False)
        assert edge_addresses("bob.clawdet.test", [], dns, Deadline.after(10)) == ["127.18.0.2"]

    def test_none_is_an_empty_list(self, dns: tuple[str, int]) -> None:
        assert edge_addresses("nobody.clawdet.test", [], dns, Deadline.after(10)) == []

    def test_tcp_serves_where_udp_is_silent(self, world: World) -> None:
        tcp = socket.create_server(("127.0.0.1", 0))
        with (
            socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as silent,
            socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as udp,
        ):
            silent.bind(tcp.getsockname())
            udp.bind(("127.0.0.1", 0))
            world.start(serve_dns(world.state, [EDGE], udp.dup(), tcp))
            assert edge_addresses(HOST, [], tcp.getsockname(), Deadline.after(0.3)) == [EDGE]

    def test_a_refusal_is_told(self, dns: tuple[str, int]) -> None:
        with pytest.raises(GuestError, match="No name server answers") as caught:
            edge_addresses("www.example.test", [], dns, Deadline.after(10))
        assert "REFUSED" in caught.value.details[0]

    def test_the_last_resort_is_said_and_only_taken_when_allowed(self) -> None:
        with socket.create_server(("127.0.0.1", 0)) as listener:
            closed = listener.getsockname()
        told: list[str] = []
        with pytest.raises(GuestError):
            edge_addresses("localhost", [], closed, Deadline.after(0.5), watch=told.append)
        assert told == []
        found = edge_addresses("localhost", [], closed, Deadline.after(0.5), system_resolver=True, watch=told.append)
        assert found == ["127.0.0.1"]
        assert "may lag" in told[0]


@pytest.mark.parametrize(
    ("said", "answers"),
    [
        (b"", False),
        (bytes([21, 3, 3, 0, 2, 2, 40]), True),
        (b"HTTP/1.1 400 Bad Request\r\n\r\n", True),
    ],
    ids=["nothing", "an alert", "something else"],
)
def test_a_connection_that_is_closed_without_a_word_is_no_answer(said: bytes, *, answers: bool) -> None:
    """As when the process is killed that kept it silent: the system closes it, and nobody was let in."""
    with socket.create_server(("127.0.0.1", 0)) as listening:

        def take() -> None:
            connection, _ = listening.accept()
            with connection:
                connection.recv(65536)  # what is unread would be answered with a reset
                connection.sendall(said)

        thread = threading.Thread(target=take)
        thread.start()
        try:
            assert answers_directly(listening.getsockname(), "alice.clawdet.test", 5, tls=True) is answers
        finally:
            thread.join()
