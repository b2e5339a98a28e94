"""Plays a round: commands that run side by side, and what happens to them, to their requests and to the files."""

import heapq
import shutil
import signal
import sqlite3
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from contextlib import closing, suppress
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path

from tests.kill.launcher import Ended, Process
from tests.kill.plan import SITES, Command, FileAccident, Round
from tests.kill.proxy import Line
from tests.kill.world import SUFFIXES, World, exchange, remove, waited_for_cpu

GRACE_SECONDS = 2.0
"""How much longer than its time-out a command may take."""
CALM_SECONDS = 30.0
"""How long what is still under way to the clouds may take in the end."""
GOOD_CODES = {0, 3, 4, 5, 6, 7, 130, 143, -signal.SIGKILL, -signal.SIGTERM, -signal.SIGINT}


@dataclass
class Running:
    """A command of the round, from its begin."""

    command: Command
    process: Process
    line: Line
    began: float
    woken: float = 0.0
    """When it was last sent on from a stop."""
    ended: float = 0.0
    clouds_waited: float = 0.0
    """Seconds for which the emulated clouds had been ready and had no CPU, at its begin."""
    waited: float = 0.0
    """Seconds for which it was ready and had no CPU itself."""
    said: Ended | None = None
    scheduled: bool = False
    """Whether its signals are under way."""


@dataclass
class Storm:
    """One round, as it is played."""

    world: World
    plan: Round
    running: list[Running] = field(default_factory=list)
    ended_with: Counter[int] = field(default_factory=Counter)

    def __post_init__(self) -> None:
        self._began = time.monotonic()
        self._order = count()
        self._events: list[tuple[float, int, Callable[[], None]]] = []

    def play(self) -> list[str]:
        """Play it to the end of all commands; tell what is wrong with what they said and how long they took."""
        with tempfile.TemporaryDirectory(prefix="clawdet-copies-") as folder:
            copy = Path(folder) / "copy.db"
            for command in self.plan.commands:
                self._at(command.at, self._begin, command)
            for accident in self.plan.files:
                self._at(accident.copied_at, self._copy, accident, copy)
                self._at(accident.at, self._befall, accident, copy)
            while self._events or any(not one.ended for one in self.running):
                while self._events and self._events[0][0] <= time.monotonic() - self._began:
                    heapq.heappop(self._events)[2]()
                self._look()
                time.sleep(0.01)
        for one in self.running:
            if not one.line.settled(CALM_SECONDS):
                raise TimeoutError(f"{one.command}: its way never came to rest")
            one.line.close()
        return [what for one in self.running for what in self._wrong(one)] + self._lies()

    def _at(self, seconds: float, act: Callable[..., None], *arguments: object) -> None:
        heapq.heappush(self._events, (seconds, next(self._order), lambda: act(*arguments)))

    def _begin(self, command: Command) -> None:
        world = self.world
        line = Line(world.info, command.accidents, lambda number: self._asleep(one, number))
        process = world.start(command.site, command.machine, self._words(command), line.info)
        assert process.pid
        one = Running(command, process, line, time.monotonic(), clouds_waited=self._clouds_waited())
        self.running.append(one)
        if not command.at_work:
            self._schedule(one)

    def _schedule(self, one: Running) -> None:
        one.scheduled = True
        for after, number in one.command.signals:
            self._at(time.monotonic() - self._began + after, self._signal, one, number)

    def _words(self, command: Command) -> list[str]:
        words = []
        for word in command.arguments:
            if word.startswith("@"):
                listed = self.world.states[command.site] / "users.txt"
                listed.write_text(word[1:].replace(",", "\n") + "\n")
                words.append(str(listed))
            else:
                words.append(word)
        return [*words, f"--timeout={command.timeout}", f"--lock-wait={command.lock_wait}"]

    def _asleep(self, one: Running, number: int) -> None:
        """Stop a command at a request of its, and wake it later."""
        self._signal(one, number)
        self._at(time.monotonic() - self._began + one.command.asleep, self._signal, one, signal.SIGCONT)

    def _signal(self, one: Running, number: int) -> None:
        if number == signal.SIGCONT:
            one.woken = time.monotonic()
        if one.process.signal(number):
            self._note(f"{signal.Signals(number).name} to: {one.command}")

    def _note(self, text: str) -> None:
        self.world.lines.append(f"{time.monotonic() - self._began:.2f} s: {text}")

    def _look(self) -> None:
        for one in self.running:
            if one.ended:
                continue
            one.waited = max(one.waited, waited_for_cpu(one.process.pid))
            if not one.scheduled and one.process.at_work():
                self._schedule(one)
            if one.process.over.done():
                one.ended = time.monotonic()
                one.waited += self._clouds_waited() - one.clouds_waited
                one.said = one.process.wait()
                self.ended_with[one.said.code] += 1
                self._note(f"{one.said.code} after {one.ended - one.began:.2f} s: {one.command}")

    def _clouds_waited(self) -> float:
        return waited_for_cpu(self.world.info["pid"])

    def _copy(self, accident: FileAccident, to: Path) -> None:
        database = self.world.database(accident.site)
        if accident.kind in {"restore", "copy_back"} and database.exists():
            with (
                suppress(sqlite3.Error),
                closing(sqlite3.connect(database)) as old,
                closing(sqlite3.connect(to)) as new,
            ):
                old.backup(new)

    def _befall(self, accident: FileAccident, copy: Path) -> None:
        database, other = self.world.database(accident.site), self.world.database(SITES[1 - SITES.index(accident.site)])
        self._note(str(accident))
        self.world.history_lost |= accident.kind not in {"swap", "swap_alone"}
        match accident.kind:
            case "restore" if copy.exists():
                remove(*(Path(f"{database}{suffix}") for suffix in SUFFIXES[1:]))
                shutil.copyfile(copy, f"{database}.new")
                Path(f"{database}.new").chmod(0o600)
                Path(f"{database}.new").replace(database)
            case "copy_back" if copy.exists():
                shutil.copyfile(copy, database)
            case "swap" | "swap_alone" if database.exists() and other.exists():
                for suffix in SUFFIXES if accident.kind == "swap" else SUFFIXES[:1]:
                    exchange(Path(f"{database}{suffix}"), Path(f"{other}{suffix}"))
            case "delete" | "delete_alone":
                gone = SUFFIXES if accident.kind == "delete" else SUFFIXES[:1]
                remove(*(Path(f"{database}{suffix}") for suffix in gone))

    def _wrong(self, one: Running) -> list[str]:
        said, command = one.said, one.command
        assert said is not None
        wrong = []
        if said.code not in GOOD_CODES:
            wrong.append(f"exit code {said.code}")
        if "Traceback (most recent call last)" in said.out + said.err:
            wrong.append("a traceback")
        wrong += ["a secret in its output" for canary in self.world.canaries if canary in said.out + said.err]
        allowed = max(one.began + command.longest(), one.woken) + GRACE_SECONDS + one.waited
        if one.ended > allowed:
            took = one.ended - one.began
            wrong.append(f"it took {took:.1f} s, of which {one.waited:.1f} s without a CPU")
        return [f"{command}: {what}\n{said.out}{said.err}" for what in wrong]

    def _lies(self) -> list[str]:
        """Return who was told that an instance is complete whose row was lost with the file beneath the run."""
        wrong = []
        for one in self.running:
            command, said = one.command, one.said
            others = [other for other in self.running if set(other.command.users) & set(command.users)]
            if said is None or said.code or command.arguments[0] != "provision" or len(others) > 1:
                continue
            end = command.at + one.ended - one.began
            beneath = [file.at for file in self.plan.files if file.site == command.site]
            # A file that changed after the end makes no liar of the command.
            if not any(command.at < at for at in beneath) or any(at > end - 0.3 for at in beneath):
                continue
            with suppress(sqlite3.Error):
                rows = {row["user"] for row in self.world.living(command.site)}
                wrong += [
                    f"{command}: it said that {user} is complete, and its database holds no row of it"
                    for user in command.users
                    if user not in rows
                ]
        return wrong
