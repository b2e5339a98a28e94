"""Runs a phase of the script on the VPS and follows it, over as many connections as that takes."""

import secrets
from collections import deque
from collections.abc import Mapping

from clawdet_cli import bootstrap
from clawdet_cli.adapters.retry import until
from clawdet_cli.adapters.ssh import ConnectionLost
from clawdet_cli.errors import GuestError, WaitError
from clawdet_cli.secret import excerpt
from clawdet_cli.stages.runner import CONNECTIONS, Run

SHOWN_LINES = 15
"""The last lines of the script's log that an error shows."""
MOST_RESTARTS = 3
"""How often a phase is begun anew for a VPS that restarts in the middle of it."""
REACH_SECONDS = 20.0
"""How long each connecting to a VPS that restarts may take."""
MOST_STEPS = 100
"""Several times as many as a phase has; a view keeps each of them on the screen."""


class Phase:
    """One phase, from its start on the VPS to its end; in between the caller may do something else."""

    def __init__(
        self,
        run: Run,
        verb: str,
        values: Mapping[str, str],
        files: Mapping[str, bytes],
        *,
        expected: Mapping[str, str] | None = None,
    ) -> None:
        self.run = run
        self.verb = verb
        self.values = values
        self._files = files
        self._expected = expected
        """The result that is wanted, and makes the run of somebody else as good as one of ours."""
        self._folder = ""
        self.ours = False
        """Whether it is a run of ours, or one that was taken over, and not one of somebody else that is followed."""
        self.restarts = 0
        self._follower = _Follower(run, verb)

    def take_over(self) -> bool:
        """Take over the run that user_data began, if there is one and nobody has: its failure is ours then."""
        with self.run.effect("join_boot", self.verb, folder=bootstrap.BOOT_FOLDER):
            content = bootstrap.package(self._files)
            command = bootstrap.join_boot(bootstrap.boot_mark(self.values))
            answer = self.run.remote(command, stdin=content, seconds=120)
        if answer.code != 0:
            raise GuestError("The npm lock could not be copied to the VPS.", details=answer.complaint)
        self.ours = answer.out.strip() == "joined"
        return self.ours

    def begin(self) -> None:
        """Copy the script there and start it, or find one that runs already.

        When the connection breaks over the start, that may have been carried out: then the input was read and deleted,
        so that all is copied anew, and what runs is followed first.
        """
        for last in (*[False] * (CONNECTIONS - 1), True):
            self._upload()
            if self._start(last=last):
                return

    def _upload(self) -> None:
        """Copy all to a folder that no run has used: one that was begun may go on, with its own files."""
        run, self._folder = self.run, f"/run/clawdet/{secrets.token_hex(6)}"
        with run.effect("upload", self.verb, folder=self._folder):
            own = {bootstrap.SCRIPT_NAME: bootstrap.script(), "input": bootstrap.input_file(self.values)}
            content = bootstrap.package(own | dict(self._files))
            answer = run.remote(bootstrap.upload(self._folder), stdin=content, seconds=120)
        if answer.code != 0:
            raise GuestError("The script could not be copied to the VPS.", details=answer.complaint)

    def reach(self, step: str) -> None:
        """Follow it until a step is over. Raises GuestError when it ends, in failure, before that."""
        follower = self._follower
        until(
            # What is waited for is told sooner than what is only shown.
            lambda: follower.look(gather=0.3) or (step in follower.over or None),
            deadline=self.run.deadline,
            what=f"the step '{step}' on the VPS",
            every=0.1,
            catching=(ConnectionLost,),
        )
        if step in follower.over:
            return
        if follower.cut_off():
            self._begin_anew()
            self.reach(step)
        elif self.ours:
            raise follower.failure()

    def end(self) -> dict[str, str]:
        """Follow it to its end, and give the values of its result line."""
        while self.run.deadline.left() > 0:
            values = self._follower.to_the_end()
            if self._follower.cut_off():
                self._begin_anew()
                continue
            wanted = self.ours if self._expected is None else self._expected.items() <= values.items()
            if self._follower.succeeded() and wanted:
                return values
            if self.ours:
                raise self._follower.failure()
            self.begin()
        raise WaitError(
            f"'{self.verb}' of an earlier run took all the time that there was.",
            next_steps=["run the command again, with more time: --timeout 1800"],
        )

    def _begin_anew(self) -> None:
        """Begin it once more for a VPS that restarted: what it had done holds, and is not done again."""
        self.restarts += 1
        if self.restarts > MOST_RESTARTS:
            raise GuestError(
                f"The VPS restarted {self.restarts} times while '{self.verb}' was at work, which was begun anew each"
                " time.",
                details=list(self._follower.last),
                next_steps=["clawdet ssh USER -- journalctl -b -1 -n 50    (shows what came before the last restart)"],
            )
        self.run.note(f"the VPS restarted in the middle of '{self.verb}': beginning it anew")
        if self._follower.told_to_stop:
            self._await_restart()
        self.begin()

    def _await_restart(self) -> None:
        """Wait until a VPS that said that it goes down is down no more: on its way it starts nothing."""
        run = self.run

        def is_back() -> bool | None:
            run.hang_up()
            state = run.ssh(run.deadline.within(REACH_SECONDS)).run(bootstrap.SYSTEM_STATE, timeout=REACH_SECONDS)
            return None if state.out.strip() == "stopping" else True

        until(
            is_back,
            deadline=run.deadline,
            what="the VPS to be back after its restart",
            every=0.5,
            catching=(ConnectionLost, WaitError),
        )

    def _start(self, *, last: bool) -> bool:
        """Start it; False when the connection broke over that, and it is not the last try."""
        run = self.run
        with run.effect("start", self.verb, folder=self._folder) as effect:
            try:
                answer = run.ssh().run(bootstrap.start(self.verb, self._folder), timeout=run.deadline.within(60).left())
            except ConnectionLost:
                if last:
                    raise
                run.note("the connection to the VPS broke: connecting anew")
                effect.made("its answer was lost")
                return False
        if answer.code != 0:
            raise GuestError(f"The VPS would not start '{self.verb}'.", details=answer.complaint)
        self.ours = answer.out.strip() != "attached"
        self._follower = _Follower(run, self.verb)
        if not self.ours:
            run.note(f"'{self.verb}' of an earlier run is still at work there: following it first")
        return True


class _Follower:
    """Reads a phase's log as it grows, and turns its lines into events."""

    def __init__(self, run: Run, verb: str) -> None:
        self.run = run
        self.verb = verb
        self.offset = 0
        self.rest = ""
        self.over: set[str] = set()
        """The steps that are done or were skipped."""
        self.said = 0
        """Characters of the log that came, whatever the VPS says of its length."""
        self.values: dict[str, str] = {}
        self.steps: set[str] = set()
        self.ending = False
        """Its result was read while it was still there, and it was looked at once more for that."""
        self.failed: bootstrap.ScriptLine | None = None
        self.last: deque[str] = deque(maxlen=SHOWN_LINES)
        self.ended: bootstrap.UnitState | None = None

    def to_the_end(self) -> dict[str, str]:
        """Follow it to its end, and give the values of its result line."""
        until(
            self.look,
            deadline=self.run.deadline,
            what=f"'{self.verb}' on the VPS",
            every=0.1,
            catching=(ConnectionLost,),
        )
        return self.values

    def succeeded(self) -> bool:
        """Say whether it ended well, by systemd's word and its own."""
        return self.ended is not None and self.ended.ok and self.values.get("@result") == "ok"

    def cut_off(self) -> bool:
        """Say whether it neither runs nor ended, as after a restart of the VPS, or was ended by that restart."""
        vanished = self.ended is not None and self.ended.gone and "@result" not in self.values
        return vanished or self.told_to_stop

    @property
    def told_to_stop(self) -> bool:
        """Whether it said itself that the machine is going down."""
        return self.ended is not None and self.failed is not None and self.failed.text == bootstrap.GOING_DOWN

    def failure(self) -> GuestError:
        """Give the error that tells how it ended."""
        step = f" at the step '{self.failed.step}'" if self.failed else ""
        reason = f": {self.failed.text}" if self.failed and self.failed.text else ""
        state = self.ended.text if self.ended else "it does not run"
        return GuestError(
            f"'{self.verb}' failed on the VPS{step}{reason}.",
            details=[*self.last, f"({state})"],
        )

    def look(self, gather: float = 1.0) -> bootstrap.UnitState | None:
        """Take in what is new; give the unit's state once it has ended."""
        if self.ended is not None:
            return self.ended
        ssh = self.run.ssh()
        try:
            command = bootstrap.follow(self.verb, self.offset, gather=gather * self.run.pace)
            answer = ssh.run(command, timeout=self.run.deadline.within(40).left())
        except WaitError:
            # The answer is due after 10 s: this connection is dead and does not know it, as after a laptop's sleep.
            self.run.hang_up()
            return None
        if answer.code != 0:
            raise GuestError("The log of the installation cannot be read.", details=answer.complaint)
        state, news = bootstrap.parse_follow(answer.out)
        more = state.offset - self.offset >= bootstrap.MAX_NEWS
        self.offset = state.offset
        self.said += len(news)
        if self.said > bootstrap.MOST_LOG:
            raise GuestError(
                f"'{self.verb}' on the VPS has written more than {bootstrap.MOST_LOG} bytes of log: it is not read on.",
                details=list(self.last),
                next_steps=["clawdet destroy USER    (and provision again, if this VPS is not to be trusted)"],
            )
        *lines, self.rest = (self.rest + news).split("\n")
        if not state.running and not more and self.rest:
            lines.append(self.rest)
        for line in lines:
            self._take(excerpt(line, bootstrap.MOST_LINE))
        self.ended = None if state.running or more else state
        if self.ended is None and self.values and not self.ending:
            # Its last line came a moment before its end, which is worth no pause.
            self.ending = True
            return self.look()
        return self.ended

    def _take(self, line: str) -> None:
        parsed = bootstrap.parse_line(line)
        if parsed and parsed.step not in self.steps and len(self.steps) >= MOST_STEPS:
            parsed = None
        elif parsed and parsed.step:
            self.steps.add(parsed.step)
        match parsed:
            case None:
                self.last.append(line)
                self.run.emit("log", text=line)
            case bootstrap.ScriptLine("begin"):
                self.run.emit("step_started", step=parsed.step, text=parsed.text)
            case bootstrap.ScriptLine("done"):
                self.over.add(parsed.step)
                self.run.steps_done.append(parsed.step)
                self.run.emit("step_finished", step=parsed.step, status="done", seconds=parsed.seconds)
            case bootstrap.ScriptLine("skip"):
                self.over.add(parsed.step)
                self.run.emit("step_finished", step=parsed.step, status="skipped", text=parsed.text)
            case bootstrap.ScriptLine("fail"):
                self.failed = parsed
                self.run.emit("step_finished", step=parsed.step, status="failed", text=parsed.text)
            case bootstrap.ScriptLine("result"):
                self.values = {"@result": parsed.text, **(parsed.values or {})}
