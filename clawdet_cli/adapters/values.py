"""Checks single values of an API's answer: the SDKs hand on whatever came, in fields that say they are something else.

Everything here raises ValueError, which the adapters turn into a CloudError: a stage may rely on what it is given.
"""

import re
from collections.abc import Mapping
from datetime import UTC, datetime
from decimal import Decimal
from ipaddress import ip_network
from typing import Any

MAX_NUMBER = 2**53
"""The greatest that every reader of JSON, and the database, keeps as it is."""
MAX_AMOUNT = Decimal(100_000)
"""Of money per month, for one server or one address."""
FIRST_YEAR, LAST_YEAR = 2000, 2200

_AMOUNT = re.compile(r"[0-9]{1,12}(\.[0-9]{1,30})?", re.ASCII)
_COUNT = re.compile(r"[0-9]{1,9}", re.ASCII)


def number_id(value: Any) -> int:
    """Return an id that is a number, from 1 to MAX_NUMBER."""
    return whole(value, 1, MAX_NUMBER)


def whole(value: Any, least: int, most: int) -> int:
    """Return a whole number within bounds; true and false are none."""
    if not isinstance(value, int) or isinstance(value, bool) or not least <= value <= most:
        raise ValueError(f"{_shown(value)} is no number from {least} to {most}")
    return value


def size(value: Any, most: float) -> float:
    """Return a number above zero, and not above `most`."""
    if not isinstance(value, int | float) or isinstance(value, bool) or not 0 < value <= most:
        raise ValueError(f"{_shown(value)} is no size")
    return float(value)


def amount(value: Any) -> Decimal:
    """Return an amount of money, which may be zero, in plain digits."""
    if not isinstance(value, str) or not _AMOUNT.fullmatch(value) or (found := Decimal(value)) > MAX_AMOUNT:
        raise ValueError(f"{_shown(value)} is no price")
    return found


def text(value: Any) -> str:
    """Return a text as it is."""
    if not isinstance(value, str):
        raise ValueError(f"{_shown(value)} is no text")  # noqa: TRY004 - one kind of error for one kind of fault
    return value


def texts(values: Any) -> tuple[str, ...]:
    """Return a list of texts; nothing is an empty one."""
    if values is not None and not isinstance(values, list | tuple):
        raise ValueError(f"{_shown(values)} is no list")
    return tuple(text(value) for value in values or ())


def labels(values: Any) -> dict[str, str]:
    """Return labels by name; nothing is no label."""
    if values is not None and not isinstance(values, Mapping):
        raise ValueError(f"{_shown(values)} are no labels")
    return {text(name): text(value) for name, value in (values or {}).items()}


def networks(values: Any) -> frozenset[str]:
    """Return networks as they are written; nothing is none of them."""
    found = texts(values)
    for network in found:
        ip_network(network, strict=False)
    return frozenset(found)


def moment(value: Any) -> datetime:
    """Return a point in time with its zone, in UTC; one without a zone is taken as UTC."""
    if not isinstance(value, datetime) or not FIRST_YEAR <= value.year <= LAST_YEAR:
        raise ValueError(f"{_shown(value)} is no time")
    return value.replace(tzinfo=UTC) if value.tzinfo is None else value.astimezone(UTC)


def header_count(value: str | None) -> int | None:
    """Return a header's number; None for anything but up to nine digits."""
    return int(value) if value is not None and _COUNT.fullmatch(value) else None


def _shown(value: Any) -> str:
    return repr(value)[:80]
