"""What only a process has: a terminal, signals, an exit code."""

import os
import pty
import re
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from tests.unit.fake_operations import FAILING_OF_FLEET, FLEET

DEADLINE = 60.0


class Terminal:
    """A process whose stdin, stdout and stderr are a terminal, and what it has shown so far."""

    def __init__(self, process: subprocess.Popen[bytes], master: int) -> None:
        self.process = process
        self.master = master
        self.raw = ""

    @property
    def shown(self) -> str:
        """The text without colours and cursor movements."""
        return re.sub(r"\x1b\[[0-?]*[ -/]*[@-~]", "", self.raw)

    def wait_for(self, text: str) -> None:
        """Read until the text was shown."""
        self._read(lambda: text in self.shown, text)

    def type(self, text: str) -> None:
        """Press keys."""
        os.write(self.master, text.encode())

    def end(self) -> int:
        """Read to the end and give the exit code."""
        self._read(lambda: False, None)
        return self.process.wait(DEADLINE)

    def _read(self, enough: Callable[[], bool], wanted: str | None) -> None:
        until = time.monotonic() + DEADLINE
        while not enough():
            if not select.select([self.master], [], [], max(0, until - time.monotonic()))[0]:
                raise AssertionError(f"not shown in time: {wanted!r}; shown was: {self.shown}")
            data = b""
            with suppress(OSError):  # Linux says EIO when the other side is closed
                data = os.read(self.master, 65536)
            if not data:
                assert wanted is None, f"ended without {wanted!r}; shown was: {self.shown}"
                return
            self.raw += data.decode()


def environment(state: Path, **more: str) -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if name not in {"CI", "NO_COLOR"}}
    return kept | {"CLAWDET_STATE": str(state), "CLAWDET_ZONE": "example.com", "TERM": "xterm", "COLUMNS": "100"} | more


@contextmanager
def on_terminal(state: Path, *argv: str, **more: str) -> Iterator[Terminal]:
    master, slave = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.unit.fake_operations", *argv],
        stdin=slave,
        stdout=slave,
        stderr=slave,
        env=environment(state, **({"PYTHONIOENCODING": "utf-8"} | more)),
        start_new_session=True,
    )
    os.close(slave)
    try:
        yield Terminal(process, master)
    finally:
        process.kill()
        process.wait()
        os.close(master)


def test_provision_shows_price_and_plan_and_takes_no_for_an_answer(tmp_path: Path) -> None:
    with on_terminal(tmp_path, "provision", "alice") as terminal:
        terminal.wait_for("Make it? [y/N]")
        assert "EUR 19.99 per month without VAT" in terminal.shown
        assert "https://alice.example.com/" in terminal.shown
        terminal.type("n\n")
        assert terminal.end() == 130
        assert "Not approved" in terminal.shown


def test_provision_goes_on_after_yes_and_leaves_its_stages_on_the_screen(tmp_path: Path) -> None:
    with on_terminal(tmp_path, "provision", "alice") as terminal:
        terminal.wait_for("Make it? [y/N]")
        terminal.type("y\n")
        assert terminal.end() == 0
        assert "✓ Ordering the VPS" in terminal.shown
        assert "alice is complete" in terminal.shown
        assert "\x1b[" in terminal.raw


def test_yes_answers_in_advance(tmp_path: Path) -> None:
    with on_terminal(tmp_path, "provision", "alice", "--yes") as terminal:
        assert terminal.end() == 0
        assert "Make it?" not in terminal.shown


@pytest.mark.parametrize(("typed", "code"), [("alice\n", 0), ("bob\n", 130), ("y\n", 130), ("\x04", 130)])
def test_destroy_wants_the_name_typed(tmp_path: Path, typed: str, code: int) -> None:
    with on_terminal(tmp_path, "destroy", "alice") as terminal:
        terminal.wait_for("Type alice to destroy it:")
        assert "server clawdet-alice (id 4711)" in terminal.shown
        terminal.type(typed)
        assert terminal.end() == code
        assert ("alice is destroyed" in terminal.shown) == (code == 0)


@pytest.mark.parametrize(("typed", "code"), [("y\n", 0), ("\n", 130), ("\x04", 130)])
def test_approve_asks_about_the_only_one_that_waits(tmp_path: Path, typed: str, code: int) -> None:
    with on_terminal(tmp_path, "approve", "alice") as terminal:
        terminal.wait_for("Let it in? [y/N]")
        assert "Linux x86_64 (openclaw-control-ui) at 192.0.2.7 asks to be let in" in terminal.shown
        terminal.type(typed)
        assert terminal.end() == code
        assert ("is let in; its page goes on by itself" in terminal.shown) == (code == 0)
        assert ("nobody was let in" in terminal.shown) == (code != 0)


@pytest.mark.parametrize("variable", ["CI", "NO_COLOR"])
def test_a_terminal_can_be_asked_for_less(tmp_path: Path, variable: str) -> None:
    with on_terminal(tmp_path, "status", "--live", **{variable: "1"}) as terminal:
        assert terminal.end() == 0
        # CI: no animation, so lines with the time; NO_COLOR: no colour, but still a live view.
        assert ("03:04:05Z  create_server" in terminal.shown) == (variable == "CI")
        assert re.search(r"\x1b\[[0-9;]*3[0-7]m", terminal.raw) is None or variable == "CI"


@pytest.mark.parametrize(("number", "code", "said"), [(signal.SIGINT, 130, "Ctrl-C"), (signal.SIGTERM, 143, "SIGTERM")])
def test_a_signal_ends_the_command_with_a_message(tmp_path: Path, number: int, code: int, said: str) -> None:
    with on_terminal(tmp_path, "verify", "alice", FAKE="wait") as terminal:
        terminal.wait_for("waiting")
        terminal.process.send_signal(number)
        assert terminal.end() == code
        assert f"Stopped: Stopped by {said}." in terminal.shown


def test_a_second_sigterm_at_once_does_not_interrupt_the_report_of_the_first(tmp_path: Path) -> None:
    # timeout(1) sends it to the process and then to its whole group.
    with on_terminal(tmp_path, "verify", "alice", FAKE="twice") as terminal:
        terminal.wait_for("waiting")
        terminal.process.send_signal(signal.SIGTERM)
        assert terminal.end() == 143
        assert "Stopped: Stopped by SIGTERM." in terminal.shown


def test_many_users_fit_into_a_small_window_and_a_failure_stops_nobody_else(tmp_path: Path) -> None:
    lines = 8
    window = {"LINES": str(lines), "COLUMNS": "60", "FAKE": "fleet"}
    command = ("provision", *FLEET, "--parallel", "50", "--yes")
    with on_terminal(tmp_path, *command, **window) as terminal:
        terminal.wait_for("12 at work, 0 done, 7 of them not shown")
        assert "user00  Ordering the VPS" in terminal.shown
        terminal.type("\n")
        assert terminal.end() == 5
        assert "✗ user03: There is no room for it." in terminal.shown
        assert "12 users: 11 complete, 1 failed." in terminal.shown
        assert [user for user in FLEET if f"https://{user}.example.com/" in terminal.shown] == [
            user for user in FLEET if user != FAILING_OF_FLEET
        ]
    # What is drawn anew begins where the last picture began: one line more would scroll, and leave a copy each time.
    upwards = [drawn.count("\x1b[1A") for drawn in re.findall(r"(?:\x1b\[1A\x1b\[2K)+", terminal.raw)]
    assert 0 < max(upwards) < lines


def test_a_reader_that_left_is_no_failure_to_report(tmp_path: Path) -> None:
    read, write = os.pipe()
    os.close(read)
    done = subprocess.run(
        [sys.executable, "-m", "tests.unit.fake_operations", "status"],
        env=environment(tmp_path),
        stdout=write,
        stderr=subprocess.PIPE,
        text=True,
        timeout=DEADLINE,
        check=False,
    )
    os.close(write)
    assert done.stderr == ""


def test_a_locale_without_our_characters_ends_nothing(tmp_path: Path) -> None:
    with on_terminal(tmp_path, "status", "--live", PYTHONIOENCODING="ascii") as terminal:
        assert terminal.end() == 0
        assert "+ Ordering the VPS" in terminal.shown
