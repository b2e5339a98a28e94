"""What can be ordered: locations, server types with their prices, system images.

Ids, sizes and locations are those of a recording of the API (February 2026); the ids of all images but ubuntu-24.04 on
x86 are made up. Monthly prices of the EU are those for new orders since 2026-06-15, read by third parties in August and
September 2026, less the primary IPv4 (0.50). Known outside the EU: cpx22 in sin, cpx11 and cpx21 in the US, and ccx13,
the same everywhere. All other prices there, and those of ccx33 and larger, are estimates in proportion. So are hourly
prices: a 624th.
"""

from datetime import UTC, datetime
from decimal import ROUND_HALF_UP, Decimal
from typing import Any

Record = dict[str, Any]

VAT_PERCENT = Decimal(19)
EU = ("fsn1", "nbg1", "hel1")
US = ("ash", "hil")
ASIA = ("sin",)
_TB = 1024**4
_HOURS_PER_MONTH = 624  # what the recorded hourly prices amount to

LOCATIONS: tuple[Record, ...] = tuple(
    {
        "id": number,
        "name": name,
        "description": description,
        "country": country,
        "city": city,
        "latitude": latitude,
        "longitude": longitude,
        "network_zone": zone,
    }
    for number, name, description, country, city, latitude, longitude, zone in (
        (1, "fsn1", "Falkenstein DC Park 1", "DE", "Falkenstein", 50.47612, 12.370071, "eu-central"),
        (2, "nbg1", "Nuremberg DC Park 1", "DE", "Nuremberg", 49.452102, 11.076665, "eu-central"),
        (3, "hel1", "Helsinki DC Park 1", "FI", "Helsinki", 60.169855, 24.938379, "eu-central"),
        (4, "ash", "Ashburn, VA", "US", "Ashburn, VA", 39.045821, -77.487073, "us-east"),
        (5, "hil", "Hillsboro, OR", "US", "Hillsboro, OR", 45.54222, -122.951924, "us-west"),
        (6, "sin", "Singapore", "SG", "Singapore", 1.283333, 103.833333, "ap-southeast"),
    )
)

_DATACENTERS = {
    "nbg1": (2, "nbg1-dc3"),
    "hel1": (3, "hel1-dc2"),
    "fsn1": (4, "fsn1-dc14"),
    "ash": (5, "ash-dc1"),
    "hil": (6, "hil-dc1"),
    "sin": (7, "sin-dc1"),
}

_OLD_CPX = {"announced": "2025-10-16T06:00:00Z", "unavailable_after": "2025-12-31T23:59:59Z"}
_GONE: dict[str, tuple[str, ...]] = {
    **dict.fromkeys(("cpx11", "cpx21", "cpx31", "cpx41", "cpx51"), EU + ASIA),
    **dict.fromkeys(("cx22", "cx32", "cx42", "cx52"), EU),
}

# id, name, cores, memory and disk in GB, monthly net price by group of locations
_COST, _REGULAR, _DEDICATED = "cost_optimized", "regular_purpose", "general_purpose"
_TYPES: tuple[tuple[int, str, str, int, int, int, dict[tuple[str, ...], str]], ...] = (
    (22, "cpx11", _REGULAR, 2, 2, 40, {EU: "4.49", US: "17.49", ASIA: "8.49"}),
    (23, "cpx21", _REGULAR, 3, 4, 80, {EU: "7.99", US: "31.99", ASIA: "15.99"}),
    (24, "cpx31", _REGULAR, 4, 8, 160, {EU: "14.99", US: "57.99", ASIA: "27.99"}),
    (25, "cpx41", _REGULAR, 8, 16, 240, {EU: "27.49", US: "107.99", ASIA: "47.49"}),
    (26, "cpx51", _REGULAR, 16, 32, 360, {EU: "60.49", US: "214.99", ASIA: "85.49"}),
    (45, "cax11", _COST, 2, 4, 40, {EU: "5.99"}),
    (93, "cax21", _COST, 4, 8, 80, {EU: "10.49"}),
    (94, "cax31", _COST, 8, 16, 160, {EU: "20.99"}),
    (95, "cax41", _COST, 16, 32, 320, {EU: "40.99"}),
    (96, "ccx13", _DEDICATED, 2, 8, 80, {EU + US + ASIA: "42.99"}),
    (97, "ccx23", _DEDICATED, 4, 16, 160, {EU: "85.99", US: "92.99", ASIA: "136.99"}),
    (98, "ccx33", _DEDICATED, 8, 32, 240, {EU: "171.99", US: "185.99", ASIA: "273.99"}),
    (99, "ccx43", _DEDICATED, 16, 64, 360, {EU: "343.99", US: "371.99", ASIA: "547.99"}),
    (100, "ccx53", _DEDICATED, 32, 128, 600, {EU: "687.99", US: "743.99", ASIA: "1095.99"}),
    (101, "ccx63", _DEDICATED, 48, 192, 960, {EU: "1031.99", US: "1115.99", ASIA: "1643.99"}),
    (104, "cx22", _COST, 2, 4, 40, {EU: "3.79"}),
    (105, "cx32", _COST, 4, 8, 80, {EU: "6.80"}),
    (106, "cx42", _COST, 8, 16, 160, {EU: "16.40"}),
    (107, "cx52", _COST, 16, 32, 320, {EU: "32.40"}),
    (108, "cpx12", _REGULAR, 1, 2, 40, {EU: "11.49", ASIA: "15.49"}),
    (109, "cpx22", _REGULAR, 2, 4, 80, {EU: "19.49", ASIA: "26.49"}),
    (110, "cpx32", _REGULAR, 4, 8, 160, {EU: "35.49", ASIA: "48.49"}),
    (111, "cpx42", _REGULAR, 8, 16, 320, {EU: "69.49", ASIA: "94.49"}),
    (112, "cpx52", _REGULAR, 12, 24, 480, {EU: "100.49", ASIA: "136.49"}),
    (113, "cpx62", _REGULAR, 16, 32, 640, {EU: "129.99", ASIA: "176.49"}),
    (114, "cx23", _COST, 2, 4, 40, {EU: "5.49"}),
    (115, "cx33", _COST, 4, 8, 80, {EU: "8.49"}),
    (116, "cx43", _COST, 8, 16, 160, {EU: "15.99"}),
    (117, "cx53", _COST, 16, 32, 320, {EU: "29.49"}),
)


_DESCRIPTIONS = {
    "cx": "{family} {size}",
    "cpx": "{family} {size}",
    "cax": "{family}{size}",
    "ccx": "{family}{size} Dedicated CPU",
}


def money(net: str | Decimal, places: int = 10) -> dict[str, str]:
    """Return a price as the API writes it: strings, net with 10 decimals, gross with 16."""
    exact = Decimal(net)
    gross = exact * (1 + VAT_PERCENT / 100)
    return {"net": f"{exact:.{places}f}", "gross": f"{gross:.16f}"}


def _price(location: str, monthly: str) -> Record:
    hourly = (Decimal(monthly) / _HOURS_PER_MONTH).quantize(Decimal("0.0001"), ROUND_HALF_UP)
    return {
        "location": location,
        "price_hourly": money(hourly),
        "price_monthly": money(monthly),
        "included_traffic": (20 if location in EU else 1) * _TB,
        "price_per_tb_traffic": money("8.30" if location in ASIA else "1.20"),
    }


def _server_type(  # noqa: PLR0917  # it takes a row of the table
    number: int, name: str, category: str, cores: int, memory: int, disk: int, monthly: dict[tuple[str, ...], str]
) -> Record:
    offered = {location: price for group, price in monthly.items() for location in group}
    gone = _GONE.get(name, ())
    family, size = name.rstrip("0123456789"), name.lstrip("abcdefghijklmnopqrstuvwxyz")
    wholly_gone = set(gone) == set(offered)
    return {
        "id": number,
        "name": name,
        "description": _DESCRIPTIONS[family].format(family=family.upper(), size=size),
        "category": category,
        "architecture": "arm" if family == "cax" else "x86",
        "cores": cores,
        "cpu_type": "dedicated" if family == "ccx" else "shared",
        "memory": memory,
        "disk": disk,
        "storage_type": "local",
        "deprecated": wholly_gone,
        "deprecation": _OLD_CPX if wholly_gone else None,
        "locations": [
            {
                "id": place["id"],
                "name": place["name"],
                "deprecation": _OLD_CPX if place["name"] in gone else None,
                "available": place["name"] not in gone,
                "recommended": place["name"] in EU and name == "cx23",
            }
            for place in LOCATIONS
            if place["name"] in offered
        ],
        "prices": [_price(location, offered[location]) for location in sorted(offered)],
    }


SERVER_TYPES: tuple[Record, ...] = tuple(_server_type(*row) for row in _TYPES)

IMAGES: tuple[Record, ...] = tuple(
    {
        "id": number,
        "type": "system",
        "status": "available",
        "name": f"{flavor}-{version}",
        "description": f"{flavor.capitalize()} {version}",
        "image_size": None,
        "disk_size": 5,
        "created": created,
        "created_from": None,
        "bound_to": None,
        "os_flavor": flavor,
        "os_version": version,
        "rapid_deploy": True,
        "protection": {"delete": False},
        "deprecated": None,
        "deprecation": None,
        "deleted": None,
        "labels": {},
        "architecture": architecture,
    }
    for number, flavor, version, architecture, created in (
        (67794396, "ubuntu", "22.04", "x86", "2022-04-21T13:32:38Z"),
        (103908130, "ubuntu", "22.04", "arm", "2023-03-20T10:10:04Z"),
        (114690387, "debian", "12", "x86", "2023-06-13T06:00:00Z"),
        (114690389, "debian", "12", "arm", "2023-06-13T06:00:00Z"),
        (161547269, "ubuntu", "24.04", "x86", "2024-04-25T13:26:27Z"),
        (161547270, "ubuntu", "24.04", "arm", "2024-04-25T13:26:51Z"),
        (310557660, "debian", "13", "x86", "2025-08-11T06:00:00Z"),
        (310557661, "debian", "13", "arm", "2025-08-11T06:00:00Z"),
    )
)


def pricing(currency: str) -> Record:
    """Return the price list, as an account with that currency sees it; the numbers stay the same."""
    regions = [place["name"] for place in LOCATIONS]
    primary_ips = [
        {
            "type": version,
            "prices": [
                {"location": name, "price_hourly": money(hourly), "price_monthly": money(monthly)} for name in regions
            ],
        }
        for version, hourly, monthly in (("ipv4", "0.0008", "0.50"), ("ipv6", "0", "0"))
    ]
    return {
        "currency": currency,
        "vat_rate": f"{VAT_PERCENT:.6f}",
        "image": {"price_per_gb_month": money("0.0143")},
        "volume": {"price_per_gb_month": money("0.0440")},
        "floating_ip": {"price_monthly": money("3.00")},
        "floating_ips": [],
        "primary_ips": primary_ips,
        "server_backup": {"percentage": "20.0000000000"},
        "server_types": [{name: kind[name] for name in ("id", "name", "prices")} for kind in SERVER_TYPES],
        "load_balancer_types": [],
    }


def by_id_or_name(records: tuple[Record, ...], wanted: str | int) -> Record | None:
    """Return the record of that id (also written as text) or name."""
    return next((record for record in records if str(wanted) in (str(record["id"]), record["name"])), None)


def datacenter_of(location: Record) -> Record:
    """Return the data center that servers of a location showed until the vendor removed it."""
    number, name = _DATACENTERS[location["name"]]
    kinds: dict[str, list[int]] = {"supported": [], "available": [], "available_for_migration": []}
    description = f"{location['city']} 1 virtual DC {name.rpartition('-dc')[2]}"
    return {"id": number, "name": name, "description": description, "location": location, "server_types": kinds}


def location_of(server_type: Record, location: str) -> Record | None:
    """Return the type's entry for a location."""
    return next((place for place in server_type["locations"] if place["name"] == location), None)


def is_gone(place: Record, now: datetime) -> bool:
    """Whether a type's deprecation in a location has passed, so that it cannot be ordered there any more."""
    deprecation = place["deprecation"]
    return deprecation is not None and datetime.fromisoformat(deprecation["unavailable_after"]) < now.astimezone(UTC)
