"""A real browser that visits a name of the sandbox, driven by the DevTools protocol."""

import contextlib
import itertools
import json
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from websockets.sync.client import ClientConnection, connect

QUIET = (
    *("--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-quic", "--disable-extensions"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
)
"""Without these, Chromium looks for its maker's servers."""


class Browser:
    """One tab."""

    def __init__(self, socket: ClientConnection) -> None:
        self._socket = socket
        self._numbers = itertools.count(1)
        self._session: dict[str, str] = {}
        target = self._call("Target.createTarget", url="about:blank")["targetId"]
        self._session = {
            "sessionId": self._call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"],
        }

    def open(self, url: str) -> None:
        """Load a page afresh, even where only what follows `#` differs."""
        self._call("Page.navigate", url="about:blank")
        self._call("Page.navigate", url=url)

    def text(self) -> str:
        """Give the visible text."""
        found = self._call("Runtime.evaluate", expression="document.body ? document.body.innerText : ''")
        return str(found["result"].get("value", ""))

    def wait_for(self, wanted: str, *, seconds: float = 60) -> str:
        """Wait until the page shows a text, and give all of it. Raises AssertionError with what it shows."""
        end = time.monotonic() + seconds
        while wanted not in (shown := self.text()):
            assert time.monotonic() < end, f"the page does not show {wanted!r}; it shows: {shown}"
            # A page tells nobody that its text has changed.
            self._call("Runtime.evaluate", expression="new Promise(done => setTimeout(done, 100))", awaitPromise=True)
        return shown

    def _call(self, method: str, **parameters: Any) -> dict[str, Any]:
        number = next(self._numbers)
        self._socket.send(json.dumps({"id": number, "method": method, "params": parameters, **self._session}))
        while True:
            answer = json.loads(self._socket.recv(60))
            if answer.get("id") == number:
                assert "error" not in answer, answer["error"]
                return dict(answer["result"])


@contextlib.contextmanager
def browser(profile: Path, host: str, edge_address: str, key_hash: str) -> Iterator[Browser]:
    """Start Chromium with a profile of its own; the host is found at the sandbox's edge, whose key it trusts."""
    profile.mkdir(exist_ok=True)
    with (profile / "stderr").open("wb") as errors:
        process = subprocess.Popen(
            [
                *("chromium", *QUIET, f"--user-data-dir={profile}", "--remote-debugging-port=0"),
                f"--host-resolver-rules=MAP {host} {edge_address}",
                f"--ignore-certificate-errors-spki-list={key_hash}",
                "about:blank",
            ],
            stdout=subprocess.DEVNULL,
            stderr=errors,
        )
    try:
        port, path = _listening(process, profile / "DevToolsActivePort")
        with connect(f"ws://127.0.0.1:{port}{path}", proxy=None, max_size=None) as socket:
            yield Browser(socket)
    finally:
        process.terminate()
        process.wait(30)


def _listening(process: "subprocess.Popen[bytes]", file: Path) -> list[str]:
    end = time.monotonic() + 60
    while time.monotonic() < end:
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(0.05)
            break
        if file.exists() and len(lines := file.read_text().splitlines()) == 2:
            return lines
    raise AssertionError(f"Chromium does not start: {(file.parent / 'stderr').read_text()[-2000:]}")
