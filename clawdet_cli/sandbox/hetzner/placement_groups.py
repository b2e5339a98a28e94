"""Placement groups."""

from starlette.responses import Response

from clawdet_cli.sandbox.hetzner.call import Call, Route, created, gone, ok
from clawdet_cli.sandbox.hetzner.catalog import Record
from clawdet_cli.sandbox.hetzner.errors import ApiError, invalid_field, limit_exceeded, taken
from clawdet_cli.sandbox.hetzner.state import Project
from clawdet_cli.sandbox.hetzner.validation import check_labels, check_name

SERVERS = 10
_PER_PROJECT = 50


def render(project: Project, group: Record) -> Record:
    """Return a placement group as the API shows it."""
    members = [server["id"] for server in project.all("server") if server["_placement_group"] == group["id"]]
    return {**group, "servers": members}


def _create(call: Call) -> Response:
    body = call.body({"name": "*string", "type": "*string", "labels": "object"})
    check_name(body["name"])
    check_labels(body.get("labels", {}))
    if body["type"] != "spread":
        raise invalid_field("type", "Must be one of: spread.")
    _check_name_is_free(call.project, body["name"])
    if len(call.project.table("placement_group")) >= _PER_PROJECT:
        raise limit_exceeded("placement group limit exceeded", "placement_group_limit")
    group = {
        "id": call.cloud.new_id("placement_group"),
        "name": body["name"],
        "labels": body.get("labels", {}),
        "type": "spread",
        "created": call.cloud.now_text(),
    }
    call.project.add("placement_group", group)
    return created(placement_group=render(call.project, group), action=None)


def _check_name_is_free(project: Project, name: str) -> None:
    if any(group["name"] == name for group in project.all("placement_group")):
        raise taken("placement group name is already used", "name")


def _list(call: Call) -> Response:
    groups = call.project.all("placement_group")
    return call.page("placement_groups", groups, lambda group: render(call.project, group), ("name", "type"))


def _get(call: Call) -> Response:
    return ok(placement_group=render(call.project, call.resource("placement_group")))


def _update(call: Call) -> Response:
    group = call.resource("placement_group")
    body = call.body({"name": "string", "labels": "object"})
    check_labels(body.get("labels", {}))
    if body.get("name", group["name"]) != group["name"]:
        check_name(body["name"])
        _check_name_is_free(call.project, body["name"])
    group.update(body)
    return ok(placement_group=render(call.project, group))


def _delete(call: Call) -> Response:
    group = call.resource("placement_group")
    if render(call.project, group)["servers"]:
        raise ApiError(422, "resource_in_use", f"placement group with ID {group['id']} is still in use")
    call.project.remove("placement_group", group["id"])
    return gone()


ROUTES = (
    Route("POST", "/placement_groups", _create),
    Route("GET", "/placement_groups", _list),
    Route("GET", "/placement_groups/{id}", _get),
    Route("PUT", "/placement_groups/{id}", _update),
    Route("DELETE", "/placement_groups/{id}", _delete),
)
