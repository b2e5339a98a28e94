"""The read-only routes: server types, locations, prices."""

from starlette.responses import Response

from clawdet_cli.sandbox.hetzner.call import Call, Route, ok
from clawdet_cli.sandbox.hetzner.catalog import LOCATIONS, SERVER_TYPES, Record, by_id_or_name, pricing
from clawdet_cli.sandbox.hetzner.errors import not_found
from clawdet_cli.sandbox.hetzner.state import Cloud


def is_sold_out(cloud: Cloud, server_type: str, location: str) -> bool:
    """Whether the knobs say that there is none left."""
    return [server_type, location] in [list(pair) for pair in cloud.knob("sold_out")]


def render_type(cloud: Cloud, server_type: Record) -> Record:
    """Return a server type as the API shows it now."""
    inverted = server_type["name"] in cloud.knob("available_inverted")
    places = [
        {
            **place,
            "available": (place["available"] and not is_sold_out(cloud, server_type["name"], place["name"]))
            != inverted,
        }
        for place in server_type["locations"]
    ]
    return {**server_type, "locations": places}


def _render_location(location: Record) -> Record:
    # Recorded in lists of locations, and in no other place; the specification does not know it.
    return {**location, "Active": True}


def _list_types(call: Call) -> Response:
    return call.page(
        "server_types",
        SERVER_TYPES,
        lambda kind: render_type(call.cloud, kind),
        ("name",),
        ("id", "name"),
        labelled=False,
    )


def _get_type(call: Call) -> Response:
    server_type = by_id_or_name(SERVER_TYPES, call.ids[0])
    if server_type is None:
        raise not_found("server_type", call.ids[0])
    return ok(server_type=render_type(call.cloud, server_type))


def _list_locations(call: Call) -> Response:
    return call.page("locations", LOCATIONS, _render_location, ("name",), ("id", "name"), labelled=False)


def _get_location(call: Call) -> Response:
    location = by_id_or_name(LOCATIONS, call.ids[0])
    if location is None:
        raise not_found("location", call.ids[0])
    return ok(location=_render_location(location))


def _pricing(call: Call) -> Response:
    return ok(pricing=pricing(call.cloud.knob("currency")))


ROUTES = (
    Route("GET", "/server_types", _list_types),
    Route("GET", "/server_types/{id}", _get_type),
    Route("GET", "/locations", _list_locations),
    Route("GET", "/locations/{id}", _get_location),
    Route("GET", "/pricing", _pricing),
)
