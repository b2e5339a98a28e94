"""The commands that a simulated server understands: exactly those that clawdet sends, and nothing else."""

import asyncio
import hashlib
import io
import json
import re
import tarfile
import time
from collections.abc import Awaitable, Callable

from clawdet_cli.sandbox.simulated import disk as at
from clawdet_cli.sandbox.simulated.guest import Gateway, Guest
from clawdet_cli.sandbox.simulated.phases import BUNDLES, INPUT, LOCK, run_phase
from clawdet_cli.sandbox.simulated.verbs import ARCHITECTURE, Said, run_verb

Stdin = Callable[[], Awaitable[bytes]]
_Run = Callable[[Guest, re.Match[str], Stdin], Awaitable[Said]]

LOGS = "/var/log/clawdet"
BOOT_FOLDER = "/run/clawdet/boot"
BOOT_MARK = "mark"
_UNPACK = (
    'python3 -c "import bz2, sys; sys.stdout.buffer.write(bz2.open(sys.argv[1]).read())"'
    " /run/clawdet/boot/provision-openclaw.sh.bz2"
)
START_AT_BOOT = (
    "mkdir -p -m 700 /run/clawdet /run/clawdet/boot && install -d -m 700 /var/log/clawdet && "
    "rm -f /var/log/clawdet/prepare.log && touch /var/log/clawdet/prepare.log && systemd-run --quiet --no-block "
    '--unit=clawdet-prepare.service -p After="cloud-init.service cloud-init-network.service" -p Type=oneshot '
    "-p RemainAfterExit=yes -p TimeoutStartSec=30min -p StandardInput=null "
    "-p StandardOutput=append:/var/log/clawdet/prepare.log -p StandardError=inherit "
    f"/bin/sh -c '{_UNPACK} >/run/clawdet/boot/provision-openclaw.sh && "
    "exec /bin/bash /run/clawdet/boot/provision-openclaw.sh prepare /run/clawdet/boot/input'; "
    "systemd-run --quiet --no-block --collect --unit=clawdet-ahead.service -p DefaultDependencies=no "
    "-p Type=oneshot -p TimeoutStartSec=20min -p StandardOutput=null -p StandardError=null "
    "/bin/sh -c 'until [ -s /run/clawdet/boot/mark ]; do sleep 0.05; done; "
    f"{_UNPACK} >/run/clawdet/boot/provision-openclaw.sh.ahead && "
    "exec /bin/bash /run/clawdet/boot/provision-openclaw.sh.ahead ahead /run/clawdet/boot/input'"
)
"""What clawdet has cloud-init begin with."""
_NEWS_SECONDS = 5.0
_COMMAND_LINE_SECONDS = 1.8  # OpenClaw's own, where its gateway answers
_GATEWAY_DOWN = Said(1, err=b"simulated server: the gateway does not answer\n")
_DOT_SECONDS = 0.25  # cloud-init prints one for each look while it waits

# A name in braces is one word, the same one wherever it stands.
_PATTERNS = {
    "upload": (
        "umask 077; rm -f /run/clawdet/*/input; rm -rf {folder} && mkdir -p {folder} && "
        "tar -x -C {folder} --no-same-owner"
    ),
    "look_for_bundle": (
        "if grep -qsx lock_sha256={digest} /var/lib/clawdet/prepared; then echo prepared; "
        "elif [ -f /run/clawdet/bundles/{bundle} ]; then echo kept; fi"
    ),
    "keep_bundle": (
        "umask 077; mkdir -p /run/clawdet/bundles && cat >/run/clawdet/bundles/{bundle}.part "
        "&& [ $(stat -c %s /run/clawdet/bundles/{bundle}.part) = {size} ] "
        "&& mv /run/clawdet/bundles/{bundle}.part /run/clawdet/bundles/{bundle} "
        "|| { rm -f /run/clawdet/bundles/{bundle}.part; false; }"
    ),
    "start": (
        'if [ "$(systemctl show -P ActiveState clawdet-{verb}.service)" = activating ]; then echo attached; exit; fi; '
        "systemctl stop clawdet-{verb}.service 2>/dev/null; systemctl reset-failed clawdet-{verb}.service 2>/dev/null; "
        "install -d -m 700 /var/log/clawdet && rm -f /var/log/clawdet/{verb}.log && touch /var/log/clawdet/{verb}.log "
        "&& systemd-run --quiet --no-block --unit=clawdet-{verb}.service -p Type=oneshot -p RemainAfterExit=yes "
        "-p TimeoutStartSec=30min -p StandardInput=null -p StandardOutput=append:/var/log/clawdet/{verb}.log "
        "-p StandardError=inherit /bin/bash {folder}/provision-openclaw.sh {verb} {folder}/input && echo started"
    ),
    "join": (
        "if [ ! -d /run/clawdet/boot ] || [ -e /run/clawdet/boot/package-lock.json ]; then cat >/dev/null; echo none; "
        "exit; fi; umask 077; rm -rf /run/clawdet/boot.new && mkdir /run/clawdet/boot.new && "
        "tar -x -C /run/clawdet/boot.new --no-same-owner && mv /run/clawdet/boot.new/packages.js "
        "/run/clawdet/boot.new/package.json /run/clawdet/boot.new/package-lock.json /run/clawdet/boot/ || exit; "
        "n=0; while [ $n -lt 50 ] && "
        '[ "$(systemctl show -P ActiveState clawdet-prepare.service)" = inactive ]; do sleep 0.1; n=$((n+1)); done; '
        'if [ "$(systemctl show -P ActiveState clawdet-prepare.service)" = inactive ] || '
        '[ "$(cat /run/clawdet/boot/mark)" != {mark} ]; then echo none; else echo joined; fi'
    ),
    "follow": (
        "p=$(systemctl show -P MainPID clawdet-{verb}.service); if [ $p -gt 0 ]; then {gather}"
        "timeout 5 tail --pid=$p -s 0.1 -c +{first} -f /var/log/clawdet/{verb}.log 2>/dev/null"
        " | head -c 1 >/dev/null; fi; "
        "systemctl show -p ActiveState -p Result -p ExecMainStatus clawdet-{verb}.service | tr '\\n' ' '; "
        "size=$(stat -c %s /var/log/clawdet/{verb}.log); end=$((size < {limit} ? size : {limit})); "
        'echo "Offset=$end"; tail -c +{first} /var/log/clawdet/{verb}.log | head -c $((end - {offset}))'
    ),
    "verb": "/bin/bash /usr/local/lib/clawdet/provision-openclaw.sh {simple}",
    "verb_of": "/bin/bash /usr/local/lib/clawdet/provision-openclaw.sh {named} {value}",
    "cloud_init": "cloud-init status --wait",
    "architecture": "uname -m",
    "reboot_required": "if [ -e /run/reboot-required ]; then echo yes; fi",
    "reboot": "if [ -e /run/reboot-required ]; then systemctl reboot; fi",
    "devices": "openclaw devices list --json",
    "approve": "openclaw devices approve {request} --json",
    "openclaw": "openclaw --version && systemctl is-active openclaw-gateway",
}
_WORDS = {
    "folder": r"/run/clawdet/[a-z0-9]+",
    "verb": "prepare|configure",
    "bundle": "[0-9a-f]{64}",
    "digest": "[0-9a-f]{64}",
    "size": "[0-9]+",
    "offset": "[0-9]+",
    "limit": "[0-9]+",
    "first": "[0-9]+",
    "gather": r"|timeout (?P<gathering>[0-9.]+) " + re.escape("tail --pid=$p -s 0.1 -f /dev/null; "),
    "simple": "report|token|host-key",
    "named": "certificate-request|nonce|switch-host-key|claim",
    "request": "[0-9a-f-]+",
    "mark": "[0-9a-f]{32}",
    "value": "[A-Za-z0-9.+/=-]+",
}


def _compiled(pattern: str) -> re.Pattern[str]:
    seen: set[str] = set()
    parts = re.split(r"\{(\w+)\}", pattern)
    text = re.escape(parts[0])
    for name, literal in zip(parts[1::2], parts[2::2], strict=True):
        text += f"(?P={name})" if name in seen else f"(?P<{name}>{_WORDS[name]})"
        text += re.escape(literal)
        seen.add(name)
    return re.compile(text)


async def execute(guest: Guest, command: str, stdin: Stdin) -> Said:
    """Run a command that is simulated; refuse any other one by name, with exit code 127."""
    for name, pattern, run in _COMMANDS:
        if match := pattern.fullmatch(command):
            words = match.groupdict()
            lies = guest.knobs.all()["says"]
            for key in (words.get("simple"), words.get("named"), name):
                if key in lies:
                    return Said(out=str(lies[key]).replace("{end}", words.get("limit", "")).encode())
            return await run(guest, match, stdin)
    return Said(127, err=f"simulated server: this command is not simulated: {command[:500]}\n".encode())


async def _upload(guest: Guest, match: re.Match[str], stdin: Stdin) -> Said:
    files: dict[str, bytes] = {}
    for earlier in guest.uploads.values():
        earlier.pop(INPUT, None)
    guest.uploads[match["folder"]] = files
    return _unpacked(await stdin(), files)


def _unpacked(content: bytes, files: dict[str, bytes]) -> Said:
    try:
        with tarfile.open(fileobj=io.BytesIO(content), mode="r:") as archive:
            for member in archive:
                file = archive.extractfile(member)
                if file is None or "/" in member.name:
                    return Said(127, err=f"simulated server: only plain files are simulated: {member.name}\n".encode())
                files[member.name] = file.read()
    except tarfile.TarError:
        return Said(2, err=b"tar: This does not look like a tar archive\ntar: Exiting with failure status\n")
    return Said()


async def _look_for_bundle(guest: Guest, match: re.Match[str], _stdin: Stdin) -> Said:
    if guest.values(at.PREPARED).get("lock_sha256") == match["digest"]:
        return Said(out=b"prepared\n")
    return Said(out=b"kept\n" if match["bundle"] in guest.uploads.get(BUNDLES, {}) else b"")


async def _keep_bundle(guest: Guest, match: re.Match[str], stdin: Stdin) -> Said:
    content = await stdin()
    if len(content) != int(match["size"]):
        return Said(1)
    # What is in it does not matter here, only what it is.
    guest.uploads.setdefault(BUNDLES, {})[match["bundle"]] = hashlib.sha256(content).hexdigest().encode()
    return Said()


async def _start(guest: Guest, match: re.Match[str], _stdin: Stdin) -> Said:
    verb, folder = match["verb"], match["folder"]
    if guest.unit(verb).state == "activating":
        return Said(out=b"attached\n")
    start_unit(guest, verb, folder)
    return Said(out=b"started\n")


async def _join(guest: Guest, match: re.Match[str], stdin: Stdin) -> Said:
    content, files = await stdin(), guest.uploads.get(BOOT_FOLDER)
    if files is None or LOCK in files:
        return Said(out=b"none\n")
    new: dict[str, bytes] = {}
    if (said := _unpacked(content, new)).code:
        return said
    files.update(new)
    guest.joined.set()
    ours = files.get(BOOT_MARK) == match["mark"].encode()
    return Said(out=b"joined\n" if ours and guest.unit("prepare").state != "inactive" else b"none\n")


def start_unit(guest: Guest, verb: str, folder: str) -> None:
    """Start a phase with the files of a folder, as systemd does it."""
    unit = guest.unit(verb)
    unit.state, unit.result, unit.code = "activating", "success", 0
    log = f"{LOGS}/{verb}.log"
    guest.disk.write(log, "")

    def say(line: str) -> None:
        guest.disk.append(log, line + "\n")
        unit.changed()

    async def run() -> None:
        unit.code = 1
        try:
            unit.code = await run_phase(guest, verb, folder, say)
        finally:
            unit.state, unit.result = ("failed", "exit-code") if unit.code else ("active", "success")
            unit.changed()

    task = asyncio.create_task(run())
    guest.tasks.add(task)
    task.add_done_callback(guest.tasks.discard)


async def _follow(guest: Guest, match: re.Match[str], _stdin: Stdin) -> Said:
    offset, limit, first = (int(match[name]) for name in ("offset", "limit", "first"))
    if first != offset + 1 or limit < offset:
        return Said(127, err=b"simulated server: these numbers do not belong together\n")
    if guest.knobs.takes_drop(match["verb"]):
        guest.drop_connections()
    if guest.unit(match["verb"]).state == "activating" and guest.knobs.takes_restart(match["verb"]):
        guest.restart()
        await asyncio.Event().wait()  # no answer comes: this ends with the power
    unit, log = guest.unit(match["verb"]), f"{LOGS}/{match['verb']}.log"
    err = b""
    try:
        gathered = time.monotonic() + float(match["gathering"] or 0)
        while unit.state == "activating" and (left := gathered - time.monotonic()) > 0:
            await _news(unit.news, left)
        if unit.state == "activating" and guest.disk.size(log) <= offset:
            await _news(unit.news, _NEWS_SECONDS)
        state = unit.state
        end = min(guest.disk.size(log), limit)
        news = guest.disk.part(log, offset, end)
    except FileNotFoundError:
        state, end, news = unit.state, 0, b""
        err = f"stat: cannot statx '{log}': No such file or directory\n".encode()
    line = f"ActiveState={state} Result={unit.result} ExecMainStatus={unit.code} Offset={end}\n"
    return Said(out=line.encode() + news, err=err)


async def _news(event: asyncio.Event, seconds: float) -> None:
    try:
        async with asyncio.timeout(seconds):
            await event.wait()
    except TimeoutError:
        return


async def _verb(guest: Guest, match: re.Match[str], _stdin: Stdin) -> Said:
    return await run_verb(guest, match["simple"], "")


async def _verb_of(guest: Guest, match: re.Match[str], _stdin: Stdin) -> Said:
    return await run_verb(guest, match["named"], match["value"])


async def _cloud_init(guest: Guest, _match: re.Match[str], _stdin: Stdin) -> Said:
    loop = asyncio.get_running_loop()
    started = loop.time()
    await guest.first_boot_over.wait()
    dots = "." * int((loop.time() - started) / _DOT_SECONDS)
    if guest.not_simulated:
        text = f"simulated server: this part of user_data is not simulated: {guest.not_simulated}\n"
        return Said(1, f"{dots}\nstatus: error\n".encode(), text.encode())
    return Said(out=f"{dots}\nstatus: done\n".encode())


async def _architecture(_guest: Guest, _match: re.Match[str], _stdin: Stdin) -> Said:
    return Said(out=f"{ARCHITECTURE}\n".encode())


async def _reboot_required(guest: Guest, _match: re.Match[str], _stdin: Stdin) -> Said:
    return Said(out=b"yes\n" if guest.reboot_required else b"")


async def _reboot(guest: Guest, _match: re.Match[str], _stdin: Stdin) -> Said:
    if guest.reboot_required:
        guest.restart()
    return Said()


async def _openclaw(guest: Guest, _match: re.Match[str], _stdin: Stdin) -> Said:
    version = guest.values(at.PREPARED).get("openclaw_version")
    if not version:
        return Said(127, err=b"bash: line 1: openclaw: command not found\n")
    state = b"active" if guest.gateway else b"inactive"
    return Said(0 if guest.gateway else 3, f"OpenClaw {version}\n".encode() + state + b"\n")


async def _devices(guest: Guest, _match: re.Match[str], _stdin: Stdin) -> Said:
    if (gateway := await _running_gateway(guest)) is None:
        return _GATEWAY_DOWN
    return Said(out=_json({"pending": gateway.devices.pending(), "paired": gateway.devices.paired()}))


async def _approve(guest: Guest, match: re.Match[str], _stdin: Stdin) -> Said:
    if (gateway := await _running_gateway(guest)) is None:
        return _GATEWAY_DOWN
    device = gateway.devices.approve(match["request"])
    if device is None:
        text = f"No pending device request matches {match['request']}. Run openclaw devices list and retry with"
        return Said(1, err=f"{text} the current request ID.\n".encode())
    return Said(out=_json({"requestId": match["request"], "device": device}))


async def _running_gateway(guest: Guest) -> Gateway | None:
    await guest.take(_COMMAND_LINE_SECONDS)
    return guest.gateway if guest.gateway_is_ready else None


def _json(value: object) -> bytes:
    return json.dumps(value, indent=2).encode() + b"\n"


_RUN: dict[str, _Run] = {
    "upload": _upload,
    "look_for_bundle": _look_for_bundle,
    "keep_bundle": _keep_bundle,
    "start": _start,
    "join": _join,
    "follow": _follow,
    "verb": _verb,
    "verb_of": _verb_of,
    "cloud_init": _cloud_init,
    "architecture": _architecture,
    "reboot_required": _reboot_required,
    "reboot": _reboot,
    "devices": _devices,
    "approve": _approve,
    "openclaw": _openclaw,
}
_COMMANDS = [(name, _compiled(pattern), _RUN[name]) for name, pattern in _PATTERNS.items()]
