"""A bundle, built by npm, on a real machine: from a file, from an address, and one that was tampered with."""

import hashlib
import json
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from clawdet_cli import bootstrap, pins, settings
from tests.e2e.operator import Operator
from tests.e2e.test_provision import CHECKS, Instance

pytestmark = pytest.mark.real

FOLDER = "/run/clawdet/again"


@pytest.fixture(scope="module")
def bundle(real_sandbox: Operator, cache: Path) -> dict[str, Any]:
    """A bundle in the sandbox's mirror, built once for the same lock and the same builder."""
    known = pins.load()
    key = hashlib.sha256(known.for_openclaw(known.default_openclaw, "x86").package_lock)
    for source in sorted((Path(pins.__file__).parents[1] / "bundle").glob("*.py")):
        key.update(source.read_bytes())
    folder = cache / "artifacts" / f"bundles-{key.hexdigest()[:16]}"
    described = folder / "described.json"
    if not described.exists():
        said = real_sandbox.clawdet("bundle", "build", "--sandbox", "--json", "--into", str(folder))
        assert said.code == 0, said.err
        described.write_text(json.dumps(said.document["bundles"][0]))
    return dict(json.loads(described.read_text()))


@pytest.fixture(scope="module")
def carol(real_sandbox: Operator, bundle: dict[str, Any]) -> Iterator[Instance]:
    """An instance that came out of the bundle's file."""
    said = real_sandbox.clawdet(
        "provision", "carol", "--sandbox", "--yes", "--json", "--events", "--bundle", bundle["file"]
    )
    assert said.code == 0, said.err[-4000:]
    assert "is copied over SSH, since it is a file" in said.err
    yield Instance(real_sandbox, said.document["instance"], set())
    assert real_sandbox.clawdet("destroy", "carol", "--sandbox", "--yes").code == 0


def prepared(instance: Instance, bundle: dict[str, Any], **changes: str) -> str:
    """Run `prepare` on the VPS again with the bundle's address, and give what it says."""
    architecture = bundle["architecture"]
    found = settings.load({}, default_openclaw=bundle["openclaw_version"], sandbox=instance.info)
    path = Path(bundle["file"])
    lines = {
        "bundle_url": f"http://169.254.169.253/{path.parent.name}/{path.name}",
        "bundle_sha256": bundle["archive_sha256"],
    }
    given = bootstrap.prepare_input(found, bundle["openclaw_version"], architecture) | lines | changes
    files = {
        bootstrap.SCRIPT_NAME: bootstrap.script(),
        "input": bootstrap.input_file(given),
        **bootstrap.prepare_files(bundle["openclaw_version"]),
    }
    subprocess.run([*ssh(instance), bootstrap.upload(FOLDER)], input=bootstrap.package(files), check=True, timeout=60)
    return instance.ssh(f"bash {FOLDER}/provision-openclaw.sh prepare {FOLDER}/input 2>&1").stdout


def ssh(instance: Instance) -> list[str]:
    return [
        *("ssh", "-F/dev/null", "-oBatchMode=yes", "-oStrictHostKeyChecking=accept-new"),
        f"-oUserKnownHostsFile={instance.operator.state}/foreign_known_hosts",
        *(f"-i{instance.info['ssh_key_file']}", f"root@{instance.document['ipv4']}"),
    ]


def test_it_is_complete_and_openclaw_finds_nothing_amiss(carol: Instance, bundle: dict[str, Any]) -> None:
    assert [check["name"] for check in carol.document["checks"] if check["ok"]] == CHECKS
    assert carol.document["installed"]["bundle_sha256"] == bundle["archive_sha256"]
    audit = json.loads(carol.ssh("openclaw security audit --json").stdout)
    assert (audit["summary"]["critical"], audit["summary"]["warn"]) == (0, 0)
    assert json.loads(carol.ssh("openclaw doctor --lint --severity-min error --json").stdout)["ok"] is True
    assert json.loads(carol.ssh("openclaw devices list --json").stdout)["pending"] == []
    assert "<html" in carol.curl("/app/")


def test_its_npm_is_the_one_that_its_manifest_names(carol: Instance, bundle: dict[str, Any]) -> None:
    tar = "tar -cf - --sort=name --format=gnu --numeric-owner --owner=0 --group=0 --mtime=@0 ."
    said = carol.ssh(f"cd /opt/node/*/lib/node_modules/npm && {tar} | sha256sum").stdout
    assert said.split()[0] == bundle["npm_sha256"]


def test_all_that_came_out_of_it_is_roots_and_for_root_to_change(carol: Instance) -> None:
    odd = "find /opt/node /opt/openclaw /usr/local/bin/caddy ! -type l \\( ! -user root -o -perm /7022 \\) -print"
    assert carol.ssh(odd).stdout == ""
    assert carol.ssh("ls -A /opt").stdout.split() == ["node", "openclaw"]
    assert carol.ssh("test -e /run/clawdet/bundles && echo kept").stdout == ""


def test_one_that_was_tampered_with_is_refused_and_the_other_steps_do_the_work(
    carol: Instance, bundle: dict[str, Any]
) -> None:
    before = carol.ssh("stat -c %i /opt/openclaw/*").stdout
    carol.ssh("rm /usr/local/bin/caddy")
    said = prepared(carol, bundle, bundle_sha256="0" * 64)
    assert "The bundle is not used: its digest is not the expected one." in said
    assert "@step done caddy" in said
    assert "@result ok" in said
    assert "bundle_refused=its_digest_is_not_the_expected_one" in said
    assert carol.ssh("stat -c %i /opt/openclaw/*; ls -d /opt/.[a-z]*").stdout == before


def test_a_server_takes_it_from_an_address(carol: Instance, bundle: dict[str, Any]) -> None:
    carol.ssh("systemctl stop openclaw-gateway; rm -rf /opt/node /opt/openclaw /usr/local/bin/[a-z]*")
    said = prepared(carol, bundle)
    assert "@step done bundle" in said
    assert all(f"@step skip {step}\n" in said for step in ("downloads", "node", "npm", "caddy"))
    assert f"bundle_sha256={bundle['archive_sha256']}" in said
    carol.ssh("systemctl start openclaw-gateway")
