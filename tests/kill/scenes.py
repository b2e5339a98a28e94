"""Where the kills are tried: what is there when a command begins, and which command that is."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.e2e.device import Device
from tests.e2e.operator import Operator
from tests.e2e.test_bundle_simulated import CONTENT, GOOD
from tests.kill.invariants import not_empty, rows
from tests.kill.launcher import Ended, Launcher, Process

PROVISION = ("provision", "alice", "--sandbox", "--quiet")
RECONCILE = ("reconcile", "--fix", "--sandbox", "--quiet")
APPROVE = ("approve", "alice", "--yes", "--sandbox", "--quiet")
DESTROY = ("destroy", "alice", "--sandbox", "--yes", "--quiet")
FILL = ("pool", "fill", "1", "--sandbox", "--yes", "--quiet")
DRAIN = ("pool", "drain", "--sandbox", "--yes", "--quiet")


class Life:
    """Runs commands in one sandbox, and brings it to where a scene begins."""

    def __init__(self, operator: Operator, launcher: Launcher) -> None:
        self.operator = operator
        self.launcher = launcher
        self.settings: dict[str, str] = {}
        """What the scene has in the environment of its commands."""
        self.secrets_of_pool: set[str] = set()
        self.processes: list[Process] = []
        """Those that were started and may still run."""

    def run(self, *arguments: str, **options: Any) -> Ended:
        """Run a command as a process of its own."""
        return self.launcher.run(arguments, self.operator.environment(self.settings), **options)

    def start(self, *arguments: str, **options: Any) -> Process:
        """Start a command as a process of its own."""
        process = self.launcher.start(arguments, self.operator.environment(self.settings), **options)
        self.processes.append(process)
        return process

    def nothing(self) -> None:
        """Begin with empty clouds."""

    def complete(self) -> None:
        """Begin with a complete instance."""
        ended = self.run(*PROVISION)
        assert ended.code == 0, ended.err

    def bundled(self) -> None:
        """Begin with empty clouds, and a bundle in a file that is to be copied."""
        file = self.operator.state / GOOD.file_name
        file.write_bytes(CONTENT)
        Path(f"{file}.json").write_text(GOOD.text())
        self.settings = {"CLAWDET_BUNDLE": str(file)}

    def server_lost(self) -> None:
        """Begin with an instance whose server somebody deleted, and whose old address somebody else got."""
        self.complete()
        (server,) = self.operator.servers()
        self.operator.cloud("hetzner", f"/servers/{server['id']}", "DELETE")

    def laid_bare(self) -> None:
        """Take a complete instance's server out of a firewall that somebody has opened for everything."""
        self.complete()
        (server,) = self.operator.servers()
        (wall,) = self.operator.cloud("hetzner", "/firewalls")["firewalls"]
        actions, everywhere = f"/firewalls/{wall['id']}/actions", {"source_ips": ["0.0.0.0/0"]}
        rules = [{"direction": "in", "protocol": "tcp", "port": port, **everywhere} for port in ("22", "any")]
        self.operator.cloud("hetzner", f"{actions}/set_rules", "POST", {"rules": rules})
        behind = {"remove_from": [{"type": "server", "server": {"id": server["id"]}}]}
        self.operator.cloud("hetzner", f"{actions}/remove_from_resources", "POST", behind)

    def drifted(self) -> None:
        """Point a complete instance's record elsewhere by hand, and have a second certificate signed for its key."""
        self.complete()
        (record,), (first,) = self.operator.records(), self.operator.certificates()
        path = f"/zones/{self.operator.zone_id()}/dns_records/{record['id']}"
        self.operator.cloud("cloudflare", path, "PATCH", {"content": "203.0.113.9"})
        (row,) = rows(self.operator, "SELECT csr FROM instances WHERE status = 'complete'")
        body = {"csr": row["csr"], "hostnames": first["hostnames"], "request_type": "origin-ecc"}
        self.operator.cloud("cloudflare", "/certificates", "POST", {**body, "requested_validity": 5475})

    def knocked_at(self) -> None:
        """Begin with a complete instance, and a browser that waits to be let in."""
        self.complete()
        info = self.operator.info()
        token = self.operator.clawdet("token", "alice", "--sandbox", "--json").document["token"]
        Device(f"alice.{info['zone']}", info["edge_address"], info["ca_file"]).connect(token)

    def patches_want_a_restart(self) -> None:
        """Begin with empty clouds, where the patches of a server end with a restart."""
        self.operator.control("hetzner", "PUT", "servers/knobs", {"reboot_after_patches": True})

    def waiting(self) -> None:
        """Begin with a server that waits in the pool."""
        ended = self.run(*FILL)
        assert ended.code == 0, ended.err
        self.secrets_of_pool = self.secrets()

    def secrets(self) -> set[str]:
        """What of the machines' own secrets must not outlive the pool: host keys and gateway tokens."""
        keys = {row["host_key"] for row in rows(self.operator, "SELECT host_key FROM instances WHERE server_id > 0")}
        found = [json.loads(file.read_text()) for file in self.operator.state.rglob("secrets.json")]
        return keys | {str(one["OPENCLAW_GATEWAY_TOKEN"]) for values in found for one in values.values()}

    def emptied(self) -> list[str]:
        """Destroy what there is, and tell what is left."""
        self.settings = {}
        ended = [self.run(*DESTROY), self.run(*DRAIN)]
        left = not_empty(self.operator)
        return left + [f"destroy or drain ended with {one.code}: {one.err}" for one in ended if one.code]


SCENES: dict[str, tuple[Callable[[Life], None], tuple[str, ...]]] = {
    "provision": (Life.nothing, PROVISION),
    "provision-anew": (Life.server_lost, PROVISION),
    "provision-again": (Life.laid_bare, PROVISION),
    "provision-bundle": (Life.bundled, PROVISION),
    "reconcile": (Life.drifted, RECONCILE),
    "approve": (Life.knocked_at, APPROVE),
    "claim": (Life.waiting, PROVISION),
    "fill": (Life.patches_want_a_restart, FILL),
    "drain": (Life.waiting, DRAIN),
    "destroy": (Life.complete, DESTROY),
}
