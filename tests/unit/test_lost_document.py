"""docs/lost.md is read in a bad moment: each of its commands must be one that exists, and one that was tried."""

import ast
from pathlib import Path
from typing import Any

import pytest
import typer.main

from clawdet_cli.cli import app
from tests.documented import ROOT, arguments, commands

DOCUMENT = "docs/lost.md"
RUN_IN = ("tests/e2e/test_lost.py", "tests/e2e/test_hot_gateway.py")
NOT_RUN = {
    "clawdet doctor": "tests/e2e/test_doctor.py is about nothing else",
    "clawdet provision alice bob": "tests/e2e/test_hot_gateway.py does it with one user and two keys in turn",
    "clawdet verify alice bob": "the README's own; tests/e2e/test_fleet.py",
    "clawdet pool drain": "tests/e2e/test_pool.py; here without --yes, so that it asks",
    "clawdet bundle build --into again": "tests/e2e/test_bundle.py and tests/unit/test_bundle.py; it takes a minute",
    "clawdet sandbox down --yes": "every test of the sandbox ends with it",
    "clawdet sandbox up": "every test of the sandbox begins with it",
}
"""What the document has one do and none of those tests runs, and why."""


def parsed(words: list[str]) -> str:
    """Parse a command line as the program does, and return the name of its command."""
    command: Any = typer.main.get_command(app)
    context = command.make_context("clawdet", list(words))
    while hasattr(command, "resolve_command"):
        rest = [*context._protected_args, *context.args]
        name, command, rest = command.resolve_command(context, rest)
        context = command.make_context(name, rest, parent=context)
    return str(context.command_path)


@pytest.mark.parametrize("line", commands(DOCUMENT))
def test_each_command_line_is_one_that_the_program_takes(line: str) -> None:
    assert parsed(arguments(line)).startswith("clawdet ")


@pytest.mark.parametrize("line", ["clawdet rotate alice", "clawdet destroy alice --at-once", "clawdet approve a b c"])
def test_a_command_line_that_does_not_exist_would_be_found(line: str) -> None:
    with pytest.raises(typer.TyperException):
        parsed(arguments(line))


def test_each_command_is_run_by_a_test_or_it_is_said_why_not() -> None:
    run = {
        node.value
        for name in RUN_IN
        for node in ast.walk(ast.parse(Path(ROOT / name).read_text()))
        if isinstance(node, ast.Constant) and isinstance(node.value, str)
    }
    assert set(commands(DOCUMENT)) - run == set(NOT_RUN)


def test_it_is_found_from_where_one_looks() -> None:
    for name in ("README.md", "SECURITY.md"):
        assert "(docs/lost.md)" in (ROOT / name).read_text()
