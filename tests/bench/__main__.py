"""Measure, print, and judge nothing: `python -m tests.bench startup | provision`."""

import argparse
import json
from pathlib import Path

from tests.bench import provision, startup


def main() -> None:
    """Measure what the command line asks for."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench", description=__doc__)
    parts = parser.add_subparsers(dest="part", required=True)
    for_startup = parts.add_parser("startup", help="how soon the command answers")
    for_startup.add_argument("--runs", type=int, default=9, help="of each command, in turn (default 9)")
    for_provision = parts.add_parser(
        "provision", help="how long an instance takes, stage by stage; with real servers it installs packages"
    )
    for_provision.add_argument("--runs", type=int, default=3, help="instances, one after the other (default 3)")
    for_provision.add_argument("--servers", choices=["real", "simulated"], default="real")
    for_provision.add_argument("--suite", choices=["bookworm", "trixie"], default="bookworm")
    for_provision.add_argument("--boot-seconds", default="10", help="from the order to `running` (default 10)")
    for_provision.add_argument("--openclaw-version", help="default: the product's own")
    for part in (for_startup, for_provision):
        part.add_argument("--json", type=Path, metavar="FILE", help="write what was measured to this file too")
    options = parser.parse_args()
    if options.part == "startup":
        found = startup.measure(options.runs)
        startup.show(found)
    else:
        found = provision.measure(options)
        provision.show(found)
    if options.json:
        options.json.write_text(json.dumps(found, indent=2) + "\n")


if __name__ == "__main__":
    main()
