"""Makes a command line's settings, of the real clouds or of the sandbox."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from clawdet_cli.cli.options import Call
from clawdet_cli.cli.output import View
from clawdet_cli.cli.sandbox import description
from clawdet_cli.errors import UsageError

if TYPE_CHECKING:
    from clawdet_cli.settings import Settings


@dataclass(frozen=True)
class Configured:
    """The settings, and what the sandbox says of itself where it is one."""

    settings: "Settings"
    sandbox: Mapping[str, Any] | None

    @property
    def label(self) -> str:
        """How output is marked; empty for the real clouds."""
        return (
            f"{self.settings.endpoints.sandbox}: nothing here is real, and nothing is billed." if self.sandbox else ""
        )


def configure(
    call: Call,
    view: View,
    flags: Mapping[str, str | float | None] | None = None,
    *,
    make: bool = False,
    install_tools: bool = False,
    local: bool = False,
) -> Configured:
    """Find every setting of this call; the last three are those of `sandbox.description`. Raises ConfigError."""
    from clawdet_cli import operations, settings  # not above: --help must stay fast

    sandbox: Mapping[str, Any] | None = None
    if call.sandbox:
        sandbox = description(call, view, make=make, install_tools=install_tools, local=local)
    elif call.servers:
        raise UsageError("--servers says what the sandbox's servers are: add --sandbox.")
    found = settings.load(
        {**call.setting_flags(), **(flags or {})}, default_openclaw=operations.default_openclaw(), sandbox=sandbox
    )
    if not local:
        _tell_the_way(found, view)
    return Configured(found, sandbox)


def _tell_the_way(settings: "Settings", view: View) -> None:
    """Say once what stands between this machine and the clouds: whoever it is sees which hosts are asked."""
    from urllib.parse import urlsplit  # not above: --help must stay fast

    urls = settings.endpoints.hetzner_url, settings.endpoints.cloudflare_url
    ways = {host: settings.network.proxy_for(host) for host in (urlsplit(url).hostname or "" for url in urls)}
    behind = [host for host, proxy in ways.items() if proxy]
    if behind:
        who = "both APIs are" if len(behind) == len(urls) else f"{behind[0]} is"
        view.note(f"{who} talked to through the proxy {ways[behind[0]]}")
    if settings.ssh_proxy:
        view.note("SSH goes through the command that ssh_proxy names")
