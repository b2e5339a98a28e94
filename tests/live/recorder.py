"""The raw answers, scrubbed, as files: what a vendor really said becomes a fixture."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tests.live.scrub import Scrubber

LONGEST_BODY = 20_000
"""Characters of a body that is not JSON."""


class Recorder:
    """Writes one file for each kind of exchange: subject, what was asked, and the status that it got."""

    def __init__(self, folder: Path, scrubber: Scrubber) -> None:
        self._folder = folder
        self.scrubber = scrubber
        self.subject = ""

    def exchange(
        self,
        label: str,
        *,
        method: str,
        path: str,
        sent: Any,
        status: int,
        headers: Mapping[str, str],
        body: Any,
    ) -> None:
        """Keep an HTTP exchange; of several with the same status the last one."""
        response = {
            "status": status,
            "headers": self.scrubber.headers(headers),
            "body": self.scrubber.value(body[:LONGEST_BODY] if isinstance(body, str) else body),
        }
        # After the response: a number in the path is known as an id by then.
        request = {"method": method, "path": self.scrubber.path(path), "body": self.scrubber.value(sent)}
        self._write(f"{label}.{status}", self.scrubber.written({"request": request, "response": response}))

    def document(self, label: str, content: Any) -> None:
        """Keep any other document."""
        self._write(label, self.scrubber.document(content))

    def _write(self, label: str, text: str) -> None:
        folder = self._folder / self.subject
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"{label}.json").write_text(text)
