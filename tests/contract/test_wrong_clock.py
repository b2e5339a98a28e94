"""A clock of the operator's that is wrong: certificates seem to be of another time, and that is said of the clock."""

import datetime as dt
import socketserver
import ssl
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from email.utils import format_datetime
from pathlib import Path

import pytest

from clawdet_cli.adapters import proxy, retry
from clawdet_cli.adapters.cloudflare import Cloudflare
from clawdet_cli.adapters.hetzner import Hetzner
from clawdet_cli.errors import ConfigError
from clawdet_cli.model import Deadline
from clawdet_cli.network import Network
from clawdet_cli.sandbox import authority as issuing
from clawdet_cli.sandbox.authority import Authority
from clawdet_cli.secret import Secret

TOKEN = "t" * 64
HOURS = dt.timedelta(hours=5)
Client = Hetzner | Cloudflare


class _Api(socketserver.StreamRequestHandler):
    """Answers each request with its own time."""

    server: "_Server"

    def handle(self) -> None:
        with suppress(OSError), self.server.tls.wrap_socket(self.request, server_side=True) as stream:
            self.server.asked.append(stream.recv(65536).decode())
            now = dt.datetime.now(dt.UTC) + self.server.ahead
            date = format_datetime(now, usegmt=True)
            stream.sendall(f"HTTP/1.1 404 Not Found\r\nDate: {date}\r\nContent-Length: 0\r\n\r\n".encode())


class _Server(socketserver.ThreadingTCPServer):
    daemon_threads = True

    def __init__(self, tls: ssl.SSLContext, ahead: dt.timedelta) -> None:
        super().__init__(("127.0.0.1", 0), _Api)
        self.tls, self.ahead = tls, ahead
        self.asked: list[str] = []


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority(tmp_path / "ca", "A public CA")


@pytest.fixture
def serving(
    authority: Authority, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Callable[..., "AbstractContextManager[_Server]"]:
    """Return what serves an API whose certificate begins `valid` from now, and whose clock is `ahead` of ours."""
    monkeypatch.setattr(proxy, "_CLOCK_SECONDS", 20)

    @contextmanager
    def serve(valid: dt.timedelta, ahead: dt.timedelta) -> Iterator[_Server]:
        monkeypatch.setattr(issuing, "BACKDATE", -valid)
        pair = tmp_path / "pair.pem"
        pair.write_text("".join(authority.issue_server(["localhost"])))
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        context.load_cert_chain(pair)
        with _Server(context, ahead) as server:
            thread = threading.Thread(target=server.serve_forever, args=(0.05,))
            thread.start()
            try:
                yield server
            finally:
                server.shutdown()
                thread.join(5)

    return serve


def refused(kind: type[Client], server: _Server, authority: Authority) -> tuple[ConfigError, Client]:
    url, network = f"https://localhost:{server.server_address[1]}", Network(ca=authority.ca_path)
    client = kind(url, Secret(TOKEN), Deadline.after(5), network=network)
    with pytest.raises(ConfigError) as caught:
        client.check()
    client.close()
    return caught.value, client


@pytest.mark.parametrize(("kind", "name"), [(Hetzner, "Hetzner Cloud"), (Cloudflare, "Cloudflare")])
def test_a_clock_that_is_hours_behind_is_named_with_how_much(
    kind: type[Client], name: str, serving: Callable[..., "AbstractContextManager[_Server]"], authority: Authority
) -> None:
    with serving(valid=HOURS / 2, ahead=HOURS) as server:
        error, client = refused(kind, server, authority)
    assert error.what == (
        f"This machine's clock is 300 minutes behind that of {name}, by which the certificate that answers for {name}"
        " is not trusted: certificate is not yet valid. No token was sent to it."
    )
    assert "timedatectl set-ntp true" in error.next_steps[1]
    assert [words.split()[0] for words in server.asked] == ["HEAD"]
    assert TOKEN not in "".join(server.asked)
    assert client.clock.is_wrong, "doctor does not learn it"


def test_a_certificate_that_is_wrong_by_a_right_clock_is_not_blamed_on_it(
    serving: Callable[..., "AbstractContextManager[_Server]"], authority: Authority
) -> None:
    with serving(valid=HOURS, ahead=dt.timedelta()) as server:
        error, _ = refused(Hetzner, server, authority)
    assert error.what.startswith("The certificate that answers for Hetzner Cloud is not trusted: certificate is not")


def test_who_then_says_nothing_holds_nobody_up(
    serving: Callable[..., "AbstractContextManager[_Server]"], authority: Authority, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(retry, "FIRST_PATIENCE", 0.2)
    monkeypatch.setattr(proxy, "_CLOCK_SECONDS", 0.3)
    released = threading.Event()
    monkeypatch.setattr(_Api, "handle", lambda self: _silent(self, released))
    with serving(valid=HOURS, ahead=HOURS) as server:
        error, _ = refused(Hetzner, server, authority)
        released.set()
    assert error.what.startswith("The certificate that answers for Hetzner Cloud is not trusted")


def _silent(handler: _Api, released: threading.Event) -> None:
    with suppress(OSError), handler.server.tls.wrap_socket(handler.request, server_side=True):
        released.wait(20)
