"""The switch of the host key, on a VPS whose sshd does not restart at first."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any, cast

import pytest

from clawdet_cli.adapters import ssh
from clawdet_cli.adapters.ssh import CommandResult
from clawdet_cli.errors import GuestError
from clawdet_cli.model import Deadline, Instance, Status
from clawdet_cli.stages import host_key
from clawdet_cli.stages.runner import Run

OLD, NEW = (ssh.make_host_key().public for _ in range(2))


class Vps:
    """What of a run and its VPS the stage uses; `host_key` is the one that sshd has read."""

    def __init__(self) -> None:
        self.instance = Instance(
            "alice", "example.com", "abcdef012345", Status.INSTALLING, False, "", "", host_key=OLD, ipv4="192.0.2.1"
        )
        self.deadline = Deadline.after(5)
        self.on_disk = self.host_key = OLD
        self.restarts = False

    def ssh(self) -> "Vps":
        return self

    def hang_up(self) -> None:
        pass

    def record(self, **changes: Any) -> None:
        self.instance = replace(self.instance, **changes)

    @contextmanager
    def effect(self, *_: Any, **__: Any) -> Iterator[None]:
        yield

    def remote(self, command: str, **_: Any) -> CommandResult:
        if "switch-host-key" not in command:
            following = NEW if self.on_disk == OLD else ""
            return CommandResult(0, f"current={self.on_disk}\nnext={following}\n", "")
        self.on_disk = NEW
        if not self.restarts:
            return CommandResult(1, "", "sshd cannot be started with its new key")
        self.host_key = NEW
        return CommandResult(0, "", "")


def test_an_sshd_that_could_not_be_restarted_is_restarted_by_the_next_run(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(host_key, "_label", lambda *_: None)
    vps = Vps()
    with pytest.raises(GuestError, match="could not change its host key"):
        host_key.replace_host_key(cast("Run", vps))
    assert vps.instance.host_keys == (OLD, NEW)
    vps.restarts = True
    host_key.replace_host_key(cast("Run", vps))
    assert (vps.host_key, vps.instance.host_key, vps.instance.next_host_key) == (NEW, NEW, None)
