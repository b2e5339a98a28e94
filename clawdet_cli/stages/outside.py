"""The gateway as a visitor of the public name sees it, and whose answer it is: the server's, or Cloudflare's own."""

from typing import TypeVar

from clawdet_cli.adapters.edge import (
    CONNECT_REQUEST,
    Answer,
    SocketAnswer,
    Visit,
    Visitor,
    connect_request,
    explain_52x,
)
from clawdet_cli.errors import ClawdetError
from clawdet_cli.secret import Secret

A = TypeVar("A", Answer, SocketAnswer)

UNSTEADY = frozenset({409, *range(520, 531)})
"""Statuses that the edge itself gives, and may not give the next time: not all of it knows a new record at once."""
PROTECTED_PATH = "/app/control-ui-config.json"
"""A page of the gateway that needs the token (facts of OpenClaw 2026.9: 401 without, 200 with)."""


class NotMetError(Exception):
    """A criterion does not hold; the text is the evidence."""


class UnsteadyError(Exception):
    """The edge gave an answer that it may not give the next time; the text says which."""


class KeptOutError(Exception):
    """Cloudflare itself turned the visitor away; the text says how, and which setting does so."""


def answers_well(visitor: Visitor, host: str, token: Secret) -> bool:
    """Return whether the gateway is found well at the first look."""
    try:
        with visitor.visit() as visit:
            if visit.get("/healthz").status != 200:
                return False
            guards_its_pages(visit, host, token)
        guards_its_sockets(visitor, host, token)
    except (NotMetError, UnsteadyError, KeptOutError, ClawdetError):
        return False
    return True


def guards_its_pages(visit: Visit, host: str, token: Secret) -> None:
    """Look whether a page wants the token. Raises NotMetError, KeptOutError, UnsteadyError."""
    without = let_in(visit.get(PROTECTED_PATH)).status
    with_token = let_in(visit.get(PROTECTED_PATH, {"Authorization": f"Bearer {token.reveal()}"})).status
    if (without, with_token) != (401, 200):
        raise NotMetError(
            f"through https://{host}: HTTP {without} without the token, {with_token} with it (401, 200 wanted)"
        )


def guards_its_sockets(visitor: Visitor, host: str, token: Secret) -> None:
    """Look whether WebSockets want origin, token and device. Raises NotMetError, KeptOutError, UnsteadyError."""
    own = let_in(visitor.websocket("/app", f"https://{host}", connect_request(token)))
    if own.status != 101 or (own.first or {}).get("event") != "connect.challenge":
        raise NotMetError(f"through wss://{host}/app: HTTP {own.status}, first frame {str(own.first)[:80]}")
    if own.close_code != 1008 or own.refusal != "CONTROL_UI_DEVICE_IDENTITY_REQUIRED":
        raise NotMetError(
            "a WebSocket with the token but without an approved device was not refused for want of one (closed with"
            f" {own.close_code}, {own.refusal}): whoever has the token gets in"
        )
    foreign = let_in(visitor.websocket("/app", "https://foreign.invalid", CONNECT_REQUEST))
    if foreign.close_code != 1008 or foreign.refusal != "CONTROL_UI_ORIGIN_NOT_ALLOWED":
        raise NotMetError(
            f"a WebSocket from a foreign origin was closed with {foreign.close_code} {foreign.refusal}, not with 1008"
        )


def let_in(answer: A) -> A:
    """Return the answer if it is the server's. Raises KeptOutError, UnsteadyError for one of the edge's own."""
    if answer.kept_out:
        raise KeptOutError(answer.kept_out)
    if answer.status in UNSTEADY:
        raise UnsteadyError(f"HTTP {explain_52x(answer.status) or answer.status}")
    return answer
