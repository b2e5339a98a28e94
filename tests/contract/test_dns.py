import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import dns.asyncquery
import dns.flags
import dns.message
import dns.opcode
import dns.rcode
import pytest

from clawdet_cli.sandbox.cloudflare import records
from clawdet_cli.sandbox.cloudflare import state as account
from clawdet_cli.sandbox.dns import serve_dns

ZONE = "clawdet.test"
EDGE = "127.17.3.1"
ORIGIN = "127.18.3.7"
WAIT = 5.0

Ask = Callable[..., Awaitable[dns.message.Message]]


@pytest.fixture
def state() -> dict[str, Any]:
    made: dict[str, Any] = {}
    account.seed(made, ZONE, [])
    return made


def put(state: dict[str, Any], name: str, kind: str, content: str, *, zone: str = ZONE, **more: Any) -> None:
    found = account.zone_named(state, zone)
    assert found is not None
    records.create(found, {"name": name, "type": kind, "content": content, **more})


def bound_pair() -> tuple[socket.socket, socket.socket]:
    tcp = socket.create_server(("127.0.0.1", 0))
    udp = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    try:
        udp.bind(tcp.getsockname())
    except OSError:
        tcp.close()
        udp.close()
        return bound_pair()  # somebody's UDP port of that number
    return udp, tcp


@contextlib.asynccontextmanager
async def serving(state: dict[str, Any]) -> AsyncIterator[tuple[int, Ask]]:
    udp, tcp = bound_pair()
    port = tcp.getsockname()[1]
    task = asyncio.create_task(serve_dns(state, [EDGE], udp, tcp, name_server_address="127.17.3.53"))

    async def ask(name: str, kind: str = "A", *, over: Any = dns.asyncquery.udp) -> dns.message.Message:
        query = dns.message.make_query(name, kind)
        answer = await over(query, "127.0.0.1", port=port, timeout=WAIT)
        assert isinstance(answer, dns.message.Message)
        return answer

    try:
        # the TCP socket listens already; one answer shows that UDP does
        await ask(ZONE, "SOA")
        yield port, ask
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


def answered(
    state: dict[str, Any], name: str, kind: str = "A", *, over: Any = dns.asyncquery.udp
) -> dns.message.Message:
    async def story() -> dns.message.Message:
        async with serving(state) as (_, ask):
            return await ask(name, kind, over=over)

    return asyncio.run(story())


def lines(message: dns.message.Message) -> list[str]:
    return [line for rrset in message.answer for line in rrset.to_text().splitlines()]


@pytest.mark.parametrize("over", [dns.asyncquery.udp, dns.asyncquery.tcp], ids=["udp", "tcp"])
def test_a_proxied_name_answers_with_the_edge(state: dict[str, Any], over: Any) -> None:
    put(state, "alice", "A", ORIGIN, proxied=True)
    answer = answered(state, "ALICE.clawdet.test", over=over)
    assert [line.lower() for line in lines(answer)] == [f"alice.clawdet.test. 300 in a {EDGE}"]
    assert answer.flags & dns.flags.AA
    assert not answer.flags & dns.flags.RA


def test_a_proxied_name_shows_its_origin_while_the_zone_is_pending_or_paused(state: dict[str, Any]) -> None:
    put(state, "bob", "A", ORIGIN, proxied=True, zone="clawdet-pending.test")
    assert lines(answered(state, "bob.clawdet-pending.test")) == [f"bob.clawdet-pending.test. 300 IN A {ORIGIN}"]
    put(state, "bob", "A", ORIGIN, proxied=True)
    zone = account.zone_named(state, ZONE)
    assert zone is not None
    zone["paused"] = True
    assert lines(answered(state, "bob.clawdet.test")) == [f"bob.clawdet.test. 300 IN A {ORIGIN}"]


def test_dns_only_records_answer_as_they_are(state: dict[str, Any]) -> None:
    put(state, "plain", "A", ORIGIN, ttl=120)
    put(state, "plain", "A", "127.18.3.8", ttl=120)
    put(state, "plain", "AAAA", "2001:db8::7")
    put(state, "plain", "TXT", 'say "hello", ünits; ' + "x" * 300)
    put(state, "plain", "MX", "mail.example.com", priority=10)
    assert sorted(lines(answered(state, "plain.clawdet.test"))) == [
        f"plain.clawdet.test. 120 IN A {ORIGIN}",
        "plain.clawdet.test. 120 IN A 127.18.3.8",
    ]
    assert lines(answered(state, "plain.clawdet.test", "AAAA")) == ["plain.clawdet.test. 300 IN AAAA 2001:db8::7"]
    assert lines(answered(state, "plain.clawdet.test", "MX")) == ["plain.clawdet.test. 300 IN MX 10 mail.example.com."]
    text = answered(state, "plain.clawdet.test", "TXT").answer[0][0].strings
    assert b"".join(text).decode() == 'say "hello", ünits; ' + "x" * 300


def test_an_alias_is_followed_inside_the_account_only(state: dict[str, Any]) -> None:
    put(state, "one", "CNAME", "two.clawdet.test")
    put(state, "two", "A", ORIGIN)
    put(state, "away", "CNAME", "elsewhere.example")
    put(state, "loop", "CNAME", "pool.clawdet.test")
    put(state, "pool", "CNAME", "loop.clawdet.test")
    assert lines(answered(state, "one.clawdet.test")) == [
        "one.clawdet.test. 300 IN CNAME two.clawdet.test.",
        f"two.clawdet.test. 300 IN A {ORIGIN}",
    ]
    assert lines(answered(state, "away.clawdet.test")) == ["away.clawdet.test. 300 IN CNAME elsewhere.example."]
    assert answered(state, "loop.clawdet.test").rcode() == dns.rcode.NOERROR


def test_an_alias_at_the_apex_is_flattened(state: dict[str, Any]) -> None:
    put(state, "@", "CNAME", "two.clawdet.test")
    put(state, "two", "A", ORIGIN)
    assert lines(answered(state, ZONE)) == [f"clawdet.test. 300 IN A {ORIGIN}"]


def test_a_proxied_alias_hides_its_target(state: dict[str, Any]) -> None:
    put(state, "www", "CNAME", "elsewhere.example", proxied=True)
    assert lines(answered(state, "www.clawdet.test")) == [f"www.clawdet.test. 300 IN A {EDGE}"]
    assert lines(answered(state, "www.clawdet.test", "CNAME")) == []


def test_a_missing_name_may_be_remembered_for_half_an_hour(state: dict[str, Any]) -> None:
    answer = answered(state, "nobody.clawdet.test")
    assert answer.rcode() == dns.rcode.NXDOMAIN
    assert answer.flags & dns.flags.AA
    (soa,) = answer.authority
    assert soa.ttl == 1800
    assert soa[0].minimum == 1800


def test_a_name_without_the_type_exists(state: dict[str, Any]) -> None:
    put(state, "a.b", "A", ORIGIN)
    for name, kind in (("a.b.clawdet.test", "TXT"), ("b.clawdet.test", "A"), (ZONE, "A")):
        answer = answered(state, name, kind)
        assert answer.rcode() == dns.rcode.NOERROR
        assert not answer.answer
        assert [rrset.rdtype.name for rrset in answer.authority] == ["SOA"]


def test_a_wildcard_answers_for_names_that_do_not_exist(state: dict[str, Any]) -> None:
    put(state, "*", "A", ORIGIN)
    put(state, "known", "TXT", "x")
    assert lines(answered(state, "new.clawdet.test")) == [f"new.clawdet.test. 300 IN A {ORIGIN}"]
    put(state, "below.empty", "TXT", "x")
    assert lines(answered(state, "known.clawdet.test")) == []
    assert lines(answered(state, "empty.clawdet.test")) == []
    assert lines(answered(state, "not.below.empty.clawdet.test")) == []


def test_the_apex_has_its_name_servers_and_they_have_an_address(state: dict[str, Any]) -> None:
    zone = account.zone_named(state, ZONE)
    assert zone is not None
    servers = answered(state, ZONE, "NS")
    assert sorted(str(server.target) for server in servers.answer[0]) == [f"{name}." for name in zone["name_servers"]]
    assert lines(answered(state, zone["name_servers"][0])) == [f"{zone['name_servers'][0]}. 86400 IN A 127.17.3.53"]


def test_every_change_moves_the_serial_number(state: dict[str, Any]) -> None:
    before = answered(state, ZONE, "SOA").answer[0][0].serial
    put(state, "x", "A", ORIGIN)
    assert answered(state, ZONE, "SOA").answer[0][0].serial > before


@pytest.mark.parametrize(("name", "kind"), [("example.com", "A"), ("notclawdet.test", "A"), (ZONE, "AXFR")])
def test_what_is_not_ours_is_refused(state: dict[str, Any], name: str, kind: str) -> None:
    # dnspython's own functions expect a transfer to answer in its own form
    async def story() -> dns.message.Message:
        async with serving(state) as (port, _):
            query = dns.message.make_query(name, kind)
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(len(query.to_wire()).to_bytes(2) + query.to_wire())
            length = int.from_bytes(await reader.readexactly(2))
            answer = dns.message.from_wire(await reader.readexactly(length))
            writer.close()
            await writer.wait_closed()
            return answer

    answer = asyncio.run(story())
    assert answer.rcode() == dns.rcode.REFUSED
    assert not answer.flags & dns.flags.AA


def test_what_does_not_fit_into_a_packet_is_asked_again_over_tcp(state: dict[str, Any]) -> None:
    for number in range(60):
        put(state, "many", "A", f"127.18.4.{number + 1}")
    cut = answered(state, "many.clawdet.test")
    assert cut.flags & dns.flags.TC
    assert not cut.answer

    async def with_fallback(*args: Any, **options: Any) -> dns.message.Message:
        answer, used_tcp = await dns.asyncquery.udp_with_fallback(*args, **options)
        assert used_tcp
        return answer

    assert len(lines(answered(state, "many.clawdet.test", over=with_fallback))) == 60


def test_garbage_is_answered_as_such_or_not_at_all(state: dict[str, Any]) -> None:
    async def story() -> dns.message.Message:
        async with serving(state) as (port, ask):
            with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
                sock.setblocking(False)
                sock.connect(("127.0.0.1", port))
                loop = asyncio.get_running_loop()
                await loop.sock_sendall(sock, b"short")
                await loop.sock_sendall(sock, b"\x12\x34\x01\x00\x00\x01" + b"\xff" * 20)
                async with asyncio.timeout(WAIT):
                    wire = await loop.sock_recv(sock, 512)
            await ask(ZONE, "SOA")  # the server lives
            return dns.message.from_wire(wire)

    answer = asyncio.run(story())
    assert answer.id == 0x1234
    assert answer.rcode() == dns.rcode.FORMERR


def test_other_operations_are_not_implemented(state: dict[str, Any]) -> None:
    async def story() -> dns.message.Message:
        async with serving(state) as (port, _):
            query = dns.message.make_query(ZONE, "SOA")
            query.set_opcode(dns.opcode.NOTIFY)
            answer = await dns.asyncquery.udp(query, "127.0.0.1", port=port, timeout=WAIT)
            assert isinstance(answer, dns.message.Message)
            return answer

    assert asyncio.run(story()).rcode() == dns.rcode.NOTIMP


def test_a_newer_edns_is_refused_as_such(state: dict[str, Any]) -> None:
    async def story() -> dns.message.Message:
        async with serving(state) as (port, _):
            query = dns.message.make_query(ZONE, "SOA", use_edns=1)
            return await dns.asyncquery.udp(query, "127.0.0.1", port=port, timeout=WAIT)

    answer = asyncio.run(story())
    assert answer.rcode() == dns.rcode.BADVERS
    assert not answer.answer


@pytest.mark.parametrize("over", [dns.asyncquery.udp, dns.asyncquery.tcp])
def test_what_cannot_be_answered_is_a_failure_and_no_silence(state: dict[str, Any], over: Any) -> None:
    put(state, "broken", "A", "192.0.2.1")
    zone = account.zone_named(state, ZONE)
    assert zone is not None
    next(row for row in zone["records"].values() if row["name"] == f"broken.{ZONE}")["content"] = "no address"
    assert answered(state, f"broken.{ZONE}", over=over).rcode() == dns.rcode.SERVFAIL


def test_an_empty_text_is_one(state: dict[str, Any]) -> None:
    put(state, "empty", "TXT", '""')
    assert lines(answered(state, f"empty.{ZONE}", "TXT")) == [f'empty.{ZONE}. 300 IN TXT ""']


def test_a_text_in_quotes_has_the_strings_that_it_shows(state: dict[str, Any]) -> None:
    put(state, "quoted", "TXT", '"v=spf1 a" "b \\" c"')
    assert lines(answered(state, f"quoted.{ZONE}", "TXT")) == [f'quoted.{ZONE}. 300 IN TXT "v=spf1 a" "b \\" c"']
