"""What differs between the database and the clouds: the rows that no sandbox run shows as well."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding

from clawdet_cli import public_key
from clawdet_cli.model import (
    Category,
    Certificate,
    DnsRecord,
    Effect,
    Finding,
    Firewall,
    FirewallRule,
    Instance,
    Server,
    SshKey,
    Status,
)
from clawdet_cli.stages import operator_keys
from clawdet_cli.stages.comparison import Seen, compare
from clawdet_cli.stages.firewall import EVERYWHERE, rules_for
from tests.contract.cloudflare_emulator import make_csr

ONE = ec.generate_private_key(ec.SECP256R1())
NOW = "2026-11-22T05:20:00+00:00"
CREATED = datetime(2026, 11, 22, tzinfo=UTC)
ALICE = Instance(
    "alice",
    "example.com",
    "abcdef012345",
    Status.COMPLETE,
    False,
    NOW,
    NOW,
    server_id=1,
    server_type="cx23",
    location="nbg1",
    monthly="5.99",
    ipv4="203.0.113.7",
    record_id="r1",
    certificate_id="c1",
    csr=make_csr(ONE),
)
SERVER = Server(1, "clawdet-alice", "running", "203.0.113.7", "cx23", "nbg1", ALICE.labels, CREATED, (7,))
RULES = rules_for(["192.0.2.0/24"], EVERYWHERE)
WALL = Firewall(7, "clawdet", {"managed-by": "clawdet"}, RULES, in_use=True)
RECORD = DnsRecord("r1", "alice.example.com", "A", "203.0.113.7", True, "clawdet:alice:abcdef012345", CREATED)
CERTIFICATE = Certificate("c1", ("alice.example.com",), public_key.of_request(make_csr(ONE)), "PEM")
PUBLIC = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIEf0Q0cX0m1jW5o0bJm1oWm0m2b1kq1v0bqf1c8c8bXk"
KEY = SshKey(5, operator_keys.name_of(PUBLIC), {"managed-by": "clawdet"}, PUBLIC)


def seen(instances: tuple[Instance, ...] = (ALICE,), **changes: Any) -> Seen:
    everything: dict[str, Any] = {
        "servers": [SERVER],
        "ssh_keys": [KEY],
        "firewalls": [WALL],
        "wall": RULES,
        "records": {"example.com": [RECORD]},
        "certificates": {"example.com": [CERTIFICATE]},
        "vps": {"alice": ""},
    }
    return Seen(instances=instances, **{**everything, **changes})


def differing(found: Seen) -> list[Finding]:
    return [finding for finding in compare(found)[0] if finding.category is not Category.RIGHT]


def test_all_is_right() -> None:
    assert differing(seen()) == []
    assert compare(seen())[1] == {"servers": 0, "records": 0, "certificates": 0, "ssh_keys": 0, "firewalls": 0}


@pytest.mark.parametrize(
    ("change", "what"),
    [
        ({"status": "off"}, "it is off"),
        ({"ipv4": "203.0.113.9"}, "its address is 203.0.113.9, and 203.0.113.7 is recorded"),
        ({"labels": {}}, "its labels were changed"),
        ({"labels": {**ALICE.labels, "run": "x"}}, "its labels were changed"),
        ({"firewall_ids": (8,)}, "it is not behind the firewall clawdet"),
    ],
)
def test_a_server_that_drifted(change: dict[str, Any], what: str) -> None:
    (finding,) = differing(seen(servers=[replace(SERVER, **change)]))
    assert (finding.category, finding.kind, finding.what, finding.fix) == (Category.DRIFTED, "server", what, "")
    assert finding.monthly == Decimal("5.99")


def test_a_server_of_another_run_is_neither_adopted_nor_right() -> None:
    other = replace(SERVER, id=2, labels={**ALICE.labels, "run": "zzzzzzzzzzzz"})
    ghost, orphan = differing(seen(servers=[other], prices={("cx23", "nbg1"): Decimal("5.99")}))
    assert (ghost.category, ghost.id) == (Category.GHOST, "1")
    assert (orphan.category, orphan.id, orphan.monthly) == (Category.ORPHAN, "2", Decimal("5.99"))
    assert orphan.decision == "if no other database has it: delete server 2 in the Hetzner console"


def test_a_recorded_server_that_is_another_users_by_its_labels_is_forgotten_and_the_own_one_adopted() -> None:
    of_carol = replace(SERVER, id=9, name="clawdet-carol", labels={**ALICE.labels, "user": "carol"})
    wrong = replace(ALICE, server_id=9)
    ghost, own = differing(seen((wrong,), servers=[of_carol, SERVER], runs={("carol", ALICE.run_id)}))[:2]
    assert (ghost.category, ghost.id, ghost.fix) == (Category.GHOST, "9", "takes it out of the database")
    assert ghost.what == "it is carol's by its labels, and not this instance's"
    assert (own.category, own.id, own.fix) == (Category.ADOPTABLE, "1", "records it")


def test_a_row_of_which_nothing_was_made_is_in_nobodys_way() -> None:
    refused = Instance("alice", "example.com", "abcabcabcabc", Status.FAILED, False, NOW, NOW, error="refused")
    orphans = [one for one in differing(seen((refused,))) if one.category is Category.ORPHAN]
    assert {one.kind for one in orphans} == {"server", "record"}
    assert all(one.decision.startswith("clawdet state rebuild alice") for one in orphans)


@pytest.mark.parametrize(
    "labels",
    [
        {},
        {"managed-by": "clawdet"},
        {"managed-by": "clawdet", "user": "bob"},
        {"managed-by": "terraform", "user": "bob", "run": "abcdef012345"},
        {"managed_by": "clawdet", "user": "bob", "run": "abcdef012345"},
    ],
)
def test_a_server_without_all_our_labels_is_foreign(labels: dict[str, str]) -> None:
    foreign = replace(SERVER, id=2, name="clawdet-bob", labels=labels)
    assert differing(seen(servers=[SERVER, foreign])) == []
    assert compare(seen(servers=[SERVER, foreign]))[1]["servers"] == 1


@pytest.mark.parametrize(
    ("comment", "is_orphan"),
    [
        ("clawdet:bob:abcdef012345", True),
        ("clawdet:bob:", False),
        ("clawdet:bob:abcdef01234", False),
        ("clawdet:bob:abcdef012345 and more", False),
        ("see clawdet:bob:abcdef012345", False),
        ("", False),
    ],
)
def test_a_record_is_an_orphan_by_its_whole_comment_only(comment: str, is_orphan: bool) -> None:
    other = replace(RECORD, id="r2", name="bob.example.com", comment=comment)
    findings = differing(seen(records={"example.com": [RECORD, other]}))
    assert [finding.category for finding in findings] == [Category.ORPHAN] * is_orphan
    assert compare(seen(records={"example.com": [RECORD, other]}))[1]["records"] == (not is_orphan)


def test_a_second_record_with_our_comment_is_not_taken_for_the_recorded_one() -> None:
    second = replace(RECORD, id="r2", content="203.0.113.9")
    (finding,) = differing(seen(records={"example.com": [RECORD, second]}))
    assert (finding.category, finding.id, finding.fix) == (Category.DRIFTED, "r2", "")


def test_a_certificate_of_the_same_host_with_another_request_is_foreign() -> None:
    other = replace(CERTIFICATE, id="c2", key=public_key.of_request(make_csr()))
    found = seen(certificates={"example.com": [CERTIFICATE, other]})
    assert differing(found) == []
    assert compare(found)[1]["certificates"] == 1


def test_a_certificate_of_our_request_for_more_than_our_host_is_foreign() -> None:
    wide = replace(CERTIFICATE, id="c2", hostnames=("alice.example.com", "*.example.com"))
    assert differing(seen(certificates={"example.com": [CERTIFICATE, wide]})) == []


def test_a_recorded_certificate_that_is_not_for_our_key_is_not_taken_for_ours() -> None:
    other = replace(CERTIFICATE, key=public_key.of_request(make_csr()))
    found = seen(certificates={"example.com": [other]})
    (finding,) = differing(found)
    assert (finding.category, finding.kind, finding.id) == (Category.GHOST, "certificate", "c1")
    assert compare(found)[1]["certificates"] == 1


def test_a_recorded_certificate_of_which_only_the_id_is_shown_is_right() -> None:
    assert differing(seen(certificates={"example.com": [replace(CERTIFICATE, key=None, hostnames=())]})) == []


def certified(number: str) -> Certificate:
    """Return one of several certificates for alice's key."""
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, number)])
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(ONE.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(CREATED)
        .not_valid_after(CREATED + timedelta(days=30))
        .sign(ONE, hashes.SHA256())
    )
    return replace(CERTIFICATE, id=number, pem=certificate.public_bytes(Encoding.PEM).decode())


FIRST, SECOND, THIRD = (certified(number) for number in ("c1", "c2", "c3"))


@pytest.mark.parametrize("recorded", ["c1", "c9", None])
def test_the_certificate_that_the_vps_serves_is_the_instances_whatever_is_recorded(recorded: str | None) -> None:
    served = {"alice": public_key.digest_of_certificate(SECOND.pem)}
    instance = replace(ALICE, certificate_id=recorded)
    found = differing(seen((instance,), certificates={"example.com": [FIRST, SECOND, THIRD]}, served=served))
    assert [(one.id, one.fix) for one in found] == [("c1", "revokes it"), ("c2", "records it"), ("c3", "revokes it")]


@pytest.mark.parametrize("recorded", ["c1", None])
@pytest.mark.parametrize("digest", [None, "of none of them"])
def test_no_certificate_is_revoked_when_nobody_says_which_one_is_served(
    recorded: str | None, digest: str | None
) -> None:
    served = {"alice": digest} if digest else {}
    instance = replace(ALICE, certificate_id=recorded)
    found = differing(seen((instance,), certificates={"example.com": [FIRST, SECOND]}, served=served))
    assert {one.fix for one in found} == {""}
    assert {one.decision for one in found} == {"run clawdet reconcile again once the VPS answers"}


def test_a_record_that_a_run_of_this_database_ordered_is_not_called_anothers() -> None:
    late = replace(RECORD, id="r2", name="bob.example.com", comment="clawdet:bob:abcdef012345")
    (orphan,) = differing(seen(records={"example.com": [RECORD, late]}, runs={("bob", "abcdef012345")}))
    assert orphan.what == "this database ordered it, and no instance has it: the order was carried out late"
    assert orphan.decision == "clawdet destroy bob"


def test_an_orphaned_certificate_that_is_served_is_left() -> None:
    served = {"alice": public_key.digest_of_certificate(SECOND.pem)}
    rekeyed = replace(ALICE, csr=make_csr(), certificate_id=None)
    of_before = [("alice", "alice.example.com", make_csr(ONE))]
    (left,) = differing(seen((rekeyed,), certificates={"example.com": [SECOND]}, requests=of_before, served=served))
    assert (left.category, left.fix, left.decision) == (Category.ORPHAN, "", "clawdet provision alice")


def test_another_certificate_for_our_name_of_which_no_key_is_shown_is_named() -> None:
    other = replace(CERTIFICATE, id="c2", key=None)
    (finding,) = differing(seen(certificates={"example.com": [CERTIFICATE, other]}))
    assert (finding.category, finding.id, finding.fix) == (Category.DRIFTED, "c2", "")
    assert "does not show whose key" in finding.what


def test_certificates_that_could_not_be_listed_are_named_and_the_rest_is_compared() -> None:
    (finding,) = differing(seen(certificates={}, unlisted={"example.com": "Cloudflare refused."}))
    assert (finding.kind, finding.id, finding.category) == ("certificate", "c1", Category.DRIFTED)
    assert finding.what == "Origin CA certificate c1 for alice.example.com: Cloudflare refused"


def test_a_zone_that_cannot_be_seen_is_said() -> None:
    (finding,) = differing(seen(records={}, certificates={}))
    assert (finding.kind, finding.what) == ("record", "Cloudflare shows this token no zone example.com")


@pytest.mark.parametrize("status", [Status.PENDING, Status.FAILED])
def test_one_of_which_nothing_was_made_differs_in_nothing(status: Status) -> None:
    nothing = Instance("bob", "example.com", "bobbobbobbob", status, False, NOW, NOW)
    assert differing(seen((ALICE, nothing))) == []


def test_an_interrupted_run_is_told_with_what_is_under_way() -> None:
    effect = Effect(7, "alice", ALICE.run_id, "create_server", "create_server", "clawdet-alice", {}, NOW)
    interrupted = replace(ALICE, status=Status.CREATING_VPS, open_effects=(effect,))
    journal, instance = differing(seen((interrupted,)))
    assert (journal.category, journal.kind, journal.id) == (Category.ADOPTABLE, "journal", "7")
    assert "2026-11-22 05:20:00 UTC" in journal.what
    assert (instance.kind, instance.decision) == ("instance", "clawdet provision alice")


def test_nothing_of_a_user_that_is_worked_on_is_judged() -> None:
    halfway = replace(ALICE, server_id=None, record_id=None, certificate_id=None, status=Status.CREATING_VPS)
    other = replace(SERVER, id=2, labels={**ALICE.labels, "run": "zzzzzzzzzzzz"})
    found = seen((halfway,), servers=[SERVER, other], busy={"alice": "clawdet provision (process 1)"})
    assert compare(found)[0] == []


def test_a_key_is_an_orphan_when_nothing_of_ours_is_left() -> None:
    empty: dict[str, Any] = {"records": {}, "certificates": {}, "vps": {}}
    key, wall = differing(seen((), servers=[], **empty))
    assert (key.category, key.kind, key.id) == (Category.ORPHAN, "ssh_key", "5")
    assert (wall.category, wall.kind, wall.id) == (Category.ORPHAN, "firewall", "7")
    assert [found.kind for found in differing(seen((), **empty))] == ["server"]
    foreign = {"ssh_keys": [SshKey(6, "clawdet-laptop", {}, PUBLIC)], "firewalls": [replace(WALL, labels={})]}
    assert compare(seen((), servers=[], **foreign, **empty)) == (
        [],
        {"servers": 0, "records": 0, "certificates": 0, "ssh_keys": 1, "firewalls": 1},
    )


@pytest.mark.parametrize(
    "rules",
    [(), RULES[:2], rules_for(["192.0.2.0/24"], ["203.0.113.7/32"]), (*RULES, FirewallRule("18789", EVERYWHERE))],
    ids=["none", "one is missing", "another network", "one too many"],
)
def test_a_firewall_whose_rules_were_changed(rules: tuple[FirewallRule, ...]) -> None:
    (finding,) = differing(seen(firewalls=[replace(WALL, rules=rules)]))
    assert (finding.category, finding.kind, finding.decision) == (
        Category.DRIFTED,
        "firewall",
        "clawdet firewall refresh",
    )
    assert "it should: SSH from everywhere" in finding.what


def test_a_server_is_right_behind_a_firewall_of_ours_only() -> None:
    (finding,) = differing(seen(firewalls=[replace(WALL, labels={"managed-by": "terraform"})]))
    assert (finding.kind, finding.decision) == ("server", "clawdet firewall refresh")


def test_a_key_is_an_orphan_when_no_server_was_ordered_with_it() -> None:
    def marked(mark: str) -> Server:
        return replace(SERVER, labels={**SERVER.labels, "ssh-key": mark})

    others, own = marked("a" * 16), marked(operator_keys.mark(PUBLIC))
    (key,) = differing(seen(servers=[others]))
    assert (key.category, key.kind, key.fix, key.decision) == (Category.ORPHAN, "ssh_key", "removes it", "")
    assert differing(seen(servers=[own])) == []
    assert (
        differing(seen(servers=[others, replace(SERVER, id=2, name="old", labels=SERVER.labels)]))[0].kind == "server"
    )
    # It may be the key that an order is just about to be placed with.
    ordering = replace(ALICE, user="bob", server_id=None, record_id=None, certificate_id=None, csr=None)
    assert [row for row in differing(seen((ALICE, ordering), servers=[others])) if row.kind == "ssh_key"] == []


@pytest.mark.parametrize("key", [replace(KEY, name="clawdet-renamed"), replace(KEY, public=PUBLIC[:-4] + "aaaa")])
def test_a_key_that_is_not_provably_clawdets_is_not_removed_by_fix(key: SshKey) -> None:
    (row,) = differing(seen(servers=[replace(SERVER, labels={**SERVER.labels, "ssh-key": "a" * 16})], ssh_keys=[key]))
    assert (row.fix, row.decision) == ("", "delete it in the Hetzner console: Security, SSH keys")


def test_an_orphan_of_a_user_unknown_here_is_not_advised_to_be_removed() -> None:
    labels = {"managed-by": "clawdet", "user": "bob", "run": "bobbobbobbob", "zone": "example.org"}
    orphan = replace(SERVER, id=2, name="clawdet-bob", labels=labels)
    (finding,) = differing(seen(servers=[SERVER, orphan]))
    assert finding.decision.startswith("clawdet state rebuild bob --zone example.org    (if it is yours;")
    assert "this database knows none such (another one may)" in finding.what


def test_what_an_api_says_without_end_is_shortened_and_names_of_80_characters_are_not() -> None:
    servers = [replace(SERVER, name="x" * 10_000, labels={**SERVER.labels, "user": "bob"})]
    (orphan,) = [one for one in differing(seen((), servers=servers, records={}, certificates={})) if one.user == "bob"]
    assert orphan.name == "x" * 79 + "…"
    content = replace(RECORD, content="y" * 10_000)
    (drifted,) = differing(seen(records={"example.com": [content]}))
    assert (len(drifted.what), drifted.what[-1]) == (500, "…")
    whole = replace(SERVER, name="x" * 80, labels={**SERVER.labels, "user": "bob"})
    assert "x" * 80 in [one.name for one in differing(seen((), servers=[whole]))]
