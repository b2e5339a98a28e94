"""Tokens, routes, budgets, and bodies that cannot be read."""

from datetime import UTC, datetime, timedelta

import pytest
from hcloud import APIException

from tests.contract.hetzner_emulator import OTHER_PROJECT, READ_ONLY, Emulator, id_of, public_key, refused


@pytest.mark.parametrize(
    ("token", "message"),
    [(None, "token is required"), ("wrong", "the token you have provided is invalid")],
)
def test_a_request_needs_a_known_token(hetzner: Emulator, token: str | None, message: str) -> None:
    answer = hetzner.http("GET", "/v1/servers", token=token)
    assert answer.status_code == 401
    assert answer.json() == {"error": {"code": "unauthorized", "message": message, "details": None}}


@pytest.mark.parametrize("path", ["/v1/nothing", "/v1/servers/abc", "/v1/servers/", "/v1", "/", "/v1x/servers"])
def test_an_unknown_path_is_a_404_before_the_token_counts(hetzner: Emulator, path: str) -> None:
    answer = hetzner.http("GET", path, token=None)
    assert answer.status_code == 404
    assert answer.json()["error"] == {"code": "not_found", "message": "api route not found", "details": None}


def test_a_wrong_method_is_a_401_without_and_a_405_with_a_token(hetzner: Emulator) -> None:
    assert hetzner.http("DELETE", "/v1/servers", token=None).status_code == 401
    answer = hetzner.http("DELETE", "/v1/servers")
    assert (answer.status_code, answer.json()["error"]["code"]) == (405, "method_not_allowed")


def test_a_read_only_token_reads_and_changes_nothing(hetzner: Emulator) -> None:
    client = hetzner.client(READ_ONLY)
    assert client.servers.get_all() == []
    with pytest.raises(APIException) as caught:
        client.ssh_keys.create(name="k", public_key=public_key())
    assert caught.value.code == "token_readonly"
    assert hetzner.http("POST", "/v1/ssh_keys", token=READ_ONLY, json={}).status_code == 401
    assert client.ssh_keys.get_all() == []


def test_projects_do_not_see_each_other(hetzner: Emulator) -> None:
    key = hetzner.client().ssh_keys.create(name="k", public_key=public_key())
    other = hetzner.client(OTHER_PROJECT)
    assert other.ssh_keys.get_all() == []
    with pytest.raises(APIException) as caught:
        other.ssh_keys.get_by_id(id_of(key))
    assert caught.value.code == "not_found"


@pytest.mark.parametrize("body", [b"{", b"[]", b'"text"', b"\xff"])
def test_a_body_that_is_no_json_object_is_a_400(hetzner: Emulator, body: bytes) -> None:
    answer = hetzner.http("POST", "/v1/servers", data=body)
    assert (answer.status_code, answer.json()["error"]["code"]) == (400, "json_error")


def test_withdrawn_endpoints_are_a_410(hetzner: Emulator) -> None:
    answer = hetzner.http("GET", "/v1/datacenters")
    assert (answer.status_code, answer.json()["error"]["code"]) == (410, "deprecated_api_endpoint")


def test_every_answer_carries_the_budget_and_a_correlation_id(hetzner: Emulator) -> None:
    first, second = (hetzner.http("GET", path) for path in ("/v1/servers", "/v1/servers/1"))
    assert first.headers["RateLimit-Limit"] == "3600"
    assert int(second.headers["RateLimit-Remaining"]) <= int(first.headers["RateLimit-Remaining"]) < 3600
    assert int(first.headers["RateLimit-Reset"]) >= datetime.now(UTC).timestamp() - 1
    assert first.headers["X-Correlation-Id"] != second.headers["X-Correlation-Id"]
    with pytest.raises(APIException) as caught:
        hetzner.client().servers.get_by_id(1)
    assert caught.value.correlation_id


def test_the_budget_is_a_bucket_per_project_that_refills(hetzner: Emulator) -> None:
    now = [datetime(2026, 9, 20, tzinfo=UTC)]
    hetzner.start(requests_per_hour=3, now=lambda: now[0])
    client = hetzner.client()
    client._client._retry_max_retries = 0
    for _ in range(3):
        client.servers.get_all()
    with pytest.raises(APIException) as caught:
        client.servers.get_all()
    assert refused(caught.value, "rate_limit_exceeded", "Limit of '3' requests per hour for token")
    answer = hetzner.http("GET", "/v1/servers")
    assert answer.status_code == 429
    assert answer.headers["RateLimit-Remaining"] == "0"
    assert int(answer.headers["RateLimit-Reset"]) == now[0].timestamp() + 3600
    assert hetzner.http("GET", "/v1/servers", token=OTHER_PROJECT).status_code == 200
    now[0] += timedelta(minutes=20)
    client.servers.get_all()
    assert hetzner.http("GET", "/v1/servers").status_code == 429
