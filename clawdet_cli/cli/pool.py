"""`clawdet pool ...`."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated

import typer

from clawdet_cli.cli import documents, output
from clawdet_cli.cli.configure import configure
from clawdet_cli.cli.help import HelpCommand, HelpGroup
from clawdet_cli.cli.options import Call, with_call
from clawdet_cli.cli.server_options import Bundle, Flags, Image, Location, OpenclawVersion, PoolDays, ServerType
from clawdet_cli.cli.users import PARALLEL, Parallel
from clawdet_cli.errors import ClawdetError, StateError, UsageError
from clawdet_cli.model import PoolPlan, is_member

if TYPE_CHECKING:
    from clawdet_cli.settings import Settings

app = typer.Typer(cls=HelpGroup, rich_markup_mode=None)

HELP = """A server of the pool is ordered, installed, patched and up, and holds nothing of any user. 'clawdet
provision' takes one that fits, gives it the user's name, certificate and keys, and a new SSH host key and gateway
token; it orders one as always where none fits or none is well. Each costs its price per month while it waits."""


@app.callback()
def _pool() -> None: ...


@app.command(
    "fill",
    cls=HelpCommand,
    help="""Have N servers wait in the pool.

Makes as many as are missing, goes on with those that an earlier run has begun, and removes those that are too old
(--pool-days) or turned out to be unwell. On a terminal the price is shown and asked for first.""",
    epilog="""\b
Examples:
  clawdet pool fill 3
  clawdet pool fill 3 --yes --pool-days 3      every night from cron: none is older than three days
  clawdet pool fill 1 --sandbox                try it""",
)
@with_call
def fill(
    call: Call,
    count: Annotated[
        int, typer.Argument(metavar="N", min=0, max=100, help="How many are to wait.", show_default=False)
    ],
    *,
    yes: Annotated[
        bool,
        typer.Option(
            "--yes", "-y", help="Do not ask before something is bought; with --sandbox, install missing packages."
        ),
    ] = False,
    pool_days: PoolDays = None,
    server_type: ServerType = None,
    location: Location = None,
    image: Image = None,
    openclaw_version: OpenclawVersion = None,
    bundle: Bundle = None,
    parallel: Parallel = None,
) -> None:
    """Have so many servers wait."""
    from clawdet_cli import fleet, operations  # not above: --help must stay fast
    from clawdet_cli.cli import pool_screens, summary

    flags: Flags = {
        "server_types": server_type,
        "locations": location,
        "image": image,
        "openclaw_version": openclaw_version,
        "bundle": bundle,
        "pool_days": pool_days,
    }
    with output.progress(call, users=True) as view:
        configured = configure(call, view, flags, make=True, install_tools=yes)

        def approved(plan: PoolPlan) -> bool:
            if yes or not (plan.fill or plan.drain) or not output.interactive():
                return True
            return output.ask(view, pool_screens.plan(plan, call), "Make it so? [y/N]").lower() in {"y", "yes"}

        made, gone = fleet.fill(configured.settings, count, view.watch, approved, parallel=parallel or PARALLEL)
    with _failing_first(made.failures, gone.failures):
        members = operations.pool(configured.settings)
        damaged = _damaged(configured.settings)
    failures = {**made.failures, **gone.failures, **damaged}
    content: documents.Document = {}
    if call.json:
        content = {**documents.pool(members), **summary.failures(failures, call)}
    output.result(call, content, pool_screens.pool(members, call, failures), label=configured.label)
    summary.report_if_quiet(made, call)
    summary.report_if_quiet(gone, call)
    if code := max(made.exit_code, gone.exit_code, *(error.exit_code for error in damaged.values())):
        raise typer.Exit(code)


@app.command(
    "status",
    cls=HelpCommand,
    help="""Show what waits in the pool, and what it costs per month.

'ready' waits for a user; of any other it says why it is given to nobody. Nothing is asked of the clouds: each is
looked at before it is given to a user, and 'clawdet reconcile' compares all with what there is.""",
    epilog="""Exit code 0, also when the pool is empty.""",
)
@with_call
def status(
    call: Call,
    *,
    pool_days: PoolDays = None,
    server_type: ServerType = None,
    location: Location = None,
    image: Image = None,
    openclaw_version: OpenclawVersion = None,
) -> None:
    """Show what waits in the pool."""
    from clawdet_cli import operations  # not above: --help must stay fast
    from clawdet_cli.cli import pool_screens, summary

    flags: Flags = {
        "server_types": server_type,
        "locations": location,
        "image": image,
        "openclaw_version": openclaw_version,
        "pool_days": pool_days,
    }
    with output.progress(call, banner=False) as view:
        configured = configure(call, view, flags, local=True)
        members = operations.pool(configured.settings)
    damaged = _damaged(configured.settings)
    content = {**documents.pool(members), **(summary.failures(damaged, call) if damaged and call.json else {})}
    output.result(call, content, pool_screens.pool(members, call, {}), label=configured.label)
    if code := summary.tell_damaged(damaged, call):
        raise typer.Exit(code)


@app.command(
    "drain",
    cls=HelpCommand,
    help="""Remove the servers that wait in the pool: all of them, or those named.

What a user has got is his, and is not touched. It is proved that nothing of them is left.""",
    epilog="""\b
Examples:
  clawdet pool drain --yes
  clawdet pool drain pool.k3v9x2ab""",
)
@with_call
def drain(
    call: Call,
    names: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="NAME", help="As 'clawdet pool status' lists them. Nobody means all.", show_default=False
        ),
    ] = None,
    *,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask. Needed where there is no terminal.")] = False,
    parallel: Parallel = None,
) -> None:
    """Remove what waits in the pool."""
    from clawdet_cli import fleet, operations  # not above: --help must stay fast
    from clawdet_cli.cli import pool_screens, summary
    from clawdet_cli.errors import StoppedError

    wanted = _checked(names or [])
    if not yes:
        output.need_consent(" ".join(["clawdet pool drain", *wanted]), "removes anything")
    with output.progress(call, users=True) as view:
        configured = configure(call, view)
        members = operations.pool(configured.settings)
        there = {one.instance.user: one for one in members}
        damaged = _damaged(configured.settings)
        if damaged and wanted:
            damaged = {name: error for name, error in damaged.items() if name in wanted}
        wanted = [name for name in wanted if name not in damaged]
        if unknown := [name for name in wanted if name not in there]:
            raise StateError(f"{unknown[0]} is not in the pool.", next_steps=["clawdet pool status    (lists it)"])
        chosen = [there[name] for name in wanted] if names else members
        if chosen and not yes:
            question = f"Type {len(chosen)} to remove them:"
            if output.ask(view, pool_screens.pool(chosen, call, {}), question) != str(len(chosen)):
                raise StoppedError("Not confirmed: nothing was removed.")
        users = [one.instance.user for one in chosen]
        gone = fleet.drain(configured.settings, users, view.watch, parallel=parallel or PARALLEL)
    with _failing_first(gone.failures):
        left = operations.pool(configured.settings)
    failures = {**gone.failures, **damaged}
    content: documents.Document = {}
    if call.json:
        destroyed = [documents.destroyed(one) for one in gone.done.values()]
        content = {"destroyed": destroyed, **documents.pool(left), **summary.failures(failures, call)}
    output.result(call, content, pool_screens.drained(gone.done, left, call, failures), label=configured.label)
    summary.report_if_quiet(gone, call)
    if code := max(gone.exit_code, *(error.exit_code for error in damaged.values()), 0):
        raise typer.Exit(code)


@contextmanager
def _failing_first(*failures: Mapping[str, ClawdetError]) -> Iterator[None]:
    """Raise what failed before in place of a database that cannot be read any more: it names what was made."""
    try:
        yield
    except StateError:
        known = [error for one in failures for error in one.values()]
        for first in known:
            first.left_behind = tuple(line for error in known for line in error.left_behind)
            raise first from None
        raise


def _damaged(settings: "Settings") -> dict[str, ClawdetError]:
    """Return the servers of the pool whose rows cannot be read."""
    from clawdet_cli import operations  # not above: --help must stay fast

    return {name: error for name, error in operations.damaged(settings).items() if is_member(name)}


def _checked(names: Sequence[str]) -> list[str]:
    for name in names:
        if not is_member(name):
            raise UsageError(f"{name!r} is no name of the pool's.", next_steps=["clawdet pool status    (lists them)"])
    return list(dict.fromkeys(names))
