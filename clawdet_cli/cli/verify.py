"""`clawdet verify USER...`."""

import typer

from clawdet_cli.cli import documents, output, screens
from clawdet_cli.cli.configure import configure
from clawdet_cli.cli.options import Call, Strict, with_call
from clawdet_cli.cli.users import PARALLEL, FromFile, Parallel, Users, wanted
from clawdet_cli.errors import GuestError

HELP = """\
Six checks: the server runs at Hetzner; the DNS record is proxied and points at it; OpenClaw's service is active and
not restarting; the gateway answers on the VPS and through the public name, and refuses who has no token; the landing
page comes from this very machine through the edge; the address is recorded. Nothing is changed and it costs nothing.

Where Cloudflare itself turns clawdet away (Bot Fight Mode, Browser Integrity Check, a rule of the zone) and the VPS,
asked over SSH, answers as it should, a check is not judged: a warning, with the setting to change.

Exit code 0: none failed. 6: one or more failed; with --strict also if one was not judged."""

EPILOG = "Example: clawdet verify alice --json | jq '.instance.checks[] | select(.result == \"failed\")'"


@with_call
def verify(
    call: Call, users: Users = None, *, file: FromFile = None, parallel: Parallel = None, strict: Strict = False
) -> None:
    """Run the six checks."""
    names = wanted(users, file)
    if len(names) == 1:
        _verify_one(call, names[0], strict=strict)
    else:
        _verify_all(call, names, parallel or PARALLEL, strict=strict)


def _verify_one(call: Call, user: str, *, strict: bool) -> None:
    from clawdet_cli import operations  # not above: --help must stay fast

    with output.progress(call) as view:
        configured = configure(call, view)
        with view.working(f"Checking {user}"):
            instance = operations.verify(configured.settings, user, view.watch)
    content = {"instance": documents.instance(instance)}
    output.result(call, content, screens.verified(instance, call), label=configured.label)
    standing = instance.standing
    if not standing.checks or standing.failed or (strict and standing.not_judged):
        raise typer.Exit(GuestError.exit_code)


def _verify_all(call: Call, users: list[str], parallel: int, *, strict: bool) -> None:
    from clawdet_cli import fleet  # not above: --help must stay fast
    from clawdet_cli.cli import summary

    with output.progress(call, users=True) as view:
        configured = configure(call, view)
        seen = fleet.verify(configured.settings, users, view.watch, parallel=parallel)
    bad = summary.amiss(seen.done, strict=strict)
    screen = summary.summary(seen, call, verb="verify", well=lambda user: summary.passed(seen.done[user]), bad=bad)
    output.result(call, summary.document(seen, call) if call.json else {}, screen, label=configured.label)
    summary.report_if_quiet(seen, call)
    if code := max(seen.exit_code, GuestError.exit_code if bad else 0):
        raise typer.Exit(code)
