"""Compiles OpenClaw's modules ahead, so that no VPS does it: the gateway's first start takes a fifth less for it.

What is compiled is what the gateway has loaded when it is ready, and what its command line loads; Node itself says so,
by the names in its compile cache. What Node puts there depends on the order of things, so each module is compiled anew,
in one thread, from one file and into one: the same modules give the same bytes. V8 takes them only on the processors
whose features they were compiled for, and Node only with the source that they were compiled from.
"""

import http.client
import json
import re
import socket
import stat
import struct
import subprocess
import time
import zlib
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from urllib.parse import quote

from clawdet_cli.bundle.tree import members
from clawdet_cli.errors import ConfigError

NAME = "compiled"
"""The folder in a bundle; below it one for Node's version and V8's own mark, and below that a file per module."""
ROOT = "/opt"
"""Where a VPS has what a bundle holds: Node names its files by the modules' places."""
READY_SECONDS = 180.0
STOP_SECONDS = 60.0
COMPILE_SECONDS = 300.0
LOOK_SECONDS = 0.02

# Of Node's format (src/compile_cache.cc, Node 22 to 24): magic number, sizes of source and data, CRC-32 of both.
_HEADER = struct.Struct("<5I")
_SIZES = struct.Struct("<II")
_SIZE = struct.Struct("<I")
_ESM = b"\x01"
_FOLDER = re.compile(r"(v[0-9.]+-[a-z0-9]+-[0-9a-f]+)-[0-9]+")
"""The last number is the user's, whose name the VPS puts there."""

# No path of this machine comes near: V8 keeps all strings of a process in one table, whose state shows in the bytes.
_COMPILE = """
const fs = require('fs'), vm = require('vm');
const given = fs.readFileSync(0);
const take = (at, size) => given.toString('utf8', at, at + size);
for (let at = 0; at < given.length;) {
  const named = given.readUInt32LE(at), sized = given.readUInt32LE(at + 4);
  const module = { identifier: take(at + 8, named), code: take(at + 8 + named, sized) };
  at += 8 + named + sized;
  const options = { identifier: module.identifier, importModuleDynamically() {} };
  const data = new vm.SourceTextModule(module.code, options).createCachedData();
  const size = Buffer.alloc(4);
  size.writeUInt32LE(data.length);
  for (const part of [size, data]) for (let done = 0; done < part.length;) done += fs.writeSync(1, part, done);
}
"""


def compile_modules(root: Path, node: Path, openclaw: Path, scratch: Path) -> str:
    """Compile what starts with the gateway, into the bundle; give the mark of the processors that it is for.

    Runs the gateway of the bundle on loopback, with a home of its own. Raises ConfigError when that does not start.
    """
    home, cache = scratch / "home", scratch / "cache"
    home.mkdir()
    program = [str(node), str(openclaw / "openclaw.mjs")]
    environment = {
        "PATH": f"{node.parent}:/usr/bin:/bin",
        **dict.fromkeys(("HOME", "TMPDIR"), str(home)),
        **dict.fromkeys(("OPENCLAW_NO_RESPAWN", "OPENCLAW_PACKAGED_COMPILE_CACHE_RESPAWNED"), "1"),
        "NODE_COMPILE_CACHE": str(cache),
    }
    _run_gateway(program, environment, home)
    # Nobody listens any more: it fails, with all modules loaded.
    with suppress(subprocess.TimeoutExpired):
        subprocess.run(
            [*program, "gateway", "health", "--json"],
            cwd=home,
            env=environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=STOP_SECONDS,
            check=False,
        )
    found = [(folder, match[1]) for folder in sorted(cache.iterdir()) if (match := _FOLDER.fullmatch(folder.name))]
    if len(found) != 1:
        raise ConfigError("Node has kept nothing of what it compiled.")
    used, mark = found[0]
    into = root / NAME / mark
    into.mkdir(parents=True)
    _compile(root, node, used, into, scratch)
    return mark


def _run_gateway(program: list[str], environment: Mapping[str, str], home: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    state = home / ".openclaw"
    state.mkdir(mode=0o700)
    # As the script has it: other settings load other modules.
    configuration = {
        "gateway": {
            "mode": "local",
            "port": port,
            "bind": "loopback",
            "publicOrigin": "https://openclaw.invalid",
            "auth": {"mode": "token", "token": "0" * 48},
            "trustedProxies": ["127.0.0.1", "::1"],
            "controlUi": {"enabled": True, "basePath": "/app", "allowedOrigins": ["https://openclaw.invalid"]},
        },
        "discovery": {"mdns": {"mode": "off"}},
        "update": {"checkOnStart": False},
        "agents": {
            "defaults": {
                "workspace": str(home / "workspace"),
                "models": {"openai/*": {"agentRuntime": {"id": "openclaw"}}},
                "modelPolicy": {"allow": []},
            },
            "entries": {"main": {}},
        },
    }
    (state / "openclaw.json").write_text(json.dumps(configuration))
    log = home / "gateway.log"
    with log.open("wb") as output:
        gateway = subprocess.Popen(
            [*program, "gateway", "run", "--port", str(port)],
            cwd=home,
            env=dict(environment),
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
        )
    try:
        deadline = time.monotonic() + READY_SECONDS
        while not _is_ready(port):
            if gateway.poll() is not None or time.monotonic() > deadline:
                raise ConfigError(
                    "The gateway in the bundle does not start: nothing was built.",
                    details=log.read_text(errors="replace").splitlines()[-8:],
                )
            time.sleep(LOOK_SECONDS)
        # At once: what it loads later would depend on how long it was left alone.
        gateway.terminate()
        gateway.wait(STOP_SECONDS)
    except subprocess.TimeoutExpired:
        raise ConfigError("The gateway in the bundle does not stop: nothing was built.") from None
    finally:
        gateway.kill()
        gateway.wait()


def _is_ready(port: int) -> bool:
    # Whatever proxy this machine has, it is not for this.
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
    try:
        connection.request("GET", "/readyz")
        return connection.getresponse().status == 200
    except (http.client.HTTPException, OSError):
        return False
    finally:
        connection.close()


def _compile(root: Path, node: Path, used: Path, into: Path, scratch: Path) -> None:
    magic = next((_HEADER.unpack_from(path.read_bytes())[0] for path in used.iterdir()), 0)
    modules = list(_modules(root, used))
    given, made = scratch / "modules", scratch / "code"
    with given.open("wb") as file:
        for path, place, _ in modules:
            source, name = path.read_bytes(), place.encode()
            file.write(_SIZES.pack(len(name), len(source)) + name + source)
    # Both flags make V8 repeat itself, and are the only ones that do not make its code another version's.
    command = [
        str(node),
        "--no-warnings",
        "--random-seed=1",
        "--predictable",
        "--experimental-vm-modules",
        "-e",
        _COMPILE,
    ]
    with given.open("rb") as source_file, made.open("wb") as code_file:
        done = subprocess.run(
            command,
            cwd="/",
            env={},
            stdin=source_file,
            stdout=code_file,
            stderr=subprocess.PIPE,
            text=True,
            timeout=COMPILE_SECONDS,
            check=False,
        )
    if done.returncode:
        raise ConfigError("OpenClaw's modules cannot be compiled.", details=done.stderr.splitlines()[-8:])
    content = made.read_bytes()
    at = 0
    for path, _, kept in modules:
        (size,) = _SIZE.unpack_from(content, at)
        data = content[at + _SIZE.size : at + _SIZE.size + size]
        at += _SIZE.size + size
        source = path.read_bytes()
        header = _HEADER.pack(magic, len(source), len(data), zlib.crc32(source), zlib.crc32(data))
        (into / kept).write_bytes(header + data)


def _modules(root: Path, used: Path) -> Iterator[tuple[Path, str, str]]:
    """Give the ECMAScript modules that were used: where each is, its place on a VPS, and its file's name in the cache.

    The few of the older kind are left out: what V8 makes of them outside of Node's own loader is a hundred times as
    large.
    """
    sources = {path.name: _HEADER.unpack_from(path.read_bytes())[3] for path in used.iterdir()}
    for name, status in members(root):
        path = root / name
        # By the source too: one name in a thousand million is another file's.
        found = sources.get(_key(_address(str(path)))) if stat.S_ISREG(status.st_mode) else None
        if found is not None and found == zlib.crc32(path.read_bytes()):
            place = _address(f"{ROOT}/{name}")
            yield path, place, _key(place)


def _address(path: str) -> str:
    """Give a file's address as Node does; pathlib would quote more."""
    return "file://" + quote(path, safe="/@:!$&'()*+,;=[]|")


def _key(address: str) -> str:
    return f"{zlib.crc32(address.encode(), zlib.crc32(_ESM)):08x}"
