"""The emulated Hetzner Cloud as tests see it: through the vendor's SDK, and by plain HTTP where it hides things."""

import asyncio
import json
import time
from collections.abc import Callable
from typing import Any

import requests
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from hcloud import APIException, Client
from hcloud.images import Image
from hcloud.locations import Location
from hcloud.server_types import ServerType
from hcloud.servers import CreateServerResponse
from starlette.types import ASGIApp

from clawdet_cli.sandbox.faults import Faults
from clawdet_cli.sandbox.hetzner.api import HetznerClock, Token, hetzner_app
from clawdet_cli.sandbox.machines import MachineSpec, OutOfAddressesError
from tests.contract.served import Served

TOKEN, READ_ONLY, OTHER_PROJECT = "token-of-one", "token-that-reads", "token-of-two"
TOKENS = {TOKEN: Token("one"), READ_ONLY: Token("one", read_only=True), OTHER_PROJECT: Token("two")}
FOREVER = 10_000.0
"""As boot_seconds: nothing ends within a test."""


class NoMachines:
    """Remembers what it was asked, and does nothing."""

    def __init__(self, addresses: int = 200) -> None:
        self.free = [f"127.18.0.{number}" for number in range(1, addresses + 1)]
        self.calls: list[tuple[str, int]] = []
        self.specs: dict[int, MachineSpec] = {}
        self.hold_boots = False

    def claim_address(self) -> str:
        if not self.free:
            raise OutOfAddressesError("none left")
        return self.free.pop(0)

    def release_address(self, ipv4: str) -> None:
        self.free.append(ipv4)

    async def boot(self, spec: MachineSpec) -> None:
        self.calls.append(("boot", spec.server_id))
        self.specs[spec.server_id] = spec
        while self.hold_boots:  # noqa: ASYNC110  # it is set from another thread
            await asyncio.sleep(0.005)

    async def power_off(self, server_id: int, *, graceful: bool) -> None:
        self.calls.append(("shutdown" if graceful else "poweroff", server_id))

    async def remove(self, server_id: int) -> None:
        self.calls.append(("remove", server_id))


class Emulator:
    """One served emulator, its innards, and clients for it."""

    def __init__(self, serve_app: Callable[[ASGIApp], Served]) -> None:
        self._serve = serve_app
        self._clients: list[Client] = []
        self.state: dict[str, Any] = {}
        self.machines = NoMachines()
        self.faults = Faults()
        self.changes = 0
        self.served: Served | None = None

    def start(self, boot_seconds: float = 0.0, **clock: Any) -> "Emulator":
        """Serve; a second start goes on with the state of the first, as reloaded from JSON."""
        self.stop()
        self.state = json.loads(json.dumps(self.state))
        time_ = HetznerClock(boot_seconds=boot_seconds, **clock)
        self.served = self._serve(hetzner_app(self.state, self.machines, time_, self._changed, self.faults, TOKENS))
        return self

    def stop(self) -> None:
        """End as the daemon does."""
        if self.served:
            self.served.stop()

    def finish_running_actions(self) -> None:
        """Make all lengths end at once, for the next start."""
        self.stop()
        for project in self.state["projects"].values():
            for action in project["action"].values():
                action["_seconds"] = 0

    def _changed(self) -> None:
        self.changes += 1

    @property
    def url(self) -> str:
        assert self.served
        return self.served.url

    def client(self, token: str = TOKEN, **options: Any) -> Client:
        """Return an SDK client that polls and retries without waiting."""
        client = Client(token, api_endpoint=f"{self.url}/v1", poll_interval=0.01, timeout=5, **options)
        client._client._retry_interval_func = lambda _: 0.0
        client._client._session.trust_env = False
        self._clients.append(client)
        return client

    def http(self, method: str, path: str, *, token: str | None = TOKEN, **options: Any) -> requests.Response:
        """Send one request as it is."""
        headers = {"Authorization": f"Bearer {token}"} if token else {}
        # A Connection header, because a kept one would outlive the test.
        headers["Connection"] = "close"
        with requests.Session() as session:
            session.trust_env = False
            return session.request(method, self.url + path, headers=headers, timeout=5, **options)

    def knobs(self, **settings: Any) -> None:
        """Turn knobs."""
        assert self.http("PUT", "/_sandbox/knobs", json=settings).status_code == 200

    def close(self) -> None:
        for client in self._clients:
            client._client._session.close()


def order(client: Client, name: str = "web-1", server_type: str = "cpx22", **options: Any) -> CreateServerResponse:
    """Order a server with what most tests do not care about."""
    options.setdefault("image", Image(name="ubuntu-24.04"))
    options.setdefault("location", Location(name="nbg1"))
    return client.servers.create(name=name, server_type=ServerType(name=server_type), **options)


def order_running(client: Client, name: str = "web-1", **options: Any) -> CreateServerResponse:
    """Order a server and wait until it runs."""
    response = order(client, name, **options)
    for action in [response.action, *response.next_actions]:
        action.wait_until_finished()
    response.server.reload()
    return response


def public_key() -> str:
    """Return a new OpenSSH public key."""
    key = Ed25519PrivateKey.generate().public_key()
    return key.public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH).decode()


def id_of(resource: object) -> int:
    """Return an id that the SDK's types call optional."""
    number = getattr(resource, "id", None)
    assert isinstance(number, int)
    return number


def eventually(condition: Callable[[], object]) -> None:
    """Return when the condition holds; fail when it does not within some seconds."""
    deadline = time.monotonic() + 5
    while not condition():
        assert time.monotonic() < deadline, "did not become true"
        time.sleep(0.005)


def refused(error: APIException, status_code: str, text: str) -> bool:
    """Whether the SDK's exception is this error."""
    return error.code == status_code and text in str(error.message)
