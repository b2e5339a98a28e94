"""Lays out `--help`: plain sections, grouped by panel, without the boxes that rich would draw (and 80 ms more)."""

import os
from typing import Any

import typer
from typer.core import TyperCommand, TyperGroup

from clawdet_cli.cli.coercion import postpone

CONTEXT = {"max_content_width": 100, "help_option_names": ["-h", "--help"]}
UNLISTED = {"install_completion", "show_completion"}
"""They work, and the epilog names one; as options they would be half of the first page."""

# Contexts and formatters are `Any` here, because Typer keeps their classes private.


class HelpCommand(TyperCommand):
    """A command with such a help page."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Parse, without pydantic where it is not needed."""
        postpone(self.get_params(ctx))
        return super().parse_args(ctx, args)

    def format_options(self, ctx: Any, formatter: Any) -> None:
        """Write the parameters, section by section."""
        _write_parameters(self.get_params(ctx), ctx, formatter)


class HelpGroup(TyperGroup):
    """A group of commands with such a help page, which it shows when it is called without a command."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Parse, without pydantic where it is not needed."""
        postpone(self.get_params(ctx))
        return super().parse_args(ctx, args or ["--help"])

    def format_options(self, ctx: Any, formatter: Any) -> None:
        """Write the commands, section by section, and then the options."""
        sections: dict[str, list[tuple[str, str]]] = {}
        for name, command in self.commands.items():
            panel = getattr(command, "rich_help_panel", None)
            title = panel if isinstance(panel, str) else "Commands"
            sections.setdefault(title, []).append((name, command.get_short_help_str(limit=200)))
        _write(sections, formatter)
        _write_parameters(self.get_params(ctx), ctx, formatter)


def _write_parameters(parameters: Any, ctx: Any, formatter: Any) -> None:
    # Arguments and a command's own options come before what all commands have, in whatever order they were declared.
    sections: dict[str, list[tuple[str, str]]] = {"Arguments": [], "Options": []}
    for parameter in parameters:
        record = parameter.get_help_record(ctx)
        if record is None or parameter.name in UNLISTED:
            continue
        if parameter.param_type_name == "argument":
            # Without the Python type, which Typer would add.
            name = parameter.metavar + ("..." if parameter.nargs != 1 else "")
            sections.setdefault("Arguments", []).append((name, parameter.help or ""))
        else:
            sections.setdefault(parameter.rich_help_panel or "Options", []).append(record)
    _write(sections, formatter)


def _write(sections: dict[str, list[tuple[str, str]]], formatter: Any) -> None:
    for title, rows in sections.items():
        if not rows:
            continue
        with formatter.section(title if os.environ.get("NO_COLOR") else typer.style(title, bold=True)):
            formatter.write_dl(rows)
