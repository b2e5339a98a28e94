"""`--sandbox` and `clawdet sandbox ...`, with a sandbox that only remembers."""

import json
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

import clawdet_cli
from clawdet_cli import cli
from clawdet_cli.cli import look
from clawdet_cli.cli import sandbox as cli_sandbox
from clawdet_cli.sandbox import CaddyWanted, NodeWanted, SandboxError, SandboxInfo, SandboxStatus, ServerStatus
from tests.unit.fake_operations import FakeOperations, an_instance

Captured = pytest.CaptureFixture[str]

INFO = SandboxInfo(
    hetzner_url="http://127.17.9.2:8080/v1",
    hetzner_token="h" * 64,
    hetzner_read_token="r" * 64,
    cloudflare_url="http://127.17.9.2:8081/client/v4",
    cloudflare_token="c" * 40,
    zone="clawdet.test",
    edge_address="127.17.9.1:443",
    dns_address="127.17.9.53:53",
    ca_file="/ca folder/ca.pem",
    origin_ca_file="/origin.pem",
    origin_pull_ca_file="/pull.pem",
    dial_file="",
    artifacts={},
    servers="simulated",
    guest="debian13",
    boot_seconds=0.0,
    pid=4711,
    folder="/folder",
)
SERVER = ServerStatus(1, "clawdet-alice", "running", "127.18.9.1", "simulated")


@dataclass
class FakeSandbox:
    """The functions of `clawdet_cli.sandbox`."""

    running: SandboxInfo | None = None
    servers: tuple[ServerStatus, ...] = ()
    error: SandboxError | None = None
    ups: list[dict[str, Any]] = field(default_factory=list)
    downs: list[dict[str, Any]] = field(default_factory=list)

    SandboxError = SandboxError
    NodeWanted = NodeWanted
    CaddyWanted = CaddyWanted

    def up(self, folder: Path, cache: Path, *, report: Callable[[str], None], **options: Any) -> SandboxInfo:
        """Run from now on."""
        self.ups.append({"folder": folder, "cache": cache, **options})
        report("building the base image")
        if self.error:
            raise self.error
        folder.mkdir(parents=True, exist_ok=True)
        self.running = INFO
        return INFO

    def down(self, folder: Path, cache: Path, *, purge: bool, report: Callable[[str], None]) -> list[str]:
        """Run no longer."""
        self.downs.append({"folder": folder, "cache": cache, "purge": purge})
        report("stopping")
        was, self.running = self.running, None
        return ["process 4711"] if was else []

    def status(self, _folder: Path) -> SandboxStatus:
        """Tell what there is."""
        return SandboxStatus(self.running is not None, self.servers, self.running)

    def info(self, _folder: Path) -> SandboxInfo | None:
        """Tell how to reach it."""
        return self.running


@pytest.fixture
def cloud(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> FakeSandbox:
    """Give the sandbox that the command line will find in this test."""
    fake = FakeSandbox()
    monkeypatch.setitem(sys.modules, "clawdet_cli.sandbox", fake)
    monkeypatch.setattr(clawdet_cli, "sandbox", fake, raising=False)
    monkeypatch.setenv("CLAWDET_STATE", str(tmp_path / "state"))
    monkeypatch.setenv("CLAWDET_CACHE", str(tmp_path / "cache"))
    return fake


def test_provision_starts_the_sandbox_and_uses_nothing_of_the_real_clouds(
    fake: FakeOperations,
    cloud: FakeSandbox,
    capsys: Captured,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    monkeypatch.setenv("HCLOUD_TOKEN", "real-token-of-hetzner")
    monkeypatch.setenv("CLAWDET_ZONE", "example.com")
    fake.instances["alice"] = an_instance(zone="clawdet.test", url="https://alice.clawdet.test/", sandbox=True)
    assert cli.main(["provision", "alice", "--sandbox"]) == 0
    (up,) = cloud.ups
    assert up["folder"] == tmp_path / "state" / "sandbox" / "cloud"
    assert up["cache"] == tmp_path / "cache"
    assert {node.version for node in up["nodes"]} >= {"24.21.0", "22.23.3"}
    assert up["caddy"].version == "2.11.7"
    found = fake.settings[-1]
    assert found.hetzner_token is not None
    assert found.hetzner_token.reveal() == INFO.hetzner_token
    assert (found.zone, found.state_dir) == ("clawdet.test", tmp_path / "state" / "sandbox")
    out, err = capsys.readouterr()
    assert out.startswith("SANDBOX, simulated servers")
    assert err.startswith("SANDBOX")
    assert "building the base image" in err
    assert "curl --cacert '/ca folder/ca.pem' --resolve alice.clawdet.test:443:127.17.9.1 https://alice.clawdet" in out
    assert "clawdet token alice --sandbox" in out
    assert "EUR" not in out


def test_a_running_sandbox_is_used_as_it_is(fake: FakeOperations, cloud: FakeSandbox) -> None:
    cloud.running = INFO
    assert cli.main(["provision", "alice", "--sandbox"]) == 0
    assert cloud.ups == []
    assert fake.settings[-1].endpoints.sandbox == "SANDBOX, simulated servers"


@pytest.mark.parametrize("argv", [["verify", "alice"], ["destroy", "alice", "--yes"], ["token", "alice"]])
def test_what_needs_a_sandbox_says_when_there_never_was_one(
    fake: FakeOperations, cloud: FakeSandbox, capsys: Captured, argv: list[str]
) -> None:
    assert cli.main([*argv, "--sandbox", "--json", "--quiet"]) == 4
    error = json.loads(capsys.readouterr().out)
    assert error["sandbox"] is True
    assert "There is no sandbox in" in error["error"]["what"]
    assert error["error"]["next_steps"] == ["clawdet provision alice --sandbox", "clawdet sandbox up"]
    assert cloud.ups == []
    assert fake.asked == []


def test_a_sandbox_that_stopped_is_started_again_with_servers_of_its_kind(
    fake: FakeOperations, cloud: FakeSandbox, tmp_path: Path
) -> None:
    (tmp_path / "state" / "sandbox" / "cloud").mkdir(parents=True)
    cloud.servers = (SERVER,)
    assert cli.main(["destroy", "alice", "--yes", "--sandbox"]) == 0
    assert cloud.ups[0]["servers"] == "simulated"
    assert fake.asked == [("destroy", "alice")]


@pytest.mark.parametrize("stopped", [False, True])
def test_plain_status_needs_no_running_sandbox(
    fake: FakeOperations, cloud: FakeSandbox, capsys: Captured, tmp_path: Path, *, stopped: bool
) -> None:
    if stopped:
        (tmp_path / "state" / "sandbox" / "cloud").mkdir(parents=True)
    assert cli.main(["status", "--sandbox"]) == 0
    assert cloud.ups == []
    assert fake.asked == [("standings",)]
    assert capsys.readouterr().out.startswith("SANDBOX, stopped servers")


def test_the_kind_of_servers_belongs_to_the_sandbox(fake: FakeOperations, capsys: Captured) -> None:
    assert cli.main(["provision", "alice", "--servers", "real"]) == 2
    assert "add --sandbox" in capsys.readouterr().err
    assert fake.asked == []


def test_up_repeated_without_options_keeps_what_runs(cloud: FakeSandbox) -> None:
    cloud.running = INFO
    assert cli.main(["sandbox", "up"]) == 0
    assert {"servers": "simulated", "guest": "debian13", "boot_seconds": 0.0}.items() <= cloud.ups[0].items()
    assert cli.main(["sandbox", "up", "--servers", "real", "--guest", "debian12", "--boot-seconds", "2", "--yes"]) == 0
    asked = {"servers": "real", "guest": "debian12", "boot_seconds": 2.0, "install_tools": True}
    assert asked.items() <= cloud.ups[1].items()


def test_the_document_of_the_sandbox_is_flat(cloud: FakeSandbox, capsys: Captured, tmp_path: Path) -> None:
    cloud.running = INFO
    assert cli.main(["sandbox", "info", "--json", "--state", str(tmp_path)]) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["version"], found["hetzner_token"], found["zone"]) == (1, INFO.hetzner_token, "clawdet.test")
    home = tmp_path / "sandbox"
    assert (found["state_file"], found["ssh_key_file"]) == (f"{home}/clawdet.db", f"{home}/ssh/id_ed25519")


def test_tokens_of_the_sandbox_are_shown_to_scripts_only(cloud: FakeSandbox, capsys: Captured) -> None:
    for argv in (["sandbox", "up"], ["sandbox", "info"], ["sandbox", "status"], ["sandbox", "status", "--json"]):
        assert cli.main(argv) == 0
        out, err = capsys.readouterr()
        for token in (INFO.hetzner_token, INFO.hetzner_read_token, INFO.cloudflare_token):
            assert token not in out + err
    assert cloud.running


def test_info_without_a_sandbox_names_the_next_command(cloud: FakeSandbox, capsys: Captured) -> None:
    assert cli.main(["sandbox", "info", "--state", "/else where"]) == 4
    assert "clawdet sandbox up --state '/else where'" in capsys.readouterr().err
    assert cloud.running is None


def test_an_error_of_the_sandbox_is_ours(cloud: FakeSandbox, capsys: Captured) -> None:
    cloud.error = SandboxError("real servers need root", "run this as root")
    assert cli.main(["sandbox", "up"]) == 3
    err = capsys.readouterr().err
    assert "Failed: Real servers need root." in err
    assert "  run this as root" in err


@pytest.mark.usefixtures("cloud")
def test_a_missing_extra_is_named(capsys: Captured, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cli_sandbox, "EXTRA", ("no_such_package_of_the_extra",))
    assert cli.main(["sandbox", "up"]) == 3
    assert "pip install 'clawdet[sandbox]'" in capsys.readouterr().err


def test_down_asks_and_forgets_the_local_record(
    fake: FakeOperations, cloud: FakeSandbox, capsys: Captured, tmp_path: Path
) -> None:
    assert cli.main(["provision", "alice", "--sandbox"]) == 0
    home = tmp_path / "state" / "sandbox"
    (home / "ssh").mkdir()
    for name in (
        "clawdet.db",
        "clawdet.db-wal",
        "clawdet.db-journal",
        "ssh/id_ed25519",
        "ssh/known_hosts-1",
        "of-somebody-else",
    ):
        (home / name).touch()
    capsys.readouterr()
    assert cli.main(["sandbox", "down"]) == 2
    assert "clawdet sandbox down --yes" in capsys.readouterr().err
    assert cloud.downs == []
    assert (home / "clawdet.db").exists()
    assert cli.main(["sandbox", "down", "--yes"]) == 0
    assert [path.name for path in home.rglob("*")] == ["of-somebody-else"]
    assert "removed   process 4711" in capsys.readouterr().out
    assert cli.main(["sandbox", "down", "--yes", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == {"version": 1, "sandbox": True, "removed": []}
    assert fake.instances


def test_down_of_nothing_needs_no_consent(cloud: FakeSandbox, capsys: Captured) -> None:
    assert cli.main(["sandbox", "down", "--purge"]) == 0
    assert cloud.downs[0]["purge"] is True
    assert "There is no sandbox: nothing to remove." in capsys.readouterr().out


def test_an_edge_on_another_port_is_reached_by_connect_to() -> None:
    curl, browser, remark = look.commands("alice.clawdet.test", "127.0.0.1:1", "/ca.pem")
    assert curl == (
        "  curl --cacert /ca.pem --connect-to alice.clawdet.test:443:127.0.0.1:1 https://alice.clawdet.test/"
    )
    assert '--host-resolver-rules="MAP alice.clawdet.test 127.0.0.1:1"' in browser
    # Nothing listens there, so there is no key to name.
    assert "spki" not in browser
    assert "/ca.pem" in remark
