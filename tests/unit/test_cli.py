"""The boundary of the command line: exit codes, the one report of a failure, the one JSON document."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import clawdet_cli
from clawdet_cli import cli
from clawdet_cli.errors import (
    ClawdetError,
    CloudError,
    ConfigError,
    GuestError,
    StateError,
    StoppedError,
    Terminated,
    WaitError,
)
from tests.unit.fake_operations import FakeOperations

ZONE = ("--zone", "example.com")


def raising(error: BaseException) -> Callable[[str], None]:
    def fail(_user: str) -> None:
        raise error

    return fail


def only_document(capsys: pytest.CaptureFixture[str]) -> dict[str, Any]:
    out, _ = capsys.readouterr()
    assert out.endswith("\n")
    assert out.count("\n") == 1
    document: dict[str, Any] = json.loads(out)
    assert document["version"] == 1
    return document


@pytest.mark.parametrize(
    ("error", "kind", "code"),
    [
        (ConfigError("no"), "config", 3),
        (StateError("no"), "state", 4),
        (CloudError("no"), "cloud", 5),
        (GuestError("no"), "guest", 6),
        (WaitError("no"), "wait", 7),
        (StoppedError("no"), "stopped", 130),
        (KeyboardInterrupt(), "stopped", 130),
        (Terminated(), "stopped", 143),
        (RuntimeError("no"), "bug", 1),
    ],
)
def test_a_failure_gives_its_exit_code_and_one_document(
    fake: FakeOperations, capsys: pytest.CaptureFixture[str], error: BaseException, kind: str, code: int
) -> None:
    fake.during = raising(error)
    assert cli.main(["verify", "alice", "--json", "--quiet"]) == code
    found = only_document(capsys)["error"]
    assert (found["kind"], found["exit_code"]) == (kind, code)


@pytest.mark.parametrize(
    "argv",
    [
        ["--json", "provision", "alice"],
        ["provision", "--json"],
        ["provision", "alice", "--nonsense", "--json"],
        ["provision", "no_such_name", "--json"],
        ["provision", "alice", "--timeout", "never", "--json"],
        ["provision", "alice", "--servers", "real", "--json"],
        ["status", "www", "--json"],
        ["nonsense", "--json"],
        ["sandbox", "nonsense", "--json"],
        ["destroy", "alice", "--json"],
    ],
)
def test_a_wrong_command_line_is_reported_as_json_too(
    fake: FakeOperations, capsys: pytest.CaptureFixture[str], argv: list[str]
) -> None:
    assert cli.main(argv) == 2
    found = only_document(capsys)["error"]
    assert (found["kind"], found["exit_code"]) == ("usage", 2)
    assert found["what"]
    assert not fake.asked


def test_the_json_of_a_remote_command_is_not_ours(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["nonsense", "--", "--json"]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert "No such command 'nonsense'" in err


def test_a_failure_is_told_once_with_what_exists_and_what_to_do(
    fake: FakeOperations, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    error = CloudError(
        "Hetzner said no.", details=["its own words"], next_steps=["clawdet provision alice    (goes on from here)"]
    )
    error.stage = "create_server"
    error.left_behind = ("server clawdet-alice: EUR 19.99 per month until it is destroyed",)
    error.log_file = "/logs/a log.log"
    fake.during = raising(error)
    state = str(tmp_path / "a folder")
    assert cli.main(["provision", "alice", *ZONE, "--state", state, "--quiet"]) == 5
    out, err = capsys.readouterr()
    assert out == ""
    assert err.splitlines() == [
        "Failed (in the stage create_server): Hetzner said no.",
        "  | its own words",
        "",
        "What exists now, and what it costs:",
        "  server clawdet-alice: EUR 19.99 per month until it is destroyed",
        "",
        "Next:",
        f"  clawdet provision alice --state '{state}' --zone example.com  # goes on from here",
        "",
        "Log: '/logs/a log.log'",
    ]


def test_a_failure_that_left_nothing_behind_says_so(fake: FakeOperations, capsys: pytest.CaptureFixture[str]) -> None:
    fake.during = raising(CloudError("no"))
    assert cli.main(["provision", "alice", *ZONE, "--quiet"]) == 5
    assert "Nothing was made that costs money." in capsys.readouterr().err


@pytest.mark.parametrize("words", [["verify", "alice"], ["destroy", "alice", "--yes"], ["token", "alice"]])
def test_one_of_a_command_that_orders_nothing_speaks_of_no_orders(
    words: list[str], fake: FakeOperations, capsys: pytest.CaptureFixture[str]
) -> None:
    fake.during = raising(CloudError("no"))
    assert cli.main([*words, "--quiet"]) == 5
    assert "costs money" not in capsys.readouterr().err


def test_the_document_of_a_failure_has_all_its_keys(fake: FakeOperations, capsys: pytest.CaptureFixture[str]) -> None:
    error = GuestError("broken", next_steps=["clawdet ssh alice -- journalctl -u openclaw"])
    error.stage, error.left_behind = "verify", ("server",)
    fake.during = raising(error)
    assert cli.main(["verify", "alice", *ZONE, "--json", "--quiet"]) == 6
    assert only_document(capsys) == {
        "version": 1,
        "error": {
            "kind": "guest",
            "exit_code": 6,
            "what": "broken",
            "stage": "verify",
            "left_behind": ["server"],
            "next_steps": ["clawdet ssh alice --zone example.com -- journalctl -u openclaw"],
            "details": [],
            "log_file": None,
        },
    }


def test_events_end_with_the_failure(fake: FakeOperations, capsys: pytest.CaptureFixture[str]) -> None:
    fake.during = raising(CloudError("no"))
    assert cli.main(["provision", "alice", *ZONE, "--events"]) == 5
    out, err = capsys.readouterr()
    events = [json.loads(line) for line in err.splitlines()]
    assert out == ""
    assert [event["kind"] for event in events] == ["stage_started", "note", "stage_finished", "error"]
    assert events[-1]["error"]["what"] == "no"


def test_a_bug_shows_its_traceback_only_when_asked(fake: FakeOperations, capsys: pytest.CaptureFixture[str]) -> None:
    fake.during = raising(RuntimeError("unforeseen"))
    assert cli.main(["verify", "alice", "--quiet"]) == 1
    silent = capsys.readouterr().err
    assert "RuntimeError" in silent
    assert "unforeseen" not in silent  # nobody knows what the text of a foreign error quotes
    assert "--debug" in silent
    assert "Traceback" not in silent
    assert cli.main(["verify", "alice", "--quiet", "--debug"]) == 1
    assert "Traceback" in capsys.readouterr().err


def test_a_bug_in_a_stage_is_traced_to_where_it_happened(
    fake: FakeOperations, capsys: pytest.CaptureFixture[str]
) -> None:
    error = ClawdetError("A bug in clawdet")
    error.__cause__ = ZeroDivisionError()
    fake.during = raising(error)
    assert cli.main(["verify", "alice", "--debug", "--quiet"]) == 1
    assert "ZeroDivisionError" in capsys.readouterr().err


def test_no_arguments_are_a_question_for_help(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main([]) == 0
    assert "clawdet provision alice --sandbox" in capsys.readouterr().out
    assert cli.main(["sandbox"]) == 0
    assert "Start the sandbox" in capsys.readouterr().out


@pytest.mark.parametrize(
    "command", ["provision", "status", "verify", "destroy", "token", "ssh", "sandbox up", "sandbox down"]
)
def test_every_command_explains_itself(capsys: pytest.CaptureFixture[str], command: str) -> None:
    assert cli.main([*command.split(), "--help"]) == 0
    text = capsys.readouterr().out
    assert f"clawdet {command}" in text
    # Types of Python are none of the reader's business.
    assert "<bool>" not in text
    assert "list[str]" not in text


def test_secrets_have_no_flags(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["provision", "--help"]) == 0
    text = capsys.readouterr().out
    assert "HCLOUD_TOKEN" in text
    assert "--hcloud-token" not in text
    assert cli.main(["provision", "alice", "--hcloud-token", "x"]) == 2


def test_the_version_is_printed(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["--version"]) == 0
    assert capsys.readouterr().out == f"clawdet {clawdet_cli.__version__}\n"


def test_what_a_script_has_to_add_is_said_with_each_flag_once(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    assert cli.main(["destroy", "alice", "--sandbox", "--state", str(tmp_path)]) == 2
    assert f"  clawdet destroy alice --yes --sandbox --state {tmp_path}\n" in capsys.readouterr().err
