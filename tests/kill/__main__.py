"""Kill the program at random moments, for as long as you like: `python -m tests.kill --seconds 3600`.

Each round takes one of two users in a sandbox of its own, starts `provision` or `destroy`, kills it after a random time
(and often the next one too, in its recovery), now and then with a fault in one of the clouds, and then lets a last one
run to its end. After that both clouds, the database and the journal must agree. The seed is printed first, and gives
the same rounds again. At the first violation it stops with exit code 1, and keeps the state folder.
"""

import argparse
import math
import random
import secrets
import shutil
import sys
import tempfile
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

from tests.e2e.operator import Operator
from tests.kill.invariants import not_complete, not_empty
from tests.kill.launcher import Ended, Launcher

USERS = ("alice", "bob")
SHORTEST_SECONDS = 0.001
FAULTS = (
    {"kind": "drop_before"},
    {"kind": "drop_after"},
    {"kind": "delay", "seconds": 0.3},
    {"kind": "answer", "status": 429, "body": "slow down"},
    {"kind": "answer", "status": 502, "body": "<html>bad gateway</html>"},
)


@dataclass
class Engine:
    """Plays rounds, and knows who should be complete after each."""

    operator: Operator
    launcher: Launcher
    chosen: random.Random
    longest: float
    """Seconds that an undisturbed provision takes."""
    complete: set[str] = field(default_factory=set)
    killed_at: Counter[str] = field(default_factory=Counter)
    """How often a process was killed after this was the last thing that it did and wrote down."""

    def round(self) -> tuple[str, list[str]]:
        """Play one round; tell what was done, and what is wrong afterwards."""
        user = self.chosen.choice(USERS)
        done = []
        verb = "destroy" if user in self.complete else "provision"
        for _ in range(self.chosen.choice((1, 1, 2, 3))):
            fault = self._disturb() if self.chosen.random() < 0.3 else ""
            # Most of a command is reading and checking; what can get lost is in the moments from its first change on.
            at_work = self.chosen.random() < 0.8
            shortest, longest = SHORTEST_SECONDS, self.longest / (2 if at_work else 1)
            after = math.exp(self.chosen.uniform(math.log(shortest), math.log(longest)))
            ended = self._run(verb, user, after, at_work=at_work)
            where = ended.passed[-1].split()[0] if ended.passed else "nothing"
            if ended.killed:
                self.killed_at[where] += 1
            since = " of work" if at_work else ""
            how = f"killed after {after:.3f} s{since} at {where}" if ended.killed else f"ended with {ended.code}"
            done.append(f"{verb}{fault} {how}")
            verb = self.chosen.choice((verb, verb, "provision", "destroy"))
        for cloud in ("hetzner", "cloudflare"):
            self.operator.control(cloud, "DELETE", "faults")
        last = self.chosen.choice(("provision", "destroy"))
        return f"{user}: {', '.join(done)}; then {last}", self._finish(last, user)

    def _finish(self, last: str, user: str) -> list[str]:
        ended = self._run(last, user)
        # What was being destroyed is destroyed first: a provision in between is refused, and changes nothing.
        if last == "provision" and ended.code == 4 and f"clawdet destroy {user}" in ended.err:
            first = self._run("destroy", user)
            if first.code != 0:
                return [f"destroy ended with {first.code}: {first.err}"]
            ended = self._run(last, user)
        wrong = [f"{last} ended with {ended.code}: {ended.err}"] if ended.code else []
        (self.complete.add if last == "provision" else self.complete.discard)(user)
        return wrong + (not_complete(self.operator, *sorted(self.complete)) if self.complete else self._nothing_left())

    def _nothing_left(self) -> list[str]:
        # A user who never got further than the first stage may still be in the database, with nothing in the clouds.
        return [what for what in not_empty(self.operator) if not what.endswith((" is pending", " is failed"))]

    def _run(self, verb: str, user: str, kill_after: float | None = None, *, at_work: bool = False) -> Ended:
        yes = ("--yes",) if verb == "destroy" else ()
        arguments = (verb, user, "--sandbox", "--quiet", *yes)
        environment = self.operator.environment()
        return self.launcher.run(arguments, environment, kill_after=kill_after, at_work=at_work, settle=1.0)

    def _disturb(self) -> str:
        cloud, method = self.chosen.choice((("hetzner", "POST"), ("hetzner", "DELETE"), ("cloudflare", "*")))
        fault = self.chosen.choice(FAULTS)
        self.operator.control(cloud, "POST", "faults", {**fault, "method": method, "after": self.chosen.randrange(3)})
        return f" with {fault['kind']} at {cloud}"


def main() -> int:
    """Play rounds until the time is over or something is lost."""
    parser = argparse.ArgumentParser(prog="python -m tests.kill", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--seed", type=int, default=secrets.randbelow(1_000_000))
    asked = parser.parse_args()
    print(f"seed {asked.seed}, {asked.seconds:g} seconds", flush=True)
    folder = Path(tempfile.mkdtemp(prefix="clawdet-kill-"))
    operator = Operator(folder / "state", folder / "cache", in_process=True)
    up = operator.clawdet("sandbox", "up", "--servers", "simulated", "--boot-seconds", "0")
    if up.code != 0:
        print(up.err)
        return up.code
    wrong: list[str] = []
    try:
        operator.unlimited()
        with Launcher() as launcher:
            wrong = play(operator, launcher, asked.seed, asked.seconds)
    finally:
        if not wrong:
            operator.clawdet("sandbox", "down", "--yes")
            shutil.rmtree(folder)
    if wrong:
        print("LOST:", *wrong, f"the sandbox still runs; its state folder: {operator.state}", sep="\n  ")
    return 1 if wrong else 0


def play(
    operator: Operator, launcher: Launcher, seed: int, seconds: float = math.inf, most_rounds: float = math.inf
) -> list[str]:
    """Play so long or so many rounds, and print each; stop at the first in which something is wrong, and tell what."""
    started = time.monotonic()
    first = launcher.run(("provision", USERS[0], "--sandbox", "--quiet"), operator.environment())
    if first.code != 0:
        return [f"an undisturbed provision ended with {first.code}: {first.err}"]
    engine = Engine(operator, launcher, random.Random(seed), time.monotonic() - started)  # noqa: S311 - to be repeated
    engine.complete.add(USERS[0])
    wrong: list[str] = []
    rounds = 0
    while not wrong and rounds < most_rounds and time.monotonic() - started < seconds:
        rounds += 1
        told, wrong = engine.round()
        print(f"round {rounds}  {told}: {'LOST' if wrong else 'right'}", flush=True)
    places = ", ".join(f"{where} {times}" for where, times in engine.killed_at.most_common())
    print(f"{rounds} rounds, {engine.killed_at.total()} processes killed. The last thing that they did: {places}")
    return wrong


if __name__ == "__main__":
    sys.exit(main())
