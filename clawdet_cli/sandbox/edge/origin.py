"""The edge's connection to an origin, and the reading of every way in which it fails."""

import asyncio
import itertools
import socket
import ssl
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h11

from clawdet_cli.sandbox.authority import Authority
from clawdet_cli.sandbox.cloudflare import state as account
from clawdet_cli.sandbox.edge.errors import EdgeError
from clawdet_cli.sandbox.edge.http2 import PROTOCOL, Http2Stream
from clawdet_cli.sandbox.edge.stream import HttpStream

Dial = Callable[[str, int], tuple[str, int]]


@dataclass(frozen=True)
class Timeouts:
    """The vendor's time limits, in seconds."""

    connect: float = 19.0  # until the origin has taken the connection and finished the handshake: 522
    response: float = 100.0  # until the next bytes of an answer: 524
    websocket: float = 100.0  # without a byte in either direction
    visitor: float = 400.0  # a kept-alive connection between two requests

    def scaled(self, factor: float) -> "Timeouts":
        """Return the limits multiplied by a factor."""
        return Timeouts(*(factor * limit for limit in (self.connect, self.response, self.websocket, self.visitor)))


class Origins:
    """Opens connections to origins.

    `dial` maps an origin's public address and port to where it can be reached on this machine. It may raise OSError
    for an address where nothing is: TimeoutError then becomes 522 and EHOSTUNREACH 523.
    """

    def __init__(
        self,
        state: dict[str, Any],
        origin_ca: Authority,
        pull_ca: Authority,
        dial: Dial,
        source: Callable[[], socket.socket] | None,
        *,
        seconds: float,
    ) -> None:
        self._state = state
        self._dial = dial
        self._source = source or (lambda: socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP))
        self._seconds = seconds
        shown = pull_ca.issue_server(["origin-pull.cloudflare.net"], days=365)
        self._contexts = {
            (strict, shows_itself, http2): _context(
                origin_ca.ca_pem if strict else None, shown if shows_itself else None, http2=http2
            )
            for strict, shows_itself, http2 in itertools.product((True, False), repeat=3)
        }

    async def open(
        self, address: str, host: str, mode: str, *, tls: bool, shows_itself: bool, http2: bool
    ) -> HttpStream | Http2Stream:
        """Connect to an origin, over TLS with the host name as SNI or plainly; raises EdgeError.

        `shows_itself` is what the vendor calls Authenticated Origin Pulls: a certificate of the edge's own. With
        `http2` an origin that knows HTTP/2 is spoken to in it.
        """
        context = self._contexts[mode == "strict", shows_itself, http2] if tls else None
        try:
            async with asyncio.timeout(self._seconds):
                reader, writer = await asyncio.open_connection(
                    sock=await self._connected(self._dial(address, 443 if tls else 80)),
                    ssl=context,
                    server_hostname=host if tls else None,
                    # the limit around it decides; asyncio's own error would be taken for a failed handshake
                    ssl_handshake_timeout=self._seconds * 2 if tls else None,
                )
        except OSError as error:
            raise _reading(error, tls=tls) from error
        if mode == "strict" and tls and self._is_revoked(writer):
            writer.transport.abort()
            raise EdgeError(526)
        connection = writer.get_extra_info("ssl_object")
        if connection is not None and connection.selected_alpn_protocol() == PROTOCOL:
            return Http2Stream(reader, writer)
        return HttpStream(h11.CLIENT, reader, writer)

    async def _connected(self, where: tuple[str, int]) -> socket.socket:
        sock = self._source()
        try:
            sock.setblocking(False)
            await asyncio.get_running_loop().sock_connect(sock, where)
        except BaseException:
            sock.close()
            raise
        return sock

    def _is_revoked(self, writer: asyncio.StreamWriter) -> bool:
        certificate = writer.get_extra_info("peercert")
        return account.is_revoked(self._state, int(certificate["serialNumber"], 16))


def load_key(context: ssl.SSLContext, certificate: str, key: str) -> None:
    """Give a context a certificate and its key, both PEM."""
    with tempfile.NamedTemporaryFile("w", suffix=".pem") as file:  # ssl takes keys from files only; mode 0600
        file.write(certificate + key)
        file.flush()
        context.load_cert_chain(Path(file.name))


def _context(origin_ca_pem: str | None, shown: tuple[str, str] | None, *, http2: bool) -> ssl.SSLContext:
    if origin_ca_pem is not None:
        context = ssl.create_default_context(cadata=origin_ca_pem)
    else:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    context.set_alpn_protocols([PROTOCOL, "http/1.1"] if http2 else ["http/1.1"])
    if shown is not None:
        load_key(context, *shown)
    return context


def _reading(error: OSError, *, tls: bool) -> EdgeError:
    if isinstance(error, TimeoutError):
        # also a silent handshake: a dropping firewall behind a forwarder looks like that
        return EdgeError(522)
    if isinstance(error, ssl.SSLCertVerificationError):
        return EdgeError(526)
    if isinstance(error, ConnectionRefusedError):
        return EdgeError(521)
    if isinstance(error, ssl.SSLError | ConnectionError):
        return EdgeError(525 if tls else 520)
    return EdgeError(523)  # no way there, or none from the edge's own address
