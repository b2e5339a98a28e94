"""`clawdet approve`: who waits is listed, and let in by its request alone."""

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

import pytest
from pytest_mock import MockerFixture

from clawdet_cli.adapters.edge import SocketAnswer, Visitor
from tests.e2e.device import Device
from tests.e2e.operator import Operator
from tests.e2e.pairing import approve, refused_until_approved

USER = "paired"


@pytest.fixture(scope="module")
def owner(simulated_sandbox: Operator) -> Iterator[Operator]:
    """Somebody with a complete instance."""
    made = simulated_sandbox.clawdet("provision", USER, "--sandbox", "--yes")
    assert made.code == 0, made.err
    yield simulated_sandbox
    simulated_sandbox.clawdet("destroy", USER, "--sandbox", "--yes")


@pytest.fixture
def device(owner: Operator) -> Device:
    info = owner.info()
    return Device(f"{USER}.{info['zone']}", info["edge_address"], info["ca_file"])


@pytest.fixture
def token(owner: Operator) -> str:
    return str(owner.clawdet("token", USER, "--sandbox", "--json").document["token"])


def test_a_device_is_refused_until_it_is_approved_and_connected_then(
    owner: Operator, device: Device, token: str
) -> None:
    refused_until_approved(owner, USER, device, token)


def test_the_only_one_that_waits_is_let_in_by_yes_and_of_several_none(
    owner: Operator, device: Device, token: str
) -> None:
    for found in approve(owner, USER)["devices"]["pending"]:
        approve(owner, USER, found["request_id"])
    others = [device, Device(device.host, device.edge_address, device.ca_file)]
    for one in others:
        one.connect(token)
    said = owner.clawdet("approve", USER, "--yes", "--sandbox")
    assert said.code == 4
    assert "2 devices wait for paired: --yes lets in one that is alone." in said.err
    waiting = approve(owner, USER)["devices"]["pending"]
    assert {found["device_id"] for found in waiting} == {one.id for one in others}
    for found in waiting:
        assert f"clawdet approve {USER} {found['request_id']} --sandbox" in said.err
    approve(owner, USER, waiting[0]["request_id"])
    assert approve(owner, USER, "--yes")["approved"]["device_id"] == waiting[1]["device_id"]
    nobody = owner.clawdet("approve", USER, "--yes", "--sandbox")
    assert (nobody.code, "Nobody waits to be let in" in nobody.out) == (0, True)


def test_a_request_that_waits_no_more_is_told(owner: Operator) -> None:
    said = owner.clawdet("approve", USER, "00000000-0000-0000-0000-000000000000", "--sandbox")
    assert said.code == 4
    assert "No device waits with the request 00000000-0000-0000-0000-000000000000" in said.err
    assert f"clawdet approve {USER} --sandbox" in said.err
    assert owner.clawdet("status", USER, "--sandbox").code == 0


def test_a_request_that_is_none_is_refused_before_anything_is_asked(owner: Operator) -> None:
    said = owner.clawdet("approve", USER, "$(reboot)", "--sandbox")
    assert (said.code, "'$(reboot)' is no request's id." in said.err) == (2, True)


def test_a_gateway_that_lets_in_unapproved_devices_fails_its_check(owner: Operator, mocker: MockerFixture) -> None:
    real = Visitor.websocket

    def lenient(visitor: Visitor, path: str, origin: str, request: Mapping[str, Any] | None = None) -> SocketAnswer:
        answer = real(visitor, path, origin, request)
        # No configuration of OpenClaw 2026.9.6 does this any more, so no real gateway can be had for it.
        return replace(answer, refusal=None, close_code=1000) if request and "auth" in request["params"] else answer

    mocker.patch.object(Visitor, "websocket", lenient)
    said = owner.clawdet("verify", USER, "--sandbox", "--json")
    assert said.code == 6
    (failed,) = [check for check in said.document["instance"]["checks"] if not check["ok"]]
    assert (failed["name"], "whoever has the token gets in" in failed["evidence"]) == ("gateway", True)
