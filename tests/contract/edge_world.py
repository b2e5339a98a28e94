"""The emulated edge with a visitor and an origin of the test's own, all in one event loop."""

import asyncio
import contextlib
import errno
import socket
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import httpx
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from clawdet_cli.sandbox.authority import Authority
from clawdet_cli.sandbox.cloudflare import records
from clawdet_cli.sandbox.cloudflare import state as account
from clawdet_cli.sandbox.edge.origin import Timeouts
from clawdet_cli.sandbox.edge.proxy import Edge

ZONE = "clawdet.test"
HOST = "alice.clawdet.test"
ORIGIN = "127.18.0.1"
WAIT = 5.0

Serve = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]
T = TypeVar("T")


@dataclass
class World:
    """An edge, its visitors and its origins, all in one event loop."""

    folder: Path
    state: dict[str, Any] = field(default_factory=dict)
    where: dict[tuple[str, int], tuple[str, int]] = field(default_factory=dict)
    tls_port: int = 0
    http_port: int = 0

    def __post_init__(self) -> None:
        self.edge_ca = Authority(self.folder / "edge", "Edge CA")
        self.origin_ca = Authority(self.folder / "origin", "Origin CA")
        account.seed(self.state, ZONE, [])
        self.record(HOST, ORIGIN)

    @property
    def zone(self) -> dict[str, Any]:
        zone = account.zone_named(self.state, ZONE)
        assert zone is not None
        return zone

    def record(self, name: str, content: str, kind: str = "A", *, proxied: bool = True) -> None:
        records.create(self.zone, {"name": name, "type": kind, "content": content, "proxied": proxied})

    def setting(self, name: str, value: str) -> None:
        self.zone["settings"][name]["value"] = value

    def dial(self, ip: str, port: int) -> tuple[str, int]:
        found = self.where.get((ip, port))
        if found is None:
            raise OSError(errno.EHOSTUNREACH, "no such server")
        return found

    def trust(self) -> ssl.SSLContext:
        return ssl.create_default_context(cadata=self.edge_ca.ca_pem)

    def client(self) -> httpx.AsyncClient:
        return httpx.AsyncClient(verify=self.trust(), trust_env=False, timeout=WAIT)

    async def get(self, path: str = "/", *, host: str = HOST, scheme: str = "https", **more: Any) -> httpx.Response:
        port = self.tls_port if scheme == "https" else self.http_port
        headers = {"Host": host} | more.pop("headers", {})
        async with self.client() as client:
            return await client.request(
                more.pop("method", "GET"),
                f"{scheme}://127.0.0.1:{port}{path}",
                headers=headers,
                extensions={"sni_hostname": more.pop("sni", host)},
                **more,
            )

    def certificate(
        self, *, ca: Authority | None = None, host: str = HOST, days: float = 7, revoked: bool = False
    ) -> ssl.SSLContext:
        key = ec.generate_private_key(ec.SECP256R1())
        csr = x509.CertificateSigningRequestBuilder().subject_name(x509.Name([])).sign(key, hashes.SHA256())
        pem = csr.public_bytes(serialization.Encoding.PEM).decode()
        issued = (ca or self.origin_ca).sign_csr(pem, [host], days)
        if revoked:
            self.state["certificates"][str(issued.serial)] = {"revoked_at": account.now(), "hostnames": [host]}
        private = key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
        (self.folder / "origin.pem").write_text(issued.certificate)
        (self.folder / "origin.key").write_bytes(private)
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(self.folder / "origin.pem", self.folder / "origin.key")
        return context

    @contextlib.asynccontextmanager
    async def origin(self, serve: Serve, context: ssl.SSLContext | None, *, port: int = 443) -> AsyncIterator[None]:
        """Run an origin at the record's address."""
        tasks: set[asyncio.Task[None]] = set()

        async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            task = asyncio.current_task()
            assert task is not None
            tasks.add(task)
            try:
                await serve(reader, writer)
            except OSError:
                pass
            finally:
                writer.close()

        server = await asyncio.start_server(connected, "127.0.0.1", 0, ssl=context)
        self.where[ORIGIN, port] = server.sockets[0].getsockname()[:2]
        try:
            yield
        finally:
            server.close()
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)


def bound(address: str) -> socket.socket:
    sock = socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    sock.bind((address, 0))
    return sock


@contextlib.asynccontextmanager
async def running(world: World, *, source: str = "127.0.0.1", **limits: float) -> AsyncIterator[World]:
    # only the limit that a test is about may be short, or a busy machine would meet another one first
    timeouts = Timeouts(**dict.fromkeys(("connect", "response", "websocket", "visitor"), WAIT) | limits)
    edge = Edge(
        world.state,
        world.edge_ca,
        world.origin_ca,
        world.edge_ca,  # any authority: what origins are shown is tested with whole servers
        dial=world.dial,
        source=lambda: bound(source),
        timeouts=timeouts,
    )
    tls, http = socket.create_server(("127.0.0.1", 0)), socket.create_server(("127.0.0.1", 0))
    world.tls_port, world.http_port = tls.getsockname()[1], http.getsockname()[1]
    task = asyncio.create_task(edge.serve(tls, http))
    try:
        yield world
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        tls.close()
        http.close()


def run(story: Coroutine[Any, Any, T]) -> T:
    return asyncio.run(story)


async def read_head(reader: asyncio.StreamReader) -> str:
    return (await reader.readuntil(b"\r\n\r\n")).decode().lower()


def answering(body: str = "hello", heads: list[str] | None = None, peers: list[str] | None = None) -> Serve:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await read_head(reader)
        if heads is not None:
            heads.append(head)
        if peers is not None:
            peers.append(writer.get_extra_info("peername")[0])
        writer.write(f"HTTP/1.1 200 OK\r\nServer: mine\r\nContent-Length: {len(body)}\r\n\r\n{body}".encode())
        await writer.drain()

    return serve


def one_get(
    world: World, serve: Serve, context: ssl.SSLContext | None, *, port: int = 443, **more: Any
) -> httpx.Response:
    limits = more.pop("limits", {})

    async def story() -> httpx.Response:
        async with running(world, **limits), world.origin(serve, context, port=port):
            return await world.get(**more)

    return run(story())


def assert_error(answer: httpx.Response, status: int, code: int | None = None) -> None:
    assert (answer.status_code, answer.text.strip()) == (status, f"error code: {code or status}")
    assert answer.headers["server"] == "cloudflare"
