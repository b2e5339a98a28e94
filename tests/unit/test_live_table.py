"""The live check's assumptions and the emulators' table of behaviours name the same things."""

from pathlib import Path

import pytest

from tests.live import __main__ as program
from tests.live.assumptions import ASSUMPTIONS, BEYOND, PRODUCT, Verdicts, behaviours, sentence
from tests.live.journal import Journal, Thing

ASSUMED = [name for subject in ASSUMPTIONS.values() for name in subject]


def test_every_assumption_is_a_behaviour_of_the_emulators() -> None:
    assert {name for name in ASSUMED if not name.startswith(PRODUCT)} - behaviours().keys() == set()
    assert len(ASSUMED) == len({*ASSUMED})


def test_every_behaviour_that_is_not_specified_is_tried_or_has_a_reason_not_to_be() -> None:
    unproved = {name for name, kind in behaviours().items() if kind in {"live", "guess"}}
    assert unproved - {*ASSUMED} - BEYOND.keys() == set()
    assert BEYOND.keys() - behaviours().keys() == set()
    assert BEYOND.keys() & {*ASSUMED} == set()


def test_the_order_is_that_of_the_subjects() -> None:
    assert list(ASSUMPTIONS) == list(program.SUBJECTS)


def test_an_assumption_that_failed_once_stays_so() -> None:
    verdicts = Verdicts()
    verdicts.judge(ASSUMED[0], held=False, evidence="first")
    verdicts.judge(ASSUMED[0], held=True, evidence="second")
    verdicts.not_tried(ASSUMED[0], "third")
    assert (verdicts.all()[0].outcome, verdicts.all()[0].evidence) == ("did not hold", "first")
    assert {one.outcome for one in verdicts.all()[1:]} == {"not tried"}
    assert sentence(ASSUMED[0])


def test_a_subject_that_breaks_off_says_so_of_what_it_did_not_try() -> None:
    verdicts = Verdicts()
    first, second, *_ = ASSUMPTIONS["rights"]

    def broken() -> None:
        with verdicts.of("rights"):
            verdicts.judge(first, held=True, evidence="seen")
            raise OSError("no route")

    with pytest.raises(OSError, match="no route"):
        broken()
    assert verdicts.found[first].outcome == "held"
    assert verdicts.found[second].evidence == "the subject broke off: no route"


def test_the_journal_names_what_is_left_and_the_users_of_a_thing_before_the_thing(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "private" / "journal")
    journal.begin(word="abc")
    journal.intend("firewall", "wall")
    journal.made("firewall", "wall", 1)
    journal.intend("server", "machine")
    journal.intend("record", "host")
    journal.made("record", "host", 2)
    journal.gone(Thing("record", "host", "2"))
    with (tmp_path / "private" / "journal").open("a") as file:
        file.write('{"made": "server", "na')  # it was killed here
    again = Journal(tmp_path / "private" / "journal")
    assert again.about == {"word": "abc"}
    assert again.things() == [Thing("server", "machine"), Thing("firewall", "wall", "1")]
    assert [thing.kind for thing in again.ever()] == ["record", "server", "firewall"]
    assert (tmp_path / "private").stat().st_mode & 0o777 == 0o700
    with pytest.raises(FileExistsError):
        again.begin(word="other")
