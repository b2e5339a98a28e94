"""The product's Hetzner adapter against the emulated API."""

import threading
from collections.abc import Callable, Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from hcloud.servers import BoundServer, ServersClient

from clawdet_cli.adapters import hetzner as adapter
from clawdet_cli.adapters import retry
from clawdet_cli.adapters.hetzner import Hetzner
from clawdet_cli.errors import CloudError, ConfigError, InUseError, SoldOutError, StateError, WaitError
from clawdet_cli.model import Deadline, FirewallRule, ServerOrder
from clawdet_cli.secret import Secret
from tests.contract.hetzner_emulator import FOREVER, READ_ONLY, TOKEN, Emulator, eventually, public_key

LABELS = {"managed-by": "clawdet", "user": "alice", "run": "abcdefghijkl"}

Connect = Callable[..., Hetzner]


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(adapter, "POLL_SECONDS", 0.02)


@pytest.fixture
def connect(hetzner: Emulator) -> Iterator[Connect]:
    made: list[Hetzner] = []

    def start(token: str = TOKEN, seconds: float = 15, **options: Any) -> Hetzner:
        made.append(Hetzner(f"{hetzner.url}/v1", Secret(token), Deadline.after(seconds), **options))
        return made[-1]

    yield start
    for client in made:
        client.close()


@pytest.fixture
def cloud(connect: Connect) -> Hetzner:
    return connect()


def an_order(cloud: Hetzner, **changes: Any) -> ServerOrder:
    fields: dict[str, Any] = {
        "name": "clawdet-alice",
        "server_type": "cpx22",
        "location": "nbg1",
        "image": "ubuntu-24.04",
        "user_data": Secret("#cloud-config\n"),
        "labels": LABELS,
    }
    if "ssh_key_id" not in changes:
        fields["ssh_key_id"] = cloud.add_ssh_key(public_key(), f"clawdet-{len(changes)}", LABELS).id
    return ServerOrder(**{**fields, **changes})


def calls(emulator: Emulator, method: str, path: str) -> list[Any]:
    return [seen["status"] for seen in emulator.faults.requests if (seen["method"], seen["path"]) == (method, path)]


class TestToken:
    def test_a_good_one_passes(self, cloud: Hetzner) -> None:
        cloud.check()

    def test_an_unknown_one_is_refused_with_the_way_to_get_one(self, connect: Connect) -> None:
        with pytest.raises(ConfigError, match="HCLOUD_TOKEN") as caught:
            connect("no-such-token").check()
        assert "Read & Write" in caught.value.next_steps[0]
        assert any("unauthorized" in line for line in caught.value.details)
        assert "no-such-token" not in repr(caught.value.details) + str(caught.value)

    def test_one_that_may_only_read_is_told_at_the_first_change(self, connect: Connect) -> None:
        reader = connect(READ_ONLY)
        reader.check()
        with pytest.raises(ConfigError, match="may only read"):
            reader.add_ssh_key(public_key(), "clawdet-key", LABELS)

    def test_neither_netrc_nor_a_proxy_comes_between(
        self, cloud: Hetzner, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
    ) -> None:
        netrc = tmp_path / "netrc"
        netrc.write_text("machine 127.0.0.1 login somebody password else\n")
        netrc.chmod(0o600)
        monkeypatch.setenv("NETRC", str(netrc))
        monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
        cloud.check()


def test_the_clock_of_the_cloud_is_learned_from_an_answer(cloud: Hetzner) -> None:
    cloud.check()
    assert cloud.clock.ahead is not None
    assert abs(cloud.clock.ahead) < 5


class TestOffers:
    def test_come_in_the_order_asked_for_with_the_address_in_the_price(self, cloud: Hetzner) -> None:
        offers = cloud.offers(["cpx22", "cx23"], ["nbg1", "hel1"])
        assert [(o.server_type, o.location) for o in offers] == [
            ("cpx22", "nbg1"),
            ("cpx22", "hel1"),
            ("cx23", "nbg1"),
            ("cx23", "hel1"),
        ]
        first = offers[0]
        assert (first.architecture, first.cores, first.memory_gb, first.disk_gb) == ("x86", 2, 4.0, 80)
        assert first.monthly == Decimal("19.99")

    def test_are_in_the_currency_of_the_account(self, cloud: Hetzner, hetzner: Emulator) -> None:
        hetzner.knobs(currency="USD")
        (offer,) = cloud.offers(["cpx22"], ["nbg1"])
        assert offer.monthly.shown == "USD 19.99"
        assert cloud.prices()["cpx22", "nbg1"].shown == "USD 19.99"

    def test_leave_out_what_is_no_longer_sold(self, cloud: Hetzner) -> None:
        assert cloud.offers(["cx22"], ["nbg1"]) == []

    def test_name_what_exists_when_a_name_is_unknown(self, cloud: Hetzner) -> None:
        with pytest.raises(ConfigError, match="'cpx99'") as caught:
            cloud.offers(["cpx99"], ["nbg1"])
        assert "cpx22" in caught.value.details[0]
        with pytest.raises(ConfigError, match="'moon'") as caught:
            cloud.offers(["cpx22"], ["moon"])
        assert "nbg1" in caught.value.details[0]

    def test_an_image_must_exist_for_the_architecture(self, cloud: Hetzner) -> None:
        assert cloud.image_for("ubuntu-24.04", "x86") == "ubuntu-24.04"
        with pytest.raises(ConfigError, match="image for arm named 'windows'") as caught:
            cloud.image_for("windows", "arm")
        assert "ubuntu-24.04" in caught.value.details[0]


class TestSshKeys:
    def test_a_key_is_found_by_its_fingerprint_whatever_its_name(self, cloud: Hetzner) -> None:
        key = public_key()
        assert cloud.ssh_key(key) is None
        added = cloud.add_ssh_key(key, "clawdet-key", LABELS)
        assert (added.name, added.labels) == ("clawdet-key", LABELS)
        assert cloud.ssh_key(f"{key} a comment") == added

    def test_a_lost_answer_leaves_one_key(self, cloud: Hetzner, hetzner: Emulator) -> None:
        hetzner.faults.add({"kind": "drop_after", "method": "POST", "path": "/v1/ssh_keys"})
        key = public_key()
        assert cloud.add_ssh_key(key, "clawdet-key", LABELS) == cloud.ssh_key(key)
        assert calls(hetzner, "POST", "/v1/ssh_keys") == [None]

    def test_losing_the_race_for_a_key_is_no_failure(self, cloud: Hetzner, hetzner: Emulator) -> None:
        key = public_key()
        first = cloud.add_ssh_key(key, "clawdet-key", LABELS)
        assert cloud.add_ssh_key(key, "clawdet-key", LABELS) == first
        assert calls(hetzner, "POST", "/v1/ssh_keys") == [201, 409]

    def test_a_name_taken_by_another_key_is_a_conflict(self, cloud: Hetzner) -> None:
        cloud.add_ssh_key(public_key(), "clawdet-key", LABELS)
        with pytest.raises(StateError, match="Another SSH key named clawdet-key"):
            cloud.add_ssh_key(public_key(), "clawdet-key", LABELS)

    @pytest.mark.parametrize("kind", ["drop_before", "drop_after"])
    def test_a_lost_answer_to_a_deletion_is_looked_after(self, kind: str, cloud: Hetzner, hetzner: Emulator) -> None:
        ours = cloud.add_ssh_key(public_key(), "ours", LABELS)
        cloud.add_ssh_key(public_key(), "foreign", {"managed-by": "somebody"})
        hetzner.faults.add({"kind": kind, "method": "DELETE"})
        cloud.delete_ssh_key(ours.id)
        cloud.delete_ssh_key(ours.id)
        kept = hetzner.http("GET", "/v1/ssh_keys").json()["ssh_keys"]
        assert [key["name"] for key in kept] == ["foreign"]


class TestFirewalls:
    RULES = (FirewallRule("22", frozenset({"0.0.0.0/0", "::/0"})), FirewallRule("443", frozenset({"192.0.2.0/24"})))

    @pytest.mark.parametrize("kind", ["drop_before", "drop_after"])
    def test_a_lost_answer_leaves_one_firewall(self, kind: str, cloud: Hetzner, hetzner: Emulator) -> None:
        hetzner.faults.add({"kind": kind, "method": "POST", "path": "/v1/firewalls"})
        made = cloud.create_firewall("clawdet", self.RULES, LABELS)
        assert cloud.all_firewalls() == [made]
        assert cloud.firewall("clawdet") == made
        assert (made.rules, made.labels, made.in_use) == (self.RULES, LABELS, False)

    def test_losing_the_race_for_its_name_is_no_failure(self, cloud: Hetzner, hetzner: Emulator) -> None:
        first = cloud.create_firewall("clawdet", self.RULES, LABELS)
        assert cloud.create_firewall("clawdet", (), LABELS) == first
        assert calls(hetzner, "POST", "/v1/firewalls") == [201, 409]

    def test_a_name_taken_by_somebody_else_is_a_conflict(self, cloud: Hetzner) -> None:
        cloud.create_firewall("clawdet", (), {"managed-by": "somebody"})
        with pytest.raises(StateError, match="A firewall named clawdet exists"):
            cloud.create_firewall("clawdet", (), LABELS)

    @pytest.mark.parametrize("kind", ["drop_before", "drop_after"])
    def test_rules_hold_when_they_are_set(self, kind: str, cloud: Hetzner, hetzner: Emulator) -> None:
        wall = cloud.create_firewall("clawdet", (), LABELS)
        hetzner.faults.add({"kind": kind, "method": "POST", "path": "/v1/firewalls/.*/actions/set_rules"})
        cloud.set_firewall_rules(wall, self.RULES)
        found = cloud.firewall("clawdet")
        assert found is not None
        assert set(found.rules) == set(self.RULES)

    @pytest.mark.parametrize("kind", [None, "drop_before", "drop_after"])
    def test_a_server_is_put_behind_one_once(self, kind: str | None, cloud: Hetzner, hetzner: Emulator) -> None:
        server = cloud.await_running(cloud.create_server(an_order(cloud)))
        wall = cloud.create_firewall("clawdet", self.RULES, LABELS)
        if kind:
            path = "/v1/firewalls/.*/actions/apply_to_resources"
            hetzner.faults.add({"kind": kind, "method": "POST", "path": path})
        cloud.attach_firewall(wall.id, server.id)
        cloud.attach_firewall(wall.id, server.id)
        shown = hetzner.http("GET", f"/v1/servers/{server.id}").json()["server"]
        assert shown["public_net"]["firewalls"] == [{"id": wall.id, "status": "applied"}]
        found = cloud.server(server.id)
        assert found is not None
        assert found.firewall_ids == (wall.id,)
        assert cloud.all_firewalls()[0].in_use

    @pytest.mark.parametrize("kind", ["drop_before", "drop_after"])
    def test_a_lost_answer_to_a_deletion_is_looked_after(self, kind: str, cloud: Hetzner, hetzner: Emulator) -> None:
        ours = cloud.create_firewall("clawdet", (), LABELS)
        cloud.create_firewall("foreign", (), {})
        hetzner.faults.add({"kind": kind, "method": "DELETE"})
        cloud.delete_firewall(ours.id)
        cloud.delete_firewall(ours.id)
        assert [wall.name for wall in cloud.all_firewalls()] == ["foreign"]

    def test_one_in_use_is_not_deleted(self, cloud: Hetzner) -> None:
        wall = cloud.create_firewall("clawdet", (), LABELS)
        cloud.create_server(an_order(cloud, firewall_ids=(wall.id,)))
        with pytest.raises(InUseError, match="delete the firewall"):
            cloud.delete_firewall(wall.id)

    def test_the_servers_behind_one_are_told_those_of_a_selector_too(self, cloud: Hetzner, hetzner: Emulator) -> None:
        wall = cloud.create_firewall("clawdet", (), LABELS)
        server = cloud.create_server(an_order(cloud, firewall_ids=(wall.id,)))
        selector = {"type": "label_selector", "label_selector": {"selector": "managed-by=clawdet"}}
        body = {"name": "by-selector", "apply_to": [selector]}
        assert hetzner.http("POST", "/v1/firewalls", json=body).status_code == 201
        assert [one.servers for one in cloud.all_firewalls()] == [frozenset({server.id})] * 2


class TestOrder:
    def test_a_server_is_made_and_awaited(self, cloud: Hetzner, hetzner: Emulator) -> None:
        ordered = cloud.create_server(an_order(cloud))
        assert (ordered.name, ordered.server_type, ordered.location) == ("clawdet-alice", "cpx22", "nbg1")
        assert ordered.ipv4 is not None
        assert ordered.labels == LABELS
        assert len(ordered.actions) == 2
        running = cloud.await_running(ordered)
        assert (running.status, running.ipv4) == ("running", ordered.ipv4)
        assert cloud.find_server("clawdet-alice") == cloud.server(ordered.id)
        assert [found.id for found in cloud.servers("managed-by=clawdet,user=alice")] == [ordered.id]
        assert cloud.servers("user=bob") == []
        assert hetzner.machines.specs[ordered.id].user_data == "#cloud-config\n"

    def test_firewalls_are_on_from_birth(self, cloud: Hetzner, hetzner: Emulator) -> None:
        wall = hetzner.http("POST", "/v1/firewalls", json={"name": "wall", "rules": []}).json()["firewall"]["id"]
        ordered = cloud.create_server(an_order(cloud, firewall_ids=(wall,)))
        shown = hetzner.http("GET", f"/v1/servers/{ordered.id}").json()["server"]
        assert [item["id"] for item in shown["public_net"]["firewalls"]] == [wall]

    @pytest.mark.parametrize("kind", ["drop_after", "hang_after"])
    def test_a_lost_answer_leaves_one_server(
        self, cloud: Hetzner, hetzner: Emulator, kind: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(adapter, "ANSWER_SECONDS", 0.5)
        order = an_order(cloud)
        hetzner.faults.add({"kind": kind, "method": "POST", "path": "/v1/servers"})
        ordered = cloud.create_server(order)
        assert [server.id for server in cloud.servers("managed-by=clawdet")] == [ordered.id]
        assert calls(hetzner, "POST", "/v1/servers") == [None]
        assert cloud.await_running(ordered).status == "running"

    @pytest.mark.parametrize(
        "fault",
        [
            {"kind": "drop_before"},
            {"kind": "answer", "status": 500, "body": {"error": {"code": "server_error", "message": "oh"}}},
            {"kind": "answer", "status": 502, "body": "<html>bad gateway</html>"},
            {"kind": "answer", "status": 503, "body": {"error": {"code": "unavailable", "message": "later"}}},
        ],
        ids=["dropped", "500", "502 HTML", "503"],
    )
    def test_an_order_without_effect_is_made_again_after_a_look(
        self, cloud: Hetzner, hetzner: Emulator, fault: dict[str, Any]
    ) -> None:
        order = an_order(cloud)
        hetzner.faults.add({**fault, "method": "POST", "path": "/v1/servers"})
        cloud.create_server(order)
        sent = [seen["method"] for seen in hetzner.faults.requests if seen["path"] == "/v1/servers"]
        assert sent == ["POST", "GET", "POST"]

    @pytest.mark.parametrize(
        ("status", "code"),
        [(429, "rate_limit_exceeded"), (423, "locked"), (409, "conflict")],
        ids=["429", "423", "409"],
    )
    def test_a_refusal_for_now_is_waited_out_and_told(
        self, connect: Connect, hetzner: Emulator, status: int, code: str
    ) -> None:
        told: list[str] = []
        cloud = connect(watch=told.append)
        order = an_order(cloud)
        body = {"error": {"code": code, "message": "not now", "details": None}}
        hetzner.faults.add(
            {"kind": "answer", "method": "POST", "path": "/v1/servers", "status": status, "body": body, "times": 2}
        )
        cloud.create_server(order)
        assert calls(hetzner, "POST", "/v1/servers") == [status, status, 201]
        assert len(told) == 1

    def test_a_limit_that_outlasts_the_deadline_ends_as_a_wait(self, connect: Connect, hetzner: Emulator) -> None:
        body = {"error": {"code": "rate_limit_exceeded", "message": "Limit reached", "details": None}}
        hetzner.faults.add({"kind": "answer", "status": 429, "body": body, "times": None})
        with pytest.raises(WaitError, match=r"to look for a server named x; last seen: too many requests"):
            connect(seconds=0.5).find_server("x")

    def test_ours_is_found_when_its_name_is_taken(self, cloud: Hetzner, hetzner: Emulator) -> None:
        order = an_order(cloud)
        ordered = cloud.create_server(order)
        assert cloud.create_server(order).id == ordered.id
        assert calls(hetzner, "POST", "/v1/servers") == [201, 409]

    @pytest.mark.parametrize("labels", [{}, {**LABELS, "run": "another-run1"}], ids=["foreign", "another run"])
    def test_another_server_of_the_name_is_a_conflict(self, cloud: Hetzner, labels: dict[str, str]) -> None:
        other = cloud.create_server(an_order(cloud, labels=labels))
        with pytest.raises(StateError, match="not ours: nothing was touched") as caught:
            cloud.create_server(an_order(cloud))
        assert str(other.id) in caught.value.details[0]
        assert cloud.server(other.id) is not None

    def test_the_name_of_a_server_that_is_being_deleted_is_waited_for(self, cloud: Hetzner, hetzner: Emulator) -> None:
        order = an_order(cloud)
        first = cloud.create_server(order)
        cloud.await_running(first)
        hetzner.knobs(delete_seconds=0.5)
        assert hetzner.http("DELETE", f"/v1/servers/{first.id}").status_code == 200
        assert cloud.create_server(order).id != first.id

    def test_sold_out(self, cloud: Hetzner, hetzner: Emulator) -> None:
        hetzner.knobs(sold_out=[["cpx22", "nbg1"]])
        with pytest.raises(SoldOutError, match="cpx22 in nbg1") as caught:
            cloud.create_server(an_order(cloud))
        assert any("resource_unavailable" in line for line in caught.value.details)

    @pytest.mark.parametrize(("kind", "location"), [("cx22", "nbg1"), ("cx23", "ash")], ids=["gone", "not there"])
    def test_a_type_that_is_not_sold_there_is_sold_out_too(self, cloud: Hetzner, kind: str, location: str) -> None:
        with pytest.raises(SoldOutError):
            cloud.create_server(an_order(cloud, server_type=kind, location=location))

    def test_a_limit_of_the_account_is_named(self, cloud: Hetzner, hetzner: Emulator) -> None:
        hetzner.knobs(server_limit=0)
        with pytest.raises(CloudError, match="limit of the account is reached: server") as caught:
            cloud.create_server(an_order(cloud))
        assert not isinstance(caught.value, SoldOutError)
        assert "console.hetzner.cloud/limits" in caught.value.next_steps[0]
        assert calls(hetzner, "POST", "/v1/servers") == [403]

    def test_what_the_api_finds_wrong_is_shown(self, cloud: Hetzner) -> None:
        with pytest.raises(CloudError) as caught:
            cloud.create_server(an_order(cloud, name="not_a_host_name"))
        assert "valid hostname" in " ".join(caught.value.details)

    def test_an_interrupt_ends_a_wait(self, connect: Connect, hetzner: Emulator) -> None:
        body = {"error": {"code": "unavailable", "message": "later", "details": None}}
        hetzner.faults.add({"kind": "answer", "status": 503, "body": body, "times": None})

        def stop(_seen: str) -> None:
            raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            connect(watch=stop).find_server("x")


class TestRunning:
    def test_a_failed_action_is_told_in_the_clouds_words(self, cloud: Hetzner, hetzner: Emulator) -> None:
        hetzner.knobs(action_error={"start_server": "unknown_error"})
        ordered = cloud.create_server(an_order(cloud))
        with pytest.raises(CloudError, match="'start_server' for server clawdet-alice") as caught:
            cloud.await_running(ordered)
        assert "unknown_error" in caught.value.details[0]

    def test_one_that_never_starts_ends_as_a_wait(self, connect: Connect, hetzner: Emulator) -> None:
        hetzner.knobs(stuck_initializing=True)
        ordered = connect().create_server(an_order(connect()))
        with pytest.raises(WaitError, match="server clawdet-alice; last seen: create_server at"):
            connect(seconds=1.0).await_running(ordered)

    def test_one_without_an_address_is_refused(self, cloud: Hetzner, hetzner: Emulator) -> None:
        hetzner.knobs(no_ipv4=True)
        ordered = cloud.create_server(an_order(cloud))
        assert ordered.ipv4 is None
        with pytest.raises(CloudError, match="without a public IPv4"):
            cloud.await_running(ordered)

    def test_one_that_vanishes_is_told(self, cloud: Hetzner) -> None:
        ordered = cloud.create_server(an_order(cloud))
        cloud.await_running(ordered)
        cloud.delete_server(ordered.id)
        with pytest.raises(CloudError, match="vanished"):
            cloud.await_running(ordered)

    def test_all_actions_are_read_in_one_call(self, cloud: Hetzner, hetzner: Emulator) -> None:
        ordered = cloud.create_server(an_order(cloud))
        eventually(lambda: hetzner.http("GET", f"/v1/servers/{ordered.id}").json()["server"]["status"] == "running")
        hetzner.faults.requests.clear()
        cloud.await_running(ordered)
        assert [seen["path"] for seen in hetzner.faults.requests] == ["/v1/actions", f"/v1/servers/{ordered.id}"]

    def test_actions_are_found_again_when_they_were_lost(self, cloud: Hetzner) -> None:
        ordered = cloud.create_server(an_order(cloud))
        assert sorted(cloud.actions_of(ordered.id)) == sorted(ordered.actions)


class TestList:
    def test_it_tells_what_reading_each_tells(self, cloud: Hetzner) -> None:
        cloud.await_running(cloud.create_server(an_order(cloud)))
        servers, pages = cloud.servers_page(1)
        assert servers == [cloud.server(servers[0].id)]
        assert pages == 1

    def test_only_what_changed_is_read_anew(self, cloud: Hetzner, monkeypatch: pytest.MonkeyPatch) -> None:
        key = cloud.add_ssh_key(public_key(), "clawdet-key", LABELS).id
        orders = [an_order(cloud, name=name, ssh_key_id=key) for name in ("clawdet-a1", "clawdet-b1")]
        first, second = (cloud.await_running(cloud.create_server(order)) for order in orders)
        before = cloud.servers_page(1)
        made: list[int] = []

        def counted(client: ServersClient, described: dict[str, Any]) -> BoundServer:
            made.append(described["id"])
            return BoundServer(client, described)

        monkeypatch.setattr(adapter, "BoundServer", counted)
        assert cloud.servers_page(1) == before
        assert made == []
        cloud.label_server(second.id, {**second.labels, "user": "bob"})
        (same, changed), _ = cloud.servers_page(1)
        assert (same, changed.labels["user"]) == (before[0][0], "bob")
        assert made == [second.id]
        assert first.id == same.id


class TestDelete:
    def test_it_is_gone_afterwards(self, cloud: Hetzner, hetzner: Emulator) -> None:
        ordered = cloud.create_server(an_order(cloud))
        cloud.await_running(ordered)
        hetzner.knobs(delete_seconds=0.3)
        cloud.delete_server(ordered.id)
        assert cloud.server(ordered.id) is None
        assert cloud.find_server("clawdet-alice") is None

    def test_what_is_gone_is_no_failure(self, cloud: Hetzner) -> None:
        cloud.delete_server(4711)

    @pytest.mark.parametrize("kind", ["drop_before", "drop_after"])
    def test_a_lost_answer_is_no_failure(self, cloud: Hetzner, hetzner: Emulator, kind: str) -> None:
        ordered = cloud.create_server(an_order(cloud))
        cloud.await_running(ordered)
        hetzner.faults.add({"kind": kind, "method": "DELETE"})
        cloud.delete_server(ordered.id)
        assert cloud.server(ordered.id) is None

    def test_a_locked_one_is_waited_for(self, cloud: Hetzner, hetzner: Emulator) -> None:
        ordered = cloud.create_server(an_order(cloud))
        cloud.await_running(ordered)
        body = {"error": {"code": "locked", "message": "server is locked", "details": None}}
        hetzner.faults.add({"kind": "answer", "method": "DELETE", "status": 423, "body": body, "times": 2})
        cloud.delete_server(ordered.id)
        assert calls(hetzner, "DELETE", f"/v1/servers/{ordered.id}") == [423, 423, 200]

    def test_a_protected_one_is_left_alone(self, cloud: Hetzner, hetzner: Emulator) -> None:
        ordered = cloud.create_server(an_order(cloud))
        cloud.await_running(ordered)
        path = f"/v1/servers/{ordered.id}/actions/change_protection"
        assert hetzner.http("POST", path, json={"delete": True, "rebuild": True}).status_code == 201
        eventually(lambda: hetzner.http("GET", f"/v1/servers/{ordered.id}").json()["server"]["protection"]["delete"])
        with pytest.raises(StateError, match="protected: nothing was touched"):
            cloud.delete_server(ordered.id)
        assert cloud.server(ordered.id) is not None


class TestTrouble:
    def test_no_network_is_told_after_some_patience(self, hetzner: Emulator, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(retry, "PATIENCE", 0.3)
        assert hetzner.served
        hetzner.served.stop()
        cloud = Hetzner(f"{hetzner.url}/v1", Secret(TOKEN), Deadline.after(30))
        with pytest.raises(CloudError, match="no usable answer came") as caught:
            cloud.find_server("x")
        cloud.close()
        assert "ConnectionError" in caught.value.details[0]

    def test_the_first_call_waits_for_a_limit_as_every_other_does(
        self, cloud: Hetzner, hetzner: Emulator, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(Deadline, "within", lambda *_: Deadline.after(0))  # no shorter time than the command's
        hetzner.faults.add({"kind": "answer", "status": 429, "times": 2})
        cloud.check()

    def test_the_first_call_gives_up_sooner_where_nobody_answers(
        self, hetzner: Emulator, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(adapter, "FIRST_PATIENCE", 0.1)
        assert hetzner.served
        hetzner.served.stop()
        cloud = Hetzner(f"{hetzner.url}/v1", Secret(TOKEN), Deadline.after(30))
        with pytest.raises(CloudError, match="no usable answer came"):
            cloud.check()
        cloud.close()

    def test_an_answer_of_another_shape_is_an_error_of_ours(self, cloud: Hetzner, hetzner: Emulator) -> None:
        hetzner.faults.add({"kind": "answer", "status": 200, "body": {"surprise": 1}})
        with pytest.raises(CloudError, match="a shape that this version"):
            cloud.servers("managed-by=clawdet")

    def test_a_dropped_connection_that_was_kept_is_no_failure(self, cloud: Hetzner, hetzner: Emulator) -> None:
        cloud.check()
        hetzner.faults.add({"kind": "drop_before", "method": "GET"})
        assert cloud.servers("managed-by=clawdet") == []

    def test_two_orders_at_once_make_one_server(self, connect: Connect, hetzner: Emulator) -> None:
        hetzner.start(boot_seconds=FOREVER)
        order = an_order(connect())
        made: list[int] = []
        threads = [
            threading.Thread(target=lambda cloud: made.append(cloud.create_server(order).id), args=(connect(),))
            for _ in range(4)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(made) == 4
        assert len(set(made)) == 1
