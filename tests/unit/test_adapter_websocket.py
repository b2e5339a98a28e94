"""A WebSocket whose other side leaves without listening."""

import socket
import threading

import pytest
from websockets.http11 import Request
from websockets.server import ServerProtocol

from clawdet_cli.adapters.websocket import WebSocket
from clawdet_cli.model import Deadline


def dismiss(server: socket.socket, reason: str) -> None:
    """Accept a WebSocket and close it at once, deaf to whatever comes back."""
    protocol = ServerProtocol()
    protocol.receive_data(server.recv(65536))
    (request,) = protocol.events_received()
    assert isinstance(request, Request)
    server.shutdown(socket.SHUT_RD)
    protocol.send_response(protocol.accept(request))
    protocol.send_close(1008, reason)
    server.sendall(b"".join(protocol.data_to_send()))


def connection(stream: socket.socket, seconds: float = 30) -> WebSocket:
    return WebSocket(
        stream, "alice.example.com", "/app", "https://a.example", end=Deadline.after(seconds), max_size=100
    )


def test_the_reason_is_kept_where_nobody_listens_to_its_echo() -> None:
    client, server = socket.socketpair()
    with client, server:
        dismissing = threading.Thread(target=dismiss, args=(server, "origin not allowed"))
        dismissing.start()
        websocket = connection(client)
        websocket.open()
        assert websocket.receive() is None
        websocket.send("too late")
        assert websocket.receive() is None
        websocket.close()
        dismissing.join(30)
    assert websocket.closed_with() == (1008, "origin not allowed")


def test_nothing_is_waited_for_when_the_time_is_up() -> None:
    client, server = socket.socketpair()
    with client, server, pytest.raises(TimeoutError, match="no answer in time"):
        connection(client, 0).open()
