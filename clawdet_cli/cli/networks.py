"""Asks before somebody else's networks are locked out."""

from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING, TypeVar

from clawdet_cli.cli import output
from clawdet_cli.cli.options import LocalCall
from clawdet_cli.cli.output import View
from clawdet_cli.errors import ForeignNetworksError

if TYPE_CHECKING:
    from clawdet_cli.settings import Settings

T = TypeVar("T")


def asking_for_networks(call: LocalCall, view: View, settings: "Settings", act: Callable[["Settings"], T]) -> T:
    """Do it; where somebody else would be locked out, ask, and do it again. Raises ForeignNetworksError for no."""
    try:
        return act(settings)
    except ForeignNetworksError as error:
        if not output.interactive() or call.json or call.quiet:
            raise
        lines = [output.clean(error.what)]
        if output.ask(view, lambda _: lines, "Lock them out? [y/N]").lower() not in {"y", "yes"}:
            raise
    return act(replace(settings, replace_ssh_from=True))
