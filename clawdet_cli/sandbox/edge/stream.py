"""One side of a proxied exchange: HTTP/1.1 over asyncio streams, and bytes in both directions after 101."""

import abc
import asyncio
import contextlib

import h11

CHUNK = 64 * 1024
LARGEST_HEAD = 128 * 1024  # bytes of request or status line and headers together
CLOSING = 2.0  # seconds for a peer to take leave


class Stream(abc.ABC):
    """An exchange in h11's events, whatever carries it, and the streams it travels on."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    @abc.abstractmethod
    async def next_event(self, seconds: float) -> h11.Event | type[h11.PAUSED]:
        """Return the next event; raises TimeoutError, OSError or h11.RemoteProtocolError."""

    @abc.abstractmethod
    async def send(self, event: h11.Event) -> None:
        """Send an event, at the pace at which the peer reads."""

    def abort(self) -> None:
        """Cut the connection."""
        self.writer.transport.abort()


class HttpStream(Stream):
    """An h11 connection."""

    def __init__(
        self, role: type[h11.CLIENT | h11.SERVER], reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        super().__init__(reader, writer)
        self.http = h11.Connection(role, max_incomplete_event_size=LARGEST_HEAD)

    async def next_event(self, seconds: float) -> h11.Event | type[h11.PAUSED]:
        """Return the next event; raises TimeoutError, OSError or h11.RemoteProtocolError."""
        while True:
            event = self.http.next_event()
            if event is not h11.NEED_DATA:
                return event  # type: ignore[return-value]  # NEED_DATA was just excluded, which mypy cannot see
            if self.http.they_are_waiting_for_100_continue:
                await self.send(h11.InformationalResponse(status_code=100, headers=[]))
            async with asyncio.timeout(seconds):
                data = await self.reader.read(CHUNK)
            self.http.receive_data(data)

    async def send(self, event: h11.Event) -> None:
        """Send an event, at the pace at which the peer reads."""
        data = self.http.send(event)
        if data:
            self.writer.write(data)
            await self.writer.drain()

    async def close(self) -> None:
        """Send what is left, take leave, and cut off a peer that does not."""
        self.writer.close()
        try:
            async with asyncio.timeout(CLOSING):
                await self.writer.wait_closed()
        except OSError:  # TimeoutError is one, too
            self.abort()


async def tunnel(one: HttpStream, other: HttpStream, idle: float) -> None:
    """Pass bytes on in both directions until a side ends, or for `idle` seconds nothing came from either."""
    loop = asyncio.get_running_loop()
    last = loop.time()

    async def pump(source: HttpStream, target: HttpStream) -> None:
        nonlocal last
        data = source.http.trailing_data[0] or await source.reader.read(CHUNK)
        while data:
            last = loop.time()
            target.writer.write(data)
            await target.writer.drain()
            data = await source.reader.read(CHUNK)

    pumps = [asyncio.create_task(pump(one, other)), asyncio.create_task(pump(other, one))]
    try:
        while (left := last + idle - loop.time()) > 0:
            done, _ = await asyncio.wait(pumps, timeout=left, return_when=asyncio.FIRST_COMPLETED)
            if done:
                return
    finally:
        for task in pumps:
            task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.gather(*pumps, return_exceptions=True)
