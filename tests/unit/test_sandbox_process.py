import asyncio

import pytest

from clawdet_cli.sandbox import process
from clawdet_cli.sandbox.errors import SandboxError


def test_a_program_that_does_not_end_is_stopped_and_told() -> None:
    with pytest.raises(SandboxError, match=r"sleep had not ended after 0\.1 s"):
        process.run(["sleep", "600"], seconds=0.1)


def test_neither_does_one_hold_up_the_event_loop_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(process, "SECONDS", 0.1)
    with pytest.raises(TimeoutError):
        asyncio.run(process.run_async(["sleep", "600"]))


def test_its_last_words_are_told_when_it_fails() -> None:
    with pytest.raises(SandboxError, match="sh failed with exit code 3: no such luck"):
        process.run(["sh", "-c", "echo no such luck >&2; exit 3"])


@pytest.mark.parametrize("name", ["HCLOUD_TOKEN", "ANTHROPIC_API_KEY", "SOME_SECRET", "DB_PASSWORD"])
def test_no_program_gets_what_its_caller_has_for_others(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(name, "canary")
    command = ["sh", "-c", "env"]
    for said in (process.run(command), asyncio.run(process.run_async(command))):
        assert "PATH=" in said
        assert "canary" not in said
