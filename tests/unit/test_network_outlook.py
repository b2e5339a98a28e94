"""What of this machine's network is found out before anything is ordered, and while the result is verified."""

import errno
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from clawdet_cli.adapters import Clouds
from clawdet_cli.adapters.clock import CloudClock
from clawdet_cli.errors import ClawdetError, ConfigError
from clawdet_cli.model import Deadline, Verdict
from clawdet_cli.network import Network
from clawdet_cli.settings import Endpoints, Settings, load
from clawdet_cli.stages import verify
from clawdet_cli.stages.network import Outlook, remarks, rows
from clawdet_cli.stages.outside import NotMetError
from clawdet_cli.stages.runner import Run

SERVER, UNUSED = "203.0.113.7", "127.255.255.254"


@contextmanager
def listening(says: bytes = b"") -> Iterator[int]:
    """Listen on a free port, and say something to everybody."""
    with socket.create_server(("127.0.0.1", 0)) as server:

        def answer() -> None:
            while True:
                try:
                    connection, _ = server.accept()
                except OSError:
                    return
                with connection:
                    connection.sendall(says)
                    connection.settimeout(0.2)
                    with closing(connection.makefile("rb")) as asked:
                        try:
                            asked.read(1)
                        except OSError:
                            continue

        thread = threading.Thread(target=answer, daemon=True)
        thread.start()
        yield int(server.getsockname()[1])
        server.shutdown(socket.SHUT_RDWR)


@pytest.fixture
def closed() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return int(server.getsockname()[1])


@pytest.fixture
def make(tmp_path: Path) -> Callable[..., Settings]:
    def settings(port: int, ssh: dict[str, int] | None = None, **changes: Any) -> Settings:
        dial = {f"{ip}:22": f"127.0.0.1:{there}" for ip, there in (ssh or {}).items()}
        (tmp_path / "dial.json").write_text(str(dial).replace("'", '"'))
        endpoints = Endpoints(
            cloudflare_url=f"http://127.0.0.1:{port}/client/v4",
            dial_file=tmp_path / "dial.json",
            unused_address=UNUSED,
        )
        found = load({"state": tmp_path}, {"CLAWDET_CONFIG": str(tmp_path / "none")}, default_openclaw="2026.9.6")
        return replace(found, endpoints=endpoints, **changes)

    return settings


def clouds(hetzner: float | None = 0.0, cloudflare: float | None = 0.4) -> Clouds:
    def cloud(ahead: float | None) -> SimpleNamespace:
        clock = CloudClock()
        clock.ahead = ahead
        return SimpleNamespace(clock=clock)

    return cast(Clouds, SimpleNamespace(hetzner=cloud(hetzner), cloudflare=cloud(cloudflare)))


def test_nothing_is_remarked_where_all_is_well(make: Callable[..., Settings]) -> None:
    with listening() as edge, listening(b"SSH-2.0-x\r\n") as sshd:
        settings = make(edge, {SERVER: sshd})
        outlook = Outlook(settings, [SERVER])
        assert remarks(outlook, clouds()) == []
        assert [(row.name, row.verdict) for row in rows(outlook, clouds(), settings)] == [
            ("clock", Verdict.HAS),
            ("HTTPS over IPv4", Verdict.HAS),
            ("SSH over IPv4", Verdict.HAS),
        ]


def test_before_there_is_a_server_port_22_is_not_judged(make: Callable[..., Settings]) -> None:
    with listening() as edge:
        names = [row.name for row in rows(Outlook(make(edge), []), clouds(None, None), make(edge))]
    assert names == ["HTTPS over IPv4"]


def test_what_does_not_answer_is_remarked_and_keeps_nobody_from_ordering(
    make: Callable[..., Settings], closed: int
) -> None:
    found = remarks(Outlook(make(closed, {SERVER: closed}), [SERVER]), clouds())
    assert len(found) == 2
    assert "does not answer over IPv4" in found[0]
    assert f"no server of yours answers at port 22 from here (asked: {SERVER})" in found[1]


def test_a_port_that_is_open_and_says_no_ssh_is_not_one_of_ours(make: Callable[..., Settings]) -> None:
    with listening() as edge, listening(b"HTTP/1.1 400 Bad Request\r\n") as anybody:
        (found,) = remarks(Outlook(make(edge, {SERVER: anybody}), [SERVER]), clouds())
    assert "answers at port 22" in found


class TestWithoutIpv4:
    @pytest.fixture(autouse=True)
    def no_route(self, monkeypatch: pytest.MonkeyPatch) -> None:
        connect = socket.socket.connect

        def only_ipv6(self: socket.socket, address: Any) -> None:
            if self.type == socket.SOCK_DGRAM and address[0] == UNUSED:
                raise OSError(errno.ENETUNREACH, "Network is unreachable")
            connect(self, address)

        monkeypatch.setattr(socket.socket, "connect", only_ipv6)

    def test_nothing_is_ordered(self, make: Callable[..., Settings]) -> None:
        with listening() as edge, pytest.raises(ConfigError, match="none is ordered") as caught:
            remarks(Outlook(make(edge), []), clouds())
        assert any("--ssh-proxy" in step for step in caught.value.next_steps)
        assert len(caught.value.details) == 2

    def test_ways_that_have_it_will_do(self, make: Callable[..., Settings]) -> None:
        proxied = Network(proxy="http://127.0.0.1:1", proxy_variable="HTTPS_PROXY")
        settings = make(1, network=proxied, ssh_proxy="nc %h %p")
        named = replace(settings.endpoints, cloudflare_url="https://api.cloudflare.com/client/v4")
        assert remarks(Outlook(replace(settings, endpoints=named), [SERVER]), clouds()) == []

    def test_doctor_says_so(self, make: Callable[..., Settings]) -> None:
        settings = make(1)
        verdicts = {row.name: row.verdict for row in rows(Outlook(settings, []), clouds(), settings)}
        assert verdicts["SSH over IPv4"] is Verdict.LACKS


@pytest.mark.parametrize(
    ("hetzner", "cloudflare", "said"),
    [
        (600.0, 601.0, "10 minutes ahead of that of Hetzner and Cloudflare"),
        (-600.0, None, "10 minutes behind that of Hetzner"),
        (0.0, 300.0, "5 minutes ahead of that of Cloudflare"),
    ],
)
def test_a_clock_that_is_wrong_is_named(
    make: Callable[..., Settings], hetzner: float, cloudflare: float | None, said: str
) -> None:
    with listening() as edge:
        (found,) = remarks(Outlook(make(edge), []), clouds(hetzner, cloudflare))
    assert said in found


@pytest.mark.parametrize("what", ["certificate is not yet valid", "the certificate of the VPS expired: 2026-11-30"])
def test_a_check_that_fails_for_the_time_names_the_clock_where_that_is_wrong(what: str) -> None:
    def criterion(_: object) -> str:
        raise NotMetError(f"https://alice.example.com/: {what}")

    def seen(ahead: float) -> str:
        run = SimpleNamespace(deadline=Deadline.after(60), clouds=clouds(ahead, None))
        return verify._checked("gateway", criterion, cast(verify._Evidence, SimpleNamespace(run=run))).evidence

    assert seen(-18000.0).startswith(
        f"https://alice.example.com/: {what}; but this machine's clock is 300 minutes behind that of Hetzner"
    )
    assert seen(3.0) == f"https://alice.example.com/: {what}"


def test_a_clock_is_learned_from_the_first_answer_that_says_the_time() -> None:
    clock, seen = CloudClock(), []
    for date in (None, "yesterday", "", "Mon, 30 Nov 2026 12:00:00 GMT", "Mon, 30 Nov 2026 13:00:00 GMT"):
        clock.learn(date)
        seen.append(clock.ahead)
    *before, first, second = seen
    assert before == [None] * 3
    assert first is not None
    assert abs(first - (time.time() - 1796040000)) < 5
    assert second == first


class TestExposed:
    """Whether somebody answers past Cloudflare, in a network that answers for everybody."""

    def ask(self, places: dict[tuple[str, int], int], closed: int, notes: list[str]) -> list[int]:
        def dial(ip: str, port: int) -> tuple[str, int]:
            return "127.0.0.1", places.get((ip, port), closed)

        endpoints = SimpleNamespace(dial=dial, unused_address=UNUSED)
        instance = SimpleNamespace(ipv4=SERVER, host="alice.example.com")
        settings, deadline = SimpleNamespace(endpoints=endpoints), Deadline.after(60)
        run = SimpleNamespace(settings=settings, instance=instance, note=notes.append, deadline=deadline)
        return verify._exposed(cast(Run, run))

    def test_a_transparent_proxy_is_not_the_vps(self, closed: int) -> None:
        notes: list[str] = []
        with listening(b"HTTP/1.1 503 Service Unavailable\r\n\r\n") as proxy:
            assert self.ask({(SERVER, 80): proxy, (UNUSED, 80): proxy}, closed, notes) == []
        (note,) = notes
        assert "answers at port 80 for every address, as a transparent proxy does" in note

    def test_what_answers_for_the_vps_alone_is_the_vps(self, closed: int) -> None:
        notes: list[str] = []
        with listening(b"HTTP/1.1 308 Permanent Redirect\r\n\r\n") as web:
            assert self.ask({(SERVER, 80): web}, closed, notes) == [80]
        assert notes == []


def test_where_no_name_server_can_be_asked_the_proxy_finds_the_edge(make: Callable[..., Settings], closed: int) -> None:
    proxied = Network(proxy="http://127.0.0.1:1", proxy_variable="HTTPS_PROXY")
    settings = make(closed, network=proxied)
    settings = replace(settings, endpoints=replace(settings.endpoints, dns_address=("127.0.0.1", closed)))
    zone = SimpleNamespace(name_servers=())
    run = SimpleNamespace(
        settings=settings,
        deadline=Deadline.after(30),
        clouds=SimpleNamespace(cloudflare=SimpleNamespace(zone=lambda _: zone)),
        instance=SimpleNamespace(zone="example.com", host="alice.example.com", ipv4=SERVER),
        note=print,
    )
    found = verify._Evidence(cast(Run, run), 20)
    found.visitor()
    assert found._edge == "alice.example.com"
    run.settings = replace(settings, network=Network())
    with pytest.raises(ClawdetError):
        verify._Evidence(cast(Run, run), 0).visitor()
