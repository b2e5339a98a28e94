"""Kill a command, and kill it again in its recovery: `python -m tests.kill.pairs --seconds 3600 --seed 1 --workers 2`.

All ordered pairs of all scenes are more than a day's work. They are shuffled by the seed, which is printed, and tried
in that order for as long as was asked, by several workers that have a sandbox each. At the end it says how many were.
"""

import argparse
import math
import random
import secrets
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from itertools import product
from pathlib import Path

from tests.e2e.operator import Operator
from tests.kill import wire
from tests.kill.child import Boundary
from tests.kill.invariants import not_complete, not_empty, not_waiting
from tests.kill.launcher import Ended, Launcher
from tests.kill.scenes import SCENES, Life

ONLY_IN_CLOUDS = {"provision-anew", "provision-again", "fill"}
"""Scenes of which the effects on the VPS are not tried again: they are those of `provision`."""


def numbered(scene: str, ended: Ended) -> list[tuple[int, str]]:
    """Return the effects that are tried in a scene, with their place in the run."""
    effects = [(number, what) for number, what in enumerate(ended.passed, 1) if not what.startswith("recover ")]
    if scene == "provision-bundle":
        # All others are those of `provision`.
        return [(number, what) for number, what in effects if what == "upload bundle"]
    if scene == "claim":
        # From there on it is a provision like any other.
        last = max(number for number, what in effects if what.startswith("switch_host_key"))
        return [(number, what) for number, what in effects if number <= last]
    if scene in ONLY_IN_CLOUDS:
        return [(number, what) for number, what in effects if what.split()[0] in {*wire.CALLS, "reboot_vps"}]
    return effects


def again(life: Life, scene: str) -> list[str]:
    """Run the same command once more: it must end well, and leave one of each thing or nothing."""
    ended = life.run(*SCENES[scene][1])
    if scene in {"destroy", "drain"}:
        wrong = not_empty(life.operator)
    else:
        wrong = not_waiting(life.operator) if scene == "fill" else not_complete(life.operator, "alice")
    if scene == "claim":
        kept = life.secrets() & life.secrets_of_pool
        wrong += [f"{len(kept)} secrets of the pool are in use still"] if kept else []
    if scene == "approve":
        found = life.operator.clawdet("approve", "alice", "--sandbox", "--json").document["devices"]
        wrong += [] if (len(found["pending"]), len(found["paired"])) == (0, 1) else [f"devices: {found}"]
    return wrong + ([f"ended with {ended.code}: {ended.err}"] if ended.code else [])


def kill_twice(life: Life, scene: str, first: Boundary, second: Boundary) -> tuple[bool, list[str]]:
    """Kill a command, and the same command again; say whether the second one lived so long, and what is wrong."""
    begin, command = SCENES[scene]
    begin(life)
    assert life.run(*command, kill_at=first).killed
    ended = life.run(*command, kill_at=second)
    found = again(life, scene) + life.emptied()
    return ended.killed, [f"{scene} killed {first}, then {second} ({ended.passed[-1:]}): {what}" for what in found]


def play(
    life: Life,
    runs: Mapping[str, Ended],
    seed: int,
    *,
    seconds: float = math.inf,
    most: float = math.inf,
    part: tuple[int, int] = (0, 1),
) -> list[str]:
    """Try pairs so long or so many, and tell what is wrong after each.

    `runs` are the commands of the wanted scenes, undisturbed; `part` is which of how many workers this is.
    """
    began, wrong, tried = time.monotonic(), list[str](), Counter[str]()
    every = [pair for scene, ended in runs.items() for pair in _pairs(scene, ended)]
    random.Random(seed).shuffle(every)  # noqa: S311 - to be repeated
    own = every[part[0] :: part[1]]
    for scene, first, second in own:
        if tried.total() >= most or time.monotonic() - began >= seconds:
            break
        was_killed, found = kill_twice(life, scene, first, second)
        # A second kill after the command's end is none.
        tried[scene] += was_killed
        wrong += found
        for what in found:
            print(what, flush=True)
    each = ", ".join(f"{scene} {times}" for scene, times in sorted(tried.items()))
    print(f"{tried.total()} pairs of at most {len(own)} tried: {each}", flush=True)
    return wrong


def _pairs(scene: str, ended: Ended) -> Iterator[tuple[str, Boundary, Boundary]]:
    for number, _ in numbered(scene, ended):
        # What was cut off is looked at first, which counts too.
        for second in range(1, len(ended.passed) - number + 3):
            for moment, later in product(("before", "after"), repeat=2):
                yield scene, Boundary(number, moment), Boundary(second, later)


def undisturbed(life: Life, scene: str) -> Ended:
    """Run a scene's command without any disturbance."""
    begin, command = SCENES[scene]
    begin(life)
    ended = life.run(*command)
    if ended.code or life.emptied():
        raise RuntimeError(f"{scene}: {ended.err}")
    return ended


def _work(seed: int, seconds: float, part: tuple[int, int]) -> int:
    with tempfile.TemporaryDirectory(prefix="clawdet-kill-") as folder:
        operator = Operator(Path(folder) / "state", Path(folder) / "cache", in_process=True)
        up = operator.clawdet("sandbox", "up", "--servers", "simulated", "--boot-seconds", "0")
        if up.code != 0:
            print(up.err)
            return up.code
        try:
            operator.unlimited()
            with Launcher() as launcher:
                life = Life(operator, launcher)
                runs = {scene: undisturbed(life, scene) for scene in SCENES}
                return 1 if play(life, runs, seed, seconds=seconds, part=part) else 0
        finally:
            operator.clawdet("sandbox", "down", "--yes")


def main() -> int:
    """Try pairs until the time is over."""
    parser = argparse.ArgumentParser(prog="python -m tests.kill.pairs", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--seconds", type=float, default=3600)
    parser.add_argument("--seed", type=int, default=secrets.randbelow(1_000_000))
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--part", type=int, help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.part is not None:
        return _work(asked.seed, asked.seconds, (asked.part, asked.workers))
    print(f"seed {asked.seed}, {asked.seconds:g} seconds, {asked.workers} workers", flush=True)
    words = ["--seconds", str(asked.seconds), "--seed", str(asked.seed), "--workers", str(asked.workers)]
    command = [sys.executable, "-m", "tests.kill.pairs", *words]
    workers = [subprocess.Popen([*command, "--part", str(part)]) for part in range(asked.workers)]
    return max(worker.wait() for worker in workers)


if __name__ == "__main__":
    sys.exit(main())
