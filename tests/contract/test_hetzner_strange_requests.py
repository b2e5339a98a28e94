"""What no decent client sends: each gets an answer in the API's own form, and leaves nothing behind that breaks it."""

import json
from typing import Any

import pytest

from clawdet_cli.sandbox import request_body
from tests.contract.hetzner_emulator import Emulator, public_key

LISTS = ("servers", "ssh_keys", "firewalls", "images", "primary_ips", "placement_groups", "server_types", "locations")
NESTED = b"[" * 100_000


def error(response: Any, status: int) -> dict[str, Any]:
    """Return the error of an answer, which has its three keys."""
    assert response.status_code == status, response.text
    found: dict[str, Any] = response.json()["error"]
    assert set(found) == {"code", "message", "details"}
    return found


@pytest.mark.parametrize(
    "body",
    [b"{", b"[]", b"\xff", NESTED, b'{"name": NaN}', b'{"name": "\\ud800"}'],
    ids=lambda body: repr(body[:30]),
)
def test_a_body_that_no_answer_could_repeat_is_refused(hetzner: Emulator, body: bytes) -> None:
    for path in ("ssh_keys", "firewalls", "placement_groups"):
        assert error(hetzner.http("POST", f"/v1/{path}", data=body), 400)["code"] == "json_error"
        assert hetzner.http("GET", f"/v1/{path}").json()[path] == []


def test_an_endless_body_is_refused(hetzner: Emulator) -> None:
    assert (
        "too large"
        in error(hetzner.http("POST", "/v1/servers", data=b" " * (request_body.LARGEST + 1)), 413)["message"]
    )


@pytest.mark.parametrize("method", ["OPTIONS", "TRACE", "PROPFIND", "PATCH"])
def test_other_methods_are_refused_in_the_apis_form(hetzner: Emulator, method: str) -> None:
    assert error(hetzner.http(method, "/v1/servers"), 405)["code"] == "method_not_allowed"


def test_numbers_beyond_all_measure_are_refused(hetzner: Emulator) -> None:
    endless = "9" * 5000
    assert error(hetzner.http("GET", f"/v1/servers/{endless}"), 404)["code"] == "not_found"
    for parameter in ("page", "per_page"):
        assert error(hetzner.http("GET", f"/v1/servers?{parameter}={endless}"), 422)["code"] == "invalid_input"
    rule = {"direction": "in", "protocol": "tcp", "port": endless, "source_ips": ["0.0.0.0/0"]}
    answer = hetzner.http("POST", "/v1/firewalls", json={"name": "edge", "rules": [rule]})
    assert error(answer, 422)["details"]["fields"][0]["name"] == "rules.port"


def test_a_network_with_a_zone_index_is_none(hetzner: Emulator) -> None:
    rule = {"direction": "in", "protocol": "tcp", "port": "22", "source_ips": ["fe80::%1/128"]}
    answer = hetzner.http("POST", "/v1/firewalls", json={"name": "edge", "rules": [rule]})
    assert error(answer, 422)["details"]["fields"][0]["name"] == "rules.source_ips"


@pytest.mark.parametrize("kind", LISTS)
def test_an_ill_formed_selector_is_refused_where_there_are_labels(hetzner: Emulator, kind: str) -> None:
    answer = hetzner.http("GET", f"/v1/{kind}", params={"label_selector": "no-such-label,(("})
    if kind in ("server_types", "locations"):
        assert answer.json()[kind]
    else:
        assert error(answer, 422)["details"]["fields"][0]["name"] == "label_selector"


@pytest.mark.parametrize("kind", ["server_types", "locations"])
def test_the_catalog_is_not_sorted_by_what_it_does_not_show(hetzner: Emulator, kind: str) -> None:
    assert error(hetzner.http("GET", f"/v1/{kind}?sort=created"), 422)["details"]["fields"][0]["name"] == "sort"


@pytest.mark.parametrize(
    "settings",
    [
        {"sold_out": "cpx22"},
        {"sold_out": [["cpx22"]]},
        {"server_limit": "5"},
        {"action_error": {"create_server": 5}},
        {"boot_never": "no"},
        {"delete_seconds": -1},
        {"available_inverted": "cx23"},
        ["sold_out"],
    ],
    ids=json.dumps,
)
def test_a_knob_takes_no_value_that_would_break_later_requests(hetzner: Emulator, settings: Any) -> None:
    assert hetzner.http("PUT", "/_sandbox/knobs", json=settings).status_code == 422
    assert hetzner.http("GET", "/v1/server_types").status_code == 200
    hetzner.client().ssh_keys.create("laptop", public_key())


@pytest.mark.parametrize(
    "rule",
    [
        {"kind": ["delay"]},
        {"kind": "delay", "seconds": "1"},
        {"kind": "delay", "seconds": -1},
        {"kind": "answer", "status": 99},
        {"kind": "answer", "status": "500"},
        {"kind": "answer", "headers": {"a b": "c"}},
        {"kind": "answer", "headers": {"a": "b\r\nc: d"}},
        {"kind": "answer", "headers": {"a": 5}},
        {"kind": "answer", "content_type": "ü"},
        {"kind": "delay", "times": "always"},
        {"kind": "delay", "after": None},
        {"kind": "delay", "path": 5},
        {"kind": "delay", "method": None},
        [],
    ],
    ids=json.dumps,
)
def test_a_fault_that_cannot_be_carried_out_is_refused(hetzner: Emulator, rule: Any) -> None:
    assert hetzner.http("POST", "/_sandbox/faults", json=rule).status_code == 422
    assert hetzner.http("GET", "/v1/locations").status_code == 200


def test_nested_control_requests_are_refused(hetzner: Emulator) -> None:
    assert hetzner.http("POST", "/_sandbox/faults", data=NESTED).status_code == 422
    assert hetzner.http("PUT", "/_sandbox/knobs", data=NESTED).status_code == 422
