"""How much memory the servers take while they are provisioned, read from their control groups."""

import contextlib
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

from tests.bench.spans import Memory, Span

EVERY = 0.2
"""Seconds between two looks: npm and the gateway hold what they take for longer."""

_MIB = 1024 * 1024
_MOUNTS = (Path("/sys/fs/cgroup/memory"), Path("/sys/fs/cgroup"))
"""Where cgroup v1 keeps the memory of groups, and v2."""


class MemoryWatch:
    """Looks at all servers of a sandbox while it is entered; `mark` is what their control groups' names end with."""

    def __init__(self, mark: str) -> None:
        self._mark = mark
        self._samples: dict[int, list[tuple[float, float]]] = {}
        self._charged: dict[int, float] = {}
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._over.set()
        self._thread.join()

    def of(self, server_id: int, began: float, spans: Sequence[Span]) -> Memory | None:
        """Give the most that a server took since `began` (perf_counter), and in which of the spans."""
        samples = [(at - began, bytes_) for at, bytes_ in self._samples.get(server_id, []) if at >= began]
        if not samples:
            return None
        at, most = max(samples, key=lambda sample: sample[1])
        around = [span for span in spans if span.start <= at <= span.end]
        within = {span.name: [found for at, found in samples if span.start <= at <= span.end] for span in spans}
        return Memory(
            anonymous=most / _MIB,
            during=max(around, key=lambda span: span.level).name if around else "",
            with_cache=self._charged.get(server_id, 0.0) / _MIB,
            by_stage={name: max(found) / _MIB for name, found in within.items() if found},
        )

    def _watch(self) -> None:
        while not self._over.wait(EVERY):
            for server_id, group in self._groups():
                # A server may be gone between two looks at it.
                with contextlib.suppress(OSError, ValueError):
                    self._samples.setdefault(server_id, []).append((time.perf_counter(), _anonymous(group)))
                    self._charged[server_id] = max(self._charged.get(server_id, 0.0), _most_charged(group))

    def _groups(self) -> Iterator[tuple[int, Path]]:
        for mount in _MOUNTS:
            for group in mount.glob(f"clawdet*-{self._mark}/*"):
                if group.name.isdigit() and (group / "memory.stat").exists():
                    yield int(group.name), group


def _anonymous(group: Path) -> float:
    lines = (line.split() for line in (group / "memory.stat").read_text().splitlines())
    values = {name: float(value) for name, value in lines}
    # v1 gives the group's own pages as `rss`, and with those of the groups below it as `total_rss`.
    return values.get("total_rss", values.get("anon", 0.0))


def _most_charged(group: Path) -> float:
    for name in ("memory.max_usage_in_bytes", "memory.peak"):
        if (group / name).exists():
            return float((group / name).read_text())
    return 0.0
