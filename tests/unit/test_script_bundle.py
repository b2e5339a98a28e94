"""The script's way with a bundle: what it unpacks, and what it refuses."""

import hashlib
import io
import os
import shutil
import tarfile
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest
import zstandard

from clawdet_cli.bundle import pack, tree
from tests.unit.test_script import PREPARE, call

pytestmark = pytest.mark.skipif(shutil.which("zstd") is None, reason="zstd is not installed")

NODE, CADDY, LOCK = b"a node", b"a caddy", b"{}"


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


INPUT = {
    **PREPARE,
    "node_executable_sha256": sha256(NODE),
    "caddy_executable_sha256": sha256(CADDY),
    "lock_sha256": sha256(LOCK),
}


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """What a bundle holds, in little."""
    root = tmp_path / "root"
    for name, content in {
        "node/24.21.0/bin/node": NODE,
        "caddy": CADDY,
        "openclaw/2026.9.6/package-lock.json": LOCK,
        "openclaw/2026.9.6/node_modules/öffnen/it's $(1).js": b"1",
        "manifest.json": b"{}",
    }.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(content)
    (root / "openclaw/2026.9.6/link").symlink_to("node_modules/öffnen")
    (root / "caddy").chmod(0o755)
    tree.normalise(root)
    return root


def unpacked(archive: Path, tmp_path: Path, **values: str) -> str:
    """Let the script unpack, and give `ok` or its reason."""
    (tmp_path / "scratch").mkdir(exist_ok=True)
    shutil.rmtree(tmp_path / "into", ignore_errors=True)
    (tmp_path / "into").mkdir()
    given = {**INPUT, "bundle_url": "file:///x", "bundle_sha256": sha256(archive.read_bytes()), **values}
    unpack = f"unpack_bundle {archive} {tmp_path}/into && echo ok || echo $REFUSED"
    code = f"SCRATCH={tmp_path}/scratch INPUT_FOLDER={tmp_path}; {unpack}"
    return call(code, **given).splitlines()[-1]


def test_a_bundle_is_unpacked_when_everything_fits(root: Path, tmp_path: Path) -> None:
    archive = tmp_path / "bundle"
    pack.pack(root, archive, 1)
    assert unpacked(archive, tmp_path) == "ok"
    assert (tmp_path / "into/openclaw/2026.9.6/node_modules/öffnen/it's $(1).js").read_bytes() == b"1"
    assert list((tmp_path / "scratch").iterdir()) == []


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"bundle_sha256": "0" * 64}, "its digest is not the expected one"),
        ({"node_executable_sha256": "0" * 64}, "its executables or its lock are not the pinned ones"),
        ({"caddy_executable_sha256": "0" * 64}, "its executables or its lock are not the pinned ones"),
        ({"lock_sha256": "0" * 64}, "its executables or its lock are not the pinned ones"),
        ({"openclaw_version": "2026.9.2"}, "its executables or its lock are not the pinned ones"),
    ],
)
def test_another_digest_is_a_reason(root: Path, tmp_path: Path, change: Mapping[str, str], reason: str) -> None:
    archive = tmp_path / "bundle"
    pack.pack(root, archive, 1)
    assert unpacked(archive, tmp_path, **change) == reason


def test_a_broken_archive_and_an_unreachable_one_are_reasons(tmp_path: Path) -> None:
    archive = tmp_path / "bundle"
    archive.write_bytes(b"no archive")
    assert unpacked(archive, tmp_path) == "it cannot be unpacked"
    given = {**INPUT, "bundle_url": "file:///nowhere/bundle", "bundle_sha256": "0" * 64}
    code = f"INPUT_FOLDER={tmp_path}; unpack_bundle {tmp_path}/missing {tmp_path}/into || echo $REFUSED"
    assert call(code, **given) == "it did not arrive\n"


def member(name: str, **values: object) -> tarfile.TarInfo:
    made = tarfile.TarInfo(name)
    made.mode = 0o644
    for key, value in values.items():
        setattr(made, key, value)
    return made


Evil = Callable[[Path], list[tarfile.TarInfo]]
HOSTILE: dict[str, Evil] = {
    "a program that runs as its owner": lambda _: [member("openclaw/x", mode=0o4755)],
    "a folder that gives its group": lambda _: [member("openclaw/x", mode=0o2755, type=tarfile.DIRTYPE)],
    "a file that all may change": lambda _: [member("openclaw/x", mode=0o666)],
    "a pipe": lambda _: [member("openclaw/x", type=tarfile.FIFOTYPE)],
    "a device": lambda _: [member("openclaw/x", type=tarfile.CHRTYPE, devmajor=1, devminor=3)],
    "an absolute link": lambda victim: [member("openclaw/x", type=tarfile.SYMTYPE, linkname=f"{victim}/secret")],
    "a link out": lambda _: [member("openclaw/x", type=tarfile.SYMTYPE, linkname="../../victim/secret")],
    "a link by way of a link": lambda _: [
        member("openclaw/a", type=tarfile.SYMTYPE, linkname=".."),
        member("openclaw/b", type=tarfile.SYMTYPE, linkname="a/../victim"),
    ],
}


def hostile(root: Path, archive: Path, members: list[tarfile.TarInfo]) -> None:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.GNU_FORMAT) as made:
        made.add(root, ".")
        for one in members:
            made.addfile(one, io.BytesIO(b"x" * one.size))
    archive.write_bytes(zstandard.compress(buffer.getvalue()))


@pytest.mark.parametrize("what", HOSTILE)
def test_what_no_bundle_may_hold_is_refused(root: Path, tmp_path: Path, what: str) -> None:
    victim = tmp_path / "victim"
    victim.mkdir()
    (victim / "secret").write_text("secret")
    members = HOSTILE[what](victim)
    if os.geteuid() != 0 and any(one.ischr() for one in members):
        pytest.skip("only root can make a device")
    hostile(root, tmp_path / "bundle", members)
    assert unpacked(tmp_path / "bundle", tmp_path) == "it holds what no bundle may"


@pytest.mark.parametrize("name", ["../victim/new", "/{victim}/new", "openclaw/way/new"])
def test_nothing_is_written_outside_of_the_folder(root: Path, tmp_path: Path, name: str) -> None:
    victim = tmp_path / "victim"
    victim.mkdir()
    way = member("openclaw/way", type=tarfile.SYMTYPE, linkname=str(victim))
    hostile(root, tmp_path / "bundle", [way, member(name.format(victim=victim), size=1)])
    assert unpacked(tmp_path / "bundle", tmp_path) != "ok"
    assert list(victim.iterdir()) == []
