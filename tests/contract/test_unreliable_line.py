"""The way between a command and the clouds that the random engine disturbs."""

import http.client
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import urlsplit

import pytest

from tests.kill.proxy import KINDS, Accident, Line

LATE = 0.3


class Upstream(ThreadingHTTPServer):
    """Answers everything, and counts it."""

    daemon_threads = True

    def __init__(self) -> None:
        self.seen: list[str] = []
        super().__init__(("127.0.0.1", 0), _Handler)


class _Handler(BaseHTTPRequestHandler):
    server: Upstream
    protocol_version = "HTTP/1.1"

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002  # the library's name
        """Write no log."""

    def do_POST(self) -> None:  # the library's name
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.server.seen.append(f"{self.path} {body.decode()}")
        content = str(len(self.server.seen)).encode()
        self.send_response(201)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)


@pytest.fixture
def upstream() -> Iterator[Upstream]:
    server = Upstream()
    threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
    yield server
    server.shutdown()
    server.server_close()


def asked(line: Line, timeout: float = 10) -> str:
    """Send a request over the line, and return what came of it."""
    connection = http.client.HTTPConnection(urlsplit(line.info["hetzner_url"]).netloc, timeout=timeout)
    try:
        connection.request("POST", "/v1/servers", "body")
        answer = connection.getresponse()
        return f"{answer.status} {answer.read().decode()}"
    except TimeoutError:
        return "silence"
    except (ConnectionError, http.client.HTTPException):
        return "reset"
    finally:
        connection.close()


EXPECTED = {
    "slow_request": ("201 1", 1, 1),
    "slow_answer": ("201 1", 1, 1),
    "reset_request": ("reset", 0, 0),
    "reset_answer": ("reset", 1, 1),
    "late_request": ("reset", 0, 1),
    "drop_request": ("silence", 0, 0),
    "drop_answer": ("silence", 1, 1),
    "twice": ("201 2", 2, 2),
    "once_more": ("201 1", 1, 2),
    "signal_pause": ("reset", 0, 0),
    "signal_before": ("201 1", 1, 1),
    "signal_after": ("201 1", 1, 1),
}
"""What the client gets, and how many requests have been passed on then and in the end."""


@pytest.mark.parametrize("kind", KINDS)
def test_an_accident_happens_once_to_the_request_that_it_is_for(kind: str, upstream: Upstream) -> None:
    url = "http://{}:{}/v1".format(*upstream.server_address[:2])
    signals: list[int] = []
    accident = Accident(kind, "hetzner", "change", 1, LATE if "slow" in kind else LATE * 2, 10)
    line = Line({"hetzner_url": url, "cloudflare_url": url}, [accident], signals.append)
    assert asked(line) == "201 1"
    upstream.seen.clear()
    began = time.monotonic()
    answer, at_once, in_the_end = EXPECTED[kind]
    assert (asked(line, timeout=0.2 if answer == "silence" else 10), len(upstream.seen)) == (answer, at_once)
    assert (time.monotonic() - began >= LATE) == (kind in {"slow_request", "slow_answer", "signal_before"})
    assert line.settled(10)
    assert len(upstream.seen) == in_the_end
    assert set(upstream.seen) <= {"/v1/servers body"}
    assert asked(line) == f"201 {in_the_end + 1}"
    assert signals == ([10] if kind.startswith("signal") else [])
    line.close()
