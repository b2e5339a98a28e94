"""Control routes of the emulated Cloudflare: what an account's owner does in the dashboard, and the rate limit."""

from collections.abc import Callable
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from clawdet_cli.sandbox.cloudflare import state as account
from clawdet_cli.sandbox.cloudflare.access import Bucket


def control_routes(state: dict[str, Any], bucket: Bucket, on_change: Callable[[], None]) -> list[Route]:
    """Return the routes; they ask for no token, as they are reachable on loopback only."""

    def show(zone: dict[str, Any]) -> dict[str, Any]:
        shown = ("id", "name", "status", "paused", "plan", "record_quota")
        return {key: zone[key] for key in shown} | {"ssl": zone["settings"]["ssl"]["value"]}

    async def zones(request: Request) -> Response:
        if request.method == "POST":
            body = await request.json()
            if account.zone_named(state, body["name"]) is not None:
                return JSONResponse({"error": "the zone exists"}, status_code=409)
            account.add_zone(state, **body)
            on_change()
        return JSONResponse([show(zone) for zone in state["zones"].values()])

    async def change_zone(request: Request) -> Response:
        """Change `status`, `paused`, `plan`, `record_quota` or any setting by its name."""
        zone = account.zone_named(state, request.path_params["name"])
        if zone is None:
            return JSONResponse({"error": "no such zone"}, status_code=404)
        for key, value in (await request.json()).items():
            if key in zone["settings"]:
                zone["settings"][key] = {"value": value, "modified_on": account.now()}
            elif key in {"status", "paused", "plan", "record_quota"}:
                zone[key] = value
                if key == "plan":
                    zone["record_quota"] = account.PLAN_QUOTAS[value]
            else:
                return JSONResponse({"error": f"{key} cannot be changed"}, status_code=400)
        zone["modified_on"] = account.now()
        on_change()
        return JSONResponse(show(zone))

    async def tokens(request: Request) -> Response:
        """Add a token: `{token, rights, zones, status, owner}`, of which only `token` is needed."""
        body = await request.json()
        account.add_token(state, body.pop("token"), **body)
        on_change()
        return JSONResponse({}, status_code=201)

    async def limits(request: Request) -> Response:
        """Change `requests`, `seconds` or `block_seconds` of the rate limit, and start counting anew."""
        body = await request.json()
        state["limits"].update({key: body[key] for key in state["limits"] if key in body})
        bucket.reset()
        on_change()
        return JSONResponse(state["limits"])

    return [
        Route("/zones", zones, methods=["GET", "POST"]),
        Route("/zones/{name}", change_zone, methods=["PATCH"]),
        Route("/tokens", tokens, methods=["POST"]),
        Route("/limits", limits, methods=["PATCH"]),
    ]
