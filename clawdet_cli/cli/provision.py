"""`clawdet provision USER...`."""

from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from typing import TYPE_CHECKING, Annotated

import typer

from clawdet_cli.cli import documents, output, screens
from clawdet_cli.cli.configure import Configured, configure
from clawdet_cli.cli.networks import asking_for_networks
from clawdet_cli.cli.options import SERVER, Call, ReplaceSshFrom, SshFrom, Strict, with_call
from clawdet_cli.cli.output import View
from clawdet_cli.cli.server_options import (
    Bundle,
    Flags,
    Image,
    Location,
    OpenclawVersion,
    PoolDays,
    ServerType,
)
from clawdet_cli.cli.users import PARALLEL, FromFile, Parallel, Users, wanted
from clawdet_cli.errors import ClawdetError, GuestError
from clawdet_cli.model import Instance, Plan

if TYPE_CHECKING:
    from clawdet_cli.operations import Outcome
    from clawdet_cli.settings import Settings

HELP = """\
Orders a VPS at Hetzner Cloud, makes USER.ZONE at Cloudflare point to it, installs OpenClaw with strict TLS, and
verifies it from outside. The VPS costs money (some EUR 6 to 20 per month, by type), billed by the hour
from the order until 'clawdet destroy USER'; on a terminal its price is shown and asked for first. Everything else is
free of charge.

Run the same command again after a failure: it goes on from where it stopped, and never orders twice.

Several users are worked on at once. The price is asked for once, a failure of one does not stop the others, and the
exit code is the greatest of their failures' codes.

Secrets come from the environment or the configuration file, never from flags: HCLOUD_TOKEN (Hetzner, Read & Write),
CLOUDFLARE_API_TOKEN (Zone Read, DNS Edit, SSL and Certificates Edit, Zone Settings Read), and a model provider's key:
ANTHROPIC_API_KEY, OPENAI_API_KEY, XAI_API_KEY or OPENROUTER_API_KEY."""

EPILOG = """\b
Examples:
  clawdet provision alice --sandbox                    try it, without an account
  clawdet provision alice --zone example.com           for real
  clawdet provision alice --zone example.com --dry-run only look
  clawdet provision alice bob --yes --json             in a script
  clawdet provision --file users.txt --parallel 50     many at once; '-' for standard input"""


@with_call
def provision(
    call: Call,
    users: Users = None,
    *,
    file: FromFile = None,
    parallel: Parallel = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Show what would be made and what it costs; make nothing.")
    ] = False,
    yes: Annotated[
        bool,
        typer.Option(
            "--yes", "-y", help="Do not ask before something is bought; with --sandbox, install missing packages."
        ),
    ] = False,
    server_type: ServerType = None,
    location: Location = None,
    image: Image = None,
    ssh_from: SshFrom = None,
    replace_ssh_from: ReplaceSshFrom = False,
    origin_pull_ca: Annotated[
        str | None,
        typer.Option(
            "--origin-pull-ca",
            metavar="FILE",
            help="Have the VPS's web server answer Cloudflare's own certificate alone, signed by this authority (PEM);"
            " 'none' ends that. Default: $CLAWDET_ORIGIN_PULL_CA, else as it is.",
            show_default=False,
            rich_help_panel=SERVER,
        ),
    ] = None,
    openclaw_version: OpenclawVersion = None,
    bundle: Bundle = None,
    pool_days: PoolDays = None,
    model: Annotated[
        str | None,
        typer.Option(
            "--model",
            metavar="PROVIDER/MODEL",
            help="Default: $CLAWDET_MODEL or a model of the first provider that has a key.",
            show_default=False,
            rich_help_panel=SERVER,
        ),
    ] = None,
    strict: Strict = False,
) -> None:
    """Give each user an instance."""
    names = wanted(users, file)
    flags: Flags = {
        "server_types": server_type,
        "locations": location,
        "image": image,
        "ssh_from": ssh_from,
        "replace_ssh_from": replace_ssh_from,
        "origin_pull_ca": origin_pull_ca,
        "openclaw_version": openclaw_version,
        "bundle": bundle,
        "pool_days": pool_days,
        "model": model,
    }
    if dry_run:
        _show_plans(call, names, flags)
    elif len(names) == 1:
        _provision_one(call, names[0], flags, ask=not yes, strict=strict)
    else:
        _provision_all(call, names, flags, ask=not yes, strict=strict, parallel=parallel or PARALLEL)


def _provision_one(call: Call, user: str, flags: Flags, *, ask: bool, strict: bool) -> None:
    from clawdet_cli import operations  # not above: --help must stay fast

    with output.progress(call) as view:
        configured = configure(call, view, flags, make=True, install_tools=not ask)

        def bring_up(settings: "Settings") -> "Outcome":
            return operations.provision(settings, user, view.watch, lambda plan: not ask or _approved(plan, call, view))

        outcome = asking_for_networks(call, view, configured.settings, bring_up)
    screen = screens.provisioned(
        outcome.instance,
        call,
        already=outcome.already_complete,
        calls=outcome.calls,
        remarks=[] if call.json else _remarks(configured, outcome.instance),
    )
    content = {"instance": documents.instance(outcome.instance), **documents.calls([outcome.calls])}
    output.result(call, content, screen, label=configured.label)
    if strict and outcome.instance.standing.not_judged:
        raise typer.Exit(GuestError.exit_code)


def _provision_all(call: Call, users: list[str], flags: Flags, *, ask: bool, strict: bool, parallel: int) -> None:
    from clawdet_cli import fleet  # not above: --help must stay fast
    from clawdet_cli.cli import summary

    with output.progress(call, users=True) as view:
        configured = configure(call, view, flags, make=True, install_tools=not ask)

        def approved(plans: Sequence[Plan], failures: Mapping[str, ClawdetError]) -> bool:
            question = "Make them? [y/N]"
            return output.ask(view, summary.plans(plans, failures, call), question).lower() in {"y", "yes"}

        approve = approved if ask and output.interactive() else None
        made = fleet.provision(configured.settings, users, view.watch, approve, parallel=parallel)
    instances = {user: outcome.instance for user, outcome in made.done.items()}
    bad = {user: unseen for user, one in instances.items() if strict and (unseen := screens.not_judged(one))}

    def well(user: str) -> str:
        unseen = instances[user].standing.not_judged
        return f"{instances[user].url}" + (f" (not judged: {', '.join(unseen)})" if unseen else "")

    screen = summary.summary(made, call, verb="provision", well=well, bad=bad)
    output.result(call, summary.document(made, call) if call.json else {}, screen, label=configured.label)
    summary.report_if_quiet(made, call)
    if code := max(made.exit_code, GuestError.exit_code if bad else 0):
        raise typer.Exit(code)


def _approved(plan: Plan, call: Call, view: View) -> bool:
    if not output.interactive():
        return True
    return output.ask(view, screens.plan(plan, call), "Make it? [y/N]").lower() in {"y", "yes"}


def _remarks(configured: Configured, instance: Instance) -> list[str]:
    """Say what the user still has to do or to know."""
    remarks = []
    if not configured.settings.provider_keys:
        remarks.append("OpenClaw has no model provider's key yet, so it cannot answer: set one, such as")
        remarks.append("ANTHROPIC_API_KEY, and run this command again.")
    if configured.sandbox:
        from clawdet_cli.cli import look  # not above: only the sandbox needs it

        remarks.append("The name resolves nowhere but in this sandbox. To look at it:")
        remarks += look.commands(instance.host, configured.sandbox["edge_address"], configured.sandbox["ca_file"])
    return remarks


def _show_plans(call: Call, users: list[str], flags: Flags) -> None:
    from clawdet_cli import operations  # not above: --help must stay fast

    with output.progress(call) as view:
        configured = configure(call, view, flags, make=True)
        several = operations.sharing(configured.settings) if len(users) > 1 else nullcontext()
        with several as common:
            plans = [operations.plan(configured.settings, user, view.watch, common) for user in users]
    described = [documents.plan(plan) for plan in plans]
    output.result(
        call,
        {"plan": described[0]} if len(described) == 1 else {"plans": described},
        lambda paint: [line for plan in plans for line in screens.plan(plan, call)(paint)] + ["Nothing was made."],
        label=configured.label,
    )
