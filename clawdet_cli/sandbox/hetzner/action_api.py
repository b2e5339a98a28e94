"""Reading actions, alone or by resource, and what the API has withdrawn."""

from collections.abc import Callable

from starlette.responses import Response

from clawdet_cli.sandbox.hetzner.actions import is_visible, render_action
from clawdet_cli.sandbox.hetzner.call import Call, Route, ok
from clawdet_cli.sandbox.hetzner.catalog import IMAGES, Record, by_id_or_name
from clawdet_cli.sandbox.hetzner.errors import ApiError, invalid_field, not_found

_SORTABLE = ("id", "command", "status", "progress", "started", "finished")


def _is_shown(action: Record, kind: str | None, number: int | None) -> bool:
    about = kind is None or any(
        of["type"] == kind and (number is None or of["id"] == number) for of in action["resources"]
    )
    return about and is_visible(action)


def _visible(call: Call, kind: str | None = None, number: int | None = None) -> list[Record]:
    return [action for action in call.project.all("action") if _is_shown(action, kind, number)]


def _page(call: Call, actions: list[Record], filters: tuple[str, ...] = ("status",)) -> Response:
    return call.page("actions", actions, render_action, filters, _SORTABLE, labelled=False)


def _list(call: Call) -> Response:
    wanted = call.query.getlist("id")
    if not wanted:
        raise ApiError(410, "deprecated_api_endpoint", "listing arbitrary actions was removed, give their ids")
    if not all(number.isdecimal() for number in wanted):
        raise invalid_field("id", "Not a valid integer.")
    return _page(call, _visible(call), ("id", "status"))


def _get(call: Call) -> Response:
    return ok(action=_found(call))


def _found(call: Call, kind: str | None = None, number: int | None = None) -> Record:
    action = call.project.get("action", call.ids[-1])
    if not _is_shown(action, kind, number):
        raise not_found("action", call.ids[-1])
    return render_action(action)


def _list_of_kind(kind: str) -> Callable[[Call], Response]:
    return lambda call: _page(call, _visible(call, kind))


def _get_of_kind(kind: str) -> Callable[[Call], Response]:
    return lambda call: ok(action=_found(call, kind))


def _check_resource(call: Call, kind: str) -> None:
    if not (kind == "image" and by_id_or_name(IMAGES, call.ids[0])):
        call.resource(kind)


def _list_of_resource(kind: str) -> Callable[[Call], Response]:
    def answer(call: Call) -> Response:
        _check_resource(call, kind)
        return _page(call, _visible(call, kind, call.ids[0]))

    return answer


def _get_of_resource(kind: str) -> Callable[[Call], Response]:
    def answer(call: Call) -> Response:
        _check_resource(call, kind)
        return ok(action=_found(call, kind, call.ids[0]))

    return answer


def _withdrawn(_call: Call) -> Response:
    raise ApiError(410, "deprecated_api_endpoint", "this endpoint was removed")


def _routes_of_kind(kind: str) -> tuple[Route, ...]:
    return (
        Route("GET", f"/{kind}s/actions", _list_of_kind(kind)),
        Route("GET", f"/{kind}s/actions/{{id}}", _get_of_kind(kind)),
        Route("GET", f"/{kind}s/{{id}}/actions", _list_of_resource(kind)),
        Route("GET", f"/{kind}s/{{id}}/actions/{{id}}", _get_of_resource(kind)),
    )


ROUTES = (
    Route("GET", "/actions", _list),
    Route("GET", "/actions/{id}", _get),
    *(route for kind in ("server", "firewall", "image", "primary_ip") for route in _routes_of_kind(kind)),
    Route("GET", "/datacenters", _withdrawn),
    Route("GET", "/datacenters/{id}", _withdrawn),
)
