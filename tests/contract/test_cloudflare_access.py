import email.utils
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from cloudflare import APIStatusError, AuthenticationError, Cloudflare, PermissionDeniedError, RateLimitError
from starlette.types import ASGIApp

from clawdet_cli.sandbox.cloudflare.state import ACCOUNT_ID
from tests.contract.cloudflare_emulator import PENDING, TOKEN, ZONE, Emulator, codes
from tests.contract.served import Served


@pytest.fixture
def cloud(serve_app: Callable[[ASGIApp], Served], tmp_path: Path) -> Iterator[Emulator]:
    emulator = Emulator(serve_app, tmp_path)
    yield emulator
    emulator.close()


@pytest.mark.parametrize(
    ("headers", "status", "expected"),
    [
        ({}, 400, [9106]),
        ({"X-Auth-Email": "someone@example.com"}, 400, [9106]),
        ({"X-Auth-Email": "someone@example.com", "X-Auth-Key": "0" * 37}, 403, [9103]),
        ({"Authorization": "Bearer"}, 400, [6003, 6111]),
        ({"Authorization": "Bearer two words"}, 400, [6003, 6111]),
        ({"Authorization": f"Token {TOKEN}"}, 400, [6003, 6111]),
        ({"Authorization": "Bearer unknown"}, 403, [9109]),
    ],
)
def test_credentials_that_are_none(cloud: Emulator, headers: dict[str, str], status: int, expected: list[int]) -> None:
    for path in ("/zones", f"/zones/{cloud.zone_id()}/dns_records", "/certificates"):
        answer = cloud.call("GET", path, token=None, headers=dict(headers))
        errors = answer.json()["errors"]
        found = [errors[0]["code"], *(inner["code"] for inner in errors[0].get("error_chain", []))]
        assert (answer.status_code, found) == (status, expected)
        assert answer.json()["result"] is None


def test_the_sdk_with_a_stray_email_sends_no_token(cloud: Emulator) -> None:
    stray = cloud.sdk.with_options(api_token=TOKEN, api_email="stray@example.com")
    with pytest.raises(APIStatusError) as caught:
        stray.zones.list()
    assert codes(caught.value) == [9106]


def test_a_user_token_is_verified(cloud: Emulator) -> None:
    verified = cloud.sdk.user.tokens.verify()
    assert verified is not None
    assert verified.status == "active"
    with pytest.raises(AuthenticationError) as caught:
        cloud.client("unknown").user.tokens.verify()
    assert codes(caught.value) == [1000]


def test_an_account_token_is_verified_elsewhere(cloud: Emulator) -> None:
    owned = cloud.token("of-the-account", owner="account")
    with pytest.raises(AuthenticationError) as caught:
        owned.user.tokens.verify()
    assert codes(caught.value) == [1000]
    verified = owned.accounts.tokens.verify(account_id=ACCOUNT_ID)
    assert verified is not None
    assert verified.status == "active"
    assert owned.zones.list(name=ZONE).result


@pytest.mark.parametrize("status", ["disabled", "expired"])
def test_a_token_out_of_force_says_so_and_does_nothing(cloud: Emulator, status: str) -> None:
    spent = cloud.token("spent", status=status)
    verified = spent.user.tokens.verify()
    assert verified is not None
    assert verified.status == status
    for call in (spent.zones.list, lambda: spent.dns.records.list(zone_id=cloud.zone_id())):
        with pytest.raises(PermissionDeniedError) as caught:
            call()
        assert codes(caught.value) == [9109]


def test_each_call_needs_its_right(cloud: Emulator) -> None:
    zone = cloud.zone_id()
    calls: dict[str, list[Callable[[Cloudflare], object]]] = {
        "zone:read": [lambda client: client.zones.get(zone_id=zone)],
        "dns:edit": [
            lambda client: client.dns.records.list(zone_id=zone),
            lambda client: client.dns.records.create(zone_id=zone, name="a", type="A", content="127.18.0.1", ttl=1),
            lambda client: client.dns.records.batch(zone_id=zone),
            lambda client: client.dns.usage.zone.get(zone_id=zone),
        ],
        "settings:read": [lambda client: client.zones.settings.get("ssl", zone_id=zone)],
        "settings:edit": [lambda client: client.zones.settings.edit("ssl", zone_id=zone, value="strict")],
    }
    everything = {"zone:read", "dns:edit", "ssl:edit", "settings:read", "settings:edit"}
    for right, needing in calls.items():
        # the right to edit settings would include reading them
        without = everything - ({right, "settings:edit"} if right == "settings:read" else {right})
        poor = cloud.token(f"without-{right.replace(':', '-')}", rights=sorted(without))
        exact = cloud.token(f"only-{right.replace(':', '-')}", rights=[right])
        for call in needing:
            with pytest.raises(PermissionDeniedError) as caught:
                call(poor)
            assert codes(caught.value) == [10000]
            call(exact)


def test_reading_records_is_a_right_of_its_own(cloud: Emulator) -> None:
    reader = cloud.token("reader", rights=["dns:read"])
    assert reader.dns.records.list(zone_id=cloud.zone_id()).result == []
    with pytest.raises(PermissionDeniedError):
        reader.dns.records.create(zone_id=cloud.zone_id(), name="a", type="A", content="127.18.0.1", ttl=1)


def test_a_token_reaches_its_own_zones_only(cloud: Emulator) -> None:
    narrow = cloud.token("narrow", zones=[ZONE])
    assert [zone.name for zone in narrow.zones.list()] == [ZONE]
    for zone_id in (cloud.zone_id(PENDING), "0" * 32):
        with pytest.raises(PermissionDeniedError) as caught:
            narrow.dns.records.list(zone_id=zone_id)
        assert codes(caught.value) == [10000]


def test_without_the_right_to_read_zones_there_seem_to_be_none(cloud: Emulator) -> None:
    assert cloud.token("blind", rights=["dns:edit"]).zones.list(name=ZONE).result == []


def test_no_token_is_kept_in_the_state(cloud: Emulator) -> None:
    assert TOKEN not in repr(cloud.state)


@pytest.mark.parametrize("path", ["/zones/x/dns_records", "/nothing", "/zones/{zone}/dns_records/x", "/"])
def test_paths_that_lead_nowhere(cloud: Emulator, path: str) -> None:
    answer = cloud.call("GET", path.format(zone=cloud.zone_id()))
    assert answer.status_code == 400
    assert [error["code"] for error in answer.json()["errors"]] == [7003, 7000]


def test_a_method_that_is_none(cloud: Emulator) -> None:
    answer = cloud.call("PATCH", "/certificates")
    assert (answer.status_code, answer.json()["errors"][0]["code"]) == (405, 7001)


def test_a_list_of_zones_may_be_refused_outright(cloud: Emulator) -> None:
    blind = cloud.token("blind", rights=["dns:edit"])
    cloud.control("PATCH", "refusals", zones="forbidden")
    with pytest.raises(PermissionDeniedError) as caught:
        blind.zones.list(name=ZONE)
    assert codes(caught.value) == [0]
    assert "com.cloudflare.api.account.zone.list" in str(caught.value)


def test_every_answer_tells_the_limit_as_documented(cloud: Emulator) -> None:
    first, second = (cloud.call("GET", "/zones").headers for _ in range(2))
    assert first["ratelimit"] == '"default";r=1199;t=300'
    assert second["ratelimit"] == '"default";r=1198;t=300'
    assert first["ratelimit-policy"] == '"default";q=1200;w=300'
    assert "x-ratelimit-limit" not in first
    assert "ratelimit" not in cloud.call("GET", "/ips").headers


def test_the_older_form_of_the_limit_can_be_had(cloud: Emulator) -> None:
    cloud.control("PATCH", "limits", headers="both")
    assert {"ratelimit", "x-ratelimit-limit"} <= cloud.call("GET", "/zones").headers.keys()
    cloud.control("PATCH", "limits", headers="old")
    first, second = (cloud.call("GET", "/zones").headers for _ in range(2))
    assert "ratelimit" not in first
    assert first["x-ratelimit-limit"] == "1200"
    assert int(first["x-ratelimit-remaining"]) - int(second["x-ratelimit-remaining"]) == 1
    assert email.utils.parsedate_to_datetime(first["x-ratelimit-reset"])
    assert first["cf-ray"] != second["cf-ray"]
    assert "x-ratelimit-limit" not in cloud.call("GET", "/ips").headers


def test_too_many_requests_block_everything_for_a_while(cloud: Emulator) -> None:
    cloud.control("PATCH", "limits", requests=3, seconds=300, block_seconds=300)
    for _ in range(3):
        cloud.sdk.zones.list()
    with pytest.raises(RateLimitError) as caught:
        cloud.sdk.zones.list()
    assert codes(caught.value) == [10100]
    assert caught.value.response.headers["retry-after"] == "300"
    cloud.now += 299  # not the window counts now but the block, and what comes meanwhile does not prolong it
    with pytest.raises(RateLimitError) as caught:
        cloud.sdk.user.tokens.verify()
    assert caught.value.response.headers["retry-after"] == "1"
    assert cloud.call("GET", "/ips").status_code == 200
    cloud.now += 1
    cloud.sdk.zones.list()


def test_the_count_starts_anew_with_each_window(cloud: Emulator) -> None:
    cloud.control("PATCH", "limits", requests=2, seconds=300)
    for _ in range(3):
        cloud.sdk.zones.list()
        cloud.sdk.zones.list()
        cloud.now += 300


def test_requests_are_logged(cloud: Emulator) -> None:
    cloud.call("DELETE", f"/zones/{cloud.zone_id()}/dns_records/{'0' * 32}")
    last = cloud.control("GET", "requests")["requests"][-1]
    assert (last["method"], last["path"].rpartition("/")[2], last["status"]) == ("DELETE", "0" * 32, 404)
