"""`clawdet bundle ...`."""

import shlex
from collections.abc import Iterator
from dataclasses import asdict
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

from clawdet_cli.cli import output
from clawdet_cli.cli import sandbox as cloud
from clawdet_cli.cli.help import HelpCommand, HelpGroup
from clawdet_cli.cli.options import LocalCall, with_call
from clawdet_cli.cli.output import Paint
from clawdet_cli.model import Event, now_text

app = typer.Typer(cls=HelpGroup, rich_markup_mode=None)

HELP = """'clawdet provision alice --bundle FILE' (or an address) uses it where it fits, and npm where it does not."""


class Architecture(StrEnum):
    """What a bundle is for."""

    X86 = "x86"
    ARM = "arm"
    BOTH = "both"


@app.callback()
def _bundle() -> None: ...


@app.command(
    cls=HelpCommand,
    help="""Build a bundle, and its manifest with all digests beside it.

Node and Caddy are the pinned downloads, verified; OpenClaw is installed with npm from the pinned lock. The same
versions give the same bytes. For the other architecture nothing runs of what is built. Needs Linux, the package
'zstandard' (pip install 'clawdet[bundle]'), 2 GB of room and, for each architecture, a minute.

Put both files on a web server, and name the archive to 'clawdet provision --bundle', or name the file here.""",
    epilog="""\b
Examples:
  clawdet bundle build
  clawdet bundle build --architecture both --into /srv/www/bundles
  clawdet bundle build --sandbox              into the sandbox's own mirror, from its own downloads""",
)
@with_call
def build(
    call: LocalCall,
    *,
    openclaw_version: Annotated[
        str | None,
        typer.Option(
            "--openclaw-version",
            metavar="VERSION",
            help="Default: $CLAWDET_OPENCLAW_VERSION or the newest tested one.",
            show_default=False,
        ),
    ] = None,
    arch: Annotated[
        Architecture | None,
        typer.Option(
            "--arch",
            metavar="NAME",
            help="x86, arm or both. Default: this machine's.",
            show_default=False,
        ),
    ] = None,
    into: Annotated[
        Path | None,
        typer.Option(
            "--into",
            metavar="FOLDER",
            help="Where both files are written. Default: this folder; with --sandbox its mirror.",
            show_default=False,
        ),
    ] = None,
    sandbox: Annotated[
        bool, typer.Option("--sandbox", help="Take Node and Caddy from the sandbox's own downloads.")
    ] = False,
) -> None:
    """Build bundles."""
    from clawdet_cli import operations, settings  # not above: --help must stay fast

    flags = {"state": call.state, "openclaw_version": openclaw_version}
    version = settings.load(flags, default_openclaw=operations.default_openclaw()).openclaw_version
    mirror: Path | None = None
    address, artifacts = "", dict[str, dict[str, str]]()
    with output.progress(call, banner=False) as view:
        if sandbox:
            mirror, address, artifacts = cloud.downloads(view)
        folder = (into or mirror or Path()).absolute()

        def tell(text: str) -> None:
            view.watch(Event("note", now_text(), text=text))

        architectures = ("x86", "arm") if arch is Architecture.BOTH else (arch and arch.value,)
        with view.working("Building"):
            made = operations.build_bundles(version, architectures, folder, artifacts, tell)
    described: list[dict[str, Any]] = [
        {
            "file": str(folder / one.file_name),
            "url": f"{address}/{one.file_name}#sha256={one.archive_sha256}" if folder == mirror else None,
            **asdict(one),
        }
        for one in made
    ]

    def screen(_: Paint) -> Iterator[str]:
        for one in described:
            yield f"{one['file']}"
            yield f"  {one['archive_bytes'] / 1e6:.0f} MB, {one['files']} files, sha256 {one['archive_sha256']}"
            for what in one["built"]["not_run"]:
                yield f"  not run: {what}"
            command = f"clawdet provision alice --bundle {shlex.quote(one['url'] or one['file'])}"
            yield "  Use it: " + call.pasteable(f"{command} --sandbox" if sandbox else command)

    output.result(call, {"bundles": described}, screen)
