"""The emulated account: projects, their resources, and how time passes in it.

Everything lives in one dict of plain JSON values, so that whoever owns it can save and reload it. Names that start with
an underscore are ours and never shown.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from clawdet_cli.sandbox.hetzner.catalog import Record
from clawdet_cli.sandbox.hetzner.errors import not_found
from clawdet_cli.sandbox.machines import Machines

# The first ids, in the magnitudes of the real ones: an action's needs 64 bits.
_FIRST_IDS = {
    "server": 120_704_776,
    "action": 610_873_205_655_089,
    "ssh_key": 107_129_777,
    "firewall": 2_300_038,
    "image": 325_000_001,
    "primary_ip": 117_647_239,
    "placement_group": 700_007,
}

# Length of each action when a server takes 10 s from the order to `running`: times reported by users of the API, but
# deletion is shortened from about 11 s.
_SECONDS = {
    "create_server": 6.0,
    "start_server": 4.0,
    "stop_server": 1.0,
    "shutdown_server": 0.0,
    "_halt": 2.0,
    "reboot_server": 3.0,
    "reset_server": 2.0,
    "rebuild_server": 7.0,
    "delete_server": 1.0,
    "_detach": 0.5,
    "_release_firewall": 2.0,
    "_unlist_server": 3.0,
    "create_image": 60.0,
    "change_server_type": 5.0,
}
_OTHER_SECONDS = 0.5

KNOBS: dict[str, Any] = {
    "sold_out": [],  # [[type, location], ...]: POST /servers answers 412
    "server_limit": None,  # number of servers of the account; beyond it 403
    "primary_ip_limit": None,  # the same for primary IPs, v4 and v6 together
    "action_error": {},  # {command: error code} or {command: {"code": ..., "times": n}}; a plain code counts once
    "stuck_initializing": False,  # new servers never leave `initializing`
    "boot_never": False,  # servers become `running`, but nothing is powered on
    "no_ipv4": False,  # new servers get no IPv4, silently
    "shutdown_ignored": False,  # guests do not react to ACPI
    "delete_seconds": None,  # deletion takes this long, unscaled; the name stays taken meanwhile
    "release_seconds": None,  # primary IPs stay assigned this long after a deletion, unscaled
    "firewall_release_seconds": None,  # a firewall counts as used by a deleted server this long, unscaled
    "applied_to_seconds": None,  # a firewall's `applied_to` lists a deleted server this long, unscaled
    "currency": "EUR",  # of all prices: the account's
    "with_datacenter": False,  # servers show `datacenter`, as until 2026-07-01
    "available_inverted": [],  # types whose `available` flags say the opposite
    "requests_per_hour": None,  # the limit of requests; a change starts counting anew
}


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


def _is_length(value: Any) -> bool:
    return value is None or (isinstance(value, int | float) and not isinstance(value, bool) and value >= 0)


def _are_texts(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(item, str) for item in value)


def _is_failure(value: Any) -> bool:
    if isinstance(value, dict):
        return isinstance(value.get("code"), str) and _is_count(value.get("times", 1))
    return isinstance(value, str)


_KNOB_VALUES: dict[str, Callable[[Any], bool]] = {
    "sold_out": lambda value: isinstance(value, list) and all(_are_texts(pair) and len(pair) == 2 for pair in value),
    "server_limit": lambda value: value is None or _is_count(value),
    "primary_ip_limit": lambda value: value is None or _is_count(value),
    "action_error": lambda value: isinstance(value, dict) and all(map(_is_failure, value.values())),
    "stuck_initializing": lambda value: isinstance(value, bool),
    "boot_never": lambda value: isinstance(value, bool),
    "no_ipv4": lambda value: isinstance(value, bool),
    "shutdown_ignored": lambda value: isinstance(value, bool),
    "delete_seconds": _is_length,
    "release_seconds": _is_length,
    "firewall_release_seconds": _is_length,
    "applied_to_seconds": _is_length,
    "currency": lambda value: isinstance(value, str) and len(value) == 3 and value.isalpha() and value.isupper(),
    "with_datacenter": lambda value: isinstance(value, bool),
    "available_inverted": _are_texts,
    "requests_per_hour": lambda value: value is None or (_is_count(value) and value > 0),
}


def _utc_now() -> datetime:
    return datetime.now(UTC)


@dataclass(frozen=True)
class HetznerClock:
    """How fast things go: all lengths scale with the seconds from POST /servers to `running`."""

    boot_seconds: float = 10.0
    requests_per_hour: int = 3600
    now: Callable[[], datetime] = _utc_now

    def seconds(self, command: str) -> float:
        """Return how long an action takes."""
        return _SECONDS.get(command, _OTHER_SECONDS) * self.boot_seconds / 10


@dataclass(frozen=True)
class Token:
    """What an API token may do."""

    project: str
    read_only: bool = False


class Cloud:
    """All projects of the account, and the machines under them."""

    def __init__(
        self, state: dict[str, Any], machines: Machines, clock: HetznerClock, on_change: Callable[[], None]
    ) -> None:
        self.state = state
        self.machines = machines
        self.clock = clock
        self.changed = on_change
        state.setdefault("next_ids", dict(_FIRST_IDS))
        state.setdefault("projects", {})
        state.setdefault("knobs", {})

    def new_id(self, kind: str) -> int:
        """Return an id that no resource of the account had or will have."""
        number: int = self.state["next_ids"][kind]
        self.state["next_ids"][kind] = number + 1
        return number

    def now_text(self) -> str:
        """Return the time as the API writes it."""
        return self.clock.now().astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")

    def knob(self, name: str) -> Any:
        """Return a knob's setting."""
        return self.state["knobs"].get(name, KNOBS[name])

    def set_knobs(self, settings: Mapping[str, Any]) -> None:
        """Turn knobs; raise ValueError for one that does not exist, or a value that it cannot have."""
        for name in settings:
            if name not in KNOBS:
                raise ValueError(f"unknown knob {name!r}; there are {', '.join(KNOBS)}")
            if not _KNOB_VALUES[name](settings[name]):
                raise ValueError(f"{settings[name]!r} is no value of knob {name}")
        self.state["knobs"].update(settings)

    def knobs(self) -> dict[str, Any]:
        """Return all settings."""
        return {**KNOBS, **self.state["knobs"]}

    def project(self, name: str) -> "Project":
        """Return a project, made at its first use."""
        return Project(self, name, self.state["projects"].setdefault(name, {}))

    def projects(self) -> Iterator["Project"]:
        """Yield all projects."""
        for name in list(self.state["projects"]):
            yield self.project(name)

    def count(self, table: str) -> int:
        """Return how many resources of a kind the whole account has."""
        return sum(len(project.table(table)) for project in self.projects())


class Project:
    """The resources that one project's tokens see."""

    def __init__(self, cloud: Cloud, name: str, tables: dict[str, dict[str, Record]]) -> None:
        self.cloud = cloud
        self.name = name
        self._tables = tables

    def table(self, kind: str) -> dict[str, Record]:
        """Return the resources of a kind by id as text; JSON has no other keys."""
        return self._tables.setdefault(kind, {})

    def all(self, kind: str) -> list[Record]:
        """Return the resources of a kind."""
        return list(self.table(kind).values())

    def find(self, kind: str, number: int | str) -> Record | None:
        """Return a resource by id, or None."""
        return self.table(kind).get(str(number))

    def get(self, kind: str, number: int | str) -> Record:
        """Return a resource by id, or raise a 404."""
        record = self.find(kind, number)
        if record is None:
            raise not_found(kind, number)
        return record

    def add(self, kind: str, record: Record) -> Record:
        """Keep a new resource under its id."""
        self.table(kind)[str(record["id"])] = record
        return record

    def remove(self, kind: str, number: int | str) -> None:
        """Forget a resource."""
        self.table(kind).pop(str(number), None)
