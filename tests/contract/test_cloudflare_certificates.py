from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from cloudflare import APIStatusError, BadRequestError, NotFoundError
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from httpx import HTTPStatusError
from starlette.types import ASGIApp

from tests.contract.cloudflare_emulator import PENDING, ZONE, Emulator, codes, make_csr
from tests.contract.served import Served


@pytest.fixture
def cloud(serve_app: Callable[[ASGIApp], Served], tmp_path: Path) -> Iterator[Emulator]:
    emulator = Emulator(serve_app, tmp_path)
    yield emulator
    emulator.close()


def order(cloud: Emulator, **changes: Any) -> Any:
    fields: dict[str, Any] = {
        "csr": make_csr(),
        "hostnames": ["alice.clawdet.test"],
        "request_type": "origin-ecc",
        "requested_validity": 5475,
    }
    return cloud.sdk.origin_ca_certificates.create(**fields | changes)


def refusal(cloud: Emulator, **changes: Any) -> list[int | None]:
    with pytest.raises(BadRequestError) as caught:
        order(cloud, **changes)
    assert cloud.state["certificates"] == {}
    return codes(caught.value)


def test_a_csr_is_really_signed(cloud: Emulator) -> None:
    key = ec.generate_private_key(ec.SECP256R1())
    made = order(cloud, csr=make_csr(key), hostnames=["Alice.clawdet.test", "*.clawdet.test"])
    leaf = x509.load_pem_x509_certificate(made.certificate.encode())
    assert leaf.public_key() == key.public_key()
    assert made.id == str(leaf.serial_number)
    assert made.hostnames == ["alice.clawdet.test", "*.clawdet.test"]
    assert made.expires_on == leaf.not_valid_after_utc.strftime("%Y-%m-%d %H:%M:%S +0000 UTC")
    leaf.verify_directly_issued_by(x509.load_pem_x509_certificate(cloud.origin_ca.ca_pem.encode()))
    read = cloud.call("GET", f"/certificates/{made.id}").json()["result"]
    assert read["certificate"] == made.certificate


def test_reads_leave_out_the_request_and_its_validity(cloud: Emulator) -> None:
    made = order(cloud)
    assert made.csr
    by_id = cloud.call("GET", f"/certificates/{made.id}").json()["result"]
    (listed,) = cloud.call("GET", f"/certificates?zone_id={cloud.zone_id()}").json()["result"]
    for read in (by_id, listed):
        assert "csr" not in read
        assert read["requested_validity"] == 0
        assert read["hostnames"] == made.hostnames


def test_what_answers_leave_out_can_be_chosen(cloud: Emulator) -> None:
    published = ["csr", "certificate", "requested_validity"]
    cloud.control("PATCH", "certificate_reads", create=["certificate"], get=[], list=published)
    made = cloud.call(
        "POST",
        "/certificates",
        json={"csr": make_csr(), "hostnames": ["alice.clawdet.test"], "request_type": "origin-ecc"},
    ).json()["result"]
    assert "csr" not in made
    by_id = cloud.call("GET", f"/certificates/{made['id']}").json()["result"]
    assert by_id.keys().isdisjoint({"csr", "certificate"})
    # As the published schema has it: the vendor's own model takes it in.
    (listed,) = cloud.sdk.origin_ca_certificates.list(zone_id=cloud.zone_id()).result
    assert listed.csr
    with pytest.raises(HTTPStatusError):
        cloud.control("PATCH", "certificate_reads", get=["nothing"])


def test_an_rsa_key_needs_its_own_request_type(cloud: Emulator) -> None:
    csr = make_csr(rsa.generate_private_key(65537, 2048))
    assert refusal(cloud, csr=csr) == [1009]
    assert order(cloud, csr=csr, request_type="origin-rsa").request_type == "origin-rsa"


@pytest.mark.parametrize(
    "name", ["alice.example.com", "clawdet.test.evil.com", "*.*.clawdet.test", "127.18.0.1", "*.test", ""]
)
def test_host_names_lie_in_the_accounts_zones(cloud: Emulator, name: str) -> None:
    assert refusal(cloud, hostnames=["alice.clawdet.test", name]) == [1010]


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({"requested_validity": 8}, 1008),
        ({"hostnames": []}, 1005),
        ({"hostnames": [f"u{number}.clawdet.test" for number in range(201)]}, 1005),
        ({"csr": "none"}, 1011),
        ({"request_type": "keyless-certificate"}, 1007),
    ],
)
def test_what_is_refused(cloud: Emulator, changes: dict[str, Any], code: int) -> None:
    assert refusal(cloud, **changes) == [code]


@pytest.mark.parametrize("code", [1000, 1016])
def test_signing_can_be_refused_as_the_vendor_may(cloud: Emulator, code: int) -> None:
    cloud.control("PATCH", "refusals", signing=code)
    assert refusal(cloud) == [code]
    cloud.control("PATCH", "refusals", signing=0)
    assert order(cloud).id


def test_certificates_are_listed_by_zone(cloud: Emulator) -> None:
    first, second = order(cloud), order(cloud, hostnames=["bob.clawdet.test"], requested_validity=7)
    order(cloud, hostnames=[f"alice.{PENDING}"])
    page = cloud.call("GET", f"/certificates?zone_id={cloud.zone_id()}&per_page=5").json()
    assert [row["id"] for row in page["result"]] == [second.id, first.id]
    assert page["result_info"]["total_count"] == 2
    with pytest.raises(BadRequestError) as caught:
        cloud.sdk.origin_ca_certificates.list(zone_id="0" * 32)
    assert codes(caught.value) == [1012]


def test_a_revoked_certificate_can_be_read_but_is_not_listed(cloud: Emulator) -> None:
    made = order(cloud)
    first = cloud.sdk.origin_ca_certificates.delete(made.id)
    assert first is not None
    assert first.id == made.id
    with pytest.raises(BadRequestError) as caught:
        cloud.sdk.origin_ca_certificates.delete(made.id)
    assert codes(caught.value) == [1014]
    assert cloud.call("GET", f"/certificates/{made.id}").json()["result"]["revoked_at"]
    assert cloud.sdk.origin_ca_certificates.list(zone_id=cloud.zone_id()).result == []


def test_an_unknown_certificate(cloud: Emulator) -> None:
    for call in (cloud.sdk.origin_ca_certificates.get, cloud.sdk.origin_ca_certificates.delete):
        with pytest.raises(NotFoundError) as caught:
            call("12345")
        assert codes(caught.value) == [1101]


def test_a_token_without_the_right_or_the_zone(cloud: Emulator) -> None:
    made = order(cloud)
    for name, properties in {
        "no-ssl": {"rights": ["zone:read", "dns:edit"]},
        "other-zone": {"zones": [PENDING]},
    }.items():
        poor = cloud.token(name, **properties)
        calls: list[Callable[[], object]] = [
            lambda poor=poor: poor.origin_ca_certificates.create(  # type: ignore[misc]  # mypy cannot infer it
                csr=make_csr(), hostnames=[f"alice.{ZONE}"], request_type="origin-ecc"
            ),
            lambda poor=poor: poor.origin_ca_certificates.list(zone_id=cloud.zone_id()),  # type: ignore[misc]  # as above
            lambda poor=poor: poor.origin_ca_certificates.get(made.id),  # type: ignore[misc]  # as above
            lambda poor=poor: poor.origin_ca_certificates.delete(made.id),  # type: ignore[misc]  # as above
        ]
        for call in calls:
            with pytest.raises(APIStatusError) as caught:
                call()
            assert (caught.value.status_code, codes(caught.value)) == (400, [10000])
    assert list(cloud.state["certificates"]) == [made.id]
