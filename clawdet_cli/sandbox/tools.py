"""The operating system's programs that real servers need."""

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from clawdet_cli.sandbox.errors import SandboxError
from clawdet_cli.sandbox.process import run, without_secrets

# Program -> Debian package.
_PROGRAMS = {
    "ip": "iproute2",
    "mkfs.ext4": "e2fsprogs",
    "mmdebstrap": "mmdebstrap",
    "mount": "mount",
    "npm": "npm",  # fetches Node and npm for the mirror, and knows how this machine reaches the registry
    "setpriv": "util-linux",
    "slirp4netns": "slirp4netns",
    "systemd-nspawn": "systemd-container",
}
_DEBIAN_KEYRING = Path("/usr/share/keyrings/debian-archive-keyring.gpg")  # Ubuntu does not have it by itself
_PROBE = "clawdet-probe"


def servers_possible(wanted: str, report: Callable[[str], None], *, install: bool) -> str:
    """Return `real` or `simulated` for `real`, `simulated` or `auto`; raise SandboxError where `real` cannot be had."""
    if wanted == "simulated":
        return wanted
    if install and _is_root_on_linux():
        _install_missing(report)
    obstacle = _obstacle()
    if obstacle is None:
        return "real"
    # What only needs to be installed is worth a question: simulated servers prove much less.
    if wanted == "real" or (_is_root_on_linux() and _missing()):
        raise obstacle
    report(f"servers are simulated: {obstacle.what}. For real ones: {obstacle.next_step}")
    return "simulated"


def _is_root_on_linux() -> bool:
    return sys.platform.startswith("linux") and os.geteuid() == 0


def _install_missing(report: Callable[[str], None]) -> None:
    missing = _missing()
    if missing and shutil.which("apt-get"):
        report(f"installing {' '.join(missing)}")
        _apt_get(["update"])
        _apt_get(["install", "--yes", "--no-install-recommends", *missing])


def _obstacle() -> SandboxError | None:
    if not sys.platform.startswith("linux"):
        return SandboxError("real servers need Linux", "run this on a Linux machine, or use --servers simulated")
    if os.geteuid() != 0:
        return SandboxError("real servers need root", "run this as root, or use --servers simulated")
    missing = _missing()
    if missing:
        return SandboxError(
            f"real servers need programs of the packages {', '.join(missing)}",
            f"add --yes to have them installed, or apt-get install {' '.join(missing)}, or use --servers simulated",
        )
    if not Path("/dev/net/tun").exists():
        return SandboxError("real servers need /dev/net/tun", "modprobe tun, or use --servers simulated")
    try:
        run(["ip", "netns", "add", f"{_PROBE}-{os.getpid()}"])
        run(["ip", "netns", "delete", f"{_PROBE}-{os.getpid()}"])
    except SandboxError as error:
        return SandboxError(
            f"no network namespace can be made here: {error.what}",
            "run this outside of a container, or use --servers simulated",
        )
    return None


def _missing() -> list[str]:
    missing = {package for program, package in _PROGRAMS.items() if shutil.which(program) is None}
    if not _DEBIAN_KEYRING.exists():
        missing.add("debian-archive-keyring")
    return sorted(missing)


def _apt_get(arguments: list[str]) -> None:
    try:
        done = subprocess.run(
            ["apt-get", "-qq", *arguments],
            env=without_secrets() | {"DEBIAN_FRONTEND": "noninteractive"},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
            timeout=1800,
        )
    except subprocess.TimeoutExpired:
        raise SandboxError(f"apt-get {arguments[0]} did not end.", "install the packages by hand") from None
    if done.returncode:
        last = done.stderr.strip().splitlines()[-1:]
        raise SandboxError(f"apt-get {arguments[0]} failed: {''.join(last)}", "install the packages by hand")
