"""A server's disk: its own changes laid over the shared base image."""

import shutil
import threading
import time
from pathlib import Path

from clawdet_cli.sandbox.errors import SandboxError
from clawdet_cli.sandbox.process import run

_UNMOUNT_SECONDS = 5.0


class Disk:
    """The disk below one folder: `upper` holds the changes, `root` is where the whole is mounted."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.root = folder / "root"

    def mount(self, base: Path) -> None:
        """Mount the disk, making it at first; nothing when it is mounted already."""
        if self.root in mounts_below(self.folder):
            return
        for part in ("upper", "work", "root"):
            (self.folder / part).mkdir(parents=True, exist_ok=True)
        options = f"lowerdir={base},upperdir={self.folder / 'upper'},workdir={self.folder / 'work'}"
        run(["mount", "-t", "overlay", "-o", options, "overlay", str(self.root)])

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
