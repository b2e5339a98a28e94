"""Applications served from a thread, so that synchronous clients can talk to them."""

import asyncio
import socket
import threading
from concurrent.futures import Future
from dataclasses import dataclass

from starlette.types import ASGIApp

from clawdet_cli.sandbox.serve import serve

_DEADLINE = 10.0


@dataclass(frozen=True)
class Served:
    """An application that answers at `url`."""

    url: str
    running: "Future[None]"
    ended: threading.Event

    def stop(self) -> None:
        """End it, and wait until its lifespan has ended."""
        self.running.cancel()
        assert self.ended.wait(_DEADLINE), f"{self.url} did not end"


class LoopThread:
    """An event loop in a thread of its own, and what it serves."""

    def __init__(self) -> None:
        self.loop = asyncio.new_event_loop()
        self.served: list[Served] = []
        self._thread = threading.Thread(target=self.loop.run_forever, name="served applications")
        self._thread.start()

    def serve(self, app: ASGIApp) -> Served:
        sock = socket.create_server(("127.0.0.1", 0))
        ended = threading.Event()

        async def run() -> None:
            try:
                await serve(app, sock)
            finally:
                ended.set()

        url = f"http://127.0.0.1:{sock.getsockname()[1]}"
        served = Served(url, asyncio.run_coroutine_threadsafe(run(), self.loop), ended)
        self.served.append(served)
        return served

    def close(self) -> None:
        for served in self.served:
            served.stop()
        self.loop.call_soon_threadsafe(self.loop.stop)
        self._thread.join(_DEADLINE)
        self.loop.close()
