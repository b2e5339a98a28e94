"""The random engine itself: what it draws, and that it judges without the product's own code."""

import ast
import signal
from pathlib import Path

import pytest

from tests.kill import invariants, proxy, truth
from tests.kill.plan import FILES, MACHINES, SITES, USERS, Command, drawn

ROUNDS = range(1, 400)


@pytest.fixture(scope="module")
def commands() -> list[Command]:
    """The commands of many rounds."""
    return [command for number in ROUNDS for command in drawn(7, number).commands]


def test_the_same_seed_and_number_give_the_same_round() -> None:
    assert drawn(7, 3) == drawn(7, 3)
    assert len({str(drawn(seed, number)) for seed in (1, 2) for number in (1, 2)}) == 4


def test_every_accident_happens_in_some_round(commands: list[Command]) -> None:
    accidents = [accident for command in commands for accident in command.accidents]
    assert {accident.kind for accident in accidents} == set(proxy.KINDS)
    assert {accident.cloud for accident in accidents} == {"hetzner", "cloudflare"}
    assert {file.kind for number in ROUNDS for file in drawn(7, number).files} == set(FILES)
    sent = {number for command in commands for _, number in command.signals}
    assert sent == {signal.SIGKILL, signal.SIGTERM, signal.SIGINT, signal.SIGSTOP, signal.SIGCONT}


def test_every_command_is_run_from_both_databases_and_machines(commands: list[Command]) -> None:
    verbs = {command.arguments[0] for command in commands}
    assert verbs == {"provision", "destroy", "status", "verify", "reconcile", "pool"}
    assert {(one.site, one.machine) for one in commands} == {(site, machine) for site in SITES for machine in MACHINES}
    assert {user for command in commands for user in command.users} == set(USERS)
    assert any(len(command.users) > 1 for command in commands)


def test_what_sleeps_is_taken_over_by_another_machine() -> None:
    taken = 0
    for number in ROUNDS:
        plan = drawn(7, number)
        for one in plan.commands:
            stops = [after for after, number in one.signals if number == signal.SIGSTOP]
            stops += [0.0 for accident in one.accidents if accident.signal == signal.SIGSTOP]
            taken += bool(stops) and any(
                other.at > one.at
                and other.users == one.users[:1]
                and (other.site, other.machine) != (one.site, one.machine)
                for other in plan.commands
            )
    assert taken > len(ROUNDS) / 10


def test_each_users_run_has_its_own_time() -> None:
    one = Command(0, "A", "one", ("provision", "alice", "carol", "dave", "--yes", "--parallel", "2"), USERS, timeout=12)
    assert one.longest() == 24
    assert Command(0, "A", "one", ("verify", "alice"), timeout=12, lock_wait=10).longest() == 22


@pytest.mark.parametrize("module", [truth, invariants])
def test_what_judges_the_product_has_none_of_its_code(module: object) -> None:
    tree = ast.parse(Path(str(vars(module)["__file__"])).read_text())
    checked = [node for node in ast.walk(tree) if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test)]
    spared = {inner for node in checked for inner in ast.walk(node)}
    imported = {node.module for node in ast.walk(tree) if isinstance(node, ast.ImportFrom) and node not in spared}
    imported |= {name.name for node in ast.walk(tree) if isinstance(node, ast.Import) for name in node.names}
    assert not [name for name in imported if name and name.startswith(("clawdet_cli", "tests"))]


def things(**more: dict[str, dict[str, object]]) -> truth.Things:
    kinds = ("servers", "records", "certificates", "ssh_keys", "firewalls", "primary_ips")
    return {kind: dict(more.get(kind, {})) for kind in kinds}


SERVER: dict[str, dict[str, object]] = {"1": {"id": 1, "name": "clawdet-alice", "labels": {"managed-by": "clawdet"}}}
ROW = {"server_id": 1, "record_id": None, "certificate_id": None}
NAMED = {"category": "orphan", "kind": "server", "id": "1"}


def test_a_server_belongs_to_one_database_or_a_row_of_reconcile() -> None:
    there = things(servers=SERVER, primary_ips={"5": {"id": 5, "name": "ip", "assignee_id": 1}})
    nobody = "is in no database, and no row of reconcile names it"
    assert truth.Account(there, {"A": [ROW], "B": []}).wrong({}) == []
    assert truth.Account(there, {"A": [], "B": []}, {"A": [NAMED]}).wrong({}) == []
    assert [what.endswith(nobody) for what in truth.Account(there, {"A": []}).wrong({})] == [True, True]
    assert len(truth.Account(there, {"A": []}, {"A": [NAMED | {"kind": "record"}]}).wrong({})) == 2
    assert "is in the databases A, B" in truth.Account(there, {"A": [ROW], "B": [ROW]}).wrong({})[0]
    assert truth.Account(there, {"A": []}).wrong({"servers": ["1"]}) == []


def test_a_foreign_thing_that_was_changed_or_deleted_is_told() -> None:
    renamed = {"1": SERVER["1"] | {"name": "another"}}
    assert truth.changed(things(servers=SERVER), things(servers=SERVER), {"servers": ["1"]}) == []
    assert "was changed" in truth.changed(things(servers=SERVER), things(servers=renamed), {"servers": ["1"]})[0]
    assert "was deleted" in truth.changed(things(servers=SERVER), things(), {"servers": ["1"]})[0]
