"""The SSH server of a simulated machine: paramiko speaks the protocol, the event loop runs the commands."""

import asyncio
import base64
import contextlib
import io
import logging
import selectors
import socket
import threading
import time
from collections import deque
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from concurrent.futures import Executor
from typing import Any, cast

import paramiko
from paramiko.common import (
    AUTH_FAILED,
    AUTH_SUCCESSFUL,
    MSG_CHANNEL_SUCCESS,
    OPEN_FAILED_ADMINISTRATIVELY_PROHIBITED,
    OPEN_FAILED_CONNECT_FAILED,
    OPEN_FAILED_RESOURCE_SHORTAGE,
    OPEN_FAILED_UNKNOWN_CHANNEL_TYPE,
    OPEN_SUCCEEDED,
)
from paramiko.message import Message
from paramiko.packet import Packetizer

from clawdet_cli.sandbox.simulated.commands import Stdin
from clawdet_cli.sandbox.simulated.verbs import Said

Execute = Callable[[str, Stdin], Awaitable[Said]]
Connect = Callable[[str, int], Coroutine[Any, Any, socket.socket]]

CONNECTIONS = 10  # as sshd's MaxStartups begins to refuse
_CHANNELS = 10  # as sshd's MaxSessions
_LOGIN_SECONDS = 120.0  # as sshd's LoginGraceTime
_CLIENT_SECONDS = 60.0  # how long a client may leave a worker waiting
_MOST_INPUT = 32 * 1024 * 1024
_CHUNK = 65536
_LOG_CHANNEL = "clawdet_cli.sandbox.simulated.ssh.transport"

# A client that gives up is no event; without a handler, logging's last resort would print a traceback for each.
logging.getLogger(_LOG_CHANNEL).addHandler(logging.NullHandler())
logging.getLogger(_LOG_CHANNEL).propagate = False


class SshDaemon:
    """Takes the connections to port 22 of one powered-on server."""

    def __init__(
        self,
        *,
        public_keys: Sequence[str],
        execute: Execute,
        reachable: Callable[[str, int], bool | None],
        connect: Connect,
        workers: Executor,
    ) -> None:
        self.loop = asyncio.get_running_loop()
        self.execute = execute
        self.reachable = reachable
        """Whether an own address and port is open, closed, or, with None, not simulated; asked from any thread."""
        self.connect = connect
        self.workers = workers
        self.public_keys = [base64.b64decode(line.split()[1]) for line in public_keys]
        self._connections: set[_Connection] = set()

    def take(self, sock: socket.socket, host_key: str) -> None:
        """Serve a connection in a thread of its own; raise ConnectionRefusedError for one too many."""
        self._connections = {one for one in self._connections if one.is_alive}
        if len(self._connections) >= CONNECTIONS:
            raise ConnectionRefusedError
        self._connections.add(_Connection(self, sock, host_key))

    def drop(self) -> None:
        """Cut all connections, without a farewell."""
        for connection in self._connections:
            connection.cut()

    async def close(self) -> None:
        """Cut all connections, and wait until their threads have ended."""
        connections, self._connections = self._connections, set()
        for connection in connections:
            connection.cut()
        await asyncio.gather(*(self.loop.run_in_executor(self.workers, one.close) for one in connections))


class _AnnouncingPacketizer(Packetizer):
    """Says when a request of the client has been granted: what it asked for may only then answer."""

    granted: Callable[[], None]

    def send_message(self, data: Message) -> None:
        super().send_message(data)
        if data.asbytes()[:1] == bytes([MSG_CHANNEL_SUCCESS]):
            self.granted()


class _Connection(paramiko.ServerInterface):
    """One client. Its methods are called in the transport's thread."""

    def __init__(self, daemon: SshDaemon, sock: socket.socket, host_key: str) -> None:
        self._daemon = daemon
        self._sock = sock
        self._channels: list[paramiko.Channel] = []
        self._destinations: dict[int, tuple[str, int]] = {}
        self._lock = threading.Lock()
        self._accepted: deque[tuple[paramiko.Channel, str]] = deque()
        self._tasks: set[asyncio.Task[None]] = set()
        self._transport = paramiko.Transport(sock, packetizer_class=_AnnouncingPacketizer)
        self._transport.set_log_channel(_LOG_CHANNEL)
        self._transport.local_version = "SSH-2.0-clawdet_simulated_server"
        cast(_AnnouncingPacketizer, self._transport.packetizer).granted = self._run_accepted
        self._transport.add_server_key(_private_key(host_key))
        self._transport.start_server(event=threading.Event(), server=self)
        self._grace = daemon.loop.call_later(_LOGIN_SECONDS, self._end_grace)

    @property
    def is_alive(self) -> bool:
        return self._transport.is_alive()

    def cut(self) -> None:
        self._grace.cancel()
        with contextlib.suppress(OSError):
            self._sock.shutdown(socket.SHUT_RDWR)
        for task in self._tasks:
            task.cancel()

    def close(self) -> None:
        """Wait for the end; called by a worker, as it blocks."""
        self._transport.close()
        self._transport.join()
        self._sock.close()

    def _end_grace(self) -> None:
        if not self._transport.is_authenticated():
            self.cut()

    # --- who may come in ---

    def get_allowed_auths(self, _username: str) -> str:
        return "publickey"

    def check_auth_publickey(self, username: str, key: paramiko.PKey) -> int:
        known = username == "root" and key.asbytes() in self._daemon.public_keys
        return AUTH_SUCCESSFUL if known else AUTH_FAILED

    # --- channels ---

    def check_channel_request(self, kind: str, _chanid: int) -> int:
        return self._expect() if kind == "session" else OPEN_FAILED_UNKNOWN_CHANNEL_TYPE

    def check_channel_direct_tcpip_request(
        self, chanid: int, _origin: tuple[str, int], destination: tuple[str, int]
    ) -> int:
        is_open = self._daemon.reachable(*destination)
        if is_open is None:
            return OPEN_FAILED_ADMINISTRATIVELY_PROHIBITED
        if not is_open:
            return OPEN_FAILED_CONNECT_FAILED
        self._destinations[chanid] = destination
        return self._expect()

    def _expect(self) -> int:
        with self._lock:
            self._channels = [channel for channel in self._channels if not channel.closed]
            if len(self._channels) >= _CHANNELS:
                return OPEN_FAILED_RESOURCE_SHORTAGE
        self._daemon.workers.submit(self._take_channel)
        return OPEN_SUCCEEDED

    def _take_channel(self) -> None:
        """Take one channel, as soon as it is open, from paramiko's queue, which would only grow."""
        end, channel = time.monotonic() + _CLIENT_SECONDS, None
        # Where two wait, the one that is woken may find that the other has been quicker, and is given nothing.
        while channel is None and self._transport.is_active() and time.monotonic() < end:
            channel = self._transport.accept(max(0.0, end - time.monotonic()))
        if channel is None or channel.closed:
            return
        channel.settimeout(_CLIENT_SECONDS)
        with self._lock:
            # paramiko itself holds a channel only weakly
            self._channels.append(channel)
        destination = self._destinations.pop(channel.get_id(), None)
        if destination is not None:
            self._tunnel(channel, destination)

    def _tunnel(self, channel: paramiko.Channel, destination: tuple[str, int]) -> None:
        try:
            sock = asyncio.run_coroutine_threadsafe(self._daemon.connect(*destination), self._daemon.loop).result()
        except OSError:
            channel.close()
            return
        threading.Thread(target=_pump, args=(channel, sock), daemon=True).start()

    def check_channel_exec_request(self, channel: paramiko.Channel, command: bytes) -> bool:
        self._accepted.append((channel, command.decode(errors="replace")))
        return True

    def check_channel_pty_request(self, *_arguments: Any) -> bool:
        return True

    def check_channel_shell_request(self, channel: paramiko.Channel) -> bool:
        self._accepted.append((channel, "an interactive shell"))
        return True

    def _run_accepted(self) -> None:
        while self._accepted:
            asyncio.run_coroutine_threadsafe(self._run(*self._accepted.popleft()), self._daemon.loop)

    async def _run(self, channel: paramiko.Channel, command: str) -> None:
        task = asyncio.current_task()
        if task is not None:
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
        loop, workers = self._daemon.loop, self._daemon.workers

        async def stdin() -> bytes:
            return await loop.run_in_executor(workers, _read, channel)

        try:
            said = await self._daemon.execute(command, stdin)
        except OSError:
            return  # the client went away before it had said all
        await loop.run_in_executor(workers, _answer, channel, said)


def _private_key(pem: str) -> paramiko.PKey:
    return paramiko.Ed25519Key.from_private_key(io.StringIO(pem))


def _read(channel: paramiko.Channel) -> bytes:
    content = bytearray()
    while data := channel.recv(_CHUNK):
        content += data
        if len(content) > _MOST_INPUT:
            raise ConnectionAbortedError
    return bytes(content)


def _answer(channel: paramiko.Channel, said: Said) -> None:
    # A client that has gone needs no answer.
    with contextlib.suppress(OSError, EOFError, paramiko.SSHException):
        channel.sendall(said.out)
        channel.sendall_stderr(said.err)
        channel.send_exit_status(said.code)
    with contextlib.suppress(OSError, EOFError, paramiko.SSHException):
        channel.close()


def _pump(channel: paramiko.Channel, sock: socket.socket) -> None:
    """Carry bytes both ways, in one thread, until both directions have ended."""
    sock.settimeout(_CLIENT_SECONDS)
    # Not select(): it takes no descriptor above 1023, and many servers together have more.
    with contextlib.suppress(OSError, EOFError, paramiko.SSHException), selectors.DefaultSelector() as readable:
        for side in (channel, sock):
            readable.register(side, selectors.EVENT_READ)
        while readable.get_map():
            for key, _ in readable.select():
                side = cast("paramiko.Channel | socket.socket", key.fileobj)
                data = side.recv(_CHUNK)
                if not data:
                    readable.unregister(side)
                    if side is channel:
                        sock.shutdown(socket.SHUT_WR)
                    else:
                        channel.shutdown_write()
                elif side is channel:
                    sock.sendall(data)
                else:
                    channel.sendall(data)
    with contextlib.suppress(OSError, EOFError, paramiko.SSHException):
        channel.close()
    sock.close()
