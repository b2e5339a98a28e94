"""What Cloudflare turns away at its owner's wish, and how unsteady a new record is: the emulated edge."""

import asyncio
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import httpx
import pytest
from starlette.applications import Starlette
from starlette.types import ASGIApp

from clawdet_cli.sandbox.edge.knobs import KNOBS, PATH, EdgeKnobs
from tests.contract.edge_world import HOST, World, answering, assert_error, read_head, run, running
from tests.contract.served import Served

OURS = "clawdet/1.0 (+https://example.com)"
BROWSER = "Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36"


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)


def asked(world: World, *visits: Mapping[str, str] | None, path: str = "/") -> list[httpx.Response]:
    """Visit the edge with these headers, one visit after the other; None is one without a user agent."""

    async def visit(headers: Mapping[str, str] | None) -> httpx.Response:
        if headers is not None:
            return await world.get(path, headers=dict(headers))
        async with world.client() as client:
            request = client.build_request("GET", f"https://127.0.0.1:{world.tls_port}{path}", headers={"Host": HOST})
            del request.headers["User-Agent"]
            request.extensions["sni_hostname"] = HOST
            return await client.send(request)

    async def story() -> list[httpx.Response]:
        async with running(world), world.origin(answering(), world.certificate()):
            return [await visit(headers) for headers in visits]

    return run(story())


def assert_challenged(answer: httpx.Response) -> None:
    assert (answer.status_code, answer.headers["cf-mitigated"]) == (403, "challenge")
    assert answer.headers["content-type"] == "text/html; charset=UTF-8"
    assert "<title>Just a moment...</title>" in answer.text
    assert answer.headers["server"] == "cloudflare"


@pytest.mark.parametrize("agent", [None, "", "Python-urllib/3.13", "Jakarta Commons-HttpClient/3.1"])
def test_the_browser_check_bans_agents_by_their_signature(world: World, agent: str | None) -> None:
    headers = None if agent is None else {"User-Agent": agent}
    banned, ours = asked(world, headers, {"User-Agent": OURS})
    assert_error(banned, 403, 1010)
    assert banned.text == "error code: 1010"
    assert "cf-mitigated" not in banned.headers
    assert ours.status_code == 200
    world.setting("browser_check", "off")
    assert asked(world, headers)[0].status_code == 200


def test_a_browser_is_shown_the_number_in_html(world: World) -> None:
    (page,) = asked(world, {"User-Agent": "Python-urllib/3.13", "Accept": "text/html,application/xhtml+xml"})
    assert (page.status_code, page.headers["content-type"]) == (403, "text/html; charset=UTF-8")
    assert '<div id="cf-error-details"><h1>Error 1010</h1>' in page.text


def test_bot_fight_mode_challenges_what_is_no_browser(world: World) -> None:
    world.zone["bot_fight_mode"] = True
    ours, browser = asked(world, {"User-Agent": OURS}, {"User-Agent": BROWSER})
    assert_challenged(ours)
    assert browser.status_code == 200


def test_under_attack_everybody_is_challenged_but_for_the_edges_own_pages(world: World) -> None:
    world.setting("security_level", "under_attack")
    for answer in asked(world, {"User-Agent": OURS}, {"User-Agent": BROWSER}):
        assert_challenged(answer)
    assert asked(world, {"User-Agent": OURS}, path="/cdn-cgi/trace")[0].status_code == 200


def test_a_challenge_takes_the_place_of_a_websocket_too(world: World) -> None:
    world.zone["bot_fight_mode"] = True
    upgrade = {"User-Agent": OURS, "Connection": "Upgrade", "Upgrade": "websocket", "Sec-WebSocket-Version": "13"}
    assert_challenged(asked(world, upgrade, path="/app")[0])


def test_a_rule_blocks_paths(world: World) -> None:
    EdgeKnobs(world.state).set({"blocked_paths": ["/app"]})
    assert_error(asked(world, {"User-Agent": BROWSER}, path="/app/x")[0], 403, 1020)
    assert asked(world, {"User-Agent": BROWSER})[0].status_code == 200


def test_http_is_redirected_before_anything_is_judged(world: World) -> None:
    world.setting("security_level", "under_attack")

    async def story() -> httpx.Response:
        async with running(world):
            return await world.get(scheme="http")

    assert run(story()).status_code == 301


def test_flexible_tls_and_an_origin_that_redirects_are_a_loop(world: World) -> None:
    world.setting("ssl", "flexible")

    async def redirecting(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await read_head(reader)
        writer.write(
            f"HTTP/1.1 308 Permanent Redirect\r\nLocation: https://{HOST}/\r\nContent-Length: 0\r\n\r\n".encode()
        )
        await writer.drain()

    async def story() -> tuple[int, str]:
        async with running(world), world.origin(redirecting, None, port=80):
            answer = await world.get()
            return answer.status_code, answer.headers["location"]

    assert run(story()) == (308, f"https://{HOST}/")  # where it came from


def test_refusals_come_in_the_order_asked_for_and_then_no_more(world: World) -> None:
    EdgeKnobs(world.state).set({"refusals": [530, 0, 409, 522]})
    answers = asked(world, *[{"User-Agent": OURS}] * 5)
    assert [one.status_code for one in answers] == [530, 200, 409, 522, 200]
    assert [answers[number].text for number in (0, 2, 3)] == [
        "error code: 1016",
        "error code: 1001",
        "error code: 522",
    ]


def test_refusals_may_be_of_some_paths_alone(world: World) -> None:
    EdgeKnobs(world.state).set({"refusals": [530], "refused_path": "/app"})
    assert asked(world, {"User-Agent": OURS})[0].status_code == 200
    assert [one.status_code for one in asked(world, *[{"User-Agent": OURS}] * 2, path="/app/x")] == [530, 200]


def test_a_refusal_may_be_an_alert_in_the_handshake(world: World) -> None:
    EdgeKnobs(world.state).set({"refusals": ["alert"]})
    with pytest.raises(httpx.ConnectError, match="handshake failure"):
        asked(world, {"User-Agent": OURS})
    assert asked(world, {"User-Agent": OURS})[0].status_code == 200


def test_a_share_is_refused_in_a_records_first_minute_and_the_same_visits_with_each_seed(world: World) -> None:
    knobs = EdgeKnobs(world.state)

    async def visits() -> list[int]:
        seen = []
        async with running(world), world.origin(answering(), world.certificate()):
            for _ in range(60):
                try:
                    seen.append((await world.get(headers={"User-Agent": OURS})).status_code)
                except httpx.ConnectError:
                    seen.append(0)
        return seen

    assert run(visits()) == [200] * 60
    knobs.set({"unsteady_share": 0.5, "unsteady_seed": 3})
    first = run(visits())
    assert 20 <= first.count(200) <= 50
    assert set(first) == {0, 200, 409, 522, 523, 530}
    assert run(visits()) == first
    knobs.set({"unsteady_seed": 4})
    assert run(visits()) != first
    (record,) = world.zone["records"].values()
    record["created_on"] = "2020-01-01T00:00:00.000000Z"
    assert run(visits()) == [200] * 60


class TestControl:
    @pytest.fixture
    def served(self, serve_app: Callable[[ASGIApp], Served]) -> tuple[Served, dict[str, Any]]:
        state: dict[str, Any] = {}
        return serve_app(Starlette(routes=EdgeKnobs(state).routes())), state

    def test_knobs_are_turned_by_their_names_and_put_back(self, served: tuple[Served, dict[str, Any]]) -> None:
        server, state = served
        with httpx.Client(base_url=server.url, trust_env=False) as client:
            assert client.get(PATH).json() == KNOBS
            turned = client.put(PATH, content=json.dumps({"refusals": [530, "alert"]})).json()
            assert turned == {**KNOBS, "refusals": [530, "alert"]}
            assert state == {"edge": {"refusals": [530, "alert"]}}
            assert client.delete(PATH).json() == KNOBS

    @pytest.mark.parametrize(
        "wrong",
        [
            {"no": 1},
            {"refusals": [200]},
            {"refusals": [[]]},
            {"unsteady_share": 2},
            {"unsteady_seed": 1.5},
            {"unsteady_seconds": -1},
            {"blocked_paths": "/"},
            {"refused_path": 1},
            {"http2_to_origin": 1},
        ],
    )
    def test_what_cannot_be_is_refused(self, served: tuple[Served, dict[str, Any]], wrong: dict[str, Any]) -> None:
        server, state = served
        with httpx.Client(base_url=server.url, trust_env=False) as client:
            assert client.put(PATH, content=json.dumps(wrong)).status_code == 422
        assert state == {"edge": {}}
