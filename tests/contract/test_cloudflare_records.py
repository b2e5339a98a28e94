from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from cloudflare import APIStatusError, BadRequestError, NotFoundError
from starlette.types import ASGIApp

from tests.contract.cloudflare_emulator import TOKEN, ZONE, Emulator, codes
from tests.contract.served import Served


@pytest.fixture
def cloud(serve_app: Callable[[ASGIApp], Served], tmp_path: Path) -> Iterator[Emulator]:
    emulator = Emulator(serve_app, tmp_path)
    yield emulator
    emulator.close()


def names(rows: Any) -> list[str]:
    return [row.name for row in rows]


def refusal(cloud: Emulator, **fields: Any) -> list[int | None]:
    before = dict(cloud.records())
    with pytest.raises(BadRequestError) as caught:
        cloud.create(**fields)
    assert cloud.records() == before
    return codes(caught.value)


def test_a_record_is_created_read_and_deleted(cloud: Emulator) -> None:
    made = cloud.create(proxied=True, comment="clawdet:alice:abc")
    assert (made.name, made.type, made.content) == ("alice.clawdet.test", "A", "127.18.0.1")
    assert (made.proxied, made.proxiable, made.ttl, made.comment, made.tags) == (True, True, 1, "clawdet:alice:abc", [])
    found = cloud.sdk.dns.records.get(made.id, zone_id=cloud.zone_id())
    assert found == made
    deleted = cloud.sdk.dns.records.delete(made.id, zone_id=cloud.zone_id())
    assert deleted is not None
    assert deleted.id == made.id
    assert cloud.records() == {}
    assert cloud.changes == 2


@pytest.mark.parametrize("verb", ["get", "patch", "put", "delete"])
def test_an_unknown_record_is_not_found(cloud: Emulator, verb: str) -> None:
    unknown = "0" * 32
    calls: dict[str, Callable[[], object]] = {
        "get": lambda: cloud.sdk.dns.records.get(unknown, zone_id=cloud.zone_id()),
        "patch": lambda: cloud.sdk.dns.records.edit(unknown, zone_id=cloud.zone_id(), name="a", ttl=1, type="A"),
        "put": lambda: cloud.sdk.dns.records.update(unknown, zone_id=cloud.zone_id(), name="a", ttl=1, type="A"),
        "delete": lambda: cloud.sdk.dns.records.delete(unknown, zone_id=cloud.zone_id()),
    }
    with pytest.raises(NotFoundError) as caught:
        calls[verb]()
    assert codes(caught.value) == [81044]
    assert cloud.changes == 0


@pytest.mark.parametrize(
    ("given", "stored"),
    [
        ("alice", "alice.clawdet.test"),
        ("ALICE.Clawdet.TEST", "alice.clawdet.test"),
        ("alice.clawdet.test.", "alice.clawdet.test"),
        ("@", "clawdet.test"),
        ("clawdet.test", "clawdet.test"),
        ("mail.other.tld", "mail.other.tld.clawdet.test"),
        ("notclawdet.test", "notclawdet.test.clawdet.test"),
        ("*", "*.clawdet.test"),
        ("_dmarc", "_dmarc.clawdet.test"),
        ("bücher", "xn--bcher-kva.clawdet.test"),
    ],
)
def test_names_are_completed_with_the_zone(cloud: Emulator, given: str, stored: str) -> None:
    assert cloud.create(given).name == stored


@pytest.mark.parametrize("name", ["", "a..b", "-a", "a b", "a" * 64, "a.*.b", ".".join(["a" * 60] * 5)])
def test_names_that_are_none_are_refused(cloud: Emulator, name: str) -> None:
    assert refusal(cloud, name=name) == [1004, 9000]


def test_an_identical_record_exists_once(cloud: Emulator) -> None:
    cloud.create()
    assert refusal(cloud, name="ALICE", proxied=True, comment="other") == [81058]


def test_a_second_address_is_accepted(cloud: Emulator) -> None:
    cloud.create()
    cloud.create(content="127.18.0.2")
    assert len(cloud.records()) == 2


@pytest.mark.parametrize(
    ("first", "second", "code"),
    [
        (("A", "127.18.0.1"), ("CNAME", "x.clawdet.test"), 81053),
        (("AAAA", "fd00::1"), ("CNAME", "x.clawdet.test"), 81053),
        (("CNAME", "x.clawdet.test"), ("CNAME", "y.clawdet.test"), 81053),
        (("CNAME", "x.clawdet.test"), ("A", "127.18.0.1"), 81054),
        (("CNAME", "x.clawdet.test"), ("AAAA", "fd00::1"), 81054),
        (("NS", "ns1.example.com"), ("A", "127.18.0.1"), 81056),
    ],
)
def test_records_that_exclude_each_other(
    cloud: Emulator, first: tuple[str, str], second: tuple[str, str], code: int
) -> None:
    cloud.create(kind=first[0], content=first[1])
    assert refusal(cloud, kind=second[0], content=second[1]) == [code]


def test_a_text_lives_beside_an_address(cloud: Emulator) -> None:
    cloud.create()
    assert cloud.create(kind="TXT", content="hello").proxiable is False


def test_a_patch_may_not_make_a_conflict(cloud: Emulator) -> None:
    cloud.create()
    other = cloud.create("bob")
    with pytest.raises(BadRequestError) as caught:
        cloud.sdk.dns.records.edit(other.id, zone_id=cloud.zone_id(), name="alice", ttl=1, type="A")
    assert codes(caught.value) == [81058]
    assert cloud.records()[other.id]["name"] == "bob.clawdet.test"


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({"content": "127.18.0.256"}, [9005]),
        ({"content": "host.example.com"}, [9005]),
        ({"kind": "AAAA", "content": "127.18.0.1"}, [9006]),
        ({"ttl": 59}, [1004, 9021]),
        ({"ttl": 86401}, [1004, 9021]),
        ({"ttl": 0}, [1004, 9021]),
        ({"kind": "TXT", "content": "x", "proxied": True}, [1004, 9041]),
        ({"comment": "x" * 101}, [9313]),
        ({"comment": "two\nlines"}, [1004, 9314]),
        ({"tags": ["owner:me"]}, [1004, 9300]),
        ({"kind": "PTR", "content": "x"}, [1004, 9001]),
        ({"kind": "CNAME", "content": "alice.clawdet.test"}, [1004, 9007]),
        ({"proxied": "yes"}, [9207]),
    ],
)
def test_what_the_free_plan_refuses(cloud: Emulator, fields: dict[str, Any], expected: list[int]) -> None:
    assert refusal(cloud, **fields) == expected


def test_what_it_just_accepts(cloud: Emulator) -> None:
    assert cloud.create(ttl=60, comment="x" * 100).ttl == 60
    assert cloud.create("b", ttl=86400).ttl == 86400
    assert cloud.create("c", proxied=True, ttl=120).ttl == 1


def test_a_paid_plan_allows_more(cloud: Emulator) -> None:
    cloud.control("PATCH", f"zones/{ZONE}", plan="enterprise")
    made = cloud.create(ttl=30, comment="x" * 500, tags=["owner:me"])
    assert (made.ttl, made.tags) == (30, ["owner:me"])


def test_patch_keeps_what_it_does_not_name(cloud: Emulator) -> None:
    made = cloud.create(proxied=True, comment="mine")
    changed: Any = cloud.sdk.dns.records.edit(
        made.id, zone_id=cloud.zone_id(), name="alice", ttl=1, type="A", content="127.18.0.9"
    )
    assert (changed.content, changed.proxied, changed.comment) == ("127.18.0.9", True, "mine")
    changed = cloud.sdk.dns.records.edit(
        made.id, zone_id=cloud.zone_id(), name="alice", ttl=1, type="A", comment="only this"
    )
    assert (changed.content, changed.proxied, changed.comment) == ("127.18.0.9", True, "only this")
    assert changed.created_on == made.created_on
    assert changed.modified_on > made.modified_on


def test_put_resets_what_it_does_not_name(cloud: Emulator) -> None:
    made = cloud.create(proxied=True, comment="mine")
    changed: Any = cloud.sdk.dns.records.update(
        made.id, zone_id=cloud.zone_id(), name="alice", ttl=1, type="A", content="127.18.0.9"
    )
    assert (changed.id, changed.content, changed.proxied, changed.comment) == (made.id, "127.18.0.9", False, None)


def test_a_zone_has_a_quota(cloud: Emulator) -> None:
    zone = cloud.zone_id()
    usage = cloud.sdk.dns.usage.zone.get(zone_id=zone)
    assert usage is not None
    assert (usage.record_quota, usage.record_usage) == (200, 0)
    cloud.sdk.dns.records.batch(
        zone_id=zone,
        posts=[{"name": f"u{number}", "type": "A", "content": "127.18.0.1", "ttl": 1} for number in range(200)],
    )
    usage = cloud.sdk.dns.usage.zone.get(zone_id=zone)
    assert usage is not None
    assert usage.record_usage == 200
    assert refusal(cloud) == [81045]


def test_a_batch_does_all_in_its_order(cloud: Emulator) -> None:
    old, kept = cloud.create(comment="old"), cloud.create("bob", proxied=True)
    done = cloud.sdk.dns.records.batch(
        zone_id=cloud.zone_id(),
        deletes=[{"id": old.id}],
        patches=[{"id": kept.id, "name": "bob", "type": "A", "ttl": 1, "content": "127.18.0.5"}],
        posts=[{"name": "alice", "type": "A", "content": "127.18.0.1", "ttl": 1, "comment": "new"}],
    )
    assert done is not None
    assert done.deletes is not None
    assert done.patches is not None
    assert done.posts is not None
    assert [row.comment for row in done.deletes] == ["old"]
    assert [row.proxied for row in done.patches] == [True]
    assert [row.comment for row in done.posts] == ["new"]
    assert sorted(row["content"] for row in cloud.records().values()) == ["127.18.0.1", "127.18.0.5"]


def test_a_batch_is_all_or_nothing(cloud: Emulator) -> None:
    made = cloud.create()
    before, changes = dict(cloud.records()), cloud.changes
    with pytest.raises(APIStatusError) as caught:
        cloud.sdk.dns.records.batch(
            zone_id=cloud.zone_id(),
            deletes=[{"id": made.id}],
            posts=[
                {"name": "bob", "type": "A", "content": "127.18.0.1", "ttl": 1},
                {"name": "carol", "type": "A", "content": "no address", "ttl": 1},
            ],
        )
    assert codes(caught.value) == [9005]
    assert cloud.records() == before
    assert cloud.changes == changes


def test_lists_are_filtered(cloud: Emulator) -> None:
    zone = cloud.zone_id()
    cloud.create(comment="clawdet:alice:1", proxied=True)
    cloud.create("alice", "TXT", "hello")
    cloud.create("bob", content="127.18.0.2", comment="clawdet:Bob:2")
    cloud.create("carol", content="127.18.0.3")

    def listed(**filters: Any) -> list[str]:
        return sorted(
            f"{row.name.split('.')[0]}/{row.type}" for row in cloud.sdk.dns.records.list(zone_id=zone, **filters).result
        )

    assert listed() == ["alice/A", "alice/TXT", "bob/A", "carol/A"]
    assert listed(name={"exact": "ALICE.clawdet.test"}) == ["alice/A", "alice/TXT"]
    assert listed(name={"startswith": "b"}) == ["bob/A"]
    assert listed(name={"exact": "alice"}) == []
    assert listed(type="TXT") == ["alice/TXT"]
    assert listed(content={"exact": "127.18.0.2"}) == ["bob/A"]
    assert listed(proxied=True) == ["alice/A"]
    assert listed(comment={"startswith": "CLAWDET:"}) == ["alice/A", "bob/A"]
    assert listed(comment={"endswith": ":2"}) == ["bob/A"]
    assert listed(comment={"exact": "clawdet:bob:2"}) == ["bob/A"]
    assert listed(comment={"contains": "alice"}) == ["alice/A"]
    assert listed(comment={"absent": "true"}) == ["alice/TXT", "carol/A"]
    assert listed(comment={"present": "true"}) == ["alice/A", "bob/A"]
    assert listed(name={"startswith": "alice"}, type="A") == ["alice/A"]
    assert listed(name={"startswith": "carol"}, type="TXT", match="any") == ["alice/TXT", "carol/A"]
    assert listed(search="127.18.0.3") == ["carol/A"]
    plain = cloud.call("GET", f"/zones/{zone}/dns_records", params={"name": "Bob.clawdet.test"}).json()["result"]
    assert [row["name"] for row in plain] == ["bob.clawdet.test"]


def test_lists_come_in_pages_and_end(cloud: Emulator) -> None:
    zone = cloud.zone_id()
    for number in range(5):
        cloud.create(f"u{number}")
    page = cloud.sdk.dns.records.list(zone_id=zone, per_page=2, page=2, order="name")
    assert names(page.result) == ["u2.clawdet.test", "u3.clawdet.test"]
    info = cloud.call("GET", f"/zones/{zone}/dns_records", params={"per_page": 2, "page": 3}).json()["result_info"]
    assert info == {"page": 3, "per_page": 2, "count": 1, "total_count": 5, "total_pages": 3}
    assert len(names(cloud.sdk.dns.records.list(zone_id=zone, per_page=2))) == 5  # iterates until a page is empty
    assert names(cloud.sdk.dns.records.list(zone_id=zone, page=9).result) == []
    assert (
        names(cloud.sdk.dns.records.list(zone_id=zone, order="name", direction="desc").result)[0] == "u4.clawdet.test"
    )


@pytest.mark.parametrize("body", [b"{", b"[]", b'{"name": "a", "type": "A"}', b"{}"])
def test_a_body_that_is_none(cloud: Emulator, body: bytes) -> None:
    answer = cloud.call("POST", f"/zones/{cloud.zone_id()}/dns_records", content=body)
    assert answer.status_code == 400
    assert answer.json()["success"] is False
    assert cloud.records() == {}


def test_a_lost_answer_leaves_its_effect(cloud: Emulator) -> None:
    cloud.faults.add({"kind": "drop_after", "method": "POST"})
    retrying = cloud.client(TOKEN).with_options(max_retries=1)
    with pytest.raises(BadRequestError) as caught:  # the SDK sends the POST again
        retrying.dns.records.create(zone_id=cloud.zone_id(), name="alice", type="A", content="127.18.0.1", ttl=1)
    assert codes(caught.value) == [81058]
    assert len(cloud.records()) == 1


def test_caa_and_srv_are_written_as_fields(cloud: Emulator) -> None:
    records: Any = cloud.sdk.dns.records
    caa = records.create(
        zone_id=cloud.zone_id(), name=ZONE, type="CAA", ttl=1, data={"flags": 0, "tag": "issue", "value": "pki.goog"}
    )
    assert caa.content == '0 issue "pki.goog"'
    fields = {"priority": 10, "weight": 5, "port": 5061, "target": f"sip.{ZONE}"}
    srv = records.create(zone_id=cloud.zone_id(), name=f"_sip._tcp.{ZONE}", type="SRV", ttl=1, data=fields)
    assert (srv.content, srv.priority) == (f"5 5061 sip.{ZONE}", 10)
    read = records.get(srv.id, zone_id=cloud.zone_id())
    assert read.data.model_dump(exclude_none=True) == fields
    for data in (None, {"flags": 0, "tag": "issue"}, {"flags": 256, "tag": "issue", "value": "x"}):
        answer = cloud.call(
            "POST",
            f"/zones/{cloud.zone_id()}/dns_records",
            json={"name": ZONE, "type": "CAA", "ttl": 1, "data": data},
        )
        assert answer.status_code == 400


SRV: dict[str, Any] = {"priority": 10, "weight": 5, "port": 5061, "target": "sip.example.com"}


def test_fields_may_be_written_as_text(cloud: Emulator) -> None:
    """As lexicon writes them."""
    for kind, data, content in (
        ("CAA", {"flags": "0", "tag": "issue", "value": "pki.goog"}, '0 issue "pki.goog"'),
        ("SRV", {name: str(value) for name, value in SRV.items()}, "5 5061 sip.example.com"),
    ):
        body = {"name": "alice", "type": kind, "content": None, "data": data, "ttl": 3600}
        answer = cloud.call("POST", f"/zones/{cloud.zone_id()}/dns_records", json=body)
        assert answer.json()["result"]["content"] == content
    assert [record["data"] for record in cloud.records().values()][1] == SRV
    for number in ("", "-1", "65536", "1e3", "٣", "9" * 5000):
        body = {"name": "bob", "type": "SRV", "data": {**SRV, "port": number}, "ttl": 1}
        assert cloud.call("POST", f"/zones/{cloud.zone_id()}/dns_records", json=body).status_code == 400


def test_a_srv_record_is_found_by_its_older_content(cloud: Emulator) -> None:
    """As Ansible looks for it."""
    records: Any = cloud.sdk.dns.records
    made = records.create(zone_id=cloud.zone_id(), name=f"_sip._tcp.{ZONE}", type="SRV", ttl=1, data=SRV)
    query = {"type": "SRV", "name": made.name, "content": "5\t5061\tsip.example.com"}
    found = cloud.call("GET", f"/zones/{cloud.zone_id()}/dns_records", params=query).json()["result"]
    assert [record["id"] for record in found] == [made.id]


def test_a_replaced_record_has_its_fields_written_anew(cloud: Emulator) -> None:
    records: Any = cloud.sdk.dns.records
    made = records.create(zone_id=cloud.zone_id(), name=f"_sip._tcp.{ZONE}", type="SRV", ttl=1, data=SRV)
    path = f"/zones/{cloud.zone_id()}/dns_records/{made.id}"
    body = {"name": made.name, "type": "SRV", "content": "6 5061 sip.example.com", "ttl": 1}
    answer = cloud.call("PUT", path, json=body)
    assert answer.status_code == 400
    assert "priority is a required data field" in answer.text
    assert cloud.call("PATCH", path, json={"ttl": 300}).json()["result"]["data"] == SRV
    assert cloud.call("PUT", path, json=body | {"data": SRV | {"weight": 6}}).json()["result"]["data"]["weight"] == 6
