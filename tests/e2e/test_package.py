"""The wheel holds what a VPS needs. Building it fetches the build tool from the registry."""

import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from clawdet_cli import bootstrap

ROOT = Path(__file__).parents[2]


@pytest.mark.real
def test_the_script_the_pins_and_the_locks_are_in_the_wheel(tmp_path: Path) -> None:
    subprocess.run(
        [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--wheel-dir", str(tmp_path), str(ROOT)],
        check=True,
        capture_output=True,
    )
    (wheel,) = tmp_path.glob("clawdet-*.whl")
    with zipfile.ZipFile(wheel) as content:
        names = set(content.namelist())
        assert content.read(f"clawdet_cli/{bootstrap.SCRIPT_NAME}") == (ROOT / bootstrap.SCRIPT_NAME).read_bytes()
    pins = {
        f"clawdet_cli/pins/{path.relative_to(ROOT / 'clawdet_cli/pins')}"
        for path in (ROOT / "clawdet_cli/pins").rglob("*.json")
    }
    assert len(pins) == 4
    assert pins | {"clawdet_cli/pins/pins.toml", "clawdet_cli/pins/packages.js"} <= names
    assert not [name for name in names if name.startswith("tests")]
