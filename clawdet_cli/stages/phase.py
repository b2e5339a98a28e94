"""Runs a phase of the script on the VPS and follows it, over as many connections as that takes."""

import secrets
from collections import deque
from collections.abc import Mapping

from clawdet_cli import bootstrap
from clawdet_cli.adapters.retry import until
from clawdet_cli.adapters.ssh import ConnectionLost
from clawdet_cli.errors import GuestError, WaitError
from clawdet_cli.stages.runner import Run

SHOWN_LINES = 15
"""The last lines of the script's log that an error shows."""


def run_phase(run: Run, verb: str, input_lines: bytes, files: Mapping[str, bytes]) -> dict[str, str]:
    """Run `prepare` or `configure` to its end and give the values of its result line. Raises GuestError."""
    folder = f"/run/clawdet/{secrets.token_hex(6)}"
    with run.effect("upload", verb, folder=folder):
        content = bootstrap.package(input_lines, files)
        answer = run.ssh().run(bootstrap.upload(folder), stdin=content, timeout=run.deadline.within(120).left())
    if answer.code != 0:
        raise GuestError("The script could not be copied to the VPS.", details=answer.err.splitlines()[-5:])
    while run.deadline.left() > 0:
        with run.effect("start", verb, folder=folder):
            answer = run.ssh().run(bootstrap.start(verb, folder), timeout=run.deadline.within(60).left())
        if answer.code != 0:
            raise GuestError(f"The VPS would not start '{verb}'.", details=answer.err.splitlines()[-5:])
        attached = answer.out.strip() == "attached"
        if attached:
            run.note(f"'{verb}' of an earlier run is still at work there: following it first")
        values = _Follower(run, verb).to_the_end(failure_is_ours=not attached)
        if not attached:
            return values
    raise WaitError(
        f"'{verb}' of an earlier run took all the time that there was.",
        next_steps=["run the command again, with more time: --timeout 1800"],
    )


class _Follower:
    """Reads a phase's log as it grows, and turns its lines into events."""

    def __init__(self, run: Run, verb: str) -> None:
        self.run = run
        self.verb = verb
        self.offset = 0
        self.rest = ""
        self.values: dict[str, str] = {}
        self.failed: bootstrap.ScriptLine | None = None
        self.last: deque[str] = deque(maxlen=SHOWN_LINES)

    def to_the_end(self, *, failure_is_ours: bool) -> dict[str, str]:
        state = until(
            self._look,
            deadline=self.run.deadline,
            what=f"'{self.verb}' on the VPS",
            every=0.1,
            catching=(ConnectionLost,),
        )
        if failure_is_ours and not (state.ok and self.values.get("@result") == "ok"):
            step = f" at the step '{self.failed.step}'" if self.failed else ""
            reason = f": {self.failed.text}" if self.failed and self.failed.text else ""
            raise GuestError(
                f"'{self.verb}' failed on the VPS{step}{reason}.",
                details=[*self.last, f"({state.text})"],
            )
        return self.values

    def _look(self) -> bootstrap.UnitState | None:
        """Take in what is new; give the unit's state once it has ended."""
        ssh = self.run.ssh()
        try:
            answer = ssh.run(bootstrap.follow(self.verb, self.offset), timeout=self.run.deadline.within(40).left())
        except WaitError:
            # The answer is due after 5 s: this connection is dead and does not know it, as after a sleep of the laptop.
            self.run.hang_up()
            return None
        if answer.code != 0:
            raise GuestError("The log of the installation cannot be read.", details=answer.err.splitlines()[-5:])
        state, news = bootstrap.parse_follow(answer.out)
        more = state.offset - self.offset >= bootstrap.MAX_NEWS
        self.offset = state.offset
        if self.offset > bootstrap.MOST_LOG:
            raise GuestError(
                f"'{self.verb}' on the VPS has written more than {bootstrap.MOST_LOG} bytes of log: it is not read on.",
                details=list(self.last),
                next_steps=["clawdet destroy USER    (and provision again, if this VPS is not to be trusted)"],
            )
        *lines, self.rest = (self.rest + news).split("\n")
        if not state.running and not more and self.rest:
            lines.append(self.rest)
        for line in lines:
            self._take(line[: bootstrap.MOST_LINE])
        return None if state.running or more else state

    def _take(self, line: str) -> None:
        parsed = bootstrap.parse_line(line)
        match parsed:
            case None:
                self.last.append(line)
                self.run.emit("log", text=line)
            case bootstrap.ScriptLine("begin"):
                self.run.emit("step_started", step=parsed.step, text=parsed.text)
            case bootstrap.ScriptLine("done"):
                self.run.steps_done.append(parsed.step)
                self.run.emit("step_finished", step=parsed.step, status="done", seconds=parsed.seconds)
            case bootstrap.ScriptLine("skip"):
                self.run.emit("step_finished", step=parsed.step, status="skipped", text=parsed.text)
            case bootstrap.ScriptLine("fail"):
                self.failed = parsed
                self.run.emit("step_finished", step=parsed.step, status="failed", text=parsed.text)
            case bootstrap.ScriptLine("result"):
                self.values = {"@result": parsed.text, **(parsed.values or {})}
