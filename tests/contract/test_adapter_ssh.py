"""The product's SSH adapter against a real OpenSSH server, and against listeners that are none."""

import contextlib
import getpass
import os
import select
import shutil
import signal
import socket
import ssl
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import paramiko
import pytest
from paramiko.common import AUTH_FAILED, AUTH_SUCCESSFUL, OPEN_SUCCEEDED

from clawdet_cli.adapters import ssh as adapter
from clawdet_cli.adapters.ssh import (
    ConnectionLost,
    Ssh,
    fingerprint,
    known_hosts_line,
    make_host_key,
    openssh_command,
    operator_key,
)
from clawdet_cli.adapters.threads import begin
from clawdet_cli.errors import GuestError, WaitError
from clawdet_cli.model import Deadline, HostKey
from clawdet_cli.sandbox.authority import Authority
from clawdet_cli.secret import Secret

SSHD = "/usr/sbin/sshd"
pytestmark = pytest.mark.skipif(
    not Path(SSHD).exists() or os.geteuid() != 0, reason="needs OpenSSH's server, and root, as whom clawdet logs in"
)


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])


class Sshd:
    """A real sshd as a process of the test's own."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.host_key: HostKey = make_host_key()
        self.key = folder / "id_ed25519"
        self.address = ("127.0.0.1", free_port())
        self._process: subprocess.Popen[bytes] | None = None
        host_key_file = folder / "host_key"
        host_key_file.touch(mode=0o600)
        host_key_file.write_text(self.host_key.private.reveal())
        self.authorise(operator_key(self.key, make=True))
        (folder / "sshd_config").write_text(
            f"ListenAddress 127.0.0.1\nPort {self.address[1]}\nHostKey {host_key_file}\nPidFile none\nStrictModes no\n"
            f"AuthorizedKeysFile {folder}/authorized_keys\nPasswordAuthentication no\nKbdInteractiveAuthentication no\n"
            "PermitRootLogin yes\nUsePAM no\nPermitUserEnvironment no\n"
        )

    def authorise(self, public: str) -> None:
        (self.folder / "authorized_keys").write_text(public + "\n")

    def start(self) -> None:
        Path("/run/sshd").mkdir(mode=0o755, exist_ok=True)  # sshd wants it for privilege separation
        self._process = subprocess.Popen(
            [SSHD, "-D", "-e", "-f", self.folder / "sshd_config"], stderr=subprocess.DEVNULL, start_new_session=True
        )

    def stop(self) -> None:
        if self._process:
            self._process.terminate()
            self._process.wait(10)

    def connect(self, seconds: float = 10, **changes: object) -> Ssh:
        arguments = {"host_keys": (self.host_key.public,), "key": self.key, **changes}
        return Ssh.connect(self.address, deadline=Deadline.after(seconds), **arguments)  # type: ignore[arg-type]  # the changes are the tests' own


@pytest.fixture
def sshd(tmp_path: Path) -> Iterator[Sshd]:
    server = Sshd(tmp_path)
    server.start()
    yield server
    server.stop()


@pytest.fixture
def ssh(sshd: Sshd) -> Iterator[Ssh]:
    with sshd.connect() as connection:
        yield connection


@contextlib.contextmanager
def listener(handle: Callable[[socket.socket], None]) -> Iterator[tuple[str, int]]:
    """Listen on a free port, and hand each connection over."""
    with socket.create_server(("127.0.0.1", 0)) as server:

        def accept() -> None:
            while True:
                try:
                    connection, _ = server.accept()
                except OSError:
                    return
                with connection:
                    handle(connection)

        thread = threading.Thread(target=accept)
        thread.start()
        yield server.getsockname()
        server.shutdown(socket.SHUT_RDWR)
        thread.join(10)
        assert not thread.is_alive()


class TestConnect:
    def test_runs_as_root(self, ssh: Ssh) -> None:
        assert ssh.run("id -un", timeout=10) == adapter.CommandResult(0, "root\n", "")
        assert getpass.getuser() == "root"

    def test_a_server_that_is_not_up_yet_is_waited_for(self, tmp_path: Path) -> None:
        server = Sshd(tmp_path)
        told: list[str] = []

        def watch(seen: str) -> None:
            told.append(seen)
            server.start()

        with server.connect(watch=watch) as connection:
            assert connection.alive
        server.stop()
        assert told == ["the port is closed"]

    def test_another_host_key_is_refused_at_once_with_both_fingerprints(self, sshd: Sshd) -> None:
        other = make_host_key().public
        began = time.monotonic()
        with pytest.raises(GuestError, match="another host key") as caught:
            sshd.connect(seconds=60, host_keys=(other,))
        assert time.monotonic() - began < 10
        text = " ".join(caught.value.details)
        assert fingerprint(other) in text
        assert fingerprint(sshd.host_key.public) in text

    def test_a_key_that_is_not_there_yet_is_waited_for(self, sshd: Sshd) -> None:
        sshd.authorise("")
        told: list[str] = []

        def watch(seen: str) -> None:
            told.append(seen)
            if seen == "it refuses our key":
                sshd.authorise(operator_key(sshd.key))

        with sshd.connect(watch=watch):
            assert told[-1] == "it refuses our key"

    def test_a_key_that_stays_refused_ends_it_after_a_while(self, sshd: Sshd) -> None:
        sshd.authorise("")
        with pytest.raises(GuestError, match="still refuses the SSH key"):
            sshd.connect(seconds=60, auth_grace=0.5)

    @pytest.mark.parametrize("first", [True, False])
    def test_while_one_host_key_replaces_another_either_is_accepted(self, first: bool, sshd: Sshd) -> None:
        other, own = make_host_key().public, sshd.host_key.public
        with sshd.connect(host_keys=(own, other) if first else (other, own)) as connection:
            assert connection.host_key == own

    def test_a_third_one_is_not(self, sshd: Sshd) -> None:
        others = (make_host_key().public, make_host_key().public)
        with pytest.raises(GuestError, match="another host key") as caught:
            sshd.connect(seconds=60, host_keys=others)
        assert all(fingerprint(key) in "\n".join(caught.value.details) for key in (*others, sshd.host_key.public))

    def test_a_closed_port_ends_as_a_wait(self) -> None:
        address = ("127.0.0.1", free_port())
        with pytest.raises(WaitError, match=r"SSH on 127\.0\.0\.1:\d+; last seen: the port is closed"):
            Ssh.connect(address, (make_host_key().public,), self.key(), Deadline.after(0.5))

    @pytest.mark.parametrize(
        ("handle", "seen"),
        [
            (lambda connection: connection.recv(1024), "connected, but no SSH yet"),
            (lambda connection: connection.sendall(b"SSH-2.0-x\r\n"), "the connection was cut"),
        ],
        ids=["closes", "closes after the banner"],
    )
    def test_what_is_no_ssh_server_yet_ends_as_a_wait(self, handle: Callable[[socket.socket], None], seen: str) -> None:
        with listener(handle) as address, pytest.raises(WaitError, match=f"last seen: {seen}"):
            Ssh.connect(address, (make_host_key().public,), self.key(), Deadline.after(0.5))

    def test_no_thread_is_begun_before_something_speaks(self, monkeypatch: pytest.MonkeyPatch) -> None:
        made: list[object] = []
        monkeypatch.setattr(paramiko.Transport, "start", made.append)
        with listener(lambda _: None) as address, pytest.raises(WaitError, match="no SSH yet"):
            Ssh.connect(address, (make_host_key().public,), self.key(), Deadline.after(0.5))
        assert made == []

    def test_silence_ends_as_a_wait(self) -> None:
        done = threading.Event()

        def stay_silent(_connection: socket.socket) -> None:
            done.wait(20)

        with listener(stay_silent) as address:
            with pytest.raises(WaitError, match="last seen: connected, but no SSH yet"):
                Ssh.connect(address, (make_host_key().public,), self.key(), Deadline.after(0.5))
            done.set()

    def test_a_packet_of_gigabytes_is_not_waited_for(self) -> None:
        def announce(connection: socket.socket) -> None:
            connection.sendall(b"SSH-2.0-evil\r\n" + (0x7FFFFFFC).to_bytes(4, "big") + bytes(4))
            with contextlib.suppress(OSError):
                while connection.recv(65536):
                    pass

        with listener(announce) as address, pytest.raises(WaitError, match="it announces a packet of 2147483640 bytes"):
            Ssh.connect(address, (make_host_key().public,), self.key(), Deadline.after(1))

    def test_a_slow_banner_is_waited_for(self, sshd: Sshd) -> None:
        """Systemd accepts before sshd runs: the banner of a booting server comes late, on a connection that is good."""
        released = threading.Event()

        def relay(connection: socket.socket) -> None:
            released.wait(20)
            with socket.create_connection(sshd.address) as real:
                pumps = [threading.Thread(target=copy, args=pair) for pair in ((connection, real), (real, connection))]
                for pump in pumps:
                    pump.start()
                for pump in pumps:
                    pump.join()

        def copy(source: socket.socket, target: socket.socket) -> None:
            with contextlib.suppress(OSError):
                while data := source.recv(65536):
                    target.sendall(data)
            with contextlib.suppress(OSError):
                target.shutdown(socket.SHUT_WR)

        timer = threading.Timer(1.0, released.set)
        timer.start()
        with listener(relay) as address:
            told: list[str] = []
            connection = Ssh.connect(address, (sshd.host_key.public,), sshd.key, Deadline.after(20), told.append)
            with connection:
                assert connection.run("echo here", timeout=10).out == "here\n"
            assert told == []
        timer.join()

    @pytest.fixture(autouse=True)
    def _own_key(self, tmp_path: Path) -> None:
        self._key = tmp_path / "some_key"
        operator_key(self._key, make=True)

    def key(self) -> Path:
        return self._key


class TestRun:
    def test_gives_code_and_both_streams(self, ssh: Ssh) -> None:
        result = ssh.run("echo out; echo err >&2; exit 7", timeout=10)
        assert result == adapter.CommandResult(7, "out\n", "err\n")

    def test_hands_over_stdin_whole(self, ssh: Ssh) -> None:
        content = os.urandom(3 * 1024 * 1024)
        assert ssh.run("wc -c", stdin=content, timeout=20).out.strip() == str(len(content))

    def test_stdin_is_closed_without_content(self, ssh: Ssh) -> None:
        assert ssh.run("cat; echo end", timeout=10).out == "end\n"

    def test_reads_both_streams_past_their_windows(self, ssh: Ssh) -> None:
        megabytes = "head -c 3000000 /dev/zero"
        result = ssh.run(f"{megabytes} >&2; {megabytes}", timeout=30)
        assert (len(result.out), len(result.err)) == (3_000_000, 3_000_000)

    def test_a_command_that_leaves_its_input_alone_is_no_failure(self, ssh: Ssh) -> None:
        assert ssh.run("exit 0", stdin=b"x" * 5_000_000, timeout=20).code == 0

    def test_too_much_output_is_refused(self, ssh: Ssh, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(adapter, "MOST_OUTPUT", 1000)
        with pytest.raises(GuestError, match="more than 1000 bytes"):
            ssh.run("head -c 100000 /dev/zero", timeout=10)

    def test_what_is_no_utf8_is_replaced(self, ssh: Ssh) -> None:
        assert ssh.run(r"printf '\377ok'", timeout=10).out == "\ufffdok"

    def test_a_command_that_does_not_end_is_a_wait(self, ssh: Ssh) -> None:
        with pytest.raises(WaitError, match="to end") as caught:
            ssh.run("echo so far; exec sleep 60", timeout=3)
        assert "so far" in caught.value.details
        assert ssh.run("echo still here", timeout=10).out == "still here\n"

    def test_one_that_says_a_little_all_the_time_is_one_too(self, ssh: Ssh) -> None:
        streams = adapter._Streams(ssh._transport, Deadline.after(0.5))
        with pytest.raises(TimeoutError):
            streams.converse("timeout 5 sh -c 'while :; do echo x; sleep 0.02; done'", b"")

    def test_one_that_nobody_waits_for_any_more_is_not_begun(self, ssh: Ssh, tmp_path: Path) -> None:
        begun = tmp_path / "begun"
        streams = adapter._Streams(ssh._transport, Deadline.after(10))
        streams.close()
        with pytest.raises(EOFError):
            streams.converse(f"touch {begun}", b"")
        assert ssh.run("true", timeout=10).code == 0
        assert not begun.exists()

    def test_one_takes_one_thread(self, ssh: Ssh, monkeypatch: pytest.MonkeyPatch) -> None:
        calls: list[Callable[[], Any]] = []

        def counting(call: Callable[[], Any]) -> Future[Any]:
            calls.append(call)
            return begin(call)

        monkeypatch.setattr(adapter, "begin", counting)
        answer = ssh.run("echo said; echo complained >&2; exec >&- 2>&-; sleep 0.1; exit 3", timeout=10)
        assert (answer.code, answer.out, answer.err) == (3, "said\n", "complained\n")
        assert len(calls) in {1, 2}  # the second where the server was not the first to close the channel

    def test_the_end_of_its_complaint_is_masked_before_it_is_cut(self, ssh: Ssh) -> None:
        secret = Secret("canary-0123456789")
        line = "x" * (adapter.MOST_LINE - 5) + secret.reveal()
        (shown,) = ssh.run(f"echo {line} >&2; exit 1", timeout=10).complaint
        assert shown == "x" * (adapter.MOST_LINE - 5) + "***"

    def test_a_signal_is_not_taken_for_a_lost_connection(self, ssh: Ssh) -> None:
        with pytest.raises(GuestError, match="ended by a signal") as caught:
            ssh.run("kill -9 $$", timeout=10)
        assert not isinstance(caught.value, ConnectionLost)
        assert ssh.alive

    def test_a_connection_that_is_lost_meanwhile_is_told(self, ssh: Ssh) -> None:
        # The shell's parent is the sshd process of this one connection.
        with pytest.raises(ConnectionLost, match="was lost"):
            ssh.run("kill -9 $PPID; sleep 60", timeout=30)
        assert not ssh.alive
        with pytest.raises(ConnectionLost):
            ssh.run("true", timeout=10)
        with pytest.raises(ConnectionLost):
            ssh.tunnel("127.0.0.1", 1)

    def test_an_idle_connection_does_not_look_ten_times_a_second_whether_it_was_closed(self, ssh: Ssh) -> None:
        assert ssh.run("true", timeout=10).code == 0
        assert ssh._transport.sock.gettimeout() == adapter.IDLE_SECONDS

    def test_paramiko_compares_no_digests_byte_by_byte(self, ssh: Ssh, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("paramiko.util.constant_time_bytes_eq", None)
        assert ssh.run("true", timeout=10).code == 0
        assert [getattr(ssh._transport, f"{side}_cipher") for side in ("local", "remote")] == [adapter.CIPHERS[0]] * 2

    def test_its_reading_thread_ends_when_it_is_closed(self, sshd: Sshd, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(adapter, "IDLE_SECONDS", 600)
        connection = sshd.connect()
        assert connection.run("true", timeout=10).code == 0
        connection.close()
        connection._transport.join(10)
        assert not connection._transport.is_alive()

    @pytest.mark.parametrize(("stdin", "threads"), [(b"", 1), (b"x", 2)])
    def test_a_command_without_input_takes_no_thread_to_write_it(
        self, ssh: Ssh, monkeypatch: pytest.MonkeyPatch, stdin: bytes, threads: int
    ) -> None:
        used: list[int] = []

        def noting(whole: Callable[..., Any]) -> Callable[..., Any]:
            def noted(*given: Any) -> Any:
                used.append(threading.get_ident())
                return whole(*given)

            return noted

        for name in ("_read", "_write"):
            monkeypatch.setattr(adapter._Streams, name, noting(getattr(adapter._Streams, name)))
        assert ssh.run("cat", stdin=stdin, timeout=10).out == stdin.decode()
        assert (len(used), len(set(used))) == (2, threads)

    def test_several_run_side_by_side(self, ssh: Ssh) -> None:
        answers: dict[int, str] = {}

        def run(number: int) -> None:
            answers[number] = ssh.run(f"echo {number}", timeout=10).out

        threads = [threading.Thread(target=run, args=(number,)) for number in range(5)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert answers == {number: f"{number}\n" for number in range(5)}


class TestTunnel:
    def test_carries_tls(self, ssh: Ssh, tmp_path: Path) -> None:
        authority = Authority(tmp_path / "ca", "CA")
        certificate, key = authority.issue_server(["alice.clawdet.test"])
        (tmp_path / "pair.pem").write_text(certificate + key)
        server = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        server.load_cert_chain(tmp_path / "pair.pem")

        def echo(connection: socket.socket) -> None:
            with server.wrap_socket(connection, server_side=True) as stream, contextlib.suppress(ssl.SSLEOFError):
                while data := stream.recv(65536):
                    stream.sendall(data)

        client = ssl.create_default_context(cafile=authority.ca_path)
        sent = os.urandom(500_000)
        with (
            listener(echo) as address,
            ssh.tunnel(*address) as plain,
            client.wrap_socket(plain, server_hostname="alice.clawdet.test") as stream,
        ):
            sender = threading.Thread(target=stream.sendall, args=(sent,))
            sender.start()
            received = b""
            while len(received) < len(sent):
                received += stream.recv(65536)
            sender.join()
        assert received == sent

    def test_ends_when_the_other_side_does(self, ssh: Ssh) -> None:
        with listener(lambda connection: connection.sendall(b"bye")) as address, ssh.tunnel(*address) as stream:
            assert stream.recv(100) == b"bye"
            assert stream.recv(100) == b""

    def test_ends_when_the_connection_does(self, ssh: Ssh) -> None:
        def stay_silent(connection: socket.socket) -> None:
            connection.recv(1)

        with listener(stay_silent) as address, ssh.tunnel(*address) as stream:
            stream.settimeout(10)
            ssh.close()
            assert stream.recv(100) == b""

    def test_to_a_closed_port_is_refused(self, ssh: Ssh) -> None:
        with pytest.raises(GuestError, match="cannot connect to its own"):
            ssh.tunnel("127.0.0.1", free_port())


class TestOpenSsh:
    def run(self, sshd: Sshd, pinned: str, tmp_path: Path) -> "subprocess.CompletedProcess[str]":
        known_hosts = tmp_path / "known_hosts"
        known_hosts.write_text(known_hosts_line("clawdet-alice", pinned) + "\n")
        command = openssh_command(sshd.address, sshd.key, known_hosts, "clawdet-alice", ["echo", "hello"])
        return subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)

    @pytest.fixture(autouse=True)
    def _answers(self, ssh: Ssh) -> None:
        assert ssh.alive

    @pytest.mark.skipif(not shutil.which("ssh"), reason="needs OpenSSH's client")
    def test_trusts_what_clawdet_trusts_and_nothing_else(self, sshd: Sshd, tmp_path: Path) -> None:
        assert self.run(sshd, sshd.host_key.public, tmp_path).stdout == "hello\n"
        refused = self.run(sshd, make_host_key().public, tmp_path)
        assert refused.returncode == 255
        assert "host key" in refused.stderr.lower()


def test_an_interrupt_closes_what_it_was_waiting_for(sshd: Sshd) -> None:
    main = threading.main_thread().ident
    assert main is not None
    over = threading.Event()

    def interrupt() -> None:
        # Again: Python hears of a signal that comes just before a wait begins when that ends, and not before.
        for seconds in (0.3, 10, 10):
            if over.wait(seconds):
                return
            signal.pthread_kill(main, signal.SIGINT)

    with sshd.connect() as connection:
        interrupting = threading.Thread(target=interrupt)
        interrupting.start()
        with pytest.raises(KeyboardInterrupt):
            connection.run("sleep 60", timeout=60)
        over.set()
        interrupting.join()
        assert connection.run("echo on", timeout=10).out == "on\n"


def test_closing_does_not_wait_for_a_lock_that_an_interrupted_call_kept(sshd: Sshd) -> None:
    """Seen: SIGTERM in the middle of opening a channel, and a command that never ended."""
    connection = sshd.connect()
    kept = vars(connection._transport)["_channels"]._lock
    kept.acquire()
    closing = threading.Thread(target=connection.close, daemon=True)
    closing.start()
    closing.join(10)
    ended = not closing.is_alive()
    kept.release()
    assert ended


class TestADeadPeer:
    """One whose kernel still takes what comes, or not even that; nothing is answered."""

    @pytest.fixture
    def frozen(self, sshd: Sshd) -> Iterator[Callable[[], Ssh]]:
        """Connect through a relay that passes nothing on any more when the connection is given."""
        through = threading.Event()
        through.set()

        def relay(connection: socket.socket) -> None:
            with socket.create_connection(sshd.address) as real:
                sides = {connection: real, real: connection}
                while through.is_set():
                    for side in select.select(list(sides), [], [], 0.02)[0]:
                        data = side.recv(65536)
                        if not data:
                            return
                        sides[side].sendall(data)
                thawed.wait(30)

        thawed = threading.Event()
        sshd.connect().close()  # it is up
        with listener(relay) as address:

            def connect() -> Ssh:
                connection = Ssh.connect(address, (sshd.host_key.public,), sshd.key, Deadline.after(10))
                assert connection.run("echo here", timeout=10).out == "here\n"
                through.clear()
                return connection

            yield connect
            thawed.set()

    def test_a_session_that_is_never_opened_ends_in_time_and_the_connection_is_given_up(
        self, frozen: Callable[[], Ssh]
    ) -> None:
        connection, began = frozen(), time.monotonic()
        with pytest.raises(ConnectionLost):
            connection.run("true", timeout=1)
        assert time.monotonic() - began < 5
        assert not connection.alive

    def test_a_command_that_is_never_begun_is_a_wait(self, sshd: Sshd, tmp_path: Path) -> None:
        """Its channel was opened; paramiko waits for the rest without a time-out."""
        released = threading.Event()

        class Silent(paramiko.ServerInterface):
            def check_auth_publickey(self, username: str, key: paramiko.PKey) -> int:
                return AUTH_SUCCESSFUL if (username, key) else AUTH_FAILED

            def check_channel_request(self, kind: str, chanid: int) -> int:
                return OPEN_SUCCEEDED if (kind, chanid) else 1

            def check_channel_exec_request(self, channel: paramiko.Channel, command: bytes) -> bool:
                return released.wait(30) and bool(channel and command)

        def serve(connection: socket.socket) -> None:
            transport = paramiko.Transport(connection)
            transport.add_server_key(paramiko.Ed25519Key.from_private_key_file(str(tmp_path / "host_key")))
            transport.start_server(server=Silent())
            released.wait(30)
            transport.close()

        with listener(serve) as address:
            connection = Ssh.connect(address, (sshd.host_key.public,), sshd.key, Deadline.after(10))
            began = time.monotonic()
            with pytest.raises(WaitError, match="to end"):
                connection.run("true", timeout=1)
            assert time.monotonic() - began < 5
            released.set()
            connection.close()
