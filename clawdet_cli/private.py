"""Folders and files of the operator's alone, whatever the umask is and whoever was there before."""

import errno
import grp
import os
import pwd
import secrets
import stat
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from clawdet_cli.errors import RecordError

ROOT = 0
MAX_LINKS = 40
"""As many as Linux follows in one path."""


def private_folder(folder: Path, *, link: bool = False) -> None:
    """Make a folder (0700), with those that are missing above it. Raises OSError, and RecordError for one not to trust.

    Whoever may write to it or to a folder above it could plant links there, or swap what is trusted: then it is not
    used. `link` allows that the folder is a link itself, as the state folder may be.
    """
    # Before too: nothing is made in what is somebody else's, as in the home folder that sudo may have kept.
    _refuse_others_above(folder)
    # One by one, since `parents=True` would leave the upper ones to the umask.
    for one in reversed((folder, *folder.parents)):
        with suppress(FileExistsError):
            one.mkdir(mode=0o700)
            # Of a umask that takes rights from the owner too.
            one.chmod(0o700)
    if not link and folder.is_symlink():
        raise RecordError(f"{folder} is a link, and links are not followed there.", next_steps=[f"ls -ld {folder}"])
    seen = folder.stat()
    if not stat.S_ISDIR(seen.st_mode):
        raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), str(folder))
    if seen.st_uid != os.geteuid():
        raise _of_another(folder, seen.st_uid)
    if seen.st_mode & 0o022:
        raise RecordError(
            f"{folder} can be changed by others, so nothing in it can be trusted.",
            next_steps=[f"look whose it is and what is in it: ls -la {folder}", f"then: chmod 700 {folder}"],
        )
    _refuse_others_above(folder)


def refuse_files_of_others(folder: Path, *names: str) -> None:
    """Raise RecordError for what exists of these in a folder and belongs to somebody else."""
    for path in (folder / name for name in names):
        with suppress(FileNotFoundError):
            owner = path.lstat().st_uid
            if owner != os.geteuid():
                raise _of_another(path, owner)


def _refuse_others_above(folder: Path) -> None:
    """Raise RecordError where somebody else could put another folder in the place of this one."""
    for path, seen in _walked(folder):
        if seen.st_uid not in {ROOT, os.geteuid()} and not _is_unmapped(seen.st_uid):
            raise _of_another(path, seen.st_uid)
        if stat.S_ISDIR(seen.st_mode) and _open_to_others(path, seen) and not seen.st_mode & stat.S_ISVTX:
            raise RecordError(
                f"{path} can be changed by others, and so can everything below it: {folder} is not used.",
                next_steps=[f"see who may: ls -ld {path}", f"chmod go-w {path}", "or name another folder with --state"],
            )


def _walked(folder: Path) -> Iterator[tuple[Path, os.stat_result]]:
    """Yield every folder and link on the way to a folder, in the order in which the system goes through them.

    The folder itself is left to the caller, unless it is a link. The walk ends at what does not exist yet.
    """
    at, links = Path("/"), 0
    rest = [*reversed(folder.absolute().parts)]
    while rest:
        name = rest.pop()
        at = at.parent if name == ".." else at / name
        try:
            seen = at.lstat()
        except FileNotFoundError:
            return
        if stat.S_ISLNK(seen.st_mode):
            yield at, seen
            links += 1
            if links > MAX_LINKS:
                raise OSError(errno.ELOOP, os.strerror(errno.ELOOP), str(folder))
            rest += reversed(at.readlink().parts)
            at = at.parent
        elif rest:
            yield at, seen


def _open_to_others(path: Path, seen: os.stat_result) -> bool:
    """Return whether somebody else may write: everybody, or a group that is neither root's nor its owner's alone."""
    if seen.st_mode & stat.S_IWOTH:
        return True
    if not seen.st_mode & stat.S_IWGRP:
        return False
    # With an access control list the group's bits are those of whoever the list names.
    if "system.posix_acl_access" in _attributes(path):
        return True
    return seen.st_gid != ROOT and not _is_private_group(seen.st_gid)


def _attributes(path: Path) -> list[str]:
    try:
        return os.listxattr(path)
    except (AttributeError, OSError):
        return []  # there is no such call on macOS, and not every file system has any


def _is_private_group(number: int) -> bool:
    """Return whether a group is ours alone: of our name and without members, as Debian makes one for each user."""
    try:
        group, own = grp.getgrgid(number), pwd.getpwuid(os.geteuid())
    except KeyError:
        return False
    return own.pw_gid == number and group.gr_name == own.pw_name and set(group.gr_mem) <= {own.pw_name}


def _is_unmapped(number: int) -> bool:
    """Return whether a number stands for all owners outside of this container, the machine's root among them."""
    with suppress(OSError, ValueError):
        mapped = Path("/proc/self/uid_map").read_text().split()
        return mapped[2] != str(2**32 - 1) and number == int(Path("/proc/sys/kernel/overflowuid").read_text())
    return False


def _of_another(path: Path, owner: int) -> RecordError:
    """Return the error for what is somebody else's; under sudo with what helps there."""
    steps = [f"look at it: ls -ld {path}", "or name another folder with --state"]
    if os.geteuid() == ROOT and os.environ.get("SUDO_UID") == str(owner):
        steps = [
            "run the command without sudo",
            "or with 'sudo -H', for a state folder of root's own",
            "or name a folder of root's with --state",
        ]
    return RecordError(
        f"{path} belongs to {_name_of(owner)}, and clawdet runs as {_name_of(os.geteuid())}: nothing in it is used,"
        " since its owner could change it at any time.",
        next_steps=steps,
    )


def _name_of(number: int) -> str:
    try:
        return pwd.getpwuid(number).pw_name
    except KeyError:
        return f"user {number}"


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
