"""What docs/lost.md has an operator do when something is lost, done on simulated servers.

What only a real OpenClaw can show is done in test_hot_gateway.py.
"""

import json
from pathlib import Path

import pytest

from tests.documented import arguments, commands
from tests.e2e.operator import Operator, Said

LINES = commands("docs/lost.md")


def documented(operator: Operator, line: str, *more: str, code: int = 0) -> Said:
    """Run a command of the document as it stands there, in the sandbox."""
    assert line in LINES
    said = operator.clawdet(*arguments(line), *more, "--sandbox")
    assert said.code == code, (line, said.out, said.err)
    return said


def let_ssh_in(operator: Operator, networks: str = "0.0.0.0/0,::/0") -> None:
    """Let SSH in from some networks, or everywhere."""
    said = operator.clawdet("firewall", "refresh", "--ssh-from", networks, "--replace-ssh-from", "--sandbox")
    assert said.code == 0, said.err


@pytest.fixture
def alice(operator: Operator) -> Operator:
    """Somebody whose instance is complete."""
    documented(operator, "clawdet provision alice", "--yes")
    return operator


def test_a_vps_that_is_made_anew_keeps_nothing_that_was_known_of_it(alice: Operator) -> None:
    before = documented(alice, "clawdet status alice --json").document["instance"]
    token = documented(alice, "clawdet token alice").out
    documented(alice, "clawdet destroy alice", "--yes")
    assert alice.holdings() == (0, 0, 0)
    assert alice.certificate(before["certificate_id"])["revoked_at"]
    documented(alice, "clawdet provision alice", "--yes")
    after = documented(alice, "clawdet status alice --json").document["instance"]
    for name in ("server_id", "certificate_id"):
        assert before[name] != after[name], name
    assert documented(alice, "clawdet token alice").out != token


def test_a_name_that_was_led_elsewhere_is_set_right(alice: Operator) -> None:
    (record,) = alice.records()
    path = f"/zones/{alice.zone_id()}/dns_records/{record['id']}"
    alice.cloud("cloudflare", path, "PATCH", {"content": "203.0.113.66", "proxied": False})
    documented(alice, "clawdet reconcile", code=4)
    documented(alice, "clawdet reconcile --fix")
    assert alice.records()[0]["content"] == record["content"]
    assert alice.records()[0]["proxied"]


def test_a_server_that_was_ordered_in_clawdets_name_is_named(alice: Operator) -> None:
    labels = {"managed-by": "clawdet", "user": "mallory", "run": "abcdefabcde1"}
    order = {"name": "clawdet-mallory", "server_type": "cpx22", "image": "ubuntu-24.04", "labels": labels}
    server = alice.cloud("hetzner", "/servers", "POST", order)["server"]
    try:
        assert str(server["id"]) in documented(alice, "clawdet reconcile", code=4).out
    finally:
        alice.cloud("hetzner", f"/servers/{server['id']}", "DELETE")


def test_ssh_is_closed_to_all_but_ones_own_network_on_every_vps(alice: Operator) -> None:
    documented(alice, "clawdet firewall refresh --ssh-from 203.0.113.7 --replace-ssh-from")
    (firewall,) = alice.cloud("hetzner", "/firewalls")["firewalls"]
    (ssh,) = [rule for rule in firewall["rules"] if rule["port"] == "22"]
    assert ssh["source_ips"] == ["203.0.113.7/32"]
    assert [one["server"]["id"] for one in firewall["applied_to"]] == [alice.servers()[0]["id"]]
    let_ssh_in(alice)


def test_without_database_and_ssh_key_an_exported_record_is_enough_to_make_it_anew(
    alice: Operator, tmp_path: Path
) -> None:
    # What is done for the project is recorded too, and of no instance.
    let_ssh_in(alice, "192.0.2.0/24")
    let_ssh_in(alice)
    documented(alice, "clawdet firewall refresh")
    exported = tmp_path / "instances.json"
    assert alice.clawdet("state", "export", str(exported), "--sandbox").code == 0
    assert json.loads(exported.read_text())["instances"]
    home, key = Path(alice.info()["state_file"]).parent, Path(alice.info()["ssh_key_file"])
    lost = key.read_bytes()
    for path in (*home.glob("clawdet.db*"), *home.glob("ssh/*")):
        path.unlink()
    line = "clawdet state import instances.json"
    assert line in LINES
    said = alice.clawdet("state", "import", str(exported), "--sandbox")
    assert said.code == 0, said.err
    documented(alice, "clawdet destroy alice", "--yes")
    assert alice.servers() == []
    documented(alice, "clawdet provision alice", "--yes")
    assert key.read_bytes() != lost


def test_who_waits_and_who_was_let_in_is_listed(alice: Operator) -> None:
    assert documented(alice, "clawdet approve alice", "--json").document["devices"] == {"pending": [], "paired": []}
