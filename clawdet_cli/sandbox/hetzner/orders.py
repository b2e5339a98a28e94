"""POST /servers: everything is checked before anything is ordered."""

import secrets
from typing import Any

from starlette.responses import Response

from clawdet_cli.sandbox.hetzner import firewalls, placement_groups, primary_ips, servers
from clawdet_cli.sandbox.hetzner.actions import render_action
from clawdet_cli.sandbox.hetzner.call import Call, Route, created
from clawdet_cli.sandbox.hetzner.catalog import (
    ASIA,
    EU,
    LOCATIONS,
    SERVER_TYPES,
    US,
    Record,
    by_id_or_name,
    is_gone,
    location_of,
)
from clawdet_cli.sandbox.hetzner.catalog_api import is_sold_out
from clawdet_cli.sandbox.hetzner.errors import ApiError, invalid, invalid_field, limit_exceeded
from clawdet_cli.sandbox.hetzner.images import find as find_image
from clawdet_cli.sandbox.hetzner.state import Cloud
from clawdet_cli.sandbox.hetzner.validation import check_fields, check_hostname, check_labels, check_user_data

_FIELDS = {
    "name": "*string",
    "server_type": "*ref",
    "image": "*ref",
    "location": "ref",
    "ssh_keys": "array",
    "firewalls": "array",
    "user_data": "string",
    "labels": "object",
    "start_after_create": "boolean",
    "public_net": "object",
    "placement_group": "integer",
    "networks": "array",
    "volumes": "array",
    "automount": "boolean",
}
_PUBLIC_NET = {"enable_ipv4": "boolean", "enable_ipv6": "boolean", "ipv4": "integer", "ipv6": "integer"}


def checked_type(cloud: Cloud, wanted: str | int, location: str) -> Record:
    """Return a server type that is still sold in that location, or raise the 422."""
    server_type = by_id_or_name(SERVER_TYPES, wanted)
    if server_type is None:
        raise invalid("invalid server type")
    place = location_of(server_type, location)
    if place is None:
        raise invalid("unsupported location for server type")
    if is_gone(place, cloud.clock.now()):
        raise invalid(f"server type {server_type['id']} is deprecated")
    return server_type


def checked_image(call: Call, wanted: str | int, server_type: Record) -> Record:
    """Return an image that fits the server type, or raise the 422."""
    image = find_image(call.project, wanted, server_type["architecture"])
    if image is None:
        raise invalid("image not found")
    if image["status"] != "available":
        raise invalid("image is not available")
    if image["architecture"] != server_type["architecture"]:
        raise invalid("image architecture does not match server type architecture")
    if image["disk_size"] > server_type["disk"]:
        raise invalid("image disk is bigger than server type disk")
    return image


def root_password() -> str:
    """Return a password as the API makes them up."""
    return secrets.token_urlsafe(15)


def _location(call: Call, body: dict[str, Any]) -> Record:
    if "location" in body:
        location = by_id_or_name(LOCATIONS, body["location"])
        if location is None:
            raise invalid_field("location", "location not found")
        return location
    server_type = by_id_or_name(SERVER_TYPES, body["server_type"])
    if server_type is None:
        raise invalid("invalid server type")
    for name in (*EU, *US, *ASIA):
        place = location_of(server_type, name)
        if (
            place
            and not is_gone(place, call.cloud.clock.now())
            and not is_sold_out(call.cloud, server_type["name"], name)
        ):
            return next(location for location in LOCATIONS if location["name"] == name)
    return LOCATIONS[0]


def _ssh_keys(call: Call, wanted: list[Any]) -> list[str]:
    keys = []
    for reference in wanted:
        for key in call.project.all("ssh_key"):
            if reference in (key["id"], key["name"]):
                keys.append(key["public_key"])
                break
        else:
            raise invalid_field("ssh_keys", f"SSH key '{reference}' not found")
    return keys


def _firewalls(call: Call, wanted: list[Any]) -> list[Record]:
    found = []
    for entry in wanted:
        number = check_fields(entry if isinstance(entry, dict) else {}, {"firewall": "*integer"})["firewall"]
        firewall = call.project.find("firewall", number)
        if firewall is None:
            raise invalid_field("firewalls", f"firewall with ID '{number}' not found")
        found.append(firewall)
    if len(found) > firewalls.PER_SERVER:
        raise limit_exceeded("firewall limit per server exceeded", "firewall_limit")
    return found


def _placement_group(call: Call, number: int | None) -> Record | None:
    if number is None:
        return None
    group = call.project.find("placement_group", number)
    if group is None:
        raise invalid_field("placement_group", f"placement group with ID '{number}' not found")
    if len(placement_groups.render(call.project, group)["servers"]) >= placement_groups.SERVERS:
        raise ApiError(422, "placement_error", f"placement group contains already {placement_groups.SERVERS} servers")
    return group


def _kept_ips(call: Call, public_net: Record, location: Record) -> list[Record]:
    """Return the existing primary IPs that the new server shall have."""
    kept = []
    for version in ("ipv4", "ipv6"):
        number = public_net.get(version)
        if number is None:
            continue
        record = call.project.find("primary_ip", number)
        if record is None:
            raise invalid_field(f"public_net.{version}", f"primary IP with ID '{number}' not found")
        if record["type"] != version:
            raise ApiError(412, "primary_ip_version_mismatch", "primary IP has the wrong IP version")
        if record["assignee_id"] is not None:
            raise ApiError(422, "primary_ip_assigned", "primary IP is already assigned to a server")
        if record["location"]["name"] != location["name"]:
            raise ApiError(422, "primary_ip_datacenter_mismatch", "primary IP is in a different location")
        kept.append(record)
    return kept


def _wanted_versions(call: Call, public_net: Record, kept: list[Record]) -> list[str]:
    """Return the IP versions of which the server gets a new address."""
    versions = [version for version in ("ipv4", "ipv6") if public_net.get(f"enable_{version}", True)]
    if not versions:
        raise invalid("server needs a public or a private network")
    if call.cloud.knob("no_ipv4"):
        versions = [version for version in versions if version != "ipv4"]
    return [version for version in versions if version not in [record["type"] for record in kept]]


def _create(call: Call) -> Response:
    body = call.body(_FIELDS)
    check_hostname(body["name"])
    labels = body.get("labels", {})
    check_labels(labels)
    check_user_data(body.get("user_data", ""))
    if body.get("networks") or body.get("volumes"):
        raise invalid("networks and volumes do not exist in the sandbox")
    location = _location(call, body)
    server_type = checked_type(call.cloud, body["server_type"], location["name"])
    image = checked_image(call, body["image"], server_type)
    public_keys = _ssh_keys(call, body.get("ssh_keys", []))
    attached = _firewalls(call, body.get("firewalls", []))
    public_net = check_fields(body.get("public_net", {}), _PUBLIC_NET)
    kept = _kept_ips(call, public_net, location)
    versions = _wanted_versions(call, public_net, kept)
    group = _placement_group(call, body.get("placement_group"))
    servers.check_name_is_free(call.project, body["name"])
    limit = call.cloud.knob("server_limit")
    if limit is not None and call.cloud.count("server") >= limit:
        raise limit_exceeded("server limit exceeded", "server_limit")
    primary_ips.check_limit(call.project, len(versions))
    if is_sold_out(call.cloud, server_type["name"], location["name"]):
        raise ApiError(412, "resource_unavailable", "error during placement")
    # IPv4 first: it can be refused for want of addresses, and then nothing must be left behind.
    new = [primary_ips.order(call.project, version, location) for version in versions]

    password = None if public_keys else root_password()
    server: Record = {
        "id": call.cloud.new_id("server"),
        "name": body["name"],
        "status": "initializing",
        "created": call.cloud.now_text(),
        "labels": labels,
        "rescue_enabled": False,
        "protection": {"delete": False, "rebuild": False},
        "primary_disk_size": server_type["disk"],
        "_hostname": body["name"],
        "_server_type": server_type["name"],
        "_location": location["name"],
        "_image": image,
        "_user_data": body.get("user_data", ""),
        "_public_keys": public_keys,
        "_placement_group": group["id"] if group else None,
        "_powered": False,
    }
    call.project.add("server", server)
    for record in kept + new:
        primary_ips.assign(record, server["id"])
    for firewall in attached:
        firewalls.attach_at_creation(firewall, server["id"])
    start = body.get("start_after_create", True)
    action = call.actions.begin(
        call.project,
        "create_server",
        [("server", server["id"]), ("image", image["id"])],
        args={"start": start, "stuck": bool(call.cloud.knob("stuck_initializing"))},
    )
    following = []
    if start:
        following.append(call.actions.begin(call.project, "start_server", [("server", server["id"])], parent=action))
    firewalls.follow_selectors(call.project, call.actions)
    return created(
        server=servers.render(call.project, call.actions, server),
        action=render_action(action),
        next_actions=[render_action(following_action) for following_action in following],
        root_password=password,
    )


ROUTES = (Route("POST", "/servers", _create),)
