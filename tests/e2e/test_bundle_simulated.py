"""A bundle on its way to simulated servers: what is used, what is not, and what is said of it."""

import hashlib
import json
from dataclasses import replace
from pathlib import Path

import pytest

from tests.e2e.operator import Operator, Said
from tests.unit.test_bundle import MANIFEST

CONTENT = b"all that a server needs" * 1000
GOOD = MANIFEST.of_archive(hashlib.sha256(CONTENT).hexdigest(), len(CONTENT), {})


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """An archive with its manifest; nothing is unpacked from it."""
    file = tmp_path / GOOD.file_name
    file.write_bytes(CONTENT)
    Path(f"{file}.json").write_text(GOOD.text())
    return file


def provisioned(operator: Operator, bundle: object) -> Said:
    """Provision and destroy."""
    said = operator.clawdet("provision", "alice", "--sandbox", "--yes", "--json", "--events", "--bundle", str(bundle))
    assert operator.clawdet("destroy", "alice", "--sandbox", "--yes").code == 0
    return said


def steps(said: Said) -> dict[str, str]:
    events = [json.loads(line) for line in said.err.splitlines() if line.startswith("{")]
    ended = [
        one
        for one in events
        if one["kind"] == "step_finished"
        and one["stage"] in {"join_prepare", "install_certificate", "prepare_vps", "replace_host_key"}
    ]
    return {one["step"]: one["status"] for one in ended}


def test_a_file_is_copied_and_takes_the_place_of_three_steps(operator: Operator, file: Path) -> None:
    said = provisioned(operator, file)
    assert said.code == 0, said.err
    assert said.document["instance"]["installed"]["bundle_sha256"] == GOOD.archive_sha256
    assert "is copied over SSH, since it is a file: 0 MB in" in said.err
    found = steps(said)
    assert [found[step] for step in ("bundle", "downloads", "node", "npm", "caddy")] == ["done", *["skipped"] * 4]


def test_a_file_that_was_tampered_with_is_not_used(operator: Operator, file: Path) -> None:
    file.write_bytes(CONTENT.swapcase())
    said = provisioned(operator, file)
    assert said.code == 0, said.err
    assert "the bundle was not used: its digest is not the expected one; OpenClaw came with npm" in said.err
    assert "bundle_sha256" not in said.document["instance"]["installed"]
    assert steps(said)["npm"] == "done"


def test_a_bundle_of_something_else_is_not_even_copied(operator: Operator, file: Path) -> None:
    Path(f"{file}.json").write_text(replace(GOOD, openclaw_version="2026.9.2").text())
    said = provisioned(operator, file)
    assert said.code == 0, said.err
    assert "is not used: it holds OpenClaw 2026.9.2, and 2026.9.6 is wanted; OpenClaw comes with npm" in said.err
    assert steps(said)["bundle"] == "skipped"


def test_an_address_is_left_to_the_server_and_its_password_shown_and_kept_nowhere(operator: Operator) -> None:
    address = "https://me:S3cretPassw0rd@mirror.test/b.tar.zst?sig=S3cretSignature"
    said = provisioned(operator, f"{address}#sha256={'a' * 64}")
    assert said.code == 0, said.err
    assert "the VPS downloads the bundle https://mirror.test/b.tar.zst by itself" in said.err
    assert said.document["instance"]["installed"]["bundle_sha256"] == "a" * 64
    refused = provisioned(operator, address.replace("mirror.test", "127.0.0.1:9"))
    assert "https://127.0.0.1/b.tar.zst.json cannot be downloaded" in refused.err
    folder = operator.state / "sandbox"
    kept = b"".join(path.read_bytes() for path in (*folder.glob("logs/*"), *folder.glob("clawdet.db*")))
    assert b"b.tar.zst" in kept
    assert "S3cret" not in said.out + said.err + refused.out + refused.err
    assert b"S3cret" not in kept


def test_a_manifest_that_cannot_be_had_is_no_failure(operator: Operator) -> None:
    said = provisioned(operator, "https://127.0.0.1:9/b.tar.zst")
    assert said.code == 0, said.err
    assert "b.tar.zst.json cannot be downloaded" in said.err
    assert steps(said)["npm"] == "done"


def test_a_file_that_is_missing_is_an_error_before_anything_is_made(operator: Operator, tmp_path: Path) -> None:
    said = provisioned(operator, tmp_path / "nowhere.tar.zst")
    assert said.code == 3
    assert "nowhere.tar.zst cannot be used" in said.document["error"]["what"]
    assert operator.holdings() == (0, 0, 0)
