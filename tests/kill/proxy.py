"""A way between one command and both emulated clouds on which requests and answers are late, doubled or lost."""

import http.client
import select
import socket
import struct
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import urlsplit

KINDS = {
    "slow_request": "it is held for a while, then passed on",
    "slow_answer": "it is passed on, and the answer is held for a while",
    "reset_request": "the connection is reset, and nothing is passed on",
    "reset_answer": "it is passed on, and the connection is reset",
    "late_request": "the connection is reset, and the request is passed on a while later",
    "drop_request": "nothing is passed on, and nothing is answered",
    "drop_answer": "it is passed on, and nothing is answered",
    "twice": "it is passed on twice, and the second answer is given",
    "once_more": "it is passed on and answered, and passed on once more a while later",
    "signal_pause": "the connection is reset, and the process gets a signal in the pause that follows",
    "signal_before": "the process gets a signal, and it is passed on a while later",
    "signal_after": "the process gets a signal after it is passed on, before the answer",
}
PAUSE_SECONDS = 0.1
"""How soon after a reset a client is in its pause."""
UPSTREAM_SECONDS = 60
HOPS = {"connection", "content-length", "host", "keep-alive", "transfer-encoding"}
"""Headers of one connection, made anew for the other one."""


@dataclass(frozen=True)
class Accident:
    """What happens to one request of a command."""

    kind: str
    cloud: str
    method: str
    """`GET`, `*`, or `change`: any but GET."""
    after: int
    """So many requests that fit pass unharmed first."""
    seconds: float = 0.0
    signal: int = 0

    def fits(self, cloud: str, method: str) -> bool:
        """Return whether it may happen to such a request."""
        return self.cloud == cloud and (self.method in {"*", method} or (self.method == "change" and method != "GET"))

    def __str__(self) -> str:
        more = f" {self.seconds:g} s" if self.seconds else ""
        more += f" signal {self.signal}" if self.signal else ""
        return f"{self.kind}{more} at {self.cloud} {self.method} {self.after + 1}"


@dataclass(frozen=True)
class _Answer:
    status: int
    reason: str
    headers: Sequence[tuple[str, str]]
    body: bytes


class Line:
    """The way of one command, with what happens on it."""

    def __init__(
        self, info: Mapping[str, Any], accidents: Sequence[Accident], signalled: Callable[[int], None]
    ) -> None:
        self._left = {accident: accident.after for accident in accidents}
        self._signalled = signalled
        self._lock = threading.Lock()
        self._under_way = 0
        self.happened: list[str] = []
        self.closed = threading.Event()
        self._servers = []
        self.info = dict(info)
        """What the command is told of the sandbox."""
        for cloud in ("hetzner", "cloudflare"):
            parts = urlsplit(info[f"{cloud}_url"])
            server = _Server(self, cloud, (parts.hostname or "", parts.port or 0))
            self.info[f"{cloud}_url"] = f"http://127.0.0.1:{server.server_address[1]}{parts.path}"
            self._servers.append(server)
            threading.Thread(target=server.serve_forever, args=(0.2,), daemon=True).start()

    def close(self) -> None:
        """Close the way: nobody is on it any more."""
        self.closed.set()
        for server in self._servers:
            server.shutdown()
            server.server_close()

    def settled(self, timeout: float) -> bool:
        """Wait until nothing is under way any more that the clouds will still get."""
        until = time.monotonic() + timeout
        while self._under_way and time.monotonic() < until:
            time.sleep(0.02)
        return not self._under_way

    def take(self, cloud: str, method: str) -> Accident | None:
        """Return what happens to this request, and count it."""
        with self._lock:
            for accident, left in list(self._left.items()):
                if not accident.fits(cloud, method):
                    continue
                if left > 0:
                    self._left[accident] = left - 1
                    continue
                del self._left[accident]
                self.happened.append(str(accident))
                return accident
        return None

    def hit(self, accident: Accident) -> None:
        """Send the process its signal."""
        self._signalled(accident.signal)

    def later(self, seconds: float, send: Callable[[], object]) -> None:
        """Pass something on after a while, whatever becomes of the command."""

        def pass_on() -> None:
            time.sleep(seconds)
            try:
                send()
            finally:
                self.under_way(-1)

        self.under_way(1)
        threading.Thread(target=pass_on, daemon=True).start()

    def under_way(self, change: int) -> None:
        """Count what the clouds will still get."""
        with self._lock:
            self._under_way += change


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False

    def __init__(self, line: Line, cloud: str, upstream: tuple[str, int]) -> None:
        self.line, self.cloud, self.upstream = line, cloud, upstream
        super().__init__(("127.0.0.1", 0), _Handler)

    def shutdown_request(self, request: Any) -> None:
        """Close without the farewell that would come before a reset."""
        self.close_request(request)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Report nothing of clients that are gone: they are killed here."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: _Server
    disable_nagle_algorithm = True

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002  # the library's name
        """Write no log."""

    def _handle(self) -> None:
        line = self.server.line
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        line.under_way(1)
        try:
            accident = line.take(self.server.cloud, self.command)
            answer = self._carried(accident, body) if accident else self._pass_on(body)
        finally:
            line.under_way(-1)
        if answer is not None:
            self._give(answer)

    do_GET = do_POST = do_PUT = do_PATCH = do_DELETE = _handle  # noqa: N815  # the library's names

    def _carried(self, accident: Accident, body: bytes) -> _Answer | None:
        """Have an accident happen, and return what is to be answered; None when the connection is over."""
        line, answer = self.server.line, None
        match accident.kind:
            case "slow_request":
                time.sleep(accident.seconds)
                answer = self._pass_on(body)
            case "slow_answer":
                answer = self._pass_on(body)
                time.sleep(accident.seconds)
            case "reset_request":
                self._reset()
            case "reset_answer":
                self._pass_on(body)
                self._reset()
            case "late_request":
                line.later(accident.seconds, lambda: self._pass_on(body))
                self._reset()
            case "drop_request":
                self._silence()
            case "drop_answer":
                self._pass_on(body)
                self._silence()
            case "twice":
                self._pass_on(body)
                answer = self._pass_on(body)
            case "once_more":
                answer = self._pass_on(body)
                line.later(accident.seconds, lambda: self._pass_on(body))
            case "signal_pause":
                line.later(PAUSE_SECONDS, lambda: line.hit(accident))
                self._reset()
            case "signal_before":
                line.hit(accident)
                time.sleep(accident.seconds)
                answer = self._pass_on(body)
            case "signal_after":
                answer = self._pass_on(body)
                line.hit(accident)
        return answer

    def _pass_on(self, body: bytes) -> _Answer:
        upstream = http.client.HTTPConnection(*self.server.upstream, timeout=UPSTREAM_SECONDS)
        try:
            headers = {name: value for name, value in self.headers.items() if name.lower() not in HOPS}
            upstream.request(self.command, self.path, body or None, headers)
            answer = upstream.getresponse()
            kept = [(name, value) for name, value in answer.getheaders() if name.lower() not in HOPS]
            return _Answer(answer.status, answer.reason, kept, answer.read())
        finally:
            upstream.close()

    def _give(self, answer: _Answer) -> None:
        self.send_response_only(answer.status, answer.reason)
        for name, value in answer.headers:
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(answer.body)))
        self.end_headers()
        self.wfile.write(answer.body)

    def _reset(self) -> None:
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.close_connection = True

    def _silence(self) -> None:
        """Wait until the client gives up."""
        self.close_connection = True
        while not self.server.line.closed.is_set():
            if select.select([self.connection], [], [], 0.1)[0] and not self.connection.recv(1, socket.MSG_PEEK):
                return
