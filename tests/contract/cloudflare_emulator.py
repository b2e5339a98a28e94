"""The emulated Cloudflare as tests see it: through the vendor's SDK, and by plain HTTP where it hides things."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
from cloudflare import APIStatusError, Cloudflare
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from starlette.types import ASGIApp

from clawdet_cli.sandbox.authority import Authority
from clawdet_cli.sandbox.cloudflare import state as account
from clawdet_cli.sandbox.cloudflare.api import cloudflare_app
from clawdet_cli.sandbox.faults import Faults
from tests.contract.served import Served

ZONE = "clawdet.test"
PENDING = "clawdet-pending.test"
TOKEN = "token-with-every-right"
EDGE_CIDRS = ["127.17.0.0/24", "fd00:17::/64"]


class Emulator:
    """One emulated account, and the ways to it."""

    def __init__(self, serve_app: Callable[[ASGIApp], Served], folder: Path) -> None:
        self.state: dict[str, Any] = {}
        self.origin_ca = Authority(folder / "origin-ca", "Origin CA")
        self.faults = Faults()
        self.now = 1000.0
        self.changes = 0
        app = cloudflare_app(
            self.state,
            self.origin_ca,
            zone=ZONE,
            edge_cidrs=EDGE_CIDRS,
            tokens=[TOKEN],
            on_change=self._changed,
            faults=self.faults,
            clock=lambda: self.now,
        )
        account.add_token(self.state, TOKEN)
        self.root = serve_app(app).url
        self.url = f"{self.root}/client/v4"
        # without verification, as there is no TLS: loading the public CAs would take most of a test's time
        self._http = httpx.Client(trust_env=False, verify=False)  # noqa: S501  # plain HTTP on loopback
        self.sdk = self.client(TOKEN)

    def _changed(self) -> None:
        self.changes += 1

    def client(self, token: str) -> Cloudflare:
        """Return the vendor's client, which accepts only answers of the documented types."""
        client = Cloudflare(
            api_token=token,
            base_url=self.url,
            max_retries=0,
            http_client=self._http,
            _strict_response_validation=True,
        )
        client.api_email = client.api_key = None
        return client

    def close(self) -> None:
        self._http.close()

    def call(self, method: str, path: str, *, token: str | None = TOKEN, **more: Any) -> httpx.Response:
        """Call the API by plain HTTP."""
        headers = more.pop("headers", {})
        if token is not None:
            headers["Authorization"] = f"Bearer {token}"
        return self._http.request(method, self.url + path, headers=headers, **more)

    def control(self, method: str, path: str, **body: Any) -> Any:
        """Do what an account's owner does in the dashboard."""
        answer = self._http.request(method, f"{self.root}/_sandbox/{path}", json=body)
        answer.raise_for_status()
        return answer.json()

    def token(self, name: str, **properties: Any) -> Cloudflare:
        """Make a token with the given rights, zones, status or owner, and return a client that uses it."""
        self.control("POST", "tokens", token=name, **properties)
        return self.client(name)

    def zone_id(self, name: str = ZONE) -> str:
        found: str = next(key for key, zone in self.state["zones"].items() if zone["name"] == name)
        return found

    def records(self, zone: str = ZONE) -> dict[str, Any]:
        records: dict[str, Any] = self.state["zones"][self.zone_id(zone)]["records"]
        return records

    def create(
        self, name: str = "alice.clawdet.test", kind: str = "A", content: str = "127.18.0.1", **more: Any
    ) -> Any:
        """Create a record with the SDK."""
        fields: dict[str, Any] = {"name": name, "type": kind, "content": content, "ttl": 1, **more}
        return self.sdk.dns.records.create(zone_id=self.zone_id(), **fields)


def codes(error: APIStatusError) -> list[int | None]:
    """Return the error numbers of an answer, each with those it encloses."""
    found = []
    for entry in error.body["errors"] if isinstance(error.body, dict) else []:
        found += [entry["code"], *(inner["code"] for inner in entry.get("error_chain", []))]
    return found


def make_csr(key: ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey | None = None) -> str:
    signing = key or ec.generate_private_key(ec.SECP256R1())
    csr = x509.CertificateSigningRequestBuilder().subject_name(x509.Name([])).sign(signing, hashes.SHA256())
    return csr.public_bytes(serialization.Encoding.PEM).decode()
