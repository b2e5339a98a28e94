"""An exchange with an origin over HTTP/2, in the events of HTTP/1.1 that the edge works with."""

import asyncio
from collections import deque

import h2.config
import h2.connection
import h2.errors
import h2.events
import h2.exceptions
import h11

from clawdet_cli.sandbox.edge.stream import CHUNK, Stream

PROTOCOL = "h2"
"""What ALPN calls it."""


class Http2Stream(Stream):
    """One request, and its answer, on a connection of its own: the vendor sends many over one."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        super().__init__(reader, writer)
        # What a visitor sent is passed on as it is, in whatever way it may be wrong.
        config = h2.config.H2Configuration(client_side=True, header_encoding=None, validate_outbound_headers=False)
        self._http = h2.connection.H2Connection(config)
        self._http.initiate_connection()
        self._stream_id = self._http.get_next_available_stream_id()
        self._events: deque[h11.Event] = deque()
        self._given_up = False
        self._room = asyncio.Event()
        """Set when the origin may have made room for more of a body."""

    async def next_event(self, seconds: float) -> h11.Event | type[h11.PAUSED]:
        """Return the next event of the answer; raises TimeoutError, OSError or h11.RemoteProtocolError."""
        while not self._events:
            if self._given_up:
                raise ConnectionResetError("the origin gave the request up")
            async with asyncio.timeout(seconds):
                data = await self.reader.read(CHUNK)
            if not data:
                raise ConnectionResetError("the origin closed the connection within its answer")
            self._take(data)
            await self._flush()
        return self._events.popleft()

    async def send(self, event: h11.Event) -> None:
        """Send an event of the request, at the pace at which the origin makes room."""
        try:
            match event:
                case h11.Request():
                    self._http.send_headers(self._stream_id, _fields(event))
                case h11.Data():
                    await self._send_body(bytes(event.data))
                case h11.EndOfMessage():
                    self._http.end_stream(self._stream_id)
        except h2.exceptions.ProtocolError as error:
            # The origin has answered and closed the stream: the rest of the request is not wanted.
            raise ConnectionResetError(str(error)) from error
        await self._flush()

    async def _send_body(self, data: bytes) -> None:
        while data:
            self._room.clear()
            size = min(
                self._http.local_flow_control_window(self._stream_id), self._http.max_outbound_frame_size, len(data)
            )
            if size <= 0:
                await self._room.wait()
                continue
            self._http.send_data(self._stream_id, data[:size])
            data = data[size:]
            await self._flush()

    async def _flush(self) -> None:
        pending = self._http.data_to_send()
        if pending:
            self.writer.write(pending)
            await self.writer.drain()

    def _take(self, data: bytes) -> None:
        try:
            events = self._http.receive_data(data)
        except h2.exceptions.ProtocolError as error:
            raise h11.RemoteProtocolError(f"no HTTP/2: {error}") from error
        for event in events:
            match event:
                case h2.events.ResponseReceived() | h2.events.InformationalResponseReceived():
                    self._events.append(_head(event.headers or []))
                case h2.events.DataReceived():
                    self._events.append(h11.Data(data=bytes(event.data or b"")))
                    self._http.acknowledge_received_data(event.flow_controlled_length or 0, self._stream_id)
                case h2.events.StreamEnded():
                    self._events.append(h11.EndOfMessage())
                case h2.events.StreamReset() | h2.events.ConnectionTerminated() if not self._ended:
                    # After what came before it, also when both came at once.
                    self._given_up = True
                case _:
                    pass
        self._room.set()

    @property
    def _ended(self) -> bool:
        return any(isinstance(event, h11.EndOfMessage) for event in self._events)


def _fields(request: h11.Request) -> list[tuple[bytes, bytes]]:
    """Return a request's headers as HTTP/2 has them: what is its first line and its host elsewhere comes first."""
    host = next((value for name, value in request.headers if name == b"host"), b"")
    first = [(b":method", request.method), (b":scheme", b"https"), (b":authority", host), (b":path", request.target)]
    return first + [(name, value) for name, value in request.headers if name not in {b"host", b"transfer-encoding"}]


def _head(fields: list[tuple[bytes, bytes]]) -> h11.Response | h11.InformationalResponse:
    status = next((int(value) for name, value in fields if name == b":status"), 0)
    headers = [(name, value) for name, value in fields if not name.startswith(b":")]
    try:
        if status < 200:
            return h11.InformationalResponse(status_code=status, headers=headers)
        return h11.Response(status_code=status, headers=headers)
    except h11.LocalProtocolError as error:
        raise h11.RemoteProtocolError(str(error)) from error
