"""Nothing without our labels, comment and id is changed or deleted, whatever is run beside it."""

import base64
import json
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from clawdet_cli.model import Effect
from clawdet_cli.state import State
from tests.contract.hetzner_emulator import public_key
from tests.e2e.operator import Operator, Said
from tests.e2e.test_recovery import lose_the_database

Ids = dict[str, list[str]]

RUN = "zzzzzzzzzzzz"
SERVERS: dict[str, dict[str, Any]] = {
    "clawdet-alice2": {"labels": {"managed-by": "clawdet", "user": "alice2", "run": RUN}},
    "clawdet-alic": {"labels": {}},
    "alice": {"labels": {"user": "alice"}},
    "clawdet-bob": {"labels": {"managed-by": "clawdet", "user": "alice", "run": RUN}},
    "web-1": {"labels": {"managed-by": "terraform", "user": "alice"}},
    "web-2": {"labels": {"managed_by": "clawdet", "User": "alice"}},
    "web-3": {"labels": {"managed-by": "clawdet"}},
    "web-4": {"labels": {"managed-by": "terraform", "pool": "abcdefgh", "run": RUN}},
    "clawdet-pool.abcdefgh": {"labels": {"managed-by": "clawdet", "pool": "abcdefgh", "run": RUN}},
}
KEYS: dict[str, dict[str, str]] = {"clawdet-alice": {}, "clawdet-laptop": {"managed-by": "somebody"}}
RECORDS: list[dict[str, Any]] = [
    {"type": "A", "name": "alice2", "content": "127.0.0.8", "comment": f"clawdet:alice2:{RUN}"},
    {"type": "A", "name": "alic", "content": "127.0.0.8", "comment": f"clawdet:alice:{RUN}"},
    {"type": "A", "name": "*", "content": "127.0.0.8", "comment": "clawdet:alice:"},
    {"type": "TXT", "name": "alice", "content": '"v=spf1 -all"', "comment": f"clawdet:alice:{RUN}"},
    {"type": "CNAME", "name": "www.alice", "content": "elsewhere.test", "comment": "clawdet"},
    {"type": "A", "name": "mail", "content": "127.0.0.8"},
]


def a_csr() -> str:
    key = ec.generate_private_key(ec.SECP256R1())
    request = x509.CertificateSigningRequestBuilder().subject_name(x509.Name([])).sign(key, hashes.SHA256())
    return request.public_bytes(Encoding.PEM).decode()


def plant(operator: Operator) -> Ids:
    """Put everything there that could be mistaken for alice's."""
    zone, zone_id = operator.info()["zone"], operator.zone_id()
    hosts = [[f"alice.{zone}"], [f"alice2.{zone}"], [f"*.{zone}"], [f"alice.{zone}", f"mail.{zone}"]]
    order = {"server_type": "cx23", "image": "ubuntu-24.04", "location": "nbg1"}
    made = {
        "servers": [
            operator.cloud("hetzner", "/servers", "POST", {**order, "name": name, **more})["server"]
            for name, more in SERVERS.items()
        ],
        "ssh_keys": [
            operator.cloud(
                "hetzner", "/ssh_keys", "POST", {"name": name, "public_key": public_key(), "labels": labels}
            )["ssh_key"]
            for name, labels in KEYS.items()
        ],
        "firewalls": [
            operator.cloud("hetzner", "/firewalls", "POST", {"name": "clawdet-alice", "labels": {"user": "alice"}})[
                "firewall"
            ]
        ],
        "records": [
            operator.cloud(
                "cloudflare",
                f"/zones/{zone_id}/dns_records",
                "POST",
                {**record, "name": f"{record['name']}.{zone}", "ttl": 1},
            )["result"]
            for record in RECORDS
        ],
        "certificates": [
            operator.cloud(
                "cloudflare",
                "/certificates",
                "POST",
                {"csr": a_csr(), "hostnames": names, "request_type": "origin-ecc", "requested_validity": 5475},
            )["result"]
            for names in hosts
        ],
    }
    return {kind: [str(thing["id"]) for thing in things] for kind, things in made.items()}


def seen(operator: Operator, ids: Ids) -> dict[str, dict[str, Any]]:
    """Read the planted things whole, byte for byte."""
    listed = {
        **{
            kind: operator.cloud("hetzner", f"/{kind}?per_page=50")[kind]
            for kind in ("servers", "ssh_keys", "firewalls")
        },
        "records": operator.records(),
        "certificates": operator.certificates(),
    }
    return {
        f"{kind} {thing.get('name') or thing.get('hostnames')}": thing
        for kind, things in listed.items()
        for thing in things
        if str(thing["id"]) in ids[kind]
    }


@pytest.fixture
def planted(operator: Operator) -> Iterator[Ids]:
    ids = plant(operator)
    yield ids
    operator.reset()
    if Path(operator.info()["state_file"]).exists():
        operator.clawdet("destroy", "alice", "--sandbox", "--yes")
    for kind in ("servers", "ssh_keys", "firewalls"):
        for number in ids[kind]:
            operator.cloud("hetzner", f"/{kind}/{number}", "DELETE")


def interrupted(operator: Operator, kind: str, name: str, **data: Any) -> Effect:
    """Leave an intent open, as a run that was killed would."""
    state = State(Path(operator.info()["state_file"]))
    row = state.instance("alice")
    assert row is not None
    begun = state.begin_effect(row, "create_server", kind, name, data)
    state.close()
    return begun


Step = Callable[[Operator, Ids], Said]


def run(*arguments: str) -> Step:
    return lambda operator, _: operator.clawdet(*arguments, "--sandbox")


def lost_and(*arguments: str) -> Step:
    def step(operator: Operator, _: Ids) -> Said:
        lose_the_database(operator)
        return operator.clawdet(*arguments, "--sandbox")

    return step


def cut_off_and(*arguments: str) -> Step:
    """Run a command with intents open that point at foreign things."""

    def step(operator: Operator, ids: Ids) -> Said:
        zone = operator.info()["zone"]
        labels = {"managed-by": "clawdet", "user": "alice", "run": "mine"}
        order = {"labels": labels, "monthly": "5.99", "type": "cx23", "location": "nbg1"}
        interrupted(operator, "create_server", "clawdet-bob", **order)
        comment = f"clawdet:alice:{RUN}"
        interrupted(operator, "create_dns_record", f"alic.{zone}", content="127.0.0.8", comment=comment)
        interrupted(operator, "delete_server", ids["servers"][0])
        interrupted(operator, "delete_dns_record", ids["records"][0], host="x")
        interrupted(operator, "revoke_certificate", ids["certificates"][0])
        interrupted(operator, "delete_ssh_key", ids["ssh_keys"][0])
        return operator.clawdet(*arguments, "--sandbox")

    return step


STORY: tuple[tuple[str, Step, int], ...] = (
    ("dry-run", run("provision", "alice", "--dry-run"), 0),
    ("provision", run("provision", "alice"), 0),
    ("provision again", run("provision", "alice"), 0),
    ("verify", run("verify", "alice"), 0),
    ("status --live", run("status", "--live"), 0),
    ("reconcile", run("reconcile"), 4),
    ("reconcile --fix", run("reconcile", "--fix"), 4),
    ("provision after a crash", cut_off_and("provision", "alice"), 0),
    ("state rebuild after a loss", lost_and("state", "rebuild", "alice"), 0),
    ("provision after a rebuild", run("provision", "alice"), 0),
    ("reconcile --fix again", run("reconcile", "--fix"), 4),
    ("destroy after a crash", cut_off_and("destroy", "alice", "--yes"), 0),
    ("destroy again", run("destroy", "alice", "--yes"), 0),
    ("provision anew", run("provision", "alice"), 0),
    ("provision after a loss", lost_and("provision", "alice"), 4),
    ("destroy after a loss", lost_and("destroy", "alice", "--yes"), 4),
    ("destroy after a loss, as it is said", run("destroy", "alice", "--yes", "--of-another-database"), 0),
    ("pool fill", run("pool", "fill", "2", "--yes"), 0),
    ("pool status", run("pool", "status"), 0),
    ("provision from the pool", run("provision", "alice"), 0),
    ("reconcile --fix beside a pool", run("reconcile", "--fix"), 4),
    ("pool drain", run("pool", "drain", "--yes"), 0),
    ("destroy what was taken from the pool", run("destroy", "alice", "--yes"), 0),
)


def test_nothing_foreign_is_touched_by_anything(operator: Operator, planted: Ids) -> None:
    before = seen(operator, planted)
    assert len(before) == sum(len(ids) for ids in planted.values())
    touched = []
    for name, step, code in STORY:
        said = step(operator, planted)
        assert said.code == code, f"{name}: {said.code}\n{said.out}{said.err}"
        after = seen(operator, planted)
        touched += [f"{name}: {what}" for what in before if after.get(what) != before[what]]
    assert touched == []


@pytest.mark.usefixtures("planted")
def test_the_firewall_is_put_before_clawdets_servers_alone(operator: Operator) -> None:
    assert operator.clawdet("provision", "alice", "--sandbox", "--yes").code == 0
    assert operator.clawdet("firewall", "refresh", "--sandbox").code == 0
    behind = {one["name"] for one in operator.servers() if one["public_net"]["firewalls"]}
    assert behind >= {"clawdet-alice", "clawdet-alice2"}
    assert not behind & {"clawdet-alic", "alice", "web-1", "web-2", "web-3", "web-4"}
    assert operator.clawdet("destroy", "alice", "--sandbox", "--yes").code == 0


@pytest.mark.parametrize("type_", ["A", "AAAA", "CNAME"])
def test_a_foreign_record_of_the_name_stops_everything_before_anything_is_bought(
    type_: str, operator: Operator
) -> None:
    content = {"A": "127.0.0.8", "AAAA": "fd00::1", "CNAME": "elsewhere.test"}[type_]
    record = {
        "type": type_,
        "name": f"alice.{operator.info()['zone']}",
        "content": content,
        "comment": "clawdet:alice:",
    }
    operator.cloud("cloudflare", f"/zones/{operator.zone_id()}/dns_records", "POST", {**record, "ttl": 1})
    before = operator.records()
    said = operator.clawdet("provision", "alice", "--sandbox")
    assert said.code == 4
    assert f"is taken by a DNS record that is not this instance's ({type_} {content})" in said.err
    assert operator.servers() == []
    assert operator.clawdet("destroy", "alice", "--sandbox", "--yes").code == 0
    assert operator.records() == before


def test_a_key_that_the_operator_added_himself_is_used_and_left_there(operator: Operator) -> None:
    operator.clawdet("provision", "alice", "--sandbox", "--dry-run")
    assert operator.clawdet("provision", "alice", "--sandbox").code == 0
    (own,) = operator.cloud("hetzner", "/ssh_keys")["ssh_keys"]
    assert operator.clawdet("destroy", "alice", "--sandbox", "--yes").code == 0
    body = {"name": "my laptop", "public_key": own["public_key"], "labels": {}}
    mine = operator.cloud("hetzner", "/ssh_keys", "POST", body)["ssh_key"]
    assert operator.clawdet("provision", "alice", "--sandbox").code == 0
    assert operator.clawdet("destroy", "alice", "--sandbox", "--yes").code == 0
    assert operator.cloud("hetzner", "/ssh_keys")["ssh_keys"] == [mine]
    operator.cloud("hetzner", f"/ssh_keys/{mine['id']}", "DELETE")


SHOP = {"managed-by": "somebody-else", "owner": "shop"}


@dataclass
class Shop:
    """Somebody else's things in the same accounts, and a row of this database that names them by their ids."""

    operator: Operator
    ids: Ids
    before: dict[str, dict[str, Any]]

    def untouched(self) -> bool:
        return seen(self.operator, self.ids) == self.before


def request_for(certificate_key: ec.EllipticCurvePublicKey) -> str:
    """Return a request that names somebody else's public key, signed by a key of one's own."""
    mine = ec.generate_private_key(ec.SECP256R1())
    builder = x509.CertificateSigningRequestBuilder().subject_name(x509.Name([]))
    genuine = builder.sign(mine, hashes.SHA256()).public_bytes(Encoding.DER)
    spki = (Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    forged = genuine.replace(mine.public_key().public_bytes(*spki), certificate_key.public_bytes(*spki))
    assert forged != genuine
    body = base64.encodebytes(forged).decode()
    return f"-----BEGIN CERTIFICATE REQUEST-----\n{body}-----END CERTIFICATE REQUEST-----\n"


@pytest.fixture
def shop(operator: Operator, tmp_path: Path) -> Iterator[Shop]:
    """Provision alice, then make her row name a foreign server, record and certificate."""
    assert operator.clawdet("provision", "alice", "--sandbox").code == 0
    zone, zone_id = operator.info()["zone"], operator.zone_id()
    order = {"server_type": "cx23", "image": "ubuntu-24.04", "location": "nbg1"}
    server = operator.cloud("hetzner", "/servers", "POST", {**order, "name": "shop-db", "labels": SHOP})["server"]
    body = {"type": "A", "name": f"alice.{zone}", "content": "127.0.0.8", "ttl": 1, "comment": "the shop"}
    record = operator.cloud("cloudflare", f"/zones/{zone_id}/dns_records", "POST", body)["result"]
    key = ec.generate_private_key(ec.SECP256R1())
    request = x509.CertificateSigningRequestBuilder().subject_name(x509.Name([])).sign(key, hashes.SHA256())
    asked = {"hostnames": [f"alice.{zone}"], "request_type": "origin-ecc", "requested_validity": 5475}
    asked["csr"] = request.public_bytes(Encoding.PEM).decode()
    certificate = operator.cloud("cloudflare", "/certificates", "POST", asked)["result"]
    ids = {"servers": [str(server["id"])], "records": [record["id"]], "certificates": [certificate["id"]]}
    ids |= {"ssh_keys": [], "firewalls": []}
    exported = json.loads(operator.clawdet("state", "export", "--sandbox").out)
    (row,) = [row for row in exported["instances"] if row["user"] == "alice"]
    row |= {"server_id": server["id"], "record_id": record["id"], "certificate_id": certificate["id"]}
    row |= {"csr": request_for(key.public_key()), "ipv4": server["public_net"]["ipv4"]["ip"]}
    file = tmp_path / "export.json"
    file.write_text(json.dumps(exported))
    said = operator.clawdet("state", "import", str(file), "--replace", "--sandbox")
    assert said.code == 0, said.err
    yield Shop(operator, ids, seen(operator, ids))
    operator.clawdet("destroy", "alice", "--forget-foreign", "--yes", "--sandbox")
    operator.cloud("hetzner", f"/servers/{server['id']}", "DELETE")
    operator.cloud("cloudflare", f"/zones/{zone_id}/dns_records/{record['id']}", "DELETE")


REFUSED = (
    (("provision", "alice", "--yes"), 4),
    (("destroy", "alice", "--yes"), 4),
    (("reconcile", "--fix"), 4),
    (("state", "rebuild"), 0),
)


@pytest.mark.parametrize(("command", "code"), REFUSED, ids=[" ".join(command) for command, _ in REFUSED])
def test_a_recorded_id_alone_changes_and_deletes_nothing(command: tuple[str, ...], code: int, shop: Shop) -> None:
    said = shop.operator.clawdet(*command, "--sandbox")
    assert said.code == code, said.out + said.err
    assert shop.untouched()


@pytest.mark.parametrize("verb", [("provision", "alice"), ("destroy", "alice", "--yes")])
def test_what_is_foreign_is_named_as_its_cloud_names_it(verb: tuple[str, ...], shop: Shop) -> None:
    said = shop.operator.clawdet(*verb, "--sandbox", "--json")
    assert said.code == 4
    error = said.document["error"]
    number = shop.ids["servers"][0]
    assert error["what"] == f"The server shop-db (id {number}) is not provably alice's: it was not touched."
    assert "owner=shop" in " ".join(error["details"])
    assert not any("server" in thing for thing in error["left_behind"]), "it is not said to be alice's"
    assert any("clawdet destroy alice --forget-foreign" in step for step in error["next_steps"])


def test_what_is_foreign_can_be_forgotten_and_the_rest_is_destroyed(shop: Shop) -> None:
    said = shop.operator.clawdet("destroy", "alice", "--forget-foreign", "--yes", "--sandbox", "--json")
    assert said.code == 0, said.err
    assert shop.untouched()
    removed = " ".join(said.document["destroyed"]["removed"])
    assert "server clawdet-alice" in removed, "it is found by its labels"
    assert "shop" not in removed
    assert {one["name"] for one in shop.operator.servers()} == {"shop-db"}


def test_a_foreign_record_alone_stops_a_destroy_before_anything_is_deleted(shop: Shop) -> None:
    own = next(one for one in shop.operator.servers() if one["name"] == "clawdet-alice")
    with closing(sqlite3.connect(shop.operator.info()["state_file"])) as database, database:
        database.execute("UPDATE instances SET server_id = ?", (own["id"],))
    before = shop.operator.holdings()
    said = shop.operator.clawdet("destroy", "alice", "--yes", "--sandbox")
    assert said.code == 4
    assert "The DNS record A alice." in said.err
    assert "put its comment back in the Cloudflare dashboard: clawdet:alice:" in said.err
    assert shop.operator.holdings() == before


def test_a_foreign_id_in_the_pool_deletes_nothing(shop: Shop) -> None:
    assert shop.operator.clawdet("pool", "fill", "1", "--yes", "--sandbox").code == 0
    with closing(sqlite3.connect(shop.operator.info()["state_file"])) as database, database:
        database.execute("UPDATE instances SET server_id = ? WHERE user LIKE 'pool.%'", (shop.ids["servers"][0],))
    said = shop.operator.clawdet("pool", "drain", "--yes", "--sandbox")
    assert said.code == 4
    assert "The server shop-db" in said.err
    assert shop.untouched()
    for server in shop.operator.servers():
        if server["name"].startswith("clawdet-pool."):
            shop.operator.cloud("hetzner", f"/servers/{server['id']}", "DELETE")
    with closing(sqlite3.connect(shop.operator.info()["state_file"])) as database, database:
        database.execute("DELETE FROM instances WHERE user LIKE 'pool.%'")
