"""The host key that travelled in user_data is replaced by one that the VPS made, and nobody else is ever believed."""

import json
from typing import Any

import pytest

from clawdet_cli.adapters import ssh
from clawdet_cli.adapters.ssh_keys import make_host_key, pin_label
from tests.e2e.operator import Operator
from tests.e2e.test_bad_input import error_of, provision
from tests.e2e.test_recovery import lose_the_database, recorded, rewrite
from tests.kill.invariants import not_complete, rows


@pytest.fixture
def alice(operator: Operator) -> Operator:
    said = provision(operator)
    assert said.code == 0, said.err
    return operator


def labels(operator: Operator) -> dict[str, str]:
    (server,) = operator.servers()
    return dict(server["labels"])


def relabel(operator: Operator, **changes: str | None) -> None:
    (server,) = operator.servers()
    new = {name: value for name, value in {**server["labels"], **changes}.items() if value is not None}
    operator.cloud("hetzner", f"/servers/{server['id']}", "PUT", {"labels": new})


def sent_pin(operator: Operator) -> str:
    """Give the pin of the key that travelled in user_data, as the order was labelled."""
    orders = "SELECT data FROM effects WHERE kind = 'create_server' ORDER BY id"
    order = json.loads(rows(operator, orders)[-1]["data"])
    return str(order["labels"]["host-key"])


def test_another_key_than_the_one_that_was_sent_is_pinned_and_named(alice: Operator) -> None:
    pinned = pin_label(recorded(alice, "host_key"))
    assert pinned != sent_pin(alice)
    assert labels(alice)["host-key"] == pinned
    assert recorded(alice, "next_host_key") is None


def test_it_is_replaced_once(alice: Operator) -> None:
    before = recorded(alice, "host_key")
    rewrite(alice, "status = 'failed'")
    assert provision(alice).code == 0
    assert recorded(alice, "host_key") == before
    assert not_complete(alice, "alice") == []


def test_one_that_shows_up_later_is_refused_with_the_reason(alice: Operator) -> None:
    alice.control("hetzner", "PUT", "servers/knobs", {"ssh_wrong_host_key": True})
    for command in (["token", "alice"], ["provision", "alice"], ["verify", "alice"]):
        said = alice.clawdet(*command, "--sandbox")
        assert said.code == 6, said.err
        assert "has another host key than the one pinned for this server: nothing was sent to it" in said.out + said.err
    assert recorded(alice, "host_key")


def test_a_key_that_was_only_announced_is_accepted_beside_the_pinned_one(alice: Operator) -> None:
    rewrite(alice, f"next_host_key = '{make_host_key().public}'")
    assert alice.clawdet("token", "alice", "--sandbox").code == 0
    rewrite(alice, "status = 'failed'")
    assert provision(alice).code == 0
    assert not_complete(alice, "alice") == []


def test_one_update_of_the_label_names_the_new_key_before_it_takes_over(operator: Operator) -> None:
    operator.control("hetzner", "DELETE", "requests")
    assert provision(operator).code == 0
    updates = [one for one in operator.control("hetzner", "GET", "requests")["requests"] if one["method"] == "PUT"]
    assert len(updates) == 1
    kinds = [row["kind"] for row in rows(operator, "SELECT kind FROM effects ORDER BY id")]
    assert kinds.index("label_server") + 1 == kinds.index("switch_host_key")


def test_a_database_that_is_lost_between_label_and_switch_trusts_nobody_and_says_so(alice: Operator) -> None:
    # As between the two: the label names a key that the VPS does not show yet.
    relabel(alice, **{"host-key": pin_label(make_host_key().public)})
    lose_the_database(alice)
    assert alice.clawdet("state", "rebuild", "--sandbox").code == 4
    rebuilt = alice.clawdet("state", "rebuild", "--sandbox", "--of-another-database")
    assert rebuilt.code == 0, rebuilt.err
    assert "shows another host key than it was ordered with: nothing on it is believed" in rebuilt.err
    assert recorded(alice, "host_key") is None
    error = error_of(provision(alice), 4, "state")
    assert "was ordered with a host key that is not recorded here, so it cannot be trusted" in error["what"]
    assert error["next_steps"][0].startswith("clawdet destroy alice")


def test_a_database_that_is_lost_after_the_switch_comes_back_with_the_new_key(alice: Operator) -> None:
    pinned = recorded(alice, "host_key")
    lose_the_database(alice)
    rebuilt = alice.clawdet("state", "rebuild", "--sandbox")
    assert rebuilt.code == 0, rebuilt.err
    assert recorded(alice, "host_key") == pinned
    assert provision(alice).code == 0
    assert not_complete(alice, "alice") == []


def test_a_label_that_names_the_key_that_is_about_to_take_over_is_enough(alice: Operator) -> None:
    old = make_host_key().public
    rewrite(alice, f"next_host_key = host_key, host_key = '{old}', status = 'failed'")
    assert provision(alice).code == 0
    assert recorded(alice, "host_key") != old
    assert not_complete(alice, "alice") == []


def test_a_server_whose_label_names_neither_is_not_trusted(alice: Operator) -> None:
    relabel(alice, **{"host-key": pin_label(make_host_key().public)})
    rewrite(alice, "status = 'failed'")
    error = error_of(provision(alice), 4, "state")
    assert "was ordered with a host key that is not recorded here" in error["what"]


@pytest.mark.parametrize(
    "answer", ["current=ssh-ed25519 AAAA\nnext=\n", "current={}\nnext=ssh-ed25519 AAAA; reboot\n", "", "\x1b[2J"]
)
def test_a_vps_that_lies_about_its_keys_is_not_followed(
    answer: str, operator: Operator, monkeypatch: pytest.MonkeyPatch
) -> None:
    honest = ssh.Ssh.run

    def lying(self: ssh.Ssh, command: str, **options: Any) -> ssh.CommandResult:
        if command.endswith(" host-key"):
            return ssh.CommandResult(0, answer.format(self.host_key), "")
        return honest(self, command, **options)

    monkeypatch.setattr(ssh.Ssh, "run", lying)
    error = error_of(provision(operator), 6, "guest")
    assert error["what"] == "The VPS gives no readable answer about its host key."
    assert recorded(operator, "next_host_key") is None
