"""What happens in a round of the random engine: drawn from the seed and the round's number, and from nothing else."""

import math
import random
import signal
from collections.abc import Iterator
from dataclasses import dataclass, field

from tests.kill.proxy import Accident

SITES = ("A", "B")
"""Two databases, each in a state folder of its own."""
MACHINES = ("one", "two")
"""Both reach both state folders."""
USERS = ("alice", "carol", "dave")
STORM_SECONDS = 5.0
SHORTEST, LONGEST = 0.002, 4.0
"""Seconds of work after which a command meets its signal."""
MIN_BEGUN = 0.1
"""Seconds after its begin from which on it may."""
TAKEOVER_SECONDS = 4.0
"""So long sleeps a run that another machine is to take over."""
SHORT, LATE = (0.1, 1.2), (2.5, 5.0)
"""Seconds that a request is late: within the time for which a recovery waits for it, and beyond that."""

FILES = {
    "restore": "an earlier copy is put in its place, without -wal and -shm",
    "copy_back": "an earlier copy is copied over it, and -wal and -shm stay",
    "swap": "it changes places with the other one, with -wal and -shm",
    "swap_alone": "it changes places with the other one, and -wal and -shm stay",
    "delete": "it is deleted, with -wal and -shm",
    "delete_alone": "it is deleted, and -wal and -shm stay",
}


@dataclass(frozen=True)
class Command:
    """A command of somebody, and what happens to it."""

    at: float
    """Seconds after the begin of the round."""
    site: str
    machine: str
    arguments: tuple[str, ...]
    users: tuple[str, ...] = ()
    timeout: float = 900.0
    lock_wait: float = 0.0
    signals: tuple[tuple[float, int], ...] = ()
    """Seconds after its begin, and the signal's number."""
    at_work: bool = False
    """Whether they count from the first change that it writes down, not from its begin."""
    accidents: tuple[Accident, ...] = ()
    asleep: float = TAKEOVER_SECONDS
    """Seconds until it is woken from a stop that came with a request."""

    def longest(self) -> float:
        """Return how long it may take: each user's run has its own time, and a pool is filled, then drained."""
        turns = 2 if self.arguments[:2] == ("pool", "fill") else 1
        if "--parallel" in self.arguments:
            turns = math.ceil(len(self.users) / int(self.arguments[-1]))
        return self.timeout * turns + self.lock_wait

    def __str__(self) -> str:
        told = [f"{self.at:.2f} s: {self.site}/{self.machine} {' '.join(self.arguments)}"]
        told += [f"--timeout {self.timeout:g}"] if self.timeout < 900 else []
        told += [f"--lock-wait {self.lock_wait:g}"] if self.lock_wait else []
        since = " of work" if self.at_work else ""
        told += [f"{signal.Signals(number).name} after {after:.3f} s{since}" for after, number in self.signals]
        told += [str(accident) for accident in self.accidents]
        return ", ".join(told)


@dataclass(frozen=True)
class FileAccident:
    """What happens to a database's file."""

    at: float
    site: str
    kind: str
    copied_at: float = 0.0
    """Seconds after the begin of the round at which the copy is made that is put back."""

    def __str__(self) -> str:
        copied = f" (copied at {self.copied_at:.2f} s)" if self.kind in {"restore", "copy_back"} else ""
        return f"{self.at:.2f} s: database {self.site}: {self.kind}{copied}"


@dataclass(frozen=True)
class Round:
    """All that happens, and what everybody wants in the end."""

    number: int
    commands: tuple[Command, ...]
    files: tuple[FileAccident, ...]
    wanted: dict[str, tuple[str, str]] = field(default_factory=dict)
    """By user: the database, and `provision` or `destroy`."""
    drained: tuple[str, ...] = ()
    """Databases whose pool is drained in the end."""

    def __str__(self) -> str:
        last = ", ".join(f"{site} {verb} {user}" for user, (site, verb) in self.wanted.items())
        happens: list[Command | FileAccident] = sorted([*self.commands, *self.files], key=lambda one: one.at)
        return "\n".join([*(f"  {one}" for one in happens), f"  then {last}; drained: {', '.join(self.drained)}"])


def drawn(seed: int, number: int) -> Round:
    """Draw a round."""
    chosen = random.Random(f"{seed}/{number}")  # noqa: S311 - to be repeated
    commands = [command for _ in range(chosen.randint(3, 6)) for command in _commands(chosen)]
    files = [_file(chosen, chosen.choice(commands))] if chosen.random() < 0.4 else []
    wanted = {user: (chosen.choice("AAB"), chosen.choice(("provision", "provision", "destroy"))) for user in USERS}
    drained = tuple(site for site in SITES if chosen.random() < 0.5)
    return Round(number, tuple(sorted(commands, key=lambda one: one.at)), tuple(files), wanted, drained)


def _commands(chosen: random.Random) -> Iterator[Command]:
    """Draw a command, and with one that sleeps often another machine's that takes over."""
    at, site, machine = chosen.uniform(0, STORM_SECONDS), chosen.choice("AAB"), chosen.choice(MACHINES)
    arguments, users = _arguments(chosen)
    timeout, lock_wait = chosen.choice((900.0, 900.0, 900.0, 12.0, 30.0)), chosen.choice((0.0, 0.0, 0.0, 10.0))
    # Most of a command is reading and checking; what can get lost is in the moments from its first change on.
    at_work = chosen.random() < 0.65
    when = math.exp(chosen.uniform(math.log(SHORTEST if at_work else MIN_BEGUN), math.log(LONGEST)))
    accidents = [_accident(chosen) for _ in range(chosen.choice((0, 0, 1, 1, 2)))]
    signals: list[tuple[float, int]] = []
    stopped_after = None
    match chosen.choices(("none", "kill", "term", "int", "twice", "stop", "asleep"), (35, 20, 8, 7, 3, 9, 18))[0]:
        case "kill":
            signals = [(when, signal.SIGKILL)]
        case "term":
            signals = [(when, signal.SIGTERM)]
        case "int":
            signals = [(when, signal.SIGINT)]
        case "twice":
            signals = [(when, signal.SIGINT), (when + 0.2, signal.SIGINT)]
        case "stop":
            signals = [(when, signal.SIGSTOP), (when + chosen.uniform(0.2, TAKEOVER_SECONDS), signal.SIGCONT)]
            stopped_after = when
        case "asleep":
            kind = chosen.choice(("signal_before", "signal_after", "signal_pause"))
            seconds = chosen.choice((0.0, TAKEOVER_SECONDS + 1.0)) if kind == "signal_before" else 0.0
            cloud, after = chosen.choice((("hetzner", 0), ("hetzner", 1), ("cloudflare", 0), ("cloudflare", 1)))
            accidents = [Accident(kind, cloud, "change", after, seconds, signal.SIGSTOP)]
            stopped_after = 1.5
    yield Command(at, site, machine, arguments, users, timeout, lock_wait, tuple(signals), at_work, tuple(accidents))
    if stopped_after is not None and users and chosen.random() < 0.75:
        other = MACHINES[1 - MACHINES.index(machine)]
        verb = chosen.choice((("provision",), ("destroy", "--yes")))
        soon = at + stopped_after + chosen.uniform(0.3, 1.5)
        yield Command(soon, site, other, (*verb, users[0]), users[:1], lock_wait=chosen.choice((0.0, 10.0)))


def _arguments(chosen: random.Random) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Draw the words of a command, and whom it is about."""
    user = chosen.choice(USERS)
    several = tuple(chosen.sample(USERS, chosen.choice((2, 3))))
    listed = f"@{','.join(several)}"
    parallel = ("--parallel", chosen.choice("123"))
    every: list[tuple[int, tuple[str, ...], tuple[str, ...]]] = [
        (30, ("provision", user), (user,)),
        (20, ("destroy", user, "--yes"), (user,)),
        (6, ("provision", *several, "--yes", *parallel), several),
        (4, ("provision", "--file", listed, "--yes"), several),
        (4, ("destroy", *several, "--yes", *parallel), several),
        (5, ("status", user, "--live"), ()),
        (6, ("verify", user), ()),
        (4, ("reconcile",), ()),
        (7, ("reconcile", "--fix"), ()),
        (9, ("pool", "fill", chosen.choice("12"), "--yes"), ()),
        (5, ("pool", "drain", "--yes"), ()),
    ]
    number = chosen.choices(range(len(every)), [weight for weight, _, _ in every])[0]
    return every[number][1:]


def _accident(chosen: random.Random) -> Accident:
    kinds = ("slow_request", "slow_answer", "reset_request", "reset_answer", "late_request", "drop_request")
    kind = chosen.choice((*kinds, "drop_answer", "twice", "once_more"))
    # Late beyond what a recovery waits for is rare, as in life.
    seconds = (
        chosen.uniform(*(LATE if chosen.random() < 0.15 else SHORT)) if kind.endswith(("request", "more")) else 0.0
    )
    if kind in {"slow_answer", "slow_request"}:
        seconds = chosen.uniform(*SHORT)
    method = chosen.choice(("change", "change", "change", "*"))
    return Accident(kind, chosen.choice(("hetzner", "cloudflare")), method, chosen.randrange(4), round(seconds, 2))


def _file(chosen: random.Random, beneath: Command) -> FileAccident:
    """Draw what happens to a database while a command works with it, or soon after."""
    at = beneath.at + chosen.uniform(0.2, LONGEST)
    return FileAccident(at, beneath.site, chosen.choice(tuple(FILES)), chosen.uniform(0, at))
