"""The random engine (`python -m tests.kill`) for some minutes.

`CLAWDET_KILL_SECONDS` says for how long, `CLAWDET_KILL_SEED` which rounds they are: by default always the same ones, so
that what turns this red is a change, and not the luck of the day.
"""

import os
from collections.abc import Callable
from pathlib import Path

from tests.e2e.operator import Operator
from tests.kill.__main__ import play, world
from tests.kill.launcher import Launcher

SECONDS, SEED = 300.0, 1


def test_accidents_at_random_lose_nothing(
    tmp_path: Path, cache: Path, record_property: Callable[[str, object], None]
) -> None:
    seed = int(os.environ.get("CLAWDET_KILL_SEED") or SEED)
    seconds = float(os.environ.get("CLAWDET_KILL_SECONDS") or SECONDS)
    operator = Operator(tmp_path / "cloud", cache, in_process=True)
    up = operator.clawdet("sandbox", "up", "--servers", "simulated", "--boot-seconds", "0")
    assert up.code == 0, up.err
    operator.unlimited()
    with Launcher() as launcher, world(operator, launcher, tmp_path) as own:
        record_property("told", f"random accidents: seed {seed}, {seconds:g} seconds")
        wrong = play(own, seed, seconds)
    assert wrong == [], f"the same again: python -m tests.kill --seed {seed} --seconds {seconds:g}"
    down = operator.clawdet("sandbox", "down", "--yes")
    assert down.code == 0, down.err
