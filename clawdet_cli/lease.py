"""The right to change one instance: one run at a time, on one machine or on several that share the state folder.

Where machines share it, `State` keeps the database with locks alone: its transactions are what leases rest on.

A lease falls to the next run when its owner is dead. On the same machine the owner's process itself is looked at, so
one that merely sleeps keeps it; of another machine there is only the heartbeat. Whoever lost a lease makes no further
change: `State` compares owner and number in the same transaction as each intent and each result, and they are asked for
before each sending of a change, the repeated ones too.
"""

import os
import secrets
import socket
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from clawdet_cli import stopping
from clawdet_cli.errors import StateError
from clawdet_cli.model import POOL, now_text
from clawdet_cli.state import State

HEARTBEAT_SECONDS = 10.0
STALE_SECONDS = 60.0
"""From so long a silence on, by the clocks, a lease of another machine may be a dead one's."""
WATCH_SECONDS = 25.0
"""Before it is taken over it is watched for so long: clocks differ and jump, and a heart that beats is not dead."""
RETRY_SECONDS = 0.5

_held_here: set[str] = set()
"""The leases that this process holds now: one that it could not give back, as on a full disk, is nobody's."""


@dataclass(frozen=True)
class Holder:
    """Who holds a lease, as the database has it."""

    owner: str
    verb: str
    host: str
    pid: int
    process: str
    """What tells the process from a later one with its number."""
    machine: str
    since: str
    heartbeat: str

    def __str__(self) -> str:
        return f"clawdet {self.verb} (process {self.pid} on {self.host}, since {self.since[:19].replace('T', ' ')} UTC)"


@contextmanager
def lease(state: State, user: str, verb: str, *, wait: float = 0.0, tell: Callable[[str], None]) -> Iterator[None]:
    """Hold the right to change one instance; `wait` is how many seconds another run may keep it first.

    Raises StateError that names the holder.
    """
    owner = secrets.token_hex(8)
    taken = True
    try:
        # Before, since another thread of this process may see it as soon as it is written; within, since a stop may be
        # obeyed then.
        _held_here.add(owner)
        try:
            number = _acquire(state, user, owner, verb, Patience(wait, tell))
        except StateError:
            taken = False
            raise
        state.held[user] = (owner, number)
        _heart.add(state, owner)
        yield
    finally:
        _heart.remove(state, owner)
        if state.held.get(user, ("", 0))[0] == owner:
            del state.held[user]
        _held_here.discard(owner)
        # A lease that stays falls to whoever comes after this process; a failure on its way must not be hidden.
        if taken:
            with suppress(StateError), state.transaction() as connection:
                connection.execute("DELETE FROM leases WHERE user = ? AND owner = ?", (user, owner))


def holder_of(state: State, user: str) -> Holder | None:
    """Give the living run that works on a user now; None when there is none, or only a dead one's lease."""
    with state.reading() as connection:
        held = _held(connection, user)
    return held if held is not None and (_process_lives(held) if held.machine == _machine() else _beats(held)) else None


class Patience:
    """How long a run waits for another one, and what it has said of it."""

    def __init__(self, seconds: float, tell: Callable[[str], None]) -> None:
        self._until = time.monotonic() + seconds
        self._tell = tell
        self._told = ""
        self._watched: tuple[str, float] | None = None
        """A heartbeat, and since when it has been the same."""
        self.saw_it_beat = False

    def over(self) -> bool:
        """Say whether the caller has waited long enough."""
        return time.monotonic() >= self._until

    def tell(self, text: str) -> None:
        """Say something, once."""
        if text != self._told:
            self._told = text
            self._tell(text)

    def unchanged(self, heartbeat: str) -> bool:
        """Say whether a heartbeat has been the same for so long that its heart does not beat."""
        if self._watched is None or self._watched[0] != heartbeat:
            self.saw_it_beat = self._watched is not None
            self._watched = (heartbeat, time.monotonic())
        return time.monotonic() - self._watched[1] >= WATCH_SECONDS


def _acquire(state: State, user: str, owner: str, verb: str, patience: Patience) -> int:
    """Take the lease, and return its number: each one on a user has a greater one than those before it."""
    while True:
        # Who waits only reads: each look would else write, and hold up who works.
        with state.reading() as connection:
            held = _held(connection, user)
        if held is None or _dead(held, patience):
            number, held = _take(state, user, owner, verb, patience)
            if number:
                if held is not None:
                    patience.tell(f"taking over from {held}, which is dead")
                return number
        assert held is not None  # noqa: S101 - said above, for the type checker
        doubtful = held.machine != _machine() and not _beats(held) and not patience.saw_it_beat
        if doubtful:
            patience.tell(f"no sign of life from {held}: watching for {WATCH_SECONDS:g} s whether it is dead")
        elif patience.over():
            raise StateError(
                f"{user} is being worked on by {held}.",
                next_steps=["wait until that has ended, then run the command again", "clawdet pool status"]
                if user.startswith(POOL)
                else [
                    f"clawdet {verb}{'' if verb == 'reconcile' else f' {user}'} --lock-wait 900    (waits for it)",
                    f"clawdet status {user}    (shows how far it is)",
                ],
            )
        else:
            patience.tell(f"waiting for {held}")
        stopping.pause(RETRY_SECONDS)


def _take(state: State, user: str, owner: str, verb: str, patience: Patience) -> tuple[int, Holder | None]:
    """Take a lease that looked free, and return its number, 0 when somebody was faster; and who has or had it."""
    with state.transaction() as connection:
        held = _held(connection, user)
        if held is not None and not _dead(held, patience):
            return 0, held
        connection.execute(
            "INSERT INTO fences (user, number) VALUES (?, 1) ON CONFLICT (user) DO UPDATE SET number = number + 1",
            (user,),
        )
        number = int(connection.execute("SELECT number FROM fences WHERE user = ?", (user,)).fetchone()[0])
        connection.execute(
            "INSERT OR REPLACE INTO leases (user, owner, number, verb, host, pid, process, machine, since, heartbeat)"
            " VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
            (user, owner, number, verb, *_own_identity(), now_text(), now_text()),
        )
        return number, held


def _dead(held: Holder, patience: Patience) -> bool:
    if held.machine == _machine():
        return not _process_lives(held)
    return not _beats(held) and patience.unchanged(held.heartbeat)


def _held(connection: sqlite3.Connection, user: str) -> Holder | None:
    row = connection.execute(
        "SELECT owner, verb, host, pid, process, machine, since, heartbeat FROM leases WHERE user = ?", (user,)
    ).fetchone()
    return None if row is None else Holder(*row)


def _beats(held: Holder) -> bool:
    """Say whether the clocks show a recent heartbeat; one from the future proves nothing."""
    try:
        silent = (datetime.now(UTC) - datetime.fromisoformat(held.heartbeat)).total_seconds()
    except (ValueError, TypeError):
        return False
    return -STALE_SECONDS < silent < STALE_SECONDS


class _Heart:
    """Beats for all leases of this process, in one thread, as long as there are any."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._leases: set[tuple[State, str]] = set()
        self._stop = threading.Event()

    def add(self, state: State, owner: str) -> None:
        """Beat for a lease from now on."""
        with self._lock:
            if not self._leases:
                self._stop = threading.Event()
                threading.Thread(target=self._beat, args=(self._stop,), daemon=True).start()
            self._leases.add((state, owner))

    def remove(self, state: State, owner: str) -> None:
        """Beat for it no more."""
        with self._lock:
            self._leases.discard((state, owner))
            if not self._leases:
                self._stop.set()

    def _beat(self, stop: threading.Event) -> None:
        # What is under way when a stop is asked for may take long, and needs its lease to the end.
        stopping.ignore()
        while not stop.wait(HEARTBEAT_SECONDS):
            with self._lock:
                leases = set(self._leases)
            for state in {state for state, _ in leases}:
                beaten = [(now_text(), owner) for at, owner in leases if at is state]
                # A beat that fails is no reason to end the work: the next one may succeed. Over the connection that
                # is open, since opening the database again would make it anew where it was deleted.
                with suppress(StateError), state.transaction() as connection:
                    connection.executemany("UPDATE leases SET heartbeat = ? WHERE owner = ?", beaten)


_heart = _Heart()


def _own_identity() -> tuple[str, int, str, str]:
    pid = os.getpid()
    return socket.gethostname(), pid, _process_start(pid), _machine()


def _machine() -> str:
    """Tell this machine from others, and from itself before its last boot: names repeat, also those of containers."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return f"{boot} {Path('/proc/self/ns/pid').readlink()}"
    except OSError:
        return f"host {socket.gethostname()}"


def _process_lives(held: Holder) -> bool:
    if not held.process or _process_start(held.pid) != held.process:
        return False
    return held.pid != os.getpid() or held.owner in _held_here


def _process_start(pid: int) -> str:
    """Give something that tells this process from a later one with the same number; empty if it is gone."""
    try:
        # Field 22 of stat(5) is the start time; the second field may hold blanks and brackets.
        state, *rest = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        # A killed process that nobody has waited for works no more.
        return "" if state in {"Z", "X"} else rest[18]
    except OSError:
        pass
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return ""
    except PermissionError:
        pass
    return "" if Path("/proc/self/stat").exists() else "alive"
