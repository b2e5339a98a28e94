"""A stdout or stderr that takes nothing: a full disk behind it, closed by the shell, or a reader who has gone."""

import os
import subprocess
import sys
from pathlib import Path

from tests.e2e.operator import Operator

FULL = Path("/dev/full")
"""Takes nothing: full(4)."""


def run(operator: Operator, *command: str, redirected: str) -> subprocess.CompletedProcess[str]:
    """Run a command as a shell does that redirects its streams so."""
    shell = ["sh", "-c", f'exec "$@" {redirected}', "sh", sys.executable, "-m", "clawdet_cli", *command, "--sandbox"]
    return subprocess.run(
        shell, env=operator.environment(), stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False
    )


def test_what_cannot_be_shown_is_done_all_the_same_and_not_called_a_bug(operator: Operator) -> None:
    made = run(operator, "provision", "alice", redirected=f">{FULL}")
    assert made.returncode == 4, made.stderr
    assert "could not be written to stdout: No space left on device." in made.stderr
    assert "Nothing was made" not in made.stderr
    assert operator.clawdet("verify", "alice", "--sandbox").code == 0
    for shape in ([], ["--json"]):
        shown = run(operator, "status", *shape, redirected=f">{FULL}")
        assert (shown.returncode, "Traceback" in shown.stderr) == (4, False), shown.stderr


def test_that_nobody_can_be_told_ends_no_work(operator: Operator) -> None:
    made = run(operator, "provision", "alice", "--events", redirected=f"2>{FULL}")
    assert made.returncode == 0, made.stdout
    assert run(operator, "status", "nobody", redirected=f"2>{FULL}").returncode == 4


def test_streams_that_the_shell_has_closed_are_nowhere(operator: Operator) -> None:
    assert run(operator, "provision", "alice", redirected=">&- 2>&-").returncode == 0
    assert operator.clawdet("verify", "alice", "--sandbox").code == 0


def test_a_reader_who_has_seen_enough_is_no_failure(operator: Operator) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    command = [sys.executable, "-m", "clawdet_cli", "status", "--sandbox"]
    done = subprocess.run(
        command, env=operator.environment(), stdout=writing, stderr=subprocess.PIPE, text=True, check=False
    )
    os.close(writing)
    assert (done.returncode, done.stderr) == (0, "")
