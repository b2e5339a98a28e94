"""Brings a prepared bundle to the VPS, or says why OpenClaw comes with npm instead: it never fails for that."""

import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

from clawdet_cli import bootstrap, pins
from clawdet_cli.adapters.answers import in_time
from clawdet_cli.bundle import fetch, source
from clawdet_cli.bundle.manifest import Manifest
from clawdet_cli.errors import ConfigError, GuestError, WaitError
from clawdet_cli.model import Deadline
from clawdet_cli.secret import Secret
from clawdet_cli.settings import Settings
from clawdet_cli.stages.runner import Run

NPM_WAY_SECONDS = 43.0
"""What Node, Caddy and `npm ci` take on a VPS with two cores (facts of OpenClaw, 7)."""
UNPACK_SECONDS = 6.0
MANIFEST_SECONDS = 30.0
"""For all of a manifest: there is npm, too."""
PIECE = 256 * 1024
UNTIMED, TIMED = 4 * 1024 * 1024, 4 * 1024 * 1024
"""The first bytes only fill buffers on the way; the next ones tell the line's speed."""


def check(run: Run) -> None:
    """Refuse a bundle's file that is not there or not whole, before anything is made. Raises ConfigError."""
    given = run.settings.bundle and source.parse(run.settings.bundle)
    if given and given.file is not None:
        given.manifest(_reader(run.settings, run.deadline))


def _reader(settings: Settings, deadline: Deadline) -> Callable[[Secret], str]:
    """Return what reads a manifest, within the deadline however slowly it drips. Raises ConfigError."""
    deadline = deadline.within(MANIFEST_SECONDS)

    def read(address: Secret) -> str:
        try:
            return in_time(lambda: fetch.text(address, settings.network), deadline)
        except TimeoutError:
            raise ConfigError(f"{fetch.shown(address)} did not come in time.") from None

    return read


def lines(
    settings: Settings, openclaw_version: str, architecture: str, deadline: Deadline
) -> tuple[dict[str, str], str]:
    """Give the script's lines about the bundle; or none, and why it is not used, if one was asked for."""
    if settings.bundle is None:
        return {}, ""
    given = source.parse(settings.bundle)
    try:
        manifest = given.manifest(_reader(settings, deadline))
    except ConfigError as error:
        return {}, error.what
    pinned = pins.load().for_openclaw(openclaw_version, architecture)
    named = given.named_otherwise(openclaw_version, architecture)
    unfit = manifest.unfit(pinned, architecture) if manifest else named
    if unfit:
        return {}, unfit
    sha256 = given.sha256 if manifest is None else manifest.archive_sha256
    url = f"file://{bootstrap.bundle_file(sha256)}" if given.url is None else given.url.reveal()
    return {"bundle_url": url, "bundle_sha256": sha256}, ""


def bring(run: Run, openclaw_version: str, architecture: str) -> dict[str, str]:
    """Give the script's lines about the bundle, after it was copied there if it is a file.

    They are the same whether that succeeded or not, since user_data may have brought them: without a file npm works.
    """
    found, reason = lines(run.settings, openclaw_version, architecture, run.deadline)
    if run.settings.bundle is None:
        return found
    given = source.parse(run.settings.bundle)
    if reason:
        _npm(run, given, reason)
    elif given.file is None:
        run.note(f"the VPS downloads the bundle {given.shown} by itself, since it is an address")
    else:
        manifest = given.manifest(_reader(run.settings, run.deadline))
        if manifest:
            _upload(run, given.file, manifest, given)
    return found


def tell(run: Run, said: Mapping[str, str]) -> None:
    """Say why the VPS did not use the bundle, if it did not."""
    refused = bootstrap.refusal(said)
    if refused:
        run.note(f"the bundle was not used: {refused}; OpenClaw came with npm")


def _npm(run: Run, given: source.Source, reason: str) -> None:
    run.note(f"the bundle {given.shown} is not used: {reason.rstrip('.')}; OpenClaw comes with npm")


def _upload(run: Run, file: Path, manifest: Manifest, given: source.Source) -> None:
    """Copy the archive over the open connection, unless that would take longer than npm."""
    sha256, size = manifest.archive_sha256, manifest.archive_bytes
    answer = run.remote(bootstrap.look_for_bundle(sha256, manifest.lock_sha256), seconds=20)
    if answer.out.strip() in {"prepared", "kept"}:
        return
    line = Line(file, size, NPM_WAY_SECONDS - UNPACK_SECONDS)
    try:
        with run.effect("upload", "bundle", sha256=sha256):
            answer = run.ssh().run(
                bootstrap.keep_bundle(sha256, size), stdin=line.pieces(), timeout=run.deadline.within(120).left()
            )
    except (GuestError, WaitError) as error:
        _npm(run, given, f"it could not be copied ({error.what})")
        return
    if line.too_slow:
        _npm(run, given, line.too_slow)
        return
    if answer.code != 0:
        _npm(run, given, f"the VPS could not keep it ({' '.join(answer.err.split())[-200:]})")
        return
    run.note(f"the bundle {given.shown} is copied over SSH, since it is a file: {line.shown()}")


class Line:
    """A file on its way, which gives up when the line turns out too slow."""

    def __init__(self, file: Path, size: int, worth: float) -> None:
        self.file = file
        self.size = size
        self.worth = worth
        """Seconds that copying may take in all."""
        self.too_slow = ""
        self.seconds = 0.0

    def pieces(self) -> Iterator[bytes]:
        """Give the file in pieces; each is asked for when the one before is on its way."""
        began, sent, timed_from = time.monotonic(), 0, 0.0
        with self.file.open("rb") as content:
            while data := content.read(PIECE):
                yield data
                sent += len(data)
                self.seconds = time.monotonic() - began
                if sent == UNTIMED:
                    timed_from = self.seconds
                elif sent == UNTIMED + TIMED and self._is_too_slow(sent, self.seconds - timed_from):
                    return

    def _is_too_slow(self, sent: int, seconds: float) -> bool:
        rate = TIMED / max(seconds, 1e-6)
        total = self.seconds + (self.size - sent) / rate
        if total > self.worth:
            self.too_slow = (
                f"the line carries {rate / 1e6:.1f} MB/s, so {_mb(self.size)} would take {total:.0f} s,"
                f" and npm gets by in some {NPM_WAY_SECONDS:.0f} s"
            )
        return bool(self.too_slow)

    def shown(self) -> str:
        """Tell how it went."""
        return f"{_mb(self.size)} in {self.seconds:.1f} s ({self.size / 1e6 / max(self.seconds, 1e-6):.1f} MB/s)"


def _mb(size: int) -> str:
    return f"{size / 1e6:.0f} MB"
