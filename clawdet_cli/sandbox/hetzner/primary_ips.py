"""Primary IPs: a server's public addresses, which can outlive it."""

from ipaddress import ip_address

from starlette.responses import Response

from clawdet_cli.sandbox.hetzner.actions import Effect, Run
from clawdet_cli.sandbox.hetzner.call import Call, Route, created, gone, ok
from clawdet_cli.sandbox.hetzner.catalog import LOCATIONS, Record, by_id_or_name
from clawdet_cli.sandbox.hetzner.errors import ApiError, invalid, invalid_field, limit_exceeded, protected, taken
from clawdet_cli.sandbox.hetzner.state import Project
from clawdet_cli.sandbox.hetzner.validation import check_labels, check_name
from clawdet_cli.sandbox.machines import OutOfAddressesError

_LIMIT = ("Primary IP limit exceeded", "primary_ip_limit")


def check_limit(project: Project, wanted: int) -> None:
    """Raise a 403 when that many more would be too many."""
    limit = project.cloud.knob("primary_ip_limit")
    if limit is not None and project.cloud.count("primary_ip") + wanted > limit:
        raise limit_exceeded(*_LIMIT)


def order(project: Project, version: str, location: Record, *, name: str = "", auto_delete: bool = True) -> Record:
    """Allocate an address."""
    number = project.cloud.new_id("primary_ip")
    if version == "ipv4":
        ip = _claim_ipv4(project)
        pointers = [{"ip": ip, "dns_ptr": _default_pointer(ip)}]
    else:
        ip, pointers = f"2001:db8:{number >> 16 & 0xFFFF:x}:{number & 0xFFFF:x}::/64", []
    record: Record = {
        "id": number,
        "name": name or f"primary_ip-{number}",
        "labels": {},
        "created": project.cloud.now_text(),
        "blocked": False,
        "location": location,
        "ip": ip,
        "type": version,
        "auto_delete": auto_delete,
        "dns_ptr": pointers,
        "protection": {"delete": False},
        "assignee_type": "unassigned",
        "assignee_id": None,
    }
    return project.add("primary_ip", record)


def _claim_ipv4(project: Project) -> str:
    # After a restart the machines may not know yet which addresses the account holds.
    held = {ip["ip"] for other in project.cloud.projects() for ip in other.all("primary_ip")}
    while True:
        try:
            ipv4 = project.cloud.machines.claim_address()
        except OutOfAddressesError:
            raise limit_exceeded(*_LIMIT) from None
        if ipv4 not in held:
            return ipv4


def _default_pointer(ip: str) -> str:
    return f"static.{'.'.join(reversed(ip.split('.')))}.clients.your-server.de"


def assign(record: Record, server_id: int) -> None:
    """Give an address to a server."""
    record.update(assignee_type="server", assignee_id=server_id)


def unassign(record: Record) -> None:
    """Take an address from its server."""
    record.update(assignee_type="unassigned", assignee_id=None)


def of_server(project: Project, server_id: int, version: str) -> Record | None:
    """Return the server's address of that version."""
    for record in project.all("primary_ip"):
        if record["assignee_id"] == server_id and record["type"] == version:
            return record
    return None


def release_of_deleted(project: Project, server_id: int) -> None:
    """Delete or unassign what a deleted server had."""
    for record in project.all("primary_ip"):
        if record["assignee_id"] != server_id:
            continue
        if record["auto_delete"]:
            _release(project, record)
        else:
            unassign(record)


def _release(project: Project, record: Record) -> None:
    project.remove("primary_ip", record["id"])
    if record["type"] == "ipv4":
        project.cloud.machines.release_address(record["ip"])


def set_pointer(record: Record, ip: str, pointer: str | None) -> None:
    """Set or reset a reverse DNS entry."""
    others = [entry for entry in record["dns_ptr"] if entry["ip"] != ip]
    if pointer is None and record["type"] == "ipv4":
        pointer = _default_pointer(ip)
    record["dns_ptr"] = others + ([{"ip": ip, "dns_ptr": pointer}] if pointer else [])


def covers(record: Record, ip: str) -> bool:
    """Whether `ip` is the address, or lies in the network, of a primary IP."""
    try:
        if record["type"] == "ipv4":
            return bool(record["ip"] == str(ip_address(ip)))
        return str(ip_address(ip)).startswith(record["ip"].removesuffix(":/64"))
    except ValueError:
        return False


def check_assignable(project: Project, record: Record, server: Record) -> None:
    """Raise the error for an address that cannot go to that server now."""
    if record["assignee_id"] is not None:
        raise ApiError(422, "primary_ip_already_assigned", "primary IP is already assigned")
    if server["status"] != "off":
        raise ApiError(422, "server_not_stopped", "server must be powered off")
    if of_server(project, server["id"], record["type"]):
        raise ApiError(422, f"server_has_{record['type']}", f"server already has an {record['type']} address")
    if record["location"]["name"] != server["_location"]:
        raise invalid("primary IP and server are in different locations")


def _create(call: Call) -> Response:
    body = call.body(
        {
            "name": "*string",
            "type": "*string",
            "location": "ref",
            "assignee_type": "string",
            "assignee_id": "integer",
            "auto_delete": "boolean",
            "labels": "object",
        }
    )
    check_name(body["name"])
    check_labels(body.get("labels", {}))
    if body["type"] not in ("ipv4", "ipv6"):
        raise invalid_field("type", "Must be one of: ipv4, ipv6.")
    if body.get("assignee_type", "server") != "server":
        raise invalid_field("assignee_type", "Must be one of: server.")
    _check_name_is_free(call.project, body["name"])
    server = _assignee(call, body["assignee_id"]) if "assignee_id" in body else None
    location = by_id_or_name(LOCATIONS, server["_location"] if server else body.get("location", ""))
    if location is None:
        raise invalid_field("location", "Missing data for required field, or unknown location.")
    if server:
        if server["status"] != "off":
            raise ApiError(422, "server_not_stopped", "server must be powered off")
        if of_server(call.project, server["id"], body["type"]):
            raise ApiError(422, f"server_has_{body['type']}", f"server already has an {body['type']} address")
    check_limit(call.project, 1)
    auto_delete = body.get("auto_delete", False)
    record = order(call.project, body["type"], location, name=body["name"], auto_delete=auto_delete)
    record["labels"] = body.get("labels", {})
    action = None
    if server:
        assign(record, server["id"])
        action = call.begin("assign_primary_ip", ("primary_ip", record["id"]), ("server", server["id"]))
    return created(primary_ip=record, action=action)


def _assignee(call: Call, number: int) -> Record:
    server = call.project.find("server", number)
    if server is None:
        raise invalid_field("assignee_id", f"server with ID '{number}' not found")
    call.actions.check_unlocked(call.project, "server", number)
    return server


def _check_name_is_free(project: Project, name: str) -> None:
    if any(record["name"] == name for record in project.all("primary_ip")):
        raise taken("primary IP name is already used", "name")


def _list(call: Call) -> Response:
    sortable = ("id", "created")
    return call.page("primary_ips", call.project.all("primary_ip"), dict, ("name", "ip"), sortable)


def _get(call: Call) -> Response:
    return ok(primary_ip=call.resource("primary_ip"))


def _update(call: Call) -> Response:
    record = call.resource("primary_ip")
    body = call.body({"name": "string", "labels": "object", "auto_delete": "boolean"})
    check_labels(body.get("labels", {}))
    if body.get("name", record["name"]) != record["name"]:
        check_name(body["name"])
        _check_name_is_free(call.project, body["name"])
    record.update(body)
    return ok(primary_ip=record)


def _delete(call: Call) -> Response:
    record = call.resource("primary_ip")
    if record["protection"]["delete"]:
        raise protected("primary IP")
    if record["assignee_id"] is not None:
        raise ApiError(422, "must_be_unassigned", "primary IP must be unassigned")
    _release(call.project, record)
    return gone()


def _assign(call: Call) -> Response:
    record = call.resource("primary_ip")
    body = call.body({"assignee_id": "*integer", "assignee_type": "*string"})
    server = _assignee(call, body["assignee_id"])
    check_assignable(call.project, record, server)
    assign(record, server["id"])
    return created(action=call.begin("assign_primary_ip", ("primary_ip", record["id"]), ("server", server["id"])))


def _unassign(call: Call) -> Response:
    record = call.resource("primary_ip")
    if record["assignee_id"] is None:
        raise invalid("primary IP is not assigned")
    server = _assignee(call, record["assignee_id"])
    if server["status"] != "off":
        raise ApiError(422, "server_not_stopped", "server must be powered off")
    action = call.begin("unassign_primary_ip", ("server", server["id"]), ("primary_ip", record["id"]))
    return created(action=action)


async def _unassigned(run: Run) -> None:
    await run.pause()
    unassign(run.project.get("primary_ip", run.resource("primary_ip")))


def _change_protection(call: Call) -> Response:
    record = call.resource("primary_ip")
    body = call.body({"delete": "boolean"})
    record["protection"].update(body)
    return created(action=call.begin("change_protection", ("primary_ip", record["id"])))


def _change_dns_ptr(call: Call) -> Response:
    record = call.resource("primary_ip")
    body = call.body({"ip": "*string", "dns_ptr": "string"})
    if not covers(record, body["ip"]):
        raise invalid_field("ip", f"'{body['ip']}' does not belong to the primary IP")
    set_pointer(record, body["ip"], body.get("dns_ptr"))
    return created(action=call.begin("change_dns_ptr", ("primary_ip", record["id"])))


ROUTES = (
    Route("POST", "/primary_ips", _create),
    Route("GET", "/primary_ips", _list),
    Route("GET", "/primary_ips/{id}", _get),
    Route("PUT", "/primary_ips/{id}", _update),
    Route("DELETE", "/primary_ips/{id}", _delete),
    Route("POST", "/primary_ips/{id}/actions/assign", _assign),
    Route("POST", "/primary_ips/{id}/actions/unassign", _unassign),
    Route("POST", "/primary_ips/{id}/actions/change_protection", _change_protection),
    Route("POST", "/primary_ips/{id}/actions/change_dns_ptr", _change_dns_ptr),
)
EFFECTS: dict[str, Effect] = {"unassign_primary_ip": _unassigned}
