"""Two runs at once: on one user, on one machine and on two; and two that race for one DNS name."""

import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from clawdet_cli import lease
from clawdet_cli.adapters import retry
from clawdet_cli.stages import preflight, verify
from clawdet_cli.stages import provision as stages
from tests.e2e.operator import Operator
from tests.e2e.test_bad_input import error_of, provision
from tests.kill.invariants import not_complete
from tests.unit.test_lease import HOLDER

COMMAND = (sys.executable, "-m", "clawdet_cli")


@contextmanager
def at_work(operator: Operator) -> Iterator[subprocess.Popen[str]]:
    """Run a provision of alice that stands still while it holds the lease, until it is let go."""
    slow = {"kind": "delay", "method": "POST", "path": "/v1/servers", "seconds": 2}
    operator.control("hetzner", "POST", "faults", slow)
    process = subprocess.Popen(
        [*COMMAND, "provision", "alice", "--sandbox", "--events"],
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
                if '"stage": "create_server"' in line:
                    break
            yield process
            process.stderr.read()
            assert process.wait(60) == 0
        finally:
            process.kill()


@pytest.mark.parametrize("verb", [["provision"], ["destroy", "--yes"]], ids=["provision", "destroy"])
def test_the_second_run_says_who_is_at_work(verb: list[str], operator: Operator) -> None:
    with at_work(operator) as first:
        said = operator.clawdet(*verb, "alice", "--sandbox", "--json")
        error = error_of(said, 4, "state")
        assert error["what"].startswith("alice is being worked on by clawdet provision ")
        assert f"(process {first.pid} on {os.uname().nodename}, since 20" in error["what"]
        assert f"clawdet {verb[0]} alice --lock-wait 900" in error["next_steps"][0]
    assert not_complete(operator, "alice") == []


def test_the_second_run_waits_when_it_is_told_to(operator: Operator) -> None:
    with at_work(operator):
        said = operator.clawdet("provision", "alice", "--sandbox", "--lock-wait", "60")
        assert said.code == 0, said.err
        assert "waiting for clawdet provision (process" in said.err
        assert "alice is already complete" in said.out
    assert not_complete(operator, "alice") == []


def test_who_looks_at_an_instance_does_not_disturb_the_run_that_makes_it(
    operator: Operator, monkeypatch: pytest.MonkeyPatch
) -> None:
    publish, looks = verify._Evidence.nonce, 0

    def and_somebody_looks(evidence: Any) -> str:
        nonlocal looks
        nonce = publish(evidence)
        if evidence.run.state.held:
            looks += 1
            operator.clawdet("status", "alice", "--live", "--sandbox")
        return nonce

    monkeypatch.setattr(verify._Evidence, "nonce", and_somebody_looks)
    said = provision(operator)
    assert said.code == 0, said.err
    assert looks == 2
    assert not_complete(operator, "alice") == []


@contextmanager
def held_on_another_machine(operator: Operator) -> Iterator[subprocess.Popen[str]]:
    """Hold alice's lease where the host has another name and processes have other numbers."""
    unshare = shutil.which("unshare")
    if unshare is None or subprocess.run([unshare, "--pid", "--fork", "true"], check=False).returncode != 0:
        pytest.skip("this machine lets nobody make a namespace")
    elsewhere = [unshare, "--uts", "--pid", "--fork", "--kill-child", "--mount-proc"]
    shell = ["sh", "-c", 'hostname other-machine && exec "$@"', "sh"]
    process = subprocess.Popen(
        [*elsewhere, *shell, sys.executable, "-c", HOLDER, operator.info()["state_file"]],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    with process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == "held\n"
            yield process
        finally:
            process.kill()


def test_another_machine_with_the_same_state_keeps_it_until_it_is_dead(
    operator: Operator, monkeypatch: pytest.MonkeyPatch
) -> None:
    with held_on_another_machine(operator) as process:
        error = error_of(provision(operator), 4, "state")
        assert "by clawdet destroy (process 1 on other-machine, since" in error["what"]
        process.kill()
        process.wait()  # before its input is closed, which would have it give the lease back
    # Nobody can ask that machine: only that its heart beats no more can be seen.
    error_of(provision(operator), 4, "state")
    monkeypatch.setattr(lease, "STALE_SECONDS", 0.0)
    monkeypatch.setattr(lease, "WATCH_SECONDS", 0.2)
    said = operator.clawdet("provision", "alice", "--sandbox")
    assert said.code == 0, said.err
    assert "taking over from clawdet destroy (process 1 on other-machine" in said.err
    assert not_complete(operator, "alice") == []


def the_name_is_taken_meanwhile(operator: Operator, monkeypatch: pytest.MonkeyPatch, *, first: bool) -> dict[str, Any]:
    """Have somebody else take alice's name just before or just after this run does."""
    host = f"alice.{operator.info()['zone']}"
    theirs: dict[str, Any] = {}
    record = {"type": "A", "name": host, "content": "127.0.0.9", "proxied": True, "comment": "somebody's"}

    def take() -> None:
        path = f"/zones/{operator.zone_id()}/dns_records"
        theirs.update(operator.cloud("cloudflare", path, "POST", record)["result"])

    create, look = stages.create_dns_record, stages._refuse_to_share_the_name
    if first:
        own = preflight.own_record

        def found_free(*arguments: Any) -> Any:
            found = own(*arguments)
            if sys._getframe(1).f_code.co_name == create.__name__ and not theirs:
                take()
            return found

        monkeypatch.setattr(preflight, "own_record", found_free)
    else:

        def made(*arguments: Any) -> None:
            take()
            look(*arguments)

        monkeypatch.setattr(stages, "_refuse_to_share_the_name", made)
    return theirs


def test_who_comes_later_to_a_name_gives_way_and_says_so(operator: Operator, monkeypatch: pytest.MonkeyPatch) -> None:
    theirs = the_name_is_taken_meanwhile(operator, monkeypatch, first=True)
    error = error_of(provision(operator), 4, "state")
    assert "is taken by a DNS record that is not this instance's (A 127.0.0.9): it was not touched" in error["what"]
    assert [found["id"] for found in operator.records()] == [theirs["id"]]
    assert "EUR" in error["left_behind"][0]
    assert not any("DNS" in what for what in error["left_behind"])
    assert operator.clawdet("destroy", "alice", "--sandbox", "--yes").code == 0
    assert operator.servers() == []
    path = f"/zones/{operator.zone_id()}/dns_records/{theirs['id']}"
    assert operator.cloud("cloudflare", path)["result"] == theirs
    operator.cloud("cloudflare", path, "DELETE")


def test_who_came_first_to_a_name_waits_for_the_other_to_give_way(
    operator: Operator, monkeypatch: pytest.MonkeyPatch
) -> None:
    theirs = the_name_is_taken_meanwhile(operator, monkeypatch, first=False)
    wait = retry.until

    def gives_way(*arguments: Any, **options: Any) -> Any:
        path = f"/zones/{operator.zone_id()}/dns_records/{theirs['id']}"
        withdrawn = threading.Timer(0.2, operator.cloud, ("cloudflare", path, "DELETE"))
        withdrawn.start()
        try:
            return wait(*arguments, **options)
        finally:
            withdrawn.join()

    monkeypatch.setattr(stages, "until", gives_way)
    said = provision(operator)
    assert said.code == 0, said.err
    assert not_complete(operator, "alice") == []


def test_two_that_cannot_agree_on_a_name_are_told(operator: Operator, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stages, "RACE_SECONDS", 0.0)
    theirs = the_name_is_taken_meanwhile(operator, monkeypatch, first=False)
    error = error_of(provision(operator), 4, "state")
    assert "is taken by a DNS record" in error["what"]
    operator.cloud("cloudflare", f"/zones/{operator.zone_id()}/dns_records/{theirs['id']}", "DELETE")
    assert provision(operator).code == 0
