"""What packages.js leaves on a VPS is what `npm ci` leaves, and where it gives up npm does the work.

The comparison with the pinned locks installs packages, once each way; the others come from loopback.
"""

import base64
import hashlib
import io
import json
import os
import platform
import subprocess
import tarfile
import threading
from collections.abc import Iterator, Mapping
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from clawdet_cli import pins
from clawdet_cli.sandbox.real import artifacts
from clawdet_cli.sandbox.real.artifacts import CaddyWanted, NodeWanted, Processor
from tests.unit.test_script import call

pytestmark = pytest.mark.real

PROCESSOR: Processor = "arm" if platform.machine() == "aarch64" else "x86"


@pytest.fixture(scope="module", params=pins.load().openclaw_versions)
def pinned(request: pytest.FixtureRequest) -> pins.Pinned:
    """All that one version of OpenClaw installs: with each comes a Node of its own, and so an npm."""
    return pins.load().for_openclaw(request.param, PROCESSOR)


@pytest.fixture(scope="module")
def node(pinned: pins.Pinned, cache: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the pinned Node's executables."""
    wanted = NodeWanted(pinned.node.version, pinned.npm_version, pinned.node.executable_sha256)
    caddy = CaddyWanted(pinned.caddy.version, pinned.caddy.executable_sha256)
    manifest = artifacts.build(cache, [wanted], caddy, PROCESSOR, print)
    folder = tmp_path_factory.mktemp("node")
    with tarfile.open(manifest.folder / manifest.nodes[pinned.node.version].file) as content:
        content.extractall(folder, filter="data")
    (root,) = folder.iterdir()
    return root / "bin"


def install(into: Path, node: Path, files: Mapping[str, bytes], **environment: str) -> str:
    """Let the script install what lies beside its input, and give what it prints."""
    beside, scratch = into.with_suffix(".input"), into.with_suffix(".scratch")
    for folder in (into, beside, scratch):
        folder.mkdir()
    for name, content in files.items():
        (beside / name).write_bytes(content)
    settings = {"npm_config_cache": f"{scratch}/npm", "npm_config_update_notifier": "false", **environment}
    code = f"PATH={node}:$PATH INPUT_FOLDER={beside} SCRATCH={scratch}; cd {beside}; umask 077\n"
    code += "".join(f"export {name}={value}\n" for name, value in settings.items())
    said = call(f"{code}\ninstall_packages {into} && echo ok || echo failed; umask")
    assert said.endswith("\n0077\n")
    return said.removesuffix("\n0077\n")


def tree(root: Path) -> dict[str, str]:
    """Describe each entry: type, whether it can be executed, and content. Every user must be able to read it."""
    found = {}
    for folder, folders, files in os.walk(root):
        for path in (Path(folder, name) for name in folders + files):
            name = str(path.relative_to(root))
            mode = path.lstat().st_mode
            if path.is_symlink():
                found[name] = f"link {path.readlink()}"
            elif path.is_dir():
                assert mode & 0o777 == 0o755, name
                found[name] = "folder"
            else:
                assert mode & 0o644 == 0o644, name
                found[name] = f"{mode & 0o100} {hashlib.sha256(path.read_bytes()).hexdigest()}"
    found.pop("node_modules/.package-lock.json", None)  # npm's own note
    return found


def test_the_pinned_packages_are_those_that_npm_installs(pinned: pins.Pinned, node: Path, tmp_path: Path) -> None:
    lock = {"package.json": pinned.package_json, "package-lock.json": pinned.package_lock}
    assert install(tmp_path / "ours", node, {**lock, "packages.js": pins.packages_program()}) == "ok"
    assert install(tmp_path / "npms", node, lock) == "npm installs OpenClaw, which takes longer.\nok"
    ours, npms = tree(tmp_path / "ours"), tree(tmp_path / "npms")
    assert {name: (ours.get(name), npms.get(name)) for name in ours.keys() ^ npms.keys()} == {}
    assert {name: (ours[name], npms[name]) for name in ours if ours[name] != npms[name]} == {}
    assert len(ours) > 30_000


# --- a registry of our own --------------------------------------------------------------------------------------------

Package = dict[str, Any]
PLACES: dict[str, Package] = {
    "node_modules/plain": {"version": "1.0.0", "bin": {"plain": "cli.js"}},
    "node_modules/plain/node_modules/@scope/part": {"version": "2.0.0", "bin": "./cli.js"},
    "node_modules/@scope/part": {"version": "1.0.0"},
    "node_modules/alias": {"version": "3.0.0", "name": "real"},
    "node_modules/elsewhere": {"version": "1.0.0", "os": ["win32"], "optional": True},
    "node_modules/other-processor": {"version": "1.0.0", "cpu": ["s390x"], "optional": True},
    "node_modules/tomorrow": {"version": "1.0.0", "engines": {"node": ">=99"}, "optional": True},
    "node_modules/fits": {"version": "1.0.0", "os": ["linux"], "engines": {"node": ">=20"}, "optional": True},
    "node_modules/only-for-developers": {"version": "1.0.0", "dev": True},
}
BUNDLED = "node_modules/plain/node_modules/inner"
PRODUCT = {
    "name": "vps",
    "version": "1.0.0",
    "dependencies": {"plain": "1.0.0", "@scope/part": "1.0.0", "alias": "npm:real@3.0.0"},
    "optionalDependencies": dict.fromkeys(("elsewhere", "other-processor", "tomorrow", "fits"), "1.0.0"),
    "devDependencies": {"only-for-developers": "1.0.0"},
}


def archive(name: str, package: Package, version: str = "") -> bytes:
    """Pack one as its author might have: a folder of any name, lines that end in CR LF, modes that are too tight."""
    files = {"package.json": json.dumps({**_manifest(name, package), "version": version or package["version"]})}
    files |= {"cli.js": "#!/usr/bin/env node\r\nprocess.exit(0);\r\n", "lib/deep/index.js": "1\n"}
    if name == "plain":
        inner = {"name": "inner", "version": "1.0.0", "bin": {"inner": "i.js"}}
        files |= {"node_modules/inner/package.json": json.dumps(inner), "node_modules/inner/i.js": "#!/bin/sh\n"}
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w:gz") as content:
        for path, text in files.items():
            entry = tarfile.TarInfo(f"{name.rpartition('/')[2]}-main/{path}")
            entry.size, entry.mode, entry.uid = len(text), 0o600, 4711
            content.addfile(entry, io.BytesIO(text.encode()))
    return packed.getvalue()


def _manifest(name: str, package: Package) -> Package:
    kept = {key: value for key, value in package.items() if key not in {"optional", "dev"}}
    own = {"dependencies": {"@scope/part": "2.0.0", "inner": "1.0.0"}, "bundleDependencies": ["inner"]}
    return {**kept, "name": name, **(own if name == "plain" else {})}


class Registry:
    """Packages on loopback, each at the usual address unless it was moved."""

    def __init__(self, folder: Path) -> None:
        """Publish all of PLACES."""
        self.folder = folder
        handler = partial(_Quiet, directory=str(folder))
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        self.locked: dict[str, Package] = {}
        for place, package in PLACES.items():
            name = self.name(place)
            content = archive(name, package)
            digest = base64.b64encode(hashlib.sha512(content).digest()).decode()
            manifest = {key: value for key, value in _manifest(name, package).items() if key != "name"}
            self.locked[place] = {**manifest, **package, "integrity": f"sha512-{digest}"}
            self.put(place, content)
        self.locked[BUNDLED] = {"version": "1.0.0", "inBundle": True, "bin": {"inner": "i.js"}}

    def name(self, place: str) -> str:
        """Give the name that the package in this place has in the registry."""
        return str(PLACES[place].get("name") or place.rpartition("node_modules/")[2])

    def put(self, place: str, content: bytes, folder: str = "-") -> None:
        """Publish an archive, below `-` as usual, and say in the metadata where it is."""
        name, version = self.name(place), PLACES[place]["version"]
        path = f"{name}/{folder}/{name.rpartition('/')[2]}-{version}.tgz"
        (self.folder / path).parent.mkdir(parents=True, exist_ok=True)
        (self.folder / path).write_bytes(content)
        metadata = self.folder / name / "index.html"
        known = json.loads(metadata.read_text())["versions"] if metadata.exists() else {}
        known[version] = {**_manifest(name, PLACES[place]), "dist": {"tarball": f"{self.url}/{path}"}}
        metadata.write_text(json.dumps({"name": name, "dist-tags": {"latest": version}, "versions": known}))

    def move(self, place: str) -> None:
        """Let a package lie where the metadata say, and no longer at the usual address."""
        name, version = self.name(place), PLACES[place]["version"]
        usual = self.folder / name / "-" / f"{name.rpartition('/')[2]}-{version}.tgz"
        self.put(place, usual.read_bytes(), "files")
        usual.unlink()

    def files(self) -> dict[str, bytes]:
        """Give what lies beside the script's input: a lock of all packages, without an address."""
        packages = {"": PRODUCT, **self.locked}
        lock = {"name": "vps", "version": "1.0.0", "lockfileVersion": 3, "requires": True, "packages": packages}
        return {"package.json": json.dumps(PRODUCT).encode(), "package-lock.json": json.dumps(lock).encode()}

    def close(self) -> None:
        """Stop serving."""
        self._server.shutdown()
        self._server.server_close()


class _Quiet(SimpleHTTPRequestHandler):
    def do_GET(self) -> None:
        self.path = self.path.replace("%2f", "/").replace("%2F", "/")
        if (Path(self.directory) / self.path.lstrip("/") / "index.html").exists():
            self.path = f"{self.path.rstrip('/')}/"
        super().do_GET()

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002  # the base class's own name
        pass


@pytest.fixture
def registry(tmp_path: Path) -> Iterator[Registry]:
    """A registry that has everything where it is looked for first."""
    (tmp_path / "registry").mkdir()
    made = Registry(tmp_path / "registry")
    yield made
    made.close()


PROGRAM = {"packages.js": pins.packages_program()}
WENT_ON = "npm installs OpenClaw, which takes longer."


def of_registry(registry: Registry) -> dict[str, str]:
    return {"npm_config_registry": registry.url, "npm_config_fetch_retries": "0"}


def test_every_kind_of_package_comes_as_with_npm(registry: Registry, node: Path, tmp_path: Path) -> None:
    where = of_registry(registry)
    assert install(tmp_path / "ours", node, {**registry.files(), **PROGRAM}, **where) == "ok"
    assert install(tmp_path / "npms", node, registry.files(), **where) == f"{WENT_ON}\nok"
    ours = tree(tmp_path / "ours")
    assert ours == tree(tmp_path / "npms")
    assert ours["node_modules/.bin/plain"] == "link ../plain/cli.js"
    assert ours["node_modules/plain/node_modules/.bin/inner"] == "link ../inner/i.js"
    assert {"node_modules/fits", "node_modules/alias"} <= ours.keys()
    assert not {f"node_modules/{name}" for name in ("elsewhere", "other-processor", "tomorrow")} & ours.keys()
    assert (tmp_path / "ours/node_modules/plain/cli.js").read_bytes().startswith(b"#!/usr/bin/env node\n")
    assert (tmp_path / "ours/node_modules/plain/package.json").stat().st_uid == os.geteuid()
    done = subprocess.run([tmp_path / "ours/node_modules/.bin/plain"], env={"PATH": str(node)}, check=False)
    assert done.returncode == 0


def test_a_registry_with_addresses_of_its_own_is_left_to_npm(registry: Registry, node: Path, tmp_path: Path) -> None:
    registry.move("node_modules/alias")
    where = of_registry(registry)
    said = install(tmp_path / "ours", node, {**registry.files(), **PROGRAM}, **where)
    assert "404" in said
    assert said.endswith(f"\n{WENT_ON}\nok")
    assert install(tmp_path / "npms", node, registry.files(), **where) == f"{WENT_ON}\nok"
    assert tree(tmp_path / "ours") == tree(tmp_path / "npms")


def test_what_has_another_digest_is_refused_both_ways(registry: Registry, node: Path, tmp_path: Path) -> None:
    registry.put("node_modules/alias", archive("real", {**PLACES["node_modules/alias"], "description": "evil"}))
    said = install(tmp_path / "ours", node, {**registry.files(), **PROGRAM}, **of_registry(registry))
    ours, npms = said.split(f"\n{WENT_ON}\n")
    assert "EINTEGRITY" in ours
    assert "EINTEGRITY" in npms
    assert npms.endswith("\nfailed")


def test_what_has_no_digest_is_not_fetched(registry: Registry, node: Path, tmp_path: Path) -> None:
    del registry.locked["node_modules/alias"]["integrity"]
    said = install(tmp_path / "ours", node, {**registry.files(), **PROGRAM}, **of_registry(registry))
    assert "the lock has no digest of node_modules/alias" in said


def test_what_says_another_version_than_the_lock_is_left_to_npm(registry: Registry, node: Path, tmp_path: Path) -> None:
    content = archive("real", PLACES["node_modules/alias"], version="3.0.1")
    registry.put("node_modules/alias", content)
    digest = base64.b64encode(hashlib.sha512(content).digest()).decode()
    registry.locked["node_modules/alias"]["integrity"] = f"sha512-{digest}"
    said = install(tmp_path / "ours", node, {**registry.files(), **PROGRAM}, **of_registry(registry))
    ours, _ = said.split(f"\n{WENT_ON}\n")
    assert "node_modules/alias is of version 3.0.1, not 3.0.0" in ours


def test_a_registry_that_answers_nothing_is_named(node: Path, tmp_path: Path, registry: Registry) -> None:
    registry.close()
    said = install(tmp_path / "ours", node, {**registry.files(), **PROGRAM}, **of_registry(registry))
    assert "ECONNREFUSED" in said
    assert said.endswith("\nfailed")
