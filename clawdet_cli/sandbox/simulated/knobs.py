"""What can go wrong on simulated servers, on demand."""

from collections.abc import Callable, Mapping
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from clawdet_cli.sandbox.request_body import read_object

KNOBS: dict[str, Any] = {
    "ssh_never": False,  # port 22 stays closed
    "ssh_wrong_host_key": False,  # another host key than the one in user_data
    "fail_step": {},  # {phase: step}, or {phase: {"step": ..., "times": n, "reason": ...}}; a plain step fails once
    "says": {},  # {command or verb: text}: what it answers in place of the truth; {end} is how far a log may be read
    "drop_connection_in_phase": {},  # {phase: n}: the SSH connections break when it is followed, n times
    "hold_step": {},  # {phase: step}: it stays at this step until a restart, the last of which ends the knob too
    "reboot_after_patches": False,  # the patches of a server of the pool want a restart
    "restart_in_phase": {},  # {phase: n}: the server restarts when it is followed at work, n times
}
PATH = "/_sandbox/servers/knobs"


class Knobs:
    """The settings, kept in a dict of plain values, and for all simulated servers alike."""

    def __init__(self, state: dict[str, Any], on_change: Callable[[], None]) -> None:
        self._state = state
        self._on_change = on_change

    def all(self) -> dict[str, Any]:
        """Return all settings."""
        return {**KNOBS, **self._state}

    def set(self, settings: Mapping[str, Any]) -> None:
        """Turn knobs; raise ValueError for one that does not exist or a value of another kind."""
        for name, value in settings.items():
            if name not in KNOBS:
                raise ValueError(f"unknown knob {name!r}; there are {', '.join(KNOBS)}")
            if type(value) is not type(KNOBS[name]):
                raise ValueError(f"{name} is a {type(KNOBS[name]).__name__}")
        self._state.update(settings)
        self._on_change()

    def reset(self) -> None:
        """Give every knob its default."""
        self._state.clear()
        self._on_change()

    def takes_failure(self, phase: str, step: str) -> str:
        """Why a step is to fail now, which counts as one of its times; empty when it is not to."""
        wanted = self.all()["fail_step"].get(phase)
        entry: dict[str, Any] = {"step": wanted, "times": 1} if isinstance(wanted, str) else wanted
        if not entry or entry["step"] != step:
            return ""
        left = entry.get("times", 1) - 1
        self._put("fail_step", phase, {**entry, "times": left} if left > 0 else None)
        return str(entry.get("reason", "a failure that was asked for"))

    def takes_drop(self, phase: str) -> bool:
        """Whether the connections are to break now; that counts as one of its times."""
        return self._takes_one("drop_connection_in_phase", phase)

    def takes_restart(self, phase: str) -> bool:
        """Whether the server is to restart now; that counts as one of its times, and the last one ends a hold."""
        if not self._takes_one("restart_in_phase", phase):
            return False
        if phase not in self.all()["restart_in_phase"]:
            self._put("hold_step", phase, None)
        return True

    def holds(self, phase: str, step: str) -> bool:
        """Whether a phase is to stay at a step."""
        return bool(self.all()["hold_step"].get(phase) == step)

    def _takes_one(self, knob: str, phase: str) -> bool:
        times = self.all()[knob].get(phase, 0)
        if times <= 0:
            return False
        self._put(knob, phase, times - 1 or None)
        return True

    def _put(self, knob: str, phase: str, value: Any) -> None:
        settings = {**self.all()[knob], phase: value}
        self.set({knob: {name: setting for name, setting in settings.items() if setting is not None}})

    def routes(self) -> list[Route]:
        """Return the control route: GET all, PUT some, DELETE for the defaults."""

        async def knobs(request: Request) -> Response:
            if request.method == "DELETE":
                self.reset()
            if request.method == "PUT":
                try:
                    self.set(await read_object(request))
                except ValueError as exc:
                    return JSONResponse({"error": str(exc)}, 422)
            return JSONResponse(self.all())

        return [Route(PATH, knobs, methods=["GET", "PUT", "DELETE"])]
