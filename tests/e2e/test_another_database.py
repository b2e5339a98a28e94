"""Two operators with a database each in one project: neither's instance is the other's to remove or take over."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.operator import Operator, Said
from tests.e2e.test_bad_input import error_of
from tests.kill.invariants import not_complete

FLAG = "--of-another-database"


@contextmanager
def another(operator: Operator, tmp_path: Path, *, same_key: bool = False) -> Iterator[None]:
    """Work with another database, and without `same_key` with another SSH key, in the same clouds."""
    folder = Path(operator.info()["state_file"]).parent
    swapped = [*folder.glob("clawdet.db*"), *([] if same_key else [folder / "ssh"])]
    kept = tmp_path / "kept"
    kept.mkdir()
    for path in swapped:
        path.rename(kept / path.name)
    yield
    for path in [*folder.glob("clawdet.db*"), folder / "ssh"]:
        if path.exists() and not (same_key and path.name == "ssh"):
            path.rename(tmp_path / f"theirs-{path.name}")
    for path in kept.iterdir():
        path.rename(folder / path.name)


@pytest.fixture
def dora(operator: Operator) -> Operator:
    said = operator.clawdet("provision", "dora", "--sandbox", "--yes")
    assert said.code == 0, said.err
    return operator


def the_order_is_sensible(steps: list[str]) -> None:
    """What removes something stands last, and nothing that adopts by force stands first."""
    assert steps[0].startswith("clawdet state rebuild dora --sandbox")
    assert [step for step in steps if " destroy " in step] == steps[-1:]
    assert steps[-1].startswith(f"clawdet destroy dora {FLAG} ")


def seen_well(lines: list[str], operator: Operator) -> None:
    text, zone = "\n".join(lines), operator.info()["zone"]
    assert "server clawdet-dora (id " in text
    assert ") is running, ordered 20" in text
    assert f"DNS record dora.{zone} -> 127." in text
    assert ", proxied" in text
    assert f"https://dora.{zone}/ answers 200" in text


def test_destroy_leaves_it_says_how_it_stands_and_advises_that_last(dora: Operator, tmp_path: Path) -> None:
    with another(dora, tmp_path):
        error = error_of(dora.clawdet("destroy", "dora", "--yes", "--sandbox", "--json"), 4, "state")
        assert error["what"].endswith("Nothing was removed.")
        seen_well(error["details"], dora)
        the_order_is_sensible(error["next_steps"])
        assert dora.clawdet("status", "--sandbox", "--json").document["instances"] == []
    assert dora.holdings() == (1, 1, 1)
    assert not_complete(dora, "dora") == []


def test_destroy_removes_it_where_that_is_said_and_tells_how_it_stood(dora: Operator, tmp_path: Path) -> None:
    with another(dora, tmp_path):
        said = dora.clawdet("destroy", "dora", "--yes", FLAG, "--sandbox")
        assert said.code == 0, said.err
        seen_well([line for line in said.err.splitlines() if "of another database: " in line], dora)
        assert dora.holdings()[:2] == (0, 0)
        assert dora.clawdet("destroy", "dora", "--yes", "--sandbox").code == 0
    # The database that knew it, whose key is still there and proves that this is the right project.
    assert dora.clawdet("destroy", "dora", "--yes", "--sandbox").code == 0


def test_several_at_once_are_refused_likewise(dora: Operator, tmp_path: Path) -> None:
    with another(dora, tmp_path):
        said = dora.clawdet("destroy", "dora", "bob", "--yes", "--sandbox", "--json")
        assert said.code == 4
        (failure,) = [one for one in said.document["failures"] if one["user"] == "dora"]
        the_order_is_sensible(failure["next_steps"])
    assert dora.holdings() == (1, 1, 1)


def test_a_destroyed_instance_of_ones_own_makes_nothing_of_it(operator: Operator, tmp_path: Path) -> None:
    provision, destroy = ("provision", "dora", "--sandbox", "--yes"), ("destroy", "dora", "--sandbox", "--yes")
    assert [operator.clawdet(*command).code for command in (provision, destroy)] == [0, 0]
    with another(operator, tmp_path):
        assert operator.clawdet(*provision).code == 0
    error_of(operator.clawdet(*destroy, "--json"), 4, "state")
    assert operator.holdings() == (1, 1, 1)
    assert operator.clawdet(*destroy, FLAG).code == 0


def test_what_was_destroyed_for_another_and_made_anew_there_is_the_others_again(dora: Operator, tmp_path: Path) -> None:
    database = Path(dora.info()["state_file"])
    destroy = ("destroy", "dora", "--sandbox", "--yes", "--json")
    with another(dora, tmp_path):
        assert dora.clawdet(*destroy, FLAG).code == 0
    assert dora.clawdet("provision", "dora", "--sandbox", "--yes").code == 0
    (tmp_path / "again").mkdir()
    with another(dora, tmp_path / "again"):
        (tmp_path / f"theirs-{database.name}").rename(database)
        # Under the same run, which this database has destroyed before.
        error_of(dora.clawdet(*destroy), 4, "state")
        said = dora.clawdet("reconcile", "--sandbox")
        assert "and this database knows none such" in said.out
    assert dora.holdings() == (1, 1, 1)
    assert not_complete(dora, "dora") == []


def test_provision_names_no_way_first_that_removes_it(dora: Operator, tmp_path: Path) -> None:
    with another(dora, tmp_path):
        error = error_of(dora.clawdet("provision", "dora", "--yes", "--sandbox", "--json"), 4, "state")
        the_order_is_sensible(error["next_steps"])
        assert " is running, ordered 20" in error["details"][0]
    assert not_complete(dora, "dora") == []


def rebuilt(said: Said) -> tuple[list[str], list[str]]:
    return [one["user"] for one in said.document["instances"]], [one["user"] for one in said.document["left"]]


def test_rebuild_records_what_our_key_opens_and_leaves_the_rest(dora: Operator, tmp_path: Path) -> None:
    command = ("state", "rebuild", "--sandbox", "--json")
    with another(dora, tmp_path):
        assert dora.clawdet("provision", "bob", "--sandbox", "--yes").code == 0
        for database in Path(dora.info()["state_file"]).parent.glob("clawdet.db*"):
            database.unlink()
        said = dora.clawdet(*command)
        assert (said.code, rebuilt(said)) == (4, (["bob"], ["dora"]))
        seen_well(said.document["left"][0]["seen"], dora)
        plain = dora.clawdet("state", "rebuild", "--sandbox")
        assert plain.code == 4
        assert f"clawdet state rebuild dora {FLAG}" in plain.out
        said = dora.clawdet(*command, FLAG)
        assert (said.code, rebuilt(said)) == (0, (["dora"], []))
        assert dora.clawdet("destroy", "bob", "--yes", "--sandbox").code == 0


def test_rebuild_of_a_lost_database_needs_no_more_than_the_key(dora: Operator, tmp_path: Path) -> None:
    with another(dora, tmp_path, same_key=True):
        steps = error_of(dora.clawdet("provision", "dora", "--yes", "--sandbox", "--json"), 4, "state")["next_steps"]
        assert steps[0].startswith("clawdet state rebuild dora")
        said = dora.clawdet("state", "rebuild", "--sandbox", "--json")
        assert (said.code, rebuilt(said)) == (0, (["dora"], []))


def test_reconcile_advises_nothing_that_removes_it(dora: Operator, tmp_path: Path) -> None:
    with another(dora, tmp_path):
        said = dora.clawdet("reconcile", "--sandbox", "--json")
        rows: list[dict[str, Any]] = [row for row in said.document["reconcile"]["rows"] if row["user"] == "dora"]
        assert {row["kind"]: row["category"] for row in rows} == {"server": "orphan", "record": "orphan"}
        assert all(row["decision"].startswith("clawdet state rebuild dora --zone ") for row in rows)
        assert "it is running, ordered 20" in {row["kind"]: row["what"] for row in rows}["server"]
