"""SSH to a server whose host key is known before the first byte: the only importer of paramiko."""

import base64
import contextlib
import functools
import logging
import socket
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeVar

import paramiko
from paramiko.packet import Packetizer

from clawdet_cli import stopping
from clawdet_cli.adapters.proxy_command import CommandSocket
from clawdet_cli.adapters.retry import Fence, NotYet, Watch, until
from clawdet_cli.adapters.ssh_keys import (
    fingerprint,
    is_host_key,
    known_hosts_line,
    make_host_key,
    operator_key,
    pin_label,
)
from clawdet_cli.adapters.threads import begin
from clawdet_cli.errors import GuestError, WaitError
from clawdet_cli.model import Deadline
from clawdet_cli.secret import excerpt

__all__ = [
    "CommandResult",
    "ConnectionLost",
    "Ssh",
    "fingerprint",
    "is_host_key",
    "known_hosts_line",
    "make_host_key",
    "openssh_command",
    "operator_key",
    "pin_label",
]

T = TypeVar("T")

USER = "root"
PAUSE = 0.3
"""Seconds between two attempts to connect: less than a boot's own steps take, as each attempt gives up quickly."""
AUTH_GRACE = 90.0
"""Seconds for which a server may refuse our key: cloud-init writes keys after sshd is up."""

MOST_OUTPUT = 4 * 1024 * 1024
"""Bytes of each stream that one command may say."""
MOST_LINE = 300
"""Characters of a line of them that an error shows."""

MOST_PACKET = 256 * 1024
"""Bytes, as OpenSSH has it. paramiko believes any length, before it knows who says it, and takes the memory for it."""

CIPHERS = ("aes128-gcm@openssh.com", "aes256-gcm@openssh.com", "aes256-ctr", "aes128-ctr")
"""In this order. Of all others paramiko compares each packet's digest in Python, a byte at a time."""

_ALIAS = "clawdet-server"  # the pinned key belongs to this one connection, so any name will do

# Without a handler, logging's last resort prints paramiko's tracebacks on stderr.
logging.getLogger("paramiko").addHandler(logging.NullHandler())


CLOSE_SECONDS = 2.0

TUNNEL_SECONDS = 15.0
CONNECT_SECONDS = 30.0
"""For what has time-outs of its own, of paramiko's: they go by the clock on the wall, which may be set back."""
LATER_SECONDS = 0.5
"""How much later ours comes than those: they say more exactly what was waited for."""

KEEPALIVE_SECONDS = 15
IDLE_SECONDS = 5.0
"""How long a connection waits for a byte before it looks whether a sign of life is due."""


class ConnectionLost(GuestError):  # noqa: N818  # it reads as what happened
    """The connection ended while something ran over it: what ran may go on, or not."""


@dataclass(frozen=True)
class CommandResult:
    """How a remote command ended."""

    code: int
    out: str
    err: str

    @property
    def complaint(self) -> list[str]:
        """Give the last lines of its errors, as much as somebody wants to read."""
        return _last_lines(self.err)


class Ssh:
    """An open connection as root; a context manager that closes it."""

    def __init__(
        self, client: paramiko.SSHClient, address: tuple[str, int], host_key: str, fence: Fence | None = None
    ) -> None:
        self.host_key = host_key
        """The one that the server proved to have."""
        self._client = client
        self._fence = fence
        self._transport = _transport(client)
        self._where = f"{address[0]}:{address[1]}"

    @classmethod
    def connect(
        cls,
        address: tuple[str, int],
        host_keys: tuple[str, ...],
        key: Path,
        deadline: Deadline,
        watch: Watch | None = None,
        *,
        auth_grace: float | None = None,
        pace: float = 1.0,
        proxy_command: str | None = None,
        fence: Fence | None = None,
    ) -> "Ssh":
        """Connect as soon as the server lets us in; it may still be booting. `proxy_command` leads to it, if given.

        Only `host_keys` are accepted: one, or two while one takes the other's place. Raises GuestError at once for
        another one, and when our key is still refused `auth_grace` (else AUTH_GRACE) seconds after the server first
        answered; ConfigError when our key cannot be used; WaitError at the deadline. Pauses between attempts are `pace`
        times PAUSE. `fence` is asked before each attempt and each command, since any time may pass before one.
        """
        grace = AUTH_GRACE if auth_grace is None else auth_grace
        operator_key(key, of_server=True)  # says what is wrong with the file, in words of ours
        own_key = paramiko.PKey.from_path(key)
        tried = deque(host_keys)
        refused_since: float | None = None

        def attempt() -> Ssh:
            nonlocal refused_since
            if fence is not None:
                fence()
            try:
                opened = _open(address, _public_key(tried[0]), own_key, deadline, proxy_command)
                return cls(opened, address, tried[0], fence)
            except paramiko.BadHostKeyException as error:
                shown = f"{error.key.get_name()} {error.key.get_base64()}"
                if shown not in host_keys:
                    raise _wrong_host_key(address, host_keys, shown) from None
                tried.rotate()
                raise NotYet("it shows its other host key", pause=0) from None
            except paramiko.AuthenticationException as error:
                refused_since = time.monotonic() if refused_since is None else refused_since
                if time.monotonic() - refused_since >= grace:
                    raise _not_let_in(address, key, grace, error) from None
                raise NotYet("it refuses our key") from None
            except (paramiko.SSHException, EOFError, OSError) as error:
                raise NotYet(_reason(error)) from None

        what = f"SSH on {address[0]}:{address[1]}"
        return until(attempt, deadline=deadline, what=what, every=PAUSE * pace, watch=watch)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the connection and everything that goes over it, within CLOSE_SECONDS."""
        # A signal may have cut a call short that held one of paramiko's locks: then its close() waits for ever, and
        # with it the whole run that was told to stop.
        with contextlib.suppress(TimeoutError):
            _within(self._client.close, Deadline.after(CLOSE_SECONDS))

    @property
    def alive(self) -> bool:
        """Tell whether the connection is open, as far as is known without asking."""
        return self._transport.is_active()

    def run(self, command: str, *, stdin: bytes | Iterator[bytes] = b"", timeout: float) -> CommandResult:
        """Run a command and read all it says; any exit code is a result. `timeout` is in seconds.

        Pieces of stdin are asked for one after the other, as fast as the line carries them.

        Raises ConnectionLost when the connection ends first, GuestError when a signal ended the command or it said
        more than MOST_OUTPUT, WaitError when it did not end in time.
        """
        if self._fence is not None:
            self._fence()
        end = Deadline.after(max(1.0, timeout))
        streams = _Streams(self._transport, end)
        try:
            with stopping.interruptible(streams.close):
                code = _within(lambda: streams.converse(command, stdin), end)
        except (paramiko.SSHException, EOFError, OSError) as error:
            if not streams.opened:
                # A connection that opens no channel is of no use, and must not pass for one that lives.
                self.close()
            elif isinstance(error, TimeoutError):
                raise WaitError(
                    f"Waited {timeout:.0f} s for a command on {self._where} to end.",
                    details=[line for text in streams.text() for line in _last_lines(text)],
                    next_steps=["run the command again: it goes on where it stopped"],
                ) from None
            raise self._lost(error) from None
        finally:
            streams.close()
        if streams.too_much:
            raise GuestError(f"A command on {self._where} said more than {MOST_OUTPUT} bytes.")
        if code == -1 and self._ended():
            raise self._lost(None)
        if code == -1:
            raise GuestError(
                f"A command on {self._where} was ended by a signal.",
                details=[line for text in streams.text() for line in _last_lines(text)],
                next_steps=["look for memory shortage on the server: clawdet ssh USER -- journalctl -k -n 50"],
            )
        return CommandResult(code, *streams.text())

    def tunnel(self, host: str, port: int) -> socket.socket:
        """Give a socket to (host, port) as the server sees it; whoever gets it closes it.

        Raises GuestError when the server cannot connect, ConnectionLost when it is gone.
        """

        def opened() -> paramiko.Channel:
            there = ("127.0.0.1", 0)
            return self._transport.open_channel("direct-tcpip", (host, port), there, timeout=TUNNEL_SECONDS)

        try:
            channel = _within(opened, Deadline.after(TUNNEL_SECONDS + LATER_SECONDS))
        except paramiko.ChannelException as error:
            raise GuestError(
                f"The server {self._where} cannot connect to its own {host}:{port}: {error.text}.",
                next_steps=["see what listens there: clawdet ssh USER -- ss -ltn"],
            ) from None
        except (paramiko.SSHException, EOFError, OSError) as error:
            self.close()
            raise self._lost(error) from None
        ours, theirs = socket.socketpair()
        _pump(channel, theirs)
        return ours

    def _ended(self) -> bool:
        """Tell whether the connection ended; paramiko ends its channels a moment before it says so of itself."""
        self._transport.join(1.0)
        return not self.alive

    def _lost(self, error: Exception | None) -> ConnectionLost:
        return ConnectionLost(
            f"The SSH connection to {self._where} was lost.",
            details=[_reason(error)] if error else [],
            next_steps=["run the command again: it goes on where it stopped"],
        )


def openssh_command(
    address: tuple[str, int],
    key: Path,
    known_hosts_file: Path,
    alias: str,
    command: list[str],
    *,
    proxy_command: str | None = None,
) -> list[str]:
    """Give the OpenSSH command line that trusts exactly what clawdet trusts; without a command it is a shell."""
    options = [
        f"HostKeyAlias={alias}",
        # Without quotes a blank would make two files of it, and % begins a word of OpenSSH's own.
        'UserKnownHostsFile="{}"'.format(str(known_hosts_file).replace("%", "%%")),
        "GlobalKnownHostsFile=/dev/null",
        "StrictHostKeyChecking=yes",
        "IdentitiesOnly=yes",
        *([f"ProxyCommand={proxy_command}"] if proxy_command else []),
    ]
    flags = [word for option in options for word in ("-o", option)]
    # Nothing of the user's own configuration is read: an IdentityFile or ProxyJump there would come between.
    return ["ssh", "-F", "none", *flags, "-i", str(key), "-p", str(address[1]), f"{USER}@{address[0]}", *command]


def _public_key(line: str) -> paramiko.PKey:
    kind, blob = line.split()[:2]
    key: paramiko.PKey = paramiko.PKey.from_type_string(kind, base64.b64decode(blob))
    return key


class _Packetizer(Packetizer):
    """Reads no packet that is longer than any is, and does not look ten times a second whether it was closed."""

    def __init__(self, connection: socket.socket) -> None:
        super().__init__(connection)
        self._connection = connection
        self._waits_long = False

    def close(self) -> None:
        # Its own closing leaves a thread that reads waiting for IDLE_SECONDS.
        with contextlib.suppress(OSError):
            self._connection.shutdown(socket.SHUT_RDWR)
        super().close()

    def complete_handshake(self) -> None:
        if self._waits_long:
            return  # paramiko says so after each message
        # Until here a handshake that takes too long, and a key exchange that is due, are noticed between two reads.
        super().complete_handshake()
        self._connection.settimeout(IDLE_SECONDS)
        self._waits_long = True

    def read_all(self, n: int, check_rekey: bool = False) -> bytes:
        if n > MOST_PACKET:
            raise paramiko.SSHException(f"it announces a packet of {n} bytes")
        return super().read_all(n, check_rekey)


def _connected(address: tuple[str, int], proxy_command: str | None, seconds: float) -> socket.socket:
    if proxy_command is not None:
        return CommandSocket(proxy_command, address)
    connection = socket.create_connection(address, timeout=seconds)
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return connection


def _open(
    address: tuple[str, int],
    pinned: paramiko.PKey,
    own_key: paramiko.PKey,
    deadline: Deadline,
    proxy_command: str | None,
) -> paramiko.SSHClient:
    # Short: while the server boots, packets vanish, and a long attempt would find out late that it is up.
    connection = _connected(address, proxy_command, min(1.5, max(0.2, deadline.left())))
    client = paramiko.SSHClient()
    try:
        left = max(1.0, deadline.left())
        _await_first_byte(connection, min(10.0, left))
        client.set_missing_host_key_policy(paramiko.RejectPolicy())
        client.get_host_keys().add(_ALIAS, pinned.get_name(), pinned)
        connect = functools.partial(
            client.connect,
            _ALIAS,
            username=USER,
            pkey=own_key,
            sock=connection,
            timeout=min(10.0, left),
            banner_timeout=min(10.0, left),
            auth_timeout=min(10.0, left),
            channel_timeout=min(15.0, left),
            allow_agent=False,
            look_for_keys=False,
            transport_factory=_transport_over,
        )
        _within(connect, Deadline.after(min(CONNECT_SECONDS, left) + LATER_SECONDS))
        _transport(client).set_keepalive(KEEPALIVE_SECONDS)
    except BaseException:
        client.close()
        connection.close()
        raise
    return client


def _await_first_byte(connection: socket.socket, seconds: float) -> None:
    """Wait until SSH begins to speak: until then a server that boots is not worth a thread of paramiko's, nor its keys.

    Raises SSHException.
    """
    connection.settimeout(seconds)
    try:
        begun = connection.recv(1, socket.MSG_PEEK)
    except OSError:
        begun = b""
    if not begun:
        why = connection.failure() if isinstance(connection, CommandSocket) else ""
        raise paramiko.SSHException(why or "no banner")


def shown_host_key(address: tuple[str, int], deadline: Deadline, proxy_command: str | None = None) -> str:
    """Give the Ed25519 host key that a machine shows, `ssh-ed25519 AAAA...`, to be compared before it is believed.

    Raises GuestError when it shows none.
    """
    try:
        connection = _connected(address, proxy_command, min(10.0, max(0.2, deadline.left())))
        with contextlib.closing(_transport_over(connection)) as transport:
            transport.get_security_options().key_types = ["ssh-ed25519"]
            seconds = min(10.0, max(1.0, deadline.left()))
            _within(lambda: transport.start_client(timeout=seconds), Deadline.after(seconds + LATER_SECONDS))
            key = transport.get_remote_server_key()
    except (paramiko.SSHException, EOFError, OSError) as error:
        raise GuestError(f"{address[0]}:{address[1]} shows no SSH host key: {_reason(error)}.") from None
    return f"{key.get_name()} {key.get_base64()}"


def _transport_over(connection: Any, **options: Any) -> paramiko.Transport:
    transport = paramiko.Transport(connection, packetizer_class=_Packetizer, **options)
    transport.get_security_options().ciphers = CIPHERS
    return transport


def _transport(client: paramiko.SSHClient) -> paramiko.Transport:
    transport = client.get_transport()
    if transport is None:
        raise paramiko.SSHException("the connection was closed")
    return transport


def _within(call: Callable[[], T], end: Deadline) -> T:
    """Make a call of paramiko's that may wait for ever, or for as long as a clock was set back.

    Raises TimeoutError, and whatever the call raises.
    """
    return begin(call).result(timeout=end.left())


class _News(threading.Event):
    """Set by whichever stream has something; cleared only by who looks at both."""

    def clear(self) -> None:
        """Leave it set: paramiko means that the one stream that was read has nothing more."""

    def forget(self) -> None:
        super().clear()


class _Streams:
    """Both streams of a command, read side by side: one that fills while the other is read would stall it."""

    def __init__(self, transport: paramiko.Transport, end: Deadline) -> None:
        self._transport = transport
        self._end = end
        self._opening = threading.Lock()
        self._channel: paramiko.Channel | None = None
        self._unwanted = False
        """Whether whoever waited has left: what is opened now is closed, and nothing is begun."""
        self._out = bytearray()
        self._err = bytearray()
        self.too_much = False

    @property
    def opened(self) -> bool:
        """Say whether the server gave a channel for it."""
        return self._channel is not None

    def converse(self, command: str, stdin: bytes | Iterator[bytes]) -> int:
        """Start the command, write all of stdin, read both streams to their ends; give the exit code, -1 for none.

        Raises TimeoutError.
        """
        channel = self._open()
        channel.exec_command(command)
        channel.settimeout(max(0.01, self._end.left()))
        writing = begin(lambda: self._write(channel, stdin)) if stdin else None
        if not stdin:
            self._write(channel, b"")
        self._read(channel)
        if writing is not None:
            writing.result(self._end.left())
        # recv_exit_status() alone has no time-out.
        if not channel.status_event.wait(self._end.left()):
            raise TimeoutError
        return channel.recv_exit_status()

    def close(self) -> None:
        """Close the channel, within CLOSE_SECONDS; one that is not open yet, as soon as it is."""
        with self._opening:
            self._unwanted, channel = True, self._channel
        # It writes, and so waits for a peer that takes nothing any more.
        if channel is not None and not channel.closed:
            with contextlib.suppress(TimeoutError):
                _within(channel.close, Deadline.after(CLOSE_SECONDS))

    def text(self) -> tuple[str, str]:
        """Give what was read; bytes that are no UTF-8 are replaced."""
        return self._out.decode("utf-8", "replace"), self._err.decode("utf-8", "replace")

    def _open(self) -> paramiko.Channel:
        # Its own time-out goes by the clock on the wall, which may be set back.
        channel = self._transport.open_session(timeout=max(0.1, self._end.left()))
        with self._opening:
            self._channel = channel
            if not self._unwanted:
                return channel
        channel.close()
        raise EOFError

    def _read(self, channel: paramiko.Channel) -> None:
        streams = (
            (channel.recv_ready, channel.recv, self._out),
            (channel.recv_stderr_ready, channel.recv_stderr, self._err),
        )
        news = _News()
        channel.in_buffer.set_event(news)
        channel.in_stderr_buffer.set_event(news)
        while True:
            news.forget()
            # Asked first: what came before the end is there to be read once the end is known.
            over = channel.eof_received or channel.closed
            for ready, receive, into in streams:
                while ready():
                    into.extend(receive(65536))
                    if len(into) > MOST_OUTPUT:
                        self.too_much = True
                        channel.close()
                        return
            if over:
                return
            # Whoever says a little all the time would never time out.
            if self._end.left() <= 0 or not news.wait(self._end.left()):
                raise TimeoutError

    def _write(self, channel: paramiko.Channel, stdin: bytes | Iterator[bytes]) -> None:
        # A command may end without having read its input: its exit code says whether that is bad.
        with contextlib.suppress(OSError, EOFError, paramiko.SSHException):
            for piece in (stdin,) if isinstance(stdin, bytes) else stdin:
                channel.sendall(piece)
            channel.shutdown_write()


def _pump(channel: paramiko.Channel, inner: socket.socket) -> None:
    """Carry bytes between a channel and a socket until both directions have ended, each by itself."""

    def up() -> None:
        with contextlib.suppress(OSError, EOFError, paramiko.SSHException):
            while data := inner.recv(65536):
                channel.sendall(data)
        with contextlib.suppress(OSError, EOFError, paramiko.SSHException):
            channel.shutdown_write()

    def down() -> None:
        with contextlib.suppress(OSError, EOFError, paramiko.SSHException):
            while data := channel.recv(65536):
                inner.sendall(data)
        with contextlib.suppress(OSError):
            inner.shutdown(socket.SHUT_WR)
        sending.result()
        channel.close()
        inner.close()

    sending = begin(up)
    begin(down)


def _wrong_host_key(address: tuple[str, int], host_keys: tuple[str, ...], shown: str) -> GuestError:
    return GuestError(
        f"The machine at {address[0]}:{address[1]} has another host key than the one pinned for this server:"
        " nothing was sent to it.",
        details=[
            *(f"pinned: {fingerprint(key)}" for key in host_keys),
            f"shown:  {fingerprint(shown)}",
            "Either the address belongs to another machine now, or the server was reinstalled, or somebody is between.",
        ],
        next_steps=["see the server at https://console.hetzner.cloud", "clawdet destroy USER    (if it is lost)"],
    )


def _not_let_in(address: tuple[str, int], key: Path, grace: float, error: Exception) -> GuestError:
    refused = f"refuses the SSH key {key}"
    return GuestError(
        f"The server {address[0]}:{address[1]} "
        + (f"still {refused} {grace:.0f} s after it first answered." if grace else f"{refused}."),
        details=[str(error)],
        next_steps=["use the key that the server was made with: --ssh-key FILE", "or destroy and provision again"],
    )


def _reason(error: Exception) -> str:
    match error:
        case ConnectionRefusedError():
            return "the port is closed"
        case TimeoutError():
            return "no answer"
        case EOFError() | ConnectionResetError() | BrokenPipeError():
            return "the connection was cut"
        case paramiko.SSHException() if "banner" in str(error) or "No existing session" in str(error):
            return "connected, but no SSH yet"
    return str(error) or type(error).__name__


def _last_lines(text: str) -> list[str]:
    return [excerpt(line, MOST_LINE) for line in text.splitlines()[-5:]]
