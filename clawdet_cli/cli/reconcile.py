"""`clawdet reconcile`."""

from typing import Annotated

import typer

from clawdet_cli.cli import documents, output, screens
from clawdet_cli.cli.configure import configure
from clawdet_cli.cli.options import Call, with_call
from clawdet_cli.errors import StateError

HELP = """\
Each thing of clawdet's is one of these: right; drifted (ours, not as recorded); adoptable (ours, not recorded); ghost
(in the database only); orphan (in a cloud only, with its cost per month). What is not clawdet's is counted only.

With --fix it mends what needs no decision: records what is adoptable, forgets ghosts, sets DNS records right, revokes
second certificates, removes SSH keys that clawdet added and no server needs. It orders nothing and deletes no server.

Exit code 0: everything is as it should be. 4: something differs, also after --fix."""

EPILOG = """Watch it from cron:  clawdet reconcile --quiet || echo 'look at it'"""


@with_call
def reconcile(
    call: Call,
    fix: Annotated[bool, typer.Option("--fix", help="Mend what needs no decision.")] = False,
) -> None:
    """Say what differs between the record, the clouds and the machines."""
    from clawdet_cli import operations  # not above: --help must stay fast

    with output.progress(call) as view:
        configured = configure(call, view)
        with view.working("Comparing the database with the clouds"):
            found = operations.reconcile(configured.settings, fix=fix, watch=view.watch)
    content = {"reconcile": documents.reconciled(found)}
    output.result(call, content, screens.reconciled(found, call), label=configured.label)
    if not found.clean:
        raise typer.Exit(StateError.exit_code)
