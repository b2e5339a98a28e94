"""What the edge says in its own name: answers, error pages, its trace, and the headers it adds."""

import email.utils
import time
from dataclasses import dataclass

import h11

from clawdet_cli.sandbox.cloudflare import state as account
from clawdet_cli.sandbox.edge.errors import EdgeError
from clawdet_cli.sandbox.edge.stream import HttpStream

Headers = list[tuple[bytes, bytes]]

HOP_BY_HOP = {b"connection", b"keep-alive", b"proxy-connection", b"te", b"trailer", b"upgrade", b"expect"}


@dataclass(frozen=True)
class Visit:
    """One request on its way: from whom, how, and for what."""

    visitor: HttpStream
    request: h11.Request
    scheme: str  # "https" or "http"
    sni: str | None
    peer: str
    ray: str

    def header(self, name: bytes) -> str:
        """Return a header of the request, several joined, none as an empty string."""
        return ", ".join(value.decode("latin-1") for key, value in self.request.headers if key == name)

    @property
    def host(self) -> str:
        """The host name asked for."""
        host = self.header(b"host").lower()
        return host if host.endswith("]") else host.rpartition(":")[0] or host

    @property
    def target(self) -> str:
        """The path and query asked for."""
        return self.request.target.decode("latin-1")


async def respond(visit: Visit, status: int, headers: Headers, body: bytes) -> None:
    """Send an answer of the edge's own; a request whose body is still under way costs the connection."""
    own = [*headers, (b"content-length", str(len(body)).encode()), *_edge_headers(visit.ray)]
    visitor = visit.visitor
    if visitor.http.their_state is not h11.DONE and not isinstance(visitor.http.next_event(), h11.EndOfMessage):
        own.append((b"connection", b"close"))
    await visitor.send(h11.Response(status_code=status, headers=own))
    if visit.request.method != b"HEAD":
        await visitor.send(h11.Data(data=body))
    await visitor.send(h11.EndOfMessage())


async def respond_error(visit: Visit, error: EdgeError) -> None:
    """Send an error page: HTML to whoever asks for it, as browsers do."""
    html = "text/html" in visit.header(b"accept")
    kind = b"text/html; charset=UTF-8" if html else b"text/plain; charset=UTF-8"
    headers = [(b"content-type", kind), (b"cache-control", b"no-store")]
    await respond(visit, error.status, headers, error.page(visit.host, html=html))


async def refuse(visitor: HttpStream, status: int) -> None:
    """Refuse what is no HTTP request, unless an answer has begun."""
    if visitor.http.our_state not in {h11.IDLE, h11.SEND_RESPONSE}:
        return
    headers = [(b"content-length", b"0"), (b"connection", b"close"), *_edge_headers(account.new_ray())]
    await visitor.send(h11.Response(status_code=status, headers=headers))
    await visitor.send(h11.EndOfMessage())


def _edge_headers(ray: str) -> Headers:
    date = email.utils.formatdate(usegmt=True).encode()
    return [(b"date", date), (b"server", b"cloudflare"), (b"cf-ray", ray.encode())]


def visitor_headers(visit: Visit, head: h11.Response | h11.InformationalResponse) -> Headers:
    """Return an origin's headers as a visitor gets them."""
    drop = HOP_BY_HOP | {b"server", b"cf-ray", b"cf-cache-status"}
    headers = [(name, value) for name, value in head.headers if name not in drop]
    if head.status_code == 101:
        headers += [(b"connection", b"Upgrade"), (b"upgrade", b"websocket")]
    else:
        headers.append((b"cf-cache-status", b"DYNAMIC"))
    return [*headers, (b"server", b"cloudflare"), (b"cf-ray", visit.ray.encode())]


def trace(visit: Visit) -> bytes:
    """Return the body of `/cdn-cgi/trace`, by which one tells that the edge answers."""
    connection = visit.visitor.writer.get_extra_info("ssl_object")
    lines = {
        "fl": "0f0",
        "h": visit.host,
        "ip": visit.peer,
        "ts": f"{time.time():.3f}",
        "visit_scheme": visit.scheme,
        "uag": visit.header(b"user-agent"),
        "colo": "FRA",
        "http": f"http/{visit.request.http_version.decode()}",
        "loc": "XX",
        "tls": "off" if connection is None else str(connection.version()),
        "sni": "off" if visit.sni is None else "plaintext",
    }
    return "".join(f"{key}={value}\n" for key, value in lines.items()).encode("latin-1")
