"""The knobs: what the provider can do to us."""

import pytest
from hcloud import APIException
from hcloud.actions import ActionFailedException

from tests.contract.hetzner_emulator import FOREVER, OTHER_PROJECT, Emulator, id_of, order, order_running, refused


def test_a_sold_out_pair_is_a_412_and_not_available(hetzner: Emulator) -> None:
    client = hetzner.client()
    hetzner.knobs(sold_out=[["cpx22", "nbg1"]])
    with pytest.raises(APIException) as caught:
        order(client)
    assert refused(caught.value, "resource_unavailable", "error during placement")
    assert client.primary_ips.get_all() == []
    assert order(client, server_type="cx23").server.id
    server_type = client.server_types.get_by_name("cpx22")
    assert server_type is not None
    flags = {place.location.name: place.available for place in server_type.locations or []}
    assert (flags["nbg1"], flags["fsn1"]) == (False, True)


def test_availability_can_lie(hetzner: Emulator) -> None:
    hetzner.knobs(available_inverted=["cx23"])
    server_type = hetzner.client().server_types.get_by_name("cx23")
    assert server_type is not None
    assert not any(place.available for place in server_type.locations or [])
    assert order(hetzner.client(), server_type="cx23").server.id


def test_the_server_limit_counts_the_whole_account(hetzner: Emulator) -> None:
    hetzner.knobs(server_limit=1)
    order(hetzner.client(OTHER_PROJECT))
    with pytest.raises(APIException) as caught:
        order(hetzner.client())
    assert refused(caught.value, "resource_limit_exceeded", "server limit exceeded")
    assert caught.value.details == {"limits": [{"name": "server_limit"}]}


def test_the_primary_ip_limit(hetzner: Emulator) -> None:
    hetzner.knobs(primary_ip_limit=3)
    order(hetzner.client())
    with pytest.raises(APIException) as caught:
        order(hetzner.client(), "second")
    assert refused(caught.value, "resource_limit_exceeded", "Primary IP limit exceeded")


def test_a_create_action_fails_and_so_does_what_follows(hetzner: Emulator) -> None:
    client = hetzner.client()
    hetzner.knobs(action_error={"create_server": "server_error"})
    response = order(client)
    with pytest.raises(ActionFailedException) as caught:
        response.action.wait_until_finished()
    assert caught.value.action.error is not None
    assert caught.value.action.error["code"] == "server_error"
    with pytest.raises(ActionFailedException):
        response.next_actions[0].wait_until_finished()
    assert hetzner.machines.calls == []
    response.server.delete().wait_until_finished()
    order_running(client)


def test_a_start_action_fails_n_times(hetzner: Emulator) -> None:
    client = hetzner.client()
    hetzner.knobs(action_error={"start_server": {"code": "timeout", "times": 2}})
    response = order(client)
    response.action.wait_until_finished()
    with pytest.raises(ActionFailedException):
        response.next_actions[0].wait_until_finished()
    response.server.reload()
    assert response.server.status == "off"
    with pytest.raises(ActionFailedException):
        response.server.power_on().wait_until_finished()
    response.server.power_on().wait_until_finished()


def test_a_machine_that_fails_is_a_failed_action(hetzner: Emulator) -> None:
    async def broken(_spec: object) -> None:
        raise RuntimeError("no disk")

    hetzner.machines.boot = broken  # type: ignore[method-assign,assignment]  # the machine breaks
    response = order(hetzner.client())
    with pytest.raises(ActionFailedException) as caught:
        response.next_actions[0].wait_until_finished()
    assert caught.value.action.error is not None
    assert caught.value.action.error["code"] == "action_failed"
    response.server.reload()
    assert response.server.status == "off"


def test_a_server_can_get_stuck_and_be_deleted(hetzner: Emulator) -> None:
    client = hetzner.client()
    hetzner.knobs(stuck_initializing=True)
    stuck = order(client)
    hetzner.knobs(stuck_initializing=False)
    order_running(client, "next")
    stuck.server.reload()
    stuck.action.reload()
    assert (stuck.server.status, stuck.action.status) == ("initializing", "running")
    stuck.server.delete().wait_until_finished()
    assert client.servers.get_by_name("web-1") is None


def test_a_server_can_run_without_a_machine(hetzner: Emulator) -> None:
    hetzner.knobs(boot_never=True)
    assert order_running(hetzner.client()).server.status == "running"
    assert hetzner.machines.calls == []


def test_an_ipv4_can_be_missing(hetzner: Emulator) -> None:
    hetzner.knobs(no_ipv4=True)
    server = order_running(hetzner.client()).server
    assert server.public_net is not None
    assert server.public_net.ipv4 is None
    assert server.public_net.ipv6 is not None


def test_knobs_are_read_reset_and_checked(hetzner: Emulator) -> None:
    hetzner.knobs(server_limit=7)
    assert hetzner.http("GET", "/_sandbox/knobs", token=None).json()["server_limit"] == 7
    assert hetzner.state["knobs"] == {"server_limit": 7}
    answer = hetzner.http("PUT", "/_sandbox/knobs", json={"serverlimit": 7})
    assert (answer.status_code, answer.json()["error"][:12]) == (422, "unknown knob")
    assert hetzner.http("PUT", "/_sandbox/knobs", json=[1]).status_code == 422
    assert hetzner.http("DELETE", "/_sandbox/knobs").json()["server_limit"] is None


def test_lengths_scale_with_the_time_to_running(hetzner: Emulator) -> None:
    hetzner.start(FOREVER)
    response = order(hetzner.client())
    action = hetzner.state["projects"]["one"]["action"][str(id_of(response.action))]
    start = hetzner.state["projects"]["one"]["action"][str(id_of(response.next_actions[0]))]
    assert action["_seconds"] + start["_seconds"] == FOREVER
