"""`clawdet status [USER...]`."""

from collections.abc import Iterator, Mapping
from contextlib import nullcontext
from typing import Annotated

import typer

from clawdet_cli.cli import documents, output, screens
from clawdet_cli.cli.configure import configure
from clawdet_cli.cli.options import Call, Strict, with_call
from clawdet_cli.cli.output import Paint, clean
from clawdet_cli.cli.users import PARALLEL, FromFile, Parallel, wanted
from clawdet_cli.errors import ClawdetError, GuestError
from clawdet_cli.model import Instance, Standing, is_member

HELP = """With --live every one is checked now: in both clouds, on the VPS and from outside. It costs nothing.

Exit code 0: everything that was asked for is complete and failed none of its last checks. 6: something is not; with
--strict also where Cloudflare kept a check from being judged. 4: of somebody what is recorded cannot be read; the
others are shown."""

EPILOG = """Watch it from cron:  clawdet status --live --quiet || echo 'look at it'"""


@with_call
def status(
    call: Call,
    users: Annotated[
        list[str] | None, typer.Argument(metavar="USER", help="Nobody means all.", show_default=False)
    ] = None,
    *,
    live: Annotated[bool, typer.Option("--live", help="Check now, instead of telling what is recorded.")] = False,
    file: FromFile = None,
    parallel: Parallel = None,
    strict: Strict = False,
) -> None:
    """Show how instances stand."""
    names = wanted(users, file, needed=file is not None)
    every = names or (_recorded(call) if live else [])
    if live and len(every) != 1:
        _check_all(call, every, parallel or PARALLEL, strict=strict, all_of_them=not names)
    else:
        _show(call, names, live=live, strict=strict)


def _recorded(call: Call) -> list[str]:
    """Give the users whose instances are recorded: one is looked at by itself, several side by side."""
    from clawdet_cli import operations  # not above: --help must stay fast

    with output.progress(call, banner=False) as view:
        settings = configure(call, view, local=True).settings
        return [one.user for one in operations.standings(settings)[0]]


def _show(call: Call, names: list[str], *, live: bool, strict: bool) -> None:
    from clawdet_cli import operations  # not above: --help must stay fast
    from clawdet_cli.cli import summary

    found: list[Instance] = []
    unreadable: Mapping[str, ClawdetError] = {}
    with output.progress(call, banner=live) as view:
        configured = configure(call, view, local=not live)
        if names or live or call.json:
            with view.working("Checking") if live else nullcontext():
                found = operations.status(configured.settings, names, live=live, watch=view.watch)
            standings = [one.standing for one in found]
            unreadable = {} if names else operations.damaged(configured.settings)
        else:
            # Of all a person reads a line each: ten thousand whole ones would take longer to read than to show.
            standings, unreadable = operations.standings(configured.settings)
    if len(names) == 1:
        content: documents.Document = {"instance": documents.instance(found[0])}
        screen = screens.status_detail(found[0], call)
    else:
        content = {"instances": documents.instances(found)} if call.json else {}
        screen = screens.status_table(standings, call)
    damaged = _of_users(unreadable)
    content |= summary.failures(damaged, call) if damaged and call.json else {}
    output.result(call, content, screen, label=configured.label)
    unhealthy = not all(_is_well(one, strict=strict) for one in standings)
    if code := max(summary.tell_damaged(damaged, call), GuestError.exit_code if unhealthy else 0):
        raise typer.Exit(code)


def _of_users(damaged: Mapping[str, ClawdetError]) -> dict[str, ClawdetError]:
    """Return those that are not servers of the pool."""
    return {user: error for user, error in damaged.items() if not is_member(user)}


def _is_well(one: Standing, *, strict: bool) -> bool:
    return one.healthy and not (strict and one.not_judged)


def _check_all(call: Call, names: list[str], parallel: int, *, strict: bool, all_of_them: bool) -> None:
    from clawdet_cli import fleet, operations  # not above: --help must stay fast
    from clawdet_cli.cli import summary

    with output.progress(call, users=True) as view:
        configured = configure(call, view)
        seen = fleet.verify(configured.settings, names, view.watch, parallel=parallel)
    found = [one.standing for one in seen.done.values()]
    damaged = _of_users(operations.damaged(configured.settings)) if all_of_them else {}

    def screen(paint: Paint) -> Iterator[str]:
        yield from screens.status_table(found, call)(paint)
        yield from (f"{user}: {clean(error.what)}" for user, error in seen.failures.items())
        yield from (f"{user}: not checked" for user in seen.not_begun)

    content: documents.Document = {}
    if call.json:
        content = {**summary.document(seen, call), **summary.failures({**seen.failures, **damaged}, call)}
    output.result(call, content, screen, label=configured.label)
    summary.report_if_quiet(seen, call)
    unhealthy = not all(_is_well(one, strict=strict) for one in found)
    told = summary.tell_damaged(damaged, call)
    if code := max(seen.exit_code, told, GuestError.exit_code if unhealthy else 0):
        raise typer.Exit(code)
