import os
import sys

import pytest

from clawdet_cli.sandbox import tools
from clawdet_cli.sandbox.errors import SandboxError


@pytest.fixture
def root_on_linux(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "platform", "linux")
    monkeypatch.setattr(os, "geteuid", lambda: 0)


@pytest.fixture
def no_programs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nowhere")


@pytest.mark.usefixtures("root_on_linux", "no_programs")
def test_missing_programs_are_named_with_the_line_that_installs_them() -> None:
    with pytest.raises(
        SandboxError, match="e2fsprogs, iproute2, mmdebstrap, mount, npm, slirp4netns, systemd-container"
    ) as refused:
        tools.servers_possible("real", print, install=False)
    assert "apt-get install e2fsprogs iproute2 mmdebstrap" in refused.value.next_step


@pytest.mark.usefixtures("root_on_linux", "no_programs")
def test_auto_asks_for_what_could_be_installed_rather_than_simulate() -> None:
    with pytest.raises(SandboxError, match="slirp4netns") as refused:
        tools.servers_possible("auto", print, install=False)
    assert "--yes" in refused.value.next_step
    assert "--servers simulated" in refused.value.next_step


def test_an_ordinary_user_gets_simulated_servers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    said: list[str] = []
    assert tools.servers_possible("auto", said.append, install=True) == "simulated"
    assert said
    with pytest.raises(SandboxError):
        tools.servers_possible("real", said.append, install=True)


def test_another_system_than_linux_gets_simulated_servers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "platform", "darwin")
    assert tools.servers_possible("auto", lambda _: None, install=True) == "simulated"


def test_simulated_servers_need_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    said: list[str] = []
    assert tools.servers_possible("simulated", said.append, install=False) == "simulated"
    assert said == []
