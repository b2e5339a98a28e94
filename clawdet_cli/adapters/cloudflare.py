"""What clawdet asks of Cloudflare: the only importer of the cloudflare SDK.

The SDK's own retries are off: they repeat a POST whose answer was lost without looking first.
"""

import copy
import re
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from datetime import datetime
from ipaddress import ip_network
from typing import Any, Literal, Self, TypeVar
from urllib.parse import urlsplit

import cloudflare
import httpx
from cloudflare.types.dns import RecordResponse
from cloudflare.types.origin_ca_certificates import OriginCACertificate
from cloudflare.types.zones import Zone as ApiZone

from clawdet_cli import USER_AGENT, public_key
from clawdet_cli.adapters import values
from clawdet_cli.adapters.answers import TooMuchError, bounded, understood, unknown_shape, unpacked
from clawdet_cli.adapters.budget import Budget
from clawdet_cli.adapters.calling import Calling
from clawdet_cli.adapters.clock import CloudClock
from clawdet_cli.adapters.cloudflare_limits import window
from clawdet_cli.adapters.cloudflare_refusals import GONE, TAKEN, refusal
from clawdet_cli.adapters.cloudflare_rights import (
    DNS_EDIT,
    SETTINGS_EDIT,
    SETTINGS_READ,
    SSL_EDIT,
    TOKENS_READ,
    ZONE_READ,
)
from clawdet_cli.adapters.proxy import Peer, unreached
from clawdet_cli.adapters.retry import FIRST_PATIENCE, Fence, Lost, NotYet, Watch, ask, change
from clawdet_cli.errors import CloudError, ConfigError, StateError
from clawdet_cli.model import Certificate, Deadline, DnsRecord, EdgeCertificate, Zone
from clawdet_cli.network import DIRECT, Network
from clawdet_cli.secret import Secret, excerpt
from clawdet_cli.settings import CLOUDFLARE_HOW_TO

T = TypeVar("T")

CONNECT_SECONDS = 5.0
ANSWER_SECONDS = 30.0
CONNECTIONS = 16
"""More calls than these at a time wait for each other: a hundred runs need no hundred connections."""
PER_PAGE = 50
"""The most that a page of certificates holds."""
MAX_SETTING = 100
"""Characters of a setting or a status that are told on; the words of the API have a tenth of them."""
MOST_PER_PAGE = 5000
"""Of DNS records, as we ask for them: more than a zone of any plan but the largest holds."""

NOBODYS_ID = "0" * 32
NO_SETTING = "clawdet-no-such-setting"

MOST_RANGES = 100
"""A rule of Hetzner's firewall takes no more networks (facts of its API); Cloudflare has 22."""
WIDEST = {4: 10, 6: 24}
"""The shortest prefixes that are believed; the widest published ones are a /13 and a /29."""

_NO_RESULT = "HTTP 200 without a result ('success' is false)"

CERTIFICATE_DAYS: Literal[5475] = 5475
"""The longest that Origin CA offers: the VPS has no credentials to renew with, and an expiry is an outage (526)."""


@understood("Cloudflare")
class Cloudflare:
    """A token's view of Cloudflare, within one command's deadline.

    Every method raises ConfigError when the token is refused or lacks a right, CloudError when Cloudflare says no, and
    WaitError at the deadline.
    """

    def __init__(
        self,
        url: str,
        token: Secret,
        deadline: Deadline,
        *,
        watch: Watch | None = None,
        network: Network = DIRECT,
        zone_id: str | None = None,
    ) -> None:
        self._deadline = deadline
        self._zone_id = zone_id
        self._watch = watch
        self._fence: Fence | None = None
        self._calling = Calling()
        self.budget = Budget("Cloudflare")
        self.clock = CloudClock()
        address = urlsplit(url)
        self._peer = Peer("Cloudflare", address.hostname or "", address.port or 443, network, self.clock)
        proxy = network.proxy_for(self._peer.host)
        trust = network.trust()
        self._client = cloudflare.Cloudflare(
            api_token=token.reveal(),
            base_url=url.rstrip("/"),
            max_retries=0,
            default_headers={"User-Agent": USER_AGENT, "Accept-Encoding": "gzip"},
            # As for Hetzner: no ~/.netrc, and no proxy that would catch loopback.
            http_client=cloudflare.DefaultHttpxClient(
                trust_env=False,
                proxy=proxy.url if proxy else None,
                verify=True if trust is None else trust,
                follow_redirects=False,  # the API sends nobody elsewhere; whoever does is not it
                limits=httpx.Limits(max_connections=CONNECTIONS, max_keepalive_connections=CONNECTIONS),
                event_hooks={"request": [self._send], "response": [self._account, self._bound]},
            ),
        )
        # The SDK takes these from the environment, and prefers them to the token (5.9: CLOUDFLARE_EMAIL alone is enough
        # to lose it). They cannot be passed as empty.
        self._client.api_email = None
        self._client.api_key = None
        self._client.user_service_key = None

    def within(self, deadline: Deadline, watch: Watch, fence: Fence) -> Self:
        """Return the same client, with its connections and its budget, for a run with a deadline and leases."""
        own = copy.copy(self)
        vars(own).update(_deadline=deadline, _watch=watch, _fence=fence)
        return own

    def hurried(self, seconds: float) -> Self:
        """Return the same client for calls that the work can do without: they end after so many seconds.

        And after half of the time that is left, so that what cannot be done without has some.
        """
        own = copy.copy(self)
        vars(own).update(_deadline=self._deadline.within(min(seconds, self._deadline.left() / 2)))
        return own

    def close(self) -> None:
        """Close the connections that are kept for further calls."""
        self._client.close()

    def check(self) -> None:
        """Find out whether the token is alive; its rights show only where they are needed."""
        try:
            token = self._ask("verify the token", "", self._client.user.tokens.verify, FIRST_PATIENCE)
        except ConfigError as refused:
            # Tokens that belong to an account, not a user, are unknown here although they are good.
            status = self._account_token_status(refused)
        else:
            status = excerpt(str(_whole(token).status), MAX_SETTING)
        if status != "active":
            raise ConfigError(
                f"The Cloudflare API token (CLOUDFLARE_API_TOKEN) is {status}.", next_steps=[CLOUDFLARE_HOW_TO]
            )

    def zone(self, name: str) -> Zone | None:
        """Find the zone; None when there is none of this name, or none that the token may see.

        A name can be in several accounts: of several zones it is the one that is set, else the active one. Raises
        ConfigError where several are active.
        """
        found = self._ask(f"find the zone {name}", ZONE_READ, lambda: self._client.zones.list(name=name).result)
        zones = [_zone(one) for one in found]
        chosen = [one for one in zones if one.id == self._zone_id] or [one for one in zones if one.status == "active"]
        if len(chosen) > 1:
            raise ConfigError(
                f"The token (CLOUDFLARE_API_TOKEN) sees {len(chosen)} active zones named {name}.",
                details=[f"zone {one.id} in account {one.account_id}" for one in chosen],
                next_steps=["name the right one by its id: CLAWDET_ZONE_ID, or 'zone_id' in the configuration file"],
            )
        return next(iter(chosen or zones), None)

    def zone_names(self) -> list[str]:
        """List the zones that the token sees, fifty at most."""
        found = self._ask("list the zones", ZONE_READ, lambda: self._client.zones.list(per_page=50).result)
        return [values.text(zone.name) for zone in found]

    def may(self, right: str, zone: Zone) -> bool | None:
        """Find out whether the token has a right in the zone, by a request that changes nothing whatever the answer.

        None when no answer tells: something else than Cloudflare's API answered, or nothing did.
        """
        client = self._client
        requests: dict[str, Callable[[], object]] = {
            DNS_EDIT: lambda: client.dns.records.delete(NOBODYS_ID, zone_id=zone.id),
            # A request that cannot be signed: who may not sign hears that first.
            SSL_EDIT: lambda: client.origin_ca_certificates.create(
                csr="none", hostnames=[zone.name], request_type="origin-ecc", requested_validity=7
            ),
            SETTINGS_READ: lambda: client.zones.settings.get("ssl", zone_id=zone.id),
            SETTINGS_EDIT: lambda: client.zones.settings.edit(NO_SETTING, zone_id=zone.id, value="on"),
            TOKENS_READ: lambda: client.user.tokens.list(per_page=5).result,
        }

        def answered() -> None:
            try:
                _whole(requests[right]())
            except cloudflare.NotFoundError as error:
                if not _errors(error):
                    raise ValueError("a page that is not there, in place of a thing that is not") from None

        try:
            self._ask(f"let the token use the right '{right}'", right, answered)
        except ConfigError as refused:
            return None if refused.unsettled is None else False
        except CloudError as refused:
            # It was let in, and refused for what it asked.
            return True if refused.unsettled is False else None
        return True

    def edge_ranges(self) -> frozenset[str]:
        """List the networks from which the edge connects to origins. Raises CloudError for a list that cannot be it."""

        def networks() -> frozenset[str]:
            answer = self._client.ips.list()
            if answer is None:
                raise ValueError(_NO_RESULT)
            return frozenset([*(answer.ipv4_cidrs or []), *(answer.ipv6_cidrs or [])])

        ranges = self._ask("list the edge's networks", "", networks)
        # A firewall will be opened for them: no answer may open it for the world.
        if not ranges or len(ranges) > MOST_RANGES or not all(_is_range(text) for text in ranges):
            raise CloudError(
                "Cloudflare's list of its own networks is not one that a firewall can be opened for.",
                details=[f"{len(ranges)} networks: {', '.join(sorted(ranges))[:300]}"],
                next_steps=["compare it with https://www.cloudflare.com/ips/, then run the command again"],
            )
        return ranges

    def setting(self, zone_id: str, name: str) -> str | None:
        """Read a setting of the zone, such as `ssl`; None where the token may not, or the API has none of this name."""

        def read() -> str | None:
            try:
                setting = self._client.zones.settings.get(name, zone_id=zone_id)
            except cloudflare.APIStatusError as error:
                if 400 <= error.status_code < 500 and error.status_code not in {408, 409, 429}:
                    return None
                raise
            return excerpt(str(_whole(getattr(setting, "value", None))), MAX_SETTING)

        return self._ask(f"read the zone's setting '{name}'", SETTINGS_READ, read)

    def certificate_packs(self, zone_id: str) -> tuple[EdgeCertificate, ...] | None:
        """List the certificates that the edge has for the zone's names, or will have; None where nobody can tell."""
        found = self._remark(f"/zones/{zone_id}/ssl/certificate_packs", {"status": "all", "per_page": str(PER_PAGE)})
        if not isinstance(found, list) or not all(isinstance(one, dict) for one in found):
            return None
        return tuple(
            EdgeCertificate(excerpt(str(one.get("status")), MAX_SETTING), values.texts(one.get("hosts")))
            for one in found
        )

    def universal_ssl(self, zone_id: str) -> bool | None:
        """Read whether Cloudflare makes a certificate for the zone's names by itself; None where nobody can tell."""
        found = self._remark(f"/zones/{zone_id}/ssl/universal/settings", {})
        enabled = found.get("enabled") if isinstance(found, dict) else None
        return enabled if isinstance(enabled, bool) else None

    def record_usage(self, zone_id: str) -> tuple[int, int | None]:
        """Count the zone's DNS records, and how many it may have (None where the account shares a quota)."""
        usage = _whole(
            self._ask(
                "count the zone's DNS records", DNS_EDIT, lambda: self._client.dns.usage.zone.get(zone_id=zone_id)
            )
        )
        used = values.whole(usage.record_usage, 0, values.MAX_NUMBER)
        quota = usage.record_quota
        return used, None if quota is None else values.whole(quota, 0, values.MAX_NUMBER)

    def records(self, zone_id: str, name: str) -> list[DnsRecord]:
        """List the records of exactly this name, of all types, ours or not."""
        found = self._ask(
            f"list the DNS records of {name}",
            DNS_EDIT,
            lambda: self._client.dns.records.list(zone_id=zone_id, name={"exact": name}).result,
        )
        return [_record(record) for record in found]

    def all_records(self, zone_id: str) -> list[DnsRecord]:
        """List every record of a zone, of all types, ours or not."""
        return self._ask("list the zone's DNS records", DNS_EDIT, lambda: self._all_records(zone_id))

    def first_records(self, zone_id: str) -> tuple[list[DnsRecord], bool]:
        """List a zone's records in one call, and say whether these are provably all."""
        records = self._client.dns.records.with_raw_response

        def listed() -> tuple[list[DnsRecord], bool]:
            # As it came: to make one of the SDK's models of each of a thousand records takes longer than the call.
            content = records.list(zone_id=zone_id, per_page=MOST_PER_PAGE).http_response.json()
            found = [_listed(record) for record in content["result"]]
            return found, _all_counted((content.get("result_info") or {}).get("total_count"), len(found))

        return self._ask("list the zone's DNS records", DNS_EDIT, listed)

    def record(self, zone_id: str, record_id: str) -> DnsRecord | None:
        """Read a record; None when there is none of this id."""
        return self._ask(
            f"read the DNS record {record_id}",
            DNS_EDIT,
            lambda: _or_none(lambda: _record(self._client.dns.records.get(record_id, zone_id=zone_id))),
        )

    def create_a_record(self, zone_id: str, name: str, ipv4: str, comment: str) -> DnsRecord:
        """Create a proxied A record, once: one that equals it and carries our comment is given instead.

        Raises StateError when such a record exists without our comment.
        """

        def create() -> DnsRecord:
            try:
                answer = self._client.dns.records.create(
                    zone_id=zone_id, name=name, type="A", content=ipv4, ttl=1, proxied=True, comment=comment
                )
            except cloudflare.APIStatusError as error:
                if TAKEN & {code for code, _ in _errors(error)}:
                    # An earlier call of ours may have been carried out after all: the look decides whose it is.
                    raise NotYet(f"the record {name} exists", pause=0, maybe_done=True) from None
                raise
            return _record(answer)

        def look() -> DnsRecord | None:
            same = [r for r in self.records(zone_id, name) if r.type == "A" and r.content == ipv4]
            ours = next((record for record in same if record.comment == comment), None)
            if same and ours is None:
                raise StateError(
                    f"A DNS record {name} to {ipv4} exists that is not ours: nothing was touched.",
                    details=[f"{record.type} {record.content}, comment {record.comment!r}" for record in same],
                    next_steps=["see it at https://dash.cloudflare.com, or choose another user name"],
                )
            return ours

        record = self._change(f"create the DNS record {name}", DNS_EDIT, create, look)
        if record.name.lower() != name.lower():
            # A name outside the zone is silently completed with the zone's, and would stay as litter. What the answer
            # calls by this id may be something else all the same.
            made = self.record(zone_id, record.id)
            ours = made is not None and (made.comment, made.content) == (comment, ipv4)
            if ours:
                self.delete_record(zone_id, record.id)
            raise CloudError(
                f"Cloudflare made the record {record.name} when {name} was asked for"
                + (
                    "; it was removed again."
                    if ours
                    else ", by an id that is not such a record's: nothing was removed."
                )
            )
        return record

    def update_a_record(self, zone_id: str, record: DnsRecord, ipv4: str, comment: str) -> DnsRecord:
        """Point our record at an address, proxied, with our comment."""

        def look() -> DnsRecord | None:
            found = self.record(zone_id, record.id)
            wanted = (ipv4, True, comment)
            return found if found and (found.content, found.proxied, found.comment) == wanted else None

        def edit() -> DnsRecord:
            answer = self._client.dns.records.edit(
                record.id,
                zone_id=zone_id,
                name=record.name,
                type="A",
                content=ipv4,
                ttl=1,
                proxied=True,
                comment=comment,
            )
            return _record(answer)

        return self._change(f"update the DNS record {record.name}", DNS_EDIT, edit, look)

    def delete_record(self, zone_id: str, record_id: str) -> bool:
        """Delete a record, and say whether it was there."""
        return self._change(
            f"delete the DNS record {record_id}",
            DNS_EDIT,
            lambda: _or_none(lambda: _whole(self._client.dns.records.delete(record_id, zone_id=zone_id))) is not None,
            lambda: True if self.record(zone_id, record_id) is None else None,
        )

    def certificates(self, zone_id: str) -> list[Certificate]:
        """List the zone's Origin CA certificates that are not revoked, ours or not."""
        return self._ask("list Origin CA certificates", SSL_EDIT, lambda: self._certificates(zone_id))

    def certificate(self, certificate_id: str) -> Certificate | None:
        """Read an Origin CA certificate; None when there is none of this id, or it is revoked."""
        found = self._ask(
            f"read the Origin CA certificate {certificate_id}",
            SSL_EDIT,
            lambda: _or_gone(lambda: _whole(self._client.origin_ca_certificates.get(certificate_id))),
        )
        return None if found is None or _revoked(found) else _certificate(found)

    def certificates_for(self, zone_id: str, host: str) -> list[Certificate]:
        """List the certificates that are, or may be, for exactly this host."""
        found = self.in_full(self.certificates(zone_id), {host})
        return [one for one in found if one.hostnames in ((host,), ())]

    def in_full(self, listed: Sequence[Certificate], hosts: Collection[str]) -> list[Certificate]:
        """Read by id what a list left out of certificates that may be for one of the hosts."""
        return [
            (self.certificate(one.id) or one) if any(one.may_be_of(host) for host in hosts) else one for one in listed
        ]

    def certificate_for(self, zone_id: str, host: str, csr: str) -> Certificate | None:
        """Find the certificate of this request's key for exactly this host.

        The key is all that tells: the API does not give back the request that a certificate was made from.
        """
        key = public_key.of_request(csr)
        return next((one for one in self.certificates_for(zone_id, host) if one.is_of(host, key)), None)

    def sign(self, zone_id: str, host: str, csr: str) -> Certificate:
        """Have the CSR signed for exactly this host; after a lost answer, look before it is signed again."""

        def create() -> Certificate:
            answer = self._client.origin_ca_certificates.create(
                csr=csr, hostnames=[host], request_type="origin-ecc", requested_validity=CERTIFICATE_DAYS
            )
            made = _certificate(_whole(answer))
            return made if made.pem else self.certificate(made.id) or made

        return self._change(
            f"sign a certificate for {host}", SSL_EDIT, create, lambda: self.certificate_for(zone_id, host, csr)
        )

    def revoke(self, certificate_id: str) -> bool:
        """Revoke an Origin CA certificate; return whether it was there and valid."""
        return self._change(
            f"revoke the Origin CA certificate {certificate_id}",
            SSL_EDIT,
            lambda: _or_gone(lambda: _whole(self._client.origin_ca_certificates.delete(certificate_id))) is not None,
            lambda: True if self.certificate(certificate_id) is None else None,
        )

    def _all_records(self, zone_id: str) -> list[DnsRecord]:
        found: dict[str, DnsRecord] = {}
        for item in self._client.dns.records.list(zone_id=zone_id, per_page=100):
            if item.id in found:
                break  # as below
            found[item.id] = _record(item)
        return list(found.values())

    def _certificates(self, zone_id: str) -> list[Certificate]:
        found: dict[str, Certificate] = {}
        seen: set[str] = set()
        client, page = self._client.origin_ca_certificates, 0
        while True:
            page += 1
            answer = client.list(zone_id=zone_id, page=page, per_page=PER_PAGE)
            new = {_id(str(item.id)): item for item in answer.result}
            # Without a count it ends at an empty page; a page that repeats itself must end it too.
            if new.keys() <= seen:
                return list(found.values())
            seen |= new.keys()
            found |= {number: _certificate(item) for number, item in new.items() if not _revoked(item)}
            # The count is not in the SDK's model.
            if _all_counted(getattr(answer.result_info, "total_count", None), len(seen)):
                return list(found.values())

    def _account_token_status(self, refused: ConfigError) -> str:
        try:
            zones = self._ask("list zones", ZONE_READ, lambda: self._client.zones.list().result, FIRST_PATIENCE)
        except ConfigError:
            raise refused from None
        account = zones[0].account.id if zones else None
        if account is None:
            return "active"  # as far as one can see: it was let in
        verify = self._client.accounts.tokens.verify
        try:
            token = self._ask("verify the token", "", lambda: verify(account_id=account), FIRST_PATIENCE)
        except (ConfigError, CloudError):
            return "active"  # it reads zones, which a dead token cannot
        return excerpt(str(_whole(token).status), MAX_SETTING)

    def _remark(self, path: str, query: Mapping[str, str]) -> object:
        """Read what is good to know; None for a refusal, since nothing depends on it."""

        def read() -> object:
            try:
                # Without the SDK's models of it, which take longer to import than the call takes.
                answer: Any = self._client.get(path, cast_to=object, options={"params": dict(query)})
            except cloudflare.APIStatusError as error:
                if 400 <= error.status_code < 500 and error.status_code not in {408, 409, 429}:
                    return None
                raise
            return answer.get("result") if isinstance(answer, dict) else None

        return self._ask(f"read {path.rpartition('/ssl/')[2]} of the zone", SSL_EDIT, read)

    def _ask(self, what: str, right: str, call: Callable[[], T], patience: float | None = None) -> T:
        return ask(
            lambda: self._call(what, right, call),
            deadline=self._deadline,
            what=f"Cloudflare to {what}",
            patience=patience,
            watch=self._watch,
        )

    def _change(self, what: str, right: str, act: Callable[[], T], look: Callable[[], T | None]) -> T:
        return change(
            lambda: self._call(what, right, act, changing=True),
            look,
            deadline=self._deadline,
            what=f"Cloudflare to {what}",
            watch=self._watch,
            fence=self._fence,
        )

    def _send(self, request: httpx.Request) -> None:
        """Count a request, and bound it by what this thread's call has left: the client's own time-out is for all."""
        self.budget.sent()
        left = self._calling.left()
        connect, answer = min(CONNECT_SECONDS, left), min(ANSWER_SECONDS, left)
        # Waiting for a free connection is waiting for other calls, which have their own bounds.
        request.extensions["timeout"] = {"connect": connect, "read": answer, "write": answer, "pool": None}

    def _account(self, answer: Any) -> None:
        """Take note of what an answer leaves of the limit, and of what time it is there."""
        self.clock.learn(answer.headers.get("date"))
        told = window(answer.headers)
        if told is not None:
            self.budget.answered(told.limit, told.left, full_in=told.full_in)

    def _bound(self, answer: httpx.Response) -> None:
        """Have the body read within bounds; its reader would take whatever comes, and unpack it whole."""
        if isinstance(answer.stream, httpx.SyncByteStream):
            encoding = answer.headers.pop("content-encoding", "").strip().lower()
            answer.stream = _BoundedStream(answer.stream, encoding, self._calling)

    def _call(self, what: str, right: str, call: Callable[[], T], *, changing: bool = False) -> T:
        """Make one call; whatever goes wrong leaves as an error of ours or as NotYet."""
        try:
            with self.budget.spent(changing=changing):
                return self._calling.make(call, self._deadline)
        except TimeoutError:
            raise Lost("no whole answer from Cloudflare in time") from None
        except cloudflare.APIStatusError as error:
            after = error.response.headers.get("retry-after")
            raise refusal(what, right, error.status_code, _errors(error), after) from None
        except cloudflare.APIConnectionError as error:
            if isinstance(error.__cause__, TooMuchError):
                raise unknown_shape("Cloudflare", what, error.__cause__) from None
            raise unreached(self._peer, error) from None
        except (cloudflare.APIError, LookupError, AttributeError, TypeError, ValueError, RecursionError) as error:
            raise unknown_shape("Cloudflare", what, error) from None


class _BoundedStream(httpx.SyncByteStream):
    def __init__(self, stream: httpx.SyncByteStream, encoding: str, calling: Calling) -> None:
        self._stream, self._encoding = stream, encoding
        self._end, self._amount = Deadline.after(calling.left()), calling.amount

    def __iter__(self) -> Iterator[bytes]:
        return bounded(unpacked(self._stream, self._encoding), self._end, self._amount)

    def close(self) -> None:
        self._stream.close()


def _id(text: object) -> str:
    """Give an id as it is, if it can be one: it becomes a part of paths in later calls."""
    if not isinstance(text, str) or not re.fullmatch(r"[0-9A-Za-z-]{1,64}", text, re.ASCII):
        raise ValueError(f"{str(text)[:80]!r} is no id")
    return text


def _whole(answer: T | None) -> T:
    """Refuse None: the SDK gives it for HTTP 200 with `success: false`, without an exception."""
    if answer is None:
        raise ValueError(_NO_RESULT)
    return answer


def _all_counted(total: object, seen: int) -> bool:
    """Return whether a list's own count says that everything was seen; where it has none, nobody knows.

    One that is too small says nothing either: what it does not count would be taken for gone.
    """
    return isinstance(total, int) and not isinstance(total, bool) and seen == total


def _or_none(call: Callable[[], T]) -> T | None:
    try:
        return call()
    except cloudflare.NotFoundError:
        return None


def _or_gone(call: Callable[[], T]) -> T | None:
    """Return None for a certificate that is not there, or not any more."""
    try:
        return call()
    except cloudflare.APIStatusError as error:
        if GONE & {code for code, _ in _errors(error)} or isinstance(error, cloudflare.NotFoundError):
            return None
        raise


def _errors(error: cloudflare.APIStatusError) -> list[tuple[int, str]]:
    """Give codes and messages, the chained ones too: both forms are in use."""
    found: list[tuple[int, str]] = []
    for item in error.errors or []:
        found.append((item.code or 0, item.message or ""))
        chain: Sequence[dict[str, object]] = getattr(item, "error_chain", None) or []
        found += [(int(str(inner.get("code", 0))), str(inner.get("message", ""))) for inner in chain]
    return found


def _zone(zone: ApiZone) -> Zone:
    return Zone(
        id=_id(zone.id),
        name=values.text(zone.name),
        status=excerpt(str(zone.status), MAX_SETTING),
        paused=bool(zone.paused),
        name_servers=values.texts(zone.name_servers),
        account_id=values.text(zone.account.id or ""),
    )


def _record(record: RecordResponse | None) -> DnsRecord:
    if record is None:  # not _whole(): its type variable would lose the union
        raise ValueError(_NO_RESULT)
    return DnsRecord(
        id=_id(record.id),
        name=values.text(record.name),
        type=values.text(record.type),
        content=str(record.content or ""),
        proxied=bool(record.proxied),
        comment=values.text(record.comment or ""),
        created=values.moment(record.created_on),
    )


def _listed(record: Mapping[str, Any]) -> DnsRecord:
    """Give a record of a list that was not made into the SDK's models."""
    return DnsRecord(
        id=_id(record["id"]),
        name=values.text(record["name"]),
        type=values.text(record["type"]),
        content=str(record.get("content") or ""),
        proxied=bool(record.get("proxied")),
        comment=values.text(record.get("comment") or ""),
        created=values.moment(datetime.fromisoformat(record["created_on"])),
    )


def _certificate(certificate: OriginCACertificate) -> Certificate:
    """Return a certificate of which the answer may have left out anything but the id.

    The published schema requires `csr` in what is read, and the API does not give it
    (terraform-provider-cloudflare issue 2526): the models of the SDK lack what an answer lacks.
    """
    pem = values.text(getattr(certificate, "certificate", None) or "")
    return Certificate(
        id=_id(str(certificate.id)),
        hostnames=values.texts(getattr(certificate, "hostnames", None)) or public_key.names_in_certificate(pem),
        key=public_key.of_certificate(pem) or public_key.of_request(str(getattr(certificate, "csr", None) or "")),
        pem=pem,
    )


def _revoked(certificate: OriginCACertificate) -> bool:
    # Not in the SDK's model, as the API's list of certificates is not described as holding revoked ones.
    return bool(getattr(certificate, "revoked_at", None))


def _is_range(text: str) -> bool:
    try:
        network = ip_network(text)
    except ValueError:
        return False
    return network.prefixlen >= WIDEST[network.version]
