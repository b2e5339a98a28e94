"""Faults on demand for an emulated API, and a log of what it was asked."""

import asyncio
import itertools
import json
import re
import time
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from clawdet_cli.sandbox.request_body import read_object
from clawdet_cli.sandbox.serve import abort_connection

CONTROL_PREFIX = "/_sandbox"
LOGGED_REQUESTS = 10_000
LOGGED_CHARACTERS = 2_000
"""Of a path and of a query: what is logged was sent by anybody."""
FAULTS = 1_000
LONGEST_PATTERN = 500
ANYTHING = ".*"
_RESERVED = frozenset("()[]{}*+?|^$\\")
"""What would mean more in a regular expression: refused, so that nobody takes `path` for one."""

KINDS = {
    "answer": "the given answer, and no effect",
    "drop_before": "no effect, and the connection closes without an answer",
    "drop_after": "the effect happens, and the connection closes without an answer",
    "hang_before": "no effect, and no answer until the client gives up",
    "hang_after": "the effect happens, and no answer until the client gives up",
    "delay": "everything as usual, `seconds` late",
}


_COUNTS = range(1_000_000)
_HEADER_NAME = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]+")
_HEADER_VALUE = re.compile(r"[\x21-\x7e]([\t\x20-\x7e]*[\x21-\x7e])?|")


def is_pattern(value: Any) -> bool:
    """Return whether a value is text in which ANYTHING stands for any text, and nothing else is special."""
    return isinstance(value, str) and len(value) <= LONGEST_PATTERN and not _RESERVED & set(value.replace(ANYTHING, ""))


def matches(pattern: str, text: str) -> bool:
    """Return whether a pattern stands for the whole of a text.

    Not a regular expression: one of those can keep the process busy for as long as its author likes.
    """
    first, *parts = pattern.split(ANYTHING)
    if not parts:
        return text == first
    last, at = parts.pop(), len(first)
    if not text.startswith(first):
        return False
    for part in parts:
        found = text.find(part, at)
        if found < 0:
            return False
        at = found + len(part)
    return len(text) - len(last) >= at and text.endswith(last)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _are_headers(value: Any) -> bool:
    return isinstance(value, dict) and all(
        _HEADER_NAME.fullmatch(name) and isinstance(text, str) and _HEADER_VALUE.fullmatch(text)
        for name, text in value.items()
    )


# Checked at the door: a fault that cannot be carried out would break whatever request it hits.
_FITS: dict[str, Callable[[Any], bool]] = {
    "method": lambda value: isinstance(value, str),
    "path": is_pattern,
    "times": lambda value: value is None or (_is_number(value) and value in _COUNTS),
    "after": lambda value: _is_number(value) and value in _COUNTS,
    "status": lambda value: _is_number(value) and value in range(200, 600),
    "headers": _are_headers,
    "content_type": lambda value: isinstance(value, str) and bool(_HEADER_VALUE.fullmatch(value)),
    "seconds": lambda value: _is_number(value) and value >= 0,
}


@dataclass
class Fault:
    """One rule: what to do to the requests it matches.

    `path` is the whole path, in which `.*` stands for any text. The first `after` matches pass unharmed, the next
    `times` are hit (None: all). Of several faults the oldest that still has hits wins.
    """

    kind: str
    method: str = "*"
    path: str = ".*"
    times: int | None = 1
    after: int = 0
    status: int = 500
    body: Any = ""  # text is sent as it is, anything else as JSON
    headers: dict[str, str] = field(default_factory=dict)
    content_type: str = ""
    seconds: float = 0.0
    id: int = 0
    hits: int = 0

    def __post_init__(self) -> None:
        if not isinstance(self.kind, str) or self.kind not in KINDS:
            raise ValueError(f"unknown kind {self.kind!r}; there are {', '.join(KINDS)}")
        for name, fits in _FITS.items():
            if not fits(getattr(self, name)):
                raise ValueError(f"{getattr(self, name)!r} is no value of {name}")

    def matches(self, method: str, path: str) -> bool:
        """Whether the rule is about such a request."""
        return self.method in ("*", method) and matches(self.path, path)

    def spent(self) -> bool:
        """Whether all its hits are used up."""
        return self.times is not None and self.hits >= self.times

    def response(self) -> Response:
        """Build the answer that kind `answer` gives."""
        is_text = isinstance(self.body, str)
        content = self.body if is_text else json.dumps(self.body)
        media_type = self.content_type or ("text/html" if is_text else "application/json")
        return Response(content, self.status, self.headers, media_type)


class Faults:
    """The faults in force and the requests seen, of one emulated API."""

    def __init__(self) -> None:
        self.requests: deque[dict[str, Any]] = deque(maxlen=LOGGED_REQUESTS)
        self._faults: list[Fault] = []
        self._ids = itertools.count(1)

    def add(self, rule: Mapping[str, Any]) -> int:
        """Put a fault in force and return its id; raise ValueError for a rule that cannot be."""
        unknown = set(rule) - {known.name for known in fields(Fault)} | {"id", "hits"} & set(rule)
        if unknown:
            raise ValueError(f"unknown field {sorted(unknown)[0]!r}")
        if "kind" not in rule:
            raise ValueError("kind is missing")
        if len(self._faults) >= FAULTS:
            raise ValueError(f"there are {FAULTS} faults already: end them first")
        fault = Fault(**rule, id=next(self._ids))
        self._faults.append(fault)
        return fault.id

    def all(self) -> list[dict[str, Any]]:
        """Return all faults since the last clear, spent ones too, with their hits."""
        return [asdict(fault) for fault in self._faults]

    def clear(self) -> None:
        """End all faults."""
        self._faults.clear()

    def take(self, method: str, path: str) -> Fault | None:
        """Return the fault that hits this request, and count the hit."""
        for fault in self._faults:
            if fault.spent() or not fault.matches(method, path):
                continue
            if fault.after > 0:
                fault.after -= 1
                continue
            fault.hits += 1
            return fault
        return None

    def routes(self) -> list[Route]:
        """Return the control routes; `guard` asks for the sandbox's token before them."""
        return [
            Route(f"{CONTROL_PREFIX}/faults", self._control, methods=["GET", "POST", "DELETE"]),
            Route(f"{CONTROL_PREFIX}/requests", self._log, methods=["GET", "DELETE"]),
        ]

    async def _control(self, request: Request) -> Response:
        if request.method == "POST":
            try:
                return JSONResponse({"id": self.add(await read_object(request))}, 201)
            except ValueError as exc:
                return JSONResponse({"error": str(exc)}, 422)
        if request.method == "DELETE":
            self.clear()
            return Response(status_code=204)
        return JSONResponse({"faults": self.all()})

    async def _log(self, request: Request) -> Response:
        if request.method == "DELETE":
            self.requests.clear()
            return Response(status_code=204)
        return JSONResponse({"requests": list(self.requests)})


class FaultMiddleware:
    """Applies the faults, outermost, to everything but the control routes, and logs each request."""

    def __init__(self, app: ASGIApp, faults: Faults) -> None:
        self.app = app
        self.faults = faults

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one request."""
        if scope["type"] != "http" or scope["path"].startswith(CONTROL_PREFIX + "/"):
            await self.app(scope, receive, send)
            return
        fault = self.faults.take(scope["method"], scope["path"])
        entry: dict[str, Any] = {
            "method": scope["method"],
            "path": scope["path"][:LOGGED_CHARACTERS],
            "query": scope["query_string"].decode("latin-1")[:LOGGED_CHARACTERS],
            "status": None,  # stays so when no answer was sent
            "time": time.time(),
            "fault": fault.kind if fault else None,
        }
        self.faults.requests.append(entry)

        async def answer(message: Message) -> None:
            if message["type"] == "http.response.start":
                entry["status"] = message["status"]
            await send(message)

        if fault is None:
            await self.app(scope, receive, answer)
            return
        if fault.seconds:
            # Taken in first: a request that has arrived is carried out, also for a client that is gone by then.
            receive = await _arrived(receive)
            await asyncio.sleep(fault.seconds)
        if fault.kind == "answer":
            await fault.response()(scope, receive, answer)
        elif fault.kind == "delay":
            await self.app(scope, receive, answer)
        else:
            if fault.kind.endswith("_after"):
                await self.app(scope, receive, _lose)
            if fault.kind.startswith("drop_"):
                abort_connection(scope)
            # Returning while the connection still stands would make uvicorn answer 500.
            while (await receive())["type"] != "http.disconnect":
                pass


async def _arrived(receive: Receive) -> Receive:
    """Read a request to its end, and give what reads it once more."""
    messages = deque([await receive()])
    while messages[-1].get("more_body"):
        messages.append(await receive())

    async def again() -> Message:
        return messages.popleft() if messages else await receive()

    return again


async def _lose(message: Message) -> None:
    """Take an answer that nobody shall get."""
