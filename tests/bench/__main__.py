"""Measure how long provisioning takes, stage by stage, and how soon commands answer: `python -m tests.bench`.

Prints medians and extremes, and judges nothing. Needs what the sandbox needs; with real servers it installs packages.
"""

import argparse
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import platformdirs

from tests.e2e.operator import Operator


def main() -> None:
    """Measure what the command line asks for."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=3, help="instances to provision, one after the other (default 3)")
    parser.add_argument("--servers", choices=["real", "simulated"], default="real")
    parser.add_argument("--suite", choices=["bookworm", "trixie"], default="bookworm")
    parser.add_argument("--boot-seconds", default="10", help="the emulated cloud's latency to `running` (default 10)")
    parser.add_argument("--openclaw-version", help="default: the product's own")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        operator = Operator(Path(folder), platformdirs.user_cache_path("clawdet"))
        _startup(operator)
        _provisioning(operator, options)


def _startup(operator: Operator) -> None:
    print("start-up, process to exit, seconds")
    for arguments in (["--version"], ["--help"], ["status"]):
        seconds = [_timed([sys.executable, "-m", "clawdet_cli", *arguments], operator) for _ in range(7)]
        _print_row("clawdet " + " ".join(arguments), seconds)
    _print_row("python -c pass", [_timed([sys.executable, "-c", "pass"], operator) for _ in range(7)])


def _timed(command: Sequence[str], operator: Operator) -> float:
    started = time.perf_counter()
    subprocess.run(command, env=operator.environment(), capture_output=True, check=True)
    return time.perf_counter() - started


def _provisioning(operator: Operator, options: argparse.Namespace) -> None:
    started = time.perf_counter()
    up = operator.clawdet(
        *("sandbox", "up", "--yes", "--servers", options.servers, "--suite", options.suite),
        *("--boot-seconds", options.boot_seconds),
    )
    if up.code != 0:
        sys.exit(up.err)
    print(f"\nsandbox up: {time.perf_counter() - started:.1f} s")
    version = ["--openclaw-version", options.openclaw_version] if options.openclaw_version else []
    stages: dict[str, list[float]] = {}
    try:
        for number in range(options.runs):
            user = f"bench{number}"
            started = time.perf_counter()
            said = operator.clawdet("provision", user, "--sandbox", "--yes", "--json", *version)
            whole = time.perf_counter() - started
            if said.code != 0:
                sys.exit(said.err)
            for stage in said.document["instance"]["stages"]:
                stages.setdefault(stage["name"], []).append(stage["seconds"])
            stages.setdefault("whole command", []).append(whole)
            started = time.perf_counter()
            operator.clawdet("destroy", user, "--sandbox", "--yes")
            stages.setdefault("destroy", []).append(time.perf_counter() - started)
    finally:
        operator.clawdet("sandbox", "down", "--yes")
    print(f"\nprovision, {options.servers} servers, {options.suite}, {options.runs} runs, seconds")
    for name, seconds in stages.items():
        _print_row(name, seconds)


def _print_row(name: str, seconds: Sequence[float]) -> None:
    print(f"  {name:24} median {statistics.median(seconds):7.2f}   min {min(seconds):7.2f}   max {max(seconds):7.2f}")


if __name__ == "__main__":
    main()
