"""Where output goes: results to stdout; progress, questions and failures to stderr.

The view of a run's progress is chosen here, by what stderr is. Only the live one needs rich, which is imported there.
"""

import json
import os
import re
import shutil
import sys
import textwrap
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import TextIO

from clawdet_cli.cli import documents
from clawdet_cli.cli.options import LocalCall
from clawdet_cli.errors import OutputError, UsageError
from clawdet_cli.model import Event, now_text
from clawdet_cli.secret import hide
from clawdet_cli.terminal import harmless

SANDBOX_BANNER = "SANDBOX: emulated clouds on this machine. Nothing here is real, and nothing is billed."

Paint = Callable[[str, str], str]
Screen = Callable[[Paint], Iterable[str]]
"""Gives a result's lines, once it is known whether they may be coloured."""

_STYLES = {"bold": "1", "dim": "2", "red": "1;31", "green": "32", "yellow": "33", "label": "1;30;43"}
_PAINTED = re.compile("({})".format("|".join(re.escape(f"\x1b[{code}m") for code in ("0", *_STYLES.values()))))
"""What `paint_for` adds; in a pattern's parentheses, so that `split` keeps it."""


def clean(text: str) -> str:
    """Make text from elsewhere harmless for a terminal: one line, without control characters."""
    return hide(harmless(text))


def paint_for(stream: TextIO) -> Paint:
    """Give the colouring for a stream: none where it is no terminal, or NO_COLOR is set."""
    if not stream.isatty() or os.environ.get("NO_COLOR") or os.environ.get("TERM") == "dumb":
        return lambda text, _: text
    return lambda text, style: f"\x1b[{_STYLES[style]}m{text}\x1b[0m"


def beside(text: str, indent: int) -> list[str]:
    """Break text that stands at a column of a result: on a terminal by its width, elsewhere not at all."""
    if not sys.stdout.isatty():
        return [text]
    width = max(20, shutil.get_terminal_size().columns - indent)
    return textwrap.wrap(text, width, break_long_words=False, break_on_hyphens=False) or [""]


def interactive() -> bool:
    """Say whether somebody can be asked."""
    return sys.stdin.isatty() and sys.stderr.isatty()


class View:
    """Shows no progress; what shows some adds to this."""

    def watch(self, event: Event) -> None:
        """Take notice of an event."""

    def note(self, text: str) -> None:
        """Tell something that belongs to no stage."""
        self.watch(Event("note", now_text(), text=text))

    @contextmanager
    def working(self, title: str) -> Iterator[None]:
        """Show that something is at work that has no stages."""
        began = time.monotonic()
        self.watch(Event("stage_started", now_text(), text=title))
        yield
        self.watch(Event("stage_finished", now_text(), status="done", seconds=time.monotonic() - began))

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Leave the terminal alone."""
        yield

    def close(self, *, failed: bool) -> None:
        """Leave the terminal as it is to stay."""


class PlainView(View):
    """One line for each event that a reader of a log wants, with the time in UTC."""

    def __init__(self) -> None:
        self._stages: dict[str, str] = {}
        """By user, where there are several."""

    def watch(self, event: Event) -> None:
        """Write the event as a line."""
        # What an adapter says while it waits carries no stage: it belongs to the running one.
        stage = self._stages[event.user] = event.stage or self._stages.get(event.user, "")
        what = f"{event.step}: " if event.step else ""
        match event.kind:
            case "stage_started" | "note":
                what += event.text
            case "run_finished" if event.status == "failed":
                what += f"failed: {event.text}"
            case "run_finished":
                what += f"{event.status} after {duration(event.seconds)}"
            case "stage_finished" | "step_finished" if event.status == "skipped":
                what += f"skipped{': ' + event.text if event.text else ''}"
            case "stage_finished" | "step_finished" if event.status == "failed":
                what += f"failed{': ' + event.text if event.text else ''}"
            case "step_finished" if event.status == "not_judged":
                what += f"not judged: {event.text}"
            case "stage_finished" | "step_finished":
                what += f"{event.status} after {duration(event.seconds)}"
            case _:
                return
        whose = f"{event.user:<12}  " if event.user else ""
        _err(f"{event.at[11:19]}Z  {whose}{stage or '-':<20}  {clean(what)}")


class EventsView(View):
    """One JSON document for each event."""

    def watch(self, event: Event) -> None:
        """Write the event as a line of JSON."""
        _err(json.dumps(documents.event(event)))

    @contextmanager
    def working(self, title: str) -> Iterator[None]:  # noqa: ARG002 - a stage without a name would help no program
        """Say nothing: this is for the eye."""
        yield


@contextmanager
def progress(call: LocalCall, *, banner: bool = True, users: bool = False) -> Iterator[View]:
    """Show the progress of a run, or of several `users`, in the way that fits this call and what stderr is."""
    view = _chosen(call, users=users)
    if banner and call.labelled and not (call.quiet or call.events):
        _err(paint_for(sys.stderr)(SANDBOX_BANNER, "label"))
    failed = True
    try:
        yield view
        failed = False
    finally:
        view.close(failed=failed)


def _chosen(call: LocalCall, *, users: bool) -> View:
    if call.events:
        return EventsView()
    if call.quiet:
        return View()
    if sys.stderr.isatty() and not os.environ.get("CI") and os.environ.get("TERM") != "dumb":
        from clawdet_cli.cli.live import FleetView, LiveView  # not above: rich is loaded only where it is seen

        return (FleetView if users else LiveView)(sys.stderr, coloured=not os.environ.get("NO_COLOR"))
    return PlainView()


def ask(view: View, screen: Screen, question: str) -> str:
    """Show something on stderr and give what is typed in answer to a question; the end of input is no answer."""
    with view.paused():
        paint = paint_for(sys.stderr)
        for line in screen(paint):
            _err(_line(line))
        sys.stderr.write(paint(question, "bold") + " ")
        sys.stderr.flush()
        answer = sys.stdin.readline()
        if not answer.endswith("\n"):
            _err("")
        return answer.strip()


def need_consent(command: str, effect: str) -> None:
    """Raise UsageError where a question would have to be asked and nobody is there."""
    if not interactive():
        raise UsageError(
            f"'{command}' asks before it {effect}, and there is no terminal to ask on.",
            next_steps=[f"{command} --yes"],
        )


def result(call: LocalCall, content: documents.Document, screen: Screen, *, label: str = "") -> None:
    """Print a result on stdout: one JSON document, or lines for a person, labelled if it is a sandbox's."""
    if call.json:
        labelled = {"sandbox": True} if call.labelled else {}
        print_json({**documents.document(), **labelled, **content})
        return
    paint = paint_for(sys.stdout)
    lines = [_line(line) for line in screen(paint)]
    if call.labelled:
        lines = [paint(label or SANDBOX_BANNER, "label"), "", *lines]
    print_text("\n".join(lines))


def print_text(text: str) -> None:
    """Print a text on stdout, without the secrets that are known. Raises OutputError."""
    _past_the_filter(hide(text))


def print_json(content: documents.Document) -> None:
    """Print a document on stdout. ASCII only, so that no terminal nor locale can spoil it."""
    print_text(json.dumps(content, indent=2 if sys.stdout.isatty() else None))


def secret(call: LocalCall, name: str, text: str) -> None:
    """Print a secret that was asked for, alone on stdout, so that it can be piped."""
    if call.json:
        revealing(call, {name: text})
    else:
        _past_the_filter(text)


def revealing(call: LocalCall, content: documents.Document) -> None:
    """Print a document with the secrets that were asked for."""
    labelled = {"sandbox": True} if call.labelled else {}
    _past_the_filter(json.dumps({**documents.document(), **labelled, **content}))


def traceback_of(error: BaseException) -> None:
    """Write a traceback to stderr, for who asked for it."""
    import traceback  # not above: it is rarely needed, and takes long to load

    for line in "".join(traceback.format_exception(error)).splitlines():
        _err(clean(line))


def failure(screen: Screen, content: documents.Document, *, as_json: bool, as_events: bool) -> None:
    """Report a failure once: as the document on stdout, as the last event, or as lines on stderr."""
    if as_json:
        try:
            print_json(content)
        except OutputError:
            as_json = False
    if as_events:
        _err(json.dumps({**content, "kind": "error"}))
    if as_json or as_events:
        return
    report(screen)


def report(screen: Screen) -> None:
    """Write the lines of a failure to stderr."""
    for line in screen(paint_for(sys.stderr)):
        _err(_line(line))


def duration(seconds: float) -> str:
    """Write a duration as people say it."""
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes = int(seconds) // 60
    return f"{minutes} min {int(seconds) % 60:02d} s"


def _line(text: str) -> str:
    """Give a line of a screen with our own colours in it, and nothing else that a terminal obeys, whoever wrote it."""
    return "".join(part if _PAINTED.fullmatch(part) else harmless(part) for part in _PAINTED.split(text))


def _past_the_filter(text: str) -> None:
    try:
        sys.stdout.write(text + "\n")
        sys.stdout.flush()
    except BrokenPipeError:
        _give_up(sys.stdout)  # who reads has seen enough, as `head` has
    except OSError as error:
        _give_up(sys.stdout)
        raise OutputError(
            f"The result could not be written to stdout: {error.strerror}. What the command did is done and recorded.",
            next_steps=["clawdet status    (shows what is recorded)"],
        ) from None


def _err(text: str) -> None:
    try:
        sys.stderr.write(hide(text) + "\n")
        sys.stderr.flush()
    except OSError:
        _give_up(sys.stderr)  # that nobody can be told is no reason to leave the work half done


def _give_up(stream: TextIO) -> None:
    """Send what is still to be written to nowhere: Python itself would try it once more in the end, and complain."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, stream.fileno())
    os.close(nowhere)
