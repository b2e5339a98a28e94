"""The log file of a run: everything that happened, with every known secret masked."""

import os
import re
import traceback
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from functools import cache
from pathlib import Path
from types import TracebackType
from typing import Self

from clawdet_cli.errors import StateError
from clawdet_cli.model import Event, now_text
from clawdet_cli.private import new_private_file, private_folder
from clawdet_cli.secret import hide
from clawdet_cli.terminal import harmless

KEPT_LOGS = 50
"""Older ones of the same folder are deleted, but none of the last day: a command for many users writes many."""


def _stamp(at: str) -> str:
    return re.sub(r"[^0-9]", "", at)[:17]


def _new_file(path: Path) -> tuple[Path, int]:
    """Make the file, or one whose name has a number more: a clock that was set back gives a name twice."""
    for number in range(2, 1000):
        with suppress(FileExistsError):
            return path, new_private_file(path)
        path = path.with_name(f"{path.stem.partition('+')[0]}+{number}.log")
    return path, new_private_file(path)


@cache
def _delete_old(folder: Path) -> None:
    """Delete what nobody needs any more; once for all runs of a command."""
    yesterday = _stamp((datetime.now(UTC) - timedelta(days=1)).isoformat(timespec="milliseconds"))
    for old in sorted(folder.glob("*.log"))[:-KEPT_LOGS]:
        if old.name >= yesterday:
            break
        old.unlink(missing_ok=True)


class RunLog:
    """A file under the state folder, one line for each event."""

    def __init__(self, folder: Path, user: str, verb: str) -> None:
        self.path = folder / "logs" / f"{_stamp(now_text())}-{verb}-{user}-{os.getpid()}.log"
        try:
            private_folder(folder, link=True)
            private_folder(self.path.parent)
            self.path, descriptor = _new_file(self.path)
            # A VPS's words may be anything, and the locale's encoding may hold less than that.
            self._file = os.fdopen(descriptor, "w", buffering=1, encoding="utf-8", errors="backslashreplace")
            _delete_old(self.path.parent)
        except OSError as error:
            raise StateError(
                f"The run log {self.path} cannot be written: {error.strerror}.",
                next_steps=["make room or name another folder with --state"],
            ) from error

    def write(self, event: Event) -> None:
        """Write an event as a line."""
        seconds = f" {event.seconds:.1f}s" if event.seconds else ""
        where = " ".join(part for part in (event.stage, event.step) if part)
        # One line, whoever's words they are: none can pass for an event of its own.
        self.text(harmless(f"{event.at} {event.kind} {where} {event.status}{seconds} {event.text}"))

    def text(self, text: str) -> None:
        """Write text as it is, but for secrets and for what would do something to a terminal that shows the file."""
        try:
            for line in text.rstrip().split("\n"):
                self._file.write(hide(harmless(line)) + "\n")
        except OSError:
            # A full disk must not stop a run that has resources to look after; the database will say it.
            return

    def failure(self, error: BaseException) -> None:
        """Write a failure with its traceback, which no user is shown."""
        self.text("".join(traceback.format_exception(error)))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        # What a full disk did not take is tried again here, and a failure on its way must not be hidden by it.
        with suppress(OSError):
            self._file.close()
