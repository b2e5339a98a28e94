"""JSON as clients send it, and no more of it than can be kept and sent back."""

import json
from typing import Any

from starlette.requests import Request

LARGEST = 4 * 1024 * 1024  # bytes; a batch of 3,500 records has less than one million


class BodyTooLargeError(ValueError):
    """The request's body is longer than any that a client would have a reason to send."""


async def read_body(request: Request) -> bytes:
    """Return the body of a request; raises BodyTooLargeError, by when the rest of it was thrown away."""
    parts: list[bytes] = []
    size = 0
    async for part in request.stream():
        size += len(part)
        # Read to the end all the same: a client that is still sending would see its connection reset, not the answer.
        if size <= LARGEST:
            parts.append(part)
    if size > LARGEST:
        raise BodyTooLargeError(f"the request body is longer than {LARGEST} bytes")
    return b"".join(parts)


def parse_json(raw: bytes) -> Any:
    """Return the value; raise ValueError for what is no JSON, or what `json` reads and no answer could repeat.

    That is NaN, numbers without bounds, halves of surrogate pairs, and nesting beyond all use: once in the state, they
    would make every list that shows them fail.
    """
    try:
        value = json.loads(raw)
        json.dumps(value, ensure_ascii=False, allow_nan=False).encode()
    except RecursionError:
        raise ValueError("the JSON is nested too deeply") from None
    return value


async def read_json(request: Request) -> Any:
    """Return the value in a request's body; raises ValueError."""
    return parse_json(await read_body(request))


async def read_object(request: Request) -> dict[str, Any]:
    """Return the JSON object in a request's body; raises ValueError."""
    value = await read_json(request)
    if not isinstance(value, dict):
        raise ValueError("the request body is not a JSON object")  # noqa: TRY004  # one kind of error for one kind of fault
    return value
