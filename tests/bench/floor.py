"""What no provisioning can be faster than: a server's boot until SSH, and the first start of OpenClaw's gateway.

Both on a server that was ordered for nothing else, and between them, each alone, the parts that lie between.
"""

import time
from collections.abc import Mapping
from dataclasses import dataclass

from clawdet_cli.adapters import ssh
from tests.bench import parts
from tests.bench.bed import Bed
from tests.bench.memory import MemoryWatch
from tests.bench.remote import Remote
from tests.bench.spans import Measured, Span

CLOUD_CONFIG = """\
#cloud-config
ssh_deletekeys: true
ssh_keys: {{"ed25519_private": {private}, "ed25519_public": {public}}}
package_update: false
"""
"""A host key that is there already: making three of them would be a second of the boot."""


@dataclass(frozen=True)
class Floor:
    """The floor of one run, and the parts measured beside it."""

    measured: Measured
    parts: Mapping[str, float]


def measure(bed: Bed, name: str) -> Floor:
    """Measure on a fresh server, which is deleted afterwards."""
    host_key = ssh.make_host_key()
    public = host_key.public
    user_data = CLOUD_CONFIG.format(private=_quoted(host_key.private.reveal()), public=_quoted(public))
    bed.key_id()
    began = time.perf_counter()
    server = bed.order(name, user_data=user_data)
    try:
        with MemoryWatch(bed.mark) as memory:
            with Remote.connect_at_once(bed.dial(server.ipv4, 22), bed.key) as remote:
                remote.run("true")
                found = {"server_boot": time.perf_counter() - began}
                # The boot goes on after SSH is up: what is measured next is to have the server to itself.
                remote.run("cloud-init status --wait || true")
                found["node_download"] = parts.node_download(bed, remote)
                found["caddy_download"] = parts.caddy_download(bed, remote)
                found["npm_install"] = parts.npm_install(bed, remote)
                found["openclaw_finish"] = parts.openclaw_finish(remote)
                parts.configure_gateway(bed, remote, f"{name}.{bed.zone}")
                # What npm wrote is on the disk by then, and only from here on is the memory that of the floor.
                remote.run("sync")
                starting = time.perf_counter()
                found["gateway_ready"] = parts.gateway_start(remote)
                taken = memory.of(server.id, starting, (Span("first start of the gateway", 0.0, 60.0),))
                parts.gateway_stop(remote)
                found["gateway_ready_later"] = parts.gateway_start(remote)
                parts.gateway_stop(remote)
                found["packages_install"] = parts.packages_install(bed, remote)
            boot, ready = found["server_boot"], found["gateway_ready"]
            spans = (Span("server boot until SSH", 0.0, boot), Span("first start of the gateway", boot, ready))
            return Floor(Measured(boot + ready, spans, taken), found)
    finally:
        bed.delete(server)


def warm_up(bed: Bed) -> None:
    """Go once through everything that the variants download, so that no cache on the way is cold for the first one."""
    server = bed.order("bench-warm-up")
    try:
        with Remote.connect_at_once(bed.dial(server.ipv4, 22), bed.key) as remote:
            remote.run("cloud-init status --wait || true")
            parts.node_download(bed, remote)
            parts.caddy_download(bed, remote)
            parts.npm_install(bed, remote)
            remote.run("apt-get update -qq && apt-get upgrade -y -qq --download-only")
            remote.run(
                "DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --download-only curl wget git build-essential"
                " ca-certificates openssl debian-keyring debian-archive-keyring apt-transport-https"
            )
    finally:
        bed.delete(server)


def _quoted(text: str) -> str:
    """Give a text as YAML has it on one line."""
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n") + '"'
