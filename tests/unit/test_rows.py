"""One row that holds what it must not is named, and hides nobody else's."""

import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from clawdet_cli import rows, uptime
from clawdet_cli.errors import StateError
from clawdet_cli.model import Check, Result, Status, now_text
from clawdet_cli.stages import recover
from clawdet_cli.state import State
from tests.unit.test_state import instance

GOOD = {"alice", "carol"}


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "home" / "clawdet.db"


@pytest.fixture
def state(path: Path) -> Iterator[State]:
    """Three users, and a server of the pool, with rows in every table."""
    with closing(State(path)) as state:
        for number, user in enumerate(("alice", "bob", "carol", "pool.k3v9x2ab"), 1):
            one = instance(user, f"abcdef01234{number}", server_id=number, monthly="7.99", status=Status.COMPLETE)
            state.add(one)
            state.save_checks(one, [Check("server", Result.OK, "runs", now_text()), Check("dns", Result.OK, "", "")])
            state.end_stage(state.begin_stage(one, "verify"), "done", 1.5)
            state.begin_effect(one, "create_server", "create_server", one.server_name, {"monthly": "7.99"})
        yield state


FAULTS = [
    ("instances", "created_at", "yesterday", "'yesterday'"),
    ("instances", "created_at", "2026-02-31T00:00:00+00:00", "'2026-02-31T00:00:00+00:00'"),
    ("instances", "created_at", "2026-01-01T00:00:00", "'2026-01-01T00:00:00'"),
    ("instances", "updated_at", "", "''"),
    ("instances", "status", "fine", "'fine'"),
    ("instances", "sandbox", 7, "7"),
    ("instances", "server_id", 2**63 - 1, "9223372036854775807"),
    ("instances", "server_id", 0, "0"),
    ("instances", "monthly", "NaN", "'NaN'"),
    ("checks", "at", "now", "'now'"),
    ("checks", "result", "perhaps", "'perhaps'"),
    ("checks", "position", -1, "-1"),
    ("stage_runs", "seconds", float("inf"), "inf"),
    ("stage_runs", "seconds", -1.0, "-1.0"),
    ("stage_runs", "seconds", 1e300, "1e+300"),
    ("stage_runs", "started_at", "2460000", "'2460000'"),
    ("stage_runs", "status", "so so", "'so so'"),
    ("effects", "data", "{", "'{'"),
    ("effects", "data", "[]", "'[]'"),
    ("effects", "begun_at", "x", "'x'"),
]


def spoil(path: Path, table: str, field: str, value: object, user: str = "bob") -> None:
    with closing(sqlite3.connect(path)) as database, database:
        first = f"SELECT MIN(rowid) FROM {table} WHERE user = ?"  # noqa: S608 - the tests' own words
        database.execute(f"UPDATE {table} SET {field} = ? WHERE rowid = ({first})", (value, user))  # noqa: S608 - as above


@pytest.mark.parametrize("fault", FAULTS)
def test_the_row_is_named_and_the_others_are_shown(
    fault: tuple[str, str, object, str], state: State, path: Path
) -> None:
    table, field, value, shown = fault
    spoil(path, table, field, value)
    assert {one.user for one in state.instances()} == {one.user for one in state.standings(state.damaged())} == GOOD
    assert [one.user for one in state.pool()] == ["pool.k3v9x2ab"]
    assert list(state.damaged()) == ["bob"]
    for look in (state.instance, state.open_effects):
        with pytest.raises(StateError) as caught:
            look("bob")
        assert caught.value.what == f"What {path} records of bob is damaged: {table}.{field} is {shown}."
        assert [step.split()[1] for step in caught.value.next_steps] == ["state", "state"]
        assert caught.value.left_behind[0].startswith("perhaps server clawdet-bob (id ")
    assert state.instance("alice") is not None


def test_so_is_one_of_the_pool(state: State, path: Path) -> None:
    spoil(path, "instances", "created_at", "?", "pool.k3v9x2ab")
    assert state.pool() == []
    assert list(state.damaged()) == ["pool.k3v9x2ab"]
    assert len(state.instances()) == 3


def test_what_is_read_of_a_destroyed_one_only_when_it_is_asked_for_hides_nothing(state: State, path: Path) -> None:
    state.record("bob", status=Status.DESTROYED)
    spoil(path, "instances", "created_at", "?")
    assert state.damaged() == {}
    assert "bob" in state.damaged("bob")


def test_what_is_good_is_no_suspect_for_long(state: State, path: Path) -> None:
    spoil(path, "instances", "monthly", "7.99 USD")
    spoil(path, "instances", "created_at", "2026-01-01T00:00:00.123456+02:00")
    spoil(path, "instances", "updated_at", "2026-01-01T23:00:00Z", "carol")
    assert state.damaged() == {}
    assert {one.user for one in state.instances()} == {"bob", *GOOD}


def test_a_forecast_leaves_out_what_cannot_be_a_duration(state: State, path: Path) -> None:
    spoil(path, "stage_runs", "seconds", float("inf"))
    assert state.typical_seconds("verify") == 1.5


def test_networks_are_read_past_what_is_damaged(state: State, path: Path) -> None:
    with closing(sqlite3.connect(path)) as database, database:
        for data in ("{", "[]", '{"ssh_from": 5}', '{"ssh_from": "192.0.2.0/24"}', "{}"):
            database.execute(
                "INSERT INTO effects (user, run_id, stage, kind, name, data, begun_at, outcome)"
                " VALUES ('x', 'x', 'x', 'create_firewall', 'x', ?, 'x', 'done')",
                (data,),
            )
    assert state.ssh_networks() == {"192.0.2.0/24"}


@pytest.mark.parametrize("value", [None, 5, "5", "12:00", "now", "2026-01-01"])
def test_only_a_moment_with_its_zone_is_a_time(value: object) -> None:
    assert not rows.is_time(value)


@pytest.mark.parametrize("data", ["{", "[]", "1"])
def test_what_is_over_and_cannot_be_read_says_nothing_and_keeps_nobody_from_anything(data: str, state: State) -> None:
    bob = state.instance("bob")
    assert bob is not None
    for kind, outcome in (("sign_certificate", "done"), ("claim_server", "done"), ("create_dns_record", "absent")):
        effect = state.begin_effect(bob, "create_server", kind, "bob.example.com", {"csr": "x", "server": 9})
        with state.transaction() as connection:
            connection.execute("UPDATE effects SET outcome = ?, data = ? WHERE id = ?", (outcome, data, effect.id))
    assert state.all_requests() == []
    assert state.requests("bob") == []
    assert state.claims(bob.run_id) == {}
    assert recover.may_still_appear(state, "bob") == ()


def test_an_order_without_a_readable_age_is_as_old_as_its_time(state: State) -> None:
    bob = state.instance("bob")
    assert bob is not None
    data = {"boot": uptime.boot(), "uptime": "long"}
    effect = state.begin_effect(bob, "create_server", "create_server", "clawdet-bob", data)
    with state.transaction() as connection:
        connection.execute("UPDATE effects SET outcome = 'absent' WHERE id = ?", (effect.id,))
    assert recover.may_still_appear(state, "bob") == ("server clawdet-bob",)
