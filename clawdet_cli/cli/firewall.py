"""`clawdet firewall ...`."""

from typing import TYPE_CHECKING

import typer

from clawdet_cli.cli import documents, output, screens
from clawdet_cli.cli.configure import configure
from clawdet_cli.cli.help import HelpCommand, HelpGroup
from clawdet_cli.cli.networks import asking_for_networks
from clawdet_cli.cli.options import Call, ReplaceSshFrom, SshFrom, with_call

if TYPE_CHECKING:
    from clawdet_cli.model import Firewall
    from clawdet_cli.settings import Settings

app = typer.Typer(cls=HelpGroup, rich_markup_mode=None)

HELP = """\
It lets in SSH (from everywhere unless --ssh-from was given; by key only), and HTTP and HTTPS from Cloudflare's
networks; nothing else reaches a VPS. 'clawdet provision' makes it with the first server, and 'clawdet destroy' removes
it with the last one."""


@app.callback()
def _firewall() -> None: ...


@app.command(
    cls=HelpCommand,
    help="""Bring the firewall up to date: Cloudflare's networks as they are published now, and every server behind it.

The networks that may reach SSH stay as they are unless --ssh-from (or CLAWDET_SSH_FROM, or ssh_from in the file) says
otherwise; where that would lock out networks that this state folder has not let in, it asks first, or wants
--replace-ssh-from where nobody can be asked. 'clawdet provision' does the same; this is for cron, and for changing
--ssh-from of all servers at once.""",
    epilog="""\b
Examples:
  clawdet firewall refresh
  clawdet firewall refresh --ssh-from 203.0.113.7,2001:db8::/48
  clawdet firewall refresh --ssh-from 0.0.0.0/0,::/0           SSH from everywhere again""",
)
@with_call
def refresh(call: Call, *, ssh_from: SshFrom = None, replace_ssh_from: ReplaceSshFrom = False) -> None:
    """Bring the firewall up to date."""
    from clawdet_cli import operations  # not above: --help must stay fast

    with output.progress(call) as view:
        configured = configure(call, view, {"ssh_from": ssh_from, "replace_ssh_from": replace_ssh_from})

        def bring(settings: "Settings") -> "Firewall | None":
            with view.working("Looking at the firewall"):
                return operations.refresh_firewall(settings, view.watch)

        found = asking_for_networks(call, view, configured.settings, bring)
    output.result(call, {"firewall": documents.firewall(found)}, screens.firewall(found), label=configured.label)
