import base64
import json
import re

import pytest

from clawdet_cli import pins
from clawdet_cli.errors import ConfigError
from clawdet_cli.settings import PROVIDERS

ALL = [(version, architecture) for version in pins.load().openclaw_versions for architecture in ("x86", "arm")]


def test_the_newest_pinned_openclaw_is_the_default() -> None:
    assert pins.load().default_openclaw == pins.load().openclaw_versions[0]


@pytest.mark.parametrize(("version", "architecture"), ALL)
def test_everything_that_is_downloaded_has_a_digest(version: str, architecture: str) -> None:
    pinned = pins.load().for_openclaw(version, architecture)
    for download, names in (
        (pinned.node, {"x86": "-x64.", "arm": "-arm64."}),
        (
            pinned.caddy,
            {"x86": "_amd64.", "arm": "_arm64."},
        ),
    ):
        assert download.url.startswith("https://")
        assert download.version in download.url
        assert names[architecture] in download.url
        assert re.fullmatch(r"[0-9a-f]{64}", download.executable_sha256)
        assert download.archive_digests
        for kind, digest in download.archive_digests.items():
            assert re.fullmatch(r"[0-9a-f]+", digest)
            assert len(digest) == {"sha256": 64, "sha512": 128}[kind]


@pytest.mark.parametrize("version", pins.load().openclaw_versions)
def test_node_is_what_openclaws_engines_ask_for(version: str) -> None:
    pinned = pins.load().for_openclaw(version, "x86")
    engines = json.loads(pinned.package_lock)["packages"]["node_modules/openclaw"]["engines"]["node"]
    assert any(_satisfies(pinned.node_version, alternative) for alternative in engines.split("||")), engines


def test_the_check_of_engines_can_say_no() -> None:
    assert _satisfies("24.21.0", ">=24.16.0 <25")
    assert not _satisfies("22.23.3", ">=24.16.0 <25")
    assert not _satisfies("25.0.0", ">=24.16.0 <25")


@pytest.mark.parametrize("version", pins.load().openclaw_versions)
def test_the_lock_pins_every_package_and_names_no_address(version: str) -> None:
    pinned = pins.load().for_openclaw(version, "arm")
    lock = json.loads(pinned.package_lock)
    packages = lock["packages"]
    assert json.loads(pinned.package_json)["dependencies"] == {"openclaw": version}
    assert packages[""]["dependencies"] == {"openclaw": version}
    assert packages["node_modules/openclaw"]["version"] == version
    assert len(packages) > 300
    assert b"://" not in pinned.package_lock
    for place, package in packages.items():
        if place and not package.get("inBundle"):
            algorithm, _, digest = package["integrity"].partition("-")
            assert (algorithm, len(base64.b64decode(digest))) == ("sha512", 64), place


@pytest.mark.parametrize("version", pins.load().openclaw_versions)
def test_the_lock_has_the_native_parts_for_both_processors(version: str) -> None:
    packages = json.loads(pins.load().for_openclaw(version, "x86").package_lock)["packages"].values()
    by_processor = {
        cpu: [p for p in packages if p.get("cpu") == [cpu] and "linux" in p["os"]] for cpu in ("x64", "arm64")
    }
    assert len(by_processor["x64"]) == len(by_processor["arm64"]) > 0


def test_the_scripts_input_has_one_line_for_each_value() -> None:
    values = pins.load().for_openclaw("2026.9.6", "x86").script_input()
    assert set(values) == {
        "openclaw_version",
        "node_version",
        "node_url",
        "node_archive_sha256",
        "node_executable_sha256",
        "caddy_version",
        "caddy_url",
        "caddy_archive_sha512",
        "caddy_executable_sha256",
        "lock_sha256",
    }
    assert all(value and "\n" not in value for value in values.values())


def test_a_version_that_was_not_tested_is_refused_with_those_that_were() -> None:
    with pytest.raises(ConfigError, match=r"2026\.9\.7") as caught:
        pins.load().for_openclaw("2026.9.7", "x86")
    assert "2026.9.6" in caught.value.next_steps[0]


def test_another_processor_is_refused() -> None:
    with pytest.raises(ConfigError, match="riscv"):
        pins.load().for_openclaw("2026.9.6", "riscv")


def test_a_changed_lock_is_refused() -> None:
    content = dict(pins.load()._content)
    content["openclaw"] = {"2026.9.6": {"node": "24.21.0", "lock_sha256": "0" * 64}}
    with pytest.raises(ConfigError, match="reviewed"):
        pins.Pins("2026.9.6", content).for_openclaw("2026.9.6", "x86")


def _satisfies(version: str, comparators: str) -> bool:
    found = [int(n) for n in version.split(".")]
    for operator, wanted in re.findall(r"(>=|<)\s*([0-9.]+)", comparators):
        limit = [int(n) for n in wanted.split(".")]
        limit += [0] * (3 - len(limit))
        if (found >= limit) is not (operator == ">="):
            return False
    return True


def test_the_default_model_follows_the_first_key_and_the_version() -> None:
    newest, older = (pins.load().for_openclaw(version, "x86") for version in ("2026.9.6", "2026.9.2"))
    assert newest.default_model([]) is None
    assert newest.default_model(["OPENAI_API_KEY", "XAI_API_KEY"]) == newest.models["OPENAI_API_KEY"]
    assert newest.default_model(["XAI_API_KEY"]) != older.default_model(["XAI_API_KEY"])
    assert set(newest.models) == set(older.models) == set(PROVIDERS)
