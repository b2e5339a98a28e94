"""The last server's firewall, which Hetzner goes on counting as used for a while."""

from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest

from clawdet_cli.adapters import connect
from clawdet_cli.adapters import hetzner as adapter
from clawdet_cli.errors import WaitError
from clawdet_cli.model import Deadline, Event, Instance, ServerOrder, Status, now_text
from clawdet_cli.secret import Secret
from clawdet_cli.settings import Endpoints, load
from clawdet_cli.stages import firewall
from clawdet_cli.stages.runner import Run
from clawdet_cli.state import State
from tests.contract.hetzner_emulator import FOREVER, TOKEN, Emulator, public_key

INSTANCE = Instance(
    "alice", "example.com", "abcdef012345", Status.PENDING, sandbox=False, created_at=now_text(), updated_at=now_text()
)


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (adapter, firewall):
        monkeypatch.setattr(module, "POLL_SECONDS", 0.02)


@pytest.fixture
def told() -> list[Event]:
    return []


@pytest.fixture
def make_run(tmp_path: Path, hetzner: Emulator, told: list[Event]) -> Iterator[Callable[[float], Run]]:
    environment = {"CLAWDET_CONFIG": str(tmp_path / "none"), "HCLOUD_TOKEN": TOKEN, "CLOUDFLARE_API_TOKEN": "not-asked"}
    settings = load({"state": tmp_path}, environment, default_openclaw="2026.9.6")
    settings = replace(settings, endpoints=Endpoints(hetzner_url=f"{hetzner.url}/v1"))
    with closing(State(tmp_path / "clawdet.db")) as state:
        state.add(INSTANCE)
        clouds = []

        def make(seconds: float) -> Run:
            deadline = Deadline.after(seconds)
            clouds.append(connect(settings, deadline))
            return Run(INSTANCE, settings, clouds=clouds[-1], state=state, watch=told.append, deadline=deadline)

        yield make
        for one in clouds:
            one.close()


def leave_the_firewall(run: Run, name: str = "clawdet-alice") -> None:
    """Make the project's firewall with one server behind it, and delete that."""
    hetzner = run.clouds.hetzner
    wall = hetzner.create_firewall(firewall.NAME, (), firewall.LABELS)
    key = hetzner.add_ssh_key(public_key(), "key", {})
    order = ServerOrder(
        name, "cpx22", "nbg1", "ubuntu-24.04", key.id, Secret("#cloud-config\n"), INSTANCE.labels, (wall.id,)
    )
    hetzner.delete_server(hetzner.create_server(order).id)


@pytest.mark.parametrize("lagging", ["firewall_release_seconds", "applied_to_seconds"])
def test_it_is_deleted_once_it_is_released(lagging: str, make_run: Callable[[float], Run], hetzner: Emulator) -> None:
    run = make_run(30)
    hetzner.knobs(**{lagging: 0.3})
    leave_the_firewall(run)
    firewall.delete_firewall(run)
    assert run.clouds.hetzner.firewall(firewall.NAME) is None
    assert run.removed == ["firewall clawdet in the Hetzner project"]
    assert run.open_effects == []


def test_it_goes_as_soon_as_it_can_although_it_lists_the_deleted_server(
    make_run: Callable[[float], Run], hetzner: Emulator
) -> None:
    run = make_run(30)
    hetzner.knobs(applied_to_seconds=FOREVER)
    leave_the_firewall(run)
    firewall.delete_firewall(run)
    assert run.clouds.hetzner.firewall(firewall.NAME) is None


def test_it_is_left_and_told_of_when_it_is_not_released_in_time(
    make_run: Callable[[float], Run], hetzner: Emulator, told: list[Event], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(firewall, "RELEASE_SECONDS", 0.2)
    run = make_run(30)
    hetzner.knobs(firewall_release_seconds=FOREVER)
    leave_the_firewall(run)
    firewall.delete_firewall(run)
    assert run.clouds.hetzner.firewall(firewall.NAME) is not None
    assert run.removed == []
    (note,) = [event.text for event in told if "is still in use" in event.text]
    assert "It costs nothing" in note
    assert "clawdet reconcile" in note
    assert run.open_effects == []


def test_a_deletion_without_an_answer_is_not_taken_for_one_that_was_refused(
    make_run: Callable[[float], Run], hetzner: Emulator
) -> None:
    run = make_run(3)
    leave_the_firewall(run)
    hetzner.faults.add({"kind": "drop_before", "method": "DELETE", "path": "/v1/firewalls/.*", "times": None})
    with pytest.raises(WaitError):
        firewall.delete_firewall(run)
