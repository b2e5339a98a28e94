"""A proxied record to an address where nothing is: how soon names and edge know it, and whom the edge lets in."""

import collections
import contextlib
import http.client
import re
import socket
import ssl
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial

import dns.exception
import dns.flags
import dns.message
import dns.query
import dns.rdatatype

from clawdet_cli import USER_AGENT
from tests.live.api import ApiError
from tests.live.run import Run

ORIGIN = "192.0.2.1"
"""TEST-NET-1 (RFC 5737): nothing answers there."""
OURS = USER_AGENT
URLLIB = "Python-urllib/3.12"

ROUND = 50
"""Requests that have to be answered alike."""
SECONDS_BETWEEN = 0.2
TIMEOUT = 60.0
"""Seconds for one request: the edge waits some 20 s for an origin that is silent."""
MINUTE = 60.0
PATIENCE = 300.0
MAX_BODY = 20_000
"""Bytes of an answer that are read."""


@dataclass(frozen=True)
class Visit:
    """How a request to the edge ended."""

    outcome: str
    """The status, or the name of what went wrong."""
    refused: bool = False
    """Whether the edge itself kept the visitor out."""
    html: bool = False
    ended: float = 0.0


def look(run: Run) -> None:
    """Make the record, and watch it become known."""
    judge, zone = run.verdicts.judge, f"/zones/{run.zone_id}"
    record = {"type": "A", "name": run.host, "content": ORIGIN, "ttl": 1, "proxied": True, "comment": run.name}
    with run.step("create a proxied record"):
        run.journal.intend("record", run.host)
        created = run.cloudflare.call("POST", f"{zone}/dns_records", "create-record", body=record).must(200)
        run.journal.made("record", run.host, created.content["result"]["id"])
    began = time.monotonic()
    with run.step("wait for the zone's name servers"):
        addresses = run.until(partial(_addresses, run), "the record's way into the DNS", PATIENCE)
    seconds = time.monotonic() - began
    judge("edge.record-in-dns", seconds <= MINUTE, f"{len(addresses)} addresses after {seconds:.1f} s")
    with run.step(f"wait for {ROUND} equal answers of the edge"):
        outcome, last_other, others = _steady(run, addresses[0], began)
    seen = ", ".join(f"{times} x {what}" for what, times in others.most_common()) or "none"
    evidence = f"{ROUND} x {outcome or 'nothing in common'}; before that, until {last_other:.1f} s, others: {seen}"
    judge("edge.record-steady", outcome is not None and last_other <= MINUTE, evidence)
    judge("edge.silent-origin", outcome == "522", f"{outcome}")
    with run.step("requests without, with our and with urllib's User-Agent"):
        _user_agents(run, addresses[0])


def _user_agents(run: Run, address: str) -> None:
    judge, on = run.verdicts.judge, run.settings.get("browser_check") == "on"
    ours = _visit(run, address, OURS, "our-user-agent")
    judge("edge.clawdet-user-agent", not ours.refused and ours.outcome.isdigit(), ours.outcome)
    visits = {
        "edge.browser-check-bans-no-agent": _visit(run, address, None, "no-user-agent"),
        "edge.browser-check-bans-signatures": _visit(run, address, URLLIB, "urllib-user-agent"),
    }
    for name, visit in visits.items():
        if on:
            judge(name, visit.refused and "1010" in visit.outcome, visit.outcome)
        else:
            why = f"Browser Integrity Check is {run.settings.get('browser_check', 'not readable')} in this zone"
            run.verdicts.not_tried(name, f"{why}; the answer was {visit.outcome}")
    plain = next((visit for visit in visits.values() if visit.refused), None)
    if plain is None:
        for name in ("edge.error-page-html", "edge.redirect-before-challenge"):
            run.verdicts.not_tried(name, "no request of this run was refused")
        return
    browser = _visit(run, address, URLLIB, "urllib-user-agent-html", accept="text/html")
    judge(
        "edge.error-page-html", browser.html and not plain.html, f"HTML if asked for: {browser.html}, else {plain.html}"
    )
    if run.settings.get("always_use_https") == "on":
        redirected = _visit(run, address, URLLIB, "urllib-user-agent-http", tls=False)
        judge("edge.redirect-before-challenge", redirected.outcome in {"301", "308"}, redirected.outcome)
    else:
        run.verdicts.not_tried("edge.redirect-before-challenge", "Always Use HTTPS is off in this zone")


def _steady(run: Run, address: str, began: float) -> tuple[str | None, float, collections.Counter[str]]:
    """Ask in rounds until all answers of one are equal; return that answer, and when and how often others came."""
    others: collections.Counter[str] = collections.Counter()
    last_other = 0.0
    between = 0.0 if run.place.sandbox else SECONDS_BETWEEN

    def ask(number: int) -> Visit:
        time.sleep(number * between)
        return _visit(run, address, OURS)

    with ThreadPoolExecutor(ROUND) as workers:
        while time.monotonic() - began < PATIENCE:
            visits = list(workers.map(ask, range(ROUND)))
            common, times = collections.Counter(visit.outcome for visit in visits).most_common(1)[0]
            if times == ROUND:
                return common, last_other, others
            different = [visit for visit in visits if visit.outcome != common]
            others.update(visit.outcome for visit in different)
            last_other = max(visit.ended for visit in different) - began
    return None, time.monotonic() - began, others


def _addresses(run: Run) -> list[str] | None:
    """Ask the zone's own name servers, whose answers nobody caches."""
    query = dns.message.make_query(run.host, "A")
    query.flags &= ~dns.flags.RD
    own = run.place.settings.endpoints.dns_address
    servers = [own] if own else [(server, 53) for server in run.name_servers]
    for name, port in servers:
        with contextlib.suppress(OSError, EOFError, dns.exception.DNSException):
            answer, _ = dns.query.udp_with_fallback(query, socket.gethostbyname(name), timeout=5, port=port)
            found = [item.address for part in answer.answer if part.rdtype == dns.rdatatype.A for item in part]
            if found:
                return found
    return None


def _visit(
    run: Run, address: str, agent: str | None, label: str = "", *, accept: str | None = None, tls: bool = True
) -> Visit:
    """Get the host's first page over a fresh connection; the answer is recorded under a label."""
    endpoints = run.place.settings.endpoints
    sent = {name: value for name, value in (("User-Agent", agent), ("Accept", accept)) if value}
    try:
        where = endpoints.dial(address, endpoints.edge_port if tls else 80)
        with contextlib.ExitStack() as stack:
            stream = stack.enter_context(socket.create_connection(where, timeout=TIMEOUT))
            if tls:
                context = ssl.create_default_context(cafile=endpoints.ca_file)
                stream = stack.enter_context(context.wrap_socket(stream, server_hostname=run.host))
            connection = http.client.HTTPConnection(run.host)
            connection.sock = stream
            connection.request("GET", "/", headers=sent)
            answer = connection.getresponse()
            body = answer.read(MAX_BODY).decode(errors="replace")
    except ssl.SSLError as error:
        return Visit(f"TLS: {error.reason or type(error).__name__}", ended=time.monotonic())
    except (OSError, http.client.HTTPException) as error:
        return Visit(type(error).__name__, ended=time.monotonic())
    headers = {name.lower(): value for name, value in answer.getheaders()}
    if label:
        run.recorder.exchange(
            label,
            method="GET",
            path="/",
            sent=sent,
            status=answer.status,
            headers=headers,
            body=body,
        )
    if "cloudflare" not in headers.get("server", ""):
        raise ApiError(f"what answers for {run.host} is not the edge: HTTP {answer.status}")
    refused = answer.status in {403, 429, 503} and (
        "cf-mitigated" in headers or "error code: 10" in body or "/cdn-cgi/" in body
    )
    number = next(iter(re.findall(r"\b10\d\d\b", body)), "without a number")
    outcome = f"{answer.status}" + (f" ({headers.get('cf-mitigated') or number})" if refused else "")
    return Visit(outcome, refused, "text/html" in headers.get("content-type", ""), time.monotonic())
