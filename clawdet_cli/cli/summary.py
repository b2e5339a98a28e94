"""What a command for many users says of all of them: one document, or a line for each and what it comes to."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from clawdet_cli.cli import documents, output, screens
from clawdet_cli.cli.options import LocalCall
from clawdet_cli.cli.output import Paint, Screen, clean
from clawdet_cli.errors import ClawdetError, StoppedError
from clawdet_cli.model import Holdings, Instance, Plan, Status
from clawdet_cli.money import Price, shown

if TYPE_CHECKING:
    from clawdet_cli.fleet import Fleet

MOST_NAMED = 20
"""Users that a next step names; more than these are better put into a file."""


def document(fleet: "Fleet[Any]", call: LocalCall) -> documents.Document:
    """Describe all instances as they are recorded now, and all failures."""
    found = [one for one in fleet.instances.values() if one.status is not Status.DESTROYED]
    return {
        "instances": documents.instances(found),
        **failures(fleet.failures, call),
        "not_begun": list(fleet.not_begun),
        **documents.total(prices(found)),
        **documents.calls([fleet.calls]),
    }


def failures(errors: Mapping[str, ClawdetError], call: LocalCall) -> documents.Document:
    """Describe what failed, by user."""
    return {
        "failures": [
            {"user": user, **documents.error(error, [call.pasteable(step) for step in error.next_steps])}
            for user, error in errors.items()
        ]
    }


def tell_damaged(errors: Mapping[str, ClawdetError], call: LocalCall) -> int:
    """Name on stderr the users whose rows cannot be read, and give the exit code of that; 0 when there is none."""
    for error in errors.values():
        steps = [call.pasteable(step) for step in error.next_steps]
        content = documents.document(error=documents.error(error, steps))
        screen = screens.failure(error, steps, call)
        # With --json the document on stdout has it.
        if not call.json or call.events:
            output.failure(screen, content, as_json=False, as_events=call.events)
    return max((error.exit_code for error in errors.values()), default=0)


def summary(
    fleet: "Fleet[Any]", call: LocalCall, *, verb: str, well: Callable[[str], str], bad: Mapping[str, str] | None = None
) -> Screen:
    """Lay out a line for each user, then counts, costs and calls; `bad` says what is wrong where nothing failed."""
    wrong = {user: f"{_kind(error)}: {error.what}" for user, error in fleet.failures.items()} | dict(bad or {})
    users = [*fleet.done, *fleet.failures]
    width = max((len(user) for user in [*users, *fleet.not_begun]), default=0)

    def line(paint: Paint, user: str) -> str:
        known = fleet.instances.get(user)
        state = known.status.value if known else "unknown"
        style = "red" if user in wrong else "green"
        return f"{user:<{width}}  {paint(f'{state:<15}', style)}  {clean(wrong.get(user) or well(user))}"

    def screen(paint: Paint) -> Iterator[str]:
        yield from (line(paint, user) for user in users)
        yield from (f"{user:<{width}}  {paint('not begun', 'yellow')}" for user in fleet.not_begun)
        yield ""
        fine = len(users) - len(wrong)
        counts = [f"{fine} {_DONE[verb]}", *([f"{len(wrong)} failed"] if wrong else [])]
        counts += [f"{len(fleet.not_begun)} not begun"] if fleet.not_begun else []
        yield paint(f"{len(users) + len(fleet.not_begun)} users: {', '.join(counts)}.", "red" if wrong else "green")
        cost = shown(prices(fleet.instances.values()))
        if cost and not call.labelled:
            yield f"What exists of them costs {cost} per month without VAT."
        if any(fleet.calls.values()):
            yield "Calls: " + ", ".join(f"{count} to {cloud.capitalize()}" for cloud, count in fleet.calls.items())
        again = [user for user in [*wrong, *fleet.not_begun] if user in fleet.failures or user in fleet.not_begun]
        if again and len(again) <= MOST_NAMED:
            yield "Next:"
            yield "  " + call.pasteable(f"clawdet {verb} {' '.join(again)}")
        elif again:
            yield "Next: the same command again; it goes on where each of them stopped."
        logs = [error.log_file for error in fleet.failures.values() if error.log_file]
        if logs:
            yield f"Log: {logs[0]}" + (f" (and {len(logs) - 1} more beside it)" if len(logs) > 1 else "")

    return screen


def report_if_quiet(fleet: "Fleet[Any]", call: LocalCall) -> None:
    """Write to stderr what failed, once, where --quiet has kept the view from showing it."""
    if not call.quiet or call.json or call.events:
        return
    for user, error in fleet.failures.items():
        output.report(_failure_of(user, error, call))
    if fleet.stopped_by is not None and fleet.not_begun:
        output.report(lambda _: [f"Stopped, and not begun: {', '.join(fleet.not_begun)}"])


def _failure_of(user: str, error: ClawdetError, call: LocalCall) -> Screen:
    steps = [call.pasteable(step) for step in error.next_steps]

    def screen(paint: Paint) -> Iterator[str]:
        first, *others = screens.failure(error, steps, call)(paint)
        yield f"{user}: {first}"
        yield from others

    return screen


def amiss(instances: Mapping[str, Instance], *, strict: bool) -> dict[str, str]:
    """Return what is wrong with each that is not well, in a line; with `strict` also what could not be judged."""
    found = {user: screens.unhealthy(one) or (strict and screens.not_judged(one)) for user, one in instances.items()}
    return {user: wrong for user, wrong in found.items() if wrong}


def passed(instance: Instance) -> str:
    """Return in a line what the checks of an instance came to, none of which failed."""
    unseen = instance.standing.not_judged
    return f"{len(instance.checks) - len(unseen)} checks passed" + (
        f", not judged: {', '.join(unseen)}" if unseen else ""
    )


_DONE = {"provision": "complete", "destroy": "destroyed", "verify": "as they should be"}


def plans(values: Sequence[Plan], failures: Mapping[str, ClawdetError], call: LocalCall) -> Screen:
    """Lay out what would be made for all, and what all of it costs."""

    def screen(paint: Paint) -> Iterator[str]:
        new = [plan for plan in values if plan.candidates]
        yield paint(f"For {len(values)} users, clawdet will make {len(new)} servers:", "bold")
        yield ""
        kinds: dict[str, list[Plan]] = {}
        for plan in new:
            first = plan.candidates[0]
            kinds.setdefault(f"{first.server_type} in {first.location}, {plan.image}", []).append(plan)
        for kind, those in kinds.items():
            each = those[0].candidates[0].monthly
            yield f"  {len(those):>5} x {kind}: {each.shown} per month each"
        total = shown(plan.candidates[0].monthly for plan in new) or "nothing"
        billed = "in the sandbox nothing is billed" if call.labelled else "billed until you destroy them"
        yield f"  in all {total} per month without VAT, IPv4 included; {billed}"
        if any(len(plan.candidates) > 1 for plan in new):
            yield "  where one is sold out, the first other that is not, at its own price"
        kept = len(values) - len(new)
        if kept:
            yield f"  {kept} have a server already, and keep it"
        for note in dict.fromkeys(note for plan in values for note in plan.notes):
            yield f"  Note: {clean(note)}"
        for user, error in failures.items():
            yield paint(f"  {user} cannot be made: {clean(error.what)}", "red")
        yield ""

    return screen


def holdings(values: Sequence[Holdings], failures: Mapping[str, ClawdetError], call: LocalCall) -> Screen:
    """Lay out what a destroy of all would remove."""

    def screen(paint: Paint) -> Iterator[str]:
        there = [value for value in values if value.found]
        yield paint(f"This removes {len(there)} instances, with everything that is on their servers:", "red")
        yield ""
        for value in there:
            yield f"  {value.user}: {clean(', '.join(value.found))}"
            if value.seen:
                yield paint(
                    f"    not in this database, another operator may use it: {clean('; '.join(value.seen))}", "red"
                )
        for user, error in failures.items():
            yield paint(f"  {user} could not be looked at: {clean(error.what)}", "yellow")
        yield ""
        saved = shown(Price(value.monthly) for value in there if value.monthly)
        saves = f"It saves {saved} per month. " if saved and not call.labelled else ""
        yield f"{saves}There is no way back."
        yield ""

    return screen


def prices(values: Iterable[Instance]) -> list[Price]:
    """List what the servers of these instances cost per month."""
    return [Price(one.monthly) for one in values if one.monthly and one.server_id is not None]


def _kind(error: ClawdetError) -> str:
    if isinstance(error, StoppedError):
        return "stopped"
    return f"failed in {error.stage}" if error.stage else "failed"
