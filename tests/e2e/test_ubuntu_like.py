"""The product on Debian 13 made to behave like Ubuntu 24.04, at the moments when such a machine is in the way.

It is not Ubuntu: what differs is listed in the sandbox's `real/ubuntu_like.py`, and only that was made alike.
"""

import json
import shlex
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from clawdet_cli import bootstrap, pins
from tests.e2e.operator import Operator, Said

pytestmark = pytest.mark.real

REINSTALL = "DEBIAN_FRONTEND=noninteractive apt-get install -y --reinstall -o DPkg::Lock::Timeout=120 libtinfo6"
"""Replaces a library that every bash has open, and so makes needrestart look for whom to restart."""

PROVISION = ("provision", "alice", "--sandbox", "--yes")
CANNOT_CONNECT = {7, 28}
"""By curl's exit codes. Who is refused a link-local address by IPv6 is told nothing, and times out."""
KEY = {"ANTHROPIC_API_KEY": "sk-ant-canary-0123456789"}
"""Handed over again at each provision of a complete instance, and so what makes it configure."""

HOLDS_APT = """\
[Unit]
ConditionPathExists=/root/hold-apt
DefaultDependencies=no
After=local-fs.target
Before=apt-daily.timer

[Service]
ExecStartPre=rm /root/hold-apt
ExecStartPre=touch /run/reboot-required
ExecStart=python3 -c "import fcntl, time; f = open('/var/lib/apt/lists/lock', 'w'); fcntl.lockf(f, fcntl.LOCK_EX); \
time.sleep(75)"

[Install]
WantedBy=sysinit.target
"""
"""What has the package lists for itself for 75 seconds from a boot, and leaves an update that waits for a restart."""


@dataclass
class Vps:
    """A server of the sandbox, as root on it sees it."""

    operator: Operator
    address: str
    key: Path = field(init=False)

    def __post_init__(self) -> None:
        self.key = Path(self.operator.info()["ssh_key_file"])

    def try_(self, command: str, stdin: bytes = b"", timeout: float = 120) -> "subprocess.CompletedProcess[bytes]":
        """Run a command with OpenSSH; that clawdet pins the host key is tested elsewhere."""
        options = ("-F/dev/null", "-oBatchMode=yes", "-oStrictHostKeyChecking=no", "-oUserKnownHostsFile=/dev/null")
        words = ["ssh", *options, "-oLogLevel=ERROR", "-oConnectTimeout=5", f"-i{self.key}", f"root@{self.address}"]
        return subprocess.run([*words, command], input=stdin, capture_output=True, timeout=timeout, check=False)

    def run(self, command: str, stdin: bytes = b"") -> str:
        """Run a command that has to end well, and give what it says."""
        done = self.try_(command, stdin)
        assert done.returncode == 0, (command, done.stdout.decode(), done.stderr.decode())
        return done.stdout.decode().strip()

    def shows(self, unit: str, name: str) -> str:
        """Give a property of a unit."""
        return self.run(f"systemctl show -P {name} {unit}")

    def as_openclaw(self, command: str) -> int:
        """Run a command as the user of the gateway, and give its exit code."""
        return self.try_(f"setpriv --reuid openclaw --regid openclaw --clear-groups {command}").returncode

    def await_gateway(self) -> None:
        """Wait until the gateway, which was started a moment ago, answers its command line."""
        ready = f"systemctl is-active openclaw-gateway && {bootstrap.installed('report')} | grep -x gateway_health=ok"
        until(lambda: self.try_(ready).returncode == 0)

    def begin_prepare(self) -> None:
        """Begin the script's phase `prepare` once more, on a machine where all of it holds already."""
        values = pins.load().for_openclaw(pins.load().default_openclaw, "x86").script_input()
        files = {bootstrap.SCRIPT_NAME: bootstrap.script(), "input": bootstrap.input_file(values)}
        self.run(bootstrap.upload("/run/clawdet/again"), bootstrap.package(files))
        self.run(bootstrap.start("prepare", "/run/clawdet/again"))

    def waits_for_the_lock(self, unit: str) -> bool:
        """Tell whether a phase is at work, and waits for the one before it."""
        log = f"{bootstrap.LOG_FOLDER}/{unit.removeprefix('clawdet-')}.log"
        return self.shows(unit, "ActiveState") == "activating" and "waiting for it" in self.run(f"cat {log}")

    def prepare_log(self) -> str:
        """Give the log of that phase when it has ended."""
        until(lambda: self.shows("clawdet-prepare", "ActiveState") != "activating")
        return self.run(f"cat {bootstrap.LOG_FOLDER}/prepare.log")


def until(holds: Callable[[], bool], seconds: float = 240) -> None:
    """Wait until something holds; nothing tells when it comes to that."""
    deadline = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < deadline, "it never came to that"
        time.sleep(0.3)


@pytest.fixture(scope="module")
def operator(tmp_path_factory: pytest.TempPathFactory, cache: Path) -> Iterator[Operator]:
    """An operator of servers that are like Ubuntu."""
    made = Operator(tmp_path_factory.mktemp("ubuntu-like"), cache)
    up = made.clawdet("sandbox", "up", "--servers", "real", "--guest", "ubuntu-like", "--boot-seconds", "1", "--yes")
    assert up.code == 0, up.err
    yield made
    down = made.clawdet("sandbox", "down", "--yes")
    assert down.code == 0, down.err


@pytest.fixture(scope="module")
def alice(operator: Operator) -> Vps:
    """Her VPS, complete."""
    said = operator.clawdet(*PROVISION, "--json", env=KEY)
    assert said.code == 0, said.err[-4000:]
    instance = said.document["instance"]
    assert [check["ok"] for check in instance["checks"]] == [True] * 6
    return Vps(operator, instance["ipv4"])


def verify(operator: Operator) -> tuple[int, dict[str, Any]]:
    """Verify alice, and give the exit code and her checks."""
    said = operator.clawdet("verify", "alice", "--sandbox", "--json")
    return said.code, {check["name"]: check for check in said.document["instance"]["checks"]}


def test_updates_strike_while_it_is_installed_and_the_machine_is_as_ubuntu_has_it(alice: Vps) -> None:
    newer = "dpkg-query -W -f '${Version}' libtinfo6"
    until(lambda: alice.run(newer).endswith("+clawdet1"))
    assert alice.run(f"grep -c '^@steps' {bootstrap.LOG_FOLDER}/prepare.log") == "1"
    assert alice.run("systemctl is-enabled ssh.socket; systemctl is-enabled ssh.service || true") == "enabled\ndisabled"
    assert alice.run("awk '/MemTotal/ {printf \"%.1f\", $2 / 1024 / 1024}' /proc/meminfo") == "3.7"
    assert "debian" in alice.run("cat /etc/os-release")  # it is not Ubuntu, and does not say so
    for unit in ("ssh", "caddy", "clawdet-metadata", "openclaw-gateway", "openclaw-gateway-refresh.timer"):
        assert (alice.shows(unit, "ActiveState"), alice.shows(unit, "NeedDaemonReload")) == ("active", "no")


def test_needrestart_leaves_phases_and_gateway_alone(alice: Vps) -> None:
    alice.run("systemd-run --quiet --unit=holds-the-lock flock /run/clawdet.lock sleep 600")
    until(lambda: alice.try_("flock -n /run/clawdet.lock true").returncode == 1)
    alice.begin_prepare()
    said: list[Said] = []
    configuring = threading.Thread(target=lambda: said.append(alice.operator.clawdet(*PROVISION, env=KEY)))
    configuring.start()
    # Both have read and deleted their input, and would not find it a second time.
    units = ("clawdet-prepare", "clawdet-configure")
    for unit in units:
        until(lambda unit=unit: alice.waits_for_the_lock(unit))  # type: ignore[misc]  # bound at once
    before = [alice.shows(unit, "InvocationID") for unit in (*units, "openclaw-gateway")]
    deferred = alice.run(REINSTALL).partition("deferred")[2]
    assert all(unit in deferred for unit in units)
    assert [alice.shows(unit, "InvocationID") for unit in (*units, "openclaw-gateway")] == before
    alice.run("systemctl stop holds-the-lock")
    configuring.join()
    assert said[0].code == 0, said[0].err
    assert "\n@result ok " in alice.prepare_log()


def test_nine_restarts_of_sshd_in_ten_seconds_leave_the_way_in_open(alice: Vps) -> None:
    keep = (
        f'/bin/bash {bootstrap.INSTALLED_SCRIPT} switch-host-key "$(cut -d " " -f 2 /etc/ssh/ssh_host_ed25519_key.pub)"'
    )
    began = time.monotonic()
    alice.run(f"for n in 1 2 3 4 5 6 7 8 9; do {keep} || exit; done")
    assert time.monotonic() - began < 10
    assert alice.run("systemctl is-active ssh.socket ssh.service") == "active\nactive"


def test_the_metadata_service_is_closed_by_either_address_and_verify_looks(alice: Vps) -> None:
    addresses = [f"http://{one}/hetzner/v1/userdata" for one in ("169.254.169.254", "[fe80::a9fe:a9fe%25eth0]")]
    for address in addresses:
        assert alice.run(f"curl -sf {address} | head -c 4") == "H4sI"
        assert alice.as_openclaw(f"curl -sf --max-time 3 {address}") in CANNOT_CONNECT
    alice.run("nft delete table inet clawdet")
    code, checks = verify(alice.operator)
    assert (code, checks["openclaw"]["ok"]) == (6, False)
    assert "clawdet ssh alice -- systemctl restart clawdet-metadata" in checks["openclaw"]["evidence"]
    alice.run("systemctl restart clawdet-metadata")
    assert verify(alice.operator)[0] == 0


def test_the_gateway_is_restarted_at_its_quiet_hour_if_a_library_of_it_was_replaced(alice: Vps) -> None:
    service, pid = "systemctl start openclaw-gateway-refresh", alice.shows("openclaw-gateway", "MainPID")
    alice.run(service)
    assert alice.shows("openclaw-gateway", "MainPID") == pid
    alice.run(
        "library=$(echo /usr/lib/*/libstdc++.so.6.0.*) && cp -a $library $library.new && mv $library.new $library"
    )
    alice.run(service)
    assert alice.shows("openclaw-gateway", "MainPID") not in {pid, "0"}
    assert alice.shows("openclaw-gateway", "NRestarts") == "0"
    assert alice.shows("openclaw-gateway-refresh", "Result") == "success"
    alice.await_gateway()


def test_a_machine_that_gets_no_swap_is_prepared_all_the_same(alice: Vps) -> None:
    alice.run("printf '#!/bin/sh\\nexit 1\\n' | install -m 755 /dev/stdin /usr/local/sbin/systemd-detect-virt")
    stub = "printf '#!/bin/sh\\n[ $1 = --show ] || exit %d\\n' | install -m 755 /dev/stdin /usr/local/sbin/swapon"
    try:
        alice.run(stub % 1)
        alice.begin_prepare()
        log = alice.prepare_log()
        assert "\nWarning: no swap could be added" in log
        assert log.splitlines()[-1].startswith("@result ok ")
        assert log.splitlines()[-1].endswith(" swap=failed")
        assert alice.run("ls /swapfile* 2>/dev/null; grep swap /etc/fstab; true") == ""
    finally:
        alice.run("rm -f /usr/local/sbin/systemd-detect-virt /usr/local/sbin/swapon")


def test_a_restart_that_an_update_waits_for_is_named_and_changes_nothing(alice: Vps) -> None:
    alice.run("touch /run/reboot-required")
    code, checks = verify(alice.operator)
    assert code == 0
    assert "clawdet ssh alice -- systemctl reboot" in checks["openclaw"]["evidence"]
    boot = alice.run("cat /proc/sys/kernel/random/boot_id")
    alice.try_("systemctl reboot")
    until(lambda: alice.try_("cat /proc/sys/kernel/random/boot_id").stdout.decode().strip() not in {"", boot})
    alice.await_gateway()
    code, checks = verify(alice.operator)
    assert code == 0, checks
    assert "reboot" not in checks["openclaw"]["evidence"]
    private = "http://[fe80::a9fe:a9fe%25eth0]/hetzner/v1/userdata"
    assert alice.as_openclaw(f"curl -sf --max-time 3 {private}") in CANNOT_CONNECT


def test_the_pool_is_filled_through_a_restart_and_a_lock_of_apt(operator: Operator) -> None:
    filled: list[Said] = []
    filling = threading.Thread(
        target=lambda: filled.append(operator.clawdet("pool", "fill", "1", "--sandbox", "--yes"))
    )
    filling.start()
    until(lambda: any("clawdet-pool" in one["name"] for one in operator.servers()))
    (server,) = (one for one in operator.servers() if "clawdet-pool" in one["name"])
    vps = Vps(operator, server["public_net"]["ipv4"]["ip"])
    # By the VPS itself: over SSH it may come when what is left of the phase is over.
    npm_is_done = f"grep -q '^@step done npm' {bootstrap.LOG_FOLDER}/prepare.log"
    at_last = f"until {npm_is_done}; do sleep 0.1; done; systemctl reboot"
    planted = (
        "cat >/etc/systemd/system/holds-apt.service && touch /root/hold-apt && systemctl enable --quiet holds-apt && "
        "{ systemctl is-active --quiet restarts || "
        f"systemd-run --quiet --no-block --unit=restarts sh -c {shlex.quote(at_last)}; }}"
    )
    # sshd is not there yet, and is restarted after that.
    until(lambda: vps.try_(planted, HOLDS_APT.encode()).returncode == 0)
    filling.join()
    (said,) = filled
    assert said.code == 0, said.err[-4000:]
    assert "the VPS restarted in the middle of 'prepare': beginning it anew" in said.err
    assert "a patch waits for a restart of the VPS: restarting it" in said.err
    log = next(operator.state.rglob("*pool-fill*.log")).read_text()
    assert "Waiting for apt, which is locked by process" in log
    assert vps.try_("test -e /run/reboot-required").returncode == 1
    (waiting,) = json.loads(operator.clawdet("pool", "status", "--sandbox", "--json").out)["pool"]
    assert waiting["ready"] is True
    drained = operator.clawdet("pool", "drain", "--sandbox", "--yes")
    assert drained.code == 0, drained.err
