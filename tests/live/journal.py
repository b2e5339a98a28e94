"""What the run makes, written down before it is made: a killed run can be cleaned up by another process."""

import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

KINDS = ("instance", "record", "certificate", "server", "firewall", "ssh_key")
"""In the order in which they are removed: what uses another thing goes first."""


@dataclass(frozen=True)
class Thing:
    """Something that was made, or may have been."""

    kind: str
    name: str
    id: str = ""
    """Empty while no answer has told it."""


class Journal:
    """A file of JSON lines, each on the disk before the call that follows it."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def begin(self, **about: str) -> None:
        """Write down what the run is about. Raises FileExistsError where another run's journal is."""
        self._path.parent.mkdir(parents=True, mode=0o700)
        os.close(os.open(self._path, os.O_CREAT | os.O_EXCL, 0o600))
        self._append({"about": about})

    def intend(self, kind: str, name: str) -> None:
        """Write down that a thing is about to be made."""
        self._append({"intend": kind, "name": name})

    def made(self, kind: str, name: str, number: object) -> None:
        """Write down that it was made."""
        self._append({"made": kind, "name": name, "id": str(number)})

    def gone(self, thing: Thing) -> None:
        """Write down that it is proved to be gone."""
        self._append({"gone": thing.kind, "name": thing.name})

    @property
    def about(self) -> dict[str, str]:
        """What the run is about. Raises FileNotFoundError where there is no journal."""
        about: dict[str, str] = self._lines()[0]["about"]
        return about

    def things(self) -> list[Thing]:
        """Return all that was or may have been made and is not known to be gone, in the order of removal."""
        gone = {(line["gone"], line["name"]) for line in self._lines()[1:] if "gone" in line}
        return [thing for thing in self.ever() if (thing.kind, thing.name) not in gone]

    def ever(self) -> list[Thing]:
        """Return all that was or may have been made, in the order of removal."""
        found: dict[tuple[str, str], Thing] = {}
        for line in self._lines()[1:]:
            kind = line.get("intend") or line.get("made")
            if kind:
                found[kind, line["name"]] = Thing(kind, line["name"], line.get("id", ""))
        return sorted(found.values(), key=lambda thing: KINDS.index(thing.kind))

    def _append(self, line: dict[str, Any]) -> None:
        with self._path.open("a") as file:
            file.write(json.dumps(line) + "\n")
            file.flush()
            os.fsync(file.fileno())

    def _lines(self) -> list[dict[str, Any]]:
        lines = []
        for line in self._path.read_text().splitlines():
            try:
                lines.append(json.loads(line))
            except ValueError:
                break  # the last one, in the middle of which the run was killed: nothing was called after it
        return lines
