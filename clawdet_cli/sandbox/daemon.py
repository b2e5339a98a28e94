"""The sandbox's process: it wires the emulated clouds, the edge, the name servers and the servers together."""

import asyncio
import fcntl
import json
import logging
import os
import secrets
import signal
import socket
import string
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from starlette.routing import Route

from clawdet_cli.sandbox import network
from clawdet_cli.sandbox.authority import Authority
from clawdet_cli.sandbox.cloudflare.api import cloudflare_app
from clawdet_cli.sandbox.dns import serve_dns
from clawdet_cli.sandbox.edge.knobs import EdgeKnobs
from clawdet_cli.sandbox.edge.proxy import Edge
from clawdet_cli.sandbox.errors import SandboxError
from clawdet_cli.sandbox.faults import Faults
from clawdet_cli.sandbox.forwarder import Forwarder
from clawdet_cli.sandbox.guard import TOKEN_HEADER, Guard
from clawdet_cli.sandbox.hetzner.api import HetznerClock, Token, firewall_allows, hetzner_app
from clawdet_cli.sandbox.info import Files, SandboxInfo, write_private
from clawdet_cli.sandbox.ledger import Ledger
from clawdet_cli.sandbox.machines import Machines
from clawdet_cli.sandbox.network import AddressPool, Network
from clawdet_cli.sandbox.process import start_time
from clawdet_cli.sandbox.real import cgroups
from clawdet_cli.sandbox.real.machines import RealMachines
from clawdet_cli.sandbox.real.namespace import EDGE_RANGE_INSIDE
from clawdet_cli.sandbox.serve import serve

log = logging.getLogger(__name__)

ZONE = "clawdet.test"
_HETZNER_PORT = 8080
_CLOUDFLARE_PORT = 8081
_BACKLOG = 2048


@dataclass(frozen=True)
class Options:
    """What one sandbox is told at its start."""

    folder: Path
    servers: str
    guest: str
    boot_seconds: float
    base: Path | None  # root folder of the base image; None with simulated servers
    downloads: Path  # the files of the mirror


class RunningMachines(Machines, Protocol):
    """Servers as the process owns them."""

    def routes(self) -> list[Route]:
        """Return the control routes for faults of servers."""

    async def resume(self) -> None:
        """Take up what an earlier process left."""

    async def stop(self) -> None:
        """Shut all servers down; those that were on are booted again at the next start."""


async def run(options: Options) -> None:
    """Be the sandbox until SIGTERM or SIGINT."""
    files = Files(options.folder)
    held = _hold_lock(files.lock)
    try:
        await _run_locked(options, files)
    finally:
        files.info.unlink(missing_ok=True)
        os.close(held)


async def _run_locked(options: Options, files: Files) -> None:
    ledger = Ledger(files)
    net = network.claim(files.dial, ledger.state.get("number"))
    ledger.state["number"] = net.number
    ledger.state.setdefault("servers", options.servers)
    tokens = _tokens(ledger.part("tokens"))
    # Before anything carries the number or a token, so that `down` finds it after any crash.
    ledger.save()

    machines = _machines(options, files, ledger, net)
    await machines.resume()
    origin_ca = Authority(files.origin_authority, "Sandbox Origin CA")
    edge_ca = Authority(files.edge_authority, "Sandbox Edge CA")
    pull_ca = Authority(files.pull_authority, "Sandbox Origin Pull CA")
    cloudflare_state = ledger.part("cloudflare")

    hetzner = hetzner_app(
        ledger.part("hetzner"),
        machines,
        HetznerClock(boot_seconds=options.boot_seconds),
        ledger.changed,
        Faults(),
        {
            tokens["hetzner"]: Token(project="sandbox"),
            tokens["hetzner_read"]: Token(project="sandbox", read_only=True),
        },
        machines.routes(),
    )
    edge_knobs = EdgeKnobs(cloudflare_state, ledger.changed)
    cloudflare = cloudflare_app(
        cloudflare_state,
        origin_ca,
        zone=ZONE,
        edge_cidrs=[net.edge_range, EDGE_RANGE_INSIDE],
        tokens=[tokens["cloudflare"]],
        on_change=ledger.changed,
        faults=Faults(),
        edge_routes=edge_knobs.routes(),
    )
    edge = Edge(cloudflare_state, edge_ca, origin_ca, pull_ca, dial=net.dial, source=net.edge_socket, knobs=edge_knobs)

    edge_ip, api_ip, dns_ip = (net.service_address(last) for last in (1, 2, 53))
    hetzner_sock, cloudflare_sock = net.bind(api_ip, _HETZNER_PORT), net.bind(api_ip, _CLOUDFLARE_PORT)
    edge_sock, plain_sock = net.bind(edge_ip, 443), net.bind(edge_ip, 80)
    dns_udp, dns_tcp = net.bind_dns(dns_ip)
    for sock in (hetzner_sock, cloudflare_sock, edge_sock, plain_sock, dns_tcp):
        sock.listen(_BACKLOG)

    services = [
        asyncio.create_task(service, name=name)
        for name, service in {
            "hetzner": serve(Guard(ledger.before_answers(hetzner), tokens["control"]), hetzner_sock),
            "cloudflare": serve(Guard(ledger.before_answers(cloudflare), tokens["control"]), cloudflare_sock),
            "edge": edge.serve(edge_sock, plain_sock),
            "dns": serve_dns(cloudflare_state, [edge_ip], dns_udp, dns_tcp, name_server_address=dns_ip),
        }.items()
    ]
    write_private(files.control_header, f"{TOKEN_HEADER}: {tokens['control']}\n")
    files.write_info(
        SandboxInfo(
            hetzner_url=f"http://{_text(hetzner_sock)}/v1",
            hetzner_token=tokens["hetzner"],
            hetzner_read_token=tokens["hetzner_read"],
            cloudflare_url=f"http://{_text(cloudflare_sock)}/client/v4",
            cloudflare_token=tokens["cloudflare"],
            zone=ZONE,
            edge_address=_text(edge_sock),
            dns_address=_text(dns_tcp),
            ca_file=str(edge_ca.ca_path),
            origin_ca_file=str(origin_ca.ca_path),
            origin_pull_ca_file=str(pull_ca.ca_path),
            dial_file=str(files.dial) if net.maps_server_ports() else "",
            artifacts=_artifacts(files),
            servers=options.servers,
            guest=options.guest,
            boot_seconds=options.boot_seconds,
            pid=os.getpid(),
            folder=str(options.folder),
            control_token=tokens["control"],
            control_header_file=str(files.control_header),
        )
    )
    log.info("sandbox %d is up, with %s servers", net.number, options.servers)
    try:
        await _until_stopped(services)
    finally:
        # The APIs first: nothing may be ordered any more while the servers go down.
        for service in services:
            service.cancel()
        await asyncio.gather(*services, return_exceptions=True)
        await machines.stop()
        ledger.save()
        cgroups.remove(files.tag(net.number))
        net.close()
        log.info("sandbox %d is down", net.number)


async def _until_stopped(services: list[asyncio.Task[None]]) -> None:
    stopped = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stopped.set)
    waiting = asyncio.create_task(stopped.wait())
    ended, _ = await asyncio.wait([waiting, *services], return_when=asyncio.FIRST_COMPLETED)
    waiting.cancel()
    for service in ended - {waiting}:
        service.result()
        raise SandboxError(f"the service {service.get_name()} ended by itself")


def _machines(options: Options, files: Files, ledger: Ledger, net: Network) -> RunningMachines:
    addresses = AddressPool(net, ledger.part("addresses"), ledger.changed)
    hetzner_state = ledger.part("hetzner")
    forwarder = Forwarder(net, lambda server, peer, port: firewall_allows(hetzner_state, server, peer, port))
    if options.base is None:
        # Brings an SSH server along, which real machines have of their own.
        from clawdet_cli.sandbox.simulated.machines import SimulatedMachines  # noqa: PLC0415  # see above

        return SimulatedMachines(
            folder=files.servers,
            addresses=addresses,
            forwarder=forwarder,
            boot_seconds=options.boot_seconds,
            state=ledger.part("simulated"),
            on_change=ledger.changed,
        )
    return RealMachines(
        folder=files.servers,
        tag=files.tag(net.number),
        base=options.base,
        downloads=options.downloads,
        addresses=addresses,
        forwarder=forwarder,
        on_power_lost=lambda server_id: _show_as_off(ledger, server_id),
    )


def _show_as_off(ledger: Ledger, server_id: int) -> None:
    """Note that a guest powered itself off, as the provider's API would show it."""
    for tables in ledger.part("hetzner").get("projects", {}).values():
        if server := tables.get("server", {}).get(str(server_id)):
            server.update(status="off", _powered=False)
            ledger.changed()


def _tokens(known: dict[str, Any]) -> Mapping[str, str]:
    """Make the tokens at the first start, the clouds' in the vendors' shapes; a restarted sandbox keeps them."""
    alphabet = string.ascii_letters + string.digits
    for name, length in {"hetzner": 64, "hetzner_read": 64, "cloudflare": 40, "control": 40}.items():
        known.setdefault(name, "".join(secrets.choice(alphabet) for _ in range(length)))
    return known


def _artifacts(files: Files) -> Mapping[str, Any]:
    with suppress(FileNotFoundError):
        manifest: dict[str, Any] = json.loads(files.artifacts.read_text())
        return manifest
    return {}


def _text(sock: socket.socket) -> str:
    host, port = sock.getsockname()
    return f"{host}:{port}"


def _hold_lock(path: Path) -> int:
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise SandboxError("another process of this sandbox is running") from None
    os.ftruncate(descriptor, 0)
    os.write(descriptor, f"{os.getpid()} {start_time(os.getpid())}".encode())
    return descriptor
