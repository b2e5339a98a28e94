"""A run is stopped inside an effect, another machine takes its instance over, and the run wakes.

Every kind of effect that the kill proof has is tried (`tests.kill.stops` names the moments). The woken run must make
no further change and say who took over; what its last request came to must be in the database, or named by `reconcile`.
By default each kind meets one moment and one way to take over, and what costs money more; all of them with
`CLAWDET_KILL_PAIRS=1`.
"""

import json
import os
import signal
from collections import Counter
from itertools import cycle, product
from pathlib import Path

import pytest

from tests.e2e.operator import Operator
from tests.kill import boundaries, truth, wire
from tests.kill.child import Boundary
from tests.kill.invariants import not_complete, not_empty, not_waiting
from tests.kill.scenes import DESTROY, DRAIN, FILL, PROVISION, SCENES, Life

SCENE_OF = {
    **dict.fromkeys(("add_ssh_key", "create_firewall", "create_server", "create_dns_record"), "provision"),
    **dict.fromkeys(("join_boot", "upload", "make_vps_key", "sign_certificate", "put_nonce"), "provision"),
    **dict.fromkeys(("make_host_key", "switch_host_key", "label_server"), "provision"),
    **dict.fromkeys(("set_firewall_rules", "attach_firewall"), "provision-again"),
    **dict.fromkeys(("update_dns_record", "revoke_certificate"), "reconcile"),
    **dict.fromkeys(("delete_dns_record", "delete_server", "delete_ssh_key", "delete_firewall"), "destroy"),
    "start": "provision-anew",
    "approve_device": "approve",
    "claim_server": "claim",
    "reboot_vps": "fill",
}
"""A scene in which each kind of effect happens."""
NO_PAUSE = {"claim_server"}
"""Kinds that are never sent a second time: the machine is taken for unwell."""
MUST = {
    ("claim_server", "sent", "destroy"),
    *product(("create_server", "sign_certificate"), ("pause", "late"), ("destroy",)),
    ("create_server", "unsent", "provision"),
    ("sign_certificate", "late", "provision"),
}
"""What is tried in any case: money, and what no later look at the instance would find."""
ASLEEP = {"clawdet_cli.lease:HEARTBEAT_SECONDS": 0.2}
"""In the run that is stopped: any sleep is longer than the pause between two heartbeats."""
ELSEWHERE = {"clawdet_cli.lease:STALE_SECONDS": 0.0, "clawdet_cli.lease:WATCH_SECONDS": 0.3}
"""In the run that takes over: it watches for this long whether the other one is dead."""
SECONDS = 120
KEEPER = "keeper"


def chosen() -> list[tuple[str, str, str]]:
    """Return which kinds, moments and ways to take over are tried."""
    every = list(product(sorted(SCENE_OF), ("unsent", "late", "sent", "pause"), ("provision", "destroy")))
    every = [one for one in every if one[:2] not in {(kind, "pause") for kind in NO_PAUSE}]
    if os.environ.get("CLAWDET_KILL_PAIRS"):
        return every
    ways = cycle((("pause", "destroy"), ("sent", "destroy"), ("late", "destroy"), ("pause", "provision")))
    sample = {(kind, *next(ways)) for kind in sorted(SCENE_OF) if kind not in NO_PAUSE} | MUST
    return [one for one in every if one in sample]


def named(operator: Operator) -> list[dict[str, str]]:
    """Return the rows of `reconcile`."""
    said = operator.clawdet("reconcile", "--sandbox", "--json")
    return list(json.loads(said.out)["reconcile"]["rows"])


def remove_what_is_named(operator: Operator, user: str) -> None:
    """Do by hand what `reconcile` leaves to a person of this user's."""
    paths = {"server": "/servers", "ssh_key": "/ssh_keys", "firewall": "/firewalls"}
    zoned = {"record": f"/zones/{operator.zone_id()}/dns_records", "certificate": "/certificates"}
    for row in named(operator):
        if row["user"] != user:
            continue
        if row["kind"] in paths:
            operator.cloud("hetzner", f"{paths[row['kind']]}/{row['id']}", "DELETE")
        elif row["kind"] in zoned:
            operator.cloud("cloudflare", f"{zoned[row['kind']]}/{row['id']}", "DELETE")


def keep_key_and_firewall(operator: Operator) -> None:
    """Have another server of clawdet's there: a destroy leaves what a late order needs."""
    order = {"server_type": "cx23", "image": "ubuntu-24.04", "location": "nbg1", "name": f"clawdet-{KEEPER}"}
    labels = {"managed-by": "clawdet", "user": KEEPER, "run": "zzzzzzzzzzzz"}
    operator.cloud("hetzner", "/servers", "POST", {**order, "labels": labels})


def lost(operator: Operator) -> list[str]:
    """Return what exists and is neither in the database nor named by `reconcile`."""
    info = operator.info()
    instances = truth.living(Path(info["state_file"]))
    return truth.Account(truth.Cloud.of(info).things(), {"it": instances}, {"it": named(operator)}).wrong(foreign={})


def test_every_kind_of_effect_is_stopped_in() -> None:
    assert set(SCENE_OF) == boundaries.kinds()
    assert {kind for kind, _, _ in chosen()} == boundaries.kinds()


@pytest.mark.parametrize(("kind", "moment", "other"), chosen())
def test_a_run_that_slept_through_a_takeover_changes_nothing_more(
    kind: str, moment: str, other: str, life: Life
) -> None:
    operator, (begin, command) = life.operator, SCENES[SCENE_OF[kind]]
    of_pool = command[0] == "pool"
    begin(life)
    if kind == "create_server":
        keep_key_and_firewall(operator)
    sleeper = life.start(*command, stop_at=Boundary(f"{kind} ", moment), machine="asleep", constants=ASLEEP)
    assert sleeper.stopped(SECONDS), sleeper.wait(SECONDS)
    over = {"provision": FILL if of_pool else PROVISION, "destroy": DRAIN if of_pool else DESTROY}[other]
    taken = life.run(*over, machine="elsewhere", constants=ELSEWHERE)
    if other == "provision" and command == DESTROY:
        # What is being destroyed is not provisioned: whoever has taken it over destroys it first.
        assert (taken.code, "is being destroyed" in taken.err) == (4, True), taken.err
        taken = life.run(*DESTROY, machine="elsewhere", constants=ELSEWHERE)
        assert taken.code == 0, taken.err
        taken = life.run(*over, machine="elsewhere", constants=ELSEWHERE)
    assert taken.code == 0, taken.err
    wire.forget(operator)
    sleeper.signal(signal.SIGCONT)
    woken = sleeper.wait(SECONDS)
    assert wire.changes(operator) <= (Counter([kind]) if moment == "late" else Counter()), woken
    assert woken.code == 4, woken
    assert "was taken over by" in woken.err, woken
    assert lost(operator) == []
    if kind == "create_server":
        remove_what_is_named(operator, KEEPER)
    if moment != "late" and kind != "claim_server":
        # What was claimed half is still in the pool, or was destroyed with its user.
        assert as_left(operator, other, of_pool=of_pool) == []


def as_left(operator: Operator, other: str, *, of_pool: bool) -> list[str]:
    """Return what is not as whoever took over has left it."""
    if other == "destroy":
        wrong = not_empty(operator)
        # Left for the sake of a server that was there then.
        return [what for what in wrong if not what.startswith(("ssh_keys", "firewalls"))]
    return not_waiting(operator) if of_pool else not_complete(operator, "alice")
