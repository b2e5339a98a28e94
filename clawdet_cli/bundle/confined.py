"""How code that was downloaded runs here: as a user that nobody is, without a network and without anything of ours."""

import os
import subprocess
from collections.abc import Sequence
from pathlib import Path

THROWAWAY = 65533
"""A user and a group that nobody has: not `nobody`, whom other programs share."""
_SECONDS = 20
_AS_THROWAWAY = f"setpriv --reuid {THROWAWAY} --regid {THROWAWAY} --clear-groups --no-new-privs".split()
# The folder lies at /tmp there, whoever may enter those above it, and what else is in /tmp cannot be seen.
_ALONE = "unshare --mount --net --ipc --pid --fork --kill-child".split()
_IN_PLACE = 'mount --bind "$1" /tmp && cd /tmp && shift && exec "$@"'
_OFFLINE = "unshare --map-root-user --net".split()


def confined(room: Path, search: Path, *words: str | Path) -> list[str]:
    """Return the command line that runs a program in a folder, whose parts are given as paths, without all else.

    As root it runs as another user, who can write to what was handed over in the folder, in namespaces of its own.
    Otherwise it runs as this user, without a network where the system lets users make one of their own. Where it does
    not, as in some containers, the network stays. The environment is the caller's to empty.
    """
    is_root = os.geteuid() == 0
    before: Sequence[str] = _AS_THROWAWAY if is_root else ()
    inside = room
    if is_root and _works(_ALONE):
        before, inside = (*_ALONE, "sh", "-c", _IN_PLACE, "sh", str(room), *before), Path("/tmp")  # noqa: S108 - the folder itself
    elif not is_root and _works(_OFFLINE):
        before = _OFFLINE

    def placed(word: str | Path) -> str:
        return str(inside / word.relative_to(room)) if isinstance(word, Path) else word

    clean = [f"PATH={placed(search)}:/usr/bin:/bin", f"HOME={placed(room / 'home')}", "NODE_DISABLE_COMPILE_CACHE=1"]
    return [*before, "env", *clean, *map(placed, words)]


def make_room(room: Path) -> None:
    """Let whoever runs in a folder enter it, and have a home there."""
    room.chmod(0o711)
    home = room / "home"
    home.mkdir()
    _give(home, THROWAWAY)


def hand_over(folder: Path) -> None:
    """Let it write to all folders below this one."""
    for path, _, _ in os.walk(folder):
        _give(Path(path), THROWAWAY)


def take_back(folder: Path) -> None:
    """Make ours again what it was given, and what it made there."""
    for path, folders, files in os.walk(folder):
        # Links to folders are among the folders, and not entered.
        for one in (Path(path), *(Path(path, name) for name in (*folders, *files))):
            if one.lstat().st_uid == THROWAWAY:
                _give(one, os.geteuid())


def _give(path: Path, owner: int) -> None:
    if os.geteuid() == 0:
        # A link itself, never what it leads to.
        os.chown(path, owner, owner, follow_symlinks=False)


def _works(command: Sequence[str]) -> bool:
    try:
        done = subprocess.run(
            [*command, "true"], stdin=subprocess.DEVNULL, capture_output=True, timeout=_SECONDS, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return False
    return done.returncode == 0
