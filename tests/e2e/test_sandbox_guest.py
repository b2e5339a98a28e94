"""Boots real machines: needs root on Linux and the tools that `clawdet sandbox up --install-tools` installs.

The base image is built once into CLAWDET_CACHE (default: the user's cache folder), which takes about a minute.
"""

import io
import json
import logging
import os
import select
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import hcloud
import paramiko
import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hcloud.firewalls import FirewallResource, FirewallRule
from hcloud.images import Image
from hcloud.server_types import ServerType
from hcloud.servers.client import BoundServer
from paramiko import SSHException

from clawdet_cli import sandbox

pytestmark = [
    pytest.mark.real,
    pytest.mark.skipif(
        not sys.platform.startswith("linux") or os.geteuid() != 0, reason="real machines need root on Linux"
    ),
]

LOG = logging.getLogger(__name__)


# What it prints changes with every boot, and with nothing else.
INSTANCE = "systemctl show --property=UserspaceTimestampMonotonic --value"


@dataclass(frozen=True)
class Key:
    private: str
    public: str

    @classmethod
    def new(cls) -> "Key":
        key = Ed25519PrivateKey.generate()
        private = key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.OpenSSH, serialization.NoEncryption()
        )
        public = key.public_key().public_bytes(serialization.Encoding.OpenSSH, serialization.PublicFormat.OpenSSH)
        return cls(private.decode(), public.decode())


@dataclass(frozen=True)
class Box:
    """A sandbox, and the keys with which its server is ordered and reached."""

    folder: Path
    cache: Path
    guest: str
    user_key: Key
    host_key: Key

    def up(self) -> sandbox.SandboxInfo:
        return sandbox.up(
            self.folder,
            self.cache,
            servers="real",
            guest=self.guest,
            boot_seconds=0.2,
            install_tools=True,
            report=LOG.info,
        )

    def down(self) -> list[str]:
        return sandbox.down(self.folder, self.cache, report=LOG.info)

    def order(self, info: sandbox.SandboxInfo, name: str = "clawdet-alice") -> BoundServer:
        cloud = client(info)
        user_data = "#cloud-config\n" + json.dumps(
            {"ssh_keys": {"ed25519_private": self.host_key.private, "ed25519_public": self.host_key.public}}
        )
        key = cloud.ssh_keys.get_by_name("test") or cloud.ssh_keys.create(name="test", public_key=self.user_key.public)
        order = cloud.servers.create(
            name=name,
            server_type=ServerType(name="cpx22"),
            image=Image(name="ubuntu-24.04"),
            ssh_keys=[key],
            user_data=user_data,
        )
        order.action.wait_until_finished()
        for action in order.next_actions:
            action.wait_until_finished()
        return order.server

    def run(self, address: str, command: str) -> str:
        """Run a command by a strict client that knows the host key and accepts no other."""
        with paramiko.SSHClient() as ssh:
            ssh.set_missing_host_key_policy(paramiko.RejectPolicy())
            host_key = paramiko.Ed25519Key.from_private_key(io.StringIO(self.host_key.private))
            ssh.get_host_keys().add(address, "ssh-ed25519", host_key)
            user_key = paramiko.Ed25519Key.from_private_key(io.StringIO(self.user_key.private))
            ssh.connect(address, username="root", pkey=user_key, allow_agent=False, look_for_keys=False, timeout=5)
            _, out, _ = ssh.exec_command(command, timeout=60)
            return out.read().decode().strip()

    def run_when_up(self, address: str, command: str) -> str:
        # Until sshd listens, the sandbox resets connections as a closed port would.
        return until(lambda: self.run(address, command), (OSError, EOFError, SSHException))


def until(attempt: Callable[[], str], errors: tuple[type[Exception], ...], seconds: float = 30) -> str:
    deadline = time.monotonic() + seconds
    while True:
        try:
            return attempt()
        except errors:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.1)


def kill(pid: int) -> None:
    descriptor = os.pidfd_open(pid)
    signal.pidfd_send_signal(descriptor, signal.SIGKILL)
    assert select.select([descriptor], [], [], 10)[0]
    os.close(descriptor)


def client(info: sandbox.SandboxInfo) -> hcloud.Client:
    return hcloud.Client(info.hetzner_token, api_endpoint=info.hetzner_url, poll_interval=0.05, timeout=10)


def state_of(info: sandbox.SandboxInfo, name: str) -> str:
    server = client(info).servers.get_by_name(name)
    assert server is not None
    return str(server.status)


def address_of(server: BoundServer) -> str:
    assert server.public_net is not None
    assert server.public_net.ipv4 is not None
    return str(server.public_net.ipv4.ip)


@pytest.fixture
def box(tmp_path: Path, cache: Path, guest: str) -> Iterator[Box]:
    # It logs a traceback for each connection that comes before sshd listens.
    logging.getLogger("paramiko").setLevel(logging.CRITICAL)
    made = Box(tmp_path / "box", cache, guest, Key.new(), Key.new())
    yield made
    made.down()


def traces(folder: Path) -> list[str]:
    """Everything on this machine that still tells of the sandbox, looked for without the sandbox's own code."""
    found = [f"file {path}" for path in folder.glob("**/*")]
    found += [f"mount {line}" for line in Path("/proc/self/mountinfo").read_text().splitlines() if str(folder) in line]
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            command = (entry / "cmdline").read_text()
        except OSError:
            continue
        if str(folder) in command:
            found.append(f"process {entry.name} {command}")
    return found


def named(*parts: str) -> set[str]:
    """Namespaces, control groups and processes whose names contain one of the parts."""
    names = {path.name for path in Path("/run/netns").glob("*")}
    names |= {path.name for path in Path("/sys/fs/cgroup").glob("**/clawdet*")}
    names |= {path.name for path in Path("/run/systemd/nspawn/propagate").glob("*")}
    names |= {word for path in Path("/proc").glob("[0-9]*/cmdline") for word in words(path)}
    return {name for name in names if any(part in name for part in parts)}


def words(path: Path) -> list[str]:
    try:
        return path.read_text().split("\0")
    except OSError:
        return []


def own_names(info: sandbox.SandboxInfo) -> str:
    """Return the part that is in the name of all that belongs to this sandbox."""
    return f"clawdet{info.hetzner_url.split('.')[2]}-"


def test_a_server_is_a_real_machine_behind_its_pinned_key_until_down_leaves_nothing(box: Box, tmp_path: Path) -> None:
    info = box.up()
    assert box.up() == info
    server = box.order(info)
    address = address_of(server)
    assert named(own_names(info))

    assert box.run_when_up(address, "hostname") == "clawdet-alice"
    assert "status: done" in box.run_when_up(address, "cloud-init status --wait")
    assert box.run(address, "systemctl is-system-running --wait") == "running"
    assert box.run(address, "ls /etc/ssh/*.pub") == "/etc/ssh/ssh_host_ed25519_key.pub"
    for metadata in ("169.254.169.254", "[fe80::a9fe:a9fe%25eth0]"):
        assert box.run(address, f"curl -s http://{metadata}/hetzner/v1/metadata/hostname") == "clawdet-alice"
    # nftables needs a capability that systemd-nspawn does not give by itself.
    assert "table inet closed" in box.run(address, "nft add table inet closed && nft list ruleset")

    identity, known = tmp_path / "id", tmp_path / "known_hosts"
    identity.write_text(box.user_key.private)
    identity.chmod(0o600)
    known.write_text(f"{address} {box.host_key.public}\n")
    options = ("-i", str(identity), "-o", f"UserKnownHostsFile={known}", "-o", "StrictHostKeyChecking=yes")
    openssh = subprocess.run(
        ["ssh", "-F", "none", *options, "-o", "BatchMode=yes", f"root@{address}", "touch /root/kept; uname -s"],
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    assert (openssh.returncode, openssh.stdout) == (0, "Linux\n"), openssh.stderr

    before = box.run(address, INSTANCE)
    server.power_off().wait_until_finished()
    server.power_on().wait_until_finished()
    assert box.run_when_up(address, "ls /root/kept") == "/root/kept"
    assert box.run(address, INSTANCE) != before

    server.delete().wait_until_finished()
    assert client(info).servers.get_all() == []
    assert not list((box.folder / "servers").glob("*"))

    removed = box.down()
    assert removed
    assert traces(box.folder) == []
    assert named(own_names(info)) == set()
    assert box.down() == []


def test_a_killed_sandbox_comes_back_with_its_server_and_goes_without_a_trace(box: Box) -> None:
    info = box.up()
    address = address_of(box.order(info))
    box.run_when_up(address, "touch /root/kept")
    kill(info.pid)

    again = box.up()
    assert again.pid != info.pid
    assert again.hetzner_token == info.hetzner_token
    assert box.run_when_up(address, "ls /root/kept") == "/root/kept"

    kill(again.pid)
    removed = box.down()
    assert f"server clawdet-alice ({address})" in removed
    assert traces(box.folder) == []
    assert named(own_names(info)) == set()


def test_the_address_answers_as_firewall_and_power_allow(box: Box) -> None:
    info = box.up()
    cloud = client(info)
    server = box.order(info)
    address = address_of(server)
    box.run_when_up(address, "true")
    # Nothing listens on 443 in the server.
    assert answer(address, 443) == "reset"

    only_web = [FirewallRule(direction="in", protocol="tcp", port="80-443", source_ips=["0.0.0.0/0"])]
    firewall = cloud.firewalls.create(name="only-web", rules=only_web).firewall
    for action in cloud.firewalls.apply_to_resources(firewall, [FirewallResource(type="server", server=server)]):
        action.wait_until_finished()
    assert answer(address, 22) == "silent"
    assert answer(address, 443) == "reset"
    for action in cloud.firewalls.set_rules(firewall, []):
        action.wait_until_finished()
    assert answer(address, 443) == "silent"
    for action in cloud.firewalls.remove_from_resources(firewall, [FirewallResource(type="server", server=server)]):
        action.wait_until_finished()

    # A reboot from inside keeps the machine; a power-off from inside shows in the API.
    before = box.run(address, INSTANCE)
    box.run(address, "systemctl reboot")
    # While it goes down, the answer may be empty.
    until(
        lambda: differs(box.run(address, INSTANCE) or before, before), (OSError, EOFError, SSHException, UnchangedError)
    )
    box.run(address, "systemctl poweroff")
    until(lambda: differs(state_of(info, "clawdet-alice"), "running"), (UnchangedError,))
    assert state_of(info, "clawdet-alice") == "off"
    assert answer(address, 22) == "silent"


class UnchangedError(Exception):
    """What was waited for has not happened yet."""


def differs(value: str, other: str) -> str:
    if value == other:
        raise UnchangedError(value)
    return value


def answer(address: str, port: int) -> str:
    """Return how the address answers a client that waits for the server to speak first."""
    try:
        with socket.create_connection((address, port), timeout=0.5) as connection:
            return "speaks" if connection.recv(10) else "closed"
    except ConnectionResetError:
        return "reset"
    except TimeoutError:
        return "silent"
