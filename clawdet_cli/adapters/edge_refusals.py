"""What Cloudflare answers in its own name when it keeps a visitor away from the server, and which setting it is."""

import re
from collections.abc import Mapping

_NUMBER = re.compile(rb"error code: (10\d\d)\s*")
"""The whole of the plain page that programs get."""
_NUMBER_IN_HTML = re.compile(rb"\b(?:Error|Ray ID|error code:?)\D{0,60}?\b(10[0-2]\d)\b", re.IGNORECASE)
_HTML_MARKS = (b"cf-error-details", b"Attention Required! | Cloudflare")
"""Either stands in every HTML page in which Cloudflare itself blocks; Caddy and OpenClaw write neither."""

_NO_REFUSALS = {1000, 1001, 1002, 1003, 1004, 1013, 1014, 1016, 1018, 1023}
"""What these are about is DNS or the zone, not who asks."""

_RULES = "a rule of the zone: Security > WAF (custom rules, IP Access Rules, Managed Rules)"
_SETTINGS: Mapping[int, str] = {
    1005: f"{_RULES}, which bans this network",
    1006: f"{_RULES}, which bans this address",
    1007: f"{_RULES}, which bans this address",
    1008: f"{_RULES}, which bans this address",
    1009: f"{_RULES}, which bans this country",
    1010: "Browser Integrity Check: Security > Settings",
    1012: f"{_RULES}, which forbids it",
    1015: "a rate limiting rule of the zone: Security > WAF > Rate limiting rules",
    1020: _RULES,
}
_CHALLENGE = (
    "Bot Fight Mode (Security > Bots), the security level 'Under Attack' (Security > Settings),"
    " or a WAF custom rule (Security > WAF)"
)


def kept_out(status: int, headers: Mapping[str, str], body: bytes) -> str:
    """Return how Cloudflare itself kept a visitor away, and the settings that do so; empty for any other answer.

    `headers` has names in lower case.
    """
    if status not in {403, 429, 503}:
        return ""
    mitigated = headers.get("cf-mitigated", "")
    if mitigated:
        word = "challenges" if mitigated == "challenge" else "blocks"
        return _told(f"it {word} this visitor (HTTP {status}, cf-mitigated: {mitigated[:40]})", _CHALLENGE)
    if found := _NUMBER.fullmatch(body):
        number = int(found[1])
    elif any(mark in body for mark in _HTML_MARKS):
        in_html = _NUMBER_IN_HTML.search(body)
        number = int(in_html[1]) if in_html else 0
    else:
        return ""
    if number in _NO_REFUSALS:
        return ""
    said = f"error code: {number}" if number else "its own page"
    return _told(f"it blocks this visitor (HTTP {status}, {said})", _SETTINGS.get(number, _RULES))


def _told(what: str, settings: str) -> str:
    return f"Cloudflare keeps clawdet out: {what}. In its dashboard see {settings}"
