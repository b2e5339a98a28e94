"""Single values of an API's answer: what is taken, and what is not."""

import math
from collections.abc import Callable
from datetime import UTC, datetime, timedelta, timezone
from decimal import Decimal
from typing import Any

import pytest

from clawdet_cli.adapters import values

SEVEN = "\u0667"
"""A digit of another script, which Python's int() and Decimal() take."""


REFUSED: list[tuple[Callable[..., Any], list[Any]]] = [
    (values.number_id, [2**63, 2**53 + 1, 0, -1, True, 1.0, math.nan, "7", None, []]),
    (values.amount, ["NaN", "sNaN", "-5", "1e20", "1E2", "Infinity", "100000.01", "1" * 13]),
    (values.amount, [SEVEN, "", " 1", "1\n", "1.", ".5", "+1", "1_0", 5, 1.5, None, True]),
    (values.size, [0, -1, math.nan, math.inf, 101, True, "4", None]),
    (values.text, [None, 5, b"x", ["x"], {}]),
    (values.texts, ["text", [None], [["x"]], {"x": 1}, 5]),
    (values.labels, ["text", [], {"a": None}, {1: "a"}, {"a": ["b"]}]),
    (values.networks, [["x"], ["10.0.0.0/33"], ["1.2.3.4/" + SEVEN], [5], "::/0"]),
    (values.moment, ["2026-01-01T00:00:00Z", None, 0, datetime.max]),  # noqa: DTZ901 - naive on purpose
]


@pytest.mark.parametrize(("check", "value"), [(check, value) for check, those in REFUSED for value in those])
def test_what_no_api_can_mean_is_refused(check: Callable[..., Any], value: Any) -> None:
    arguments = (100,) if check is values.size else ()
    with pytest.raises(ValueError, match=r"is no|are no|appear"):
        check(value, *arguments)


def test_what_they_mean_is_taken() -> None:
    assert [values.number_id(one) for one in (1, 2**53)] == [1, 2**53]
    assert [values.amount(one) for one in ("0", "3.9900000000", "100000")] == [Decimal("0"), Decimal("3.99"), 100_000]
    assert (values.size(4, 100), values.size(0.5, 100)) == (4.0, 0.5)
    assert (values.texts(None), values.texts(["a", "b"])) == ((), ("a", "b"))
    assert (values.labels(None), values.labels({"a": ""})) == ({}, {"a": ""})
    assert values.networks(["0.0.0.0/0", "::/0", "192.0.2.7/24"]) == {"0.0.0.0/0", "::/0", "192.0.2.7/24"}
    naive = datetime(2026, 1, 1)  # noqa: DTZ001 - as an API may write it
    assert values.moment(naive) == datetime(2026, 1, 1, tzinfo=UTC)
    assert values.moment(naive.replace(tzinfo=timezone(timedelta(hours=-5)))).hour == 5


@pytest.mark.parametrize(
    ("header", "count"),
    [("0", 0), ("3600", 3600), ("9" * 9, 999_999_999), ("9" * 10, None), ("9" * 5000, None), (SEVEN, None)]
    + [(None, None)]
    + [(one, None) for one in ("inf", "nan", "-1", "1.5", "", " 5", "0x1")],
)
def test_a_count_in_a_header_is_plain_digits_or_nothing(header: str | None, count: int | None) -> None:
    assert values.header_count(header) == count
