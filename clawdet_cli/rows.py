"""What the fields of a row may hold: looked at in what is read from the database, and in what is taken in."""

import json
import re
from collections.abc import Callable, Mapping
from datetime import datetime
from typing import Any

from clawdet_cli.model import EffectOutcome, Result, Status

MAX_ID = 2**53
"""Above it, JSON's numbers are not exact everywhere; no cloud gives one so large."""
MAX_SECONDS = 1e9
"""Above it, and so infinite, is no duration; NaN is none either."""
STAGE_STATUSES = ("running", "done", "failed")
MONEY = re.compile(r"[0-9]{1,9}(\.[0-9]{1,9})?( [A-Z]{3})?", re.ASCII)


def is_time(value: object) -> bool:
    """Return whether this is a moment in ISO 8601, with its time zone."""
    try:
        return isinstance(value, str) and datetime.fromisoformat(value).tzinfo is not None
    except ValueError:
        return False


def _is_id(value: Any) -> bool:
    return isinstance(value, int) and 1 <= value <= MAX_ID


def as_object(value: Any) -> dict[str, Any] | None:
    """Return the fields of a JSON object; None for what is none."""
    try:
        found = json.loads(value)
    except (ValueError, RecursionError):
        return None
    return found if isinstance(found, dict) else None


_Usable = Callable[[Any], bool]
FIELDS: Mapping[str, Mapping[str, _Usable]] = {
    "instances": {
        "status": lambda value: value in set(Status),
        "sandbox": lambda value: value in {0, 1},
        "created_at": is_time,
        "updated_at": is_time,
        "server_id": lambda value: value is None or _is_id(value),
        "monthly": lambda value: value is None or MONEY.fullmatch(value) is not None,
    },
    "checks": {
        "result": lambda value: value in set(Result),
        "position": lambda value: 0 <= value <= MAX_ID,
        "at": lambda value: value == "" or is_time(value),
    },
    "stage_runs": {
        "id": _is_id,
        "status": lambda value: value in STAGE_STATUSES,
        "started_at": is_time,
        "seconds": lambda value: 0 <= value <= MAX_SECONDS,
    },
    "effects": {
        "id": _is_id,
        "data": lambda value: as_object(value) is not None,
        "begun_at": is_time,
        "outcome": lambda value: value is None or value in set(EffectOutcome),
        "ended_at": lambda value: value is None or is_time(value),
    },
}
"""What fields may hold, by table; of the right type they are already."""


def fault(table: str, row: Mapping[str, Any]) -> tuple[str, str] | None:
    """Return the first field of a row that holds what it must not, and what that is; None when none does."""
    for field, usable in FIELDS[table].items():
        if not usable(row[field]):
            return field, f"{row[field]!r}"[:80]
    return None


def _words(values: Any) -> str:
    return ", ".join(f"'{value}'" for value in values)


_FORM = "[0-9][0-9][0-9][0-9]-[0-9][0-9]-[0-9][0-9]T[0-9][0-9]:[0-9][0-9]:[0-9][0-9]*[+-][0-9][0-9]:[0-9][0-9]"


def _strange_time(field: str) -> str:
    """Write an SQL condition that holds for what is no time, and for some times as well."""
    # SQLite takes 31 February for a day in March.
    same_day = f"substr({field}, 1, 10) = date(julianday({field}))"
    return f"NOT coalesce({field} GLOB '{_FORM}' AND {same_day}, 0)"


def _suspects(of: str) -> str:
    return f"""
    SELECT user FROM instances WHERE {of} (status NOT IN ({_words(Status)}) OR sandbox NOT IN (0, 1)
        OR {_strange_time("created_at")} OR {_strange_time("updated_at")}
        OR NOT coalesce(server_id, 1) BETWEEN 1 AND {MAX_ID}
        OR monthly GLOB '*[^0-9.]*' OR monthly GLOB '*.*.*' OR monthly NOT GLOB '[0-9]*')
    UNION SELECT user FROM checks WHERE {of} (result NOT IN ({_words(Result)}) OR NOT position BETWEEN 0 AND {MAX_ID}
        OR (at != '' AND {_strange_time("at")}))
    UNION SELECT user FROM stage_runs WHERE {of} (status NOT IN ({_words(STAGE_STATUSES)})
        OR NOT started_at GLOB '{_FORM}' OR NOT seconds BETWEEN 0 AND {MAX_SECONDS:.0f})
    UNION SELECT user FROM effects
        WHERE {of} outcome IS NULL AND ({_strange_time("begun_at")} OR NOT id BETWEEN 1 AND {MAX_ID}
        OR CASE WHEN json_valid(data) THEN json_type(data) != 'object' ELSE 1 END)
    """  # noqa: S608 - words of ours


SUSPECTS = (
    f"SELECT user FROM ({_suspects('')}) WHERE user NOT IN (SELECT user FROM instances WHERE status = 'destroyed')"  # noqa: S608 - words of ours
)
"""A query for the users whose rows may have a fault, which `fault` then tells: ten thousand are looked at in SQL."""
SUSPECT = _suspects("user = ? AND")
"""The same for one user, a destroyed one too."""
OF_USER = {
    "instances": "SELECT * FROM instances WHERE user = ?",
    "checks": "SELECT * FROM checks WHERE user = ? ORDER BY position",
    "stage_runs": "SELECT stage_runs.* FROM stage_runs JOIN instances USING (user, run_id) WHERE user = ? ORDER BY id",
    "effects": "SELECT * FROM effects WHERE user = ? AND outcome IS NULL ORDER BY id",
}
"""Queries for the rows of a user that are read, by table."""
