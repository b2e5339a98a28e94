"""What of the pool no sandbox run shows as well: names, what fits, and the step in which a server changes hands."""

import threading
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from clawdet_cli import bootstrap, pins
from clawdet_cli.errors import StateError
from clawdet_cli.model import Category, Instance, Server, Status, is_member, is_user, member_by_labels, now_text
from clawdet_cli.settings import Settings, load
from clawdet_cli.stages import claim
from clawdet_cli.state import State
from tests.unit.test_comparison import ALICE, CREATED, differing, seen

NOW = datetime.now(UTC)
MEMBER = Instance(
    "pool.abcd1234",
    "",
    "abcdef012345",
    Status.COMPLETE,
    sandbox=False,
    created_at=NOW.isoformat(),
    updated_at=NOW.isoformat(),
    server_id=7,
    server_type="cpx22",
    location="nbg1",
    image="ubuntu-24.04",
    monthly="9.99",
    ipv4="203.0.113.7",
    host_key="ssh-ed25519 AAAA",
    openclaw_version="2026.9.6",
    installed=bootstrap.installed_text(
        bootstrap.prepared_as(pins.load().for_openclaw("2026.9.6", "x86").script_input())
    ),
)


@pytest.fixture
def state(tmp_path: Path) -> Iterator[State]:
    with closing(State(tmp_path / "clawdet.db")) as opened:
        yield opened


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return load({"state": tmp_path}, {}, default_openclaw="2026.9.6")


def test_a_server_of_the_pool_cannot_be_taken_for_a_user() -> None:
    assert is_member(MEMBER.user)
    assert not is_user(MEMBER.user)
    assert MEMBER.server_name == "clawdet-pool.abcd1234"
    assert not any(is_user(name.removeprefix("clawdet-")) for name in [MEMBER.server_name])
    assert MEMBER.labels == {"managed-by": "clawdet", "pool": "abcd1234", "run": "abcdef012345"}
    assert MEMBER.zone_label == {}
    assert member_by_labels(MEMBER.labels) == MEMBER.user
    assert member_by_labels(ALICE.labels) is None


@pytest.mark.parametrize(
    "labels",
    [
        {},
        {**ALICE.labels, "pool": "frontend"},
        {"pool": "abcd1234", "run": "abcdef012345"},
        {"managed-by": "terraform", "pool": "abcd1234", "run": "abcdef012345"},
        {"managed-by": "clawdet", "pool": "abcd1234"},
        {"managed-by": "clawdet", "pool": "../../etc", "run": "abcdef012345"},
    ],
)
def test_labels_that_clawdet_does_not_write_make_no_member(labels: dict[str, str]) -> None:
    assert member_by_labels(labels) is None


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({}, None),
        ({"status": Status.DESTROYING, "error": "it is off"}, "it is destroying: it is off"),
        ({"status": Status.INSTALLING}, "it is installing"),
        ({"server_type": "cax11"}, "it is a cax11 in nbg1, which is not asked for"),
        ({"installed": None}, "it was prepared by another version of clawdet, or with other downloads"),
        ({"host_key": None}, "its record is not whole"),
        ({"location": "ash"}, "it is a cpx22 in ash, which is not asked for"),
        ({"image": "debian-13"}, "it runs debian-13, not ubuntu-24.04"),
        ({"openclaw_version": "2026.9.2"}, "it has OpenClaw 2026.9.2, not 2026.9.6"),
        ({"created_at": (NOW - timedelta(days=7, minutes=1)).isoformat()}, "it was prepared more than 7 days ago"),
        ({"created_at": (NOW + timedelta(days=30)).isoformat()}, None),
    ],
)
def test_what_is_given_away(changes: dict[str, Any], why: str | None, settings: Settings) -> None:
    assert claim.unfit(replace(MEMBER, **changes), settings) == why


def alice(state: State, **changes: Any) -> Instance:
    made = Instance(
        "alice",
        "example.com",
        "alice0123456",
        Status.PENDING,
        sandbox=False,
        created_at=now_text(),
        updated_at=now_text(),
    )
    state.add(replace(made, **changes))
    return made


def test_it_leaves_the_pool_and_is_the_users_in_one_step(state: State) -> None:
    state.add(MEMBER)
    alice(state)
    assert [one.user for one in state.pool()] == [MEMBER.user]
    assert [one.user for one in state.instances()] == ["alice"]
    given = state.give(MEMBER, "alice", server_id=7, ipv4="203.0.113.7")
    assert (given.server_id, given.ipv4) == (7, "203.0.113.7")
    assert state.pool() == []
    gone = state.instance(MEMBER.user)
    assert gone is not None
    assert (gone.status, gone.server_id) == (Status.DESTROYED, None)


@pytest.mark.parametrize(
    "changes", [{"status": Status.DESTROYED}, {"status": Status.DESTROYING}, {"server_id": 8}, {"server_id": None}]
)
def test_what_is_not_as_it_was_seen_is_not_given(changes: dict[str, Any], state: State) -> None:
    state.add(replace(MEMBER, **changes))
    alice(state)
    with pytest.raises(StateError, match="waits in the pool no more"):
        state.give(MEMBER, "alice", server_id=7)
    kept = state.instance("alice")
    assert kept is not None
    assert kept.server_id is None


def test_of_many_who_want_it_one_gets_it(state: State, tmp_path: Path) -> None:
    state.add(MEMBER)
    users = [f"user{number}" for number in range(8)]
    for user in users:
        state.add(replace(ALICE, user=user, server_id=None))
    got: list[str] = []
    start = threading.Barrier(len(users))

    def want(user: str) -> None:
        with closing(State(tmp_path / "clawdet.db")) as own:
            start.wait(10)
            try:
                own.give(MEMBER, user, server_id=7)
            except StateError:
                return
            got.append(user)

    threads = [threading.Thread(target=want, args=(user,)) for user in users]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert len(got) == 1
    assert [one.user for one in state.instances() if one.server_id == 7] == got


SERVER = Server(7, MEMBER.server_name, "running", MEMBER.ipv4, "cpx22", "nbg1", MEMBER.labels, CREATED, (7,))


def test_reconcile_knows_what_waits() -> None:
    vps = {MEMBER.user: ""}
    assert differing(seen((MEMBER,), servers=[SERVER], records={}, certificates={}, vps=vps)) == []


@pytest.mark.parametrize(
    ("server", "category", "what"),
    [
        (None, Category.GHOST, "it is recorded, and Hetzner has no server with this id"),
        (replace(SERVER, status="off"), Category.DRIFTED, "it is off"),
        (replace(SERVER, labels={}), Category.DRIFTED, "its labels were changed"),
        (replace(SERVER, name="other"), Category.DRIFTED, "it was renamed from clawdet-pool.abcd1234"),
    ],
)
def test_reconcile_tells_how_it_differs(server: Server | None, category: Category, what: str) -> None:
    servers = [] if server is None else [server]
    (finding,) = differing(seen((MEMBER,), servers=servers, records={}, certificates={}, vps={}))
    assert (finding.category, finding.kind, finding.what) == (category, "server", what)


def test_reconcile_finds_one_that_no_database_knows() -> None:
    (orphan,) = differing(seen((), servers=[SERVER], records={}, certificates={}, vps={}))
    assert (orphan.category, orphan.user) == (Category.ORPHAN, MEMBER.user)
    assert orphan.decision.startswith("clawdet state rebuild")


def test_reconcile_says_how_a_claim_that_was_cut_off_goes_on() -> None:
    cut_off = replace(ALICE, server_id=7, ipv4="203.0.113.7", status=Status.FAILED)
    found = differing(seen((cut_off,), servers=[SERVER]))
    (server,) = [one for one in found if one.kind == "server"]
    assert (server.what, server.decision) == (
        "it was taken from the pool, and still has the pool's name and labels",
        "clawdet provision alice",
    )


def test_reconcile_never_says_to_take_a_server_from_its_user() -> None:
    given = replace(SERVER, name="clawdet-zoe", labels={**ALICE.labels, "user": "zoe"})
    found = differing(seen((MEMBER,), servers=[given], records={}, certificates={}, vps={}))
    ghost = next(one for one in found if one.category is Category.GHOST)
    assert (ghost.what, ghost.fix, ghost.decision) == (
        "it is zoe's by its labels: another database has given it away",
        "takes it out of the database",
        "",
    )


def test_what_was_given_away_is_not_condemned_afterwards(state: State) -> None:
    state.add(MEMBER)
    alice(state)
    state.give(MEMBER, "alice", server_id=7)
    state.condemn(MEMBER, Status.DESTROYING, "it is not well")
    gone = state.instance(MEMBER.user)
    assert gone is not None
    assert gone.status is Status.DESTROYED
