"""Control routes of the emulated Cloudflare: what an account's owner does in the dashboard, and the rate limit."""

from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from clawdet_cli.sandbox.cloudflare import records as dns
from clawdet_cli.sandbox.cloudflare import state as account
from clawdet_cli.sandbox.cloudflare.access import Bucket
from clawdet_cli.sandbox.cloudflare.certificates import OPTIONAL
from clawdet_cli.sandbox.cloudflare.state import SETTINGS
from clawdet_cli.sandbox.request_body import read_object


def control_routes(state: dict[str, Any], bucket: Bucket, on_change: Callable[[], None]) -> list[Route]:
    """Return the routes; `guard` asks for the sandbox's token before them."""

    def show(zone: dict[str, Any]) -> dict[str, Any]:
        shown = ("id", "name", "status", "paused", "plan", "record_quota")
        return {key: zone[key] for key in shown} | {"ssl": zone["settings"]["ssl"]["value"]}

    async def zones(request: Request) -> Response:
        if request.method == "POST":
            body = _checked(await read_object(request), {"name", "status", "plan", "ssl", "again"}, needed="name")
            # A name can be in several accounts that a token reaches, and moved or pending in all but one.
            if account.zone_named(state, body["name"]) is not None and not body.pop("again", False):
                return JSONResponse({"error": "the zone exists"}, status_code=409)
            account.add_zone(state, **body)
            on_change()
        return JSONResponse([show(zone) for zone in state["zones"].values()])

    async def change_zone(request: Request) -> Response:
        """Change `known`: what a zone is, and any setting by its name."""
        zone = account.zone_named(state, request.path_params["name"])
        if zone is None:
            return JSONResponse({"error": "no such zone"}, status_code=404)
        known = {"status", "paused", "plan", "record_quota", "bot_fight_mode", "universal_ssl", *zone["settings"]}
        body = _checked(await read_object(request), known)
        for key, value in body.items():
            if key in zone["settings"]:
                zone["settings"][key] = {"value": value, "modified_on": account.now()}
            else:
                zone[key] = value
                if key == "plan":
                    zone["record_quota"] = account.PLAN_QUOTAS[value]
        zone["modified_on"] = account.now()
        on_change()
        return JSONResponse(show(zone))

    async def tokens(request: Request) -> Response:
        """Add a token: `{token, rights, zones, status, owner}`, of which only `token` is needed."""
        body = _checked(await read_object(request), {"token", "rights", "zones", "status", "owner"}, needed="token")
        account.add_token(state, body.pop("token"), **body)
        on_change()
        return JSONResponse({}, status_code=201)

    async def limits(request: Request) -> Response:
        """Change `requests`, `seconds`, `block_seconds` or `headers` of the rate limit, and start counting anew."""
        state["limits"].update(_checked(await read_object(request), set(state["limits"])))
        bucket.reset()
        on_change()
        return JSONResponse(state["limits"])

    async def certificate_reads(request: Request) -> Response:
        """Change which fields the answers to `create`, `get` and `list` hold."""
        state["certificate_reads"].update(_checked(await read_object(request), set(state["certificate_reads"])))
        on_change()
        return JSONResponse(state["certificate_reads"])

    async def refusals(request: Request) -> Response:
        """Change how a token without the right to `zones` is answered, or the code of all `signing`."""
        state["refusals"].update(_checked(await read_object(request), {"zones", "signing"}, fits=_REFUSALS))
        on_change()
        return JSONResponse(state["refusals"])

    return [
        Route("/zones", _refusing(zones), methods=["GET", "POST"]),
        Route("/zones/{name}", _refusing(change_zone), methods=["PATCH"]),
        Route("/tokens", _refusing(tokens), methods=["POST"]),
        Route("/limits", _refusing(limits), methods=["PATCH"]),
        Route("/certificate_reads", _refusing(certificate_reads), methods=["PATCH"]),
        Route("/refusals", _refusing(refusals), methods=["PATCH"]),
    ]


def _checked(
    body: dict[str, Any],
    known: set[str],
    *,
    needed: str | None = None,
    fits: Mapping[str, Callable[[Any], bool]] | None = None,
) -> dict[str, Any]:
    """Return the body; raise ValueError for what would break the account, now or at some later call."""
    if needed is not None and needed not in body:
        raise ValueError(f"{needed} is missing")
    for key, value in body.items():
        if key not in known:
            raise ValueError(f"{key} cannot be changed")
        if not (fits[key](value) if fits else _fits(key, value)):
            raise ValueError(f"{value!r} is no value of {key}")
    return body


def _fits(key: str, value: Any) -> bool:
    return _FITS[key](value) if key in _FITS else value in SETTINGS[key]


def _is_zone_name(value: Any) -> bool:
    labels = value.split(".") if isinstance(value, str) else []
    return len(labels) > 1 and len(value) <= dns.LONGEST_NAME and all(map(dns.LABEL.fullmatch, labels))


def _is_text(value: Any) -> bool:
    return isinstance(value, str)


def _are_texts(value: Any) -> bool:
    return isinstance(value, list) and all(map(_is_text, value))


def _is_amount(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and value >= 0


_FITS: dict[str, Callable[[Any], bool]] = {
    "name": _is_zone_name,
    "token": _is_text,
    "status": _is_text,
    "plan": lambda value: _is_text(value) and value in account.PLAN_QUOTAS,
    "owner": lambda value: value in ("user", "account"),
    "paused": lambda value: isinstance(value, bool),
    "bot_fight_mode": lambda value: isinstance(value, bool),
    "universal_ssl": lambda value: (
        isinstance(value, dict)
        and value.keys() == {"enabled", "status"}
        and isinstance(value["enabled"], bool)
        and _is_text(value["status"])
    ),
    "rights": _are_texts,
    "zones": lambda value: value is None or _are_texts(value),
    "again": lambda value: isinstance(value, bool),
    "headers": lambda value: value in ("documented", "old", "both"),
    **dict.fromkeys(("create", "get", "list"), lambda value: _are_texts(value) and {*value} <= {*OPTIONAL}),
    "record_quota": _is_amount,
    "requests": _is_amount,
    "seconds": _is_amount,
    "block_seconds": _is_amount,
}


_REFUSALS: dict[str, Callable[[Any], bool]] = {
    "zones": lambda value: value in ("empty", "forbidden"),
    "signing": lambda value: type(value) is int and 0 <= value < 100_000,
}


def _refusing(answer: Callable[[Request], Awaitable[Response]]) -> Callable[[Request], Awaitable[Response]]:
    async def answer_or_refuse(request: Request) -> Response:
        try:
            return await answer(request)
        except ValueError as exc:
            return JSONResponse({"error": str(exc)}, status_code=422)

    return answer_or_refuse
