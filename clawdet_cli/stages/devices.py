"""Who may use a gateway: OpenClaw lets a new browser in only after its owner has said so on the machine itself."""

from clawdet_cli import bootstrap
from clawdet_cli.errors import GuestError, StateError
from clawdet_cli.model import Device, Devices
from clawdet_cli.secret import excerpt
from clawdet_cli.stages.runner import Run

ANSWER_SECONDS = 60.0
"""OpenClaw's command line takes 2 s where it works, and 16 s to say that its gateway does not answer."""


def devices(run: Run) -> Devices:
    """Ask the VPS who wants to be let in, and who is. Raises GuestError."""
    return bootstrap.parse_devices(_on_vps(run, bootstrap.LIST_DEVICES))


def only_request(run: Run) -> str | None:
    """Give the request that waits, if any does. Raises StateError for several: it is not ours to choose."""
    waiting = [device.request for device in devices(run).pending if device.request]
    if len(waiting) > 1:
        user = run.instance.user
        raise StateError(
            f"{len(waiting)} devices wait for {user}: --yes lets in one that is alone.",
            next_steps=[f"clawdet approve {user} {request}" for request in waiting[:5]],
        )
    return waiting[0] if waiting else None


def let_in(run: Run, request: str) -> Device:
    """Approve one request, and give who was let in. Raises StateError for one that waits no more, and GuestError."""
    with run.effect("approve_device", request):
        try:
            answer = _on_vps(run, bootstrap.approve_device(request))
        except GuestError:
            # OpenClaw has one exit code for all that can go wrong.
            if any(device.request == request for device in devices(run).pending):
                raise
            raise StateError(
                f"No device waits with the request {request}: it was let in already, or its five minutes are over.",
                next_steps=[f"clawdet approve {run.instance.user}    (lists who waits now)"],
            ) from None
    return bootstrap.parse_approved(answer)


def _on_vps(run: Run, command: str) -> str:
    answer = run.ssh(run.deadline.within(30)).run(command, timeout=run.deadline.within(ANSWER_SECONDS).left())
    if answer.code != 0:
        raise GuestError(
            f"OpenClaw on the VPS of {run.instance.user} does not answer about its devices.",
            next_steps=[f"clawdet verify {run.instance.user}"],
            details=answer.complaint or [excerpt(answer.out.strip(), 300)],
        )
    return answer.out
