"""Actions: what a request sets going, with its length, its failure and its lock.

An action is data in the state; what it does is a function found by its command. So an action that was running when the
process ended runs again at the next start: effects are written to be repeated.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from clawdet_cli.sandbox.hetzner.catalog import Record
from clawdet_cli.sandbox.hetzner.errors import locked
from clawdet_cli.sandbox.hetzner.state import Cloud, Project

log = logging.getLogger(__name__)

# These do not lock the server that they are about.
_NOT_LOCKING = {
    "apply_firewall",
    "remove_firewall",
    "set_firewall_rules",
    "change_dns_ptr",
    "change_protection",
}


KEPT = 100
"""Actions of what is gone that are known to the end of the sandbox: the newest. All of them are saved before each
answer, so that a sandbox would become slower with each server that it ever had."""
_FORGET_EVERY = 20
"""Deletions of servers."""


class ActionFailed(Exception):  # noqa: N818  # an outcome of the emulated cloud, not an error of ours
    """The action ends in status `error` with this code."""

    def __init__(self, code: str) -> None:
        super().__init__(code)
        self.code = code


@dataclass(frozen=True)
class Run:
    """One execution of an action."""

    actions: "Actions"
    project: Project
    action: Record

    @property
    def cloud(self) -> Cloud:
        """The account."""
        return self.project.cloud

    @property
    def args(self) -> Record:
        """What the request gave, beyond the resources."""
        args: Record = self.action["_args"]
        return args

    def resource(self, kind: str) -> int:
        """Return the id of the resource of that type."""
        return next(int(resource["id"]) for resource in self.action["resources"] if resource["type"] == kind)

    def server(self) -> Record:
        """Return the server that the action is about."""
        return self.project.get("server", self.resource("server"))

    async def pause(self) -> None:
        """Let what is left of the action's length pass, then fail if it was told to."""
        elapsed = (self.cloud.clock.now() - datetime.fromisoformat(self.action["_started"])).total_seconds()
        await asyncio.sleep(max(0.0, self.action["_seconds"] - elapsed))
        if code := self.action["_fail"]:
            raise ActionFailed(code)


Effect = Callable[[Run], Awaitable[None]]


class Actions:
    """Starts actions, runs them in the background, and answers what became of them."""

    def __init__(self, cloud: Cloud, effects: Mapping[str, Effect]) -> None:
        self.cloud = cloud
        self._effects = effects
        self._tasks: dict[int, asyncio.Task[None]] = {}
        self._deletions = 0

    def begin(
        self,
        project: Project,
        command: str,
        resources: list[tuple[str, int]],
        *,
        args: Record | None = None,
        parent: Record | None = None,
        seconds: float | None = None,
    ) -> Record:
        """Start an action and return it; with `parent` it waits for that one, and fails with it."""
        now = self.cloud.clock.now()
        action: Record = {
            "id": self.cloud.new_id("action"),
            "command": command,
            "status": "running",
            "progress": 0,
            "started": self.cloud.now_text(),
            "finished": None,
            "resources": [{"id": number, "type": kind} for kind, number in resources],
            "error": None,
            "_args": args or {},
            "_started": now.isoformat(),
            "_seconds": self.cloud.clock.seconds(command) if seconds is None else seconds,
            "_fail": self._next_failure(command),
        }
        if parent:
            action["parent_id"] = parent["id"]
        project.add("action", action)
        self._spawn(project, action)
        return action

    def resume(self) -> None:
        """Run everything that the state shows as running."""
        for project in self.cloud.projects():
            for action in project.all("action"):
                if action["status"] == "running":
                    self._spawn(project, action)

    async def stop(self) -> None:
        """Stop running; the state keeps showing the actions as running."""
        tasks = list(self._tasks.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def cancel(self, run: Run, *commands: str) -> None:
        """End the other running actions of the run's server (all, or those commands) as failed."""
        server_id = run.resource("server")
        ended = [
            action
            for action in self.running(run.project, "server", server_id)
            if action["id"] != run.action["id"] and (not commands or action["command"] in commands)
        ]
        tasks = [self._tasks[action["id"]] for action in ended if action["id"] in self._tasks]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        for action in ended:
            if action["status"] == "running":
                self._finish(run.project, action, "action_failed")

    def running(self, project: Project, kind: str, number: int) -> list[Record]:
        """Return a resource's running actions, hidden ones included."""
        resource = {"id": number, "type": kind}
        # Not among all actions: each server of a list asks, and in a project of a thousand there are ten thousand.
        under_way = [action for number in self._tasks if (action := project.find("action", number))]
        return [action for action in under_way if action["status"] == "running" and resource in action["resources"]]

    def is_locked(self, project: Project, kind: str, number: int) -> bool:
        """Whether a running action keeps others off the resource."""
        return any(
            action["command"] not in _NOT_LOCKING and not action["command"].startswith("_")
            for action in self.running(project, kind, number)
        )

    def check_unlocked(self, project: Project, kind: str, number: int) -> None:
        """Raise a 423 while the resource is locked."""
        if self.is_locked(project, kind, number):
            raise locked(kind)

    def _next_failure(self, command: str) -> str | None:
        settings: dict[str, Any] = self.cloud.knob("action_error")
        setting = settings.get(command)
        if setting is None:
            return None
        code, times = (setting, 1) if isinstance(setting, str) else (setting["code"], setting.get("times", 1))
        left = {name: value for name, value in settings.items() if name != command}
        if times > 1:
            left[command] = {"code": code, "times": times - 1}
        self.cloud.set_knobs({"action_error": left})
        return str(code)

    def _spawn(self, project: Project, action: Record) -> None:
        task = asyncio.get_running_loop().create_task(self._run(project, action))
        self._tasks[action["id"]] = task
        task.add_done_callback(lambda _: self._tasks.pop(action["id"], None))

    async def _run(self, project: Project, action: Record) -> None:
        error: str | None = None
        try:
            await self._wait_for_parent(project, action)
            run = Run(self, project, action)
            effect = self._effects.get(action["command"])
            await (effect(run) if effect else run.pause())
        except ActionFailed as failed:
            error = failed.code
        except Exception:  # whatever a machine raises is the action's outcome, as the API would show it
            log.exception("action %s failed", action["command"])
            error = "action_failed"
        self._finish(project, action, error)

    async def _wait_for_parent(self, project: Project, action: Record) -> None:
        parent_id = action.get("parent_id")
        if parent_id is None:
            return
        if parent_id in self._tasks:
            await asyncio.wait([self._tasks[parent_id]])
        if project.get("action", parent_id)["status"] != "success":
            raise ActionFailed("action_failed")
        if "_after_parent" not in action:
            action["_after_parent"] = True
            action["_started"] = self.cloud.clock.now().isoformat()

    def _finish(self, project: Project, action: Record, error: str | None) -> None:
        action["status"] = "error" if error else "success"
        action["progress"] = 100
        action["finished"] = self.cloud.now_text()
        action["error"] = {"code": error, "message": f"Action failed: {error}"} if error else None
        if action["command"].startswith("_"):
            project.remove("action", action["id"])
        elif action["command"] == "delete_server":
            self._deletions += 1
            if self._deletions % _FORGET_EVERY == 0:
                _forget_old(project)
        self.cloud.changed()


def _forget_old(project: Project) -> None:
    gone = [
        action["id"]
        for action in project.all("action")
        if action["status"] != "running" and not any(project.find(of["type"], of["id"]) for of in action["resources"])
    ]
    for number in gone[:-KEPT]:
        project.remove("action", number)


def render_action(action: Record) -> Record:
    """Return an action as the API shows it."""
    return {name: value for name, value in action.items() if not name.startswith("_")}


def is_visible(action: Record) -> bool:
    """Whether the API shows the action at all; the rest is bookkeeping of ours."""
    return not action["command"].startswith("_")
