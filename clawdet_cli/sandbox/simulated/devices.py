"""The devices that a simulated gateway knows, as OpenClaw 2026.9 pairs them."""

import base64
import binascii
import hashlib
import json
import time
import uuid
from collections.abc import Callable
from typing import Any

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from clawdet_cli.sandbox.simulated import disk as at
from clawdet_cli.sandbox.simulated.disk import SimulatedDisk

REQUEST_SECONDS = 300.0
"""How long a request waits; a device that asks again meanwhile keeps its own."""


class Devices:
    """Requests, which end with the gateway, and the paired devices, which are kept on the disk."""

    def __init__(self, disk: SimulatedDisk, clock: Callable[[], float] = time.monotonic) -> None:
        self._disk = disk
        self._clock = clock
        self._asking: dict[str, tuple[float, dict[str, Any]]] = {}
        """By request, with when it ends."""

    def ask(self, device: dict[str, Any], parameters: dict[str, Any], address: str) -> str:
        """Take down that a device wants to be let in, and give its request."""
        client, role = parameters["client"], parameters.get("role", "operator")
        for entry in self.pending():
            if entry["deviceId"] == device["id"]:
                return str(entry["requestId"])
        request = str(uuid.uuid4())
        entry = {
            "requestId": request,
            "deviceId": device["id"],
            "publicKey": device["publicKey"],
            "platform": client.get("platform"),
            "clientId": client.get("id"),
            "clientMode": client.get("mode"),
            "role": role,
            "roles": [role],
            "scopes": parameters.get("scopes", []),
            "remoteIp": address,
            "silent": False,
            "isRepair": False,
            "ts": _now(),
        }
        self._asking[request] = (self._clock() + REQUEST_SECONDS, entry)
        return request

    def pending(self) -> list[dict[str, Any]]:
        """List the requests that wait."""
        now = self._clock()
        self._asking = {request: asked for request, asked in self._asking.items() if asked[0] > now}
        return [entry for _, entry in self._asking.values()]

    def paired(self) -> list[dict[str, Any]]:
        """List the devices that are let in."""
        return list(json.loads(self._disk.text(at.DEVICES) or "[]"))

    def is_paired(self, device_id: str) -> bool:
        """Whether a device is let in."""
        return any(entry["deviceId"] == device_id for entry in self.paired())

    def approve(self, request: str) -> dict[str, Any] | None:
        """Let in the device of a request; None when no such request waits."""
        if all(entry["requestId"] != request for entry in self.pending()):
            return None
        _, entry = self._asking.pop(request)
        left_out = {"requestId", "silent", "isRepair", "ts"}
        device = {name: value for name, value in entry.items() if name not in left_out}
        device |= {"approvedVia": "owner", "createdAtMs": _now(), "approvedAtMs": _now()}
        self._disk.write(at.DEVICES, json.dumps([*self.paired(), device]))
        return device


def is_signed(device: dict[str, Any], parameters: dict[str, Any], token: str, nonce: str) -> bool:
    """Whether a device has signed what it asks for, with the key that it is named after."""
    client = parameters.get("client") or {}
    said = ["v2", device.get("id"), client.get("id"), client.get("mode"), parameters.get("role")]
    said += [",".join(parameters.get("scopes", [])), device.get("signedAt"), token, nonce]
    try:
        key = _bytes(device["publicKey"])
        Ed25519PublicKey.from_public_bytes(key).verify(_bytes(device["signature"]), "|".join(map(str, said)).encode())
    except (InvalidSignature, KeyError, TypeError, ValueError, binascii.Error):
        return False
    return hashlib.sha256(key).hexdigest() == device["id"] and device.get("nonce") == nonce


def _bytes(text: str) -> bytes:
    return base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))


def _now() -> int:
    return time.time_ns() // 1_000_000
