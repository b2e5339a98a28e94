"""An operator at a keyboard: runs the command and reads what it says."""

import io
import json
import os
import shutil
import subprocess
import sys
import urllib.request
from collections.abc import Mapping, Sequence
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from unittest import mock

from clawdet_cli.cli import main
from clawdet_cli.sandbox.cloudflare.state import CERTIFICATE_READS, DEFAULT_SETTINGS, REFUSALS
from clawdet_cli.sandbox.guard import TOKEN_HEADER

WORKING_ZONE = {
    **DEFAULT_SETTINGS,
    "status": "active",
    "paused": False,
    "plan": "free",
    "bot_fight_mode": False,
    "universal_ssl": {"enabled": True, "status": "active"},
}
"""What a test may have changed in the dashboard, as it was."""


@dataclass(frozen=True)
class Said:
    """What a command said, and how it ended."""

    code: int
    out: str
    err: str

    @property
    def document(self) -> dict[str, Any]:
        """The one JSON document on stdout."""
        return dict(json.loads(self.out))


@dataclass(frozen=True)
class Operator:
    """Somebody with a state folder and a sandbox in it."""

    state: Path
    cache: Path
    known: dict[str, Any] = field(default_factory=dict)
    in_process: bool = False
    """Whether commands run in the test's own process: it saves the second that Python takes to import the SDKs."""

    def clawdet(
        self, *arguments: str, env: Mapping[str, str] | None = None, stdin: str | None = None, timeout: float = 900
    ) -> Said:
        """Run `clawdet ARGUMENTS`."""
        if self.in_process:
            return self._within(arguments, env)
        done = subprocess.run(
            [sys.executable, "-m", "clawdet_cli", *arguments],
            env=self.environment(env),
            input=stdin,
            stdin=subprocess.DEVNULL if stdin is None else None,
            capture_output=True,
            text=True,
            timeout=timeout,
            check=False,
        )
        return Said(done.returncode, done.stdout, done.stderr)

    def _within(self, arguments: Sequence[str], env: Mapping[str, str] | None) -> Said:
        out, err = io.StringIO(), io.StringIO()
        with (
            mock.patch.dict(os.environ, self.environment(env), clear=True),
            redirect_stdout(out),
            redirect_stderr(err),
        ):
            code = main(arguments)
        return Said(code, out.getvalue(), err.getvalue())

    def environment(self, more: Mapping[str, str] | None = None) -> dict[str, str]:
        """Give the environment of a command: nothing of the developer's own settings."""
        hidden = ("_TOKEN", "_API_KEY", "_PROXY", "_proxy")
        kept = {key: value for key, value in os.environ.items() if not key.endswith(hidden)}
        own = {"CLAWDET_STATE": str(self.state), "CLAWDET_CACHE": str(self.cache)}
        return kept | own | dict(more or {})

    def info(self) -> dict[str, Any]:
        """What the sandbox says of itself; it does not change while it runs."""
        if not self.known:
            self.known.update(self.clawdet("sandbox", "info", "--json").document)
        return self.known

    def control(self, cloud: str, method: str, path: str, body: Any = None) -> Any:
        """Turn the sandbox's knobs, as its owner."""
        base = self.info()[f"{cloud}_url"].removesuffix("/v1").removesuffix("/client/v4")
        request = urllib.request.Request(
            f"{base}/_sandbox/{path}",
            method=method,
            data=None if body is None else json.dumps(body).encode(),
            headers={"Content-Type": "application/json", TOKEN_HEADER: self.info()["control_token"]},
        )
        with urllib.request.urlopen(request, timeout=10) as answer:
            content = answer.read()
        return json.loads(content) if content else None

    def reset(self) -> None:
        """Undo what `control` did, for the next test."""
        self.control("hetzner", "DELETE", "knobs")
        self.unlimited()
        self.control("hetzner", "DELETE", "servers/knobs")
        self.control("hetzner", "DELETE", "faults")
        self.control("cloudflare", "DELETE", "faults")
        self.control("cloudflare", "PATCH", f"zones/{self.info()['zone']}", WORKING_ZONE)
        self.control("cloudflare", "PATCH", "certificate_reads", {kind: [*f] for kind, f in CERTIFICATE_READS.items()})
        self.control("cloudflare", "PATCH", "refusals", REFUSALS)
        self.control("cloudflare", "DELETE", "edge/knobs")

    def unlimited(self) -> None:
        """Lift the limits of requests: many runs together exceed what one operator's clouds allow."""
        self.control("hetzner", "PUT", "knobs", {"requests_per_hour": 1_000_000})
        self.control("cloudflare", "PATCH", "limits", {"requests": 1_000_000})

    def cloud(self, name: str, path: str, method: str = "GET", body: Any = None) -> Any:
        """Call an emulated API with nothing but HTTP."""
        info = self.info()
        request = urllib.request.Request(
            info[f"{name}_url"] + path,
            method=method,
            data=None if body is None else json.dumps(body).encode(),
            headers={"Authorization": f"Bearer {info[f'{name}_token']}", "Content-Type": "application/json"},
        )
        with urllib.request.urlopen(request, timeout=10) as answer:
            content = answer.read()
        return json.loads(content) if content else None

    def servers(self) -> list[dict[str, Any]]:
        """Every server in the emulated Hetzner project."""
        return list(self.cloud("hetzner", "/servers")["servers"])

    def records(self) -> list[dict[str, Any]]:
        """Every record in the emulated zone."""
        return list(self.cloud("cloudflare", f"/zones/{self.zone_id()}/dns_records")["result"])

    def certificates(self) -> list[dict[str, Any]]:
        """Every certificate of the emulated zone that is not revoked."""
        found = self.cloud("cloudflare", f"/certificates?zone_id={self.zone_id()}")["result"]
        return [certificate for certificate in found if not certificate.get("revoked_at")]

    def certificate(self, certificate_id: str) -> dict[str, Any]:
        """A certificate as it is read by its id."""
        return dict(self.cloud("cloudflare", f"/certificates/{certificate_id}")["result"])

    def zone_id(self) -> str:
        """The id of the sandbox's zone."""
        return str(self.cloud("cloudflare", f"/zones?name={self.info()['zone']}")["result"][0]["id"])

    def sweep(self) -> None:
        """Delete by hand all that is in both clouds and recorded, so that one test does not spoil the next."""
        self.reset()
        for record in self.records():
            self.cloud("cloudflare", f"/zones/{self.zone_id()}/dns_records/{record['id']}", "DELETE")
        for certificate in self.certificates():
            self.cloud("cloudflare", f"/certificates/{certificate['id']}", "DELETE")
        # A firewall can be deleted once its servers are gone.
        for kind in ("servers", "ssh_keys", "firewalls"):
            for thing in self.cloud("hetzner", f"/{kind}")[kind]:
                self.cloud("hetzner", f"/{kind}/{thing['id']}", "DELETE")
        for file in Path(self.info()["state_file"]).parent.glob("clawdet.db*"):
            shutil.rmtree(file) if file.is_dir() else file.unlink()

    def holdings(self) -> tuple[int, int, int]:
        """How many servers, records and certificates there are."""
        return len(self.servers()), len(self.records()), len(self.certificates())
