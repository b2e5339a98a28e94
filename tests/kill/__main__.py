"""Play random rounds of commands and accidents, for as long as you like: `python -m tests.kill --seconds 3600`.

Several commands run side by side in each round, on two machines, from two databases on one emulated cloud, for the
same users. They are killed, told to stop, and put to sleep while another machine takes over; their requests and answers
are late, doubled or lost; the databases' files are deleted, swapped, and put back from copies. Then everybody runs what
they want in the end, undisturbed. What exists is compared with what is recorded after the accidents, and once more in
the end. All of a round is drawn from the seed and its number: `--seed 1 --round 7` plays that one alone. At the first
violation the engine tells the round and what was wrong, stops with exit code 1, and keeps the state folders.
"""

import argparse
import math
import secrets
import shutil
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import count
from pathlib import Path

from tests.e2e.operator import Operator
from tests.e2e.test_ownership import plant
from tests.kill.calm import Calm
from tests.kill.launcher import Launcher
from tests.kill.plan import SITES, drawn
from tests.kill.storm import Storm
from tests.kill.world import PATIENCE, World


@contextmanager
def world(operator: Operator, launcher: Launcher, folder: Path) -> Iterator[World]:
    """Prepare two databases and what is foreign in an operator's sandbox, which has to be empty."""
    canary = f"sk-ant-{secrets.token_hex(16)}"
    environment = operator.environment({"ANTHROPIC_API_KEY": canary})
    # What the sandbox says of its state files is of its own folder; nobody here works in that.
    info = operator.info()
    states = {site: folder / site for site in SITES}
    for state in states.values():
        state.mkdir(mode=0o700)
    foreign = plant(operator)
    canaries = (canary, info["hetzner_token"], info["cloudflare_token"])
    yield World(info, states, environment, launcher, foreign, canaries)


def play(
    own: World, seed: int, seconds: float = math.inf, numbers: Iterator[int] | None = None, *, quiet: bool = False
) -> list[str]:
    """Play so long, and print each round; stop at the first in which something is wrong, and tell what."""
    started, ended_with, rounds, wrong = time.monotonic(), Counter[int](), 0, list[str]()
    for number in numbers or count(1):
        if wrong or time.monotonic() - started >= seconds:
            break
        plan, own.lines = drawn(seed, number), []
        storm, rounds, began = Storm(own, plan), rounds + 1, time.monotonic()
        wrong = storm.play()
        ended_with += storm.ended_with
        time.sleep(2 * PATIENCE["clawdet_cli.lease:STALE_SECONDS"])
        wrong = wrong or own.accounts("after the storm") or Calm(own, plan).settle()
        wrong += own.foreign_changes()
        print(f"round {number}: {time.monotonic() - began:.0f} s, {'LOST' if wrong else 'right'}", flush=True)
        if not quiet or wrong:
            print(plan, flush=True)
        if wrong:
            print("what happened:", *own.lines, sep="\n  ", flush=True)
    codes = ", ".join(f"{code}: {times}" for code, times in sorted(ended_with.items()))
    print(f"{rounds} rounds, {own.commands} commands; those that met accidents ended with {codes}", flush=True)
    return wrong


def main() -> int:
    """Play rounds until the time is over or something is lost."""
    parser = argparse.ArgumentParser(prog="python -m tests.kill", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--seed", type=int, default=secrets.randbelow(1_000_000))
    parser.add_argument("--round", type=int, help="play this round alone")
    parser.add_argument("--quiet", action="store_true", help="do not print what happens in each round")
    asked = parser.parse_args()
    print(f"seed {asked.seed}, {asked.seconds:g} seconds", flush=True)
    folder = Path(tempfile.mkdtemp(prefix="clawdet-kill-"))
    operator = Operator(folder / "cloud", folder / "cache", in_process=True)
    up = operator.clawdet("sandbox", "up", "--servers", "simulated", "--boot-seconds", "0")
    if up.code != 0:
        print(up.err)
        return up.code
    wrong = ["it did not end"]
    try:
        operator.unlimited()
        numbers = None if asked.round is None else iter([asked.round])
        with Launcher() as launcher, world(operator, launcher, folder) as own:
            wrong = play(own, asked.seed, asked.seconds, numbers, quiet=asked.quiet)
    finally:
        if not wrong:
            operator.clawdet("sandbox", "down", "--yes")
            shutil.rmtree(folder)
    if wrong:
        print("LOST:", *wrong, f"the sandbox still runs; its state folder: {operator.state}", sep="\n  ")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
