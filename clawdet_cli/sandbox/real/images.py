"""Builds the disks that servers start from: Debian with cloud-init, made to behave like the provider's image."""

import contextlib
import fcntl
import os
import re
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from clawdet_cli.sandbox.errors import SandboxError
from clawdet_cli.sandbox.process import run
from clawdet_cli.sandbox.real import ubuntu_like
from clawdet_cli.sandbox.real.recipe import SLOWLY, Recipe, write
from clawdet_cli.sandbox.real.ubuntu_like import UbuntuLikeRecipe

Report = Callable[[str], None]

GUESTS = ("debian12", "debian13", "ubuntu-like")
"""What a real server can be; the last is Debian 13 made to behave like the provider's Ubuntu 24.04."""
_SUITES = {"debian12": "bookworm", "debian13": "trixie", "ubuntu-like": "trixie"}
_NAMES = {"debian12": "bookworm", "debian13": "trixie", "ubuntu-like": "ubuntu-like"}
"""How the folder of an image begins."""

_HOST_CERTIFICATES = Path("/usr/local/share/ca-certificates")
_BUNDLE = "/etc/ssl/certs/ca-certificates.crt"
_APT_SETTINGS_KEPT = re.compile(
    r"^(Acquire::(?:https?::Proxy|Check-Valid-Until|Check-Date)\b.*?) (\".*\");$", re.MULTILINE
)


def recipe(guest: str) -> Recipe:
    """Return the recipe for a guest on this machine: package sources and trust as this machine has them."""
    if guest not in GUESTS:
        raise SandboxError(f"there is no base image for {guest!r}", f"choose one of {', '.join(GUESTS)}")
    suite = _SUITES[guest]
    plain = Recipe(
        suite=suite,
        sources=_sources(suite),
        apt_settings=tuple(
            f"{name} {value}" for name, value in _APT_SETTINGS_KEPT.findall(run(["apt-config", "dump"]))
        ),
        certificates=tuple((path.name, path.read_text()) for path in sorted(_HOST_CERTIFICATES.glob("**/*.crt"))),
        npm_settings=_npm_settings(),
    )
    if guest != "ubuntu-like":
        return plain
    return UbuntuLikeRecipe(
        suite=suite,
        sources=plain.sources,
        apt_settings=plain.apt_settings,
        certificates=plain.certificates,
        npm_settings=plain.npm_settings,
        packages=(*plain.packages, *ubuntu_like.PACKAGES),
        slow_timers=(),
    )


def ensure(guest: str, cache: Path, report: Report) -> Path:
    """Return the root folder of the base image, building it where the cache has none; takes about a minute."""
    wanted, name = recipe(guest), _NAMES[guest]
    images = cache / "images"
    images.mkdir(parents=True, exist_ok=True)
    image = images / f"{name}-{wanted.digest}"
    if image.is_dir():
        return image
    with _locked(images / f"{name}.lock", lambda: report(f"waiting for another process that builds {name}")):
        if not image.is_dir():
            report(f"building the base image {name} (once, about a minute)")
            began = time.monotonic()
            _build(wanted, image, name)
            report(f"base image {name} built in {time.monotonic() - began:.0f} s")
    return image


def _build(wanted: Recipe, image: Path, name: str) -> None:
    # Beside the image, so that the rename is atomic; what a killed build left is cleared first.
    for stale in image.parent.glob(f".build-{name}-*"):
        _remove_tree(stale)
    scratch = Path(tempfile.mkdtemp(prefix=f".build-{name}-", dir=image.parent))
    try:
        root = scratch / "root"
        run(
            [
                *("mmdebstrap", "--mode=root", "--format=directory", "--variant=minbase", "--quiet"),
                f"--include={','.join(wanted.packages)}",
                *(f"--aptopt={setting}" for setting in wanted.apt_settings),
                *(wanted.suite, str(root), *wanted.sources),
            ],
            seconds=1800,
        )
        _finish(wanted, root)
        root.chmod(0o755)
        root.rename(image)
    finally:
        _remove_tree(scratch)


def _finish(wanted: Recipe, root: Path) -> None:
    for name, pem in wanted.certificates:
        write(root / "usr/local/share/ca-certificates" / name, pem)
    if wanted.certificates:
        run(["chroot", str(root), "update-ca-certificates"])
    if wanted.npm_settings:
        # Once for an npm below /usr/local, and once for root's whichever npm.
        for name in ("usr/local/etc/npmrc", "root/.npmrc"):
            write(root / name, "\n".join(wanted.npm_settings) + "\n")
    write(root / "etc/cloud/cloud.cfg.d/90-clawdet-sandbox.cfg", wanted.cloud_config)
    # Said here and not by cloud-init's `ssh_pwauth`, which would restart sshd under the first connections.
    write(root / "etc/ssh/sshd_config.d/10-clawdet-sandbox.conf", "PasswordAuthentication no\n")
    for unit in wanted.masked_units:
        link = root / "etc/systemd/system" / unit
        link.unlink(missing_ok=True)
        link.symlink_to("/dev/null")
    for timer in wanted.slow_timers:
        write(root / f"etc/systemd/system/{timer}.d/clawdet-sandbox.conf", SLOWLY)
    # Every server makes its own; a shared one would let one server pass for another.
    for key in (root / "etc/ssh").glob("ssh_host_*"):
        key.unlink()
    write(root / "etc/machine-id", "")
    (root / "var/lib/dbus/machine-id").unlink(missing_ok=True)
    resolver = root / "etc/resolv.conf"
    resolver.unlink(missing_ok=True)
    write(resolver, "nameserver 10.0.2.3\n")  # slirp4netns answers there as this machine's resolver would
    (root / "etc/hostname").unlink(missing_ok=True)
    wanted.finish(root)


def _sources(suite: str) -> tuple[str, ...]:
    """Return the package sources by which this machine reaches Debian, for another of its suites."""
    found = run(
        ["apt-get", "indextargets", "--format", "$(ORIGIN)|$(LABEL)|$(REPO_URI)", "Created-By: Packages"]
    ).splitlines()
    main = [line.split("|")[2] for line in found if line.startswith("Debian|Debian|")]
    security = [line.split("|")[2] for line in found if line.startswith("Debian|Debian-Security|")]
    if not main:
        return ()
    lines = [f"deb {main[0]} {suite} main", f"deb {main[0]} {suite}-updates main"]
    if security:
        lines.append(f"deb {security[0]} {suite}-security main")
    return tuple(lines)


def _npm_settings() -> tuple[str, ...]:
    """Return npmrc lines so that a server installs packages as this machine does; no credentials."""
    if shutil.which("npm") is None:
        return ()
    try:
        registry = run(["npm", "config", "get", "registry"]).strip()
    except SandboxError:
        return ()
    settings = [f"registry={registry}"] if registry.startswith("http") else []
    if any(_HOST_CERTIFICATES.glob("**/*.crt")):
        # npm brings its own list of authorities, and so knows nothing of this machine's.
        settings.append(f"cafile={_BUNDLE}")
    return tuple(settings)


def _remove_tree(folder: Path) -> None:
    # A killed mmdebstrap leaves /proc and /dev mounted below; removing through them would reach this machine's own.
    mounted = [line.split()[4] for line in Path("/proc/self/mountinfo").read_text().splitlines()]
    for point in sorted((one for one in mounted if one.startswith(f"{folder}/")), reverse=True):
        run(["umount", "--lazy", point])
    shutil.rmtree(folder, ignore_errors=True)


@contextlib.contextmanager
def _locked(path: Path, on_wait: Callable[[], None]) -> Iterator[None]:
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            on_wait()
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)
