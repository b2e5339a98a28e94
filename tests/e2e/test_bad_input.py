"""What a slip of the pen, a foreign resource, an empty shelf or a broken server gets: one clear error, nothing lost."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.operator import Operator, Said

NAMES = [
    "",
    "Alice",
    "al_ice",
    "al.ice",
    "-alice",
    "alice-",
    "a" * 41,
    "älice",
    "xn--alice",
    "www",
    "api",
    "mail",
    "ns1",
    "../alice",
    "alice\n",
    "alice\x1b[31m",
]

PREPARE = "tool downloads node npm caddy users units metadata openclaw gateway prepared".split()
CONFIGURE = (
    "gateway-ready gateway-config workspace certificate landing-page caddy-config caddy-start gateway-reload"
    " promises".split()
)


def provision(operator: Operator, *more: str, user: str = "alice") -> Said:
    return operator.clawdet("provision", "--sandbox", "--yes", "--json", *more, "--", user)


def error_of(said: Said, exit_code: int, kind: str) -> dict[str, Any]:
    """Give the error document after checking what holds for every error."""
    assert said.code == exit_code, (said.code, said.out, said.err)
    error = said.document["error"]
    assert (error["kind"], error["exit_code"]) == (kind, exit_code)
    assert error["what"]
    assert "\n" not in error["what"]
    assert error["next_steps"]
    assert "Traceback" not in said.err
    return dict(error)


def hetzner_knobs(operator: Operator, **knobs: Any) -> None:
    operator.control("hetzner", "PUT", "knobs", knobs)


def server_knobs(operator: Operator, **knobs: Any) -> None:
    operator.control("hetzner", "PUT", "servers/knobs", knobs)


def recovers(operator: Operator, user: str = "alice") -> None:
    """Check that the same command, run again, finishes what is there, and that destroy leaves nothing."""
    again = provision(operator, user=user)
    assert again.code == 0, again.err
    assert again.document["instance"]["status"] == "complete"
    assert operator.holdings() == (1, 1, 1)
    assert operator.clawdet("destroy", user, "--sandbox", "--yes").code == 0
    assert operator.holdings() == (0, 0, 0)


@pytest.mark.parametrize("name", NAMES)
def test_a_name_that_cannot_be_is_refused_with_the_rule(operator: Operator, name: str) -> None:
    error = error_of(provision(operator, user=name), 2, "usage")
    assert "1 to 40 characters" in error["what"]
    assert "\x1b" not in error["what"]
    assert operator.holdings() == (0, 0, 0)


@pytest.mark.parametrize(
    ("zone", "says"),
    [
        ("nowhere.example", "sees no zone nowhere.example"),
        ("clawdet-pending.test", "is pending at Cloudflare"),
        ("clawdet-full.test", "is 'full', not 'strict'"),
        ("deep.clawdet.test", "inside the zone clawdet.test"),
        ("Example.COM", "a domain name in lower case"),
        ("no_zone", "a domain name in lower case"),
    ],
)
def test_a_zone_that_cannot_serve_is_refused_with_the_fix(operator: Operator, zone: str, says: str) -> None:
    error = error_of(provision(operator, "--zone", zone), 3, "config")
    assert says in error["what"]
    assert error["left_behind"] == []
    assert operator.holdings() == (0, 0, 0)
    recovers(operator)


@pytest.mark.parametrize(
    ("flag", "value", "exists"), [("--server-type", "cx999", "cpx22"), ("--location", "mars1", "nbg1")]
)
def test_an_unknown_type_or_location_lists_what_exists(operator: Operator, flag: str, value: str, exists: str) -> None:
    said = provision(operator, flag, value)
    error = error_of(said, 3, "config")
    assert value in error["what"]
    assert exists in said.out
    assert operator.holdings() == (0, 0, 0)


def test_an_unknown_openclaw_version_is_refused_before_anything_is_bought(operator: Operator) -> None:
    error = error_of(provision(operator, "--openclaw-version", "2020.1.1"), 3, "config")
    assert "2026.9.6" in " ".join(error["next_steps"])
    assert operator.holdings() == (0, 0, 0)


def test_the_next_candidate_is_taken_where_the_first_is_sold_out(operator: Operator) -> None:
    hetzner_knobs(operator, sold_out=[["cpx22", "nbg1"]])
    said = provision(operator)
    assert said.code == 0, said.err
    assert (said.document["instance"]["server_type"], said.document["instance"]["location"]) == ("cpx22", "fsn1")


def test_sold_out_everywhere_lists_what_was_tried(operator: Operator) -> None:
    places = [[kind, location] for kind in ("cpx22", "cx23") for location in ("nbg1", "fsn1")]
    hetzner_knobs(operator, sold_out=places)
    said = provision(operator, "--server-type", "cpx22,cx23", "--location", "nbg1,fsn1")
    error = error_of(said, 5, "cloud")
    # Whoever pastes it buys what was asked for.
    flags = "--server-type cpx22,cx23 --location nbg1,fsn1 --sandbox"
    assert f"clawdet provision alice {flags}  # goes on from here" in error["next_steps"]
    for kind, location in places:
        assert f"{kind} in {location}" in " ".join(error["details"])
    assert operator.holdings() == (0, 0, 0)
    operator.reset()
    recovers(operator)


def test_a_spent_quota_is_named_with_the_place_to_raise_it(operator: Operator) -> None:
    hetzner_knobs(operator, server_limit=0)
    said = provision(operator)
    error_of(said, 5, "cloud")
    assert "limit" in said.out
    assert "console.hetzner" in said.out
    assert operator.holdings() == (0, 0, 0)
    operator.reset()
    recovers(operator)


@pytest.mark.parametrize(
    ("cloud", "fault", "names"),
    [
        (
            "hetzner",
            {
                "method": "GET",
                "path": "/v1/.*",
                "kind": "answer",
                "status": 401,
                "body": {"error": {"code": "unauthorized", "message": "the token you have provided is invalid"}},
            },
            "Hetzner",
        ),
        (
            "hetzner",
            {
                "method": "POST",
                "path": "/v1/ssh_keys",
                "kind": "answer",
                "status": 401,
                "body": {"error": {"code": "token_readonly", "message": "only GET is allowed"}},
            },
            "Read & Write",
        ),
        (
            "cloudflare",
            {
                "method": "GET",
                "path": "/client/v4/zones/.*/dns_records",
                "kind": "answer",
                "status": 403,
                "body": {"success": False, "errors": [{"code": 10000, "message": "Authentication error"}]},
            },
            "DNS",
        ),
        (
            "cloudflare",
            {
                "method": "POST",
                "path": "/client/v4/certificates",
                "kind": "answer",
                "status": 400,
                "body": {"success": False, "errors": [{"code": 10000, "message": "Authentication error"}]},
            },
            "SSL and Certificates",
        ),
    ],
)
def test_a_refused_token_is_named_with_the_right_that_is_missing(
    operator: Operator, cloud: str, fault: Mapping[str, Any], names: str
) -> None:
    operator.control(cloud, "POST", "faults", {**fault, "times": 1000})
    said = provision(operator)
    error_of(said, 3, "config")
    assert names in said.out
    assert operator.info()[f"{cloud}_token"] not in said.out + said.err
    operator.reset()
    recovers(operator)


def test_a_foreign_server_of_that_name_is_never_touched(operator: Operator) -> None:
    order = {"name": "clawdet-alice", "server_type": "cx23", "image": "ubuntu-24.04", "location": "nbg1"}
    foreign = operator.cloud("hetzner", "/servers", "POST", order)["server"]["id"]
    error = error_of(provision(operator), 4, "state")
    assert "not touched" in error["what"]
    gone = operator.clawdet("destroy", "alice", "--sandbox", "--yes", "--json")
    assert gone.code in {0, 4}
    assert [server["id"] for server in operator.servers()] == [foreign]
    operator.cloud("hetzner", f"/servers/{foreign}", "DELETE")


def test_a_foreign_record_of_that_name_is_never_touched(operator: Operator) -> None:
    record = {"type": "CNAME", "name": "alice.clawdet.test", "content": "elsewhere.example", "ttl": 1, "proxied": True}
    path = f"/zones/{operator.zone_id()}/dns_records"
    foreign = operator.cloud("cloudflare", path, "POST", record)["result"]["id"]
    error = error_of(provision(operator), 4, "state")
    assert "elsewhere.example" in error["what"]
    assert operator.clawdet("destroy", "alice", "--sandbox", "--yes").code == 0
    assert [found["id"] for found in operator.records()] == [foreign]
    operator.cloud("cloudflare", f"{path}/{foreign}", "DELETE")


def test_ssh_that_never_answers_ends_in_time_and_says_what_it_costs(operator: Operator) -> None:
    server_knobs(operator, ssh_never=True)
    error = error_of(provision(operator, "--timeout", "8"), 7, "wait")
    assert "SSH" in error["what"]
    assert error["stage"] == "await_ssh"
    assert re.search(r"server clawdet-alice .* EUR \d+\.\d\d per month", error["left_behind"][0])
    assert "clawdet destroy alice" in " ".join(error["next_steps"])
    operator.control("hetzner", "DELETE", "servers/knobs")
    recovers(operator)


def test_another_host_key_is_refused_at_once(operator: Operator) -> None:
    server_knobs(operator, ssh_wrong_host_key=True)
    error = error_of(provision(operator), 6, "guest")
    assert "host key" in error["what"]
    operator.control("hetzner", "DELETE", "servers/knobs")
    recovers(operator)


def test_the_script_failing_at_each_of_its_steps_shows_why_and_goes_on_from_there(operator: Operator) -> None:
    """One instance, run again and again, each time failing one step further on."""
    for phase, step in [*(("prepare", step) for step in PREPARE), *(("configure", step) for step in CONFIGURE)]:
        server_knobs(operator, fail_step={phase: step})
        error = error_of(provision(operator), 6, "guest")
        assert f"'{phase}' failed on the VPS at the step '{step}'" in error["what"]
        assert Path(error["log_file"]).exists()
        assert error["details"]
        assert "EUR 19.99 per month" in error["left_behind"][0]
        assert operator.holdings()[:2] == (1, 1)
    recovers(operator)


def test_a_connection_that_drops_in_the_middle_of_the_script_loses_nothing(operator: Operator) -> None:
    server_knobs(operator, drop_connection_in_phase={"prepare": 2})
    said = provision(operator)
    assert said.code == 0, said.err
    assert operator.holdings() == (1, 1, 1)


def test_a_dry_run_changes_nothing(operator: Operator) -> None:
    said = operator.clawdet("provision", "alice", "--sandbox", "--dry-run", "--json")
    assert said.code == 0, said.err
    plan = said.document["plan"]
    assert "19.99" in said.out
    assert plan
    assert operator.holdings() == (0, 0, 0)
    assert operator.clawdet("status", "--sandbox", "--json").document["instances"] == []


def test_a_user_has_one_instance_whatever_the_zone(operator: Operator) -> None:
    assert provision(operator).code == 0
    operator.control("cloudflare", "POST", "zones", {"name": "other.test", "ssl": "strict"})
    error = error_of(provision(operator, "--zone", "other.test"), 4, "state")
    assert "alice.clawdet.test" in error["what"]
    assert not any("destroy" in step for step in error["next_steps"])
    for users in (["alice"], ["alice", "bob"]):
        said = operator.clawdet("destroy", *users, "--zone", "other.test", "--yes", "--sandbox", "--json")
        assert "alice is not in other.test" in error_of(said, 4, "state")["what"]
    assert operator.holdings() == (1, 1, 1)


def test_an_unknown_user_is_told_apart_from_a_healthy_one(operator: Operator) -> None:
    for command in (["status", "nobody"], ["verify", "nobody"], ["token", "nobody"]):
        error_of(operator.clawdet(*command, "--sandbox", "--json"), 4, "state")
    gone = operator.clawdet("destroy", "nobody", "--sandbox", "--yes", "--json")
    assert gone.code == 0
    assert gone.document["destroyed"]["removed"] == []


def test_a_destroyed_user_is_called_that(operator: Operator) -> None:
    assert provision(operator).code == 0
    assert operator.clawdet("destroy", "alice", "--sandbox", "--yes").code == 0
    for command in (["verify", "alice"], ["token", "alice"], ["ssh", "alice"], ["approve", "alice"]):
        error = error_of(operator.clawdet(*command, "--sandbox", "--json"), 4, "state")
        assert error["what"].startswith("alice was destroyed at 20")


@pytest.fixture
def two_users(operator: Operator) -> Operator:
    assert provision(operator, user="alice").code == 0
    assert provision(operator, user="bob").code == 0
    return operator


def test_instances_do_not_disturb_each_other(two_users: Operator) -> None:
    assert two_users.holdings() == (2, 2, 2)
    assert two_users.clawdet("destroy", "alice", "--sandbox", "--yes").code == 0
    assert two_users.holdings() == (1, 1, 1)
    bob = two_users.clawdet("verify", "bob", "--sandbox", "--json")
    assert bob.code == 0, bob.err
