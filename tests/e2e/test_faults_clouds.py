"""The fault matrix of the clouds: each fault in provision and destroy, its exit code, all of stderr, and the way on.

What the command says is in `faults_clouds.txt`, to be read as somebody would who is woken by it.
"""

import ast
import inspect
import re
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from clawdet_cli.adapters import cloudflare, hetzner, retry
from clawdet_cli.adapters.cloudflare import Cloudflare
from clawdet_cli.adapters.hetzner import Hetzner
from clawdet_cli.stages import verify
from tests.e2e.faults import follow, leave_nothing, ledger_differs, whole
from tests.e2e.operator import Operator
from tests.kill.boundaries import called
from tests.kill.invariants import not_complete

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
    "429 that says nothing": {"kind": "answer", "status": 429},
    "no answer before our time-out, and no effect": {"kind": "hang_before"},
    "no answer before our time-out, after the effect": {"kind": "hang_after"},
}
ANSWER_SECONDS = 0.4


def short_time_outs(patched: pytest.MonkeyPatch) -> None:
    for adapter in (hetzner, cloudflare):
        patched.setattr(adapter, "ANSWER_SECONDS", ANSWER_SECONDS)


@pytest.mark.usefixtures("impatient")
@pytest.mark.parametrize("places", [CHANGES, LOOKS], ids=["changes", "looks"])
@pytest.mark.parametrize("what", PASSING)
def test_what_passes_is_waited_out_in_silence(
    what: str, places: tuple[tuple[str, str, str], ...], operator: Operator, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It hits every such call of a whole life once."""
    if PASSING[what]["kind"].startswith("hang_"):
        short_time_outs(monkeypatch)
    live(operator, places, **PASSING[what])
    if places is CHANGES:
        assert spared(operator) == []


@pytest.mark.usefixtures("impatient")
@pytest.mark.parametrize("status", [429, 503])
def test_a_cloud_that_says_when_is_asked_again_then(status: int, operator: Operator) -> None:
    """The pauses that are not asked for are much shorter here."""
    places = (ORDER, RECORD, DELETE_RECORD, DELETE, LOOKS[0], LOOKS[3])
    for cloud in CLIENTS:
        operator.control(cloud, "DELETE", "requests")
    live(operator, places, kind="answer", status=status, headers={"Retry-After": "1"})
    assert spared(operator) == []
    for cloud in CLIENTS:
        sent = operator.control(cloud, "GET", "requests")["requests"]
        refused = [number for number, request in enumerate(sent) if request["fault"]]
        assert len(refused) == 3
        # It is the next request to that cloud: nothing else goes on meanwhile.
        assert [gap for n in refused if (gap := sent[n + 1]["time"] - sent[n]["time"]) < 0.99] == []


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

SOON = {"Retry-After": "30"}


def lost_with_its_looks(where: tuple[str, str, str], looks: str, after: int) -> Callable[[Operator], None]:
    """Have a change carried out while its answer is lost, and lose the looks that follow it before any effect."""

    def lose(operator: Operator) -> None:
        fault(operator, where, "drop_after", times=None)
        fault(operator, (where[0], "GET", looks), "drop_before", times=None, after=after)

    return lose


IN_PROVISION: dict[str, Callable[[Operator], None]] = {
    "an order that is carried out unheard": lost_with_its_looks(ORDER, "/v1/servers.*", 2),
    "an order that is never answered in time": for_ever(ORDER, "hang_before"),
    "a record that is never answered in time": for_ever(RECORD, "hang_before"),
    "an order over a limit that says when": for_ever(ORDER, "answer", status=429, body=LIMITED, headers=SOON),
    "a record over a limit that says when": for_ever(RECORD, "answer", status=429, headers=SOON),
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
        ("cloudflare", "*", "/client/.*"), "answer", status=403, body=BAD_TOKEN, after=15
    ),
}
LATE = {"Cloudflare's token revoked half-way", "a certificate that cannot be signed"}
"""What strikes only after most of a provision, which takes seconds on a busy machine."""
CARRIED_OUT = {"an order that is carried out unheard": 1}
"""How many servers there are after what only seems to have failed."""


@pytest.mark.parametrize("what", IN_PROVISION)
def test_what_lasts_ends_a_provision_with_what_exists_and_the_way_on(
    what: str, operator: Operator, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hetzner, "STUCK_SECONDS", 1.0)
    if "in time" in what:
        short_time_outs(monkeypatch)
    IN_PROVISION[what](operator)
    said = operator.clawdet(*PROVISION, *(("--timeout", "6") if what in LATE else SHORT))
    monkeypatch.undo()
    operator.reset()
    assert f"exit {said.code}\n{whole(said, operator)}" == SAID[f"provision: {what}"]
    assert ledger_differs(operator) == []
    there = operator.servers()
    assert len(there) == CARRIED_OUT.get(what, len(there))
    follow(operator, said)
    if what in CARRIED_OUT:
        assert [server["id"] for server in operator.servers()] == [server["id"] for server in there]
    leave_nothing(operator)


def test_a_server_that_starts_since_a_moment_is_not_to_be_destroyed(operator: Operator) -> None:
    operator.control("hetzner", "PUT", "knobs", {"stuck_initializing": True})
    said = operator.clawdet(*PROVISION, *SHORT)
    assert said.code == 7
    steps = said.err.partition("Next:\n")[2].splitlines()
    assert steps[0].strip() == "run the command again: it goes on where it stopped"


def test_a_server_that_stays_initializing_can_be_destroyed(operator: Operator) -> None:
    operator.control("hetzner", "PUT", "knobs", {"stuck_initializing": True})
    assert operator.clawdet(*PROVISION, *SHORT).code == 7
    assert [server["status"] for server in operator.servers()] == ["initializing"]
    gone = operator.clawdet(*DESTROY)
    assert (gone.code, gone.err) == (0, "")
    leave_nothing(operator)


IN_DESTROY: dict[str, Callable[[Operator], None]] = {
    "a deletion that is carried out unheard": lost_with_its_looks(DELETE, "/v1/servers.*", 2),
    "a deletion that is never answered in time": for_ever(DELETE, "hang_before"),
    "a record whose deletion is never answered in time": for_ever(DELETE_RECORD, "hang_before"),
    "a deletion while Hetzner is not available": for_ever(DELETE, "answer", status=503, body="<html>not now</html>"),
    "a record while Cloudflare is not available": for_ever(DELETE_RECORD, "answer", status=503, body="<html></html>"),
    "a deletion over a limit that says when": for_ever(DELETE, "answer", status=429, body=LIMITED, headers=SOON),
    "a record over a limit that says when": for_ever(DELETE_RECORD, "answer", status=429, headers=SOON),
    "Cloudflare's token revoked half-way": for_ever(
        ("cloudflare", "*", "/client/.*"), "answer", status=403, body=BAD_TOKEN, after=4
    ),
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
def test_what_lasts_ends_a_destroy_with_what_is_left_and_the_way_on(
    what: str, operator: Operator, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert operator.clawdet(*PROVISION).code == 0
    if "in time" in what:
        short_time_outs(monkeypatch)
    IN_DESTROY[what](operator)
    said = operator.clawdet(*DESTROY, *SHORT)
    monkeypatch.undo()
    operator.reset()
    assert f"exit {said.code}\n{whole(said, operator)}" == SAID[f"destroy: {what}"]
    assert ledger_differs(operator) == []
    # Certificates that cannot be seen keep no server.
    gone = {"a deletion that is carried out unheard", "Cloudflare's token revoked half-way"}
    gone.add("a certificate whose revocation is never answered")
    assert len(operator.servers()) == (0 if what in gone else 1)
    follow(operator, said)
    leave_nothing(operator)


def test_every_text_belongs_to_a_fault() -> None:
    assert set(SAID) == (
        {f"provision: {what}" for what in IN_PROVISION}
        | {f"destroy: {what}" for what in IN_DESTROY}
        | {f"by hand: {what}" for what in MEANWHILE}
    )


def delete_server(operator: Operator) -> None:
    """Delete the server and see it gone: until then Hetzner shows it as 'deleting'."""
    operator.cloud("hetzner", f"/servers/{operator.servers()[0]['id']}", "DELETE")
    deadline = time.monotonic() + 30
    while operator.servers():
        assert time.monotonic() < deadline


BY_HAND: dict[str, Callable[[Operator], Any]] = {
    "server": delete_server,
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


def before(owner: Any, name: str, act: Callable[[], Any], patched: pytest.MonkeyPatch) -> list[str]:
    """Have hands do something right before the first call of a function; tells by a list that they did."""
    wrapped, done = getattr(owner, name), list[str]()

    def call(*arguments: Any, **options: Any) -> Any:
        if not done:
            done.append(name)
            act()
        return wrapped(*arguments, **options)

    patched.setattr(owner, name, call)
    return done


MEANWHILE: dict[str, tuple[str, Any, str]] = {
    "the server before it is waited for": ("server", Hetzner, "await_running"),
    "the server before it is verified": ("server", verify, "six_checks"),
    "the record before it is verified": ("record", verify, "six_checks"),
    "the certificate before it is verified": ("certificate", verify, "six_checks"),
}


@pytest.mark.parametrize("what", MEANWHILE)
def test_what_is_deleted_by_hand_in_the_middle_of_a_provision(
    what: str, operator: Operator, monkeypatch: pytest.MonkeyPatch
) -> None:
    kind, owner, name = MEANWHILE[what]
    done = before(owner, name, lambda: BY_HAND[kind](operator), monkeypatch)
    began = time.monotonic()
    said = operator.clawdet(*PROVISION, "--timeout", "5")
    # A name may take two minutes to be known, but never longer than the run may take.
    assert time.monotonic() - began < 60
    monkeypatch.undo()
    assert done == [name]
    assert f"exit {said.code}\n{whole(said, operator)}" == SAID[f"by hand: {what}"]
    # Only the next run, or reconcile, may say that it is gone for good.
    (differs,) = ledger_differs(operator)
    assert differs.startswith(f"{kind}s ")
    assert differs.endswith(" that are recorded and not there")
    follow(operator, said)
    assert ledger_differs(operator) == []
    leave_nothing(operator)


@pytest.mark.parametrize(
    ("kind", "owner", "name"),
    [
        ("server", Hetzner, "delete_server"),
        ("record", Cloudflare, "delete_record"),
        ("certificate", Cloudflare, "revoke"),
    ],
    ids=["server", "record", "certificate"],
)
def test_what_is_deleted_by_hand_in_the_middle_of_a_destroy_does_not_stop_it(
    kind: str, owner: Any, name: str, operator: Operator, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert operator.clawdet(*PROVISION).code == 0
    done = before(owner, name, lambda: BY_HAND[kind](operator), monkeypatch)
    gone = operator.clawdet(*DESTROY)
    assert done == [name]
    assert (gone.code, gone.err) == (0, "")
    leave_nothing(operator)


def test_a_look_from_outside_that_does_not_end_is_told_as_evidence(
    operator: Operator, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It waits, at most as long as a test may hang, until the checks after it have been made."""
    over, recorded = threading.Event(), verify._recorded

    def last(evidence: Any) -> str:
        over.set()
        return recorded(evidence)

    monkeypatch.setattr(verify, "EXPOSED_SECONDS", 0.0)
    monkeypatch.setattr(verify, "_exposed", lambda _: [] if over.wait(20) else [443])
    monkeypatch.setattr(verify, "_recorded", last)
    said = operator.clawdet(*PROVISION)
    assert said.code == 6, said.err
    assert "Failed (in the stage verify): 1 of 6 checks failed: gateway." in said.err
    assert " answers past Cloudflare was not found out in 0 s" in said.err
    monkeypatch.undo()
    assert ledger_differs(operator) == []
    follow(operator, said)
    leave_nothing(operator)
