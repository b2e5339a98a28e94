"""What OpenSSH itself makes of the command line that it is given."""

import shutil
import subprocess
from pathlib import Path

import pytest

from clawdet_cli.adapters.ssh import openssh_command

pytestmark = pytest.mark.skipif(shutil.which("ssh") is None, reason="OpenSSH is not installed")


def understood(argv: list[str]) -> dict[str, str]:
    """Return the settings that OpenSSH takes out of a command line."""
    shown = subprocess.run([argv[0], "-G", *argv[1:]], capture_output=True, text=True, check=True, timeout=10).stdout
    return dict(line.split(" ", 1) for line in shown.splitlines() if " " in line)


def test_no_key_but_the_pinned_one_is_taken_and_nobody_is_asked_about_another(tmp_path: Path) -> None:
    settings = understood(openssh_command(("127.0.0.1", 22), tmp_path / "key", tmp_path / "known", "clawdet-1", []))
    assert settings["stricthostkeychecking"] in {"true", "yes"}
    assert settings["globalknownhostsfile"] == "/dev/null"
    assert settings["hostkeyalias"] == "clawdet-1"


@pytest.mark.parametrize("folder", ["plain", "100%h"])
def test_the_known_hosts_file_is_found_whatever_its_folder_is_called(tmp_path: Path, folder: str) -> None:
    known_hosts = tmp_path / folder / "known_hosts-1"
    argv = openssh_command(("127.0.0.1", 22), tmp_path / "key", known_hosts, "clawdet-1", [])
    assert understood(argv)["userknownhostsfile"] == str(known_hosts)
