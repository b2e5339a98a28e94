"""The Hetzner Cloud API, version 1, as far as clawdet and the operators' usual tools use it.

Where each of its rules comes from stands in `sandbox/behaviours.toml`, under ids that begin with `hetzner.`.
"""

import hashlib
import logging
import secrets
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any

from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route as StarletteRoute

from clawdet_cli.sandbox.faults import CONTROL_PREFIX, FaultMiddleware, Faults
from clawdet_cli.sandbox.hetzner import action_api as hetzner_action_api
from clawdet_cli.sandbox.hetzner import catalog_api as hetzner_catalog_api
from clawdet_cli.sandbox.hetzner import firewalls as hetzner_firewalls
from clawdet_cli.sandbox.hetzner import images as hetzner_images
from clawdet_cli.sandbox.hetzner import orders as hetzner_orders
from clawdet_cli.sandbox.hetzner import placement_groups as hetzner_placement_groups
from clawdet_cli.sandbox.hetzner import primary_ips as hetzner_primary_ips
from clawdet_cli.sandbox.hetzner import server_actions as hetzner_server_actions
from clawdet_cli.sandbox.hetzner import servers as hetzner_servers
from clawdet_cli.sandbox.hetzner import ssh_keys as hetzner_ssh_keys
from clawdet_cli.sandbox.hetzner.actions import Actions
from clawdet_cli.sandbox.hetzner.call import Call, Route
from clawdet_cli.sandbox.hetzner.errors import ApiError
from clawdet_cli.sandbox.hetzner.firewall_rules import firewall_allows
from clawdet_cli.sandbox.hetzner.rate_limit import RateLimit
from clawdet_cli.sandbox.hetzner.state import Cloud, HetznerClock, Token
from clawdet_cli.sandbox.machines import Machines
from clawdet_cli.sandbox.request_body import BodyTooLargeError, read_body, read_object

__all__ = ["HetznerClock", "Token", "firewall_allows", "hetzner_app"]

log = logging.getLogger(__name__)

_VERSION = "/v1"
_ROUTES: tuple[Route, ...] = (
    *hetzner_orders.ROUTES,
    *hetzner_servers.ROUTES,
    *hetzner_server_actions.ROUTES,
    *hetzner_ssh_keys.ROUTES,
    *hetzner_firewalls.ROUTES,
    *hetzner_images.ROUTES,
    *hetzner_primary_ips.ROUTES,
    *hetzner_placement_groups.ROUTES,
    *hetzner_catalog_api.ROUTES,
    *hetzner_action_api.ROUTES,
)
_EFFECTS = {
    **hetzner_servers.EFFECTS,
    **hetzner_server_actions.EFFECTS,
    **hetzner_firewalls.EFFECTS,
    **hetzner_images.EFFECTS,
    **hetzner_primary_ips.EFFECTS,
}


def hetzner_app(  # noqa: PLR0917  # the two that follow the seams of all emulators come last
    state: dict[str, Any],
    machines: Machines,
    clock: HetznerClock,
    on_change: Callable[[], None],
    faults: Faults,
    tokens: Mapping[str, Token],
    machine_routes: Sequence[StarletteRoute] = (),
) -> Starlette:
    """Build the emulator over a state that may be empty; its lifespan resumes what the state shows as under way.

    Beside `/v1` it answers `/_sandbox/faults`, `/_sandbox/requests` and `/_sandbox/knobs` (GET all, PUT some, DELETE
    for the defaults; the knobs are listed in `hetzner.state.KNOBS`), and what the machines bring. It asks for no token
    there: `guard` does.
    """
    cloud = Cloud(state, machines, clock, on_change)
    api = _Api(cloud, Actions(cloud, _EFFECTS), tokens)

    @asynccontextmanager
    async def lifespan(_app: Starlette) -> AsyncIterator[None]:
        hetzner_servers.resume(api.actions)
        yield
        await api.actions.stop()

    everything = StarletteRoute("/{path:path}", api.answer)
    everything.methods = None  # also those that Starlette would refuse in a form of its own
    routes = [
        *faults.routes(),
        StarletteRoute(f"{CONTROL_PREFIX}/knobs", api.knobs, methods=["GET", "PUT", "DELETE"]),
        *machine_routes,
        everything,
    ]
    return Starlette(routes=routes, middleware=[Middleware(FaultMiddleware, faults=faults)], lifespan=lifespan)


class _Api:
    def __init__(self, cloud: Cloud, actions: Actions, tokens: Mapping[str, Token]) -> None:
        self.cloud = cloud
        self.actions = actions
        self._tokens = tokens
        self._limits: dict[str, RateLimit] = {}

    async def answer(self, request: Request) -> Response:
        headers = {"X-Correlation-Id": secrets.token_hex(8)}
        try:
            response = self._answer(request, await read_body(request), headers)
        except ApiError as error:
            response = error.response()
        except BodyTooLargeError:
            response = ApiError(413, "invalid_input", "request body is too large").response()
        except ClientDisconnect:
            return Response()  # nobody gets it
        except Exception:  # the real API would not drop the connection either
            log.exception("%s %s failed", request.method, request.scope["path"])
            response = ApiError(500, "server_error", "internal server error").response()
        for name, value in headers.items():
            response.headers[name] = value
        return response

    def _limit(self, project: str) -> RateLimit:
        per_hour = self.cloud.knob("requests_per_hour") or self.cloud.clock.requests_per_hour
        limit = self._limits.get(project)
        if limit is None or limit.per_hour != per_hour:
            limit = self._limits[project] = RateLimit(per_hour, self.cloud.clock.now)
        return limit

    def _answer(self, request: Request, body: bytes, headers: dict[str, str]) -> Response:
        found = self._routes_of(request.scope["path"])
        if not found:
            raise ApiError(404, "not_found", "api route not found")
        text, token = self._authorise(request)
        limit = self._limit(token.project)
        allowed = limit.take()
        headers.update(limit.headers())
        if not allowed:
            # A digest, so that the token itself stays out of answers and logs.
            shown = hashlib.sha256(text.encode()).hexdigest()[:12]
            message = f"Limit of '{limit.per_hour}' requests per hour for token '{shown}' reached."
            raise ApiError(429, "rate_limit_exceeded", message)
        if request.method not in found:
            raise ApiError(405, "method_not_allowed", "the request method is not allowed")
        if token.read_only and request.method != "GET":
            raise ApiError(401, "token_readonly", "token is only allowed to perform GET requests")
        route, ids = found[request.method]
        project = self.cloud.project(token.project)
        response = route.answer(Call(project, self.actions, ids, request.query_params, body, request.url))
        if request.method != "GET":
            self.cloud.changed()
        return response

    @staticmethod
    def _routes_of(path: str) -> dict[str, tuple[Route, tuple[int, ...]]]:
        """Return the routes of a path by method, with the numbers in it."""
        found: dict[str, tuple[Route, tuple[int, ...]]] = {}
        if path.startswith(_VERSION + "/"):
            for route in _ROUTES:
                if match := route.pattern.fullmatch(path.removeprefix(_VERSION)):
                    found.setdefault(route.method, (route, tuple(int(number) for number in match.groups())))
        return found

    def _authorise(self, request: Request) -> tuple[str, Token]:
        scheme, _, text = request.headers.get("Authorization", "").partition(" ")
        if scheme.lower() != "bearer" or not text:
            raise ApiError(401, "unauthorized", "token is required")
        token = self._tokens.get(text)
        if token is None:
            raise ApiError(401, "unauthorized", "the token you have provided is invalid")
        return text, token

    async def knobs(self, request: Request) -> Response:
        if request.method == "DELETE":
            self.cloud.state["knobs"].clear()
            self.cloud.changed()
        if request.method == "PUT":
            try:
                self.cloud.set_knobs(await read_object(request))
            except ValueError as exc:
                return JSONResponse({"error": str(exc)}, 422)
            self.cloud.changed()
        return JSONResponse(self.cloud.knobs())
