from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Literal

import pytest
from cloudflare import BadRequestError
from starlette.types import ASGIApp

from tests.contract.cloudflare_emulator import EDGE_CIDRS, PENDING, ZONE, Emulator, make_csr
from tests.contract.served import Served


@pytest.fixture
def cloud(serve_app: Callable[[ASGIApp], Served], tmp_path: Path) -> Iterator[Emulator]:
    emulator = Emulator(serve_app, tmp_path)
    yield emulator
    emulator.close()


FULL = "clawdet-full.test"


def setting(cloud: Emulator, name: Any, zone_id: str) -> Any:
    read: Any = cloud.sdk.zones.settings.get(name, zone_id=zone_id)  # a union of some sixty models
    return read.value


def test_an_account_has_an_active_a_pending_and_a_less_strict_zone(cloud: Emulator) -> None:
    zones = {zone.name: zone for zone in cloud.sdk.zones.list()}
    assert {name: zone.status for name, zone in zones.items()} == {ZONE: "active", PENDING: "pending", FULL: "active"}
    modes = {name: setting(cloud, "ssl", zone.id) for name, zone in zones.items()}
    assert modes == {ZONE: "strict", PENDING: "strict", FULL: "full"}


def test_a_zone_is_found_by_name_and_read_by_id(cloud: Emulator) -> None:
    (found,) = cloud.sdk.zones.list(name=ZONE).result
    assert found.plan.legacy_id == "free"
    assert found.paused is False
    assert len(found.name_servers) == 2
    assert cloud.sdk.zones.get(zone_id=found.id) == found
    assert cloud.sdk.zones.list(name="example.com").result == []
    assert [zone.name for zone in cloud.sdk.zones.list(status="pending").result] == [PENDING]
    assert cloud.sdk.zones.list(account={"id": "0" * 32}).result == []


def test_zones_come_in_pages(cloud: Emulator) -> None:
    for number in range(4):
        cloud.control("POST", "zones", name=f"z{number}.test")
    assert len(list(cloud.sdk.zones.list(per_page=5))) == 7
    for query in ({"per_page": 0}, {"page": 0}, {"page": "x"}):
        assert cloud.call("GET", "/zones", params=query).status_code == 400


def test_the_page_sizes_of_usual_clients_are_taken(cloud: Emulator) -> None:
    for wanted, given in ((1, 1), (4, 4), (100, 50)):  # 1 is certbot's, 100 lexicon's
        assert cloud.call("GET", "/zones", params={"per_page": wanted}).json()["result_info"]["per_page"] == given


def test_the_owner_changes_a_zone(cloud: Emulator) -> None:
    shown = cloud.control("PATCH", f"zones/{PENDING}", status="active", paused=True, record_quota=1, ssl="flexible")
    (zone,) = cloud.sdk.zones.list(name=PENDING).result
    assert (zone.status, zone.paused) == ("active", True)
    assert shown["record_quota"] == 1
    assert setting(cloud, "ssl", zone.id) == "flexible"


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("ssl", "full"),
        ("always_use_https", "off"),
        ("tls_client_auth", "on"),
        ("websockets", "off"),
        ("min_tls_version", "1.2"),
    ],
)
def test_a_setting_is_changed_and_read(cloud: Emulator, name: Any, value: Any) -> None:
    zone = cloud.zone_id()
    changed: Any = cloud.sdk.zones.settings.edit(name, zone_id=zone, value=value)
    assert changed.value == value
    assert setting(cloud, name, zone) == value
    assert cloud.changes == 1


def test_settings_that_are_none(cloud: Emulator) -> None:
    zone = cloud.zone_id()
    wrong: Literal["on"] = "on"
    with pytest.raises(BadRequestError):
        cloud.sdk.zones.settings.edit("ssl", zone_id=zone, value=wrong)
    assert cloud.call("GET", f"/zones/{zone}/settings/no_such").status_code == 400
    assert cloud.changes == 0


def test_the_published_ranges_need_no_token(cloud: Emulator) -> None:
    answer = cloud.call("GET", "/ips", token=None)
    assert answer.status_code == 200
    ranges = cloud.sdk.ips.list()
    assert ranges is not None
    assert [*(ranges.ipv4_cidrs or []), *(ranges.ipv6_cidrs or [])] == EDGE_CIDRS
    assert ranges.etag == answer.json()["result"]["etag"]


def test_two_zones_can_have_one_name(cloud: Emulator) -> None:
    cloud.control("POST", "zones", name=ZONE, status="moved", again=True)
    found = cloud.sdk.zones.list(name=ZONE).result
    assert [zone.status for zone in found] == ["active", "moved"]
    order = {"csr": make_csr(), "hostnames": [f"alice.{ZONE}"], "request_type": "origin-ecc"}
    assert cloud.call("POST", "/certificates", json=order).status_code == 200
    assert cloud.call("GET", f"/certificates?zone_id={found[0].id}").json()["result_info"]["count"] == 1


@pytest.mark.parametrize(
    ("universal", "packs"),
    [
        ({"enabled": True, "status": "active"}, ["active"]),
        ({"enabled": True, "status": "pending_validation"}, ["pending_validation"]),
        ({"enabled": False, "status": "active"}, []),
    ],
)
def test_the_edges_certificate_may_be_on_its_way_or_switched_off(
    cloud: Emulator, universal: dict[str, Any], packs: list[str]
) -> None:
    cloud.control("PATCH", f"zones/{ZONE}", universal_ssl=universal)
    zone_id = cloud.zone_id()
    read = cloud.sdk.ssl.universal.settings.get(zone_id=zone_id)
    assert read is not None
    assert read.enabled is universal["enabled"]
    listed: list[Any] = list(cloud.sdk.ssl.certificate_packs.list(zone_id=zone_id, status="all").result)
    assert [pack.status for pack in listed] == packs
    assert all(pack.hosts == [ZONE, f"*.{ZONE}"] for pack in listed)
    verified = cloud.sdk.ssl.verification.get(zone_id=zone_id)
    assert verified is not None
    assert [one.verification_status for one in verified] == [status == "active" for status in packs]
    in_force = cloud.sdk.ssl.certificate_packs.list(zone_id=zone_id).result
    assert len(in_force) == packs.count("active")


def test_an_unknown_setting_is_not_recognised(cloud: Emulator) -> None:
    answer = cloud.call("GET", f"/zones/{cloud.zone_id()}/settings/nothing")
    assert [error["code"] for error in answer.json()["errors"]] == [1006]


def test_a_zone_has_no_page_rules(cloud: Emulator) -> None:
    """OctoDNS asks for them, and a token needs a right of its own."""
    path = f"/zones/{cloud.zone_id()}/pagerules?status=active"
    assert cloud.call("GET", path).json()["result"] == []
    cloud.token("without", rights=["zone:read", "dns:edit"])
    refused = cloud.call("GET", path, token="without")
    assert (refused.status_code, refused.json()["errors"][0]["code"]) == (403, 9109)
    cloud.token("of-the-account", owner="account")
    refused = cloud.call("GET", path, token="of-the-account")
    assert refused.json()["errors"][0]["code"] == 1011
