"""A server's disk: a file system of its own, laid over the shared base image."""

import logging
import shutil
import threading
import time
from pathlib import Path

from clawdet_cli.sandbox.errors import SandboxError
from clawdet_cli.sandbox.process import run

_LOG = logging.getLogger(__name__)
_UNMOUNT_SECONDS = 5.0


class Disk:
    """The disk below one folder: `disk.img` holds the changes, `root` is where the whole is mounted."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.root = folder / "root"
        self._image = folder / "disk.img"
        self._layers = folder / "disk"

    def mount(self, base: Path, gigabytes: int) -> None:
        """Mount the disk, making it with this size at first; nothing when it is mounted already."""
        if self.root in mounts_below(self.folder):
            return
        layers = self._mount_layers(gigabytes)
        for part in (layers / "upper", layers / "work", self.root):
            part.mkdir(parents=True, exist_ok=True)
        options = f"lowerdir={base},upperdir={layers / 'upper'},workdir={layers / 'work'}"
        run(["mount", "-t", "overlay", "-o", options, "overlay", str(self.root)])

    def _mount_layers(self, gigabytes: int) -> Path:
        """Return the folder that the changes go to.

        Servers that share a file system share its history: for minutes after 39,000 files of one are deleted, ext4
        passes over their inodes one by one for every file that another creates (`recently_deleted` in
        fs/ext4/ialloc.c), and takes five times as long for it. A file system for each is also full when its server's
        disk would be. Where no loop device is to be had, a folder has to do.
        """
        if (self.folder / "upper").exists():
            return self.folder
        self._layers.mkdir(exist_ok=True)
        if self._image.exists():
            if self._layers not in mounts_below(self.folder):
                self._mount_image(self._image)
            return self._layers
        # Named only once it was mounted: what has the name holds a server's files.
        new = self._image.with_suffix(".new")
        try:
            new.unlink(missing_ok=True)
            with new.open("xb") as file:
                file.truncate(gigabytes * 1000**3)
            # The file system below has a journal of its own.
            run(
                ["mkfs.ext4", "-q", "-F", "-m", "0", "-O", "^has_journal", "-E", "nodiscard,lazy_itable_init", str(new)]
            )
            self._mount_image(new)
        except (OSError, SandboxError) as error:
            _LOG.warning("server %s shares this machine's file system: %s", self.folder.name, error)
            new.unlink(missing_ok=True)
            return self.folder
        new.rename(self._image)
        return self._layers

    def _mount_image(self, image: Path) -> None:
        run(["mount", "-o", "loop,noatime", str(image), str(self._layers)])

    def unmount(self) -> bool:
        """Unmount the disk; return whether it was mounted."""
        return unmount_below(self.folder) > 0

    def delete(self) -> None:
        """Delete the disk with everything on it."""
        self._unmount_wholly()
        shutil.rmtree(self.folder, ignore_errors=True)

    def discard(self, trash: Path) -> None:
        """Move the disk out of the way at once, and delete it in the background.

        An installed OpenClaw is 39,000 files; a cloud does not keep its customer waiting for them.
        """
        self._unmount_wholly()
        trash.mkdir(mode=0o700, exist_ok=True)
        gone = self.folder.rename(trash / f"{self.folder.name}-{time.time_ns()}")
        threading.Thread(target=shutil.rmtree, args=(gone, True), daemon=True).start()

    def _unmount_wholly(self) -> None:
        self.unmount()
        if mounts_below(self.folder):
            raise SandboxError(f"something is still mounted below {self.folder}", "umount what findmnt shows there")


def check_path(path: Path) -> None:
    """Raise SandboxError for a path that a mount's options cannot hold."""
    if set(str(path)) & set(",:\\"):
        raise SandboxError(f"{path} contains a comma, colon or backslash", "choose a folder without them")


def mounts_below(folder: Path) -> list[Path]:
    """Return the mount points below a folder, innermost last."""
    points = [_unescaped(line.split()[4]) for line in Path("/proc/self/mountinfo").read_text().splitlines()]
    return sorted(Path(point) for point in points if point.startswith(f"{folder}/"))


def lower_layers_in_use() -> set[Path]:
    """Return the folders that some mounted disk on this machine is laid over."""
    used = set()
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        kind, _, options = line.partition(" - ")[2].split(" ", 2)
        if kind == "overlay":
            used |= {Path(_unescaped(one[9:])) for one in options.split(",") if one.startswith("lowerdir=")}
    return used


def unmount_below(folder: Path) -> int:
    """Unmount everything below a folder; return how many mounts there were."""
    points = mounts_below(folder)
    for point in reversed(points):
        deadline = time.monotonic() + _UNMOUNT_SECONDS
        while True:
            try:
                run(["umount", str(point)])
                break
            except SandboxError:
                if point not in mounts_below(folder):
                    break
                if time.monotonic() > deadline:
                    # Somebody's shell stands in it. The mount disappears when they leave.
                    run(["umount", "--lazy", str(point)])
                    break
                time.sleep(0.05)
    return len(points)


def _unescaped(text: str) -> str:
    return text.encode().decode("unicode_escape") if "\\" in text else text
