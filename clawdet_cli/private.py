"""Folders and files of the operator's alone, whatever the umask is and whoever was there before."""

import errno
import os
import secrets
import stat
from contextlib import suppress
from pathlib import Path

from clawdet_cli.errors import RecordError


def private_folder(folder: Path, *, link: bool = False) -> None:
    """Make a folder (0700), with those that are missing above it. Raises OSError, and RecordError for one not to trust.

    Whoever may write to it could plant links there, or swap what is trusted: then it is not used. `link` allows that
    the folder is a link itself, as the state folder may be.
    """
    # One by one, since `parents=True` would leave the upper ones to the umask.
    for one in reversed((folder, *folder.parents)):
        with suppress(FileExistsError):
            one.mkdir(mode=0o700)
            # Of a umask that takes rights from the owner too.
            one.chmod(0o700)
    seen = folder.stat() if link else folder.lstat()
    if stat.S_ISREG(seen.st_mode):
        raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), str(folder))
    if not stat.S_ISDIR(seen.st_mode):
        raise RecordError(f"{folder} is a link, and links are not followed there.", next_steps=[f"ls -ld {folder}"])
    if seen.st_mode & 0o022 or (os.geteuid() not in {0, seen.st_uid}):
        raise RecordError(
            f"{folder} can be changed by others, so nothing in it can be trusted.",
            next_steps=[f"look whose it is and what is in it: ls -la {folder}", f"then: chmod 700 {folder}"],
        )


def new_private_file(path: Path) -> int:
    """Make a file (0600) that was not there, and give its descriptor, to write to. Raises OSError."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600)
    os.fchmod(descriptor, 0o600)
    return descriptor


def write_private(path: Path, text: str) -> None:
    """Write a file (0600) at once or not at all. Raises OSError."""
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(6)}")
    with os.fdopen(new_private_file(temporary), "w") as file:
        file.write(text)
    temporary.replace(path)
