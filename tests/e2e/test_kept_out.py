"""Cloudflare between clawdet and the VPS: it turns visitors away, or does not know a new name everywhere yet."""

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from clawdet_cli.stages import verify as stages
from tests.e2e.operator import Operator, Said

PROVISION = ("provision", "alice", "--sandbox", "--yes", "--json")
UNSEEN = {"gateway": "not_judged", "landing_page": "not_judged"}
BOTS = "Bot Fight Mode (Security > Bots)"


@pytest.fixture
def behind_bot_fight_mode(operator: Operator) -> Iterator[Operator]:
    """An operator whose zone challenges every program."""
    zone(operator, bot_fight_mode=True)
    yield operator
    zone(operator, bot_fight_mode=False)


def zone(operator: Operator, **settings: Any) -> None:
    operator.control("cloudflare", "PATCH", f"zones/{operator.info()['zone']}", settings)


def knobs(operator: Operator, **settings: Any) -> None:
    operator.control("cloudflare", "PUT", "edge/knobs", settings)


def checks(said: Said) -> dict[str, dict[str, Any]]:
    return {check["name"]: check for check in said.document["instance"]["checks"]}


def amiss(said: Said) -> dict[str, str]:
    return {name: check["result"] for name, check in checks(said).items() if check["result"] != "ok"}


def verify(operator: Operator, *options: str) -> Said:
    return operator.clawdet("verify", "alice", "--sandbox", "--json", *options)


def remove_landing_page(operator: Operator) -> None:
    (page,) = (
        path for path in Path(operator.info()["folder"]).rglob("index.html") if path.parent.name != "node_modules"
    )
    page.unlink()


def test_behind_bot_fight_mode_a_provision_is_complete_with_a_warning_and_without_a_wait(
    behind_bot_fight_mode: Operator,
) -> None:
    operator = behind_bot_fight_mode
    began = time.monotonic()
    said = operator.clawdet(*PROVISION)
    assert time.monotonic() - began < 60  # the patience with a new name alone is 120 s
    assert said.code == 0, said.err
    assert said.document["instance"]["status"] == "complete"
    assert amiss(said) == UNSEEN
    for name in UNSEEN:
        check = checks(said)[name]
        assert check["ok"] is False
        assert (
            "Cloudflare keeps clawdet out: it challenges this visitor (HTTP 403, cf-mitigated: challenge)"
            in (check["evidence"])
        )
        assert BOTS in check["evidence"]
        assert "Past Cloudflare, over SSH, the VPS answers as it should" in check["evidence"]
    assert "gateway: not judged: Cloudflare keeps clawdet out" in said.err

    again = operator.clawdet(*PROVISION)
    assert (again.code, amiss(again)) == (0, UNSEEN)
    assert "going through all stages again" not in again.err
    screen = operator.clawdet("provision", "alice", "--sandbox")
    assert "alice is already complete" in screen.out
    assert "Warning: Cloudflare keeps clawdet out, so these checks were not judged: gateway, landing_page" in screen.out

    seen = verify(operator)
    assert (seen.code, amiss(seen)) == (0, UNSEEN)
    assert "Past Cloudflare, over SSH" in checks(seen)["gateway"]["evidence"]
    for command in (["verify", "alice"], ["status", "alice"], ["provision", "alice"]):
        assert operator.clawdet(*command, "--sandbox").code == 0
        assert operator.clawdet(*command, "--sandbox", "--strict").code == 6

    zone(operator, bot_fight_mode=False)
    assert (verify(operator, "--strict").code, amiss(verify(operator))) == (0, {})


def test_a_fleet_is_complete_behind_it_too(behind_bot_fight_mode: Operator) -> None:
    operator = behind_bot_fight_mode
    said = operator.clawdet("provision", "alice", "bob", "--sandbox", "--yes")
    assert said.code == 0, said.err
    assert said.out.count("(not judged: gateway, landing_page)") == 2
    strict = operator.clawdet("verify", "alice", "bob", "--sandbox", "--strict")
    assert strict.code == 6
    assert "2 failed" in strict.out


@pytest.mark.parametrize(
    ("setting", "how", "named"),
    [
        ({"zone": {"security_level": "under_attack"}}, "cf-mitigated: challenge", "'Under Attack'"),
        ({"knobs": {"blocked_paths": ["/"]}}, "error code: 1020", "Security > WAF"),
        ({"knobs": {"blocked_paths": ["/app"]}}, "error code: 1020", "Security > WAF"),
    ],
)
def test_each_way_of_keeping_out_is_named_with_its_place(
    operator: Operator, setting: dict[str, Any], how: str, named: str
) -> None:
    assert operator.clawdet(*PROVISION).code == 0
    zone(operator, **setting.get("zone", {}))
    knobs(operator, **setting.get("knobs", {}))
    seen = verify(operator)
    paths = setting.get("knobs", {}).get("blocked_paths")
    wanted = {"gateway": "not_judged"} if paths == ["/app"] else UNSEEN
    assert (seen.code, amiss(seen)) == (0, wanted)
    for name in wanted:
        assert how in checks(seen)[name]["evidence"]
        assert named in checks(seen)[name]["evidence"]


def test_the_browser_check_lets_clawdet_in(operator: Operator) -> None:
    zone(operator, browser_check="on")
    said = operator.clawdet(*PROVISION)
    assert (said.code, amiss(said)) == (0, {}), said.err


def test_a_challenge_does_not_hide_a_broken_origin(behind_bot_fight_mode: Operator) -> None:
    operator = behind_bot_fight_mode
    assert operator.clawdet(*PROVISION).code == 0
    remove_landing_page(operator)
    seen = verify(operator)
    assert (seen.code, amiss(seen)) == (6, {"gateway": "failed", "landing_page": "failed"})
    for name in UNSEEN:
        evidence = checks(seen)[name]["evidence"]
        assert "Cloudflare keeps clawdet out" in evidence
        assert "And past Cloudflare: caddy is 'active', the landing page 'missing'" in evidence


def test_a_provision_whose_origin_is_broken_fails_behind_a_challenge(behind_bot_fight_mode: Operator) -> None:
    operator = behind_bot_fight_mode
    operator.control("hetzner", "PUT", "servers/knobs", {"says": {"nonce": ""}})
    said = operator.clawdet(*PROVISION)
    assert said.code == 6
    assert said.document["error"]["stage"] == "check_origin"
    assert "not the nonce of this run" in said.document["error"]["what"]


def test_the_same_of_an_instance_that_was_complete(behind_bot_fight_mode: Operator) -> None:
    operator = behind_bot_fight_mode
    assert operator.clawdet(*PROVISION).code == 0
    operator.control("hetzner", "PUT", "servers/knobs", {"says": {"nonce": ""}})
    seen = verify(operator)
    assert (seen.code, amiss(seen)) == (6, {"gateway": "failed", "landing_page": "failed"})
    assert "not the nonce of this run" in checks(seen)["gateway"]["evidence"]


def test_what_needs_no_edge_is_judged_behind_a_challenge(behind_bot_fight_mode: Operator) -> None:
    operator = behind_bot_fight_mode
    assert operator.clawdet(*PROVISION).code == 0
    (record,) = operator.records()
    operator.cloud(
        "cloudflare", f"/zones/{operator.zone_id()}/dns_records/{record['id']}", "PATCH", {"content": "198.51.100.9"}
    )
    seen = verify(operator)
    assert (seen.code, amiss(seen)) == (6, {"dns": "failed", **UNSEEN})


def test_a_server_that_answers_past_cloudflare_fails_behind_a_challenge(
    behind_bot_fight_mode: Operator, monkeypatch: pytest.MonkeyPatch
) -> None:
    operator = behind_bot_fight_mode
    assert operator.clawdet(*PROVISION).code == 0
    monkeypatch.setattr(stages, "_exposed", lambda _run: [443])
    seen = verify(operator)
    assert (seen.code, amiss(seen)) == (6, {"gateway": "failed", "landing_page": "not_judged"})
    assert "answers to everybody on port 443" in checks(seen)["gateway"]["evidence"]


@pytest.mark.parametrize("wants_certificate", [True, False])
def test_where_the_vps_answers_cloudflares_certificate_alone(
    behind_bot_fight_mode: Operator, wants_certificate: bool
) -> None:
    operator = behind_bot_fight_mode
    zone(operator, tls_client_auth="on")
    ca = operator.info()["origin_pull_ca_file"] if wants_certificate else "none"
    said = operator.clawdet(*PROVISION, "--origin-pull-ca", ca)
    seen = verify(operator)
    zone(operator, tls_client_auth="off")
    assert (said.code, amiss(said)) == (0, UNSEEN), said.err
    assert (seen.code, amiss(seen)) == (0, UNSEEN), seen.err


def test_a_revoked_certificate_is_not_hidden_by_a_challenge(behind_bot_fight_mode: Operator) -> None:
    operator = behind_bot_fight_mode
    assert operator.clawdet(*PROVISION).code == 0
    (certificate,) = operator.certificates()
    operator.cloud("cloudflare", f"/certificates/{certificate['id']}", "DELETE")
    seen = verify(operator)
    assert (seen.code, amiss(seen)) == (6, {"gateway": "failed", "landing_page": "failed"})
    assert f"the certificate {certificate['id']} of the VPS is revoked" in checks(seen)["gateway"]["evidence"]
