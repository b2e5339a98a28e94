"""The destroy of the last instance beside the order of another: key and firewall go, and are made again."""

from typing import Any

import pytest

from clawdet_cli.adapters.hetzner import Hetzner
from clawdet_cli.stages import firewall
from clawdet_cli.stages import provision as stages
from clawdet_cli.stages.user_data import user_data
from tests.e2e.operator import Operator


@pytest.mark.parametrize("kinds", [["firewalls"], ["ssh_keys"], ["firewalls", "ssh_keys"]], ids="-".join)
@pytest.mark.parametrize("users", [["alice"], ["alice", "bob"]], ids=["one", "two"])
def test_an_order_whose_key_or_firewall_is_gone_meanwhile_is_placed_again(
    kinds: list[str], users: list[str], operator: Operator, monkeypatch: pytest.MonkeyPatch
) -> None:
    deleted: list[Any] = []

    def and_another_destroys(*arguments: Any) -> Any:
        """Come after both were looked up, and before the order."""
        if not deleted:
            for kind in kinds:
                for thing in operator.cloud("hetzner", f"/{kind}")[kind]:
                    operator.cloud("hetzner", f"/{kind}/{thing['id']}", "DELETE")
                    deleted.append(thing)
        return user_data(*arguments)

    monkeypatch.setattr(stages, "user_data", and_another_destroys)
    said = operator.clawdet("provision", *users, "--yes", "--sandbox", "--parallel", "1")
    assert said.code == 0, said.err
    assert len(deleted) == len(kinds)
    assert "was deleted meanwhile" in said.err
    assert operator.holdings() == (len(users),) * 3
    assert all(server["public_net"]["firewalls"] for server in operator.servers())


def test_a_firewall_that_another_order_uses_meanwhile_is_left_without_a_wait(
    operator: Operator, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert operator.clawdet("provision", "alice", "--yes", "--sandbox").code == 0
    delete = Hetzner.delete_firewall

    def and_another_is_ordered(hetzner: Hetzner, number: int) -> None:
        walls = [{"firewall": wall["id"]} for wall in operator.cloud("hetzner", "/firewalls")["firewalls"]]
        order = {"name": "clawdet-bob", "server_type": "cx23", "image": "ubuntu-24.04", "firewalls": walls}
        labels = {"managed-by": "clawdet", "user": "bob", "run": "z" * 12}
        operator.cloud("hetzner", "/servers", "POST", {**order, "labels": labels})
        delete(hetzner, number)

    monkeypatch.setattr(Hetzner, "delete_firewall", and_another_is_ordered)
    monkeypatch.setattr(firewall, "RELEASE_SECONDS", 600.0)
    said = operator.clawdet("destroy", "alice", "--yes", "--sandbox", "--json", "--timeout", "60")
    assert said.code == 0, said.err
    assert "firewall clawdet in the Hetzner project" not in said.document["destroyed"]["removed"]
    assert "still in use" not in said.err
    operator.cloud("hetzner", f"/servers/{operator.servers()[0]['id']}", "DELETE")
