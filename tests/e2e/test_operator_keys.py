"""The SSH key of an operator leaves the project with the last server that was ordered with it."""

from pathlib import Path

from tests.e2e.operator import Operator
from tests.e2e.test_another_database import another


def keys(operator: Operator) -> set[str]:
    return {str(key["name"]) for key in operator.cloud("hetzner", "/ssh_keys")["ssh_keys"]}


def run(operator: Operator, *command: str) -> str:
    said = operator.clawdet(*command, "--sandbox")
    assert said.code == 0, said.err
    return said.out


def test_the_key_of_who_destroys_first_goes_with_the_last_of_its_servers(operator: Operator, tmp_path: Path) -> None:
    run(operator, "provision", "alice", "carol", "--yes")
    (own,) = keys(operator)
    with another(operator, tmp_path):
        run(operator, "provision", "bob", "--yes")
        (theirs,) = keys(operator) - {own}
    assert {server["labels"]["ssh-key"] for server in operator.servers()} == {
        name.removeprefix("clawdet-") for name in (own, theirs)
    }
    run(operator, "destroy", "carol", "--yes")
    assert keys(operator) == {own, theirs}
    assert "SSH key of clawdet in the Hetzner project" in run(operator, "destroy", "alice", "--yes")
    assert keys(operator) == {theirs}


def test_a_server_of_before_the_label_may_need_any_key(operator: Operator, tmp_path: Path) -> None:
    run(operator, "provision", "alice", "--yes")
    (own,) = keys(operator)
    with another(operator, tmp_path):
        run(operator, "provision", "bob", "--yes")
    (bob,) = [server for server in operator.servers() if server["name"] == "clawdet-bob"]
    labels = {name: value for name, value in bob["labels"].items() if name != "ssh-key"}
    operator.cloud("hetzner", f"/servers/{bob['id']}", "PUT", {"labels": labels})
    run(operator, "destroy", "alice", "--yes")
    assert own in keys(operator)


def test_what_the_pool_gave_away_keeps_the_mark_of_its_key(operator: Operator) -> None:
    run(operator, "pool", "fill", "1", "--yes")
    (own,) = keys(operator)
    run(operator, "provision", "alice", "--yes")
    (server,) = operator.servers()
    assert server["name"] == "clawdet-alice"
    assert own == f"clawdet-{server['labels']['ssh-key']}"


def test_reconcile_names_a_key_that_no_server_needs_and_fix_removes_it(operator: Operator, tmp_path: Path) -> None:
    run(operator, "provision", "alice", "--yes")
    (own,) = keys(operator)
    with another(operator, tmp_path):
        run(operator, "provision", "bob", "--yes")
        (theirs,) = keys(operator) - {own}
        folder = Path(operator.info()["state_file"]).parent / "ssh"
        folder.rename(folder.with_name("ssh-lost"))
        run(operator, "destroy", "bob", "--yes")
        folder.with_name("ssh-lost").rename(folder)
    assert keys(operator) == {own, theirs}
    said = operator.clawdet("reconcile", "--sandbox")
    assert said.code == 4
    assert "clawdet added it, and no server of clawdet's in the project was ordered with it" in said.out
    assert operator.clawdet("reconcile", "--fix", "--sandbox").code == 0
    assert keys(operator) == {own}
