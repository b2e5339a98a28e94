"""What each verb asks of the operations, and what it says of the answer."""

import json
import os
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from clawdet_cli import cli
from clawdet_cli.cli import output, pool_screens, screens
from clawdet_cli.cli.options import SandboxCall
from clawdet_cli.errors import ForeignNetworksError
from clawdet_cli.model import Destroyed, Devices, Effect, Status
from clawdet_cli.settings import Settings
from tests.unit.fake_operations import A_DEVICE, FakeOperations, an_instance

ZONE = ("--zone", "example.com")

Captured = pytest.CaptureFixture[str]


def document(capsys: Captured) -> dict[str, Any]:
    return dict(json.loads(capsys.readouterr().out))


def test_provision_goes_on_without_asking_off_a_terminal(fake: FakeOperations, capsys: Captured) -> None:
    assert cli.main(["provision", "alice", *ZONE]) == 0
    assert ("approved", "alice", True) in fake.asked
    out, err = capsys.readouterr()
    assert "alice is complete: https://alice.example.com/" in out
    assert "clawdet token alice --zone example.com" in out
    assert "Checks (6 of 6 passed" in out
    assert "Ordering the VPS" in err
    assert "Ordering the VPS" not in out


def test_provision_says_when_there_was_nothing_to_do(fake: FakeOperations, capsys: Captured) -> None:
    fake.already = True
    assert cli.main(["provision", "alice", *ZONE]) == 0
    assert "alice is already complete" in capsys.readouterr().out


def test_provision_hands_its_flags_on_as_settings(fake: FakeOperations) -> None:
    argv = ["provision", "alice", *ZONE, "--server-type", "cx33,cx23", "--location", "hel1", "--image", "debian-12"]
    argv += ["--openclaw-version", "2026.9.2", "--model", "openai/gpt-5.4", "--timeout", "60", "--ssh-key", "/k"]
    assert cli.main(argv) == 0
    found = fake.settings[-1]
    assert (found.zone, found.server_types, found.locations) == ("example.com", ("cx33", "cx23"), ("hel1",))
    assert (found.image, found.openclaw_version, found.model) == ("debian-12", "2026.9.2", "openai/gpt-5.4")
    assert (found.timeout, str(found.ssh_key)) == (60, "/k")


@pytest.mark.usefixtures("fake")
def test_the_document_of_an_instance_has_the_keys_that_scripts_rely_on(capsys: Captured) -> None:
    assert cli.main(["provision", "alice", *ZONE, "--json", "--quiet"]) == 0
    found = document(capsys)
    instance = found.pop("instance")
    assert found == {"version": 1}
    expected = {"user": "alice", "status": "complete", "server_id": 4711, "ipv4": "203.0.113.7", "record_id": "r1"}
    expected |= {"url": "https://alice.example.com/", "sandbox": False, "monthly_eur": 19.99}
    assert expected.items() <= instance.items()
    assert instance["stages"][0] == {"name": "create_server", "status": "done", "seconds": 1.25}
    assert [check["name"] for check in instance["checks"]] == [
        *("server", "dns", "openclaw", "gateway", "landing_page", "recorded")
    ]
    assert {"name", "ok", "evidence"} <= instance["checks"][0].keys()


def test_no_user_is_begun_when_one_of_the_names_is_wrong(fake: FakeOperations, capsys: Captured) -> None:
    assert cli.main(["provision", "alice", "www", *ZONE]) == 2
    assert fake.asked == []
    assert "'www' cannot be a user name" in capsys.readouterr().err


def test_a_dry_run_makes_nothing_and_tells_the_price(fake: FakeOperations, capsys: Captured) -> None:
    assert cli.main(["provision", "alice", *ZONE, "--dry-run"]) == 0
    assert [what for what, *_ in fake.asked] == ["plan"]
    text = capsys.readouterr().out
    assert "EUR 19.99 per month" in text
    assert "cx23 in nbg1, EUR 5.99" in text
    assert cli.main(["provision", "alice", *ZONE, "--dry-run", "--json"]) == 0
    plan = document(capsys)["plan"]
    assert plan["candidates"][0]["monthly_eur"] == 19.99
    assert plan["url"] == "https://alice.example.com/"


@pytest.mark.usefixtures("fake")
def test_names_of_keys_are_shown_and_their_values_never(capsys: Captured, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ANTHROPIC_API_KEY", "sk-canary-canary")
    monkeypatch.setenv("HCLOUD_TOKEN", "hetzner-canary")
    for more in ([], ["--json"], ["--dry-run"], ["--dry-run", "--json"]):
        assert cli.main(["provision", "alice", *ZONE, *more]) == 0
        out, err = capsys.readouterr()
        assert "canary" not in out + err
        assert "--dry-run" not in more or "ANTHROPIC_API_KEY" in out


def test_status_without_instances_is_fine(fake: FakeOperations, capsys: Captured) -> None:
    fake.instances.clear()
    assert cli.main(["status"]) == 0
    assert "There are no instances." in capsys.readouterr().out


def test_status_is_a_table(fake: FakeOperations, capsys: Captured) -> None:
    fake.instances["bob"] = an_instance("bob", created_at="2020-01-01T00:00:00+00:00", failing=["gateway"])
    assert cli.main(["status"]) == 6
    head, alice, bob = capsys.readouterr().out.splitlines()
    assert head.split()[:3] == ["USER", "STATUS", "URL"]
    assert alice.index("complete") == bob.index("complete") == head.index("STATUS")
    assert "6 ok" in alice
    assert "failed: gateway" in bob
    assert " d " in bob


@pytest.mark.parametrize(
    ("changes", "code"),
    [({}, 0), ({"status": Status.FAILED}, 6), ({"checks": ()}, 6), ({"failing": ["dns"]}, 6)],
)
def test_status_tells_by_its_exit_code_whether_all_is_well(
    fake: FakeOperations, changes: dict[str, Any], code: int
) -> None:
    fake.instances["alice"] = an_instance(**changes)
    assert cli.main(["status"]) == code
    assert cli.main(["status", "alice"]) == code
    assert cli.main(["status", "--json"]) == code


def test_status_of_one_user_is_shown_in_detail(fake: FakeOperations, capsys: Captured) -> None:
    fake.instances["alice"] = an_instance(status=Status.FAILED, error="it \x1b[31mbroke", url=None)
    assert cli.main(["status", "alice"]) == 6
    text = capsys.readouterr().out
    assert "alice: failed" in text
    assert "it broke" in text
    assert "prepare_vps          48.5 s" in text
    assert cli.main(["status", "alice", "--json"]) == 6
    assert document(capsys)["instance"]["error"] == "it \x1b[31mbroke"


def test_status_shows_what_an_interrupted_run_left_under_way(fake: FakeOperations, capsys: Captured) -> None:
    order = Effect(1, "alice", "r", "create_server", "create_server", "clawdet-alice", {}, "2026-11-22T05:20:00+00:00")
    fake.instances["alice"] = an_instance(status=Status.CREATING_VPS, open_effects=(order,))
    assert cli.main(["status", "alice"]) == 6
    text = capsys.readouterr().out
    assert "create server clawdet-alice, since 2026-11-22 05:20:00 UTC; not known to have ended" in text
    assert re.search(r"Next +clawdet provision alice", text)
    assert cli.main(["status", "alice", "--json"]) == 6
    (told,) = document(capsys)["instance"]["open_effects"]
    assert (told["kind"], told["name"], told["run_id"]) == ("create_server", "clawdet-alice", "r")


def test_status_looks_at_the_clouds_only_when_asked_to(fake: FakeOperations) -> None:
    assert cli.main(["status"]) == 0
    assert cli.main(["status", "alice", "--live"]) == 0
    assert fake.asked == [("standings",), ("status", "alice", True)]


def test_verify_shows_what_was_seen(fake: FakeOperations, capsys: Captured) -> None:
    assert cli.main(["verify", "alice"]) == 0
    assert "alice passes all 6 checks" in capsys.readouterr().out
    fake.instances["alice"] = an_instance(failing=["gateway"])
    assert cli.main(["verify", "alice"]) == 6
    text = capsys.readouterr().out
    assert "FAILED gateway       gateway was looked at" in text
    assert "clawdet provision alice" in text
    fake.instances["alice"] = an_instance(checks=())
    assert cli.main(["verify", "alice"]) == 6
    fake.instances["alice"] = an_instance(failing=["gateway"])
    capsys.readouterr()
    assert cli.main(["verify", "alice", "--json"]) == 6
    assert document(capsys)["instance"]["checks"][3] | {"at": ""} == {
        "name": "gateway",
        "ok": False,
        "result": "failed",
        "evidence": "gateway was looked at",
        "at": "",
    }


def test_what_was_not_judged_is_a_warning_and_with_strict_a_failure(fake: FakeOperations, capsys: Captured) -> None:
    fake.instances["alice"] = an_instance(unseen=["gateway", "landing_page"])
    assert cli.main(["verify", "alice"]) == 0
    said = capsys.readouterr()
    assert "alice passes 4 of 6 checks. Warning: Cloudflare keeps clawdet out" in said.out
    assert "these were not judged: gateway, landing_page" in said.out
    assert "Checks (4 of 6 passed" in said.out
    lines = said.out.splitlines()
    (judged,) = (line for line in lines if "server" in line and "was looked at" in line)
    (unseen,) = (line for line in lines if "gateway was looked at" in line)
    assert unseen.split("  ")[1].strip() == "not judged gateway"
    assert judged.index("server was") == unseen.index("gateway was")
    assert cli.main(["verify", "alice", "--strict"]) == 6
    assert cli.main(["status", "alice"]) == 0
    assert cli.main(["status"]) == 0
    assert "4 ok, not judged: gateway, landing_page" in capsys.readouterr().out
    assert cli.main(["status", "--strict"]) == 6
    capsys.readouterr()
    assert cli.main(["verify", "alice", "--json"]) == 0
    check = document(capsys)["instance"]["checks"][3]
    assert (check["name"], check["ok"], check["result"]) == ("gateway", False, "not_judged")


def test_of_several_users_too(fake: FakeOperations, capsys: Captured) -> None:
    fake.instances["alice"] = an_instance(unseen=["gateway"])
    fake.instances["bob"] = an_instance("bob")
    assert cli.main(["verify", "alice", "bob"]) == 0
    assert "5 checks passed, not judged: gateway" in capsys.readouterr().out
    assert cli.main(["verify", "alice", "bob", "--strict"]) == 6
    assert "not judged: gateway: gateway was looked at" in capsys.readouterr().out
    assert cli.main(["status", "alice", "bob", "--live", "--strict"]) == 6


def test_a_failure_is_not_hidden_by_what_was_not_judged(fake: FakeOperations, capsys: Captured) -> None:
    fake.instances["alice"] = an_instance(failing=["dns"], unseen=["gateway"])
    assert cli.main(["verify", "alice"]) == 6
    assert "alice fails 1 of 6 checks: dns" in capsys.readouterr().out
    assert cli.main(["status", "alice"]) == 6


def test_destroy_needs_consent_before_it_looks_at_anything(fake: FakeOperations, capsys: Captured) -> None:
    assert cli.main(["destroy", "alice", *ZONE]) == 2
    assert fake.asked == []
    assert "clawdet destroy alice --yes --zone example.com" in capsys.readouterr().err


def test_destroy_tells_what_it_removed(fake: FakeOperations, capsys: Captured) -> None:
    assert cli.main(["destroy", "alice", "--yes"]) == 0
    text = capsys.readouterr().out
    assert "removed   server clawdet-alice (id 4711)" in text
    assert "absent    no server clawdet-alice (id 4711)" in text
    assert cli.main(["destroy", "alice", "--yes", "--json"]) == 0
    gone = document(capsys)["destroyed"]
    assert gone == {
        "user": "alice",
        "removed": list(fake.found),
        "absent": [f"no {name}" for name in fake.found],
        "not_judged": [],
        "may_appear": [],
    }


def test_what_may_still_appear_is_said_of_the_pool_and_with_a_command_that_can_be_pasted() -> None:
    late = Destroyed("alice", (), (), may_appear=("server clawdet-alice",))
    call = SandboxCall(state=Path("/else where"))
    (line, total, step) = pool_screens.drained({"pool.k3v9x2ab": late}, [], call, {})(lambda text, _: text)
    assert line == "pool.k3v9x2ab: nothing was there; server clawdet-alice may still appear"
    assert (total, step) == (
        "1 removed, 0 in the pool; look again in two minutes:",
        "  clawdet reconcile --state '/else where'",
    )
    screen = "\n".join(screens.destroyed(late, call)(lambda text, _: text))
    assert "perhaps   server clawdet-alice may still appear" in screen
    assert "clawdet reconcile --state '/else where'" in screen


def test_destroy_of_several_says_what_may_still_appear(fake: FakeOperations, capsys: Captured) -> None:
    fake.found, fake.may_appear = (), ("server clawdet-alice",)
    assert cli.main(["destroy", "alice", "bob", "--yes"]) == 0
    assert "nothing was there; server clawdet-alice may still appear" in capsys.readouterr().out


def test_a_second_destroy_finds_nothing_and_is_content(fake: FakeOperations, capsys: Captured) -> None:
    fake.found = ()
    assert cli.main(["destroy", "alice", "--yes"]) == 0
    assert "Nothing to destroy: alice is gone." in capsys.readouterr().out


def test_the_token_stands_alone_on_stdout(fake: FakeOperations, capsys: Captured) -> None:
    assert cli.main(["token", "alice"]) == 0
    assert capsys.readouterr().out == "token-of-alice\n"
    assert cli.main(["token", "alice", "--json"]) == 0
    assert document(capsys) == {"version": 1, "token": "token-of-alice"}
    assert fake.asked == [("token", "alice")] * 2


def test_approve_lists_who_waits_and_lets_nobody_in_unasked(fake: FakeOperations, capsys: Captured) -> None:
    fake.known = Devices((A_DEVICE,), (replace(A_DEVICE, request=None),))
    assert cli.main(["approve", "alice"]) == 0
    out = capsys.readouterr().out
    assert "Linux x86_64 (openclaw-control-ui) at 192.0.2.7 asks to be let in" in out
    assert "clawdet approve alice 12345678-9abc" in out
    assert "Let in already" in out
    assert [asked[0] for asked in fake.asked] == ["devices"]


@pytest.mark.parametrize(("argument", "request_id"), [("12345678-9abc", "12345678-9abc"), ("--yes", None)])
def test_approve_lets_in_what_is_named_or_the_only_one(
    fake: FakeOperations, capsys: Captured, argument: str, request_id: str | None
) -> None:
    assert cli.main(["approve", "alice", argument, "--json"]) == 0
    assert document(capsys)["approved"]["device_id"] == A_DEVICE.id
    assert fake.asked == [("approve", "alice", request_id)]


def test_what_a_device_says_of_itself_does_nothing_to_a_terminal(fake: FakeOperations, capsys: Captured) -> None:
    evil = "\x1b]0;owned\x07\x1b[2J\r\n\u202eFirefox\x9b31m"
    fake.known = Devices((replace(A_DEVICE, platform=evil, client=evil, address=evil, scopes=(evil,)),), ())
    assert cli.main(["approve", "alice"]) == 0
    out = capsys.readouterr().out
    assert [character for character in out if not character.isprintable() and character != "\n"] == []
    assert out.count("Firefox") == 4


@pytest.mark.parametrize(
    ("argv", "remote"),
    [
        (["alice"], []),
        (["alice", "uptime", "-p"], ["uptime", "-p"]),
        (["alice", "--", "ls", "--json"], ["ls", "--json"]),
        (
            ["alice", "--zone", "example.com", "systemctl", "--quiet", "is-active", "x"],
            ["systemctl", "--quiet", "is-active", "x"],
        ),
        (["--zone=example.com", "alice", "ls", "--help"], ["ls", "--help"]),
        (["alice", "-L", "8080:localhost:18789"], ["-L", "8080:localhost:18789"]),
    ],
)
def test_ssh_leaves_the_remote_command_alone(
    fake: FakeOperations, monkeypatch: pytest.MonkeyPatch, argv: list[str], remote: list[str]
) -> None:
    executed: list[list[str]] = []
    monkeypatch.setattr(os, "execvpe", lambda _file, words, _environment: executed.append(words))
    assert cli.main(["ssh", *argv]) == 0
    assert executed == [["echo", "alice", *remote]]
    assert fake.asked == [("ssh_command", "alice", *remote)]


def test_an_option_before_the_user_is_ours(fake: FakeOperations, capsys: Captured) -> None:
    assert cli.main(["ssh", "-L", "alice"]) == 2
    assert "No such option: -L" in capsys.readouterr().err
    assert fake.asked == []


def test_ssh_says_what_to_install_when_openssh_is_missing(
    fake: FakeOperations, capsys: Captured, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fake, "ssh_command", lambda *_: ["/no/such/ssh"])
    assert cli.main(["ssh", "alice"]) == 3
    assert "apt-get install openssh-client" in capsys.readouterr().err


def test_a_proxy_is_told_of_once_and_without_its_password(
    fake: FakeOperations, capsys: Captured, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HTTPS_PROXY", "http://somebody:correct-horse@proxy.example:3128")
    assert cli.main(["provision", "alice", *ZONE]) == 0
    out, err = capsys.readouterr()
    said = "both APIs are talked to through the proxy http://somebody:***@proxy.example:3128 (HTTPS_PROXY)"
    assert err.count(said) == 1
    assert "correct-horse" not in out + err
    monkeypatch.setenv("NO_PROXY", ".hetzner.cloud")
    assert cli.main(["verify", "alice", "--ssh-proxy", "nc %h %p"]) == 0
    err = capsys.readouterr().err
    assert "api.cloudflare.com is talked to through the proxy" in err
    assert "SSH goes through the command that ssh_proxy names" in err
    assert fake.settings[-1].ssh_proxy == "nc %h %p"
    assert cli.main(["status", "alice"]) == 0
    assert "proxy" not in capsys.readouterr().err


def test_a_proxy_that_cannot_be_used_is_told_of_before_anything_is_asked(
    fake: FakeOperations, capsys: Captured, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ALL_PROXY", "socks5://somebody:correct-horse@proxy.example:1080")
    assert cli.main(["provision", "alice", *ZONE]) == 3
    err = capsys.readouterr().err
    assert "The proxy that ALL_PROXY names cannot be used" in err
    assert "correct-horse" not in err
    assert fake.asked == []


def test_whoever_would_be_locked_out_is_asked_about_on_a_terminal_only(
    fake: FakeOperations, capsys: Captured, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[bool] = []

    def refresh(settings: Settings, _watch: Any) -> None:
        seen.append(settings.replace_ssh_from)
        if not settings.replace_ssh_from:
            raise ForeignNetworksError("It lets in 198.51.100.0/24.", next_steps=["clawdet firewall refresh"])

    monkeypatch.setattr(fake, "refresh_firewall", refresh, raising=False)
    command = ["firewall", "refresh", *ZONE, "--ssh-from", "192.0.2.1"]
    assert cli.main(command) == 4
    assert cli.main([*command, "--replace-ssh-from"]) == 0
    assert seen == [False, True]
    monkeypatch.setattr(output, "interactive", lambda: True)
    for answer, code, asked in (("n", 4, [False]), ("y", 0, [False, True])):
        seen.clear()
        monkeypatch.setattr(output, "ask", lambda *_, answer=answer: answer)
        assert (cli.main(command), seen) == (code, asked)
    assert "198.51.100.0/24" in capsys.readouterr().err
