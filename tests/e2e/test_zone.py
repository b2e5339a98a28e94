"""A zone at Cloudflare that would keep an instance from being reached is named before anything is paid for."""

from typing import Any

import pytest

from tests.e2e.operator import Operator, Said
from tests.e2e.test_bad_input import error_of, provision
from tests.e2e.test_doctor import NEEDED, grant, grant_here
from tests.e2e.test_recovery import recorded

PENDING = {"enabled": True, "status": "pending_validation"}
SWITCHED_OFF = {"enabled": False, "status": "active"}


def zone(operator: Operator, **changes: Any) -> None:
    operator.control("cloudflare", "PATCH", f"zones/{operator.info()['zone']}", changes)


def refused(operator: Operator, path: str, *, code: int = 10000, status: int = 403) -> None:
    body = {"success": False, "errors": [{"code": code, "message": "no"}], "messages": [], "result": None}
    fault = {"kind": "answer", "method": "GET", "path": path, "status": status, "body": body, "times": None}
    operator.control("cloudflare", "POST", "faults", fault)


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"universal_ssl": SWITCHED_OFF}, "Universal SSL is switched off"),
        ({"universal_ssl": PENDING}, "is not active yet (pending_validation)"),
        ({"websockets": "off"}, "WebSockets are off"),
        ({"ssl": "full"}, "The SSL mode of"),
    ],
)
@pytest.mark.parametrize("flags", [[], ["--dry-run"]], ids=["provision", "dry run"])
def test_what_would_break_the_result_is_named_before_it_is_paid_for(
    operator: Operator, changes: dict[str, Any], says: str, flags: list[str]
) -> None:
    zone(operator, **changes)
    error = error_of(provision(operator, *flags), 3, "config")
    assert says in error["what"]
    assert "https://dash.cloudflare.com" in error["next_steps"][0]
    assert operator.holdings() == (0, 0, 0)


def test_everything_that_is_to_be_mended_is_named_at_once(operator: Operator) -> None:
    zone(operator, websockets="off", ssl="flexible", universal_ssl=SWITCHED_OFF)
    error = error_of(provision(operator), 3, "config")
    assert error["what"].startswith("3 things in the zone ")
    assert len(error["details"]) == 3
    assert len([step for step in error["next_steps"] if "dash.cloudflare.com" in step]) == 3


def test_what_only_some_visitors_notice_is_a_remark(operator: Operator) -> None:
    zone(operator, security_level="under_attack", min_tls_version="1.3", always_use_https="off")
    said = operator.clawdet("provision", "alice", "--sandbox", "--dry-run")
    assert said.code == 0, said.err
    for words in ("I'm Under Attack", "older than 1.3", "Always Use HTTPS"):
        assert words in said.out + said.err


@pytest.mark.parametrize("path", [".*/dns_records/usage", ".*/ssl/.*", ".*/settings/websockets"])
def test_what_is_only_good_to_know_keeps_nobody_from_provisioning(operator: Operator, path: str) -> None:
    refused(operator, path)
    said = provision(operator)
    assert said.code == 0, said.err
    if "settings" not in path:
        assert "could not be checked" in said.err


def test_a_full_zone_still_is_refused(operator: Operator) -> None:
    zone(operator, record_quota=0)
    assert "no room for another" in error_of(provision(operator), 5, "cloud")["what"]


def gone(operator: Operator, *flags: str) -> Said:
    return operator.clawdet("destroy", "alice", "--sandbox", "--yes", "--json", *flags)


def test_a_zone_that_the_token_is_refused_counts_as_gone_when_somebody_says_so(operator: Operator) -> None:
    assert provision(operator).code == 0
    operator.control("cloudflare", "PATCH", "refusals", {"zones": "forbidden"})
    try:
        grant_here(operator, *(right for right in NEEDED if right != "zone:read"))
        error = error_of(gone(operator), 3, "config")
        assert any("--zone-gone" in step for step in error["next_steps"])
        assert len(operator.servers()) == 1
        said = gone(operator, "--zone-gone")
        assert said.code == 0, said.err
        assert operator.servers() == []
        assert recorded(operator, "status") == "destroyed"
    finally:
        grant(operator, NEEDED, None)


def test_doctor_judges_the_zone_too(operator: Operator) -> None:
    zone(operator, websockets="off", universal_ssl=PENDING, security_level="under_attack")
    said = operator.clawdet("doctor", "--sandbox", "--json")
    assert said.code == 3
    rows = [row for row in said.document["doctor"]["rights"] if row["token"].startswith("zone ")]
    assert {row["right"]: row["verdict"] for row in rows} == {
        "ssl": "has",
        "always_use_https": "has",
        "websockets": "lacks",
        "security_level": "has",
        "min_tls_version": "has",
        "edge_certificate": "lacks",
        "remark": "goes without",
    }
