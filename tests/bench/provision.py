"""How long provisioning takes, stage by stage: `python -m tests.bench provision`."""

import argparse
import statistics
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import platformdirs

from tests.e2e.operator import Operator


def measure(options: argparse.Namespace) -> dict[str, Any]:
    """Provision and destroy instances one after the other, and give the seconds of each run and stage."""
    with tempfile.TemporaryDirectory() as folder:
        operator = Operator(Path(folder), platformdirs.user_cache_path("clawdet"))
        up = operator.clawdet(
            *("sandbox", "up", "--yes", "--servers", options.servers, "--suite", options.suite),
            *("--boot-seconds", options.boot_seconds),
        )
        if up.code != 0:
            sys.exit(up.err)
        try:
            return {"variants": {"cold": _cold(operator, options)}}
        finally:
            operator.clawdet("sandbox", "down", "--yes")


def show(found: Mapping[str, Any]) -> None:
    """Print what was measured."""
    for name, variant in found["variants"].items():
        print(f"{name}, seconds: the median, and the extremes")
        for stage, seconds in {**variant["stages"], "whole command": variant["seconds"]}.items():
            print(f"  {stage:<22} {statistics.median(seconds):7.2f}  ({min(seconds):.2f} to {max(seconds):.2f})")


def _cold(operator: Operator, options: argparse.Namespace) -> dict[str, Any]:
    version = ["--openclaw-version", options.openclaw_version] if options.openclaw_version else []
    stages: dict[str, list[float]] = {}
    whole: list[float] = []
    for number in range(options.runs):
        user = f"bench{number}"
        began = time.perf_counter()
        said = operator.clawdet("provision", user, "--sandbox", "--yes", "--json", *version)
        whole.append(time.perf_counter() - began)
        if said.code != 0:
            sys.exit(said.err)
        for stage in said.document["instance"]["stages"]:
            stages.setdefault(stage["name"], []).append(stage["seconds"])
        began = time.perf_counter()
        operator.clawdet("destroy", user, "--sandbox", "--yes")
        stages.setdefault("destroy, afterwards", []).append(time.perf_counter() - began)
    return {"seconds": whole, "median": statistics.median(whole), "stages": stages}
