"""`clawdet destroy USER...`."""

from collections.abc import Mapping, Sequence
from typing import Annotated

import typer

from clawdet_cli.cli import documents, output, screens
from clawdet_cli.cli.configure import Configured, configure
from clawdet_cli.cli.options import Call, OfAnotherDatabase, with_call
from clawdet_cli.cli.users import PARALLEL, FromFile, Parallel, Users, wanted
from clawdet_cli.errors import ClawdetError, StoppedError
from clawdet_cli.model import Holdings

HELP = """\
Shows what would be removed and asks for the user's name to be typed; for several users, for their number. Only what
clawdet made for these users is touched. Afterwards it is proved that nothing is left, so nothing of it costs money any
more. There is no way back.

What this database does not record, another operator may use: it is removed only with --of-another-database, whatever
--yes says, and it is told how it stands.

A second run finds nothing, says so and ends with exit code 0."""

EPILOG = """In a script: clawdet destroy alice --yes
Many at once: clawdet destroy --file users.txt --yes"""


@with_call
def destroy(
    call: Call,
    users: Users = None,
    *,
    file: FromFile = None,
    parallel: Parallel = None,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask. Needed where there is no terminal.")] = False,
    zone_gone: Annotated[
        bool, typer.Option("--zone-gone", help="The zone has left Cloudflare: forget what was in it.")
    ] = False,
    forget_foreign: Annotated[
        bool,
        typer.Option("--forget-foreign", help="Forget what is recorded and is not clawdet's; it is not touched."),
    ] = False,
    of_another_database: OfAnotherDatabase = False,
) -> None:
    """Remove instances from both clouds."""
    names = wanted(users, file)
    if not yes:
        asked = " ".join([*(users or ()), *(["--file", file] if file else [])])
        output.need_consent(f"clawdet destroy {asked}", "removes anything")
    allowed = {"zone_gone": zone_gone, "forget_foreign": forget_foreign, "of_another_database": of_another_database}
    if len(names) == 1:
        _destroy_one(call, names[0], ask=not yes, **allowed)
    else:
        _destroy_all(call, names, ask=not yes, parallel=parallel or PARALLEL, **allowed)


def _destroy_one(
    call: Call, user: str, *, ask: bool, zone_gone: bool, forget_foreign: bool, of_another_database: bool
) -> None:
    from clawdet_cli import operations  # not above: --help must stay fast

    with output.progress(call) as view:
        configured = configure(call, view)
        _refuse_another_zone(call, configured, [user])
        if ask:
            with view.working("Looking for what there is"):
                held = operations.holdings(
                    configured.settings,
                    user,
                    forget_foreign=forget_foreign,
                    of_another_database=of_another_database,
                )
            question = f"Type {user} to destroy it:"
            if held.found and output.ask(view, screens.holdings(held, call), question) != user:
                raise StoppedError("Not confirmed: nothing was removed.")
        gone = operations.destroy(
            configured.settings,
            user,
            view.watch,
            zone_gone=zone_gone,
            forget_foreign=forget_foreign,
            of_another_database=of_another_database,
        )
    content = {"destroyed": documents.destroyed(gone), **documents.calls([gone.calls])}
    output.result(call, content, screens.destroyed(gone, call), label=configured.label)


def _destroy_all(
    call: Call,
    users: list[str],
    *,
    ask: bool,
    parallel: int,
    zone_gone: bool,
    forget_foreign: bool,
    of_another_database: bool,
) -> None:
    from clawdet_cli import fleet  # not above: --help must stay fast
    from clawdet_cli.cli import summary

    with output.progress(call, users=True) as view:
        configured = configure(call, view)
        _refuse_another_zone(call, configured, users)

        def confirmed(held: Sequence[Holdings], failures: Mapping[str, ClawdetError]) -> bool:
            count = str(sum(1 for one in held if one.found))
            if count == "0" and not failures:
                return True
            return output.ask(view, summary.holdings(held, failures, call), f"Type {count} to destroy them:") == count

        confirm = confirmed if ask else None
        gone = fleet.destroy(
            configured.settings,
            users,
            view.watch,
            confirm,
            parallel=parallel,
            zone_gone=zone_gone,
            forget_foreign=forget_foreign,
            of_another_database=of_another_database,
        )
    content = {}
    if call.json:
        content = {"destroyed": [documents.destroyed(one) for one in gone.done.values()]}
        content |= summary.document(gone, call)

    def well(user: str) -> str:
        one = gone.done[user]
        told = f"{len(one.removed)} things removed" if one.removed else "nothing was there"
        return "; ".join([told, *screens.perhaps(one)])

    screen = summary.summary(gone, call, verb="destroy", well=well)
    output.result(call, content, screen, label=configured.label)
    summary.report_if_quiet(gone, call)
    if gone.exit_code:
        raise typer.Exit(gone.exit_code)


def _refuse_another_zone(call: Call, configured: Configured, users: Sequence[str]) -> None:
    # Not where the zone is a setting's: that is for what is made next.
    from clawdet_cli import operations  # not above: --help must stay fast

    if call.zone:
        operations.refuse_another_zone(configured.settings, users, call.zone)
