"""The sandbox's memory: one dict of plain values in one file."""

import asyncio
import json
from typing import Any

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from clawdet_cli.sandbox.info import Files, write_private

_DEBOUNCE_SECONDS = 0.05


class Ledger:
    """The state of everything emulated, saved soon after a change, and before any answer that tells of it."""

    def __init__(self, files: Files) -> None:
        self._path = files.ledger
        self._pending: asyncio.TimerHandle | None = None
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
        write_private(self._path, json.dumps(self.state))

    def before_answers(self, app: ASGIApp) -> ASGIApp:
        """Wrap an application so that no answer leaves before what it tells is saved."""

        async def saving(scope: Scope, receive: Receive, send: Send) -> None:
            async def save_and_send(message: Message) -> None:
                if message["type"] == "http.response.start" and self._pending is not None:
                    self.save()
                await send(message)

            await app(scope, receive, save_and_send)

        return saving
