"""Reads the public name as a visitor does: authoritative DNS, TLS by name, HTTP, WebSocket."""

import contextlib
import functools
import hashlib
import http.client
import io
import json
import random
import socket
import ssl
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import dns.exception
import dns.flags
import dns.message
import dns.query
import dns.rcode
import dns.rdatatype
from websockets.exceptions import InvalidHandshake, InvalidStatus

from clawdet_cli import USER_AGENT
from clawdet_cli.adapters.edge_refusals import kept_out
from clawdet_cli.adapters.retry import Watch
from clawdet_cli.adapters.websocket import WebSocket
from clawdet_cli.errors import GuestError
from clawdet_cli.model import Deadline
from clawdet_cli.secret import Secret

MIN_SECONDS = 0.5
"""What a part of a visit has that begins just before the deadline: what is sent should also be heard."""
MOST_BODY = 1024 * 1024
"""Bytes of an answer that are read."""

CONNECT_REQUEST: Mapping[str, Any] = {
    "type": "req",
    "id": "1",
    "method": "connect",
    "params": {
        "minProtocol": 4,
        "maxProtocol": 4,
        "client": {"id": "openclaw-control-ui", "version": "clawdet", "platform": "web", "mode": "ui"},
        "role": "operator",
    },
}
"""What a browser's Control UI says first, without credentials, and without a device of its own.

OpenClaw 2026.9 looks at the origin when this comes, not before; a frame of another shape also closes with 1008, so only
the refusal's own code (CONTROL_UI_ORIGIN_NOT_ALLOWED) says that the origin was the reason.
"""


def connect_request(token: Secret) -> Mapping[str, Any]:
    """Give the same with the gateway's token: still refused where a device has to be paired."""
    return {**CONNECT_REQUEST, "params": {**CONNECT_REQUEST["params"], "auth": {"token": token.reveal()}}}


_CAUSES = {
    409: ("the edge does not know this name yet (1001)", "is the DNS record there? clawdet status USER"),
    520: ("the server's answer is empty or garbled", "clawdet ssh USER -- journalctl -u openclaw-gateway -n 50"),
    521: ("the server refuses connections on port 443", "is Caddy running? clawdet ssh USER -- systemctl status caddy"),
    522: (
        "the server does not answer: a firewall drops the connection, or the record has a wrong address",
        "compare the record's address with the server's, and look at its firewall: clawdet status USER",
    ),
    523: ("the server's address cannot be reached", "compare the record's address with the server's"),
    524: (
        "the server took the request and did not answer in time",
        "clawdet ssh USER -- journalctl -u openclaw-gateway -n 50",
    ),
    525: (
        "the TLS handshake with the server failed: Caddy has no certificate for this name",
        "clawdet ssh USER -- journalctl -u caddy -n 50",
    ),
    526: (
        "the server's certificate is not valid: expired, revoked, for another name, or not from the Origin CA",
        "the zone's SSL mode is Full (strict), and the server needs its Origin CA certificate: provision again",
    ),
    530: ("the edge finds no origin for this name (1016)", "is the DNS record there? clawdet status USER"),
    1016: ("the edge finds no origin for this name", "is the DNS record there? clawdet status USER"),
}


@dataclass(frozen=True)
class Answer:
    """An HTTP answer."""

    status: int
    headers: Mapping[str, str]
    """Names in lower case."""
    body: bytes
    """At most MOST_BODY bytes."""

    @property
    def kept_out(self) -> str:
        """Return how Cloudflare itself kept the visitor away, and which setting does; empty for any other answer."""
        return kept_out(self.status, self.headers, self.body)


@dataclass(frozen=True)
class SocketAnswer:
    """How an attempt to open a WebSocket went."""

    status: int
    """101, or the HTTP status of the refusal."""
    first: Mapping[str, Any] | None = None
    """The first frame, when it was a JSON object."""
    refusal: str | None = None
    """The code in the answer to the request that was sent, such as CONTROL_UI_ORIGIN_NOT_ALLOWED."""
    close_code: int | None = None
    close_reason: str = ""
    kept_out: str = ""
    """As `Answer.kept_out`."""


def explain_52x(status: int) -> str:
    """Say what an error of the edge means, and what to look at; empty for any other status."""
    cause = _CAUSES.get(status)
    return f"{status}: {cause[0]}; {cause[1]}" if cause else ""


def answers_directly(address: tuple[str, int], host: str, patience: float, *, tls: bool) -> bool:
    """Say whether something behind an address talks to us at all, within `patience` seconds."""
    try:
        with socket.create_connection(address, timeout=patience) as plain:
            plain.settimeout(patience)
            if tls:
                # Whoever it is: that it answers is what counts.
                with _accepting_all().wrap_socket(plain, server_hostname=host):
                    return True
            headers = f"Host: {host}\r\nUser-Agent: {USER_AGENT}\r\nConnection: close\r\n"
            plain.sendall(f"GET /healthz HTTP/1.1\r\n{headers}\r\n".encode())
            return bool(plain.recv(1))
    except ssl.SSLEOFError:
        return False  # it hung up without a word, as one does whose process is killed while a firewall keeps it silent
    except ssl.SSLError:
        return True  # it said something, though not what was hoped for
    except OSError:
        return False


def edge_addresses(
    host: str,
    name_servers: Sequence[str],
    dns_address: tuple[str, int] | None,
    deadline: Deadline,
    *,
    system_resolver: bool = False,
    watch: Watch | None = None,
) -> list[str]:
    """Ask an authoritative server for the host's addresses, once; an empty list means that there are none.

    Nothing is cached on the way: a resolver that hears "no such name" may keep it for half an hour. Only where no name
    server can be reached, and `system_resolver` allows it since the record exists, that one is asked, and `watch` told.
    Raises GuestError when nobody answers.
    """
    query = dns.message.make_query(host, "A")
    query.flags &= ~dns.flags.RD
    failures: list[str] = []
    for ip, port in _servers(name_servers, dns_address, failures):
        try:
            answer = _query(query, ip, port, deadline)
        except (dns.exception.DNSException, OSError, EOFError) as error:
            failures.append(f"{ip}:{port}: {str(error) or type(error).__name__}")
            continue
        if answer.rcode() in {dns.rcode.NOERROR, dns.rcode.NXDOMAIN}:
            return [item.address for found in answer.answer if found.rdtype == dns.rdatatype.A for item in found]
        failures.append(f"{ip}:{port}: {dns.rcode.to_text(answer.rcode())}")
    if system_resolver:
        if watch is not None:
            watch(f"no name server of the zone can be asked: asked this machine's resolver for {host}, which may lag")
        with contextlib.suppress(OSError):
            found = socket.getaddrinfo(host, None, socket.AF_INET, socket.SOCK_STREAM)
            return sorted({str(entry[4][0]) for entry in found})
    raise GuestError(
        f"No name server answers for {host}.",
        details=failures,
        next_steps=["check that this network lets DNS (port 53) out, then: clawdet verify USER"],
    )


class Visitor:
    """Visits one host over connections that `connect` gives: to the edge, or through a tunnel to the server.

    With `pinned_sha256` (hex) the leaf certificate is compared with it, in place of the check against `ca_file` (a
    folder too) or the system's authorities. `hop` names what is visited, in messages; `timeout` is in
    seconds, for each part of a visit; after `deadline` none has more than MIN_SECONDS.
    """

    def __init__(
        self,
        host: str,
        connect: Callable[[], socket.socket],
        ca_file: Path | None,
        pinned_sha256: str | None = None,
        *,
        hop: str = "the edge",
        timeout: float = 30.0,
        deadline: Deadline | None = None,
    ) -> None:
        self._host = host
        self._connect = connect
        self._deadline = deadline
        self._pinned = pinned_sha256.lower() if pinned_sha256 else None
        self._hop = hop
        self._timeout = timeout
        self._tls = _accepting_all() if pinned_sha256 else _trusting(*_authorities(ca_file))

    def get(self, path: str, headers: Mapping[str, str] | None = None) -> Answer:
        """Get a path over a fresh connection. Raises GuestError that says what broke, and where."""
        with self.visit() as visit:
            return visit.get(path, {"Connection": "close", **(headers or {})})

    @contextlib.contextmanager
    def visit(self) -> Iterator["Visit"]:
        """Stay connected for several requests, as a browser does."""
        visit = Visit(self._host, self._open, self._end, self._broken)
        try:
            yield visit
        finally:
            visit.hang_up()

    def websocket(self, path: str, origin: str, request: Mapping[str, Any] | None = None) -> SocketAnswer:
        """Open a WebSocket, read its first frame, then send `request`, if any, and read on until it is closed.

        Raises GuestError that says what broke, and where.
        """
        with self._open() as stream:
            end = self._end()  # of all frames together: a gateway may send some for ever
            connection = WebSocket(stream, self._host, path, origin, end=end, max_size=MOST_BODY)
            try:
                connection.open()
            except InvalidStatus as error:
                response = error.response
                headers = {name.lower(): value for name, value in response.headers.raw_items()}
                said = kept_out(response.status_code, headers, bytes(response.body or b""))
                return SocketAnswer(response.status_code, kept_out=said)
            except (OSError, InvalidHandshake) as error:
                cause = error.__cause__ if isinstance(error.__cause__, Exception) else error
                raise self._broken(f"the WebSocket {path} was not opened", cause) from None
            return self._converse(connection, path, request)

    def _converse(self, connection: WebSocket, path: str, request: Mapping[str, Any] | None) -> SocketAnswer:
        first: Mapping[str, Any] | None = None
        refusal = None
        try:
            message = connection.receive()
            first = _object(message) if message is not None else None
            if request is not None:
                connection.send(json.dumps(request))
                while (message := connection.receive()) is not None:
                    answer = _object(message)
                    if answer and answer.get("id") == request.get("id"):
                        refusal = _refusal_code(answer)
        except TimeoutError:
            if first is None:
                raise self._broken(f"the WebSocket {path} was opened and stays silent", None) from None
        except OSError:
            pass  # broken off, without a code: what was said until then is the answer
        connection.close()
        return SocketAnswer(101, first, refusal, *connection.closed_with())

    def _open(self) -> ssl.SSLSocket:
        try:
            plain = self._connect()
        except OSError as error:
            raise self._broken("no connection", error) from None
        try:
            plain.settimeout(self._end().left())
            if plain.family in {socket.AF_INET, socket.AF_INET6}:
                # Else each request waits for the delayed acknowledgement of the handshake: 40 ms.
                plain.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            stream = self._tls.wrap_socket(plain, server_hostname=self._host)
        except ssl.SSLCertVerificationError as error:
            plain.close()
            raise self._broken(f"its certificate is refused: {error.verify_message}", None) from None
        except OSError as error:
            plain.close()
            raise self._broken("the TLS handshake failed", error) from None
        shown = hashlib.sha256(stream.getpeercert(binary_form=True) or b"").hexdigest()
        if self._pinned is not None and shown != self._pinned:
            stream.close()
            raise self._broken(f"it shows the certificate {shown}, not the issued one, {self._pinned}", None)
        return stream

    def _end(self) -> Deadline:
        """Return the end of the part of a visit that begins now."""
        left = self._timeout if self._deadline is None else min(self._timeout, self._deadline.left())
        return Deadline.after(max(MIN_SECONDS, left))

    def _broken(self, what: str, error: Exception | None) -> GuestError:
        return GuestError(
            f"https://{self._host}, as {self._hop} serves it: {what}.",
            details=[str(error) or type(error).__name__] if error else [],
            next_steps=["clawdet verify USER    (says which hop is at fault)"],
        )


class Visit:
    """Requests to a host over one connection, for as long as the other side leaves it open."""

    def __init__(
        self,
        host: str,
        connect: Callable[[], socket.socket],
        end: Callable[[], Deadline],
        broken: Callable[[str, Exception | None], GuestError],
    ) -> None:
        self._host = host
        self._connect = connect
        self._end = end
        self._broken = broken
        self._stream: socket.socket | None = None

    def get(self, path: str, headers: Mapping[str, str] | None = None) -> Answer:
        """Get a path. Raises GuestError that says what broke, and where."""
        kept = self._stream is not None
        try:
            return self._ask(path, headers or {})
        except (OSError, http.client.HTTPException) as error:
            self.hang_up()
            if kept and not isinstance(error, TimeoutError):
                # The other side may end a connection just when it is used again: that says nothing of the path.
                return self.get(path, headers)
            raise self._broken(f"GET {path} got no whole answer", error) from None

    def hang_up(self) -> None:
        """Close the connection; the next request opens another one."""
        if self._stream is not None:
            self._stream.close()
            self._stream = None

    def _ask(self, path: str, headers: Mapping[str, str]) -> Answer:
        if self._stream is None:
            self._stream = self._connect()
        end = self._end()  # of the whole answer: one that drips would have it anew with every byte
        connection = http.client.HTTPConnection(self._host)
        connection.sock = cast(socket.socket, _Until(self._stream, end))
        connection.request("GET", path, headers={"User-Agent": USER_AGENT, **headers})
        answer = connection.getresponse()
        body = answer.read(MOST_BODY)
        if answer.will_close or not answer.isclosed():  # the latter where there is more of it than is read
            self.hang_up()
        return Answer(answer.status, {name.lower(): value for name, value in answer.getheaders()}, body)


@functools.cache
def _accepting_all() -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    context.set_alpn_protocols(["http/1.1"])
    return context


@functools.cache  # to read the system's authorities takes longer than all else of a visit
def _trusting(authorities: str | None, folder: str | None) -> ssl.SSLContext:
    """Give the context that trusts these authorities (PEM), those in a folder, or the system's."""
    context = ssl.create_default_context(cadata=authorities, capath=folder)
    context.set_alpn_protocols(["http/1.1"])
    return context


def _authorities(path: Path | None) -> tuple[str | None, str | None]:
    if path is None:
        return None, None
    return (None, str(path)) if path.is_dir() else (path.read_text(), None)


class _Until(io.RawIOBase):
    """A connection until a deadline, as far as http.client asks of one; whoever opened it closes it."""

    def __init__(self, stream: socket.socket, end: Deadline) -> None:
        self._stream = stream
        self._end = end

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        if self._end.left() <= 0:  # a time-out of zero would mean: do not wait at all
            raise TimeoutError("no whole answer in time")
        self._stream.settimeout(self._end.left())
        return self._stream.recv_into(buffer)

    def makefile(self, _mode: str) -> io.BufferedReader:
        return io.BufferedReader(_Until(self._stream, self._end))

    def sendall(self, data: bytes) -> None:
        self._stream.sendall(data)


def _servers(names: Sequence[str], fixed: tuple[str, int] | None, failures: list[str]) -> list[tuple[str, int]]:
    """Give the addresses of the name servers, in no particular order: none of them is the better one."""
    if fixed is not None:
        return [fixed]
    found = []
    for name in random.sample(list(names), len(names)):
        try:
            entries = socket.getaddrinfo(name, 53, socket.AF_INET, socket.SOCK_DGRAM)
        except OSError as error:
            failures.append(f"{name}: {error}")
            continue
        found.append((str(entries[0][4][0]), 53))
    return found


def _query(query: dns.message.Message, ip: str, port: int, deadline: Deadline) -> dns.message.Message:
    """Ask over UDP, and over TCP when that is silent or its answer too short."""
    left = max(0.5, deadline.left())
    with contextlib.suppress(dns.exception.Timeout, OSError):
        answer = dns.query.udp(query, ip, port=port, timeout=min(2.0, left))
        if not answer.flags & dns.flags.TC:
            return answer
    return dns.query.tcp(query, ip, port=port, timeout=min(4.0, left))


def _object(frame: bytes) -> Mapping[str, Any] | None:
    try:
        content = json.loads(frame)
    except ValueError:
        return None
    return content if isinstance(content, dict) else None


def _refusal_code(answer: Mapping[str, Any]) -> str | None:
    error = answer.get("error")
    if not isinstance(error, dict):
        return None
    details = error.get("details")
    return str((details.get("code") if isinstance(details, dict) else None) or error.get("code"))
