"""Lists: pages, filters, selectors, sorting; and the catalogue."""

from typing import Any

import pytest
from hcloud import APIException
from hcloud.images import Image
from starlette.datastructures import URL, QueryParams

from clawdet_cli.sandbox.hetzner.listing import list_page
from tests.contract.hetzner_emulator import Emulator, order, public_key


def names(hetzner: Emulator, query: str, path: str = "/v1/servers") -> list[str]:
    answer = hetzner.http("GET", f"{path}?{query}")
    assert answer.status_code == 200, answer.text
    (rows,) = (value for key, value in answer.json().items() if key != "meta")
    return [row["name"] for row in rows]


@pytest.fixture
def five(hetzner: Emulator) -> Emulator:
    client = hetzner.client()
    for number, tier in enumerate(["web", "web", "db", "cache", None]):
        labels = {"tier": tier, "n": str(number)} if tier else {}
        order(client, f"s{number}", labels=labels, start_after_create=False)
    return hetzner


@pytest.mark.parametrize(
    ("selector", "expected"),
    [
        ("tier=web", "s0 s1"),
        ("tier==web", "s0 s1"),
        ("tier!=web", "s2 s3 s4"),
        ("tier", "s0 s1 s2 s3"),
        ("!tier", "s4"),
        ("tier in (db,cache)", "s2 s3"),
        ("tier in (db, cache)", "s2 s3"),
        ("tier notin (db,cache)", "s0 s1 s4"),
        ("tier=web,n=1", "s1"),
        ("tier in (web,db),n!=0", "s1 s2"),
        ("tier=none", ""),
    ],
)
def test_label_selectors(five: Emulator, selector: str, expected: str) -> None:
    servers = five.client().servers.get_all(label_selector=selector)
    assert [server.name for server in servers] == expected.split()


@pytest.mark.parametrize("selector", ["tier=a@b", "=", "tier in web", "a b", "tier=web,,n=1"])
def test_an_ill_formed_selector_is_refused(five: Emulator, selector: str) -> None:
    with pytest.raises(APIException) as caught:
        five.client().servers.get_all(label_selector=selector)
    assert caught.value.code == "invalid_input"


def test_pages_and_their_links(five: Emulator) -> None:
    answer = five.http("GET", "/v1/servers?page=2&per_page=2&label_selector=tier")
    assert answer.json()["meta"]["pagination"] == {
        "page": 2,
        "per_page": 2,
        "previous_page": 1,
        "next_page": None,
        "last_page": 2,
        "total_entries": 4,
    }
    previous = answer.links["prev"]["url"]
    assert previous.startswith(f"{five.url}/v1/servers?")
    assert names(five, previous.partition("?")[2]) == ["s0", "s1"]
    assert "next" not in answer.links
    first = five.http("GET", "/v1/servers?per_page=2")
    assert names(five, first.links["next"]["url"].partition("?")[2]) == ["s2", "s3"]
    assert names(five, first.links["last"]["url"].partition("?")[2]) == ["s4"]


def test_a_page_past_the_end_is_empty(five: Emulator) -> None:
    body = five.http("GET", "/v1/servers?page=9").json()
    assert body["servers"] == []
    assert (body["meta"]["pagination"]["next_page"], body["meta"]["pagination"]["previous_page"]) == (None, 8)


def test_sizes_of_pages(five: Emulator) -> None:
    def per_page(query: str) -> int:
        return int(five.http("GET", f"/v1/servers?{query}").json()["meta"]["pagination"]["per_page"])

    assert (per_page(""), per_page("per_page=50"), per_page("per_page=51")) == (25, 50, 50)
    assert five.http("GET", "/v1/servers?page=0").status_code == 422


def test_the_sdk_reads_all_pages(hetzner: Emulator) -> None:
    client = hetzner.client()
    for number in range(53):
        client.firewalls.create(name=f"fw{number}")
    assert len(client.firewalls.get_all()) == 53


def test_filters_and_sorting(five: Emulator) -> None:
    assert names(five, "name=s3") == ["s3"]
    assert names(five, "status=initializing&status=off") == ["s0", "s1", "s2", "s3", "s4"]
    assert names(five, "status=running") == []
    assert names(five, "sort=name:desc") == ["s4", "s3", "s2", "s1", "s0"]
    assert names(five, "sort=id:asc&per_page=1") == ["s0"]
    assert five.http("GET", "/v1/servers?sort=labels").status_code == 422
    found = five.client().servers.get_by_name("s1")
    assert found is not None
    assert found.name == "s1"
    assert five.client().servers.get_by_name("none") is None


def test_ssh_keys_are_unique_by_key_and_name_and_found_by_fingerprint(hetzner: Emulator) -> None:
    client = hetzner.client()
    text = public_key()
    key = client.ssh_keys.create(name="one", public_key=text + " comment", labels={"a": "b"})
    for name, public in (("two", text), ("one", public_key())):
        with pytest.raises(APIException) as caught:
            client.ssh_keys.create(name=name, public_key=public)
        assert (caught.value.code, caught.value.message) == ("uniqueness_error", "SSH key not unique")
    with pytest.raises(APIException) as caught:
        client.ssh_keys.create(name="bad", public_key="ssh-ed25519 AAAA")
    assert caught.value.code == "invalid_input"
    found = client.ssh_keys.get_by_fingerprint(str(key.fingerprint))
    assert found is not None
    assert found.update(name="three", labels={}).name == "three"
    assert client.ssh_keys.delete(found)
    assert client.ssh_keys.get_all() == []


def test_the_fingerprint_is_that_of_ssh_keygen(hetzner: Emulator) -> None:
    # Made by ssh-keygen, and shown by `ssh-keygen -l -E md5`.
    text = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIEnxDpRgbvToNCA0QtT8NEtO7AIGGXLkC/sBbuJIZMsk"
    key = hetzner.client().ssh_keys.create(name="one", public_key=text)
    assert key.fingerprint == "e2:17:31:dd:26:78:f0:ee:25:a0:4f:dd:14:f1:e7:67"


def test_images_are_found_by_name_and_architecture(hetzner: Emulator) -> None:
    client = hetzner.client()
    image = client.images.get_by_name_and_architecture("ubuntu-24.04", "x86")
    assert image is not None
    assert image.id == 161547269
    arm = client.images.get_all(architecture=["arm"])
    assert {item.name for item in arm} == {"ubuntu-22.04", "ubuntu-24.04", "debian-12", "debian-13"}
    assert client.images.get_all(type=["snapshot"]) == []
    with pytest.raises(APIException):
        client.images.delete(Image(id=161547269))


def test_the_catalogue_has_todays_prices_and_deprecations(hetzner: Emulator) -> None:
    client = hetzner.client()
    types = {item.name: item for item in client.server_types.get_all()}
    prices = {price["location"]: price["price_monthly"]["net"] for price in types["cpx22"].prices or []}
    assert prices == {"fsn1": "19.4900000000", "nbg1": "19.4900000000", "hel1": "19.4900000000", "sin": "26.4900000000"}
    places = {place.location.name: place for place in types["cpx11"].locations or []}
    assert places["fsn1"].deprecation is not None
    assert places["ash"].deprecation is None
    assert (places["fsn1"].available, places["ash"].available) == (False, True)
    assert all(place.deprecation is None for place in types["cx23"].locations or [])
    assert client.server_types.get_by_id(109).name == "cpx22"
    assert hetzner.http("GET", "/v1/server_types/1").status_code == 404


def test_locations_and_pricing(hetzner: Emulator) -> None:
    client = hetzner.client()
    assert [place.name for place in client.locations.get_all()] == ["fsn1", "nbg1", "hel1", "ash", "hil", "sin"]
    assert client.locations.get_by_id(2).name == "nbg1"
    assert hetzner.http("GET", "/v1/locations/9").status_code == 404
    pricing = hetzner.http("GET", "/v1/pricing").json()["pricing"]
    assert pricing["currency"] == "EUR"
    assert pricing["image"]["price_per_gb_month"]["net"] == "0.0143000000"
    assert pricing["primary_ips"][0]["prices"][0]["price_monthly"] == {
        "net": "0.5000000000",
        "gross": "0.5950000000000000",
    }


def test_only_what_is_on_the_page_is_rendered() -> None:
    """A list of a thousand servers is asked for in twenty pages: each of them must not cost a thousand."""
    records = [
        {"id": number, "name": f"s{number}", "created": "", "labels": {"odd": str(number % 2)}} for number in range(9)
    ]
    rendered: list[int] = []

    def render(record: dict[str, Any]) -> dict[str, Any]:
        rendered.append(record["id"])
        return {**record, "rendered": True}

    query = QueryParams("label_selector=odd=1&sort=id:desc&per_page=2&page=2")
    body, _ = list_page("servers", records, render, query, URL("http://cloud.test/servers"))
    assert [(one["id"], one["rendered"]) for one in body["servers"]] == [(3, True), (1, True)]
    assert rendered == [3, 1]
