"""`clawdet approve USER [REQUEST]`."""

from typing import Annotated

import typer

from clawdet_cli.cli import documents, output, screens
from clawdet_cli.cli.configure import configure
from clawdet_cli.cli.options import Call, User, with_call
from clawdet_cli.errors import StoppedError
from clawdet_cli.model import Devices, checked_user

HELP = """\
The token alone does not open it: a browser that shows the token for the first time waits until it is approved here.
Without REQUEST this lists who waits, and asks about it where there is just one and a terminal to ask on. A request
lasts five minutes; the browser asks again by itself as long as its page is open, and goes on once it is approved."""

EPILOG = """\b
Examples:
  clawdet approve alice                  who waits? and, if it is one, let it in
  clawdet approve alice --yes            let in the only one that waits, without asking
  clawdet approve alice 9ac1d6e3-9246-4f6e-86ad-df6897471a4d"""


@with_call
def approve(
    call: Call,
    user: User,
    request: Annotated[
        str | None, typer.Argument(metavar="REQUEST", help="Which one, by the id of its request.", show_default=False)
    ] = None,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Let in the only one that waits, without asking.")] = False,
) -> None:
    """List who waits, and let one in."""
    from clawdet_cli import operations  # not above: --help must stay fast

    checked_user(user)
    with output.progress(call) as view:
        configured = configure(call, view)
        found = Devices((), ())
        if request is None and not yes:
            with view.working(f"Asking OpenClaw of {user} who waits"):
                found = operations.devices(configured.settings, user)
            request = _confirmed(call, view, user, found)
        device = None
        if request is not None or yes:
            with view.working("Letting it in"):
                device = operations.approve(configured.settings, user, request, view.watch)
    if device is None:
        content, screen = {"approved": None, "devices": documents.devices(found)}, screens.devices(found, user, call)
    else:
        content, screen = {"approved": documents.device(device)}, screens.approved(device)
    output.result(call, content, screen, label=configured.label)


def _confirmed(call: Call, view: output.View, user: str, found: Devices) -> str | None:
    """Give the request of the only one that waits, if somebody is there to ask about it. Raises StoppedError for no."""
    if len(found.pending) != 1 or not output.interactive() or call.json or call.quiet:
        return None
    if output.ask(view, screens.devices(found, user, call), "Let it in? [y/N]").lower() not in {"y", "yes"}:
        raise StoppedError("Not confirmed: nobody was let in.")
    return found.pending[0].request
