"""What the API accepts in a request body."""

import re
from typing import Any

from clawdet_cli.sandbox.hetzner.errors import ApiError, invalid, invalid_field, invalid_fields
from clawdet_cli.sandbox.request_body import parse_json

USER_DATA_LIMIT = 32 * 1024

_HOST_LABEL = re.compile(r"[A-Za-z0-9]([A-Za-z0-9-]{0,61}[A-Za-z0-9])?")
_LABEL_NAME = re.compile(r"[A-Za-z0-9]([-_.A-Za-z0-9]{0,61}[A-Za-z0-9])?")
_LABEL_PREFIX = re.compile(r"(?=.{1,253}$)[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*")

# JSON type names as used in the tables of fields; "ref" is an id or a name.
_TYPES: dict[str, tuple[type, ...]] = {
    "string": (str,),
    "integer": (int,),
    "boolean": (bool,),
    "object": (dict,),
    "array": (list,),
    "ref": (str, int),
}
Fields = dict[str, str]
"""Field name to JSON type name; a leading `*` marks a required field."""


def parse_body(raw: bytes) -> dict[str, Any]:
    """Return the JSON object of a request; an empty body is an empty object."""
    if not raw:
        return {}
    try:
        body = parse_json(raw)
    except ValueError:
        raise ApiError(400, "json_error", "invalid JSON in request body") from None
    if not isinstance(body, dict):
        raise ApiError(400, "json_error", "request body is not a JSON object")
    return body


def check_fields(body: dict[str, Any], fields: Fields) -> dict[str, Any]:
    """Refuse unknown, missing and mistyped fields; return those that are set (a null counts as absent)."""
    for name in body:
        if name not in fields:
            raise invalid(f"invalid input: unknown field name '{name}'")
    problems: dict[str, list[str]] = {}
    for name, kind in fields.items():
        value = body.get(name)
        type_name = kind.removeprefix("*")
        if value is None:
            if kind.startswith("*"):
                problems[name] = ["Missing data for required field."]
        elif not isinstance(value, _TYPES[type_name]) or (isinstance(value, bool) and type_name != "boolean"):
            problems[name] = [f"Not a valid {type_name}."]
    if problems:
        raise invalid_fields(problems)
    return {name: value for name, value in body.items() if value is not None}


def check_hostname(name: str) -> None:
    """Refuse a server name that RFC 1123 does not allow."""
    if len(name) > 253 or not all(_HOST_LABEL.fullmatch(part) for part in name.split(".")):
        raise invalid_field("name", "Name must be a valid hostname.")


def check_name(name: str) -> None:
    """Refuse an empty or overlong name of anything but a server."""
    if not 1 <= len(name) <= 128:
        raise invalid_field("name", "Length must be between 1 and 128.")


def check_user_data(user_data: str) -> None:
    """Refuse more than 32 KiB."""
    if len(user_data.encode()) > USER_DATA_LIMIT:
        raise invalid_field("user_data", f"Length must be between 0 and {USER_DATA_LIMIT}.")


def check_labels(labels: dict[str, Any]) -> None:
    """Refuse labels outside the documented alphabet and lengths."""
    for key, value in labels.items():
        prefix, slash, name = key.rpartition("/")
        if slash and (not _LABEL_PREFIX.fullmatch(prefix) or prefix == "hetzner.cloud"):
            raise invalid_field("labels", f"label key '{key}' is not correctly formatted")
        if not _LABEL_NAME.fullmatch(name):
            raise invalid_field("labels", f"label key '{key}' is not correctly formatted")
        if not isinstance(value, str) or (value and not _LABEL_NAME.fullmatch(value)):
            raise invalid_field("labels", f"label value '{value}' (key: {key}) is not correctly formatted")
