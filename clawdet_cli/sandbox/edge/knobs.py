"""What the edge can be told to do that no setting of a zone tells: how unsteady a new record is, what a rule blocks."""

import datetime as dt
import random
from collections.abc import Callable, Iterable
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from clawdet_cli.sandbox.edge.errors import EdgeError
from clawdet_cli.sandbox.request_body import read_object

ALERT = "alert"
"""A refusal in the TLS handshake."""
REFUSALS: dict[int | str, EdgeError] = {
    409: EdgeError(409, 1001),
    530: EdgeError(530, 1016),
    **{status: EdgeError(status) for status in range(520, 527)},
}
"""What a refusal is answered with, by its status."""
NEW_RECORD: tuple[int | str, ...] = (530, 409, 522, 523, ALERT)
"""What servers of the edge that do not know a new record yet may say."""
KNOBS: dict[str, Any] = {
    "refusals": [],  # what the next visits of any proxied name are refused with: a status, `alert`, or 0 for none
    "refused_path": "/",  # only visits of paths that begin so are refused, and count; a handshake has none
    "unsteady_share": 0.0,  # of the visits in a record's first `unsteady_seconds`: refused with one of NEW_RECORD
    "unsteady_seconds": 60.0,
    "unsteady_seed": 0,  # the same seed refuses the same visits
    "blocked_paths": [],  # a rule of the owner's blocks what begins with one of these: `error code: 1020`
    "http2_to_origin": True,
}
PATH = "/_sandbox/edge/knobs"


class EdgeKnobs:
    """The settings, kept in the account's state as plain values."""

    def __init__(self, state: dict[str, Any], on_change: Callable[[], None] = lambda: None) -> None:
        self._state: dict[str, Any] = state.setdefault("edge", {})
        self._on_change = on_change
        self._chance = random.Random(self["unsteady_seed"])  # noqa: S311 - nothing secret is drawn

    def __getitem__(self, name: str) -> Any:
        """Return a setting."""
        return self._state.get(name, KNOBS[name])

    def all(self) -> dict[str, Any]:
        """Return all settings."""
        return {name: self[name] for name in KNOBS}

    def set(self, settings: dict[str, Any]) -> None:
        """Turn knobs; raise ValueError for one that does not exist or cannot have the value."""
        for name, value in settings.items():
            if name not in KNOBS:
                raise ValueError(f"unknown knob {name!r}; there are {', '.join(KNOBS)}")
            if not _FITS[name](value):
                raise ValueError(f"{value!r} is no value of {name}")
        self._state.update(settings)
        self._chance = random.Random(self["unsteady_seed"])  # noqa: S311 - nothing secret is drawn
        self._on_change()

    def reset(self) -> None:
        """Give every knob its default."""
        self._state.clear()
        self._on_change()

    def refuses_handshake(self, records: Iterable[dict[str, Any]]) -> bool:
        """Return whether the TLS handshake for a name with these records is to be refused now."""
        if self["refusals"][:1] == [ALERT]:
            self._take_refusal()
            return True
        return self._refuses_new(records) and self._chance.choice(NEW_RECORD) == ALERT

    def refusal(self, path: str, records: Iterable[dict[str, Any]]) -> EdgeError | None:
        """Return what a request for a name with these records is to be refused with now; None for nothing."""
        if not path.startswith(self["refused_path"]):
            return None
        if self["refusals"] and self["refusals"][0] != ALERT:
            return REFUSALS.get(self._take_refusal())
        if not self._refuses_new(records):
            return None
        return REFUSALS.get(self._chance.choice(NEW_RECORD))

    def routes(self) -> list[Route]:
        """Return the control route: GET all, PUT some, DELETE for the defaults."""

        async def knobs(request: Request) -> Response:
            if request.method == "DELETE":
                self.reset()
            if request.method == "PUT":
                try:
                    self.set(await read_object(request))
                except ValueError as exc:
                    return JSONResponse({"error": str(exc)}, 422)
            return JSONResponse(self.all())

        return [Route(PATH, knobs, methods=["GET", "PUT", "DELETE"])]

    def _take_refusal(self) -> int:
        first: int
        first, *rest = self["refusals"]
        self._state["refusals"] = rest
        self._on_change()
        return first

    def _refuses_new(self, records: Iterable[dict[str, Any]]) -> bool:
        share: float = self["unsteady_share"]
        if not share:
            return False
        since = min((dt.datetime.fromisoformat(one["created_on"]) for one in records), default=None)
        if since is None or (dt.datetime.now(dt.UTC) - since).total_seconds() > self["unsteady_seconds"]:
            return False
        return self._chance.random() < share


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and value >= 0


_FITS: dict[str, Callable[[Any], bool]] = {
    "refusals": lambda value: isinstance(value, list) and all(one in (0, ALERT, *REFUSALS) for one in value),
    "unsteady_share": lambda value: _is_number(value) and value <= 1,
    "unsteady_seconds": _is_number,
    "unsteady_seed": lambda value: _is_number(value) and isinstance(value, int),
    "refused_path": lambda value: isinstance(value, str),
    "blocked_paths": lambda value: isinstance(value, list) and all(isinstance(one, str) for one in value),
    "http2_to_origin": lambda value: isinstance(value, bool),
}
