"""The live view of a run on a terminal: the only module that imports rich."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TextIO, cast

from rich.console import Console, ConsoleOptions, RenderableType, RenderResult
from rich.live import Live
from rich.spinner import Spinner
from rich.text import Text

from clawdet_cli.cli.output import View, clean, duration
from clawdet_cli.model import Event

MARKS = {
    "done": ("✓", "green"),
    "skipped": ("-", "dim"),
    "failed": ("✗", "bold red"),
    "stopped": ("✗", "yellow"),
    "not_judged": ("?", "yellow"),
}
ASCII_MARKS = {"done": "+", "skipped": "-", "failed": "x", "stopped": "x", "not_judged": "?"}
TITLE_WIDTH = 42


@dataclass
class _Line:
    """A stage, or a step of one."""

    title: str
    typical: float = 0.0
    """Seconds that it took in earlier runs; 0 where there were none."""
    started: float = field(default_factory=time.monotonic)
    status: str = ""
    seconds: float = 0.0
    last: str = ""
    notes: list[str] = field(default_factory=list)
    steps: dict[str, "_Line"] = field(default_factory=dict)

    def finish(self, status: str, seconds: float) -> None:
        self.status, self.seconds, self.last = status, seconds, ""


class _Drawn(View):
    """A picture that is drawn anew several times a second, in a thread of rich's."""

    refreshes = 10
    """In a second."""
    transient = False
    """Whether the last picture is wiped away."""

    def __init__(self, stream: TextIO, *, coloured: bool) -> None:
        self._console = Console(file=stream, highlight=False, force_terminal=True, no_color=not coloured)
        self._unicode = (stream.encoding or "").lower().startswith("utf")
        self._live: Live | None = None

    def _show(self) -> None:
        if self._live is None:
            self._live = Live(
                cast(RenderableType, self),
                console=self._console,
                refresh_per_second=self.refreshes,
                redirect_stdout=False,
                redirect_stderr=False,
                transient=self.transient,
            )
            self._live.start()

    def _hide(self) -> None:
        if self._live is not None:
            self._live.stop()
            self._live = None


class LiveView(_Drawn):
    """Stages with elapsed times and, below the running one, its steps; at the end the stages stay to be read."""

    def __init__(self, stream: TextIO, *, coloured: bool) -> None:
        super().__init__(stream, coloured=coloured)
        self._spinner = Spinner("dots" if self._unicode else "line", style="cyan")
        self._lines: dict[str, _Line] = {}

    def watch(self, event: Event) -> None:
        """Change the picture by an event."""
        text = clean(event.text)
        if event.kind == "step_started" and event.stage not in self._lines:
            # Checks that a run makes before its first stage.
            self._begin(event.stage, _Line("Checking"))
        line = self._lines.get(event.stage)
        match event.kind:
            case "stage_started":
                self._begin(event.stage, _Line(text or event.stage, event.seconds))
            case "stage_finished" if line:
                line.finish(event.status, event.seconds)
            case "step_started" if line:
                line.steps[event.step] = _Line(text or clean(event.step))
            case "step_finished" if line:
                step = line.steps.setdefault(event.step, _Line(clean(event.step)))
                step.finish(event.status, event.seconds)
            case "log" if line:
                line.last = text
            case "note" if line:
                line.notes.append(text)
            case "note":
                # What an adapter says while it waits: of interest until the next word.
                for running in self._running():
                    running.last = text
            case _:
                pass

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Leave the terminal alone; what is running is shown anew afterwards, what has ended is not repeated."""
        self._hide()
        self._lines = {name: line for name, line in self._lines.items() if not line.status}
        try:
            yield
        finally:
            if self._lines:
                self._show()

    def close(self, *, failed: bool) -> None:
        """Leave what has ended on the screen."""
        self._end_running("stopped" if failed else "done")
        self._hide()
        if self._lines:
            self._console.print()

    def _begin(self, stage: str, line: _Line) -> None:
        self._end_running("done")
        self._lines[stage] = line
        self._show()

    def _running(self) -> list[_Line]:
        return [line for line in self._lines.values() if not line.status]

    def _end_running(self, status: str) -> None:
        for line in self._running():
            line.finish(status, time.monotonic() - line.started)

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        """Draw the stages; called by rich, also from its refreshing thread."""
        for line in list(self._lines.values()):
            yield self._drawn(line, "", options.max_width)
            for note in list(line.notes):
                yield _cut(Text(f"    {note}", style="dim"), options.max_width)
            # The steps of a stage that went well are in the run log; here they would fill the screen.
            if line.status != "done":
                for step in list(line.steps.values()):
                    yield self._drawn(step, "    ", options.max_width)
            if line.last:
                yield _cut(Text(f"      {line.last}", style="dim"), options.max_width)

    def _drawn(self, line: _Line, indent: str, width: int) -> Text:
        mark, style = self._mark(line)
        seconds = line.seconds if line.status else time.monotonic() - line.started
        times = "nothing to do" if line.status == "skipped" else duration(seconds)
        if not line.status and line.typical:
            times += f" of usually {duration(line.typical)}"
        title = Text(f"{line.title:<{TITLE_WIDTH - len(indent)}}", style="" if not indent else "dim")
        return _cut(Text.assemble(indent, (mark, style), " ", title, " ", (times, "dim")), width)

    def _mark(self, line: _Line) -> tuple[str, str]:
        if not line.status:
            frame = self._spinner.render(self._console.get_time())
            return (frame.plain if isinstance(frame, Text) else "*"), "cyan"
        mark, style = MARKS.get(line.status, MARKS["failed"])
        return (mark if self._unicode else ASCII_MARKS.get(line.status, "x")), style


@dataclass
class _Row:
    """A user that is at work."""

    title: str = ""
    last: str = ""
    started: float = field(default_factory=time.monotonic)


class FleetView(_Drawn):
    """A row for each user that is at work, as far as the terminal is high, and counts of all; failures stay above."""

    refreshes = 3
    """Each draws every row, in a thread that takes its time from the runs."""
    transient = True

    def __init__(self, stream: TextIO, *, coloured: bool) -> None:
        super().__init__(stream, coloured=coloured)
        self._rows: dict[str, _Row] = {}
        self._counts = {"done": 0, "failed": 0}

    def watch(self, event: Event) -> None:
        """Change the picture by an event."""
        text = clean(event.text)
        if not event.user:
            # Of what comes before all runs, such as the start of a sandbox.
            if text:
                self._console.print(Text(text, style="dim"))
            return
        row = self._rows.get(event.user)
        match event.kind:
            case "run_started":
                self._rows[event.user] = _Row()
                self._show()
            case "run_finished":
                self._rows.pop(event.user, None)
                self._counts[event.status] = self._counts.get(event.status, 0) + 1
                if event.status == "failed":
                    self._console.print(Text(f"{'✗' if self._unicode else 'x'} {event.user}: {text}", style="red"))
            case "stage_started" if row:
                row.title, row.last, row.started = text or event.stage, "", time.monotonic()
            case "step_started" | "note" | "log" if row:
                row.last = text or row.last
            case _:
                pass

    @contextmanager
    def working(self, title: str) -> Iterator[None]:  # noqa: ARG002 - every row says it of itself
        """Show nothing beside the rows."""
        yield

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Leave the terminal alone; the rows are shown anew with the next user that begins."""
        self._hide()
        yield

    def close(self, *, failed: bool) -> None:  # noqa: ARG002 - the summary says it of each user
        """Leave what failed on the screen."""
        self._hide()

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        """Draw the rows; called by rich, also from its refreshing thread."""
        rows = list(self._rows.items())
        room = max(1, console.size.height - 3)
        width = max((len(user) for user, _ in rows), default=0)
        for user, row in rows[:room]:
            line = f"{user:<{width}}  {row.title:<{TITLE_WIDTH}} {duration(time.monotonic() - row.started):>8}"
            yield _cut(Text.assemble(line, "  ", (row.last, "dim")), options.max_width)
        counts = [f"{len(rows)} at work", f"{self._counts['done']} done"]
        counts += [f"{self._counts['failed']} failed"] if self._counts["failed"] else []
        counts += [f"{len(rows) - room} of them not shown"] if len(rows) > room else []
        yield _cut(Text(", ".join(counts), style="bold"), options.max_width)


def _cut(text: Text, width: int) -> Text:
    text.truncate(width, overflow="ellipsis")
    return text
