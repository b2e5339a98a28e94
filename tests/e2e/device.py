"""A browser as the gateway sees it: a key pair of its own, and the `connect` request of OpenClaw's web interface."""

import base64
import hashlib
import json
import socket
import ssl
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from clawdet_cli.adapters.websocket import WebSocket
from clawdet_cli.model import Deadline

PATIENCE = 30.0
MOST_BYTES = 16 * 1024 * 1024
SCOPES = ("operator.admin", "operator.read", "operator.write", "operator.approvals", "operator.pairing")


@dataclass(frozen=True)
class Refusal:
    """How the gateway closed a WebSocket."""

    code: str
    close_code: int | None
    details: Mapping[str, Any]


@dataclass(frozen=True)
class Device:
    """Asks the gateway of a host to be let in, through the edge."""

    host: str
    edge_address: str
    ca_file: str
    key: Ed25519PrivateKey = field(default_factory=Ed25519PrivateKey.generate)
    signs_for: str | None = None
    """The token that it signs in place of the one that it shows."""
    build_id: str = ""
    """The build of the web interface, which must be the gateway's own; a refusal tells it."""

    @property
    def id(self) -> str:
        """The device's name: the digest of its public key."""
        return hashlib.sha256(self.key.public_key().public_bytes_raw()).hexdigest()

    def connect(
        self, token: str | None, *, origin: str = "", anonymous: bool = False, paired: bool = False
    ) -> Refusal | dict[str, Any]:
        """Ask, and return the greeting or the refusal; `paired` shows the token as the device's, not the gateway's."""
        ip, _, port = self.edge_address.rpartition(":")
        end, trust = Deadline.after(PATIENCE), ssl.create_default_context(cafile=self.ca_file)
        # From one thread: the library's own client reads in a second one, and two in one TLS connection can hang.
        with (
            socket.create_connection((ip, int(port)), timeout=PATIENCE) as plain,
            trust.wrap_socket(plain, server_hostname=self.host) as stream,
        ):
            own = f"https://{self.host}"
            gateway = WebSocket(stream, self.host, "/app", origin or own, end=end, max_size=MOST_BYTES)
            gateway.open()
            challenge = json.loads(gateway.receive() or b"")["payload"]
            gateway.send(json.dumps(self._request(challenge["nonce"], token, anonymous=anonymous, paired=paired)))
            error: dict[str, Any] = {}
            while (message := gateway.receive()) is not None:
                answer = json.loads(message)
                if answer.get("id") == "1":
                    if answer["ok"]:
                        return dict(answer["payload"])
                    error = answer["error"]
            details = error.get("details", {})
            return Refusal(details.get("code", ""), gateway.closed_with()[0], details)

    def _request(self, nonce: str, token: str | None, *, anonymous: bool, paired: bool) -> dict[str, Any]:
        client = {"id": "openclaw-control-ui", "version": "2026.9.6", "platform": "Linux x86_64", "mode": "webchat"}
        client |= {"buildId": self.build_id} if self.build_id else {}
        signed_at = time.time_ns() // 1_000_000
        signed_token = (token if self.signs_for is None else self.signs_for) or ""
        said = ["v2", self.id, client["id"], client["mode"], "operator", ",".join(SCOPES), str(signed_at)]
        signature = self.key.sign("|".join([*said, signed_token, nonce]).encode())
        device = {
            "id": self.id,
            "publicKey": _base64(self.key.public_key().public_bytes_raw()),
            "signature": _base64(signature),
            "signedAt": signed_at,
            "nonce": nonce,
        }
        parameters: dict[str, Any] = {
            "minProtocol": 4,
            "maxProtocol": 4,
            "client": client,
            "role": "operator",
            "scopes": list(SCOPES),
            "caps": [],
        }
        if not anonymous:
            parameters["device"] = device
        if token is not None:
            parameters["auth"] = {"deviceToken" if paired else "token": token}
        return {"type": "req", "id": "1", "method": "connect", "params": parameters}


def _base64(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()
