"""Primary IPs, alone and with servers."""

import pytest
from hcloud import APIException, Client
from hcloud.locations import Location
from hcloud.primary_ips import BoundPrimaryIP
from hcloud.servers import ServerCreatePublicNetwork

from tests.contract.hetzner_emulator import Emulator, eventually, id_of, order, order_running

NBG1 = Location(name="nbg1")


def make(client: Client, name: str = "kept", version: str = "ipv4") -> BoundPrimaryIP:
    return client.primary_ips.create(type=version, name=name, location=NBG1, auto_delete=False).primary_ip


def code_of(call: object, *args: object) -> str:
    with pytest.raises(APIException) as caught:
        call(*args)  # type: ignore[operator]  # any bound method of the SDK
    return str(caught.value.code)


def test_one_lives_without_a_server(hetzner: Emulator) -> None:
    client = hetzner.client()
    record = make(client)
    assert (record.ip, record.assignee_type, record.assignee_id) == ("127.18.0.1", "unassigned", None)
    assert record.location is not None
    assert record.location.name == "nbg1"
    assert code_of(make, client) == "uniqueness_error"
    found = client.primary_ips.get_by_name("kept")
    assert found is not None
    assert found.update(name="other", auto_delete=True, labels={"a": "b"}).name == "other"
    record.change_dns_ptr("127.18.0.1", "alice.example.com").wait_until_finished()
    record.reload()
    assert record.dns_ptr == [{"ip": "127.18.0.1", "dns_ptr": "alice.example.com"}]
    record.change_protection(delete=True)
    assert code_of(record.delete) == "protected"
    record.change_protection(delete=False)
    assert record.delete()
    assert hetzner.machines.free[-1] == "127.18.0.1"


def test_a_server_gets_its_own_and_they_go_with_it(hetzner: Emulator) -> None:
    client = hetzner.client()
    server = order_running(client).server
    records = client.primary_ips.get_all()
    assert [(record.type, record.assignee_id, record.auto_delete) for record in records] == [
        ("ipv4", server.id, True),
        ("ipv6", server.id, True),
    ]
    assert code_of(records[0].delete) == "must_be_unassigned"
    server.delete()
    eventually(lambda: client.primary_ips.get_all() == [])


def test_assigning_needs_a_server_that_is_off(hetzner: Emulator) -> None:
    client = hetzner.client()
    server = order_running(client, public_net=ServerCreatePublicNetwork(enable_ipv4=False)).server
    record = make(client)
    assert code_of(record.assign, server.id, "server") == "server_not_stopped"
    server.power_off().wait_until_finished()
    record.assign(id_of(server), "server").wait_until_finished()
    record.reload()
    assert record.assignee_id == server.id
    assert code_of(record.assign, server.id, "server") == "primary_ip_already_assigned"
    assert code_of(make(client, "second").assign, server.id, "server") == "server_has_ipv4"
    server.power_on().wait_until_finished()
    assert hetzner.machines.specs[id_of(server)].ipv4 == record.ip
    assert code_of(record.unassign) == "server_not_stopped"
    server.power_off().wait_until_finished()
    record.unassign().wait_until_finished()
    record.reload()
    assert record.assignee_type == "unassigned"


def test_the_order_of_one_for_a_server(hetzner: Emulator) -> None:
    client = hetzner.client()
    server = order(client, public_net=ServerCreatePublicNetwork(enable_ipv4=False), start_after_create=False)
    server.action.wait_until_finished()
    response = client.primary_ips.create(type="ipv4", name="kept", assignee_id=server.server.id, assignee_type="server")
    assert response.action is not None
    response.action.wait_until_finished()
    assert response.primary_ip.assignee_id == server.server.id


@pytest.mark.parametrize(
    "changes", [{"type": "ipv5"}, {"location": "mars"}, {"location": None}, {"datacenter": "nbg1-dc3"}, {"name": ""}]
)
def test_what_cannot_be_is_refused(hetzner: Emulator, changes: dict[str, object]) -> None:
    body = {"name": "kept", "type": "ipv4", "location": "nbg1", **changes}
    answer = hetzner.http("POST", "/v1/primary_ips", json=body)
    assert (answer.status_code, answer.json()["error"]["code"]) == (422, "invalid_input")
