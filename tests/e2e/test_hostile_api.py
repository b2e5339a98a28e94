"""What an API says is data: it paints nothing, names no file, and neither fills the memory nor holds a command."""

import re
import sqlite3
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from clawdet_cli.adapters import answers as adapter_answers
from tests.e2e.operator import Operator, Said

EVIL = "\x1b]0;owned\x07\x1b[2J\x1b[31m\r\n\u202e../../../../etc/passwd\x9b0m"
PROVISION = ("provision", "alice", "--sandbox", "--yes")
SHAPE = "its answer has a shape that this version of clawdet does not know"


@pytest.fixture
def victim(operator: Operator) -> Iterator[Operator]:
    """Somebody with one complete instance, who reads every word on the screen."""
    made = operator.clawdet(*PROVISION)
    assert made.code == 0, made.err
    yield operator
    operator.reset()
    operator.clawdet("destroy", "alice", "--sandbox", "--yes")


def answers(operator: Operator, cloud: str, method: str, path: str, body: Any, **more: Any) -> None:
    """Have the next requests answered as a hostile API would."""
    fault = {"kind": "answer", "status": 200, "times": None, "method": method, "path": path, "body": body, **more}
    operator.control(cloud, "POST", "faults", fault)


def is_harmless(said: Said) -> bool:
    """Say whether nothing on the screen would do anything to a terminal."""
    return all(character.isprintable() or character == "\n" for character in said.out + said.err)


def made(operator: Operator) -> tuple[int, int, int]:
    """Count what there is, once the API is itself again."""
    operator.reset()
    return operator.holdings()


def files(operator: Operator) -> set[str]:
    return {str(path) for path in operator.state.rglob("*") if "/cloud/" not in str(path) and "/logs/" not in str(path)}


@pytest.mark.parametrize("flags", [(), ("--events",), ("--json",)])
def test_the_words_of_a_refusal_do_nothing_and_hold_no_token(operator: Operator, flags: tuple[str, ...]) -> None:
    token = operator.info()["hetzner_token"]
    message = f"{EVIL} the header was: Bearer {token}"
    error = {"error": {"code": "resource_limit_exceeded", "message": message, "details": {"fields": [{"name": EVIL}]}}}
    answers(operator, "hetzner", "POST", "/v1/servers", error, status=403, times=1)
    said = operator.clawdet(*PROVISION, *flags)
    assert (said.code, is_harmless(said)) == (5, True)
    assert token not in said.out + said.err
    assert "Bearer ***" in said.out + said.err
    with closing(sqlite3.connect(operator.info()["state_file"])) as database:
        assert token not in "\n".join(database.iterdump())
    logs = [path.read_text() for path in (operator.state / "sandbox" / "logs").iterdir()]
    assert [log for log in logs if token in log] == []


def test_the_names_and_comments_of_foreign_things_do_nothing(victim: Operator) -> None:
    zone = victim.info()["zone"]
    record = {"type": "A", "name": f"bob.{zone}", "content": "192.0.2.9", "comment": f"clawdet:bob:{EVIL}"}
    listed = victim.cloud("cloudflare", f"/zones/{victim.zone_id()}/dns_records")
    listed["result"].append({**listed["result"][0], **record, "id": "f" * 32})
    answers(victim, "cloudflare", "GET", f"/client/v4/zones/{victim.zone_id()}/dns_records", listed)
    server = victim.servers()[0]
    foreign = {**server, "id": 99, "name": EVIL, "labels": {"managed-by": "clawdet", "user": EVIL, "run": EVIL}}
    page = {"pagination": {"page": 1, "per_page": 50, "previous_page": None, "next_page": None, "last_page": 1}}
    answers(victim, "hetzner", "GET", "/v1/servers", {"servers": [server, foreign], "meta": page})
    before = files(victim)
    for command in (("reconcile",), ("reconcile", "--fix"), ("state", "rebuild"), ("status", "--live")):
        said = victim.clawdet(*command, "--sandbox")
        assert is_harmless(said), command
        assert "Traceback" not in said.err
    assert files(victim) == before


@pytest.mark.parametrize("address", ["../../../tmp/x", "-oProxyCommand=id", "evil.example.com", EVIL, "", 7])
def test_an_address_that_is_none_goes_nowhere(victim: Operator, address: Any) -> None:
    server = victim.servers()[0]
    server["public_net"]["ipv4"]["ip"] = address
    answers(victim, "hetzner", "GET", f"/v1/servers/{server['id']}", {"server": server})
    said = victim.clawdet("verify", "alice", "--sandbox")
    assert (said.code, is_harmless(said)) == (6, True)
    assert SHAPE in said.out


@pytest.mark.parametrize("number", ["../../../etc/passwd", EVIL, None, [1], 1.5])
def test_an_id_that_is_none_is_not_used(operator: Operator, number: Any) -> None:
    listed = operator.cloud("cloudflare", f"/zones?name={operator.info()['zone']}")
    listed["result"][0]["id"] = number
    answers(operator, "cloudflare", "GET", "/client/v4/zones", listed)
    said = operator.clawdet(*PROVISION)
    assert (said.code, SHAPE in said.err, is_harmless(said)) == (5, True, True)
    assert made(operator) == (0, 0, 0)


@pytest.mark.parametrize("number", ["../../../etc/passwd", None, [1]])
def test_a_server_without_a_number_is_not_used(operator: Operator, number: Any) -> None:
    page = {"pagination": {"page": 1, "per_page": 50, "previous_page": None, "next_page": None, "last_page": 1}}
    body = {"servers": [{"id": number, "name": "clawdet-alice", "status": "running"}], "meta": page}
    answers(operator, "hetzner", "GET", "/v1/servers", body)
    said = operator.clawdet(*PROVISION)
    assert (said.code, is_harmless(said)) == (5, True)
    assert SHAPE in said.err


@pytest.mark.parametrize(("cloud", "path"), [("hetzner", "/v1/.*"), ("cloudflare", "/client/v4/.*")])
@pytest.mark.parametrize(
    "body",
    ["", "{", "[]", "null", '"text"', '{"servers": 7, "result": 7, "success": true}', "[" * 5000, "\ufeff{}", "{}"],
)
def test_what_is_no_answer_ends_with_a_sentence(operator: Operator, cloud: str, path: str, body: str) -> None:
    answers(operator, cloud, "GET", path, body, content_type="application/json")
    said = operator.clawdet(*PROVISION, "--timeout", "3")
    assert said.code in {5, 7}, said.err
    assert re.search(r"Failed.*: \S", said.err)
    assert "Traceback" not in said.err
    assert made(operator) == (0, 0, 0)


@pytest.mark.parametrize(("cloud", "path"), [("hetzner", "/v1/locations"), ("cloudflare", "/client/v4/zones")])
def test_an_answer_without_end_is_not_read_to_it(
    operator: Operator, cloud: str, path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(adapter_answers, "MOST_ANSWER", 64 * 1024)
    answers(operator, cloud, "GET", path, "x" * 65 * 1024, content_type="application/json")
    said = operator.clawdet(*PROVISION)
    assert (said.code, "TooMuchError" in said.err) == (5, True)
    assert made(operator) == (0, 0, 0)


@pytest.mark.parametrize(("cloud", "path"), [("hetzner", "/v1/locations"), ("cloudflare", "/client/v4/zones")])
def test_nobody_is_followed_elsewhere(operator: Operator, cloud: str, path: str) -> None:
    other = "hetzner" if cloud == "cloudflare" else "cloudflare"
    operator.control(other, "DELETE", "requests")
    elsewhere = operator.info()[f"{other}_url"] + "/stolen"
    answers(operator, cloud, "GET", path, "", status=302, headers={"Location": elsewhere})
    said = operator.clawdet(*PROVISION, "--timeout", "5")
    assert said.code == 5, said.err
    asked = [request["path"] for request in operator.control(other, "GET", "requests")["requests"]]
    assert [one for one in asked if "stolen" in one] == []


@pytest.mark.parametrize("cloud", ["hetzner", "cloudflare"])
def test_a_hanging_api_holds_nobody_past_the_timeout(operator: Operator, cloud: str) -> None:
    operator.control(cloud, "POST", "faults", {"kind": "hang_before", "times": None})
    began = time.monotonic()
    said = operator.clawdet(*PROVISION, "--timeout", "2")
    assert said.code == 7, said.err
    assert time.monotonic() - began < 10
    assert Path(operator.info()["state_file"]).exists()
