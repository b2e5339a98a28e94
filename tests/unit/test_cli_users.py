"""Commands for many users: whom they are for, what is said of all of them, and with which code they end."""

import io
import json
import resource
import threading
from pathlib import Path
from typing import Any

import pytest

from clawdet_cli import cli, fleet
from clawdet_cli.cli.users import wanted
from clawdet_cli.errors import ClawdetError, CloudError, ConfigError, GuestError, StateError, UsageError, WaitError
from tests.unit.fake_operations import FakeOperations, an_instance

ZONE = ("--zone", "example.com")
Captured = pytest.CaptureFixture[str]


@pytest.fixture
def users(fake: FakeOperations) -> FakeOperations:
    fake.instances |= {user: an_instance(user, monthly="5.99") for user in ("alice", "bob", "carol")}
    return fake


def failing(errors: dict[str, ClawdetError]) -> Any:
    def during(user: str) -> None:
        if user in errors:
            raise errors[user]

    return during


def document(capsys: Captured) -> dict[str, Any]:
    return dict(json.loads(capsys.readouterr().out))


class TestNames:
    def test_come_from_arguments_and_a_file_once_each_and_in_order(self, tmp_path: Path) -> None:
        file = tmp_path / "users.txt"
        file.write_text("# our team\nbob\n\n  carol   # new\nalice\r\nbob\n")
        assert wanted(["dora", "alice"], str(file)) == ["dora", "alice", "bob", "carol"]

    def test_come_from_standard_input(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("sys.stdin", io.StringIO("alice\nbob\n"))
        assert wanted([], "-") == ["alice", "bob"]

    def test_of_a_file_without_end_are_not_read_to_it(self) -> None:
        with pytest.raises(UsageError, match=r"/dev/zero is longer than any list of users \(16 MB\)"):
            wanted([], "/dev/zero")

    def test_every_bad_one_is_named_in_one_error(self, tmp_path: Path) -> None:
        file = tmp_path / "users.txt"
        file.write_text("alice\nwww\nBob\n\x1b[2J\n")
        with pytest.raises(UsageError) as caught:
            wanted(["-x"], str(file))
        assert caught.value.what.startswith(r"'-x', 'www', 'Bob', '\x1b[2J' cannot be user names: a user name is")

    def test_a_thousand_bad_ones_are_counted(self) -> None:
        with pytest.raises(UsageError, match=r"'X0', .* 'X19' and 980 more cannot be"):
            wanted([f"X{number}" for number in range(1000)], None)

    @pytest.mark.parametrize("content", [None, b"\xff\xfe"])
    def test_a_file_that_cannot_be_read_is_said(self, content: bytes | None, tmp_path: Path) -> None:
        file = tmp_path / "users.txt"
        if content is not None:
            file.write_bytes(content)
        with pytest.raises(UsageError, match=r"users\.txt cannot be read"):
            wanted([], str(file))

    @pytest.mark.parametrize("command", ["provision", "destroy", "verify"])
    def test_there_must_be_one(self, command: str, users: FakeOperations, tmp_path: Path, capsys: Captured) -> None:
        (tmp_path / "empty").write_text("# nobody\n")
        assert cli.main([command, *ZONE]) == 2
        assert cli.main([command, *ZONE, "--file", str(tmp_path / "empty")]) == 2
        assert "No user is named, and" in capsys.readouterr().err
        assert users.asked == []


def test_all_instances_and_all_failures_stand_in_one_document(users: FakeOperations, capsys: Captured) -> None:
    users.during = failing({"bob": CloudError("sold out", next_steps=["clawdet provision bob"])})
    assert cli.main(["provision", "carol", "bob", "alice", *ZONE, "--json"]) == 5
    said = document(capsys)
    assert [one["user"] for one in said["instances"]] == ["carol", "bob", "alice"]
    (failure,) = said["failures"]
    assert (failure["user"], failure["kind"], failure["what"], failure["exit_code"]) == ("bob", "cloud", "sold out", 5)
    assert failure["next_steps"] == ["clawdet provision bob --zone example.com"]
    assert (said["monthly_eur"], said["not_begun"]) == (17.97, [])
    assert said["calls"] == {"hetzner": 20, "cloudflare": 30}
    assert "error" not in said


def test_the_summary_has_a_line_for_each_and_what_it_comes_to(users: FakeOperations, capsys: Captured) -> None:
    users.during = failing({"bob": GuestError("3 of 6\nchecks failed")})
    assert cli.main(["provision", "alice", "bob", "carol", *ZONE]) == 6
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split() == ["alice", "complete", "https://alice.example.com/"]
    assert lines[2].split(maxsplit=2) == ["bob", "complete", "failed: 3 of 6 checks failed"]
    assert "3 users: 2 complete, 1 failed." in lines
    assert "What exists of them costs EUR 17.97 per month without VAT." in lines
    assert "Calls: 20 to Hetzner, 30 to Cloudflare" in lines
    assert "  clawdet provision bob --zone example.com" in lines


def test_what_was_not_judged_is_told_of_each_and_with_strict_it_is_a_failure(
    users: FakeOperations, capsys: Captured
) -> None:
    users.instances["bob"] = an_instance("bob", unseen=["gateway"])
    assert cli.main(["provision", "alice", "bob", *ZONE]) == 0
    said = capsys.readouterr().out
    assert "https://bob.example.com/ (not judged: gateway)" in said
    assert "2 users: 2 complete." in said
    assert cli.main(["provision", "alice", "bob", *ZONE, "--strict"]) == 6
    said = capsys.readouterr().out
    assert "not judged: gateway: gateway was looked at" in said
    assert "2 users: 1 complete, 1 failed." in said
    assert cli.main(["provision", "bob", *ZONE]) == 0
    assert "Warning: Cloudflare keeps clawdet out, so these checks were not judged: gateway" in capsys.readouterr().out
    assert cli.main(["provision", "bob", *ZONE, "--strict", "--json"]) == 6
    assert document(capsys)["instance"]["status"] == "complete"


@pytest.mark.parametrize(
    ("errors", "code"),
    [
        ([], 0),
        ([CloudError("x")], 5),
        ([CloudError("x"), WaitError("x"), GuestError("x")], 7),
        ([ConfigError("x"), StateError("x")], 4),
        ([ValueError("x"), CloudError("x")], 5),
        ([ValueError("x")], 1),
    ],
)
@pytest.mark.parametrize("command", [["provision"], ["destroy", "--yes"], ["verify"], ["status", "--live"]])
def test_the_exit_code_is_the_greatest_of_the_failures(
    command: list[str], errors: list[ClawdetError], code: int, users: FakeOperations
) -> None:
    users.during = failing(dict(zip(("alice", "bob", "carol"), errors, strict=False)))
    assert cli.main([*command, "alice", "bob", "carol", *ZONE, "--quiet"]) == code


@pytest.mark.parametrize("command", [["provision"], ["destroy", "--yes"], ["verify"], ["status", "--live"]])
def test_quiet_keeps_progress_from_stderr_and_says_each_failure_there_once(
    command: list[str], users: FakeOperations, capsys: Captured
) -> None:
    refused = CloudError("sold out", next_steps=["clawdet provision bob"])
    refused.left_behind = ("server clawdet-bob (id 7): EUR 5.99 per month until it is destroyed",)
    users.during = failing({"bob": refused, "carol": ConfigError("no token")})
    assert cli.main([*command, "alice", "bob", "carol", *ZONE, "--quiet"]) == 5
    err = capsys.readouterr().err
    assert err.count("bob: Failed: sold out") == err.count("sold out") == 1
    assert err.count("carol: Failed: no token") == err.count("no token") == 1
    assert "  server clawdet-bob (id 7): EUR 5.99 per month until it is destroyed" in err
    assert "  clawdet provision bob --zone example.com" in err
    assert "alice" not in err
    assert "ordering" not in err


@pytest.mark.parametrize("names", [["alice"], ["alice", "bob"]])
def test_only_who_says_so_destroys_what_is_of_another_database(names: list[str], users: FakeOperations) -> None:
    assert cli.main(["destroy", *names, *ZONE, "--yes", "--quiet"]) == 0
    assert users.of_another_database is False
    assert cli.main(["destroy", *names, *ZONE, "--yes", "--quiet", "--of-another-database"]) == 0
    assert users.of_another_database is True


@pytest.mark.usefixtures("users")
def test_quiet_says_nothing_where_all_goes_well(capsys: Captured) -> None:
    assert cli.main(["provision", "alice", "bob", *ZONE, "--quiet"]) == 0
    assert capsys.readouterr().err == ""


def test_quiet_with_json_leaves_failures_to_the_document(users: FakeOperations, capsys: Captured) -> None:
    users.during = failing({"bob": CloudError("sold out")})
    assert cli.main(["provision", "alice", "bob", *ZONE, "--quiet", "--json"]) == 5
    said = capsys.readouterr()
    assert [failure["what"] for failure in json.loads(said.out)["failures"]] == ["sold out"]
    assert said.err == ""


def test_a_failing_check_of_one_is_told_and_ends_with_6(users: FakeOperations, capsys: Captured) -> None:
    users.instances["bob"] = an_instance("bob", failing=["gateway"])
    assert cli.main(["verify", "alice", "bob", *ZONE]) == 6
    out = capsys.readouterr().out
    assert "fails gateway: gateway was looked at" in out
    assert "2 users: 1 as they should be, 1 failed." in out
    assert cli.main(["status", "--live", *ZONE]) == 6
    assert "failed: gateway" in capsys.readouterr().out


@pytest.mark.usefixtures("users")
def test_events_and_lines_say_whose_they_are(capsys: Captured) -> None:
    assert cli.main(["provision", "alice", "bob", *ZONE, "--events"]) == 0
    events = [json.loads(line) for line in capsys.readouterr().err.splitlines()]
    assert {event["user"] for event in events} == {"alice", "bob"}
    assert [event["kind"] for event in events if event["user"] == "bob"] == [
        *("run_started", "stage_started", "note", "stage_finished", "run_finished")
    ]
    assert cli.main(["provision", "alice", "bob", *ZONE]) == 0
    assert "Z  alice         create_server         ordering cpx22 in nbg1" in capsys.readouterr().err
    assert cli.main(["provision", "alice", *ZONE, "--events"]) == 0
    assert "user" not in json.loads(capsys.readouterr().err.splitlines()[0])


def test_no_more_are_at_work_than_is_said(users: FakeOperations) -> None:
    at_work, most = [0], [0]
    lock, both = threading.Lock(), threading.Barrier(2, timeout=10)

    def during(_user: str) -> None:
        with lock:
            at_work[0] += 1
            most[0] = max(most[0], at_work[0])
        both.wait()
        with lock:
            at_work[0] -= 1

    users.instances["dora"] = an_instance("dora")
    users.during = during
    assert cli.main(["provision", "alice", "bob", "carol", "dora", *ZONE, "--parallel", "2", "--quiet"]) == 0
    assert most == [2]


@pytest.mark.parametrize(
    ("soft", "hard", "raised", "enough"),
    [(1024, 4096, [], 100), (256, 4096, [(900, 4096)], 100), (256, 500, [(500, 500)], 50), (1024, -1, [], 100)],
)
def test_the_soft_limit_of_open_files_is_raised_and_what_is_left_is_told(
    soft: int, hard: int, raised: list[Any], enough: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    changes: list[Any] = []
    told: list[str] = []
    monkeypatch.setattr(resource, "getrlimit", lambda _: (soft, hard))
    monkeypatch.setattr(resource, "setrlimit", lambda _, limits: changes.append(limits))
    assert fleet._with_room(100, lambda event: told.append(event.text)) == enough
    assert changes == raised
    assert told == (
        ["a process may open 500 files here (ulimit -Hn): 50 users at a time, not 100"] if hard == 500 else []
    )
