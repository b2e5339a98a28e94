import os
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest

from clawdet_cli import runlog
from clawdet_cli.errors import CloudError, StateError
from clawdet_cli.model import Event
from clawdet_cli.runlog import RunLog
from clawdet_cli.secret import Secret

TOKEN = "hcloud-0123456789abcdef"


@pytest.fixture(params=[0o000, 0o022, 0o077], ids=["umask 000", "umask 022", "umask 077"])
def any_umask(request: pytest.FixtureRequest) -> Iterator[None]:
    before = os.umask(request.param)
    yield
    os.umask(before)


@pytest.mark.usefixtures("any_umask")
def test_only_the_owner_can_read_a_log(tmp_path: Path) -> None:
    with RunLog(tmp_path, "alice", "provision") as log:
        log.text("hello")
    assert stat.S_IMODE(log.path.stat().st_mode) == 0o600
    assert stat.S_IMODE(log.path.parent.stat().st_mode) == 0o700
    assert log.path.parent == tmp_path / "logs"


def test_an_event_is_a_line_with_all_it_says(tmp_path: Path) -> None:
    with RunLog(tmp_path, "alice", "provision") as log:
        log.write(
            Event("step_finished", "2026-01-02T03:04:05.678+00:00", "prepare_vps", "node", "unpacked", "done", 1.25)
        )
        log.write(Event("note", "2026-01-02T03:04:06.000+00:00", text="waiting"))
        lines = log.path.read_text().splitlines()  # before it is closed: a killed run has its log too
    assert lines[0].split() == (
        "2026-01-02T03:04:05.678+00:00 step_finished prepare_vps node done 1.2s unpacked".split()
    )
    assert lines[1].split() == "2026-01-02T03:04:06.000+00:00 note waiting".split()


def test_whoever_looks_at_a_log_with_cat_sees_lines_and_nothing_else(tmp_path: Path) -> None:
    evil = "\x1b]0;owned\x07\x1b[2J\x9b31m\u202e\r\nforged"
    with RunLog(tmp_path, "alice", "provision") as log:
        log.write(Event("log", "now", "prepare_vps", text=evil))
        log.failure(CloudError(f"refused {evil}"))
    lines = log.path.read_text().split("\n")
    assert all(line.isprintable() for line in lines)
    assert lines[0] == "now log prepare_vps  31m forged", "an event is one line, whatever it says"


def test_secrets_are_masked_wherever_they_appear(tmp_path: Path) -> None:
    Secret(TOKEN)
    with RunLog(tmp_path, "alice", "provision") as log:
        log.text(f"Authorization: Bearer {TOKEN}")
        log.write(Event("log", "now", text=f"token={TOKEN}&x=1"))
        error = CloudError(f"refused {TOKEN}")
        error.__cause__ = ValueError(f"of {TOKEN}")
        log.failure(error)
    text = log.path.read_text()
    assert TOKEN not in text
    assert text.count("***") == 4
    assert "Authorization: Bearer ***" in text
    assert "ValueError: of ***" in text


def test_a_secret_learnt_during_the_run_is_masked_from_then_on(tmp_path: Path) -> None:
    with RunLog(tmp_path, "alice", "provision") as log:
        Secret("gateway-token-1")
        log.text("the gateway has gateway-token-1")
    assert log.path.read_text() == "the gateway has ***\n"


def test_old_logs_of_the_folder_are_deleted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runlog, "KEPT_LOGS", 3)
    folder = tmp_path / "logs"
    folder.mkdir()
    for day in range(1, 6):
        (folder / f"2020010{day}000000000-provision-bob-1.log").touch()
    (folder / "notes.txt").touch()
    with RunLog(tmp_path, "alice", "destroy") as log:
        pass
    assert sorted(path.name for path in folder.iterdir()) == [
        "20200104000000000-provision-bob-1.log",
        "20200105000000000-provision-bob-1.log",
        log.path.name,
        "notes.txt",
    ]


def test_a_command_for_many_users_keeps_all_its_logs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runlog, "KEPT_LOGS", 3)
    logs = [RunLog(tmp_path, f"user{number}", "provision") for number in range(6)]
    for log in logs:
        with log:
            assert log.path.exists()


def test_a_clock_that_gives_a_name_twice_spoils_no_log(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runlog, "now_text", lambda: "2026-01-02T03:04:05.678+00:00")
    logs = [RunLog(tmp_path, "pool.a1", "provision") for _ in range(3)]
    for number, log in enumerate(logs):
        with log:
            log.text(f"run {number}")
    assert [log.path.read_text() for log in logs] == ["run 0\n", "run 1\n", "run 2\n"]
    assert sorted(path.name for path in (tmp_path / "logs").iterdir()) == sorted(log.path.name for log in logs)
    assert all(log.path.name.endswith(".log") for log in logs)


def test_text_of_any_kind_can_be_written(tmp_path: Path) -> None:
    with RunLog(tmp_path, "alice", "provision") as log:
        log.text("läuft → 100 % \udcff")
    assert log.path.read_text(encoding="utf-8") == "läuft → 100 % \\udcff\n"


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="has no device that is always full")
def test_a_full_disk_neither_stops_the_run_nor_hides_its_failure(tmp_path: Path) -> None:
    log = RunLog(tmp_path, "alice", "provision")
    log._file.close()
    log._file = Path("/dev/full").open("w", buffering=1)  # noqa: SIM115 - the log closes it
    with pytest.raises(CloudError, match="sold out"), log:
        _write_and_fail(log)


def _write_and_fail(log: RunLog) -> None:
    log.text("nobody will read this")
    raise CloudError("sold out")


def test_a_log_that_cannot_be_made_is_a_failure_with_a_next_step(tmp_path: Path) -> None:
    (tmp_path / "logs").write_text("a file where the folder should be")
    with pytest.raises(StateError, match="cannot be written") as caught:
        RunLog(tmp_path, "alice", "provision")
    assert "--state" in caught.value.next_steps[0]
