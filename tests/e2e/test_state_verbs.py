"""`clawdet state`: a lost database comes back, and one that is there can be carried elsewhere."""

import json
import sqlite3
import stat
import subprocess
import sys
from collections.abc import Callable
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from clawdet_cli import state_file
from clawdet_cli.adapters import ssh
from clawdet_cli.cli import state as cli_state
from clawdet_cli.state import MIGRATIONS, State
from tests.e2e.operator import Operator, Said
from tests.e2e.test_bad_input import error_of, provision
from tests.e2e.test_recovery import lose_the_database, recorded, rewrite
from tests.kill.invariants import in_clouds, not_complete, not_empty, rows
from tests.unit.test_state_file import killed_at_work


@pytest.fixture
def alice(operator: Operator) -> Operator:
    said = provision(operator)
    assert said.code == 0, said.err
    return operator


def state(operator: Operator, *arguments: str) -> Said:
    return operator.clawdet("state", *arguments, "--sandbox", "--json")


def effect(whole: Any, kind: str) -> Any:
    """Give the row of an effect in an export."""
    return next(row for row in whole["effects"] if row["kind"] == kind)


class TestRebuild:
    def test_a_lost_database_comes_back_and_the_instance_goes_on_as_it_was(self, alice: Operator) -> None:
        fields = (
            "server_id",
            "record_id",
            "certificate_id",
            "run_id",
            "ipv4",
            "monthly",
            "host_key",
            "installed",
            "zone_id",
        )
        before, held = [recorded(alice, field) for field in fields], in_clouds(alice)
        lose_the_database(alice)
        said = state(alice, "rebuild")
        assert said.code == 0, said.err
        (row,) = said.document["instances"]
        assert (row["user"], row["status"]) == ("alice", "failed")
        assert [recorded(alice, field) for field in fields] == before
        assert in_clouds(alice) == held
        assert provision(alice).code == 0
        assert not_complete(alice, "alice") == []
        assert in_clouds(alice)["servers"] == held["servers"]

    def test_what_was_rebuilt_can_be_destroyed_whole(self, alice: Operator) -> None:
        lose_the_database(alice)
        said = alice.clawdet("state", "rebuild", "--sandbox")
        assert "clawdet provision alice --sandbox" in said.out
        assert alice.clawdet("destroy", "alice", "--sandbox", "--yes").code == 0
        assert not_empty(alice) == []

    def test_what_is_recorded_already_is_left_alone(self, alice: Operator) -> None:
        before = rows(alice, "SELECT * FROM instances")
        assert state(alice, "rebuild").document["instances"] == []
        assert rows(alice, "SELECT * FROM instances") == before

    def test_a_machine_with_another_host_key_is_not_believed(
        self, alice: Operator, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        lose_the_database(alice)
        other = ssh.make_host_key().public
        monkeypatch.setattr(ssh, "shown_host_key", lambda *_: other)
        assert alice.clawdet("state", "rebuild", "--sandbox").code == 4
        said = alice.clawdet("state", "rebuild", "--sandbox", "--of-another-database")
        assert said.code == 0
        assert "shows another host key than it was ordered with: nothing on it is believed" in said.err
        assert "not found: certificate" in said.out
        assert recorded(alice, "host_key") is None
        assert recorded(alice, "server_id") == alice.servers()[0]["id"]

    def test_a_machine_that_is_off_is_recorded_without_what_only_it_knows(self, alice: Operator) -> None:
        lose_the_database(alice)
        (server,) = alice.servers()
        alice.cloud("hetzner", f"/servers/{server['id']}/actions/poweroff", "POST")
        assert alice.clawdet("state", "rebuild", "--sandbox").code == 4
        said = alice.clawdet("state", "rebuild", "--sandbox", "--of-another-database")
        assert said.code == 0, said.err
        assert "could not be asked" in said.err
        assert recorded(alice, "server_id") == server["id"]

    def test_a_record_whose_server_is_gone_comes_back_too(self, alice: Operator) -> None:
        lose_the_database(alice)
        alice.cloud("hetzner", f"/servers/{alice.servers()[0]['id']}", "DELETE")
        found = alice.clawdet("state", "rebuild", "--sandbox", "--json", "--of-another-database").document
        assert [row["user"] for row in found["instances"]] == ["alice"]
        assert recorded(alice, "record_id") == alice.records()[0]["id"]
        assert alice.clawdet("destroy", "alice", "--sandbox", "--yes").code == 0
        assert alice.records() == []

    def test_only_the_users_that_are_named_come_back(self, alice: Operator) -> None:
        lose_the_database(alice)
        assert state(alice, "rebuild", "bob").document["instances"] == []
        assert [row["user"] for row in state(alice, "rebuild", "alice").document["instances"]] == ["alice"]

    def test_foreign_things_are_not_recorded(self, operator: Operator) -> None:
        for labels in ({}, {"managed-by": "clawdet"}, {"managed-by": "clawdet", "user": "www", "run": "abcdefghijkl"}):
            order = {"name": f"clawdet-{len(labels)}", "server_type": "cx23", "image": "ubuntu-24.04"}
            operator.cloud("hetzner", "/servers", "POST", {**order, "location": "nbg1", "labels": labels})
        assert state(operator, "rebuild").document["instances"] == []


SPOILT: list[tuple[Callable[[Any], Any], str]] = [
    (lambda whole: whole.clear(), "it does not begin as one"),
    (lambda whole: whole.update(schema=99), "its schema is 99"),
    (lambda whole: whole.update(instances={}), "'instances' is no list of objects"),
    (lambda whole: whole["instances"][0].update(status="fine"), "instances[0].status is 'fine'"),
    (lambda whole: whole["instances"][0].update(ipv4="-oProxyCommand=id"), "ipv4 is '-oProxyCommand=id'"),
    (lambda whole: whole["instances"][0].update(zone="../../etc"), "instances[0].zone is '../../etc'"),
    (lambda whole: whole["instances"][0].update(run_id="x; id"), "instances[0].run_id is 'x; id'"),
    (lambda whole: whole["instances"][0].update(host_key="ssh-ed25519 A\n* B"), "instances[0].host_key is"),
    (lambda whole: whole["instances"][0].update(user="www"), "instances[0].user is 'www'"),
    (lambda whole: whole["instances"][0].update(server_id="x"), "instances[0].server_id is 'x'"),
    (lambda whole: whole["instances"][0].update(extra=1), "too many fields or too few: extra"),
    (lambda whole: whole["instances"][0].pop("zone"), "too many fields or too few: zone"),
    (lambda whole: whole["checks"][0].update(result="fine"), "checks[0].result is 'fine'"),
    (lambda whole: whole["instances"][0].update(server_id=2**63), "server_id is 9223372036854775808"),
    (lambda whole: whole["instances"][0].update(server_id=2**53 + 1), "server_id is 9007199254740993"),
    (lambda whole: whole["instances"][0].update(server_id=-1), "instances[0].server_id is -1"),
    (lambda whole: whole["instances"][0].update(sandbox=2), "instances[0].sandbox is 2"),
    (lambda whole: whole["instances"][0].update(created_at="then"), "instances[0].created_at is 'then'"),
    (lambda whole: whole["instances"][0].update(updated_at="2026-01-01"), "updated_at is '2026-01-01'"),
    (lambda whole: whole["checks"][0].update(at="then"), "checks[0].at is 'then'"),
    (lambda whole: whole["checks"][0].update(position=-1), "checks[0].position is -1"),
    (lambda whole: whole["stage_runs"][0].update(seconds=float("inf")), "stage_runs[0].seconds is inf"),
    (lambda whole: whole["stage_runs"][0].update(seconds=float("nan")), "stage_runs[0].seconds is nan"),
    (lambda whole: whole["stage_runs"][0].update(seconds=-1), "stage_runs[0].seconds is -1"),
    (lambda whole: whole["stage_runs"][0].update(started_at="x"), "stage_runs[0].started_at is 'x'"),
    (lambda whole: whole["stage_runs"][0].update(status="x"), "stage_runs[0].status is 'x'"),
    (lambda whole: whole["stage_runs"][0].update(id=2**70), "stage_runs[0].id is 1180591620717411303424"),
    (lambda whole: whole["effects"][0].update(ended_at="x"), "effects[0].ended_at is 'x'"),
    (lambda whole: whole["effects"][0].update(data="[]"), "effects[0].data is '[]'"),
    (lambda whole: whole["effects"][0].update(kind="format_disk"), "effects[0].kind is 'format_disk'"),
    (lambda whole: whole["effects"][0].update(outcome="fine"), "effects[0].outcome is 'fine'"),
    (lambda whole: whole["effects"][0].update(begun_at="then"), "effects[0].begun_at is 'then'"),
    (lambda whole: effect(whole, "add_ssh_key").update(data="{}"), "data has None for 'public_key'"),
    (lambda whole: effect(whole, "create_server").update(data='{"labels": []}'), "data has [] for 'labels'"),
    (
        lambda whole: effect(whole, "add_ssh_key").update(kind="delete_dns_record", name="../../zones/x"),
        "name is '../../zones/x'",
    ),
    (lambda whole: whole["instances"][0].update(record_id="../x"), "instances[0].record_id is '../x'"),
    (lambda whole: whole["instances"][0].update(monthly="free"), "instances[0].monthly is 'free'"),
    (lambda whole: whole["effects"][0].update(user="bob"), "effects[0].user is 'bob', of whom"),
    (lambda whole: whole["instances"].append(dict(whole["instances"][0])), "names a user twice"),
    (
        lambda whole: whole["instances"].append({**whole["instances"][0], "user": "bob"}),
        "'instances' has the server ",
    ),
]
"""What somebody may have done to an export, and what is said of it."""


class TestExport:
    def test_it_is_taken_in_elsewhere_as_it_was(self, alice: Operator, tmp_path: Path) -> None:
        file = tmp_path / "export.json"
        assert state(alice, "export", str(file)).code == 0
        assert stat.S_IMODE(file.stat().st_mode) == 0o600
        tables = ("instances", "checks")
        before = {name: rows(alice, f"SELECT * FROM {name}") for name in tables}  # noqa: S608 - two words of ours
        lose_the_database(alice)
        assert state(alice, "import", str(file)).document["imported"] == ["alice"]
        assert {name: rows(alice, f"SELECT * FROM {name}") for name in tables} == before  # noqa: S608 - the same
        assert rows(alice, "SELECT kind, outcome FROM effects")
        assert not_complete(alice, "alice") == []

    def test_it_goes_to_stdout_without_a_file_and_holds_no_secret(self, alice: Operator) -> None:
        said = alice.clawdet("state", "export", "--sandbox")
        assert json.loads(said.out)["instances"][0]["user"] == "alice"
        info = alice.info()
        assert not any(info[f"{cloud}_token"] in said.out for cloud in ("hetzner", "cloudflare"))
        token = alice.clawdet("token", "alice", "--sandbox").out.strip()
        assert len(token) > 20
        assert token not in said.out
        assert "PRIVATE KEY" not in said.out

    def test_a_file_that_exists_is_not_overwritten(self, alice: Operator, tmp_path: Path) -> None:
        (tmp_path / "there").write_text("precious")
        error_of(state(alice, "export", str(tmp_path / "there")), 4, "state")
        error_of(state(alice, "backup", str(tmp_path / "there")), 4, "state")
        assert (tmp_path / "there").read_text() == "precious"

    def test_a_living_instance_is_overwritten_only_when_told_to(self, alice: Operator, tmp_path: Path) -> None:
        file = tmp_path / "export.json"
        state(alice, "export", str(file))
        rewrite(alice, "error = 'newer'")
        error = error_of(state(alice, "import", str(file)), 4, "state")
        assert "--replace" in error["next_steps"][0]
        assert recorded(alice, "error") == "newer"
        assert state(alice, "import", str(file), "--replace").code == 0
        assert recorded(alice, "error") is None

    def test_what_is_wrong_with_a_file_is_named_and_nothing_is_imported(self, alice: Operator, tmp_path: Path) -> None:
        written, file = alice.clawdet("state", "export", "--sandbox").out, tmp_path / "spoilt.json"
        before = rows(alice, "SELECT * FROM instances")
        for spoil, why in SPOILT:
            whole = json.loads(written)
            spoil(whole)
            file.write_text(json.dumps(whole))
            error = error_of(state(alice, "import", str(file), "--replace"), 2, "usage")
            assert why in error["what"]
            assert rows(alice, "SELECT * FROM instances") == before, why

    def test_a_file_that_is_missing_or_no_json_is_named(self, operator: Operator, tmp_path: Path) -> None:
        (tmp_path / "text").write_text("hello")
        assert "is no JSON" in error_of(state(operator, "import", str(tmp_path / "text")), 2, "usage")["what"]
        for name, text in (
            ("deep", "[" * 200_000),
            ("half", '{"clawdet_export": "\\ud800"}'),
            ("twice", '{"clawdet_export": 1, "clawdet_export": 1}'),
        ):
            (tmp_path / name).write_text(text)
            assert "is no JSON" in error_of(state(operator, "import", str(tmp_path / name)), 2, "usage")["what"]
        assert "cannot be read" in error_of(state(operator, "import", str(tmp_path / "none")), 2, "usage")["what"]

    def test_a_file_without_end_is_not_read_to_it(self, operator: Operator, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(cli_state, "MAX_EXPORT", 1 << 20)
        assert (
            "is larger than any export (1 MB)" in error_of(state(operator, "import", "/dev/zero"), 2, "usage")["what"]
        )


WRITER = """
import sqlite3, sys
database = sqlite3.connect(sys.argv[1], isolation_level=None)
number = 0
while True:
    number += 1
    database.execute("BEGIN IMMEDIATE")
    database.execute("UPDATE instances SET error = ?1, updated_at = ?1", (f"2026-01-01T00:00:00.{number:06d}+00:00",))
    database.execute("COMMIT")
    if number == 1:
        print("ready", flush=True)
"""


def test_a_backup_is_whole_though_somebody_writes_all_the_time(alice: Operator, tmp_path: Path) -> None:
    source = alice.info()["state_file"]
    with subprocess.Popen([sys.executable, "-c", WRITER, source], stdout=subprocess.PIPE, text=True) as writer:
        try:
            assert writer.stdout is not None
            assert writer.stdout.readline() == "ready\n"
            for number in range(5):
                said = state(alice, "backup", str(tmp_path / f"copy{number}.db"))
                assert said.code == 0, said.out
        finally:
            writer.kill()
    for copy in tmp_path.glob("copy*.db"):
        assert stat.S_IMODE(copy.stat().st_mode) == 0o600
        with closing(sqlite3.connect(copy)) as database:
            assert database.execute("PRAGMA integrity_check").fetchone() == ("ok",)
            error, updated = database.execute("SELECT error, updated_at FROM instances WHERE user = 'alice'").fetchone()
            assert error == updated
    assert len(list(tmp_path.iterdir())) == 5


def test_a_backup_can_take_the_databases_place(alice: Operator, tmp_path: Path) -> None:
    assert state(alice, "backup", str(tmp_path / "copy.db")).code == 0
    lose_the_database(alice)
    (tmp_path / "copy.db").rename(alice.info()["state_file"])
    assert not_complete(alice, "alice") == []
    assert provision(alice).code == 0


def test_a_backup_is_restored_by_the_verb_after_a_crash_and_what_was_there_is_kept(
    alice: Operator, tmp_path: Path
) -> None:
    path, copy = Path(alice.info()["state_file"]), tmp_path / "copy.db"
    assert state(alice, "backup", str(copy)).code == 0
    before = copy.read_bytes()
    killed_at_work(path, 0, 3)
    path.write_bytes(before)
    for command in (("status",), ("provision", "alice"), ("destroy", "alice", "--yes"), ("reconcile",)):
        error = error_of(alice.clawdet(*command, "--sandbox", "--json"), 4, "state")
        assert "clawdet.db is another file than the one that this was written for" in error["what"]
        assert "clawdet state restore FILE" in error["next_steps"][0]
    said = alice.clawdet("state", "restore", str(copy), "--sandbox")
    assert said.code == 0, said.err
    kept = Path(said.out.partition("what was there is kept as ")[2].splitlines()[0])
    assert stat.S_IMODE(kept.stat().st_mode) == stat.S_IMODE(path.stat().st_mode) == 0o600
    assert "copy.db: 1 instance\n" in said.out
    assert "  clawdet reconcile --sandbox" in said.out
    assert copy.read_bytes() == before
    assert not_complete(alice, "alice") == []
    assert alice.clawdet("reconcile", "--sandbox").code == 0
    said = state(alice, "restore", str(copy))
    assert said.code == 0, said.out
    again = said.document["replaced"]
    assert (said.document["restored"], said.document["instances"]) == (str(copy), 1)
    assert said.document["schema"] == len(MIGRATIONS)
    for one in path.parent.glob("*replaced*"):
        assert one.name.startswith((kept.name, Path(again).name))
        one.unlink()


def test_one_damaged_row_is_named_and_hides_nobody_else(alice: Operator) -> None:
    path = alice.info()["state_file"]
    with closing(State(Path(path))) as opened:
        whole = opened.instance("alice")
        assert whole is not None
        opened.add(replace(whole, user="bob", run_id="b" * 12, server_id=4711, record_id=None, certificate_id=None))
    with closing(sqlite3.connect(path)) as database, database:
        database.execute("UPDATE instances SET created_at = 'yesterday' WHERE user = 'bob'")
    said = alice.clawdet("status", "--sandbox")
    assert said.code == 4
    assert "alice " in said.out
    assert "bob" not in said.out
    assert "records of bob is damaged: instances.created_at is 'yesterday'." in said.err
    assert "perhaps server clawdet-bob (id 4711): it costs money until it is destroyed" in said.err
    assert "clawdet state restore FILE" in said.err
    lists: tuple[tuple[str, ...], ...] = (("status",), ("status", "--live"), ("reconcile",))
    for command in lists:
        said = alice.clawdet(*command, "--sandbox", "--json")
        assert said.code == 4, said.out
        if command == ("reconcile",):
            rows_of = {row["user"] for row in said.document["reconcile"]["rows"]}
            assert list(said.document["reconcile"]["damaged"]) == ["bob"]
            assert rows_of == {"alice"} | (rows_of & {""})
        else:
            shown = said.document["instances"]
            assert [one["user"] for one in shown] == ["alice"]
            assert [(one["user"], one["kind"]) for one in said.document["failures"]] == [("bob", "state")]
    of_bob: tuple[tuple[str, ...], ...] = (("status", "bob"), ("provision", "bob"), ("destroy", "bob", "--yes"))
    for command in of_bob:
        error = error_of(alice.clawdet(*command, "--sandbox", "--json"), 4, "state")
        assert "records of bob is damaged" in error["what"]
        assert "id 4711" in error["left_behind"][0]
    said = alice.clawdet("destroy", "alice", "bob", "--yes", "--sandbox", "--json")
    assert said.code == 4, said.out
    assert [one["user"] for one in said.document["failures"]] == ["bob"]
    assert [one["user"] for one in said.document["destroyed"]] == ["alice"]
    whole_file = json.loads(alice.clawdet("state", "export", "--sandbox").out)
    (bob,) = [row for row in whole_file["instances"] if row["user"] == "bob"]
    assert bob["created_at"] == "yesterday"


@pytest.mark.parametrize("accident", ["deleted", "replaced"])
def test_a_database_that_goes_in_mid_run_is_an_error_before_the_next_effect(
    accident: str, operator: Operator, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = Path(operator.info()["state_file"])
    assert state(operator, "backup", str(tmp_path / "copy.db")).code == 0
    end_effect = State.end_effect

    def and_then(self: State, effect: Any, *rest: Any) -> None:
        end_effect(self, effect, *rest)
        if effect.kind == "create_server":
            path.unlink()
            if accident == "replaced":
                path.write_bytes((tmp_path / "copy.db").read_bytes())

    with monkeypatch.context() as patched:
        patched.setattr(State, "end_effect", and_then)
        error = error_of(provision(operator), 4, "state")
    assert f"{path} was {accident}" in error["what"]
    assert "nothing more is changed" in error["what"]
    assert f"id {operator.servers()[0]['id']}" in error["left_behind"][0]
    assert [step.split()[1:3] for step in error["next_steps"][:2]] == [["state", "restore"], ["state", "rebuild"]]
    assert operator.records() == []
    assert path.exists() == (accident == "replaced")
    # What it says helps.
    state_file.beside(path, "-wal").unlink(missing_ok=True)
    assert state(operator, "rebuild").document["instances"][0]["user"] == "alice"
    assert operator.clawdet("destroy", "alice", "--sandbox", "--yes").code == 0
    assert not_empty(operator) == []


def test_a_file_that_cannot_be_restored_is_one_clear_error(operator: Operator, tmp_path: Path) -> None:
    (tmp_path / "text").write_text("hello")
    assert "no SQLite database" in error_of(state(operator, "restore", str(tmp_path / "text")), 4, "state")["what"]
    assert "No such file" in error_of(state(operator, "restore", str(tmp_path / "none")), 4, "state")["what"]
