"""What the code itself says may be cut off: every `with run.effect("kind", ...)` in it."""

import ast
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import clawdet_cli

STAGES = Path(clawdet_cli.__file__).parent


@dataclass(frozen=True)
class Place:
    """Where an effect is journalled."""

    kind: str
    file: str
    line: int
    within: tuple[str, ...]
    """The names of the methods that are called in it."""
    keywords: frozenset[str]
    """The names of the arguments that it is given by name."""


def places() -> list[Place]:
    """Read every journalled effect out of the source. Raises ValueError for one whose kind is not a plain word."""
    found: list[Place] = []
    for path in sorted(STAGES.rglob("*.py")):
        if STAGES / "sandbox" in path.parents:
            continue
        found += _places(ast.parse(path.read_text()), str(path.relative_to(STAGES)))
    return found


def kinds() -> set[str]:
    """Give the kinds of effects that the code has."""
    return {place.kind for place in places()}


def called(node: ast.AST) -> set[str]:
    """Give the names of all methods that are called somewhere in a piece of code."""
    return {
        call.func.attr for call in ast.walk(node) if isinstance(call, ast.Call) and isinstance(call.func, ast.Attribute)
    }


def _places(tree: ast.AST, file: str) -> Iterator[Place]:
    for node in ast.walk(tree):
        if not isinstance(node, ast.With):
            continue
        for item in node.items:
            call = item.context_expr
            if not (isinstance(call, ast.Call) and isinstance(call.func, ast.Attribute) and call.func.attr == "effect"):
                continue
            kind = call.args[0] if call.args else None
            if not (isinstance(kind, ast.Constant) and isinstance(kind.value, str)):
                raise ValueError(f"{file}:{node.lineno}: the kind of an effect must be a plain word")  # noqa: TRY004 - it is the source that is wrong
            within = set().union(*(called(statement) for statement in node.body))
            keywords = frozenset(keyword.arg for keyword in call.keywords if keyword.arg)
            yield Place(kind.value, file, node.lineno, tuple(sorted(within)), keywords)
