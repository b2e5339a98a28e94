"""Finds what a sandbox left on the machine, by names that only it gives, and clears it."""

import contextlib
import os
import re
import select
import shutil
import signal
import sys
from pathlib import Path

from clawdet_cli.sandbox.info import Files
from clawdet_cli.sandbox.process import arguments
from clawdet_cli.sandbox.real import cgroups, namespace
from clawdet_cli.sandbox.real.disks import Disk, unmount_below

_PROCESS_SECONDS = 10.0
_NSPAWN_TRACES = Path("/run/systemd/nspawn/propagate")


def clear(files: Files) -> list[str]:
    """Clear everything that belongs to the sandbox in this folder, its daemon excepted; return what there was."""
    cleared = _clear_machines(files) if sys.platform.startswith("linux") else []
    for path in files.everything:
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)
    with contextlib.suppress(OSError):
        # Whatever else its owner keeps in it stays.
        files.folder.rmdir()
    return cleared


def clear_server(tag: str, folder: Path) -> list[str]:
    """Clear what a server left running, mounted or named, but not its disk; return what that was."""
    name = f"{tag}-{folder.name}"
    cleared = []
    group = control_group(tag, folder.name)
    if killed := cgroups.kill(group):
        cleared.append(f"{killed} processes of {name}")
    if cgroups.remove(group):
        cleared.append(f"control group {group}")
    if Disk(folder).unmount():
        cleared.append(f"mount {folder / 'root'}")
    if namespace.delete(name):
        cleared.append(f"network namespaces {name}")
    with contextlib.suppress(FileNotFoundError):
        (_NSPAWN_TRACES / name).rmdir()
    return cleared


def control_group(tag: str, server: int | str) -> str:
    """Return the name of a server's control group."""
    return f"{tag}/{server}"


def processes(files: Files) -> dict[int, str]:
    """Return pid -> program of the processes that work for the sandbox in this folder, its daemon included."""
    found = {}
    mark = re.compile(rf"/run/netns/clawdet\d+-{files.mark}-")
    for entry in Path("/proc").glob("[0-9]*"):
        words = arguments(int(entry.name))
        program = Path(words[0]).name if words else ""
        ours = (
            (program == "systemd-nspawn" and any(word.startswith(f"--directory={files.servers}/") for word in words))
            or (program == "slirp4netns" and any(mark.match(word) for word in words))
            or (words[1:4] == ["-m", "clawdet_cli.sandbox", str(files.folder)])
        )
        if ours:
            found[int(entry.name)] = program
    return found


def _clear_machines(files: Files) -> list[str]:
    cleared = []
    for pid, program in processes(files).items():
        if _kill(pid, files):
            cleared.append(f"process {pid} ({program})")
    for tag, server in _named(files):
        cleared += clear_server(tag, files.servers / server)
    if count := unmount_below(files.servers):
        cleared.append(f"{count} mounts below {files.servers}")
    for tag in {tag for tag, _ in _named(files)} | _tags(files):
        cgroups.remove(tag)
    for folder in files.servers.glob("*"):
        Disk(folder).delete()
    return cleared


def _kill(pid: int, files: Files) -> bool:
    """Kill a process, if it is still the one that was found."""
    try:
        descriptor = os.pidfd_open(pid)
    except ProcessLookupError:
        return False
    try:
        # From here on the descriptor means one process, so a second look settles whose it is.
        if pid not in processes(files):
            return False
        signal.pidfd_send_signal(descriptor, signal.SIGKILL)
        select.select([descriptor], [], [], _PROCESS_SECONDS)
    finally:
        os.close(descriptor)
    return True


def _named(files: Files) -> set[tuple[str, str]]:
    """Return (tag, server) of everything that carries the sandbox's mark, whichever number it had."""
    pattern = re.compile(rf"(clawdet\d+-{files.mark})-(\d+)(?:-r)?")
    names = [match for name in namespace.existing("clawdet") if (match := pattern.fullmatch(name))]
    found = {(match[1], match[2]) for match in names}
    for tag in _tags(files):
        found |= {(tag, server) for server in cgroups.below(tag)}
        found |= {(tag, folder.name) for folder in files.servers.glob("*")}
    return found


def _tags(files: Files) -> set[str]:
    return {name for name in cgroups.below("") if re.fullmatch(rf"clawdet\d+-{files.mark}", name)}
