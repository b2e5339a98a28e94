"""Which users a command is for: from its arguments, a file, or standard input."""

import sys
from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Annotated

import typer

from clawdet_cli.errors import UsageError
from clawdet_cli.model import USER_RULE, is_user

MOST_SHOWN = 20
"""Bad names that an error lists."""
MAX_LIST = 16 << 20
"""Characters."""
STDIN = "-"

MANY = "Several users"

Users = Annotated[
    list[str] | None,
    typer.Argument(metavar="USER", help="User names: each is also the host name below your zone.", show_default=False),
]
FromFile = Annotated[
    str | None,
    typer.Option(
        "--file",
        metavar="FILE",
        help="Take user names from a file too, one a line ('-': standard input); '#' begins a comment.",
        show_default=False,
        rich_help_panel=MANY,
    ),
]
Parallel = Annotated[
    int | None,
    typer.Option(
        "--parallel",
        metavar="N",
        min=1,
        max=1000,
        help="How many users are worked on at a time. Default: 10.",
        show_default=False,
        rich_help_panel=MANY,
    ),
]
PARALLEL = 10
"""Where nothing is said; not as the option's default, for which pydantic would be loaded."""


def wanted(users: Sequence[str] | None, file: str | None, *, needed: bool = True) -> list[str]:
    """Give each user once, in order. Raises UsageError that names every one that cannot be a user name."""
    names = list(dict.fromkeys([*(users or ()), *(_listed(file) if file is not None else ())]))
    bad = [name for name in names if not is_user(name)]
    if bad:
        listed = ", ".join(f"{name[:60]!r}" for name in bad[:MOST_SHOWN])
        more = f" and {len(bad) - MOST_SHOWN} more" if len(bad) > MOST_SHOWN else ""
        verb = "cannot be a user name" if len(bad) == 1 else "cannot be user names"
        raise UsageError(f"{listed}{more} {verb}: {USER_RULE}.", next_steps=["choose another name"])
    if needed and not names:
        raise UsageError(
            "No user is named." if file is None else f"No user is named, and {_called(file)} names none either.",
            next_steps=["name one or more, or a file of names with --file"],
        )
    return names


def _listed(file: str) -> Iterator[str]:
    try:
        with nullcontext(sys.stdin) if file == STDIN else Path(file).open(encoding="utf-8") as opened:
            text = opened.read(MAX_LIST + 1)
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is no text in UTF-8"
        raise UsageError(
            f"{_called(file)} cannot be read: {reason}.", next_steps=["name a file with one user name a line"]
        ) from None
    if len(text) > MAX_LIST:
        raise UsageError(
            f"{_called(file)} is longer than any list of users ({MAX_LIST >> 20} MB).",
            next_steps=["name a file with one user name a line"],
        )
    for line in text.splitlines():
        name = line.partition("#")[0].strip()
        if name:
            yield name


def _called(file: str) -> str:
    return "standard input" if file == STDIN else file
