"""The product's own ways to an instance, as an operator takes them: cold, with a bundle, from the warm pool."""

import json
import sys
import time
from collections.abc import Sequence
from datetime import datetime
from typing import Any

from tests.bench.bed import KEY, Bed
from tests.bench.memory import MemoryWatch
from tests.bench.remote import BenchError
from tests.bench.spans import Measured, Span
from tests.e2e.operator import Said

BREATH = 0.05
"""Seconds within which steps count as heard of together; the log is asked for less often."""


def has_command(bed: Bed, name: str) -> bool:
    """Whether this version of the product has a command."""
    return bed.operator.clawdet(name, "--help").code == 0


def provision(bed: Bed, user: str, *options: str) -> Measured:
    """Run `clawdet provision` from its start to its end, and `clawdet destroy` afterwards."""
    openclaw = ("--openclaw-version", bed.openclaw_version)
    with MemoryWatch(bed.mark) as memory:
        started, began = time.time(), time.perf_counter()
        said = bed.operator.clawdet(
            *("provision", user, "--sandbox", "--yes", "--json", "--events"), *openclaw, *options, env=KEY
        )
        seconds = time.perf_counter() - began
    try:
        _refuse(said)
        spans = spans_of([json.loads(line) for line in said.err.splitlines()], started, seconds)
        server_id = int(said.document["instance"]["server_id"])
        found = memory.of(server_id, began, spans)
    finally:
        began = time.perf_counter()
        gone = bed.operator.clawdet("destroy", user, "--sandbox", "--yes")
        destroyed = time.perf_counter() - began
    _refuse(gone)
    return Measured(seconds, spans, found, also={"destroy": destroyed})


def fill_pool(bed: Bed) -> float:
    """Have one server waiting in the pool; give how long that took."""
    openclaw = ("--openclaw-version", bed.openclaw_version)
    began = time.perf_counter()
    _refuse(bed.operator.clawdet("pool", "fill", "1", "--sandbox", "--yes", *openclaw, env=KEY))
    return time.perf_counter() - began


def build_bundle(bed: Bed) -> str:
    """Build a bundle in the sandbox's mirror, and give its address there."""
    openclaw = ("--openclaw-version", bed.openclaw_version)
    said = bed.operator.clawdet("bundle", "build", "--sandbox", "--json", *openclaw, timeout=1800)
    _refuse(said)
    return str(said.document["bundles"][0]["url"])


def spans_of(events: Sequence[dict[str, Any]], started: float, seconds: float) -> tuple[Span, ...]:
    """Read the stages and the script's steps from the events of a run that began at `started` (seconds since 1970).

    A step tells how long it took, and ended when it was heard of, at the latest. Steps that are heard of in one breath,
    as those are that ran before anybody listened, are put one before the other.
    """
    stages, steps = [], []
    for event in events:
        if event["kind"] not in {"stage_finished", "step_finished"} or event.get("status") == "skipped":
            continue
        end = datetime.fromisoformat(event["at"]).timestamp() - started
        taken = float(event.get("seconds", 0.0))
        if event["kind"] == "stage_finished":
            stages.append(Span(event["stage"], max(0.0, end - taken), taken))
        elif taken:
            title = f"check {event['step']}" if event["stage"] == "verify" else event["step"]
            steps.append(Span(f"{event['stage']}/{title}", end - taken, taken, level=1))
    placed: list[Span] = []
    heard = following = seconds
    for step in reversed(steps):
        end = following if heard - step.end < BREATH else step.end
        heard, following = step.end, max(0.0, end - step.seconds)
        placed.append(Span(step.name, following, step.seconds, level=1))
    if stages:
        stages.insert(0, Span("start of Python and the SDKs", 0.0, stages[0].start))
        stages.append(Span("end of the command", stages[-1].end, max(0.0, seconds - stages[-1].end)))
    return (*stages, *reversed(placed))


def _refuse(said: Said) -> None:
    if said.code != 0:
        sys.stderr.write(said.err[-3000:])
        raise BenchError(f"the command ended with {said.code}")
