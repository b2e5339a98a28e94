"""A company's HTTP proxy: CONNECT, with a password where it wants one, and a look into TLS where it is told to."""

import base64
import contextlib
import socket
import socketserver
import ssl
import threading
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from clawdet_cli.sandbox.authority import Authority

Address = tuple[str, int]


class CompanyProxy:
    """A proxy on loopback that knows where a few names are, and what it was asked for."""

    def __init__(self, places: Mapping[str, Address]) -> None:
        self.places = dict(places)
        """Where `host:port` really is; anything else is unreachable (502)."""
        self.asked: list[str] = []
        self.credentials = ""
        self.refused: dict[str, int] = {}
        """The status with which a `host:port` is refused."""
        self.silent = False
        self.inspecting: dict[str, ssl.SSLContext] = {}
        self._server = _Server(("127.0.0.1", 0), _Handler)
        self._server.proxy = self
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,))

    @property
    def port(self) -> int:
        return int(self._server.server_address[1])

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def inspect(self, authority: Authority, folder: Path, *hosts: str) -> None:
        """End TLS for these hosts here, with certificates of a private authority, and pass on what is within."""
        for host in hosts:
            certificate, key = authority.issue_server([host])
            pair = folder / f"{host}.pem"
            pair.write_text(certificate + key)
            context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
            context.load_cert_chain(pair)
            self.inspecting[host] = context

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join(5)


class _Server(socketserver.ThreadingTCPServer):
    daemon_threads = True
    block_on_close = False
    proxy: CompanyProxy


class _Handler(socketserver.StreamRequestHandler):
    server: _Server

    def handle(self) -> None:
        proxy = self.server.proxy
        method, target, _ = self.rfile.readline().decode().split()
        headers = dict(self._headers())
        proxy.asked.append(f"{method} {target}")
        if proxy.silent:
            self.rfile.read(1)
            return
        wanted = "Basic " + base64.b64encode(proxy.credentials.encode()).decode()
        if proxy.credentials and headers.get("proxy-authorization") != wanted:
            self._answer(407, "Proxy Authentication Required")
        elif target in proxy.refused:
            self._answer(proxy.refused[target], "Refused")
        elif target not in proxy.places:
            self._answer(502, "Bad Gateway")
        else:
            self._answer(200, "Connection established")
            self._pass_on(target)

    def _headers(self) -> Iterator[tuple[str, str]]:
        while line := self.rfile.readline().decode().strip():
            name, _, value = line.partition(":")
            yield name.lower(), value.strip()

    def _answer(self, status: int, text: str) -> None:
        self.wfile.write(f"HTTP/1.1 {status} {text}\r\n\r\n".encode())
        self.wfile.flush()

    def _pass_on(self, target: str) -> None:
        proxy, client = self.server.proxy, self.connection
        context = proxy.inspecting.get(target.rpartition(":")[0])
        with contextlib.suppress(OSError), socket.create_connection(proxy.places[target], 5) as upstream:
            if context is not None:
                client = context.wrap_socket(client, server_side=True)
            back = threading.Thread(target=_copy, args=(upstream, client))
            back.start()
            _copy(client, upstream)
            back.join(5)
            client.close()


def _copy(source: Any, target: Any) -> None:
    with contextlib.suppress(OSError):
        while data := source.recv(65536):
            target.sendall(data)
    with contextlib.suppress(OSError):
        target.shutdown(socket.SHUT_WR)
