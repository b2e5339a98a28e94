"""Serves one ASGI application on a socket, in a process that has other things to do."""

import asyncio
import contextlib
import socket
from collections.abc import Iterator
from typing import Any

import uvicorn
from starlette.types import ASGIApp, Scope
from uvicorn.protocols.http.h11_impl import H11Protocol

_TRANSPORT = "transport"


class _ReachableTransport(H11Protocol):
    """HTTP/1.1 that shows its TCP connection to the application, so that a fault can cut it."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # narrowed by uvicorn too
        super().connection_made(transport)
        connection = transport.get_extra_info("socket")
        if connection.family in (socket.AF_INET, socket.AF_INET6):
            # asyncio does so only if the socket was made with the protocol's number; without it, every answer waits
            # 40 ms for the client's delayed acknowledgement.
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        # uvicorn copies app_state into every request's scope["state"].
        self.app_state: dict[str, Any] = {**self.app_state, _TRANSPORT: transport}


class _Server(uvicorn.Server):
    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Leave the signals to the process: uvicorn would end all of it."""
        yield


def abort_connection(scope: Scope) -> None:
    """Close the request's TCP connection at once, without an HTTP answer."""
    scope["state"][_TRANSPORT].abort()


async def serve(app: ASGIApp, sock: socket.socket) -> None:
    """Serve `app` on a bound and listening socket until cancelled; the lifespan is run, signals are left alone.

    Raises RuntimeError when the application's lifespan start fails.
    """
    config = uvicorn.Config(
        app,
        http=_ReachableTransport,
        ws="none",
        lifespan="on",
        access_log=False,
        log_config=None,
        log_level="critical",
        server_header=False,
        # A request that hangs on purpose must not hold up the end.
        timeout_graceful_shutdown=1,
    )
    server = _Server(config)
    running = asyncio.create_task(_until_exit(server, sock))
    try:
        await asyncio.shield(running)
    except asyncio.CancelledError:
        server.should_exit = True
        await running
        raise


async def _until_exit(server: _Server, sock: socket.socket) -> None:
    try:
        await server.serve(sockets=[sock])
    except SystemExit as exc:
        # uvicorn leaves the process when the lifespan fails; here that would take the whole sandbox along.
        raise RuntimeError("the application did not start") from exc
