"""The disks of real servers, with real file systems: what they hold, when they are full, and what they leave behind."""

import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from clawdet_cli.sandbox.errors import SandboxError
from clawdet_cli.sandbox.process import run
from clawdet_cli.sandbox.real import disks
from clawdet_cli.sandbox.real.disks import Disk, mounts_below

pytestmark = pytest.mark.skipif(
    not sys.platform.startswith("linux") or os.geteuid() != 0, reason="mounts need root on Linux"
)


@pytest.fixture
def base(tmp_path: Path) -> Path:
    """A base image of one file."""
    folder = tmp_path / "base"
    folder.mkdir()
    (folder / "system").write_text("shared")
    return folder


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Disk]:
    """A disk that is not made yet."""
    made = Disk(tmp_path / "1")
    made.folder.mkdir()
    yield made
    made.unmount()


def loops(folder: Path) -> int:
    """Return how many loop devices still have a file below a folder."""
    return run(["losetup", "--list", "--noheadings", "--output", "BACK-FILE"]).count(f"{folder}/")


def test_what_is_written_stays_over_a_power_cut_and_the_base_stays_as_it_was(disk: Disk, base: Path) -> None:
    disk.mount(base, 1)
    (disk.root / "system").write_text("changed")
    disk.mount(base, 1)
    assert disk.unmount()
    assert not disk.unmount()
    assert loops(disk.folder) == 0
    disk.mount(base, 1)
    assert (disk.root / "system").read_text() == "changed"
    assert (base / "system").read_text() == "shared"


def test_it_is_as_large_as_the_servers_and_full_by_itself(disk: Disk, base: Path) -> None:
    disk.mount(base, 1)
    free = os.statvfs(disk.root)
    assert 0.9 < free.f_blocks * free.f_frsize / 1000**3 <= 1
    with (disk.root / "fills").open("wb") as file, pytest.raises(OSError, match="No space left"):
        os.posix_fallocate(file.fileno(), 0, 1000**3)
    (disk.root / "fills").unlink()
    (disk.root / "fits").write_text("again")


def test_nothing_of_it_is_left(disk: Disk, base: Path, tmp_path: Path) -> None:
    disk.mount(base, 1)
    disk.delete()
    assert not disk.folder.exists()
    assert mounts_below(tmp_path) == []
    assert loops(tmp_path) == 0


def test_a_disk_of_which_only_the_making_was_interrupted_is_made_anew(disk: Disk, base: Path) -> None:
    (disk.folder / "disk.new").write_text("half of it")
    disk.mount(base, 1)
    assert (disk.root / "system").read_text() == "shared"
    assert sorted(entry.name for entry in disk.folder.iterdir()) == ["disk", "disk.img", "root"]


def test_what_an_interrupted_making_left_mounted_is_not_taken_for_the_disk(disk: Disk, base: Path) -> None:
    disk.mount(base, 1)
    run(["umount", str(disk.root)])
    (disk.folder / "disk.img").unlink()
    disk.mount(base, 1)
    (disk.root / "system").write_text("changed")
    disk.unmount()
    disk.mount(base, 1)
    assert (disk.root / "system").read_text() == "changed"


def test_a_disk_that_held_files_is_never_replaced_by_an_empty_one(disk: Disk, base: Path) -> None:
    (disk.folder / "disk.img").write_text("broken")
    with pytest.raises(SandboxError):
        disk.mount(base, 1)
    assert (disk.folder / "disk.img").read_text() == "broken"


def test_where_no_loop_device_is_to_be_had_a_folder_holds_the_changes(
    disk: Disk, base: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def no_loops(command: list[str]) -> str:
        if "loop,noatime" in command:
            raise SandboxError("mount: failed to setup loop device")
        return run(command)

    with monkeypatch.context() as patched:
        patched.setattr(disks, "run", no_loops)
        disk.mount(base, 1)
        (disk.root / "system").write_text("changed")
        disk.unmount()
    assert "failed to setup loop device" in caplog.text
    # And it goes on being there, though a loop device could be had now.
    disk.mount(base, 1)
    assert (disk.root / "system").read_text() == "changed"
    assert sorted(entry.name for entry in disk.folder.iterdir()) == ["disk", "root", "upper", "work"]
