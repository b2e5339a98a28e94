"""How long an instance takes, by every way there is, beside what cannot be faster: `python -m tests.bench provision`.

All variants run in the same sandbox, on the same network, in turn, each on a fresh server with an empty npm cache; the
order rotates from round to round. Before anything is timed, the sandbox has its base image and archives, and one
server has gone through all downloads once.
"""

import argparse
import os
import platform
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import platformdirs

from tests.bench import floor, product, results, seed_flow, timeline
from tests.bench.bed import Bed
from tests.bench.remote import NOT_YET, BenchError
from tests.bench.spans import Measured, Span
from tests.e2e.operator import Operator

NOT_MEASURED = (BenchError, *NOT_YET, ValueError, LookupError, subprocess.TimeoutExpired)
"""What ends one run and not the benchmark: an hour of measuring is not thrown away for it."""


@dataclass(frozen=True)
class Variant:
    """A way to an instance."""

    name: str
    what: str
    measure: Callable[["Round"], Measured]
    command: str | None = None
    """Of the product: without it the variant is left out."""
    real_only: bool = False
    """Simulated servers accept what the product does, and nothing else."""


@dataclass
class Round:
    """What a variant is measured with, once."""

    bed: Bed
    user: str
    bundle: str | None
    parts: dict[str, list[float]]


def _seed(one: Round) -> Measured:
    return seed_flow.measure(one.bed, one.user)


def _cold(one: Round) -> Measured:
    return product.provision(one.bed, one.user)


def _bundle(one: Round) -> Measured:
    return product.provision(one.bed, one.user, "--bundle", str(one.bundle))


def _pool(one: Round) -> Measured:
    filled = product.fill_pool(one.bed)
    one.bed.settle()
    run = product.provision(one.bed, one.user)
    return replace(run, also={**run.also, "fill": filled})


def _floor(one: Round) -> Measured:
    found = floor.measure(one.bed, one.user)
    for name, seconds in found.parts.items():
        one.parts.setdefault(name, []).append(seconds)
    return found.measured


VARIANTS = (
    Variant("seed", "the original's flow (tests/bench/seed_flow.py)", _seed, real_only=True),
    Variant("cold", "clawdet provision", _cold),
    Variant("bundle", "clawdet provision --bundle, from the mirror that Node comes from", _bundle, command="bundle"),
    Variant("pool", "clawdet provision, with a server waiting in the pool", _pool, command="pool"),
    Variant("floor", "boot until SSH, and the gateway's first start, nothing else", _floor, real_only=True),
)


REMARKS = """\
The seed ends when /readyz answers on the server and the landing page comes through the edge; the product's variants end
with their command, after all six checks.
Seed: the vendors' apt repositories of Node and Caddy cannot be reached, so the same bytes come from the sandbox's
mirror; the repositories' own apt-get updates are kept, and no wait is added.
npm_install is `npm ci` of the same lock, packages_install what the product does in its place.
Seed: its certificate for the origin is signed before the clock starts.
From the order to `running` the sandbox takes {boot} s (users of the real cloud report 10). Its machine has then booted
in some 2 s, a real one in about 10: for all variants alike."""


def add_options(parser: argparse.ArgumentParser) -> None:
    """Say what can be chosen."""
    parser.add_argument("--runs", type=int, default=5, help="of each variant, in turn (default 5)")
    parser.add_argument("--variants", default=",".join(one.name for one in VARIANTS), help="default: %(default)s")
    parser.add_argument("--servers", choices=["real", "simulated"], default="real")
    parser.add_argument("--guest", choices=["debian12", "debian13", "ubuntu-like"], default="debian12")
    parser.add_argument("--boot-seconds", default="10", help="from the order to `running` (default 10)")
    parser.add_argument("--openclaw-version", help="for all variants; default: the product's own")
    parser.add_argument(
        "--bundle", metavar="FILE|URL", help="a prepared bundle; default: one is built first, in the sandbox's mirror"
    )
    parser.add_argument("--svg", type=Path, metavar="FILE", help="draw the timelines into this file")


def measure(options: argparse.Namespace) -> dict[str, Any]:
    """Measure the chosen variants in turn, and give everything that was found."""
    with _sandbox(options) as bed:
        variants = list(_possible(bed, options))
        bundle = options.bundle
        if bundle is None and any(one.command == "bundle" for one in variants):
            _say("building a bundle, untimed")
            bundle = product.build_bundle(bed)
        if options.servers == "real":
            _say("warming up: one server goes through all downloads, untimed")
            floor.warm_up(bed)
        runs: dict[str, list[Measured]] = {one.name: [] for one in variants}
        parts: dict[str, list[float]] = {}
        failed: list[dict[str, Any]] = []
        for number in range(options.runs):
            for variant in (*variants[number % len(variants) :], *variants[: number % len(variants)]):
                bed.settle()
                load = round(os.getloadavg()[0], 2)
                try:
                    run = variant.measure(Round(bed, f"{variant.name}{number}", bundle, parts))
                except NOT_MEASURED as error:
                    failed.append(
                        {"variant": variant.name, "round": number, "error": f"{type(error).__name__} {error}"}
                    )
                    _say(f"round {number + 1}: {variant.name} failed: {error}")
                    continue
                runs[variant.name].append(replace(run, load=load))
                _say(f"round {number + 1}: {variant.name} {run.seconds:.1f} s (load before it: {load})")
        middle = {name: results.middle(measured) for name, measured in runs.items() if measured}
        if options.svg and middle:
            remark = f"runs of each: {options.runs}; from the order to running: {options.boot_seconds} s"
            options.svg.write_text(timeline.as_svg(middle, remark))
        return {**results.document(runs, parts, _conditions(bed, options, variants)), "failed": failed}


def show(found: Mapping[str, Any]) -> None:
    """Print what was measured."""
    print("\n".join(found["conditions"]["remarks"]), end="\n\n")
    longest = max((max(one["seconds"]) for one in found["variants"].values()), default=0.0)
    for name, variant in found["variants"].items():
        middle = results.middle([_from_document(run) for run in variant["runs"]])
        print("\n".join(timeline.as_text(name, middle, longest)), end="\n\n")
    print("\n".join(results.table(found)))
    for failure in found["failed"]:
        print(f"not measured: {failure['variant']} in round {failure['round'] + 1}: {failure['error'].splitlines()[0]}")


def _possible(bed: Bed, options: argparse.Namespace) -> Iterator[Variant]:
    wanted = options.variants.split(",")
    for variant in VARIANTS:
        if variant.name not in wanted:
            continue
        if variant.real_only and options.servers != "real":
            _say(f"left out: {variant.name}, which needs real servers")
        elif variant.command and not product.has_command(bed, variant.command):
            _say(f"left out: {variant.name}, since this version has no command 'clawdet {variant.command}'")
        else:
            yield variant


def _conditions(bed: Bed, options: argparse.Namespace, variants: Sequence[Variant]) -> dict[str, Any]:
    return {
        "runs": options.runs,
        "servers": options.servers,
        "guest": options.guest,
        "boot_seconds": float(options.boot_seconds),
        "openclaw": bed.openclaw_version,
        "node": bed.pinned.node_version,
        "processors": os.cpu_count(),
        "system": platform.platform(),
        "variants": {one.name: one.what for one in variants},
        "remarks": REMARKS.format(boot=options.boot_seconds).splitlines(),
    }


def _from_document(run: Mapping[str, Any]) -> Measured:
    spans = tuple(Span(**span) for span in run["timeline"])
    return Measured(run["seconds"], spans)


@contextmanager
def _sandbox(options: argparse.Namespace) -> Iterator[Bed]:
    """Give a sandbox of the benchmark's own; it is removed however this ends."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    with tempfile.TemporaryDirectory(prefix="clawdet-bench-") as folder:
        operator = Operator(
            Path(folder), Path(os.environ.get("CLAWDET_CACHE") or platformdirs.user_cache_path("clawdet"))
        )
        up = operator.clawdet(
            *("sandbox", "up", "--yes", "--servers", options.servers, "--guest", options.guest),
            *("--boot-seconds", options.boot_seconds),
        )
        if up.code != 0:
            sys.exit(up.err)
        try:
            operator.unlimited()
            yield Bed(operator, options.openclaw_version)
        except BenchError as error:
            sys.exit(f"not measured: {error}")
        finally:
            operator.clawdet("sandbox", "down", "--yes")


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)
