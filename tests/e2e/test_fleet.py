"""Many users with one command: counted on the wire, with a failure among them, stopped and killed in the middle."""

import json
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from tests.e2e.operator import Operator
from tests.kill.invariants import not_complete, not_empty, unfinished

USERS = [f"fleet{number:02d}" for number in range(8)]
FLAGS = ("--sandbox", "--yes", "--json")
DOWN = ("destroy", *USERS, *FLAGS, "--parallel", "8", "--quiet")


def wire(operator: Operator) -> dict[str, int]:
    return {cloud: len(operator.control(cloud, "GET", "requests")["requests"]) for cloud in ("hetzner", "cloudflare")}


@contextmanager
def running(operator: Operator) -> Iterator[subprocess.Popen[str]]:
    """Run a provision of all users, up to where one of them has ordered its server and others are at it."""
    process = subprocess.Popen(
        [sys.executable, "-m", "clawdet_cli", "provision", *USERS, *FLAGS, "--parallel", "4", "--events"],
        env=operator.environment(),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    with process:
        try:
            assert process.stderr is not None
            for line in process.stderr:
                if line.startswith("{") and json.loads(line).get("stage") == "create_dns_record":
                    break
            yield process
        finally:
            process.kill()


def test_a_dozen_take_few_calls_each_and_all_are_as_if_made_alone(operator: Operator) -> None:
    users = [f"wire{number:02d}" for number in range(12)]
    for cloud in ("hetzner", "cloudflare"):
        operator.control(cloud, "DELETE", "requests")
    said = operator.clawdet("provision", *users, *FLAGS, "--parallel", "12", "--quiet")
    assert said.code == 0, said.out
    seen = wire(operator)
    assert said.document["calls"] == seen
    # What has to be: a server, a label, a record, a certificate for each; the rest is read for all of them.
    assert all(seen[cloud] <= 5.5 * len(users) for cloud in seen), seen
    assert not_complete(operator, *users) == []
    assert said.document["monthly_eur"] == pytest.approx(19.99 * 12)
    gone = operator.clawdet("destroy", *users, *FLAGS, "--parallel", "12", "--quiet")
    assert gone.code == 0, gone.out
    assert {one["user"] for one in gone.document["destroyed"]} == set(users)
    assert not_empty(operator) == []


def test_the_failure_of_one_stops_nobody_else(operator: Operator) -> None:
    record = {"type": "A", "name": f"{USERS[3]}.{operator.info()['zone']}", "content": "192.0.2.9"}
    foreign = operator.cloud("cloudflare", f"/zones/{operator.zone_id()}/dns_records", "POST", record)["result"]
    said = operator.clawdet("provision", *USERS, *FLAGS, "--parallel", "8", "--quiet")
    assert said.code == 4
    (failure,) = said.document["failures"]
    assert failure["user"] == USERS[3]
    assert "is taken by a DNS record that is not this instance's" in failure["what"]
    states = {one["user"]: one["status"] for one in said.document["instances"]}
    assert states == {user: "failed" if user == USERS[3] else "complete" for user in USERS}
    operator.cloud("cloudflare", f"/zones/{operator.zone_id()}/dns_records/{foreign['id']}", "DELETE")
    checked = operator.clawdet("verify", USERS[0], USERS[1], "--sandbox", "--json", "--quiet")
    assert checked.code == 0, checked.out
    assert operator.clawdet("status", "--live", "--sandbox", "--json", "--quiet").code == 6
    assert operator.clawdet("provision", *USERS, *FLAGS, "--parallel", "8", "--quiet").code == 0
    assert not_complete(operator, *USERS) == []
    assert operator.clawdet(*DOWN).code == 0
    assert not_empty(operator) == []


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_what_is_cut_off_in_the_middle_goes_on_with_the_same_command(
    number: signal.Signals, operator: Operator
) -> None:
    with running(operator) as process:
        process.send_signal(number)
        out, _ = process.communicate(timeout=60)
    if number is signal.SIGKILL:
        assert process.returncode == -signal.SIGKILL
    else:
        assert process.returncode == 128 + number
        said = json.loads(out)
        assert {one["kind"] for one in said["failures"]} == {"stopped"}
        assert len(said["not_begun"]) + len(said["failures"]) <= len(USERS)
        assert said["not_begun"]
        # What exists of those that were stopped is known and told of.
        assert unfinished(operator) == []
        assert len(operator.servers()) == sum(1 for one in said["instances"] if one["server_id"])
    again = operator.clawdet("provision", *USERS, *FLAGS, "--parallel", "8", "--quiet")
    assert again.code == 0, again.out
    assert not_complete(operator, *USERS) == []
    assert operator.clawdet(*DOWN).code == 0
    assert not_empty(operator) == []
