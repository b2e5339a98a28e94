"""What a VPS says of itself beyond its services: a rule that is gone, and an update that waits for a reboot."""

from collections.abc import Mapping
from typing import Any

import pytest

from tests.e2e.operator import Operator
from tests.e2e.test_bad_input import provision
from tests.e2e.test_pool import fill, pool

REPORT = {
    "openclaw_version": "2026.9.6",
    "node_version": "24.21.0",
    "openclaw_unit": "active",
    "openclaw_restarts": "0",
    "openclaw_active_seconds": "100",
    "listener_owner": "unit",
    "gateway_ready": "true",
    "gateway_health": "ok",
}
"""As an older script, which said nothing of rule and reboot, would have it."""
REBOOT = "clawdet ssh alice -- systemctl reboot"


@pytest.fixture
def alice(operator: Operator) -> Operator:
    said = provision(operator)
    assert said.code == 0, said.err
    return operator


def verified(operator: Operator, says: Mapping[str, str]) -> tuple[int, dict[str, Any]]:
    """Verify alice, whose VPS says this of itself, and give the check of OpenClaw."""
    text = "".join(f"{name}={value}\n" for name, value in {**REPORT, **says}.items())
    operator.control("hetzner", "PUT", "servers/knobs", {"says": {"report": text}})
    said = operator.clawdet("verify", "alice", "--sandbox", "--json")
    (check,) = (one for one in said.document["instance"]["checks"] if one["name"] == "openclaw")
    return said.code, check


def test_an_open_metadata_service_fails_the_check_and_is_named_with_what_closes_it(alice: Operator) -> None:
    code, check = verified(alice, {"metadata_closed": "no"})
    assert (code, check["ok"]) == (6, False)
    assert "clawdet ssh alice -- systemctl restart clawdet-metadata" in check["evidence"]
    for says in ({"metadata_closed": "yes"}, {}):
        code, check = verified(alice, says)
        assert (code, check["ok"]) == (0, True)


def test_a_reboot_that_an_update_waits_for_is_named_and_fails_nothing(alice: Operator) -> None:
    code, check = verified(alice, {"reboot_required": "yes"})
    assert (code, check["ok"]) == (0, True)
    assert REBOOT in check["evidence"]
    said = alice.clawdet("status", "alice", "--live", "--sandbox", "--json")
    assert (said.code, REBOOT in said.out) == (0, True)
    assert REBOOT not in verified(alice, {"reboot_required": "no"})[1]["evidence"]


def test_a_server_of_the_pool_restarts_for_its_patches_before_it_waits(operator: Operator) -> None:
    operator.control("hetzner", "PUT", "servers/knobs", {"reboot_after_patches": True})
    operator.control("hetzner", "DELETE", "servers/commands")
    (waiting,) = fill(operator)
    assert waiting["ready"] is True
    commands = operator.control("hetzner", "GET", "servers/commands")["commands"]
    assert sum("systemctl reboot" in command for command in commands) == 1
    said = provision(operator)
    assert said.code == 0, said.err
    assert pool(operator) == []


def test_a_server_of_the_pool_whose_patches_want_no_restart_gets_none(operator: Operator) -> None:
    operator.control("hetzner", "DELETE", "servers/commands")
    fill(operator)
    commands = operator.control("hetzner", "GET", "servers/commands")["commands"]
    assert not any("systemctl reboot" in command for command in commands)
