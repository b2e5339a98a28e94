"""The gateway of a simulated server, as OpenClaw 2026.9 answers behind Caddy with the base path /app."""

import hmac
import json
import logging
import time
import uuid
from dataclasses import dataclass, field
from typing import Any

from websockets.exceptions import ProtocolError
from websockets.frames import Frame, Opcode
from websockets.http11 import Request
from websockets.server import ServerProtocol

from clawdet_cli.sandbox.simulated.devices import is_signed
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

    The client's `connect` request is judged in OpenClaw's own order: origin, device, token, signature, approval, build.
    Who gets in is greeted, and that is all: nothing more of the gateway is simulated.
    """

    def __init__(self, gateway: Gateway, request: bytes, origin: str, client: str) -> None:
        self._gateway = gateway
        self._origin = origin
        self._client = client
        self._nonce = str(uuid.uuid4())
        self._protocol = ServerProtocol(logger=_PROTOCOL_LOG)
        self._protocol.receive_data(request)
        handshake = self._protocol.events_received()[0]
        if not isinstance(handshake, Request):
            raise ProtocolError("no WebSocket handshake")
        self._protocol.send_response(self._protocol.accept(handshake))
        if self._protocol.handshake_exc is None:
            challenge = {"nonce": self._nonce, "ts": time.time_ns() // 1_000_000}
            self._send({"type": "event", "event": "connect.challenge", "payload": challenge})

    def receive(self, data: bytes) -> None:
        """Take in what the client sent; empty at its end."""
        if not data:
            self._protocol.receive_eof()
            return
        self._protocol.receive_data(data)
        for event in self._protocol.events_received():
            if isinstance(event, Frame) and event.opcode in {Opcode.TEXT, Opcode.BINARY}:
                self._hear(bytes(event.data))

    def to_send(self) -> tuple[bytes, bool]:
        """Return what goes to the client, and whether the connection ends then."""
        chunks = self._protocol.data_to_send()
        return b"".join(chunks), b"" in chunks or self._protocol.close_expected()

    def _hear(self, frame: bytes) -> None:
        try:
            message = json.loads(frame)
            is_connect = message["type"] == "req" and message["method"] == "connect"
            number, parameters = message["id"], message["params"]
        except (ValueError, KeyError, TypeError):
            is_connect = False
        if not is_connect or not isinstance(parameters, dict):
            self._protocol.send_close(_REFUSED, "invalid request frame")
            return
        refusal = self._judged(parameters)
        if refusal is None:
            greeting = {"type": "hello-ok", "protocol": 4, "server": {"version": self._gateway.version}}
            self._send({"type": "res", "id": number, "ok": True, "payload": greeting})
            return
        text = refusal["code"].lower().replace("_", " ")
        code = "NOT_PAIRED" if refusal["code"] == "PAIRING_REQUIRED" else "INVALID_REQUEST"
        error = {"code": code, "message": text, "details": refusal}
        self._send({"type": "res", "id": number, "ok": False, "error": error})
        self._protocol.send_close(_REFUSED, text)

    def _judged(self, parameters: dict[str, Any]) -> dict[str, Any] | None:
        """Give the details of a refusal, or None for who may come in."""
        gateway, device = self._gateway, parameters.get("device")
        if self._origin != gateway.origin:
            return {"code": "CONTROL_UI_ORIGIN_NOT_ALLOWED", "reason": "origin not allowed"}
        if not isinstance(device, dict):
            return {"code": "CONTROL_UI_DEVICE_IDENTITY_REQUIRED"}
        token = str((parameters.get("auth") or {}).get("token") or "")
        if not hmac.compare_digest(token.encode(), gateway.token.encode()):
            kind = "mismatch" if token else "missing"
            return {"code": f"AUTH_TOKEN_{kind.upper()}", "authReason": f"token_{kind}"}
        if not is_signed(device, parameters, token, self._nonce):
            return {"code": "DEVICE_AUTH_SIGNATURE_INVALID", "reason": "device-signature"}
        return self._unpaired(device, parameters)

    def _unpaired(self, device: dict[str, Any], parameters: dict[str, Any]) -> dict[str, Any] | None:
        gateway, build = self._gateway, f"{self._gateway.version}-release-simulated"
        if not gateway.devices.is_paired(device["id"]):
            request = gateway.devices.ask(device, parameters, self._client)
            return {"code": "PAIRING_REQUIRED", "reason": "not-paired", "requestId": request, "deviceId": device["id"]}
        if parameters["client"].get("buildId") != build:
            return {"code": "PROTOCOL_MISMATCH", "gatewayBuildId": build, "reloadRequired": True}
        return None

    def _send(self, message: object) -> None:
        self._protocol.send_text(json.dumps(message).encode())
