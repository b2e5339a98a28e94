"""The database as a file: whether it is still the one that was opened, and whether the -wal beside it was made with it.

SQLite plays a -wal into whatever file lies beside it, also into a backup that was copied there after a crash, which
destroys it. So each database carries a generation, a random number in the field `application_id` of its header:

- `State` changes it, in the database file itself, before the first write into an empty -wal, and each backup and each
  restored copy gets one of its own. So no two files that differ have the same, nor has a copy from before.
- Every write of ours takes the first page along, which holds it. So a -wal names the generations that its database
  can have; one that names others was made with another file.
"""

import os
import secrets
import shlex
import sqlite3
import struct
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

from clawdet_cli import stopping
from clawdet_cli.errors import RecordError

BESIDE = ("-wal", "-shm", "-journal")
"""What SQLite makes beside a database, by the ends of the names."""

# https://www.sqlite.org/fileformat2.html: the database header, the header of a -wal, and that of each frame in it.
MAGIC = b"SQLite format 3\0"
_GENERATION_AT = 68
_WAL_HEADER, _FRAME_HEADER = struct.Struct(">8I"), struct.Struct(">6I")
_WAL_MAGIC = (0x377F0682, 0x377F0683)
_PAGE_SIZES = {2**power for power in range(9, 17)}

LOOKS, PAUSE_SECONDS = 10, 0.05
"""A -wal that seems to be foreign is looked at so often: another run may write it anew at this moment."""


def new_generation() -> int:
    """Return a number for a database file that no other one has."""
    return secrets.randbelow(2**31 - 1) + 1


class DatabaseFile:
    """The file of an open database."""

    def __init__(self, path: Path) -> None:
        """Open it. Raises OSError, and RecordError for one whose -wal was made with another file."""
        self.path = path
        self.wal = beside(path, "-wal")
        # Open for as long as the database is: closing it would drop the locks that SQLite has on the file.
        self._descriptor: int | None = os.open(path, os.O_RDWR | os.O_NOFOLLOW)
        try:
            refuse_foreign_wal(path, self._descriptor)
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Close it; after SQLite has."""
        if self._descriptor is not None:
            os.close(self._descriptor)
        self._descriptor = None

    def is_at_its_path(self) -> bool:
        """Return whether its path still leads to it."""
        try:
            found = self.path.stat(follow_symlinks=False)
        except FileNotFoundError:
            return False
        return self._descriptor is not None and os.path.samestat(found, os.fstat(self._descriptor))

    def is_overwritten(self, generation: Callable[[], int]) -> bool:
        """Return whether something else was written into it while it was open; `generation` asks for SQLite's view."""
        for look in range(LOOKS):
            try:
                seen = generation()
            except sqlite3.DatabaseError as error:
                if getattr(error, "sqlite_errorcode", 0) & 0xFF in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB):
                    return True  # it was sound when it was opened
                raise
            if self._descriptor is None or _generation_in(os.pread(self._descriptor, 100, 0)) == seen:
                return False
            # The first page may still be on its way from the -wal.
            if _has_pages(self.wal):
                return is_foreign(self.wal, self._descriptor)
            # Or another run has brought it from there between the two looks.
            if look + 1 < LOOKS:
                stopping.pause(PAUSE_SECONDS)
        return True

    def wal_size(self) -> int | None:
        """Return how large its -wal is; None when there is none."""
        try:
            return self.wal.stat(follow_symlinks=False).st_size
        except FileNotFoundError:
            return None


def beside(path: Path, end: str) -> Path:
    """Return the path of what SQLite keeps beside a database."""
    return path.with_name(path.name + end)


def refuse_foreign_wal(path: Path, descriptor: int | None) -> None:
    """Raise RecordError when the -wal beside a database, or beside a missing one, was made with another file."""
    wal = beside(path, "-wal")
    for look in range(LOOKS):
        if not is_foreign(wal, descriptor):
            return
        if look + 1 < LOOKS:
            stopping.pause(PAUSE_SECONDS)
    what = "is missing" if descriptor is None else "is another file than the one that this was written for"
    aside = f"mv {shlex.quote(str(wal))} {shlex.quote(f'{wal}.foreign')}"
    raise RecordError(
        f"{wal} holds changes that a run did not finish, and {path} {what}: nothing was opened, and nothing is lost.",
        next_steps=[
            "clawdet state restore FILE    (goes on with a backup, and keeps what is there now)",
            *(
                [f"{aside}  # or goes on with {path.name} as it is"]
                if descriptor is not None
                else [
                    f"{aside}  # or begins without it, together with the next line",
                    "clawdet state rebuild    (records again what the clouds hold)",
                ]
            ),
            f"or put the file back that it belongs to, as {path}",
        ],
    )


def is_foreign(wal: Path, descriptor: int | None) -> bool:
    """Return whether SQLite would play a -wal into a database file that it was not made with."""
    pages = _first_pages(_content(wal))
    # The first is mostly of the file's generation: what follows is read only when it is not.
    first = next(pages, None)
    if first is None:
        return False
    page = b"" if descriptor is None else os.pread(descriptor, len(first), 0)
    own = _generation_in(page)
    if own is None or own != _generation_in(first):
        return own is None or all(own != _generation_in(other) for other in pages)
    second = next(pages, first)
    # Where it changes at once, a run died before the file had the new one: all there is to play is the first page, of
    # a file that is otherwise as it was, which one with the same generation from before it was last closed is not.
    return _generation_in(second) != own and _unchanging(page) != _unchanging(first)


def _has_pages(wal: Path) -> bool:
    """Return whether SQLite would play anything from a -wal."""
    return next(_first_pages(_content(wal)), None) is not None


def _content(wal: Path) -> bytes:
    try:
        opened = os.open(wal, os.O_RDONLY | os.O_NOFOLLOW)
    except FileNotFoundError:
        return b""
    with os.fdopen(opened, "rb") as file:
        return file.read()


def _generation_in(page: bytes) -> int | None:
    """Return the generation in the first page of a database; None where that is no database's."""
    if len(page) < 100 or not page.startswith(MAGIC):
        return None
    return int.from_bytes(page[_GENERATION_AT : _GENERATION_AT + 4], "big")


def _unchanging(page: bytes) -> bytes:
    """Return the first page of a database without what SQLite counts with every write."""
    return page[:24] + page[28:92] + page[100:]


def _first_pages(data: bytes) -> Iterator[bytes]:
    """Return each version of the database's first page in a -wal, as far as SQLite would play it."""
    if len(data) < _WAL_HEADER.size:
        return
    magic, _, page_size, _, *salt_and_sum = _WAL_HEADER.unpack_from(data)
    salt, sums = tuple(salt_and_sum[:2]), (0, 0)
    if magic not in _WAL_MAGIC or page_size not in _PAGE_SIZES:
        return
    order = ">" if magic & 1 else "<"
    sums = _checksum(data[:24], sums, order)
    if sums != tuple(salt_and_sum[2:]):
        return
    uncommitted: list[bytes] = []
    for at in range(_WAL_HEADER.size, len(data) - _FRAME_HEADER.size - page_size + 1, _FRAME_HEADER.size + page_size):
        number, size_after, *rest = _FRAME_HEADER.unpack_from(data, at)
        page = data[at + _FRAME_HEADER.size : at + _FRAME_HEADER.size + page_size]
        if tuple(rest[:2]) != salt:
            return
        sums = _checksum(page, _checksum(data[at : at + 8], sums, order), order)
        if sums != tuple(rest[2:]):
            return
        if number == 1:
            uncommitted.append(page)
        if size_after:
            yield from uncommitted
            uncommitted.clear()


def _checksum(data: bytes, sums: tuple[int, int], order: str) -> tuple[int, int]:
    """Carry SQLite's checksum of a -wal on over some more of it."""
    first, second = sums
    words = struct.unpack(f"{order}{len(data) // 4}I", data)
    for even, odd in zip(words[::2], words[1::2], strict=True):
        first = (first + even + second) & 0xFFFFFFFF
        second = (second + odd + first) & 0xFFFFFFFF
    return first, second


def guard_against_checkpoint(file: DatabaseFile, connection: sqlite3.Connection) -> sqlite3.Connection | None:
    """Return a connection to keep until another one is closed, where that one would spoil what was put in its place.

    The last one that is closed brings the -wal into the file, whatever that is now; one that only reads does not.
    """
    try:
        if not file.is_overwritten(lambda: generation(connection)):
            return None
        guard = sqlite3.connect(f"{file.path.absolute().as_uri()}?mode=ro", uri=True)
        generation(guard)
    except (sqlite3.Error, OSError):
        return None
    return guard


def change_generation(connection: sqlite3.Connection) -> None:
    """Set a generation of its own in a database file, so that a -wal of before is foreign to it.

    A reader may keep SQLite from it for this time: then the file has the old one, and the -wal names both.
    """
    synchronous = connection.execute("PRAGMA synchronous").fetchone()[0]
    timeout = connection.execute("PRAGMA busy_timeout").fetchone()[0]
    # The checkpoint waits for the disk, for both of these together.
    connection.execute("PRAGMA synchronous = NORMAL")
    try:
        # The old one first: the file has it until the checkpoint, and a run that dies before leaves both to be found.
        for number in (None, new_generation()):
            connection.execute("BEGIN IMMEDIATE")
            connection.execute(f"PRAGMA application_id = {generation(connection) if number is None else number}")
            connection.execute("COMMIT")
        connection.execute("PRAGMA busy_timeout = 100")
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
    finally:
        with suppress(sqlite3.Error):
            if connection.in_transaction:
                connection.execute("ROLLBACK")
            connection.execute(f"PRAGMA busy_timeout = {timeout}")
            connection.execute(f"PRAGMA synchronous = {synchronous}")


def generation(connection: sqlite3.Connection) -> int:
    """Return the generation that SQLite sees."""
    return int(connection.execute("PRAGMA application_id").fetchone()[0])


def take_along(connection: sqlite3.Connection) -> None:
    """Have the first page written with the transaction that is open, as it is."""
    connection.execute(f"PRAGMA application_id = {generation(connection)}")
