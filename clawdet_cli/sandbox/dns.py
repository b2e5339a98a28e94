"""The name servers of the emulated zones: UDP and TCP, authoritative only.

Left out: DNSSEC, ANY beyond the minimal answer of RFC 8482, IPv6 addresses of the edge, zone transfers.
"""

import asyncio
import contextlib
import logging
import socket
import struct
from collections.abc import Sequence
from typing import Any

import dns.exception
import dns.flags
import dns.message
import dns.name
import dns.opcode
import dns.rcode
import dns.rdata
import dns.rdataclass
import dns.rdatatype
import dns.rrset

from clawdet_cli.sandbox.cloudflare import state as account

log = logging.getLogger(__name__)

NEGATIVE_TTL = 1800  # the vendor's SOA minimum: for so long a resolver remembers that a name does not exist
NAME_SERVER_TTL = 86400
UDP_SIZE = 1232  # what fits into one packet everywhere (DNS flag day 2020)
TCP_IDLE = 30.0  # seconds


async def serve_dns(
    state: dict[str, Any],
    edge_addresses: Sequence[str],
    udp_sock: socket.socket,
    tcp_sock: socket.socket,
    *,
    name_server_address: str | None = None,
) -> None:
    """Answer for the zones of the state on two bound sockets, until cancelled.

    With `name_server_address`, the zones' own name servers resolve to it.
    """
    answering = _Answering(state, edge_addresses, name_server_address)
    loop = asyncio.get_running_loop()
    connections: set[asyncio.Task[None]] = set()

    async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        if task is not None:
            connections.add(task)
            task.add_done_callback(connections.discard)
        await _serve_stream(answering, reader, writer)

    transport, _ = await loop.create_datagram_endpoint(lambda: _Datagrams(answering), sock=udp_sock)
    try:
        server = await asyncio.start_server(connected, sock=tcp_sock)
        async with server:
            await asyncio.Event().wait()
    finally:
        transport.close()
        for task in connections:
            task.cancel()
        await asyncio.gather(*connections, return_exceptions=True)


class _Answering:
    def __init__(self, state: dict[str, Any], edge: Sequence[str], name_server: str | None) -> None:
        self._state = state
        self._edge = edge
        self._name_server = name_server

    def answer(self, wire: bytes, *, largest: int | None) -> bytes | None:
        """Return the answer to a query; None for what is no DNS query at all."""
        try:
            return self._answer(wire, largest=largest)
        except Exception:  # a resolver waits for seconds when it gets nothing, and then asks again
            log.exception("a DNS query failed")
            return _failure(wire, dns.rcode.SERVFAIL)

    def _answer(self, wire: bytes, *, largest: int | None) -> bytes | None:
        try:
            query = dns.message.from_wire(wire)
        except dns.exception.DNSException:
            return _failure(wire, dns.rcode.FORMERR)
        if query.flags & dns.flags.QR:
            return None
        response = dns.message.make_response(query, our_payload=UDP_SIZE)
        response.flags &= ~dns.flags.RA
        if query.edns > 0:
            response.set_rcode(dns.rcode.BADVERS)
        elif query.opcode() != dns.opcode.QUERY:
            response.set_rcode(dns.rcode.NOTIMP)
        elif len(query.question) != 1:
            response.set_rcode(dns.rcode.FORMERR)
        else:
            self._fill(response, query.question[0])
        if largest is None:
            return response.to_wire()
        size = max(512, min(largest, query.payload)) if query.edns >= 0 else 512
        try:
            return response.to_wire(max_size=size)
        except dns.exception.TooBig:
            cut = dns.message.make_response(query, our_payload=UDP_SIZE)
            cut.flags |= dns.flags.TC | dns.flags.AA
            return cut.to_wire()

    def _fill(self, response: dns.message.Message, question: dns.rrset.RRset) -> None:
        host = question.name.to_text(omit_final_dot=True).lower()
        if question.rdclass != dns.rdataclass.IN or question.rdtype in {dns.rdatatype.AXFR, dns.rdatatype.IXFR}:
            response.set_rcode(dns.rcode.REFUSED)
            return
        zone = account.zone_holding(self._state, host)
        if zone is None:
            if not self._name_server_answer(response, question, host):
                response.set_rcode(dns.rcode.REFUSED)
            return
        response.flags |= dns.flags.AA
        name = question.name
        for _ in range(8):  # longer CNAME chains are loops
            found, target = self._rrset(zone, name, host, question.rdtype)
            if found is not None:
                response.answer.append(found)
            if target is None:
                break
            host, name = target, dns.name.from_text(target)
            follow = account.zone_holding(self._state, target)
            if follow is None:
                return  # the resolver goes on from here
            zone = follow
        if found is None:
            if not account.name_exists(zone, host) and not account.records_at(zone, host):
                response.set_rcode(dns.rcode.NXDOMAIN)
            response.authority.append(_soa(zone, NEGATIVE_TTL))

    def _rrset(
        self, zone: dict[str, Any], name: dns.name.Name, host: str, kind: dns.rdatatype.RdataType
    ) -> tuple[dns.rrset.RRset | None, str | None]:
        """Return the answer of one name, and the name to go on with when it is an alias."""
        at_apex = host == zone["name"]
        if at_apex and kind in {dns.rdatatype.SOA, dns.rdatatype.NS}:
            return _apex(zone, name, kind), None
        records = account.records_at(zone, host)
        if kind == dns.rdatatype.ANY and records:
            return dns.rrset.from_text(name, 3789, "IN", "HINFO", '"RFC8482" ""'), None
        served = any(account.is_served_by_edge(zone, record) for record in records)
        alias = None if served else next((record for record in records if record["type"] == "CNAME"), None)
        if kind in {dns.rdatatype.A, dns.rdatatype.AAAA} and (served or (at_apex and alias)):
            # an alias at the apex is flattened: its addresses answer in its own name
            addresses = self._edge if served else account.origin_addresses(self._state, zone, host)
            separator = "." if kind == dns.rdatatype.A else ":"
            of_kind = [address for address in addresses if separator in address]
            return _texts(name, account.AUTOMATIC_TTL, kind, of_kind), None
        if alias is not None and not at_apex and kind != dns.rdatatype.CNAME:
            return _texts(name, _ttl(alias), dns.rdatatype.CNAME, [alias["content"] + "."]), alias["content"]
        if served:
            records = [record for record in records if record["type"] not in account.PROXIABLE]
        matching = [record for record in records if record["type"] == dns.rdatatype.to_text(kind)]
        ttl = min((_ttl(record) for record in matching), default=account.AUTOMATIC_TTL)
        return _texts(name, ttl, kind, [_presentation(record) for record in matching]), None

    def _name_server_answer(self, response: dns.message.Message, question: dns.rrset.RRset, host: str) -> bool:
        servers = {server for zone in self._state["zones"].values() for server in zone["name_servers"]}
        if self._name_server is None or host not in servers:
            return False
        response.flags |= dns.flags.AA
        if question.rdtype == dns.rdatatype.A:
            response.answer.append(dns.rrset.from_text(question.name, NAME_SERVER_TTL, "IN", "A", self._name_server))
        return True


class _Datagrams(asyncio.DatagramProtocol):
    def __init__(self, answering: _Answering) -> None:
        self._answering = answering
        self._transport: asyncio.DatagramTransport | None = None

    def connection_made(self, transport: asyncio.DatagramTransport) -> None:  # type: ignore[override]  # typed too wide
        self._transport = transport

    def datagram_received(self, data: bytes, addr: tuple[str | Any, int]) -> None:
        answer = self._answering.answer(data, largest=UDP_SIZE)
        if answer is not None and self._transport is not None:
            self._transport.sendto(answer, addr)


async def _serve_stream(answering: _Answering, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    try:
        while True:
            async with asyncio.timeout(TCP_IDLE):
                (length,) = struct.unpack("!H", await reader.readexactly(2))
                wire = await reader.readexactly(length)
            answer = answering.answer(wire, largest=None)
            if answer is None:
                return
            writer.write(struct.pack("!H", len(answer)) + answer)
            await writer.drain()
    except (OSError, asyncio.IncompleteReadError):
        return  # the resolver has left, or stayed silent for too long
    except asyncio.CancelledError:
        return  # not raised on: asyncio 3.11 reports the end of a cancelled handler as an error
    finally:
        writer.close()


def _failure(wire: bytes, rcode: dns.rcode.Rcode) -> bytes | None:
    if len(wire) < 12 or wire[2] & 0x80:
        return None
    # the id of the query, QR, the code, and no records
    return wire[:2] + bytes([0x80 | (wire[2] & 0x79), rcode]) + bytes(8)


def _texts(
    name: dns.name.Name, ttl: int, kind: dns.rdatatype.RdataType, texts: Sequence[str]
) -> dns.rrset.RRset | None:
    return dns.rrset.from_text_list(name, ttl, dns.rdataclass.IN, kind, texts) if texts else None


def _apex(zone: dict[str, Any], name: dns.name.Name, kind: dns.rdatatype.RdataType) -> dns.rrset.RRset:
    if kind == dns.rdatatype.SOA:
        return _soa(zone, NEGATIVE_TTL)
    servers = [f"{server}." for server in zone["name_servers"]]
    return dns.rrset.from_text_list(name, NAME_SERVER_TTL, "IN", "NS", servers)


def _soa(zone: dict[str, Any], ttl: int) -> dns.rrset.RRset:
    text = f"{zone['name_servers'][0]}. dns.cloudflare.test. {zone['serial']} 10000 2400 604800 {NEGATIVE_TTL}"
    return dns.rrset.from_text(f"{zone['name']}.", ttl, "IN", "SOA", text)


def _ttl(record: dict[str, Any]) -> int:
    return account.AUTOMATIC_TTL if record["ttl"] == 1 else int(record["ttl"])


def _presentation(record: dict[str, Any]) -> str:
    """Return a record's content in the form of a zone file."""
    content: str = record["content"]
    match record["type"]:
        case "MX" | "SRV":
            return f"{record['priority']} {content}."
        case "CNAME" | "NS":
            return f"{content}."
        case "TXT":
            return _text_presentation(content)
        case _:
            return content


def _text_presentation(content: str) -> str:
    """Return a TXT record's strings in quotes; content that has quotes already holds as many strings as it shows."""
    if content.startswith('"') and content.endswith('"'):
        with contextlib.suppress(dns.exception.DNSException):
            return dns.rdata.from_text("IN", "TXT", content).to_text()
    raw = content.strip('"').encode()
    parts = [raw[start : start + 255] for start in range(0, len(raw), 255)] or [b""]
    return " ".join('"' + "".join(_escaped(byte) for byte in part) + '"' for part in parts)


def _escaped(byte: int) -> str:
    if byte in b'"\\':
        return "\\" + chr(byte)
    return chr(byte) if 32 <= byte < 127 else f"\\{byte:03d}"
