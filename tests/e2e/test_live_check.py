"""`python -m tests.live`, run whole against the emulated clouds, and killed in the middle."""

import json
import os
import pty
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.operator import Operator, Said
from tests.live.assumptions import ASSUMPTIONS

WORD = "e2e"
NAME = f"clawdet-live-{WORD}"
CRIPPLED = "crippled-token-of-the-live-check-00000000"
REPOSITORY = Path(__file__).parents[2]

NOT_YET: set[str] = set()
"""What the emulators do not do as the vendors do."""

NOT_YET_TRIED: set[str] = set()
"""What needs a request that the edge refuses."""

SIMULATED: set[str] = {
    "guest.metadata-over-ipv4",
    "guest.metadata-over-ipv6",
    "guest.ssh-by-socket",
    "guest.needrestart-installed",
    "guest.memory",
}
"""What a simulated server cannot be asked."""

RELEASE_KNOBS = ("release_seconds", "firewall_release_seconds", "applied_to_seconds")
"""How long a firewall is in use after its last server; where servers boot in no time, that is none either."""

ALL = {name for subject in ASSUMPTIONS.values() for name in subject}


@pytest.fixture
def into(tmp_path: Path) -> Path:
    return tmp_path / "live"


def command(operator: Operator, into: Path, *options: str) -> tuple[list[str], dict[str, str]]:
    arguments = ["--sandbox", str(operator.state), "--into", str(into), "--word", WORD, *options]
    environment = operator.environment({"CLOUDFLARE_CRIPPLED_TOKEN": CRIPPLED})
    return [sys.executable, "-m", "tests.live", *arguments], environment


def live(operator: Operator, into: Path, *options: str) -> Said:
    arguments, environment = command(operator, into, *options)
    done = subprocess.run(
        arguments,
        cwd=REPOSITORY,
        env=environment,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    return Said(done.returncode, done.stdout, done.stderr)


def clean(operator: Operator, into: Path) -> Said:
    done = subprocess.run(
        [sys.executable, "-m", "tests.live", "--clean", str(into)],
        cwd=REPOSITORY,
        env=operator.environment(),
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    return Said(done.returncode, done.stdout, done.stderr)


def in_clouds(operator: Operator) -> dict[str, list[str]]:
    """Name what exists in both clouds."""
    hetzner = {kind: operator.cloud("hetzner", f"/{kind}")[kind] for kind in ("servers", "firewalls", "ssh_keys")}
    found = {kind: [str(one["name"]) for one in things] for kind, things in hetzner.items()}
    found["primary_ips"] = [str(one["ip"]) for one in operator.cloud("hetzner", "/primary_ips")["primary_ips"]]
    found["records"] = [str(one["name"]) for one in operator.records()]
    found["certificates"] = [str(one["hostnames"]) for one in operator.certificates()]
    return {kind: names for kind, names in found.items() if names}


@pytest.fixture
def others(operator: Operator) -> Iterator[dict[str, list[str]]]:
    """What somebody else has in the same accounts, named as if it were another run's."""
    wall = operator.cloud("hetzner", "/firewalls", "POST", {"name": "clawdet-live-other", "rules": []})["firewall"]
    zone = f"/zones/{operator.zone_id()}/dns_records"
    body = {"type": "A", "name": "clawdet-live-other", "content": "192.0.2.7", "proxied": True, "comment": "mine"}
    record = operator.cloud("cloudflare", zone, "POST", body)["result"]
    yield in_clouds(operator)
    operator.cloud("hetzner", f"/firewalls/{wall['id']}", "DELETE")
    operator.cloud("cloudflare", f"{zone}/{record['id']}", "DELETE")


def outcomes(table: Mapping[str, Any]) -> dict[str, str]:
    return {one["assumption"]: one["outcome"] for one in table["verdicts"]}


def test_the_whole_check_against_the_emulated_clouds(
    operator: Operator, others: dict[str, list[str]], into: Path
) -> None:
    known = operator.control("hetzner", "GET", "knobs")
    operator.control("hetzner", "PUT", "knobs", {name: 1.5 for name in RELEASE_KNOBS if name in known})
    operator.control("cloudflare", "POST", "tokens", {"token": CRIPPLED, "rights": ["zone:read"]})
    said = live(operator, into, "--yes")
    table = json.loads((into / "table.json").read_text())

    # Every assumption has a verdict, and it is the one that the table of behaviours promises.
    found = outcomes(table)
    assert found.keys() == ALL
    evidence = {one["assumption"]: one["evidence"] for one in table["verdicts"]}
    assert {name: evidence[name] for name, outcome in found.items() if outcome == "did not hold"}.keys() == NOT_YET
    assert {name for name, outcome in found.items() if outcome == "not tried"} == SIMULATED | NOT_YET_TRIED
    assert (table["broken"], table["left"]) == ([], [])
    assert said.code == (1 if NOT_YET else 0), said.err
    assert "Nothing is left in either cloud." in said.out
    assert all(name in said.out for name in ALL)
    assert {one["subject"] for one in table["steps"]} == {*ASSUMPTIONS, "cleanup"}

    # It says beforehand what it makes, and what for.
    announced = said.out.partition("accounts\n")[0]
    assert f"SANDBOX in {operator.state}" in announced
    assert NAME in announced
    assert "Price: 2.28 cents (EUR, VAT included" in announced

    # It removed what it made and touched nothing else.
    assert in_clouds(operator) == others
    assert not (into / "private").exists()

    # What it kept are fixtures: JSON, and nobody's.
    answers = sorted((into / "answers").rglob("*.json"))
    assert {path.parent.name for path in answers} == {*ASSUMPTIONS}
    info = operator.info()
    for path in [*answers, into / "table.json"]:
        text = path.read_text()
        assert json.loads(text)
        for secret in (
            *(info["hetzner_token"], info["hetzner_read_token"], info["cloudflare_token"], CRIPPLED),
            *(info["zone"], operator.zone_id(), str(operator.state), f"-{WORD}", "127.17.", "127.18.", "127.19."),
        ):
            assert secret not in text, path
    signed = json.loads((into / "answers" / "certificates" / "sign.200.json").read_text())
    assert signed["request"]["body"]["csr"].startswith("-----BEGIN CERTIFICATE REQUEST-----\n<pem>\n")
    assert signed["response"]["body"]["result"]["hostnames"] == ["clawdet-live-word.zone.example"]


def test_an_emulator_that_behaves_otherwise_is_told_of(operator: Operator, into: Path) -> None:
    operator.control(
        "hetzner", "POST", "faults", {"kind": "answer", "path": "/v1/datacenters", "status": 404, "body": {}}
    )
    assert live(operator, into, "--yes", "--only", "accounts").code == 1
    found = outcomes(json.loads((into / "table.json").read_text()))
    wrong = {name for name, outcome in found.items() if outcome == "did not hold"}
    assert wrong - NOT_YET == {"hetzner.datacenters-gone"}
    assert found["product.provision"] == "not tried"


def test_a_provision_that_fails_leaves_nothing(operator: Operator, into: Path) -> None:
    refusal = {"success": False, "errors": [{"code": 1010, "message": "no"}], "messages": [], "result": None}
    fault = {"kind": "answer", "method": "POST", "path": ".*/certificates", "status": 400, "body": refusal}
    operator.control("cloudflare", "POST", "faults", fault)
    said = live(operator, into, "--yes", "--only", "product")
    assert said.code == 1, said.err
    assert outcomes(json.loads((into / "table.json").read_text()))["product.provision"] == "did not hold"
    assert in_clouds(operator) == {}


def stopped_while_it_waits(operator: Operator, into: Path, number: signal.Signals) -> tuple[int, str]:
    """Stop the program while its server, which never starts, is waited for."""
    operator.control("hetzner", "PUT", "knobs", {"stuck_initializing": True})
    arguments, environment = command(
        operator, into, "--yes", "--only", "certificates", "--only", "edge", "--only", "server"
    )
    with subprocess.Popen(
        arguments, cwd=REPOSITORY, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    ) as process:
        assert process.stdout is not None
        said = ""
        for line in process.stdout:
            said += line
            if " order " in line:
                process.send_signal(number)
        return process.wait(), said


def test_a_killed_run_is_cleaned_up_by_another_process(operator: Operator, into: Path) -> None:
    code, said = stopped_while_it_waits(operator, into, signal.SIGKILL)
    assert code == -signal.SIGKILL, said
    left = in_clouds(operator)
    assert left.keys() == {"servers", "firewalls", "ssh_keys", "primary_ips", "records"}, said
    # As if it had been killed before the answers came: what was intended has a name, and no id.
    journal = into / "private" / "journal"
    lines = [line for line in journal.read_text().splitlines() if not line.startswith('{"made"')]
    journal.write_text("\n".join(lines) + "\n")
    # Of the same name, and without the run's mark: somebody else's.
    foreign = operator.cloud(
        "cloudflare",
        records := f"/zones/{operator.zone_id()}/dns_records",
        "POST",
        {"type": "TXT", "name": NAME, "content": "mine", "comment": "mine"},
    )["result"]
    cleaned = clean(operator, into)
    assert cleaned.code == 0, cleaned.out + cleaned.err
    assert in_clouds(operator) == {"records": [foreign["name"]]}
    operator.cloud("cloudflare", f"{records}/{foreign['id']}", "DELETE")
    assert not (into / "private").exists()
    assert clean(operator, into).code == 0, "a second time there is nothing to do"


def test_a_run_killed_during_provision_is_cleaned_up_after_that_has_ended(operator: Operator, into: Path) -> None:
    arguments, environment = command(operator, into, "--yes", "--only", "product")
    with subprocess.Popen(arguments, cwd=REPOSITORY, env=environment, stdout=subprocess.DEVNULL) as process:
        while not operator.servers():
            assert process.poll() is None
        process.kill()
    cleaned = clean(operator, into)
    assert cleaned.code == 0, cleaned.out + cleaned.err
    assert in_clouds(operator) == {}


def test_a_run_that_is_told_to_stop_cleans_up_first(operator: Operator, into: Path) -> None:
    code, said = stopped_while_it_waits(operator, into, signal.SIGTERM)
    assert code == 128 + signal.SIGTERM, said
    assert "Stopped by SIGTERM: cleaning up." in said
    assert in_clouds(operator) == {}
    assert not (into / "private").exists()


def test_who_says_no_at_the_terminal_makes_nothing(operator: Operator, into: Path) -> None:
    arguments, environment = command(operator, into)
    ours, theirs = pty.openpty()
    with subprocess.Popen(
        arguments, cwd=REPOSITORY, env=environment, stdin=theirs, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as process:
        os.close(theirs)
        os.write(ours, b"n\n")
        out, err = process.communicate(timeout=60)
    os.close(ours)
    assert process.returncode == 130
    assert b"Price: 2.28 cents" in out
    assert b"Go on? [y/N]" in out + err
    assert b"nothing was made" in err
    assert in_clouds(operator) == {}
    assert not (into / "private").exists()


def test_nothing_is_made_without_consent_or_where_a_name_is_taken(operator: Operator, into: Path) -> None:
    assert live(operator, into).code == 2
    assert live(operator, into, "--yes", "--word", "../up").code == 2
    wall = operator.cloud("hetzner", "/firewalls", "POST", {"name": NAME, "rules": []})["firewall"]
    before = in_clouds(operator)
    said = live(operator, into, "--yes")
    assert (said.code, f"firewalls {NAME}" in said.err) == (4, True)
    assert in_clouds(operator) == before
    operator.cloud("hetzner", f"/firewalls/{wall['id']}", "DELETE")


@pytest.mark.real
def test_a_real_guest_is_asked_over_ssh(real_sandbox: Operator, into: Path) -> None:
    said = live(real_sandbox, into, "--yes", "--only", "server")
    found = outcomes(json.loads((into / "table.json").read_text()))
    asked = {name for name in ASSUMPTIONS["server"] if name.startswith("guest.")}
    held = {name for name in asked if found[name] == "held"}
    assert {found[name] for name in asked} <= {"held", "did not hold"}, said.out
    assert held >= {"guest.host-key", "guest.metadata-over-ipv4", "guest.metadata-over-ipv6"}, said.out
    # What a guest like Ubuntu has, and Debian has not.
    like_ubuntu = {"guest.ssh-by-socket", "guest.needrestart-installed", "guest.memory"}
    if real_sandbox.info().get("guest") == "ubuntu-like":
        assert held >= like_ubuntu, said.out
    else:
        assert held.isdisjoint(like_ubuntu - {"guest.memory"}), said.out
    assert real_sandbox.holdings() == (0, 0, 0)
