"""Control groups: they limit a machine's memory, and name every process that belongs to it.

cgroup v1, v2 and the hybrid of both are found by their mounts; v2 alone is written from its documentation and untried.
"""

import contextlib
import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path

from clawdet_cli.sandbox.errors import SandboxError

_V1_CONTROLLERS = {"memory", "pids", "name=systemd"}


def make(name: str, *, memory_bytes: int) -> list[Path]:
    """Make the group in every hierarchy that matters; return the files that take the pid of a process to join."""
    joins = []
    for root, is_v2 in _hierarchies():
        group = root / name
        if is_v2:
            for parent in (root, group.parent):
                parent.mkdir(parents=True, exist_ok=True)
                _enable_controllers(parent)
        group.mkdir(parents=True, exist_ok=True)
        limit = group / ("memory.max" if is_v2 else "memory.limit_in_bytes")
        if limit.exists():
            limit.write_text(str(memory_bytes))
        joins.append(group / "cgroup.procs")
    return joins


def processes(name: str) -> set[int]:
    """Return the pids in the group and below it."""
    found: set[int] = set()
    for group in _groups(name):
        for folder, _, _ in os.walk(group):
            with contextlib.suppress(OSError):
                found.update(int(pid) for pid in (Path(folder) / "cgroup.procs").read_text().split())
    return found - {0}


def below(name: str) -> set[str]:
    """Return the names of the groups directly below a group, or at the top with an empty name."""
    return {entry.name for group in _groups(name) for entry in os.scandir(group) if entry.is_dir()}


def kill(name: str, deadline_seconds: float = 10.0) -> int:
    """Kill every process in the group and wait until they are gone; return how many there were."""
    killed: set[int] = set()
    deadline = time.monotonic() + deadline_seconds
    while pids := processes(name):
        for pid in pids:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        killed |= pids
        if time.monotonic() > deadline:
            raise SandboxError(
                f"processes {sorted(pids)} in control group {name} do not die", "see ps -o pid,stat,wchan,args"
            )
        time.sleep(0.02)
    return len(killed)


def remove(name: str) -> bool:
    """Remove the empty group and those below it; return whether there was one."""
    there = False
    for group in _groups(name):
        there = True
        for folder, _, _ in os.walk(group, topdown=False):
            _remove_folder(Path(folder))
    return there


def _remove_folder(folder: Path) -> None:
    # The kernel clears a group a moment after its last process is gone.
    deadline = time.monotonic() + 2
    while folder.exists():
        try:
            folder.rmdir()
        except OSError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.02)


def _groups(name: str) -> Iterator[Path]:
    return (root / name for root, _ in _hierarchies() if (root / name).is_dir())


def _hierarchies() -> Iterator[tuple[Path, bool]]:
    """Return (mount point, whether it is v2) of the hierarchies that a machine joins; none where it is not Linux."""
    try:
        mounts = Path("/proc/self/mountinfo").read_text()
    except FileNotFoundError:
        return
    for line in mounts.splitlines():
        mount, _, source = line.partition(" - ")
        kind, _, options = source.split(" ", 2)
        point = Path(mount.split()[4])
        if kind == "cgroup2":
            yield point, True
        elif kind == "cgroup" and _V1_CONTROLLERS & set(options.split(",")):
            yield point, False


def _enable_controllers(folder: Path) -> None:
    control = folder / "cgroup.subtree_control"
    available = (folder / "cgroup.controllers").read_text().split()
    wanted = [f"+{name}" for name in ("memory", "pids") if name in available]
    # In the hybrid layout v1 holds the controllers, and v2 has none to enable.
    if wanted:
        control.write_text(" ".join(wanted))
