"""A clock on the wall that is set back while a peer is silent: paramiko's own time-outs go by it, and never come."""

import contextlib
import itertools
import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import paramiko
import pytest
from paramiko.common import AUTH_SUCCESSFUL, OPEN_SUCCEEDED

from clawdet_cli.adapters import ssh as adapter
from clawdet_cli.adapters.ssh import ConnectionLost, Ssh, make_host_key, operator_key
from clawdet_cli.errors import GuestError, WaitError
from clawdet_cli.model import Deadline

RED_SECONDS = 8
"""After these the peers here give up, so that a wait without an end fails a test in place of holding it up."""


class Silent(paramiko.ServerInterface):
    """Lets everybody in, and says nothing more."""

    def __init__(self, released: threading.Event) -> None:
        self.released = released

    def check_auth_publickey(self, username: str, key: paramiko.PKey) -> int:  # noqa: ARG002
        return AUTH_SUCCESSFUL

    def check_channel_request(self, kind: str, chanid: int) -> int:  # noqa: ARG002
        return OPEN_SUCCEEDED

    def check_channel_exec_request(self, channel: paramiko.Channel, command: bytes) -> bool:  # noqa: ARG002
        return True

    def check_channel_direct_tcpip_request(
        self,
        chanid: int,  # noqa: ARG002
        origin: tuple[str, int],  # noqa: ARG002
        destination: tuple[str, int],  # noqa: ARG002
    ) -> int:
        self.released.wait(RED_SECONDS)
        return OPEN_SUCCEEDED


@pytest.fixture
def released() -> Iterator[threading.Event]:
    """Set at the end of a test: the peers end then."""
    event = threading.Event()
    yield event
    event.set()


@contextlib.contextmanager
def listening(serve: Callable[[socket.socket], None]) -> Iterator[tuple[str, int]]:
    with socket.create_server(("127.0.0.1", 0)) as server:

        def accept() -> None:
            with contextlib.suppress(OSError):
                while True:
                    connection, _ = server.accept()
                    threading.Thread(target=serve, args=(connection,), daemon=True).start()

        threading.Thread(target=accept, daemon=True).start()
        yield server.getsockname()
        server.shutdown(socket.SHUT_RDWR)


@pytest.fixture
def only_a_banner(released: threading.Event) -> Iterator[tuple[str, int]]:
    """Something that speaks like an SSH server, and then no more."""

    def serve(connection: socket.socket) -> None:
        with connection:
            connection.sendall(b"SSH-2.0-Silent\r\n")
            released.wait(RED_SECONDS)

    with listening(serve) as address:
        yield address


@pytest.fixture
def connected(tmp_path: Path, released: threading.Event) -> Iterator[Ssh]:
    """A connection to a server that does nothing of what it is asked."""
    host_key = make_host_key()
    (tmp_path / "host_key").write_text(host_key.private.reveal())
    operator_key(tmp_path / "key", make=True)

    def serve(connection: socket.socket) -> None:
        with contextlib.closing(paramiko.Transport(connection)) as transport:
            transport.add_server_key(paramiko.Ed25519Key.from_private_key_file(str(tmp_path / "host_key")))
            transport.start_server(server=Silent(released))
            released.wait(RED_SECONDS)

    with (
        listening(serve) as address,
        Ssh.connect(address, (host_key.public,), tmp_path / "key", Deadline.after(10)) as ssh,
    ):
        yield ssh


@pytest.fixture
def falling(monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    """Let the clock fall by an hour whenever somebody looks at it."""
    return lambda: monkeypatch.setattr(time, "time", itertools.count(2_000_000_000.0, -3600.0).__next__)


@contextlib.contextmanager
def soon() -> Iterator[None]:
    began = time.monotonic()
    yield
    assert time.monotonic() - began < RED_SECONDS - 2


def test_a_connection_is_given_up_at_the_deadline(
    only_a_banner: tuple[str, int], falling: Callable[[], None], tmp_path: Path
) -> None:
    operator_key(tmp_path / "key", make=True)
    falling()
    with soon(), pytest.raises(WaitError, match="no answer"):
        Ssh.connect(only_a_banner, (make_host_key().public,), tmp_path / "key", Deadline.after(0.5))


def test_so_is_the_look_at_a_host_key(only_a_banner: tuple[str, int], falling: Callable[[], None]) -> None:
    falling()
    with soon(), pytest.raises(GuestError, match="shows no SSH host key: no answer"):
        adapter.shown_host_key(only_a_banner, Deadline.after(0.5))


def test_so_is_a_command_that_says_nothing(connected: Ssh, falling: Callable[[], None]) -> None:
    falling()
    with soon(), pytest.raises(WaitError, match="to end"):
        connected.run("true", timeout=1)


def test_so_is_a_tunnel_that_is_never_opened(
    connected: Ssh, falling: Callable[[], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(adapter, "TUNNEL_SECONDS", 0.5)
    falling()
    with soon(), pytest.raises(ConnectionLost, match="was lost"):
        connected.tunnel("127.0.0.1", 443)
    assert not connected.alive
