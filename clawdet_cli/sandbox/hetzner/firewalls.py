"""Firewalls and what they are attached to.

`rules` is what the API shows, at once; `_active` is what holds, from the end of the action on. `_attached` maps a
server id to how the firewall came to it (by itself, by a label selector, or both) and whether it holds there yet.
`_lagging` holds the servers that are deleted already: whether they still count as use, and whether `applied_to` still
lists them, each for a time of its own.
"""

import copy
from typing import Any

from starlette.responses import Response

from clawdet_cli.sandbox.hetzner.actions import Actions, Effect, Run, render_action
from clawdet_cli.sandbox.hetzner.call import Call, Route, created, gone, ok
from clawdet_cli.sandbox.hetzner.catalog import Record
from clawdet_cli.sandbox.hetzner.errors import ApiError, invalid, invalid_field, limit_exceeded, taken
from clawdet_cli.sandbox.hetzner.firewall_rules import check_rules
from clawdet_cli.sandbox.hetzner.listing import matches_selector
from clawdet_cli.sandbox.hetzner.state import Project
from clawdet_cli.sandbox.hetzner.validation import check_fields, check_labels, check_name

PER_SERVER = 5


def attach_at_creation(firewall: Record, server_id: int) -> None:
    """Make a firewall hold from the server's first packet on."""
    firewall["_attached"][str(server_id)] = {"status": "applied", "by_id": True, "by_selector": False}


def attachments(project: Project, server_id: int) -> list[Record]:
    """Return a server's `public_net.firewalls`."""
    return [
        {"id": firewall["id"], "status": firewall["_attached"][str(server_id)]["status"]}
        for firewall in project.all("firewall")
        if str(server_id) in firewall["_attached"]
    ]


def begin_release(project: Project, actions: Actions, server_id: int) -> None:
    """Start what lets a deleted server go from all firewalls: out of use, and out of `applied_to`."""
    knob = project.cloud.knob
    for firewall in project.all("firewall"):
        entry = firewall["_attached"].pop(str(server_id), None)
        if entry is not None:
            left = {"in_use": True, "listed": entry["by_id"]}
            firewall.setdefault("_lagging", {})[str(server_id)] = left
            resources = [("server", server_id), ("firewall", int(firewall["id"]))]
            actions.begin(project, "_release_firewall", resources, seconds=knob("firewall_release_seconds"))
            actions.begin(project, "_unlist_server", resources, seconds=knob("applied_to_seconds"))


async def _released(run: Run) -> None:
    await run.pause()
    _let_go(run, "in_use")


async def _unlisted(run: Run) -> None:
    await run.pause()
    _let_go(run, "listed")


def _let_go(run: Run, mark: str) -> None:
    firewall = run.project.find("firewall", run.resource("firewall"))
    if firewall is None:
        return  # deleted as soon as it was out of use
    key = str(run.resource("server"))
    left = firewall["_lagging"][key]
    left[mark] = False
    if not any(left.values()):
        del firewall["_lagging"][key]


def follow_selectors(project: Project, actions: Actions) -> list[Record]:
    """Start what brings attachments in line with the label selectors; return these actions."""
    begun = []
    for firewall in project.all("firewall"):
        for server in project.all("server"):
            wanted = any(matches_selector(selector, server["labels"]) for selector in firewall["_selectors"])
            entry = firewall["_attached"].get(str(server["id"]))
            if wanted and not (entry and entry["by_selector"]):
                begun.append(_attach(project, actions, firewall, server["id"], "by_selector"))
            elif not wanted and entry and entry["by_selector"]:
                begun.append(_begin(project, actions, "remove_firewall", firewall, server["id"], by="by_selector"))
    return begun


def _attach(project: Project, actions: Actions, firewall: Record, server_id: int, by: str) -> Record:
    new: Record = {"status": "pending", "by_id": False, "by_selector": False}
    firewall["_attached"].setdefault(str(server_id), new)[by] = True
    return _begin(project, actions, "apply_firewall", firewall, server_id)


def _begin(
    project: Project, actions: Actions, command: str, firewall: Record, server_id: int, *, by: str | None = None
) -> Record:
    resources = [("server", server_id), ("firewall", int(firewall["id"]))]
    return actions.begin(project, command, resources, args={"by": by} if by else None)


async def _applied(run: Run) -> None:
    await run.pause()
    firewall = run.project.get("firewall", run.resource("firewall"))
    if entry := firewall["_attached"].get(str(run.resource("server"))):
        entry["status"] = "applied"


async def _removed(run: Run) -> None:
    await run.pause()
    attached = run.project.get("firewall", run.resource("firewall"))["_attached"]
    key = str(run.resource("server"))
    if entry := attached.get(key):
        entry[run.args["by"]] = False
        if not (entry["by_id"] or entry["by_selector"]):
            del attached[key]


async def _rules_set(run: Run) -> None:
    await run.pause()
    firewall = run.project.get("firewall", run.resource("firewall"))
    firewall["_active"] = copy.deepcopy(firewall["rules"])


def _lagging(firewall: Record) -> dict[str, Record]:
    found: dict[str, Record] = firewall.get("_lagging", {})  # a state saved by an earlier version has none
    return found


def render(project: Project, firewall: Record) -> Record:
    """Return a firewall as the API shows it."""
    listed = [key for key, entry in firewall["_attached"].items() if entry["by_id"]]
    listed += [key for key, left in _lagging(firewall).items() if left["listed"]]
    applied_to: list[Record] = [{"type": "server", "server": {"id": int(key)}} for key in listed]
    for selector in firewall["_selectors"]:
        matching = [s["id"] for s in project.all("server") if matches_selector(selector, s["labels"])]
        applied_to.append(
            {
                "type": "label_selector",
                "label_selector": {"selector": selector},
                "applied_to_resources": [{"type": "server", "server": {"id": number}} for number in matching],
            }
        )
    shown = {name: value for name, value in firewall.items() if not name.startswith("_")}
    return {**shown, "applied_to": applied_to}


def _check_targets(call: Call, targets: list[Any], missing_status: int) -> tuple[list[int], list[str]]:
    server_ids: list[int] = []
    selectors: list[str] = []
    for target in targets:
        if not isinstance(target, dict):
            raise invalid_field("apply_to", "Not a valid object.")
        given = check_fields(target, {"type": "*string", "server": "object", "label_selector": "object"})
        if given["type"] == "server":
            number = check_fields(given.get("server", {}), {"id": "*integer"})["id"]
            if call.project.find("server", number) is None:
                raise ApiError(missing_status, "firewall_resource_not_found", f"server with ID {number} not found")
            server_ids.append(number)
        elif given["type"] == "label_selector":
            selector = check_fields(given.get("label_selector", {}), {"selector": "*string"})["selector"]
            matches_selector(selector, {})
            selectors.append(selector)
        else:
            raise invalid_field("apply_to.type", "Must be one of: server, label_selector.")
    return server_ids, selectors


def _attach_all(call: Call, firewall: Record, server_ids: list[int], selectors: list[str]) -> list[Record]:
    for number in server_ids:
        others = [entry["id"] for entry in attachments(call.project, number) if entry["id"] != firewall["id"]]
        if len(others) >= PER_SERVER:
            raise limit_exceeded("firewall limit per server exceeded", "firewall_limit")
    firewall["_selectors"] += [selector for selector in selectors if selector not in firewall["_selectors"]]
    begun = [_attach(call.project, call.actions, firewall, number, "by_id") for number in server_ids]
    return [render_action(action) for action in begun + follow_selectors(call.project, call.actions)]


def _create(call: Call) -> Response:
    body = call.body({"name": "*string", "labels": "object", "rules": "array", "apply_to": "array"})
    check_name(body["name"])
    check_labels(body.get("labels", {}))
    rules = check_rules(body.get("rules", []))
    server_ids, selectors = _check_targets(call, body.get("apply_to", []), 422)
    if len(set(server_ids)) < len(server_ids):
        raise ApiError(422, "server_already_added", "server was applied more than once")
    _check_name_is_free(call.project, body["name"])
    firewall = call.project.add(
        "firewall",
        {
            "id": call.cloud.new_id("firewall"),
            "name": body["name"],
            "labels": body.get("labels", {}),
            "created": call.cloud.now_text(),
            "rules": rules,
            # Nothing can be attached yet, so there is no moment in which the rules are not in force.
            "_active": copy.deepcopy(rules),
            "_attached": {},
            "_selectors": [],
        },
    )
    begun = [call.begin("set_firewall_rules", ("firewall", firewall["id"]))] if rules else []
    begun += _attach_all(call, firewall, server_ids, selectors)
    return created(firewall=render(call.project, firewall), actions=begun)


def _check_name_is_free(project: Project, name: str) -> None:
    if any(firewall["name"] == name for firewall in project.all("firewall")):
        raise taken("firewall name is already used", "name")


def _list(call: Call) -> Response:
    return call.page("firewalls", call.project.all("firewall"), lambda fw: render(call.project, fw), ("name",))


def _get(call: Call) -> Response:
    return ok(firewall=render(call.project, call.resource("firewall")))


def _update(call: Call) -> Response:
    firewall = call.resource("firewall")
    body = call.body({"name": "string", "labels": "object"})
    check_labels(body.get("labels", {}))
    if body.get("name", firewall["name"]) != firewall["name"]:
        check_name(body["name"])
        _check_name_is_free(call.project, body["name"])
    firewall.update(body)
    return ok(firewall=render(call.project, firewall))


def _delete(call: Call) -> Response:
    firewall = call.resource("firewall")
    if firewall["_attached"] or any(left["in_use"] for left in _lagging(firewall).values()):
        raise ApiError(422, "resource_in_use", f"firewall with ID {firewall['id']} is still in use")
    call.project.remove("firewall", firewall["id"])
    return gone()


def _set_rules(call: Call) -> Response:
    firewall = call.resource("firewall")
    firewall["rules"] = check_rules(call.body({"rules": "*array"})["rules"])
    begun = [call.begin("set_firewall_rules", ("firewall", firewall["id"]))]
    begun += [
        call.begin("apply_firewall", ("server", int(key)), ("firewall", firewall["id"]))
        for key in firewall["_attached"]
    ]
    return created(actions=begun)


def _apply(call: Call) -> Response:
    firewall = call.resource("firewall")
    server_ids, selectors = _check_targets(call, call.body({"apply_to": "*array"})["apply_to"], 404)
    repeated = [key for key in map(str, server_ids) if firewall["_attached"].get(key, {}).get("by_id")]
    if repeated or any(selector in firewall["_selectors"] for selector in selectors):
        raise ApiError(422, "firewall_already_applied", "firewall is already applied to resource")
    return created(actions=_attach_all(call, firewall, server_ids, selectors))


def _remove(call: Call) -> Response:
    firewall = call.resource("firewall")
    server_ids, selectors = _check_targets(call, call.body({"remove_from": "*array"})["remove_from"], 404)
    for number in server_ids:
        entry = firewall["_attached"].get(str(number))
        if entry is None:
            raise ApiError(404, "firewall_resource_not_found", "firewall is not applied to resource")
        if not entry["by_id"]:
            raise ApiError(422, "firewall_managed_by_label_selector", "firewall is applied via a label selector")
    if unknown := [selector for selector in selectors if selector not in firewall["_selectors"]]:
        raise invalid(f"firewall is not applied to label selector '{unknown[0]}'")
    firewall["_selectors"] = [selector for selector in firewall["_selectors"] if selector not in selectors]
    begun = [_begin(call.project, call.actions, "remove_firewall", firewall, n, by="by_id") for n in server_ids]
    return created(actions=[render_action(a) for a in begun + follow_selectors(call.project, call.actions)])


ROUTES = (
    Route("POST", "/firewalls", _create),
    Route("GET", "/firewalls", _list),
    Route("GET", "/firewalls/{id}", _get),
    Route("PUT", "/firewalls/{id}", _update),
    Route("DELETE", "/firewalls/{id}", _delete),
    Route("POST", "/firewalls/{id}/actions/set_rules", _set_rules),
    Route("POST", "/firewalls/{id}/actions/apply_to_resources", _apply),
    Route("POST", "/firewalls/{id}/actions/remove_from_resources", _remove),
)
EFFECTS: dict[str, Effect] = {
    "apply_firewall": _applied,
    "remove_firewall": _removed,
    "set_firewall_rules": _rules_set,
    "_release_firewall": _released,
    "_unlist_server": _unlisted,
}
