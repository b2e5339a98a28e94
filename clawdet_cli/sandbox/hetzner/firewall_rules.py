"""Firewall rules: which are accepted, and what they let through."""

from ipaddress import ip_address, ip_network
from typing import Any

from clawdet_cli.sandbox.hetzner.catalog import Record
from clawdet_cli.sandbox.hetzner.errors import invalid_field
from clawdet_cli.sandbox.hetzner.validation import check_fields

_RULES = 50
_NETWORKS_PER_RULE = 100
_PROTOCOLS = ("tcp", "udp", "icmp", "esp", "gre")
_RULE_FIELDS = {
    "direction": "*string",
    "protocol": "*string",
    "port": "string",
    "source_ips": "array",
    "destination_ips": "array",
    "description": "string",
}


def firewall_allows(state: dict[str, Any], server_id: int, peer_ip: str, port: int) -> bool:
    """Whether the provider lets a TCP connection from `peer_ip` through to that port of the server.

    Without a firewall everything passes; with one or more, what an inbound rule of any of them allows. A server that is
    gone gets nothing.
    """
    for tables in state.get("projects", {}).values():
        if str(server_id) not in tables.get("server", {}):
            continue
        attached = [
            firewall
            for firewall in tables.get("firewall", {}).values()
            if firewall["_attached"].get(str(server_id), {}).get("status") == "applied"
        ]
        return not attached or any(
            _rule_allows(rule, peer_ip, port) for firewall in attached for rule in firewall["_active"]
        )
    return False


def _rule_allows(rule: Record, peer_ip: str, port: int) -> bool:
    if rule["direction"] != "in" or rule["protocol"] != "tcp":
        return False
    first, last = _port_range(rule["port"])
    peer = ip_address(peer_ip)
    return first <= port <= last and any(peer in ip_network(network) for network in rule["source_ips"])


def _port_range(text: str) -> tuple[int, int]:
    if text == "any":
        return 1, 65535
    first, _, last = text.partition("-")
    return int(first), int(last or first)


def check_rules(rules: list[Any]) -> list[Record]:
    """Return the rules in the API's full form; raise a 422 for those it would refuse."""
    if len(rules) > _RULES:
        raise invalid_field("rules", f"Length must be between 0 and {_RULES}.")
    return [_check_rule(rule) for rule in rules]


def _check_rule(rule: Any) -> Record:
    if not isinstance(rule, dict):
        raise invalid_field("rules", "Not a valid object.")
    given = check_fields(rule, _RULE_FIELDS)
    direction, protocol, port = given["direction"], given["protocol"], given.get("port")
    if direction not in ("in", "out"):
        raise invalid_field("rules.direction", "Must be one of: in, out.")
    if protocol not in _PROTOCOLS:
        raise invalid_field("rules.protocol", f"Must be one of: {', '.join(_PROTOCOLS)}.")
    if (port is not None) != (protocol in ("tcp", "udp")):
        raise invalid_field("rules.port", "A port is given for tcp and udp, and only for these.")
    if port is not None and not _is_port(port):
        raise invalid_field("rules.port", f"'{port}' is not a valid port or range.")
    networks = {"source_ips": given.get("source_ips", []), "destination_ips": given.get("destination_ips", [])}
    needed = "source_ips" if direction == "in" else "destination_ips"
    if not networks[needed]:
        raise invalid_field(f"rules.{needed}", "Missing data for required field.")
    for field, values in networks.items():
        if len(values) > _NETWORKS_PER_RULE:
            raise invalid_field(f"rules.{field}", f"Length must be between 0 and {_NETWORKS_PER_RULE}.")
        for value in values:
            if not _is_network(value):
                raise invalid_field(f"rules.{field}", f"'{value}' is not a valid network in CIDR notation.")
    description = given.get("description")
    if description is not None and len(description) > 255:
        raise invalid_field("rules.description", "Length must be between 0 and 255.")
    return {"direction": direction, "protocol": protocol, "port": port, "description": description, **networks}


def _is_port(text: str) -> bool:
    if text == "any":
        return True
    parts = text.split("-")
    if len(parts) > 2 or not all(part.isascii() and part.isdecimal() and len(part) <= len("65535") for part in parts):
        return False
    first, last = _port_range(text)
    return 1 <= first <= last <= 65535


def _is_network(value: Any) -> bool:
    try:
        return isinstance(value, str) and "/" in value and "%" not in value and ip_network(value) is not None
    except ValueError:
        return False
