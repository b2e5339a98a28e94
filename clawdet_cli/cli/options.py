"""The options that commands share, declared once and handed to a body as one value."""

import functools
import inspect
import shlex
from collections.abc import Callable
from dataclasses import dataclass, fields
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any, get_origin, get_type_hints

import typer

SHARED = "Options of all commands"
SERVER = "Server and software"


class Servers(StrEnum):
    """What stands for a VPS in the sandbox."""

    AUTO = "auto"
    REAL = "real"
    SIMULATED = "simulated"


User = Annotated[
    str, typer.Argument(metavar="USER", help="The user's name: also the host name below your zone.", show_default=False)
]


SshFrom = Annotated[
    str | None,
    typer.Option(
        "--ssh-from",
        metavar="NETWORKS",
        help="Let only these reach SSH on every VPS of the project: 203.0.113.7,198.51.100.0/24. Default:"
        " $CLAWDET_SSH_FROM, else as it is (everywhere at first, by key only).",
        show_default=False,
    ),
]


Strict = Annotated[
    bool,
    typer.Option("--strict", help="Exit with code 6 also where Cloudflare kept a check from being judged."),
]


OfAnotherDatabase = Annotated[
    bool,
    typer.Option(
        "--of-another-database",
        help="Also what clawdet made and this database does not record: another operator may use it.",
    ),
]


ReplaceSshFrom = Annotated[
    bool,
    typer.Option(
        "--replace-ssh-from",
        help="With --ssh-from: do not ask before networks are locked out that somebody else has let in.",
    ),
]


@dataclass(frozen=True)
class LocalCall:
    """What every command line may say."""

    state: Annotated[
        Path | None,
        typer.Option(
            "--state",
            metavar="FOLDER",
            help="Folder of the local record, the run logs and the SSH key. Default: $CLAWDET_STATE or the platform's.",
            show_default=False,
            rich_help_panel=SHARED,
        ),
    ] = None
    json: Annotated[
        bool,
        typer.Option("--json", help="Print one JSON document on stdout, on failure too.", rich_help_panel=SHARED),
    ] = False
    quiet: Annotated[
        bool, typer.Option("--quiet", "-q", help="Show no progress on stderr.", rich_help_panel=SHARED)
    ] = False
    events: Annotated[
        bool,
        typer.Option("--events", help="Write progress to stderr as JSON, one event a line.", rich_help_panel=SHARED),
    ] = False
    debug: Annotated[
        bool, typer.Option("--debug", help="Show the traceback of a bug in clawdet.", rich_help_panel=SHARED)
    ] = False
    command: str = ""
    """Which command it is, as `clawdet provision`."""
    server_flags: tuple[str, ...] = ()
    """What was said of the server that it makes, as it was given."""

    @property
    def labelled(self) -> bool:
        """Say whether the output is about the sandbox."""
        return False

    @property
    def orders(self) -> bool:
        """Return whether the command orders servers."""
        return self.command in {"clawdet provision", "clawdet pool fill"}

    def pasteable(self, step: str) -> str:
        """Complete a `clawdet ...` line, so that it means the same instance when it is pasted.

        What follows four blanks in brackets is a remark, and becomes a comment of the shell.
        """
        command, _, remark = step.removesuffix(")").partition("    (")
        if not command.startswith("clawdet "):
            return step
        local = command.startswith("clawdet sandbox ")
        before, dashes, remote = command.partition(" -- ")
        # To go on with another type, place or version than those that were asked for would buy something else.
        again = self.server_flags if self.command and before.startswith(f"{self.command} ") else ()
        flags = shlex.join([*again, *(LocalCall.repeated(self) if local else self.repeated())])
        completed = " ".join(part for part in (before, flags) if part) + dashes + remote
        return completed + (f"  # {remark}" if remark else "")

    def repeated(self) -> list[str]:
        """Give the flags that the next command needs too."""
        return ["--state", str(self.state)] if self.state else []


@dataclass(frozen=True)
class SandboxCall(LocalCall):
    """What a command line about the sandbox itself may say."""

    @property
    def labelled(self) -> bool:
        """Say whether the output is about the sandbox."""
        return True


@dataclass(frozen=True)
class Call(LocalCall):
    """What a command line that works with instances may say."""

    sandbox: Annotated[
        bool,
        typer.Option(
            "--sandbox", help="Use a cloud emulated on this machine: no account, no cost.", rich_help_panel=SHARED
        ),
    ] = False
    servers: Annotated[
        Servers | None,
        typer.Option(
            "--servers",
            metavar="KIND",
            help="With --sandbox: real (systemd machines; root on Linux), simulated, or auto. Default: auto.",
            show_default=False,
            rich_help_panel=SHARED,
        ),
    ] = None
    zone: Annotated[
        str | None,
        typer.Option(
            "--zone",
            metavar="DOMAIN",
            help="Your domain at Cloudflare. Default: $CLAWDET_ZONE.",
            show_default=False,
            rich_help_panel=SHARED,
        ),
    ] = None
    ssh_key: Annotated[
        Path | None,
        typer.Option(
            "--ssh-key",
            metavar="FILE",
            help="Your private key for the VPS. Default: $CLAWDET_SSH_KEY, else one is made in the state folder.",
            show_default=False,
            rich_help_panel=SHARED,
        ),
    ] = None
    ssh_proxy: Annotated[
        str | None,
        typer.Option(
            "--ssh-proxy",
            metavar="COMMAND",
            help="Reach the VPS through this command, such as 'ssh -W %h:%p jump.example.com'; 'none' is straight."
            " Default: $CLAWDET_SSH_PROXY, else straight.",
            show_default=False,
            rich_help_panel=SHARED,
        ),
    ] = None
    timeout: Annotated[
        float | None,
        typer.Option(
            "--timeout",
            metavar="SECONDS",
            min=1,
            max=86400,
            help="Give up after so long. Default: $CLAWDET_TIMEOUT or 900.",
            show_default=False,
            rich_help_panel=SHARED,
        ),
    ] = None
    lock_wait: Annotated[
        float | None,
        typer.Option(
            "--lock-wait",
            metavar="SECONDS",
            min=0,
            max=86400,
            help="Wait so long for another run on the same user. Default: $CLAWDET_LOCK_WAIT or 0.",
            show_default=False,
            rich_help_panel=SHARED,
        ),
    ] = None

    @property
    def labelled(self) -> bool:
        """Say whether the output is about the sandbox."""
        return self.sandbox

    def repeated(self) -> list[str]:
        """Give the flags that the next command needs too."""
        flags = ["--sandbox"] if self.sandbox else []
        flags += super().repeated()
        flags += ["--zone", self.zone] if self.zone else []
        flags += ["--ssh-key", str(self.ssh_key)] if self.ssh_key else []
        flags += ["--ssh-proxy", self.ssh_proxy] if self.ssh_proxy else []
        return flags

    def setting_flags(self) -> dict[str, Any]:
        """Give the flags that are settings, by their names there."""
        return {
            "state": self.state,
            "zone": self.zone,
            "ssh_key": self.ssh_key,
            "ssh_proxy": self.ssh_proxy,
            "timeout": self.timeout,
            "lock_wait": self.lock_wait,
        }


def with_call(body: Callable[..., None]) -> Callable[..., None]:
    """Turn a body, whose first parameter is a call, into a Typer command with that call's options beside its own."""
    first, *own = inspect.signature(body, eval_str=True).parameters.values()
    kind: type[LocalCall] = first.annotation
    hints = get_type_hints(kind, include_extras=True)
    shared = [
        inspect.Parameter(
            field.name, inspect.Parameter.KEYWORD_ONLY, default=field.default, annotation=hints[field.name]
        )
        for field in fields(kind)
        if get_origin(hints[field.name]) is Annotated
    ]
    context = inspect.Parameter("ctx", inspect.Parameter.POSITIONAL_OR_KEYWORD, annotation=typer.Context)

    @functools.wraps(body)
    def command(ctx: typer.Context, **values: Any) -> None:
        said = {parameter.name: values.pop(parameter.name) for parameter in shared}
        call = kind(**said, command=ctx.command_path, server_flags=_server_flags(ctx))
        # The error boundary completes the next steps of a failure with this call's flags.
        ctx.find_root().obj.append(call)
        body(call, **values)

    # Typer asks for the signature; what it finds there, it parses.
    vars(command)["__signature__"] = inspect.Signature([context, *own, *shared])
    return command


def _server_flags(ctx: typer.Context) -> tuple[str, ...]:
    """Return the flags of the panel SERVER that were given, without addresses: they may hold a password."""
    given: list[str] = []
    for option in ctx.command.params:
        value, source = ctx.params.get(option.name or ""), ctx.get_parameter_source(option.name or "")
        of_server = getattr(option, "rich_help_panel", None) == SERVER
        if of_server and source is not None and source.name == "COMMANDLINE" and "://" not in str(value):
            given += [option.opts[0], str(value)]
    return tuple(given)
