"""An order that a cloud held while its run was killed: it is carried out after 'destroy' has looked."""

import json
import sqlite3
from contextlib import closing
from typing import Any

import pytest

from clawdet_cli.adapters import retry
from clawdet_cli.adapters.hetzner import Hetzner
from clawdet_cli.stages import recover
from tests.e2e.operator import Operator

DESTROY = ("destroy", "alice", "--yes", "--sandbox", "--json")


@pytest.fixture
def held(operator: Operator, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """Have a run end in its order, whose answer nobody knows, and return what it ordered."""
    fault = {"kind": "drop_before", "method": "POST", "path": "/v1/servers", "times": None}
    operator.control("hetzner", "POST", "faults", fault)
    with monkeypatch.context() as impatient:
        impatient.setattr(retry, "PATIENCE", 0.3)
        assert operator.clawdet("provision", "alice", "--yes", "--sandbox").code == 5
    operator.reset()
    monkeypatch.setattr(recover, "SETTLE_SECONDS", 0.2)
    with closing(sqlite3.connect(operator.info()["state_file"])) as database:
        ((data,),) = database.execute("SELECT data FROM effects WHERE kind = 'create_server' AND outcome IS NULL")
    return dict(json.loads(data)["labels"])


def carry_out(operator: Operator, labels: dict[str, Any]) -> None:
    order = {"name": "clawdet-alice", "server_type": "cx23", "image": "ubuntu-24.04", "location": "nbg1"}
    operator.cloud("hetzner", "/servers", "POST", {**order, "labels": labels})


def test_destroy_does_not_say_that_it_is_gone_for_good_and_a_later_one_finds_it(
    operator: Operator, held: dict[str, Any]
) -> None:
    said = operator.clawdet(*DESTROY)
    assert said.code == 0, said.err
    gone = said.document["destroyed"]
    assert gone["may_appear"] == ["server clawdet-alice"]
    assert "server clawdet-alice" not in gone["absent"]
    assert "server clawdet-alice may still appear: a run that was killed had just asked for it" in said.err
    assert "In two minutes 'clawdet reconcile' tells" in said.err
    assert operator.clawdet(*DESTROY).document["destroyed"]["may_appear"] == ["server clawdet-alice"], "too early"

    carry_out(operator, held)
    found = operator.clawdet("reconcile", "--sandbox", "--json").document["reconcile"]
    (row,) = [row for row in found["rows"] if row["kind"] == "server"]
    assert (row["category"], row["decision"]) == ("orphan", "clawdet destroy alice")
    assert row["what"] == "this database ordered it, and no instance has it: the order was carried out late"

    said = operator.clawdet(*DESTROY)
    assert said.code == 0, said.err
    assert said.document["destroyed"]["removed"][0].startswith("server clawdet-alice")
    assert said.document["destroyed"]["may_appear"] == []
    assert operator.servers() == []


def test_a_person_reads_the_same(operator: Operator, held: dict[str, Any]) -> None:
    del held
    said = operator.clawdet(*DESTROY[:-1])
    assert said.code == 0
    assert "perhaps   server clawdet-alice may still appear" in said.out
    assert "is destroyed: nothing of it exists" not in said.out
    assert "Nothing to destroy" not in said.out


def test_it_is_found_after_a_new_instance_of_the_user_was_refused_for_it(
    operator: Operator, held: dict[str, Any]
) -> None:
    assert operator.clawdet(*DESTROY).code == 0
    carry_out(operator, held)
    assert operator.clawdet("provision", "alice", "--yes", "--sandbox").code == 4
    said = operator.clawdet(*DESTROY)
    assert said.code == 0, said.err
    assert operator.servers() == []


def test_an_intent_of_some_seconds_ago_is_looked_for_from_the_first_look_on(
    operator: Operator, held: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    find, looks = Hetzner.find_server, [0]

    def and_then_it_comes(self: Hetzner, name: str) -> Any:
        looks[0] += 1
        found = find(self, name)
        if looks[0] == 1:
            carry_out(operator, held)
        return found

    monkeypatch.setattr(recover, "_age", lambda _: 9.0)
    monkeypatch.setattr(recover, "SETTLE_SECONDS", 5.0)
    monkeypatch.setattr(Hetzner, "find_server", and_then_it_comes)
    said = operator.clawdet(*DESTROY)
    assert said.code == 0, said.err
    assert "was ordered and is kept" in said.err
    assert said.document["destroyed"]["removed"][0].startswith("server clawdet-alice")
    assert operator.servers() == []


def test_what_was_asked_for_long_ago_is_absent(
    operator: Operator, held: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    del held
    monkeypatch.setattr(recover, "_age", lambda _: recover.HELD_SECONDS)
    gone = operator.clawdet(*DESTROY).document["destroyed"]
    assert (gone["may_appear"], "server clawdet-alice" in gone["absent"]) == ([], True)
