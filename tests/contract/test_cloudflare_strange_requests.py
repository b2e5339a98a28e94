"""What no decent client sends: each gets an answer in the API's envelope, and leaves nothing behind that breaks it."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from starlette.types import ASGIApp

from clawdet_cli.sandbox import request_body
from tests.contract.cloudflare_emulator import TOKEN, ZONE, Emulator
from tests.contract.served import Served

NESTED = b"[" * 100_000


@pytest.fixture
def cloudflare(serve_app: Callable[[ASGIApp], Served], tmp_path: Path) -> Iterator[Emulator]:
    emulator = Emulator(serve_app, tmp_path)
    yield emulator
    emulator.close()


@pytest.fixture
def http() -> Any:
    with httpx.Client(headers={"Authorization": f"Bearer {TOKEN}"}, trust_env=False) as client:
        yield client


@pytest.fixture
def records(cloudflare: Emulator) -> str:
    return f"{cloudflare.url}/zones/{next(iter(cloudflare.state['zones']))}/dns_records"


def refusal(answer: httpx.Response, status: int = 400) -> int:
    """Return the code of a refusal, which is in the envelope."""
    assert answer.status_code == status, answer.text
    envelope = answer.json()
    assert (envelope["success"], envelope["result"]) == (False, None)
    return int(envelope["errors"][0]["code"])


@pytest.mark.parametrize(
    "body", [b"{", b"\xff", NESTED, b'{"settings": {"a": NaN}}', b'{"comment": "\\ud800"}'], ids=repr
)
def test_a_body_that_no_answer_could_repeat_is_refused(http: httpx.Client, records: str, body: bytes) -> None:
    assert refusal(http.post(records, content=body)) == 6007
    assert http.get(records).json()["result"] == []


def test_an_endless_body_is_refused(http: httpx.Client, records: str) -> None:
    refusal(http.post(records, content=b" " * (request_body.LARGEST + 1)), 413)


@pytest.mark.parametrize(
    "record",
    [
        {"type": "AAAA", "content": "fe80::1%eth0"},
        {"type": "CNAME", "content": "a." * 126 + "ab"},
        {"type": "NS", "content": "a." * 126 + "ab"},
        {"type": "MX", "content": "mx.example", "priority": -1},
        {"type": "MX", "content": "mx.example", "priority": 65536},
        {"type": "MX", "content": "mx.example", "priority": True},
        {"type": "A", "content": "192.0.2.1", "settings": {"a": {"b": {}}}},
    ],
    ids=lambda record: json.dumps(record)[:60],
)
def test_a_record_that_dns_cannot_say_is_refused(http: httpx.Client, records: str, record: dict[str, Any]) -> None:
    refusal(http.post(records, json={"name": "odd", **record}))


@pytest.mark.parametrize("page", ["1e400", "inf", "nan", "0", "x", "9" * 5000], ids=lambda page: page[:5])
def test_a_page_that_is_no_number_is_refused(http: httpx.Client, records: str, page: str) -> None:
    refusal(http.get(records, params={"page": page}))


def test_a_slash_too_many_is_no_redirection(cloudflare: Emulator, http: httpx.Client) -> None:
    assert refusal(http.get(f"{cloudflare.url}/zones/")) == 7003
    assert refusal(http.get(cloudflare.url)) == 7003


@pytest.mark.parametrize("change", [{"hostnames": 5}, {"hostnames": True}, {"request_type": []}], ids=json.dumps)
def test_a_certificate_request_of_wrong_types_is_refused(
    cloudflare: Emulator, http: httpx.Client, change: dict[str, Any]
) -> None:
    wish = {"hostnames": [ZONE], "request_type": "origin-ecc", "requested_validity": 7, "csr": "none"}
    refusal(http.post(f"{cloudflare.url}/certificates", json=wish | change))


def test_an_error_of_the_emulator_comes_in_the_envelope(cloudflare: Emulator, http: httpx.Client, records: str) -> None:
    next(iter(cloudflare.state["zones"].values())).pop("record_quota")
    assert refusal(http.get(f"{records}/usage"), 500) == 1000


@pytest.mark.parametrize(
    ("method", "path", "body"),
    [
        ("POST", "zones", {}),
        ("POST", "zones", {"name": 5}),
        ("POST", "zones", {"name": "test"}),
        ("POST", "zones", {"name": "b.test", "plan": "gold"}),
        ("POST", "zones", {"name": "b.test", "colour": "red"}),
        ("PATCH", f"zones/{ZONE}", {"plan": "gold"}),
        ("PATCH", f"zones/{ZONE}", {"paused": "yes"}),
        ("PATCH", f"zones/{ZONE}", {"record_quota": "many"}),
        ("PATCH", f"zones/{ZONE}", {"ssl": "loose"}),
        ("PATCH", f"zones/{ZONE}", {"colour": "red"}),
        ("POST", "tokens", {}),
        ("POST", "tokens", {"token": 5}),
        ("POST", "tokens", {"token": "t", "rights": 5}),
        ("POST", "tokens", {"token": "t", "zones": [5]}),
        ("POST", "tokens", {"token": "t", "owner": "me"}),
        ("PATCH", "limits", {"requests": "x"}),
        ("PATCH", "limits", {"seconds": None}),
        ("PATCH", "limits", []),
    ],
    ids=json.dumps,
)
def test_the_account_takes_no_change_that_would_break_it(
    cloudflare: Emulator, http: httpx.Client, method: str, path: str, body: Any
) -> None:
    for content in (json.dumps(body).encode(), b"{", b"", NESTED):
        answer = http.request(method, f"{cloudflare.root}/_sandbox/{path}", content=content)
        assert (answer.status_code, list(answer.json())) == (422, ["error"])
    assert http.get(f"{cloudflare.url}/zones").status_code == 200
