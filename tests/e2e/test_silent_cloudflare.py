"""What the work can do without keeps nobody waiting where Cloudflare does not answer: no destroy and no provision."""

import pytest

from clawdet_cli.stages import certificates, destroy, firewall, zones
from tests.e2e.operator import Operator, Said
from tests.e2e.test_bad_input import error_of, provision
from tests.e2e.test_recovery import recorded
from tests.kill.invariants import not_complete, rows, unfinished

BUSY = {"kind": "answer", "times": None, "body": ""}
STATUSES = [429, 500, 503]
TIMEOUT = "40"


@pytest.fixture(autouse=True)
def short(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have the patience of the product end within a test's."""
    monkeypatch.setattr(certificates, "PATIENCE", 1.0)
    monkeypatch.setattr(destroy, "LAG_SECONDS", 1.0)
    monkeypatch.setattr(zones, "PATIENCE", 0.5)
    monkeypatch.setattr(firewall, "NETWORKS_PATIENCE", 0.5)


@pytest.fixture
def alice(operator: Operator) -> Operator:
    said = provision(operator)
    assert said.code == 0, said.err
    return operator


def busy(operator: Operator, path: str, status: int, method: str = "GET") -> None:
    fault = {**BUSY, "method": method, "path": path, "status": status}
    operator.control("cloudflare", "POST", "faults", fault)


def destroyed(operator: Operator) -> Said:
    return operator.clawdet("destroy", "alice", "--sandbox", "--yes", "--json", "--timeout", TIMEOUT)


@pytest.mark.parametrize("status", STATUSES)
def test_certificates_that_nobody_can_list_keep_no_server(alice: Operator, status: int) -> None:
    (certificate,) = alice.certificates()
    busy(alice, ".*/certificates.*", status)
    said = destroyed(alice)
    assert said.code == 0, said.err
    (named,) = said.document["destroyed"]["not_judged"]
    assert certificate["id"] in named
    assert (alice.servers(), alice.records()) == ([], [])
    assert recorded(alice, "status") == "destroyed"


@pytest.mark.parametrize("status", [500, 503])
def test_a_certificate_that_nobody_revokes_keeps_no_server(alice: Operator, status: int) -> None:
    busy(alice, ".*/certificates/.*", status, "DELETE")
    error = error_of(destroyed(alice), 5, "cloud")
    assert error["stage"] == "prove_absence"
    assert alice.holdings() == (0, 0, 1)
    alice.reset()
    assert destroyed(alice).code == 0
    assert alice.holdings() == (0, 0, 0)


def test_where_time_is_short_a_certificate_gets_no_more_than_half(
    alice: Operator, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(certificates, "PATIENCE", 20.0)
    lost = {"kind": "drop_before", "method": "DELETE", "path": ".*/certificates/.*", "times": None}
    alice.control("cloudflare", "POST", "faults", lost)
    slow = {"kind": "delay", "method": "DELETE", "path": "/v1/servers/.*", "seconds": 1}
    alice.control("hetzner", "POST", "faults", slow)
    said = alice.clawdet("destroy", "alice", "--sandbox", "--yes", "--json", "--timeout", "5")
    assert said.code == 5, said.err
    assert alice.holdings() == (0, 0, 1)


@pytest.mark.parametrize("status", [500, 503])
def test_an_unknown_signing_keeps_no_server(operator: Operator, status: int) -> None:
    lost = {"kind": "drop_after", "method": "POST", "path": ".*/certificates", "times": None}
    operator.control("cloudflare", "POST", "faults", lost)
    busy_then = {**BUSY, "method": "GET", "path": ".*/certificates.*", "status": status, "after": 1}
    operator.control("cloudflare", "POST", "faults", busy_then)
    assert provision(operator, "--timeout", "10").code in {5, 7}
    assert any("sign_certificate" in one for one in unfinished(operator))
    said = destroyed(operator)
    assert said.code == 0, said.err
    assert said.document["destroyed"]["not_judged"] != []
    assert (operator.servers(), operator.records()) == ([], [])


def test_an_order_that_nobody_could_look_for_is_not_taken_for_absent(operator: Operator) -> None:
    lost = {"kind": "drop_after", "method": "POST", "path": "/v1/servers", "times": None}
    operator.control("hetzner", "POST", "faults", lost)
    # Two looks come before the order.
    down = {**BUSY, "method": "GET", "path": "/v1/servers", "status": 503, "after": 2}
    operator.control("hetzner", "POST", "faults", down)
    for seconds in ("8", "3"):
        assert provision(operator, "--timeout", seconds).code == 7
        assert any("create_server" in one for one in unfinished(operator))
    operator.reset()
    assert len(operator.servers()) == 1
    assert destroyed(operator).code == 0
    assert operator.holdings() == (0, 0, 0)


@pytest.mark.parametrize(
    ("path", "status"),
    [
        (".*/settings/.*", 429),
        (".*/settings/.*", 503),
        (".*/ssl/certificate_packs", 500),
        (".*/ssl/certificate_packs", 503),
        (".*/ssl/universal/settings", 503),
        (".*/dns_records/usage", 503),
        (".*/ips", 429),
        (".*/ips", 503),
    ],
)
def test_what_is_only_good_to_know_keeps_no_provision(
    operator: Operator, path: str, status: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    ranges = operator.cloud("cloudflare", "/ips")["result"]["ipv4_cidrs"]
    monkeypatch.setattr(firewall, "CLOUDFLARE_NETWORKS", frozenset(ranges))  # the last known ones are the real edge's
    busy(operator, path, status)
    said = provision(operator, "--timeout", TIMEOUT)
    assert said.code == 0, said.err
    assert not_complete(operator, "alice") == []
    assert rows(operator, "SELECT * FROM effects WHERE outcome IS NULL") == []
