"""What holds for who wants to use a gateway, on a simulated server as on a real one: the token alone opens nothing."""

from dataclasses import replace
from typing import Any

from tests.e2e.device import Device, Refusal
from tests.e2e.operator import Operator


def approve(owner: Operator, user: str, *arguments: str) -> dict[str, Any]:
    """Run `clawdet approve`, and give its document."""
    said = owner.clawdet("approve", user, *arguments, "--sandbox", "--json")
    assert said.code == 0, said.out
    return said.document


def refused_until_approved(owner: Operator, user: str, device: Device, token: str) -> None:
    """See a device refused for each reason, then approved and connected, and another one refused as before."""
    _refused(device, token)
    paired = {found["device_id"] for found in approve(owner, user)["devices"]["paired"]}
    (waiting,) = approve(owner, user)["devices"]["pending"]
    assert waiting["device_id"] == device.id
    assert (waiting["platform"], waiting["client"]) == ("Linux x86_64", "openclaw-control-ui")
    assert waiting["address"] not in {"", "127.0.0.1"}
    assert "operator.admin" in waiting["scopes"]
    assert approve(owner, user, waiting["request_id"])["approved"]["device_id"] == device.id
    other_build = device.connect(token)
    assert isinstance(other_build, Refusal)
    assert other_build.code == "PROTOCOL_MISMATCH"
    greeting = replace(device, build_id=other_build.details["gatewayBuildId"]).connect(token)
    assert isinstance(greeting, dict), greeting
    assert greeting["type"] == "hello-ok"
    listed = approve(owner, user)["devices"]
    assert listed["pending"] == []
    assert {found["device_id"] for found in listed["paired"]} == {*paired, device.id}
    _refused(Device(device.host, device.edge_address, device.ca_file), token)


def _refused(device: Device, token: str) -> None:
    answers = {
        "CONTROL_UI_ORIGIN_NOT_ALLOWED": device.connect(token, origin="https://elsewhere.example"),
        "CONTROL_UI_DEVICE_IDENTITY_REQUIRED": device.connect(token, anonymous=True),
        "AUTH_TOKEN_MISSING": device.connect(None),
        "AUTH_TOKEN_MISMATCH": device.connect("x" * 48),
        "DEVICE_AUTH_SIGNATURE_INVALID": replace(device, signs_for="x" * 48).connect(token),
        "PAIRING_REQUIRED": device.connect(token),
    }
    for code, answer in answers.items():
        assert isinstance(answer, Refusal), (code, answer)
        assert (answer.code, answer.close_code) == (code, 1008)
