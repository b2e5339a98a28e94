"""Both APIs are told who calls, as the wire shows it."""

from collections.abc import Callable
from contextlib import suppress

import pytest
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Receive, Scope, Send

from clawdet_cli import USER_AGENT, __version__
from clawdet_cli.adapters.cloudflare import Cloudflare
from clawdet_cli.adapters.hetzner import Hetzner
from clawdet_cli.errors import ClawdetError
from clawdet_cli.model import Deadline
from clawdet_cli.secret import Secret
from tests.contract.served import Served


@pytest.mark.parametrize(
    ("client", "begins"),
    [(Hetzner, f"clawdet/{__version__} "), (Cloudflare, USER_AGENT)],
)
def test_the_cloud_is_told_who_calls(
    client: Callable[..., Hetzner | Cloudflare], begins: str, serve_app: Callable[[ASGIApp], Served]
) -> None:
    agents: list[str] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            agents.append(Request(scope).headers["User-Agent"])
            await JSONResponse({}, 400)(scope, receive, send)

    made = client(serve_app(app).url, Secret("t" * 40), Deadline.after(5))
    with suppress(ClawdetError):
        made.check()
    made.close()
    assert agents
    assert all(agent.startswith(begins) for agent in agents)
