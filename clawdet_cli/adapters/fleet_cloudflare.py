"""Cloudflare for many runs of one command: they share reads, and everything they change stays their own."""

from collections.abc import Callable, Hashable, Sequence
from typing import TypeVar

from clawdet_cli.adapters.answers import understood
from clawdet_cli.adapters.cloudflare import PER_PAGE, Cloudflare
from clawdet_cli.adapters.retry import Watch
from clawdet_cli.adapters.shared import Flights, Once
from clawdet_cli.model import Certificate, Deadline, DnsRecord, Zone
from clawdet_cli.network import DIRECT, Network
from clawdet_cli.secret import Secret

T = TypeVar("T")

_OfRecords = tuple[str, str, str]
"""The zone's id, `name` or `id`, and which."""


@understood("Cloudflare")
class FleetCloudflare(Cloudflare):
    """A token's view of Cloudflare, of which one list for each kind tells all runs how their own things stand."""

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
        super().__init__(url, token, deadline, watch=watch, network=network, zone_id=zone_id)
        self._once = Once()
        self._record_flights = Flights[_OfRecords, tuple[DnsRecord, ...]]()
        self._certificate_flights = Flights[str, tuple[Certificate, ...]]()
        self._usage_flights = Flights[str, tuple[int, int | None]]()

    def check(self) -> None:
        """Find out whether the token is alive, once."""
        self._known("check", lambda: super(FleetCloudflare, self).check())

    def zone(self, name: str) -> Zone | None:
        """Find the zone, once."""
        find = super().zone
        return self._known(("zone", name), lambda: find(name))

    def edge_ranges(self) -> frozenset[str]:
        """List the networks from which the edge connects to origins, once."""
        return self._known("edge ranges", lambda: super(FleetCloudflare, self).edge_ranges())

    def record_usage(self, zone_id: str) -> tuple[int, int | None]:
        """Count the zone's DNS records, and how many it may have."""
        count = super().record_usage

        def fly(zones: Sequence[str]) -> tuple[Sequence[tuple[int, int | None]], int]:
            counted = {zone: count(zone) for zone in dict.fromkeys(zones)}
            return [counted[zone] for zone in zones], len(counted)

        return self._usage_flights.ask(zone_id, fly, deadline=self._deadline, what="the count of DNS records")

    def records(self, zone_id: str, name: str) -> list[DnsRecord]:
        """List the records of exactly this name, of all types, ours or not."""
        return list(self._shared_records((zone_id, "name", name.lower())))

    def record(self, zone_id: str, record_id: str) -> DnsRecord | None:
        """Read a record; None when there is none of this id."""
        found = self._shared_records((zone_id, "id", record_id))
        return found[0] if found else None

    def certificates(self, zone_id: str) -> list[Certificate]:
        """List the zone's Origin CA certificates that are not revoked, ours or not."""
        find = super().certificates

        def fly(zones: Sequence[str]) -> tuple[Sequence[tuple[Certificate, ...]], int]:
            found = {zone: tuple(find(zone)) for zone in dict.fromkeys(zones)}
            return [found[zone] for zone in zones], sum(1 + len(those) // PER_PAGE for those in found.values())

        what = "the list of Origin CA certificates"
        return list(self._certificate_flights.ask(zone_id, fly, deadline=self._deadline, what=what))

    def setting(self, zone_id: str, name: str) -> str | None:
        """Read a setting of the zone, once."""
        find = super().setting
        return self._known(("setting", zone_id, name), lambda: find(zone_id, name))

    def _known(self, name: Hashable, find: Callable[[], T]) -> T:
        return self._once.get(name, find, deadline=self._deadline)

    def _shared_records(self, question: _OfRecords) -> tuple[DnsRecord, ...]:
        what = "the list of DNS records"
        return self._record_flights.ask(question, self._fly, deadline=self._deadline, what=what)

    def _fly(self, questions: Sequence[_OfRecords]) -> tuple[Sequence[tuple[DnsRecord, ...]], int]:
        """Answer by name or id: one by itself, several by a list, and what that may lack by itself too."""
        if len(questions) == 1:
            return [self._read(questions[0])], 1
        lists = {zone: self.first_records(zone) for zone in dict.fromkeys(zone for zone, _, _ in questions)}
        calls = len(lists)
        answers: list[tuple[DnsRecord, ...]] = []
        for zone, by, which in questions:
            records, whole = lists[zone]
            found = tuple(one for one in records if which == (one.id if by == "id" else one.name.lower()))
            if not whole:
                found = self._read((zone, by, which))
                calls += 1
            answers.append(found)
        return answers, calls

    def _read(self, question: _OfRecords) -> tuple[DnsRecord, ...]:
        zone_id, by, which = question
        if by == "name":
            return tuple(super().records(zone_id, which))
        record = super().record(zone_id, which)
        return () if record is None else (record,)
