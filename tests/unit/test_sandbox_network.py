import errno
import json
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from clawdet_cli.sandbox import network
from clawdet_cli.sandbox.errors import SandboxError
from clawdet_cli.sandbox.machines import OutOfAddressesError
from clawdet_cli.sandbox.network import AddressPool, Network


@pytest.fixture
def net(tmp_path: Path) -> Iterator[Network]:
    claimed = network.claim(tmp_path / "dial.json")
    yield claimed
    claimed.close()


def taken_port(ip: str) -> socket.socket:
    return socket.create_server((ip, 0))


def test_a_number_belongs_to_one_sandbox_until_it_is_given_back(net: Network, tmp_path: Path) -> None:
    other = network.claim(tmp_path / "other.json")
    assert other.number != net.number
    with pytest.raises(SandboxError, match=rf"127\.17\.{net.number}\.x"):
        network.claim(tmp_path / "other.json", net.number)
    other.close()
    network.claim(tmp_path / "other.json", other.number).close()


def test_what_can_be_bound_is_dialled_as_it_is(net: Network, tmp_path: Path) -> None:
    free = taken_port(net.server_address(9))
    port = free.getsockname()[1]
    free.close()
    with net.bind(net.server_address(9), port) as sock:
        assert sock.getsockname() == (net.server_address(9), port)
        assert net.dial(net.server_address(9), port) == (net.server_address(9), port)
    assert not (tmp_path / "dial.json").exists()


def test_a_taken_port_is_reached_through_the_dial_map_until_it_is_released(net: Network, tmp_path: Path) -> None:
    ip = net.server_address(9)
    with taken_port(ip) as holder:
        port = holder.getsockname()[1]
        with net.bind(ip, port) as sock:
            actual = sock.getsockname()
            assert net.dial(ip, port) == actual != (ip, port)
            assert json.loads((tmp_path / "dial.json").read_text()) == {f"{ip}:{port}": f"{ip}:{actual[1]}"}
    net.release(ip, port)
    assert net.dial(ip, port) == (ip, port)
    assert json.loads((tmp_path / "dial.json").read_text()) == {}


def test_dns_has_one_port_for_both_protocols(net: Network) -> None:
    udp, tcp = net.bind_dns(net.service_address(53))
    with udp, tcp:
        assert udp.getsockname() == tcp.getsockname()


def test_addresses_rest_before_they_are_given_out_again(net: Network) -> None:
    pool = AddressPool(net, {}, lambda: None)
    first, second = pool.claim(), pool.claim()
    assert first == net.server_address(0) == f"127.18.{net.number}.2"
    assert second == net.server_address(1)
    pool.release(first)
    assert pool.claim() == net.server_address(2)


def test_addresses_run_out_and_come_back(net: Network) -> None:
    pool = AddressPool(net, {}, lambda: None)
    taken = [pool.claim() for _ in range(1992)]
    assert len(set(taken)) == 1992
    with pytest.raises(OutOfAddressesError):
        pool.claim()
    pool.release(taken[100])
    assert pool.claim() == taken[100]


def test_addresses_stay_taken_over_a_restart(net: Network) -> None:
    state: dict[str, Any] = {}
    changes: list[int] = []
    first = AddressPool(net, state, lambda: changes.append(1)).claim()
    assert changes
    assert AddressPool(net, json.loads(json.dumps(state)), lambda: None).claim() != first


def test_the_edge_connects_from_its_own_address(net: Network) -> None:
    with net.edge_socket() as sock:
        assert sock.getsockname()[0] == net.service_address(1)
        assert net.seen_as(sock.getsockname()) == net.service_address(1)


def test_where_the_system_lacks_that_address_the_edge_passes_for_it_and_nobody_else_does(
    net: Network, monkeypatch: pytest.MonkeyPatch
) -> None:
    bind = network._bound

    def as_elsewhere(kind: socket.SocketKind, ip: str, port: int) -> socket.socket:
        if ip != "127.0.0.1":
            raise OSError(errno.EADDRNOTAVAIL, "not here")
        return bind(kind, ip, port)

    monkeypatch.setattr(network, "_bound", as_elsewhere)
    with net.edge_socket() as sock:
        mine = sock.getsockname()
        assert mine[0] == "127.0.0.1"
        assert net.seen_as(("127.0.0.1", mine[1] - 1)) == "127.0.0.1"
        assert net.seen_as(mine) == net.service_address(1)
    assert net.seen_as(mine) == "127.0.0.1", "the port is somebody else's by now"


def test_nothing_is_dialled_outside_of_the_sandbox(net: Network) -> None:
    for ip in ("192.0.2.1", "2001:db8::1", "8.8.8.8"):
        with pytest.raises(TimeoutError):
            net.dial(ip, 443)
