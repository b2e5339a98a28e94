"""A sandbox as its user has it: up, looked at, killed, up again, down. Its servers are simulated; none is ordered."""

import json
import os
import resource
import select
import signal
import stat
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from clawdet_cli import sandbox
from clawdet_cli.sandbox import leftovers, network
from clawdet_cli.sandbox.info import Files

pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="looks at processes through /proc")


class Box:
    """One sandbox's folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder / "box"
        self.cache = folder / "cache"
        self.said: list[str] = []

    def up(self, boot_seconds: float = 0.0) -> sandbox.SandboxInfo:
        return sandbox.up(
            self.folder, self.cache, servers="simulated", boot_seconds=boot_seconds, report=self.said.append
        )

    def down(self) -> list[str]:
        return sandbox.down(self.folder, self.cache, report=self.said.append)


@pytest.fixture
def box(tmp_path: Path) -> Iterator[Box]:
    made = Box(tmp_path)
    yield made
    made.down()


def kill(pid: int) -> None:
    descriptor = os.pidfd_open(pid)
    signal.pidfd_send_signal(descriptor, signal.SIGKILL)
    assert select.select([descriptor], [], [], 10)[0]
    os.close(descriptor)


def answer(url: str, token: str) -> int:
    """Return the HTTP status."""
    request = urllib.request.Request(url, headers={"Authorization": f"Bearer {token}"})
    try:
        with urllib.request.urlopen(request, timeout=5) as response:
            return int(response.status)
    except urllib.error.HTTPError as error:
        with error:
            return error.code


def command_lines() -> str:
    lines = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            lines.append(path.read_text())
        except OSError:
            continue
    return "\n".join(lines)


def test_no_umask_keeps_the_owner_from_what_was_written(box: Box) -> None:
    before = os.umask(0o777)
    try:
        box.up()
    finally:
        os.umask(before)
    modes = {path: stat.S_IMODE(path.lstat().st_mode) for path in (box.folder, box.cache, *box.folder.rglob("*"))}
    assert [path for path, mode in modes.items() if not mode & 0o400 or mode & 0o022] == []
    assert stat.S_IMODE(box.folder.stat().st_mode) == stat.S_IMODE(box.cache.stat().st_mode) == 0o700


def test_the_sandbox_takes_all_the_sockets_that_it_may_have(box: Box) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(1024, hard), hard))
    try:
        pid = box.up().pid
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert resource.prlimit(pid, resource.RLIMIT_NOFILE) == (hard, hard)


def test_up_twice_is_one_sandbox_whose_clouds_know_its_tokens(box: Box) -> None:
    info = box.up()
    assert box.up() == info == sandbox.info(box.folder)
    assert answer(f"{info.hetzner_url}/servers", info.hetzner_token) == 200
    assert answer(f"{info.hetzner_url}/servers", info.hetzner_read_token) == 200
    assert answer(f"{info.hetzner_url}/servers", "wrong") == 401
    assert answer(f"{info.cloudflare_url}/zones?name={info.zone}", info.cloudflare_token) == 200
    assert "BEGIN CERTIFICATE" in Path(info.ca_file).read_text()
    assert sandbox.status(box.folder) == sandbox.SandboxStatus(running=True, servers=(), info=info)


def test_a_running_sandbox_is_not_taken_for_another_one(box: Box) -> None:
    box.up(boot_seconds=0.0)
    with pytest.raises(sandbox.SandboxError, match=r"boot_seconds 0\.0 and not 7"):
        box.up(boot_seconds=7.0)


def test_secrets_are_in_private_files_only(box: Box) -> None:
    info = box.up()
    secrets = (info.hetzner_token, info.hetzner_read_token, info.cloudflare_token)
    assert stat.S_IMODE(box.folder.stat().st_mode) == 0o700
    for path in box.folder.rglob("*"):
        if path.is_file() and any(secret in path.read_text() for secret in secrets):
            assert stat.S_IMODE(path.stat().st_mode) == 0o600, path
            assert path.name in {"sandbox.json", "ledger.json"}
    assert str(box.folder) in command_lines()
    assert not any(secret in command_lines() for secret in secrets)
    assert not any(secret in repr(info) for secret in secrets)


def test_down_leaves_nothing_and_can_be_repeated(box: Box) -> None:
    info = box.up()
    assert f"process {info.pid}" in box.down()
    assert not box.folder.exists()
    assert str(box.folder) not in command_lines()
    assert sandbox.info(box.folder) is None
    assert sandbox.status(box.folder) == sandbox.SandboxStatus(running=False, servers=(), info=None)
    assert box.down() == []


def test_down_keeps_what_somebody_else_put_into_the_folder(box: Box) -> None:
    box.up()
    (box.folder / "notes.txt").write_text("mine")
    box.down()
    assert [path.name for path in box.folder.iterdir()] == ["notes.txt"]


def test_down_keeps_the_cache_unless_told_to_purge_it(box: Box) -> None:
    for name in ("images", "artifacts", "somebody-elses"):
        (box.cache / name).mkdir(parents=True)
    box.up()
    box.down()
    assert len(list(box.cache.iterdir())) == 3
    removed = sandbox.down(box.folder, box.cache, purge=True, report=box.said.append)
    assert removed == [f"cache {box.cache / 'images'}", f"cache {box.cache / 'artifacts'}"]
    assert [path.name for path in box.cache.iterdir()] == ["somebody-elses"]


def test_a_killed_sandbox_is_not_running_and_comes_back_as_it_was(box: Box) -> None:
    info = box.up()
    request = urllib.request.Request(
        f"{info.hetzner_url}/firewalls",
        data=json.dumps({"name": "kept"}).encode(),
        headers={"Authorization": f"Bearer {info.hetzner_token}", "Content-Type": "application/json"},
    )
    urllib.request.urlopen(request, timeout=5).close()
    kill(info.pid)
    assert sandbox.info(box.folder) is None
    assert not sandbox.status(box.folder).running

    again = box.up()
    assert again.pid != info.pid
    assert (again.hetzner_url, again.hetzner_token, again.cloudflare_token, again.edge_address) == (
        info.hetzner_url,
        info.hetzner_token,
        info.cloudflare_token,
        info.edge_address,
    )
    with urllib.request.urlopen(
        urllib.request.Request(
            f"{again.hetzner_url}/firewalls", headers={"Authorization": f"Bearer {again.hetzner_token}"}
        ),
        timeout=5,
    ) as response:
        assert [firewall["name"] for firewall in json.load(response)["firewalls"]] == ["kept"]


def test_what_a_killed_sandbox_left_is_removed(box: Box) -> None:
    kill(box.up().pid)
    assert box.down()
    assert not box.folder.exists()


def test_two_sandboxes_run_side_by_side(box: Box, tmp_path: Path) -> None:
    other = Box(tmp_path / "other")
    first, second = box.up(), other.up()
    try:
        assert first.hetzner_url != second.hetzner_url
        assert first.edge_address != second.edge_address
        assert answer(f"{second.hetzner_url}/servers", first.hetzner_token) == 401
    finally:
        other.down()
    assert answer(f"{first.hetzner_url}/servers", first.hetzner_token) == 200


def test_a_sandbox_whose_addresses_somebody_took_says_so(box: Box, tmp_path: Path) -> None:
    kill(box.up().pid)
    number = json.loads((box.folder / "ledger.json").read_text())["number"]
    squatter = network.claim(tmp_path / "dial.json", number)
    try:
        with pytest.raises(sandbox.SandboxError, match=rf"did not start: .*127\.17\.{number}\.x.* taken") as failed:
            box.up()
        assert "daemon.log" in failed.value.next_step
    finally:
        squatter.close()


def test_a_damaged_state_is_named_and_can_be_removed(box: Box) -> None:
    kill(box.up().pid)
    (box.folder / "ledger.json").write_text('{"number": ')
    with pytest.raises(sandbox.SandboxError, match=r"ledger\.json cannot be read") as failed:
        box.up()
    assert "clawdet sandbox down" in failed.value.next_step
    assert box.down()
    assert not box.folder.exists()


def test_a_stranger_who_only_names_the_folder_is_no_leftover(box: Box) -> None:
    stranger = subprocess.Popen([sys.executable, "-c", "input()", str(box.folder)], stdin=subprocess.PIPE)
    try:
        info = box.up()
        assert leftovers.processes(Files(box.folder)).keys() == {info.pid}
        box.down()
        assert stranger.poll() is None
    finally:
        stranger.communicate(b"\n", timeout=10)
