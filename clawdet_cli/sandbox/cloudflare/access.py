"""Who may call the emulated Cloudflare API, and how often."""

import datetime as dt
import email.utils
import math
import re
from collections.abc import Callable
from typing import Any

from starlette.datastructures import MutableHeaders
from starlette.requests import Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from clawdet_cli.sandbox.cloudflare import state as account
from clawdet_cli.sandbox.cloudflare.envelope import ApiError, failure

BEARER = re.compile(r"Bearer [A-Za-z0-9_-]+")
API = "/client/v4/"


def authenticate(state: dict[str, Any], request: Request) -> dict[str, Any]:
    """Return the token of a request, whatever its status; raise the vendor's error for a missing or strange one."""
    header = request.headers.get("authorization")
    if header is None:
        if "x-auth-email" in request.headers and "x-auth-key" in request.headers:
            raise ApiError(403, 9103, "Unknown X-Auth-Key or X-Auth-Email")
        raise ApiError(400, 9106, "Missing X-Auth-Key, X-Auth-Email or Authorization headers")
    if not BEARER.fullmatch(header):
        chain = (6111, "Invalid format for Authorization header")
        raise ApiError(400, 6003, "Invalid request headers", chain=chain)
    token = account.find_token(state, header.removeprefix("Bearer "))
    if token is None:
        verifying = request.url.path.endswith("/tokens/verify")
        raise ApiError(401, 1000, "Invalid API Token") if verifying else ApiError(403, 9109, "Invalid access token")
    return token


def require(token: dict[str, Any], right: str, zone: dict[str, Any] | None = None) -> None:
    """Refuse a token that is not in force, lacks a right, or does not reach the zone."""
    require_active(token)
    if not has_right(token, right) or (zone is not None and not reaches(token, zone["name"])):
        # the Origin CA answers 400 where everything else answers 403 (terraform-provider-cloudflare issue 1361)
        raise ApiError(400 if right == "ssl:edit" else 403, 10000, "Authentication error")


def require_active(token: dict[str, Any]) -> None:
    """Refuse a disabled or expired token."""
    if token["status"] != "active":
        raise ApiError(403, 9109, "Invalid access token")


def has_right(token: dict[str, Any], right: str) -> bool:
    """Tell whether a token has a right; the right to edit includes reading."""
    return right in token["rights"] or right.replace(":read", ":edit") in token["rights"]


def reaches(token: dict[str, Any], zone_name: str) -> bool:
    """Tell whether a zone is among those a token was made for."""
    return token["zones"] is None or zone_name in token["zones"]


class Bucket:
    """The vendor's limit: so many requests in a window; whoever exceeds it is blocked for a while."""

    def __init__(self, limits: dict[str, Any], clock: Callable[[], float]) -> None:
        self._limits = limits
        self._clock = clock
        self._window_end = 0.0
        self._used = 0
        self._blocked_until = 0.0

    def take(self) -> tuple[int, float, float]:
        """Count one request; return what remains, the seconds to the next window, and those of the block (0: none)."""
        now = self._clock()
        if now < self._blocked_until:
            return 0, self._blocked_until - now, self._blocked_until - now
        if now >= self._window_end:
            self._window_end, self._used = now + self._limits["seconds"], 0
        self._used += 1
        remaining = self._limits["requests"] - self._used
        if remaining < 0:
            self._blocked_until = self._window_end = now + self._limits["block_seconds"]
            self._used = 0
            return 0, self._limits["block_seconds"], self._limits["block_seconds"]
        return remaining, self._window_end - now, 0.0

    def reset(self) -> None:
        """Forget what was counted, a block included."""
        self._window_end = self._blocked_until = 0.0
        self._used = 0


class Gate:
    """ASGI middleware before the API's routes: it counts, and adds the headers of every answer."""

    def __init__(self, app: ASGIApp, limits: dict[str, Any], bucket: Bucket) -> None:
        self._app = app
        self._limits = limits
        self._bucket = bucket

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on, or answer 429."""
        if scope["type"] != "http" or not scope["path"].startswith(API):
            await self._app(scope, receive, send)
            return
        extra = {"cf-ray": account.new_ray()}
        app = self._app
        if scope["path"] != API + "ips":  # that one is counted per address, not per user
            remaining, reset, blocked = self._bucket.take()
            extra |= self._limit_headers(remaining, reset)
            if blocked:
                extra["retry-after"] = str(max(1, round(blocked)))
                app = failure(self._refusal())

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message).update(extra)
            await send(message)

        await app(scope, receive, send_with_headers)

    def _limit_headers(self, remaining: int, reset: float) -> dict[str, str]:
        """Return what tells of the limit, in the form that is documented since September 2025 or in the older one."""
        form, limits = self._limits["headers"], self._limits
        found = {}
        if form != "old":
            found["ratelimit"] = f'"default";r={remaining};t={math.ceil(reset)}'
            found["ratelimit-policy"] = f'"default";q={limits["requests"]};w={math.ceil(limits["seconds"])}'
        if form != "documented":
            at = dt.datetime.now(dt.UTC) + dt.timedelta(seconds=reset)
            found |= {
                "x-ratelimit-limit": str(limits["requests"]),
                "x-ratelimit-remaining": str(remaining),
                "x-ratelimit-reset": email.utils.format_datetime(at, usegmt=True),
            }
        return found

    def _refusal(self) -> ApiError:
        return ApiError(
            429,
            10100,
            f"More than {self._limits['requests']} requests per {self._limits['seconds']} seconds reached. "
            "Please wait and consider throttling your request speed",
        )
