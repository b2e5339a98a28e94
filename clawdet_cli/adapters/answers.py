"""What may be wrong with an API's answer itself: it has no end, or no shape that we know.

The SDKs read whatever comes, for as long as something comes, and their models hold what was in it, unlooked-at.
"""

import functools
import zlib
from collections.abc import Callable, Iterable, Iterator
from typing import Any, TypeVar

from clawdet_cli.adapters.retry import NotYet
from clawdet_cli.adapters.threads import begin
from clawdet_cli.errors import ClawdetError, CloudError
from clawdet_cli.model import Deadline
from clawdet_cli.secret import excerpt

C = TypeVar("C")
T = TypeVar("T")

MOST_ANSWER = 16 * 1024 * 1024
"""Bytes of all pages together; the longest lists that clawdet asks for have a few hundred thousand."""
PIECE = 64 * 1024
"""Bytes of an unpacked answer that are taken at a time."""
GRACE_SECONDS = 0.5
"""What a call may take past its deadline: the time-outs of its own parts say more than that it took too long."""


MOST_WORDS, MOST_LINES = 500, 20
"""Characters of a line of a refusal, and lines of it, that are told on."""


class TooMuchError(Exception):
    """An answer is longer than any can be that makes sense."""

    def __init__(self) -> None:
        super().__init__(f"an answer of more than {MOST_ANSWER // 1024 // 1024} MiB")


class Amount:
    """How much of an answer has come, however many pages it has."""

    def __init__(self) -> None:
        self._bytes = 0

    def add(self, number: int) -> None:
        """Count bytes. Raises TooMuchError beyond MOST_ANSWER."""
        self._bytes += number
        if self._bytes > MOST_ANSWER:
            raise TooMuchError


def bounded(chunks: Iterable[bytes], deadline: Deadline, amount: Amount) -> Iterator[bytes]:
    """Pass chunks on. Raises TimeoutError at the deadline, TooMuchError for more than there can be."""
    for chunk in chunks:
        amount.add(len(chunk))
        if deadline.left() <= 0:
            raise TimeoutError
        yield chunk


def unpacked(chunks: Iterable[bytes], encoding: str) -> Iterator[bytes]:
    """Undo an answer's `Content-Encoding` in pieces of PIECE bytes at most, however much a small chunk unfolds to.

    Raises ValueError for what was not asked for, or is no gzip.
    """
    if encoding in {"", "identity"}:
        yield from chunks
        return
    if encoding != "gzip":
        raise ValueError(f"an answer packed as {excerpt(encoding, 40)!r}")
    unpacker = zlib.decompressobj(wbits=31)
    begun = False
    try:
        for chunk in chunks:
            left, begun = chunk, begun or bool(chunk)
            while left and not unpacker.eof:
                yield unpacker.decompress(left, PIECE)
                left = unpacker.unconsumed_tail
            if left or unpacker.unused_data:
                raise ValueError("an answer that goes on behind its end")
        while not unpacker.eof and (piece := unpacker.decompress(unpacker.unconsumed_tail, PIECE)):
            yield piece
    except zlib.error as error:
        raise ValueError(f"an answer that is no gzip: {error}") from None
    if begun and not unpacker.eof:
        raise ValueError("an answer that is cut short")


def in_time(call: Callable[[], T], deadline: Deadline) -> T:
    """Make a call, all of its pages within the deadline. Raises TimeoutError.

    The SDKs bound each read alone: a head that drips, or a list without a last page, would never end. What is cut off
    goes on by itself in a thread that nobody waits for, and counts as a call whose answer was lost.
    """
    return begin(call).result(max(1.0, deadline.left()) + GRACE_SECONDS)


def unknown_shape(cloud: str, what: str, error: Exception) -> CloudError:
    """Give the error for an answer that cannot be understood; `what` was asked, as a phrase after "to"."""
    strange = CloudError(
        f"Asked {cloud} to {what}, and its answer has a shape that this version of clawdet does not know.",
        details=[f"{type(error).__name__}: {excerpt(str(error), 300)}"],
        next_steps=["update clawdet, or report this"],
    )
    # It is an answer, and no refusal: a change that was asked for has most likely been made.
    strange.unsettled = True
    return strange


def understood(cloud: str) -> Callable[[type[C]], type[C]]:
    """Make whatever a strange answer does to a method of a class, or to the SDK in it, an error of ours."""

    def decorated(client: type[C]) -> type[C]:
        for name, method in list(vars(client).items()):
            if not name.startswith("_") and callable(method):
                setattr(client, name, _guarded(method, cloud, name.replace("_", " ")))
        return client

    return decorated


def _guarded(method: Callable[..., Any], cloud: str, what: str) -> Callable[..., Any]:
    @functools.wraps(method)
    def call(*arguments: Any, **options: Any) -> Any:
        try:
            return method(*arguments, **options)
        except (ClawdetError, NotYet):
            raise
        except Exception as error:  # there is no list of what may be missing where
            raise unknown_shape(cloud, what, error) from error

    return call
