"""The gateway of a simulated server, as OpenClaw 2026.9 answers behind Caddy with the base path /app."""

import hmac
import json
import logging
import secrets
from dataclasses import dataclass, field

from websockets.exceptions import ProtocolError
from websockets.frames import Frame, Opcode
from websockets.http11 import Request
from websockets.server import ServerProtocol

from clawdet_cli.sandbox.simulated.guest import Gateway

_PROTOCOL_LOG = logging.getLogger(f"{__name__}.websocket")
_PROTOCOL_LOG.setLevel(logging.WARNING)  # the library tells of every connection

_WRONG_TOKENS = 10  # then 429
_BLOCK_SECONDS = 300
_REFUSED = 1008


@dataclass(frozen=True)
class Reply:
    """An HTTP answer."""

    status: int
    body: bytes = b""
    content_type: str = "text/html; charset=utf-8"
    headers: tuple[tuple[str, str], ...] = field(default=())


def answer(gateway: Gateway, path: str, authorization: str, client: str) -> Reply:
    """Answer a GET of a path that Caddy passes on."""
    if path == "/healthz":
        return _json(200, {"ok": True, "status": "live"})
    if path == "/app":
        return Reply(302, headers=(("Location", "/app/"),))
    if path == "/app/control-ui-config.json":
        return _configuration(gateway, authorization, client)
    if path.startswith("/app/assets/"):
        return Reply(404, b"Not Found", "text/plain; charset=utf-8")
    page = '<!doctype html><html data-openclaw-control-ui-base-path="/app"><title>simulated server</title></html>\n'
    return Reply(200, page.encode(), headers=(("X-Frame-Options", "DENY"),))


def _configuration(gateway: Gateway, authorization: str, client: str) -> Reply:
    scheme, _, token = authorization.partition(" ")
    if not token or scheme.lower() != "bearer":
        return _json(401, {"error": {"message": "Unauthorized", "type": "unauthorized"}})
    if gateway.wrong_tokens[client] >= _WRONG_TOKENS:
        error = {"error": {"message": "Too many failed authentication attempts", "type": "rate_limited"}}
        return _json(429, error, (("Retry-After", str(_BLOCK_SECONDS)),))
    if not hmac.compare_digest(token.encode(), gateway.token.encode()):
        gateway.wrong_tokens[client] += 1
        return _json(401, {"error": {"message": "Unauthorized", "type": "unauthorized"}})
    gateway.wrong_tokens.pop(client, None)
    return _json(200, {"basePath": "/app"})


def _json(status: int, value: object, headers: tuple[tuple[str, str], ...] = ()) -> Reply:
    return Reply(status, json.dumps(value).encode(), "application/json; charset=utf-8", headers)


class Conversation:
    """One WebSocket: bytes go in and come out, so that it needs no connection of its own.

    The origin is judged when the client's `connect` request comes, not before; nobody gets in, as pairing a device is
    not simulated.
    """

    def __init__(self, gateway: Gateway, request: bytes, origin: str) -> None:
        self._gateway = gateway
        self._origin = origin
        self._protocol = ServerProtocol(logger=_PROTOCOL_LOG)
        self._protocol.receive_data(request)
        handshake = self._protocol.events_received()[0]
        if not isinstance(handshake, Request):
            raise ProtocolError("no WebSocket handshake")
        self._protocol.send_response(self._protocol.accept(handshake))
        if self._protocol.handshake_exc is None:
            challenge = {"nonce": secrets.token_hex(16)}
            self._send({"type": "event", "event": "connect.challenge", "payload": challenge})

    def receive(self, data: bytes) -> None:
        """Take in what the client sent; empty at its end."""
        if not data:
            self._protocol.receive_eof()
            return
        self._protocol.receive_data(data)
        for event in self._protocol.events_received():
            if isinstance(event, Frame) and event.opcode in {Opcode.TEXT, Opcode.BINARY}:
                self._refuse(bytes(event.data))

    def to_send(self) -> tuple[bytes, bool]:
        """Return what goes to the client, and whether the connection ends then."""
        chunks = self._protocol.data_to_send()
        return b"".join(chunks), b"" in chunks or self._protocol.close_expected()

    def _refuse(self, frame: bytes) -> None:
        try:
            message = json.loads(frame)
            is_connect = message["type"] == "req" and message["method"] == "connect"
            number = message["id"]
        except (ValueError, KeyError, TypeError):
            is_connect = False
        if not is_connect:
            self._protocol.send_close(_REFUSED, "invalid request frame")
            return
        code = "CONTROL_UI_DEVICE_IDENTITY_REQUIRED"
        if self._origin != self._gateway.origin:
            code = "CONTROL_UI_ORIGIN_NOT_ALLOWED"
        text = code.lower().replace("_", " ")
        error = {"code": "INVALID_REQUEST", "message": text, "details": {"code": code}}
        self._send({"type": "res", "id": number, "ok": False, "error": error})
        self._protocol.send_close(_REFUSED, text)

    def _send(self, message: object) -> None:
        self._protocol.send_text(json.dumps(message).encode())
