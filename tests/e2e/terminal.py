"""Somebody who types at a terminal, and reads what it shows."""

import fcntl
import os
import pty
import re
import select
import signal
import struct
import subprocess
import termios
import time
from collections.abc import Mapping, Sequence

SECONDS = 240.0


class Terminal:
    """A program on a terminal of 40 lines and 120 columns."""

    def __init__(self, command: Sequence[str], environment: Mapping[str, str]) -> None:
        """Start the program."""
        self._master, slave = pty.openpty()
        self.resize(40, 120)
        self._process = subprocess.Popen(
            command, stdin=slave, stdout=slave, stderr=slave, env=dict(environment), start_new_session=True
        )
        os.close(slave)
        self._shown = b""

    def resize(self, lines: int, columns: int) -> None:
        """Set another size of the terminal, and notify the program, once there is one."""
        fcntl.ioctl(self._master, termios.TIOCSWINSZ, struct.pack("HHHH", lines, columns, 0, 0))
        if process := getattr(self, "_process", None):
            process.send_signal(signal.SIGWINCH)

    def type(self, text: str) -> None:
        """Type, keys such as Ctrl-C included."""
        os.write(self._master, text.encode())

    def until(self, pattern: str) -> "re.Match[str]":
        """Read on until a pattern is shown, and forget all up to its end."""
        end = time.monotonic() + SECONDS
        while not (found := re.search(pattern, self._shown.decode("utf-8", "replace"))):
            left = end - time.monotonic()
            assert left > 0, f"{pattern!r} was not shown, but {self._shown!r}"
            if select.select([self._master], [], [], left)[0]:
                self._shown += os.read(self._master, 65536)
        self._shown = found.string[found.end() :].encode()
        return found

    def run(self, line: str) -> tuple[str, int]:
        """Have a shell run a line; return what was shown since, the echoed line included, and the exit code."""
        # What is typed is shown too, and must not look like the end.
        self.type(f"{line}; echo 'EN''D' $?\r")
        found = self.until(r"(?s)(.*)\bEND (\d+)\r\n")
        # bash says when it takes pasted text.
        return re.sub(r"\x1b\[\?2004[hl]\r?|\r(?=\n)", "", found[1]), int(found[2])

    def close(self) -> None:
        """Hang up."""
        os.close(self._master)
        self._process.terminate()
        self._process.wait(timeout=20)
