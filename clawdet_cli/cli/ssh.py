"""`clawdet ssh USER [COMMAND...]`."""

import os
import sys
from typing import Annotated, Any

import typer

from clawdet_cli.cli import output
from clawdet_cli.cli.configure import configure
from clawdet_cli.cli.help import HelpCommand
from clawdet_cli.cli.options import Call, User, with_call
from clawdet_cli.errors import ConfigError
from clawdet_cli.model import checked_user
from clawdet_cli.secret import public_environment

HELP = """\
Uses OpenSSH with the right key and the host key that was pinned before the VPS was ordered. Options for clawdet stand
before COMMAND; everything from COMMAND on goes to the VPS. The exit code is the remote command's."""

EPILOG = """Follow OpenClaw's log: clawdet ssh alice journalctl -fu openclaw-gateway"""


class Command(HelpCommand):
    """Leaves the remote command's own options alone."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Parse, as if `--` stood before the first word of the remote command."""
        return super().parse_args(ctx, self._separated(ctx, args))

    def _separated(self, ctx: Any, args: list[str]) -> list[str]:
        options = {name: option for option in self.get_params(ctx) for name in option.opts if name.startswith("-")}
        words, position = 0, 0
        while position < len(args) and args[position] != "--":
            option = options.get(args[position].partition("=")[0])
            if option is None:
                words += 1
                # The first word is the user; whatever is not ours after it begins the remote command.
                if words == 2:
                    return [*args[:position], "--", *args[position:]]
            elif not getattr(option, "is_flag", False) and "=" not in args[position]:
                position += 1
            position += 1
        return args


@with_call
def ssh(
    call: Call,
    user: User,
    command: Annotated[
        list[str] | None, typer.Argument(metavar="COMMAND", help="Default: a shell.", show_default=False)
    ] = None,
) -> None:
    """Become OpenSSH, connected to the VPS."""
    from clawdet_cli import operations  # not above: --help must stay fast

    with output.progress(call) as view:
        configured = configure(call, view)
        argv = operations.ssh_command(configured.settings, checked_user(user), command or [])
    sys.stdout.flush()
    sys.stderr.flush()
    try:
        os.execvpe(argv[0], argv, public_environment())  # noqa: S606 - no shell is wanted
    except FileNotFoundError as error:
        raise ConfigError(
            f"The OpenSSH client '{argv[0]}' is not installed on this machine.",
            next_steps=["apt-get install openssh-client    (on Debian or Ubuntu)"],
        ) from error
