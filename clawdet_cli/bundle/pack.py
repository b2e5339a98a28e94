"""Packs a folder so that the same contents give the same bytes."""

import hashlib
import os
import stat
import tarfile
from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import IO, Any

from clawdet_cli.bundle.tree import members
from clawdet_cli.errors import ConfigError

LEVEL = 12
WORKERS = 2
"""Any number but none gives the same bytes, on machines with any number of cores."""
WINDOW_LOG = 27
"""128 MiB, the most that zstd unpacks without being told to; it finds what the packages have in common."""


def compressor() -> Any:
    """Give the module that compresses. Raises ConfigError where it is not installed."""
    try:
        import zstandard  # noqa: PLC0415  # an extra, which only whoever builds bundles needs
    except ImportError:
        raise ConfigError(
            "Building a bundle needs the Python package 'zstandard', which is not installed.",
            next_steps=["pip install 'clawdet[bundle]'"],
        ) from None
    return zstandard


def moment(openclaw_version: str) -> int:
    """Give the time that all files of a bundle have: the day that the version is named after.

    A version's own time, so that a browser notices that files changed.
    """
    year, month, day = (int(number) for number in openclaw_version.partition("-")[0].split("."))
    return int((datetime(year, month, 1, tzinfo=UTC) + timedelta(days=max(day, 1) - 1)).timestamp())


def pack(root: Path, target: Path, mtime: int) -> tuple[str, int]:
    """Pack what is below a folder, whose modes are as they are to be; give the archive's SHA-256 and size."""
    zstandard = compressor()
    parameters = zstandard.ZstdCompressionParameters.from_level(
        LEVEL, threads=WORKERS, window_log=WINDOW_LOG, enable_ldm=True, write_checksum=True
    )
    with target.open("wb") as file:
        hashed = _Hashed(file)
        with zstandard.ZstdCompressor(compression_params=parameters).stream_writer(hashed, closefd=False) as stream:
            _write(stream, root, mtime)
    return hashed.sha256.hexdigest(), hashed.size


def _write(stream: IO[bytes], root: Path, mtime: int) -> None:
    with tarfile.open(fileobj=stream, mode="w|", format=tarfile.GNU_FORMAT, bufsize=1 << 20) as archive:
        for member, path in _headers(root, mtime):
            if member.isreg():
                with path.open("rb") as content:
                    archive.addfile(member, content)
            else:
                archive.addfile(member)


def _headers(root: Path, mtime: int) -> Iterable[tuple[tarfile.TarInfo, Path]]:
    """Give the members by their paths' bytes; nothing of the machine that packs is in them, hard links neither."""
    for name, status in members(root):
        member, path = tarfile.TarInfo(name), root / name
        member.mtime, member.mode = mtime, stat.S_IMODE(status.st_mode)
        if stat.S_ISLNK(status.st_mode):
            member.type, member.linkname, member.mode = tarfile.SYMTYPE, os.fspath(path.readlink()), 0o777
        elif stat.S_ISDIR(status.st_mode):
            member.type = tarfile.DIRTYPE
        else:
            member.size = status.st_size
        yield member, path


class _Hashed:
    """A file that knows the digest of what was written to it."""

    def __init__(self, file: IO[bytes]) -> None:
        self.file = file
        self.sha256 = hashlib.sha256()
        self.size = 0

    def write(self, data: bytes) -> int:
        self.sha256.update(data)
        self.size += len(data)
        return self.file.write(data)

    def flush(self) -> None:
        self.file.flush()
