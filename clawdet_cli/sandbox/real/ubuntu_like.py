"""Makes a Debian 13 image behave like the provider's Ubuntu 24.04 where the two differ. It stays Debian."""

import hashlib
import re
import shutil
from dataclasses import dataclass
from pathlib import Path

from clawdet_cli.sandbox.process import run
from clawdet_cli.sandbox.real.recipe import Recipe, write

PACKAGES = (
    "apparmor",
    "dbus-user-session",
    "libpam-systemd",
    "needrestart",
    "polkitd",
    "rsyslog",
    "ufw",
)
"""What Ubuntu's server image has, and the plain image lacks."""

UPGRADABLE = ("libtinfo6", "libncursesw6")
"""Packages of which a newer version waits: bash, and so every script at work, has the first one open."""

UPDATES = "srv/clawdet-sandbox-updates"
_SOURCE = f"deb [trusted=yes] file:/{UPDATES} ./\n"

NEEDRESTART = "# As in Ubuntu 24.04: restart without asking.\n$nrconf{restart} = 'a';\n"

TIMERS = ("apt-daily.timer", "apt-daily-upgrade.timer")
AT_ONCE = "[Timer]\nOnCalendar=\nOnBootSec=1s\nRandomizedDelaySec=0\nAccuracySec=100ms\nPersistent=no\n"

MODULES = """\
# The order of Ubuntu 24.04's cloud-init: sshd's passwords are set before it starts, and not while it runs.
cloud_init_modules: [seed_random, bootcmd, write_files, growpart, resizefs, disk_setup, mounts, set_hostname,
  update_hostname, update_etc_hosts, ca_certs, rsyslog, users_groups, ssh, set_passwords]
cloud_config_modules: [ssh_import_id, keyboard, locale, apt_configure, ntp, timezone, runcmd]
"""

MEMORY_KIB = int(3.7 * 1024 * 1024)
MEMINFO = f"""\
MemTotal:        {MEMORY_KIB} kB
MemFree:         {MEMORY_KIB * 3 // 4} kB
MemAvailable:    {MEMORY_KIB * 7 // 8} kB
Buffers:               0 kB
Cached:                0 kB
SwapCached:            0 kB
SwapTotal:             0 kB
SwapFree:              0 kB
Shmem:                 0 kB
Slab:                  0 kB
SReclaimable:          0 kB
"""
_MEMINFO_FILE = "usr/local/lib/clawdet-sandbox/meminfo"
_MEMINFO_UNIT = f"""\
[Unit]
Description=The memory of a server with 4 GB, in place of the sandbox's host's
DefaultDependencies=no
Before=sysinit.target

[Service]
Type=oneshot
RemainAfterExit=yes
ExecStart=/bin/mount --bind -o ro /{_MEMINFO_FILE} /proc/meminfo

[Install]
WantedBy=sysinit.target
"""


@dataclass(frozen=True)
class UbuntuLikeRecipe(Recipe):
    """A recipe of Debian 13, and what is made of it."""

    needrestart: str = NEEDRESTART
    timers: str = AT_ONCE
    modules: str = MODULES
    meminfo: str = MEMINFO
    upgradable: tuple[str, ...] = UPGRADABLE
    like_ubuntu: int = 1  # count up when `finish` does something else

    def finish(self, root: Path) -> None:
        """Change what the packages and the plain image left there."""
        _ssh_by_socket(root)
        write(root / "etc/needrestart/conf.d/50-ubuntu.conf", self.needrestart)
        for timer in TIMERS:
            write(root / f"etc/systemd/system/{timer}.d/clawdet-sandbox.conf", self.timers)
        write(root / "etc/cloud/cloud.cfg.d/91-clawdet-sandbox-ubuntu.cfg", self.modules)
        # Passwords are forbidden by cloud-init itself (`ssh_pwauth`), which restarts sshd for it where it runs.
        (root / "etc/ssh/sshd_config.d/10-clawdet-sandbox.conf").unlink()
        write(root / _MEMINFO_FILE, self.meminfo)
        _enable(root, "clawdet-sandbox-meminfo.service", _MEMINFO_UNIT, "sysinit.target.wants")
        _offer_updates(root, self.upgradable)


def _ssh_by_socket(root: Path) -> None:
    """Have systemd hold port 22 and start sshd with the first connection."""
    run(["systemctl", f"--root={root}", "--quiet", "disable", "ssh.service"])
    for folder in ("sockets.target.wants", "ssh.service.requires"):
        link = root / "etc/systemd/system" / folder / "ssh.socket"
        link.parent.mkdir(parents=True, exist_ok=True)
        link.unlink(missing_ok=True)
        link.symlink_to("/usr/lib/systemd/system/ssh.socket")


def _enable(root: Path, unit: str, text: str, folder: str) -> None:
    write(root / "etc/systemd/system" / unit, text)
    link = root / "etc/systemd/system" / folder / unit
    link.parent.mkdir(parents=True, exist_ok=True)
    link.symlink_to(f"/etc/systemd/system/{unit}")


def _offer_updates(root: Path, packages: tuple[str, ...]) -> None:
    """Make the only archive of security updates one on the disk, with newer versions of some installed packages.

    So unattended-upgrades has the same work at every boot, whatever the archive holds today, and without a network.
    """
    archive = root / UPDATES
    archive.mkdir(parents=True)
    installed = {name: _status(root, name) for name in packages}
    newer = {name: _value(text, "Version") + "+clawdet1" for name, text in installed.items()}
    index = "\n".join(_packed(root, archive, installed[name], newer) for name in packages)
    write(archive / "Packages", index)
    digest = hashlib.sha256(index.encode()).hexdigest()
    release = {
        "Origin": "Debian",
        "Label": "Debian-Security",
        "Suite": "stable-security",
        "Codename": "trixie-security",
        "Date": "Thu, 01 Jan 2026 00:00:00 UTC",
        "SHA256": f"\n {digest} {len(index.encode())} Packages",
    }
    write(archive / "Release", "".join(f"{name}: {value}\n" for name, value in release.items()))
    sources = root / "etc/apt/sources.list"
    kept = [line for line in sources.read_text().splitlines() if "-security " not in line]
    write(sources, "\n".join(kept) + "\n")
    write(root / "etc/apt/sources.list.d/clawdet-sandbox.list", _SOURCE)


def _status(root: Path, package: str) -> str:
    return run(["dpkg-query", f"--admindir={root}/var/lib/dpkg", "--status", package])


def _value(status: str, field: str) -> str:
    found = re.search(rf"^{field}: (.*)$", status, re.MULTILINE)
    return found[1] if found else ""


def _packed(root: Path, archive: Path, status: str, newer: dict[str, str]) -> str:
    """Pack an installed package anew, under its newer version; return its part of the archive's index."""
    package, architecture = _value(status, "Package"), _value(status, "Architecture")
    control = re.sub(r"^(Status|Conffiles):.*\n(?: .*\n)*", "", status, flags=re.MULTILINE)
    control = re.sub(r"^Version: .*$", f"Version: {newer[package]}", control, flags=re.MULTILINE)
    # Packages of one source want each other in the very same version.
    control = (
        re.sub(
            r"\b([a-z0-9.+-]+) \(= [^)]+\)",
            lambda one: f"{one[1]} (= {newer[one[1]]})" if one[1] in newer else one[0],
            control,
        ).strip()
        + "\n"
    )
    tree = archive / f".{package}"
    info = root / "var/lib/dpkg/info"
    for path in (info / f"{package}:{architecture}.list").read_text().splitlines():
        source = root / path.lstrip("/")
        target = tree / path.lstrip("/")
        if source.is_symlink() or source.is_file():
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(source, target, follow_symlinks=False)
    write(tree / "DEBIAN/control", control)
    for name in ("shlibs", "symbols", "triggers"):
        if (info / f"{package}:{architecture}.{name}").exists():
            shutil.copy(info / f"{package}:{architecture}.{name}", tree / "DEBIAN" / name)
    file = archive / f"{package}.deb"
    run(["dpkg-deb", "--root-owner-group", "-Znone", "--build", str(tree), str(file)])
    shutil.rmtree(tree)
    content = file.read_bytes()
    more = {"Filename": f"./{file.name}", "Size": len(content), "SHA256": hashlib.sha256(content).hexdigest()}
    return control + "".join(f"{name}: {value}\n" for name, value in more.items())
