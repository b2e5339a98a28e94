"""Makes medians, ratios and the JSON document of what was measured; judges nothing."""

import statistics
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

from tests.bench.spans import Measured, Memory

RATIOS: Mapping[str, tuple[str, tuple[str, ...]]] = {
    "cold/seed": ("cold", ("seed",)),
    "cold/(floor+node_download+npm_install)": ("cold", ("floor", "node_download", "npm_install")),
    "bundle/seed": ("bundle", ("seed",)),
    "bundle/floor": ("bundle", ("floor",)),
    "pool/seed": ("pool", ("seed",)),
    "pool/gateway_ready": ("pool", ("gateway_ready",)),
}
"""What the variants are compared with: a variant by the sum of others, and of parts, by their medians."""


def document(
    runs: Mapping[str, Sequence[Measured]], parts: Mapping[str, Sequence[float]], conditions: Mapping[str, Any]
) -> dict[str, Any]:
    """Give everything as JSON has it."""
    variants = {name: _variant(measured) for name, measured in runs.items() if measured}
    medians = {name: _seconds(statistics.median(seconds)) for name, seconds in parts.items() if seconds}
    return {
        "conditions": dict(conditions),
        "variants": variants,
        "parts": medians,
        "parts_seconds": {name: [_seconds(one) for one in seconds] for name, seconds in parts.items()},
        "ratios": ratios({name: variant["median"] for name, variant in variants.items()} | medians),
        "ratios_by_round": ratios_by_round({name: one["seconds"] for name, one in variants.items()} | dict(parts)),
    }


def ratios(medians: Mapping[str, float]) -> dict[str, float]:
    """Give the ratios for which everything was measured."""
    return {
        name: round(medians[above] / sum(medians[one] for one in below), 3)
        for name, (above, below) in RATIOS.items()
        if above in medians and all(one in medians for one in below)
    }


def ratios_by_round(seconds: Mapping[str, Sequence[float]]) -> dict[str, list[float]]:
    """Give the same within each round, whose runs follow each other: a machine may be slower for some rounds."""
    found = {}
    rounds = max((len(one) for one in seconds.values()), default=0)
    for name, (above, below) in RATIOS.items():
        series = [seconds.get(one, ()) for one in (above, *below)]
        # Of what failed in a round, it cannot be told which seconds belong together.
        if rounds and all(len(one) == rounds for one in series):
            found[name] = [round(first / sum(others), 3) for first, *others in zip(*series, strict=True)]
    return found


def middle(measured: Sequence[Measured]) -> Measured:
    """Give the run that lies in the middle, to be drawn."""
    return sorted(measured, key=lambda run: run.seconds)[(len(measured) - 1) // 2]


def table(found: Mapping[str, Any]) -> Iterator[str]:
    """Give the lines of the tables for a person."""
    yield f"{'':<34} {'median':>8} {'least':>8} {'most':>8} {'MiB at most':>12}"
    for name, variant in found["variants"].items():
        memory = variant["memory_mib"] or {"by_stage": {}}
        yield _line(name, variant["seconds"], memory.get("anonymous"))
        for stage, seconds in variant["stages"].items():
            if max(seconds) >= 0.05:
                yield _line(f"  {stage}", seconds, memory["by_stage"].get(stage))
    yield "MiB: memory of all processes that no file stands behind; with pages of files, over the server's whole life: "
    yield "  " + ", ".join(
        f"{name} {variant['memory_mib']['with_cache']}"
        for name, variant in found["variants"].items()
        if variant["memory_mib"]
    )
    if found["parts_seconds"]:
        yield "parts, each alone on a fresh server"
        yield from (_line(f"  {name}", seconds) for name, seconds in found["parts_seconds"].items())
    if found["ratios"]:
        yield "ratios: of the medians; within each round: median, least, most"
        for name, ratio in found["ratios"].items():
            rounds = found["ratios_by_round"].get(name)
            spread = f"{statistics.median(rounds):8.3f} {min(rounds):7.3f} {max(rounds):7.3f}" if rounds else ""
            yield f"  {name:<40} {ratio:6.3f} {spread}".rstrip()


def _line(name: str, seconds: Sequence[float], mebibytes: int | None = None) -> str:
    line = f"{name[:34]:<34} {statistics.median(seconds):8.2f} {min(seconds):8.2f} {max(seconds):8.2f}"
    return line if mebibytes is None else f"{line} {mebibytes:12}"


def _variant(measured: Sequence[Measured]) -> dict[str, Any]:
    stages: dict[str, list[float]] = {}
    for run in measured:
        for span in run.spans:
            stages.setdefault(span.name, []).append(_seconds(span.seconds))
    return {
        "seconds": [_seconds(run.seconds) for run in measured],
        "median": _seconds(statistics.median(run.seconds for run in measured)),
        "stages": stages,
        "memory_mib": _most([run.memory for run in measured if run.memory]),
        "runs": [run.document() for run in measured],
    }


def _most(memories: Sequence[Memory]) -> dict[str, Any] | None:
    """Give the most of all runs, for the whole and for each stretch."""
    if not memories:
        return None
    by_stage: dict[str, float] = {}
    for memory in memories:
        for name, most in memory.by_stage.items():
            by_stage[name] = max(most, by_stage.get(name, 0.0))
    greatest = max(memories, key=lambda memory: memory.anonymous)
    with_cache = max(memory.with_cache for memory in memories)
    return replace(greatest, with_cache=with_cache, by_stage=by_stage).document()


def _seconds(value: float) -> float:
    return round(value, 3)
