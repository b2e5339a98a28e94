"""The edge: what Cloudflare's servers do between a visitor and the origin of a proxied record.

A visitor's TLS ends here with a certificate for the zone and its first-level names, as Universal SSL has it. The
origin is chosen by the Host header from the DNS records, and reached as the zone's SSL mode says. What goes wrong on
that way becomes one of the vendor's numbers (`edge.errors`).

Left out: HTTP/2 and 3 with visitors, caching of static files, compression, `min_tls_version`, kept-alive origin
connections, fail-over between several origins, public CAs as trust of mode `strict`, and limits of body size.
"""

import asyncio
import functools
import ipaddress
import itertools
import logging
import re
import socket
import ssl
from collections.abc import Callable
from typing import Any

import h11

from clawdet_cli.sandbox.authority import Authority
from clawdet_cli.sandbox.cloudflare import state as account
from clawdet_cli.sandbox.edge.answers import (
    HOP_BY_HOP,
    Headers,
    Visit,
    refuse,
    respond,
    respond_error,
    trace,
    visitor_headers,
)
from clawdet_cli.sandbox.edge.errors import EdgeError
from clawdet_cli.sandbox.edge.http2 import Http2Stream
from clawdet_cli.sandbox.edge.knobs import EdgeKnobs
from clawdet_cli.sandbox.edge.origin import Dial, Origins, Timeouts, load_key
from clawdet_cli.sandbox.edge.protection import turned_away
from clawdet_cli.sandbox.edge.stream import HttpStream, Stream, tunnel

log = logging.getLogger(__name__)

HANDSHAKE_FAILURE = bytes([21, 3, 3, 0, 2, 2, 40])  # a TLS record: alert, fatal, handshake_failure (RFC 8446, 6)
SET_BY_EDGE = {
    b"cdn-loop",
    b"cf-connecting-ip",
    b"cf-ipcountry",
    b"cf-ray",
    b"cf-visitor",
    b"x-forwarded-for",
    b"x-forwarded-proto",
}


# No label that could not be a record's, nor a server's name in TLS.
_HOST = re.compile(r"(?=.{1,253}$)((?!-)[a-z0-9_-]{1,63}(?<!-)\.)+[a-z0-9-]{1,63}")


class Edge:
    """The edge of all zones of a state."""

    def __init__(
        self,
        state: dict[str, Any],
        edge_ca: Authority,
        origin_ca: Authority,
        pull_ca: Authority,
        *,
        dial: Dial = lambda ip, port: (ip, port),
        source: Callable[[], socket.socket] | None = None,
        timeouts: Timeouts | None = None,
        knobs: EdgeKnobs | None = None,
    ) -> None:
        self._state = state
        self._knobs = knobs or EdgeKnobs(state)
        self._edge_ca = edge_ca
        self._timeouts = timeouts or Timeouts()
        self._origins = Origins(state, origin_ca, pull_ca, dial, source, seconds=self._timeouts.connect)
        self._contexts: dict[str, ssl.SSLContext] = {}
        self._visitors: set[asyncio.Task[None]] = set()
        self._turn = itertools.count()

    async def serve(self, tls_sock: socket.socket, http_sock: socket.socket | None = None) -> None:
        """Serve visitors on bound sockets until cancelled."""
        servers = [await asyncio.start_server(functools.partial(self._visit, "https"), sock=tls_sock)]
        if http_sock is not None:
            servers.append(await asyncio.start_server(functools.partial(self._visit, "http"), sock=http_sock))
        try:
            await asyncio.Event().wait()
        finally:
            for server in servers:
                server.close()
            for task in self._visitors:
                task.cancel()
            await asyncio.gather(*self._visitors, return_exceptions=True)

    async def _handshake(self, writer: asyncio.StreamWriter) -> str:
        """Start TLS with the certificate for the name asked for, and return that name; raises OSError."""
        asked = ""
        tcp = writer.transport

        def choose(connection: ssl.SSLObject, name: str | None, _context: ssl.SSLContext) -> int | None:
            nonlocal asked
            asked = (name or "").lower()
            zone = account.zone_holding(self._state, asked)
            unknown = zone is None or zone["name"] not in {asked, asked.partition(".")[2]} or zone["status"] != "active"
            if zone is None or unknown or self._knobs.refuses_handshake(_served_records(zone, asked)):
                # asyncio closes without sending the alert of a failed handshake
                tcp.write(HANDSHAKE_FAILURE)
                return int(ssl.ALERT_DESCRIPTION_HANDSHAKE_FAILURE)
            if zone["name"] not in self._contexts:
                self._contexts[zone["name"]] = self._certificate_context(zone["name"])
            connection.context = self._contexts[zone["name"]]
            return None

        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.sni_callback = choose
        await writer.start_tls(context)
        return asked

    def _certificate_context(self, zone_name: str) -> ssl.SSLContext:
        certificate, key = self._edge_ca.issue_server([zone_name, f"*.{zone_name}"], days=365)
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        load_key(context, certificate, key)
        return context

    async def _visit(self, scheme: str, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        if task is not None:
            self._visitors.add(task)
            task.add_done_callback(self._visitors.discard)
        visitor = HttpStream(h11.SERVER, reader, writer)
        peer = (writer.get_extra_info("peername") or ("",))[0]
        try:
            sni = await self._handshake(writer) if scheme == "https" else None
            await self._converse(visitor, scheme, sni, peer)
            await visitor.close()
        except (OSError, h11.LocalProtocolError):
            visitor.abort()  # the visitor has left, or was sent half an answer
        except Exception:  # an error of ours must not leave the visitor waiting
            log.exception("a visit from %s failed", peer)
            visitor.abort()
        except asyncio.CancelledError:
            visitor.abort()  # and not raised on: asyncio 3.11 reports the end of a cancelled handler as an error

    async def _converse(self, visitor: HttpStream, scheme: str, sni: str | None, peer: str) -> None:
        try:
            while True:
                event = await visitor.next_event(self._timeouts.visitor)
                if not isinstance(event, h11.Request):
                    return
                await self._answer(Visit(visitor, event, scheme, sni, peer, account.new_ray()))
                if visitor.http.our_state is not h11.DONE or visitor.http.their_state is not h11.DONE:
                    return
                visitor.http.start_next_cycle()
        except h11.RemoteProtocolError as error:
            await refuse(visitor, error.error_status_hint)

    async def _answer(self, visit: Visit) -> None:
        try:
            local = self._local_answer(visit)
            if local is not None:
                await respond(visit, *local)
                return
            origin = await self._open_origin(visit)
        except EdgeError as error:
            await respond_error(visit, error)
            return
        upload = asyncio.create_task(self._upload(visit, origin))
        try:
            await self._download(visit, origin, upload)
        finally:
            upload.cancel()
            await asyncio.gather(upload, return_exceptions=True)
            origin.abort()

    def _local_answer(self, visit: Visit) -> tuple[int, Headers, bytes] | None:
        """Return what the edge answers by itself, None for what the origin answers; raises EdgeError."""
        if visit.request.method in {b"CONNECT", b"TRACE"}:
            return 405, [], b""  # the vendor passes neither on; after a CONNECT no more HTTP would come
        if _is_address(visit.host):
            raise EdgeError(403, 1003)
        zone = account.zone_holding(self._state, visit.host)
        if zone is None or zone["status"] != "active" or zone["paused"]:
            raise EdgeError(409, 1001)
        if not _HOST.fullmatch(visit.host):
            return 400, [], b""
        if visit.sni is not None and account.zone_holding(self._state, visit.sni) is not zone:
            raise EdgeError(403, 1003)  # one customer's name in TLS and another's in HTTP; the number is a guess
        if visit.target.partition("?")[0] == "/cdn-cgi/trace":
            return 200, [(b"content-type", b"text/plain")], trace(visit)
        records = _served_records(zone, visit.host)
        if not records:
            raise EdgeError(409, 1001)
        if refusal := self._knobs.refusal(visit.target, records):
            raise refusal
        if "cloudflare" in visit.header(b"cdn-loop"):
            raise EdgeError(403, 1000)  # a record that points at the edge itself
        other = {"http": zone["settings"]["always_use_https"]["value"] == "on", "https": self._mode(zone) == "off"}
        if other[visit.scheme]:
            scheme = "https" if visit.scheme == "http" else "http"
            return 301, [(b"location", f"{scheme}://{visit.host}{visit.target}".encode())], b""
        return turned_away(zone, self._knobs["blocked_paths"], visit)

    async def _open_origin(self, visit: Visit) -> HttpStream | Http2Stream:
        zone = account.zone_holding(self._state, visit.host)
        addresses = account.origin_addresses(self._state, zone, visit.host) if zone is not None else []
        if zone is None or not addresses:
            raise EdgeError(530, 1016)
        address = addresses[next(self._turn) % len(addresses)]
        mode = self._mode(zone)
        # An http visitor is served from port 80 in every mode: "full" and "strict" use the visitor's scheme.
        tls = visit.scheme == "https" and mode in {"full", "strict"}
        shows_itself = zone["settings"]["tls_client_auth"]["value"] == "on"
        # A WebSocket is asked for in HTTP/1.1 alone.
        http2 = self._knobs["http2_to_origin"] and not visit.header(b"upgrade")
        return await self._origins.open(address, visit.host, mode, tls=tls, shows_itself=shows_itself, http2=http2)

    @staticmethod
    def _mode(zone: dict[str, Any]) -> str:
        mode: str = zone["settings"]["ssl"]["value"]
        return mode

    async def _upload(self, visit: Visit, origin: Stream) -> None:
        """Send the request on. What the origin does to it shows in its answer, so its errors end here."""
        try:
            await origin.send(self._origin_request(visit))
            while True:
                try:
                    event = await visit.visitor.next_event(self._timeouts.visitor)
                except (OSError, h11.RemoteProtocolError):
                    origin.abort()  # the visitor left in the middle: the origin must not take the half for the whole
                    return
                if isinstance(event, h11.Data):
                    await origin.send(h11.Data(data=bytes(event.data)))
                elif isinstance(event, h11.EndOfMessage):
                    await origin.send(h11.EndOfMessage())
                    return
                else:
                    return
        except (OSError, h11.LocalProtocolError):
            return

    async def _download(self, visit: Visit, origin: HttpStream | Http2Stream, upload: asyncio.Task[None]) -> None:
        try:
            head = await self._head(origin, upload)
        except EdgeError as error:
            await respond_error(visit, error)
            return
        if isinstance(head, h11.InformationalResponse) and isinstance(origin, HttpStream):
            await visit.visitor.send(h11.InformationalResponse(status_code=101, headers=visitor_headers(visit, head)))
            await tunnel(visit.visitor, origin, self._timeouts.websocket)
            await origin.close()
            return
        await visit.visitor.send(h11.Response(status_code=head.status_code, headers=visitor_headers(visit, head)))
        try:
            while True:
                event = await origin.next_event(self._timeouts.response)
                if isinstance(event, h11.Data):
                    await visit.visitor.send(h11.Data(data=bytes(event.data)))
                elif isinstance(event, h11.EndOfMessage):
                    await visit.visitor.send(h11.EndOfMessage())
                    break
                else:
                    return
        except (OSError, h11.RemoteProtocolError):
            return  # the head is out: what is left is to close, so that the visitor misses the rest
        await asyncio.wait([upload], timeout=self._timeouts.response)

    async def _head(self, origin: Stream, upload: asyncio.Task[None]) -> h11.Response | h11.InformationalResponse:
        """Return the head of the origin's answer, or its 101; raises EdgeError."""
        while True:
            try:
                event = await origin.next_event(self._timeouts.response)
            except TimeoutError:
                if upload.done():
                    raise EdgeError(524) from None
                continue  # a long upload is no slow origin
            except (OSError, h11.RemoteProtocolError):
                raise EdgeError(520) from None
            if isinstance(event, h11.Response):
                return event
            if isinstance(event, h11.InformationalResponse):
                if event.status_code == 101:
                    return event
            else:
                raise EdgeError(520)

    def _origin_request(self, visit: Visit) -> h11.Request:
        drop = HOP_BY_HOP | SET_BY_EDGE
        headers = [(name, value) for name, value in visit.request.headers if name not in drop]
        forwarded = ", ".join(filter(None, [visit.header(b"x-forwarded-for"), visit.peer]))
        headers += [
            (b"cf-connecting-ip", visit.peer.encode()),
            (b"cf-ray", visit.ray.encode()),
            (b"cf-visitor", f'{{"scheme":"{visit.scheme}"}}'.encode()),
            (b"cf-ipcountry", b"XX"),
            (b"cdn-loop", b"cloudflare; loops=1"),
            (b"x-forwarded-for", forwarded.encode("latin-1")),
            (b"x-forwarded-proto", visit.scheme.encode()),
        ]
        zone = account.zone_holding(self._state, visit.host)
        if visit.header(b"upgrade").lower() == "websocket" and zone and zone["settings"]["websockets"]["value"] == "on":
            headers += [(b"connection", b"Upgrade"), (b"upgrade", b"websocket")]
        return h11.Request(method=visit.request.method, target=visit.request.target, headers=headers)


def _served_records(zone: dict[str, Any], host: str) -> list[dict[str, Any]]:
    return [one for one in account.records_at(zone, host) if account.is_served_by_edge(zone, one)]


def _is_address(host: str) -> bool:
    try:
        ipaddress.ip_address(host.strip("[]"))
    except ValueError:
        return False
    return True
