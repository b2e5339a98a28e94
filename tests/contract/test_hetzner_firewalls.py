"""Firewalls: what is accepted, where they hold, what passes."""

from typing import Any

import pytest
from hcloud import APIException, Client
from hcloud.firewalls import BoundFirewall, FirewallResource, FirewallResourceLabelSelector, FirewallRule
from hcloud.servers import Server

from clawdet_cli.sandbox.hetzner.api import firewall_allows
from tests.contract.hetzner_emulator import FOREVER, Emulator, eventually, id_of, order, order_running

SSH = FirewallRule("in", "tcp", ["203.0.113.0/24", "2001:db8::/32"], port="22", description="ssh")
WEB = FirewallRule("in", "tcp", ["0.0.0.0/0"], port="80-443")


def on(server: Server) -> FirewallResource:
    return FirewallResource(FirewallResource.TYPE_SERVER, server=server)


def where(selector: str) -> FirewallResource:
    return FirewallResource(
        FirewallResource.TYPE_LABEL_SELECTOR, label_selector=FirewallResourceLabelSelector(selector=selector)
    )


def firewalls_of(client: Client, server: Server) -> list[tuple[int, str]]:
    net = client.servers.get_by_id(id_of(server)).public_net
    assert net is not None
    return [(id_of(entry.firewall), str(entry.status)) for entry in net.firewalls or []]


def passes(hetzner: Emulator, server: Server, peer: str, port: int) -> bool:
    return firewall_allows(hetzner.state, id_of(server), peer, port)


def test_a_firewall_of_the_order_holds_at_once(hetzner: Emulator) -> None:
    hetzner.start(FOREVER)
    client = hetzner.client()
    firewall = client.firewalls.create(name="fw", rules=[SSH, WEB]).firewall
    server = order(client, firewalls=[firewall]).server
    assert firewalls_of(client, server) == [(firewall.id, "applied")]
    assert passes(hetzner, server, "203.0.113.9", 22)
    assert passes(hetzner, server, "2001:db8::1", 22)
    assert not passes(hetzner, server, "198.51.100.9", 22)
    assert [passes(hetzner, server, "198.51.100.9", port) for port in (79, 80, 443, 444)] == [False, True, True, False]


def test_without_a_firewall_all_passes_and_with_an_empty_one_nothing(hetzner: Emulator) -> None:
    client = hetzner.client()
    server = order(client).server
    assert passes(hetzner, server, "198.51.100.9", 18789)
    closed = order(client, "closed", firewalls=[client.firewalls.create(name="fw").firewall]).server
    assert not passes(hetzner, closed, "198.51.100.9", 22)
    assert not firewall_allows(hetzner.state, 1, "198.51.100.9", 22)


def test_only_inbound_tcp_rules_let_tcp_in(hetzner: Emulator) -> None:
    client = hetzner.client()
    rules = [
        FirewallRule("in", "udp", ["0.0.0.0/0"], port="22"),
        FirewallRule("in", "icmp", ["0.0.0.0/0"]),
        FirewallRule("out", "tcp", ["0.0.0.0/0"], destination_ips=["0.0.0.0/0"], port="22"),
    ]
    firewall = client.firewalls.create(name="fw", rules=rules).firewall
    server = order(client, firewalls=[firewall]).server
    assert not passes(hetzner, server, "203.0.113.9", 22)
    other = client.firewalls.create(name="any", rules=[FirewallRule("in", "tcp", ["0.0.0.0/0"], port="any")]).firewall
    other.apply_to_resources([on(server)])
    eventually(lambda: passes(hetzner, server, "203.0.113.9", 22))


def test_an_applied_firewall_is_pending_first(hetzner: Emulator) -> None:
    client = hetzner.client()
    server = order_running(client).server
    hetzner.start(FOREVER)
    client = hetzner.client()
    firewall = client.firewalls.create(name="fw").firewall
    (action,) = client.firewalls.apply_to_resources(firewall, [on(server)])
    assert (action.command, action.status) == ("apply_firewall", "running")
    assert firewalls_of(client, server) == [(firewall.id, "pending")]
    assert passes(hetzner, server, "198.51.100.9", 22)


def test_applying_and_removing(hetzner: Emulator) -> None:
    client = hetzner.client()
    server = order_running(client).server
    response = client.firewalls.create(name="fw", rules=[SSH], resources=[on(server)])
    firewall = response.firewall
    assert [action.command for action in response.actions or []] == ["set_firewall_rules", "apply_firewall"]
    eventually(lambda: firewalls_of(client, server) == [(firewall.id, "applied")])
    with pytest.raises(APIException) as caught:
        firewall.apply_to_resources([on(server)])
    assert caught.value.code == "firewall_already_applied"
    with pytest.raises(APIException) as caught:
        firewall.delete()
    assert (caught.value.code, caught.value.message) == (
        "resource_in_use",
        f"firewall with ID {firewall.id} is still in use",
    )
    (action,) = firewall.remove_from_resources([on(server)])
    action.wait_until_finished()
    assert firewalls_of(client, server) == []
    with pytest.raises(APIException) as caught:
        firewall.remove_from_resources([on(server)])
    assert caught.value.code == "firewall_resource_not_found"
    assert firewall.delete()


def test_new_rules_are_shown_at_once_and_hold_when_the_action_ends(hetzner: Emulator) -> None:
    client = hetzner.client()
    firewall = client.firewalls.create(name="fw", rules=[SSH]).firewall
    server = order(client, firewalls=[firewall]).server
    actions = firewall.set_rules([WEB])
    assert [action.command for action in actions] == ["set_firewall_rules", "apply_firewall"]
    assert [rule.port for rule in client.firewalls.get_by_id(id_of(firewall)).rules or []] == ["80-443"]
    for action in actions:
        action.wait_until_finished()
    assert passes(hetzner, server, "198.51.100.9", 443)
    assert not passes(hetzner, server, "203.0.113.9", 22)


def test_label_selectors_are_followed(hetzner: Emulator) -> None:
    client = hetzner.client()
    old = order_running(client, "old", labels={"role": "web"}).server
    firewall = client.firewalls.create(name="fw", rules=[SSH], resources=[where("role=web")]).firewall
    eventually(lambda: firewalls_of(client, old) == [(firewall.id, "applied")])
    new = order(client, "new", labels={"role": "web"}).server
    eventually(lambda: firewalls_of(client, new) == [(firewall.id, "applied")])
    with pytest.raises(APIException) as caught:
        firewall.remove_from_resources([on(new)])
    assert caught.value.code == "firewall_managed_by_label_selector"
    client.servers.update(new, labels={})
    eventually(lambda: firewalls_of(client, new) == [])
    (resource,) = client.firewalls.get_by_id(id_of(firewall)).applied_to or []
    assert [id_of(entry.server) for entry in resource.applied_to_resources or []] == [old.id]
    firewall.remove_from_resources([where("role=web")])
    eventually(lambda: firewalls_of(client, old) == [])


def test_a_server_takes_five_firewalls(hetzner: Emulator) -> None:
    client = hetzner.client()
    made: list[BoundFirewall] = [client.firewalls.create(name=f"fw{number}").firewall for number in range(6)]
    with pytest.raises(APIException) as caught:
        order(client, firewalls=made)
    assert caught.value.code == "resource_limit_exceeded"
    server = order_running(client, firewalls=made[:5]).server
    with pytest.raises(APIException) as caught:
        made[5].apply_to_resources([on(server)])
    assert caught.value.code == "resource_limit_exceeded"


def test_names_are_unique_and_labels_checked(hetzner: Emulator) -> None:
    client = hetzner.client()
    firewall = client.firewalls.create(name="fw").firewall
    with pytest.raises(APIException) as caught:
        client.firewalls.create(name="fw")
    assert caught.value.code == "uniqueness_error"
    with pytest.raises(APIException):
        firewall.update(labels={"a": "b@c"})
    assert firewall.update(name="renamed", labels={}).name == "renamed"


GOOD: dict[str, Any] = {"direction": "in", "protocol": "tcp", "port": "22", "source_ips": ["0.0.0.0/0"]}


@pytest.mark.parametrize(
    "changes",
    [
        {"direction": "up"},
        {"protocol": "sctp"},
        {"port": None},
        {"protocol": "icmp"},
        {"port": "0"},
        {"port": "65536"},
        {"port": "90-80"},
        {"port": "1-2-3"},
        {"port": "ssh"},
        {"port": 22},
        {"source_ips": []},
        {"source_ips": ["10.0.0.1/8"]},
        {"source_ips": ["10.0.0.1"]},
        {"source_ips": ["text"]},
        {"source_ips": ["10.0.0.0/8"] * 101},
        {"description": "x" * 256},
        {"comment": "x"},
    ],
)
def test_a_bad_rule_is_refused(hetzner: Emulator, changes: dict[str, Any]) -> None:
    answer = hetzner.http("POST", "/v1/firewalls", json={"name": "fw", "rules": [GOOD, {**GOOD, **changes}]})
    assert (answer.status_code, answer.json()["error"]["code"]) == (422, "invalid_input")
    assert hetzner.client().firewalls.get_all() == []


def test_fifty_rules_are_enough(hetzner: Emulator) -> None:
    for count, status in ((50, 201), (51, 422)):
        answer = hetzner.http("POST", "/v1/firewalls", json={"name": f"fw{count}", "rules": [GOOD] * count})
        assert answer.status_code == status
