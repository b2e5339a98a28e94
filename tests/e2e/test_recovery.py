"""What happened behind clawdet's back: a lost database, things removed or changed by hand, a crash in between."""

import json
import sqlite3
import subprocess
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from clawdet_cli.adapters import hetzner
from clawdet_cli.adapters.retry import until
from clawdet_cli.adapters.ssh import CommandResult, Ssh, known_hosts_line, openssh_command
from clawdet_cli.errors import WaitError
from clawdet_cli.lease import lease
from clawdet_cli.model import Deadline, now_text
from clawdet_cli.settings import Endpoints
from clawdet_cli.state import State
from tests.e2e.operator import Operator
from tests.e2e.test_bad_input import error_of, provision


def lose_the_database(operator: Operator) -> None:
    for suffix in ("", "-wal", "-shm"):
        Path(operator.info()["state_file"] + suffix).unlink(missing_ok=True)


def rewrite(operator: Operator, assignment: str) -> None:
    """Change what is recorded of alice, as a crash at the wrong moment would have left it."""
    with closing(sqlite3.connect(operator.info()["state_file"])) as database, database:
        database.execute(f"UPDATE instances SET {assignment} WHERE user = 'alice'")  # noqa: S608 - the tests' own words


def recorded(operator: Operator, field: str) -> Any:
    with closing(sqlite3.connect(operator.info()["state_file"])) as database:
        query = f"SELECT {field} FROM instances WHERE user = 'alice'"  # noqa: S608 - the tests' own words
        return database.execute(query).fetchone()[0]


FLAG = "--of-another-database"


def destroyed(operator: Operator, *flags: str) -> dict[str, Any]:
    said = operator.clawdet("destroy", "alice", "--sandbox", "--yes", "--json", *flags)
    assert said.code == 0, said.out + said.err
    return dict(said.document["destroyed"])


def revoke_all(operator: Operator) -> None:
    for certificate in operator.certificates():
        operator.cloud("cloudflare", f"/certificates/{certificate['id']}", "DELETE")


@pytest.fixture
def alice(operator: Operator) -> Operator:
    said = provision(operator)
    assert said.code == 0, said.err
    return operator


def test_destroy_finds_by_their_marks_what_a_lost_database_knew(alice: Operator) -> None:
    lose_the_database(alice)
    gone = destroyed(alice, FLAG)
    assert [what.split()[0] for what in gone["removed"][:2]] == ["DNS", "server"]
    assert alice.holdings()[:2] == (0, 0)


def test_a_refused_provision_after_a_lost_database_does_not_hide_the_server_from_destroy(alice: Operator) -> None:
    lose_the_database(alice)
    error = error_of(provision(alice), 4, "state")
    assert f"clawdet destroy alice {FLAG}" in error["next_steps"][-1]
    destroyed(alice, FLAG)
    assert alice.holdings()[:2] == (0, 0)


def test_a_certificate_that_cannot_be_proved_ours_is_told_of_and_not_called_absent(alice: Operator) -> None:
    certificate = alice.certificates()[0]["id"]
    lose_the_database(alice)
    said = alice.clawdet("destroy", "alice", "--sandbox", "--yes", "--json", FLAG)
    assert said.code == 0
    assert alice.certificates()
    assert not any("certificate" in what for what in said.document["destroyed"]["absent"])
    assert certificate in said.err


def test_destroy_finds_a_record_whose_server_and_database_are_gone(alice: Operator) -> None:
    lose_the_database(alice)
    alice.cloud("hetzner", f"/servers/{alice.servers()[0]['id']}", "DELETE")
    assert "DNS record" in destroyed(alice, FLAG)["removed"][0]
    assert alice.holdings()[:2] == (0, 0)


def test_what_lost_its_marks_by_hand_is_destroyed_once_they_are_back(alice: Operator) -> None:
    (server,), (record,) = alice.servers(), alice.records()
    at_record = f"/zones/{alice.zone_id()}/dns_records/{record['id']}"
    alice.cloud("hetzner", f"/servers/{server['id']}", "PUT", {"labels": {}, "name": "renamed"})
    alice.cloud("cloudflare", at_record, "PATCH", {"comment": "mine"})
    said = alice.clawdet("destroy", "alice", "--sandbox", "--yes")
    assert said.code == 4
    assert "The server renamed" in said.err
    alice.cloud("hetzner", f"/servers/{server['id']}", "PUT", {"labels": server["labels"]})
    said = alice.clawdet("destroy", "alice", "--sandbox", "--yes")
    assert said.code == 4
    assert f"put its comment back in the Cloudflare dashboard: {record['comment']}" in said.err
    assert alice.holdings() == (1, 1, 1)
    alice.cloud("cloudflare", at_record, "PATCH", {"comment": record["comment"]})
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
    changed = {"content": "127.0.0.9", "proxied": False}
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
                "INSERT OR REPLACE INTO leases (user, owner, verb, host, pid, process, machine, since, heartbeat)"
                " VALUES ('alice', 'x', 'provision', 'elsewhere', 1, '1', 'another', ?, ?)",
                (now_text(), now_text()),
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
    turns: list[str] = []

    def first_another(state: State, user: str, verb: str, **options: Any) -> Any:
        if not turns:
            turns.append(user)
            said = provision(operator)
            assert said.code == 0, said.err
            turns.append(recorded(operator, "run_id"))
        return lease(state, user, verb, **options)

    monkeypatch.setattr("clawdet_cli.operations.lease", first_another)
    assert provision(operator).code == 0
    assert recorded(operator, "run_id") == turns[1]
    assert operator.holdings() == (1, 1, 1)


def test_an_action_that_failed_long_ago_does_not_keep_a_running_server_from_going_on(operator: Operator) -> None:
    operator.control("hetzner", "PUT", "servers/knobs", {"fail_step": {"prepare": "node"}})
    error_of(provision(operator), 6, "guest")
    operator.control("hetzner", "PUT", "knobs", {"action_error": {"create_image": "server_error"}})
    order = f"/servers/{operator.servers()[0]['id']}/actions/create_image"
    operator.cloud("hetzner", order, "POST", {"description": "by hand"})
    again = provision(operator)
    assert again.code == 0, again.out


def test_a_server_that_was_switched_off_is_told_at_once(alice: Operator, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hetzner, "OFF_SECONDS", 1.0)
    alice.cloud("hetzner", f"/servers/{alice.servers()[0]['id']}/actions/poweroff", "POST")
    until(
        lambda: alice.servers()[0]["status"] == "off" or None, deadline=Deadline.after(20), what="the power", every=0.1
    )
    error = error_of(provision(alice, "--timeout", "40"), 5, "cloud")
    assert "switched off" in error["what"]
    assert "EUR" in error["left_behind"][0]


def test_a_connection_that_died_unnoticed_is_opened_anew(operator: Operator, monkeypatch: pytest.MonkeyPatch) -> None:
    run = Ssh.run
    died: list[str] = []

    def dead_once(self: Ssh, command: str, *, stdin: bytes = b"", timeout: float) -> CommandResult:
        if "tail -c" in command and not died:
            died.append(command)
            raise WaitError("Waited 40 s for a command to end.")
        return run(self, command, stdin=stdin, timeout=timeout)

    monkeypatch.setattr(Ssh, "run", dead_once)
    assert provision(operator).code == 0
    assert died


def test_nothing_on_the_server_is_waited_for_past_the_deadline(
    operator: Operator, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = Ssh.run
    waits: list[float] = []

    def measured(self: Ssh, command: str, *, stdin: bytes = b"", timeout: float) -> CommandResult:
        waits.append(timeout)
        return run(self, command, stdin=stdin, timeout=timeout)

    monkeypatch.setattr(Ssh, "run", measured)
    assert provision(operator, "--timeout", "19").code == 0
    assert operator.clawdet("token", "alice", "--sandbox", "--timeout", "19").code == 0
    assert len(waits) > 10
    assert max(waits) <= 19


def test_next_steps_name_the_user(alice: Operator, monkeypatch: pytest.MonkeyPatch) -> None:
    """Adapters know no users, so what they advise is completed."""

    def garbled(*_: object, **__: object) -> CommandResult:
        return CommandResult(0, "\x1b]0;not a token\x07\n", "")

    monkeypatch.setattr(Ssh, "run", garbled)
    said = alice.clawdet("token", "alice", "--sandbox", "--json")
    error = error_of(said, 6, "guest")
    assert "clawdet verify alice --sandbox" in error["next_steps"]
    assert "not a token" not in said.out
    assert "EUR" in error["left_behind"][0]


def test_ssh_works_from_a_state_folder_with_a_blank_in_its_name(alice: Operator, tmp_path: Path) -> None:
    """Such as macOS's `Application Support`."""
    known_hosts = tmp_path / "Application Support" / "known_hosts"
    known_hosts.parent.mkdir()
    known_hosts.write_text(known_hosts_line("alice", recorded(alice, "host_key")) + "\n")
    dial_file = alice.info()["dial_file"]
    endpoints = Endpoints(dial_file=Path(dial_file) if dial_file else None)
    address = endpoints.dial(recorded(alice, "ipv4"), 22)
    argv = openssh_command(address, Path(alice.info()["ssh_key_file"]), known_hosts, "alice", ["uname", "-m"])
    done = subprocess.run(argv, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=20, check=False)
    assert (done.returncode, done.stderr) == (0, "")


def test_a_version_that_could_not_be_installed_does_not_stick(operator: Operator) -> None:
    operator.control("hetzner", "PUT", "servers/knobs", {"fail_step": {"prepare": "openclaw"}})
    command = ["provision", "alice", "--sandbox", "--yes", "--json"]
    assert operator.clawdet(*command, "--openclaw-version", "2026.9.6").code == 6
    other = operator.clawdet(*command, "--openclaw-version", "2026.9.2")
    assert other.code == 0, other.err
    assert other.document["instance"]["openclaw_version"] == "2026.9.2"


def test_a_cloud_that_cannot_be_asked_does_not_make_a_complete_instance_a_failed_one(alice: Operator) -> None:
    refusal = {"error": {"code": "unauthorized", "message": "no"}}
    fault = {"kind": "answer", "path": "/v1/.*", "status": 401, "body": refusal, "times": None}
    alice.control("hetzner", "POST", "faults", fault)
    assert error_of(provision(alice), 3, "config")["stage"] == "keep_firewall"
    assert recorded(alice, "status") == "complete"
    alice.reset()
    assert provision(alice).code == 0


def test_an_ssh_key_that_cannot_be_used_does_not_stop_a_destroy(alice: Operator, tmp_path: Path) -> None:
    (tmp_path / "key").write_text("this is no key")
    said = alice.clawdet("destroy", "alice", "--sandbox", "--yes", "--ssh-key", str(tmp_path / "key"))
    assert said.code == 0, said.err
    assert "the SSH key in the Hetzner project was left there" in said.err
    assert alice.holdings() == (0, 0, 0)
    (left,) = alice.cloud("hetzner", "/ssh_keys")["ssh_keys"]
    alice.cloud("hetzner", f"/ssh_keys/{left['id']}", "DELETE")


def late_order(operator: Operator, monkeypatch: pytest.MonkeyPatch, *afterwards: dict[str, Any]) -> None:
    """Have the first order carried out a moment after its sender has given up on it."""
    monkeypatch.setattr(hetzner, "ANSWER_SECONDS", 0.3)
    for fault in ({"kind": "delay", "seconds": 1.5}, *afterwards):
        operator.control("hetzner", "POST", "faults", {"method": "POST", "path": "/v1/servers", **fault})


SOLD_OUT = {
    "kind": "answer",
    "status": 412,
    "body": {"error": {"code": "resource_unavailable", "message": "sold out"}},
}


def test_an_order_whose_answer_was_lost_stays_open_when_its_repeat_is_refused(
    operator: Operator, monkeypatch: pytest.MonkeyPatch
) -> None:
    late_order(operator, monkeypatch, {**SOLD_OUT, "times": None})
    error = error_of(provision(operator), 5, "cloud")
    assert error["left_behind"][0].startswith("perhaps a server clawdet-alice")
    until(lambda: operator.servers() or None, deadline=Deadline.after(20), what="the late order", every=0.1)
    assert "server clawdet-alice" in " ".join(destroyed(operator)["removed"])
    assert operator.servers() == []


def test_a_server_of_an_earlier_order_is_recorded_with_its_own_type_and_price(
    operator: Operator, monkeypatch: pytest.MonkeyPatch
) -> None:
    late_order(operator, monkeypatch, SOLD_OUT, {"kind": "drop_before", "times": 3})
    said = provision(operator, "--server-type", "cpx32,cx23", "--location", "nbg1")
    assert said.code == 0, said.out
    assert operator.servers()[0]["server_type"]["name"] == "cpx32"
    shown = operator.clawdet("provision", "bob", "--sandbox", "--dry-run", "--json", "--server-type", "cpx32")
    price = shown.document["plan"]["candidates"][0]["monthly_eur"]
    assert (recorded(operator, "server_type"), float(recorded(operator, "monthly"))) == ("cpx32", price)
    assert said.document["instance"]["open_effects"] == []


def test_an_order_that_a_dead_run_left_is_recorded_with_the_price_of_the_server_that_came(alice: Operator) -> None:
    price, data = recorded(alice, "monthly"), {"type": "cx53", "location": "nbg1", "monthly": "99.99"}
    labels = alice.servers()[0]["labels"]
    rewrite(alice, "server_id = NULL, server_type = NULL, monthly = NULL, status = 'failed'")
    with closing(sqlite3.connect(alice.info()["state_file"])) as database, database:
        database.execute(
            "INSERT INTO effects (user, run_id, stage, kind, name, data, begun_at)"
            " SELECT user, run_id, 'create_server', 'create_server', 'clawdet-alice', ?, ?"
            " FROM instances WHERE user = 'alice'",
            (json.dumps({**data, "labels": labels}), now_text()),
        )
    assert provision(alice).code == 0
    assert recorded(alice, "monthly") == price


def test_a_server_that_was_rescaled_by_hand_is_recorded_with_its_new_price(alice: Operator) -> None:
    price, kind = recorded(alice, "monthly"), recorded(alice, "server_type")
    rewrite(alice, "server_type = 'cx53', monthly = '99.99', status = 'failed'")
    assert provision(alice).code == 0
    assert (recorded(alice, "server_type"), recorded(alice, "monthly")) == (kind, price)


@pytest.mark.parametrize(
    ("kind", "name"),
    [("of_a_newer_clawdet", "x"), ("create_server", "x"), ("delete_server", "x"), ("add_ssh_key", "x")],
)
def test_what_the_journal_has_and_nobody_can_read_does_not_stop_a_destroy(
    kind: str, name: str, alice: Operator
) -> None:
    with closing(sqlite3.connect(alice.info()["state_file"])) as database, database:
        database.execute(
            "INSERT INTO effects (user, run_id, stage, kind, name, data, begun_at)"
            " SELECT user, run_id, 'create_server', ?, ?, ?, ? FROM instances WHERE user = 'alice'",
            (kind, name, json.dumps({"public_key": "x"}), now_text()),
        )
    said = alice.clawdet("destroy", "alice", "--sandbox", "--yes")
    assert said.code == 0, said.err
    assert f"cut off at {kind} {name}: " in said.err
    assert alice.holdings() == (0, 0, 0)
