"""Origin CA certificates: whose they are, when Cloudflare shows much, little or nothing of them."""

from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from clawdet_cli.stages import destroy
from tests.contract.cloudflare_emulator import make_csr
from tests.e2e.operator import Operator
from tests.e2e.test_bad_input import error_of, provision
from tests.e2e.test_recovery import lose_the_database, recorded, rewrite
from tests.kill.invariants import not_complete, rows, unfinished

ALL = ["csr", "certificate", "requested_validity"]
READS = {
    "as clients saw it": {"get": ["certificate"], "list": ["certificate"]},
    "as the published schema has it": {"get": ALL, "list": ALL},
    "by id only": {"get": ["certificate"], "list": []},
}
UNLISTED: dict[str, dict[str, Any]] = {
    "refused": {
        "status": 400,
        "body": {"success": False, "errors": [{"code": 10000, "message": "Authentication error"}]},
    },
    "strange": {"status": 200, "body": {"success": True, "errors": [], "messages": [], "result": [{"name": "x"}]}},
    "broken": {"status": 400, "body": {"success": False, "errors": [{"code": 1000, "message": "General error"}]}},
}


@pytest.fixture
def alice(operator: Operator) -> Operator:
    said = provision(operator)
    assert said.code == 0, said.err
    return operator


def reads(operator: Operator, **fields: list[str]) -> None:
    operator.control("cloudflare", "PATCH", "certificate_reads", fields)


def unlisted(operator: Operator, kind: str, *, after: int = 0) -> None:
    fault = {"kind": "answer", "method": "GET", "path": ".*/certificates.*", "times": None, "after": after}
    fault |= UNLISTED[kind]
    operator.control("cloudflare", "POST", "faults", fault)


def signed_for(operator: Operator, host: str, csr: str) -> str:
    body = {"csr": csr, "hostnames": [host], "request_type": "origin-ecc", "requested_validity": 5475}
    return str(operator.cloud("cloudflare", "/certificates", "POST", body)["result"]["id"])


def destroyed(operator: Operator) -> Any:
    return operator.clawdet("destroy", "alice", "--sandbox", "--yes", "--json")


@pytest.mark.parametrize("kind", READS)
def test_a_lost_answer_to_the_signing_ends_in_one_certificate(operator: Operator, kind: str) -> None:
    reads(operator, **READS[kind])
    fault = {"kind": "drop_after", "method": "POST", "path": ".*/certificates"}
    operator.control("cloudflare", "POST", "faults", fault)
    said = provision(operator)
    assert said.code == 0, said.err
    assert not_complete(operator, "alice") == []
    assert provision(operator).code == 0
    assert len(operator.certificates()) == 1
    assert destroyed(operator).code == 0
    assert operator.holdings() == (0, 0, 0)


def test_a_run_that_failed_after_the_signing_goes_on(operator: Operator) -> None:
    operator.control("hetzner", "PUT", "servers/knobs", {"fail_step": {"configure": "landing-page"}})
    failed = provision(operator)
    assert failed.code == 6, failed.err
    operator.control("hetzner", "DELETE", "servers/knobs")
    (first,) = operator.certificates()
    said = provision(operator)
    assert said.code == 0, said.err
    assert [one["id"] for one in operator.certificates()] == [first["id"]]


@pytest.mark.parametrize("kind", UNLISTED)
def test_destroy_deletes_the_server_when_certificates_cannot_be_seen(alice: Operator, kind: str) -> None:
    (certificate,) = alice.certificates()
    unlisted(alice, kind)
    said = destroyed(alice)
    assert said.code == 0, said.err
    gone = said.document["destroyed"]
    (named,) = gone["not_judged"]
    assert certificate["id"] in named
    assert not any("certificate" in line for line in gone["absent"])
    assert recorded(alice, "status") == "destroyed"
    assert (alice.servers(), alice.records()) == ([], [])
    shown = alice.clawdet("destroy", "alice", "--sandbox", "--yes")
    assert shown.code == 0


def test_destroy_leaves_and_names_a_certificate_whose_key_is_not_shown(alice: Operator) -> None:
    (certificate,) = alice.certificates()
    reads(alice, get=[], list=[])
    said = destroyed(alice)
    assert said.code == 0, said.err
    (named,) = said.document["destroyed"]["not_judged"]
    assert named.startswith(f"Origin CA certificate {certificate['id']} for alice.")
    assert [one["id"] for one in alice.certificates()] == [certificate["id"]]


def test_a_certificate_that_cannot_be_revoked_keeps_no_server(alice: Operator, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(destroy, "LAG_SECONDS", 1.0)
    body = {"success": False, "errors": [{"code": 10000, "message": "Authentication error"}]}
    fault = {
        "kind": "answer",
        "method": "DELETE",
        "path": ".*/certificates/.*",
        "times": None,
        "status": 400,
        "body": body,
    }
    alice.control("cloudflare", "POST", "faults", fault)
    error = error_of(destroyed(alice), 5, "cloud")
    assert error["stage"] == "prove_absence"
    assert alice.holdings() == (0, 0, 1)
    alice.reset()
    assert destroyed(alice).code == 0
    assert alice.holdings() == (0, 0, 0)


def test_a_recorded_id_alone_makes_no_certificate_ours(alice: Operator) -> None:
    host = f"alice.{alice.info()['zone']}"
    foreign = signed_for(alice, host, make_csr())
    rewrite(alice, f"certificate_id = '{foreign}'")
    said = destroyed(alice)
    assert said.code == 0, said.err
    assert [one["id"] for one in alice.certificates()] == [foreign]


@pytest.mark.parametrize("kind", READS)
def test_reconcile_is_clean_whatever_is_shown(alice: Operator, kind: str) -> None:
    reads(alice, **READS[kind])
    said = alice.clawdet("reconcile", "--sandbox", "--json")
    assert (said.code, said.document["reconcile"]["clean"]) == (0, True), said.err


@pytest.mark.parametrize("kind", UNLISTED)
def test_reconcile_names_what_it_could_not_judge(alice: Operator, kind: str) -> None:
    unlisted(alice, kind)
    said = alice.clawdet("reconcile", "--sandbox", "--json")
    assert said.code == 4, said.err
    differing = [row for row in said.document["reconcile"]["rows"] if row["category"] != "right"]
    assert [(row["kind"], row["user"]) for row in differing] == [("certificate", "alice")]


@pytest.mark.parametrize("kind", UNLISTED)
def test_a_lost_database_is_rebuilt_without_the_certificates(alice: Operator, kind: str) -> None:
    lose_the_database(alice)
    unlisted(alice, kind)
    said = alice.clawdet("state", "rebuild", "--sandbox", "--json")
    assert said.code == 0, said.err
    alice.reset()
    assert provision(alice).code == 0
    assert not_complete(alice, "alice") == []


@pytest.mark.parametrize("kind", UNLISTED)
def test_a_kill_while_signing_is_recovered_from_without_seeing_certificates(operator: Operator, kind: str) -> None:
    fault = {"kind": "drop_after", "method": "POST", "path": ".*/certificates", "times": None}
    operator.control("cloudflare", "POST", "faults", fault)
    unlisted(operator, kind, after=1)
    assert provision(operator).code in {3, 5}
    assert unfinished(operator)
    said = destroyed(operator)
    assert said.code == 0, said.err
    assert (operator.servers(), operator.records()) == ([], [])


def test_keys_are_handed_over_when_the_certificate_is_not_given_out_any_more(alice: Operator) -> None:
    (first,) = alice.certificates()
    reads(alice, get=[], list=[])
    said = alice.clawdet("provision", "alice", "--sandbox", "--json", env={"OPENAI_API_KEY": "sk-certificates-1"})
    assert said.code == 0, said.err
    reads(alice, get=["certificate"], list=["certificate"])
    held = {one["id"]: one for one in alice.certificates()}
    (row,) = rows(alice, "SELECT certificate_id, csr FROM instances")
    assert row["certificate_id"] in held.keys() - {first["id"]}
    key = x509.load_pem_x509_csr(row["csr"].encode()).public_key()
    leaf = x509.load_pem_x509_certificate(held[row["certificate_id"]]["certificate"].encode())
    form = (Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    assert leaf.public_key().public_bytes(*form) == key.public_bytes(*form)
