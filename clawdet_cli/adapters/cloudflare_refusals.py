"""What a refusal by Cloudflare means: its codes, as errors that a user can act on.

Codes: no list is published; these are collected from the issue threads of tools that use the API.
"""

from collections.abc import Sequence

from clawdet_cli.adapters.answers import MOST_LINES, MOST_WORDS
from clawdet_cli.adapters.cloudflare_rights import SSL_EDIT
from clawdet_cli.adapters.retry import Lost, NotYet
from clawdet_cli.errors import ClawdetError, CloudError, ConfigError, StateError
from clawdet_cli.secret import excerpt
from clawdet_cli.settings import CLOUDFLARE_HOW_TO

NOT_ALLOWED = frozenset({10000, 9109, 1016})
"""The token is unknown, or lacks a right: the API does not tell these two apart."""

TAKEN = frozenset({81057, 81058})
"""An identical record exists; the code changed with the years."""

GONE = frozenset({1014, 1101})
"""Origin CA: the certificate is revoked already, or is not to be found (Cloudflare's older list of codes)."""

_EXCLUDED = frozenset({81053, 81054, 81056})
_QUOTA = 81045
_BAD_TOKEN = frozenset({9106, 6003, 6111})
_GENERAL = 1000
"""Of a token that is not known; of the Origin CA "general error"."""
_HOST_NOT_OURS = 1010
ORIGIN_CA_STEPS = (
    "run the command again: it goes on where it stopped",
    "if it stays so: https://dash.cloudflare.com, Manage Account, Members: the token's owner needs 'API Access'",
)
LONGEST_PAUSE = 300.0
"""Seconds: after 1,200 requests in 5 minutes everything is refused for 5 minutes."""


def refusal(
    what: str, right: str, status: int, errors: Sequence[tuple[int, str]], retry_after: str | None
) -> Exception:
    """Give the error for a refused call; NotYet or Lost when it is worth another try.

    `what` is what was asked, as a phrase after "to"; `right` is the token's right that it needs.
    """
    codes = {code for code, _ in errors}
    if status == 429:
        return NotYet("Cloudflare's limit of requests is reached (429)", pause=_seconds(retry_after))
    if status == 503:
        return NotYet("Cloudflare is not available (503)", pause=_seconds(retry_after), maybe_done=True)
    if status in {408, 409} or status >= 500:
        return Lost(f"Cloudflare failed ({status})")
    details = [excerpt(f"{code}: {message}", MOST_WORDS) for code, message in errors[:MOST_LINES]] or [
        f"HTTP status {status}, without a code"
    ]
    kind, outcome, steps = (right == SSL_EDIT and _of_origin_ca(codes)) or _meaning(codes, status, right)
    refused = kind(f"Asked Cloudflare to {what}, and {outcome}.", details=details, next_steps=steps)
    if errors:
        # Cloudflare's own words, not those of something in between; a general error tells not even what it did.
        refused.unsettled = _GENERAL in codes and right == SSL_EDIT
    return refused


def _of_origin_ca(codes: set[int]) -> tuple[type[ClawdetError], str, list[str]] | None:
    """Return what a refusal means that only the Origin CA gives, or gives with another meaning."""
    if _GENERAL in codes:
        return CloudError, "its Origin CA failed without a reason (general error)", [*ORIGIN_CA_STEPS]
    if _HOST_NOT_OURS in codes:
        return CloudError, "its Origin CA does not take the host name as the account's", [*ORIGIN_CA_STEPS]
    return None


def _meaning(codes: set[int], status: int, right: str) -> tuple[type[ClawdetError], str, list[str]]:
    if codes & _BAD_TOKEN or _GENERAL in codes:
        return ConfigError, "it does not accept the token (CLOUDFLARE_API_TOKEN)", [CLOUDFLARE_HOW_TO]
    if not right and (codes & NOT_ALLOWED or status in {401, 403}):
        # Asks for no right: whoever is refused here is refused for what it is, or where it comes from.
        outcome = "it refused, though that needs no right of the token's"
        return ConfigError, outcome, ["look at the token's IP address filter and expiry", CLOUDFLARE_HOW_TO]
    if codes & NOT_ALLOWED or status in {401, 403}:
        outcome = f"the token (CLOUDFLARE_API_TOKEN) is not valid or lacks the right '{right}' for the zone"
        steps = [f"add the right '{right}' to the token", f"or {CLOUDFLARE_HOW_TO}"]
        # Signing also wants "API Access" of the account's member (cloudflare-docs, Origin CA troubleshooting).
        return ConfigError, outcome, [*steps, *(ORIGIN_CA_STEPS[-1:] if right == SSL_EDIT else [])]
    if codes & _EXCLUDED:
        steps = ["see the zone's DNS records at https://dash.cloudflare.com, or choose another user name"]
        return StateError, "another record of this name excludes it: nothing was touched", steps
    if _QUOTA in codes:
        steps = ["remove records that are no longer needed", "or choose a larger plan at https://dash.cloudflare.com"]
        return CloudError, "the zone is full: its plan allows no more DNS records", steps
    return CloudError, "it refused", ["see the details above"]


def _seconds(retry_after: str | None) -> float | None:
    """Read `Retry-After`; None (the usual pauses) for anything but a sensible number of seconds."""
    try:
        seconds = float(retry_after or "")
    except ValueError:
        return None
    return seconds if 0 < seconds <= LONGEST_PAUSE else None
