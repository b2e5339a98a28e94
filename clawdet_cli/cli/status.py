"""`clawdet status [USER...]`."""

from contextlib import nullcontext
from typing import Annotated

import typer

from clawdet_cli.cli import documents, output, screens
from clawdet_cli.cli.configure import configure
from clawdet_cli.cli.options import Call, with_call
from clawdet_cli.errors import GuestError
from clawdet_cli.model import checked_user

HELP = """Show all instances, or one in detail, as they were recorded.

With --live every one is checked now: in both clouds, on the VPS and from outside. It costs nothing.

Exit code 0: everything that was asked for is complete and passed its last checks. 6: something is not."""

EPILOG = """Watch it from cron:  clawdet status --live --quiet || echo 'look at it'"""


@with_call
def status(
    call: Call,
    users: Annotated[
        list[str] | None, typer.Argument(metavar="USER", help="Nobody means all.", show_default=False)
    ] = None,
    live: Annotated[bool, typer.Option("--live", help="Check now, instead of telling what is recorded.")] = False,
) -> None:
    """Show how instances stand."""
    from clawdet_cli import operations  # not above: --help must stay fast

    wanted = [checked_user(user) for user in dict.fromkeys(users or ())]
    with output.progress(call, banner=live) as view:
        configured = configure(call, view, local=not live)
        with view.working("Checking") if live else nullcontext():
            found = operations.status(
                configured.settings, wanted, live=live, watch=view.watch, history=call.json or bool(wanted)
            )
    if len(wanted) == 1:
        content: documents.Document = {"instance": documents.instance(found[0])}
        screen = screens.status_detail(found[0], call)
    else:
        # Ten thousand documents that nobody reads would take longer than the table.
        content = {"instances": documents.instances(found)} if call.json else {}
        screen = screens.status_table(found, call)
    output.result(call, content, screen, label=configured.label)
    if not all(screens.healthy(instance) for instance in found):
        raise typer.Exit(GuestError.exit_code)
