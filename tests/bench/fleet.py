"""What many instances at once take, with simulated servers: `python -m tests.bench fleet`."""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import platformdirs

from clawdet_cli.model import CHECK_NAMES, Check, Instance, Result, Status, now_text
from clawdet_cli.state import State
from tests.e2e.operator import Operator

IN_DATABASE = 10_000
STAGES = ("create_server", "create_dns_record", "await_ssh", "prepare_vps", "configure_openclaw", "verify")
MEASURED = """
import resource, sys
from clawdet_cli.cli import main
code = main(sys.argv[1:])
used = resource.getrusage(resource.RUSAGE_SELF)
print(used.ru_utime + used.ru_stime, used.ru_maxrss / 1024, file=sys.stderr)
sys.exit(code)
"""
"""A command that says at its end how many CPU-seconds and MiB it took."""


def add_options(parser: argparse.ArgumentParser) -> None:
    """Say what can be chosen."""
    parser.add_argument("--users", type=int, default=100, help="how many at once (default 100)")
    parser.add_argument("--parallel", type=int, help="how many of them side by side (default: all)")
    parser.add_argument("--boot-seconds", default="10", help="the cloud's latency; all its delays follow (default 10)")


def measure(options: argparse.Namespace) -> dict[str, Any]:
    """Provision one, then `options.users` at once, and read a large database."""
    users = options.users
    with tempfile.TemporaryDirectory() as folder:
        operator = Operator(Path(folder) / "state", platformdirs.user_cache_path("clawdet"))
        up = operator.clawdet("sandbox", "up", "--servers", "simulated", "--boot-seconds", options.boot_seconds)
        if up.code != 0:
            sys.exit(up.err)
        try:
            one = _provision(operator, ["single"])
            names = [f"user{number:04d}" for number in range(users)]
            many = _provision(operator, names, options.parallel)
        finally:
            operator.clawdet("sandbox", "down", "--yes")
        status = _status(Path(folder) / "database")
    return {
        "users": users,
        "one": one,
        "many": many,
        "wall_ratio": many["wall_seconds"] / one["wall_seconds"],
        "calls_per_instance": {cloud: count / users for cloud, count in many["calls"].items()},
        "cpu_seconds_per_instance": (many["cpu_seconds"] - one["cpu_seconds"]) / max(1, users - 1),
        "mib_per_instance": (many["mib"] - one["mib"]) / max(1, users - 1),
        "status": {"instances": IN_DATABASE, "seconds": status},
    }


def show(found: Mapping[str, Any]) -> None:
    """Print what was measured."""
    one, many, users = found["one"], found["many"], found["users"]
    print(f"{'':<28} {'one':>10} {users:>10}")
    for name, what in (
        ("wall_seconds", "wall, s"),
        ("cpu_seconds", "client's CPU, s"),
        ("mib", "client's memory, MiB"),
    ):
        print(f"  {what:<26} {one[name]:10.2f} {many[name]:10.2f}")
    print(f"  {'wall, ratio':<26} {found['wall_ratio']:21.2f}")
    print(f"  {'CPU-seconds per instance':<26} {found['cpu_seconds_per_instance']:21.3f}")
    print(f"  {'MiB per instance':<26} {found['mib_per_instance']:21.2f}")
    for cloud, calls in found["calls_per_instance"].items():
        print(f"  {f'calls to {cloud.capitalize()} per instance':<32} {calls:15.2f}")
    print(f"  status of {found['status']['instances']} instances: {min(found['status']['seconds']):.2f} s")


def _provision(operator: Operator, users: Sequence[str], parallel: int | None = None) -> dict[str, Any]:
    """Run one command for all of these, and destroy them again."""
    names = "\n".join(users)
    if len(users) > 150:
        # More than a free zone holds; how many it may hold is not what is measured.
        operator.control("cloudflare", "PATCH", f"zones/{operator.info()['zone']}", {"plan": "pro"})
    for cloud in ("hetzner", "cloudflare"):
        operator.control(cloud, "DELETE", "requests")
    command = [
        "provision",
        "--file",
        "-",
        "--parallel",
        str(parallel or len(users)),
        "--sandbox",
        "--yes",
        "--quiet",
        "--json",
    ]
    began = time.perf_counter()
    done = subprocess.run(
        [sys.executable, "-c", MEASURED, *command],
        env=operator.environment(),
        input=names,
        capture_output=True,
        text=True,
        check=False,
    )
    wall = time.perf_counter() - began
    if done.returncode != 0:
        sys.exit(_failed(done.stdout) + done.stderr[-2000:])
    seen = {cloud: len(operator.control(cloud, "GET", "requests")["requests"]) for cloud in ("hetzner", "cloudflare")}
    cpu, mib = done.stderr.splitlines()[-1].split()
    # Removing a thousand takes longer than making them.
    print(f"{len(users)} complete after {wall:.0f} s, client's CPU {cpu} s, calls {seen}", file=sys.stderr, flush=True)
    gone = operator.clawdet(
        "destroy", "--file", "-", "--parallel", "50", "--sandbox", "--yes", "--quiet", "--json", stdin=names
    )
    failures = json.loads(gone.out).get("failures", [])
    return {
        "wall_seconds": wall,
        "cpu_seconds": float(cpu),
        "mib": float(mib),
        "calls": seen,
        "not_destroyed": len(failures),
    }


def _failed(said: str) -> str:
    failures = json.loads(said or "{}").get("failures", [])
    shown = [f"{one['user']}, {one.get('stage')}: {one['what']}" for one in failures[:20]]
    return "\n".join([f"{len(failures)} failed", *shown, ""])


def _status(folder: Path) -> list[float]:
    with closing(State(folder / "clawdet.db")) as state, state.transaction() as connection:
        # In one transaction: durable ones for each row would take minutes.
        for number in range(IN_DATABASE):
            user, now = f"user{number:05d}", now_text()
            run = f"run{number:09d}"
            one = Instance(user, "example.com", run, Status.COMPLETE, False, now, now, server_id=number + 1)
            _insert(connection, one, now)
    seconds = []
    for _ in range(3):
        began = time.perf_counter()
        done = subprocess.run(
            [sys.executable, "-m", "clawdet_cli", "status"],
            env={"PATH": os.environ["PATH"], "HOME": str(folder), "CLAWDET_STATE": str(folder)},
            capture_output=True,
            text=True,
            check=False,
        )
        seconds.append(time.perf_counter() - began)
        if f"user{IN_DATABASE - 1:05d}" not in done.stdout:
            sys.exit(done.stderr)
    return seconds


def _insert(connection: Any, one: Instance, now: str) -> None:
    row = (one.user, one.zone, one.run_id, one.status.value, 0, now, now, one.server_id)
    connection.execute(
        "INSERT INTO instances (user, zone, run_id, status, sandbox, created_at, updated_at, server_id)"
        " VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
        row,
    )
    checks = [Check(name, Result.OK, f"{name} was looked at, and it is as it should be", now) for name in CHECK_NAMES]
    connection.executemany(
        "INSERT INTO checks (user, run_id, name, position, result, evidence, at) VALUES (?, ?, ?, ?, ?, ?, ?)",
        [(one.user, one.run_id, c.name, at, c.result, c.evidence, c.at) for at, c in enumerate(checks)],
    )
    connection.executemany(
        "INSERT INTO stage_runs (user, run_id, name, status, started_at, seconds) VALUES (?, ?, ?, 'done', ?, 1.5)",
        [(one.user, one.run_id, name, now) for name in STAGES],
    )
