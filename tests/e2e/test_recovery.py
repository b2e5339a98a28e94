"""What happened behind clawdet's back: a lost database, things removed or changed by hand, a crash in between."""

import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from clawdet_cli import state as local
from tests.e2e.operator import Operator
from tests.e2e.test_bad_input import error_of, provision


def lose_the_database(operator: Operator) -> None:
    for suffix in ("", "-wal", "-shm"):
        Path(operator.info()["state_file"] + suffix).unlink(missing_ok=True)


def rewrite(operator: Operator, assignment: str) -> None:
    """Change what is recorded of alice, as a crash at the wrong moment would have left it."""
    with closing(sqlite3.connect(operator.info()["state_file"])) as database, database:
        database.execute(f"UPDATE instances SET {assignment} WHERE user = 'alice'")


def recorded(operator: Operator, field: str) -> Any:
    with closing(sqlite3.connect(operator.info()["state_file"])) as database:
        return database.execute(f"SELECT {field} FROM instances WHERE user = 'alice'").fetchone()[0]


def destroyed(operator: Operator) -> dict[str, Any]:
    said = operator.clawdet("destroy", "alice", "--sandbox", "--yes", "--json")
    assert said.code == 0, said.out + said.err
    return dict(said.document["destroyed"])


def revoke_all(operator: Operator) -> None:
    for certificate in operator.certificates():
        operator.cloud("cloudflare", f"/certificates/{certificate['id']}", "DELETE")


@pytest.fixture(autouse=True)
def emptied(operator: Operator) -> Iterator[None]:
    """Empty both clouds after each test, so that one that fails does not spoil the next."""
    yield
    operator.reset()
    for server in operator.servers():
        operator.cloud("hetzner", f"/servers/{server['id']}", "DELETE")
    for record in operator.records():
        operator.cloud("cloudflare", f"/zones/{operator.zone_id()}/dns_records/{record['id']}", "DELETE")
    revoke_all(operator)


@pytest.fixture
def alice(operator: Operator) -> Operator:
    said = provision(operator)
    assert said.code == 0, said.err
    return operator


def test_destroy_finds_by_their_marks_what_a_lost_database_knew(alice: Operator) -> None:
    lose_the_database(alice)
    gone = destroyed(alice)
    assert [what.split()[0] for what in gone["removed"][:2]] == ["DNS", "server"]
    assert alice.holdings()[:2] == (0, 0)


def test_a_refused_provision_after_a_lost_database_does_not_hide_the_server_from_destroy(alice: Operator) -> None:
    lose_the_database(alice)
    error = error_of(provision(alice), 4, "state")
    assert "clawdet destroy alice" in " ".join(error["next_steps"])
    destroyed(alice)
    assert alice.holdings()[:2] == (0, 0)


def test_a_certificate_that_cannot_be_proved_ours_is_told_of_and_not_called_absent(alice: Operator) -> None:
    certificate = alice.certificates()[0]["id"]
    lose_the_database(alice)
    said = alice.clawdet("destroy", "alice", "--sandbox", "--yes", "--json")
    assert said.code == 0
    assert alice.certificates()
    assert not any("certificate" in what for what in said.document["destroyed"]["absent"])
    assert certificate in said.err


def test_destroy_finds_a_record_whose_server_and_database_are_gone(alice: Operator) -> None:
    lose_the_database(alice)
    alice.cloud("hetzner", f"/servers/{alice.servers()[0]['id']}", "DELETE")
    assert "DNS record" in destroyed(alice)["removed"][0]
    assert alice.holdings()[:2] == (0, 0)


def test_what_is_recorded_is_destroyed_though_its_marks_were_changed_by_hand(alice: Operator) -> None:
    server, record = alice.servers()[0]["id"], alice.records()[0]["id"]
    alice.cloud("hetzner", f"/servers/{server}", "PUT", {"labels": {}, "name": "renamed"})
    alice.cloud("cloudflare", f"/zones/{alice.zone_id()}/dns_records/{record}", "PATCH", {"comment": "mine"})
    assert len(destroyed(alice)["removed"]) >= 3
    assert alice.holdings() == (0, 0, 0)


def test_a_foreign_server_is_not_called_absent(operator: Operator) -> None:
    order = {"name": "clawdet-alice", "server_type": "cx23", "image": "ubuntu-24.04", "location": "nbg1"}
    foreign = operator.cloud("hetzner", "/servers", "POST", order)["server"]["id"]
    error_of(provision(operator), 4, "state")
    said = operator.clawdet("destroy", "alice", "--sandbox", "--yes", "--json")
    assert [server["id"] for server in operator.servers()] == [foreign]
    assert "server clawdet-alice" not in said.document.get("destroyed", {}).get("absent", [])


def test_a_changed_record_is_set_right_again(alice: Operator) -> None:
    before = alice.records()[0]
    changed = {"comment": "mine", "content": "192.0.2.7", "proxied": False}
    alice.cloud("cloudflare", f"/zones/{alice.zone_id()}/dns_records/{before['id']}", "PATCH", changed)
    assert provision(alice).code == 0
    after = alice.records()[0]
    assert [after[key] for key in ("id", "content", "proxied", "comment")] == [
        before[key] for key in ("id", "content", "proxied", "comment")
    ]


def test_a_server_deleted_by_hand_is_ordered_again_and_its_certificate_replaced(alice: Operator) -> None:
    # As after a crash between the signature and its record.
    rewrite(alice, "certificate_id = NULL")
    alice.cloud("hetzner", f"/servers/{alice.servers()[0]['id']}", "DELETE")
    assert provision(alice).code == 0
    assert alice.holdings() == (1, 1, 1)


def test_a_server_that_is_gone_is_not_said_to_cost_money(alice: Operator) -> None:
    alice.cloud("hetzner", f"/servers/{alice.servers()[0]['id']}", "DELETE")
    alice.control("hetzner", "PUT", "knobs", {"server_limit": 0})
    error = error_of(provision(alice), 5, "cloud")
    assert not any("server" in what for what in error["left_behind"])


def test_a_revoked_certificate_is_replaced(alice: Operator) -> None:
    revoke_all(alice)
    provision(alice)
    assert provision(alice).code == 0
    assert alice.holdings() == (1, 1, 1)


def test_a_failure_before_the_first_stage_tells_what_exists(alice: Operator) -> None:
    for command in (["destroy", "--yes"], ["provision", "--yes", "--zone", "other.test"]):
        with closing(sqlite3.connect(alice.info()["state_file"])) as database, database:
            database.execute(
                "INSERT OR REPLACE INTO leases (user, owner, host, pid, process, since, heartbeat)"
                " VALUES ('alice', 'x', 'elsewhere', 1, '1', ?, ?)",
                (local.now_text(), local.now_text()),
            )
        try:
            error = error_of(alice.clawdet(*command, "--sandbox", "--json", "alice"), 4, "state")
            assert "EUR" in " ".join(error["left_behind"])
        finally:
            with closing(sqlite3.connect(alice.info()["state_file"])) as database, database:
                database.execute("DELETE FROM leases")


def test_two_commands_that_start_together_do_not_forget_what_the_other_ordered(
    operator: Operator, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The second one looks before the first has ordered, and gets its turn when that has ended."""
    lease = local.State.lease
    turns = []

    def first_another(self: local.State, user: str) -> Any:
        if not turns:
            turns.append(user)
            said = provision(operator)
            assert said.code == 0, said.err
            turns.append(recorded(operator, "run_id"))
        return lease(self, user)

    monkeypatch.setattr(local.State, "lease", first_another)
    assert provision(operator).code == 0
    assert recorded(operator, "run_id") == turns[1]
    assert operator.holdings() == (1, 1, 1)

