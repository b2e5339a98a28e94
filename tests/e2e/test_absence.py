"""Destroy calls nothing gone that it has not seen to be gone."""

from typing import Any

import pytest

from clawdet_cli.stages import destroy
from tests.e2e.operator import Operator
from tests.e2e.test_bad_input import error_of, provision
from tests.e2e.test_recovery import recorded


@pytest.fixture
def alice(operator: Operator) -> Operator:
    said = provision(operator)
    assert said.code == 0, said.err
    return operator


def destroyed(operator: Operator) -> Any:
    return operator.clawdet("destroy", "alice", "--sandbox", "--yes", "--json")


def said_to_be_done(operator: Operator, cloud: str, path: str, body: Any) -> None:
    """Have a cloud answer a deletion as if it had been carried out."""
    fault = {"kind": "answer", "method": "DELETE", "path": path, "status": 200, "body": body, "times": None}
    operator.control(cloud, "POST", "faults", fault)


def test_what_a_cloud_only_says_to_have_deleted_is_named_and_kept_in_mind(
    alice: Operator, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(destroy, "LAG_SECONDS", 0.0)
    record = alice.records()[0]
    body = {"success": True, "errors": [], "messages": [], "result": {"id": record["id"]}}
    said_to_be_done(alice, "cloudflare", ".*/dns_records/.*", body)
    error = error_of(destroyed(alice), 5, "cloud")
    assert (error["what"], error["stage"]) == ("Not everything is gone.", "prove_absence")
    assert error["details"] == [f"DNS record {record['name']} -> {record['content']}"]
    assert "clawdet destroy alice" in error["next_steps"][-1]
    assert recorded(alice, "status") == "destroying"
    assert error_of(provision(alice), 4, "state")["what"] == "alice is being destroyed."
    alice.reset()
    assert destroyed(alice).code == 0
    assert alice.holdings() == (0, 0, 0)
    assert recorded(alice, "status") == "destroyed"


def test_a_cloud_that_shows_what_is_gone_for_a_moment_longer_is_asked_again(alice: Operator) -> None:
    path = f"/client/v4/zones/{alice.zone_id()}/dns_records"
    record = alice.records()[0]
    body = {"success": True, "errors": [], "messages": [], "result": [record], "result_info": {"total_count": 1}}
    # The first reading finds it to be deleted, the second one proves its absence.
    lag = {"kind": "answer", "method": "GET", "path": path, "status": 200, "body": body, "after": 1}
    alice.control("cloudflare", "POST", "faults", lag)
    assert destroyed(alice).code == 0
    assert alice.holdings() == (0, 0, 0)
