"""Both clouds' adapters against an API whose answers do not end: each call does, and takes no more than it may."""

import functools
import gzip
import json
import random
import threading
import time
import tracemalloc
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlparse

import pytest

from clawdet_cli.adapters import answers
from clawdet_cli.adapters.cloudflare import Cloudflare
from clawdet_cli.adapters.hetzner import Hetzner
from clawdet_cli.errors import CloudError, WaitError
from clawdet_cli.model import Deadline
from clawdet_cli.secret import Secret

SECONDS = 1.0
MADE = "2026-01-01T00:00:00+00:00"
CALLS: dict[str, Callable[[str], Any]] = {
    "hetzner": lambda url: Hetzner(url, Secret("x" * 64), Deadline.after(SECONDS)).all_ssh_keys(),
    "cloudflare": lambda url: Cloudflare(url, Secret("x" * 40), Deadline.after(SECONDS)).all_records("0" * 32),
}


def ssh_keys(page: int) -> dict[str, Any]:
    """Give a page of Hetzner's that names a next one."""
    key = {"id": page, "name": "k", "fingerprint": "f", "public_key": "p", "labels": {}, "created": MADE}
    turn = {"page": page, "per_page": 50, "previous_page": None, "next_page": page + 1, "last_page": None}
    return {"ssh_keys": [key], "meta": {"pagination": {**turn, "total_entries": None}}}


def records(page: int) -> dict[str, Any]:
    """Give a page of Cloudflare's with a record that no other has."""
    times = {"created_on": MADE, "modified_on": MADE}
    record = {"id": f"{page:032d}", "name": "a", "type": "A", "content": "192.0.2.1", "proxied": True, "ttl": 1}
    whole = {**record, **times, "proxiable": True, "settings": {}, "meta": {}, "tags": []}
    return {"success": True, "errors": [], "messages": [], "result": [whole]}


@contextmanager
def api(answer: Callable[[BaseHTTPRequestHandler], None]) -> Iterator[str]:
    """Serve an API, and give its address."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            with suppress(OSError):
                answer(self)

        def log_message(self, *_: Any) -> None: ...

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_address[1]}"
    server.shutdown()
    thread.join()
    server.server_close()


def next_page(request: BaseHTTPRequestHandler) -> None:
    page = int(parse_qs(urlparse(request.path).query).get("page", ["1"])[0])
    body = json.dumps(ssh_keys(page) if "ssh_keys" in request.path else records(page)).encode()
    request.send_response(200)
    request.send_header("Content-Type", "application/json")
    request.send_header("Content-Length", str(len(body)))
    request.end_headers()
    request.wfile.write(body)


@pytest.mark.parametrize("cloud", CALLS)
def test_a_list_without_a_last_page_ends_with_the_command(cloud: str) -> None:
    began = time.monotonic()
    with api(next_page) as url, pytest.raises(WaitError):
        CALLS[cloud](url)
    assert time.monotonic() - began < 6 * SECONDS


@pytest.mark.parametrize("cloud", CALLS)
def test_its_pages_together_are_no_more_than_an_answer_may_have(cloud: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(answers, "MOST_ANSWER", 2_000)
    with api(next_page) as url, pytest.raises(CloudError, match="a shape that this version") as caught:
        CALLS[cloud](url)
    assert "TooMuchError" in caught.value.details[0]


@pytest.mark.parametrize("cloud", CALLS)
def test_a_head_that_drips_ends_with_the_command(cloud: str) -> None:
    over = threading.Event()

    def drip(request: BaseHTTPRequestHandler) -> None:
        until = Deadline.after(20 * SECONDS)
        request.wfile.write(b"HTTP/1.1 200 OK\r\nX: ")
        while until.left() and not over.wait(0.1):
            request.wfile.write(b"y")

    began = time.monotonic()
    with api(drip) as url, pytest.raises(WaitError):
        CALLS[cloud](url)
    over.set()
    assert time.monotonic() - began < 6 * SECONDS


@functools.cache
def bomb(layers: int) -> bytes:
    """Make an answer of a hundred kilobytes, or less, that unfolds to a hundred megabytes of JSON."""
    if layers > 1:
        return gzip.compress(bomb(layers - 1))
    packer = zlib.compressobj(1, wbits=31)
    return b"".join([*(packer.compress(b" " * (1 << 20)) for _ in range(96)), packer.flush()])


@pytest.mark.parametrize("encoding", ["gzip", "deflate", "gzip, gzip", "gzip, gzip, gzip", "zstd"])
@pytest.mark.parametrize("cloud", CALLS)
def test_a_small_answer_that_unfolds_to_a_large_one_is_not_unfolded(cloud: str, encoding: str) -> None:
    body = bomb(encoding.count("gzip") or 1)

    def send(request: BaseHTTPRequestHandler) -> None:
        request.send_response(200)
        request.send_header("Content-Type", "application/json")
        request.send_header("Content-Encoding", encoding)
        request.send_header("Content-Length", str(len(body)))
        request.end_headers()
        request.wfile.write(body)

    tracemalloc.start()
    try:
        with api(send) as url, pytest.raises((CloudError, WaitError)) as caught:
            CALLS[cloud](url)
        most = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert most < 3 * answers.MOST_ANSWER
    if encoding == "gzip":
        assert isinstance(caught.value, CloudError)
        assert "TooMuchError" in caught.value.details[0]


@pytest.mark.parametrize(
    ("packed", "said"),
    [
        (gzip.compress(b"{}") + b"more", "goes on behind its end"),
        (gzip.compress(b"{}") * 2, "goes on behind its end"),
        (gzip.compress(b"{}")[:-9], "cut short"),
        (b"{}", "no gzip"),
    ],
    ids=["more", "twice", "cut", "plain"],
)
def test_what_is_packed_wrongly_is_no_answer(packed: bytes, said: str) -> None:
    for chunks in ([packed], [packed[i : i + 1] for i in range(len(packed))]):
        with pytest.raises(ValueError, match=said):
            list(answers.unpacked(chunks, "gzip"))


@pytest.mark.parametrize("size", [0, 1, answers.PIECE, 3 * answers.PIECE + 1])
def test_what_is_packed_well_comes_whole_and_in_pieces(size: int) -> None:
    text = random.Random(1).randbytes(size // 2) + b"x" * (size - size // 2)  # noqa: S311 - nothing secret
    for step in (7, 1 << 20):
        packed = gzip.compress(text)
        pieces = list(answers.unpacked([packed[i : i + step] for i in range(0, len(packed), step)], "gzip"))
        assert (b"".join(pieces), max(map(len, pieces), default=0) <= answers.PIECE) == (text, True)
