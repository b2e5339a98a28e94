"""The calls that a run makes: counted as the wire sees them, and held back when a limit is nearly used up."""

from typing import Any

import pytest

from tests.e2e.operator import Operator, Said
from tests.kill.invariants import not_complete

MOST = {"hetzner": 16, "cloudflare": 18}
"""What a provision may take where nothing has to be waited for (one server: facts of the limits, 3600 an hour).

Of Cloudflare's, six look at the zone's settings and its certificate, once for all users of a command.
"""


PAGE = {"page": 1, "per_page": 1, "previous_page": None, "next_page": None, "last_page": 1, "total_entries": 0}


def wire(operator: Operator, *command: str) -> tuple[Said, dict[str, int]]:
    """Run a command, and count what both clouds saw of it."""
    operator.info()
    for cloud in MOST:
        operator.control(cloud, "DELETE", "requests")
    said = operator.clawdet(*command, "alice", "--sandbox", "--json")
    return said, {cloud: len(operator.control(cloud, "GET", "requests")["requests"]) for cloud in MOST}


def test_the_summary_counts_what_the_wire_saw(operator: Operator) -> None:
    for command in (["provision"], ["provision"], ["destroy", "--yes"]):
        said, seen = wire(operator, *command)
        assert said.code == 0, said.err
        assert said.document["calls"] == seen
        assert f"calls made: Hetzner {seen['hetzner']}, Cloudflare {seen['cloudflare']}" in said.err
        assert all(seen[cloud] <= most for cloud, most in MOST.items()), seen


def test_it_stands_on_the_screen_too(operator: Operator) -> None:
    said = operator.clawdet("provision", "alice", "--sandbox")
    assert "  Calls         " in said.out
    assert " to Hetzner, " in said.out
    gone = operator.clawdet("destroy", "alice", "--sandbox", "--yes")
    assert "  calls     " in gone.out


def test_repeated_calls_are_counted_too(operator: Operator) -> None:
    refusal = {"kind": "answer", "method": "POST", "path": "/v1/servers", "status": 503, "body": "no", "times": 2}
    operator.control("hetzner", "POST", "faults", refusal)
    said, seen = wire(operator, "provision")
    assert said.document["calls"] == seen


@pytest.mark.parametrize(
    ("cloud", "method", "path"),
    [
        ("hetzner", "PUT", "knobs"),
        ("cloudflare", "PATCH", "limits"),
    ],
)
def test_a_limit_that_is_nearly_used_up_is_waited_for_with_a_message(
    cloud: str, method: str, path: str, operator: Operator
) -> None:
    limit: dict[str, Any] = {"requests_per_hour": 7200} if cloud == "hetzner" else {"requests": 12, "seconds": 3}
    operator.control(cloud, method, path, limit)
    if cloud == "hetzner":
        # As an answer of a project that others keep busy has it: two refill each second.
        scarce = {"RateLimit-Limit": "7200", "RateLimit-Remaining": "18", "RateLimit-Reset": "0"}
        body = {"locations": [], "meta": {"pagination": PAGE}}
        fault = {"kind": "answer", "method": "GET", "path": "/v1/locations", "status": 200, "headers": scarce}
        operator.control("hetzner", "POST", "faults", {**fault, "body": body})
    said = operator.clawdet("provision", "alice", "--sandbox")
    assert said.code == 0, said.err
    name = cloud.capitalize()
    assert f"{name}'s limit of requests is nearly used up (" in said.err
    assert "left): waiting " in said.err
    assert not any(seen["status"] == 429 for seen in operator.control(cloud, "GET", "requests")["requests"]), (
        "the limit was run into"
    )
    operator.reset()
    assert not_complete(operator, "alice") == []


def test_a_limit_that_does_not_refill_in_time_ends_as_a_wait(operator: Operator) -> None:
    operator.control("cloudflare", "PATCH", "limits", {"requests": 10, "seconds": 300})
    said = operator.clawdet("provision", "alice", "--sandbox", "--quiet", "--timeout", "2")
    operator.reset()
    assert said.code == 7, said.err
    assert "Cloudflare's limit of requests is nearly used up" in said.err
