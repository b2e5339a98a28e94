"""Keeps other users of the machine, and web pages that its browsers show, away from the sandbox's HTTP services.

Both can reach every port on loopback. A page can have a browser send what it likes there, also to a name of its own
that it points at 127.0.0.1 (DNS rebinding); what it cannot do is choose `Host` and `Origin`, or read the token's file.
"""

import ipaddress
import re
import secrets

from starlette.datastructures import Headers
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from clawdet_cli.sandbox.faults import CONTROL_PREFIX
from clawdet_cli.sandbox.serve import abort_connection

TOKEN_HEADER = "Sandbox-Token"  # noqa: S105 - the header's name
"""Of a name of our own, so that a page's request with it would first have to ask whether it may (CORS)."""
LARGEST_REQUEST = 16 * 1024 * 1024
"""Bytes that are taken in of a request; what the emulated APIs accept of it is less."""

_CHANGES = {"POST", "PUT", "PATCH"}
_HOST = re.compile(r"(\[[0-9a-f:.]+\]|[a-z0-9.-]+)(:[0-9]{1,5})?", re.ASCII)


class Guard:
    """ASGI middleware before all others of a service; `token` is asked for below CONTROL_PREFIX only."""

    def __init__(self, app: ASGIApp, token: str) -> None:
        self._app = app
        self._token = token.encode()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on, or refuse it before anything of its body is read."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        refusal = self._refusal(scope)
        if refusal is not None:
            status, why = refusal
            # Closed, so that nothing of a body is read for the sake of the next request.
            await JSONResponse({"error": why}, status, {"Connection": "close"})(scope, receive, send)
            return
        await self._app(scope, _bounded(scope, receive), send)

    def _refusal(self, scope: Scope) -> tuple[int, str] | None:
        headers = Headers(scope=scope)
        host = headers.get("host", "")
        if len(headers.getlist("host")) != 1 or not is_loopback(host):
            return 421, "this is a sandbox on loopback: ask for it by its address or as localhost"
        own = f"{scope['scheme']}://{host}"
        if headers.get("origin", own) != own or headers.get("sec-fetch-site", "none") not in {"none", "same-origin"}:
            return 403, "no web page may use the sandbox"
        return self._control_refusal(scope, headers) if scope["path"].startswith(CONTROL_PREFIX) else None

    def _control_refusal(self, scope: Scope, headers: Headers) -> tuple[int, str] | None:
        if not secrets.compare_digest(headers.get(TOKEN_HEADER, "").encode("latin-1"), self._token):
            return 401, f"{TOKEN_HEADER} is missing or wrong: its file is named by 'clawdet sandbox info'"
        kind = headers.get("content-type", "").partition(";")[0].strip().lower()
        if scope["method"] in _CHANGES and kind != "application/json":
            return 415, "only application/json is taken here"
        return None


def is_loopback(host: str) -> bool:
    """Return whether a `Host` header names this machine by a loopback address, or as localhost.

    Any port will do: a browser always sends the one that it connects to, and a relay of the operator's has its own.
    """
    match = _HOST.fullmatch(host.lower())
    if match is None:
        return False
    name = match[1].strip("[]")
    try:
        return ipaddress.ip_address(name).is_loopback
    except ValueError:
        return name == "localhost"


def _bounded(scope: Scope, receive: Receive) -> Receive:
    """Cut the connection of a request that is longer than any with a purpose."""
    size = 0

    async def counting() -> Message:
        nonlocal size
        message = await receive()
        size += len(message.get("body", b""))
        if size <= LARGEST_REQUEST:
            return message
        abort_connection(scope)
        return {"type": "http.disconnect"}

    return counting
