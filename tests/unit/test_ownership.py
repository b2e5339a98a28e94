"""Whose something in a cloud is: what it must carry, and that an id is no proof."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding

from clawdet_cli import public_key
from clawdet_cli.errors import ForeignError
from clawdet_cli.model import PROJECT, Certificate, DnsRecord, Firewall, Server, SshKey
from clawdet_cli.stages import ownership
from tests.unit.test_comparison import ALICE, CREATED, SERVER
from tests.unit.test_pool import MEMBER

RECORD = DnsRecord("r1", ALICE.host, "A", "203.0.113.7", True, ALICE.comment, CREATED)
FIREWALL = Firewall(3, "clawdet", {"managed-by": "clawdet"}, (), in_use=True)
KEY = SshKey(4, "clawdet-abc", {"managed-by": "clawdet"}, "ssh-ed25519 AAAA")
POOLED = replace(SERVER, id=7, name=MEMBER.server_name, labels=MEMBER.labels)


def request() -> str:
    key = ec.generate_private_key(ec.SECP256R1())
    made = x509.CertificateSigningRequestBuilder().subject_name(x509.Name([])).sign(key, hashes.SHA256())
    return made.public_bytes(Encoding.PEM).decode()


REQUEST, EARLIER = request(), request()
CERTIFICATE = Certificate("c1", (ALICE.host,), public_key.of_request(REQUEST), "")


@dataclass
class Journal:
    claimed: Mapping[int, str] = field(default_factory=dict)
    sent: Sequence[str] = ()

    def claims(self, run_id: str) -> Mapping[int, str]:
        assert run_id == ALICE.run_id
        return self.claimed

    def requests(self, user: str) -> Sequence[str]:
        assert user == "alice"
        return self.sent


OWN = replace(ALICE, server_id=SERVER.id, record_id="r1", certificate_id="c1", csr=REQUEST)


@pytest.mark.parametrize("thing", [SERVER, RECORD, CERTIFICATE, FIREWALL, KEY], ids=lambda thing: type(thing).__name__)
def test_what_carries_our_mark_is_ours(thing: ownership.Thing) -> None:
    assert ownership.owns(OWN, thing, Journal())
    ownership.refuse_foreign(OWN, thing, Journal())


@pytest.mark.parametrize(
    "thing",
    [
        replace(SERVER, labels={}),
        replace(SERVER, labels={**ALICE.labels, "run": "zzzzzzzzzzzz"}),
        replace(SERVER, labels={**ALICE.labels, "user": "alice2"}),
        replace(SERVER, labels={**ALICE.labels, "managed-by": "terraform"}),
        POOLED,
        replace(RECORD, comment=""),
        replace(RECORD, comment=ALICE.comment + " "),
        replace(RECORD, comment=f"clawdet:alice:{'z' * 12}"),
        replace(RECORD, type="CNAME"),
        replace(RECORD, name="mail.example.com"),
        replace(CERTIFICATE, hostnames=(ALICE.host, "mail.example.com")),
        replace(CERTIFICATE, hostnames=("*.example.com",)),
        replace(CERTIFICATE, hostnames=()),
        replace(CERTIFICATE, key=public_key.of_request(EARLIER)),
        replace(CERTIFICATE, key=None),
        replace(FIREWALL, name="clawdet2"),
        replace(FIREWALL, labels={}),
        replace(KEY, labels={}),
    ],
)
def test_a_recorded_id_is_no_proof(thing: ownership.Thing) -> None:
    assert not ownership.owns(OWN, thing, Journal())
    with pytest.raises(ForeignError, match="is not provably alice's: it was not touched"):
        ownership.refuse_foreign(OWN, thing, Journal())


def test_a_certificate_of_an_earlier_request_of_the_same_user_is_ours() -> None:
    certificate = replace(CERTIFICATE, key=public_key.of_request(EARLIER))
    assert ownership.owns(OWN, certificate, Journal(sent=[EARLIER]))


def test_a_request_that_its_key_did_not_sign_proves_nothing() -> None:
    body = REQUEST.splitlines()
    forged = "\n".join([*body[:-2], body[-2][:-8] + "AAAA" + body[-2][-4:], body[-1]])
    assert public_key.of_request(forged) is None


@pytest.mark.parametrize(
    ("claims", "ours"),
    [({7: MEMBER.server_name}, True), ({7: "clawdet-pool.zzzzzzzz"}, False), ({8: MEMBER.server_name}, False)],
)
def test_a_server_of_the_pool_is_the_users_only_after_a_claim_of_it(claims: dict[int, str], ours: bool) -> None:
    assert ownership.owns(replace(OWN, server_id=7), POOLED, Journal(claims)) is ours


def test_a_server_of_the_pool_is_the_pools_until_it_is_a_users() -> None:
    assert ownership.owns(MEMBER, POOLED, Journal())
    assert not ownership.owns(MEMBER, replace(POOLED, labels={**MEMBER.labels, "user": "bob"}), Journal())
    assert not ownership.owns(MEMBER, replace(POOLED, labels={**MEMBER.labels, "run": "zzzzzzzzzzzz"}), Journal())


@pytest.mark.parametrize(("labels", "ours"), [(ALICE.labels, True), (MEMBER.labels, True), ({}, False)])
def test_of_the_project_is_every_server_that_clawdet_made(labels: dict[str, Any], ours: bool) -> None:
    assert ownership.owns(replace(ALICE, user=PROJECT), replace(SERVER, labels=labels), Journal()) is ours


def test_a_foreign_thing_is_named_as_its_cloud_names_it_with_its_marks() -> None:
    server = Server(9, "shop-db", "running", None, "cx23", "nbg1", {"owner": "shop"}, CREATED)
    error = ownership.foreign(OWN, server)
    assert error.what == "The server shop-db (id 9) is not provably alice's: it was not touched."
    assert error.details == ("its labels: owner=shop",)
    assert any("clawdet destroy alice --forget-foreign" in step for step in error.next_steps)
