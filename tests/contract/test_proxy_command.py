"""SSH through a command of the operator's: a real OpenSSH server behind real, broken and absent ones."""

import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

from clawdet_cli.adapters import ssh as adapter
from clawdet_cli.adapters.proxy_command import CommandSocket, expanded
from clawdet_cli.adapters.ssh import Ssh, make_host_key, openssh_command, shown_host_key
from clawdet_cli.errors import ConfigError, GuestError, WaitError
from clawdet_cli.model import Deadline
from tests.contract.hetzner_emulator import eventually
from tests.contract.test_adapter_ssh import Sshd, pytestmark, sshd

__all__ = ["pytestmark", "sshd"]

RELAY = """
import os, socket, sys, threading
there = socket.create_connection((sys.argv[1], int(sys.argv[2])))
def up():
    while data := os.read(0, 65536):
        there.sendall(data)
threading.Thread(target=up, daemon=True).start()
while data := there.recv(65536):
    os.write(1, data)
"""


@pytest.fixture
def relay(tmp_path: Path) -> str:
    """Return a command that does what `nc` does, with its process id in a file."""
    script = tmp_path / "relay.py"
    script.write_text(f"import os\nopen({str(tmp_path / 'pid')!r}, 'w').write(str(os.getpid()))\n{RELAY}")
    return f"{sys.executable} {script} %h %p"


def reach(server: Sshd, command: str, seconds: float = 10, host_key: str = "") -> Ssh:
    keys = (host_key or server.host_key.public,)
    return Ssh.connect(server.address, keys, server.key, Deadline.after(seconds), proxy_command=command)


def test_commands_run_and_tunnels_open_through_it(sshd: Sshd, relay: str) -> None:
    with reach(sshd, relay) as ssh:
        assert ssh.run("echo $((6 * 7))", timeout=10).out == "42\n"
        with ssh.tunnel(*sshd.address) as tunnel:
            assert tunnel.recv(4) == b"SSH-"


def test_it_ends_with_the_connection(sshd: Sshd, relay: str, tmp_path: Path) -> None:
    with reach(sshd, relay):
        process = int((tmp_path / "pid").read_text())
        os.kill(process, 0)
    with pytest.raises(ProcessLookupError):
        os.kill(process, 0)


def test_the_host_key_is_pinned_as_ever(sshd: Sshd, relay: str) -> None:
    with pytest.raises(GuestError, match="another host key"):
        reach(sshd, relay, host_key=make_host_key().public)
    assert shown_host_key(sshd.address, Deadline.after(10), relay) == " ".join(sshd.host_key.public.split()[:2])


def test_one_that_does_not_exist_is_told_at_once(sshd: Sshd) -> None:
    began = time.monotonic()
    with pytest.raises(ConfigError, match="cannot be run") as caught:
        reach(sshd, "clawdet-no-such-program %h %p", seconds=60)
    assert time.monotonic() - began < 30
    assert "CLAWDET_SSH_PROXY" in caught.value.next_steps[0]


@pytest.mark.parametrize(
    ("command", "seen"),
    [
        ("sh -c 'echo no way to %h >&2; exit 9'", r"ended with 9: no way to 127\.0\.0\.1"),
        ("sh -c 'sleep 60'", "connected, but no SSH yet"),
        ("sh -c 'yes garbage | head -c 200000; sleep 60'", "Indecipherable protocol version"),
        ("sh -c 'printf SSH-2.0-half; sleep 60'", "connected, but no SSH yet|banner|no answer"),
    ],
    ids=["ends early", "silent", "garbage", "half a banner"],
)
def test_one_that_fails_is_tried_until_the_deadline_and_then_told_of(sshd: Sshd, command: str, seen: str) -> None:
    began = time.monotonic()
    with pytest.raises(WaitError, match=seen):
        reach(sshd, command, seconds=2)
    assert time.monotonic() - began < 15


def test_what_it_began_ends_with_it() -> None:
    with CommandSocket("sh -c 'sleep 300 & echo $!; wait'", ("192.0.2.1", 22)) as way:
        child = int(way.recv(100))
    eventually(lambda: not Path(f"/proc/{child}").exists())


@pytest.mark.parametrize(
    ("command", "made"),
    [
        ("nc %h %p", "exec nc 192.0.2.1 2222"),
        ("ssh -W %h:%p jump", "exec ssh -W 192.0.2.1:2222 jump"),
        ("printf %%h%%%h", "exec printf %h%192.0.2.1"),
    ],
)
def test_the_address_takes_the_place_of_its_marks(command: str, made: str) -> None:
    assert expanded(command, ("192.0.2.1", 2222)) == made


@pytest.mark.skipif(shutil.which("ssh") is None, reason="OpenSSH is not installed")
def test_openssh_goes_through_it_too(sshd: Sshd, relay: str, tmp_path: Path) -> None:
    known_hosts = tmp_path / "known_hosts"
    known_hosts.write_text(f"{adapter.known_hosts_line('clawdet-1', sshd.host_key.public)}\n")
    argv = openssh_command(sshd.address, sshd.key, known_hosts, "clawdet-1", ["echo", "hello"], proxy_command=relay)
    said = subprocess.run(argv, capture_output=True, text=True, check=False, timeout=20)
    assert (said.returncode, said.stdout) == (0, "hello\n"), said.stderr
    assert (tmp_path / "pid").exists()


def test_no_secret_of_the_environment_reaches_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HCLOUD_TOKEN", "a-secret-of-the-operator")
    with CommandSocket("env", ("192.0.2.1", 22)) as way:
        shown = b"".join(iter(lambda: way.recv(65536), b""))
    assert b"a-secret" not in shown
