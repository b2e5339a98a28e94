"""`clawdet destroy USER`."""

from typing import Annotated

import typer

from clawdet_cli.cli import documents, output, screens
from clawdet_cli.cli.configure import configure
from clawdet_cli.cli.options import Call, User, with_call
from clawdet_cli.errors import StoppedError
from clawdet_cli.model import checked_user

HELP = """Remove an instance: its DNS record, its certificate, and its server with everything on it.

Shows what would be removed and asks for the user's name to be typed. Only what clawdet made for this user is touched.
Afterwards it is proved that nothing is left, so nothing of it costs money any more. There is no way back.

A second run finds nothing, says so and ends with exit code 0."""

EPILOG = "In a script: clawdet destroy alice --yes"


@with_call
def destroy(
    call: Call,
    user: User,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask. Needed where there is no terminal.")] = False,
    zone_gone: Annotated[
        bool, typer.Option("--zone-gone", help="The zone has left Cloudflare: forget what was in it.")
    ] = False,
) -> None:
    """Remove an instance from both clouds."""
    from clawdet_cli import operations  # not above: --help must stay fast

    checked_user(user)
    if not yes:
        output.need_consent(call, f"clawdet destroy {user}", "removes anything")
    with output.progress(call) as view:
        configured = configure(call, view)
        if not yes:
            with view.working("Looking for what there is"):
                held = operations.holdings(configured.settings, user)
            question = f"Type {user} to destroy it:"
            if held.found and output.ask(view, screens.holdings(held, call), question) != user:
                raise StoppedError("Not confirmed: nothing was removed.")
        gone = operations.destroy(configured.settings, user, view.watch, zone_gone=zone_gone)
    content = {"destroyed": documents.destroyed(gone), **documents.calls([gone.calls])}
    output.result(call, content, screens.destroyed(gone), label=configured.label)
