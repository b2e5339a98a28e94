"""POST /servers: what it answers, what it refuses, what comes of it."""

import pytest
from hcloud import APIException
from hcloud.images import Image
from hcloud.locations import Location
from hcloud.servers import Server, ServerCreatePublicNetwork

from tests.contract.hetzner_emulator import (
    FOREVER,
    OTHER_PROJECT,
    Emulator,
    eventually,
    id_of,
    order,
    order_running,
    public_key,
    refused,
)

BODY = {"name": "web-1", "server_type": "cpx22", "image": "ubuntu-24.04", "location": "nbg1"}


def error_of(hetzner: Emulator, **changes: object) -> tuple[int, str, str]:
    answer = hetzner.http("POST", "/v1/servers", json={**BODY, **changes})
    error = answer.json()["error"]
    return answer.status_code, error["code"], error["message"]


def test_the_answer_comes_at_once_with_the_address_and_two_running_actions(hetzner: Emulator) -> None:
    hetzner.start(FOREVER)
    key = hetzner.client().ssh_keys.create(name="k", public_key=public_key())
    response = order(hetzner.client(), ssh_keys=[key], user_data="#cloud-config\n", labels={"user": "alice"})
    server = response.server
    assert (server.status, server.locked, server.labels) == ("initializing", False, {"user": "alice"})
    assert server.public_net is not None
    assert server.public_net.ipv4 is not None
    assert server.public_net.ipv4.ip == "127.18.0.1"
    assert response.root_password is None
    assert response.action.command == "create_server"
    assert [action.command for action in response.next_actions] == ["start_server"]
    answer = hetzner.http("GET", f"/v1/actions?id={response.next_actions[0].id}").json()
    assert answer["actions"][0]["parent_id"] == response.action.id


def test_the_machine_is_booted_from_what_the_order_said(hetzner: Emulator) -> None:
    client = hetzner.client()
    key = client.ssh_keys.create(name="k", public_key=public_key())
    server = order_running(client, ssh_keys=[key], user_data="#cloud-config\n").server
    assert server.status == Server.STATUS_RUNNING
    spec = hetzner.machines.specs[id_of(server)]
    assert (spec.name, spec.ipv4, spec.image) == ("web-1", "127.18.0.1", "ubuntu-24.04")
    assert (spec.user_data, spec.public_keys) == ("#cloud-config\n", (key.public_key,))


def test_running_comes_when_the_machine_is_powered(hetzner: Emulator) -> None:
    hetzner.machines.hold_boots = True
    response = order(hetzner.client())
    response.action.wait_until_finished()
    eventually(lambda: hetzner.machines.calls)
    response.server.reload()
    assert response.server.status == "starting"
    assert hetzner.client().actions.get_by_id(response.next_actions[0].id).status == "running"
    hetzner.machines.hold_boots = False
    response.next_actions[0].wait_until_finished()
    response.server.reload()
    assert response.server.status == "running"


def test_without_a_key_there_is_a_password(hetzner: Emulator) -> None:
    assert order(hetzner.client()).root_password


def test_a_server_may_stay_off(hetzner: Emulator) -> None:
    client = hetzner.client()
    response = order(client, start_after_create=False)
    assert response.next_actions == []
    response.action.wait_until_finished()
    response.server.reload()
    assert response.server.status == "off"
    assert hetzner.machines.calls == []


def test_a_location_is_chosen_when_none_is_given(hetzner: Emulator) -> None:
    hetzner.knobs(sold_out=[["cpx22", "fsn1"]])
    server = order(hetzner.client(), location=None).server
    assert server.location is not None
    assert server.location.name == "nbg1"


def test_ids_work_for_names(hetzner: Emulator) -> None:
    answer = hetzner.http(
        "POST", "/v1/servers", json={"name": "a", "server_type": 109, "image": 161547269, "location": 2}
    )
    assert answer.status_code == 201
    assert answer.json()["server"]["server_type"]["name"] == "cpx22"


@pytest.mark.parametrize("name", ["under_score", "-a", "a-", "", "a..b", "a b", "ä", "x" * 64, "a/b"])
def test_a_name_that_is_no_host_name_is_refused(hetzner: Emulator, name: str) -> None:
    answer = hetzner.http("POST", "/v1/servers", json={**BODY, "name": name})
    assert answer.status_code == 422
    assert answer.json()["error"] == {
        "code": "invalid_input",
        "message": "invalid input in field 'name'",
        "details": {"fields": [{"name": "name", "messages": ["Name must be a valid hostname."]}]},
    }


@pytest.mark.parametrize("name", ["a", "A1", "web.example.com", "x" * 63])
def test_a_host_name_is_accepted(hetzner: Emulator, name: str) -> None:
    assert order(hetzner.client(), name).server.name == name


@pytest.mark.parametrize(
    "labels",
    [
        {"user": "a@b.de"},
        {"time": "12:00"},
        {"v": "x" * 64},
        {"x" * 64: "v"},
        {"": "v"},
        {"hetzner.cloud/a": "v"},
        {"UP.example/a": "v"},
        {"a": "-b"},
        {"a": 1},
    ],
)
def test_labels_outside_the_alphabet_are_refused(hetzner: Emulator, labels: dict[str, object]) -> None:
    assert error_of(hetzner, labels=labels) == (422, "invalid_input", "invalid input in field 'labels'")


def test_labels_within_it_are_kept(hetzner: Emulator) -> None:
    labels = {"managed-by": "clawdet", "example.com/a_b.c": "", "v": "x" * 63}
    assert order(hetzner.client(), labels=labels).server.labels == labels


def test_user_data_ends_at_32_kib(hetzner: Emulator) -> None:
    assert order(hetzner.client(), user_data="x" * 32768).server
    status, _, message = error_of(hetzner, name="b", user_data="x" * 32769)
    assert (status, message) == (422, "invalid input in field 'user_data'")


def test_an_unknown_field_is_refused(hetzner: Emulator) -> None:
    expected = (422, "invalid_input", "invalid input: unknown field name 'labelkey'")
    assert error_of(hetzner, labelkey="x") == expected
    assert error_of(hetzner, datacenter="nbg1-dc3")[2] == "invalid input: unknown field name 'datacenter'"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"name": None}, "invalid input in field 'name'"),
        ({"name": 1, "image": None}, "invalid input in fields 'name', 'image'"),
        ({"start_after_create": "yes"}, "invalid input in field 'start_after_create'"),
        ({"placement_group": True}, "invalid input in field 'placement_group'"),
        ({"ssh_keys": ["missing"]}, "invalid input in field 'ssh_keys'"),
        ({"firewalls": [{"firewall": 1}]}, "invalid input in field 'firewalls'"),
        ({"location": "mars"}, "invalid input in field 'location'"),
        ({"server_type": "cx99"}, "invalid server type"),
        ({"image": "windows"}, "image not found"),
        ({"server_type": "cx23", "location": "sin"}, "unsupported location for server type"),
        ({"server_type": "cx22"}, "server type 104 is deprecated"),
        ({"server_type": "cpx11"}, "server type 22 is deprecated"),
        ({"server_type": "cax11", "image": 161547269}, "image architecture does not match server type architecture"),
        ({"public_net": {"enable_ipv4": False, "enable_ipv6": False}}, "server needs a public or a private network"),
    ],
)
def test_what_cannot_be_is_refused(hetzner: Emulator, changes: dict[str, object], message: str) -> None:
    assert error_of(hetzner, **changes) == (422, "invalid_input", message)
    assert hetzner.client().servers.get_all() == []
    assert len(hetzner.machines.free) == 200


def test_an_old_type_is_still_sold_where_it_is_not_deprecated(hetzner: Emulator) -> None:
    assert order(hetzner.client(), server_type="cpx11", location=Location(name="ash")).server.id


def test_an_arm_server_gets_the_arm_image_of_the_name(hetzner: Emulator) -> None:
    server = order(hetzner.client(), server_type="cax11").server
    assert server.image is not None
    assert server.image.architecture == "arm"


def test_a_name_is_unique_in_the_project_only(hetzner: Emulator) -> None:
    order(hetzner.client())
    with pytest.raises(APIException) as caught:
        order(hetzner.client())
    assert refused(caught.value, "uniqueness_error", "server name is already used")
    assert order(hetzner.client(OTHER_PROJECT)).server.id


def test_a_kept_primary_ip_is_used(hetzner: Emulator) -> None:
    client = hetzner.client()
    kept = client.primary_ips.create(type="ipv4", name="kept", location=Location(name="nbg1")).primary_ip
    response = order_running(client, public_net=ServerCreatePublicNetwork(ipv4=kept, enable_ipv6=False))
    assert response.server.public_net is not None
    assert response.server.public_net.ipv4 is not None
    assert response.server.public_net.ipv4.ip == kept.ip
    assert response.server.public_net.ipv6 is None
    assert hetzner.machines.specs[id_of(response.server)].ipv4 == kept.ip
    response.server.delete().wait_until_finished()
    eventually(lambda: client.primary_ips.get_by_id(id_of(kept)).assignee_type == "unassigned")
    assert client.primary_ips.get_by_id(id_of(kept)).assignee_id is None


@pytest.mark.parametrize(
    ("version", "location", "assigned", "expected"),
    [
        ("ipv6", "nbg1", False, (412, "primary_ip_version_mismatch")),
        ("ipv4", "fsn1", False, (422, "primary_ip_datacenter_mismatch")),
        ("ipv4", "nbg1", True, (422, "primary_ip_assigned")),
    ],
)
def test_a_primary_ip_that_does_not_fit_is_refused(
    hetzner: Emulator, version: str, location: str, assigned: bool, expected: tuple[int, str]
) -> None:
    client = hetzner.client()
    kept = client.primary_ips.create(type=version, name="kept", location=Location(name=location)).primary_ip
    if assigned:
        order(client, public_net=ServerCreatePublicNetwork(ipv4=kept))
    assert error_of(hetzner, name="b", public_net={"ipv4": kept.id})[:2] == expected


def test_without_a_free_address_nothing_is_ordered(hetzner: Emulator) -> None:
    hetzner.machines.free.clear()
    expected = (403, "resource_limit_exceeded", "Primary IP limit exceeded")
    assert error_of(hetzner) == expected
    assert hetzner.client().servers.get_all() == []
    assert hetzner.client().primary_ips.get_all() == []


def test_a_server_can_do_without_ipv4(hetzner: Emulator) -> None:
    server = order_running(hetzner.client(), public_net=ServerCreatePublicNetwork(enable_ipv4=False)).server
    assert server.public_net is not None
    assert server.public_net.ipv4 is None
    assert hetzner.machines.specs[id_of(server)].ipv4 == ""


def test_a_placement_group_takes_ten(hetzner: Emulator) -> None:
    client = hetzner.client()
    group = client.placement_groups.create(name="spread", type="spread").placement_group
    for number in range(10):
        order(client, f"web-{number}", placement_group=group)
    assert len(client.placement_groups.get_by_id(id_of(group)).servers or []) == 10
    assert error_of(hetzner, name="b", placement_group=group.id)[:2] == (422, "placement_error")
    with pytest.raises(APIException) as caught:
        client.placement_groups.delete(group)
    assert caught.value.code == "resource_in_use"


def test_a_snapshot_of_a_larger_disk_does_not_fit(hetzner: Emulator) -> None:
    client = hetzner.client()
    server = order_running(client).server
    snapshot = server.create_image(description="golden", type="snapshot", labels={"role": "golden"})
    snapshot.action.wait_until_finished()
    order(client, "same-size", image=Image(id=snapshot.image.id))
    order(client, "larger", server_type="cpx32", image=Image(id=snapshot.image.id))
    assert error_of(hetzner, name="b", server_type="cx23", image=snapshot.image.id) == (
        422,
        "invalid_input",
        "image disk is bigger than server type disk",
    )
