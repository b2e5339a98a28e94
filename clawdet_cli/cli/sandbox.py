"""`clawdet sandbox ...` and `--sandbox`: of the product, only this module knows the emulated cloud."""

import importlib.util
import os
import platform
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import asdict
from pathlib import Path
from types import ModuleType
from typing import Annotated, Any, Literal

import typer

from clawdet_cli.cli import output
from clawdet_cli.cli.help import HelpCommand, HelpGroup
from clawdet_cli.cli.options import Call, LocalCall, SandboxCall, Servers, with_call
from clawdet_cli.cli.output import Paint, View
from clawdet_cli.errors import ConfigError, StateError, StoppedError
from clawdet_cli.model import Event, now_text

app = typer.Typer(cls=HelpGroup, rich_markup_mode=None)

HELP = """It needs no account and costs nothing. 'clawdet provision alice --sandbox' starts it by itself."""

STAGE = "sandbox"

EXTRA = ("h2", "starlette", "uvicorn")
"""Packages that come with `clawdet[sandbox]` only."""

NOT_RUNNING: Mapping[str, Any] = {
    "hetzner_url": "",
    "hetzner_token": "",
    "cloudflare_url": "",
    "cloudflare_token": "",
    "zone": "clawdet.test",
    "edge_address": "",
    "dns_address": "127.0.0.1:0",
    "ca_file": "",
    "dial_file": "",
    "artifacts": {},
    "servers": "stopped",
}
"""Stands for the sandbox where only the local record is read."""

Yes = Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.", show_default=False)]


def description(
    call: Call, view: View, *, make: bool, install_tools: bool = False, local: bool = False
) -> Mapping[str, Any]:
    """Give what the sandbox of this call says of itself.

    `make` starts one where none is; otherwise one that stopped is started again, and one that never was is a
    StateError. `install_tools` is the consent to
    install what real servers need. `local` is content with a sandbox that does not run.
    """
    folder = _folder(call)
    # No call may bring in the sandbox's own imports for the sake of a local record.
    if not make and not folder.exists():
        if local:
            return NOT_RUNNING
        raise StateError(
            f"There is no sandbox in {folder}, so there is nothing in it.",
            next_steps=["clawdet provision alice", "clawdet sandbox up"],
        )
    with _translated() as cloud:
        running = cloud.info(folder)
    if running is not None and call.servers in {None, Servers.AUTO, running.servers}:
        return asdict(running)
    return NOT_RUNNING if local else _up(call, view, servers=call.servers, install_tools=install_tools)


@app.command(
    cls=HelpCommand,
    help="""Start the sandbox, or find it running.

The sandbox is a cloud on this machine: emulators of the Hetzner and Cloudflare APIs, a DNS server, an edge with TLS,
and servers that are real systemd machines (root on Linux) or simulated ones. It needs no account and costs nothing.
It goes on running in the background until 'clawdet sandbox down'. The first start of real machines makes their
base image and packs what they install: some minutes. 'clawdet provision alice --sandbox' starts it by itself.""",
    epilog="Example: clawdet sandbox up --servers simulated",
)
@with_call
def up(
    call: SandboxCall,
    *,
    servers: Annotated[
        Servers | None,
        typer.Option(
            "--servers",
            metavar="KIND",
            help="real (systemd machines; root on Linux), simulated, or auto: real where possible. Default: auto.",
            show_default=False,
        ),
    ] = None,
    guest: Annotated[
        Literal["debian12", "debian13", "ubuntu-like"] | None,
        typer.Option(
            "--guest",
            metavar="SYSTEM",
            help="What real machines are: debian12, debian13, or ubuntu-like, which is Debian 13 made to behave like "
            "Ubuntu 24.04. Default: debian12.",
            show_default=False,
        ),
    ] = None,
    boot_seconds: Annotated[
        float | None,
        typer.Option(
            "--boot-seconds",
            metavar="SECONDS",
            min=0,
            max=600,
            help="How long a new server takes until it boots. Default: 10.",
            show_default=False,
        ),
    ] = None,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Install the Debian packages that are missing.")] = False,
) -> None:
    """Start the sandbox."""
    with output.progress(call) as view:
        info = _up(call, view, servers=servers, guest=guest, boot_seconds=boot_seconds, install_tools=yes)
    _show(call, info)


@app.command(
    cls=HelpCommand,
    help="""Remove the sandbox with all servers, records and instances in it.

Downloaded images and programs are kept for the next one, unless --purge is given.""",
    epilog="Example: clawdet sandbox down --yes",
)
@with_call
def down(
    call: SandboxCall,
    *,
    yes: Yes = False,
    purge: Annotated[
        bool, typer.Option("--purge", help="Also remove the downloaded images and programs, which sandboxes share.")
    ] = False,
) -> None:
    """Remove the sandbox."""
    folder = _folder(call)
    ask = folder.exists() and not yes
    if ask:
        output.need_consent("clawdet sandbox down", "removes the sandbox")
    with output.progress(call) as view:
        if ask:
            question = f"Remove the sandbox in {folder} with everything in it? [y/N]"
            if output.ask(view, lambda _: [], question).lower() not in {"y", "yes"}:
                raise StoppedError("Not confirmed: nothing was removed.")
        with _translated() as cloud, _reported(view, "Removing the sandbox") as report:
            removed = [*cloud.down(folder, _cache(), purge=purge, report=report), *_forget(folder.parent)]
    output.result(
        call,
        {"removed": removed},
        lambda _: (
            ["The sandbox is gone.", *(f"  removed   {what}" for what in removed)]
            if removed
            else ["There is no sandbox: nothing to remove."]
        ),
    )


@app.command(help="Show whether the sandbox runs, and its servers.", epilog="Example: clawdet sandbox status --json")
@with_call
def status(call: SandboxCall) -> None:
    """Show the sandbox's condition."""
    folder = _folder(call)
    with _translated() as cloud:
        found = cloud.status(folder)
    servers = [asdict(server) for server in found.servers]

    def screen(paint: Paint) -> Iterator[str]:
        yield f"The sandbox in {folder} {paint('runs', 'green') if found.running else 'does not run'}."
        yield ""
        yield "Servers:" if servers else "It has no servers."
        for server in servers:
            yield output.clean("  {name} (id {id}): {state}, {ipv4}, {kind}".format(**server))

    output.result(call, {"running": found.running, "folder": str(folder), "servers": servers}, screen)


@app.command(
    cls=HelpCommand,
    help="""Show where the sandbox's APIs, DNS server and edge answer.

With --json also the tokens, for use with other tools: hcloud, curl, your own scripts. They open nothing but this
sandbox.""",
    epilog="Example: clawdet sandbox info --json | jq -r .hetzner_url",
)
@with_call
def info(call: SandboxCall) -> None:
    """Show the sandbox's addresses."""
    folder = _folder(call)
    with _translated() as cloud:
        found = cloud.info(folder)
    if found is None:
        raise StateError(f"No sandbox is running in {folder}.", next_steps=["clawdet sandbox up"])
    _show(call, asdict(found))


def _show(call: LocalCall, found: dict[str, Any]) -> None:
    from clawdet_cli.cli import look  # not above: it brings ssl, which takes long to load

    home = _folder(call).parent
    described = {**found, "state_file": str(home / "clawdet.db"), "ssh_key_file": str(home / "ssh" / "id_ed25519")}
    host = f"alice.{found['zone']}"

    def screen(_: Paint) -> Iterator[str]:
        for name, value in described.items():
            if name != "artifacts" and value != "":
                shown = "(shown with --json)" if "token" in name else value
                yield f"  {name.replace('_', ' '):<20} {shown}"
        yield ""
        yield f"To look at a name in it, such as {host} once alice is provisioned:"
        yield from look.commands(host, found["edge_address"], found["ca_file"])
        yield ""
        yield "Next: " + call.pasteable("clawdet provision alice --sandbox")

    if call.json:
        output.revealing(call, described)  # the sandbox's own tokens, for programs that try something in it
    else:
        output.result(call, described, screen)


def _up(call: LocalCall, view: View, *, install_tools: bool = False, **wanted: Any) -> dict[str, Any]:
    """Start the sandbox. What is not said stays as it is, or was in the sandbox that stopped."""
    folder = _folder(call)
    with _translated() as cloud, _reported(view, "Starting the sandbox") as report:
        before = cloud.status(folder)
        kept = {name: getattr(before.info, name) for name in wanted} if before.info else {}
        if not before.info and before.servers:
            kept["servers"] = before.servers[0].kind
        said = {name: value for name, value in wanted.items() if value is not None}
        nodes, caddy = _downloads(cloud)
        info = cloud.up(
            folder, _cache(), nodes=nodes, caddy=caddy, install_tools=install_tools, report=report, **kept | said
        )
        return asdict(info)


def downloads(view: View) -> tuple[Path, str, dict[str, dict[str, str]]]:
    """Fill the mirror that servers download from; give its folder, its address for them, and where its files are."""
    with _translated() as cloud, _reported(view, "Filling the sandbox's mirror") as report:
        nodes, caddy = _downloads(cloud)
        filled: tuple[Path, str, dict[str, dict[str, str]]] = cloud.local_downloads(
            _cache(), nodes=nodes, caddy=caddy, report=report
        )
    return filled


def _downloads(cloud: ModuleType) -> tuple[list[Any], Any]:
    """Give what real servers are to find in the sandbox's mirror: all that is pinned for this machine's processor."""
    from clawdet_cli import pins  # not above: --help must stay fast

    architecture = "arm" if platform.machine() in {"aarch64", "arm64"} else "x86"
    known = pins.load()
    pinned = [known.for_openclaw(version, architecture) for version in known.openclaw_versions]
    nodes = {one.node.version: (one.node.version, one.npm_version, one.node.executable_sha256) for one in pinned}
    caddy = pinned[0].caddy
    return [cloud.NodeWanted(*node) for node in nodes.values()], cloud.CaddyWanted(
        caddy.version, caddy.executable_sha256
    )


@contextmanager
def _reported(view: View, title: str) -> Iterator[Callable[[str], None]]:
    """Show work on the sandbox like a stage."""
    view.watch(Event("stage_started", now_text(), STAGE, text=title))
    status, outcome = "failed", ""
    began = time.monotonic()
    try:
        yield lambda text: view.watch(Event("note", now_text(), STAGE, text=text))
        status, outcome = "done", title
    finally:
        seconds = time.monotonic() - began
        view.watch(Event("stage_finished", now_text(), STAGE, text=outcome, status=status, seconds=seconds))


@contextmanager
def _translated() -> Iterator[ModuleType]:
    """Give the sandbox's package; its errors leave as ours."""
    missing = [name for name in EXTRA if importlib.util.find_spec(name) is None]
    if missing:
        raise ConfigError(
            f"The sandbox is not installed: the Python package '{missing[0]}' is missing.",
            next_steps=["pip install 'clawdet[sandbox]'"],
        )
    from clawdet_cli import sandbox  # not above: it is loaded only where it is used

    try:
        yield sandbox
    except sandbox.SandboxError as error:
        raise ConfigError(
            error.what[:1].upper() + error.what[1:].removesuffix(".") + ".",
            next_steps=[error.next_step] if error.next_step else [],
        ) from error


def _forget(home: Path) -> list[str]:
    """Remove the local record of what the sandbox held: it would tell of servers that are gone."""
    ours = [home / name for name in ("clawdet.db", "clawdet.db-wal", "clawdet.db-shm", "clawdet.db-journal")]
    ours += [*home.glob("ssh/id_ed25519*"), *home.glob("ssh/known_hosts-*"), *home.glob("logs/*.log")]
    found = [path for path in ours if path.exists()]
    for path in found:
        path.unlink()
    for folder in (home / "cloud", home / "ssh", home / "logs", home):
        with suppress(OSError):  # not there, or something of another's is in it
            folder.rmdir()
    return [f"the local record in {home}"] if found else []


def _folder(call: LocalCall) -> Path:
    from clawdet_cli.settings import state_folder  # not above: --help must stay fast

    return state_folder(call.state) / "sandbox" / "cloud"


def _cache() -> Path:
    import platformdirs  # not above: --help must stay fast

    from clawdet_cli.settings import expanded  # not above, either

    chosen = os.environ.get("CLAWDET_CACHE")
    return expanded(chosen).absolute() if chosen else platformdirs.user_cache_path("clawdet")
