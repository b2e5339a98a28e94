"""`clawdet token USER`."""

from clawdet_cli.cli import output
from clawdet_cli.cli.configure import configure
from clawdet_cli.cli.options import Call, User, with_call
from clawdet_cli.model import checked_user

HELP = """It is read from the VPS over SSH each time; it is stored nowhere else. Paste it into the login of https://USER.ZONE/app.
Whoever has it has the instance: mind your screen and your shell's history. stdout carries the token alone."""

EPILOG = "Into the clipboard: clawdet token alice | xclip"


@with_call
def token(call: Call, user: User) -> None:
    """Print the gateway token."""
    from clawdet_cli import operations  # not above: --help must stay fast

    with output.progress(call) as view:
        configured = configure(call, view)
        with view.working(f"Asking the VPS of {user}"):
            found = operations.token(configured.settings, checked_user(user))
    output.secret(call, "token", found.reveal())
