"""What a command does not load: start-up time is mostly imports."""

import subprocess
import sys
from pathlib import Path

import pytest

SDKS = ("hcloud", "cloudflare", "paramiko", "cryptography", "httpx", "requests", "dns", "tenacity", "websockets")
HEAVY = ("rich", "pydantic", "ssl", "asyncio")

PROBE = """
import sys
from clawdet_cli import cli
code = cli.main(sys.argv[2:])
loaded = [name for name in sys.argv[1].split() if name in sys.modules]
sys.stderr.write("loaded: " + " ".join(loaded))
sys.exit(code)
"""


@pytest.mark.parametrize("argv", [["--help"], ["provision", "--help"], ["status"], ["status", "--json"], ["--version"]])
def test_looking_loads_no_sdk(tmp_path: Path, argv: list[str]) -> None:
    done = subprocess.run(
        [sys.executable, "-c", PROBE, " ".join(SDKS + HEAVY), *argv],
        env={"CLAWDET_STATE": str(tmp_path), "HOME": str(tmp_path), "PATH": ""},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr == "loaded: "
