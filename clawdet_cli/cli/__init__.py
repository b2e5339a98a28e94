"""The command line: the table of commands, and the boundary where every failure becomes a message and an exit code."""

import signal
import sys
from collections.abc import Sequence
from typing import Annotated, Any

import typer
import typer.main

from clawdet_cli import __version__, stopping
from clawdet_cli.cli import (
    approve,
    bundle,
    destroy,
    doctor,
    documents,
    firewall,
    output,
    provision,
    reconcile,
    sandbox,
    screens,
    ssh,
    state,
    status,
    token,
    verify,
)
from clawdet_cli.cli.help import CONTEXT, HelpCommand, HelpGroup
from clawdet_cli.cli.options import LocalCall
from clawdet_cli.errors import ClawdetError, StoppedError, Terminated, UsageError

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


class _Commands(HelpGroup):
    """Lets Ctrl-C reach our boundary; Typer would end silently on it."""

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


for body, module, panel in (
    (provision.provision, provision, INSTANCES),
    (status.status, status, INSTANCES),
    (verify.verify, verify, INSTANCES),
    (destroy.destroy, destroy, INSTANCES),
    (reconcile.reconcile, reconcile, INSTANCES),
    (doctor.doctor, doctor, INSTANCES),
    (token.token, token, ACCESS),
    (approve.approve, approve, ACCESS),
):
    app.command(help=module.HELP, epilog=module.EPILOG, rich_help_panel=panel, cls=HelpCommand)(body)
app.command(help=ssh.HELP, epilog=ssh.EPILOG, rich_help_panel=ACCESS, cls=ssh.SshCommand)(ssh.ssh)
app.add_typer(firewall.app, name="firewall", help=firewall.HELP, rich_help_panel=INSTANCES)
app.add_typer(bundle.app, name="bundle", help=bundle.HELP, rich_help_panel=INSTANCES)
app.add_typer(state.app, name="state", help=state.HELP, rich_help_panel=INSTANCES)
app.add_typer(sandbox.app, name="sandbox", help=sandbox.HELP, rich_help_panel=TRYING_OUT)


def run() -> None:
    """Run the command line of this process, and end with its exit code."""
    sys.exit(main(sys.argv[1:]))


def main(argv: Sequence[str]) -> int:
    """Run a command line and give its exit code; every failure is reported here, once."""
    output.tolerate_any_text()
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


def _guessed(argv: Sequence[str]) -> LocalCall:
    """Give what of a call can be known when the command line could not be parsed."""
    words = list(argv)[: list(argv).index("--")] if "--" in argv else argv
    return LocalCall(json="--json" in words, events="--events" in words, debug="--debug" in words)


def _report(error: BaseException, call: LocalCall) -> int:
    failure = _shaped(error)
    steps = [call.pasteable(step) for step in failure.next_steps]
    if failure.kind == "bug" and call.debug:
        output.traceback_of(error)
    content = documents.document(**({"sandbox": True} if call.labelled else {}), error=documents.error(failure, steps))
    output.failure(
        screens.failure(failure, steps, sandbox=call.labelled), content, as_json=call.json, as_events=call.events
    )
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
