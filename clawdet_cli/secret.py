"""Secrets, and the one filter that every text passes before it is shown, logged or kept. Imports nothing of ours."""

import json
import os
from urllib.parse import quote

SHORTEST = 8
"""Characters; what is shorter would be found in words that are no secret, and no token or key is."""

_known: set[str] = set()


class Secret:
    """A value that must not be seen: its text is masked wherever it is printed, and wherever `hide` is asked."""

    __slots__ = ("_value",)

    def __init__(self, value: str) -> None:
        self._value = value
        if len(value) >= SHORTEST:
            # Also as it stands in JSON and in an address.
            _known.update((value, json.dumps(value)[1:-1], quote(value, safe="")))

    def reveal(self) -> str:
        """Give the value, for the one call that needs it."""
        return self._value

    def __repr__(self) -> str:
        return "Secret('***')"

    __str__ = __repr__


def hide(text: str) -> str:
    """Mask every secret that this process has come to know."""
    # The longest first: a secret that begins like another would otherwise leave its tail readable.
    for value in sorted(_known, key=len, reverse=True):
        text = text.replace(value, "***")
    return text


def excerpt(text: str, most: int) -> str:
    """Give the beginning of a text from elsewhere, masked before it is cut: half a secret is still half of one."""
    return hide(text)[:most]


def public_environment() -> dict[str, str]:
    """Give this process's environment for another program, without what may be a secret."""
    return {name: value for name, value in os.environ.items() if not name.endswith(("_TOKEN", "_KEY", "_SECRET"))}
