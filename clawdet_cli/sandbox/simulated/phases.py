"""The phases `prepare` and `configure` as a client sees them: progress lines, skips, refusals, and their effects.

Step names and texts are those of provision-openclaw.sh; a test compares them. Nothing is downloaded or installed.
"""

import asyncio
import contextlib
import hashlib
import html
import json
import secrets
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from dataclasses import dataclass

from clawdet_cli.sandbox.simulated import certificate as certificates
from clawdet_cli.sandbox.simulated import disk as at
from clawdet_cli.sandbox.simulated.guest import ADDRESS, Guest
from clawdet_cli.sandbox.simulated.input import ScriptError, read_input

PREPARE_STEPS = tuple(
    "machine tool packages swap unpack bundle downloads node npm caddy sshd updates users units metadata patches"
    " openclaw gateway prepared gateway-ready".split()
)
"""With a bundle those of the machine, `sshd` to `metadata`, come before those of the programs, `bundle` to `caddy`."""
CONFIGURE_STEPS = tuple(
    "gateway-start gateway-ready gateway-config workspace certificate landing-page caddy-config caddy-start"
    " gateway-reload promises".split()
)
SCRIPT, INPUT, LOCK = "provision-openclaw.sh", "input", "package-lock.json"
BUNDLES = "/run/clawdet/bundles"
_IMAGES = ("ubuntu-24.04", "debian-12", "debian-13")
_PROVIDERS = ("ANTHROPIC_API_KEY", "OPENAI_API_KEY", "XAI_API_KEY", "OPENROUTER_API_KEY")
_DAY_SECONDS = 86400
_LONGEST_SCRIPT = 2000  # characters of a failure's text, as one line of the log


@dataclass(frozen=True)
class _Step:
    name: str
    text: str
    seconds: float
    """On a real server with two cores and a near mirror."""
    act: Callable[[], Awaitable[None] | None]
    holds: Callable[[], bool] | None = None
    """Whether what the step promises is so already; without it the step always runs."""
    beside: bool = False
    """Whether it is done beside those before it, from the phase's beginning on, and only told of in its turn."""


class _Phase:
    """One run of a phase of the script."""

    def __init__(self, guest: Guest, verb: str, folder: str, say: Callable[[str], None]) -> None:
        self.guest = guest
        self.disk = guest.disk
        self.verb = verb
        self.files = guest.uploads.get(folder, {})
        self.say = say
        self.step = ""
        self.given: dict[str, str] = {}
        self.downloaded = self.begun = self.waited = self.changed = self.unpacking = False
        self.began = time.monotonic()
        self.beside = 0.0

    async def run(self) -> int:
        """Run to the end and return the exit code."""
        try:
            try:
                self.given = read_input(self.verb, self.files.get(INPUT))
            finally:
                self.files.pop(INPUT, None)
            steps = self.steps()
            self.say(f"@steps {len(steps)} {' '.join(step.name for step in steps)}")
            self.step = steps[0].name
            async with self._alone():
                self.began = time.monotonic()
                self.begin()
                for step in steps:
                    await self._carry_out(step)
                self.say(f"@result ok {self.result()}")
        except ScriptError as error:
            self.say(f"{self.step or SCRIPT}: {error.reason}")
            if self.step:
                self.say(f"@step fail {self.step} {error.code} {error.reason[:_LONGEST_SCRIPT]}")
            self.say(f"@result failed step={self.step or 'input'} code={error.code}")
            return error.code
        return 0

    @contextlib.asynccontextmanager
    async def _alone(self) -> AsyncIterator[None]:
        if self.guest.phase_lock.locked():
            self.say("Another run is at work; waiting for it.")
        self.guest.waiting.add(self.verb)
        try:
            await self.guest.phase_lock.acquire()
        finally:
            self.guest.waiting.discard(self.verb)
        try:
            yield
        finally:
            self.guest.phase_lock.release()

    async def _carry_out(self, step: _Step) -> None:
        self.step = step.name
        started = time.monotonic()
        if step.holds is not None and step.holds():
            self.say(f"@step skip {step.name}")
            return
        self.say(f"@step begin {step.name} {step.text}")
        if step.beside:
            self.beside += step.seconds
            await self.guest.take(self.beside, since=self.began)
        else:
            await self.guest.take(step.seconds)
        if self.guest.knobs.holds(self.verb, step.name):
            await asyncio.Event().wait()  # until the power goes
        if reason := self.guest.knobs.takes_failure(self.verb, step.name):
            raise ScriptError(reason)
        waiting = step.act()
        if waiting is not None:
            await waiting
        if step.holds is not None and not step.holds():
            raise ScriptError(f"{step.name} was carried out, but what it promises does not hold")
        self.say(f"@step done {step.name} {int((time.monotonic() - started) * 1000)}")

    def steps(self) -> list[_Step]:
        raise NotImplementedError

    def begin(self) -> None:
        """Refuse to start where the phase has no ground."""

    def result(self) -> str:
        raise NotImplementedError

    def mark(self, name: str, text: str) -> tuple[Callable[[], None], Callable[[], bool]]:
        """Return the act and the test of a step that installs something."""
        path = f"{at.INSTALLED}/{name}"
        return (lambda: self.disk.write(path, text)), (lambda: self.disk.text(path) == text)

    def file(self, path: str, text: Callable[[], str]) -> tuple[Callable[[], None], Callable[[], bool]]:
        """Return the act and the test of a step that writes a file."""
        return (lambda: self.disk.write(path, text())), (lambda: self.disk.text(path) == text())

    # The gateway's part, which both phases have.

    def _wanted_secrets(self) -> dict[str, str]:
        """Return the token and the keys as they are to be; those of an older script's .env where it is all there is."""
        kept = self.guest.secrets()
        if not kept:
            old = self.guest.values(at.ENVIRONMENT)
            kept = {name: old[name] for name in ("OPENCLAW_GATEWAY_TOKEN", *_PROVIDERS) if name in old}
        kept.update({name: self.given[f"key_{name}"] for name in _PROVIDERS if f"key_{name}" in self.given})
        if self._takes_over() or "OPENCLAW_GATEWAY_TOKEN" not in kept:
            kept["OPENCLAW_GATEWAY_TOKEN"] = secrets.token_hex(24)
        return kept

    def _takes_over(self) -> bool:
        """Whether whoever kept the machine ready knows its token still."""
        return self.verb == "configure" and self.disk.exists(at.CLAIM) and not self.disk.exists(at.ROTATED)

    def _wanted_configuration(self, place: str) -> Mapping[str, object]:
        text = self.disk.text(at.CONFIGURATION)
        wanted = json.loads(text) if text else {}
        origin = f"https://{self.given.get('host', 'unclaimed.invalid')}"
        token = {"source": "file", "provider": "clawdet", "id": f"/{place}/OPENCLAW_GATEWAY_TOKEN"}
        wanted["gateway"] = {
            "port": 18789,
            "publicOrigin": origin,
            "auth": {"mode": "token", "token": token},
            "controlUi": {"basePath": "/app"},
        }
        model = self.given.get("model")
        if model and (not text or model != self.disk.text(at.MODEL).strip()):
            wanted["agents"] = {"defaults": {"model": {"primary": model}}}
        return dict(wanted)

    def has_configuration(self) -> bool:
        """Whether openclaw.json and secrets.json are as they are to be."""
        text, places = self.disk.text(at.CONFIGURATION), list(json.loads(self.disk.text(at.SECRETS) or "{}"))
        return (
            bool(text)
            and len(places) == 1
            and self._wanted_secrets() == self.guest.secrets()
            and "OPENCLAW_GATEWAY_TOKEN" not in self.guest.values(at.ENVIRONMENT)
            and json.loads(text) == self._wanted_configuration(places[0])
        )

    def write_configuration(self) -> None:
        """Write both, with the values in a new place beside the old one until `settle_configuration`."""
        place, wanted = f"r{secrets.token_hex(4)}", self._wanted_secrets()
        old = json.loads(self.disk.text(at.SECRETS) or "{}")
        self.disk.write(at.CONFIGURATION, json.dumps(self._wanted_configuration(place), indent=1))
        self.disk.write(at.SECRETS, json.dumps({**old, place: wanted}, indent=2) + "\n")
        self._clear_environment(wanted)
        if self.given.get("model"):
            self.disk.write(at.MODEL, self.given["model"] + "\n")

    def settle_configuration(self) -> None:
        """Keep the newest values alone."""
        place, values = list(json.loads(self.disk.text(at.SECRETS)).items())[-1]
        self.disk.write(at.SECRETS, json.dumps({place: values}, indent=2) + "\n")
        if self._takes_over():
            self.disk.write(at.ROTATED, "")

    def _clear_environment(self, moved: Mapping[str, str]) -> None:
        lines = self.disk.text(at.ENVIRONMENT).splitlines()
        if any(line.startswith("OPENCLAW_GATEWAY_TOKEN=") for line in lines):
            kept = [line for line in lines if line.partition("=")[0] not in moved]
            self.disk.host_path(at.ENVIRONMENT).unlink()
            if kept:
                self.disk.write(at.ENVIRONMENT, "\n".join(kept) + "\n")

    def gateway_stamp(self) -> str:
        """Return what a running gateway cannot take over."""
        return self.guest.stamp(f"{at.INSTALLED}/units", at.ENVIRONMENT)

    def start_gateway(self) -> None:
        """Start, or restart, the gateway."""
        self.guest.start_gateway(self.disk.text(f"{at.INSTALLED}/units").split()[-1])
        self.disk.write(at.GATEWAY_STAMP, self.gateway_stamp())

    async def await_gateway(self) -> None:
        """Wait until it is ready."""
        if self.guest.gateway is not None:
            await asyncio.sleep(max(0.0, self.guest.gateway.ready_at - asyncio.get_running_loop().time()))
        self.waited = True


class _Prepare(_Phase):
    refused = ""
    """Why a bundle was not used."""

    def steps(self) -> list[_Step]:
        given = self.given
        script = self.files[SCRIPT].decode(errors="replace")
        versions = f"{given['node_version']} {given['openclaw_version']}"
        node = self.mark("node", self._program("node"))
        caddy = self.mark("caddy", self._program("caddy"))[1]
        tree = self.mark("tree", self._program("tree"))[1]
        openclaw = self.mark("openclaw", self._program("tree"))[1]
        programs = [
            _Step("bundle", "Unpack the bundle", 2.5, self._bundle, self._has_bundle, beside=True),
            _Step(
                "downloads",
                "Download Node and Caddy",
                2.6,
                self._downloads,
                lambda: self.downloaded or (node[1]() and caddy()),
            ),
            _Step("node", f"Install Node {given['node_version']}", 2.5, *node),
            _Step("npm", "Begin with OpenClaw's packages", 0, self._npm, lambda: self.begun or tree()),
            _Step("caddy", f"Install Caddy {given['caddy_version']}", 0.7, self._caddy, caddy),
        ]
        machine = [
            _Step("sshd", "Let root in by key alone, and nobody by password", 0.1, *self.mark("sshd", "keys")),
            _Step("updates", "Have security updates installed by themselves", 0.1, *self.mark("updates", "on")),
            _Step("users", "Create the service users", 0.1, *self.mark("users", "openclaw caddy")),
            _Step("units", "Install the services", 0.3, *self.mark("units", versions)),
            _Step("metadata", "Close the metadata service to all but root", 0.1, *self.mark("metadata", "closed")),
        ]
        return [
            _Step("machine", "Check the machine", 0.1, self._machine),
            _Step("tool", "Keep this script on the machine", 0, *self.file(at.TOOL, lambda: script)),
            _Step("packages", "Install missing system packages", 0, _nothing, lambda: True),
            _Step("swap", "Add swap", 0, _nothing, lambda: True),
            _Step("unpack", "Begin with the bundle", 0, self._unpack, lambda: self.unpacking or self._has_bundle()),
            *(machine + programs if "bundle_url" in given else programs + machine),
            _Step("patches", "Install security updates", 2.2, self._patches, self._has_patches),
            _Step(
                "openclaw",
                f"Install OpenClaw {given['openclaw_version']}",
                36.0,
                self._openclaw,
                openclaw,
            ),
            _Step("gateway", "Start the gateway", 0.4, self._gateway, self._gateway_is_there),
            _Step("prepared", "Check what was installed", 0.2, self._prepared),
            _Step("gateway-ready", "Wait for the gateway", 0, self.await_gateway, self._waits_for_nobody),
        ]

    def result(self) -> str:
        versions = {name: self.given[name] for name in ("openclaw_version", "node_version", "caddy_version")}
        digests = {f"{what}_sha256": self.given[f"{what}_executable_sha256"] for what in ("node", "caddy")}
        own = hashlib.sha256(self.disk.text(at.TOOL).encode()).hexdigest()
        values = {**versions, **digests, "lock_sha256": self.given["lock_sha256"], "script_sha256": own}
        if bundle := self.disk.text(at.BUNDLE).strip():
            values["bundle_sha256"] = bundle
        if self.refused:
            values["bundle_refused"] = self.refused.replace(" ", "_")
        return " ".join(f"{name}={value}" for name, value in values.items())

    def _machine(self) -> None:
        if self.guest.image not in _IMAGES:
            raise ScriptError("the operating system is not Ubuntu 24.04, Debian 12 or Debian 13", 3)

    def _unpack(self) -> None:
        self.unpacking = True

    async def _bundle(self) -> None:
        # What an address holds cannot be known here, and is taken for what it is to be.
        url, wanted = self.given["bundle_url"], self.given.get("bundle_sha256", "")
        if url.startswith("file://"):
            kept = self.guest.uploads.get(BUNDLES, {})
            if not kept and LOCK not in self.files and "lock_within" in self.given:
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(self.guest.joined.wait(), int(self.given["lock_within"]))
            kept = self.guest.uploads.pop(BUNDLES, {})
            found = kept.get(url.removeprefix(f"file://{BUNDLES}/"))
            if found is None or found.decode() != wanted:
                self.refused = "it did not arrive" if found is None else "its digest is not the expected one"
                self.say(f"The bundle is not used: {self.refused}.")
                del self.given["bundle_url"]
                return
        for name in ("node", "caddy", "tree"):
            self.mark(name, self._program(name))[0]()
        self.disk.write(at.BUNDLE, f"{wanted}\n")

    def _has_bundle(self) -> bool:
        programs = ("node", "caddy", "tree")
        return "bundle_url" not in self.given or all(self.mark(one, self._program(one))[1]() for one in programs)

    def _program(self, name: str) -> str:
        """Return what marks a program as installed, or OpenClaw's packages (`tree`)."""
        digest = self.given["lock_sha256" if name == "tree" else f"{name}_executable_sha256"]
        return f"{self.given['openclaw_version' if name == 'tree' else f'{name}_version']} {digest}"

    def _downloads(self) -> None:
        self.downloaded = True

    def _npm(self) -> None:
        self.begun = True

    def _caddy(self) -> None:
        if not {"caddy_archive_sha256", "caddy_archive_sha512"} & set(self.given):
            raise ScriptError("no digest of the archive of Caddy is given", 2)
        self.mark("caddy", self._program("caddy"))[0]()

    async def _openclaw(self) -> None:
        if not self.begun and self.mark("tree", self._program("tree"))[1]():
            self.mark("openclaw", self._program("tree"))[0]()  # its command is all that is missing
            return
        if LOCK not in self.files and "lock_within" in self.given:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self.guest.joined.wait(), int(self.given["lock_within"]))
        if not {"package.json", LOCK} <= set(self.files):
            raise ScriptError("package.json and package-lock.json are not beside the input file", 2)
        lock, wanted = self.files[LOCK], self.given["lock_sha256"]
        found = hashlib.sha256(lock).hexdigest()
        if found != wanted:
            raise ScriptError(
                f"the lock of OpenClaw has the wrong digest: sha256 {found[:16]}…, expected {wanted[:16]}…"
            )
        if _locked_version(lock) != self.given["openclaw_version"]:
            raise ScriptError("the lock installs another version of OpenClaw")
        for name in ("tree", "openclaw"):
            self.mark(name, self._program("tree"))[0]()
        self.disk.host_path(at.BUNDLE).unlink(missing_ok=True)

    def _has_patches(self) -> bool:
        try:
            age = time.time() - self.disk.host_path(at.PATCHES).stat().st_mtime
        except FileNotFoundError:
            return "pool" not in self.given
        return "pool" not in self.given or age < _DAY_SECONDS

    def _patches(self) -> None:
        self.disk.write(at.PATCHES, "")
        self.guest.reboot_required = self.guest.knobs.all()["reboot_after_patches"]

    def _gateway_is_there(self) -> bool:
        return "configure" in self.guest.waiting or (
            self.disk.exists(at.CONFIGURATION) and self.guest.gateway is not None
        )

    def _gateway(self) -> None:
        if not self.disk.exists(at.CONFIGURATION):
            self.write_configuration()
            self.settle_configuration()
        self.start_gateway()

    def _waits_for_nobody(self) -> bool:
        return "pool" not in self.given or self.waited

    def _prepared(self) -> None:
        names = "openclaw_version node_version caddy_version node_executable_sha256 caddy_executable_sha256 lock_sha256"
        self.disk.write(at.PREPARED, "".join(f"{name}={self.given[name]}\n" for name in names.split()))


class _Configure(_Phase):
    def steps(self) -> list[_Step]:
        return [
            _Step("gateway-start", "Start the gateway", 0.5, self._start_gateway, self._gateway_runs),
            _Step("gateway-ready", "Wait for the gateway", 0, self.await_gateway),
            _Step("gateway-config", "Configure the gateway", 0.4, self._configuration, self._configured),
            _Step(
                "workspace",
                "Write the workspace's first files",
                0.2,
                self._workspace,
                lambda: self.disk.exists(f"{at.WORKSPACE}/AGENTS.md"),
                beside=True,
            ),
            _Step("certificate", "Install the certificate", 0.2, self._certificate, self._has_certificate, beside=True),
            _Step(
                "landing-page",
                "Write the landing page",
                0.1,
                *self.file(at.LANDING_PAGE, self._landing_page),
                beside=True,
            ),
            _Step("caddy-config", "Configure Caddy", 0.1, self._caddy_config, self._has_caddy_config, beside=True),
            _Step("caddy-start", "Start Caddy", 0.2, self._start_caddy, self._caddy_runs, beside=True),
            _Step("gateway-reload", "Have the gateway take it over", 0.2, self._reload, lambda: not self.changed),
            _Step("promises", "Check what was promised", 0.6, self._promises),
        ]

    def begin(self) -> None:
        if not self.disk.exists(at.PREPARED):
            raise ScriptError("the machine is not prepared", 3)
        self.disk.write(at.TOOL, self.files[SCRIPT].decode(errors="replace"))

    def result(self) -> str:
        self.disk.write(at.CONFIGURED, f"host={self.given['host']}\nuser={self.given['user']}\n")
        values = {
            "host": self.given["host"],
            "address": ADDRESS,
            "certificate_sha256": certificates.evidence(self.disk)[0],
            "openclaw_version": self._version("openclaw_version"),
            "origin_pulls": "on" if self.disk.exists(at.PULL_CA) else "off",
        }
        return " ".join(f"{name}={value}" for name, value in values.items())

    def _version(self, name: str) -> str:
        return self.guest.values(at.PREPARED)[name]

    def _certificate(self) -> None:
        pem = certificates.decoded(self.given["certificate_base64"])
        certificates.check(self.disk, pem, self.given["host"])
        self.disk.write(at.TLS_CERTIFICATE, pem)

    def _has_certificate(self) -> bool:
        try:
            pem = certificates.decoded(self.given["certificate_base64"])
            certificates.check(self.disk, pem, self.given["host"])
        except ScriptError:
            return False
        return self.disk.text(at.TLS_CERTIFICATE) == pem

    def _workspace(self) -> None:
        # AGENTS.md last: it says that the others were written.
        for name in ("SOUL.md", "USER.md", "IDENTITY.md", "AGENTS.md"):
            if not self.disk.exists(f"{at.WORKSPACE}/{name}"):
                self.disk.write(f"{at.WORKSPACE}/{name}", f"# {name}: a simulated server has no agent\n")

    def _configuration(self) -> None:
        self.write_configuration()
        self.changed = True

    def _configured(self) -> bool:
        return self.changed or self.has_configuration()

    def _reload(self) -> None:
        self.guest.reload_gateway()
        self.settle_configuration()
        self.changed = False

    def _gateway_runs(self) -> bool:
        return self.guest.gateway is not None and self.disk.text(at.GATEWAY_STAMP) == self.gateway_stamp()

    def _start_gateway(self) -> None:
        if not self.has_configuration():
            self.write_configuration()
            self.settle_configuration()
        self.start_gateway()

    def _landing_page(self) -> str:
        user, host = html.escape(self.given["user"]), html.escape(self.given["host"])
        title = html.escape(self.given.get("landing_title") or f"OpenClaw of {self.given['user']}")
        return (
            f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><title>{title}</title></head>\n<body>\n'
            f"<h1>{title}</h1>\n<p>{user}, {host}</p>\n"
            "<p><strong>This is a simulated server</strong> of the clawdet sandbox: no OpenClaw runs here.</p>\n"
            '<p><a href="/app/">Open the Control UI</a></p>\n</body></html>\n'
        )

    def _pull_ca(self) -> str:
        """Return the authority that clients have to be certified by, as it is to be; empty for none."""
        given = self.given.get("origin_pull_ca_base64", "")
        if not given:
            return self.disk.text(at.PULL_CA)
        return "" if given == "none" else certificates.decoded(given)

    def _caddy_config(self) -> None:
        wanted = self._pull_ca()
        self.disk.host_path(at.PULL_CA).unlink(missing_ok=True)
        if wanted:
            self.disk.write(at.PULL_CA, wanted)
        self.disk.write(at.CADDYFILE, self.given["host"])

    def _has_caddy_config(self) -> bool:
        return self.disk.text(at.CADDYFILE) == self.given["host"] and self.disk.text(at.PULL_CA) == self._pull_ca()

    def _caddy_stamp(self) -> str:
        return self.guest.stamp(f"{at.INSTALLED}/caddy", at.CADDYFILE, at.TLS_CERTIFICATE, at.TLS_KEY, at.PULL_CA)

    def _caddy_runs(self) -> bool:
        return self.guest.caddy is not None and self.disk.text(at.CADDY_STAMP) == self._caddy_stamp()

    def _start_caddy(self) -> None:
        self.guest.start_caddy()
        self.disk.write(at.CADDY_STAMP, self._caddy_stamp())

    def _promises(self) -> None:
        if not self.guest.gateway_is_ready or self.guest.caddy is None:
            raise ScriptError("the gateway does not stay up")


async def run_phase(guest: Guest, verb: str, folder: str, say: Callable[[str], None]) -> int:
    """Run a phase with the files uploaded to a folder, and return the script's exit code."""
    if SCRIPT not in guest.uploads.get(folder, {}):
        say(f"/bin/bash: {folder}/{SCRIPT}: No such file or directory")
        return 127
    return await {"prepare": _Prepare, "configure": _Configure}[verb](guest, verb, folder, say).run()


def _nothing() -> None:
    """Act of a step that always holds already."""


def _locked_version(lock: bytes) -> str | None:
    try:
        version = json.loads(lock)["packages"]["node_modules/openclaw"]["version"]
    except (ValueError, KeyError, TypeError):
        return None
    return str(version)
