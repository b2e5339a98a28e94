"""Two operators in one project: neither locks the other out by mistake."""

from collections.abc import Callable
from dataclasses import replace

import pytest

from clawdet_cli.adapters import cloudflare
from clawdet_cli.errors import ForeignNetworksError
from clawdet_cli.stages import firewall
from clawdet_cli.stages.runner import Run
from tests.contract.test_firewall_release import make_run, quick, told

__all__ = ["make_run", "quick", "told"]

OURS, OURS_TOO, THEIRS = "192.0.2.0/25", "192.0.2.128/25", "198.51.100.0/24"


@pytest.fixture
def run(make_run: Callable[[float], Run], monkeypatch: pytest.MonkeyPatch) -> Run:
    monkeypatch.setattr(cloudflare.Cloudflare, "edge_ranges", lambda _: frozenset({"203.0.113.0/24"}))
    return make_run(30)


def let_in(run: Run, *networks: str, replacing: bool = False) -> frozenset[str]:
    """Bring the firewall up to date with these networks, and return those that it then lets in."""
    run.settings = replace(run.settings, ssh_from=frozenset(networks), replace_ssh_from=replacing)
    firewall.project_firewall(run)
    found = run.clouds.hetzner.firewall(firewall.NAME)
    assert found is not None
    return firewall.ssh_sources(found)


def somebody_lets_in(run: Run, *networks: str) -> None:
    found = run.clouds.hetzner.firewall(firewall.NAME)
    rules = firewall.rules_for({"203.0.113.0/24"}, networks)
    if found is None:
        run.clouds.hetzner.create_firewall(firewall.NAME, rules, firewall.LABELS)
    else:
        run.clouds.hetzner.set_firewall_rules(found, rules)


def test_what_this_database_has_let_in_may_go(run: Run) -> None:
    assert let_in(run) == firewall.EVERYWHERE
    assert let_in(run, OURS) == {OURS}
    assert let_in(run, OURS_TOO) == {OURS_TOO}


@pytest.mark.parametrize("theirs", [(THEIRS,), (OURS, THEIRS), tuple(sorted(firewall.EVERYWHERE))], ids=str)
def test_what_somebody_else_has_let_in_stays_until_that_is_said(theirs: tuple[str, ...], run: Run) -> None:
    somebody_lets_in(run, *theirs)
    with pytest.raises(ForeignNetworksError) as caught:
        let_in(run, OURS)
    assert caught.value.exit_code == 4
    found = run.clouds.hetzner.firewall(firewall.NAME)
    assert found is not None
    assert firewall.ssh_sources(found) == set(theirs)
    assert any("--replace-ssh-from" in step for step in caught.value.next_steps)
    assert any(",".join(sorted({OURS, *theirs})) in step for step in caught.value.next_steps)
    assert let_in(run, OURS, replacing=True) == {OURS}
    assert let_in(run, OURS) == {OURS}


@pytest.mark.parametrize(
    "wanted", [("198.51.100.0/23",), tuple(sorted(firewall.EVERYWHERE)), (OURS, THEIRS), ()], ids=str
)
def test_nobody_is_asked_where_nobody_is_locked_out(wanted: tuple[str, ...], run: Run) -> None:
    somebody_lets_in(run, THEIRS)
    assert let_in(run, *wanted) == set(wanted or (THEIRS,))


def test_networks_of_the_other_kind_cover_nothing(run: Run) -> None:
    somebody_lets_in(run, "2001:db8::/32")
    with pytest.raises(ForeignNetworksError, match="2001:db8::/32"):
        let_in(run, "0.0.0.0/0")
