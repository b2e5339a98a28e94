"""New pins are proposed from what the vendors publish, and only where it fits together."""

import hashlib
import io
import json
import shutil
import subprocess
import sys
import tarfile
import tomllib
from pathlib import Path
from typing import Literal

import pytest

from clawdet_cli import pins
from clawdet_cli.pins.__main__ import ProposalError, main, propose

NOTHING: dict[str, bytes] = {}
OLD = (Path(pins.__file__).parent / "pins.toml").read_text()


def packed(mode: Literal["w:xz", "w:gz"], **files: bytes) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode=mode) as archive:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return buffer.getvalue()


@pytest.fixture
def vendors() -> dict[str, bytes]:
    """What the vendors' servers have, by address."""
    npm = json.dumps({"version": "11.20.0"}).encode()
    node, caddy = "https://nodejs.org/dist/v24.99.0", "https://github.com/caddyserver/caddy/releases/download/v2.99.0"
    found, node_sums, caddy_sums = {}, "", ""
    for processor in ("x64", "arm64"):
        name = f"node-v24.99.0-linux-{processor}"
        files = {f"{name}/bin/node": f"node of {processor}".encode(), f"{name}/lib/node_modules/npm/package.json": npm}
        found[f"{node}/{name}.tar.xz"] = packed("w:xz", **files)
        node_sums += f"{hashlib.sha256(found[f'{node}/{name}.tar.xz']).hexdigest()}  {name}.tar.xz\n"
    for processor in ("amd64", "arm64"):
        name = f"caddy_2.99.0_linux_{processor}.tar.gz"
        found[f"{caddy}/{name}"] = packed("w:gz", caddy=f"caddy of {processor}".encode(), LICENSE=b"free")
        caddy_sums += f"{hashlib.sha512(found[f'{caddy}/{name}']).hexdigest()}  {name}\n"
    found[f"{node}/SHASUMS256.txt"] = node_sums.encode()
    found[f"{caddy}/caddy_2.99.0_checksums.txt"] = caddy_sums.encode()
    return found


def test_a_proposal_has_the_new_digests_beside_the_old_ones(vendors: dict[str, bytes], tmp_path: Path) -> None:
    remarks = propose(OLD, tmp_path, openclaw=None, node="24.99.0", caddy="2.99.0", get=vendors.__getitem__)
    assert len(remarks) == 2
    before, after = tomllib.loads(OLD), tomllib.loads((tmp_path / "pins.toml").read_text())
    assert after["caddy"]["version"] == "2.99.0"
    assert after["caddy"]["arm"]["executable_sha256"] == hashlib.sha256(b"caddy of arm64").hexdigest()
    assert after["caddy"]["x86"]["archive_sha512"] in vendors[next(a for a in vendors if "checksums" in a)].decode()
    new = after["node"].pop("24.99.0")
    assert new["x86"]["executable_sha256"] == hashlib.sha256(b"node of x64").hexdigest()
    assert new["arm"]["url"] == "https://nodejs.org/dist/v24.99.0/node-v24.99.0-linux-arm64.tar.xz"
    assert after["npm"].pop("24.99.0") == "11.20.0"
    assert {key: after[key] for key in ("node", "npm", "openclaw", "default_openclaw")} == {
        key: before[key] for key in ("node", "npm", "openclaw", "default_openclaw")
    }


@pytest.mark.parametrize("changed", ["-linux-x64.tar.xz", "_linux_arm64.tar.gz"])
def test_an_archive_that_its_vendor_did_not_list_so_is_refused(
    vendors: dict[str, bytes], tmp_path: Path, changed: str
) -> None:
    address = next(one for one in vendors if one.endswith(changed))
    vendors[address] = vendors[address] + b"\0"
    with pytest.raises(ProposalError, match="is not what"):
        propose(OLD, tmp_path, openclaw=None, node="24.99.0", caddy="2.99.0", get=vendors.__getitem__)
    assert list(tmp_path.iterdir()) == []


def test_an_archive_that_is_not_listed_is_refused(vendors: dict[str, bytes], tmp_path: Path) -> None:
    vendors[next(one for one in vendors if one.endswith("SHASUMS256.txt"))] = b""
    with pytest.raises(ProposalError, match=r"SHASUMS256\.txt names no node-v24\.99\.0-linux-x64\.tar\.xz"):
        propose(OLD, tmp_path, openclaw=None, node="24.99.0", caddy=None, get=vendors.__getitem__)


def test_what_is_pinned_already_stays_as_it_is(tmp_path: Path) -> None:
    known = tomllib.loads(OLD)
    newest = known["default_openclaw"]
    node, caddy = known["openclaw"][newest]["node"], known["caddy"]["version"]
    assert propose(OLD, tmp_path, openclaw=newest, node=node, caddy=caddy, get=NOTHING.__getitem__) == []
    assert (tmp_path / "pins.toml").read_text() == OLD


@pytest.mark.parametrize("version", ["latest", "24", "24.1.0; id", "../24.1.0"])
def test_a_version_that_is_none_is_refused(version: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["--into", str(tmp_path / "new"), "--node", version])
    assert "is no version such as 24.21.0" in capsys.readouterr().err


@pytest.mark.real
@pytest.mark.skipif(shutil.which("npm") is None, reason="needs npm")
def test_openclaws_packages_are_resolved_with_a_digest_each_and_without_addresses(tmp_path: Path) -> None:
    """Asks the registry for what the packages beneath OpenClaw are; installs none."""
    known = tomllib.loads(OLD)
    version = known["default_openclaw"]
    # As if it were not pinned yet.
    older = OLD.replace(f'"{version}"', '"2026.1.1"')
    remarks = propose(older, tmp_path, openclaw=version, node=None, caddy=None, get=NOTHING.__getitem__)
    assert f"OpenClaw {version} wants Node >=24.16.0" in remarks[0]
    after = tomllib.loads((tmp_path / "pins.toml").read_text())
    assert after["default_openclaw"] == version
    proposed = (tmp_path / f"openclaw-{version}" / "package-lock.json").read_bytes()
    assert hashlib.sha256(proposed).hexdigest() == after["openclaw"][version]["lock_sha256"]
    assert b"://" not in proposed
    committed = json.loads(pins.load().for_openclaw(version, "x86").package_lock)["packages"]
    found = json.loads(proposed)["packages"]
    assert found["node_modules/openclaw"]["integrity"] == committed["node_modules/openclaw"]["integrity"]
    assert len(found) > 300


def test_its_command_line_explains_itself() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "clawdet_cli.pins", "--help"], capture_output=True, text=True, timeout=60, check=True
    )
    assert "--into FOLDER" in done.stdout
