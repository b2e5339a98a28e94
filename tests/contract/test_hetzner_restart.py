"""The emulator's process ends and starts again over the saved state."""

from tests.contract.hetzner_emulator import FOREVER, Emulator, eventually, id_of, order, order_running


def test_servers_that_ran_are_booted_again_and_those_that_were_off_are_not(hetzner: Emulator) -> None:
    client = hetzner.client()
    up, down = order_running(client, "up").server, order_running(client, "down").server
    down.power_off().wait_until_finished()
    hetzner.machines.calls.clear()
    client = hetzner.start().client()
    eventually(lambda: client.servers.get_by_id(id_of(up)).status == "running")
    assert hetzner.machines.calls == [("boot", up.id)]
    assert client.servers.get_by_id(id_of(down)).status == "off"
    assert hetzner.machines.specs[id_of(up)].name == "up"


def test_a_creation_is_finished(hetzner: Emulator) -> None:
    hetzner.start(FOREVER)
    response = order(hetzner.client())
    hetzner.finish_running_actions()
    client = hetzner.start().client()
    eventually(lambda: client.servers.get_by_id(id_of(response.server)).status == "running")
    assert client.actions.get_by_id(response.action.id).status == "success"
    assert hetzner.machines.calls == [("boot", response.server.id)]


def test_a_deletion_and_the_release_after_it_are_finished(hetzner: Emulator) -> None:
    client = hetzner.client()
    first, second = order_running(client, "first").server, order_running(client, "second").server
    hetzner.knobs(release_seconds=FOREVER)
    first.delete().wait_until_finished()
    hetzner.knobs(delete_seconds=FOREVER, release_seconds=None)
    second.delete()
    hetzner.finish_running_actions()
    client = hetzner.start().client()
    eventually(lambda: client.servers.get_all() == [])
    eventually(lambda: client.primary_ips.get_all() == [])
    assert hetzner.machines.calls[-1] == ("remove", second.id)


def test_ids_go_on_and_held_addresses_are_not_given_out_again(hetzner: Emulator) -> None:
    first = order_running(hetzner.client(), "first")
    hetzner.machines.free.insert(0, "127.18.0.1")  # machines that have forgotten it
    second = order_running(hetzner.start().client(), "second")
    assert id_of(second.server) > id_of(first.server)
    assert id_of(second.action) > id_of(first.next_actions[0])
    assert hetzner.machines.specs[id_of(second.server)].ipv4 == "127.18.0.2"


def test_a_running_action_goes_on_where_it_was(hetzner: Emulator) -> None:
    server = order_running(hetzner.client()).server
    client = hetzner.start(FOREVER).client()
    eventually(lambda: client.servers.get_by_id(id_of(server)).status == "running")
    action = client.servers.power_off(server)
    client = hetzner.start(FOREVER).client()
    assert client.actions.get_by_id(action.id).status == "running"
    assert client.servers.get_by_id(id_of(server)).status == "stopping"
