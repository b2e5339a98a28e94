"""What the vendor's SDK makes of faults: the facts that our own retries build on."""

import pytest
import requests
from hcloud import APIException

from tests.contract.hetzner_emulator import Emulator, order


def posts(hetzner: Emulator) -> int:
    return sum(entry["method"] == "POST" for entry in hetzner.faults.requests)


def test_a_lost_answer_to_an_order_leaves_a_server_that_is_found_by_name(hetzner: Emulator) -> None:
    client = hetzner.client()
    hetzner.faults.add({"kind": "drop_after", "method": "POST", "path": "/v1/servers"})
    with pytest.raises(requests.exceptions.ConnectionError):
        order(client, labels={"run": "r1"})
    found = client.servers.get_by_name("web-1")
    assert found is not None
    assert found.labels == {"run": "r1"}
    assert posts(hetzner) == 1


def test_a_timed_out_order_is_repeated_by_the_sdk_and_meets_its_own_name(hetzner: Emulator) -> None:
    client = hetzner.client()
    client._client._timeout = 1.0
    hetzner.faults.add({"kind": "hang_after", "method": "POST", "path": "/v1/servers"})
    with pytest.raises(APIException) as caught:
        order(client)
    assert caught.value.code == "uniqueness_error"
    assert posts(hetzner) == 2
    assert len(client.servers.get_all()) == 1


@pytest.mark.parametrize(
    ("rule", "requests_sent"),
    [
        ({"status": 429, "body": {"error": {"code": "rate_limit_exceeded", "message": "m", "details": None}}}, 2),
        ({"status": 502, "body": "<html>"}, 2),
        ({"status": 409, "body": {"error": {"code": "conflict", "message": "m", "details": None}}}, 2),
    ],
)
def test_the_sdk_retries_these(hetzner: Emulator, rule: dict[str, object], requests_sent: int) -> None:
    hetzner.faults.add({"kind": "answer", **rule})
    assert hetzner.client().servers.get_all() == []
    assert len(hetzner.faults.requests) == requests_sent


@pytest.mark.parametrize(
    ("rule", "code"),
    [
        ({"status": 423, "body": {"error": {"code": "locked", "message": "m", "details": None}}}, "locked"),
        ({"status": 500, "body": {"error": {"code": "server_error", "message": "m", "details": None}}}, "server_error"),
        ({"status": 503, "body": "<html>"}, 503),
    ],
)
def test_the_sdk_does_not_retry_these(hetzner: Emulator, rule: dict[str, object], code: object) -> None:
    hetzner.faults.add({"kind": "answer", **rule})
    with pytest.raises(APIException) as caught:
        hetzner.client().servers.get_all()
    assert caught.value.code == code
    assert len(hetzner.faults.requests) == 1
