"""How long a visitor listens to a gateway that never stops talking."""

import socket
from typing import cast

from websockets.sync.client import ClientConnection

from clawdet_cli.adapters.edge import CONNECT_REQUEST, Visitor


class Talker:
    """A WebSocket on which there is always one more frame."""

    def __init__(self) -> None:
        self.sent: list[str] = []

    def recv(self, _timeout: float | None = None) -> str:
        return '{"type": "event", "event": "tick"}'

    def send(self, text: str) -> None:
        self.sent.append(text)


def nowhere() -> socket.socket:
    raise OSError("not needed")


def test_frames_without_end_are_not_read_without_end() -> None:
    visitor = Visitor("alice.example.com", nowhere, None, timeout=1)
    answer = visitor._converse(cast(ClientConnection, Talker()), "/app", CONNECT_REQUEST)
    assert (answer.status, answer.refusal, answer.close_code) == (101, None, None)
