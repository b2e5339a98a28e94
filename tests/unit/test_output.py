"""Progress as lines, events and silence; text from elsewhere made harmless."""

import io
import json
import re
import sys
from dataclasses import replace

import pytest

from clawdet_cli.cli import output, screens
from clawdet_cli.cli.live import LiveView
from clawdet_cli.cli.options import Call, LocalCall
from clawdet_cli.model import Event, Firewall, FirewallRule, Plan
from tests.unit.fake_operations import OFFERS, an_instance

Captured = pytest.CaptureFixture[str]

AT = "2026-01-02T03:04:05.678+00:00"
RUN = (
    Event("stage_started", AT, "prepare_vps", text="Installing", seconds=48.0),
    Event("step_started", AT, "prepare_vps", "node", "Node.js 24.21.0"),
    Event("log", AT, "prepare_vps", text="added 330 packages"),
    Event("step_finished", AT, "prepare_vps", "node", status="done", seconds=3.21),
    Event("step_finished", AT, "prepare_vps", "swap", status="skipped"),
    Event("note", AT, "prepare_vps", text="remark\x1b[2J\x07 made"),
    Event("step_finished", AT, "prepare_vps", "caddy", "digest", status="failed"),
    Event("stage_finished", AT, "prepare_vps", text="It broke.", status="failed", seconds=63.0),
)


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("plain, ünïcode", "plain, ünïcode"),
        ("a\tb\r\nc", "a b c"),
        ("\x1b[31mred\x1b[0m \x1b[2J\x1b[1;1H", "red "),
        ("\x1b]0;title\x07x\x1b]8;;http://evil\x1b\\y", "xy"),
        ("\x9b31mc1", "31mc1"),
        ("\x00\x08\x7f", ""),
        ("gpj.\u202etxt", "gpj.txt"),
        ("a\u061cb\u200bc\ufeffd\u2060e\U000e0041f", "abcdef"),
        ("one\u2028two\x0bthree\x85four", "one two three four"),
        ("half \x1b[", "half "),
    ],
)
def test_text_from_elsewhere_cannot_steer_the_terminal(text: str, shown: str) -> None:
    assert output.clean(text) == shown


EVIL = "x\x1b]0;owned\x07\x1b[2J\x1b[32m\r\nforged\u202e\x9b0m"


def evil_instance(call: LocalCall) -> list[output.Screen]:
    """Give every screen on which words of a cloud's stand that are no sentence, but a type, a place or a number."""
    one = an_instance(server_type=EVIL, location=EVIL, record_id=EVIL, openclaw_version=EVIL, ipv4=EVIL, url=EVIL)
    offer = replace(OFFERS[0], server_type=EVIL, location=EVIL, architecture=EVIL)
    plan = Plan("alice", EVIL, EVIL, EVIL, EVIL, (offer, offer), EVIL, EVIL, EVIL, EVIL, (), (EVIL,), (EVIL,))
    wall = Firewall(1, EVIL, {}, (FirewallRule(EVIL, frozenset([EVIL]), EVIL, EVIL),), in_use=True)
    return [
        screens.status_table([one.standing], call),
        screens.status_detail(one, call),
        screens.plan(plan, call),
        screens.firewall(wall),
        screens.provisioned(one, call, already=False, calls={}, remarks=()),
        screens.rebuilt([one], {EVIL: [EVIL]}, call),
    ]


def test_no_word_of_a_cloud_in_a_result_steers_the_terminal(capsys: Captured) -> None:
    for screen in evil_instance(LocalCall()):
        output.result(LocalCall(), {}, screen)
    out = capsys.readouterr().out
    assert "forged" in out
    assert [line for line in out.splitlines() if not line.isprintable() or line.startswith("forged")] == []


def test_a_traceback_that_quotes_one_does_not_either(capsys: Captured) -> None:
    output.traceback_of(ValueError(EVIL))
    err = capsys.readouterr().err
    assert "ValueError: x" in err
    assert all(line.isprintable() for line in err.splitlines())


def test_our_own_colours_are_let_through_and_no_others() -> None:
    painted = output.paint_for(sys.stdout)  # pytest's is no terminal
    assert painted("x", "red") == "x"
    assert output._line("\x1b[1;31mred\x1b[0m \x1b[5mblinks\x1b[2J") == "\x1b[1;31mred\x1b[0m blinks"


def test_lines_tell_what_a_reader_of_a_log_wants(capsys: Captured) -> None:
    with output.progress(LocalCall()) as view:
        for event in RUN:
            view.watch(event)
    out, err = capsys.readouterr()
    assert out == ""
    assert err.splitlines() == [
        "03:04:05Z  prepare_vps           Installing",
        "03:04:05Z  prepare_vps           node: done after 3.2 s",
        "03:04:05Z  prepare_vps           swap: skipped",
        "03:04:05Z  prepare_vps           remark made",
        "03:04:05Z  prepare_vps           caddy: failed: digest",
        "03:04:05Z  prepare_vps           failed: It broke.",
    ]


def test_events_are_one_document_a_line(capsys: Captured) -> None:
    with output.progress(LocalCall(events=True)) as view:
        for event in RUN:
            view.watch(event)
    out, err = capsys.readouterr()
    assert out == ""
    found = [json.loads(line) for line in err.splitlines()]
    assert [event["kind"] for event in found] == [event.kind for event in RUN]
    assert found[3] == {
        "version": 1,
        "kind": "step_finished",
        "at": AT,
        "stage": "prepare_vps",
        "step": "node",
        "status": "done",
        "seconds": 3.21,
    }


@pytest.mark.parametrize("sandbox", [False, True])
def test_quiet_is_silent(capsys: Captured, *, sandbox: bool) -> None:
    with output.progress(Call(quiet=True, sandbox=sandbox)) as view:
        for event in RUN:
            view.watch(event)
    assert capsys.readouterr() == ("", "")


def test_the_sandbox_is_labelled_on_both_streams_and_in_documents(capsys: Captured) -> None:
    call = Call(sandbox=True)
    with output.progress(call):
        pass
    output.result(call, {"a": 1}, lambda _: ["text"], label="SANDBOX, simulated servers: not real")
    out, err = capsys.readouterr()
    assert err.startswith("SANDBOX")
    assert out == "SANDBOX, simulated servers: not real\n\ntext\n"
    output.result(Call(sandbox=True, json=True), {"a": 1}, lambda _: ["text"])
    assert json.loads(capsys.readouterr().out) == {"version": 1, "sandbox": True, "a": 1}


def test_the_real_clouds_are_not_labelled(capsys: Captured) -> None:
    with output.progress(Call()):
        pass
    output.result(Call(), {}, lambda _: ["text"])
    assert capsys.readouterr() == ("text\n", "")


class Screen(io.StringIO):
    """A terminal that is not UTF-8."""

    encoding = "ascii"


def shown(screen: Screen) -> str:
    """Give what was written, without styles and cursor movements."""
    return re.sub(r"\x1b\[[0-?]*[@-~]", "", screen.getvalue())


def test_the_live_view_leaves_stages_and_the_steps_of_what_failed() -> None:
    screen = Screen()
    view = LiveView(screen, coloured=False)
    view.watch(Event("stage_started", AT, "create_server", text="Ordering"))
    view.watch(Event("step_started", AT, "create_server", "one"))
    view.watch(Event("stage_finished", AT, "create_server", status="done", seconds=1.0))
    for event in RUN:
        view.watch(event)
    view.close(failed=True)
    left = shown(screen).rpartition("+ Ordering")[2]
    assert "one" not in left
    for text in ("x Installing", "1 min 03 s", "+ Node.js 24.21.0", "- swap", "nothing to do", "x caddy", "remark"):
        assert text in left
    assert "\x07" not in left


def test_the_live_view_marks_what_was_running_as_stopped() -> None:
    screen = Screen()
    view = LiveView(screen, coloured=False)
    view.watch(RUN[0])
    view.close(failed=True)
    assert "x Installing" in shown(screen)


def test_a_question_interrupts_the_live_view_and_repeats_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    screen = Screen()
    view = LiveView(screen, coloured=False)
    view.watch(Event("stage_started", AT, "a", text="First"))
    view.watch(Event("stage_finished", AT, "a", status="done"))
    monkeypatch.setattr("sys.stdin", io.StringIO("yes\n"))
    monkeypatch.setattr("sys.stderr", screen)
    before = len(shown(screen))
    assert output.ask(view, lambda _: ["the plan"], "Well?") == "yes"
    view.watch(Event("stage_started", AT, "b", text="Second"))
    view.watch(Event("stage_finished", AT, "b", status="done"))
    view.close(failed=False)
    after = shown(screen)[before:]
    assert "the plan\nWell? " in after
    assert "First" not in after.partition("Well? ")[2]
    assert "+ Second" in after


def test_the_end_of_input_is_no_answer(monkeypatch: pytest.MonkeyPatch, capsys: Captured) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO(""))
    assert output.ask(output.View(), lambda _: [], "Well?") == ""
    assert capsys.readouterr().err == "Well? \n"


@pytest.mark.parametrize(
    ("seconds", "text"), [(0.04, "0.0 s"), (59.94, "59.9 s"), (60, "1 min 00 s"), (3725, "62 min 05 s")]
)
def test_durations_are_written_as_people_say_them(seconds: float, text: str) -> None:
    assert output.duration(seconds) == text
