"""The real process is killed at each boundary of each effect, and the same command, or `destroy`, sets it right.

The boundaries are read out of the code (`tests.kill.boundaries`), and counted again on the wire. All ordered pairs of
kills, the second one in the recovery from the first: `CLAWDET_KILL_PAIRS=1`.
"""

import json
import os
import random
import re
from collections import Counter
from collections.abc import Callable, Iterator
from itertools import count
from pathlib import Path
from typing import Any

import pytest

from clawdet_cli.stages.recover import SETTLE_SECONDS
from tests.e2e.device import Device
from tests.e2e.operator import Operator
from tests.e2e.test_bundle_simulated import CONTENT, GOOD
from tests.kill import boundaries
from tests.kill.__main__ import play
from tests.kill.invariants import in_clouds, not_complete, not_empty, not_waiting, rows
from tests.kill.launcher import Boundary, Ended, Launcher

PROVISION = ("provision", "alice", "--sandbox", "--quiet")
RECONCILE = ("reconcile", "--fix", "--sandbox", "--quiet")
APPROVE = ("approve", "alice", "--yes", "--sandbox", "--quiet")
DESTROY = ("destroy", "alice", "--sandbox", "--yes", "--quiet")
FILL = ("pool", "fill", "1", "--sandbox", "--yes", "--quiet")
DRAIN = ("pool", "drain", "--sandbox", "--yes", "--quiet")
SAMPLED_PAIRS = 10

CALLS = {
    "add_ssh_key": ("POST", "/v1/ssh_keys"),
    "create_firewall": ("POST", "/v1/firewalls"),
    "set_firewall_rules": ("POST", "/v1/firewalls/[0-9]+/actions/set_rules"),
    "attach_firewall": ("POST", "/v1/firewalls/[0-9]+/actions/apply_to_resources"),
    "create_server": ("POST", "/v1/servers"),
    "label_server": ("PUT", "/v1/servers/[0-9]+"),
    "create_dns_record": ("POST", "/client/v4/zones/[0-9a-f]+/dns_records"),
    "update_dns_record": ("PATCH", "/client/v4/zones/[0-9a-f]+/dns_records/[0-9a-f]+"),
    "sign_certificate": ("POST", "/client/v4/certificates"),
    "delete_dns_record": ("DELETE", "/client/v4/zones/[0-9a-f]+/dns_records/[0-9a-f]+"),
    "revoke_certificate": ("DELETE", "/client/v4/certificates/[0-9]+"),
    "delete_server": ("DELETE", "/v1/servers/[0-9]+"),
    "delete_ssh_key": ("DELETE", "/v1/ssh_keys/[0-9]+"),
    "delete_firewall": ("DELETE", "/v1/firewalls/[0-9]+"),
}
COMMANDS = {
    "join_boot": r"if \[ ! -d /run/clawdet/boot .*",
    "upload": r"umask 077; (rm -f /run/clawdet/\*/input; |mkdir -p /run/clawdet/bundles && cat >).*",
    "start": r'if \[ "\$\(systemctl show .* echo started',
    "make_vps_key": r".*provision-openclaw\.sh certificate-request .*",
    "make_host_key": r".*provision-openclaw\.sh host-key",
    "switch_host_key": r".*provision-openclaw\.sh switch-host-key .*",
    "approve_device": r"openclaw devices approve .*",
    "claim_server": r".*provision-openclaw\.sh claim .*",
    "reboot_vps": r"if \[ -e /run/reboot-required \]; then systemctl reboot; fi",
    "put_nonce": r".*provision-openclaw\.sh nonce .*",
}
READING = (
    r"if grep -qsx lock_sha256=.*",
    *(r"uname -m", r"p=\$\(systemctl show -P MainPID .*", r".*provision-openclaw\.sh (report|token)"),
    r"openclaw devices list --json",
    r"if \[ -e /run/reboot-required \]; then echo yes; fi",
)
"""What is asked over SSH and changes nothing; any other command must be one of COMMANDS."""


class Life:
    """Runs commands in one sandbox, and brings it to where a scene begins."""

    def __init__(self, operator: Operator, launcher: Launcher) -> None:
        self.operator = operator
        self.launcher = launcher
        self.settings: dict[str, str] = {}
        """What the scene has in the environment of its commands."""
        self.secrets_of_pool: set[str] = set()

    def run(self, *arguments: str, **options: Any) -> Ended:
        """Run a command as a process of its own."""
        return self.launcher.run(arguments, self.operator.environment(self.settings), **options)

    def nothing(self) -> None:
        """Begin with empty clouds."""

    def complete(self) -> None:
        """Begin with a complete instance."""
        ended = self.run(*PROVISION)
        assert ended.code == 0, ended.err

    def bundled(self) -> None:
        """Begin with empty clouds, and a bundle in a file that is to be copied."""
        file = self.operator.state / GOOD.file_name
        file.write_bytes(CONTENT)
        Path(f"{file}.json").write_text(GOOD.text())
        self.settings = {"CLAWDET_BUNDLE": str(file)}

    def server_lost(self) -> None:
        """Begin with an instance whose server somebody deleted, and whose old address somebody else got."""
        self.complete()
        (server,) = self.operator.servers()
        self.operator.cloud("hetzner", f"/servers/{server['id']}", "DELETE")

    def laid_bare(self) -> None:
        """Take a complete instance's server out of a firewall that somebody has opened for everything."""
        self.complete()
        (server,) = self.operator.servers()
        (wall,) = self.operator.cloud("hetzner", "/firewalls")["firewalls"]
        actions, everywhere = f"/firewalls/{wall['id']}/actions", {"source_ips": ["0.0.0.0/0"]}
        rules = [{"direction": "in", "protocol": "tcp", "port": port, **everywhere} for port in ("22", "any")]
        self.operator.cloud("hetzner", f"{actions}/set_rules", "POST", {"rules": rules})
        behind = {"remove_from": [{"type": "server", "server": {"id": server["id"]}}]}
        self.operator.cloud("hetzner", f"{actions}/remove_from_resources", "POST", behind)

    def drifted(self) -> None:
        """Point a complete instance's record elsewhere by hand, and have a second certificate signed for its key."""
        self.complete()
        (record,), (first,) = self.operator.records(), self.operator.certificates()
        path = f"/zones/{self.operator.zone_id()}/dns_records/{record['id']}"
        self.operator.cloud("cloudflare", path, "PATCH", {"content": "203.0.113.9"})
        (row,) = rows(self.operator, "SELECT csr FROM instances WHERE status = 'complete'")
        body = {"csr": row["csr"], "hostnames": first["hostnames"], "request_type": "origin-ecc"}
        self.operator.cloud("cloudflare", "/certificates", "POST", {**body, "requested_validity": 5475})

    def knocked_at(self) -> None:
        """Begin with a complete instance, and a browser that waits to be let in."""
        self.complete()
        info = self.operator.info()
        token = self.operator.clawdet("token", "alice", "--sandbox", "--json").document["token"]
        Device(f"alice.{info['zone']}", info["edge_address"], info["ca_file"]).connect(token)

    def patches_want_a_restart(self) -> None:
        """Begin with empty clouds, where the patches of a server end with a restart."""
        self.operator.control("hetzner", "PUT", "servers/knobs", {"reboot_after_patches": True})

    def waiting(self) -> None:
        """Begin with a server that waits in the pool."""
        ended = self.run(*FILL)
        assert ended.code == 0, ended.err
        self.secrets_of_pool = self.secrets()

    def secrets(self) -> set[str]:
        """What of the machines' own secrets must not outlive the pool: host keys and gateway tokens."""
        keys = {row["host_key"] for row in rows(self.operator, "SELECT host_key FROM instances WHERE server_id > 0")}
        found = [json.loads(file.read_text()) for file in self.operator.state.rglob("secrets.json")]
        return keys | {str(one["OPENCLAW_GATEWAY_TOKEN"]) for values in found for one in values.values()}

    def emptied(self) -> list[str]:
        """Destroy what there is, and tell what is left."""
        self.settings = {}
        ended = [self.run(*DESTROY), self.run(*DRAIN)]
        left = not_empty(self.operator)
        return left + [f"destroy or drain ended with {one.code}: {one.err}" for one in ended if one.code]


SCENES: dict[str, tuple[Callable[[Life], None], tuple[str, ...]]] = {
    "provision": (Life.nothing, PROVISION),
    "provision-anew": (Life.server_lost, PROVISION),
    "provision-again": (Life.laid_bare, PROVISION),
    "provision-bundle": (Life.bundled, PROVISION),
    "reconcile": (Life.drifted, RECONCILE),
    "approve": (Life.knocked_at, APPROVE),
    "claim": (Life.waiting, PROVISION),
    "fill": (Life.patches_want_a_restart, FILL),
    "drain": (Life.waiting, DRAIN),
    "destroy": (Life.complete, DESTROY),
}
ONLY_IN_CLOUDS = {"provision-anew", "provision-again", "fill"}
"""Scenes of which the effects on the VPS are not tried again: they are those of `provision`."""


@pytest.fixture(scope="module")
def launcher() -> Iterator[Launcher]:
    with Launcher() as started:
        yield started


@pytest.fixture
def life(operator: Operator, launcher: Launcher) -> Iterator[Life]:
    started = Life(operator, launcher)
    yield started
    # Whatever a failed test left, the next one begins with empty clouds.
    operator.reset()
    started.run(*DESTROY)
    started.run(*DRAIN)


Undisturbed = Callable[[str], Ended]


@pytest.fixture(scope="module")
def recorded() -> dict[str, Ended]:
    """What each scene's command does when nobody disturbs it."""
    return {}


@pytest.fixture
def undisturbed(life: Life, recorded: dict[str, Ended]) -> Undisturbed:
    def of(scene: str) -> Ended:
        if scene not in recorded:
            begin, command = SCENES[scene]
            begin(life)
            ended = life.run(*command)
            assert ended.code == 0, ended.err
            recorded[scene] = ended
            assert life.emptied() == []
        return recorded[scene]

    return of


def numbered(scene: str, ended: Ended) -> list[tuple[int, str]]:
    """Give the effects that are tried in a scene, with their place in the run."""
    effects = [(number, what) for number, what in enumerate(ended.passed, 1) if not what.startswith("recover ")]
    if scene == "provision-bundle":
        # All others are those of `provision`.
        return [(number, what) for number, what in effects if what == "upload bundle"]
    if scene == "claim":
        # From there on it is a provision like any other.
        last = max(number for number, what in effects if what.startswith("switch_host_key"))
        return [(number, what) for number, what in effects if number <= last]
    if scene in ONLY_IN_CLOUDS:
        return [(number, what) for number, what in effects if what.split()[0] in {*CALLS, "reboot_vps"}]
    return effects


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
    for cloud in ("hetzner", "cloudflare"):
        operator.control(cloud, "DELETE", "requests")
    operator.control("hetzner", "DELETE", "servers/commands")
    ended = life.run(*command)
    seen = Counter[str]()
    for cloud in ("hetzner", "cloudflare"):
        for request in operator.control(cloud, "GET", "requests")["requests"]:
            if request["method"] != "GET":
                seen[kind_of_call(request["method"], request["path"])] += 1
    for asked in operator.control("hetzner", "GET", "servers/commands")["commands"]:
        if not any(re.fullmatch(pattern, asked, re.DOTALL) for pattern in READING):
            seen[kind_of_command(asked)] += 1
    assert seen == kinds_of(ended)
    found = rows(operator, "SELECT id, kind FROM effects WHERE outcome = 'done'")
    assert Counter(row["kind"] for row in found if row["id"] > earlier) == seen
    assert life.emptied() == []


def newest_effect(operator: Operator) -> int:
    if not Path(operator.info()["state_file"]).exists():
        return 0
    return int(rows(operator, "SELECT MAX(id) AS id FROM effects")[0]["id"] or 0)


def kind_of_call(method: str, path: str) -> str:
    fits = [kind for kind, (verb, pattern) in CALLS.items() if verb == method and re.fullmatch(pattern, path)]
    return fits[0] if fits else f"{method} {path}"


def kind_of_command(asked: str) -> str:
    fits = [kind for kind, pattern in COMMANDS.items() if re.fullmatch(pattern, asked, re.DOTALL)]
    return fits[0] if fits else asked


def again(life: Life, scene: str) -> list[str]:
    """Run the same command once more: it must end well, and leave one of each thing or nothing."""
    ended = life.run(*SCENES[scene][1])
    if scene in {"destroy", "drain"}:
        wrong = not_empty(life.operator)
    else:
        wrong = not_waiting(life.operator) if scene == "fill" else not_complete(life.operator, "alice")
    if scene == "claim":
        kept = life.secrets() & life.secrets_of_pool
        wrong += [f"{len(kept)} secrets of the pool are in use still"] if kept else []
    if scene == "approve":
        found = life.operator.clawdet("approve", "alice", "--sandbox", "--json").document["devices"]
        wrong += [] if (len(found["pending"]), len(found["paired"])) == (0, 1) else [f"devices: {found}"]
    return wrong + ([f"ended with {ended.code}: {ended.err}"] if ended.code else [])


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


@pytest.mark.parametrize("way", [again, the_other_way])
@pytest.mark.parametrize(("scene", "moment"), MOMENTS)
def test_a_process_that_is_killed_there_loses_nothing(
    scene: str, moment: str, way: Callable[[Life, str], list[str]], life: Life, undisturbed: Undisturbed
) -> None:
    begin, command = SCENES[scene]
    wrong = []
    for number, what in numbered(scene, undisturbed(scene)):
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
    provision = life.run(*PROVISION, kill_after=1.5)
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


def kill_twice(life: Life, scene: str, first: Boundary, second: Boundary) -> tuple[bool, list[str]]:
    """Kill a command, and the same command again; say whether the second one lived so long, and what is wrong."""
    begin, command = SCENES[scene]
    begin(life)
    assert life.run(*command, kill_at=first).killed
    ended = life.run(*command, kill_at=second)
    found = again(life, scene) + life.emptied()
    return ended.killed, [f"{scene} killed {first}, then {second} ({ended.passed[-1:]}): {what}" for what in found]


def test_a_crash_in_the_recovery_from_a_crash_loses_nothing(life: Life, undisturbed: Undisturbed) -> None:
    chosen = random.Random(20)  # noqa: S311 - a sample, the same one each time
    wrong, tried = [], 0
    while tried < SAMPLED_PAIRS:
        scene = chosen.choice(["provision", "provision", "destroy", "claim"])
        number = chosen.choice(numbered(scene, undisturbed(scene)))[0]
        first = Boundary(number, chosen.choice(["before", "after"]))
        second = Boundary(chosen.randint(1, 3), chosen.choice(["before", "after"]))
        was_killed, found = kill_twice(life, scene, first, second)
        tried += was_killed
        wrong += found
    assert wrong == []


@pytest.mark.skipif(not os.environ.get("CLAWDET_KILL_PAIRS"), reason="takes long: CLAWDET_KILL_PAIRS=1 runs it")
@pytest.mark.parametrize("moment", ["before", "after"])
@pytest.mark.parametrize("scene", SCENES)
def test_every_ordered_pair_of_kills_loses_nothing(
    scene: str, moment: str, life: Life, undisturbed: Undisturbed
) -> None:
    wrong = []
    for number, _ in numbered(scene, undisturbed(scene)):
        for later in ("before", "after"):
            for second in count(1):
                was_killed, found = kill_twice(life, scene, Boundary(number, moment), Boundary(second, later))
                wrong += found
                if not was_killed:
                    break
    assert wrong == []


def test_kills_at_random_moments_lose_nothing(life: Life) -> None:
    assert play(life.operator, life.launcher, seed=3, most_rounds=12) == []
    for user in ("alice", "bob"):
        life.run("destroy", user, "--sandbox", "--yes", "--quiet")
    assert not_empty(life.operator) == []


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
