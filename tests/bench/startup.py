"""How soon the command answers, beside what Python takes to import typer: `python -m tests.bench startup`."""

import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

from clawdet_cli.model import CHECK_NAMES, Check, Instance, Result, Status, now_text
from clawdet_cli.state import State

REFERENCE = "import typer"
INSTANCES = 100
"""In the database that `status` reads."""

COMMANDS: Mapping[str, Sequence[str]] = {
    REFERENCE: (sys.executable, "-c", "import typer"),
    "version": (sys.executable, "-m", "clawdet_cli", "--version"),
    "help": (sys.executable, "-m", "clawdet_cli", "--help"),
    "status": (sys.executable, "-m", "clawdet_cli", "status"),
    "completion": (sys.executable, "-m", "clawdet_cli"),
}
COMPLETING = {"_CLAWDET_COMPLETE": "complete_bash", "COMP_WORDS": "clawdet pro", "COMP_CWORD": "1"}
"""What a shell sets when the tabulator key is pressed."""


def measure(rounds: int) -> dict[str, Any]:
    """Run all commands in turn, `rounds` times, and give seconds, medians and the ratios to the reference."""
    with tempfile.TemporaryDirectory() as folder:
        _fill(Path(folder))
        environment = {"PATH": os.environ["PATH"], "HOME": folder, "CLAWDET_STATE": folder}
        seconds: dict[str, list[float]] = {name: [] for name in COMMANDS}
        for number in range(rounds + 1):
            for name, command in COMMANDS.items():
                own = environment | (COMPLETING if name == "completion" else {})
                began = time.perf_counter()
                done = subprocess.run(command, env=own, cwd=_ROOT, capture_output=True, text=True, check=False)
                taken = time.perf_counter() - began
                _refuse_a_failure(name, done)
                if number:  # the first round fills the caches of Python and of the disk
                    seconds[name].append(taken)
    reference = statistics.median(seconds[REFERENCE])
    return {
        "variants": {name: {"seconds": found, "median": statistics.median(found)} for name, found in seconds.items()},
        "ratios": {name: statistics.median(found) / reference for name, found in seconds.items()},
    }


def show(found: Mapping[str, Any]) -> None:
    """Print what was measured, beside the reference."""
    print(f"start to exit, seconds; {INSTANCES} instances in the database")
    for name, variant in found["variants"].items():
        low, high = min(variant["seconds"]), max(variant["seconds"])
        print(f"  {name:<14} {variant['median']:7.3f}  ({low:.3f} to {high:.3f})  {found['ratios'][name]:5.2f} x")


_ROOT = Path(__file__).parents[2]


def _fill(folder: Path) -> None:
    with closing(State(folder / "clawdet.db")) as state:
        for number in range(INSTANCES):
            user, now = f"user{number}", now_text()
            instance = Instance(user, "example.com", f"run{number:09d}", Status.COMPLETE, False, now, now)
            state.add(instance)
            state.save_checks(instance, [Check(name, Result.OK, "looked at", now) for name in CHECK_NAMES])


def _refuse_a_failure(name: str, done: "subprocess.CompletedProcess[str]") -> None:
    """End the measurement where a command did not do what is measured."""
    wanted = {"help": "Usage: clawdet", "status": f"user{INSTANCES - 1}", "completion": "provision"}.get(name, "")
    if done.returncode != 0 or wanted not in done.stdout:
        sys.exit(f"{name} failed with {done.returncode}: {done.stderr[-500:]}")
