import json
import subprocess
import sys

import pytest

SLOW = ["hcloud", "cloudflare", "paramiko", "cryptography", "requests", "httpx", "dns", "tenacity"]
"""They take most of a second to import, and `--help` needs none of them."""

LOADED = "import importlib, json, sys; importlib.import_module(sys.argv[1]); print(json.dumps(sorted(sys.modules)))"


def loaded_by(module: str) -> set[str]:
    done = subprocess.run([sys.executable, "-c", LOADED, module], check=True, capture_output=True, text=True)
    return set(json.loads(done.stdout))


@pytest.mark.parametrize("module", ["clawdet_cli.cli", "clawdet_cli.operations", "clawdet_cli.__main__"])
def test_starting_loads_no_sdk(module: str) -> None:
    loaded = loaded_by(module)
    assert module in loaded
    assert loaded.isdisjoint(SLOW)


def test_starting_loads_nothing_of_the_sandbox() -> None:
    assert not [module for module in loaded_by("clawdet_cli.cli") if module.startswith("clawdet_cli.sandbox")]


def test_the_list_of_slow_modules_is_not_out_of_date() -> None:
    adapters = loaded_by("clawdet_cli.stages.provision")
    assert {"hcloud", "paramiko", "cryptography", "tenacity"} <= adapters | loaded_by("clawdet_cli.adapters.hetzner")
