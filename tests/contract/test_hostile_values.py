"""Each value of an API's answers, replaced by what no API should say: adapters give sound values, or an error.

A real answer of an emulator is recorded for each call, and played back with one leaf of it changed. What comes out is
either as the model promises, down to ranges and zones, or an error that is not a bug of ours.
"""

import copy
import http.client
import json
import math
import pathlib
import random
import threading
import time
import types
import typing
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import fields, is_dataclass
from datetime import datetime
from decimal import Decimal
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import urlsplit

import pytest
from starlette.types import ASGIApp

from clawdet_cli.adapters.cloudflare import Cloudflare
from clawdet_cli.adapters.hetzner import Hetzner
from clawdet_cli.errors import ClawdetError, CloudError
from clawdet_cli.model import Deadline, FirewallRule
from clawdet_cli.secret import Secret
from tests.contract import hetzner_emulator
from tests.contract.served import Served
from tests.contract.test_adapter_cloudflare import TOKEN, ZONE, Account, a_csr
from tests.contract.test_adapter_hetzner import LABELS, an_order

SECONDS = 1.0
"""Of a call: what is waited for ends then."""
SEED, MOST = 20261201, 60
"""How many changes are tried of each call: all of them together are too many for each run of the suite."""
KEPT = ["cpx22", "nbg1", "ubuntu-24.04", "ipv4"]
"""Of long lists that are read for one of them."""

THREE, SEVEN = "\u0663", "\u0667"
"""Digits of another script, which Python's int() and float() take."""
NUMBERS: list[Any] = [2**63, 2**53 + 1, -1, 0, True, 1.5, math.nan, math.inf, "7", SEVEN, "9" * 5000, None, [], {}]
TEXTS: list[Any] = [
    *(None, 5, True, 1.5, [], {}, ["x"], "", "x" * 100_000, "\x1b]0;owned\x07\r\n\u202e", "../../../etc/passwd"),
    *("NaN", "-5", "0", "1e20", "Infinity", f"{THREE}.{SEVEN}", "9" * 400, "\ud800"),
    *("9999-12-31T23:59:59-14:00", "0001-01-01T00:00:00+14:00", "2026-01-01T00:00:00", "2026-13-01T00:00:00Z"),
]
OTHERS: list[Any] = [None, 7, "x", [], {}, [None], ["x"], [[]], {"x": None}]

Call = Callable[[Any], Any]
Path = tuple[str | int, ...]


class Mirror:
    """An API that answers as another one did, but for one leaf."""

    def __init__(self) -> None:
        self.upstream: str | None = None
        self.answers: dict[tuple[str, str], tuple[int, Any]] = {}
        self.changed: tuple[tuple[str, str], bytes] | None = None

    def answer(self, method: str, target: str, headers: Mapping[str, str], body: bytes) -> tuple[int, bytes]:
        key = (method, target.partition("?")[0])
        if self.upstream is not None:
            connection = http.client.HTTPConnection(self.upstream, timeout=10)
            connection.request(method, target, body, {k: v for k, v in headers.items() if k != "Accept-Encoding"})
            answer = connection.getresponse()
            content = answer.read()
            connection.close()
            value = pruned(json.loads(content)) if content else None
            # The page behind the last one says nothing of the things in the list.
            if key not in self.answers or not (isinstance(value, dict) and value.get("result") == []):
                self.answers[key] = answer.status, value
        status, value = self.answers.get(key, (404, {"error": {"code": "not_found", "message": "not found"}}))
        if self.changed is not None and self.changed[0] == key:
            return status, self.changed[1]
        return status, b"" if value is None else json.dumps(value).encode()


def pruned(value: Any) -> Any:
    """Shorten lists to what is looked for in them, or to their first entry."""
    if isinstance(value, dict):
        return {name: pruned(inner) for name, inner in value.items()}
    if not isinstance(value, list):
        return value
    wanted = [
        one
        for one in value
        if isinstance(one, dict) and any(one.get(name) in KEPT for name in ("name", "location", "type"))
    ]
    return [pruned(one) for one in (wanted or value)[:1]]


@pytest.fixture
def mirror() -> Iterator[tuple[Mirror, str]]:
    made = Mirror()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        disable_nagle_algorithm = True

        def do_GET(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            status, content = made.answer(self.command, self.path, dict(self.headers), body)
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        do_POST = do_PUT = do_PATCH = do_DELETE = do_GET  # noqa: N815 - as the base class looks for them

        def log_message(self, *_: Any) -> None: ...

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield made, f"127.0.0.1:{server.server_address[1]}"
    server.shutdown()
    thread.join()
    server.server_close()


def leaves(value: Any, path: Path = ()) -> Iterator[tuple[Path, Any]]:
    """Return every value in an answer that has no others in it, and the containers too."""
    yield path, value
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, one in inner:
        yield from leaves(one, (*path, key))


def replaced(value: Any, path: Path, new: Any) -> Any:
    if not path:
        return new
    made = copy.copy(value)
    made[path[0]] = replaced(value[path[0]], path[1:], new)
    return made


def sound(value: Any, hint: Any = Any) -> bool:  # noqa: PLR0911 - one for each kind of value
    """Return whether a value is what the model says, and no number or time is one that nothing can be done with."""
    if is_dataclass(value) and not isinstance(value, type):
        hints = typing.get_type_hints(type(value))
        return all(sound(getattr(value, one.name), hints[one.name]) for one in fields(value))
    origin = typing.get_origin(hint)
    if origin in {types.UnionType, typing.Union}:
        return any(sound(value, one) for one in typing.get_args(hint))
    if isinstance(hint, type) and hint not in {float, Any} and not isinstance(value, hint):
        return False
    match value:
        case bool():
            return hint in {bool, Any}
        case int():
            return hint in {int, float, Any} and abs(value) <= 2**53
        case float():
            return hint in {float, Any} and math.isfinite(value)
        case Decimal():
            return value.is_finite() and 0 < value < 1_000_000
        case datetime():
            return value.tzinfo is not None and 2000 <= value.year <= 2200
        case Mapping():
            return all(sound(name, str) and sound(one, str) for name, one in value.items()) or hint is Any
        case list() | tuple() | set() | frozenset():
            inner = [one for one in typing.get_args(hint) if one is not ...]
            return all(sound(one, inner[0] if len(inner) == 1 else Any) for one in value)
    return True


@contextmanager
def client(kind: type[Any], url: str) -> Iterator[Any]:
    made = kind(url, Secret("x" * 40), Deadline.after(SECONDS))
    yield made
    made.close()


def outcome(cloud: Any, call: Call) -> Any:
    """Call, and give what came out; anything that would be a bug of ours fails the test."""
    began = time.monotonic()
    error: ClawdetError | None = None
    try:
        result = call(cloud.within(Deadline.after(SECONDS), lambda _: None, lambda: None))
    except ClawdetError as said:
        error = said
    if error is not None:
        assert type(error) is not ClawdetError, error
        assert all(len(line) <= ClawdetError.longest + 10 for line in (error.what, *error.details))
        return type(error)
    assert time.monotonic() - began < SECONDS + 5
    assert sound(result), result
    return result


def strange(value: Any) -> list[Any]:
    if isinstance(value, bool) or value is None or isinstance(value, dict | list):
        return OTHERS
    return NUMBERS if isinstance(value, int | float) else TEXTS


def fuzz(mirror: Mirror, cloud: Any, call: Call) -> int:
    """Change what is read of each recorded answer, and return how often that was done."""
    mirror.upstream = None
    normal = outcome(cloud, call)
    assert not isinstance(normal, type), normal

    def changed(key: tuple[str, str], body: Any, path: Path, new: Any) -> Any:
        mirror.changed = key, json.dumps(replaced(body, path, new)).encode()
        return outcome(cloud, call)

    tried: list[tuple[tuple[str, str], Any, Path, Any]] = []
    for key, (_, body) in list(mirror.answers.items()):
        unread: list[Path] = []
        for path, value in leaves(body):
            if any(path[: len(one)] == one for one in unread):
                continue
            if changed(key, body, path, {"x": None}) == normal:
                unread.append(path)
            else:
                tried += [(key, body, path, new) for new in strange(value)]
    chosen = random.Random(SEED).sample(tried, min(MOST, len(tried)))  # noqa: S311 - the same ones each time
    for one in chosen:
        changed(*one)
    mirror.changed = None
    return len(chosen)


RULES = (FirewallRule("443", frozenset({"192.0.2.0/24"})),)
HETZNER: dict[str, Callable[[Any, Any], Call]] = {
    "offers": lambda *_: lambda cloud: cloud.offers(["cpx22"], ["nbg1"]),
    "prices": lambda *_: lambda cloud: cloud.prices(),
    "image_for": lambda *_: lambda cloud: cloud.image_for("ubuntu-24.04", "x86"),
    "server": lambda server, _: lambda cloud: cloud.server(server.id),
    "find_server": lambda server, _: lambda cloud: cloud.find_server(server.name),
    "servers": lambda *_: lambda cloud: cloud.servers("managed-by=clawdet"),
    "servers_page": lambda *_: lambda cloud: cloud.servers_page(1),
    "await_running": lambda server, _: lambda cloud: cloud.await_running(server),
    "actions_of": lambda server, _: lambda cloud: cloud.actions_of(server.id),
    "failed_actions": lambda *_: lambda cloud: cloud.failed_actions(),
    "all_ssh_keys": lambda *_: lambda cloud: cloud.all_ssh_keys(),
    "firewall": lambda _, wall: lambda cloud: cloud.firewall(wall.name),
    "all_firewalls": lambda *_: lambda cloud: cloud.all_firewalls(),
    "set_firewall_rules": lambda _, wall: lambda cloud: cloud.set_firewall_rules(wall, RULES),
    "label_server": lambda server, _: lambda cloud: cloud.label_server(server.id, LABELS),
}


@pytest.mark.parametrize("name", HETZNER)
def test_nothing_that_hetzner_says_is_a_bug_of_ours(
    name: str, hetzner: hetzner_emulator.Emulator, mirror: tuple[Mirror, str]
) -> None:
    real = Hetzner(f"{hetzner.url}/v1", Secret(hetzner_emulator.TOKEN), Deadline.after(60))
    wall = real.create_firewall("clawdet", RULES, LABELS)
    order = an_order(real, firewall_ids=(wall.id,))
    server = real.await_running(real.create_server(order))
    hetzner.knobs(action_error={"reboot_server": "server_error"})
    hetzner.http("POST", f"/v1/servers/{server.id}/actions/reboot")
    hetzner_emulator.eventually(real.failed_actions)
    call = HETZNER[name](server, wall)
    recorded, address = mirror
    recorded.upstream = urlsplit(hetzner.url).netloc
    cloud = Hetzner(f"http://{address}/v1", Secret(hetzner_emulator.TOKEN), Deadline.after(60))
    call(cloud)
    assert fuzz(recorded, cloud, call) > 5
    cloud.close()
    real.close()


PRICES: list[Any] = [
    "NaN",
    "sNaN",
    "-5",
    "0",
    "0.000",
    "1e20",
    "100000000",
    "Infinity",
    THREE,
    "",
    None,
    5,
    True,
    [],
    {},
]
IDS: list[Any] = [2**63, 2**53 + 1, 0, -1, True, 1.5, math.nan, "7", SEVEN, None, [], {}]


@pytest.mark.parametrize(
    ("call", "leaf", "hostile"),
    [
        (lambda cloud: cloud.offers(["cpx22"], ["nbg1"]), ("prices", 0, "price_monthly", "net"), PRICES),
        (lambda cloud: cloud.prices(), ("prices", 0, "price_monthly", "net"), PRICES),
        (lambda cloud: cloud.find_server("clawdet-alice"), ("servers", 0, "id"), IDS),
        (lambda cloud: cloud.servers("managed-by=clawdet"), ("servers", 0, "id"), IDS),
        (lambda cloud: cloud.all_ssh_keys(), ("ssh_keys", 0, "id"), IDS),
        (lambda cloud: cloud.all_firewalls(), ("firewalls", 0, "id"), IDS),
    ],
)
def test_no_price_and_no_id_is_taken_that_cannot_be_one(
    call: Call, leaf: Path, hostile: list[Any], hetzner: hetzner_emulator.Emulator, mirror: tuple[Mirror, str]
) -> None:
    real = Hetzner(f"{hetzner.url}/v1", Secret(hetzner_emulator.TOKEN), Deadline.after(60))
    real.await_running(real.create_server(an_order(real)))
    real.create_firewall("clawdet", RULES, LABELS)
    recorded, address = mirror
    recorded.upstream = urlsplit(hetzner.url).netloc
    cloud = Hetzner(f"http://{address}/v1", Secret(hetzner_emulator.TOKEN), Deadline.after(60))
    call(cloud)
    recorded.upstream = None
    where = [
        (key, path)
        for key, (_, body) in recorded.answers.items()
        for path, _ in leaves(body)
        if path[-len(leaf) :] == leaf and path[:1] != ("pricing",)
    ]
    assert where
    for key, path in where:
        for new in hostile:
            recorded.changed = key, json.dumps(replaced(recorded.answers[key][1], path, new)).encode()
            assert outcome(cloud, call) is CloudError, new
    cloud.close()
    real.close()


CLOUDFLARE: dict[str, Callable[[Any, Any], Call]] = {
    "check": lambda *_: lambda cloud: cloud.check(),
    "zone": lambda *_: lambda cloud: cloud.zone(ZONE),
    "zone_names": lambda *_: lambda cloud: cloud.zone_names(),
    "edge_ranges": lambda *_: lambda cloud: cloud.edge_ranges(),
    "setting": lambda record, _: lambda cloud: cloud.setting(record[0], "ssl"),
    "certificate_packs": lambda record, _: lambda cloud: cloud.certificate_packs(record[0]),
    "universal_ssl": lambda record, _: lambda cloud: cloud.universal_ssl(record[0]),
    "record_usage": lambda record, _: lambda cloud: cloud.record_usage(record[0]),
    "records": lambda record, _: lambda cloud: cloud.records(record[0], record[1].name),
    "all_records": lambda record, _: lambda cloud: cloud.all_records(record[0]),
    "first_records": lambda record, _: lambda cloud: cloud.first_records(record[0]),
    "record": lambda record, _: lambda cloud: cloud.record(record[0], record[1].id),
    "certificates": lambda record, _: lambda cloud: cloud.certificates(record[0]),
    "certificate": lambda _, signed: lambda cloud: cloud.certificate(signed.id),
    "certificates_for": lambda record, signed: lambda cloud: cloud.certificates_for(record[0], signed.hostnames[0]),
}


@pytest.mark.parametrize("name", CLOUDFLARE)
def test_nothing_that_cloudflare_says_is_a_bug_of_ours(
    name: str, serve_app: Callable[[ASGIApp], Served], tmp_path: pathlib.Path, mirror: tuple[Mirror, str]
) -> None:
    cloudflare = Account(serve_app, tmp_path / "ca")
    real = Cloudflare(cloudflare.url, Secret(TOKEN), Deadline.after(60))
    zone = real.zone(ZONE)
    assert zone is not None
    host = f"alice.{zone.name}"
    record = real.create_a_record(zone.id, host, "192.0.2.1", "clawdet:alice:abcdefghijkl")
    signed = real.sign(zone.id, host, a_csr(host))
    call = CLOUDFLARE[name]((zone.id, record), signed)
    recorded, address = mirror
    recorded.upstream = urlsplit(cloudflare.url).netloc
    cloud = Cloudflare(f"http://{address}/client/v4", Secret(TOKEN), Deadline.after(60))
    call(cloud)
    assert fuzz(recorded, cloud, call) > 5
    cloud.close()
    real.close()
