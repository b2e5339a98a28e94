"""Ports 80 and 443 of a simulated server, as Caddy answers there with the configuration of the script."""

import asyncio
import contextlib
import socket
import ssl
from http import HTTPStatus

import h11

from clawdet_cli.sandbox.simulated import disk as at
from clawdet_cli.sandbox.simulated.gateway import Conversation, Reply, answer
from clawdet_cli.sandbox.simulated.guest import Caddy, Guest

_CHUNK = 65536
_HANDSHAKE_SECONDS = 10.0
_IDLE_SECONDS = 300.0
_NOT_CACHED = (("Cache-Control", "no-store"),)
_FILES = {
    "/": (at.LANDING_PAGE, "text/html; charset=utf-8"),
    "/.well-known/clawdet-nonce": (at.NONCE, "text/plain; charset=utf-8"),
}
_SITE = (
    ("Strict-Transport-Security", "max-age=31536000"),
    ("X-Content-Type-Options", "nosniff"),
    ("Referrer-Policy", "no-referrer"),
)


async def serve_connection(guest: Guest, caddy: Caddy, sock: socket.socket, client: str, *, tls: bool) -> None:
    """Serve one connection to its end."""
    # A client that breaks off, stays silent, names another host or speaks no HTTP is no event.
    with contextlib.suppress(OSError, TimeoutError, h11.ProtocolError):
        reader, writer = await _open(sock, caddy.tls if tls else None)
        try:
            await _serve(_Site(guest, caddy, client, tls=tls), reader, writer)
        finally:
            writer.transport.abort()


async def _open(sock: socket.socket, tls: ssl.SSLContext | None) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    loop = asyncio.get_running_loop()
    reader = asyncio.StreamReader()
    protocol = asyncio.StreamReaderProtocol(reader)
    transport, _ = await loop.connect_accepted_socket(
        lambda: protocol, sock, ssl=tls, ssl_handshake_timeout=_HANDSHAKE_SECONDS if tls else None
    )
    return reader, asyncio.StreamWriter(transport, protocol, reader, loop)


class _Site:
    """What one client is answered."""

    def __init__(self, guest: Guest, caddy: Caddy, client: str, *, tls: bool) -> None:
        self.guest = guest
        self.caddy = caddy
        self.client = client
        self.tls = tls

    def reply(self, method: str, target: str, headers: dict[str, str]) -> Reply:
        """Answer a request that opens no WebSocket."""
        host = headers.get("host", "").partition(":")[0].lower()
        if host != self.caddy.host:
            return Reply(421 if self.tls else 404)
        if not self.tls:
            return Reply(308, headers=(("Location", f"https://{host}{target}"),))
        path = target.partition("?")[0]
        if _is_gateway(path):
            gateway = self.guest.gateway if self.guest.gateway_is_ready else None
            reply = answer(gateway, path, headers.get("authorization", ""), self.client) if gateway else _error(502)
        else:
            reply = self._file(method, path)
        return Reply(reply.status, reply.body, reply.content_type, (*reply.headers, *_SITE))

    def _file(self, method: str, path: str) -> Reply:
        file, kind = _FILES.get(path, ("", ""))
        if not file or not self.guest.disk.exists(file):
            return _error(404)
        if method not in {"GET", "HEAD"}:
            return _error(405)
        return Reply(200, self.guest.disk.text(file).encode(), kind, _NOT_CACHED)

    def conversation(self, path: str, headers: dict[str, str], request: bytes) -> Conversation | None:
        """Return the WebSocket that a request opens, or None when it opens none."""
        if not self.tls or path.partition("?")[0] != "/app" or "websocket" not in headers.get("upgrade", "").lower():
            return None
        if headers.get("host", "").partition(":")[0].lower() != self.caddy.host:
            return None
        if self.guest.gateway is None or not self.guest.gateway_is_ready:
            return None
        return Conversation(self.guest.gateway, request, headers.get("origin", ""), self.client)


def _is_gateway(path: str) -> bool:
    return path in {"/app", "/healthz"} or path.startswith("/app/")


def _error(status: int) -> Reply:
    phrase = HTTPStatus(status).phrase
    page = f"<!doctype html><title>{status}</title><h1>{status} {phrase}</h1><p>simulated server</p>\n"
    return Reply(status, page.encode(), headers=_NOT_CACHED)


async def _serve(site: _Site, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    connection = h11.Connection(h11.SERVER)
    while True:
        event = await _next(connection, reader)
        if not isinstance(event, h11.Request):
            return
        headers = {name.decode().lower(): value.decode("latin-1") for name, value in event.headers}
        method, target = event.method.decode(), event.target.decode("latin-1")
        conversation = site.conversation(target, headers, _as_bytes(event))
        if conversation is not None:
            await _converse(conversation, connection.trailing_data[0], reader, writer)
            return
        while not isinstance(event, h11.EndOfMessage | h11.ConnectionClosed):
            event = await _next(connection, reader)
        reply = site.reply(method, target, headers)
        fields = [("Content-Length", str(len(reply.body))), ("Content-Type", reply.content_type), *reply.headers]
        writer.write(connection.send(h11.Response(status_code=reply.status, headers=fields)) or b"")
        if method != "HEAD":
            writer.write(connection.send(h11.Data(data=reply.body)) or b"")
        writer.write(connection.send(h11.EndOfMessage()) or b"")
        await writer.drain()
        if connection.our_state is not h11.DONE:
            return
        connection.start_next_cycle()


async def _next(connection: h11.Connection, reader: asyncio.StreamReader) -> h11.Event:
    while True:
        event = connection.next_event()
        if isinstance(event, h11.Event):
            return event
        if event is h11.PAUSED:
            raise h11.RemoteProtocolError("a request before the last one's answer")
        async with asyncio.timeout(_IDLE_SECONDS):
            connection.receive_data(await reader.read(_CHUNK))


def _as_bytes(request: h11.Request) -> bytes:
    lines = [request.method + b" " + request.target + b" HTTP/1.1"]
    lines += [name + b": " + value for name, value in request.headers]
    return b"\r\n".join(lines) + b"\r\n\r\n"


async def _converse(
    conversation: Conversation, first: bytes, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
) -> None:
    if first:
        conversation.receive(first)
    while True:
        data, is_last = conversation.to_send()
        writer.write(data)
        await writer.drain()
        if is_last:
            writer.close()
            await writer.wait_closed()
            return
        async with asyncio.timeout(_IDLE_SECONDS):
            conversation.receive(await reader.read(_CHUNK))
