"""What a measurement consists of: named stretches of time, and one run with all of them."""

import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Span:
    """A named stretch of a run, in seconds from its begin."""

    name: str
    start: float
    seconds: float
    level: int = 0
    """1: a part of a stretch of level 0, whose name its own begins with, up to a slash."""

    @property
    def title(self) -> str:
        """Its name without that of the stretch that it is a part of."""
        return self.name.rpartition("/")[2] if self.level else self.name

    @property
    def end(self) -> float:
        """When it is over."""
        return self.start + self.seconds


@dataclass(frozen=True)
class Memory:
    """The most that a server's processes took, in MiB."""

    anonymous: float
    """What no file stands behind: it cannot be dropped, so a server that has less kills something."""
    during: str
    """The stretch in which that was."""
    with_cache: float
    """All that the server was ever charged with, pages of files included, which are dropped where room is short."""
    by_stage: Mapping[str, float] = field(default_factory=dict)
    """The most anonymous memory in each stretch."""

    def document(self) -> dict[str, Any]:
        """Give it as JSON has it."""
        return {
            "anonymous": round(self.anonymous),
            "during": self.during,
            "with_cache": round(self.with_cache),
            "by_stage": {name: round(most) for name, most in self.by_stage.items()},
        }


@dataclass(frozen=True)
class Measured:
    """One run of a variant."""

    seconds: float
    spans: tuple[Span, ...]
    memory: Memory | None = None
    load: float = 0.0
    """The machine's load average before it began: what it does besides makes a run slower."""
    also: Mapping[str, float] = field(default_factory=dict)
    """What was timed beside it and is no part of `seconds`."""

    def document(self) -> dict[str, Any]:
        """Give it as JSON has it."""
        return {
            "seconds": round(self.seconds, 3),
            "load": self.load,
            "also": {name: round(seconds, 3) for name, seconds in self.also.items()},
            "memory_mib": self.memory and self.memory.document(),
            "timeline": [
                {"name": one.name, "start": round(one.start, 3), "seconds": round(one.seconds, 3), "level": one.level}
                for one in self.spans
            ],
        }


class Parts:
    """Splits a flow, as it goes on, into stretches that follow each other without a gap."""

    def __init__(self) -> None:
        self.began = time.perf_counter()
        self._spans: list[Span] = []
        self._open: tuple[str, float] | None = None

    def next(self, name: str) -> None:
        """End the stretch that is going on, and begin another."""
        now = self._close()
        self._open = (name, now)

    def end(self) -> tuple[Span, ...]:
        """End the last stretch and give them all."""
        self._close()
        return tuple(self._spans)

    def _close(self) -> float:
        now = time.perf_counter() - self.began
        if self._open is not None:
            name, start = self._open
            self._spans.append(Span(name, start, now - start))
            self._open = None
        return now
