"""`clawdet provision USER...`."""

from typing import TYPE_CHECKING, Annotated

import typer

from clawdet_cli.cli import documents, output, screens
from clawdet_cli.cli.configure import Configured, configure
from clawdet_cli.cli.options import Call, SshFrom, with_call
from clawdet_cli.cli.output import View
from clawdet_cli.errors import ClawdetError
from clawdet_cli.model import Instance, Plan, checked_user

if TYPE_CHECKING:
    from clawdet_cli.operations import Outcome

HELP = """Give a user a personal OpenClaw server, or bring a half-made one to its end.

Orders a VPS at Hetzner Cloud, makes USER.ZONE at Cloudflare point to it, installs OpenClaw with strict TLS, and
verifies it from outside. The VPS costs money (some EUR 6 to 20 per month, by type), billed by the hour
from the order until 'clawdet destroy USER'; on a terminal its price is shown and asked for first. Everything else is
free of charge.

Run the same command again after a failure: it goes on from where it stopped, and never orders twice.

Secrets come from the environment or the configuration file, never from flags: HCLOUD_TOKEN (Hetzner, Read & Write),
CLOUDFLARE_API_TOKEN (Zone Read, DNS Edit, SSL and Certificates Edit, Zone Settings Read), and a model provider's key:
ANTHROPIC_API_KEY, OPENAI_API_KEY, XAI_API_KEY or OPENROUTER_API_KEY."""

EPILOG = """\b
Examples:
  clawdet provision alice --sandbox                    try it, without an account
  clawdet provision alice --zone example.com           for real
  clawdet provision alice --zone example.com --dry-run only look
  clawdet provision alice bob --yes --json             in a script"""

SERVER = "Server and software"


@with_call
def provision(
    call: Call,
    users: Annotated[
        list[str], typer.Argument(metavar="USER", help="One or more user names: a-z, 0-9 and '-'.", show_default=False)
    ],
    *,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Show what would be made and what it costs; make nothing.")
    ] = False,
    yes: Annotated[
        bool,
        typer.Option(
            "--yes", "-y", help="Do not ask before something is bought; with --sandbox, install missing packages."
        ),
    ] = False,
    server_type: Annotated[
        str | None,
        typer.Option(
            "--server-type",
            metavar="TYPES",
            help="Hetzner types in the order to try. Default: $CLAWDET_SERVER_TYPE or cpx22,cx23,cx33.",
            show_default=False,
            rich_help_panel=SERVER,
        ),
    ] = None,
    location: Annotated[
        str | None,
        typer.Option(
            "--location",
            metavar="PLACES",
            help="Hetzner locations in the order to try. Default: $CLAWDET_LOCATION or nbg1,fsn1,hel1.",
            show_default=False,
            rich_help_panel=SERVER,
        ),
    ] = None,
    image: Annotated[
        str | None,
        typer.Option(
            "--image",
            metavar="IMAGE",
            help="System image. Default: $CLAWDET_IMAGE or ubuntu-24.04.",
            show_default=False,
            rich_help_panel=SERVER,
        ),
    ] = None,
    ssh_from: SshFrom = None,
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
    openclaw_version: Annotated[
        str | None,
        typer.Option(
            "--openclaw-version",
            metavar="VERSION",
            help="Default: $CLAWDET_OPENCLAW_VERSION or the newest tested one.",
            show_default=False,
            rich_help_panel=SERVER,
        ),
    ] = None,
    bundle: Annotated[
        str | None,
        typer.Option(
            "--bundle",
            metavar="FILE|URL",
            help="Install from a prepared bundle: a file, https://... with its manifest beside it, or"
            " URL#sha256=DIGEST; 'none' is npm. Default: $CLAWDET_BUNDLE, else npm.",
            show_default=False,
            rich_help_panel=SERVER,
        ),
    ] = None,
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
) -> None:
    """Give each user an instance, one after the other."""
    wanted = [checked_user(user) for user in dict.fromkeys(users)]
    flags = {
        "server_types": server_type,
        "locations": location,
        "image": image,
        "ssh_from": ssh_from,
        "origin_pull_ca": origin_pull_ca,
        "openclaw_version": openclaw_version,
        "bundle": bundle,
        "model": model,
    }
    if dry_run:
        _show_plans(call, wanted, flags)
        return
    done: list[Outcome] = []
    for user in wanted:
        try:
            done.append(_provision_one(call, user, flags, ask=not yes))
        except ClawdetError as error:
            if done:
                error.details += (f"complete before that: {', '.join(one.instance.user for one in done)}",)
            raise
    if call.json:
        found = documents.instances([one.instance for one in done])
        content: documents.Document = {"instance": found[0]} if len(done) == 1 else {"instances": found}
        output.result(call, content | documents.calls([one.calls for one in done]), lambda _: [])


def _provision_one(call: Call, user: str, flags: dict[str, str | None], *, ask: bool) -> "Outcome":
    from clawdet_cli import operations  # not above: --help must stay fast

    with output.progress(call) as view:
        configured = configure(call, view, flags, make=True, install_tools=not ask)
        outcome = operations.provision(
            configured.settings, user, view.watch, lambda plan: not ask or _approved(plan, call, view)
        )
    if not call.json:
        screen = screens.provisioned(
            outcome.instance,
            call,
            already=outcome.already_complete,
            calls=outcome.calls,
            remarks=_remarks(configured, outcome.instance),
        )
        output.result(call, {}, screen, label=configured.label)
    return outcome


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


def _show_plans(call: Call, users: list[str], flags: dict[str, str | None]) -> None:
    from clawdet_cli import operations  # not above: --help must stay fast

    with output.progress(call) as view:
        configured = configure(call, view, flags, make=True)
        plans = [operations.plan(configured.settings, user, view.watch) for user in users]
    described = [documents.plan(plan) for plan in plans]
    output.result(
        call,
        {"plan": described[0]} if len(described) == 1 else {"plans": described},
        lambda paint: [line for plan in plans for line in screens.plan(plan, call)(paint)] + ["Nothing was made."],
        label=configured.label,
    )
