"""The warm pool: `clawdet pool ...`, and provisions that take what waits there."""

import json
import re
import shutil
import sqlite3
import threading
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from clawdet_cli.adapters.ssh import Ssh
from clawdet_cli.adapters.ssh_keys import operator_key, pin_label
from clawdet_cli.stages import claim
from tests.e2e.operator import Operator, Said
from tests.e2e.test_absence import another_project
from tests.e2e.test_bad_input import error_of, provision
from tests.e2e.test_reconcile import differing, reconcile
from tests.e2e.test_signals import in_the_air, running, slow
from tests.kill.invariants import not_complete, not_empty, rows


def fill(operator: Operator, count: int = 1, *flags: str) -> list[dict[str, Any]]:
    """Fill the pool, and give what it holds then."""
    said = operator.clawdet("pool", "fill", str(count), "--sandbox", "--yes", "--json", *flags)
    assert said.code == 0, said.out + said.err
    return list(said.document["pool"])


def pool(operator: Operator, *flags: str) -> list[dict[str, Any]]:
    said = operator.clawdet("pool", "status", "--sandbox", "--json", *flags)
    assert said.code == 0, said.err
    return list(said.document["pool"])


def drain(operator: Operator, *arguments: str) -> Said:
    return operator.clawdet("pool", "drain", *arguments, "--sandbox", "--yes", "--json")


def commands(operator: Operator) -> list[str]:
    return list(operator.control("hetzner", "GET", "servers/commands")["commands"])


def orders(operator: Operator) -> int:
    requests = operator.control("hetzner", "GET", "requests")["requests"]
    return sum((one["method"], one["path"], one["status"]) == ("POST", "/v1/servers", 201) for one in requests)


def aged(operator: Operator, days: int) -> None:
    """Make what waits in the pool older, in the database alone."""
    with closing(sqlite3.connect(operator.info()["state_file"])) as database, database:
        database.execute(
            "UPDATE instances SET created_at = strftime('%Y-%m-%dT%H:%M:%S+00:00', 'now', ?) WHERE user LIKE 'pool.%'",
            (f"-{days} days",),
        )


def test_a_server_waits_and_is_taken_without_an_order(operator: Operator) -> None:
    (waiting,) = fill(operator)
    assert (waiting["ready"], waiting["status"], waiting["reason"]) == (True, "complete", None)
    (server,) = operator.servers()
    assert server["name"] == f"clawdet-{waiting['name']}"
    assert server["labels"]["pool"] == waiting["name"].removeprefix("pool.")
    assert "user" not in server["labels"]
    assert operator.holdings() == (1, 0, 0)
    before, prepared = server["labels"]["host-key"], server["id"]
    for cloud in ("hetzner", "cloudflare"):
        operator.control(cloud, "DELETE", "requests")
    operator.control("hetzner", "DELETE", "servers/commands")

    said = provision(operator)
    assert said.code == 0, said.err
    assert not_complete(operator, "alice") == []
    (server,) = operator.servers()
    assert (server["id"], server["name"]) == (prepared, "clawdet-alice")
    assert "pool" not in server["labels"]
    assert server["labels"]["host-key"] != before, "the SSH host key is the one of the pool"
    assert orders(operator) == 0
    assert not any(" prepare " in command for command in commands(operator)), "it was prepared once more"
    assert pool(operator) == []
    assert reconcile(operator, code=0)["clean"]


def test_the_gateway_gets_a_new_token_and_is_not_started_again(operator: Operator) -> None:
    (waiting,) = fill(operator)
    token_of_pool = gateway_token(operator, waiting["server_id"])
    said = provision(operator, "--events")
    assert said.code == 0, said.err
    token = operator.clawdet("token", "alice", "--sandbox", "--json").document["token"]
    assert token != token_of_pool
    assert token == gateway_token(operator, waiting["server_id"])
    assert '"step": "gateway-start", "status": "skipped"' in said.err.replace('"text": "", ', "")


def gateway_token(operator: Operator, server: int) -> str:
    """Read it where only root of the server can."""
    found = list(operator.state.rglob(f"*{server}*/**/secrets.json"))
    assert len(found) == 1, found
    (values,) = json.loads(found[0].read_text()).values()
    return str(values["OPENCLAW_GATEWAY_TOKEN"])


def test_two_runs_at_once_never_get_the_same_one(operator: Operator) -> None:
    fill(operator, 2)
    operator.control("hetzner", "DELETE", "requests")
    said = operator.clawdet("provision", "alice", "bob", "carol", "--sandbox", "--yes", "--parallel", "3", "--json")
    assert said.code == 0, said.out
    assert not_complete(operator, "alice", "bob", "carol") == []
    assert len({one["server_id"] for one in said.document["instances"]}) == 3
    assert orders(operator) == 1
    assert pool(operator) == []


def test_a_copy_of_the_database_does_not_give_the_same_one_away_twice(
    operator: Operator, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fill(operator)
    copy = tmp_path / "copy"
    shutil.copytree(operator.state / "sandbox" / "ssh", copy / "ssh")
    shutil.copy(operator.info()["state_file"], copy / "clawdet.db")
    reached = threading.Event()

    def nothing(*_: object) -> None:
        reached.set()
        raise KeyboardInterrupt

    # Stopped where the machine is alice's already, and Hetzner still shows the pool's labels.
    with monkeypatch.context() as patched:
        patched.setattr(claim, "hand_over", nothing)
        said = provision(operator)
    assert (said.code, reached.is_set()) == (130, True)
    kept = Path(operator.info()["state_file"])
    mine = kept.read_bytes()
    for wal in kept.parent.glob("clawdet.db-*"):
        wal.unlink()
    kept.write_bytes((copy / "clawdet.db").read_bytes())
    other = operator.clawdet("provision", "bob", "--sandbox", "--yes")
    assert other.code == 0, other.err
    assert "is not taken: a run of another database has taken it." in other.err
    (seen,) = pool(operator)
    assert (seen["ready"], seen["status"]) == (False, "failed")
    # What somebody has is not removed by a fill, nor gone on with.
    assert len(fill(operator)) == 2
    assert {server["name"].partition(".")[0] for server in operator.servers()} == {"clawdet-pool", "clawdet-bob"}
    assert drain(operator, next(one["name"] for one in pool(operator) if one["ready"])).code == 0
    assert {server["name"].partition(".")[0] for server in operator.servers()} == {"clawdet-pool", "clawdet-bob"}
    assert operator.clawdet("destroy", "bob", "--sandbox", "--yes").code == 0
    for wal in kept.parent.glob("clawdet.db-*"):
        wal.unlink()
    kept.write_bytes(mine)
    said = provision(operator)
    assert said.code == 0, said.err
    assert not_complete(operator, "alice") == []


def test_one_that_is_unwell_is_left_and_a_server_is_ordered(operator: Operator) -> None:
    (waiting,) = fill(operator)
    operator.cloud("hetzner", f"/servers/{waiting['server_id']}/actions/poweroff", "POST")
    said = provision(operator)
    assert said.code == 0, said.err
    gone = f"clawdet-{waiting['name']} of the pool is not taken: it is switched off. 'clawdet pool fill' replaces it"
    assert gone in said.err
    assert len(operator.servers()) == 2
    (left,) = pool(operator)
    assert (left["ready"], left["status"]) == (False, "destroying")
    row = next(row for row in differing(reconcile(operator, code=4)) if row["kind"] == "pool")
    assert row["decision"].startswith("clawdet pool fill 1")
    # A fill puts another one in its place.
    (waiting,) = fill(operator)
    assert waiting["ready"]
    assert len(operator.servers()) == 2
    assert waiting["server_id"] != left["server_id"]


@pytest.mark.parametrize("left", ["none", "another"])
def test_one_that_lets_in_the_key_of_another_machine_stays_and_a_server_is_ordered(
    left: str, operator: Operator, tmp_path: Path
) -> None:
    (waiting,) = fill(operator)
    key = operator.state / "sandbox" / "ssh" / "id_ed25519"
    shutil.move(key, tmp_path)
    if left == "another":
        operator_key(key, make=True)
    operator.control("hetzner", "DELETE", "requests")
    said = provision(operator)
    assert said.code == 0, said.err
    assert re.search(rf"{waiting['name']} of the pool is not taken: The server \S+ refuses the SSH key", said.err)
    assert [orders(operator), [one["ready"] for one in pool(operator)]] == [1, [True]]
    # A server that has a user is worth more than an order: its key is to be found again.
    key.unlink()
    error = error_of(provision(operator), 3, "config")
    assert "the key that the server was made with" in error["next_steps"][0]


def test_one_that_does_not_answer_stays_and_is_tried_last(operator: Operator, monkeypatch: pytest.MonkeyPatch) -> None:
    operator.control("hetzner", "DELETE", "requests")
    silent, other = fill(operator, 2)
    monkeypatch.setattr(claim, "PATIENCE", 1.0)
    connect = Ssh.connect
    address = operator.cloud("hetzner", f"/servers/{silent['server_id']}")["server"]["public_net"]["ipv4"]["ip"]
    places = json.loads(Path(file).read_text()) if (file := operator.info()["dial_file"]) else {}
    dialled = places.get(f"{address}:22", f"{address}:22")

    def cut_off(where: tuple[str, int], *more: Any, **options: Any) -> Any:
        # The machine is well; it is the way to it that is cut.
        gone = f"{where[0]}:{where[1]}" == dialled
        return connect(("127.0.0.1", 9) if gone else where, *more, **options)

    monkeypatch.setattr(Ssh, "connect", cut_off)
    said = provision(operator)
    assert said.code == 0, said.err
    assert orders(operator) == 3, "the other one was waited for too, behind a way that may be cut"
    left = {one["name"]: one["ready"] for one in pool(operator)}
    assert left == {silent["name"]: True, other["name"]: True}
    assert "Waited 1 s for SSH" in operator.clawdet("pool", "status", "--sandbox").out
    assert provision(operator, user="bob").code == 0
    assert [one["name"] for one in pool(operator)] == [silent["name"]]
    assert orders(operator) == 3


@pytest.mark.parametrize(
    ("flags", "reason"),
    [
        (("--server-type", "cx33"), "it is a cpx22 in nbg1, which is not asked for"),
        (("--location", "hel1"), "it is a cpx22 in nbg1, which is not asked for"),
        (("--image", "debian-12"), "it runs ubuntu-24.04, not debian-12"),
        (("--openclaw-version", "2026.9.2"), "it has OpenClaw 2026.9.6, not 2026.9.2"),
        (("--pool-days", "0"), "it was prepared more than 0 days ago"),
    ],
)
def test_what_is_not_what_was_asked_for_stays(flags: tuple[str, str], reason: str, operator: Operator) -> None:
    (waiting,) = fill(operator)
    (seen,) = pool(operator, *flags)
    assert (seen["ready"], seen["reason"]) == (False, reason)
    said = provision(operator, *flags)
    assert said.code == 0, said.err
    assert {server["name"] for server in operator.servers()} == {"clawdet-alice", f"clawdet-{waiting['name']}"}


def test_what_is_too_old_is_replaced_by_a_fill(operator: Operator) -> None:
    (old,) = fill(operator)
    aged(operator, 8)
    (seen,) = pool(operator)
    assert seen["reason"] == "it was prepared more than 7 days ago"
    (new,) = fill(operator)
    assert new["ready"]
    assert new["server_id"] != old["server_id"]
    assert len(operator.servers()) == 1


def test_a_fill_goes_on_with_what_was_begun(operator: Operator) -> None:
    operator.control("hetzner", "PUT", "servers/knobs", {"fail_step": {"prepare": "openclaw"}})
    said = operator.clawdet("pool", "fill", "1", "--sandbox", "--yes", "--json")
    assert said.code == 6, said.out
    assert "clawdet pool status" in said.document["failures"][0]["next_steps"][0]
    assert said.document["failures"][0]["left_behind"]
    (begun,) = operator.servers()
    operator.reset()
    (waiting,) = fill(operator)
    assert (waiting["ready"], waiting["server_id"]) == (True, begun["id"])


def test_a_fill_whose_database_is_replaced_meanwhile_names_what_it_ordered(operator: Operator, tmp_path: Path) -> None:
    database, other = Path(operator.info()["state_file"]), tmp_path / "other.db"
    assert operator.clawdet("status", "--sandbox").code == 0
    assert operator.clawdet("state", "backup", str(other), "--sandbox").code == 0
    slow(operator, "hetzner", "POST", "/v1/servers")
    with running(operator, "pool", "fill", "1", "--yes", "--sandbox") as run:
        in_the_air(operator, "hetzner", "POST")
        other.replace(database)
        error = run.end()
    assert run.process.returncode == 4
    (named,) = error["left_behind"]
    assert named.startswith("server clawdet-pool.")


def test_filling_again_makes_nothing(operator: Operator) -> None:
    first = fill(operator, 2)
    assert {one["name"] for one in fill(operator, 2)} == {one["name"] for one in first}
    assert len(fill(operator, 1)) == 2, "a fill takes nothing away that is ready"


def test_a_drain_removes_all_or_what_is_named(operator: Operator) -> None:
    one, two = fill(operator, 2)
    said = drain(operator, one["name"])
    assert said.code == 0, said.err
    assert [left["name"] for left in said.document["pool"]] == [two["name"]]
    (server,) = operator.servers()
    assert server["name"] == f"clawdet-{two['name']}"
    said = drain(operator)
    assert said.code == 0, said.err
    assert said.document["pool"] == []
    assert not_empty(operator) == []
    assert drain(operator).code == 0


def test_a_drain_does_not_touch_what_hands_have_changed(operator: Operator) -> None:
    (waiting,) = fill(operator)
    labels = {"managed-by": "clawdet", "pool": "zzzzzzzz", "run": "abcdefabcdef"}
    operator.cloud("hetzner", f"/servers/{waiting['server_id']}", "PUT", {"labels": labels})
    said = drain(operator)
    assert said.code == 4, said.out
    assert "is not provably pool." in said.document["failures"][0]["what"]
    assert len(operator.servers()) == 1
    operator.cloud("hetzner", f"/servers/{waiting['server_id']}", "DELETE")


def test_what_another_database_has_given_away_is_forgotten_and_not_touched(operator: Operator) -> None:
    (waiting,) = fill(operator)
    labels = {"managed-by": "clawdet", "user": "zoe", "run": "abcdefabcdef"}
    operator.cloud("hetzner", f"/servers/{waiting['server_id']}", "PUT", {"labels": labels, "name": "clawdet-zoe"})
    (row,) = [row for row in differing(reconcile(operator, code=4)) if row["kind"] == "server" and row["fix"]]
    assert (row["category"], row["what"]) == ("ghost", "it is zoe's by its labels: another database has given it away")
    said = drain(operator)
    assert (said.code, said.document["pool"]) == (0, []), said.out
    (server,) = operator.servers()
    assert server["name"] == "clawdet-zoe"
    operator.cloud("hetzner", f"/servers/{waiting['server_id']}", "DELETE")


def test_what_a_backup_from_before_has_waiting_is_recorded_as_the_users(operator: Operator, tmp_path: Path) -> None:
    (waiting,) = fill(operator)
    backup = str(tmp_path / "before.db")
    assert operator.clawdet("state", "backup", backup, "--sandbox").code == 0
    assert provision(operator).code == 0
    assert operator.clawdet("state", "restore", backup, "--sandbox").code == 0
    error = error_of(provision(operator), 4, "state")
    assert error["next_steps"][0].startswith("clawdet state rebuild alice --sandbox")
    said = operator.clawdet("state", "rebuild", "alice", "--sandbox", "--json")
    assert said.code == 0, said.err
    assert [one["server_id"] for one in said.document["instances"]] == [waiting["server_id"]]
    assert provision(operator).code == 0
    assert reconcile(operator, "--fix", code=0)["clean"]
    assert not_complete(operator, "alice") == []


def test_reconcile_forgets_what_another_database_has_given_away(operator: Operator) -> None:
    (waiting,) = fill(operator)
    labels = {"managed-by": "clawdet", "user": "zoe", "run": "abcdefabcdef"}
    operator.cloud("hetzner", f"/servers/{waiting['server_id']}", "PUT", {"labels": labels, "name": "clawdet-zoe"})
    operator.clawdet("reconcile", "--fix", "--sandbox")
    assert pool(operator) == []
    assert len(operator.servers()) == 1
    operator.cloud("hetzner", f"/servers/{waiting['server_id']}", "DELETE")


def test_a_token_of_another_project_condemns_nothing_and_orders_nothing(operator: Operator) -> None:
    (waiting,) = fill(operator)
    operator.control("hetzner", "DELETE", "requests")
    another_project(operator)
    error = error_of(provision(operator), 3, "config")
    assert "may be another project than the one that the server is in" in error["what"]
    changed = [one for one in operator.control("hetzner", "GET", "requests")["requests"] if one["method"] != "GET"]
    assert changed == []
    operator.reset()
    assert [one["ready"] for one in pool(operator)] == [True]
    assert provision(operator).code == 0
    assert [server["id"] for server in operator.servers()] == [waiting["server_id"]]


def test_quiet_says_the_failures_of_a_fill_and_of_a_drain_on_stderr_once(operator: Operator) -> None:
    refusal = {"kind": "answer", "status": 403, "body": {"error": {"code": "resource_limit_exceeded", "message": "x"}}}
    operator.control("hetzner", "POST", "faults", {**refusal, "method": "POST", "path": "/v1/servers", "times": None})
    said = operator.clawdet("pool", "fill", "1", "--yes", "--quiet", "--sandbox")
    assert said.code == 5
    assert said.err.count("Failed (in the stage create_server): Asked Hetzner Cloud to create server") == 1
    assert said.err.startswith("pool.")
    operator.reset()
    assert operator.clawdet("pool", "fill", "1", "--yes", "--quiet", "--sandbox").err == ""
    operator.control("hetzner", "POST", "faults", {**refusal, "method": "DELETE", "path": "/v1/servers/.*"})
    said = operator.clawdet("pool", "drain", "--yes", "--quiet", "--sandbox")
    assert said.code == 5
    assert said.err.count("Failed (in the stage delete_server): Asked Hetzner Cloud to delete server") == 1


def test_nothing_waits_and_nobody_is_named(operator: Operator) -> None:
    said = operator.clawdet("pool", "status", "--sandbox")
    assert said.code == 0, said.err
    assert "Nothing waits in the pool.\nHave a server wait: clawdet pool fill 1 --sandbox\n" in said.out
    error = error_of(operator.clawdet("pool", "drain", "alice", "--sandbox", "--yes", "--json"), 2, "usage")
    assert "no name of the pool's" in error["what"]
    error = error_of(operator.clawdet("pool", "drain", "pool.abcdefgh", "--sandbox", "--yes", "--json"), 4, "state")
    assert error["what"] == "pool.abcdefgh is not in the pool."
    error = error_of(operator.clawdet("pool", "drain", "--sandbox", "--json"), 2, "usage")
    error_of(operator.clawdet("destroy", "pool.abcdefgh", "--sandbox", "--yes", "--json"), 2, "usage")


def test_a_lost_database_learns_of_the_pool_and_gives_nothing_of_it_away(operator: Operator) -> None:
    (waiting,) = fill(operator)
    for file in Path(operator.info()["state_file"]).parent.glob("clawdet.db*"):
        file.unlink()
    (row,) = [row for row in differing(reconcile(operator, code=4)) if row["kind"] == "server"]
    assert (row["category"], row["user"], row["monthly_eur"]) == ("orphan", waiting["name"], waiting["monthly_eur"])
    assert operator.clawdet("state", "rebuild", "--sandbox").code == 0
    (found,) = pool(operator)
    assert (found["name"], found["ready"], found["server_id"]) == (waiting["name"], False, waiting["server_id"])
    said = provision(operator)
    assert said.code == 0, said.err
    assert len(operator.servers()) == 2
    assert drain(operator).code == 0
    assert not_complete(operator, "alice") == []


def test_the_record_of_the_pool_can_be_carried_elsewhere(operator: Operator, tmp_path: Path) -> None:
    (waiting,) = fill(operator)
    file = tmp_path / "export.json"
    assert operator.clawdet("state", "export", str(file), "--sandbox").code == 0
    for database in Path(operator.info()["state_file"]).parent.glob("clawdet.db*"):
        database.unlink()
    assert operator.clawdet("state", "import", str(file), "--sandbox").code == 0
    assert pool(operator)[0]["ready"]
    assert provision(operator).code == 0
    assert [server["id"] for server in operator.servers()] == [waiting["server_id"]]
    assert pool(operator) == []
    assert pin_label(rows(operator, "SELECT host_key FROM instances WHERE user = 'alice'")[0]["host_key"])


def test_what_is_approved_for_several_is_the_price_of_a_server_for_each(operator: Operator) -> None:
    fill(operator)
    one = operator.clawdet("provision", "alice", "--sandbox", "--dry-run", "--json").document["plan"]
    assert one["candidates"] == []
    assert "of the pool" in one["exists"][0]
    two = operator.clawdet("provision", "alice", "bob", "--sandbox", "--dry-run", "--json").document["plans"]
    assert all(plan["candidates"] for plan in two)
    assert all("what waits in the pool (1) is taken first, so that less is ordered" in plan["notes"] for plan in two)


def test_a_label_that_hands_put_on_a_users_server_makes_nothing_of_it(operator: Operator) -> None:
    assert provision(operator).code == 0
    (server,) = operator.servers()
    labels = {**server["labels"], "pool": "frontend"}
    operator.cloud("hetzner", f"/servers/{server['id']}", "PUT", {"labels": labels})
    assert provision(operator).code == 0
    (server,) = operator.servers()
    assert server["labels"] == labels
    for file in Path(operator.info()["state_file"]).parent.glob("clawdet.db*"):
        file.unlink()
    assert operator.clawdet("state", "rebuild", "--sandbox").code == 0
    assert pool(operator) == []
    assert provision(operator).code == 0
    assert not_complete(operator, "alice") == []


def test_what_was_made_by_another_version_of_clawdet_is_not_ready_and_is_replaced(operator: Operator) -> None:
    (old,) = fill(operator)
    with closing(sqlite3.connect(operator.info()["state_file"])) as database, database:
        database.execute("UPDATE instances SET installed = replace(installed, 'script_sha256=', 'script_sha256=0')")
    (seen,) = pool(operator)
    assert (seen["ready"], seen["reason"]) == (
        False,
        "it was prepared by another version of clawdet, or with other downloads",
    )
    (new,) = fill(operator)
    assert new["ready"]
    assert new["server_id"] != old["server_id"]
    assert len(operator.servers()) == 1


def test_a_fill_of_what_is_never_given_away_is_refused(operator: Operator) -> None:
    said = operator.clawdet("pool", "fill", "1", "--pool-days", "0", "--sandbox", "--yes", "--json")
    assert "nothing that waits is ever given away" in error_of(said, 2, "usage")["what"]
    assert operator.servers() == []


@pytest.mark.real
def test_a_real_server_waits_and_its_gateway_takes_its_user_over(real_sandbox: Operator) -> None:
    """Installs packages; needs root, and reaches the vendors' servers once for what is not in the cache yet."""
    (waiting,) = fill(real_sandbox)
    key = rows(real_sandbox, "SELECT host_key FROM instances WHERE user LIKE 'pool.%' AND server_id > 0")[0]
    said = provision(real_sandbox)
    try:
        assert said.code == 0, said.err
        assert not_complete(real_sandbox, "alice") == []
        assert said.document["instance"]["server_id"] == waiting["server_id"]
        assert all(check["ok"] for check in said.document["instance"]["checks"])
        assert key not in rows(real_sandbox, "SELECT host_key FROM instances WHERE user = 'alice'")
        asked = (
            "systemctl show -P NRestarts openclaw-gateway; pid=$(systemctl show -P MainPID openclaw-gateway);"
            " test /var/lib/clawdet/claim.used -nt /proc/$pid && echo later"
        )
        seen = real_sandbox.clawdet("ssh", "alice", "--sandbox", "--", asked)
        assert seen.out.split()[-2:] == ["0", "later"], seen
    finally:
        assert real_sandbox.clawdet("destroy", "alice", "--sandbox", "--yes").code == 0
    assert not_empty(real_sandbox) == []
