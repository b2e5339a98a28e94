import hashlib
import tarfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from clawdet_cli.sandbox.errors import SandboxError
from clawdet_cli.sandbox.real import artifacts
from clawdet_cli.sandbox.real.artifacts import CaddyWanted, NodeWanted

# The digests of the vendors' own executables.
NODE = NodeWanted("24.21.0", "11.19.1", "7fde7b8afa198da66257f42ee2001d874c7355631e6d1579a5fb5ef1f246df4c")
CADDY = CaddyWanted("2.11.7", "678ade3bfc088749c81a681adc603333ee0bb023b6a6cfe3c0f58bef8ff854e9")


def fake_caddy(folder: Path) -> tuple[Path, CaddyWanted]:
    program = folder / "caddy"
    program.write_bytes(b"a web server")
    program.chmod(0o755)
    return program, CaddyWanted("1.2.3", hashlib.sha256(b"a web server").hexdigest())


def test_an_archive_holds_the_program_and_is_described(tmp_path: Path) -> None:
    program, wanted = fake_caddy(tmp_path)
    manifest = artifacts.build(tmp_path / "cache", [], wanted, "x86", lambda _: None, caddy_program=program)
    archive = manifest.folder / manifest.caddy.file
    assert archive.name == "caddy_1.2.3_linux_amd64.tar.gz"
    assert hashlib.sha256(archive.read_bytes()).hexdigest() == manifest.caddy.archive_sha256
    with tarfile.open(archive) as content:
        assert [(m.name, m.mode, m.uname) for m in content] == [("caddy", 0o755, "root")]


def test_a_second_call_makes_nothing(tmp_path: Path) -> None:
    program, wanted = fake_caddy(tmp_path)
    said: list[str] = []
    first = artifacts.build(tmp_path / "cache", [], wanted, "x86", said.append, caddy_program=program)
    assert said == ["Packing Caddy 1.2.3"]
    assert artifacts.build(tmp_path / "cache", [], wanted, "x86", said.append, caddy_program=program) == first
    assert said == ["Packing Caddy 1.2.3"]


def test_a_damaged_archive_is_made_again(tmp_path: Path) -> None:
    program, wanted = fake_caddy(tmp_path)
    first = artifacts.build(tmp_path / "cache", [], wanted, "x86", lambda _: None, caddy_program=program)
    archive = first.folder / first.caddy.file
    archive.write_bytes(archive.read_bytes()[:-10])
    again = artifacts.build(tmp_path / "cache", [], wanted, "x86", lambda _: None, caddy_program=program)
    assert hashlib.sha256(archive.read_bytes()).hexdigest() == again.caddy.archive_sha256


def test_a_program_that_is_not_the_pinned_one_is_refused(tmp_path: Path) -> None:
    program, wanted = fake_caddy(tmp_path)
    program.write_bytes(b"another web server")
    with pytest.raises(SandboxError, match="not the pinned one"):
        artifacts.build(tmp_path / "cache", [], wanted, "x86", lambda _: None, caddy_program=program)
    assert not list((tmp_path / "cache" / "artifacts").glob("*.tar.gz"))


def test_a_missing_program_says_what_to_install(tmp_path: Path) -> None:
    with pytest.raises(SandboxError, match="is missing") as caught:
        artifacts.build(tmp_path, [], CADDY, "x86", lambda _: None, caddy_program=tmp_path / "caddy")
    assert "clawdet[sandbox]" in caught.value.next_step


def test_without_npm_node_cannot_be_had(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program, wanted = fake_caddy(tmp_path)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(SandboxError, match="npm is not on PATH"):
        artifacts.build(tmp_path / "cache", [NODE], wanted, "x86", lambda _: None, caddy_program=program)


def test_two_at_once_agree(tmp_path: Path) -> None:
    program, wanted = fake_caddy(tmp_path)
    said: list[str] = []

    def build(_: int) -> artifacts.Manifest:
        return artifacts.build(tmp_path / "cache", [], wanted, "x86", said.append, caddy_program=program)

    with ThreadPoolExecutor(4) as pool:
        made = list(pool.map(build, range(4)))
    assert all(manifest == made[0] for manifest in made)
    assert said.count("Packing Caddy 1.2.3") == 1


@pytest.mark.real
def test_the_registries_hold_the_vendors_programs(tmp_path: Path) -> None:
    said: list[str] = []
    manifest = artifacts.build(tmp_path, [NODE], CADDY, "x86", said.append)
    node = manifest.nodes["24.21.0"]
    root = "node-v24.21.0-linux-x64"
    assert node.file == f"{root}.tar.xz"
    names = set()
    digest = ""
    with tarfile.open(manifest.folder / node.file) as content:
        for member in content:
            names.add(member.name)
            if member.name == f"{root}/bin/node" and (executable := content.extractfile(member)):
                digest = hashlib.sha256(executable.read()).hexdigest()
    assert digest == NODE.executable_sha256
    assert {f"{root}/bin/npm", f"{root}/lib/node_modules/npm/bin/npm-cli.js"} <= names
    assert manifest.downloads("http://mirror.test/")["24.21.0/x86"] == {
        "node_url": f"http://mirror.test/{root}.tar.xz",
        "node_archive_sha256": node.archive_sha256,
        "caddy_url": "http://mirror.test/caddy_2.11.7_linux_amd64.tar.gz",
        "caddy_archive_sha256": manifest.caddy.archive_sha256,
    }
    count = len(said)
    assert artifacts.build(tmp_path, [NODE], CADDY, "x86", said.append) == manifest
    assert len(said) == count
