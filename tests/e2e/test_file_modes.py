"""Everything that is written here is the operator's alone, whatever umask there is, and no link leads it astray."""

import os
import stat
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from tests.e2e.operator import Operator
from tests.e2e.test_bad_input import provision


@pytest.fixture(params=[0, 0o277, 0o777], ids="{:o}".format)
def strange_umask(request: pytest.FixtureRequest) -> Iterator[None]:
    """Let everybody do everything with new files, or not even their owner."""
    before = os.umask(request.param)
    yield
    os.umask(before)


def as_process(operator: Operator) -> Operator:
    """Give the same operator, whose commands are processes: `clawdet ssh` becomes OpenSSH."""
    return replace(operator, in_process=False)


def not_the_owners(folder: Path) -> list[str]:
    """Name what somebody else may use, or its owner may not; the sandbox's own folder is not the product's."""
    found = [folder, *(path for path in folder.rglob("*") if "cloud" not in path.relative_to(folder).parts)]
    modes = {path: stat.S_IMODE(path.lstat().st_mode) for path in found}
    assert len(modes) > 4, "nothing was written"
    return [f"{path} {mode:o}" for path, mode in modes.items() if mode != wanted(path)]


def wanted(path: Path) -> int:
    return 0o700 if path.is_dir() else 0o600


@pytest.mark.usefixtures("strange_umask")
def test_no_umask_decides_who_may_read_what_is_written(operator: Operator, tmp_path: Path) -> None:
    for said in (
        provision(operator),
        as_process(operator).clawdet("ssh", "alice", "--sandbox", "--", "uname -m"),
        operator.clawdet("state", "export", str(tmp_path / "export.json"), "--sandbox"),
        operator.clawdet("state", "backup", str(tmp_path / "backup.db"), "--sandbox"),
        operator.clawdet("state", "restore", str(tmp_path / "backup.db"), "--sandbox"),
        operator.clawdet("reconcile", "--sandbox"),
        operator.clawdet("destroy", "alice", "--yes", "--sandbox"),
    ):
        assert said.code == 0, said.err
    folder = Path(operator.info()["state_file"]).parent
    assert not_the_owners(folder) == []
    assert [path.name for path in tmp_path.iterdir() if stat.S_IMODE(path.stat().st_mode) != 0o600] == []


@pytest.mark.parametrize(
    ("name", "says"), [("clawdet.db", "cannot be used"), ("logs", "is a link"), ("ssh", "is a link")]
)
def test_a_link_in_the_state_folder_leads_nowhere(name: str, says: str, operator: Operator, tmp_path: Path) -> None:
    folder = Path(operator.info()["state_file"]).parent
    assert provision(operator).code == 0
    elsewhere, kept = tmp_path / "elsewhere", folder / f"{name}.kept"
    (folder / name).rename(kept)
    if kept.is_dir():
        elsewhere.mkdir()
    else:
        elsewhere.write_text("")
    (folder / name).symlink_to(elsewhere)
    try:
        command = ["ssh", "alice", "--sandbox", "--", "uname -m"] if name == "ssh" else ["verify", "alice", "--sandbox"]
        said = as_process(operator).clawdet(*command)
        assert said.code == 4, said.err
        assert says in said.err
        assert not (list(elsewhere.iterdir()) if kept.is_dir() else elsewhere.read_bytes())
    finally:
        (folder / name).unlink()
        kept.rename(folder / name)


@pytest.mark.parametrize("mode", [0o777, 0o720, 0o702])
def test_a_state_folder_that_others_can_change_is_not_used(mode: int, operator: Operator, tmp_path: Path) -> None:
    folder = tmp_path / "state"
    folder.mkdir()
    folder.chmod(mode)
    said = operator.clawdet("status", "--state", str(folder))
    assert said.code == 4
    assert f"{folder} can be changed by others, so nothing in it can be trusted." in said.err
    assert f"chmod 700 {folder}" in said.err
    assert list(folder.iterdir()) == []


def test_a_state_folder_may_be_a_link_to_one_of_ours(operator: Operator, tmp_path: Path) -> None:
    (tmp_path / "state").mkdir(mode=0o700)
    (tmp_path / "link").symlink_to(tmp_path / "state")
    said = operator.clawdet("status", "--state", str(tmp_path / "link"))
    assert said.code == 0, said.err
    assert (tmp_path / "state" / "clawdet.db").exists()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files away")
@pytest.mark.parametrize("name", ["", "clawdet.db", "clawdet.db-wal", "logs", "ssh", "ssh/id_ed25519"])
def test_what_is_somebody_elses_in_the_state_folder_is_not_used(name: str, operator: Operator, tmp_path: Path) -> None:
    folder = tmp_path / "state"
    assert operator.clawdet("status", "--state", str(folder)).code == 0
    theirs = folder / name
    if not theirs.exists():
        theirs.parent.mkdir(exist_ok=True, mode=0o700)
        theirs.touch()
    os.chown(theirs, 54321, 54321)
    said = operator.clawdet("status", "--state", str(folder))
    assert said.code == 4
    assert f"{theirs} belongs to user 54321, and clawdet runs as root" in said.err


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files away")
def test_under_sudo_that_kept_the_home_folder_nothing_is_made_there(operator: Operator, tmp_path: Path) -> None:
    os.chown(tmp_path, 54321, 54321)
    kept = {"SUDO_UID": "54321", "HOME": str(tmp_path)}
    said = operator.clawdet("status", "--state", str(tmp_path / ".local/state/clawdet"), env=kept)
    assert said.code == 4
    assert f"{tmp_path} belongs to user 54321, and clawdet runs as root" in said.err
    assert "sudo -H" in said.err
    assert list(tmp_path.iterdir()) == []
