"""Secrets, and the one filter that every text passes before it is shown, logged or kept. Imports nothing of ours."""

import base64
import json
import os
import threading
from collections.abc import Iterable, Iterator
from urllib.parse import quote, quote_plus

SHORTEST = 8
"""Characters; what is shorter would be found in words that are no secret, and no token or key is."""

FEW = 20
"""So many are each looked for in a text; from there on what the text consists of is looked up among them."""
PIECE = 4
"""Characters that are looked up together: no more than half of SHORTEST, as every secret must hold a whole one."""
LONGEST_ADDRESS = 8192
"""Characters; servers take no longer one, so that what is longer is written in none."""

_learning = threading.Lock()
_known: dict[str, tuple[str, ...]] = {}
"""By their first SHORTEST characters."""
_pieces: set[str] = set()
"""What stands at the first PIECE places of any of them."""


class Secret:
    """A value that must not be seen: its text is masked wherever it is printed, and wherever `hide` is asked."""

    __slots__ = ("_value",)

    def __init__(self, value: str, parts: Iterable[str] | None = None) -> None:
        """Hold a value. Masked are these parts of it, if there are any given; otherwise all of it."""
        self._value = value
        for part in [value] if parts is None else parts:
            if len(part) >= SHORTEST:
                _learn(_written(part))

    def reveal(self) -> str:
        """Give the value, for the one call that needs it."""
        return self._value

    def __repr__(self) -> str:
        return "Secret('***')"

    __str__ = __repr__


def _written(value: str) -> Iterator[str]:
    """Give all the ways in which a value may be written: also in JSON, in an address, and within base64."""
    # Of a private key each line, since every quotation breaks its lines in another way.
    lines = [line for line in value.split("\n")[:-1] if len(line) >= SHORTEST and not line.startswith("-----")]
    for line in [value, *lines]:
        yield from (line, json.dumps(line)[1:-1])
        if len(line) <= LONGEST_ADDRESS:
            yield from (quote(line, safe=""), quote(line), quote_plus(line))
    for before in range(3):
        # Six bits to a character: what stands before it and behind it changes the first ones and the last.
        content = bytes(before) + value.encode()
        inner = slice(-(-before * 8 // 6), len(content) * 8 // 6)
        for encoded in (base64.b64encode(content), base64.urlsafe_b64encode(content)):
            yield encoded.decode()[inner]


def hide(text: str) -> str:
    """Mask every secret that this process has come to know."""
    heads = {head for head in list(_known) if head in text} if len(_known) < FEW else set(_heads_in(text))
    if not heads:
        return text
    # The longest first: a secret that begins like another would otherwise leave its tail readable.
    for value in sorted((value for head in heads for value in _known[head]), key=len, reverse=True):
        text = text.replace(value, "***")
    return text


def _heads_in(text: str) -> Iterator[str]:
    """Give the beginnings of secrets in a text: wherever one stands, one of the pieces that are looked up is in it."""
    for at in range(0, len(text), PIECE):
        if text[at : at + PIECE] in _pieces:
            for begin in range(max(0, at - PIECE + 1), at + 1):
                if (head := text[begin : begin + SHORTEST]) in _known:
                    yield head


def excerpt(text: str, most: int) -> str:
    """Give the beginning of a text from elsewhere, masked before it is cut: half a secret is still half of one."""
    return hide(text)[:most]


def _learn(values: Iterable[str]) -> None:
    with _learning:
        for value in values:
            alike = _known.get(value[:SHORTEST], ())
            if value not in alike:
                # First, as a text may be looked through meanwhile.
                _pieces.update(value[at : at + PIECE] for at in range(PIECE))
                _known[value[:SHORTEST]] = (*alike, value)


def public_environment() -> dict[str, str]:
    """Give this process's environment for another program, without what may be a secret."""
    return {name: value for name, value in os.environ.items() if not name.endswith(("_TOKEN", "_KEY", "_SECRET"))}
