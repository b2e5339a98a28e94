"""The exchange with a VPS: remote commands as values, the script's input, and its progress lines."""

import base64
import hashlib
import io
import json
import re
import shlex
import tarfile
from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import lru_cache
from pathlib import Path
from typing import Any

from clawdet_cli import pins
from clawdet_cli.errors import ConfigError, GuestError
from clawdet_cli.model import Device, Devices, Instance
from clawdet_cli.secret import Secret, excerpt
from clawdet_cli.settings import Settings

SCRIPT_NAME = "provision-openclaw.sh"
INSTALLED_SCRIPT = f"/usr/local/lib/clawdet/{SCRIPT_NAME}"
"""Where the script's prepare phase leaves a copy of itself."""
LOG_FOLDER = "/var/log/clawdet"
BUNDLES = "/run/clawdet/bundles"
MAX_NEWS = 262144
"""Bytes of log in one answer: a machine that floods its log must not fill our memory."""

MOST_LOG = 8 * 1024 * 1024
"""Bytes of log of one phase, which writes some thousands: more of it would only fill the operator's disk."""
MOST_LINE = 1000
MOST_VALUE, MOST_VALUES = 300, 100
"""Characters of a line `key=value`, and lines."""

_HEREDOC = re.compile(rb"<<'?([A-Z]+)'?( |$)")
_HEAD = 30
"""Lines of the script that are never emptied."""

_NUMBER = re.compile(r"[0-9]{1,15}", re.ASCII)
"""What the VPS may say as a number: `int` refuses some of what `str.isdigit` lets through."""

INSTALLED = (
    *("openclaw_version", "node_version", "caddy_version", "node_sha256", "caddy_sha256", "lock_sha256"),
    *("bundle_sha256", "script_sha256"),
)
"""What the result line of `prepare` names; digests are of the executables, of OpenClaw's npm lock, and of the bundle
that it came in, if it did."""

_VERSION_OR_DIGEST = re.compile(r"[0-9a-z.-]{1,64}", re.ASCII)

_REASON = re.compile(r"[a-z_]{1,100}", re.ASCII)
_TOKEN = re.compile(r"[!-~]{24,512}", re.ASCII)

BOOT_FOLDER = "/run/clawdet/boot"
"""Where user_data puts what it begins `prepare` with, before anybody can reach the machine."""
BOOT_MARK = "mark"
PACKED_SCRIPT = f"{SCRIPT_NAME}.bz2"
"""How the script travels in user_data: within gzip's short memory it would take a tenth more room."""
LOCK_SECONDS = 1500
"""How long that run waits for the npm lock, which is too large for user_data."""

GOING_DOWN = "the machine is going down"
"""The script's reason where a restart of the machine ended it."""
SYSTEM_STATE = "systemctl is-system-running"

REBOOT_REQUIRED = "if [ -e /run/reboot-required ]; then echo yes; fi"
"""The mark that Ubuntu and Debian set when an update, mostly of the kernel, waits for a restart of the machine."""
REBOOT = "if [ -e /run/reboot-required ]; then systemctl reboot; fi"
"""Nothing when it comes a second time: the mark is in memory."""

LIST_DEVICES = "openclaw devices list --json"
"""OpenClaw's own command line, as the user who owns its state (facts of OpenClaw 2026.9)."""
MOST_DEVICES = 200
_REQUEST = re.compile(r"[0-9a-f-]{8,64}", re.ASCII)
_DEVICE = re.compile(r"[0-9a-f]{16,128}", re.ASCII)
_SHOWN = 120
"""Characters of a device's own words that are kept: it may say anything."""


def script() -> bytes:
    """Give the provisioning script, from the installed package or the checkout, as it is sent."""
    here = Path(__file__).parent
    for folder in (here, here.parent):
        if (folder / SCRIPT_NAME).is_file():
            return uncommented((folder / SCRIPT_NAME).read_bytes())
    raise ConfigError(f"{SCRIPT_NAME} is missing from this installation.", next_steps=["install clawdet again"])


@lru_cache(maxsize=2)
def uncommented(text: bytes) -> bytes:
    """Empty the lines that are only a comment, so that the script fits into user_data; each keeps its number.

    Its head, which is its usage too, and what it writes into files stay as they are.
    """
    lines, end = [], b""
    for number, line in enumerate(text.split(b"\n")):
        if end:
            end = b"" if line == end else end
        elif opened := _HEREDOC.search(line):
            end = opened[1]
        elif number >= _HEAD and line.lstrip().startswith(b"# "):
            line = b""  # noqa: PLW2901
        lines.append(line)
    return b"\n".join(lines)


def upload(folder: str) -> str:
    """Build the command that unpacks the tar on its stdin into a private folder.

    Each run deletes its input as soon as it has read it. What lies there still was sent by one that was cut off before
    it started anything, and may hold a provider's key.
    """
    quoted = shlex.quote(folder)
    return (
        f"umask 077; rm -f /run/clawdet/*/input; rm -rf {quoted} && mkdir -p {quoted} && "
        f"tar -x -C {quoted} --no-same-owner"
    )


def keep_bundle(sha256: str, size: int) -> str:
    """Build the command that keeps a bundle from its stdin; it fails unless that has `size` bytes.

    In memory, where it is gone after a restart at the latest; the script compares the digest and deletes it.
    """
    file = bundle_file(sha256)
    return (
        f"umask 077; mkdir -p {BUNDLES} && cat >{file}.part && [ $(stat -c %s {file}.part) = {size} ] "
        f"&& mv {file}.part {file} || {{ rm -f {file}.part; false; }}"
    )


def look_for_bundle(sha256: str, lock_sha256: str) -> str:
    """Build the command that says `prepared` where OpenClaw is installed already, or `kept` where the bundle is."""
    return (
        f"if grep -qsx lock_sha256={lock_sha256} /var/lib/clawdet/prepared; then echo prepared; "
        f"elif [ -f {bundle_file(sha256)} ]; then echo kept; fi"
    )


def bundle_file(sha256: str) -> str:
    """Give the path where `keep_bundle` keeps it."""
    return f"{BUNDLES}/{sha256}"


def package(files: Mapping[str, bytes]) -> bytes:
    """Pack files as the tar that `upload` and `join_boot` expect."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            member.mode = 0o600
            archive.addfile(member, io.BytesIO(content))
    return buffer.getvalue()


def start(verb: str, folder: str) -> str:
    """Build the command that runs a phase as a unit of its own and prints `started`, or `attached` to one that runs.

    A unit outlives the SSH connection and even the operator's machine: who comes back follows its log.
    """
    unit, quoted = f"clawdet-{verb}.service", shlex.quote(folder)
    return (
        f'if [ "$(systemctl show -P ActiveState {unit})" = activating ]; then echo attached; exit; fi; '
        f"systemctl stop {unit} 2>/dev/null; systemctl reset-failed {unit} 2>/dev/null; "
        f"{_run_unit(verb, f'/bin/bash {quoted}/{SCRIPT_NAME} {verb} {quoted}/input')} && echo started"
    )


def start_at_boot() -> str:
    """Build the command by which user_data begins `prepare`, as soon as cloud-init has written the files for it.

    `prepare` waits for cloud-init's network stage, which makes the disk whole; what it will want from the network is
    brought meanwhile.
    """
    # By either name of cloud-init's network stage; sshd waits for that too.
    after = '-p After="cloud-init.service cloud-init-network.service" '
    script = f"{BOOT_FOLDER}/{SCRIPT_NAME}"
    # By the Python that cloud-init runs on: no other program that unpacks is sure to be there.
    bunzip = 'python3 -c "import bz2, sys; sys.stdout.buffer.write(bz2.open(sys.argv[1]).read())"'
    unpack = f"{bunzip} {BOOT_FOLDER}/{PACKED_SCRIPT}"
    prepare = f"/bin/sh -c '{unpack} >{script} && exec /bin/bash {script} prepare {BOOT_FOLDER}/input'"
    ahead = f"{unpack} >{script}.ahead && exec /bin/bash {script}.ahead ahead {BOOT_FOLDER}/input"
    return (
        f"mkdir -p -m 700 /run/clawdet {BOOT_FOLDER} && {_run_unit('prepare', prepare, after)}; "
        # The mark is the last of the files. Nothing of the boot that is still to come matters to it.
        "systemd-run --quiet --no-block --collect --unit=clawdet-ahead.service -p DefaultDependencies=no "
        "-p Type=oneshot -p TimeoutStartSec=20min -p StandardOutput=null -p StandardError=null "
        f"/bin/sh -c 'until [ -s {BOOT_FOLDER}/{BOOT_MARK} ]; do sleep 0.05; done; {ahead}'"
    )


def _run_unit(verb: str, command: str, properties: str = "") -> str:
    log = f"{LOG_FOLDER}/{verb}.log"
    return (
        f"install -d -m 700 {LOG_FOLDER} && rm -f {log} && touch {log} && systemd-run --quiet --no-block"
        f" --unit=clawdet-{verb}.service {properties}"
        f"-p Type=oneshot -p RemainAfterExit=yes -p TimeoutStartSec=30min -p StandardInput=null "
        f"-p StandardOutput=append:{log} -p StandardError=inherit {command}"
    )


def boot_mark(values: Mapping[str, str]) -> str:
    """Give what tells a run that user_data began from one with another input, or of another clawdet's script."""
    return hashlib.sha256(script() + input_file(values)).hexdigest()[:32]


def join_boot(mark: str) -> str:
    """Build the command that gives the files on its stdin to the run that user_data began, and prints `joined`.

    It prints `none` where there is no such run with this mark, or somebody has joined it before. One with another mark
    gets the files too: it would wait for them.
    """
    state = "$(systemctl show -P ActiveState clawdet-prepare.service)"
    new = f"{BOOT_FOLDER}.new"
    # Moved, so that the lock is there whole or not at all.
    return (
        f"if [ ! -d {BOOT_FOLDER} ] || [ -e {BOOT_FOLDER}/package-lock.json ]; "
        "then cat >/dev/null; echo none; exit; fi; "
        f"umask 077; rm -rf {new} && mkdir {new} && tar -x -C {new} --no-same-owner && "
        f"mv {new}/packages.js {new}/package.json {new}/package-lock.json {BOOT_FOLDER}/ || exit; "
        f'n=0; while [ $n -lt 50 ] && [ "{state}" = inactive ]; do sleep 0.1; n=$((n+1)); done; '
        f'if [ "{state}" = inactive ] || [ "$(cat {BOOT_FOLDER}/{BOOT_MARK})" != {shlex.quote(mark)} ]; '
        f"then echo none; else echo joined; fi"
    )


def follow(verb: str, offset: int, *, gather: float = 1.0) -> str:
    """Build the command that waits for news (5 s at most): the unit's state in one line, then the log from offset.

    But for the first news it waits `gather` seconds at least, if the phase does not end.
    """
    unit, log = f"clawdet-{verb}.service", f"{LOG_FOLDER}/{verb}.log"
    # The kernel tells tail of news, and tail itself looks after the phase: programs in a loop would take its time.
    wait = "tail --pid=$p -s 0.1"
    # A phase writes several lines a second, and each answer costs the same whatever is in it. Its end is told at once.
    gathering = f"timeout {gather:g} {wait} -f /dev/null; " if offset else ""
    # The state is read before the log's size: when it says that all is over, the log that follows is whole.
    return (
        f"p=$(systemctl show -P MainPID {unit}); if [ $p -gt 0 ]; "
        f"then {gathering}timeout 5 {wait} -c +{offset + 1} -f {log} 2>/dev/null | head -c 1 >/dev/null; fi; "
        f"systemctl show -p ActiveState -p Result -p ExecMainStatus {unit} | tr '\\n' ' '; "
        f"size=$(stat -c %s {log}); end=$((size < {offset + MAX_NEWS} ? size : {offset + MAX_NEWS})); "
        f'echo "Offset=$end"; tail -c +{offset + 1} {log} | head -c $((end - {offset}))'
    )


def installed(verb: str, *arguments: str) -> str:
    """Build the command that runs a verb of the script that `prepare` left on the machine."""
    return shlex.join(["/bin/bash", INSTALLED_SCRIPT, verb, *arguments])


def approve_device(request: str) -> str:
    """Build the command that lets a device in."""
    return shlex.join(["openclaw", "devices", "approve", request, "--json"])


@dataclass(frozen=True)
class UnitState:
    """How a phase's unit stands, from the first line of a `follow` answer."""

    running: bool
    ok: bool
    offset: int
    """Where the log that came with it ends, in bytes."""
    text: str

    @property
    def gone(self) -> bool:
        """Whether there is no such unit: one that ended stays, and none outlives a restart of the machine."""
        return "ActiveState=inactive" in self.text.split()


def parse_follow(answer: str) -> tuple[UnitState, str]:
    """Split a `follow` answer into the unit's state and the new text of the log."""
    first, _, log = answer.partition("\n")
    values = dict(item.split("=", 1) for item in first.split() if "=" in item)
    running = values.get("ActiveState") in {"activating", "reloading"}
    ok = values.get("ActiveState") == "active" and values.get("Result") == "success"
    offset = values.get("Offset", "")
    if not _NUMBER.fullmatch(offset):
        raise GuestError("The VPS gave no readable answer about the installation.", details=[excerpt(answer, 200)])
    return UnitState(running, ok, int(offset), first.partition("Offset=")[0].strip()), log


@dataclass(frozen=True)
class ScriptLine:
    """A machine-readable line of the script."""

    kind: str
    """`begin`, `done`, `skip`, `fail`, `steps` or `result`."""
    step: str = ""
    text: str = ""
    seconds: float = 0.0
    values: Mapping[str, str] | None = None


def parse_line(line: str) -> ScriptLine | None:
    """Read a line of the script's output; None for text that is meant for people."""
    match line.rstrip().split(" ", 3):
        case ["@step", "done", step, milliseconds] if _NUMBER.fullmatch(milliseconds):
            return ScriptLine("done", step, seconds=int(milliseconds) / 1000)
        case ["@step", "fail", step, reason]:
            return ScriptLine("fail", step, reason.partition(" ")[2])  # after the exit code
        case ["@step", "begin" | "skip" | "fail" as kind, step, *text]:
            return ScriptLine(kind, step, " ".join(text))
        case ["@steps", *_]:
            return ScriptLine("steps", text=line.rstrip().partition(" ")[2])
        case ["@result", outcome, *_]:
            return ScriptLine("result", text=outcome, values=parse_values(line.replace(" ", "\n")))
    return None


def installed_text(said: Mapping[str, str]) -> str:
    """Give the versions and digests of a result line as text to be recorded; whatever is none is left out."""
    return " ".join(f"{name}={said[name]}" for name in INSTALLED if _VERSION_OR_DIGEST.fullmatch(said.get(name, "")))


def refusal(said: Mapping[str, str]) -> str:
    """Give the reason of a result line why a bundle was refused, in words; nothing for what is no reason."""
    reason = said.get("bundle_refused", "")
    return reason.replace("_", " ") if _REASON.fullmatch(reason) else ""


def parse_token(answer: str) -> Secret:
    """Read the answer of `token`. Raises GuestError, without the answer, for what no terminal or header should get."""
    token = answer.strip()
    if not _TOKEN.fullmatch(token):
        raise GuestError("The VPS's answer is no gateway token.", next_steps=["clawdet verify USER"])
    return Secret(token)


def is_request(text: str) -> bool:
    """Say whether a text can be the id of a device's request."""
    return _REQUEST.fullmatch(text) is not None


def parse_devices(answer: str) -> Devices:
    """Read the answer of `LIST_DEVICES`. Raises GuestError for what is no such answer."""
    try:
        content = json.loads(answer)
        lists = [content[name] for name in ("pending", "paired")]
    except (ValueError, KeyError, TypeError, RecursionError):
        lists = []
    if not lists or not all(isinstance(entries, list) for entries in lists):
        raise GuestError("The VPS gave no readable answer about its devices.", details=[excerpt(answer, 200)])
    pending, paired = ([_device(entry) for entry in entries[:MOST_DEVICES]] for entries in lists)
    return Devices(
        tuple(device for device in pending if device and device.request),
        tuple(replace(device, request=None) for device in paired if device),
    )


def parse_approved(answer: str) -> Device:
    """Read the answer of `approve_device`. Raises GuestError for what is no such answer."""
    try:
        device = _device(json.loads(answer)["device"])
    except (ValueError, KeyError, TypeError, RecursionError):
        device = None
    if device is None:
        raise GuestError("The VPS gave no readable answer about the device.", details=[excerpt(answer, 200)])
    return replace(device, request=None)


def _device(entry: object) -> Device | None:
    if not isinstance(entry, dict) or not _DEVICE.fullmatch(str(entry.get("deviceId"))):
        return None
    request = str(entry.get("requestId"))

    def said(name: str) -> str:
        value: Any = entry.get(name)
        return excerpt(value, _SHOWN) if isinstance(value, str) else ""

    scopes = entry.get("scopes")
    return Device(
        id=str(entry["deviceId"]),
        request=request if is_request(request) else None,
        platform=said("displayName") or said("platform"),
        client=said("clientId"),
        address=said("remoteIp"),
        scopes=tuple(excerpt(str(scope), _SHOWN) for scope in scopes[:MOST_DEVICES])
        if isinstance(scopes, list)
        else (),
        at=_moment(entry.get("ts", entry.get("approvedAtMs"))),
    )


def _moment(milliseconds: object) -> str:
    number = parse_number(str(milliseconds))
    try:
        return datetime.fromtimestamp(number / 1000, UTC).isoformat(timespec="seconds") if number else ""
    except (OverflowError, ValueError, OSError):
        return ""


def parse_number(text: str) -> int:
    """Read a number that the VPS gives; 0 for anything else."""
    return int(text) if _NUMBER.fullmatch(text) else 0


def parse_values(text: str) -> dict[str, str]:
    """Read `key=value` lines, as far as any of ours is long."""
    lines = (line[:MOST_VALUE] for line in text.splitlines()[:MOST_VALUES])
    return dict(line.split("=", 1) for line in lines if re.match(r"[a-z0-9_]+=", line))


def prepare_input(settings: Settings, openclaw_version: str, architecture: str) -> dict[str, str]:
    """Give the values of the prepare phase's input."""
    pinned = pins.load().for_openclaw(openclaw_version, architecture)
    values = pinned.script_input()
    # A mirror serves archives of its own making: their digests come with it, the executables' stay the pinned ones.
    mirrored = settings.endpoints.artifacts.get(f"{pinned.node_version}/{architecture}")
    if mirrored is not None:
        values = {key: value for key, value in values.items() if "_archive_" not in key} | dict(mirrored)
    return values


def prepare_files(openclaw_version: str) -> dict[str, bytes]:
    """Give the files that lie beside the prepare phase's input: OpenClaw's npm lock, and what installs it."""
    pinned = pins.load().for_openclaw(openclaw_version, "x86")  # the lock is the same for all
    return {
        "packages.js": pins.packages_program(),
        "package.json": pinned.package_json,
        "package-lock.json": pinned.package_lock,
    }


def prepared_as(values: Mapping[str, str]) -> dict[str, str]:
    """Give what the result line of a `prepare` with this input, by this very script, says."""
    return {
        **{name: values[name] for name in ("openclaw_version", "node_version", "caddy_version", "lock_sha256")},
        "node_sha256": values["node_executable_sha256"],
        "caddy_sha256": values["caddy_executable_sha256"],
        "script_sha256": hashlib.sha256(script()).hexdigest(),
    }


def configure_input(settings: Settings, instance: Instance, certificate_pem: str) -> dict[str, str]:
    """Give the values of the input of the configure phase: this user's host, certificate and keys."""
    pinned = pins.load().for_openclaw(instance.openclaw_version or settings.openclaw_version, "x86")
    values = {
        "host": instance.host,
        "user": instance.user,
        "certificate_base64": base64.b64encode(certificate_pem.encode()).decode(),
        "model": settings.model or pinned.default_model(settings.provider_keys) or "",
    }
    if settings.origin_pull_ca is not None:
        pem = settings.origin_pull_ca.encode()
        values["origin_pull_ca_base64"] = base64.b64encode(pem).decode() if pem else "none"
    values.update({f"key_{name}": key.reveal() for name, key in settings.provider_keys.items()})
    return values


def input_file(values: Mapping[str, str]) -> bytes:
    """Write a phase's input. Raises GuestError for a value that has lines."""
    for key, value in values.items():
        if "\n" in value or "\r" in value:
            raise GuestError(f"The value of {key} has more than one line and cannot be handed to the VPS.")
    return "".join(f"{key}={value}\n" for key, value in values.items()).encode()
