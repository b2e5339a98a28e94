"""`clawdet verify USER`."""

import typer

from clawdet_cli.cli import documents, output, screens
from clawdet_cli.cli.configure import configure
from clawdet_cli.cli.options import Call, User, with_call
from clawdet_cli.errors import GuestError
from clawdet_cli.model import checked_user

HELP = """Check an instance now, and say what was seen.

Six checks: the server runs at Hetzner; the DNS record is proxied and points at it; OpenClaw's service is active and
not restarting; the gateway answers on the VPS and through the public name, and refuses who has no token; the landing
page comes from this very machine through the edge; the address is recorded. Nothing is changed and it costs nothing.

Exit code 0: all passed. 6: one or more failed."""

EPILOG = "Example: clawdet verify alice --json | jq '.instance.checks[] | select(.ok == false)'"


@with_call
def verify(call: Call, user: User) -> None:
    """Run the six checks."""
    from clawdet_cli import operations  # not above: --help must stay fast

    with output.progress(call) as view:
        configured = configure(call, view)
        with view.working(f"Checking {user}"):
            instance = operations.verify(configured.settings, checked_user(user), view.watch)
    content = {"instance": documents.instance(instance)}
    output.result(call, content, screens.verified(instance, call), label=configured.label)
    if not instance.checks or not all(check.ok for check in instance.checks):
        raise typer.Exit(GuestError.exit_code)
