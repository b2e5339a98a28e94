"""The part of Cloudflare's API v4 that a provisioning tool uses: zones, DNS records, tokens, settings, the Origin CA.

Zones cannot be made through the API here, and records are those of `cloudflare.records.TYPES`. The legacy
e-mail-and-key login is refused.
"""

import hashlib
import logging
import re
import time
from collections.abc import Awaitable, Callable, Iterable, Sequence
from typing import Any

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Mount, Route, Router

from clawdet_cli.sandbox.authority import Authority
from clawdet_cli.sandbox.cloudflare import access, edge_certificates
from clawdet_cli.sandbox.cloudflare import certificates as origin
from clawdet_cli.sandbox.cloudflare import records as dns
from clawdet_cli.sandbox.cloudflare import state as account
from clawdet_cli.sandbox.cloudflare.control import control_routes
from clawdet_cli.sandbox.cloudflare.envelope import ApiError, failure, json_body, no_route, page_of, success
from clawdet_cli.sandbox.faults import FaultMiddleware, Faults

log = logging.getLogger(__name__)

IDENTIFIER = re.compile(r"[0-9a-f]{32}")
PLAN_NAMES = {
    "free": "Free Website",
    "pro": "Pro Website",
    "business": "Business Website",
    "enterprise": "Enterprise Website",
}


def cloudflare_app(
    state: dict[str, Any],
    origin_ca: Authority,
    *,
    zone: str,
    edge_cidrs: Iterable[str],
    tokens: Iterable[str],
    on_change: Callable[[], None],
    faults: Faults,
    clock: Callable[[], float] = time.monotonic,
    edge_routes: Sequence[Route] = (),
) -> Starlette:
    """Return the emulated API below `/client/v4`, and its control routes, the edge's too, below `/_sandbox`."""
    account.seed(state, zone, tokens)
    api = _Api(state, origin_ca, list(edge_cidrs), on_change)
    bucket = access.Bucket(state["limits"], clock)

    async def refused(request: Request, error: Exception) -> Response:
        if isinstance(error, ApiError):
            return failure(error)
        log.error("%s %s failed", request.method, request.scope["path"], exc_info=error)
        return failure(ApiError(500, 1000, "Internal error"))

    async def unrouted(request: Request, error: Exception) -> Response:
        if isinstance(error, HTTPException) and error.status_code == 405:
            return failure(ApiError(405, 7001, f"Method {request.method} not available for that URI."))
        return failure(no_route(request.url.path))

    app = Starlette(
        routes=[
            *faults.routes(),
            *edge_routes,
            # A slash too many leads nowhere, and not to a redirection.
            Mount("/client/v4", Router(api.routes(), redirect_slashes=False)),
            Mount("/_sandbox", routes=control_routes(state, bucket, on_change)),
        ],
        middleware=[
            Middleware(FaultMiddleware, faults=faults),
            Middleware(access.Gate, limits=state["limits"], bucket=bucket),
        ],
        exception_handlers={ApiError: refused, HTTPException: unrouted, Exception: refused},
    )
    app.router.redirect_slashes = False
    return app


class _Api:
    def __init__(
        self, state: dict[str, Any], origin_ca: Authority, edge_cidrs: list[str], on_change: Callable[[], None]
    ) -> None:
        self._state = state
        self._origin_ca = origin_ca
        self._edge_cidrs = edge_cidrs
        self._changed = on_change

    def routes(self) -> list[Route]:
        def route(method: str, path: str, handler: Callable[[Request], Awaitable[Response]]) -> Route:
            made = Route(path, handler, methods=[method])
            made.methods = {method}  # Starlette adds HEAD to GET, the vendor does not
            return made

        records = "/zones/{zone_id}/dns_records"
        return [
            route("GET", "/ips", self.ips),
            route("GET", "/user/tokens/verify", self.verify_user_token),
            route("GET", "/user/tokens", self.list_user_tokens),
            route("GET", "/accounts/{account_id}/tokens/verify", self.verify_account_token),
            route("GET", "/zones", self.list_zones),
            route("GET", "/zones/{zone_id}", self.get_zone),
            route("GET", "/zones/{zone_id}/settings/{setting}", self.get_setting),
            route("PATCH", "/zones/{zone_id}/settings/{setting}", self.edit_setting),
            route("GET", "/zones/{zone_id}/ssl/universal/settings", self.universal_ssl),
            route("GET", "/zones/{zone_id}/ssl/verification", self.verify_ssl),
            route("GET", "/zones/{zone_id}/ssl/certificate_packs", self.list_certificate_packs),
            route("GET", "/zones/{zone_id}/pagerules", self.list_page_rules),
            route("GET", records, self.list_records),
            route("POST", records, self.create_record),
            route("GET", f"{records}/usage", self.record_usage),
            route("POST", f"{records}/batch", self.batch_records),
            route("GET", f"{records}/{{record_id}}", self.get_record),
            route("PATCH", f"{records}/{{record_id}}", self.patch_record),
            route("PUT", f"{records}/{{record_id}}", self.put_record),
            route("DELETE", f"{records}/{{record_id}}", self.delete_record),
            route("GET", "/certificates", self.list_certificates),
            route("POST", "/certificates", self.create_certificate),
            route("GET", "/certificates/{certificate_id}", self.get_certificate),
            route("DELETE", "/certificates/{certificate_id}", self.revoke_certificate),
        ]

    async def ips(self, _request: Request) -> Response:
        v4 = [cidr for cidr in self._edge_cidrs if ":" not in cidr]
        v6 = [cidr for cidr in self._edge_cidrs if ":" in cidr]
        etag = hashlib.md5(repr((v4, v6)).encode(), usedforsecurity=False).hexdigest()
        return success({"ipv4_cidrs": v4, "ipv6_cidrs": v6, "etag": etag})

    async def verify_user_token(self, request: Request) -> Response:
        return self._verify(request, owner="user")

    async def list_user_tokens(self, request: Request) -> Response:
        token = access.authenticate(self._state, request)
        access.require_active(token)
        if not access.has_right(token, "tokens:read"):
            raise ApiError(403, 9109, "Unauthorized to access requested resource")
        rows = [
            {"id": one["id"], "name": f"token {one['id'][:6]}", "status": one["status"]}
            for one in self._state["tokens"].values()
            if one["owner"] == "user"
        ]
        part, info = page_of(request, rows, default=20, largest=50)
        return success(part, info=info)

    async def verify_account_token(self, request: Request) -> Response:
        if request.path_params["account_id"] != account.ACCOUNT_ID:
            raise no_route(request.url.path)
        return self._verify(request, owner="account")

    def _verify(self, request: Request, owner: str) -> Response:
        token = access.authenticate(self._state, request)
        if token["owner"] != owner:
            raise ApiError(401, 1000, "Invalid API Token")
        status = token["status"]
        text = f"This API Token is {'valid and active' if status == 'active' else status}"
        message = {"code": 10000, "message": text, "type": None}
        return success({"id": token["id"], "status": status}, messages=[message])

    async def list_zones(self, request: Request) -> Response:
        token = access.authenticate(self._state, request)
        access.require_active(token)
        query = request.query_params
        rows = [
            zone
            for zone in self._state["zones"].values()
            if access.reaches(token, zone["name"])
            and ("name" not in query or zone["name"] == query["name"].lower())
            and query.get("status", zone["status"]) == zone["status"]
            and query.get("account.id", account.ACCOUNT_ID) == account.ACCOUNT_ID
        ]
        if not access.has_right(token, "zone:read"):
            if self._state["refusals"]["zones"] == "forbidden":
                text = 'requires permission "com.cloudflare.api.account.zone.list" to list zones'
                raise ApiError(403, 0, f"Actor {text}")
            rows = []
        part, info = page_of(request, rows, default=20, largest=50)
        return success([_zone_answer(zone, token) for zone in part], info=info)

    async def get_zone(self, request: Request) -> Response:
        token = access.authenticate(self._state, request)
        return success(_zone_answer(self._zone(request, token, "zone:read"), token))

    async def get_setting(self, request: Request) -> Response:
        zone = self._zone(request, access.authenticate(self._state, request), "settings:read")
        answer = self._setting(request, zone)
        if answer["id"] == "ssl":
            answer |= {
                "certificate_status": "active" if zone["status"] == "active" else "none",
                "validation_errors": [],
            }
        return success(answer)

    async def edit_setting(self, request: Request) -> Response:
        zone = self._zone(request, access.authenticate(self._state, request), "settings:edit")
        setting = self._setting(request, zone)["id"]
        value = (await json_body(request)).get("value")
        if value not in account.SETTINGS[setting]:
            raise ApiError(400, 1007, f"Invalid value for zone setting {setting}")
        zone["settings"][setting] = {"value": value, "modified_on": account.now()}
        self._changed()
        return success(self._setting(request, zone))

    async def universal_ssl(self, request: Request) -> Response:
        zone = self._zone(request, access.authenticate(self._state, request), "ssl:read")
        return success({"enabled": zone["universal_ssl"]["enabled"], "certificate_authority": "google"})

    async def verify_ssl(self, request: Request) -> Response:
        zone = self._zone(request, access.authenticate(self._state, request), "ssl:read")
        return success(edge_certificates.verification(zone))

    async def list_certificate_packs(self, request: Request) -> Response:
        zone = self._zone(request, access.authenticate(self._state, request), "ssl:read")
        rows = edge_certificates.packs(zone)
        if request.query_params.get("status") != "all":
            rows = [row for row in rows if row["status"] == "active"]
        part, info = page_of(request, rows, default=20, largest=50)
        return success(part, info=info)

    async def list_page_rules(self, request: Request) -> Response:
        """Return no rules, as of a zone without any: octoDNS asks for them."""
        token = access.authenticate(self._state, request)
        if token["owner"] != "user":
            raise ApiError(400, 1011, "Page Rules endpoint does not support account owned tokens.")
        access.require_active(token)
        if not access.has_right(token, "pagerules:read"):
            raise ApiError(403, 9109, "Unauthorized to access requested resource")
        self._zone(request, token, "pagerules:read")
        return success([])

    async def list_records(self, request: Request) -> Response:
        zone = self._zone(request, access.authenticate(self._state, request), "dns:read")
        rows = dns.select(zone, request.query_params)
        part, info = page_of(request, rows, default=100, largest=5_000_000)
        return success(part, info=info)

    async def get_record(self, request: Request) -> Response:
        zone = self._zone(request, access.authenticate(self._state, request), "dns:read")
        return success(dns.find(zone, _record_id(request)))

    async def record_usage(self, request: Request) -> Response:
        zone = self._zone(request, access.authenticate(self._state, request), "dns:read")
        return success({"record_quota": zone["record_quota"], "record_usage": len(zone["records"])})

    async def create_record(self, request: Request) -> Response:
        zone = self._zone(request, access.authenticate(self._state, request), "dns:edit")
        record = dns.create(zone, await json_body(request))
        self._changed()
        return success(record)

    async def patch_record(self, request: Request) -> Response:
        zone = self._zone(request, access.authenticate(self._state, request), "dns:edit")
        record = dns.patch(zone, _record_id(request), await json_body(request))
        self._changed()
        return success(record)

    async def put_record(self, request: Request) -> Response:
        zone = self._zone(request, access.authenticate(self._state, request), "dns:edit")
        record = dns.put(zone, _record_id(request), await json_body(request))
        self._changed()
        return success(record)

    async def delete_record(self, request: Request) -> Response:
        zone = self._zone(request, access.authenticate(self._state, request), "dns:edit")
        record = dns.delete(zone, _record_id(request))
        self._changed()
        return success({"id": record["id"]})

    async def batch_records(self, request: Request) -> Response:
        zone = self._zone(request, access.authenticate(self._state, request), "dns:edit")
        done = dns.batch(zone, await json_body(request))
        self._changed()
        return success(done)

    async def list_certificates(self, request: Request) -> Response:
        token = access.authenticate(self._state, request)
        zone = self._state["zones"].get(request.query_params.get("zone_id"))
        access.require(token, "ssl:edit", zone)
        if zone is None:
            raise ApiError(400, 1012, "The zone_id parameter is missing or unknown")  # the wording is a guess
        part, info = page_of(request, origin.listed(self._state, zone), default=20, largest=50)
        return success(part, info=info)

    async def create_certificate(self, request: Request) -> Response:
        token = access.authenticate(self._state, request)
        access.require(token, "ssl:edit")
        body = await json_body(request)
        hostnames = body.get("hostnames")
        for name in hostnames if isinstance(hostnames, list) else []:
            zone = account.zone_holding(self._state, str(name).lower().removeprefix("*."))
            access.require(token, "ssl:edit", zone)
        certificate = origin.create(self._state, self._origin_ca, body)
        self._changed()
        return success(certificate)

    async def get_certificate(self, request: Request) -> Response:
        return success(origin.read(self._state, self._certificate(request)))

    async def revoke_certificate(self, request: Request) -> Response:
        answer = origin.revoke(self._state, self._certificate(request)["id"])
        self._changed()
        return success(answer)

    def _certificate(self, request: Request) -> dict[str, Any]:
        token = access.authenticate(self._state, request)
        access.require(token, "ssl:edit")
        certificate = origin.find(self._state, request.path_params["certificate_id"])
        if not all(access.reaches(token, name) for name in origin.zone_names(self._state, certificate)):
            raise ApiError(400, 10000, "Authentication error")
        return certificate

    def _zone(self, request: Request, token: dict[str, Any], right: str) -> dict[str, Any]:
        zone_id = request.path_params["zone_id"]
        if not IDENTIFIER.fullmatch(zone_id):
            raise no_route(request.url.path)
        zone: dict[str, Any] | None = self._state["zones"].get(zone_id)
        access.require(token, right, zone)
        if zone is None:
            raise ApiError(403, 10000, "Authentication error")
        return zone

    def _setting(self, request: Request, zone: dict[str, Any]) -> dict[str, Any]:
        name = request.path_params["setting"]
        if name not in account.SETTINGS:
            raise ApiError(400, 1006, "Unrecognized zone setting name")
        setting = zone["settings"][name]
        return {"id": name, "value": setting["value"], "editable": True, "modified_on": setting["modified_on"]}


def _record_id(request: Request) -> str:
    record_id: str = request.path_params["record_id"]
    if not IDENTIFIER.fullmatch(record_id):
        raise no_route(request.url.path)
    return record_id


def _zone_answer(zone: dict[str, Any], token: dict[str, Any]) -> dict[str, Any]:
    names = {"dns": "dns_records", "settings": "zone_settings"}
    permissions = [
        "#" + names.get(area, area) + ":" + verb for area, _, verb in (r.partition(":") for r in token["rights"])
    ]
    return {
        "id": zone["id"],
        "name": zone["name"],
        "status": zone["status"],
        "paused": zone["paused"],
        "type": "full",
        "development_mode": 0,
        "name_servers": zone["name_servers"],
        "original_name_servers": None,
        "original_registrar": None,
        "original_dnshost": None,
        "created_on": zone["created_on"],
        "modified_on": zone["modified_on"],
        "activated_on": zone["activated_on"],
        "meta": {"step": 2, "custom_certificate_quota": 0, "page_rule_quota": 3, "phishing_detected": False},
        "owner": {"id": None, "type": "user", "email": None},
        "account": {"id": account.ACCOUNT_ID, "name": "Sandbox"},
        "permissions": sorted(permissions),
        "plan": {
            "id": hashlib.md5(zone["plan"].encode(), usedforsecurity=False).hexdigest(),
            "name": PLAN_NAMES[zone["plan"]],
            "price": 0,
            "currency": "USD",
            "frequency": "",
            "is_subscribed": zone["plan"] != "free",
            "can_subscribe": False,
            "legacy_id": zone["plan"],
            "legacy_discount": False,
            "externally_managed": False,
        },
    }
