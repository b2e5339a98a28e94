"""Reads what Cloudflare's answers tell of its limit of requests, in the documented form and in the older one.

Documented since 2025-09-03 (developers.cloudflare.com, changelog, "Introducing new headers for rate limiting"):
`Ratelimit: "default";r=50;t=30` and `Ratelimit-Policy: "default";q=1200;w=300`, each a list. Older:
`x-ratelimit-limit`, `-remaining` and `-reset`, the last one a date.
"""

import re
from collections.abc import Mapping
from email.utils import parsedate_to_datetime
from typing import NamedTuple

WINDOW_SECONDS = 300.0
"""Cloudflare counts 1,200 requests in five minutes, and then answers none for as long."""
LIMIT = 1200

_ITEM = re.compile(r'"(?P<name>[^"]{0,64})"(?P<parameters>(?:\s*;\s*[a-z]+=[0-9]{1,9})+)', re.ASCII)
_PARAMETER = re.compile(r"([a-z]+)=([0-9]+)", re.ASCII)


class Window(NamedTuple):
    """How much of a limit is left, and when it is full again."""

    limit: str
    left: str
    full_in: float
    """Seconds."""


def window(headers: Mapping[str, str]) -> Window | None:
    """Return what an answer tells of the limit that is closest to its end; None where it tells nothing."""
    limits, policies = _items(headers.get("ratelimit", "")), _items(headers.get("ratelimit-policy", ""))
    told = [(name, item) for name, item in limits.items() if "r" in item]
    if not told:
        return _older(headers)
    name, item = min(told, key=lambda one: one[1]["r"])
    limit = policies.get(name, {}).get("q", LIMIT)
    # Whole seconds, which may be cut off: the window may end up to one later.
    full_in = min(item.get("t", WINDOW_SECONDS) + 1.0, WINDOW_SECONDS)
    return Window(str(limit), str(item["r"]), full_in)


def _items(text: str) -> dict[str, dict[str, int]]:
    """Return the items of a list by name, each with its parameters."""
    return {
        found["name"]: {key: int(value) for key, value in _PARAMETER.findall(found["parameters"])}
        for found in _ITEM.finditer(text)
    }


def _older(headers: Mapping[str, str]) -> Window | None:
    limit, left = headers.get("x-ratelimit-limit"), headers.get("x-ratelimit-remaining")
    if limit is None or left is None:
        return None
    try:
        # By its own clock, since ours may be wrong.
        ends, now = (parsedate_to_datetime(headers[name]) for name in ("x-ratelimit-reset", "date"))
        # Both are cut to whole seconds: what lies between them is up to one longer than they say.
        full_in = min(max(0.0, (ends - now).total_seconds()) + 1, WINDOW_SECONDS)
    except (KeyError, ValueError, TypeError, OverflowError):
        full_in = WINDOW_SECONDS
    return Window(limit, left, full_in)
