"""A folder's contents: what none may hold, and the rest as one digest, by which two builds can be compared."""

import os
import shlex
import stat
import subprocess
from collections.abc import Iterator, Sequence
from pathlib import Path

from clawdet_cli.errors import ConfigError

SURPLUS_MODE = 0o7022
"""What nothing in a bundle may have: set-user-id and its like, and writing by others."""
SECONDS = 600
MEMBERS = ("caddy", "node", "openclaw")


def members(root: Path) -> Iterator[tuple[str, os.stat_result]]:
    """Give everything below a folder with its relative path, in the order of the paths' bytes."""
    found = []
    for folder, names, files in os.walk(root):
        for name in (*names, *files):
            path = Path(folder, name)
            found.append((path.relative_to(root).as_posix(), path.lstat()))
    return iter(sorted(found, key=lambda one: os.fsencode(one[0])))


def normalise(root: Path) -> None:
    """Leave of the modes only whether a file can be executed, whatever umask or archive they come from."""
    for name, status in members(root):
        if not stat.S_ISLNK(status.st_mode):
            (root / name).chmod(0o755 if stat.S_ISDIR(status.st_mode) or status.st_mode & 0o100 else 0o644)


def check(root: Path) -> None:
    """Refuse what no bundle may hold, since the VPS would. Raises ConfigError."""
    for name, status in members(root):
        if stat.S_ISLNK(status.st_mode):
            target = str((root / name).readlink())
            inside = os.path.normpath(os.path.join(Path(name).parent, target))  # noqa: PTH118 - of names, not of files
            if target.startswith("/") or inside.split("/")[0] == "..":
                raise _unfit(name, f"a link out of it, to {target}")
        elif not stat.S_ISDIR(status.st_mode) and not stat.S_ISREG(status.st_mode):
            raise _unfit(name, "neither file, folder nor link")
        elif status.st_mode & SURPLUS_MODE:
            raise _unfit(name, f"of mode {stat.S_IMODE(status.st_mode):o}")


def digest(root: Path, names: Sequence[str] = MEMBERS) -> str:
    """Give the SHA-256 of the tar that GNU tar makes of it: sorted paths, modes, links and contents, and no times."""
    # By GNU tar, so that anybody can make it anew without this.
    command = "tar -cf - --sort=name --format=gnu --numeric-owner --owner=0 --group=0 --mtime=@0"
    done = subprocess.run(
        ["bash", "-c", f"set -o pipefail; {command} {shlex.join(names)} | sha256sum"],
        cwd=root,
        env={"PATH": os.environ["PATH"], "LC_ALL": "C.UTF-8"},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=SECONDS,
        check=False,
    )
    if done.returncode:
        raise ConfigError("GNU tar cannot read what was built.", details=done.stderr.splitlines()[-5:])
    return done.stdout.split()[0]


def _unfit(name: str, what: str) -> ConfigError:
    return ConfigError(f"The bundle may not hold {name!r}: it is {what}.")
