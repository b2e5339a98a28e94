"""Faults and the request log, over real connections."""

import json
import threading
import time
from collections.abc import Callable
from typing import Any

import pytest
import requests
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp

from clawdet_cli.sandbox.faults import FAULTS, FaultMiddleware, Faults, is_pattern, matches
from tests.contract.served import Served


class Counter:
    """An API whose POST has an effect."""

    def __init__(self, serve_app: Callable[[ASGIApp], Served]) -> None:
        self.faults = Faults()
        self.count = 0
        routes = [*self.faults.routes(), Route("/count/{name}", self._count, methods=["GET", "POST"])]
        app = Starlette(routes=routes, middleware=[Middleware(FaultMiddleware, faults=self.faults)])
        self.served = serve_app(app)
        self.url = self.served.url

    async def _count(self, request: Request) -> Response:
        if request.method == "POST":
            await request.body()
            self.count += 1
        return JSONResponse({"count": self.count})

    def request(self, method: str, path: str = "/count/a", timeout: float = 5, **options: Any) -> requests.Response:
        with requests.Session() as session:
            session.trust_env = False
            return session.request(method, self.url + path, timeout=timeout, **options)

    def add(self, **rule: Any) -> int:
        answer = self.request("POST", "/_sandbox/faults", json=rule)
        assert answer.status_code == 201, answer.text
        return int(answer.json()["id"])


@pytest.fixture
def counter(serve_app: Callable[[ASGIApp], Served]) -> Counter:
    return Counter(serve_app)


def test_an_answer_comes_instead_of_the_effect(counter: Counter) -> None:
    counter.add(kind="answer", status=429, body={"error": 1}, headers={"Retry-After": "7"})
    answer = counter.request("POST")
    assert (answer.status_code, answer.json(), answer.headers["Retry-After"]) == (429, {"error": 1}, "7")
    assert answer.headers["Content-Type"] == "application/json"
    assert counter.count == 0
    assert counter.request("POST").json() == {"count": 1}


def test_a_text_is_a_page_like_that_of_a_balancer(counter: Counter) -> None:
    counter.add(kind="answer", status=502, body="<html>Bad Gateway</html>")
    answer = counter.request("GET")
    assert (answer.status_code, answer.text) == (502, "<html>Bad Gateway</html>")
    assert answer.headers["Content-Type"].startswith("text/html")
    counter.add(kind="answer", status=503, body="busy", content_type="text/plain")
    assert counter.request("GET").headers["Content-Type"].startswith("text/plain")


@pytest.mark.parametrize(("kind", "effects"), [("drop_before", 0), ("drop_after", 1)])
def test_a_dropped_connection_gives_no_answer(counter: Counter, kind: str, effects: int) -> None:
    counter.add(kind=kind)
    with pytest.raises(requests.exceptions.ConnectionError):
        counter.request("POST", data=b"x" * 10)
    assert counter.count == effects
    assert counter.request("GET").json() == {"count": effects}


@pytest.mark.parametrize(("kind", "effects"), [("hang_before", 0), ("hang_after", 1)])
def test_a_hanging_request_lasts_until_the_client_gives_up(counter: Counter, kind: str, effects: int) -> None:
    counter.add(kind=kind)
    with pytest.raises(requests.exceptions.ReadTimeout):
        counter.request("POST", timeout=0.5)
    assert counter.request("GET").json() == {"count": effects}


def test_a_delay_changes_nothing_but_the_time(counter: Counter) -> None:
    counter.add(kind="delay", seconds=0.2)
    started = time.monotonic()
    assert counter.request("POST").json() == {"count": 1}
    assert time.monotonic() - started >= 0.2


def test_after_and_times_select_the_hits(counter: Counter) -> None:
    counter.add(kind="answer", status=500, after=1, times=2)
    assert [counter.request("GET").status_code for _ in range(4)] == [200, 500, 500, 200]


def test_without_times_it_lasts_until_cleared(counter: Counter) -> None:
    number = counter.add(kind="answer", status=500, times=None)
    assert [counter.request("GET").status_code for _ in range(3)] == [500, 500, 500]
    (fault,) = counter.request("GET", "/_sandbox/faults").json()["faults"]
    assert (fault["id"], fault["hits"], fault["kind"]) == (number, 3, "answer")
    assert counter.request("DELETE", "/_sandbox/faults").status_code == 204
    assert counter.request("GET").status_code == 200


def test_method_and_path_select_the_requests(counter: Counter) -> None:
    counter.add(kind="answer", status=500, method="POST", path="/count/b", times=None)
    statuses = [
        counter.request(m, p).status_code
        for m, p in [("GET", "/count/b"), ("POST", "/count/bb"), ("POST", "/count/ab"), ("POST", "/count/b?x=1")]
    ]
    assert statuses == [200, 200, 200, 500]


def test_the_older_of_two_faults_wins_while_it_lasts(counter: Counter) -> None:
    counter.add(kind="answer", status=500)
    counter.add(kind="answer", status=503)
    assert [counter.request("GET").status_code for _ in range(3)] == [500, 503, 200]


@pytest.mark.parametrize(
    "rule",
    [
        {},
        {"kind": "explode"},
        {"kind": "delay", "path": "("},
        {"kind": "delay", "path": "/(a+)+$"},
        {"kind": "delay", "path": "/v1/servers/[0-9]+"},
        {"kind": "delay", "path": "x" * 501},
        {"kind": "delay", "sec": 1},
        {"kind": "delay", "id": 3},
        [],
        3,
        "delay",
    ],
)
def test_a_rule_that_cannot_be_is_refused(counter: Counter, rule: Any) -> None:
    answer = counter.request("POST", "/_sandbox/faults", data=json.dumps(rule))
    assert answer.status_code == 422
    assert answer.json()["error"]
    assert counter.faults.all() == []


def test_the_log_shows_what_was_asked_and_answered(counter: Counter) -> None:
    counter.request("POST", "/count/a?x=1")
    counter.request("GET", "/nothing")
    counter.add(kind="drop_after")
    with pytest.raises(requests.exceptions.ConnectionError):
        counter.request("POST")
    seen = counter.request("GET", "/_sandbox/requests").json()["requests"]
    assert [(entry["method"], entry["path"], entry["query"], entry["status"], entry["fault"]) for entry in seen] == [
        ("POST", "/count/a", "x=1", 200, None),
        ("GET", "/nothing", "", 404, None),
        ("POST", "/count/a", "", None, "drop_after"),
    ]
    assert seen[0]["time"] <= seen[1]["time"]
    counter.request("DELETE", "/_sandbox/requests")
    assert counter.request("GET", "/_sandbox/requests").json() == {"requests": []}


def test_a_hanging_request_does_not_hold_up_the_end(counter: Counter) -> None:
    counter.add(kind="hang_before")
    asking = threading.Thread(target=lambda: counter.request("GET", timeout=30))
    asking.start()
    deadline = time.monotonic() + 5
    while not counter.faults.requests:
        assert time.monotonic() < deadline
    counter.served.stop()
    asking.join(5)
    assert not asking.is_alive()


@pytest.mark.parametrize(
    ("pattern", "text", "fits"),
    [
        ("/a", "/a", True),
        ("/a", "/ab", False),
        ("/a.b", "/aXb", False),
        (".*", "", True),
        ("/v1/.*", "/v1/", True),
        ("/v1/.*", "/v2/", False),
        (".*/certificates", "/client/v4/certificates", True),
        (".*/certificates", "/client/v4/certificates/1", False),
        ("/zones/.*/dns_records/.*", "/zones/a/dns_records/b", True),
        ("/zones/.*/dns_records/.*", "/zones/a/dns_records", False),
        ("ab.*ba", "aba", False),
        ("ab.*b.*ba", "abba", False),
        ("ab.*b.*ba", "abbba", True),
    ],
)
def test_a_path_is_text_with_anything_in_it(pattern: str, text: str, *, fits: bool) -> None:
    assert matches(pattern, text) is fits


def test_no_pattern_keeps_the_process_busy() -> None:
    pattern, text = ".*a" * 166, "/" + "a" * 100_000 + "b"
    assert is_pattern(pattern)
    began = time.process_time()
    assert not matches(pattern, text)
    assert time.process_time() - began < 0.1


def test_there_is_an_end_to_the_faults(counter: Counter) -> None:
    for _ in range(FAULTS):
        counter.faults.add({"kind": "delay", "path": "/x"})
    answer = counter.request("POST", "/_sandbox/faults", json={"kind": "delay"})
    assert (answer.status_code, "end them first" in answer.text) == (422, True)
