"""Measure, print, and judge nothing: `python -m tests.bench startup | provision | fleet`."""

import argparse
import importlib
import importlib.util
import json
import sys
from pathlib import Path

from tests.bench import provision, startup

FLEET = "tests.bench.fleet"
"""Imported where it is asked for. It has `measure(options)` and `show(found)`, and may have `add_options(parser)`."""


def main() -> None:
    """Measure what the command line asks for."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench", description=__doc__)
    parts = parser.add_subparsers(dest="part", required=True)
    for_startup = parts.add_parser("startup", help="how soon the command answers")
    for_startup.add_argument("--runs", type=int, default=9, help="of each command, in turn (default 9)")
    for_provision = parts.add_parser(
        "provision", help="how long an instance takes, by every way; with real servers it installs packages"
    )
    provision.add_options(for_provision)
    subparsers = [for_startup, for_provision]
    if importlib.util.find_spec(FLEET):
        for_fleet = parts.add_parser("fleet", help="how long many instances take at once")
        subparsers.append(for_fleet)
        if sys.argv[1:2] == ["fleet"]:
            fleet = importlib.import_module(FLEET)
            if hasattr(fleet, "add_options"):
                fleet.add_options(for_fleet)
    for part in subparsers:
        part.add_argument("--json", type=Path, metavar="FILE", help="write what was measured to this file too")
    options = parser.parse_args()
    if options.part == "startup":
        found = startup.measure(options.runs)
        startup.show(found)
    elif options.part == "provision":
        found = provision.measure(options)
        provision.show(found)
    else:
        found = fleet.measure(options)
        fleet.show(found)
    if options.json:
        options.json.write_text(json.dumps(found, indent=2) + "\n")


if __name__ == "__main__":
    main()
