"""The provider's firewall: there from a server's first packet, and in step with what is wanted."""

from pathlib import Path
from typing import Any

import pytest

from clawdet_cli.adapters.edge import answers_directly
from clawdet_cli.settings import Endpoints
from clawdet_cli.stages import reconcile as stage_reconcile
from tests.e2e.operator import Operator, Said
from tests.e2e.test_bad_input import provision
from tests.kill.invariants import in_clouds, not_complete, not_empty

EVERYWHERE = ["0.0.0.0/0", "::/0"]
FROM_HERE = "127.0.0.0/8"
LIST = "/client/v4/ips"


@pytest.fixture
def alice(operator: Operator) -> Operator:
    said = provision(operator)
    assert said.code == 0, said.err
    return operator


def refresh(operator: Operator, *flags: str) -> Said:
    return operator.clawdet("firewall", "refresh", "--sandbox", *flags)


def walls(operator: Operator) -> list[dict[str, Any]]:
    return list(in_clouds(operator)["firewalls"])


def let_in(operator: Operator) -> dict[str, list[str]]:
    """Give the networks that the one firewall lets in, by port."""
    (wall,) = walls(operator)
    assert all((rule["direction"], rule["protocol"]) == ("in", "tcp") for rule in wall["rules"])
    return {rule["port"]: sorted(rule["source_ips"]) for rule in wall["rules"]}


def published(operator: Operator) -> list[str]:
    found = operator.cloud("cloudflare", "/ips")["result"]
    return sorted(found["ipv4_cidrs"] + found["ipv6_cidrs"])


def set_rules(operator: Operator, *rules: dict[str, Any]) -> None:
    (wall,) = walls(operator)
    operator.cloud("hetzner", f"/firewalls/{wall['id']}/actions/set_rules", "POST", {"rules": list(rules)})


def publish(operator: Operator, *networks: str) -> None:
    """Let Cloudflare publish another list, until the faults are reset."""
    body = {"success": True, "errors": [], "messages": [], "result": {"ipv4_cidrs": networks, "ipv6_cidrs": []}}
    fault = {"kind": "answer", "method": "GET", "path": LIST, "status": 200, "body": body, "times": None}
    operator.control("cloudflare", "POST", "faults", fault)


def opened(port: str) -> dict[str, Any]:
    return {"direction": "in", "protocol": "tcp", "port": port, "source_ips": EVERYWHERE}


def address(operator: Operator) -> str:
    (server,) = operator.servers()
    return str(server["public_net"]["ipv4"]["ip"])


def visited_past_the_edge(operator: Operator) -> bool:
    info = operator.info()
    endpoints = Endpoints(dial_file=Path(info["dial_file"]) if info["dial_file"] else None)
    return answers_directly(endpoints.dial(address(operator), 443), f"alice.{info['zone']}", 0.3, tls=True)


def test_it_lets_in_ssh_and_cloudflare_and_stands_before_the_first_packet(alice: Operator) -> None:
    assert let_in(alice) == {"22": EVERYWHERE, "80": published(alice), "443": published(alice)}
    (server,) = alice.servers()
    done = alice.cloud("hetzner", f"/servers/{server['id']}/actions")["actions"]
    assert "apply_firewall" not in {action["command"] for action in done}, "it was put behind the firewall later"
    assert not visited_past_the_edge(alice)


def test_what_it_lets_in_is_said_when_it_is_made_and_not_again(operator: Operator) -> None:
    said = "firewall clawdet: SSH from everywhere (by key only; --ssh-from narrows it); HTTP from Cloudflare's"
    assert said in provision(operator).err
    assert said not in provision(operator).err


def test_ssh_is_let_in_from_where_it_is_set_and_does_not_open_by_itself(operator: Operator) -> None:
    assert provision(operator, "--ssh-from", FROM_HERE).code == 0
    assert let_in(operator)["22"] == [FROM_HERE]
    assert provision(operator).code == 0
    assert refresh(operator).code == 0
    assert let_in(operator)["22"] == [FROM_HERE]
    changed = refresh(operator, "--ssh-from", "0.0.0.0/0,::/0")
    assert f"took out SSH from {FROM_HERE}" in changed.err
    assert let_in(operator)["22"] == EVERYWHERE


def test_a_list_of_cloudflares_that_changed_is_followed_by_every_run(alice: Operator) -> None:
    (edge,) = [network for network in published(alice) if network.startswith("127.")]
    for command, added in ((("provision", "alice"), "192.0.2.0/25"), (("firewall", "refresh"), "192.0.2.128/25")):
        alice.reset()
        publish(alice, edge, added)
        assert "took out HTTPS from Cloudflare's 2 networks" in alice.clawdet(*command, "--sandbox").err
        assert let_in(alice)["443"] == let_in(alice)["80"] == sorted([edge, added])
    assert let_in(alice)["22"] == EVERYWHERE


@pytest.mark.parametrize(
    "networks", [[], ["0.0.0.0/0"], ["128.0.0.0/1"], ["here"], [f"10.0.{n}.0/24" for n in range(101)]]
)
def test_a_list_that_cannot_be_cloudflares_opens_nothing(networks: list[str], alice: Operator) -> None:
    before = let_in(alice)
    publish(alice, *networks)
    said = refresh(alice)
    assert said.code == 5, said.err
    assert "Cloudflare's list of its own networks is not one that a firewall can be opened for." in said.err
    assert let_in(alice) == before


@pytest.mark.parametrize("status", [200, 403])
def test_a_list_that_cannot_be_had_leaves_the_networks_as_they_are(status: int, alice: Operator) -> None:
    before = let_in(alice)
    body = {"success": False, "errors": [{"code": 10000, "message": "no"}], "messages": [], "result": None}
    fault = {"kind": "answer", "method": "GET", "path": LIST, "status": status, "body": body, "times": None}
    alice.control("cloudflare", "POST", "faults", fault)
    said = alice.clawdet("provision", "alice", "--sandbox")
    assert said.code == 0, said.err
    assert "Cloudflare's networks are left as the firewall has them: " in said.err
    assert "the right ''" not in said.err
    assert let_in(alice) == before
    assert alice.clawdet("reconcile", "--sandbox").code == 0


def test_plain_http_that_is_open_to_everybody_is_found_too(alice: Operator) -> None:
    set_rules(alice, opened("22"), opened("80"), opened("443") | {"source_ips": let_in(alice)["443"]})
    verified = alice.clawdet("verify", "alice", "--sandbox")
    assert verified.code == 6
    assert f"{address(alice)} answers to everybody on port 80, past Cloudflare" in verified.out


def test_what_hands_have_changed_is_found_and_put_right(alice: Operator) -> None:
    set_rules(alice, opened("22"), opened("any"))
    assert visited_past_the_edge(alice)
    verified = alice.clawdet("verify", "alice", "--sandbox")
    assert verified.code == 6
    assert (
        f"{address(alice)} answers to everybody on port 443, past Cloudflare: clawdet firewall refresh" in verified.out
    )
    differing = alice.clawdet("reconcile", "--sandbox")
    assert differing.code == 4
    assert "in tcp any from everywhere; it should: SSH from everywhere" in differing.out
    said = refresh(alice)
    assert "firewall clawdet: took out in tcp any from everywhere" in said.err
    assert not visited_past_the_edge(alice)
    assert not_complete(alice, "alice") == []
    assert alice.clawdet("reconcile", "--sandbox").code == 0


@pytest.mark.parametrize("ports", [[], ["any"], ["20-30"], ["443"]], ids=str)
def test_ssh_is_never_opened_where_hands_left_no_rule_that_says_for_whom(
    ports: list[str], alice: Operator, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stage_reconcile, "VPS_SECONDS", 2.0)
    set_rules(alice, *({**opened(port), "source_ips": [FROM_HERE]} for port in ports))
    before = let_in(alice)
    for said in (refresh(alice), provision(alice)):
        assert said.code == 4, said.err
        text = said.out + said.err  # the one asks for JSON
        assert "The firewall clawdet has no rule for port 22 alone any more" in text
        assert "clawdet firewall refresh --ssh-from NETWORKS" in text
        assert let_in(alice) == before
    differing = alice.clawdet("reconcile", "--sandbox")
    assert differing.code == 4
    assert "SSH from the networks that --ssh-from names" in differing.out
    assert "clawdet firewall refresh --ssh-from NETWORKS" in differing.out
    assert refresh(alice, "--ssh-from", FROM_HERE).code == 0
    assert let_in(alice)["22"] == [FROM_HERE]
    assert not_complete(alice, "alice") == []


@pytest.mark.parametrize("command", [("provision", "alice"), ("firewall", "refresh")])
def test_a_server_that_was_taken_out_of_it_is_put_back(command: tuple[str, ...], alice: Operator) -> None:
    ((server,), (wall,)) = alice.servers(), walls(alice)
    behind = {"remove_from": [{"type": "server", "server": {"id": server["id"]}}]}
    alice.cloud("hetzner", f"/firewalls/{wall['id']}/actions/remove_from_resources", "POST", behind)
    differing = alice.clawdet("reconcile", "--sandbox")
    assert "it is not behind the firewall clawdet" in differing.out
    said = alice.clawdet(*command, "--sandbox")
    assert "the server clawdet-alice was put behind the firewall clawdet" in said.err
    assert not_complete(alice, "alice") == []


def test_one_that_was_deleted_is_made_again_with_every_server_behind_it(alice: Operator) -> None:
    ((server,), (wall,)) = alice.servers(), walls(alice)
    behind = {"remove_from": [{"type": "server", "server": {"id": server["id"]}}]}
    alice.cloud("hetzner", f"/firewalls/{wall['id']}/actions/remove_from_resources", "POST", behind)
    alice.cloud("hetzner", f"/firewalls/{wall['id']}", "DELETE")
    assert refresh(alice).code == 0
    assert not_complete(alice, "alice") == []


def test_a_foreign_one_of_that_name_is_a_conflict_before_anything_is_bought(operator: Operator) -> None:
    made = operator.cloud("hetzner", "/firewalls", "POST", {"name": "clawdet", "rules": [opened("8080")]})
    before = walls(operator)
    for said in (provision(operator), refresh(operator)):
        assert said.code == 4, said.err
        assert (
            "A firewall named clawdet exists in the Hetzner project that is not ours: nothing was touched." in said.err
        )
    assert operator.servers() == []
    assert operator.clawdet("destroy", "alice", "--yes", "--sandbox").code == 0
    assert walls(operator) == before
    operator.cloud("hetzner", f"/firewalls/{made['firewall']['id']}", "DELETE")


def test_it_goes_with_the_last_server_and_no_sooner(alice: Operator) -> None:
    assert alice.clawdet("provision", "bob", "--sandbox").code == 0
    assert alice.clawdet("destroy", "alice", "--yes", "--sandbox").code == 0
    assert not_complete(alice, "bob") == []
    gone = alice.clawdet("destroy", "bob", "--yes", "--sandbox")
    assert "removed   firewall clawdet in the Hetzner project" in gone.out
    assert not_empty(alice) == []


def test_it_stays_where_it_protects_somebody_elses_server(alice: Operator) -> None:
    order = {"server_type": "cx23", "image": "ubuntu-24.04", "location": "nbg1", "name": "web-1"}
    (wall,) = walls(alice)
    other = alice.cloud("hetzner", "/servers", "POST", {**order, "firewalls": [{"firewall": wall["id"]}]})["server"]
    gone = alice.clawdet("destroy", "alice", "--yes", "--sandbox")
    assert gone.code == 0
    assert "the firewall clawdet protects servers that are not clawdet's, and was left there" in gone.err
    assert [one["id"] for one in walls(alice)] == [wall["id"]]
    alice.cloud("hetzner", f"/servers/{other['id']}", "DELETE")
    alice.cloud("hetzner", f"/firewalls/{wall['id']}", "DELETE")


def test_there_is_none_to_refresh_before_the_first_server(operator: Operator) -> None:
    said = refresh(operator, "--json")
    assert (said.code, said.document["firewall"]) == (0, None)
    assert "There is no firewall yet" in refresh(operator).out
    assert walls(operator) == []


@pytest.mark.parametrize(
    ("networks", "text"),
    [
        ("here", "--ssh-from has 'here', which is neither an address nor a network."),
        ("203.0.113.7/24", "--ssh-from has '203.0.113.7/24', which is an address within a network."),
        ("203.0.113.0/33", "neither an address nor a network"),
        ("", "--ssh-from has '', which is neither an address nor a network."),
    ],
)
def test_networks_that_are_none_are_refused_before_anything_is_asked(networks: str, text: str, alice: Operator) -> None:
    before = let_in(alice)
    said = refresh(alice, "--ssh-from", networks)
    assert said.code == 3, said.err
    assert text in said.err
    assert let_in(alice) == before


def test_a_single_address_is_a_network_of_one(alice: Operator) -> None:
    said = refresh(alice, "--json", "--ssh-from", "127.0.0.1,2001:db8::1")
    rules = {rule["port"]: rule["networks"] for rule in said.document["firewall"]["rules"]}
    assert rules["22"] == ["127.0.0.1/32", "2001:db8::1/128"]
