"""The real process is killed at each boundary of each effect, and the same command, or `destroy`, sets it right.

The boundaries are read out of the code (`tests.kill.boundaries`), and counted again on the wire. All ordered pairs of
kills, the second one in the recovery from the first, drawn for an hour: `CLAWDET_KILL_PAIRS=1`.
"""

import math
import os
import secrets
import signal
from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest

from clawdet_cli.stages.recover import SETTLE_SECONDS
from tests.e2e.operator import Operator
from tests.e2e.test_signals import in_the_air
from tests.kill import boundaries, pairs, wire
from tests.kill.child import Boundary
from tests.kill.invariants import in_clouds, not_complete, not_empty, not_waiting, rows
from tests.kill.launcher import ENDED_SECONDS, Ended, Launcher
from tests.kill.scenes import DESTROY, FILL, PROVISION, SCENES, Life

SAMPLED_PAIRS = 10
HOUR = 3600.0


Undisturbed = Callable[[str], Ended]


@pytest.fixture(scope="module")
def recorded() -> dict[str, Ended]:
    """What each scene's command does when nobody disturbs it."""
    return {}


@pytest.fixture
def undisturbed(life: Life, recorded: dict[str, Ended]) -> Undisturbed:
    def of(scene: str) -> Ended:
        if scene not in recorded:
            recorded[scene] = pairs.undisturbed(life, scene)
        return recorded[scene]

    return of


def kinds_of(ended: Ended) -> Counter[str]:
    return Counter(what.split()[0] for what in ended.passed)


def test_the_scenes_have_every_effect_that_the_code_has(undisturbed: Undisturbed) -> None:
    happened: Counter[str] = Counter()
    for scene in SCENES:
        happened += kinds_of(undisturbed(scene))
    assert set(happened) == boundaries.kinds()


NOT_IN_A_SCENE = {
    (
        "stages/provision.py",
        "delete_dns_record",
    ): "wants another run to take the name within one call: test_two_runs.py",
    (
        "stages/operator_keys.py",
        "delete_ssh_key",
    ): "wants a key that no server needs, and belongs to no user: test_operator_keys.py",
}
"""Places whose kind is tried in another one, with where they happen without a kill."""


def test_the_scenes_pass_every_place_where_the_code_has_an_effect(undisturbed: Undisturbed) -> None:
    passed = {place for scene in SCENES for place in undisturbed(scene).places}
    written = {(f"{one.file}:{one.line}", (one.file, one.kind)) for one in boundaries.places()}
    assert {place for place, _ in written} >= passed
    assert {what for place, what in written if place not in passed} == set(NOT_IN_A_SCENE)


@pytest.mark.parametrize("scene", SCENES)
def test_the_wire_shows_just_the_changes_that_are_journalled(scene: str, life: Life) -> None:
    operator, (begin, command) = life.operator, SCENES[scene]
    begin(life)
    earlier = newest_effect(operator)
    wire.forget(operator)
    ended = life.run(*command)
    seen = wire.changes(operator)
    assert seen == kinds_of(ended)
    found = rows(operator, "SELECT id, kind FROM effects WHERE outcome = 'done'")
    assert Counter(row["kind"] for row in found if row["id"] > earlier) == seen
    assert life.emptied() == []


def newest_effect(operator: Operator) -> int:
    return max((int(row["id"]) for row in rows(operator, "SELECT id FROM effects")), default=0)


def the_other_way(life: Life, scene: str) -> list[str]:
    """Destroy what a provision had begun; a destroy that had begun is not turned round."""
    if scene == "drain":
        ended = life.run(*FILL)
        return not_waiting(life.operator) + ([f"ended with {ended.code}: {ended.err}"] if ended.code else [])
    if scene != "destroy":
        return []
    held = {kind: [thing["id"] for thing in things] for kind, things in in_clouds(life.operator).items()}
    refused = life.run(*PROVISION)
    made = {kind: [thing["id"] for thing in things] for kind, things in in_clouds(life.operator).items()} != held
    right = refused.code == 4 and "alice is being destroyed." in refused.err
    return (["provision changed something"] if made else []) + ([] if right else [f"not refused: {refused.err}"])


MOMENTS = [*((scene, moment) for scene in SCENES for moment in ("before", "after")), ("claim", "written")]
"""What is written is as good as the intent of what comes next, but for a claim: more is written than its result."""


@pytest.mark.parametrize("way", [pairs.again, the_other_way])
@pytest.mark.parametrize(("scene", "moment"), MOMENTS)
def test_a_process_that_is_killed_there_loses_nothing(
    scene: str, moment: str, way: Callable[[Life, str], list[str]], life: Life, undisturbed: Undisturbed
) -> None:
    begin, command = SCENES[scene]
    wrong = []
    for number, what in pairs.numbered(scene, undisturbed(scene)):
        begin(life)
        ended = life.run(*command, kill_at=Boundary(number, moment))
        assert ended.killed, f"{what}: {ended}"
        assert ended.passed[-1].split()[0] == what.split()[0]
        found = way(life, scene) + life.emptied()
        wrong += [f"killed {moment} {what} (boundary {number}): {violation}" for violation in found]
    assert wrong == []


def test_an_order_that_was_on_its_way_when_the_process_died_is_waited_for(life: Life) -> None:
    # The emulated cloud carries the order out a moment after the process is gone, and after the next one looked.
    life.operator.control(
        "hetzner", "POST", "faults", {"kind": "delay", "method": "POST", "path": "/v1/servers", "seconds": 2}
    )
    process = life.start(*PROVISION)
    in_the_air(life.operator, "hetzner", "POST")
    process.signal(signal.SIGKILL)
    provision = process.wait(ENDED_SECONDS)
    assert provision.killed
    assert provision.passed[-1].startswith("create_server")
    assert life.operator.servers() == []
    destroy = life.run(*DESTROY, settle=SETTLE_SECONDS)
    assert destroy.code == 0, destroy.err
    assert not_empty(life.operator) == []
    ordered = [seen for seen in life.operator.control("hetzner", "GET", "requests")["requests"] if is_order(seen)]
    assert ordered[-1]["status"] == 201, "the order was not carried out at all"


def is_order(seen: dict[str, Any]) -> bool:
    return (seen["method"], seen["path"]) == ("POST", "/v1/servers")


def test_a_crash_in_the_recovery_from_a_crash_loses_nothing(
    life: Life, undisturbed: Undisturbed, record_property: Callable[[str, object], None]
) -> None:
    if os.environ.get("CLAWDET_KILL_PAIRS"):
        seed = int(os.environ.get("CLAWDET_KILL_SEED") or secrets.randbelow(1_000_000))
        seconds, most, scenes = float(os.environ.get("CLAWDET_KILL_SECONDS") or HOUR), math.inf, list(SCENES)
    else:
        seed, seconds, most, scenes = 20, math.inf, SAMPLED_PAIRS, ["provision", "destroy", "claim"]
    record_property("told", f"pairs of kills: seed {seed}")
    runs = {scene: undisturbed(scene) for scene in scenes}
    assert pairs.play(life, runs, seed, seconds=seconds, most=most) == []


@pytest.mark.real
def test_a_real_server_survives_kills_of_the_run_that_installs_it(real_sandbox: Operator, launcher: Launcher) -> None:
    """Installs packages; needs root, and reaches the vendors' servers once for what is not in the cache yet."""
    life = Life(real_sandbox, launcher)
    for kind, moment in (("create_server", "after"), ("join_boot prepare", "after"), ("sign_certificate", "after")):
        killed = life.run(*PROVISION, kill_at=Boundary(kind, moment))
        assert killed.killed, killed.err
    ended = life.run(*PROVISION)
    assert ended.code == 0, ended.err
    assert not_complete(real_sandbox, "alice") == []
    assert life.run(*DESTROY, kill_at=Boundary("delete_server", "before")).killed
    assert life.emptied() == []
