"""What the script compares with a pinned digest before it is unpacked, and again before it is used."""

import gzip
import hashlib
import io
import json
import lzma
import os
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path

import pytest

from tests.unit.test_script import PREPARE, TEXT, call

NODE, CADDY, LOCK = b"#!/bin/sh\necho a node\n", b"a caddy", b"{}"


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def archive(members: dict[str, bytes]) -> bytes:
    """Pack files."""
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w") as content:
        for name, data in members.items():
            entry = tarfile.TarInfo(name)
            entry.size, entry.mode = len(data), 0o755
            content.addfile(entry, io.BytesIO(data))
    return packed.getvalue()


class Machine:
    """The places of a VPS in a folder, and archives that its script finds downloaded."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        for name in ("scratch", "opt", "bin", "record"):
            (folder / name).mkdir()
        files = {"bin/node": NODE, "bin/npm": b"", "lib/npm.js": b"the vendor's"}
        node = lzma.compress(archive({f"node-v24/{name}": content for name, content in files.items()}))
        caddy = gzip.compress(archive({"caddy": CADDY, "README.md": b""}))
        (folder / "scratch/node").write_bytes(node)
        (folder / "scratch/caddy.tar.gz").write_bytes(caddy)
        self.pinned = {
            **PREPARE,
            "node_archive_sha256": sha256(node),
            "node_executable_sha256": sha256(NODE),
            "caddy_archive_sha512": hashlib.sha512(caddy).hexdigest(),
            "caddy_executable_sha256": sha256(CADDY),
            "lock_sha256": sha256(LOCK),
        }

    def __call__(self, code: str, **changes: str) -> str:
        text = TEXT.replace("/opt/", f"{self.folder}/opt/").replace("/usr/local/bin/", f"{self.folder}/bin/")
        text = text.replace("RECORD=/var/lib/clawdet", f"RECORD={self.folder}/record")
        return call(f"SCRATCH={self.folder}/scratch; {code}", text=text, **{**self.pinned, **changes})

    def put(self, path: str, content: bytes) -> None:
        """Write a file, executable."""
        file = self.folder / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(content)
        file.chmod(0o755)

    @property
    def installed(self) -> list[str]:
        """The programs that can be found now."""
        return sorted(path.name for path in (self.folder / "bin").iterdir())


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    return Machine(tmp_path)


def test_the_pinned_downloads_are_installed(machine: Machine) -> None:
    assert machine("do_node; have_node && do_caddy; have_caddy && echo both") == "both\n"
    assert machine.installed == ["caddy", "node", "npm", "npx"]
    assert (machine.folder / "bin/node").read_bytes() == NODE


@pytest.mark.parametrize(
    ("step", "digest", "length", "complaint"),
    [
        ("node", "node_archive_sha256", 64, "the archive of Node has the wrong digest"),
        ("node", "node_executable_sha256", 64, "the executable of Node has the wrong digest"),
        ("caddy", "caddy_archive_sha512", 128, "the archive of Caddy has the wrong digest"),
        ("caddy", "caddy_archive_sha256", 64, "the archive of Caddy has the wrong digest"),
        ("caddy", "caddy_executable_sha256", 64, "the executable of Caddy has the wrong digest"),
    ],
)
def test_a_download_with_another_digest_is_refused_and_nothing_of_it_is_used(
    machine: Machine, step: str, digest: str, length: int, complaint: str
) -> None:
    unpacked = 'tar() { echo unpacked; command tar "$@"; }; ' if "archive" in digest else ""
    said = machine(f"{unpacked}(do_{step}) 2>&1 || echo refused", **{digest: "0" * length})
    assert complaint in said
    assert said.endswith("refused\n")
    assert "unpacked" not in said
    assert machine.installed == []
    assert not list((machine.folder / "opt").glob("node/2*"))


def test_where_a_bundle_brought_node_its_npm_is_replaced_before_it_installs_anything(machine: Machine) -> None:
    machine.put("opt/node/24.21.0/bin/node", NODE)
    machine.put("opt/node/24.21.0/bin/npm", b"")
    machine.put("opt/node/24.21.0/lib/npm.js", b"the bundle's")
    machine.put("opt/openclaw/2026.9.6/package-lock.json", LOCK)
    machine.put("opt/openclaw/2026.9.6/node_modules/openclaw/openclaw.mjs", b"")
    machine.put("record/bundle", b"0" * 64)
    npm = machine.folder / "opt/node/24.21.0/lib/npm.js"
    # All that is wanted is there: npm has nothing to do.
    assert machine("do_node; have_node && echo kept") == "kept\n"
    assert npm.read_bytes() == b"the bundle's"
    # Another OpenClaw, and so npm's work.
    other = {"openclaw_version": "2026.9.7"}
    assert machine("have_node || echo wanted", **other) == "wanted\n"
    assert machine("do_node; have_node && echo anew", **other) == "anew\n"
    assert npm.read_bytes() == b"the vendor's"
    # From then on it is not fetched again.
    assert machine("have_node && echo kept", **other) == "kept\n"


@pytest.mark.parametrize("ours", [True, False])
def test_npm_runs_no_script_of_a_package(machine: Machine, ours: bool) -> None:
    machine.put("bin/npm", b'#!/bin/sh\necho "$*" >>"$(dirname "$0")/asked"\n')
    machine.put("bin/node", b"#!/bin/sh\nexit 1\n")
    for name in ("package.json", "package-lock.json", *(["packages.js"] if ours else [])):
        machine.put(f"input/{name}", b"{}")
    (machine.folder / "into").mkdir()
    code = (
        f"PATH={machine.folder}/bin:$PATH INPUT_FOLDER={machine.folder}/input; install_packages {machine.folder}/into"
    )
    machine(code)
    words = (machine.folder / "bin/asked").read_text().split()
    assert words[0] == "ci"
    assert "--ignore-scripts" in words


@pytest.mark.skipif(os.geteuid() != 0, reason="the user is changed by root alone")
@pytest.mark.parametrize(
    ("left", "taken"),
    [
        ("true", True),
        ('mkdir "$f/new"; echo 1 >"$f/new/file"', True),
        ('ln -s /etc/passwd "$f/link"', False),
        ('mkfifo "$f/pipe"', False),
        ('echo 1 >"$f/new"; chmod 666 "$f/new"', False),
        ('chmod 777 "$f/lib"', False),
        ('cp /bin/true "$f/new"; chmod 4755 "$f/new"', False),
        ('echo >"$f/.openclaw-lifecycle-pending"', False),
    ],
)
def test_what_the_first_run_of_openclaw_leaves_is_looked_at_before_it_is_roots(left: str, taken: bool) -> None:
    # pytest's own folders are closed to others.
    with tempfile.TemporaryDirectory() as temporary:
        Path(temporary).chmod(0o711)
        machine = Machine(Path(temporary))
        folder = machine.folder / "opt/new/node_modules/openclaw"
        machine.put("opt/new/node_modules/openclaw/lib/a.js", b"1")
        # In place of the unit its user alone, who can do more so.
        ran = f"systemd-run() {{ setpriv --reuid 65533 --clear-groups sh -c {_quoted(left)}; }}; export f={folder}"
        code = f"{ran}; umask 022; (first_run {machine.folder}/opt/new) 2>&1 && echo taken || echo refused"
        said = machine(code).splitlines()[-1]
        assert said == ("taken" if taken else "refused")
        if taken:
            assert {path.stat().st_uid for path in [folder, *folder.rglob("*")]} == {0}


def _quoted(text: str) -> str:
    return "'" + text.replace("'", "'\\''") + "'"


def test_caddy_answers_no_other_name_than_the_one_that_was_asked_for_in_tls() -> None:
    caddyfile = call("caddyfile", host="alice.example.test", user="alice")
    caddy = Path(sys.executable).with_name("caddy")
    done = subprocess.run(
        [caddy, "adapt", "--config", "-", "--adapter", "caddyfile"],
        input=caddyfile,
        capture_output=True,
        text=True,
        check=True,
        timeout=30,
    )
    servers = json.loads(done.stdout)["apps"]["http"]["servers"].values()
    assert [server["strict_sni_host"] for server in servers] == [True] * len(servers)
