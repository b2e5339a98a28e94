"""Stops a process (SIGSTOP) at an exact moment within an effect, until somebody wakes it."""

import contextlib
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import httpx
import requests

from clawdet_cli import stopping
from clawdet_cli.adapters import ssh
from clawdet_cli.adapters.ssh import Ssh
from clawdet_cli.state import State

T = TypeVar("T")

MOMENTS = {
    "unsent": "the intent is durable, and nothing was sent yet",
    "late": "the request is under way, and is carried out only after the process wakes",
    "sent": "the request was carried out, and its answer is not read yet",
    "pause": "the request was lost without an effect, and the process waits before it sends again",
}


class Stops:
    """Stops the process once, at its moment in the effect that it is told of."""

    def __init__(self, moment: str, marker: Path) -> None:
        if moment not in MOMENTS:
            raise ValueError(f"no moment to stop at: {moment}")
        self._moment = moment
        self._marker = marker
        self._thread: int | None = None
        """The one that is within the effect."""
        self._lost = False
        """The request was lost: the next pause, or the next connection, is the moment."""
        self._speaking = False
        """A command is on its way to the VPS."""
        self._over = False
        self._databases: list[State] = []
        self._patch()

    @contextmanager
    def within(self) -> Iterator[None]:
        """Stop in here; what is sent elsewhere is left alone."""
        self._thread = threading.get_ident()
        if self._moment == "unsent":
            self._stop()
        try:
            yield
        finally:
            self._thread = None

    def _stop(self) -> None:
        self._over = True
        self._marker.write_text(self._moment)
        # Not in the middle of a heartbeat, whose lock nobody could take over. It is the database's own lock, as a
        # second one would be taken before it here and after it there.
        with contextlib.ExitStack() as stack:
            for database in self._databases:
                stack.enter_context(database._lock)
            # To this thread: sent to the process, another one takes it, and this one goes on until that has a CPU.
            signal.pthread_kill(threading.get_ident(), signal.SIGSTOP)

    def _send(self, send: Callable[[], T], lost: Exception) -> T:
        """Make the send that a change is, and stop before or after it, or lose it."""
        if self._over or self._thread is None or self._lost:
            return send()
        match self._moment:
            case "late":
                self._stop()
            case "pause":
                self._lost = True
                raise lost
        answer = send()
        if self._moment == "sent":
            self._stop()
        return answer

    def _if_lost(self) -> None:
        if self._lost and not self._over:
            self._stop()

    def _patch(self) -> None:
        http, transport = requests.adapters.HTTPAdapter.send, httpx.HTTPTransport.handle_request
        run, connect, pause = Ssh.run, Ssh.connect.__func__, stopping.pause  # type: ignore[attr-defined]  # of a class
        converse, opened = ssh._Streams.converse, State.__init__

        def state_opened(own: State, *args: Any, **kwargs: Any) -> None:
            opened(own, *args, **kwargs)
            self._databases.append(own)

        def http_send(adapter: Any, request: requests.PreparedRequest, *args: Any, **kwargs: Any) -> requests.Response:
            if request.method == "GET":
                return http(adapter, request, *args, **kwargs)
            lost = requests.exceptions.ConnectionError("reset by the test")
            return self._send(lambda: http(adapter, request, *args, **kwargs), lost)

        def httpx_send(own: httpx.HTTPTransport, request: httpx.Request) -> httpx.Response:
            if request.method == "GET":
                return transport(own, request)
            return self._send(lambda: transport(own, request), httpx.ReadError("reset by the test"))

        def ssh_run(own: Ssh, command: str, **options: Any) -> Any:
            # What is asked in another thread meanwhile changes nothing.
            self._speaking = self._thread == threading.get_ident()
            try:
                return run(own, command, **options)
            finally:
                self._speaking = False

        def streams_converse(streams: Any, *args: Any) -> Any:
            if not self._speaking:
                return converse(streams, *args)
            return self._send(lambda: converse(streams, *args), EOFError("reset by the test"))

        def ssh_connect(kind: type[Ssh], *args: Any, **kwargs: Any) -> Ssh:
            self._if_lost()
            found: Ssh = connect(kind, *args, **kwargs)
            return found

        def paused(seconds: float) -> None:
            self._if_lost()
            pause(seconds)

        requests.adapters.HTTPAdapter.send = http_send  # type: ignore[method-assign, assignment]  # the point of this module
        httpx.HTTPTransport.handle_request = httpx_send  # type: ignore[method-assign, assignment]  # the same
        Ssh.run = ssh_run  # type: ignore[method-assign, assignment]  # the same
        ssh._Streams.converse = streams_converse  # type: ignore[method-assign, assignment]  # the same
        Ssh.connect = classmethod(ssh_connect)  # type: ignore[method-assign, assignment]  # the same
        stopping.pause = paused
        State.__init__ = state_opened  # type: ignore[method-assign, assignment]  # the same
