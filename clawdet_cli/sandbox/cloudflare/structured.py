"""DNS records whose content is written as fields, in `data`, and read back as both: CAA and SRV.

Fields: the vendor's API reference (developers.cloudflare.com/api, DNS records). `content` is put together from them as
the acceptance tests of the vendor's Terraform provider expect: SRV's has no priority, and its fields are separated by
spaces (until 2024 by tabs).
"""

from typing import Any

from clawdet_cli.sandbox.cloudflare.envelope import validation_error

KINDS = ("CAA", "SRV")
_TAGS = ("issue", "issuewild", "iodef")


def fields(kind: str, data: object) -> dict[str, Any]:
    """Return the fields of a record that its `data` decides; raise the vendor's error for what cannot be."""
    if not isinstance(data, dict):
        data = {}  # what is missing is told field by field
    if kind == "CAA":
        flags, tag, value = _number(data, "flags", 255), data.get("tag"), data.get("value")
        if tag not in _TAGS or not isinstance(value, str) or not value or not value.isprintable() or '"' in value:
            raise validation_error(9101, "tag and value are required data fields.")
        return {"content": f'{flags} {tag} "{value}"', "data": {"flags": flags, "tag": tag, "value": value}}
    numbers = {name: _number(data, name, 65535) for name in ("priority", "weight", "port")}
    target = data.get("target")
    if not isinstance(target, str) or not target.strip(".") or not target.isascii() or " " in target:
        raise validation_error(9101, "target is a required data field.")
    target = target.rstrip(".").lower()
    return {
        "content": f"{numbers['weight']} {numbers['port']} {target}",
        "data": {**numbers, "target": target},
        "priority": numbers["priority"],
    }


def _number(data: dict[str, Any], name: str, most: int) -> int:
    number = data.get(name)
    if isinstance(number, str) and number.isascii() and number.isdigit():
        number = int(number[:6])  # lexicon sends text
    # The SDKs type these as numbers with a fraction.
    if isinstance(number, bool) or not isinstance(number, int | float) or number != int(number):
        raise validation_error(9101, f"{name} is a required data field.")
    if not 0 <= number <= most:
        raise validation_error(9101, f"{name} must be between 0 and {most}.")
    return int(number)
