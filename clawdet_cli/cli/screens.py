"""What a person reads: each result and each failure as lines of text."""

import shlex
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING

from clawdet_cli.cli.options import LocalCall
from clawdet_cli.cli.output import Paint, Screen, beside, clean, duration
from clawdet_cli.errors import ClawdetError, OutputError, RecordError
from clawdet_cli.model import (
    Category,
    Check,
    Destroyed,
    Device,
    Devices,
    Finding,
    Firewall,
    Holdings,
    Instance,
    Plan,
    Reconciled,
    Result,
    Right,
    Standing,
    Status,
    Verdict,
)
from clawdet_cli.money import Price, shown
from clawdet_cli.terminal import harmless

if TYPE_CHECKING:
    from clawdet_cli.restore import Restored

_STATUS_STYLES = {Status.COMPLETE: "green", Status.FAILED: "red", Status.DESTROYING: "yellow"}

_MARKS = {Result.OK: ("ok", "green"), Result.FAILED: ("FAILED", "red"), Result.NOT_JUDGED: ("not judged", "yellow")}
"""The word for what a check came to, and its colour."""

EVIDENCE_COLUMN = 23
"""Where evidence begins, behind marks as wide as FAILED."""


def unhealthy(instance: Instance) -> str:
    """Say in a line what is wrong with an instance; empty when nothing is."""
    if instance.standing.healthy:
        return ""
    failed = [check for check in instance.checks if check.result is Result.FAILED]
    if failed:
        return f"fails {', '.join(check.name for check in failed)}: {failed[0].evidence}"
    return f"it is {instance.status.value}" if instance.checks else "no checks were run"


def not_judged(instance: Instance) -> str:
    """Return in a line which checks could not be judged, and why; empty when all could."""
    unseen = [check for check in instance.checks if check.result is Result.NOT_JUDGED]
    return f"not judged: {', '.join(check.name for check in unseen)}: {unseen[0].evidence}" if unseen else ""


def plan(value: Plan, call: LocalCall) -> Screen:
    """Lay out what would be made and what it costs."""

    def screen(paint: Paint) -> Iterator[str]:
        yield paint(f"For {value.user}, clawdet will make:", "bold")
        yield ""
        if value.candidates:
            first, *others = value.candidates
            yield _row(
                "Server",
                f"{value.server_name}: {first.server_type} ({first.cores} cores, {first.memory_gb:g} GB, "
                f"{first.architecture}) in {first.location}, {value.image}",
            )
            billed = "in the sandbox nothing is billed" if call.labelled else "billed until you destroy it"
            yield _row("Price", f"{first.monthly.shown} per month without VAT, IPv4 included; {billed}")
            if others:
                yield _row("", "if that is sold out, the first of these that is not:")
                for other in others:
                    yield _row("", f"  {other.server_type} in {other.location}, {other.monthly.shown} per month")
        yield _row("Name", f"{value.host}, an A record proxied by Cloudflare")
        yield _row("URL", value.url)
        yield _row(
            "Software",
            f"OpenClaw {value.openclaw_version}, Node.js {value.node_version}, Caddy {value.caddy_version}",
        )
        keys = ", ".join(value.provider_keys)
        yield _row("Model", f"{value.model or 'none yet'}{f', with the key in {keys}' if keys else ''}")
        for there in value.exists:
            yield _row("Kept", f"{there} (there already)")
        for note in value.notes:
            yield _row("Note", note)
        yield ""

    return screen


def provisioned(
    value: Instance, call: LocalCall, *, already: bool, calls: Mapping[str, int], remarks: Sequence[str]
) -> Screen:
    """Lay out a finished instance, and how to get into it."""

    def screen(paint: Paint) -> Iterator[str]:
        yield paint(clean(f"{value.user} is {'already ' if already else ''}complete: {value.url}"), "green")
        if value.standing.not_judged:
            names = ", ".join(value.standing.not_judged)
            yield paint(f"Warning: Cloudflare keeps clawdet out, so these checks were not judged: {names}", "yellow")
            yield "To have them judged, change the setting that is named below, then: " + call.pasteable(
                f"clawdet verify {value.user}"
            )
        yield ""
        yield _row("Landing page", f"{value.url}")
        yield _row("OpenClaw", f"{value.url}app  (asks for the token)")
        yield _row("Token", call.pasteable(f"clawdet token {value.user}"))
        yield _row("New browsers", call.pasteable(f"clawdet approve {value.user}    (each waits for it, once)"))
        yield _row("SSH", call.pasteable(f"clawdet ssh {value.user}"))
        yield _row("Server", _server(value, call))
        if calls:
            yield _row("Calls", _calls(calls))
        yield ""
        yield from _checks(value.checks, paint)
        if remarks:
            yield ""
            yield from remarks

    return screen


def verified(value: Instance, call: LocalCall) -> Screen:
    """Lay out the checks with what was seen."""

    def screen(paint: Paint) -> Iterator[str]:
        bad, unseen = value.standing.failed, value.standing.not_judged
        if bad or not value.checks:
            yield paint(f"{value.user} fails {len(bad)} of {len(value.checks)} checks: {', '.join(bad)}", "red")
        elif unseen:
            passed = len(value.checks) - len(unseen)
            yield paint(
                f"{value.user} passes {passed} of {len(value.checks)} checks."
                f" Warning: Cloudflare keeps clawdet out, so these were not judged: {', '.join(unseen)}",
                "yellow",
            )
        else:
            yield paint(clean(f"{value.user} passes all {len(value.checks)} checks: {value.url}"), "green")
        yield ""
        yield from _checks(value.checks, paint)
        if bad:
            yield ""
            yield "Next:"
            yield "  " + call.pasteable(f"clawdet provision {value.user}    (finds what is missing and makes it again)")

    return screen


def status_table(values: Sequence[Standing], call: LocalCall) -> Screen:
    """Lay out instances, one a line."""

    def screen(paint: Paint) -> Iterator[str]:
        if not values:
            yield "There are no instances."
            yield "Make one: " + call.pasteable("clawdet provision alice")
            return
        yield from table(
            ("USER", "STATUS", "URL", "IPV4", "TYPE", "AGE", "LAST CHECK"),
            [
                (
                    value.user,
                    value.status.value,
                    value.url or "-",
                    value.ipv4 or "-",
                    value.server_type or "-",
                    age(value.created_at),
                    _last_check(value),
                )
                for value in values
            ],
            [_style(value) for value in values],
            paint,
        )
        for value in values:
            if value.error and value.status is not Status.COMPLETE:
                yield ""
                yield f"{value.user}: {clean(value.error)}"

    return screen


def status_detail(value: Instance, call: LocalCall) -> Screen:
    """Lay out all that is known of one instance."""

    def screen(paint: Paint) -> Iterator[str]:
        yield f"{value.user}: {paint(value.status.value, _style(value.standing))}"
        yield ""
        if value.error and value.status is not Status.COMPLETE:
            yield _row("Failure", value.error)
        yield _row("URL", value.url or f"- (will be https://{value.host}/)")
        yield _row("Server", _server(value, call))
        yield _row("DNS record", value.record_id or "-")
        yield _row("OpenClaw", value.openclaw_version or "-")
        yield _row("Made", f"{age(value.created_at)} ago, {value.created_at[:16].replace('T', ' ')} UTC")
        for effect in value.open_effects:
            what = f"{effect.kind.replace('_', ' ')} {effect.name}"
            since = effect.begun_at[:19].replace("T", " ")
            yield _row("Under way", f"{what}, since {since} UTC; not known to have ended")
        if value.status not in {Status.COMPLETE, Status.DESTROYED}:
            again = "destroy" if value.status is Status.DESTROYING else "provision"
            yield _row("Next", call.pasteable(f"clawdet {again} {value.user}"))
        if value.stages:
            yield ""
            yield paint("Stages of the last run", "bold")
            for stage in value.stages:
                result = paint(f"{stage.status:<8}", "red" if stage.status == "failed" else "dim")
                yield f"  {result} {stage.name:<20} {duration(stage.seconds)}"
        yield ""
        yield from _checks(value.checks, paint)

    return screen


def reconciled(value: Reconciled, call: LocalCall) -> Screen:
    """Lay out what differs, the dearest first, and what has to be decided."""

    def screen(paint: Paint) -> Iterator[str]:
        for finding in value.mended:
            yield f"{paint('mended', 'green'):<9} {_found(finding, call)}: {clean(finding.what)}"
        right: dict[str, list[str]] = {}
        for finding in value.findings:
            if finding.category is Category.RIGHT:
                right.setdefault(finding.user, []).append(finding.kind)
        differing = [finding for finding in value.findings if finding.category is not Category.RIGHT]
        for finding in sorted(differing, key=lambda one: -(one.monthly or 0)):
            style = "red" if finding.category in {Category.ORPHAN, Category.GHOST} else "yellow"
            yield f"{paint(f'{finding.category.value:<9}', style)} {_found(finding, call)}: {clean(finding.what)}"
            if finding.fix:
                yield f"            --fix {finding.fix}"
            if finding.decision:
                yield f"            {clean(call.pasteable(finding.decision))}"
        for user, holder in value.busy.items():
            yield f"{paint('at work  ', 'yellow')} {user}: {clean(holder)}; nothing of it was judged"
        for user, damage in value.damaged.items():
            yield f"{paint('damaged  ', 'red')} {user}: {clean(damage)} Nothing of it was judged."
        for user, kinds in right.items():
            if all(finding.user != user for finding in differing):
                yield f"{paint('right    ', 'green')} {user}: {', '.join(kinds)}"
        if value.orphans_monthly and not call.labelled:
            yield f"Orphans cost {shown(value.orphans_monthly)} per month without VAT."
        others = [f"{count} {kind.replace('_', ' ')}" for kind, count in value.foreign.items() if count]
        if others:
            yield f"Not clawdet's, and left alone: {', '.join(others)}."
        yield (
            "Everything is as it should be."
            if value.clean
            else f"{len(differing) + len(value.busy) + len(value.damaged)} to look at."
        )

    return screen


def _found(finding: Finding, call: LocalCall) -> str:
    price = f", {finding.monthly.shown} per month" if finding.monthly and not call.labelled else ""
    return clean(f"{finding.kind.replace('_', ' ')} {finding.name} (id {finding.id}{price})")


def rights(values: Sequence[Right]) -> Screen:
    """Lay out what the tokens may do, and how to make better ones."""
    from clawdet_cli.settings import CLOUDFLARE_HOW_TO, HETZNER_HOW_TO  # not above: --help must stay fast

    styles = dict.fromkeys(Verdict, "yellow") | {Verdict.HAS: "green", Verdict.LACKS: "red"}

    def screen(paint: Paint) -> Iterator[str]:
        for token in dict.fromkeys(value.token for value in values):
            yield paint(token, "bold")
            for value in values:
                if value.token == token:
                    verdict = paint(f"{value.verdict.value:<12}", styles[value.verdict])
                    yield f"  {verdict} {value.name:<25} {clean(value.text)}"
            yield ""
        bad = {value.token for value in values if value.verdict in {Verdict.LACKS, Verdict.TOO_MUCH}}
        if not bad and not any(value.verdict is Verdict.UNKNOWN for value in values):
            yield "Both tokens have what clawdet needs, and nothing more that could be found out."
        for token, how in (("HCLOUD_TOKEN", HETZNER_HOW_TO), ("CLOUDFLARE_API_TOKEN", CLOUDFLARE_HOW_TO)):
            if token in bad:
                yield f"A better {token}: {how}"

    return screen


def devices(value: Devices, user: str, call: LocalCall) -> Screen:
    """Lay out who waits to be let in, and who is."""

    def screen(paint: Paint) -> Iterator[str]:
        if not value.pending:
            yield f"Nobody waits to be let in to {user}'s OpenClaw."
            yield "A browser waits once its page was opened and given the token: " + call.pasteable(
                f"clawdet token {user}"
            )
        for one in value.pending:
            yield paint(f"{_device(one)} asks to be let in", "bold") + (f", since {age(one.at)}" if one.at else "")
            yield _row("Device", one.id)
            yield _row("Wants", ", ".join(one.scopes) or "-")
            yield _row("Let it in", call.pasteable(f"clawdet approve {user} {one.request}"))
        if value.pending:
            yield "Whoever asks has the gateway's token. Let in what is yours, and nothing else."
        if value.paired:
            yield ""
            yield paint("Let in already", "bold")
            for one in value.paired:
                yield f"  {_device(one)}, device {one.id[:12]}" + (f", {age(one.at)} ago" if one.at else "")

    return screen


def approved(value: Device) -> Screen:
    """Lay out who was let in."""
    return lambda paint: [paint(f"{_device(value)} is let in; its page goes on by itself.", "green")]


def _device(value: Device) -> str:
    return clean(
        f"{value.platform or 'a device'} ({value.client or 'unknown'}) at {value.address or 'this VPS itself'}"
    )


def firewall(value: Firewall | None) -> Screen:
    """Lay out what the firewall lets in."""

    def screen(_: Paint) -> Iterator[str]:
        if value is None:
            yield "There is no firewall yet: 'clawdet provision' makes it with the first server."
            return
        yield f"Firewall {clean(value.name)} (id {value.id}) lets in, and nothing else:"
        for rule in value.rules:
            yield clean(f"  {rule.protocol} {rule.port:<5} from {', '.join(sorted(rule.sources))}")

    return screen


def rebuilt(values: Sequence[Instance], left: Mapping[str, Sequence[str]], call: LocalCall) -> Screen:
    """Lay out what was recorded again, how to go on with it, and what was left to another database."""

    def screen(paint: Paint) -> Iterator[str]:
        if not values and not left:
            yield "Everything of clawdet's that the clouds show is recorded."
        for value in values:
            parts = {"server": value.server_id, "DNS record": value.record_id, "certificate": value.certificate_id}
            found = [f"{kind} {number}" for kind, number in parts.items() if number]
            lacking = [kind for kind, number in parts.items() if not number and not value.pooled]
            without = f"; not found: {', '.join(lacking)}" if lacking else ""
            yield clean(f"{value.user}: {', '.join(found)}{without}")
            step = f"clawdet provision {value.user}    (checks it, and makes it complete)"
            yield "  " + call.pasteable("clawdet pool status" if value.pooled else step)
        for user, seen in left.items():
            text = f"{clean(user)}: not recorded, since another database may know it. It stands like this:"
            yield paint(text, "yellow")
            yield from (f"  {clean(line)}" for line in seen)
        if left:
            yield "Next:"
            yield "  use the database that knows them: --state FOLDER"
            takes_over = f"clawdet state rebuild {' '.join(left)} --of-another-database"
            yield "  " + clean(call.pasteable(f"{takes_over}    (takes them over, if that is lost)"))

    return screen


def restored(file: Path, done: "Restored", call: LocalCall) -> Screen:
    """Lay out what a backup held that is the database now."""

    def screen(_: Paint) -> Iterator[str]:
        count = done.instances
        yield clean(f"restored from {file}: {count} {'instance' if count == 1 else 'instances'}")
        if done.replaced is not None:
            yield clean(f"what was there is kept as {done.replaced}")
        yield ""
        yield "Next:"
        yield "  " + call.pasteable("clawdet reconcile    (tells what the clouds hold since then, and it does not)")

    return screen


def holdings(value: Holdings, call: LocalCall) -> Screen:
    """Lay out what a destroy would remove."""

    def screen(paint: Paint) -> Iterator[str]:
        yield paint(f"This removes {value.host}, with everything that is on its server:", "red")
        yield ""
        yield from (f"  {clean(line)}" for line in value.found)
        yield ""
        if value.seen:
            yield paint("It is not in this database: another operator may use it. How it stands now:", "red")
            yield ""
            yield from (f"  {clean(line)}" for line in value.seen)
            yield ""
        if value.monthly and not call.labelled:
            yield f"It saves {Price(value.monthly).shown} per month. There is no way back."
        else:
            yield "There is no way back."
        yield ""

    return screen


def destroyed(value: Destroyed, call: LocalCall) -> Screen:
    """Lay out what was removed, and what was looked for and is not there."""

    def screen(paint: Paint) -> Iterator[str]:
        if value.may_appear:
            yield paint(f"Nothing of {value.user} is there now, but an order of a killed run may still come:", "yellow")
            yield ""
        elif not value.removed:
            yield paint(f"Nothing to destroy: {value.user} is gone.", "green")
        else:
            yield paint(f"{value.user} is destroyed: nothing of it exists any more that costs money.", "green")
            yield ""
        yield from (f"  removed   {clean(line)}" for line in value.removed)
        yield from (f"  absent    {clean(line)}" for line in value.absent)
        yield from (f"  not known {clean(line)}" for line in value.not_judged)
        yield from (f"  perhaps   {line}" for line in perhaps(value))
        if value.may_appear:
            yield f"Look again in two minutes: {call.pasteable('clawdet reconcile')}"
        if value.calls:
            yield f"  calls     {_calls(value.calls)}"

    return screen


def perhaps(value: Destroyed) -> list[str]:
    """Return what may still appear of what was destroyed, a sentence each."""
    return [f"{clean(line)} may still appear" for line in value.may_appear]


def failure(error: ClawdetError, next_steps: Sequence[str], call: LocalCall) -> Screen:
    """Lay out a failure: what happened, what exists now and costs money, and what to do."""

    def screen(paint: Paint) -> Iterator[str]:
        where = f" (in the stage {error.stage})" if error.stage else ""
        yield paint("Stopped" if error.kind == "stopped" else "Failed", "red") + f"{where}: {clean(error.what)}"
        yield from (paint(f"  | {clean(line)}", "dim") for line in error.details)
        if error.left_behind:
            yield ""
            yield "What exists now, " + (
                "in the sandbox, where nothing is billed:" if call.labelled else "and what it costs:"
            )
            yield from (f"  {clean(line)}" for line in error.left_behind)
        elif isinstance(error, RecordError) and error.stage is None:
            yield ""
            yield "What exists in the clouds was not touched; without the database it cannot be told."
        elif call.orders and error.kind != "usage" and not isinstance(error, OutputError):
            yield ""
            yield "Nothing was made that costs money."
        if next_steps:
            yield ""
            yield "Next:"
            yield from (f"  {clean(step)}" for step in next_steps)
        if error.log_file:
            yield ""
            yield f"Log: {shlex.quote(error.log_file)}"

    return screen


def _style(value: Standing) -> str:
    if value.healthy:
        return "yellow" if value.not_judged else "green"
    return _STATUS_STYLES.get(value.status, "yellow")


def _server(value: Instance, call: LocalCall) -> str:
    if value.server_id is None:
        return "-"
    price = ""
    if value.monthly and not call.labelled:
        price = f", {Price(value.monthly).shown} per month without VAT"
    return f"{value.server_name} (id {value.server_id}), {value.server_type} in {value.location}, {value.ipv4}{price}"


def _calls(calls: Mapping[str, int]) -> str:
    return ", ".join(f"{count} to {cloud.capitalize()}" for cloud, count in calls.items())


def _row(name: str, text: str) -> str:
    return clean(f"  {name:<13} {text}").rstrip()


def _checks(checks: Sequence[Check], paint: Paint) -> Iterator[str]:
    if not checks:
        yield "No checks were run yet."
        return
    when = f", {age(checks[0].at)} ago" if checks[0].at else ""
    passed = sum(check.result is Result.OK for check in checks)
    yield paint(f"Checks ({passed} of {len(checks)} passed{when})", "bold")
    width = max(len("FAILED"), *(len(_MARKS[check.result][0]) for check in checks))
    column = width + EVIDENCE_COLUMN - len("FAILED")
    for check in checks:
        word, style = _MARKS[check.result]
        first, *more = beside(clean(check.evidence), column)
        yield f"  {paint(f'{word:<{width}}', style)} {check.name:<13} {first}"
        yield from (" " * column + line for line in more)


def _last_check(value: Standing) -> str:
    if not value.checks:
        return "never"
    what = f"failed: {', '.join(value.failed)}" if value.failed else f"{value.checks - len(value.not_judged)} ok"
    if value.not_judged and not value.failed:
        what += f", not judged: {', '.join(value.not_judged)}"
    return f"{what}, {age(value.checked_at)} ago" if value.checked_at else what


def age(at: str) -> str:
    """Write how long ago something was."""
    seconds = max(0, int(time.time() - datetime.fromisoformat(at).timestamp()))
    for size, unit in ((86400, "d"), (3600, "h"), (60, "min")):
        if seconds >= size:
            return f"{seconds // size} {unit}"
    return f"{seconds} s"


def table(head: Sequence[str], rows: Sequence[Sequence[str]], styles: Iterable[str], paint: Paint) -> Iterator[str]:
    """Align columns; the second, the status, is coloured."""
    # Secrets are masked where a screen is written, in the whole of it: of ten thousand rows each cell takes long.
    shown = [[harmless(cell) for cell in row] for row in rows]
    widths = [max(map(len, column)) for column in zip(head, *shown, strict=True)]
    padded = "  ".join(f"{{:<{width}}}" for width in widths)
    yield paint(padded.format(*head).rstrip(), "bold")
    for row, style in zip(shown, styles, strict=True):
        # Colours have no width, so they go around the text with what pads it.
        row[1] = paint(row[1], style) + " " * (widths[1] - len(row[1]))
        yield padded.format(*row).rstrip()
