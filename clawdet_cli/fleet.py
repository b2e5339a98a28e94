"""Many users at once: each has a run of his own in a thread, and all share the clouds' clients and the database.

A failure of one does not stop the others. A stop is told to all, which end between their effects.
"""

import os
import resource
import signal
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass, replace
from queue import SimpleQueue
from typing import TYPE_CHECKING, Generic, TypeVar

from clawdet_cli import stopping
from clawdet_cli.errors import ClawdetError, StoppedError, Terminated
from clawdet_cli.model import Destroyed, Event, Holdings, Instance, Plan, PoolPlan, Watcher, now_text

if TYPE_CHECKING:
    from clawdet_cli.operations import Common, Outcome
    from clawdet_cli.settings import Settings

T = TypeVar("T")

Approve = Callable[[Sequence[Plan], Mapping[str, ClawdetError]], bool]
"""Is shown what would be made and what cannot be, and says whether it is to be made."""
Confirm = Callable[[Sequence[Holdings], Mapping[str, ClawdetError]], bool]
"""Likewise, what would be removed."""


CROWD = 20
"""So many runs side by side keep this machine busy enough to look after what they take of it."""
FILES, FILES_EACH = 100, 8
"""What a command has open, and at most for each user: a log, connections to the VPS and through it."""


@dataclass(frozen=True)
class Fleet(Generic[T]):
    """What came of all users' runs, in the order in which they were asked for."""

    done: Mapping[str, T]
    failures: Mapping[str, ClawdetError]
    not_begun: tuple[str, ...]
    """Whose turn had not come when a stop was asked for."""
    instances: Mapping[str, Instance]
    """As they are recorded afterwards, whatever came of them."""
    calls: Mapping[str, int]
    stopped_by: int | None = None
    """The signal that asked for a stop."""

    @property
    def exit_code(self) -> int:
        """Give the greatest code of the failures, to which a stop belongs if it left anything undone; 0 for none."""
        codes = [error.exit_code for error in self.failures.values()]
        if self.stopped_by is not None and self.not_begun:
            codes.append(128 + self.stopped_by)
        return max(codes, default=0)


def provision(
    settings: "Settings", users: Sequence[str], watch: Watcher, approve: Approve | None, *, parallel: int
) -> "Fleet[Outcome]":
    """Bring all instances up; `approve` is asked once, for all of them. Raises StoppedError when it says no."""
    from clawdet_cli import operations

    with operations.sharing(settings, min(parallel, len(users))) as common:
        if approve is not None:
            planned = _all(
                common, users, parallel, _quiet, lambda user, told: operations.plan(settings, user, told, common)
            )
            _refuse_a_stop()
            if not approve(list(planned.done.values()), planned.failures):
                raise StoppedError("Not approved: nothing was ordered.")
        return _all(
            common,
            users,
            parallel,
            watch,
            lambda user, told: operations.provision(settings, user, told, lambda _: True, common),
        )


def verify(settings: "Settings", users: Sequence[str], watch: Watcher, *, parallel: int) -> Fleet[Instance]:
    """Check all instances now; a failing check is in the answer, not a failure."""
    from clawdet_cli import operations

    with operations.sharing(settings, min(parallel, len(users))) as common:
        return _all(common, users, parallel, watch, lambda user, told: operations.verify(settings, user, told, common))


def destroy(
    settings: "Settings",
    users: Sequence[str],
    watch: Watcher,
    confirm: Confirm | None,
    *,
    parallel: int,
    zone_gone: bool = False,
    forget_foreign: bool = False,
    of_another_database: bool = False,
) -> Fleet[Destroyed]:
    """Remove all instances; `confirm` is asked once, for all of them. Raises StoppedError when it says no."""
    from clawdet_cli import operations

    with operations.sharing(settings, min(parallel, len(users))) as common:

        def look(user: str, _: Watcher) -> Holdings:
            return operations.holdings(
                settings, user, common, forget_foreign=forget_foreign, of_another_database=of_another_database
            )

        if confirm is not None:
            held = _all(common, users, parallel, _quiet, look)
            _refuse_a_stop()
            if not confirm(list(held.done.values()), held.failures):
                raise StoppedError("Not confirmed: nothing was removed.")

        def remove(user: str, told: Watcher) -> Destroyed:
            return operations.destroy(
                settings,
                user,
                told,
                common,
                zone_gone=zone_gone,
                forget_foreign=forget_foreign,
                of_another_database=of_another_database,
            )

        return _all(common, users, parallel, watch, remove)


def fill(
    settings: "Settings", wanted: int, watch: Watcher, approve: Callable[[PoolPlan], bool], *, parallel: int
) -> tuple[Fleet[Instance], Fleet[Destroyed]]:
    """Have so many servers wait in the pool, and remove those that are too old, unwell or not needed.

    Raises StoppedError when `approve` says no.
    """
    from clawdet_cli import operations

    with (
        operations.sharing(settings, min(parallel, wanted)) as common,
        operations.planned_pool(settings, wanted, common, watch) as plan,
    ):
        if not approve(plan):
            raise StoppedError("Not approved: nothing was ordered.")
        made = _all(
            common, plan.fill, parallel, watch, lambda name, told: operations.fill(settings, name, told, common)
        )
        old = [one.user for one in plan.drain] if stopping.asked() is None else []
        gone = _all(common, old, parallel, watch, lambda name, told: operations.drain(settings, name, told, common))
        return made, gone


def drain(settings: "Settings", names: Sequence[str], watch: Watcher, *, parallel: int) -> Fleet[Destroyed]:
    """Remove these servers of the pool."""
    from clawdet_cli import operations

    with (
        operations.sharing(settings, min(parallel, len(names))) as common,
        operations.changing_pool(settings, "pool drain", common, watch),
    ):
        return _all(common, names, parallel, watch, lambda name, told: operations.drain(settings, name, told, common))


def _quiet(_: Event) -> None:
    pass


def _refuse_a_stop() -> None:
    """Raise the stop that came while nothing was done yet but look."""
    if number := stopping.asked():
        raise _stopped(number)


def _all(
    common: "Common", users: Sequence[str], parallel: int, watch: Watcher, work: Callable[[str, Watcher], T]
) -> Fleet[T]:
    crew = _Crew(users, watch, work)
    hands = _with_room(min(parallel, len(users)), watch)
    with _on_one_cpu() if hands >= CROWD else nullcontext():
        ended = crew.work(hands)
    return Fleet(
        done={user: ended[user].value for user in users if user in ended and ended[user].error is None},
        failures={user: error for user in users if user in ended and (error := ended[user].error) is not None},
        not_begun=tuple(user for user in users if user not in ended),
        instances={user: found for user in users if (found := common.recorded(user)) is not None},
        calls=common.calls(),
        stopped_by=stopping.asked(),
    )


def _with_room(parallel: int, watch: Watcher) -> int:
    """Raise the soft limit of open files to what so many need, and give how many it is enough for."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = FILES + FILES_EACH * parallel
    if soft == resource.RLIM_INFINITY or soft >= wanted:
        return parallel
    limit = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, limit), hard))
    enough = max(1, min(parallel, (max(soft, limit) - FILES) // FILES_EACH))
    if enough < parallel:
        text = f"a process may open {limit} files here (ulimit -Hn): {enough} users at a time, not {parallel}"
        watch(Event("note", now_text(), text=text))
    return enough


@contextmanager
def _on_one_cpu() -> Iterator[None]:
    """Keep the threads that begin within on one CPU, where a system can do that.

    They share one interpreter, so no two of them run at a time; but to wake one on another CPU takes the system longer
    than most of them then run. Measured: a quarter of all that a hundred runs take, and more of virtual CPUs.
    """
    allowed: set[int] = set()
    with suppress(AttributeError, OSError):  # there is no such call but on Linux, and a sandbox may forbid it
        allowed = os.sched_getaffinity(0)
        # Not the same one for all commands that run on this machine.
        os.sched_setaffinity(0, {sorted(allowed)[os.getpid() % len(allowed)]})
    try:
        yield
    finally:
        with suppress(AttributeError, OSError):
            os.sched_setaffinity(0, allowed)


@dataclass(frozen=True)
class _Ended(Generic[T]):
    user: str
    value: T
    error: ClawdetError | None = None


class _Crew(Generic[T]):
    """Threads that take one user after the other, until there are no more or a stop is asked for."""

    def __init__(self, users: Sequence[str], watch: Watcher, work: Callable[[str, Watcher], T]) -> None:
        self._users = deque(users)
        self._watch = watch
        self._work = work
        self._watching = threading.Lock()
        self._news: SimpleQueue[_Ended[T] | str] = SimpleQueue()
        """What came of a user, `over` from each thread at its end, and `stop`."""

    def work(self, hands: int) -> dict[str, _Ended[T]]:
        """Have it all done, and give what came of each user that was begun."""
        ended: dict[str, _Ended[T]] = {}
        try:
            # The handler of a signal may put something there whatever this thread does: SimpleQueue is made for that.
            with stopping.held(lambda: self._news.put("stop")):
                for _ in range(hands):
                    threading.Thread(target=self._hand, daemon=True).start()
                while hands:
                    match self._news.get():
                        case "over":
                            hands -= 1
                        case "stop":
                            stopping.tell_all()
                        case _Ended() as one:
                            ended[one.user] = one
        except (KeyboardInterrupt, Terminated):
            # Each run has told what it means for its user; whoever reports all of them has more to say than this.
            return ended
        return ended

    def _hand(self) -> None:
        try:
            while not stopping.asked():
                try:
                    user = self._users.popleft()
                except IndexError:
                    return
                self._news.put(self._one(user))
        finally:
            self._news.put("over")

    def _one(self, user: str) -> _Ended[T]:
        def told(event: Event) -> None:
            with self._watching:
                self._watch(replace(event, user=user))

        began = time.monotonic()
        # A view that breaks must not take with it what came of the run.
        with suppress(Exception):
            told(Event("run_started", now_text()))
        try:
            ended: _Ended[T] = _Ended(user, self._work(user, told))
            status, text = "done", ""
        except BaseException as error:  # noqa: BLE001 - whatever it is, it must not end the others
            failure = _shaped(error)
            ended, status, text = _Ended(user, None, failure), "failed", failure.what  # type: ignore[arg-type]  # there is none
        with suppress(Exception):
            told(Event("run_finished", now_text(), text=text, status=status, seconds=time.monotonic() - began))
        return ended


def _shaped(error: BaseException) -> ClawdetError:
    match error:
        case ClawdetError():
            return error
        case KeyboardInterrupt():
            return _stopped(signal.SIGINT)
        case Terminated():
            return _stopped(signal.SIGTERM)
    return ClawdetError(f"A bug in clawdet: {type(error).__name__}.")


def _stopped(number: signal.Signals) -> StoppedError:
    name = "SIGTERM" if number is signal.SIGTERM else "Ctrl-C"
    return StoppedError(f"Stopped by {name}.", signal_number=number)
