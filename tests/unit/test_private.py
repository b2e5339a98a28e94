"""Whose the state folder has to be, and everything above it: one test for each rule."""

import grp
import os
import pwd
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest

from clawdet_cli import private
from clawdet_cli.errors import RecordError
from clawdet_cli.private import private_folder, refuse_files_of_others

ALICE, BOB = 54321, 54322
"""Nobody has these numbers."""

as_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files away")

State = Callable[[str], Path]


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """The home folder of alice, who is not root."""
    home = tmp_path / "alice"
    home.mkdir(mode=0o755)
    os.chown(home, ALICE, ALICE)
    return home


@pytest.fixture
def _runs_as_alice(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let what is asked be answered for alice; files are made by root all the same, so tests give them to her."""
    monkeypatch.setattr(os, "geteuid", lambda: ALICE)


def made(path: Path, mode: int = 0o700, owner: int = ALICE) -> Path:
    path.mkdir()
    os.chown(path, owner, owner)
    path.chmod(mode)
    return path


@as_root
@pytest.mark.usefixtures("_runs_as_alice")
class TestAsAnybody:
    def test_a_folder_of_ones_own_is_used(self, home: Path) -> None:
        private_folder(made(home / "state"))

    def test_a_folder_of_somebody_else_is_not_used(self, home: Path) -> None:
        with pytest.raises(RecordError, match=f"state belongs to user {BOB}, and clawdet runs as user {ALICE}"):
            private_folder(made(home / "state", owner=BOB))

    def test_nor_one_of_roots(self, home: Path) -> None:
        with pytest.raises(RecordError, match=f"state belongs to root, and clawdet runs as user {ALICE}"):
            private_folder(made(home / "state", owner=0))

    def test_a_folder_above_may_be_roots_and_not_somebody_elses(self, home: Path) -> None:
        inside = made(made(home / "srv", 0o755, 0) / "state")
        private_folder(inside)
        os.chown(inside.parent, BOB, BOB)
        with pytest.raises(RecordError, match=f"srv belongs to user {BOB}"):
            private_folder(inside)

    @pytest.mark.parametrize("mode", [0o777, 0o775, 0o757])
    def test_a_folder_above_that_others_may_change_is_refused_unless_it_is_sticky(self, mode: int, home: Path) -> None:
        inside = made(made(home / "open", mode) / "state")
        with pytest.raises(RecordError, match="open can be changed by others, and so can everything below it") as seen:
            private_folder(inside)
        assert f"chmod go-w {home / 'open'}" in seen.value.next_steps
        inside.parent.chmod(mode | 0o1000)
        private_folder(inside)

    def test_a_group_that_is_ones_own_alone_is_nobody_else(self, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        inside = made(made(home / "open", 0o775) / "state")
        members: list[str] = []
        own = SimpleNamespace(pw_name="alice", pw_gid=ALICE)
        monkeypatch.setattr(pwd, "getpwuid", lambda _: own)
        monkeypatch.setattr(grp, "getgrgid", lambda _: SimpleNamespace(gr_name="alice", gr_mem=members))
        private_folder(inside)
        members.append("bob")
        with pytest.raises(RecordError, match="open can be changed by others"):
            private_folder(inside)

    def test_with_an_access_control_list_the_groups_bits_are_somebodys(
        self, home: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        inside = made(made(home / "open", 0o775, 0) / "state")
        private_folder(inside)  # by the members of root's group only
        monkeypatch.setattr(os, "listxattr", lambda _: ["system.posix_acl_access"])
        with pytest.raises(RecordError, match="open can be changed by others"):
            private_folder(inside)

    def test_a_link_on_the_way_is_looked_through(self, home: Path) -> None:
        made(made(home / "open", 0o777) / "state")
        (home / "link").symlink_to(home / "open" / "state")
        os.chown(home / "link", ALICE, ALICE, follow_symlinks=False)
        with pytest.raises(RecordError, match="open can be changed by others"):
            private_folder(home / "link", link=True)
        (home / "open").chmod(0o755)
        private_folder(home / "link", link=True)

    def test_a_link_that_somebody_else_has_made_is_not_followed(self, home: Path) -> None:
        shared = made(home / "tmp", 0o1777, 0)
        made(home / "state")
        (shared / "link").symlink_to(home / "state")
        os.chown(shared / "link", BOB, BOB, follow_symlinks=False)
        with pytest.raises(RecordError, match=f"tmp/link belongs to user {BOB}"):
            private_folder(shared / "link", link=True)

    def test_a_link_relative_to_its_own_folder_is_looked_through(self, home: Path) -> None:
        made(made(home / "open", 0o777) / "state")
        (made(home / "deep", 0o755) / "link").symlink_to("../open")
        os.chown(home / "deep" / "link", ALICE, ALICE, follow_symlinks=False)
        with pytest.raises(RecordError, match="open can be changed by others"):
            private_folder(home / "deep" / "link" / "state")

    def test_links_that_lead_round_in_a_circle_end(self, home: Path) -> None:
        (home / "one").symlink_to("two")
        (home / "two").symlink_to("one")
        for name in ("one", "two"):
            os.chown(home / name, ALICE, ALICE, follow_symlinks=False)
        with pytest.raises(OSError, match="Too many levels"):
            private_folder(home / "one" / "state")

    def test_nothing_is_made_in_what_is_somebody_elses(self, home: Path) -> None:
        theirs = made(home / "theirs", 0o777, BOB)
        with pytest.raises(RecordError, match="theirs belongs to"):
            private_folder(theirs / "deep" / "state")
        assert list(theirs.iterdir()) == []

    @pytest.mark.parametrize("owner", [BOB, 0])
    def test_a_file_in_it_that_is_somebody_elses_is_refused(self, owner: int, home: Path) -> None:
        folder = made(home / "state")
        (folder / "clawdet.db").touch()
        os.chown(folder / "clawdet.db", ALICE, ALICE)
        refuse_files_of_others(folder, "clawdet.db", "missing")
        os.chown(folder / "clawdet.db", owner, owner)
        with pytest.raises(RecordError, match=r"clawdet\.db belongs to"):
            refuse_files_of_others(folder, "clawdet.db")

    def test_owners_outside_of_a_container_that_does_not_know_them_are_taken_for_root(
        self, home: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        inside = made(made(home / "mount", 0o755, BOB) / "state")
        monkeypatch.setattr(private, "_is_unmapped", lambda number: number == BOB)
        private_folder(inside)


@as_root
class TestAsRoot:
    @pytest.fixture(autouse=True)
    def _not_under_sudo(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.delenv("SUDO_UID", raising=False)

    def test_a_folder_of_somebody_else_is_not_used_by_root_either(self, tmp_path: Path) -> None:
        with pytest.raises(RecordError, match=f"state belongs to user {ALICE}, and clawdet runs as root"):
            private_folder(made(tmp_path / "state"))

    def test_nor_a_folder_of_roots_below_one_of_somebody_else(self, home: Path) -> None:
        with pytest.raises(RecordError, match=f"alice belongs to user {ALICE}"):
            private_folder(made(home / "state", owner=0))

    def test_under_sudo_it_says_what_helps_and_makes_nothing(self, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("SUDO_UID", str(ALICE))
        with pytest.raises(RecordError, match=f"alice belongs to user {ALICE}, and clawdet runs as root") as seen:
            private_folder(home / ".local" / "state" / "clawdet")
        assert seen.value.next_steps[:2] == (
            "run the command without sudo",
            "or with 'sudo -H', for a state folder of root's own",
        )
        assert list(home.iterdir()) == []

    def test_roots_own_folder_under_the_systems_is_used(self, tmp_path: Path) -> None:
        private_folder(tmp_path / "deep" / "state")
        private_folder(made(made(tmp_path / "tmp", 0o1777, 0) / "state", owner=0))


def test_a_number_is_unmapped_only_in_a_container_that_does_not_know_all(monkeypatch: pytest.MonkeyPatch) -> None:
    texts = {"/proc/self/uid_map": "0 1000 1\n", "/proc/sys/kernel/overflowuid": "65534\n"}
    monkeypatch.setattr(Path, "read_text", lambda self: texts[str(self)])
    assert private._is_unmapped(65534)
    assert not private._is_unmapped(1000)
    texts["/proc/self/uid_map"] = "0 0 4294967295\n"
    assert not private._is_unmapped(65534)
