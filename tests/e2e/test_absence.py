"""Destroy calls nothing gone that it has not seen to be gone."""

from typing import Any

import pytest

from clawdet_cli.stages import destroy
from tests.e2e.operator import Operator
from tests.e2e.test_bad_input import error_of, provision
from tests.e2e.test_recovery import recorded
from tests.kill.invariants import not_complete


@pytest.fixture
def alice(operator: Operator) -> Operator:
    said = provision(operator)
    assert said.code == 0, said.err
    return operator


def destroyed(operator: Operator, *flags: str) -> Any:
    return operator.clawdet("destroy", "alice", "--sandbox", "--yes", "--json", *flags)


def said_to_be_done(operator: Operator, cloud: str, path: str, body: Any, *, status: int = 200) -> None:
    """Have a cloud answer a deletion as if it had been carried out."""
    fault = {"kind": "answer", "method": "DELETE", "path": path, "status": status, "body": body, "times": None}
    operator.control(cloud, "POST", "faults", fault)


@pytest.mark.parametrize("kind", ["record", "certificate"])
def test_what_a_cloud_only_says_to_have_deleted_is_named_and_kept_in_mind(
    kind: str, alice: Operator, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(destroy, "LAG_SECONDS", 0.0)
    record, certificate = alice.records()[0], alice.certificates()[0]
    path, thing, left = {
        "record": (".*/dns_records/.*", record, f"DNS record {record['name']} -> {record['content']}"),
        "certificate": (".*/certificates/.*", certificate, f"Origin CA certificate {certificate['id']}"),
    }[kind]
    body = {"success": True, "errors": [], "messages": [], "result": {"id": thing["id"]}}
    said_to_be_done(alice, "cloudflare", path, body)
    error = error_of(destroyed(alice), 5, "cloud")
    assert (error["what"], error["stage"]) == ("Not everything is gone.", "prove_absence")
    assert error["details"] == [left]
    assert "clawdet destroy alice" in error["next_steps"][-1]
    assert recorded(alice, "status") == "destroying"
    assert error_of(provision(alice), 4, "state")["what"] == "alice is being destroyed."
    alice.reset()
    assert destroyed(alice).code == 0
    assert alice.holdings() == (0, 0, 0)
    assert recorded(alice, "status") == "destroyed"


@pytest.mark.parametrize("answer", ["an action that is over", "that there is none"])
def test_a_server_that_hetzner_only_says_to_have_deleted_stays_in_mind(answer: str, alice: Operator) -> None:
    """It is waited for until nobody can see it any more, whatever the deletion was answered."""
    server = alice.servers()[0]
    (done, *_) = alice.cloud("hetzner", f"/servers/{server['id']}/actions")["actions"]
    assert done["status"] == "success"
    if answer == "that there is none":
        missing = {"error": {"code": "not_found", "message": "server not found"}}
        said_to_be_done(alice, "hetzner", "/v1/servers/.*", missing, status=404)
    else:
        said_to_be_done(alice, "hetzner", "/v1/servers/.*", {"action": {**done, "command": "delete_server"}})
    error = error_of(destroyed(alice, "--timeout", "2"), 7, "wait")
    assert error["stage"] == "delete_server"
    assert error["what"].endswith(f"s for server {server['id']} to be gone; last seen: it is still there, running.")
    assert [line.partition(" (id ")[0] for line in error["left_behind"]] == ["server clawdet-alice"]
    assert recorded(alice, "status") == "destroying"
    assert recorded(alice, "server_id") == server["id"]
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


def unseen_zone(operator: Operator) -> None:
    """Have Cloudflare show the token no zone, as when Zone Read was taken away: an empty list, and no refusal."""
    page = {"page": 1, "per_page": 20, "count": 0, "total_count": 0, "total_pages": 0}
    body = {"success": True, "errors": [], "messages": [], "result": [], "result_info": page}
    fault = {"kind": "answer", "method": "GET", "path": "/client/v4/zones", "status": 200, "body": body, "times": None}
    operator.control("cloudflare", "POST", "faults", fault)


def test_what_is_in_a_zone_that_the_token_does_not_show_is_not_called_gone(alice: Operator) -> None:
    record, certificate = alice.records()[0], alice.certificates()[0]
    unseen_zone(alice)
    for _ in range(2):
        error = error_of(destroyed(alice), 5, "cloud")
        assert error["stage"] == "prove_absence"
        assert "no zone" in error["what"]
        assert error["details"] == [
            f"DNS record {record['name']} (id {record['id']})",
            f"Origin CA certificate {certificate['id']}",
        ]
        assert recorded(alice, "status") == "destroying"
    assert alice.servers() == []
    alice.reset()
    assert destroyed(alice).code == 0
    assert alice.holdings() == (0, 0, 0)


def test_a_zone_that_has_left_cloudflare_can_be_given_up(alice: Operator) -> None:
    unseen_zone(alice)
    steps = error_of(destroyed(alice), 5, "cloud")["next_steps"]
    assert any(step.startswith("clawdet destroy alice --zone-gone") for step in steps), steps
    said = alice.clawdet("destroy", "alice", "--zone-gone", "--yes", "--sandbox")
    assert said.code == 0, said.err
    assert "look for what is left of" in said.err
    assert "absent    DNS record" not in said.out
    assert [recorded(alice, field) for field in ("status", "record_id", "certificate_id")] == ["destroyed", None, None]


KINDS = ("servers", "ssh_keys", "firewalls")


def another_project(operator: Operator) -> None:
    """Have Hetzner answer as a project does in which clawdet never was."""
    pages = {"page": 1, "per_page": 50, "previous_page": None, "next_page": None, "last_page": 1, "total_entries": 0}
    answers: list[tuple[str, int, Any]] = [
        ("/v1/servers/.*", 404, {"error": {"code": "not_found", "message": "server not found"}}),
        *((f"/v1/{kind}", 200, {kind: [], "meta": {"pagination": pages}}) for kind in KINDS),
    ]
    for path, status, body in answers:
        fault = {"kind": "answer", "method": "GET", "path": path, "status": status, "body": body, "times": None}
        operator.control("hetzner", "POST", "faults", fault)


@pytest.mark.parametrize("verb", ["destroy", "provision"])
def test_the_token_of_another_project_proves_nothing_and_buys_nothing(verb: str, alice: Operator) -> None:
    server = alice.servers()[0]["id"]
    before = {kind: alice.cloud("hetzner", f"/{kind}")[kind] for kind in KINDS}
    another_project(alice)
    said = alice.clawdet(verb, "alice", "--sandbox", "--yes", "--json")
    error = error_of(said, 3, "config")
    assert f"has no server clawdet-alice (id {server})" in error["what"]
    assert f"(id {server}, " in error["left_behind"][0]
    alice.reset()
    assert {kind: alice.cloud("hetzner", f"/{kind}")[kind] for kind in KINDS} == before
    assert recorded(alice, "server_id") == server
    if verb == "provision":
        assert provision(alice).code == 0
        assert not_complete(alice, "alice") == []
    assert destroyed(alice).code == 0
    assert alice.holdings() == (0, 0, 0)


def test_when_it_is_gone_for_certain_the_printed_commands_end_it(alice: Operator) -> None:
    """The server, the key and the firewall were all deleted by hand."""
    for kind in KINDS:
        for thing in alice.cloud("hetzner", f"/{kind}")[kind]:
            alice.cloud("hetzner", f"/{kind}/{thing['id']}", "DELETE")
    steps = error_of(destroyed(alice), 3, "config")["next_steps"]
    assert any(step.startswith("clawdet reconcile --fix") for step in steps), steps
    assert alice.clawdet("reconcile", "--fix", "--sandbox").code == 0
    assert destroyed(alice).code == 0
    assert alice.holdings() == (0, 0, 0)
