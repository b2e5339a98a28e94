"""SSH at its plainest, so that what is measured is the server and not the client.

Host keys are not looked at: the servers are this machine's own, on loopback, and the seed did not look at them either.
"""

import contextlib
import socket
import time
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Self

import paramiko

Address = tuple[str, int]

NOT_YET = (OSError, EOFError, paramiko.SSHException)
"""What an attempt to connect ends with while a server boots."""


class BenchError(Exception):
    """Something that was to be measured did not work, so there is no measurement."""


class Remote:
    """An open connection as root; a context manager that closes it."""

    def __init__(self, transport: paramiko.Transport) -> None:
        self._transport = transport

    @classmethod
    def connect(cls, address: Address, key: Path, *, seconds: float) -> Self:
        """Try once, for so many seconds in all. Raises one of NOT_YET."""
        deadline = time.monotonic() + seconds
        connection = socket.create_connection(address, timeout=seconds)
        # As the seed's own client does; without it every command costs 40 ms more.
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        transport = paramiko.Transport(connection)
        try:
            transport.banner_timeout = transport.auth_timeout = max(0.1, deadline - time.monotonic())
            transport.start_client(timeout=max(0.1, deadline - time.monotonic()))
            transport.auth_publickey("root", paramiko.PKey.from_path(key))
        except BaseException:
            transport.close()
            raise
        return cls(transport)

    @classmethod
    def connect_at_once(cls, address: Address, key: Path, *, seconds: float = 120.0) -> Self:
        """Connect as soon as the server lets us in: a short attempt, a short pause, and again."""
        deadline = time.monotonic() + seconds
        while True:
            try:
                return cls.connect(address, key, seconds=1.5)
            except NOT_YET as error:
                if time.monotonic() > deadline:
                    raise BenchError(f"no SSH on {address[0]} within {seconds:.0f} s: {error}") from None
            time.sleep(0.05)

    def run(
        self, command: str, *, stdin: bytes = b"", seconds: float = 900.0, line: Callable[[str], None] | None = None
    ) -> str:
        """Run a command and give what it says; `line` hears each line as it comes. Raises BenchError if it fails."""
        channel = self._transport.open_session()
        said, rest = [], b""
        try:
            channel.settimeout(seconds)
            channel.set_combine_stderr(combine=True)
            channel.exec_command(command)
            channel.sendall(stdin)
            channel.shutdown_write()
            while data := channel.recv(65536):
                *lines, rest = (rest + data).split(b"\n")
                for one in lines:
                    said.append(one.decode(errors="replace"))
                    if line is not None:
                        line(said[-1])
            code = channel.recv_exit_status()
        except TimeoutError:
            raise BenchError(f"a command was silent for {seconds:.0f} s:\n  " + "\n  ".join(said[-15:])) from None
        finally:
            channel.close()
        said.append(rest.decode(errors="replace"))
        if code != 0:
            raise BenchError(f"a command ended with {code}:\n  " + "\n  ".join(said[-25:]))
        return "\n".join(said)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        with contextlib.suppress(*NOT_YET):
            self._transport.close()
