from pathlib import Path

import pytest

from clawdet_cli import filesystem
from clawdet_cli.filesystem import kind_in, kind_of

MOUNTS = r"""
22 27 0:21 / /proc rw,relatime - proc proc rw
27 1 253:0 / / rw,relatime shared:1 - ext4 /dev/vda rw
40 27 0:45 /export /home rw shared:9 master:2 - nfs4 nas:/export rw,vers=4.2
41 40 0:46 / /home/alice/with\040blank rw - fuse.sshfs host: rw
42 27 0:47 / /srv rw - ext4 /dev/vdb rw
43 27 0:48 / /srv rw - cifs //nas/srv rw
half a line
"""


@pytest.mark.parametrize(
    ("folder", "kind"),
    [
        ("/var/lib", "ext4"),
        ("/", "ext4"),
        ("/home/alice/.local/state", "nfs4"),
        ("/homes", "ext4"),
        ("/home/alice/with blank/clawdet", "fuse.sshfs"),
        ("/srv/clawdet", "cifs"),
    ],
)
def test_a_folder_lies_on_the_nearest_mount_above_it_and_on_the_last_one_there(folder: str, kind: str) -> None:
    assert kind_in(MOUNTS, Path(folder)) == kind


def test_a_link_is_followed_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "link").symlink_to(tmp_path / "home")
    mounts = tmp_path / "mountinfo"
    mounts.write_text(f"1 1 0:1 / {tmp_path} rw - ext4 a rw\n2 1 0:2 / {tmp_path}/home rw - nfs b rw\n")
    monkeypatch.setattr(filesystem, "MOUNTS", mounts)
    assert (kind_of(tmp_path / "link"), kind_of(tmp_path)) == ("nfs", "ext4")


def test_nothing_is_told_where_the_system_tells_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(filesystem, "MOUNTS", tmp_path / "mountinfo")
    assert kind_of(tmp_path) == ""
