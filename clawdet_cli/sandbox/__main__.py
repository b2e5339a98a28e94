"""Starts the sandbox's process; `clawdet sandbox up` does it, nobody types it."""

import argparse
import asyncio
import logging
import sys
from pathlib import Path

from clawdet_cli.sandbox.daemon import Options, run
from clawdet_cli.sandbox.errors import SandboxError


def main() -> None:
    """Read the options and be the sandbox."""
    parser = argparse.ArgumentParser(prog="python -m clawdet_cli.sandbox", description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--servers", choices=("real", "simulated"), required=True)
    parser.add_argument("--suite", required=True)
    parser.add_argument("--boot-seconds", type=float, required=True)
    parser.add_argument("--base", type=Path)
    parser.add_argument("--downloads", type=Path, required=True)
    options = Options(**vars(parser.parse_args()))
    logging.basicConfig(format="%(asctime)s %(levelname)s %(name)s: %(message)s", level=logging.INFO, stream=sys.stderr)
    # It logs whole requests at level INFO and below, tokens included.
    logging.getLogger("uvicorn").setLevel(logging.CRITICAL)
    try:
        asyncio.run(run(options))
    except SandboxError as error:
        sys.exit(f"{error.what}. {error.next_step}")


main()
