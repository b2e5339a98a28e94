"""What packages and npm can reach while a bundle is built: planted ones that try."""

import json
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from clawdet_cli import pins
from clawdet_cli.bundle import build, confined
from clawdet_cli.errors import ConfigError

PINNED = pins.load().for_openclaw(pins.load().default_openclaw, "x86")
SECRETS = {
    "HCLOUD_TOKEN": "canary-hetzner",
    "CLOUDFLARE_API_TOKEN": "canary-cloudflare",
    "ANTHROPIC_API_KEY": "canary-provider",
    "CLAWDET_BUNDLE": "canary-address",
    "AWS_SECRET_ACCESS_KEY": "canary-other",
}
NEEDED = {"npm_config_registry": "https://mirror.test", "HTTPS_PROXY": "http://proxy.test", "NODE_EXTRA_CA_CERTS": "/x"}

NODE = r"""#!/bin/sh
case "$*" in
  *"config get registry") env >"$NPM_CONFIG_SAID"; echo https://mirror.test ;;
  *npm-cli.js\ ci*)
    case "$*" in *--ignore-scripts*) ;; *) exit 9 ;; esac
    mkdir -p "$4/node_modules/openclaw/lib"
    echo '{"version": "VERSION"}' >"$4/node_modules/openclaw/package.json"
    echo pending >"$4/node_modules/openclaw/.openclaw-lifecycle-pending" ;;
  *openclaw.mjs\ --version)
    cd "${1%/*}"
    rm .openclaw-lifecycle-pending
    { env; echo "uid $(id -u)"; sed -n 's/^ *\([a-z0-9]*\):.*/interface \1/p' /proc/net/dev; } >said
    cat "CANARY" >>said 2>/dev/null
    for folder in /root /opt /etc ../.. ../../../node/bin; do
      (: >"$folder/confined") 2>/dev/null && echo "written $folder" >>said
    done
    echo 1 >lib/new
    LEAVE ;;
esac
"""


@pytest.fixture
def private(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A file of the operator's, and an environment with secrets."""
    for name, value in (SECRETS | NEEDED).items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("NPM_CONFIG_SAID", str(tmp_path / "npm"))
    file = tmp_path / "canary"
    file.write_text("canary-file")
    file.chmod(0o600)
    yield file
    for folder in ("/root", "/opt", "/etc"):
        Path(folder, "confined").unlink(missing_ok=True)


def install(folder: Path, canary: Path, leave: str = "") -> Path:
    """Install a planted package with a planted npm, and return the package's folder."""
    confined.make_room(folder)
    node = folder / "root/node"
    (node / "bin").mkdir(parents=True)
    program = NODE.replace("VERSION", PINNED.openclaw_version).replace("CANARY", str(canary)).replace("LEAVE", leave)
    (node / "bin/node").write_text(program)
    (node / "bin/node").chmod(0o755)
    build._install_openclaw(PINNED, folder / "root/openclaw", node, "x86", folder)
    return folder / "root/openclaw/node_modules/openclaw"


@pytest.fixture
def scratch(tmp_path: Path) -> Path:
    made = tmp_path / "scratch"
    made.mkdir(mode=0o700)
    return made


def test_npm_gets_what_it_needs_of_the_environment_and_no_token(private: Path, scratch: Path, tmp_path: Path) -> None:
    install(scratch, private)
    said = (tmp_path / "npm").read_text()
    assert "canary" not in said.replace(str(tmp_path), "")
    assert {f"{name}={value}" for name, value in NEEDED.items()} <= set(said.splitlines())


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")
def test_the_first_run_has_no_rights_no_network_and_no_secret(private: Path, scratch: Path, tmp_path: Path) -> None:
    package = install(scratch, private)
    said = (package / "said").read_text().splitlines()
    assert f"uid {confined.THROWAWAY}" in said
    assert [line for line in said if line.startswith("interface ")] == ["interface lo"]
    assert not [line for line in said if "canary-" in line or line.startswith("written") or str(tmp_path) in line]
    assert {path.lstat().st_uid for path in [package, *package.rglob("*")]} == {0}
    assert (package / "lib/new").exists()


def test_without_root_it_is_off_the_network_all_the_same(
    private: Path, scratch: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("clawdet_cli.bundle.confined.os.geteuid", lambda: 1000)
    if not confined._works(confined._OFFLINE):
        pytest.skip("this system lets users make no network of their own")
    package = install(scratch, private)
    said = (package / "said").read_text().splitlines()
    assert [line for line in said if line.startswith("interface ")] == ["interface lo"]
    assert not [line for line in said if line.startswith(tuple(SECRETS))]


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")
def test_where_there_are_no_namespaces_root_still_runs_it_as_another(
    private: Path, scratch: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(confined, "_works", lambda _: False)
    command = confined.confined(scratch, scratch / "bin", scratch / "bin/node", "--version")
    assert command[: len(confined._AS_THROWAWAY)] == confined._AS_THROWAWAY
    assert command[-2:] == [str(scratch / "bin/node"), "--version"]
    # It may not enter pytest's own folder, and nothing is built.
    with pytest.raises(ConfigError, match="nothing was built"):
        install(scratch, private)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")
def test_a_link_that_it_leaves_gives_nothing_away(private: Path, scratch: Path) -> None:
    victim = private.parent / "victim"
    victim.write_text("")
    os.chown(victim, 1234, 1234)
    package = install(scratch, private, leave=f'ln -s "{victim}" link; ln -s "{victim.parent}" folder')
    assert victim.stat().st_uid == 1234
    assert {path.lstat().st_uid for path in package.iterdir()} == {0}


def test_a_manifest_names_the_npm_that_came_with_node(tmp_path: Path) -> None:
    root = tmp_path / "root"
    for name in (f"node/{PINNED.node_version}/bin/node", f"node/{PINNED.node_version}/{build.NPM}/index.js", "caddy"):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text("1")
    (root / "openclaw").mkdir()
    digests = []
    for content in ("1", "another"):
        (root / f"node/{PINNED.node_version}/{build.NPM}/index.js").write_text(content)
        digests.append(json.loads(build._manifest(PINNED, "x86", root).text())["npm_sha256"])
    assert digests[0] != digests[1]
