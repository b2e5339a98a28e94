"""The verbs of the installed script that answer at once."""

import asyncio
import hashlib
import re
from dataclasses import dataclass
from datetime import UTC, datetime

from clawdet_cli.sandbox.simulated import certificate as certificates
from clawdet_cli.sandbox.simulated import disk as at
from clawdet_cli.sandbox.simulated import host_keys
from clawdet_cli.sandbox.simulated.guest import ADDRESS, Guest
from clawdet_cli.sandbox.simulated.input import HOST, ScriptError
from clawdet_cli.sandbox.simulated.phases import SCRIPT

ARCHITECTURE = "x86_64"
_BLOB = re.compile(r"[A-Za-z0-9+/]{60,80}={0,2}")
_EARLIER_NONCES = 31

_RUN = re.compile(r"[a-z0-9]{12}")
_INSTALLED = (
    *("openclaw_version", "node_version", "caddy_version", "node_executable_sha256", "caddy_executable_sha256"),
    "lock_sha256",
)
_LOCK_SECONDS = 10.0
_NONCE_LENGTHS = range(8, 65)
_REPORT_SECONDS = 1.8


@dataclass(frozen=True)
class Said:
    """How a command ended, and what it said."""

    code: int = 0
    out: bytes = b""
    err: bytes = b""


async def run_verb(guest: Guest, verb: str, argument: str) -> Said:
    """Run a verb of the script that `prepare` left on the machine."""
    if not guest.disk.exists(at.TOOL):
        return Said(127, err=f"/bin/bash: {at.TOOL}: No such file or directory\n".encode())
    try:
        match verb:
            case "certificate-request":
                text = _certificate_request(guest, argument)
            case "report":
                text = await _report(guest)
            case "token":
                text = _token(guest)
            case "host-key":
                text = _host_key(guest)
            case "claim":
                text = await _claim(guest, argument)
            case "switch-host-key":
                text = _switch_host_key(guest, argument)
            case _:
                text = _nonce(guest, argument)
    except ScriptError as error:
        return Said(error.code, out=error.out.encode(), err=f"{SCRIPT}: {error.reason}\n".encode())
    return Said(out=text.encode())


def _certificate_request(guest: Guest, host: str) -> str:
    if not HOST.fullmatch(host):
        raise ScriptError("the host name is missing or malformed", 2)
    return certificates.request(guest.disk, host)


async def _report(guest: Guest) -> str:
    await guest.take(_REPORT_SECONDS if guest.gateway_is_ready else 0)
    disk, gateway, ready = guest.disk, guest.gateway, guest.gateway_is_ready
    prepared = guest.values(at.PREPARED)
    sha256, expires = certificates.evidence(disk)
    phase = "configured" if disk.exists(at.CONFIGURED) else "prepared" if prepared else "none"
    values = {
        "address": ADDRESS,
        "os": guest.image,
        "arch": ARCHITECTURE,
        "openclaw_version": prepared.get("openclaw_version", ""),
        "node_version": prepared.get("node_version", ""),
        "caddy_version": prepared.get("caddy_version", ""),
        "node_sha256": prepared.get("node_executable_sha256", ""),
        "caddy_sha256": prepared.get("caddy_executable_sha256", ""),
        "script_sha256": hashlib.sha256(disk.text(at.TOOL).encode()).hexdigest(),
        "lock_sha256": prepared.get("lock_sha256", ""),
        "phase": phase,
        "host": guest.values(at.CONFIGURED).get("host", ""),
        "openclaw_unit": "active" if gateway else "inactive",
        "openclaw_restarts": "0",
        "openclaw_active_seconds": str(int((datetime.now(UTC) - gateway.since).total_seconds())) if gateway else "0",
        "gateway_listeners": "127.0.0.1,[::1]" if ready else "",
        "listener_owner": "unit" if ready else "none",
        "caddy_unit": "active" if guest.caddy else "inactive",
        "certificate_sha256": sha256,
        "certificate_expires": expires,
        "landing": "present" if disk.exists(at.LANDING_PAGE) else "missing",
        "origin_pulls": "on" if disk.exists(at.PULL_CA) else "off",
        "metadata_closed": "yes" if disk.exists(f"{at.INSTALLED}/metadata") else "no",
        "reboot_required": "yes" if guest.reboot_required else "no",
        "gateway_ready": "true" if ready else "false",
        "gateway_health": "ok" if ready else "failed",
    }
    return "".join(f"{name}={value}\n" for name, value in values.items())


def _token(guest: Guest) -> str:
    token = guest.secrets().get("OPENCLAW_GATEWAY_TOKEN")
    if not token:
        raise ScriptError("there is no gateway token; the machine is not prepared")
    return token + "\n"


def _host_key(guest: Guest) -> str:
    current, following = host_keys.public_half(guest.disk.text(at.HOST_KEY)), ""
    if current != guest.disk.text(at.OWN_HOST_KEY).strip():
        if not guest.disk.exists(at.NEXT_HOST_KEY):
            guest.disk.write(at.NEXT_HOST_KEY, host_keys.new())
        following = host_keys.public_half(guest.disk.text(at.NEXT_HOST_KEY))
    return f"current={current}\nnext={following}\n"


async def _claim(guest: Guest, run: str) -> str:
    if not _RUN.fullmatch(run):
        raise ScriptError("a run is 12 characters of a-z and 0-9", 2)
    disk = guest.disk
    if not disk.exists(at.PREPARED):
        raise ScriptError("the machine is not prepared", 3)
    try:
        async with asyncio.timeout(_LOCK_SECONDS):
            await guest.phase_lock.acquire()
    except TimeoutError:
        raise ScriptError("another run is at work", 3) from None
    try:
        holder = disk.text(at.CLAIM).strip()
        if holder not in {"", run}:
            raise ScriptError("the machine was taken by another run", 4, out=f"claim={holder}\n")
        if not guest.gateway_is_ready:
            raise ScriptError("the gateway is not ready", 3)
        if not holder:
            if disk.exists(at.CONFIGURED):
                raise ScriptError("the machine is configured already", 3)
            for path in (at.OWN_HOST_KEY, at.NEXT_HOST_KEY):
                disk.host_path(path).unlink(missing_ok=True)
            disk.write(at.CLAIM, run + "\n")
    finally:
        guest.phase_lock.release()
    prepared = guest.values(at.PREPARED)
    values = {name.replace("_executable", ""): prepared[name] for name in _INSTALLED}
    values["script_sha256"] = hashlib.sha256(disk.text(at.TOOL).encode()).hexdigest()
    return "".join(f"{name}={value}\n" for name, value in values.items()) + _host_key(guest)


def _switch_host_key(guest: Guest, blob: str) -> str:
    if not _BLOB.fullmatch(blob):
        raise ScriptError("a public key is expected, in base64", 2)
    disk, wanted = guest.disk, f"ssh-ed25519 {blob}"
    if host_keys.public_half(disk.text(at.HOST_KEY)) != wanted:
        if not disk.exists(at.NEXT_HOST_KEY) or host_keys.public_half(disk.text(at.NEXT_HOST_KEY)) != wanted:
            raise ScriptError("this machine has made no such key")
        disk.write(at.OWN_HOST_KEY, wanted + "\n")
        disk.host_path(at.NEXT_HOST_KEY).replace(disk.host_path(at.HOST_KEY))
    return ""


def _nonce(guest: Guest, value: str) -> str:
    if len(value) not in _NONCE_LENGTHS or not value.isascii() or not value.isalnum() or value != value.lower():
        raise ScriptError("a nonce is 8 to 64 characters of a-z and 0-9", 2)
    if not guest.disk.exists(at.LANDING_PAGE):
        raise ScriptError("there is no landing page yet; the machine is not configured")
    earlier = guest.disk.text(at.NONCE).splitlines()[-_EARLIER_NONCES:]
    guest.disk.write(at.NONCE, "".join(f"{one}\n" for one in (*earlier, value)))
    return ""
