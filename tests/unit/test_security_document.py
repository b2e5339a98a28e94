"""SECURITY.md promises nothing that no test holds."""

import ast
import re
from collections import Counter
from functools import cache

import pytest

from tests.documented import ROOT

DOCUMENT = (ROOT / "SECURITY.md").read_text()
PROMISES = re.findall(r"(?m)^- \*\*([A-Z][0-9]+)\*\* ", DOCUMENT)
ROWS = dict(re.findall(r"(?m)^\| ([A-Z][0-9]+) \| (.*) \|$", DOCUMENT))
NAMED = sorted({name for row in ROWS.values() for name in re.findall(r"`([^`]*)`", row)})


@cache
def names_in(path: str) -> frozenset[str]:
    """Return the names of the tests in a file, those in a class with its name before them."""
    found = set()
    for node in ast.parse((ROOT / path).read_text()).body:
        members = node.body if isinstance(node, ast.ClassDef) else [node]
        before = f"{node.name}::" if isinstance(node, ast.ClassDef) else ""
        found |= {f"{before}{one.name}" for one in members if isinstance(one, ast.FunctionDef)}
    return frozenset(name for name in found if name.rpartition("::")[2].startswith("test_"))


def test_each_promise_has_one_number_and_one_row() -> None:
    assert PROMISES
    assert [number for number, times in Counter(PROMISES).items() if times > 1] == []
    assert list(ROWS) == PROMISES
    assert len(re.findall(r"(?m)^\| [A-Z][0-9]+ \|", DOCUMENT)) == len(ROWS)


@pytest.mark.parametrize("promise", PROMISES)
def test_each_promise_is_held_by_a_test(promise: str) -> None:
    assert re.fullmatch(r"`tests/[^`]*`(<br>`tests/[^`]*`)*", ROWS[promise])


@pytest.mark.parametrize("name", NAMED)
def test_each_test_that_is_named_exists(name: str) -> None:
    path, _, test = name.partition("::")
    assert (ROOT / path).is_file()
    assert test in names_in(path)


def test_a_test_that_does_not_exist_would_be_found() -> None:
    assert "test_each_promise_has_one_number_and_one_row" in names_in("tests/unit/test_security_document.py")
    assert "test_nobody_wrote_this" not in names_in("tests/unit/test_security_document.py")
