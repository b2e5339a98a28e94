"""What a refusal by Hetzner Cloud means: its codes, as errors that a user can act on.

Codes and statuses: the API's description at docs.hetzner.cloud, "Errors"; wordings seen live are marked.
"""

from typing import Any

from clawdet_cli.adapters.answers import MOST_LINES, MOST_WORDS
from clawdet_cli.adapters.retry import Lost, NotYet
from clawdet_cli.errors import ClawdetError, CloudError, ConfigError, InUseError, MissingError, SoldOutError, StateError
from clawdet_cli.secret import excerpt
from clawdet_cli.settings import HETZNER_HOW_TO

CONSOLE = "https://console.hetzner.cloud"

_BUSY = {
    "locked": "another action is under way on it",
    "conflict": "it changed meanwhile",
    "rate_limit_exceeded": "too many requests in this hour (429)",
    "unavailable": "Hetzner Cloud is not available (503)",
    "maintenance": "Hetzner Cloud is being maintained",
    503: "Hetzner Cloud is not available (503)",
    429: "too many requests (429)",
}
_FAILED = frozenset({"server_error", "bad_gateway", "timeout"})

_SOLD_OUT = ("unsupported location for server type", "is deprecated", "invalid server type", "server location disabled")
"""Words of `invalid_input` that mean: this type cannot be had there (seen live, 2025-12 to 2026-09)."""

_Refused = tuple[type[ClawdetError], str, list[str]]

_BAD_TOKEN: _Refused = (ConfigError, "it does not accept the token (HCLOUD_TOKEN)", [HETZNER_HOW_TO])
_READ_ONLY: _Refused = (ConfigError, "the token (HCLOUD_TOKEN) may only read", [HETZNER_HOW_TO])
_SOLD: _Refused = (
    SoldOutError,
    "it cannot be had now",
    ["try another --server-type or --location, or the same again later"],
)
_REFUSED: dict[int | str, _Refused] = {
    "unauthorized": _BAD_TOKEN,
    401: _BAD_TOKEN,
    "token_readonly": _READ_ONLY,
    "forbidden": _READ_ONLY,
    403: _READ_ONLY,
    "resource_unavailable": _SOLD,
    "placement_error": _SOLD,
    "resource_limit_exceeded": (
        CloudError,
        "a limit of the account is reached: {reason}",
        [f"ask for more at {CONSOLE}/limits", "or remove what is no longer needed: clawdet status lists it"],
    ),
    "resource_in_use": (InUseError, "it is still in use: nothing was deleted", ["run the command again in a minute"]),
    "missing": (
        MissingError,
        "something that it needs was deleted meanwhile: {reason}",
        ["run the command again: it makes it anew"],
    ),
    "protected": (
        StateError,
        "it is protected: nothing was touched",
        [f"lift the protection at {CONSOLE} if that is meant, then run the command again"],
    ),
}


def refusal(what: str, code: int | str, message: str, details: Any, correlation: str | None) -> Exception:
    """Give the error for a refused call; NotYet or Lost when it is worth another try.

    `what` is what was asked, as a phrase after "to"; a body without JSON comes with its HTTP status as the code.
    """
    if code in _BUSY:
        # 503 does not say whether the call was carried out; the others refuse before they do anything.
        return NotYet(_BUSY[code], maybe_done=code in {"unavailable", 503})
    if code in _FAILED or (isinstance(code, int) and code >= 500):
        return Lost(f"Hetzner Cloud failed: {excerpt(message, MOST_WORDS)} ({code})")
    words = [f"{code}: {message}", *_lines(details)[:MOST_LINES]]
    if correlation:
        words.append(f"correlation id {correlation}")
    words = [excerpt(line, MOST_WORDS) for line in words]
    if what.startswith("create server ") and _names_what_is_missing(code, message, details):
        code = "missing"
    if code == "invalid_input" and any(text in message for text in _SOLD_OUT):
        code = "resource_unavailable"
    kind, outcome, steps = _REFUSED.get(code, (CloudError, "it refused: {reason}", ["see the details above"]))
    reason = excerpt(_limits(details) or message, MOST_WORDS)
    return kind(f"Asked Hetzner Cloud to {what}, and {outcome.format(reason=reason)}.", details=words, next_steps=steps)


def _names_what_is_missing(code: int | str, message: str, details: Any) -> bool:
    """Return whether an order was refused since its firewall or SSH key is there no more."""
    words = " ".join([message, *_lines(details)]).lower()
    return (
        code in {"invalid_input", "not_found"}
        and "not found" in words
        and any(kind in words for kind in ("firewall", "ssh_key", "ssh key"))
    )


def _limits(details: Any) -> str:
    limits = details.get("limits") if isinstance(details, dict) else None
    return ", ".join(str(limit.get("name")) for limit in limits or [] if isinstance(limit, dict))


def _lines(details: Any) -> list[str]:
    """Give the API's own details in lines: the fields that it found wrong, or the text of a page that is no JSON."""
    if not isinstance(details, dict):
        return []
    if isinstance(details.get("content"), bytes):
        return [details["content"].decode("utf-8", "replace")]
    fields = [field for field in details.get("fields") or [] if isinstance(field, dict)]
    return [f"{field.get('name')}: {', '.join(map(str, field.get('messages') or []))}" for field in fields]
