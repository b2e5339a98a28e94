"""What a server finds at link-local addresses: the provider's metadata service, and the download mirror."""

import json
import os
from pathlib import Path

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import FileResponse, PlainTextResponse, Response
from starlette.routing import Mount, Route
from starlette.staticfiles import StaticFiles
from starlette.types import Scope

from clawdet_cli.sandbox.machines import MachineSpec

_PREFIX = "/hetzner/v1"


def metadata_app(spec: MachineSpec) -> Starlette:
    """Answer as the provider's metadata service does; paths and keys as cloud-init's DataSourceHetzner reads them."""
    values = {
        "hostname": spec.name,
        "instance-id": spec.server_id,
        "public-ipv4": spec.ipv4,
        "public-keys": list(spec.public_keys),
        "region": "eu-central",
        "availability-zone": "nbg1-dc3",
        "vendor_data": "",
    }

    def everything(_: Request) -> Response:
        # YAML, of which JSON is a part.
        return PlainTextResponse(json.dumps(values, indent=1) + "\n")

    def one(request: Request) -> Response:
        value = values.get(request.path_params["name"])
        if value is None:
            return PlainTextResponse("not found", 404)
        return PlainTextResponse(value if isinstance(value, str) else json.dumps(value))

    def private_networks(_: Request) -> Response:
        return PlainTextResponse("[]\n")

    def user_data(_: Request) -> Response:
        return PlainTextResponse(spec.user_data) if spec.user_data else Response(status_code=204)

    return Starlette(
        routes=[
            Route(f"{_PREFIX}/metadata", everything),
            Route(f"{_PREFIX}/metadata/private-networks", private_networks),
            Route(f"{_PREFIX}/metadata/{{name}}", one),
            Route(f"{_PREFIX}/userdata", user_data),
        ]
    )


class _Downloads(StaticFiles):
    def file_response(
        self, full_path: str | os.PathLike[str], stat_result: os.stat_result, scope: Scope, status_code: int = 200
    ) -> Response:
        answer = super().file_response(full_path, stat_result, scope, status_code)
        if isinstance(answer, FileResponse):
            # With Starlette's own 64 KiB, a download keeps a processor busy that the servers need.
            answer.chunk_size = 1 << 20
        return answer


def download_app(folder: Path) -> Starlette:
    """Serve the files that a server of the real provider downloads from the vendors."""
    return Starlette(routes=[Mount("/", _Downloads(directory=folder, check_dir=False))])
