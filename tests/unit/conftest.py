"""The command line with nothing behind it."""

import sys
from pathlib import Path

import pytest

import clawdet_cli
from tests.unit.fake_operations import FakeOperations


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> FakeOperations:
    """Give the operations that the command line will call in this test."""
    operations = FakeOperations()
    monkeypatch.setitem(sys.modules, "clawdet_cli.operations", operations)
    monkeypatch.setattr(clawdet_cli, "operations", operations, raising=False)
    monkeypatch.setenv("CLAWDET_STATE", str(tmp_path / "state"))
    return operations
