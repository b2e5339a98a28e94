"""POST /servers/{id}/actions/...: power, image, type, protection."""

from collections.abc import Callable

from starlette.responses import Response

from clawdet_cli.sandbox.hetzner import primary_ips
from clawdet_cli.sandbox.hetzner.actions import Effect, Run
from clawdet_cli.sandbox.hetzner.call import Call, Route, created
from clawdet_cli.sandbox.hetzner.catalog import Record
from clawdet_cli.sandbox.hetzner.errors import ApiError, invalid, invalid_field, protected
from clawdet_cli.sandbox.hetzner.images import create_snapshot
from clawdet_cli.sandbox.hetzner.orders import checked_image, checked_type, root_password
from clawdet_cli.sandbox.hetzner.servers import boot, cancel_power_changes, power_off, server_type_of
from clawdet_cli.sandbox.hetzner.validation import check_user_data


def _unlocked(call: Call) -> Record:
    server = call.resource("server")
    call.actions.check_unlocked(call.project, "server", server["id"])
    return server


def _simple(command: str) -> Callable[[Call], Response]:
    def answer(call: Call) -> Response:
        server = _unlocked(call)
        call.body({})
        return created(action=call.begin(command, ("server", server["id"])))

    return answer


async def _stopped(run: Run) -> None:
    server = run.server()
    await cancel_power_changes(run)
    if server["status"] != "off":
        server["status"] = "stopping"
    await run.pause()
    await power_off(run, server, graceful=False)


async def _shutdown_sent(run: Run) -> None:
    """Succeed when ACPI was sent; that the guest goes down comes later, or never."""
    await run.pause()
    server = run.server()
    if server["status"] == "running" and not run.cloud.knob("shutdown_ignored"):
        server["status"] = "stopping"
        run.actions.begin(run.project, "_halt", [("server", server["id"])])


async def _halted(run: Run) -> None:
    await run.pause()
    await power_off(run, run.server(), graceful=True)


async def _rebooted(run: Run) -> None:
    await _restart(run, graceful=True)


async def _reset(run: Run) -> None:
    await _restart(run, graceful=False)


async def _restart(run: Run, *, graceful: bool) -> None:
    server = run.server()
    await cancel_power_changes(run)
    await run.pause()
    await power_off(run, server, graceful=graceful)
    await boot(run, server)


def _change_protection(call: Call) -> Response:
    server = call.resource("server")
    body = call.body({"delete": "boolean", "rebuild": "boolean"})
    wanted = {**server["protection"], **body}
    if wanted["delete"] != wanted["rebuild"]:
        raise invalid("delete and rebuild protection must be equal")
    server["protection"] = wanted
    return created(action=call.begin("change_protection", ("server", server["id"])))


def _change_dns_ptr(call: Call) -> Response:
    server = call.resource("server")
    body = call.body({"ip": "*string", "dns_ptr": "string"})
    for version in ("ipv4", "ipv6"):
        record = primary_ips.of_server(call.project, server["id"], version)
        if record and primary_ips.covers(record, body["ip"]):
            primary_ips.set_pointer(record, body["ip"], body.get("dns_ptr"))
            return created(action=call.begin("change_dns_ptr", ("server", server["id"])))
    raise invalid_field("ip", f"'{body['ip']}' does not belong to the server")


def _change_type(call: Call) -> Response:
    server = _unlocked(call)
    body = call.body({"server_type": "*ref", "upgrade_disk": "*boolean"})
    if server["status"] != "off":
        raise ApiError(422, "server_not_stopped", "server must be powered off")
    new = checked_type(call.cloud, body["server_type"], server["_location"])
    if (
        new["name"] == server["_server_type"]
        or new["architecture"] != server_type_of(server)["architecture"]
        or new["disk"] < server["primary_disk_size"]
    ):
        raise ApiError(422, "invalid_server_type", "server type does not fit for the given server")
    args = {"server_type": new["name"], "disk": new["disk"] if body["upgrade_disk"] else server["primary_disk_size"]}
    return created(action=call.begin("change_server_type", ("server", server["id"]), args=args))


async def _type_changed(run: Run) -> None:
    await run.pause()
    run.server().update(_server_type=run.args["server_type"], primary_disk_size=run.args["disk"])


def _create_image(call: Call) -> Response:
    server = _unlocked(call)
    return create_snapshot(call, server, server_type_of(server))


def _rebuild(call: Call) -> Response:
    server = call.resource("server")
    body = call.body({"image": "*ref", "user_data": "string"})
    check_user_data(body.get("user_data", ""))
    if server["protection"]["rebuild"]:
        raise protected("server", "rebuild")
    call.actions.check_unlocked(call.project, "server", server["id"])
    image = checked_image(call, body["image"], server_type_of(server))
    args = {
        "image": image,
        "user_data": body.get("user_data", server["_user_data"]),
        "start": server["status"] == "running",
    }
    server["status"] = "rebuilding"
    action = call.begin("rebuild_server", ("server", server["id"]), ("image", image["id"]), args=args)
    return created(action=action, root_password=None if server["_public_keys"] else root_password())


async def _rebuilt(run: Run) -> None:
    server = run.server()
    await cancel_power_changes(run)
    try:
        await run.pause()
        await run.cloud.machines.remove(server["id"])
        server.update(_image=run.args["image"], _user_data=run.args["user_data"], _hostname=server["name"])
        if run.args["start"]:
            await boot(run, server)
        else:
            server.update(status="off", _powered=False)
    except Exception:
        server.update(status="off", _powered=False)
        raise


def _reset_password(call: Call) -> Response:
    server = _unlocked(call)
    if server["status"] != "running":
        raise invalid("server is not running")
    action = call.begin("reset_password", ("server", server["id"]))
    return created(action=action, root_password=root_password())


def _enable_rescue(call: Call) -> Response:
    server = _unlocked(call)
    body = call.body({"type": "string", "ssh_keys": "array"})
    if body.get("type", "linux64") != "linux64":
        raise invalid_field("type", "Must be one of: linux64.")
    server["rescue_enabled"] = True
    action = call.begin("enable_rescue", ("server", server["id"]))
    return created(action=action, root_password=root_password())


def _disable_rescue(call: Call) -> Response:
    server = _unlocked(call)
    server["rescue_enabled"] = False
    return created(action=call.begin("disable_rescue", ("server", server["id"])))


_ACTIONS: dict[str, Callable[[Call], Response]] = {
    "poweron": _simple("start_server"),
    "poweroff": _simple("stop_server"),
    "shutdown": _simple("shutdown_server"),
    "reboot": _simple("reboot_server"),
    "reset": _simple("reset_server"),
    "change_protection": _change_protection,
    "change_dns_ptr": _change_dns_ptr,
    "change_type": _change_type,
    "create_image": _create_image,
    "rebuild": _rebuild,
    "reset_password": _reset_password,
    "enable_rescue": _enable_rescue,
    "disable_rescue": _disable_rescue,
}
ROUTES = tuple(Route("POST", f"/servers/{{id}}/actions/{name}", answer) for name, answer in _ACTIONS.items())
EFFECTS: dict[str, Effect] = {
    "stop_server": _stopped,
    "shutdown_server": _shutdown_sent,
    "_halt": _halted,
    "reboot_server": _rebooted,
    "reset_server": _reset,
    "change_server_type": _type_changed,
    "rebuild_server": _rebuilt,
}
