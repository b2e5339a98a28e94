"""A way to a server through a command's standard input and output, as OpenSSH's ProxyCommand.

Not paramiko's ProxyCommand: that has neither time-outs nor a look ahead, which a socket has.
"""

import contextlib
import os
import signal
import socket
import subprocess
import tempfile

from clawdet_cli.errors import ConfigError
from clawdet_cli.secret import excerpt, public_environment

_MAX_WORDS = 300
_END_SECONDS = 1.0
_NOT_FOUND = frozenset({126, 127})
"""How a shell ends that finds no such program, or may not run it."""


class CommandSocket(socket.socket):
    """Our end of what a command reads and writes; to close it ends the command.

    The command belongs to a process group of its own, so that Ctrl-C ends it when clawdet closes it, and not before.
    """

    def __init__(self, command: str, address: tuple[str, int]) -> None:
        ours, theirs = socket.socketpair()
        super().__init__(fileno=ours.detach())
        self._said = tempfile.TemporaryFile()  # noqa: SIM115  # for as long as the command runs
        with theirs:
            self._process = subprocess.Popen(  # noqa: S602  # the operator's own command
                expanded(command, address),
                shell=True,
                stdin=theirs.fileno(),
                stdout=theirs.fileno(),
                stderr=self._said,
                env=public_environment(),
                start_new_session=True,
            )

    def close(self) -> None:
        """Close it, and end the command with all that it began."""
        super().close()
        for number in (signal.SIGTERM, signal.SIGKILL):
            if self._process.poll() is not None:
                break
            with contextlib.suppress(OSError):
                os.killpg(self._process.pid, number)
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(_END_SECONDS)
        self._said.close()

    def failure(self) -> str:
        """Return how the command ended and what it said; nothing while it runs. Raises ConfigError if there is none."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(0.1)  # it closes its output a moment before it ends
        code = self._process.returncode
        if code is None:
            return ""
        self._said.seek(0)
        lines = excerpt(self._said.read(10_000).decode(errors="replace"), 10_000).strip().splitlines()
        said = f": {lines[-1].strip()[:_MAX_WORDS]}" if lines else ""
        if code in _NOT_FOUND:
            raise ConfigError(
                f"The command that ssh_proxy names cannot be run{said}.",
                next_steps=["correct ssh_proxy (CLAWDET_SSH_PROXY, --ssh-proxy), or set it to 'none'"],
            )
        return f"the command of ssh_proxy ended with {code}{said}"


def expanded(command: str, address: tuple[str, int]) -> str:
    """Return the command with an address of ours in place of %h and %p; `exec` lets no shell stay between."""
    parts = command.split("%%")
    return "exec " + "%".join(part.replace("%h", address[0]).replace("%p", str(address[1])) for part in parts)
