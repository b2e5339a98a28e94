"""The fault matrix of the clouds: each fault in provision and destroy, its exit code, all of stderr, and the way on.

What the command says is in `faults_clouds.txt`, to be read as somebody would who is woken by it.
"""

import ast
import inspect
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from clawdet_cli.adapters import retry
from clawdet_cli.adapters.cloudflare import Cloudflare
from clawdet_cli.adapters.hetzner import Hetzner
from tests.e2e.faults import follow, leave_nothing, ledger_differs, whole
from tests.e2e.operator import Operator
from tests.e2e.test_recovery import emptied
from tests.kill.boundaries import called
from tests.kill.invariants import not_complete

__all__ = ["emptied"]

SECTIONS = (Path(__file__).parent / "faults_clouds.txt").read_text().split("=== ")[1:]
SAID = {head: text.strip() for head, _, text in (section.partition("\n") for section in SECTIONS)}

PROVISION = ("provision", "alice", "--sandbox", "--quiet")
DESTROY = ("destroy", "alice", "--yes", "--sandbox", "--quiet")
SHORT = ("--timeout", "1.5")

CHANGES = (
    ("hetzner", "POST", "/v1/ssh_keys"),
    ("hetzner", "POST", "/v1/firewalls"),
    ("hetzner", "POST", "/v1/servers"),
    ("cloudflare", "POST", "/client/v4/zones/.*/dns_records"),
    ("cloudflare", "POST", "/client/v4/certificates"),
    ("cloudflare", "DELETE", "/client/v4/zones/.*/dns_records/.*"),
    ("cloudflare", "DELETE", "/client/v4/certificates/.*"),
    ("hetzner", "DELETE", "/v1/servers/.*"),
    ("hetzner", "DELETE", "/v1/ssh_keys/.*"),
    ("hetzner", "DELETE", "/v1/firewalls/.*"),
    ("hetzner", "PUT", "/v1/servers/.*"),
    ("hetzner", "POST", "/v1/firewalls/.*/actions/set_rules"),
    ("hetzner", "POST", "/v1/firewalls/.*/actions/apply_to_resources"),
    ("cloudflare", "PATCH", "/client/v4/zones/.*/dns_records/.*"),
)
"""Every request that changes something; a test compares them with what a life of an instance sends."""
LOOKS = (
    ("hetzner", "GET", "/v1/servers"),
    ("hetzner", "GET", "/v1/servers/.*"),
    ("hetzner", "GET", "/v1/actions.*"),
    ("cloudflare", "GET", "/client/v4/zones/.*/dns_records"),
    ("cloudflare", "GET", "/client/v4/certificates"),
)
REFUSAL = {
    "hetzner": {"error": {"code": "server_error", "message": "a failure that was asked for"}},
    "cloudflare": {"success": False, "errors": [{"code": 10000, "message": "a failure that was asked for"}]},
}
LOCKED = {"error": {"code": "locked", "message": "the server is locked"}}
LIMITED = {"error": {"code": "rate_limit_exceeded", "message": "too many requests"}}


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pause shortly between attempts: how long they grow is tried elsewhere."""
    monkeypatch.setattr(retry, "_growing", lambda _: 0.02)


def fault(operator: Operator, where: tuple[str, str, str], kind: str, **more: Any) -> None:
    cloud, method, path = where
    if kind == "answer":
        more.setdefault("body", REFUSAL[cloud])
    operator.control(cloud, "POST", "faults", {"kind": kind, "method": method, "path": path, **more})


PASSING: dict[str, dict[str, Any]] = {
    "the answer is lost after the effect": {"kind": "drop_after"},
    "the connection is reset before it": {"kind": "drop_before"},
    "the answer is slow": {"kind": "delay", "seconds": 0.2},
    "500": {"kind": "answer", "status": 500},
    "502 in HTML": {"kind": "answer", "status": 502, "body": "<html>bad gateway</html>"},
    "503": {"kind": "answer", "status": 503, "body": "<html>not now</html>"},
    "429 that says when": {"kind": "answer", "status": 429, "headers": {"Retry-After": "0"}},
    "429 that says nothing": {"kind": "answer", "status": 429},
}


@pytest.mark.usefixtures("impatient")
@pytest.mark.parametrize("places", [CHANGES, LOOKS], ids=["changes", "looks"])
@pytest.mark.parametrize("what", PASSING)
def test_what_passes_is_waited_out_in_silence(
    what: str, places: tuple[tuple[str, str, str], ...], operator: Operator
) -> None:
    """It hits every such call of a whole life once."""
    live(operator, places, **PASSING[what])
    if places is CHANGES:
        assert spared(operator) == []


@pytest.mark.usefixtures("impatient")
def test_a_lock_is_waited_out_wherever_hetzner_is_asked_for_a_change(operator: Operator) -> None:
    live(operator, OF_HETZNER, kind="answer", status=423, body=LOCKED, times=2)
    assert spared(operator) == []


def test_the_changes_above_are_all_that_there_are(operator: Operator) -> None:
    """Compare them with what a whole life sends, and that with every method of the adapters that changes something."""
    made = {cloud: set[str]() for cloud in CLIENTS}
    with pytest.MonkeyPatch.context() as patched:
        for cloud, client in CLIENTS.items():
            for name in changing(client):
                patched.setattr(client, name, remembered(getattr(client, name), name, made[cloud]))
        for cloud in CLIENTS:
            operator.control(cloud, "DELETE", "requests")
        live(operator, (), kind="delay")
    assert made == {cloud: changing(client) for cloud, client in CLIENTS.items()}
    sent = {
        (cloud, request["method"], request["path"])
        for cloud in CLIENTS
        for request in operator.control(cloud, "GET", "requests")["requests"]
        if request["method"] != "GET" and not request["path"].endswith("remove_from_resources")
    }
    unknown = [
        each for each in sent if not any(each[:2] == where[:2] and re.fullmatch(where[2], each[2]) for where in CHANGES)
    ]
    assert unknown == []


OF_HETZNER = tuple(where for where in CHANGES if where[0] == "hetzner")
AGAIN = ("set_rules", "apply_to_resources", "dns_records/.*")
"""How the paths end of what a second provision changes back."""
CLIENTS: dict[str, type] = {"hetzner": Hetzner, "cloudflare": Cloudflare}


def live(operator: Operator, places: tuple[tuple[str, str, str], ...], **rule: Any) -> None:
    """Provision, have hands change what can be changed back, provision again and destroy: all in silence."""
    later = [where for where in places if where[1] != "DELETE" and where[2].endswith(AGAIN)]
    for where in places:
        if where not in later:
            fault(operator, where, **rule)
    made = operator.clawdet(*PROVISION)
    assert (made.code, made.err) == (0, "")
    assert not_complete(operator, "alice") == []
    meddle(operator)
    for where in later:
        fault(operator, where, **rule)
    again = operator.clawdet(*PROVISION)
    assert (again.code, again.err) == (0, "")
    assert not_complete(operator, "alice") == []
    gone = operator.clawdet(*DESTROY)
    assert (gone.code, gone.err) == (0, "")
    leave_nothing(operator)


def meddle(operator: Operator) -> None:
    """Take the server out of the firewall and all but SSH out of its rules, and point the record elsewhere."""
    (wall,) = operator.cloud("hetzner", "/firewalls")["firewalls"]
    (server,), (record,) = operator.servers(), operator.records()
    ssh = [rule for rule in wall["rules"] if rule["port"] == "22"]
    taken = {"remove_from": [{"type": "server", "server": {"id": server["id"]}}]}
    operator.cloud("hetzner", f"/firewalls/{wall['id']}/actions/remove_from_resources", "POST", taken)
    operator.cloud("hetzner", f"/firewalls/{wall['id']}/actions/set_rules", "POST", {"rules": ssh})
    path = f"/zones/{operator.zone_id()}/dns_records/{record['id']}"
    operator.cloud("cloudflare", path, "PATCH", {"content": "192.0.2.1"})


def spared(operator: Operator) -> list[Any]:
    """Give the faults that hit nothing."""
    return [
        rule for cloud in CLIENTS for rule in operator.control(cloud, "GET", "faults")["faults"] if not rule["hits"]
    ]


def changing(client: type) -> set[str]:
    """Read out of the code which methods of an adapter change something."""
    (tree,) = ast.parse(inspect.getsource(client)).body
    assert isinstance(tree, ast.ClassDef)
    methods = [node for node in tree.body if isinstance(node, ast.FunctionDef)]
    return {method.name for method in methods if "_change" in called(method)}


def remembered(method: Callable[..., Any], name: str, names: set[str]) -> Callable[..., Any]:
    def call(self: Any, *arguments: Any, **options: Any) -> Any:
        names.add(name)
        return method(self, *arguments, **options)

    return call


def for_ever(where: tuple[str, str, str], kind: str, **more: Any) -> Callable[[Operator], None]:
    return lambda operator: fault(operator, where, kind, times=None, **more)


def knob(**settings: Any) -> Callable[[Operator], None]:
    return lambda operator: operator.control("hetzner", "PUT", "knobs", settings)


ADD_KEY, WALL, ORDER, RECORD, SIGN, DELETE_RECORD, REVOKE, DELETE, DELETE_KEY, DELETE_WALL, LABEL, RULES, ATTACH, _ = (
    CHANGES
)
NO_TOKEN = {"error": {"code": "unauthorized", "message": "unable to authenticate"}}
BAD_TOKEN = {"success": False, "errors": [{"code": 10000, "message": "Authentication error"}]}
EVERYTHING = [[kind, place] for kind in ("cpx22", "cx23", "cx33") for place in ("nbg1", "fsn1", "hel1")]

IN_PROVISION: dict[str, Callable[[Operator], None]] = {
    "an order that fails for ever": for_ever(ORDER, "answer", status=500),
    "an order whose answers are HTML": for_ever(ORDER, "answer", status=502, body="<html>bad gateway</html>"),
    "an order over the limit of requests": for_ever(ORDER, "answer", status=429, body=LIMITED),
    "an order that stays locked": for_ever(ORDER, "answer", status=423, body=LOCKED),
    "a firewall that stays locked": for_ever(WALL, "answer", status=423, body=LOCKED),
    "an order without any answer": for_ever(ORDER, "drop_before"),
    "an order whose answer is not understood": for_ever(ORDER, "answer", status=201, body={}),
    "no more servers allowed": knob(server_limit=0),
    "no more primary IPs allowed": knob(primary_ip_limit=0),
    "everything sold out": knob(sold_out=EVERYTHING),
    "an action that ends in an error": knob(action_error={"start_server": {"code": "server_error", "times": 9}}),
    "a server without an address": knob(no_ipv4=True),
    "a server that stays initializing": knob(stuck_initializing=True),
    "a record that cannot be made": for_ever(RECORD, "answer", status=500),
    "a record that is answered without success": for_ever(RECORD, "answer", status=200),
    "a certificate that cannot be signed": for_ever(SIGN, "answer", status=503, body="<html>not now</html>"),
    "Hetzner's token revoked half-way": for_ever(
        ("hetzner", "*", "/v1/.*"), "answer", status=401, body=NO_TOKEN, after=11
    ),
    "Cloudflare's token revoked half-way": for_ever(
        ("cloudflare", "*", "/client/.*"), "answer", status=403, body=BAD_TOKEN, after=11
    ),
}
NOT_BY_ITSELF = {"a server that stays initializing"}
"""The next run waits for it again; `destroy` is what was printed second."""


@pytest.mark.parametrize("what", IN_PROVISION)
def test_what_lasts_ends_a_provision_with_what_exists_and_the_way_on(what: str, operator: Operator) -> None:
    IN_PROVISION[what](operator)
    said = operator.clawdet(*PROVISION, *SHORT)
    operator.reset()
    assert f"exit {said.code}\n{whole(said, operator)}" == SAID[f"provision: {what}"]
    assert ledger_differs(operator) == []
    if what not in NOT_BY_ITSELF:
        follow(operator, said)
    leave_nothing(operator)


IN_DESTROY: dict[str, Callable[[Operator], None]] = {
    "a server whose deletion fails": for_ever(DELETE, "answer", status=500),
    "a deletion whose answer is not understood": for_ever(DELETE, "answer", status=200, body={}),
    "a deletion whose answers are HTML": for_ever(DELETE, "answer", status=502, body="<html>bad gateway</html>"),
    "a deletion over the limit of requests": for_ever(DELETE, "answer", status=429, body=LIMITED),
    "a deletion without any answer": for_ever(DELETE, "drop_before"),
    "a server that stays locked": for_ever(DELETE, "answer", status=423, body=LOCKED),
    "a deletion that ends in an error": knob(action_error={"delete_server": {"code": "server_error", "times": 9}}),
    "a record that cannot be deleted": for_ever(DELETE_RECORD, "answer", status=502, body="<html>bad gateway</html>"),
    "a certificate whose revocation is never answered": for_ever(REVOKE, "drop_before"),
    "Hetzner's token revoked": for_ever(("hetzner", "*", "/v1/.*"), "answer", status=401, body=NO_TOKEN),
    "Cloudflare's token revoked": for_ever(("cloudflare", "*", "/client/.*"), "answer", status=403, body=BAD_TOKEN),
}


@pytest.mark.parametrize("what", IN_DESTROY)
def test_what_lasts_ends_a_destroy_with_what_is_left_and_the_way_on(what: str, operator: Operator) -> None:
    assert operator.clawdet(*PROVISION).code == 0
    IN_DESTROY[what](operator)
    said = operator.clawdet(*DESTROY, *SHORT)
    operator.reset()
    assert f"exit {said.code}\n{whole(said, operator)}" == SAID[f"destroy: {what}"]
    assert ledger_differs(operator) == []
    follow(operator, said)
    leave_nothing(operator)


def test_every_text_belongs_to_a_fault() -> None:
    assert set(SAID) == {f"provision: {what}" for what in IN_PROVISION} | {f"destroy: {what}" for what in IN_DESTROY}


BY_HAND: dict[str, Callable[[Operator], Any]] = {
    "server": lambda operator: operator.cloud("hetzner", f"/servers/{operator.servers()[0]['id']}", "DELETE"),
    "record": lambda operator: operator.cloud(
        "cloudflare", f"/zones/{operator.zone_id()}/dns_records/{operator.records()[0]['id']}", "DELETE"
    ),
    "certificate": lambda operator: operator.cloud(
        "cloudflare", f"/certificates/{operator.certificates()[0]['id']}", "DELETE"
    ),
}


@pytest.mark.parametrize("what", BY_HAND)
def test_what_was_deleted_by_hand_is_made_again(what: str, operator: Operator) -> None:
    assert operator.clawdet(*PROVISION).code == 0
    BY_HAND[what](operator)
    again = operator.clawdet(*PROVISION)
    assert (again.code, again.err) == (0, "")
    assert not_complete(operator, "alice") == []
    leave_nothing(operator)


@pytest.mark.parametrize("what", BY_HAND)
def test_what_was_deleted_by_hand_does_not_stop_a_destroy(what: str, operator: Operator) -> None:
    assert operator.clawdet(*PROVISION).code == 0
    BY_HAND[what](operator)
    gone = operator.clawdet(*DESTROY)
    assert (gone.code, gone.err) == (0, "")
    leave_nothing(operator)
