"""What may be wrong with an API's answer itself: it has no end, or no shape that we know.

The SDKs read whatever comes, for as long as something comes, and their models hold what was in it, unlooked-at.
"""

import functools
from collections.abc import Callable, Iterable, Iterator
from typing import Any, TypeVar

from clawdet_cli.adapters.retry import NotYet
from clawdet_cli.errors import ClawdetError, CloudError
from clawdet_cli.model import Deadline
from clawdet_cli.secret import excerpt

C = TypeVar("C")

MOST_ANSWER = 16 * 1024 * 1024
"""Bytes; the longest lists that clawdet asks for have a few hundred thousand."""


MOST_WORDS, MOST_LINES = 500, 20
"""Characters of a line of a refusal, and lines of it, that are told on."""


class TooMuchError(Exception):
    """An answer is longer than any can be that makes sense."""

    def __init__(self) -> None:
        super().__init__(f"an answer of more than {MOST_ANSWER // 1024 // 1024} MiB")


def bounded(chunks: Iterable[bytes], deadline: Deadline) -> Iterator[bytes]:
    """Pass chunks on. Raises TimeoutError at the deadline, TooMuchError beyond MOST_ANSWER."""
    length = 0
    for chunk in chunks:
        length += len(chunk)
        if length > MOST_ANSWER:
            raise TooMuchError
        if deadline.left() <= 0:
            raise TimeoutError
        yield chunk


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
