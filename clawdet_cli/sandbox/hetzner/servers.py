"""Servers once ordered: how they are shown, renamed, brought up and deleted."""

import asyncio
from typing import Any

from starlette.responses import Response

from clawdet_cli.sandbox.hetzner import firewalls, placement_groups, primary_ips
from clawdet_cli.sandbox.hetzner.actions import Actions, Effect, Run, render_action
from clawdet_cli.sandbox.hetzner.call import Call, Route, ok
from clawdet_cli.sandbox.hetzner.catalog import LOCATIONS, SERVER_TYPES, Record, by_id_or_name, datacenter_of
from clawdet_cli.sandbox.hetzner.catalog_api import render_type
from clawdet_cli.sandbox.hetzner.errors import protected, taken
from clawdet_cli.sandbox.hetzner.images import render as render_image
from clawdet_cli.sandbox.hetzner.state import Project
from clawdet_cli.sandbox.hetzner.validation import check_hostname, check_labels
from clawdet_cli.sandbox.machines import MachineSpec


def server_type_of(server: Record) -> Record:
    """Return the catalog's entry of a server's type."""
    return _catalogued(SERVER_TYPES, server["_server_type"])


def location_of(server: Record) -> Record:
    """Return the catalog's entry of a server's location."""
    return _catalogued(LOCATIONS, server["_location"])


def _catalogued(records: tuple[Record, ...], name: str) -> Record:
    record = by_id_or_name(records, name)
    if record is None:
        raise LookupError(f"{name} is not in the catalog")
    return record


def render(project: Project, actions: Actions, server: Record) -> Record:
    """Return a server as the API shows it."""
    number = server["id"]
    group = project.find("placement_group", server["_placement_group"] or "")
    ipv4 = primary_ips.of_server(project, number, "ipv4")
    ipv6 = primary_ips.of_server(project, number, "ipv6")
    shown = {name: value for name, value in server.items() if not name.startswith("_")}
    return {
        **shown,
        "public_net": {
            "ipv4": _render_ip(ipv4, ipv4["dns_ptr"][0]["dns_ptr"] if ipv4 and ipv4["dns_ptr"] else "")
            if ipv4
            else None,
            "ipv6": _render_ip(ipv6, ipv6["dns_ptr"]) if ipv6 else None,
            "floating_ips": [],
            "firewalls": firewalls.attachments(project, number),
        },
        "private_net": [],
        "server_type": render_type(project.cloud, server_type_of(server)),
        "location": location_of(server),
        **({"datacenter": datacenter_of(location_of(server))} if project.cloud.knob("with_datacenter") else {}),
        "image": render_image(server["_image"]),
        "iso": None,
        # Recorded as false while a server is being created, although it refuses other calls by then.
        "locked": server["status"] not in ("initializing", "starting") and actions.is_locked(project, "server", number),
        "backup_window": None,
        "outgoing_traffic": 0,
        "ingoing_traffic": 0,
        "included_traffic": 0,
        "volumes": [],
        "load_balancers": [],
        "placement_group": placement_groups.render(project, group) if group else None,
    }


def _render_ip(record: Record, pointer: Any) -> Record:
    return {"id": record["id"], "ip": record["ip"], "blocked": record["blocked"], "dns_ptr": pointer}


def check_name_is_free(project: Project, name: str) -> None:
    """Raise a 409 for a name in use; it stays in use until a deletion has ended."""
    if any(server["name"] == name for server in project.all("server")):
        raise taken("server name is already used")


async def boot(run: Run, server: Record) -> None:
    """Power a server on, unless the knobs forbid it, and show it as running."""
    server["_powered"] = not run.cloud.knob("boot_never")
    if server["_powered"]:
        await run.cloud.machines.boot(_spec(run.project, server))
    server["status"] = "running"


async def cancel_power_changes(run: Run) -> None:
    """End what happens to a server's power beside its actions: a shutdown under way, the boot after a restart."""
    await run.actions.cancel(run, "_halt", "_resume")


async def power_off(run: Run, server: Record, *, graceful: bool) -> None:
    """Power a server off, and show it as off."""
    await run.cloud.machines.power_off(server["id"], graceful=graceful)
    server.update(status="off", _powered=False)


def _spec(project: Project, server: Record) -> MachineSpec:
    ipv4 = primary_ips.of_server(project, server["id"], "ipv4")
    return MachineSpec(
        server_id=server["id"],
        name=server["_hostname"],
        ipv4=ipv4["ip"] if ipv4 else "",
        disk_gigabytes=server["primary_disk_size"],
        image=server["_image"].get("_system_image", server["_image"]["name"]),
        user_data=server["_user_data"],
        public_keys=tuple(server["_public_keys"]),
    )


def resume(actions: Actions) -> None:
    """Bring the servers that were up back up, and go on with what was under way."""
    actions.resume()
    for project in actions.cloud.projects():
        for server in project.all("server"):
            # One in the middle of an action comes up, or does not, with that action.
            if server["status"] == "running" and server["_powered"]:
                server["status"] = "starting"
                actions.begin(project, "_resume", [("server", server["id"])], seconds=0)


async def _resumed(run: Run) -> None:
    await boot(run, run.server())


async def _created(run: Run) -> None:
    if run.args["stuck"]:
        await asyncio.Event().wait()
    await run.pause()
    run.server()["status"] = "starting" if run.args["start"] else "off"
    run.cloud.changed()


async def _started(run: Run) -> None:
    server = run.server()
    if server["status"] == "running":
        await run.pause()
        return
    server["status"] = "starting"
    await cancel_power_changes(run)
    try:
        await run.pause()
        await boot(run, server)
    except Exception:
        server["status"] = "off"
        raise


def _list(call: Call) -> Response:
    servers = call.project.all("server")
    return call.page("servers", servers, lambda s: render(call.project, call.actions, s), ("name", "status"))


def _get(call: Call) -> Response:
    return ok(server=render(call.project, call.actions, call.resource("server")))


def _update(call: Call) -> Response:
    server = call.resource("server")
    body = call.body({"name": "string", "labels": "object"})
    check_labels(body.get("labels", {}))
    if body.get("name", server["name"]) != server["name"]:
        check_hostname(body["name"])
        check_name_is_free(call.project, body["name"])
    server.update(body)
    firewalls.follow_selectors(call.project, call.actions)
    return ok(server=render(call.project, call.actions, server))


def _delete(call: Call) -> Response:
    server = call.resource("server")
    if server["protection"]["delete"]:
        raise protected("server")
    if server["status"] != "initializing":
        call.actions.check_unlocked(call.project, "server", server["id"])
    server["status"] = "deleting"
    action = call.actions.begin(
        call.project, "delete_server", [("server", server["id"])], seconds=call.cloud.knob("delete_seconds")
    )
    return ok(action=render_action(action))


async def _deleted(run: Run) -> None:
    server = run.server()
    server["status"] = "deleting"
    await run.actions.cancel(run)
    await run.pause()
    await run.cloud.machines.remove(server["id"])
    run.project.remove("server", server["id"])
    firewalls.begin_release(run.project, run.actions, server["id"])
    run.actions.begin(run.project, "_detach", [("server", server["id"])], seconds=run.cloud.knob("release_seconds"))


async def _detached(run: Run) -> None:
    await run.pause()
    primary_ips.release_of_deleted(run.project, run.resource("server"))


ROUTES = (
    Route("GET", "/servers", _list),
    Route("GET", "/servers/{id}", _get),
    Route("PUT", "/servers/{id}", _update),
    Route("DELETE", "/servers/{id}", _delete),
)
EFFECTS: dict[str, Effect] = {
    "create_server": _created,
    "start_server": _started,
    "delete_server": _deleted,
    "_detach": _detached,
    "_resume": _resumed,
}
