"""The command line: the table of commands, and the boundary where every failure becomes a message and an exit code.

A command's module is imported when the command is called: to list the names, for help and completion, none is needed.
"""

import gc
import importlib
import io
import os
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
import typer.main

from clawdet_cli import __version__, stopping
from clawdet_cli.cli.help import CONTEXT, HelpCommand, HelpGroup
from clawdet_cli.errors import ClawdetError, StoppedError, Terminated, UsageError

if TYPE_CHECKING:
    from clawdet_cli.cli.options import LocalCall

HELP = """Give a user a personal OpenClaw server: a VPS at Hetzner Cloud, a name at Cloudflare, strict TLS, verified
from outside.

Try everything on this computer, without an account and at no cost:

\b
    clawdet provision alice --sandbox

For real, with your domain at Cloudflare (the server's monthly price is shown before it is bought):

\b
    export HCLOUD_TOKEN=... CLOUDFLARE_API_TOKEN=... CLAWDET_ZONE=example.com
    clawdet provision alice"""

EPILOG = """Exit codes: 0 done, or nothing to do; 1 a bug; 2 wrong command line; 3 settings or credentials; 4 a
name taken, unknown or busy; 5 a cloud said no; 6 the server or a check failed; 7 timeout; 130 Ctrl-C; 143 SIGTERM.

Every command explains itself: clawdet provision --help. Completion in your shell: clawdet --install-completion"""

INSTANCES = "Instances"
ACCESS = "Access"
TRYING_OUT = "Trying it out"

COMMANDS = {
    "provision": (INSTANCES, "Give a user a personal OpenClaw server, or bring a half-made one to its end."),
    "status": (INSTANCES, "Show all instances, or one in detail, as they were recorded."),
    "verify": (INSTANCES, "Check an instance now, and say what was seen."),
    "destroy": (
        INSTANCES,
        "Remove an instance: its DNS record, its certificate, and its server with everything on it.",
    ),
    "reconcile": (INSTANCES, "Compare the database with both clouds and every VPS, and say what differs."),
    "doctor": (
        INSTANCES,
        "Find out what your tokens may do: what clawdet needs, what they lack, and what they have too much of.",
    ),
    "pool": (INSTANCES, "Servers that wait, prepared, so that 'clawdet provision' takes seconds."),
    "firewall": (INSTANCES, "The provider's firewall in front of every VPS."),
    "bundle": (
        INSTANCES,
        "The prepared bundle: Node, Caddy and OpenClaw in one archive, so that a VPS unpacks instead of installing.",
    ),
    "state": (INSTANCES, "The database itself: make it anew, carry it elsewhere, copy it."),
    "token": (ACCESS, "Print the token that opens a user's OpenClaw."),
    "approve": (ACCESS, "Let a new browser or app into a user's OpenClaw."),
    "ssh": (ACCESS, "Open a shell on a user's VPS as root, or run a command there."),
    "sandbox": (TRYING_OUT, "The cloud on this machine that --sandbox uses: start, remove, look."),
}
"""The panel and the first sentence of each command; its module, of the same name, has the rest."""


class _Commands(HelpGroup):
    """Loads the command that is called, and lets Ctrl-C reach our boundary; Typer would end silently on it."""

    def resolve_command(self, ctx: Any, args: list[str]) -> tuple[str | None, Any, list[str]]:
        name, command, rest = super().resolve_command(ctx, args)
        return name, command and _loaded(str(name)), rest

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt:
            raise StoppedError("Stopped by Ctrl-C.", signal_number=signal.SIGINT) from None


app = typer.Typer(cls=_Commands, context_settings=CONTEXT, rich_markup_mode=None, pretty_exceptions_enable=False)


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"clawdet {__version__}")
        raise typer.Exit


@app.callback(help=HELP, epilog=EPILOG)
def _clawdet(
    *,
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version and end.")
    ] = False,
) -> None: ...


def _stand_in() -> None: ...


for _name, (_panel, _summary) in COMMANDS.items():
    app.command(_name, help=_summary, rich_help_panel=_panel)(_stand_in)


def _loaded(name: str) -> Any:
    """Give the command itself, or the group of commands."""
    module = importlib.import_module(f"clawdet_cli.cli.{name}")
    text = f"{COMMANDS[name][1]}\n\n{module.HELP}"
    own = typer.Typer(rich_markup_mode=None, add_completion=False)
    if group := getattr(module, "app", None):
        own.add_typer(group, name=name, help=text)
        return typer.main.get_group(own).commands[name]
    own.command(name, help=text, epilog=module.EPILOG, cls=getattr(module, "Command", HelpCommand))(vars(module)[name])
    return typer.main.get_command(own)


def run() -> None:
    """Run the command line of this process, and end with its exit code."""
    code = main(sys.argv[1:])
    # The interpreter ends by looking for garbage twice, among all that the SDKs made: a fifth of a second for nothing.
    gc.freeze()
    sys.exit(code)


def main(argv: Sequence[str]) -> int:
    """Run a command line and give its exit code; every failure is reported here, once."""
    # The SDKs make thousands of classes as they are imported; to look for garbage meanwhile takes a fifth of that time.
    gc.set_threshold(50_000)
    for name in ("stdout", "stderr"):
        # One that the shell has closed (`>&-`) is None here, and its number would be the database's.
        if getattr(sys, name) is None:
            setattr(sys, name, Path(os.devnull).open("w"))  # noqa: SIM115 - open to the end, as the other would be
    for stream in (sys.stdout, sys.stderr):
        # A locale that cannot show a character must not end the command.
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    calls: list[LocalCall] = []
    with stopping.listening():
        try:
            command = typer.main.get_command(app)
            code = command.main(args=list(argv), prog_name="clawdet", standalone_mode=False, obj=calls)
            return int(code or 0)
        except (SystemExit, GeneratorExit):
            raise
        except BaseException as error:  # noqa: BLE001 - the boundary: whatever it is becomes a message and a code
            return _report(error, calls[0] if calls else _guessed(argv))


def _guessed(argv: Sequence[str]) -> "LocalCall":
    """Give what of a call can be known when the command line could not be parsed."""
    from clawdet_cli.cli.options import LocalCall  # not above: --help and completion must stay fast

    words = list(argv)[: list(argv).index("--")] if "--" in argv else argv
    return LocalCall(json="--json" in words, events="--events" in words, debug="--debug" in words)


def _report(error: BaseException, call: "LocalCall") -> int:
    from clawdet_cli.cli import documents, output, screens  # not above: --help and completion must stay fast

    failure = _shaped(error)
    steps = [call.pasteable(step) for step in failure.next_steps]
    if failure.kind == "bug" and call.debug:
        output.traceback_of(error)
    content = documents.document(**({"sandbox": True} if call.labelled else {}), error=documents.error(failure, steps))
    output.failure(screens.failure(failure, steps, call), content, as_json=call.json, as_events=call.events)
    return failure.exit_code


def _shaped(error: BaseException) -> ClawdetError:
    match error:
        case ClawdetError():
            return error
        case Terminated():
            return StoppedError("Stopped by SIGTERM.", signal_number=signal.SIGTERM)
        case KeyboardInterrupt() | typer.Abort():
            return StoppedError("Stopped by Ctrl-C.", signal_number=signal.SIGINT)
        case typer.TyperException():
            context = getattr(error, "ctx", None)
            path = context.command_path if context else "clawdet"
            return UsageError(error.format_message(), next_steps=[f"{path} --help"])
        case _:
            return ClawdetError(
                # Its text is not ours and may quote anything, a secret too.
                f"A bug in clawdet: {type(error).__name__}.",
                next_steps=["run the command again with --debug, and report what it prints"],
            )
