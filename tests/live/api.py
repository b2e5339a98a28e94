"""Plain HTTP to one of the clouds' APIs, every answer recorded."""

import contextlib
import json
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import httpx

from tests.live.recorder import Recorder

ATTEMPTS = 3
MAX_WAIT = 300.0
"""Seconds that are waited when the limit of requests is reached: Cloudflare blocks for so long."""


class ApiError(Exception):
    """An answer that ends a step: what was asked, and what came."""


@dataclass(frozen=True)
class Answer:
    """What came back."""

    status: int
    headers: Mapping[str, str]
    """Names in lower case."""
    content: Any
    """The JSON, else the text."""

    @property
    def codes(self) -> list[int | str]:
        """The codes of the errors: Cloudflare's numbers, chained ones too, or Hetzner's word."""
        if not isinstance(self.content, dict):
            return []
        if isinstance(self.content.get("error"), dict):
            return [str(self.content["error"].get("code"))]
        errors = self.content.get("errors") or []
        chained = [inner for error in errors for inner in error.get("error_chain") or []]
        return [error.get("code", -1) for error in [*errors, *chained]]

    @property
    def said(self) -> str:
        """Status and codes, as evidence."""
        return f"HTTP {self.status}" + (f", code {', '.join(map(str, self.codes))}" if self.codes else "")

    def must(self, *statuses: int) -> "Answer":
        """Return this answer if it has one of these statuses; raise ApiError otherwise."""
        if self.status in statuses:
            return self
        raise ApiError(f"expected {' or '.join(map(str, statuses))}, and it was {self.said}")


class Api:
    """One cloud, asked with one token or another."""

    def __init__(self, url: str, token: str, recorder: Recorder, *, proxied: bool) -> None:
        self._token = token
        self._recorder = recorder
        self._client = httpx.Client(base_url=url, timeout=60.0, trust_env=proxied)

    def close(self) -> None:
        """Close the connections."""
        self._client.close()

    def call(
        self, method: str, path: str, label: str = "", *, body: Any = None, token: str | None = None, bare: bool = False
    ) -> Answer:
        """Send one request, and record what comes under `label`; nothing is recorded without one.

        Reads are repeated when no answer comes, changes never are: whoever cleans up looks for what they made. What
        the limit of requests refuses is repeated: it had no effect.
        `bare` sends no token at all.
        """
        headers = {} if bare else {"Authorization": f"Bearer {token or self._token}"}
        for left in reversed(range(ATTEMPTS)):
            try:
                answer = self._client.request(method, path, json=body, headers=headers)
            except httpx.TransportError as error:
                if left and method == "GET":
                    continue
                raise ApiError(f"{method} got no answer ({type(error).__name__})") from None
            if answer.status_code != 429 or not left:
                break
            time.sleep(min(MAX_WAIT, float(answer.headers.get("retry-after") or 10)))
        content: Any = answer.text
        with contextlib.suppress(ValueError):
            content = json.loads(answer.text) if answer.text else None
        found = {name.lower(): value for name, value in answer.headers.items()}
        if label:
            self._recorder.exchange(
                label, method=method, path=path, sent=body, status=answer.status_code, headers=found, body=content
            )
        return Answer(answer.status_code, found, content)
