"""The sandbox's memory: one dict of plain values in one file."""

import asyncio
import copy
import json
import time
from typing import Any

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from clawdet_cli.sandbox.info import Files, write_private

_DEBOUNCE_SECONDS = 0.05
_REST = 2.0
"""How many times as long as a save took it is not done again: with a thousand servers each takes 30 ms, in which
nothing else is emulated."""
_DEPTH = 5
"""Of dicts in each other, at most, down to the single resource: hetzner, projects, NAME, server, ID."""


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
        """Append the JSON of what it is now; dicts in each other are looked through to `depth`, and no field alone."""
        if depth and isinstance(value, dict) and any(isinstance(inner, dict) for inner in value.values()):
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
        self._awaited: asyncio.Future[None] | None = None
        """The next save, where answers wait for it."""
        self._not_before = 0.0
        """When that may begin, by the monotonic clock, which is the loop's too."""
        self._written = _Written()
        self.state: dict[str, Any] = files.read_ledger()

    def part(self, name: str) -> dict[str, Any]:
        """Return the part of the state that belongs to one component."""
        part: dict[str, Any] = self.state.setdefault(name, {})
        return part

    def changed(self) -> None:
        """Note that the state has changed."""
        if self._pending is None:
            due = max(time.monotonic() + _DEBOUNCE_SECONDS, self._not_before)
            self._pending = asyncio.get_running_loop().call_at(due, self.save)

    def save(self) -> None:
        """Write the state now."""
        if self._pending is not None:
            self._pending.cancel()
            self._pending = None
        awaited, self._awaited = self._awaited, None
        began = time.monotonic()
        try:
            write_private(self._path, self._written.text(self.state))
        except OSError as error:
            if awaited is None:
                raise
            awaited.set_exception(error)
            return
        self._not_before = time.monotonic() + _REST * (time.monotonic() - began)
        if awaited is not None:
            awaited.set_result(None)

    async def saved(self) -> None:
        """Wait until all changes of before are saved: at once, or with those of others where saving takes long."""
        if self._pending is None:
            return
        if self._awaited is None:
            loop = asyncio.get_running_loop()
            self._awaited = loop.create_future()
            self._pending.cancel()
            self._pending = loop.call_at(self._not_before, self.save)
        await asyncio.shield(self._awaited)

    def before_answers(self, app: ASGIApp) -> ASGIApp:
        """Wrap an application so that no answer leaves before what it tells is saved."""

        async def saving(scope: Scope, receive: Receive, send: Send) -> None:
            async def save_and_send(message: Message) -> None:
                if message["type"] == "http.response.start":
                    await self.saved()
                await send(message)

            await app(scope, receive, save_and_send)

        return saving
