"""Servers after their order: power, names, deletion, and what keeps calls apart."""

from contextlib import suppress

import pytest
from hcloud import APIException, Client
from hcloud.firewalls import Firewall, FirewallRule
from hcloud.images import Image
from hcloud.server_types import ServerType
from hcloud.servers import Server

from clawdet_cli.sandbox.hetzner import actions
from tests.contract.hetzner_emulator import (
    FOREVER,
    Emulator,
    eventually,
    id_of,
    order,
    order_running,
    public_key,
    refused,
)


def status(client: Client, server: Server) -> str:
    return str(client.servers.get_by_id(id_of(server)).status)


def gone(client: Client, server: Server) -> bool:
    return client.servers.get_all(name=server.name) == []


def test_an_unknown_server_is_a_404(hetzner: Emulator) -> None:
    answer = hetzner.http("GET", "/v1/servers/1")
    expected = {"code": "not_found", "message": "server with ID '1' not found", "details": None}
    assert (answer.status_code, answer.json()["error"]) == (404, expected)


def test_a_deletion_frees_the_name_the_address_and_the_machine(hetzner: Emulator) -> None:
    client = hetzner.client()
    server = order_running(client).server
    action = server.delete()
    assert action.command == "delete_server"
    action.wait_until_finished()
    assert gone(client, server)
    assert hetzner.machines.calls[-1] == ("remove", server.id)
    eventually(lambda: len(hetzner.machines.free) == 200)
    assert client.primary_ips.get_all() == []
    eventually(lambda: "_detach" not in [a["command"] for a in hetzner.state["projects"]["one"]["action"].values()])
    assert order(client).server.id != server.id


def test_old_actions_of_what_is_gone_are_forgotten_and_no_others(
    hetzner: Emulator, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(actions, "KEPT", 5)
    monkeypatch.setattr(actions, "_FORGET_EVERY", 2)
    client = hetzner.client()
    kept = order_running(client, name="kept")
    ended = [order_running(client, name=f"gone-{number}").server.delete() for number in range(2)]
    for action in ended:
        action.wait_until_finished()
    assert client.actions.get_by_id(kept.action.id).status == "success"
    assert client.actions.get_by_id(ended[-1].id).status == "success"
    known = hetzner.state["projects"]["one"]["action"].values()
    of_kept = [one for one in known if {"id": kept.server.id, "type": "server"} in one["resources"]]
    assert len(known) - len(of_kept) == 5
    assert all(one in known for one in of_kept)


def test_the_name_stays_taken_while_the_deletion_runs(hetzner: Emulator) -> None:
    client = hetzner.client()
    server = order_running(client).server
    hetzner.knobs(delete_seconds=FOREVER)
    server.delete()
    assert status(client, server) == "deleting"
    with pytest.raises(APIException) as caught:
        order(client)
    assert refused(caught.value, "uniqueness_error", "server name is already used")
    with pytest.raises(APIException) as caught:
        server.delete()
    assert caught.value.code == "locked"


def test_addresses_leave_later_than_the_server(hetzner: Emulator) -> None:
    client = hetzner.client()
    server = order_running(client).server
    hetzner.knobs(release_seconds=FOREVER)
    server.delete().wait_until_finished()
    assert gone(client, server)
    assert len(client.primary_ips.get_all()) == 2
    assert len(hetzner.machines.free) == 199


def test_a_firewall_is_in_use_for_a_while_after_its_last_server(hetzner: Emulator) -> None:
    client = hetzner.client()
    firewall = behind_a_firewall_and_deleted(hetzner, firewall_release_seconds=FOREVER, applied_to_seconds=0)
    eventually(lambda: client.firewalls.get_by_id(firewall).applied_to == [])
    with pytest.raises(APIException) as caught:
        client.firewalls.delete(Firewall(id=firewall))
    assert refused(caught.value, "resource_in_use", f"firewall with ID {firewall} is still in use")


def test_a_firewall_lists_a_deleted_server_when_it_is_free_already(hetzner: Emulator) -> None:
    client = hetzner.client()
    firewall = behind_a_firewall_and_deleted(hetzner, firewall_release_seconds=0, applied_to_seconds=FOREVER)
    (listed,) = client.firewalls.get_by_id(firewall).applied_to or []
    assert listed.server is not None
    assert client.servers.get_all() == []

    def deleted() -> bool:
        with suppress(APIException):
            client.firewalls.delete(Firewall(id=firewall))
        return client.firewalls.get_all() == []

    eventually(deleted)


def test_both_end_by_themselves_and_over_a_restart(hetzner: Emulator) -> None:
    firewall = behind_a_firewall_and_deleted(hetzner, firewall_release_seconds=FOREVER, applied_to_seconds=FOREVER)
    hetzner.finish_running_actions()
    client = hetzner.start().client()
    eventually(lambda: client.firewalls.get_by_id(firewall).applied_to == [])
    eventually(lambda: not hetzner.state["projects"]["one"]["firewall"][str(firewall)]["_lagging"])
    assert client.firewalls.delete(Firewall(id=firewall))


def behind_a_firewall_and_deleted(hetzner: Emulator, **knobs: float) -> int:
    """Return the id of a firewall whose only server is gone."""
    client = hetzner.client()
    rule = FirewallRule("in", "tcp", ["0.0.0.0/0"], port="22")
    firewall = client.firewalls.create(name="fw", rules=[rule]).firewall
    server = order_running(client, firewalls=[firewall]).server
    hetzner.knobs(**knobs)
    server.delete().wait_until_finished()
    assert gone(client, server)
    return id_of(firewall)


def test_a_data_center_is_shown_only_where_a_test_asks_for_it(hetzner: Emulator) -> None:
    server = order_running(hetzner.client()).server
    path = f"/v1/servers/{server.id}"
    assert "datacenter" not in hetzner.http("GET", path).json()["server"]
    hetzner.knobs(with_datacenter=True)
    shown = hetzner.http("GET", path).json()["server"]["datacenter"]
    assert (shown["name"], shown["location"]["name"]) == ("nbg1-dc3", "nbg1")


def test_prices_are_in_the_currency_of_the_account(hetzner: Emulator) -> None:
    assert hetzner.http("GET", "/v1/pricing").json()["pricing"]["currency"] == "EUR"
    hetzner.knobs(currency="USD")
    assert hetzner.http("GET", "/v1/pricing").json()["pricing"]["currency"] == "USD"


def test_a_server_that_is_initializing_can_be_deleted(hetzner: Emulator) -> None:
    hetzner.start(FOREVER)
    client = hetzner.client()
    hetzner.knobs(delete_seconds=0)
    response = order(client)
    response.server.delete().wait_until_finished()
    assert gone(client, response.server)
    assert client.actions.get_by_id(response.action.id).status == "error"


def test_a_running_action_locks_the_server(hetzner: Emulator) -> None:
    client = hetzner.client()
    server = order_running(client).server
    hetzner.start(FOREVER)
    client = hetzner.client()
    eventually(lambda: status(client, server) == "running")
    client.servers.power_off(server)
    for call in (client.servers.power_on, client.servers.delete, client.servers.reboot):
        with pytest.raises(APIException) as caught:
            call(server)
        assert refused(caught.value, "locked", "cannot perform operation because server is locked")
    assert client.servers.get_by_id(id_of(server)).locked
    assert client.servers.update(server, labels={"a": "b"}).labels == {"a": "b"}


def test_protection_is_lifted_before_a_deletion(hetzner: Emulator) -> None:
    client = hetzner.client()
    server = order_running(client).server
    assert (
        hetzner.http("POST", f"/v1/servers/{server.id}/actions/change_protection", json={"delete": True}).status_code
        == 422
    )
    server.change_protection(delete=True, rebuild=True).wait_until_finished()
    with pytest.raises(APIException) as caught:
        server.delete()
    assert refused(caught.value, "protected", "server deletion is protected")
    with pytest.raises(APIException) as caught:
        server.rebuild(Image(name="debian-13"))
    assert caught.value.code == "protected"
    server.change_protection(delete=False, rebuild=False)
    server.delete().wait_until_finished()
    assert gone(client, server)


def test_labels_are_replaced_as_a_whole_and_names_checked(hetzner: Emulator) -> None:
    client = hetzner.client()
    server = order_running(client, labels={"a": "1", "b": "2"}).server
    order(client, "taken")
    updated = client.servers.update(server, name="renamed", labels={"c": "3"})
    assert (updated.name, updated.labels) == ("renamed", {"c": "3"})
    for name, code in (("taken", "uniqueness_error"), ("not_ok", "invalid_input")):
        with pytest.raises(APIException) as caught:
            client.servers.update(server, name=name)
        assert caught.value.code == code
    assert client.servers.update(server, name="renamed").name == "renamed"


def test_power_goes_off_and_on(hetzner: Emulator) -> None:
    client = hetzner.client()
    server = order_running(client).server
    server.power_off().wait_until_finished()
    assert status(client, server) == "off"
    server.power_on().wait_until_finished()
    assert status(client, server) == "running"
    server.reboot().wait_until_finished()
    server.reset().wait_until_finished()
    assert status(client, server) == "running"
    assert [call for call, _ in hetzner.machines.calls] == [
        "boot",
        "poweroff",
        "boot",
        "shutdown",
        "boot",
        "poweroff",
        "boot",
    ]


def test_a_shutdown_succeeds_before_the_server_is_off(hetzner: Emulator) -> None:
    client = hetzner.client()
    server = order_running(client).server
    server.shutdown().wait_until_finished()
    eventually(lambda: status(client, server) == "off")
    assert hetzner.machines.calls[-1] == ("shutdown", server.id)


def test_a_guest_may_ignore_a_shutdown_but_no_poweroff(hetzner: Emulator) -> None:
    client = hetzner.client()
    server = order_running(client).server
    hetzner.knobs(shutdown_ignored=True)
    server.shutdown().wait_until_finished()
    assert status(client, server) == "running"
    server.power_off().wait_until_finished()
    assert status(client, server) == "off"


def test_a_poweroff_overtakes_a_shutdown(hetzner: Emulator) -> None:
    client = hetzner.client()
    server = order_running(client).server
    hetzner.start(50.0)  # a shutdown takes 10 s, a power off 5 s: neither ends here
    client = hetzner.client()
    eventually(lambda: status(client, server) == "running")
    client.servers.shutdown(server).wait_until_finished()
    assert status(client, server) == "stopping"
    assert client.servers.power_off(server).status == "running"
    eventually(lambda: "_halt" not in [a["command"] for a in hetzner.state["projects"]["one"]["action"].values()])


def test_a_type_is_changed_when_the_server_is_off(hetzner: Emulator) -> None:
    client = hetzner.client()
    server = order_running(client).server
    larger = ServerType(name="cpx32")
    with pytest.raises(APIException) as caught:
        server.change_type(larger, upgrade_disk=False)
    assert caught.value.code == "server_not_stopped"
    server.power_off().wait_until_finished()
    for misfit in ("cx23", "cax31"):
        with pytest.raises(APIException) as caught:
            server.change_type(ServerType(name=misfit), upgrade_disk=False)
        assert caught.value.code == "invalid_server_type"
    server.change_type(larger, upgrade_disk=False).wait_until_finished()
    server.reload()
    assert server.server_type is not None
    assert (server.server_type.name, server.primary_disk_size) == ("cpx32", 80)
    server.change_type(ServerType(name="cpx42"), upgrade_disk=True).wait_until_finished()
    server.reload()
    assert server.primary_disk_size == 320


def test_a_snapshot_is_creating_and_then_available_and_survives(hetzner: Emulator) -> None:
    client = hetzner.client()
    server = order_running(client).server
    response = server.create_image(description="golden", type="snapshot", labels={"role": "golden"})
    assert (response.image.status, response.image.name) == ("creating", None)
    assert response.image.image_size is None
    response.action.wait_until_finished()
    server.delete().wait_until_finished()
    (image,) = client.images.get_all(type=["snapshot"], label_selector="role=golden")
    assert (image.status, image.disk_size) == ("available", 80)
    assert image.image_size
    order_running(client, "from-snapshot", image=image)
    image.change_protection(delete=True).wait_until_finished()
    with pytest.raises(APIException) as caught:
        image.delete()
    assert refused(caught.value, "protected", "snapshot deletion is protected")
    image.change_protection(delete=False)
    assert image.update(description="old").description == "old"
    assert image.delete()


def test_a_rebuild_starts_from_the_new_image(hetzner: Emulator) -> None:
    client = hetzner.client()
    key = client.ssh_keys.create(name="k", public_key=public_key())
    server = order_running(client, ssh_keys=[key], user_data="first").server
    response = server.rebuild(Image(name="debian-13"))
    response.action.wait_until_finished()
    server.reload()
    assert server.status == "running"
    assert server.image is not None
    assert server.image.name == "debian-13"
    assert hetzner.machines.calls[-2:] == [("remove", server.id), ("boot", server.id)]
    spec = hetzner.machines.specs[id_of(server)]
    assert (spec.image, spec.user_data, spec.public_keys) == ("debian-13", "first", (key.public_key,))


def test_the_rest_of_the_actions(hetzner: Emulator) -> None:
    client = hetzner.client()
    server = order_running(client).server
    assert server.reset_password().root_password
    rescue = server.enable_rescue(type="linux64")
    rescue.action.wait_until_finished()
    server.reload()
    assert rescue.root_password
    assert server.rescue_enabled
    server.disable_rescue().wait_until_finished()
    server.change_dns_ptr("127.18.0.1", "alice.example.com").wait_until_finished()
    server.reload()
    assert server.public_net is not None
    assert server.public_net.ipv4 is not None
    assert server.public_net.ipv4.dns_ptr == "alice.example.com"
    with pytest.raises(APIException):
        server.change_dns_ptr("127.18.0.2", "bob.example.com")
    commands = [action.command for action in server.get_actions()]
    assert commands == [
        "create_server",
        "start_server",
        "reset_password",
        "enable_rescue",
        "disable_rescue",
        "change_dns_ptr",
    ]


def test_actions_are_read_by_resource_and_in_batches_but_not_all(hetzner: Emulator) -> None:
    client = hetzner.client()
    response = order_running(client)
    ids = [response.action.id, response.next_actions[0].id]
    answer = hetzner.http("GET", "/v1/actions", params={"id": ids})
    assert [action["status"] for action in answer.json()["actions"]] == ["success", "success"]
    assert hetzner.http("GET", "/v1/actions").status_code == 410
    assert client.servers.actions.get_by_id(ids[0]).command == "create_server"
    assert hetzner.http("GET", f"/v1/servers/{response.server.id}/actions/{ids[0]}").status_code == 200
    assert hetzner.http("GET", f"/v1/primary_ips/actions/{ids[0]}").status_code == 404
    assert client.servers.get_actions(response.server, status=["running"]) == []


def test_every_change_is_reported_to_whoever_saves(hetzner: Emulator) -> None:
    order_running(hetzner.client())
    before = hetzner.changes
    assert before >= 3  # the order and the end of two actions
    hetzner.client().servers.get_all()
    assert hetzner.changes == before
