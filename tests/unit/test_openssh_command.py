"""What OpenSSH itself makes of the command line that it is given."""

import shutil
import subprocess
from pathlib import Path

import pytest

from clawdet_cli.adapters.ssh import openssh_command


@pytest.mark.skipif(shutil.which("ssh") is None, reason="OpenSSH is not installed")
@pytest.mark.parametrize("folder", ["plain", "100%h"])
def test_the_known_hosts_file_is_found_whatever_its_folder_is_called(tmp_path: Path, folder: str) -> None:
    known_hosts = tmp_path / folder / "known_hosts-1"
    argv = openssh_command(("127.0.0.1", 22), tmp_path / "key", known_hosts, "clawdet-1", [])
    shown = subprocess.run([argv[0], "-G", *argv[1:]], capture_output=True, text=True, check=True, timeout=10).stdout
    files = [line.partition(" ")[2] for line in shown.splitlines() if line.startswith("userknownhostsfile ")]
    assert files == [str(known_hosts)]
