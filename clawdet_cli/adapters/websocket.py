"""Speaks as a WebSocket client over a connection that is open already, from one thread and within a deadline."""

import contextlib
import socket
from collections import deque

from websockets.client import ClientProtocol
from websockets.frames import Frame, Opcode
from websockets.protocol import State
from websockets.typing import Origin
from websockets.uri import parse_uri

from clawdet_cli import USER_AGENT
from clawdet_cli.model import Deadline

_CHUNK = 65536
_DATA = {Opcode.TEXT, Opcode.BINARY, Opcode.CONT}


class WebSocket:
    """One WebSocket, all of which ends at a deadline; a message may have `max_size` bytes.

    The library's own client reads in a second thread. Python 3.11 lets two threads into one TLS connection at the same
    time, and where the server's session ticket came while the request was being sent, both then waited for the other
    side: one visit in some hundreds. So its protocol is used alone, without a thread.
    """

    def __init__(
        self, stream: socket.socket, host: str, path: str, origin: str | None, *, end: Deadline, max_size: int
    ) -> None:
        self._stream = stream
        self._end = end
        claimed = None if origin is None else Origin(origin)
        self._protocol = ClientProtocol(parse_uri(f"wss://{host}{path}"), origin=claimed, max_size=max_size)
        self._frames: deque[Frame] = deque()

    def open(self) -> None:
        """Shake hands. Raises InvalidHandshake (InvalidStatus for another HTTP answer), OSError, TimeoutError."""
        request = self._protocol.connect()
        request.headers["User-Agent"] = USER_AGENT
        self._protocol.send_request(request)
        while self._protocol.state is State.CONNECTING:
            self._exchange()
            if self._protocol.handshake_exc is not None:
                raise self._protocol.handshake_exc

    def send(self, text: str) -> None:
        """Send a message with the next `receive`, unless the other side has closed."""
        if self._protocol.state is State.OPEN:
            self._protocol.send_text(text.encode())

    def receive(self) -> bytes | None:
        """Wait for a message; None when the other side has closed. Raises OSError, TimeoutError."""
        message = b""
        while True:
            while self._frames:
                frame = self._frames.popleft()
                message += frame.data
                if frame.fin:
                    return message
            if self._protocol.state is not State.OPEN:
                return None
            self._exchange()

    def close(self) -> None:
        """Take leave, without waiting for the answer."""
        if self._protocol.state is State.OPEN:
            self._protocol.send_close()
            with contextlib.suppress(OSError):
                self._send()

    def closed_with(self) -> tuple[int | None, str]:
        """Give the code and the reason with which the other side closed; no code when it sent none."""
        close = self._protocol.close_rcvd
        return (close.code, close.reason) if close else (None, "")

    def _exchange(self) -> None:
        """Send what waits, then take in what comes next."""
        self._send()
        self._limit()
        data = self._stream.recv(_CHUNK)
        if data:
            self._protocol.receive_data(data)
        else:
            self._protocol.receive_eof()
        events = self._protocol.events_received()
        self._frames.extend(event for event in events if isinstance(event, Frame) and event.opcode in _DATA)
        try:
            self._send()  # the echo of a ping, or of a close
        except OSError:
            if self._protocol.state is State.OPEN:
                raise

    def _send(self) -> None:
        for chunk in self._protocol.data_to_send():
            self._limit()
            self._stream.sendall(chunk)

    def _limit(self) -> None:
        left = self._end.left()
        if left <= 0:  # a time-out of zero would mean: do not wait at all, and raise another error
            raise TimeoutError("no answer in time")
        self._stream.settimeout(left)
