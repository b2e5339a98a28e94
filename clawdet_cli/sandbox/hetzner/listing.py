"""Label selectors, filters, sorting and pages of the list endpoints."""

import math
import re
from collections.abc import Callable, Iterable
from typing import Any
from urllib.parse import urlencode

from starlette.datastructures import URL, QueryParams

from clawdet_cli.sandbox.hetzner.errors import invalid_field

PER_PAGE = 25
MAX_PER_PAGE = 50

Labels = dict[str, str]

_KEY = r"[A-Za-z0-9](?:[-_./A-Za-z0-9]*[A-Za-z0-9])?"
_VALUE = r"(?:[A-Za-z0-9](?:[-_.A-Za-z0-9]*[A-Za-z0-9])?)?"
_EQUALS = re.compile(rf"({_KEY})\s*(==|=|!=)\s*({_VALUE})")
_IN = re.compile(rf"({_KEY})\s+(in|notin)\s*\(([^()]*)\)")
_WHOLE_NUMBER = re.compile("[0-9]{1,19}")
_EXISTS = re.compile(rf"(!?)\s*({_KEY})")
_COMMA_OUTSIDE_PARENTHESES = re.compile(r",(?![^(]*\))")


def matches_selector(selector: str, labels: Labels) -> bool:
    """Whether the labels fulfil all terms of a selector; an ill-formed one is a 422."""
    # First all, so that an ill-formed term is refused wherever it stands.
    fulfilled = [_matches_term(term.strip(), labels) for term in _COMMA_OUTSIDE_PARENTHESES.split(selector)]
    return all(fulfilled)


def _matches_term(term: str, labels: Labels) -> bool:
    if found := _EQUALS.fullmatch(term):
        key, operator, value = found.groups()
        return (labels.get(key) == value) == (operator != "!=")
    if found := _IN.fullmatch(term):
        key, operator, values = found.groups()
        allowed = {value.strip() for value in values.split(",")}
        return (labels.get(key) in allowed) == (operator == "in")
    if found := _EXISTS.fullmatch(term):
        negated, key = found.groups()
        return (key in labels) != bool(negated)
    raise invalid_field("label_selector", f"'{term}' is not a valid label selector")


def list_page(
    key: str,
    records: Iterable[dict[str, Any]],
    render: Callable[[dict[str, Any]], dict[str, Any]],
    query: QueryParams,
    url: URL,
    *,
    filters: Iterable[str] = (),
    sortable: Iterable[str] = ("id", "name", "created"),
    labelled: bool = True,
) -> tuple[dict[str, Any], dict[str, str]]:
    """Return the body and the headers of a list answer.

    A filter may be repeated; then any of its values fits. What is not `labelled` ignores a label selector, as every
    unknown parameter. What is looked for and sorted by is shown as it is recorded, so only the page is rendered.
    """
    rows = list(records)
    for name in filters:
        if wanted := query.getlist(name):
            rows = [row for row in rows if _text(row.get(name)) in wanted]
    selector = query.get("label_selector")
    if selector and labelled:
        matches_selector(selector, {})
        rows = [row for row in rows if matches_selector(selector, row["labels"])]
    rows.sort(key=lambda row: int(row["id"]))
    for spec in reversed(query.getlist("sort")):
        name, _, direction = spec.partition(":")
        if name not in sortable or direction not in ("", "asc", "desc"):
            raise invalid_field("sort", f"'{spec}' is not a valid sort")
        rows.sort(key=lambda row: (row[name] is not None, row[name]), reverse=direction == "desc")
    page = _positive(query, "page", 1)
    per_page = min(_positive(query, "per_page", PER_PAGE), MAX_PER_PAGE)
    last = max(1, math.ceil(len(rows) / per_page))
    pagination = {
        "page": page,
        "per_page": per_page,
        "previous_page": page - 1 if page > 1 else None,
        "next_page": page + 1 if page < last else None,
        "last_page": last,
        "total_entries": len(rows),
    }
    shown = [render(row) for row in rows[(page - 1) * per_page : page * per_page]]
    body = {key: shown, "meta": {"pagination": pagination}}
    return body, {"Link": _links(url, query, pagination)}


def _text(value: object) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def _positive(query: QueryParams, name: str, default: int) -> int:
    raw = query.get(name, str(default))
    if not _WHOLE_NUMBER.fullmatch(raw) or int(raw) < 1:
        raise invalid_field(name, "Must be greater than or equal to 1.")
    return int(raw)


def _links(url: URL, query: QueryParams, pagination: dict[str, int | None]) -> str:
    kept = [(name, value) for name, value in query.multi_items() if name not in ("page", "per_page")]
    targets = {"prev": pagination["previous_page"], "next": pagination["next_page"], "last": pagination["last_page"]}
    links = []
    for relation, page in targets.items():
        if page is not None:
            target = url.replace(query=urlencode([*kept, ("page", page), ("per_page", pagination["per_page"])]))
            links.append(f'<{target}>; rel="{relation}"')
    return ", ".join(links)
