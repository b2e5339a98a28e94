"""Simulated servers as foreign clients see them: paramiko and OpenSSH, ssl and http.client, websockets."""

import asyncio
import base64
import contextlib
import hashlib
import http.client
import json
import os
import re
import resource
import shutil
import socket
import ssl
import subprocess
import threading
import time
from collections.abc import Callable, Coroutine, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeVar, cast

import paramiko
import pytest
import requests
from starlette.applications import Starlette
from starlette.types import ASGIApp

from clawdet_cli import bootstrap, pins
from clawdet_cli.adapters.edge import CONNECT_REQUEST
from clawdet_cli.adapters.ssh_keys import known_hosts_line, make_host_key, operator_key
from clawdet_cli.adapters.websocket import WebSocket
from clawdet_cli.model import Deadline
from clawdet_cli.sandbox import network
from clawdet_cli.sandbox.authority import Authority
from clawdet_cli.sandbox.forwarder import Forwarder
from clawdet_cli.sandbox.machines import MachineSpec
from clawdet_cli.sandbox.network import AddressPool
from clawdet_cli.sandbox.simulated.machines import SimulatedMachines
from clawdet_cli.sandbox.simulated.ssh import _pump
from tests.contract.served import LoopThread, Served

T = TypeVar("T")
HOST, USER = "alice.clawdet.test", "alice"
CLOUD_INIT_DONE = "cloud-init status --wait"
FOLDER = "/run/clawdet/0a1b2c3d4e5f"
PINNED = pins.load().for_openclaw(pins.load().default_openclaw, "x86")
PREPARE_INPUT = "".join(f"{key}={value}\n" for key, value in PINNED.script_input().items())
LOCK = {"package.json": PINNED.package_json, "package-lock.json": PINNED.package_lock}
KEY_LINE = "key_ANTHROPIC_API_KEY=sk-ant-of-a-test\n"


class Rig:
    """Simulated machines behind a forwarder, in an event loop of their own, and one operator."""

    def __init__(self, folder: Path, loop_thread: LoopThread) -> None:
        self.folder = folder
        self.loop = loop_thread.loop
        self.state: dict[str, Any] = {}
        self.denied: set[int] = set()
        self.host_key = make_host_key()
        self.key = folder / "id_ed25519"
        self.public_key = operator_key(self.key, make=True)
        self.origin_ca = Authority(folder / "origin", "Origin CA")
        self.start()

    def start(self, boot_seconds: float = 0.0) -> None:
        self.net = network.claim(self.folder / "dial.json")
        self.addresses = AddressPool(self.net, self.state.setdefault("addresses", {}), lambda: None)
        self.forwarder = Forwarder(self.net, lambda _server, _peer, port: port not in self.denied)

        async def build() -> SimulatedMachines:
            machines = SimulatedMachines(
                folder=self.folder / "servers",
                addresses=self.addresses,
                forwarder=self.forwarder,
                boot_seconds=boot_seconds,
                state=self.state.setdefault("simulated", {}),
                on_change=lambda: None,
            )
            await machines.resume()
            return machines

        self.machines = self.wait_for(build())
        self.known: dict[int, str] = {}

    def stop(self) -> None:
        """End as the sandbox's process does; the disks stay."""
        self.wait_for(self.machines.stop())
        for server_id, address in self.known.items():
            self.wait_for(self.forwarder.close(server_id, address))
        self.net.close()

    def wait_for(self, story: Coroutine[Any, Any, T]) -> T:
        return asyncio.run_coroutine_threadsafe(story, self.loop).result(30)

    def spec(self, server_id: int = 1, **changes: Any) -> MachineSpec:
        config = {"ssh_keys": {"ed25519_private": self.host_key.private.reveal()}, "disable_root": False}
        values: dict[str, Any] = {
            "name": f"clawdet-{USER}",
            "ipv4": self.net.server_address(server_id + 1),
            "disk_gigabytes": 80,
            "image": "ubuntu-24.04",
            "user_data": "#cloud-config\n" + json.dumps(config, indent=1),
            "public_keys": (self.public_key,),
        }
        return MachineSpec(server_id=server_id, **{**values, **changes})

    def boot(self, spec: MachineSpec | None = None) -> MachineSpec:
        spec = spec or self.spec()
        self.known[spec.server_id] = spec.ipv4
        self.wait_for(self.machines.boot(spec))
        return spec

    def dial(self, spec: MachineSpec, port: int) -> socket.socket:
        return socket.create_connection(self.net.dial(spec.ipv4, port), timeout=10)

    def client(self, spec: MachineSpec, *, username: str = "root", key: Path | None = None) -> paramiko.SSHClient:
        client = paramiko.SSHClient()
        client.set_missing_host_key_policy(paramiko.RejectPolicy())
        kind, blob = self.host_key.public.split()[:2]
        client.get_host_keys().add("server", kind, paramiko.PKey.from_type_string(kind, base64.b64decode(blob)))
        sock = self.dial(spec, 22)
        try:
            client.connect(
                "server",
                sock=sock,
                username=username,
                key_filename=str(key or self.key),
                look_for_keys=False,
                allow_agent=False,
            )
        except BaseException:
            client.close()
            sock.close()
            raise
        return client

    def await_client(self, spec: MachineSpec) -> paramiko.SSHClient:
        """Connect as soon as SSH answers."""
        eventually(lambda: self.answers(spec))
        return self.client(spec)

    def answers(self, spec: MachineSpec) -> bool:
        with self.dial(spec, 22) as sock:
            return sock.recv(4) == b"SSH-"

    def is_closed(self, spec: MachineSpec, port: int) -> bool:
        """Whether a port resets connections, as a closed one behind the forwarder does."""
        try:
            with self.dial(spec, port) as sock:
                sock.recv(1)
        except ConnectionResetError:
            return True
        return False

    @contextlib.contextmanager
    def shell(self, spec: MachineSpec) -> Iterator["Shell"]:
        client = self.client(spec)
        try:
            yield Shell(client)
        finally:
            client.close()

    def provision(self, spec: MachineSpec) -> None:
        """Do to a server what clawdet does."""
        with self.shell(spec) as shell:
            assert shell.phase("prepare", PREPARE_INPUT, LOCK)[-1].startswith("@result ok")
            assert shell.phase("configure", self.configure_input(shell), {})[-1].startswith("@result ok")

    def configure_input(self, shell: "Shell", **changes: str) -> str:
        code, csr, _ = shell.run(bootstrap.installed("certificate-request", HOST))
        assert code == 0
        pem = self.origin_ca.sign_csr(csr, [HOST], 7).certificate
        values = {"host": HOST, "user": USER, "certificate_base64": base64.b64encode(pem.encode()).decode(), **changes}
        return "".join(f"{key}={value}\n" for key, value in values.items())

    def file(self, path: str) -> Path:
        """Give where a file of the first server lies."""
        return self.folder / "servers/1/files" / path

    def secrets(self) -> Any:
        return json.loads(self.file("var/lib/openclaw/.openclaw/secrets.json").read_text())

    def tls(self, sock: socket.socket, name: str = HOST) -> ssl.SSLSocket:
        context = ssl.create_default_context(cafile=str(self.origin_ca.ca_path))
        try:
            return context.wrap_socket(sock, server_hostname=name)
        except BaseException:
            sock.close()
            raise

    def get(self, spec: MachineSpec, path: str, headers: dict[str, str] | None = None) -> tuple[int, bytes, Any]:
        return read(self.tls(self.dial(spec, 443)), path, headers)


def read(stream: socket.socket, path: str, headers: dict[str, str] | None = None) -> tuple[int, bytes, Any]:
    connection = http.client.HTTPConnection(HOST)
    connection.sock = stream
    try:
        connection.request("GET", path, headers={"Host": HOST, **(headers or {})})
        answer = connection.getresponse()
        return answer.status, answer.read(), answer.headers
    finally:
        connection.close()


def packed(lines: str, files: dict[str, bytes]) -> bytes:
    return bootstrap.package({bootstrap.SCRIPT_NAME: bootstrap.script(), "input": lines.encode(), **files})


class Shell:
    """Commands over one SSH connection."""

    def __init__(self, client: paramiko.SSHClient) -> None:
        self.client = client
        self.looks: list[int] = []
        """The offsets from which phases were followed."""

    def run(self, command: str, stdin: bytes = b"") -> tuple[int, str, str]:
        into, out, err = self.client.exec_command(command, timeout=20)
        into.write(stdin)
        into.channel.shutdown_write()
        said = out.read().decode(), err.read().decode()
        return out.channel.recv_exit_status(), *said

    def upload(self, lines: str, files: dict[str, bytes]) -> None:
        assert self.run(bootstrap.upload(FOLDER), packed(lines, files)) == (0, "", "")

    def start(self, verb: str) -> str:
        code, out, err = self.run(bootstrap.start(verb, FOLDER))
        assert (code, err) == (0, "")
        return out

    def follow(self, verb: str, offset: int = 0) -> tuple[bootstrap.UnitState, list[str]]:
        """Follow a phase to its end, and give all its lines."""
        text = ""
        while True:
            self.looks.append(offset)
            code, out, _ = self.run(bootstrap.follow(verb, offset))
            assert code == 0
            state, news = bootstrap.parse_follow(out)
            text, offset = text + news, state.offset
            if not state.running:
                return state, text.splitlines()

    def phase(self, verb: str, lines: str, files: dict[str, bytes]) -> list[str]:
        self.upload(lines, files)
        assert self.start(verb) == "started\n"
        return self.follow(verb)[1]


def eventually(condition: Callable[[], T]) -> T:
    """Return what the condition gives once it neither fails nor is false."""
    deadline = time.monotonic() + 10
    while True:
        try:
            if result := condition():
                return result
        except OSError:
            pass
        assert time.monotonic() < deadline, "did not become true"
        time.sleep(0.01)


def steps(lines: list[str], kind: str) -> list[str]:
    return [line.split()[2] for line in lines if line.startswith(f"@step {kind} ")]


@pytest.fixture
def rig(tmp_path: Path, loop_thread: LoopThread) -> Iterator[Rig]:
    rig = Rig(tmp_path, loop_thread)
    yield rig
    rig.stop()


@pytest.fixture
def server(rig: Rig) -> MachineSpec:
    spec = rig.boot()
    eventually(lambda: rig.answers(spec))
    return spec


class TestSsh:
    def test_the_host_key_is_the_injected_one_and_root_comes_in_with_the_ordered_key(
        self, rig: Rig, server: MachineSpec
    ) -> None:
        with rig.shell(server) as shell:
            assert shell.run("uname -m") == (0, "x86_64\n", "")

    def test_nobody_else_comes_in(self, rig: Rig, server: MachineSpec, tmp_path: Path) -> None:
        operator_key(tmp_path / "foreign", make=True)
        with pytest.raises(paramiko.AuthenticationException):
            rig.client(server, key=tmp_path / "foreign")
        with pytest.raises(paramiko.AuthenticationException):
            rig.client(server, username="admin")

    def test_a_host_key_in_yaml_is_found_too(self, rig: Rig) -> None:
        indented = "\n".join("    " + line for line in rig.host_key.private.reveal().splitlines())
        spec = rig.boot(rig.spec(user_data=f"#cloud-config\nssh_keys:\n  ed25519_private: |\n{indented}\n"))
        with rig.await_client(spec):
            pass

    def test_without_an_injected_key_it_has_one_of_its_own(self, rig: Rig) -> None:
        spec = rig.boot(rig.spec(user_data=""))
        with pytest.raises(paramiko.BadHostKeyException):
            rig.await_client(spec)

    def test_openssh_can_use_it(self, rig: Rig, server: MachineSpec, tmp_path: Path) -> None:
        if shutil.which("ssh") is None:
            pytest.skip("OpenSSH's client is not installed")
        (tmp_path / "known").write_text(known_hosts_line("server", rig.host_key.public) + "\n")
        host, port = rig.net.dial(server.ipv4, 22)
        options = ["-F", "none", "-o", f"UserKnownHostsFile={tmp_path / 'known'}", "-o", "HostKeyAlias=server"]
        where = ["-i", str(rig.key), "-p", str(port), f"root@{host}"]
        done = subprocess.run(
            ["ssh", *options, *where, "uname -m"], capture_output=True, text=True, timeout=20, check=False
        )
        assert (done.returncode, done.stdout) == (0, "x86_64\n")
        done = subprocess.run(
            ["ssh", *options, *where], capture_output=True, text=True, timeout=20, check=False, stdin=subprocess.DEVNULL
        )
        assert done.returncode == 127
        assert "not simulated: an interactive shell" in done.stderr

    @pytest.mark.parametrize(
        "command",
        [
            "uname -a",
            "cat /etc/shadow",
            "uname -m; reboot",
            "uname -m\n",
            bootstrap.installed("report") + " ",
            bootstrap.installed("reset"),
            bootstrap.installed("nonce", "a b"),
            bootstrap.upload("/etc"),
            bootstrap.follow("prepare", 5).replace("+6", "+7"),
            bootstrap.start("prepare", FOLDER).replace(FOLDER, "/run/clawdet/ab", 1),
        ],
    )
    def test_anything_else_is_refused_by_name(self, rig: Rig, server: MachineSpec, command: str) -> None:
        with rig.shell(server) as shell:
            code, out, err = shell.run(command)
        assert (code, out) == (127, "")
        assert err.startswith("simulated server: ")

    def test_the_first_boot_is_waited_for(self, rig: Rig, server: MachineSpec) -> None:
        with rig.shell(server) as shell:
            assert shell.run(CLOUD_INIT_DONE) == (0, "\nstatus: done\n", "")

    @pytest.mark.parametrize("user_data", ["Grüße", base64.b64encode(b"\x1f\x8bno gzip").decode()])
    def test_user_data_that_is_nothing_does_not_keep_it_from_booting(self, rig: Rig, user_data: str) -> None:
        rig.boot(rig.spec(user_data=user_data))

    def test_user_data_with_effects_that_are_not_played_is_an_error_of_cloud_init(self, rig: Rig) -> None:
        config = {"ssh_keys": {"ed25519_private": rig.host_key.private.reveal()}, "runcmd": ["true"]}
        spec = rig.boot(rig.spec(user_data="#cloud-config\n" + json.dumps(config)))
        client = rig.await_client(spec)
        code, out, err = Shell(client).run(CLOUD_INIT_DONE)
        client.close()
        assert (code, out) == (1, "\nstatus: error\n")
        assert "runcmd" in err

    def test_until_it_has_booted_the_port_is_closed(self, rig: Rig) -> None:
        rig.stop()
        rig.start(boot_seconds=1000)
        assert rig.is_closed(rig.boot(), 22)

    def test_connections_are_bounded(self, rig: Rig, server: MachineSpec) -> None:
        with contextlib.ExitStack() as stack:
            sockets = [stack.enter_context(rig.dial(server, 22)) for _ in range(12)]
            banners = []
            for sock in sockets:
                try:
                    banners.append(sock.recv(8))
                except ConnectionResetError:
                    banners.append(b"reset")
            assert banners.count(b"reset") >= 2
            assert banners.count(b"SSH-2.0-") >= 8


class TestPhases:
    def test_prepare_and_configure_report_every_step(self, rig: Rig, server: MachineSpec) -> None:
        pins = PINNED.script_input()
        with rig.shell(server) as shell:
            lines = shell.phase("prepare", PREPARE_INPUT, LOCK)
            names = lines[0].split()[2:]
            assert lines[0] == f"@steps {len(names)} {' '.join(names)}"
            assert steps(lines, "begin") == steps(lines, "done")
            assert sorted(steps(lines, "done") + steps(lines, "skip")) == sorted(names)
            assert lines[-1] == (
                f"@result ok openclaw_version={PINNED.openclaw_version} node_version={PINNED.node_version}"
                f" caddy_version={PINNED.caddy_version}"
                f" node_sha256={pins['node_executable_sha256']} caddy_sha256={pins['caddy_executable_sha256']}"
                f" lock_sha256={pins['lock_sha256']} script_sha256={hashlib.sha256(bootstrap.script()).hexdigest()}"
            )
            lines = shell.phase("configure", rig.configure_input(shell) + KEY_LINE, {})
            assert "gateway-config" in steps(lines, "done")
            assert lines[-1].startswith(f"@result ok host={HOST} address=10.0.2.100 certificate_sha256=")

    def test_a_second_run_skips_what_holds(self, rig: Rig, server: MachineSpec) -> None:
        rig.provision(server)
        with rig.shell(server) as shell:
            token = shell.run(bootstrap.installed("token"))
            assert steps(shell.phase("prepare", PREPARE_INPUT, LOCK), "done") == ["machine", "prepared"]
            again = shell.phase("configure", rig.configure_input(shell), {})
            # The certificate is another one, as a test's authority signs anew each time.
            assert steps(again, "done") == ["gateway-ready", "certificate", "caddy-start", "promises"]
            assert shell.run(bootstrap.installed("token")) == token

    def test_the_gateway_runs_before_it_has_a_user_and_takes_him_over(self, rig: Rig, server: MachineSpec) -> None:
        with rig.shell(server) as shell:
            shell.phase("prepare", PREPARE_INPUT, LOCK)
            token = shell.run(bootstrap.installed("token"))
            lines = shell.phase("configure", rig.configure_input(shell) + KEY_LINE, {})
            assert steps(lines, "skip") == ["gateway-start"]
            ((place, values),) = rig.secrets().items()
            assert values == {"OPENCLAW_GATEWAY_TOKEN": token[1].strip(), "ANTHROPIC_API_KEY": "sk-ant-of-a-test"}
            lines = shell.phase("configure", rig.configure_input(shell) + KEY_LINE.replace("test", "other"), {})
            assert "gateway-start" in steps(lines, "skip")
            assert "gateway-config" in steps(lines, "done")
            assert shell.run(bootstrap.installed("token")) == token
            ((other, values),) = rig.secrets().items()
            assert other != place
            assert values["ANTHROPIC_API_KEY"] == "sk-ant-of-a-other"
            assert f"/{other}/" in rig.file("var/lib/openclaw/.openclaw/openclaw.json").read_text()

    def test_a_configuration_that_waits_starts_the_gateway_itself(self, rig: Rig, server: MachineSpec) -> None:
        guest = rig.machines._running[1]._guest
        guest.disk.write(bootstrap.INSTALLED_SCRIPT, "")
        rig.wait_for(guest.phase_lock.acquire())  # so that the one comes while the other has not ended
        with rig.shell(server) as shell:
            shell.upload(PREPARE_INPUT, LOCK)
            assert shell.start("prepare") == "started\n"
            eventually(lambda: "prepare" in guest.waiting)
            shell.upload(rig.configure_input(shell) + KEY_LINE, {})
            assert shell.start("configure") == "started\n"
            eventually(lambda: "configure" in guest.waiting)
            rig.loop.call_soon_threadsafe(guest.phase_lock.release)
            state, prepared = shell.follow("prepare")
            assert state.ok
            assert "gateway" in steps(prepared, "skip")
            configured = shell.follow("configure")[1]
            assert configured[1] == "Another run is at work; waiting for it."
            assert "gateway-start" in steps(configured, "done")
            assert set(steps(configured, "skip")) == {"gateway-config", "gateway-reload"}
            assert shell.phase("prepare", PREPARE_INPUT, LOCK)[-1].startswith("@result ok")
        ((_, values),) = rig.secrets().items()
        assert values["ANTHROPIC_API_KEY"] == "sk-ant-of-a-test"

    def test_what_an_older_script_left_in_env_moves(self, rig: Rig, server: MachineSpec) -> None:
        rig.provision(server)
        token = "0" * 48
        rig.file("var/lib/openclaw/.openclaw/secrets.json").unlink()
        rig.file("usr/local/lib/clawdet/provision-openclaw.sh").write_text("an older one")
        env = rig.file("var/lib/openclaw/.openclaw/.env")
        env.write_text(f"OPENCLAW_GATEWAY_TOKEN={token}\nXAI_API_KEY=xai-0123\nMINE=1\n")
        with rig.shell(server) as shell:
            lines = shell.phase("configure", rig.configure_input(shell), {})
            assert "gateway-start" in steps(lines, "done")
            assert shell.run(bootstrap.installed("token")) == (0, f"{token}\n", "")
        assert list(rig.secrets().values()) == [{"OPENCLAW_GATEWAY_TOKEN": token, "XAI_API_KEY": "xai-0123"}]
        assert env.read_text() == "MINE=1\n"
        assert rig.file("usr/local/lib/clawdet/provision-openclaw.sh").read_bytes() == bootstrap.script()

    def test_a_machine_for_the_pool_is_patched_and_waited_for(self, rig: Rig, server: MachineSpec) -> None:
        with rig.shell(server) as shell:
            lines = shell.phase("prepare", PREPARE_INPUT, LOCK)
            assert {"patches", "gateway-ready"} < set(steps(lines, "skip"))
            assert shell.phase("prepare", PREPARE_INPUT + "pool=no\n", LOCK)[-1].startswith("@result failed")
            lines = shell.phase("prepare", PREPARE_INPUT + "pool=yes\n", LOCK)
            assert {"patches", "gateway-ready"} < set(steps(lines, "done"))
            again = shell.phase("prepare", PREPARE_INPUT + "pool=yes\n", LOCK)
            assert "patches" in steps(again, "skip")
            assert "gateway-ready" in steps(again, "done")

    def test_a_prepared_machine_is_one_runs_only_and_its_token_becomes_another(
        self, rig: Rig, server: MachineSpec
    ) -> None:
        ours, theirs = (bootstrap.installed("claim", run) for run in ("abcdefabcde1", "abcdefabcde2"))
        with rig.shell(server) as shell:
            result = shell.phase("prepare", PREPARE_INPUT, LOCK)[-1].removeprefix("@result ok ").split()
            key = shell.run(bootstrap.installed("host-key"))[1].split("next=ssh-ed25519 ")[1].strip()
            assert shell.run(bootstrap.installed("switch-host-key", key))[0] == 0
            assert shell.run(bootstrap.installed("claim", "short"))[0] == 2
            code, said, _ = shell.run(ours)
            assert code == 0
            assert said.splitlines()[:-2] == result
            current, following = said.splitlines()[-2:]
            assert current == f"current=ssh-ed25519 {key}"
            assert re.fullmatch("next=ssh-ed25519 [A-Za-z0-9+/]{68}", following)
            assert shell.run(ours) == (code, said, "")
            assert shell.run(theirs) == (
                4,
                f"claim={ours.split()[-1]}\n",
                "provision-openclaw.sh: the machine was taken by another run\n",
            )
            tokens = [shell.run(bootstrap.installed("token"))[1].strip()]
            for _ in range(2):
                shell.phase("configure", rig.configure_input(shell), {})
                tokens.append(shell.run(bootstrap.installed("token"))[1].strip())
            assert shell.run(ours)[0] == 0
        assert tokens[0] != tokens[1]
        assert tokens[1] == tokens[2]
        path = "/app/control-ui-config.json"
        statuses = [rig.get(server, path, {"Authorization": f"Bearer {token}"})[0] for token in tokens[:2]]
        assert statuses == [401, 200]

    def test_a_machine_that_has_a_user_or_is_not_prepared_is_not_taken(self, rig: Rig, server: MachineSpec) -> None:
        with rig.shell(server) as shell:
            shell.phase("prepare", PREPARE_INPUT, LOCK)
            prepared = rig.file("var/lib/clawdet/prepared")
            text = prepared.read_text()
            prepared.unlink()
            claim = bootstrap.installed("claim", "abcdefabcde1")
            assert shell.run(claim) == (3, "", "provision-openclaw.sh: the machine is not prepared\n")
            prepared.write_text(text)
            shell.phase("configure", rig.configure_input(shell), {})
            assert shell.run(claim) == (3, "", "provision-openclaw.sh: the machine is configured already\n")

    def test_the_script_is_what_was_uploaded(self, rig: Rig, server: MachineSpec) -> None:
        with rig.shell(server) as shell:
            assert shell.run(bootstrap.installed("report"))[0] == 127
            shell.phase("prepare", PREPARE_INPUT, LOCK)
        tool = rig.folder / "servers/1/files/usr/local/lib/clawdet/provision-openclaw.sh"
        assert tool.read_bytes() == bootstrap.script()

    @pytest.mark.parametrize(
        ("verb", "lines", "reason"),
        [
            ("prepare", PREPARE_INPUT + "extra=1\n", "input: unknown key extra"),
            ("prepare", PREPARE_INPUT.replace("lock_sha256", "#"), "input: lock_sha256 is missing"),
            ("prepare", PREPARE_INPUT + PREPARE_INPUT, "input: openclaw_version is given twice"),
            (
                "prepare",
                PREPARE_INPUT.replace("node_version=", "node_version=v"),
                "the value of node_version is malformed",
            ),
            ("prepare", "nonsense\n", "input: a line is not key=value"),
            ("configure", f"host=-x.test\nuser={USER}\ncertificate_base64=AAAA\n", "the value of host is malformed"),
        ],
    )
    def test_bad_input_is_refused_and_deleted(
        self, rig: Rig, server: MachineSpec, verb: str, lines: str, reason: str
    ) -> None:
        with rig.shell(server) as shell:
            shell.upload(lines, LOCK)
            shell.start(verb)
            state, said = shell.follow(verb)
            assert not state.ok
            assert "Result=exit-code" in state.text
            assert "ExecMainStatus=2" in state.text
            assert reason in said[0]
            assert said[-1] == "@result failed step=input code=2"
            shell.start(verb)
            assert "the input file is missing" in shell.follow(verb)[1][0]

    @pytest.mark.parametrize(
        ("files", "reason"),
        [
            ({}, "package.json and package-lock.json are not beside the input file"),
            ({**LOCK, "package-lock.json": b"{}"}, "the lock of OpenClaw has the wrong digest"),
        ],
    )
    def test_the_lock_must_be_the_pinned_one(
        self, rig: Rig, server: MachineSpec, files: dict[str, bytes], reason: str
    ) -> None:
        with rig.shell(server) as shell:
            lines = shell.phase("prepare", PREPARE_INPUT, files)
        assert any(line.startswith("@step fail openclaw ") and reason in line for line in lines)

    def test_an_image_that_the_script_does_not_know_is_refused(self, rig: Rig) -> None:
        spec = rig.boot(rig.spec(image="ubuntu-22.04"))
        client = rig.await_client(spec)
        lines = Shell(client).phase("prepare", PREPARE_INPUT, LOCK)
        client.close()
        assert lines[-1] == "@result failed step=machine code=3"

    def test_configure_needs_prepare(self, rig: Rig, server: MachineSpec) -> None:
        with rig.shell(server) as shell:
            lines = shell.phase("configure", f"host={HOST}\nuser={USER}\ncertificate_base64=AAAA\n", {})
        assert lines[-2:] == [
            "@step fail gateway-start 3 the machine is not prepared",
            "@result failed step=gateway-start code=3",
        ]

    @pytest.mark.parametrize("flaw", ["other key", "other host", "expired", "no certificate"])
    def test_a_certificate_that_does_not_fit_is_refused(self, rig: Rig, server: MachineSpec, flaw: str) -> None:
        with rig.shell(server) as shell:
            shell.phase("prepare", PREPARE_INPUT, LOCK)
            csr = shell.run(bootstrap.installed("certificate-request", HOST))[1]
            pem = {
                "other key": lambda: rig.origin_ca.issue_server([HOST])[0],
                "other host": lambda: rig.origin_ca.sign_csr(csr, ["bob.clawdet.test"], 7).certificate,
                "expired": lambda: rig.origin_ca.sign_csr(csr, [HOST], -1).certificate,
                "no certificate": lambda: csr,
            }[flaw]()
            encoded = base64.b64encode(pem.encode()).decode()
            lines = shell.phase("configure", f"host={HOST}\nuser={USER}\ncertificate_base64={encoded}\n", {})
        assert lines[-1] == "@result failed step=certificate code=1"

    def test_the_certificate_request_stays_the_same_and_names_the_host(self, rig: Rig, server: MachineSpec) -> None:
        with rig.shell(server) as shell:
            shell.phase("prepare", PREPARE_INPUT, LOCK)
            first = shell.run(bootstrap.installed("certificate-request", HOST))
            assert first == shell.run(bootstrap.installed("certificate-request", HOST))
            assert shell.run(bootstrap.installed("certificate-request", "bob.clawdet.test"))[1] != first[1]
            assert shell.run(bootstrap.installed("certificate-request", "nodots"))[0] == 2

    def test_following_waits_for_news_and_goes_on_over_another_connection(self, rig: Rig, server: MachineSpec) -> None:
        lock = rig.machines._running[1]._guest.phase_lock
        rig.wait_for(lock.acquire())  # as another phase would, so that this one stands still
        with rig.shell(server) as shell:
            shell.upload(PREPARE_INPUT, LOCK)
            assert shell.start("prepare") == "started\n"
            assert shell.start("prepare") == "attached\n"
            state, first = bootstrap.parse_follow(shell.run(bootstrap.follow("prepare", 0))[1])
        assert state.running
        assert first.startswith("@steps ")
        with rig.shell(server) as other, ThreadPoolExecutor(1) as thread:
            following = thread.submit(other.follow, "prepare", state.offset)
            with pytest.raises(TimeoutError):
                following.result(0.3)
            looks = len(other.looks)
            rig.loop.call_soon_threadsafe(lock.release)
            ended, rest = following.result(20)
        assert looks == 1
        assert ended.ok
        assert rest[-1].startswith("@result ok")

    def test_a_phase_that_never_started_is_inactive(self, rig: Rig, server: MachineSpec) -> None:
        with rig.shell(server) as shell:
            code, out, err = shell.run(bootstrap.follow("prepare", 0))
        assert (code, out) == (0, "ActiveState=inactive Result=success ExecMainStatus=0 Offset=0\n")
        assert "No such file" in err

    def test_openclaw_answers_once_it_is_there(self, rig: Rig, server: MachineSpec) -> None:
        command = "openclaw --version && systemctl is-active openclaw-gateway"
        with rig.shell(server) as shell:
            assert shell.run(command)[0] == 127
            shell.phase("prepare", PREPARE_INPUT, LOCK)
            assert shell.run(command)[:2] == (0, f"OpenClaw {PINNED.openclaw_version}\nactive\n")
            shell.phase("configure", rig.configure_input(shell), {})
            assert shell.run(command)[:2] == (0, f"OpenClaw {PINNED.openclaw_version}\nactive\n")

    def test_the_files_with_secrets_are_private(self, rig: Rig, server: MachineSpec) -> None:
        rig.provision(server)
        files = [path for path in (rig.folder / "servers/1/files").rglob("*") if path.is_file()]
        assert files
        assert [path for path in files if path.stat().st_mode & 0o077] == []


class TestWeb:
    @pytest.fixture
    def ready(self, rig: Rig, server: MachineSpec) -> MachineSpec:
        rig.provision(server)
        return server

    def test_the_ports_are_closed_before_configure(self, rig: Rig, server: MachineSpec) -> None:
        assert [rig.is_closed(server, port) for port in (80, 443, 18789)] == [True] * 3

    def test_the_landing_page_says_what_it_is(self, rig: Rig, ready: MachineSpec) -> None:
        status, body, headers = rig.get(ready, "/")
        assert status == 200
        assert HOST in body.decode()
        assert "simulated server" in body.decode()
        assert headers["Cache-Control"] == "no-store"
        assert rig.get(ready, "/nothing")[0] == 404

    def test_the_nonce_is_served(self, rig: Rig, ready: MachineSpec) -> None:
        assert rig.get(ready, "/.well-known/clawdet-nonce")[0] == 404
        with rig.shell(ready) as shell:
            assert shell.run(bootstrap.installed("nonce", "abcdef123456")) == (0, "", "")
            assert shell.run(bootstrap.installed("nonce", "short"))[0] == 2
        status, body, headers = rig.get(ready, "/.well-known/clawdet-nonce?x")
        assert (status, body, headers["Content-Type"]) == (200, b"abcdef123456\n", "text/plain; charset=utf-8")
        with rig.shell(ready) as shell:
            shell.run(bootstrap.installed("nonce", "another12345"))
        assert rig.get(ready, "/.well-known/clawdet-nonce")[1] == b"abcdef123456\nanother12345\n"

    def test_the_gateway_wants_the_token(self, rig: Rig, ready: MachineSpec) -> None:
        protected = "/app/control-ui-config.json"
        with rig.shell(ready) as shell:
            token = shell.run(bootstrap.installed("token"))[1].strip()
        assert len(token) == 48
        assert [rig.get(ready, protected)[0] for _ in range(12)] == [401] * 12
        assert rig.get(ready, protected, {"Authorization": f"Bearer {token}"})[0] == 200
        wrong = [rig.get(ready, protected, {"Authorization": "Bearer wrong"}) for _ in range(12)]
        assert [status for status, _, _ in wrong] == [401] * 10 + [429] * 2
        assert wrong[-1][2]["Retry-After"] == "300"

    def test_the_control_ui_and_the_health(self, rig: Rig, ready: MachineSpec) -> None:
        status, _, headers = rig.get(ready, "/app")
        assert (status, headers["Location"]) == (302, "/app/")
        assert rig.get(ready, "/app/")[0] == 200
        assert json.loads(rig.get(ready, "/healthz")[1])["ok"] is True
        assert rig.get(ready, "/app/assets/none.js")[0] == 404
        assert [rig.get(ready, path)[0] for path in ("/readyz", "/v1/models", "/api/x")] == [404] * 3

    def test_a_connection_serves_several_requests(self, rig: Rig, ready: MachineSpec) -> None:
        connection = http.client.HTTPConnection(HOST)
        connection.sock = rig.tls(rig.dial(ready, 443))
        for method, path in (("GET", "/"), ("HEAD", "/"), ("POST", "/"), ("GET", "/healthz")):
            connection.request(method, path, body=b"x" if method == "POST" else None)
            answer = connection.getresponse()
            answer.read()
            assert answer.status == (405 if method == "POST" else 200)
        connection.close()

    def test_another_name_gets_no_certificate_and_another_host_no_page(self, rig: Rig, ready: MachineSpec) -> None:
        with pytest.raises(ssl.SSLError) as refused:
            rig.tls(rig.dial(ready, 443), "bob.clawdet.test")
        assert not isinstance(refused.value, ssl.SSLCertVerificationError)
        assert rig.get(ready, "/", {"Host": "bob.clawdet.test"})[0] == 421

    def test_port_80_sends_to_https(self, rig: Rig, ready: MachineSpec) -> None:
        status, _, headers = read(rig.dial(ready, 80), "/x?y")
        assert (status, headers["Location"]) == (308, f"https://{HOST}/x?y")

    @pytest.mark.parametrize(
        ("origin", "code"),
        [
            (f"https://{HOST}", "CONTROL_UI_DEVICE_IDENTITY_REQUIRED"),
            ("https://foreign.invalid", "CONTROL_UI_ORIGIN_NOT_ALLOWED"),
            (None, "CONTROL_UI_ORIGIN_NOT_ALLOWED"),
        ],
    )
    def test_a_websocket_is_challenged_and_refused(
        self, rig: Rig, ready: MachineSpec, origin: str | None, code: str
    ) -> None:
        with rig.tls(rig.dial(ready, 443)) as stream:
            gateway = WebSocket(stream, HOST, "/app", origin, end=Deadline.after(10), max_size=65536)
            gateway.open()
            challenge = json.loads(gateway.receive() or b"")
            assert (challenge["type"], challenge["event"]) == ("event", "connect.challenge")
            assert challenge["payload"]["nonce"]
            gateway.send(json.dumps(dict(CONNECT_REQUEST)))
            answer = json.loads(gateway.receive() or b"")
            assert (answer["id"], answer["ok"], answer["error"]["details"]["code"]) == ("1", False, code)
            assert gateway.receive() is None
            assert gateway.closed_with()[0] == 1008

    def test_channels_that_are_opened_at_the_same_moment_are_all_served(self, rig: Rig, ready: MachineSpec) -> None:
        with rig.shell(ready) as shell, ThreadPoolExecutor(8) as several:
            transport = shell.client.get_transport()
            assert transport is not None
            address = bootstrap.parse_values(shell.run(bootstrap.installed("report"))[1])["address"]

            def greeted() -> bytes:
                channel = transport.open_channel("direct-tcpip", (address, 443), ("127.0.0.1", 0), timeout=5)
                channel.settimeout(5)
                # No TLS: that ends the connection at once, with an alert or without.
                channel.sendall(b"GET / HTTP/1.0\r\n\r\n")
                return channel.recv(1)

            tunnels, commands = [], []
            for _ in range(60):
                commands.append(several.submit(shell.run, "uname -m"))
                tunnels.append(several.submit(greeted))
            assert {tunnel.result(60) for tunnel in tunnels} <= {b"", b"\x15"}
            assert {command.result(60) for command in commands} == {(0, "x86_64\n", "")}

    def test_the_tunnel_through_ssh_leads_to_its_own_address_only(self, rig: Rig, ready: MachineSpec) -> None:
        rig.denied = {443}
        with rig.shell(ready) as shell:
            transport = shell.client.get_transport()
            assert transport is not None
            report = bootstrap.parse_values(shell.run(bootstrap.installed("report"))[1])
            channel = transport.open_channel("direct-tcpip", (report["address"], 443), ("127.0.0.1", 0), timeout=5)
            ours, theirs = socket.socketpair()
            threading.Thread(target=carry, args=(channel, theirs), daemon=True).start()
            stream = rig.tls(ours)
            status, body, _ = read(stream, "/")
            assert (status, HOST in body.decode()) == (200, True)
            for place in (("127.0.0.1", 443), (report["address"], 18789), ("192.0.2.1", 443)):
                with pytest.raises(paramiko.ChannelException):
                    transport.open_channel("direct-tcpip", place, ("127.0.0.1", 0), timeout=5)

    def test_the_report_tells_what_is_there(self, rig: Rig, ready: MachineSpec) -> None:
        with rig.shell(ready) as shell:
            code, out, _ = shell.run(bootstrap.installed("report"))
        report = bootstrap.parse_values(out)
        assert code == 0
        assert report["phase"] == "configured"
        assert (report["openclaw_unit"], report["caddy_unit"]) == ("active", "active")
        assert (report["gateway_ready"], report["gateway_health"], report["listener_owner"]) == ("true", "ok", "unit")
        stream = rig.tls(rig.dial(ready, 443))
        leaf = stream.getpeercert(binary_form=True)
        stream.close()
        assert leaf is not None
        assert report["certificate_sha256"] == hashlib.sha256(leaf).hexdigest()


class ChannelOfSocket(socket.socket):
    """What a tunnel asks of a channel."""

    def shutdown_write(self) -> None:
        self.shutdown(socket.SHUT_WR)


def test_a_tunnel_works_where_many_servers_have_all_low_descriptors() -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, 2048), hard))
    taken = [os.open(os.devnull, os.O_RDONLY) for _ in range(1024)]
    try:
        (client, inner), (outer, server) = socket.socketpair(), socket.socketpair()
        channel = ChannelOfSocket(fileno=inner.detach())
        threading.Thread(target=_pump, args=(cast(paramiko.Channel, channel), outer), daemon=True).start()
        with client, server:
            for end in (client, server):
                end.settimeout(10)
            client.sendall(b"there")
            assert server.recv(10) == b"there"
            server.sendall(b"and back")
            assert client.recv(10) == b"and back"
    finally:
        for descriptor in taken:
            os.close(descriptor)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def carry(channel: paramiko.Channel, sock: socket.socket) -> None:
    """Pump both ways until the channel ends."""

    def back() -> None:
        with contextlib.suppress(OSError):
            while data := channel.recv(65536):
                sock.sendall(data)
        with contextlib.suppress(OSError):
            sock.shutdown(socket.SHUT_WR)

    receiver = threading.Thread(target=back, daemon=True)
    receiver.start()
    with contextlib.suppress(OSError):
        while data := sock.recv(65536):
            channel.sendall(data)
        channel.shutdown_write()
    receiver.join()
    channel.close()
    sock.close()


class TestPower:
    def test_the_provider_firewall_counts(self, rig: Rig, server: MachineSpec) -> None:
        rig.denied = {22}
        with rig.dial(server, 22) as sock:
            sock.settimeout(0.2)
            with pytest.raises(TimeoutError):
                sock.recv(1)

    def test_power_off_cuts_everything_and_power_on_brings_the_services_back(
        self, rig: Rig, server: MachineSpec
    ) -> None:
        rig.provision(server)
        with rig.shell(server) as shell:
            token = shell.run(bootstrap.installed("token"))[1]
            rig.wait_for(rig.machines.power_off(1, graceful=False))
            transport = shell.client.get_transport()
            assert transport is not None
            eventually(lambda: not transport.is_active())
        with rig.dial(server, 443) as sock:
            sock.settimeout(0.2)
            with pytest.raises(TimeoutError):
                sock.recv(1)
        rig.boot(server)
        assert eventually(lambda: rig.get(server, "/app/"))[0] == 200
        with rig.shell(server) as shell:
            assert shell.run(bootstrap.installed("token"))[1] == token

    def test_a_power_cut_in_a_phase_leaves_a_server_that_can_be_prepared(self, rig: Rig) -> None:
        rig.stop()
        rig.start(boot_seconds=1000)
        rig.machines._scale = 0.0
        spec = rig.boot()
        client = rig.await_client(spec)
        rig.wait_for(slow_down(rig.machines))
        shell = Shell(client)
        shell.upload(PREPARE_INPUT, LOCK)
        shell.start("prepare")
        rig.wait_for(rig.machines.power_off(1, graceful=False))
        client.close()
        rig.boot(spec)
        client = rig.await_client(spec)
        state, _ = bootstrap.parse_follow(Shell(client).run(bootstrap.follow("prepare", 0))[1])
        assert not state.ok
        assert Shell(client).phase("prepare", PREPARE_INPUT, LOCK)[-1].startswith("@result ok")
        client.close()

    def test_a_restarted_sandbox_finds_its_servers_again(self, rig: Rig, server: MachineSpec) -> None:
        rig.provision(server)
        with rig.shell(server) as shell:
            token = shell.run(bootstrap.installed("token"))[1]
        number = rig.net.number
        rig.stop()
        rig.start()
        assert rig.net.number == number
        rig.boot(server)
        eventually(lambda: rig.answers(server))
        with rig.shell(server) as shell:
            assert shell.run(bootstrap.installed("token"))[1] == token
            assert steps(shell.phase("prepare", PREPARE_INPUT, LOCK), "done") == ["machine", "prepared"]

    def test_removing_leaves_nothing_and_a_new_disk_knows_nothing(self, rig: Rig, server: MachineSpec) -> None:
        rig.provision(server)
        rig.wait_for(rig.machines.remove(1))
        rig.wait_for(rig.machines.remove(1))
        assert list((rig.folder / "servers").iterdir()) == []
        with pytest.raises(ConnectionRefusedError):
            rig.dial(server, 22)
        rig.boot(server)
        client = rig.await_client(server)
        assert Shell(client).run(bootstrap.installed("token"))[0] == 127
        client.close()

    def test_booting_twice_and_powering_off_what_is_off_change_nothing(self, rig: Rig, server: MachineSpec) -> None:
        rig.boot(server)
        rig.wait_for(rig.machines.power_off(1, graceful=True))
        rig.wait_for(rig.machines.power_off(1, graceful=True))
        rig.wait_for(rig.machines.power_off(99, graceful=True))

    def test_a_hundred_servers_at_once(self, rig: Rig) -> None:
        before = threading.active_count()
        specs = [rig.boot(rig.spec(number)) for number in range(1, 101)]
        assert threading.active_count() - before <= 1

        def ask(spec: MachineSpec) -> tuple[int, str, str]:
            client = rig.await_client(spec)
            try:
                return Shell(client).run("uname -m")
            finally:
                client.close()

        with ThreadPoolExecutor(10) as clients:
            assert set(clients.map(ask, specs)) == {(0, "x86_64\n", "")}
        eventually(lambda: threading.active_count() - before < 60)


async def slow_down(machines: SimulatedMachines) -> None:
    """Make everything on the running servers endless."""
    for server in machines._running.values():
        server._guest._scale = 1000.0


class TestKnobs:
    def test_a_step_fails_once_and_the_next_run_goes_on(self, rig: Rig, server: MachineSpec) -> None:
        rig.machines.knobs.set({"fail_step": {"prepare": "caddy"}})
        with rig.shell(server) as shell:
            lines = shell.phase("prepare", PREPARE_INPUT, LOCK)
            assert lines[-1] == "@result failed step=caddy code=1"
            assert steps(lines, "fail") == ["caddy"]
            lines = shell.phase("prepare", PREPARE_INPUT, LOCK)
            assert "node" in steps(lines, "skip")
            assert "caddy" in steps(lines, "done")

    def test_a_step_fails_as_often_as_wanted(self, rig: Rig, server: MachineSpec) -> None:
        rig.machines.knobs.set({"fail_step": {"prepare": {"step": "node", "times": 2}}})
        with rig.shell(server) as shell:
            ends = [shell.phase("prepare", PREPARE_INPUT, LOCK)[-1].split()[1] for _ in range(3)]
        assert ends == ["failed", "failed", "ok"]

    def test_connections_break_while_a_phase_is_followed_and_the_phase_goes_on(
        self, rig: Rig, server: MachineSpec
    ) -> None:
        rig.machines.knobs.set({"drop_connection_in_phase": {"prepare": 1}})
        client = rig.client(server)
        shell = Shell(client)
        shell.upload(PREPARE_INPUT, LOCK)
        shell.start("prepare")
        # On a busy machine the end may come before the answer that the command was begun.
        with contextlib.suppress(EOFError, paramiko.SSHException):
            assert shell.run(bootstrap.follow("prepare", 0))[:2] == (-1, "")
        transport = client.get_transport()
        eventually(lambda: transport is None or not transport.is_active())
        client.close()
        with rig.shell(server) as other:
            assert other.follow("prepare")[0].ok

    def test_ssh_can_be_kept_away_or_turn_up_with_another_key(self, rig: Rig, server: MachineSpec) -> None:
        rig.machines.knobs.set({"ssh_never": True})
        assert rig.is_closed(server, 22)
        rig.machines.knobs.set({"ssh_never": False, "ssh_wrong_host_key": True})
        with pytest.raises(paramiko.BadHostKeyException):
            rig.client(server)
        rig.machines.knobs.reset()
        rig.client(server).close()

    def test_the_control_route(self, rig: Rig, serve_app: Callable[[ASGIApp], Served]) -> None:
        url = serve_app(Starlette(routes=rig.machines.routes())).url + "/_sandbox/servers/knobs"
        with requests.Session() as http_:
            http_.trust_env = False
            http_.headers["Connection"] = "close"
            assert http_.get(url, timeout=5).json()["ssh_never"] is False
            assert http_.put(url, json={"ssh_never": True}, timeout=5).json()["ssh_never"] is True
            assert rig.state["simulated"] == {"ssh_never": True}
            refused: tuple[Any, ...] = ({"nothing": 1}, {"ssh_never": "yes"}, "x")
            assert [http_.put(url, json=body, timeout=5).status_code for body in refused] == [422] * 3
            assert http_.delete(url, timeout=5).json()["ssh_never"] is False
