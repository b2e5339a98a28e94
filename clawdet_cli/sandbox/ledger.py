"""The sandbox's memory: one dict of plain values in one file."""

import asyncio
import copy
import json
from typing import Any

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from clawdet_cli.sandbox.info import Files, write_private

_DEBOUNCE_SECONDS = 0.05
_DEPTH = 5
"""Of dicts in each other, down to the single resource: hetzner, projects, NAME, server, ID."""


class _Written:
    """A part of the state as it was last written: what did not change since is not made into JSON again.

    With a thousand servers all of it is 30 MB, and is written before each answer to whatever changes one of them.
    What Python calls equal counts as unchanged: no field may go from 1 to true.
    """

    __slots__ = ("_inner", "_text", "_value")

    def __init__(self) -> None:
        self._value: Any = None
        self._text = ""
        self._inner: dict[str, tuple[str, _Written]] = {}

    def text(self, value: Any) -> str:
        """Return the JSON of what it is now."""
        pieces: list[str] = []
        self.add(value, _DEPTH, pieces)
        return "".join(pieces)

    def add(self, value: Any, depth: int, pieces: list[str]) -> None:
        """Append the JSON of what it is now; dicts in each other are looked through to `depth`."""
        if depth and isinstance(value, dict):
            known, self._inner = self._inner, {}
            before = "{"
            for key, inner in value.items():
                found = self._inner[key] = known.get(key) or (f"{json.dumps(key)}: ", _Written())
                pieces += (before, found[0])
                found[1].add(inner, depth - 1, pieces)
                before = ", "
            pieces.append("}" if value else "{}")
        else:
            if not self._text or self._value != value:
                self._value, self._text = copy.deepcopy(value), json.dumps(value)
            pieces.append(self._text)


class Ledger:
    """The state of everything emulated, saved soon after a change, and before any answer that tells of it."""

    def __init__(self, files: Files) -> None:
        self._path = files.ledger
        self._pending: asyncio.TimerHandle | None = None
        self._written = _Written()
        self.state: dict[str, Any] = files.read_ledger()

    def part(self, name: str) -> dict[str, Any]:
        """Return the part of the state that belongs to one component."""
        part: dict[str, Any] = self.state.setdefault(name, {})
        return part

    def changed(self) -> None:
        """Note that the state has changed."""
        if self._pending is None:
            self._pending = asyncio.get_running_loop().call_later(_DEBOUNCE_SECONDS, self.save)

    def save(self) -> None:
        """Write the state now."""
        if self._pending is not None:
            self._pending.cancel()
            self._pending = None
        write_private(self._path, self._written.text(self.state))

    def before_answers(self, app: ASGIApp) -> ASGIApp:
        """Wrap an application so that no answer leaves before what it tells is saved."""

        async def saving(scope: Scope, receive: Receive, send: Send) -> None:
            async def save_and_send(message: Message) -> None:
                if message["type"] == "http.response.start" and self._pending is not None:
                    self.save()
                await send(message)

            await app(scope, receive, save_and_send)

        return saving
