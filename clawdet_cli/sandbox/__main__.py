"""Starts the sandbox's process; `clawdet sandbox up` does it, nobody types it."""

import argparse
import asyncio
import logging
import resource
import sys
from contextlib import suppress
from pathlib import Path

from clawdet_cli.sandbox.daemon import Options, run
from clawdet_cli.sandbox.errors import SandboxError


def main() -> None:
    """Read the options and be the sandbox."""
    parser = argparse.ArgumentParser(prog="python -m clawdet_cli.sandbox", description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--servers", choices=("real", "simulated"), required=True)
    parser.add_argument("--guest", required=True)
    parser.add_argument("--boot-seconds", type=float, required=True)
    parser.add_argument("--base", type=Path)
    parser.add_argument("--downloads", type=Path, required=True)
    options = Options(**vars(parser.parse_args()))
    logging.basicConfig(format="%(asctime)s %(levelname)s %(name)s: %(message)s", level=logging.INFO, stream=sys.stderr)
    # It logs whole requests at level INFO and below, tokens included.
    logging.getLogger("uvicorn").setLevel(logging.CRITICAL)
    try:
        _have_room_for_sockets()
        asyncio.run(run(options))
    except SandboxError as error:
        sys.exit(f"{error.what}. {error.next_step}")


def _have_room_for_sockets() -> None:
    """Raise the soft limit of open files as far as it goes: the usual one is spent by some two hundred servers."""
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    with suppress(ValueError, OSError):  # macOS calls it unlimited, and does not take that
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


main()
