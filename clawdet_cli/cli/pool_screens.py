"""What a person reads of the pool."""

from collections.abc import Iterator, Mapping, Sequence

from clawdet_cli.cli import screens
from clawdet_cli.cli.options import LocalCall
from clawdet_cli.cli.output import Paint, Screen, clean
from clawdet_cli.cli.summary import prices
from clawdet_cli.errors import ClawdetError
from clawdet_cli.model import Destroyed, Member, PoolPlan
from clawdet_cli.money import Price, shown

HEAD = ("NAME", "STATE", "SERVER", "OPENCLAW", "AGE", "PER MONTH", "WHY")
Failures = Mapping[str, ClawdetError]


def pool(members: Sequence[Member], call: LocalCall, failures: Failures) -> Screen:
    """Lay out what waits, and what it costs; then what failed."""

    def screen(paint: Paint) -> Iterator[str]:
        if not members and not failures:
            yield "Nothing waits in the pool."
            yield "Have a server wait: " + call.pasteable("clawdet pool fill 1")
            return
        rows = [_row(one) for one in members]
        if rows:
            styles = ["green" if one.unfit is None else "yellow" for one in members]
            yield from screens.table(HEAD, rows, styles, paint)
            yield ""
        ready = sum(one.unfit is None for one in members)
        yield paint(f"{ready} of {len(members)} wait for a user.", "green" if ready else "yellow")
        cost = shown(prices(one.instance for one in members))
        if cost and not call.labelled:
            yield f"All of them cost {cost} per month without VAT while they wait."
        yield from _failed(call, failures, paint)

    return screen


def plan(value: PoolPlan, call: LocalCall) -> Screen:
    """Lay out what filling the pool would come to."""

    def screen(paint: Paint) -> Iterator[str]:
        yield paint(f"{value.wanted} servers are to wait in the pool, and {len(value.ready)} do:", "bold")
        yield ""
        begun = len(value.fill) - value.ordered
        if begun:
            yield f"  {begun} that were begun before are made ready"
        if value.offers:
            first, *others = value.offers
            each = f"{first.server_type} in {first.location}, {first.monthly.shown} per month"
            total = first.monthly.times(value.ordered).shown
            billed = "in the sandbox nothing is billed" if call.labelled else "billed until they are destroyed"
            yield f"  {value.ordered} are ordered: {each} each without VAT, IPv4 included; in all {total}; {billed}"
            if others:
                yield "  where that is sold out, the first of these that is not:"
                for other in others:
                    yield f"    {other.server_type} in {other.location}, {other.monthly.shown} per month"
        if value.drain:
            yield f"  {len(value.drain)} are removed, as too old, unwell or not needed"
        yield ""

    return screen


def drained(gone: Mapping[str, Destroyed], left: Sequence[Member], call: LocalCall, failures: Failures) -> Screen:
    """Lay out what was removed from the pool."""

    def screen(paint: Paint) -> Iterator[str]:
        for name, one in gone.items():
            told = clean(", ".join(one.removed)) or "nothing was there"
            yield f"{name}: {'; '.join([told, *screens.perhaps(one)])}"
        if any(one.may_appear for one in gone.values()):
            yield paint(f"{len(gone)} removed, {len(left)} in the pool; look again in two minutes:", "yellow")
            yield "  " + call.pasteable("clawdet reconcile")
        else:
            yield paint(f"{len(gone)} removed, and nothing of them is left; {len(left)} in the pool.", "green")
        yield from _failed(call, failures, paint)

    return screen


def _row(one: Member) -> tuple[str, ...]:
    of = one.instance
    return (
        of.user,
        "ready" if one.unfit is None else "not given",
        f"{of.server_type} in {of.location}" if of.server_type else "-",
        of.openclaw_version or "-",
        screens.age(of.created_at),
        Price(of.monthly).shown if of.monthly and of.server_id is not None else "-",
        one.unfit or of.error or "",
    )


def _failed(call: LocalCall, failures: Failures, paint: Paint) -> Iterator[str]:
    for name, error in failures.items():
        where = f" in {error.stage}" if error.stage else ""
        yield paint(f"{name} failed{where}: {clean(error.what)}", "red")
        yield from (f"  {clean(line)}" for line in error.left_behind)
    steps = dict.fromkeys(call.pasteable(step) for error in failures.values() for step in error.next_steps)
    if steps:
        yield "Next:"
        yield from (f"  {clean(step)}" for step in steps)
