"""Tells what kind of file system a folder lies on, as far as the system says it."""

import re
from pathlib import Path

MOUNTS = Path("/proc/self/mountinfo")


def kind_of(folder: Path) -> str:
    """Give the name that mount(8) knows it by, such as `ext4`, `nfs4` or `fuse.sshfs`; empty where nothing tells."""
    try:
        mounts = MOUNTS.read_text(errors="replace")
    except OSError:
        return ""
    return kind_in(mounts, folder.resolve())


def kind_in(mounts: str, folder: Path) -> str:
    """Find the mount that a folder without links lies on in a text of proc_pid_mountinfo(5)."""
    found, depth = "", 0
    for line in mounts.splitlines():
        before, _, after = line.partition(" - ")
        fields = before.split(" ")
        if len(fields) < 5 or not after:
            continue
        # Blanks and the like are written in octal.
        point = Path(re.sub(r"\\([0-7]{3})", lambda octal: chr(int(octal[1], 8)), fields[4]))
        # Of two at one place the later one covers the earlier.
        if folder.is_relative_to(point) and len(point.parts) >= depth:
            found, depth = after.split(" ")[0], len(point.parts)
    return found
