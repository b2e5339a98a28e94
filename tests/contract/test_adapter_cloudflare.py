"""The product's Cloudflare adapter against the emulated API."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import NameOID
from starlette.types import ASGIApp

from clawdet_cli.adapters import cloudflare as adapter
from clawdet_cli.adapters.cloudflare import Cloudflare
from clawdet_cli.adapters.retry import NotYet
from clawdet_cli.errors import CloudError, ConfigError, StateError, WaitError
from clawdet_cli.model import Deadline, EdgeCertificate
from clawdet_cli.sandbox.authority import Authority
from clawdet_cli.sandbox.cloudflare import state as account
from clawdet_cli.sandbox.cloudflare.api import cloudflare_app
from clawdet_cli.sandbox.faults import Faults
from clawdet_cli.secret import Secret
from tests.contract.served import Served

ZONE, HOST, IPV4, COMMENT = "clawdet.test", "alice.clawdet.test", "127.18.0.1", "clawdet:alice:abcdefghijkl"
TOKEN = "token-with-all-rights"

Connect = Callable[..., Cloudflare]


class Account:
    """The emulated account, and what was asked of it."""

    def __init__(self, serve_app: Callable[[ASGIApp], Served], folder: Path) -> None:
        self.state: dict[str, Any] = {}
        self.faults = Faults()
        app = cloudflare_app(
            self.state,
            Authority(folder, "Origin CA"),
            zone=ZONE,
            edge_cidrs=["127.17.0.0/24"],
            tokens=[TOKEN],
            on_change=lambda: None,
            faults=self.faults,
        )
        self.url = serve_app(app).url + "/client/v4"

    @property
    def zone(self) -> dict[str, Any]:
        zone = account.zone_named(self.state, ZONE)
        assert zone is not None
        return zone

    @property
    def zone_id(self) -> str:
        return str(self.zone["id"])

    def fault(self, kind: str, method: str = "*", path: str = ".*", **options: Any) -> None:
        self.faults.add({"kind": kind, "method": method, "path": f"/client/v4{path}", **options})

    def calls(self, method: str, ending: str) -> list[Any]:
        seen = self.faults.requests
        return [one["status"] for one in seen if one["method"] == method and one["path"].endswith(ending)]


@pytest.fixture
def cloudflare(serve_app: Callable[[ASGIApp], Served], tmp_path: Path) -> Account:
    return Account(serve_app, tmp_path / "ca")


@pytest.fixture
def connect(cloudflare: Account) -> Iterator[Connect]:
    made: list[Cloudflare] = []

    def start(token: str = TOKEN, seconds: float = 15, **options: Any) -> Cloudflare:
        made.append(Cloudflare(cloudflare.url, Secret(token), Deadline.after(seconds), **options))
        return made[-1]

    yield start
    for client in made:
        client.close()


@pytest.fixture
def cloud(connect: Connect) -> Cloudflare:
    return connect()


@pytest.fixture
def zone_id(cloudflare: Account) -> str:
    return cloudflare.zone_id


def a_csr(host: str = HOST) -> str:
    key = ec.generate_private_key(ec.SECP256R1())
    builder = x509.CertificateSigningRequestBuilder().subject_name(
        x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, host)])
    )
    return builder.sign(key, hashes.SHA256()).public_bytes(Encoding.PEM).decode()


class TestToken:
    def test_a_good_one_passes(self, cloud: Cloudflare) -> None:
        cloud.check()

    def test_a_limit_is_waited_for_at_this_call_as_at_every_other(
        self, cloud: Cloudflare, cloudflare: Account, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(Deadline, "within", lambda *_: Deadline.after(0))  # no shorter time than the command's
        cloudflare.faults.add({"kind": "answer", "status": 429, "headers": {"Retry-After": "0.01"}, "times": 2})
        cloud.check()

    def test_one_of_an_account_passes(self, connect: Connect, cloudflare: Account) -> None:
        account.add_token(cloudflare.state, "token-of-an-account", owner="account")
        connect("token-of-an-account").check()
        assert cloudflare.calls("GET", f"/accounts/{account.ACCOUNT_ID}/tokens/verify") == [200]

    def test_an_unknown_one_is_refused_with_the_way_to_get_one(self, connect: Connect) -> None:
        with pytest.raises(ConfigError, match="CLOUDFLARE_API_TOKEN") as caught:
            connect("no-such-token").check()
        assert any("DNS Edit" in step for step in caught.value.next_steps)
        assert "no-such-token" not in repr(caught.value.details) + str(caught.value)

    @pytest.mark.parametrize("status", ["disabled", "expired"])
    def test_a_dead_one_is_refused(self, connect: Connect, cloudflare: Account, status: str) -> None:
        account.add_token(cloudflare.state, "token-that-died", status=status)
        with pytest.raises(ConfigError, match="CLOUDFLARE_API_TOKEN"):
            connect("token-that-died").check()

    def test_it_is_sent_whatever_the_environment_says(self, connect: Connect, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("CLOUDFLARE_EMAIL", "somebody@clawdet.test")
        monkeypatch.setenv("CLOUDFLARE_API_KEY", "another-key")
        monkeypatch.setenv("CLOUDFLARE_API_USER_SERVICE_KEY", "yet-another-key")
        monkeypatch.setenv("CLOUDFLARE_BASE_URL", "http://127.0.0.1:9/")
        monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
        connect().check()

    @pytest.mark.parametrize(
        ("without", "named", "call"),
        [
            ("dns:edit", "DNS Edit", lambda cloud, zone: cloud.records(zone, HOST)),
            ("dns:edit", "DNS Edit", lambda cloud, zone: cloud.create_a_record(zone, HOST, IPV4, COMMENT)),
            ("ssl:edit", "SSL and Certificates Edit", lambda cloud, zone: cloud.certificates(zone)),
            ("ssl:edit", "SSL and Certificates Edit", lambda cloud, _: cloud.certificate("1")),
        ],
        ids=["records", "create", "certificates", "certificate"],
    )
    def test_a_missing_right_is_named(
        self,
        connect: Connect,
        cloudflare: Account,
        without: str,
        named: str,
        call: Callable[[Cloudflare, str], object],
    ) -> None:
        rights = [right for right in account.RIGHTS if right != without]
        account.add_token(cloudflare.state, "token-that-lacks-one", rights=rights)
        with pytest.raises(ConfigError, match=f"lacks the right '{named}'"):
            call(connect("token-that-lacks-one"), cloudflare.zone_id)

    def test_without_the_right_to_settings_they_are_unknown(self, connect: Connect, cloudflare: Account) -> None:
        account.add_token(cloudflare.state, "token-without-settings", rights=["zone:read", "dns:edit"])
        cloud = connect("token-without-settings")
        assert cloud.setting(cloudflare.zone_id, "ssl") is None
        assert cloud.certificate_packs(cloudflare.zone_id) is None
        assert cloud.universal_ssl(cloudflare.zone_id) is None


def test_the_clock_of_the_cloud_is_learned_from_an_answer(cloud: Cloudflare) -> None:
    cloud.check()
    assert cloud.clock.ahead is not None
    assert abs(cloud.clock.ahead) < 5


class TestZone:
    def test_it_is_found_by_its_name(self, cloud: Cloudflare, zone_id: str) -> None:
        zone = cloud.zone(ZONE)
        assert zone is not None
        assert (zone.id, zone.name, zone.status, zone.paused) == (zone_id, ZONE, "active", False)
        assert zone.account_id == account.ACCOUNT_ID
        assert len(zone.name_servers) == 2

    def test_another_is_not(self, cloud: Cloudflare) -> None:
        assert cloud.zone("example.test") is None

    def test_one_that_the_token_may_not_see_is_not_either(self, connect: Connect, cloudflare: Account) -> None:
        account.add_token(cloudflare.state, "token-that-lacks-one", rights=["dns:edit"])
        assert connect("token-that-lacks-one").zone(ZONE) is None

    def test_its_settings(self, cloud: Cloudflare, cloudflare: Account, zone_id: str) -> None:
        assert cloud.setting(zone_id, "ssl") == "strict"
        assert cloud.setting(zone_id, "no-such-setting") is None
        cloudflare.zone["settings"]["websockets"]["value"] = "off"
        assert cloud.setting(zone_id, "websockets") == "off"

    def test_its_certificate_at_the_edge(self, cloud: Cloudflare, cloudflare: Account, zone_id: str) -> None:
        cloudflare.zone["universal_ssl"] = {"enabled": True, "status": "pending_validation"}
        packs = cloud.certificate_packs(zone_id)
        assert packs == (EdgeCertificate("pending_validation", (ZONE, f"*.{ZONE}")),)
        assert cloud.universal_ssl(zone_id) is True
        cloudflare.zone["universal_ssl"] = {"enabled": False, "status": "active"}
        assert (cloud.certificate_packs(zone_id), cloud.universal_ssl(zone_id)) == ((), False)

    def test_of_several_of_one_name_it_is_the_active_one_or_the_one_that_is_set(
        self, connect: Connect, cloudflare: Account
    ) -> None:
        first = cloudflare.zone_id
        moved = account.add_zone(cloudflare.state, ZONE, status="moved")["id"]
        # The moved one comes first, as the real list may have it.
        cloudflare.state["zones"] = {key: cloudflare.state["zones"][key] for key in (moved, first)}
        found = connect().zone(ZONE)
        assert found is not None
        assert found.id == first
        cloudflare.state["zones"][moved]["status"] = "active"
        with pytest.raises(ConfigError, match="2 active zones") as caught:
            connect().zone(ZONE)
        assert "CLAWDET_ZONE_ID" in caught.value.next_steps[0]
        chosen = connect(zone_id=moved).zone(ZONE)
        assert chosen is not None
        assert chosen.id == moved

    def test_its_room(self, cloud: Cloudflare, zone_id: str) -> None:
        cloud.create_a_record(zone_id, HOST, IPV4, COMMENT)
        assert cloud.record_usage(zone_id) == (1, 200)


class TestRecords:
    def test_one_lives_from_creation_to_deletion(self, cloud: Cloudflare, zone_id: str) -> None:
        made = cloud.create_a_record(zone_id, HOST, IPV4, COMMENT)
        assert (made.name, made.type, made.content, made.proxied, made.comment) == (HOST, "A", IPV4, True, COMMENT)
        assert cloud.records(zone_id, HOST) == [made]
        assert cloud.records(zone_id, "bob.clawdet.test") == []
        moved = cloud.update_a_record(zone_id, made, "127.18.0.2", "clawdet:alice:zzzzzzzzzzzz")
        assert (moved.id, moved.content, moved.comment) == (made.id, "127.18.0.2", "clawdet:alice:zzzzzzzzzzzz")
        assert cloud.record(zone_id, made.id) == moved
        assert cloud.delete_record(zone_id, made.id)
        assert not cloud.delete_record(zone_id, made.id)
        assert cloud.record(zone_id, made.id) is None

    def test_a_whole_list_gives_each_as_it_is_read_alone(self, cloud: Cloudflare, zone_id: str) -> None:
        made = [cloud.create_a_record(zone_id, f"user{n}.clawdet.test", IPV4, COMMENT) for n in range(3)]
        listed, whole = cloud.first_records(zone_id)
        assert whole
        assert {one.id: one for one in made}.items() <= {one.id: one for one in listed}.items()
        assert sorted(listed, key=lambda one: one.id) == sorted(cloud.all_records(zone_id), key=lambda one: one.id)

    @pytest.mark.parametrize(
        ("counted", "whole"), [({"total_count": 0}, True), ({"total_count": 5}, False), ({}, False), (None, False)]
    )
    def test_a_list_is_whole_by_its_own_count_alone(
        self, cloud: Cloudflare, cloudflare: Account, zone_id: str, counted: object, whole: bool
    ) -> None:
        body = {"success": True, "errors": [], "messages": [], "result": [], "result_info": counted}
        cloudflare.fault("answer", "GET", status=200, body=body)
        assert cloud.first_records(zone_id) == ([], whole)

    @pytest.mark.parametrize(
        "changes",
        [{"id": "../zones"}, {"id": None}, {"name": ...}, {"created_on": "now"}, {"created_on": None}],
        ids=["a path", "no id", "no name", "no time", "none"],
    )
    def test_a_list_of_another_shape_is_a_failure(
        self, cloud: Cloudflare, cloudflare: Account, zone_id: str, changes: dict[str, Any]
    ) -> None:
        record = {"id": "0" * 32, "name": HOST, "type": "A", "created_on": "2026-11-30T00:00:00.000000Z", **changes}
        known = {name: value for name, value in record.items() if value is not ...}
        body = {"success": True, "errors": [], "messages": [], "result": [known]}
        cloudflare.fault("answer", "GET", status=200, body=body)
        with pytest.raises(CloudError, match="a shape that this version"):
            cloud.first_records(zone_id)

    @pytest.mark.parametrize("kind", ["drop_after", "hang_after"])
    def test_a_lost_answer_leaves_one_record(
        self, cloud: Cloudflare, cloudflare: Account, zone_id: str, kind: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(adapter, "ANSWER_SECONDS", 0.5)
        cloudflare.fault(kind, "POST")
        made = cloud.create_a_record(zone_id, HOST, IPV4, COMMENT)
        assert cloud.records(zone_id, HOST) == [made]
        assert cloudflare.calls("POST", "/dns_records") == [None]

    @pytest.mark.parametrize(
        "fault",
        [
            {"kind": "drop_before"},
            {"kind": "answer", "status": 502, "body": "<html>bad gateway</html>"},
            {"kind": "answer", "status": 503, "body": {"success": False, "errors": []}},
        ],
        ids=["dropped", "502 HTML", "503"],
    )
    def test_a_creation_without_effect_is_made_again_after_a_look(
        self, cloud: Cloudflare, cloudflare: Account, zone_id: str, fault: dict[str, Any]
    ) -> None:
        cloudflare.fault(method="POST", **fault)
        cloud.create_a_record(zone_id, HOST, IPV4, COMMENT)
        assert [seen["method"] for seen in cloudflare.faults.requests] == ["POST", "GET", "POST"]

    def test_ours_is_found_when_it_exists_already(self, cloud: Cloudflare, cloudflare: Account, zone_id: str) -> None:
        made = cloud.create_a_record(zone_id, HOST, IPV4, COMMENT)
        assert cloud.create_a_record(zone_id, HOST, IPV4, COMMENT) == made
        assert cloudflare.calls("POST", "/dns_records") == [200, 400]

    def test_the_other_code_for_it_means_the_same(self, cloud: Cloudflare, cloudflare: Account, zone_id: str) -> None:
        made = cloud.create_a_record(zone_id, HOST, IPV4, COMMENT)
        body = {"success": False, "errors": [{"code": 81057, "message": "The record already exists."}]}
        cloudflare.fault("answer", "POST", status=400, body=body)
        assert cloud.create_a_record(zone_id, HOST, IPV4, COMMENT) == made

    def test_an_equal_record_that_is_not_ours_is_a_conflict(self, cloud: Cloudflare, zone_id: str) -> None:
        foreign = cloud.create_a_record(zone_id, HOST, IPV4, "made by hand")
        with pytest.raises(StateError, match="not ours: nothing was touched") as caught:
            cloud.create_a_record(zone_id, HOST, IPV4, COMMENT)
        assert "made by hand" in caught.value.details[0]
        assert cloud.records(zone_id, HOST) == [foreign]

    def test_a_record_that_excludes_ours_is_a_conflict(self, cloud: Cloudflare, cloudflare: Account) -> None:
        body = {"success": False, "errors": [{"code": 81054, "message": "A CNAME record with that host exists."}]}
        cloudflare.fault("answer", "POST", status=400, body=body)
        with pytest.raises(StateError, match="excludes it") as caught:
            cloud.create_a_record(cloudflare.zone_id, HOST, IPV4, COMMENT)
        assert caught.value.details == ("81054: A CNAME record with that host exists.",)

    def test_a_name_outside_the_zone_leaves_no_litter(self, cloud: Cloudflare, cloudflare: Account) -> None:
        with pytest.raises(CloudError, match="was asked for; it was removed again"):
            cloud.create_a_record(cloudflare.zone_id, "alice.example.test", IPV4, COMMENT)
        assert cloudflare.zone["records"] == {}

    def test_an_answer_that_names_another_record_removes_nothing(
        self, cloud: Cloudflare, cloudflare: Account, zone_id: str
    ) -> None:
        foreign = cloud.create_a_record(zone_id, "www.clawdet.test", IPV4, "made by hand")
        named = dict(cloudflare.zone["records"][foreign.id])
        cloudflare.fault(
            "answer", "POST", status=200, body={"success": True, "errors": [], "messages": [], "result": named}
        )
        with pytest.raises(CloudError, match="by an id that is not such a record's: nothing was removed"):
            cloud.create_a_record(zone_id, HOST, IPV4, COMMENT)
        assert cloud.records(zone_id, foreign.name) == [foreign]

    def test_a_full_zone_is_told(self, cloud: Cloudflare, cloudflare: Account, zone_id: str) -> None:
        cloudflare.zone["record_quota"] = 0
        with pytest.raises(CloudError, match="the zone is full") as caught:
            cloud.create_a_record(zone_id, HOST, IPV4, COMMENT)
        assert "81045" in caught.value.details[0]

    def test_a_refused_value_is_told_with_its_inner_reason(self, cloud: Cloudflare, zone_id: str) -> None:
        with pytest.raises(CloudError, match="it refused") as caught:
            cloud.create_a_record(zone_id, HOST, "not-an-address", COMMENT)
        assert any("9005" in line for line in caught.value.details)

    def test_an_inner_reason_may_be_chained(self, cloud: Cloudflare, cloudflare: Account, zone_id: str) -> None:
        chain = [{"code": 9021, "message": "Invalid TTL."}]
        error = {"code": 1004, "message": "DNS Validation Error", "error_chain": chain}
        cloudflare.fault("answer", "POST", status=400, body={"success": False, "errors": [error]})
        with pytest.raises(CloudError) as caught:
            cloud.create_a_record(zone_id, HOST, IPV4, COMMENT)
        assert caught.value.details == ("1004: DNS Validation Error", "9021: Invalid TTL.")

    @pytest.mark.parametrize("kind", ["drop_before", "drop_after"])
    def test_a_lost_update_and_a_lost_deletion_are_no_failures(
        self, cloud: Cloudflare, cloudflare: Account, zone_id: str, kind: str
    ) -> None:
        made = cloud.create_a_record(zone_id, HOST, IPV4, COMMENT)
        cloudflare.fault(kind, "PATCH")
        assert cloud.update_a_record(zone_id, made, "127.18.0.2", COMMENT).content == "127.18.0.2"
        cloudflare.fault(kind, "DELETE")
        assert cloud.delete_record(zone_id, made.id)
        assert cloud.records(zone_id, HOST) == []


class TestCertificates:
    def test_one_lives_from_signing_to_revocation(self, cloud: Cloudflare, zone_id: str) -> None:
        csr = a_csr()
        signed = cloud.sign(zone_id, HOST, csr)
        assert signed.hostnames == (HOST,)
        leaf = x509.load_pem_x509_certificate(signed.pem.encode())
        assert leaf.public_key() == x509.load_pem_x509_csr(csr.encode()).public_key()
        assert (leaf.not_valid_after_utc - leaf.not_valid_before_utc).days == 5475
        assert cloud.certificates(zone_id) == [signed]
        assert cloud.certificate(signed.id) == signed
        assert cloud.revoke(signed.id)
        assert cloud.certificates(zone_id) == []
        assert cloud.certificate(signed.id) is None
        assert not cloud.revoke("123456789")

    @pytest.mark.parametrize("kind", ["drop_after", "drop_before"])
    def test_a_lost_answer_leaves_one(self, cloud: Cloudflare, cloudflare: Account, zone_id: str, kind: str) -> None:
        cloudflare.fault(kind, "POST")
        signed = cloud.sign(zone_id, HOST, a_csr())
        assert cloud.certificates(zone_id) == [signed]

    def test_one_is_found_by_its_request(self, cloud: Cloudflare, zone_id: str) -> None:
        csr = a_csr()
        assert cloud.certificate_for(zone_id, HOST, csr) is None
        signed = cloud.sign(zone_id, HOST, csr)
        assert cloud.certificate_for(zone_id, HOST, csr.replace("\n", "\r\n")) == signed
        assert cloud.certificate_for(zone_id, HOST, a_csr()) is None
        assert cloud.certificate_for(zone_id, f"other.{ZONE}", csr) is None

    @pytest.mark.parametrize("reads", [
        {"create": ["csr", "certificate", "requested_validity"]},
        {"get": ["csr", "certificate", "requested_validity"], "list": ["csr", "certificate", "requested_validity"]},
        {"create": ["certificate"]},
        {"create": [], "list": []},
        {"get": ["csr"], "list": ["csr"]},
    ], ids=["as seen", "as published", "no csr at all", "PEM by id only", "no PEM in reads"])  # fmt: skip
    def test_one_is_found_by_its_key_whatever_an_answer_leaves_out(
        self, cloud: Cloudflare, cloudflare: Account, zone_id: str, reads: dict[str, list[str]]
    ) -> None:
        cloudflare.state["certificate_reads"].update(reads)
        csr, other = a_csr(), a_csr()
        cloud.sign(zone_id, HOST, other)
        cloudflare.fault("drop_after", "POST")
        signed = cloud.sign(zone_id, HOST, csr)
        found = cloud.certificate_for(zone_id, HOST, csr)
        assert found is not None
        assert found.id == signed.id
        assert len(cloud.certificates(zone_id)) == 2

    def test_one_of_which_nothing_is_shown_but_its_id_is_nobodys(
        self, cloud: Cloudflare, cloudflare: Account, zone_id: str
    ) -> None:
        csr = a_csr()
        signed = cloud.sign(zone_id, HOST, csr)
        listed = {"success": True, "errors": [], "messages": [], "result": [{"id": signed.id}]}
        shown = {"success": True, "errors": [], "messages": [], "result": {"id": signed.id}}
        cloudflare.fault("answer", "GET", "/certificates", status=200, body=listed, times=None)
        cloudflare.fault("answer", "GET", f"/certificates/{signed.id}", status=200, body=shown, times=None)
        assert cloud.certificate_for(zone_id, HOST, csr) is None
        (unclear,) = cloud.certificates_for(zone_id, HOST)
        assert unclear.may_be_of(HOST)
        assert (unclear.key, unclear.pem, unclear.hostnames) == (None, "", ())

    @pytest.mark.parametrize("code", [1014, 1101])
    @pytest.mark.parametrize("status", [400, 404])
    def test_one_that_is_revoked_already_is_gone(
        self, cloud: Cloudflare, cloudflare: Account, zone_id: str, code: int, status: int
    ) -> None:
        signed = cloud.sign(zone_id, HOST, a_csr())
        body = {"success": False, "errors": [{"code": code, "message": "no"}], "messages": [], "result": None}
        cloudflare.fault("answer", "DELETE", status=status, body=body)
        assert not cloud.revoke(signed.id)
        cloudflare.fault("answer", "GET", status=status, body=body)
        assert cloud.certificate(signed.id) is None

    def test_a_general_error_is_no_bad_token_and_settles_nothing(
        self, cloud: Cloudflare, cloudflare: Account, zone_id: str
    ) -> None:
        body = {"success": False, "errors": [{"code": 1000, "message": "General error"}], "result": None}
        cloudflare.fault("answer", "POST", status=400, body=body)
        with pytest.raises(CloudError, match="general error") as caught:
            cloud.sign(zone_id, HOST, a_csr())
        assert caught.value.unsettled
        assert "API Access" in " ".join(caught.value.next_steps)

    def test_a_revoked_one_is_not_found_again(self, cloud: Cloudflare, zone_id: str) -> None:
        csr = a_csr()
        cloud.revoke(cloud.sign(zone_id, HOST, csr).id)
        assert cloud.certificate_for(zone_id, HOST, csr) is None

    def test_a_revoked_one_that_is_still_listed_is_left_out(
        self, cloud: Cloudflare, cloudflare: Account, zone_id: str
    ) -> None:
        signed = cloud.sign(zone_id, HOST, a_csr())
        listed = {**cloudflare.state["certificates"][signed.id], "id": signed.id, "revoked_at": "2026-11-22T05:20:00Z"}
        body = {"success": True, "errors": [], "messages": [], "result": [listed]}
        cloudflare.fault("answer", "GET", "/certificates", status=200, body=body)
        assert cloud.certificates(zone_id) == []

    def test_a_lost_revocation_is_no_failure(self, cloud: Cloudflare, cloudflare: Account, zone_id: str) -> None:
        signed = cloud.sign(zone_id, HOST, a_csr())
        cloudflare.fault("drop_after", "DELETE")
        assert cloud.revoke(signed.id)
        assert cloud.certificates(zone_id) == []

    def test_all_pages_are_read(self, cloud: Cloudflare, zone_id: str) -> None:
        csr = a_csr()
        for number in range(52):
            cloud._client.origin_ca_certificates.create(
                csr=csr, hostnames=[f"user-{number}.{ZONE}"], request_type="origin-ecc", requested_validity=7
            )
        assert len({certificate.hostnames for certificate in cloud.certificates(zone_id)}) == 52

    def test_a_host_outside_the_account_is_told(self, cloud: Cloudflare, zone_id: str) -> None:
        with pytest.raises(CloudError) as caught:
            cloud.sign(zone_id, "alice.example.test", a_csr())
        assert "not part of your account" in " ".join(caught.value.details)
        assert "API Access" in " ".join(caught.value.next_steps)


class TestTrouble:
    @pytest.mark.parametrize("headers", [{"retry-after": "1"}, {}], ids=["told when", "not told"])
    def test_the_limit_of_requests_is_waited_out_and_told(
        self, connect: Connect, cloudflare: Account, headers: dict[str, str]
    ) -> None:
        told: list[str] = []
        body = {"success": False, "errors": [{"code": 10100, "message": "Please wait"}]}
        cloudflare.fault("answer", status=429, body=body, headers=headers)
        cloud = connect(watch=told.append)
        assert cloud.zone(ZONE) is not None
        assert told == ["Cloudflare's limit of requests is reached (429)"]
        times = [seen["time"] for seen in cloudflare.faults.requests]
        assert times[1] - times[0] >= float(headers.get("retry-after", 0.2))

    def test_a_limit_that_outlasts_the_deadline_ends_as_a_wait(self, connect: Connect, cloudflare: Account) -> None:
        cloudflare.fault("answer", status=429, headers={"retry-after": "300"}, body={"errors": []}, times=None)
        with pytest.raises(WaitError, match=r"Cloudflare to find the zone .*; last seen: Cloudflare's limit"):
            connect(seconds=0.5).zone(ZONE)

    @pytest.mark.parametrize("call", [
        lambda cloud, zone: cloud.create_a_record(zone, HOST, IPV4, COMMENT),
        lambda cloud, zone: cloud.sign(zone, HOST, a_csr()),
        lambda cloud, zone: cloud.first_records(zone),
    ], ids=["record", "certificate", "list"])  # fmt: skip
    def test_success_false_without_an_error_status_is_a_failure(
        self, cloud: Cloudflare, cloudflare: Account, call: Callable[[Cloudflare, str], object]
    ) -> None:
        body = {"success": False, "errors": [{"code": 1, "message": "no"}], "messages": [], "result": None}
        cloudflare.fault("answer", status=200, body=body)
        with pytest.raises(CloudError, match="a shape that this version"):
            call(cloud, cloudflare.zone_id)

    def test_a_page_in_place_of_json_is_a_failure(self, cloud: Cloudflare, cloudflare: Account) -> None:
        cloudflare.fault("answer", "GET", status=200, body="<html>captive portal</html>")
        with pytest.raises(CloudError, match="a shape that this version"):
            cloud.zone(ZONE)


OLDER = {
    "date": "Mon, 30 Nov 2026 00:00:00 GMT",
    "x-ratelimit-reset": "Mon, 30 Nov 2026 00:00:02 GMT",
    "x-ratelimit-limit": "12",
    "x-ratelimit-remaining": "0",
}


@pytest.mark.parametrize(
    "told",
    [OLDER, {"ratelimit": '"default";r=0;t=2', "ratelimit-policy": '"default";q=12;w=20'}],
    ids=["older", "documented"],
)
def test_a_window_may_end_a_second_later_than_the_whole_seconds_of_an_answer_say(
    connect: Connect, told: dict[str, str]
) -> None:
    client = connect()
    client._account(httpx.Response(200, headers=told))
    with pytest.raises(NotYet) as caught, client.budget.spent(changing=True):
        pass
    assert caught.value.pause is not None
    assert 2 < caught.value.pause <= 3


@pytest.mark.parametrize("form", ["documented", "old", "both"])
def test_a_limit_is_kept_whatever_form_its_headers_have(connect: Connect, cloudflare: Account, form: str) -> None:
    cloudflare.state["limits"].update(requests=5, seconds=1, block_seconds=60, headers=form)
    cloud = connect(seconds=20)
    for _ in range(9):
        cloud.zone(ZONE)
    assert all(seen["status"] == 200 for seen in cloudflare.faults.requests)
