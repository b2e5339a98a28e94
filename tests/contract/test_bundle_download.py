"""How a bundle's manifest comes: from its own host alone, within one deadline, and no password is shown on the way."""

import base64
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from clawdet_cli import pins, settings
from clawdet_cli.bundle import fetch, source
from clawdet_cli.errors import ConfigError
from clawdet_cli.model import Deadline
from clawdet_cli.network import Network
from clawdet_cli.sandbox.authority import Authority
from clawdet_cli.secret import Secret, hide
from clawdet_cli.stages import bundle
from tests.unit.test_bundle import MANIFEST

USER, PASSWORD, SIGNATURE = "me", "S3cretPassw0rd@2", "signature-0123456789"
VERSION = pins.load().default_openclaw

Answer = Callable[[BaseHTTPRequestHandler], None]


class Mirror:
    """A web server on loopback with TLS, which remembers what it was asked."""

    def __init__(self, authority: Authority, folder: Path) -> None:
        self.asked: list[tuple[str, str]] = []
        self.answers: dict[str, Answer] = {}
        mirror = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                mirror.asked.append((self.path, self.headers.get("Authorization", "")))
                with suppress(OSError):
                    mirror.answers.get(self.path, mirror.manifest)(self)

            def log_message(self, *_: Any) -> None: ...

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.over = threading.Event()
        self.address = f"127.0.0.1:{self._server.server_port}"
        certificate, key = authority.issue_server(["127.0.0.1"])
        (folder / "cert.pem").write_text(certificate)
        (folder / "key.pem").write_text(key)
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        context.load_cert_chain(folder / "cert.pem", folder / "key.pem")
        self._server.socket = context.wrap_socket(self._server.socket, server_side=True, do_handshake_on_connect=False)
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    @staticmethod
    def manifest(request: BaseHTTPRequestHandler) -> None:
        """Answer with a manifest."""
        content = MANIFEST.text().encode()
        request.send_response(200)
        request.send_header("Content-Length", str(len(content)))
        request.end_headers()
        request.wfile.write(content)

    def close(self) -> None:
        """Stop serving, and wait for those who are being served."""
        self.over.set()
        self._server.shutdown()
        self._server.server_close()


def redirected(to: str) -> Answer:
    def answer(request: BaseHTTPRequestHandler) -> None:
        request.send_response(302)
        request.send_header("Location", to)
        request.send_header("Content-Length", "0")
        request.end_headers()

    return answer


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority(tmp_path / "ca", "Test CA")


@pytest.fixture
def mirrors(authority: Authority, tmp_path: Path) -> Iterator[tuple[Mirror, Mirror]]:
    """The host of the address, and another one."""
    made = Mirror(authority, tmp_path), Mirror(authority, tmp_path)
    yield made
    for one in made:
        one.close()


@pytest.fixture
def mirror(mirrors: tuple[Mirror, Mirror]) -> Mirror:
    return mirrors[0]


@pytest.fixture
def network(authority: Authority) -> Network:
    return Network(ca=authority.ca_path)


def loaded(address: str, network: Network) -> settings.Settings:
    found = settings.load({"bundle": address}, {"CLAWDET_STATE": "/nowhere"}, default_openclaw=VERSION)
    return replace(found, network=network)


def lines(address: str, network: Network, seconds: float = 20) -> tuple[dict[str, str], str]:
    return bundle.lines(loaded(address, network), VERSION, "x86", Deadline.after(seconds))


def test_user_and_password_of_an_address_go_into_a_header_and_nowhere_else(mirror: Mirror, network: Network) -> None:
    mirror.answers["/new/b.tar.zst.json"] = mirror.manifest
    mirror.answers["/b.tar.zst.json"] = redirected("/new/b.tar.zst.json")
    address = f"https://{USER}:S3cretPassw0rd%402@{mirror.address}/b.tar.zst"
    found, reason = lines(address, network)
    assert (found, reason) == ({"bundle_url": address, "bundle_sha256": MANIFEST.archive_sha256}, "")
    header = "Basic " + base64.b64encode(f"{USER}:{PASSWORD}".encode()).decode()
    assert mirror.asked == [("/b.tar.zst.json", header), ("/new/b.tar.zst.json", header)]
    for text in (address, header, f"https://x/{PASSWORD}", "S3cretPassw0rd%402"):
        assert not {part for part in ("S3cret", header[10:30]) if part in hide(text)}


@pytest.mark.parametrize(
    "address",
    [
        "https://me:S3cretPassw0rd@127.0.0.1:9/b.tar.zst",
        f"https://127.0.0.1:9/b.tar.zst?sig={SIGNATURE}",
        "https://pw:short@127.0.0.1:9/b.tar.zst",
    ],
)
def test_what_fails_shows_neither_password_nor_signature(address: str, network: Network) -> None:
    found = loaded(address, network)
    assert found.bundle is not None
    _, reason = bundle.lines(found, VERSION, "x86", Deadline.after(20))
    assert "https://127.0.0.1/b.tar.zst.json cannot be downloaded" in reason
    shown = " ".join((reason, repr(found), source.parse(found.bundle).shown, repr(source.parse(found.bundle))))
    assert not [part for part in ("S3cret", SIGNATURE, "short", "pw:") if part in shown]


def test_a_host_name_that_none_can_be_is_told_of(network: Network) -> None:
    found = loaded("https://mirror..example.com/b.tar.zst", network)
    assert found.bundle is not None
    _, reason = bundle.lines(found, VERSION, "x86", Deadline.after(20))
    assert "b.tar.zst.json cannot be downloaded" in reason


@pytest.mark.parametrize("of", ["other host", "other port", "with a user of its own"])
def test_a_manifest_of_another_host_is_not_taken_and_that_host_learns_nothing(
    mirrors: tuple[Mirror, Mirror], network: Network, of: str
) -> None:
    mirror, other = mirrors
    to = {
        "other host": f"https://localhost:{mirror.address.partition(':')[2]}/x.json",
        "other port": f"https://{other.address}/x.json",
        "with a user of its own": f"https://x:yyyyyyyy@{mirror.address}/x.json",
    }[of]
    mirror.answers["/b.tar.zst.json"] = redirected(to)
    found, reason = lines(f"https://me:S3cretPassw0rd@{mirror.address}/b.tar.zst", network)
    assert found == {}
    assert "it leads to another host" in reason
    assert (len(mirror.asked), other.asked) == (1, [])


def dripping(mirror: Mirror, *, head: bool) -> Answer:
    """Answer a byte at a time, faster than any time-out of one piece, for ten seconds."""

    def answer(request: BaseHTTPRequestHandler) -> None:
        if not head:
            request.send_response(200)
            request.end_headers()
        for _ in range(200):
            if mirror.over.wait(0.05):
                return
            request.wfile.write(b"H" if head else b" ")
            request.wfile.flush()

    return answer


@pytest.mark.parametrize("head", [True, False])
def test_a_manifest_that_drips_is_given_up_at_the_deadline(mirror: Mirror, network: Network, head: bool) -> None:
    mirror.answers["/b.tar.zst.json"] = dripping(mirror, head=head)
    began = time.monotonic()
    found, reason = lines(f"https://{mirror.address}/b.tar.zst", network, seconds=1)
    assert time.monotonic() - began < 4
    assert (found, reason) == ({}, "https://127.0.0.1/b.tar.zst.json did not come in time.")


def test_a_file_that_drips_is_given_up_too(
    mirror: Mirror, network: Network, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fetch, "FILE_SECONDS", 0.5)
    mirror.answers["/node"] = dripping(mirror, head=False)
    began = time.monotonic()
    with pytest.raises(ConfigError, match="it did not come within 0 s"):
        fetch.file(f"https://{mirror.address}/node", tmp_path / "node", {"sha256": "0" * 64}, network)
    assert time.monotonic() - began < 4
    assert not (tmp_path / "node").exists()


def test_a_public_address_is_shown_as_it_is() -> None:
    loaded("https://mirror.example.test/b.tar.zst", Network())
    assert hide("https://mirror.example.test/b.tar.zst") == "https://mirror.example.test/b.tar.zst"
    assert fetch.shown(Secret("https://h.test/b", ())) == "https://h.test/b"
