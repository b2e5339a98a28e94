"""What Cloudflare keeps away from an origin at its owner's wish: challenges, the browser check, a rule that blocks.

Every visitor counts as one from a data centre: who runs clawdet from a server or in CI is one, and no test can tell an
address of loopback from another. The challenge cannot be solved here.
"""

from typing import Any

from clawdet_cli.sandbox.edge.answers import Headers, Visit
from clawdet_cli.sandbox.edge.errors import EdgeError

BANNED_AGENTS = ("python-urllib", "libwww-perl", "jakarta commons-httpclient")
"""Beginnings of user agents that the browser check refuses, in lower case."""
BROWSER = "mozilla/"
CHALLENGE_HEADERS: Headers = [
    (b"content-type", b"text/html; charset=UTF-8"),
    (b"cache-control", b"private, max-age=0, no-store, no-cache, must-revalidate, post-check=0, pre-check=0"),
    (b"expires", b"Thu, 01 Jan 1970 00:00:01 GMT"),
    (b"x-frame-options", b"SAMEORIGIN"),
    (b"referrer-policy", b"same-origin"),
    (b"cf-mitigated", b"challenge"),
]
CHALLENGE_PAGE = b"""<!DOCTYPE html>
<html lang="en-US"><head><title>Just a moment...</title><meta name="robots" content="noindex,nofollow"></head>
<body><noscript>Enable JavaScript and cookies to continue</noscript>
<script src="/cdn-cgi/challenge-platform/h/b/orchestrate/chl_page/v1"></script></body></html>
"""


def turned_away(zone: dict[str, Any], blocked_paths: list[str], visit: Visit) -> tuple[int, Headers, bytes] | None:
    """Return the challenge that a visit gets, None for one that may go on; raises EdgeError for one that may not."""
    if any(visit.target.startswith(path) for path in blocked_paths):
        raise EdgeError(403, 1020)
    agent = visit.header(b"user-agent").lower()
    if _is_on(zone, "browser_check") and (not agent or agent.startswith(BANNED_AGENTS)):
        raise EdgeError(403, 1010)
    under_attack = zone["settings"]["security_level"]["value"] == "under_attack"
    if under_attack or (zone["bot_fight_mode"] and not agent.startswith(BROWSER)):
        return 403, CHALLENGE_HEADERS, CHALLENGE_PAGE
    return None


def _is_on(zone: dict[str, Any], setting: str) -> bool:
    return bool(zone["settings"][setting]["value"] == "on")
