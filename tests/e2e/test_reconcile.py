"""`clawdet reconcile`: the database against both clouds and the VPS."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding

from clawdet_cli.state import State
from tests.e2e.operator import Operator
from tests.e2e.test_bad_input import provision
from tests.e2e.test_recovery import lose_the_database, recorded, revoke_all, rewrite
from tests.kill.invariants import in_clouds, not_complete, rows, unfinished


@pytest.fixture
def alice(operator: Operator) -> Operator:
    said = provision(operator)
    assert said.code == 0, said.err
    return operator


def reconcile(operator: Operator, *flags: str, code: int) -> dict[str, Any]:
    said = operator.clawdet("reconcile", "--sandbox", "--json", *flags)
    assert said.code == code, said.out + said.err
    return dict(said.document["reconcile"])


def differing(found: dict[str, Any]) -> list[dict[str, Any]]:
    return [row for row in found["rows"] if row["category"] != "right"]


def change_record(operator: Operator, **changes: Any) -> None:
    (record,) = operator.records()
    path = f"/zones/{operator.zone_id()}/dns_records/{record['id']}"
    operator.cloud("cloudflare", path, "PATCH", changes)


def test_nothing_at_all_is_clean(operator: Operator) -> None:
    found = reconcile(operator, code=0)
    assert (found["clean"], found["rows"]) == (True, [])
    said = operator.clawdet("reconcile", "--sandbox")
    assert "Everything is as it should be." in said.out


def test_a_complete_instance_is_right_in_every_part(alice: Operator) -> None:
    found = reconcile(alice, code=0)
    assert {(row["kind"], row["category"]) for row in found["rows"]} == {
        (kind, "right") for kind in ("server", "record", "certificate", "vps", "instance")
    }
    said = alice.clawdet("reconcile", "--sandbox")
    assert "right     alice: server, record, certificate, vps, instance" in said.out


def switch_off(operator: Operator) -> None:
    (server,) = operator.servers()
    operator.cloud("hetzner", f"/servers/{server['id']}/actions/poweroff", "POST")


def take_the_labels(operator: Operator) -> None:
    (server,) = operator.servers()
    operator.cloud("hetzner", f"/servers/{server['id']}", "PUT", {"labels": {"managed-by": "clawdet"}})


def rename(operator: Operator) -> None:
    (server,) = operator.servers()
    operator.cloud("hetzner", f"/servers/{server['id']}", "PUT", {"name": "renamed"})


@pytest.mark.parametrize(
    ("change", "what", "decision"),
    [
        (switch_off, "it is off", "switch it on in the Hetzner console, then: clawdet provision alice"),
        (
            take_the_labels,
            "its labels were changed",
            "clawdet destroy alice --forget-foreign",
        ),
        (rename, "it was renamed from clawdet-alice", "name it so again in the Hetzner console"),
    ],
)
def test_a_server_that_drifted_needs_a_decision(
    change: Callable[[Operator], None], what: str, decision: str, alice: Operator
) -> None:
    change(alice)
    for flags in ([], ["--fix"]):
        (row,) = differing(reconcile(alice, *flags, code=4))
        assert (row["category"], row["kind"], row["what"], row["fix"]) == ("drifted", "server", what, None)
        assert row["decision"].startswith(decision)
        assert not row["fixed"]


@pytest.mark.parametrize(
    "changes",
    [{"content": "127.0.0.9"}, {"proxied": False}],
)
def test_a_record_that_drifted_is_set_right(changes: dict[str, Any], alice: Operator) -> None:
    before = alice.records()
    change_record(alice, **changes)
    (row,) = differing(reconcile(alice, code=4))
    assert (row["category"], row["kind"], row["fix"]) == ("drifted", "record", "sets it right")
    mended = reconcile(alice, "--fix", code=0)
    assert [row["kind"] for row in mended["rows"] if row["fixed"]] == ["record"]
    kept = ("id", "content", "proxied", "comment")
    assert [alice.records()[0][key] for key in kept] == [before[0][key] for key in kept]
    assert not_complete(alice, "alice") == []


@pytest.mark.parametrize("changes", [{"comment": "mine"}, {"content": "127.0.0.9", "comment": ""}])
def test_a_record_that_lost_its_comment_needs_a_decision(changes: dict[str, Any], alice: Operator) -> None:
    comment = alice.records()[0]["comment"]
    change_record(alice, **changes)
    before = alice.records()
    for flags in ([], ["--fix"]):
        (row,) = differing(reconcile(alice, *flags, code=4))
        assert (row["category"], row["kind"], row["fix"]) == ("drifted", "record", None)
        assert f"or put back its comment in the Cloudflare dashboard: {comment})" in row["decision"]
    assert alice.records() == before


@pytest.mark.parametrize("field", ["server_id", "record_id", "certificate_id"])
def test_what_is_ours_and_not_recorded_is_adopted(field: str, alice: Operator) -> None:
    before = recorded(alice, field)
    rewrite(alice, f"{field} = NULL")
    (row,) = differing(reconcile(alice, code=4))
    assert (row["category"], row["fix"], row["id"]) == ("adoptable", "records it", str(before))
    assert reconcile(alice, "--fix", code=0)["clean"]
    assert recorded(alice, field) == before
    assert not_complete(alice, "alice") == []


def delete_server(operator: Operator) -> None:
    operator.cloud("hetzner", f"/servers/{operator.servers()[0]['id']}", "DELETE")


def delete_record(operator: Operator) -> None:
    path = f"/zones/{operator.zone_id()}/dns_records/{operator.records()[0]['id']}"
    operator.cloud("cloudflare", path, "DELETE")


@pytest.mark.parametrize(
    ("delete", "kind", "field"),
    [
        (delete_server, "server", "server_id"),
        (delete_record, "record", "record_id"),
        (revoke_all, "certificate", "certificate_id"),
    ],
)
def test_a_ghost_is_taken_out_of_the_database_and_made_again_by_the_next_run(
    delete: Callable[[Operator], None], kind: str, field: str, alice: Operator
) -> None:
    delete(alice)
    rows = {row["kind"]: row for row in differing(reconcile(alice, code=4))}
    assert (rows[kind]["category"], rows[kind]["fix"]) == ("ghost", "takes it out of the database")
    left = differing(reconcile(alice, "--fix", code=4))
    assert recorded(alice, field) is None
    assert [(row["kind"], row["decision"]) for row in left if not row["fixed"]] == [
        ("instance", "clawdet provision alice")
    ]
    assert provision(alice).code == 0
    assert not_complete(alice, "alice") == []
    assert reconcile(alice, code=0)["clean"]


def test_orphans_are_told_with_their_price_and_never_deleted(alice: Operator) -> None:
    lose_the_database(alice)
    before = in_clouds(alice)
    for flags in ([], ["--fix"]):
        found = reconcile(alice, *flags, code=4)
        rows = {row["kind"]: row for row in found["rows"]}
        assert set(rows) == {"server", "record"}
        assert {row["category"] for row in found["rows"]} == {"orphan"}
        zone = alice.info()["zone"]
        assert rows["server"]["decision"] == rows["record"]["decision"]
        assert rows["server"]["decision"].startswith(f"clawdet state rebuild alice --zone {zone} ")
        assert rows["server"]["monthly_eur"] == found["orphans_monthly_eur"] > 5
        assert found["foreign"]["certificates"] == 1
        assert in_clouds(alice) == before
    said = alice.clawdet("destroy", "alice", "--zone", zone, "--sandbox", "--yes", "--of-another-database")
    assert said.code == 0, said.err
    revoke_all(alice)
    assert reconcile(alice, code=0)["rows"] == []


def test_a_second_server_of_a_living_user_is_an_orphan_that_destroy_would_miss(alice: Operator) -> None:
    labels = {"managed-by": "clawdet", "user": "alice", "run": "zzzzzzzzzzzz"}
    order = {"name": "second", "server_type": "cx23", "image": "ubuntu-24.04", "location": "nbg1", "labels": labels}
    second = alice.cloud("hetzner", "/servers", "POST", order)["server"]["id"]
    (row,) = differing(reconcile(alice, "--fix", code=4))
    assert (row["category"], row["decision"]) == (
        "orphan",
        f"if no other database has it: delete server {second} in the Hetzner console",
    )
    alice.cloud("hetzner", f"/servers/{second}", "DELETE")


def test_what_is_foreign_is_counted_and_not_named(alice: Operator) -> None:
    order = {"name": "web", "server_type": "cx23", "image": "ubuntu-24.04", "location": "nbg1"}
    foreign = alice.cloud("hetzner", "/servers", "POST", order)["server"]["id"]
    found = reconcile(alice, code=0)
    assert found["foreign"] == {"servers": 1, "records": 0, "certificates": 0, "ssh_keys": 0, "firewalls": 0}
    assert not any(row["id"] == str(foreign) for row in found["rows"])
    alice.cloud("hetzner", f"/servers/{foreign}", "DELETE")


def test_an_intent_of_a_dead_run_is_settled(alice: Operator) -> None:
    state = State(Path(alice.info()["state_file"]))
    row = state.instance("alice")
    assert row is not None
    state.begin_effect(row, "create_dns_record", "update_dns_record", row.record_id or "", {})
    state.close()
    (told,) = differing(reconcile(alice, code=4))
    assert (told["category"], told["kind"]) == ("adoptable", "journal")
    assert reconcile(alice, "--fix", code=0)["clean"]
    assert unfinished(alice) == []


def test_a_machine_that_does_not_answer_is_told(alice: Operator) -> None:
    alice.control("hetzner", "PUT", "servers/knobs", {"ssh_wrong_host_key": True})
    (row,) = differing(reconcile(alice, code=4))
    assert (row["category"], row["kind"], row["decision"]) == ("drifted", "vps", "clawdet provision alice")


def test_a_second_certificate_for_our_key_is_revoked(alice: Operator) -> None:
    (first,) = alice.certificates()
    (row,) = rows(alice, "SELECT csr FROM instances WHERE status = 'complete'")
    body = {"csr": row["csr"], "hostnames": first["hostnames"], "request_type": "origin-ecc"}
    alice.cloud("cloudflare", "/certificates", "POST", {**body, "requested_validity": 5475})
    (row,) = differing(reconcile(alice, code=4))
    assert (row["category"], row["fix"]) == ("drifted", "revokes it")
    assert reconcile(alice, "--fix", code=0)["clean"]
    assert [found["id"] for found in alice.certificates()] == [first["id"]]


def test_the_certificate_that_the_vps_serves_is_kept_whatever_an_old_backup_says(
    alice: Operator, tmp_path: Path
) -> None:
    backup = str(tmp_path / "old.db")
    assert alice.clawdet("state", "backup", backup, "--sandbox").code == 0
    revoke_all(alice)
    assert alice.clawdet("provision", "alice", "--sandbox").code == 0
    (served,) = alice.certificates()
    assert alice.clawdet("state", "restore", backup, "--sandbox").code == 0
    (row,) = differing(reconcile(alice, code=4))
    assert (row["category"], row["kind"], row["id"], row["fix"]) == (
        "adoptable",
        "certificate",
        served["id"],
        "records it",
    )
    assert reconcile(alice, "--fix", code=0)["clean"]
    assert [one["id"] for one in alice.certificates()] == [served["id"]]
    assert alice.clawdet("verify", "alice", "--sandbox").code == 0


@pytest.mark.parametrize("living", [True, False], ids=["of a living instance", "of a destroyed one"])
def test_a_certificate_that_was_signed_and_nobody_has_is_named_and_revoked(living: bool, alice: Operator) -> None:
    """As of a run that another machine took over from while its request was on its way."""
    (first,) = alice.certificates()
    (row,) = rows(alice, "SELECT csr FROM instances WHERE status = 'complete'")
    if living:
        # The run that took over had another key certified.
        rewrite(alice, f"csr = '{another_request()}'")
        alice.cloud("cloudflare", f"/certificates/{first['id']}", "DELETE")
        rewrite(alice, "certificate_id = NULL")
    else:
        assert alice.clawdet("destroy", "alice", "--sandbox", "--yes").code == 0
    body = {"csr": row["csr"], "hostnames": first["hostnames"], "request_type": "origin-ecc"}
    late = alice.cloud("cloudflare", "/certificates", "POST", {**body, "requested_validity": 5475})["result"]
    (told,) = differing(reconcile(alice, code=4))
    assert (told["category"], told["kind"], told["id"]) == ("orphan", "certificate", late["id"])
    assert (told["user"], told["name"], told["fix"]) == ("alice", first["hostnames"][0], "revokes it")
    assert reconcile(alice, "--fix", code=0)["clean"]
    assert alice.certificates() == []


def another_request() -> str:
    key = ec.generate_private_key(ec.SECP256R1())
    request = x509.CertificateSigningRequestBuilder().subject_name(x509.Name([])).sign(key, hashes.SHA256())
    return request.public_bytes(Encoding.PEM).decode()


def test_an_interrupted_destroy_is_told(alice: Operator) -> None:
    rewrite(alice, "status = 'destroying'")
    (row,) = differing(reconcile(alice, code=4))
    assert (row["kind"], row["decision"]) == ("instance", "clawdet destroy alice")


def test_a_cloud_that_cannot_be_asked_is_no_clean_answer(alice: Operator) -> None:
    refusal = {"error": {"code": "unauthorized", "message": "no"}}
    fault = {"kind": "answer", "method": "GET", "path": "/v1/servers", "status": 401, "body": refusal, "times": None}
    alice.control("hetzner", "POST", "faults", fault)
    assert alice.clawdet("reconcile", "--sandbox").code == 3
