"""What can go wrong, as the user meets it: one class for each exit code. Imports nothing of ours."""

from collections.abc import Sequence
from typing import ClassVar


class ClawdetError(Exception):
    """Say what happened, what exists now and costs money, and what to run next."""

    kind: ClassVar[str] = "bug"
    exit_code: int = 1
    longest: ClassVar[int] = 1000
    """Characters of a sentence or a detail: an API's or a VPS's own words may have no end."""

    def __init__(self, what: str, *, next_steps: Sequence[str] = (), details: Sequence[str] = ()) -> None:
        super().__init__(what[: self.longest])
        self.what = what[: self.longest]
        self.next_steps = tuple(next_steps)
        self.details = tuple(detail[: self.longest] for detail in details)
        """Evidence in lines: an API's own words, the last lines of a log."""
        self.stage: str | None = None
        """The stage in which it happened; `execute()` sets it."""
        self.left_behind: tuple[str, ...] = ()
        """What exists now, with its price; `execute()` sets it."""
        self.log_file: str | None = None
        self.unsettled: bool | None = None
        """Whether a change may have been made although this says that it failed; the adapters say it."""


class ConfigError(ClawdetError):
    """A credential or setting is missing, malformed or refused."""

    kind = "config"
    exit_code = 3


class StateError(ClawdetError):
    """A name is taken, unknown, foreign or busy, or the local database or disk failed."""

    kind = "state"
    exit_code = 4


class AnotherDatabaseError(StateError):
    """Something is in the way that clawdet made with another database: only who says that it is meant may remove it."""


class ForeignNetworksError(StateError):
    """Networks that somebody else may have let in would be locked out; whoever wants that has to say so."""


class LeaseLostError(StateError):
    """Another run has taken the instance over while this one slept: this one changes nothing more."""


class ForeignError(StateError):
    """What was to be changed is not provably clawdet's: it was not touched."""

    recorded_as: str = ""
    """The field of the instance that holds its id, and should not."""


class RecordError(StateError):
    """The local database or disk failed: what was done just before may not be recorded."""


class OutputError(StateError):
    """What a command came to could not be written to stdout; it is done and recorded all the same."""


class CloudError(ClawdetError):
    """Hetzner or Cloudflare said no."""

    kind = "cloud"
    exit_code = 5


class SoldOutError(CloudError):
    """A server type cannot be had at a location now; another candidate may."""


class MissingError(CloudError):
    """An order names a firewall or an SSH key that is there no more."""


class InUseError(CloudError):
    """Something cannot be deleted yet, since something else uses it, or did a moment ago."""


class GuestError(ClawdetError):
    """The server was reached, and an installation step or a check failed on it."""

    kind = "guest"
    exit_code = 6


class WaitError(ClawdetError):
    """Something was not ready within its time."""

    kind = "wait"
    exit_code = 7


class StoppedError(ClawdetError):
    """The user or the system asked to stop: Ctrl-C (130) or SIGTERM (143)."""

    kind = "stopped"
    exit_code = 130

    def __init__(self, what: str, *, signal_number: int = 2, next_steps: Sequence[str] = ()) -> None:
        super().__init__(what, next_steps=next_steps)
        self.exit_code = 128 + signal_number


class UsageError(ClawdetError):
    """The command line is wrong: reported like every other failure, in JSON too."""

    kind = "usage"
    exit_code = 2


class Terminated(BaseException):
    """SIGTERM arrived; not an Exception, so that no SDK takes it for a failed request and tries again."""
