import pytest

from clawdet_cli import errors
from clawdet_cli.errors import ClawdetError, StoppedError, Terminated


def every(base: type[ClawdetError] = ClawdetError) -> list[type[ClawdetError]]:
    ours = [known for known in base.__subclasses__() if known.__module__ == errors.__name__]
    return [base, *(below for known in ours for below in every(known))]


@pytest.mark.parametrize(
    ("name", "kind", "exit_code"),
    [
        ("ClawdetError", "bug", 1),
        ("UsageError", "usage", 2),
        ("ConfigError", "config", 3),
        ("StateError", "state", 4),
        ("RecordError", "state", 4),
        ("CloudError", "cloud", 5),
        ("SoldOutError", "cloud", 5),
        ("GuestError", "guest", 6),
        ("WaitError", "wait", 7),
        ("StoppedError", "stopped", 130),
    ],
)
def test_each_class_has_its_kind_and_exit_code(name: str, kind: str, exit_code: int) -> None:
    error = getattr(errors, name)("the disk is full")
    assert (error.kind, error.exit_code) == (kind, exit_code)
    assert str(error) == error.what == "the disk is full"


def test_no_class_has_a_kind_or_exit_code_that_scripts_do_not_know() -> None:
    known = {
        ("bug", 1),
        ("usage", 2),
        ("config", 3),
        ("state", 4),
        ("cloud", 5),
        ("guest", 6),
        ("wait", 7),
        ("stopped", 130),
    }
    assert {(error.kind, error.exit_code) for error in every()} == known


@pytest.mark.parametrize(("signal_number", "exit_code"), [(2, 130), (15, 143)])
def test_a_stop_ends_as_the_shell_expects_of_its_signal(signal_number: int, exit_code: int) -> None:
    assert StoppedError("stopped", signal_number=signal_number).exit_code == exit_code
    assert StoppedError.exit_code == 130


def test_a_failure_carries_what_to_do_next_and_the_evidence() -> None:
    error = ClawdetError("it failed", next_steps=["clawdet status"], details=["line 1", "line 2"])
    assert error.next_steps == ("clawdet status",)
    assert error.details == ("line 1", "line 2")
    assert (error.stage, error.left_behind, error.log_file) == (None, (), None)


def test_sigterm_is_not_taken_for_a_failed_request() -> None:
    assert not issubclass(Terminated, Exception)
