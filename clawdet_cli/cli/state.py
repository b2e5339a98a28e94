"""`clawdet state ...`: the database itself."""

import json
import os
from pathlib import Path
from typing import Annotated, Any

import typer

from clawdet_cli.cli import documents, output, screens
from clawdet_cli.cli.configure import configure
from clawdet_cli.cli.help import HelpCommand, HelpGroup
from clawdet_cli.cli.options import Call, OfAnotherDatabase, with_call
from clawdet_cli.errors import StateError, UsageError
from clawdet_cli.model import checked_user
from clawdet_cli.private import new_private_file

app = typer.Typer(cls=HelpGroup, rich_markup_mode=None)

HELP = """It is one SQLite file in the state folder, and holds no secret."""

MAX_EXPORT = 256 << 20
"""Bytes; an instance takes some kilobytes."""

_File = typer.Argument(metavar="FILE", show_default=False)


@app.command(
    cls=HelpCommand,
    help="""Record again what the clouds hold, after the database was lost: of all users, or of those that are named.

The labels of servers and the comments of DNS records tell user, run and zone; the VPS, whose host key must be the one
that its label names, tells the rest. What is recorded already stays as it is, and nothing in the clouds is changed.
An instance may be another operator's, with a database of its own: it is recorded where its VPS lets in the SSH key of
this state folder, and else left, which is exit code 4; --of-another-database takes it over.
Afterwards 'clawdet provision USER' checks an instance and makes it complete, or 'clawdet destroy USER' removes it.""",
    epilog="Example: clawdet state rebuild --zone example.com",
)
@with_call
def rebuild(
    call: Call,
    users: Annotated[
        list[str] | None, typer.Argument(metavar="USER", help="Nobody means all.", show_default=False)
    ] = None,
    *,
    of_another_database: OfAnotherDatabase = False,
) -> None:
    """Make lost rows anew."""
    from clawdet_cli import operations  # not above: --help must stay fast

    wanted = [checked_user(user) for user in dict.fromkeys(users or ())]
    with output.progress(call) as view:
        configured = configure(call, view)
        with view.working("Looking for what is not recorded"):
            found = operations.rebuild(configured.settings, wanted, view.watch, of_another_database=of_another_database)
    left = [{"user": user, "seen": list(seen)} for user, seen in found.left.items()]
    content: documents.Document = {"instances": documents.instances(found.instances), "left": left}
    output.result(call, content, screens.rebuilt(found.instances, found.left, call), label=configured.label)
    if found.left:
        raise typer.Exit(StateError.exit_code)


@app.command(
    cls=HelpCommand,
    help="Write everything that is recorded as JSON, to FILE or to stdout.",
    epilog="Example: clawdet state export instances.json",
)
@with_call
def export(call: Call, file: Annotated[Path | None, _File] = None) -> None:
    """Write everything as JSON."""
    from clawdet_cli import operations  # not above: --help must stay fast

    with output.progress(call, banner=False) as view:
        configured = configure(call, view, local=True)
        content = operations.export_state(configured.settings)
    if file is None:
        output.print_text(json.dumps(content, indent=1))
        return
    _write_new(file, json.dumps(content, indent=1) + "\n")
    count = len(content["instances"])
    told = f"{count} {'instance' if count == 1 else 'instances'} written to {file}"
    output.result(call, {"file": str(file), "instances": count}, lambda _: [told], label=configured.label)


@app.command(
    "import",
    cls=HelpCommand,
    help="""Take in what 'clawdet state export' wrote: all of it, or nothing if something in it is wrong.

Users that the file does not name are left as they are.""",
    epilog="Example: clawdet state import instances.json",
)
@with_call
def import_(
    call: Call,
    file: Annotated[Path, _File],
    *,
    replace: Annotated[bool, typer.Option("--replace", help="Overwrite instances that are recorded here.")] = False,
) -> None:
    """Take an export in."""
    from clawdet_cli import operations  # not above: --help must stay fast

    document = _read(file)
    with output.progress(call, banner=False) as view:
        configured = configure(call, view, local=True)
        users = operations.import_state(configured.settings, document, replace_living=replace)
    told = f"imported: {', '.join(users)}" if users else "there is no instance in it: nothing was imported"
    output.result(call, {"imported": users}, lambda _: [told], label=configured.label)


@app.command(
    cls=HelpCommand,
    help="""Copy the database to a new FILE, whole and consistent, also while a run writes to it.

To use it: 'clawdet state restore FILE'.""",
    epilog='Example: clawdet state backup "clawdet-$(date +%F).db"',
)
@with_call
def backup(call: Call, file: Annotated[Path, _File]) -> None:
    """Copy the database."""
    from clawdet_cli import operations  # not above: --help must stay fast

    with output.progress(call, banner=False) as view:
        configured = configure(call, view, local=True)
        operations.backup_state(configured.settings, file.absolute())
    output.result(call, {"file": str(file)}, lambda _: [f"copied to {file}"], label=configured.label)


@app.command(
    cls=HelpCommand,
    help="""Put a backup in the place of the database, also of one that is lost or broken.

FILE is checked first, and stays as it is. What was there is kept beside it, under a name that is told. Refused while a
run works with the database. Nothing in the clouds is changed: 'clawdet reconcile' tells afterwards what differs.""",
    epilog="Example: clawdet state restore clawdet-2026-11-30.db",
)
@with_call
def restore(call: Call, file: Annotated[Path, _File]) -> None:
    """Put a backup in the database's place."""
    from clawdet_cli import operations  # not above: --help must stay fast

    with output.progress(call, banner=False) as view:
        configured = configure(call, view, local=True)
        done = operations.restore_state(configured.settings, file.absolute())
    content: documents.Document = {
        "restored": str(file),
        "replaced": str(done.replaced) if done.replaced else None,
        "instances": done.instances,
        "schema": done.schema,
    }
    output.result(call, content, screens.restored(file, done, call), label=configured.label)


def _read(file: Path) -> Any:
    try:
        with file.open("rb") as opened:
            data = opened.read(MAX_EXPORT + 1)
        if len(data) > MAX_EXPORT:
            raise UsageError(
                f"{file} is larger than any export ({MAX_EXPORT >> 20} MB): nothing was imported.",
                next_steps=["name what 'clawdet state export FILE' wrote"],
            )
        document = json.loads(data, object_pairs_hook=_once)
        json.dumps(document, ensure_ascii=False).encode()  # of half a surrogate pair the database makes nothing
    except OSError as error:
        raise UsageError(f"{file} cannot be read: {error.strerror}.", next_steps=["name another file"]) from None
    except (ValueError, RecursionError):
        raise UsageError(
            f"{file} is no JSON: nothing was imported.",
            next_steps=["make an export where the database is: clawdet state export FILE"],
        ) from None
    return document


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Return the fields of an object. Raises ValueError for one that is there twice: which counts is a guess."""
    fields = dict(pairs)
    if len(fields) != len(pairs):
        raise ValueError("a field is there twice")
    return fields


def _write_new(file: Path, text: str) -> None:
    try:
        with os.fdopen(new_private_file(file), "w") as opened:
            opened.write(text)
    except FileExistsError:
        raise StateError(f"{file} exists already: nothing was written.", next_steps=["name a new file"]) from None
    except OSError as error:
        raise StateError(f"{file} cannot be written: {error.strerror}.", next_steps=["name another file"]) from None
