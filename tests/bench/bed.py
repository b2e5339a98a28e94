"""The sandbox that the benchmark measures in, and what is done in it past the product: with HTTP, SSH and TLS alone."""

import json
import os
import socket
import ssl as tls
import time
import urllib.error
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from clawdet_cli import pins
from clawdet_cli.adapters import ssh
from clawdet_cli.pins import Pinned
from clawdet_cli.sandbox.info import Files
from tests.bench.remote import Address, BenchError
from tests.e2e.operator import Operator

SERVER = {"server_type": "cpx22", "location": "nbg1", "image": "ubuntu-24.04"}
"""What the product orders by itself; the sandbox gives every server the same machine anyway."""

KEY = {"XAI_API_KEY": "xai-of-the-benchmark-0123456789"}
"""A provider's key that opens nothing, for every variant: both the seed and the product hand one to OpenClaw."""


@dataclass(frozen=True)
class Ordered:
    """A server that the benchmark ordered by itself."""

    id: int
    ipv4: str


class Bed:
    """A sandbox that runs, seen as the owner of its clouds."""

    def __init__(self, operator: Operator, openclaw_version: str | None) -> None:
        self.operator = operator
        self.info = operator.info()
        self.zone: str = self.info["zone"]
        self.key = operator.state / "bench" / "id_ed25519"
        self.mark = Files(Path(self.info["folder"])).mark
        known = pins.load()
        self.openclaw_version = openclaw_version or known.default_openclaw
        self._key_id: int | None = None

    @property
    def pinned(self) -> Pinned:
        """What is installed, the same for every variant."""
        return pins.load().for_openclaw(self.openclaw_version, "x86")

    @property
    def mirror(self) -> dict[str, str]:
        """Where servers download Node and Caddy from, and the digests of those archives."""
        return dict(self.info["artifacts"][f"{self.pinned.node_version}/x86"])

    def key_id(self) -> int:
        """Put the benchmark's SSH key into the project, once."""
        if self._key_id is None:
            public = ssh.operator_key(self.key, make=True)
            body = {"name": "bench", "public_key": public}
            self._key_id = int(self.operator.cloud("hetzner", "/ssh_keys", "POST", body)["ssh_key"]["id"])
        return self._key_id

    def order(self, name: str, **more: Any) -> Ordered:
        """Order a server with one call, and give what its answer says at once."""
        body = {"name": name, **SERVER, "ssh_keys": [self.key_id()], **more}
        server = self.operator.cloud("hetzner", "/servers", "POST", body)["server"]
        return Ordered(int(server["id"]), str(server["public_net"]["ipv4"]["ip"]))

    def status(self, server: Ordered) -> str:
        """Ask for a server's status."""
        return str(self.operator.cloud("hetzner", f"/servers/{server.id}")["server"]["status"])

    def delete(self, server: Ordered) -> None:
        """Delete a server and wait until it is gone."""
        self.operator.cloud("hetzner", f"/servers/{server.id}", "DELETE")
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline:
            try:
                self.status(server)
            except urllib.error.HTTPError as error:
                if error.code == 404:
                    return
                raise
            time.sleep(0.2)
        raise BenchError(f"the server {server.id} is not gone after 60 s")

    def dial(self, ip: str, port: int) -> Address:
        """Give where an address really answers; without root the sandbox cannot own every port."""
        mapped = json.loads(Path(self.info["dial_file"]).read_text()) if self.info["dial_file"] else {}
        host, _, number = mapped.get(f"{ip}:{port}", f"{ip}:{port}").rpartition(":")
        return host, int(number)

    def page(self, host: str) -> str:
        """Ask for a host's start page through the edge, as a visitor does; the answer begins with its status line."""
        edge, _, port = self.info["edge_address"].rpartition(":")
        trust = tls.create_default_context(cafile=self.info["ca_file"])
        with (
            socket.create_connection((edge, int(port)), timeout=20) as connection,
            trust.wrap_socket(connection, server_hostname=host) as visitor,
        ):
            visitor.sendall(f"GET / HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n".encode())
            answer = b""
            while data := visitor.recv(65536):
                answer += data
        return answer.decode(errors="replace")

    def settle(self) -> None:
        """Wait until the machine has cleared up after the last variant, so that the next one does not pay for it."""
        deleted = Path(self.info["folder"]) / "deleted"
        deadline = time.monotonic() + 120
        while deleted.is_dir() and any(deleted.iterdir()) and time.monotonic() < deadline:
            time.sleep(0.2)
        os.sync()
