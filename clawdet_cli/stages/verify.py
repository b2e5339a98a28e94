"""The six success criteria, each with the evidence of what was seen."""

import contextlib
import secrets
import socket
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from functools import partial
from typing import TypeVar

from clawdet_cli import bootstrap
from clawdet_cli.adapters.edge import (
    Answer,
    Visitor,
    answers_directly,
    edge_addresses,
)
from clawdet_cli.adapters.proxy import is_about_time, open_connection
from clawdet_cli.adapters.retry import until
from clawdet_cli.adapters.threads import begin
from clawdet_cli.errors import ClawdetError, GuestError, WaitError
from clawdet_cli.model import CHECK_NAMES, Check, Result, now_text
from clawdet_cli.secret import Secret, excerpt
from clawdet_cli.stages import network, origin
from clawdet_cli.stages.certificates import hurried
from clawdet_cli.stages.origin import NONCE_PATH
from clawdet_cli.stages.outside import (
    PROTECTED_PATH,
    KeptOutError,
    NotMetError,
    UnsteadyError,
    answers_well,
    guards_its_pages,
    guards_its_sockets,
    let_in,
)
from clawdet_cli.stages.runner import Run

T = TypeVar("T")

STEADY_SECONDS = 60
MOST_EVIDENCE = 1000
"""Characters that are kept of what was seen: clouds and VPS may say anything."""
STARTING_SECONDS = 30.0
"""How long a unit that was started a moment ago may take until the gateway answers."""
LOOK_AHEAD_SECONDS = 5.0
EXPOSED_SECONDS = 30.0
"""More than the look from outside can take, all its time-outs together."""
MIN_SECONDS = 0.5
"""What is begun just before the deadline has as much all the same; after it nothing is begun."""
TIME_IS_UP = "not found out before the time of --timeout was over"


class _Evidence:
    """What several criteria need: gathered once, when the first of them asks."""

    def __init__(self, run: Run, patience: float) -> None:
        self.run = run
        self.patience = run.deadline.within(patience)
        self._report: dict[str, str] | None = None
        self.unreachable: Exception | None = None
        """Why the VPS is not asked any more: one wait is enough to know that it does not answer."""
        self._visitor: Visitor | None = None
        self._edge = ""
        self._token: Secret | None = None
        self.answers: Future[bool] | None = None
        """Whether the gateway was found to answer as it should, by who looked before it was asked for."""
        self.exposed: Future[list[int]] = Future()
        """The ports of the VPS, other than SSH, that answer to whoever knows its address."""
        self._origin_fault: str | None = None

    def is_known(self, name: str) -> bool:
        """Return whether a criterion takes no time: what it looks at is here already."""
        asked = self.run.report is not None and self.run.report.done()
        return name == "recorded" or (name == "openclaw" and (self._report is not None or asked))

    def report(self) -> dict[str, str]:
        """Ask the VPS how it stands; a gateway that is starting is given the time for it."""
        if self._report is None:
            self._report = bootstrap.parse_values(self._asked_ahead() or self._on_vps("report"))
            if _is_starting(self._report):
                self.run.note("the gateway was started a moment ago: waiting until it answers")
                with contextlib.suppress(WaitError):
                    until(self._started, deadline=self.run.deadline.within(STARTING_SECONDS), what="the gateway")
        return self._report

    def _started(self) -> bool | None:
        self._report = bootstrap.parse_values(self._on_vps("report"))
        return None if _is_starting(self._report) else True

    def origin_fault(self) -> str:
        """Return what is wrong with the VPS's own answers, read past Cloudflare; empty when nothing is."""
        if self._origin_fault is None:
            self._origin_fault = "" if self.run.origin_checked else self._look_past_cloudflare()
        return self._origin_fault

    def _look_past_cloudflare(self) -> str:
        try:
            report = self.report()
            if report.get("caddy_unit") != "active" or report.get("landing") != "present":
                return f"caddy is '{report.get('caddy_unit')}', the landing page '{report.get('landing')}'"
            origin.look(self.run, self.nonce(), report)
            return self._certificate_fault(report)
        except NotMetError as unmet:
            return str(unmet)
        except ClawdetError as error:
            return " ".join([error.what, *error.details[:2]])

    def _certificate_fault(self, report: dict[str, str]) -> str:
        """Return why Cloudflare would refuse the VPS's certificate, which over SSH is compared with itself alone."""
        expires, number = report.get("certificate_expires", ""), self.run.instance.certificate_id
        if expires[:19] < now_text()[:19]:
            return f"the certificate of the VPS expired: {expires or 'unknown'}"
        with contextlib.suppress(ClawdetError):  # that it cannot be read says nothing of it
            if number is not None and hurried(self.run).certificate(number) is None:
                return f"the certificate {number} of the VPS is revoked, or gone from Cloudflare"
        return ""

    def _asked_ahead(self) -> str:
        """Give what it said to the one who asked ahead; nothing where nobody did, or got no answer."""
        asked, self.run.report = self.run.report, None
        if asked is None:
            return ""
        with contextlib.suppress(ClawdetError, TimeoutError):
            answer = asked.result(timeout=self.run.deadline.within(60).left())
            return answer.out if answer.code == 0 else ""
        return ""

    def token(self) -> Secret:
        """Read the gateway token; it is forgotten with the rest."""
        if self._token is None:
            self._token = bootstrap.parse_token(self._on_vps("token"))
        return self._token

    def nonce(self) -> str:
        """Put a fresh nonce on the VPS, which only this machine can then serve, beside those of others who look now."""
        nonce = secrets.token_hex(12)
        with self.run.effect("put_nonce", self.run.instance.host):
            self._on_vps("nonce", nonce)
        return nonce

    def visitor(self) -> Visitor:
        """Give a visitor of the public name, who asks the zone's own name servers."""
        if self._visitor is None:
            run, endpoints = self.run, self.run.settings.endpoints
            zone = run.clouds.cloudflare.zone(run.instance.zone)
            host, servers = run.instance.host, zone.name_servers if zone else ()
            ask_anyone = endpoints.dns_address is None

            def addresses_now() -> list[str] | None:
                soon = self.patience.within(30)

                def asked() -> list[str]:
                    return edge_addresses(
                        host, servers, endpoints.dns_address, soon, system_resolver=ask_anyone, watch=run.note
                    )

                try:
                    # Aside, since this machine's resolver, which finds the name servers, has a patience of its own.
                    found = begin(asked).result(timeout=max(MIN_SECONDS, run.deadline.left()) + MIN_SECONDS)
                except TimeoutError:
                    raise GuestError(f"No name server of {host} answered in time.") from None
                except GuestError:
                    if run.settings.network.proxy_for(host) is None:
                        raise
                    found = [host]  # no name server can be asked from here: the proxy finds it
                return found or None

            addresses = until(
                addresses_now,
                deadline=self.patience,
                what=f"the zone's name servers to know {host}",
                catching=(GuestError,),
            )
            if run.instance.ipv4 in addresses:
                raise NotMetError(f"DNS gives out the VPS's own address {run.instance.ipv4}: the name is not proxied")
            self._edge = addresses[0]
            self._visitor = self.visitor_for(30)
        return self._visitor

    def visitor_for(self, seconds: float) -> Visitor:
        """Return another visitor, with so much patience, once `visitor` has found the edge."""
        run, endpoints = self.run, self.run.settings.endpoints
        return Visitor(
            run.instance.host,
            lambda: open_connection(
                run.settings.network,
                run.instance.host,
                endpoints.dial(self._edge, endpoints.edge_port),
                max(MIN_SECONDS, run.deadline.within(seconds).left()),
            ),
            endpoints.ca_file or run.settings.network.ca,
            timeout=seconds,
            deadline=run.deadline,
        )

    def was_seen(self) -> bool:
        """Say whether it was found well by the look ahead."""
        with contextlib.suppress(TimeoutError):
            return self.answers is not None and self.answers.result(timeout=self.run.deadline.within(30).left())
        return False

    def look_ahead(self) -> None:
        """Have somebody look at the gateway from outside while the VPS is asked: once, and without patience."""
        with contextlib.suppress(NotMetError, ClawdetError):
            token, _ = self.token(), self.visitor()
            visitor, host = self.visitor_for(LOOK_AHEAD_SECONDS), self.run.instance.host
            self.answers = begin(lambda: answers_well(visitor, host, token))

    def _on_vps(self, verb: str, *arguments: str) -> str:
        if self.unreachable is not None:
            raise self.unreachable
        try:
            self.run.ssh(self.run.deadline.within(30))
        except ClawdetError as error:
            self.unreachable = error
            raise
        answer = self.run.remote(bootstrap.installed(verb, *arguments), seconds=60, reach=30)
        if answer.code != 0:
            raise NotMetError(f"'{verb}' failed on the VPS with {answer.code}: {' '.join(answer.complaint)}")
        return answer.out


def six_checks(run: Run, *, patience: float) -> list[Check]:
    """Check all six, in order; `patience` is how long DNS and the edge may take to learn of a new name, in seconds."""
    run.stage = run.stage or "verify"
    evidence = _Evidence(run, patience)
    # Meanwhile: what a firewall drops takes patience to notice. Nobody waits for its end, which may come too late.
    evidence.exposed = begin(lambda: _exposed(run))
    return _each_checked(run, evidence)


def _each_checked(run: Run, evidence: _Evidence) -> list[Check]:
    criteria: Sequence[tuple[str, Callable[[_Evidence], str]]] = (
        ("server", _server),
        ("dns", _dns),
        # Before those that wait for the VPS's report on itself.
        ("landing_page", _landing_page),
        ("openclaw", _openclaw),
        ("gateway", _gateway),
        ("recorded", _recorded),
    )
    checks = []
    for name, criterion in criteria:
        run.fence()  # a run that slept and was taken over has nothing to look at any more
        run.emit("step_started", step=name, text=f"check {name}")
        started = time.monotonic()
        if name == "landing_page":
            evidence.look_ahead()
        check = _checked(name, criterion, evidence)
        seconds = time.monotonic() - started
        status = "done" if check.result is Result.OK else check.result.value
        run.emit("step_finished", step=name, status=status, text=check.evidence, seconds=seconds)
        checks.append(check)
    return sorted(checks, key=lambda check: CHECK_NAMES.index(check.name))


def _checked(name: str, criterion: Callable[[_Evidence], str], evidence: _Evidence) -> Check:
    result = Result.FAILED
    if evidence.run.deadline.left() <= 0 and not evidence.is_known(name):
        return Check(name, result, TIME_IS_UP, now_text())
    try:
        return Check(name, Result.OK, criterion(evidence), now_text())
    except KeptOutError as out:
        fault = evidence.origin_fault()
        result = Result.FAILED if fault else Result.NOT_JUDGED
        behind = f"And past Cloudflare: {fault}" if fault else "Past Cloudflare, over SSH, the VPS answers as it should"
        seen = f"{out}. {behind}"
    except (NotMetError, UnsteadyError) as unmet:
        seen = str(unmet)
    except ClawdetError as error:
        seen = " ".join([error.what, *error.details[:2]])
    # Of Cloudflare's certificate and the VPS's alike: which of them is valid is a question of this machine's clock.
    if is_about_time(seen) and (clock := network.wrong_clock(evidence.run.clouds)):
        seen = f"{seen}; but {clock}"
    return Check(name, result, excerpt(seen, MOST_EVIDENCE), now_text())


def _server(evidence: _Evidence) -> str:
    instance = evidence.run.instance
    if instance.server_id is None:
        raise NotMetError("no server is recorded")
    server = evidence.run.clouds.hetzner.server(instance.server_id)
    if server is None:
        evidence.unreachable = NotMetError(f"Hetzner has no server with the recorded id {instance.server_id}")
        raise evidence.unreachable
    if not instance.labels.items() <= dict(server.labels).items():
        raise NotMetError(f"server {server.id} does not carry this instance's labels")
    if server.status != "running":
        evidence.unreachable = NotMetError(f"server {server.id} is '{server.status}', not 'running'")
        raise evidence.unreachable
    if server.ipv4 != instance.ipv4:
        evidence.unreachable = NotMetError(
            f"server {server.id} has the address {server.ipv4}; recorded is {instance.ipv4}"
        )
        raise evidence.unreachable
    return (
        f"Hetzner: server {server.id} {server.name}, {server.server_type} in {server.location}, running, {server.ipv4}"
    )


def _dns(evidence: _Evidence) -> str:
    run, instance = evidence.run, evidence.run.instance
    if instance.zone_id is None or instance.record_id is None:
        raise NotMetError("no DNS record is recorded")
    record = run.clouds.cloudflare.record(instance.zone_id, instance.record_id)
    if record is None:
        raise NotMetError(f"Cloudflare has no record with the recorded id {instance.record_id}")
    if (record.name, record.type, record.content, record.proxied) != (instance.host, "A", instance.ipv4, True):
        proxied = "proxied" if record.proxied else "not proxied"
        raise NotMetError(f"Cloudflare: {record.type} {record.name} -> {record.content}, {proxied}")
    if record.comment != instance.comment:
        raise NotMetError(f"the record's comment is {record.comment!r}, not {instance.comment!r}")
    evidence.visitor()
    return f"Cloudflare: A {record.name} -> {record.content}, proxied; the zone's name servers answer with the edge"


def _openclaw(evidence: _Evidence) -> str:
    report = evidence.report()
    version, unit = report.get("openclaw_version", ""), report.get("openclaw_unit", "")
    restarts, owner = report.get("openclaw_restarts", ""), report.get("listener_owner", "")
    if not version or unit != "active":
        raise NotMetError(f"openclaw {version or 'missing'}, unit openclaw-gateway is '{unit or 'unknown'}'")
    steady = bootstrap.parse_number(report.get("openclaw_active_seconds", "")) >= STEADY_SECONDS
    if restarts != "0" and not steady:
        raise NotMetError(
            f"the unit openclaw-gateway restarted {restarts} times and runs for less than {STEADY_SECONDS} s"
        )
    if owner != "unit":
        raise NotMetError(f"port 18789 on the VPS belongs to '{owner}', not to the unit openclaw-gateway")
    # A script of before this line existed does not say it.
    if report.get("metadata_closed") == "no":
        raise NotMetError(
            "any program on the VPS can read user_data from Hetzner's metadata service:"
            f" clawdet ssh {evidence.run.instance.user} -- systemctl restart clawdet-metadata"
        )
    pending = ""
    if report.get("reboot_required") == "yes":
        user = evidence.run.instance.user
        pending = f"; an update waits for a reboot of the VPS: clawdet ssh {user} -- systemctl reboot"
    return (
        f"openclaw {version} on node {report.get('node_version')}, unit openclaw-gateway active, {restarts} restarts"
        f"{pending}"
    )


def _gateway(evidence: _Evidence) -> str:
    report = evidence.report()
    if report.get("gateway_ready") != "true" or report.get("gateway_health") != "ok":
        raise NotMetError(
            f"on the VPS /readyz says ready={report.get('gateway_ready')}, health says {report.get('gateway_health')}"
        )
    kept_out: KeptOutError | None = None
    if not evidence.was_seen():
        try:
            _gateway_from_outside(evidence)
        except KeptOutError as out:
            kept_out = out  # what needs no edge is judged all the same
    patience = evidence.run.deadline.within(EXPOSED_SECONDS).left()
    try:
        exposed = evidence.exposed.result(timeout=patience)
    except TimeoutError:
        raise NotMetError(
            f"whether {evidence.run.instance.ipv4} answers past Cloudflare was not found out in {patience:.0f} s"
        ) from None
    if exposed:
        raise NotMetError(
            f"{evidence.run.instance.ipv4} answers to everybody on port {exposed[0]}, past Cloudflare:"
            f" clawdet firewall refresh"
        )
    if kept_out is not None:
        raise kept_out
    return (
        "ready on 127.0.0.1:18789; through the public name HTTP 401 without the token, 200 with it;"
        " WebSocket 101 and connect.challenge from its own origin, 1008 without an approved device, 1008 from a"
        " foreign origin;"
        " nothing answers on the server's own address, ports 443, 80 and 18789"
    )


def _gateway_from_outside(evidence: _Evidence) -> None:
    visitor, host = evidence.visitor(), evidence.run.instance.host
    _served(evidence, "/healthz")
    token = evidence.token()

    def pages() -> None:
        with visitor.visit() as visit:
            guards_its_pages(visit, host, token)

    _patiently(evidence, f"https://{host}{PROTECTED_PATH}", pages)
    _patiently(evidence, f"wss://{host}/app", lambda: guards_its_sockets(visitor, host, token))


def _exposed(run: Run) -> list[int]:
    dial, ipv4 = run.settings.endpoints.dial, run.instance.ipv4
    if ipv4 is None:
        return []
    started = time.monotonic()
    soon = max(MIN_SECONDS, run.deadline.within(5).left())
    with contextlib.suppress(OSError), socket.create_connection(dial(ipv4, 22), timeout=soon):
        pass
    # Several times the way there and back: a firewall that drops says nothing.
    patience = min(3.0, max(0.3, 6 * (time.monotonic() - started)))

    def answering(address: str, ports: Sequence[int]) -> list[int]:
        def answers(port: int) -> bool:
            return answers_directly(dial(address, port), run.instance.host, patience, tls=port == 443)

        # Each of its parts (connecting, a handshake, a question, an answer) has as much patience.
        asked = [(port, begin(partial(answers, port))) for port in ports]
        return [port for port, answer in asked if answer.result(timeout=5 * patience)]

    found = answering(ipv4, (443, 80, 18789))
    # Some networks answer in place of whoever is called: then they do so for an address that nobody has, too.
    everywhere = answering(run.settings.endpoints.unused_address, found) if found else []
    if everywhere:
        run.note(
            f"this network answers at port {' and '.join(map(str, everywhere))} for every address, as a transparent"
            f" proxy does: whether {ipv4} itself does, past Cloudflare, cannot be seen from here"
        )
    return [port for port in found if port not in everywhere]


def _landing_page(evidence: _Evidence) -> str:
    host = evidence.run.instance.host
    page = _served(evidence, "/")
    nonce, visitor = evidence.nonce(), evidence.visitor()
    proof = _patiently(evidence, f"https://{host}{NONCE_PATH}", lambda: let_in(visitor.get(f"{NONCE_PATH}?{nonce}")))
    if proof.status != 200:
        raise NotMetError(f"https://{host}{NONCE_PATH}: HTTP {proof.status}")
    if nonce not in proof.body.decode(errors="replace").split():
        raise NotMetError(
            f"https://{host}{NONCE_PATH} does not give this run's nonce: it is another machine, or a cache"
        )
    if host.encode() not in page.body:
        raise NotMetError(f"https://{host}/ answered {page.status}, {len(page.body)} bytes, without this host's name")
    if evidence.token().reveal().encode() in page.body:
        raise NotMetError(f"https://{host}/ shows the gateway token to everybody")
    return f"https://{host}/ gives the landing page ({len(page.body)} bytes) and this run's nonce through the edge"


def _recorded(evidence: _Evidence) -> str:
    run = evidence.run
    recorded = run.state.instance(run.instance.user)
    wanted = f"https://{run.instance.host}/"
    if recorded is None or recorded.url != wanted:
        raise NotMetError(f"the database holds {recorded.url if recorded else 'nothing'}, not {wanted}")
    return f"{run.state.path} holds {wanted}"


def _served(evidence: _Evidence, path: str) -> Answer:
    """Read a path through the edge until it answers 200, as long as a new name may take to spread."""

    def answered() -> Answer:
        answer = let_in(evidence.visitor().get(path))
        if answer.status != 200:
            raise UnsteadyError(f"HTTP {answer.status}")
        return answer

    return _patiently(evidence, f"https://{evidence.run.instance.host}{path}", answered)


def _patiently(evidence: _Evidence, where: str, look: Callable[[], T]) -> T:
    """Look through the edge again while it is unsteady or refuses to connect, as long as a new name may take."""
    last = ""

    def looked() -> tuple[T]:
        nonlocal last
        try:
            return (look(),)
        except UnsteadyError as unsteady:
            last = str(unsteady)
            raise
        except GuestError as error:
            last = " ".join([error.what, *error.details[:1]])
            raise

    if evidence.run.deadline.left() <= 0:
        raise NotMetError(f"{where}: {TIME_IS_UP}")
    deadline = evidence.patience.within(evidence.run.deadline.left())
    try:
        return until(looked, deadline=deadline, what=where, catching=(UnsteadyError, GuestError))[0]
    except ClawdetError as error:
        seen = (last or error.what).replace("USER", evidence.run.instance.user)
        raise NotMetError(f"{where}: {seen}") from error


def page_seen(run: Run) -> str:
    """Return in a line how the public name answers now, to whoever visits it."""
    evidence, address = _Evidence(run, 0), f"https://{run.instance.host}/"
    try:
        evidence.visitor()
        status = let_in(evidence.visitor_for(LOOK_AHEAD_SECONDS).get("/")).status
    except (NotMetError, UnsteadyError, KeptOutError) as unmet:
        return f"{address}: {unmet}"
    except ClawdetError as error:
        return f"{address}: {' '.join([error.what, *error.details[:1]])}"
    return f"{address} answers {status}"


def _is_starting(report: dict[str, str]) -> bool:
    """Return whether the gateway does not answer yet, and its unit was started, for the first time, a moment ago."""
    unit, restarts = report.get("openclaw_unit"), report.get("openclaw_restarts")
    young = bootstrap.parse_number(report.get("openclaw_active_seconds", "")) < STEADY_SECONDS
    starting = unit == "activating" or (unit == "active" and young)
    answers = report.get("gateway_ready") == "true" and report.get("gateway_health") == "ok"
    return starting and restarts == "0" and not answers


def ask_ahead(run: Run) -> None:
    """Have the VPS report on itself while something else is looked at: that takes it longer than most looks."""
    ssh, left = run.ssh(), run.deadline.within(60).left()
    run.report = begin(lambda: ssh.run(bootstrap.installed("report"), timeout=left))


def check_origin(run: Run) -> None:
    """Read the landing page from the VPS's own address through the SSH connection. Raises GuestError."""
    evidence = _Evidence(run, 0)
    if run.report is None:
        ask_ahead(run)
    try:
        nonce = evidence.nonce()
    except NotMetError as unmet:
        raise GuestError(f"The VPS does not answer about itself: {unmet}.") from unmet
    origin.look(run, nonce, run.configured)
    run.origin_checked = True
