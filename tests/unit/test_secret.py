import base64
import json
import sqlite3
import zlib
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from clawdet_cli import cli, pins, secret
from clawdet_cli.adapters.ssh_keys import make_host_key
from clawdet_cli.cli import output
from clawdet_cli.errors import CloudError
from clawdet_cli.model import Check, Result, now_text
from clawdet_cli.secret import Secret, hide
from clawdet_cli.stages.user_data import user_data
from clawdet_cli.state import State
from tests.unit.fake_operations import FakeOperations, an_instance


def test_what_is_a_secret_is_masked_and_nothing_else() -> None:
    Secret("one-secret-value")
    assert hide("Bearer one-secret-value, one-secret") == "Bearer ***, one-secret"


@pytest.mark.parametrize("turn", [1, -1])
def test_a_secret_that_begins_like_another_leaves_no_tail(turn: int) -> None:
    for value in ["abcdefgh", "abcdefgh-and-more"][::turn]:
        Secret(value)
    assert hide("abcdefgh-and-more abcdefgh") == "*** ***"


@pytest.mark.parametrize("before", ["", "x", "xy", "xyz", "xyzz"])
@pytest.mark.parametrize("others", [0, secret.FEW])
def test_what_is_masked_depends_neither_on_how_many_there_are_nor_on_its_place(others: int, before: str) -> None:
    for number in range(others):
        Secret(f"{number:05d}-of-another")
    for value in ["abcdefgh", "abcdefgh-and-more", "another-one"]:
        Secret(value)
    text = f"{before}abcdefgh-and-more abcdefgh, an another-one and another"
    assert hide(text) == f"{before}*** ***, an *** and another"


def test_a_text_is_not_searched_for_each_of_many_secrets() -> None:
    class Text(str):
        __slots__ = ()
        replaced = searched = 0

        def __contains__(self, part: object) -> bool:
            Text.searched += 1
            return str(part) in str(self)

        def replace(self, *_: Any) -> "Text":
            Text.replaced += 1
            return self

    for number in range(5_000):
        Secret(f"{number:04d}-of-a-user")
    hide(Text("a line of a log without any of them, but for 0123-of-a-user"))
    # Once in each of the ways to write it that are alike.
    assert Text.replaced <= 3
    assert Text.searched <= 200


def test_it_is_masked_in_json_and_in_addresses_too() -> None:
    value = 'odd "secret" \\ with /?&ü'
    Secret(value)
    assert value not in hide(value)
    assert json.loads(hide(json.dumps({"text": f"a {value} b"}))) == {"text": "a *** b"}
    assert (
        hide("https://x.test/?key=odd%20%22secret%22%20%5C%20with%20%2F%3F%26%C3%BC&y") == "https://x.test/?key=***&y"
    )


@pytest.mark.parametrize("before", ["", "x", "us", "user:"])
@pytest.mark.parametrize("encode", [base64.b64encode, base64.urlsafe_b64encode])
def test_it_is_masked_within_base64_too(before: str, encode: Callable[[bytes], bytes]) -> None:
    value = "canary?>~0123456789"
    Secret(value)
    shown = hide(f"Authorization: Basic {encode(f'{before}{value}:more'.encode()).decode()}")
    assert shown.count("***") == 1
    assert encode(value.encode()).decode()[3:-4] not in shown


def test_a_host_key_is_masked_however_its_lines_are_broken() -> None:
    key = make_host_key()
    assert str(key.private) not in key.private.reveal()
    lines = [line for line in key.private.reveal().splitlines() if "-----" not in line]
    body = json.dumps({"ssh_keys": key.private.reveal()})
    for text in (key.private.reveal(), body, json.dumps(body), json.dumps(json.dumps(body))):
        assert not [line for line in lines if line in hide(text)]
    assert hide(key.public) == key.public


def test_the_user_data_that_holds_it_is_masked_whole() -> None:
    prepare = pins.load().for_openclaw(pins.load().default_openclaw, "x86").script_input()
    packed = user_data(make_host_key(), prepare).reveal()
    assert hide(json.dumps({"error": f"'{packed}' is too long"})) == json.dumps({"error": "'***' is too long"})
    # Its beginning alone, as an excerpt of a refusal would have it, unpacks to the script.
    unpacked = zlib.decompressobj(wbits=31).decompress(base64.b64decode(packed[:4000]))
    assert b"write_files" in unpacked
    assert b"PRIVATE KEY" not in unpacked


def test_what_is_too_short_to_be_a_secret_is_left() -> None:
    Secret("the")
    assert hide("the other") == "the other"


def test_a_secret_says_nothing_of_itself() -> None:
    assert [str(Secret("abcdefghi")), repr(Secret("abcdefghi")), f"{Secret('abcdefghi')}"] == ["Secret('***')"] * 3


def test_a_secret_that_a_cloud_repeats_is_shown_nowhere(
    fake: FakeOperations, capsys: pytest.CaptureFixture[str]
) -> None:
    Secret("hcloud-canary-0123")

    def echo(_user: str) -> None:
        # Also split by what a terminal would not show.
        raise CloudError("refused: hcloud-canary-0123", details=["header hcloud-\x1b[0mcanary-0123"])

    fake.during = echo
    for flags in ([], ["--json"], ["--events"], ["--quiet"], ["--debug"]):
        assert cli.main(["verify", "alice", "--zone", "example.com", *flags]) == 5
        out, err = capsys.readouterr()
        assert "hcloud-canary-0123" not in out + err
        assert "***" in out + err


def test_the_traceback_of_a_bug_is_masked(fake: FakeOperations, capsys: pytest.CaptureFixture[str]) -> None:
    Secret("hcloud-canary-0123")

    def fail(_user: str) -> None:
        raise RuntimeError("hcloud-canary-0123 was not expected")

    fake.during = fail
    assert cli.main(["verify", "alice", "--zone", "example.com", "--debug"]) == 1
    err = capsys.readouterr().err
    assert "RuntimeError: *** was not expected" in err
    assert "hcloud-canary-0123" not in err


def test_what_was_asked_for_is_shown(fake: FakeOperations, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["token", "alice", "--zone", "example.com"]) == 0
    assert capsys.readouterr().out == "token-of-alice\n"
    assert fake.asked == [("token", "alice")]


def test_the_database_holds_none(tmp_path: Path) -> None:
    Secret("hcloud-canary-0123")
    instance = an_instance(error="said hcloud-canary-0123")
    state = State(tmp_path / "clawdet.db")
    state.add(instance)
    state.record("alice", error="once more hcloud-canary-0123")
    state.save_checks(instance, [Check("server", Result.FAILED, "saw hcloud-canary-0123", now_text())])
    effect = state.begin_effect(instance, "s", "put_nonce", "of hcloud-canary-0123", {"to": "hcloud-canary-0123"})
    with closing(state):
        assert state.open_effects("alice")[0].data == {"to": "***"}
    assert effect.id == 1
    with closing(sqlite3.connect(tmp_path / "clawdet.db")) as database:
        dump = "\n".join(database.iterdump())
    assert dump.count("***") >= 4
    assert "canary" not in dump


def test_other_programs_are_given_no_secrets(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HCLOUD_TOKEN", "CLOUDFLARE_API_TOKEN", "ANTHROPIC_API_KEY", "SOME_SECRET"):
        monkeypatch.setenv(name, "canary")
    monkeypatch.setenv("TERM", "xterm")
    given = secret.public_environment()
    assert (given["TERM"], "canary" in given.values()) == ("xterm", False)


def test_the_live_view_shows_none() -> None:
    Secret("hcloud-canary-0123")
    assert output.clean("asked with hcloud-\x00canary-0123") == "asked with ***"
