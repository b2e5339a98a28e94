"""The benchmark's own arithmetic, and that its parts are what the product does."""

import re
import subprocess
from pathlib import Path
from xml.etree import ElementTree as ET

from tests.bench import parts, results, timeline
from tests.bench.product import spans_of
from tests.bench.seed_flow import SCRIPT_BYTES, Origin, script_for
from tests.bench.spans import Measured, Memory, Span

PRODUCT = (Path(__file__).parents[2] / "provision-openclaw.sh").read_text()


def run(seconds: float, *spans: Span) -> Measured:
    return Measured(seconds, spans, Memory(512.0, "npm", 1400.0), load=0.1)


def event(kind: str, second: int, seconds: float, **more: str) -> dict[str, object]:
    return {"kind": kind, "at": f"1970-01-01T00:00:{second:02d}.000+00:00", "seconds": seconds, **more}


def test_ratios_compare_medians_with_sums_of_medians() -> None:
    runs = {
        "seed": [run(200.0), run(180.0), run(190.0)],
        "cold": [run(80.0), run(60.0), run(70.0)],
        "floor": [run(25.0), run(24.0), run(26.0)],
    }
    found = results.document(runs, {"node_download": [4.0], "npm_install": [41.0, 30.0, 36.0]}, {})

    assert found["variants"]["cold"]["median"] == 70.0
    assert found["variants"]["cold"]["seconds"] == [80.0, 60.0, 70.0]
    assert found["parts"] == {"node_download": 4.0, "npm_install": 36.0}
    assert found["ratios"] == {"cold/seed": 0.368, "cold/(floor+node_download+npm_install)": 1.077}


def test_ratios_are_given_within_rounds_where_none_failed() -> None:
    runs = {"seed": [run(200.0), run(100.0)], "bundle": [run(50.0), run(40.0)], "floor": [run(40.0)]}
    found = results.document(runs, {}, {})
    assert found["ratios_by_round"] == {"bundle/seed": [0.25, 0.4]}
    shown = [line.split() for line in results.table(found)]
    assert ["bundle/seed", "0.300", "0.325", "0.250", "0.400"] in shown
    assert ["bundle/floor", "1.125"] in shown
    # As many, but each may lack another round.
    assert results.ratios_by_round({"seed": [200.0], "bundle": [50.0], "floor": [40.0, 30.0]}) == {}


def test_memory_is_the_most_of_all_runs() -> None:
    first = Measured(1.0, (), Memory(700.0, "gateway", 1000.0, {"npm": 500.0, "gateway": 700.0}))
    second = Measured(1.0, (), Memory(600.0, "npm", 1200.0, {"npm": 600.0}))
    found = results.document({"cold": [first, second]}, {}, {})
    assert found["variants"]["cold"]["memory_mib"] == {
        "anonymous": 700,
        "during": "gateway",
        "with_cache": 1200,
        "by_stage": {"npm": 600, "gateway": 700},
    }


def test_what_was_not_measured_is_in_no_ratio() -> None:
    assert results.ratios({"seed": 200.0, "pool": 8.0}) == {"pool/seed": 0.04}


def test_the_middle_of_an_even_number_of_runs_is_one_of_them() -> None:
    assert results.middle([run(4.0), run(1.0), run(3.0), run(2.0)]).seconds == 2.0


def test_stages_lie_where_the_events_say() -> None:
    events = [
        event("stage_finished", 13, 2.0, stage="await_ssh", status="done"),
        event("step_finished", 14, 0.0, stage="prepare_vps", step="swap", status="skipped"),
        event("step_finished", 20, 5.0, stage="prepare_vps", step="openclaw", status="done"),
        event("stage_finished", 21, 8.0, stage="prepare_vps", status="done"),
    ]
    assert spans_of(events, started=10.0, seconds=12.0) == (
        Span("start of Python and the SDKs", 0.0, 1.0),
        Span("await_ssh", 1.0, 2.0),
        Span("prepare_vps", 3.0, 8.0),
        Span("end of the command", 11.0, 1.0),
        Span("prepare_vps/openclaw", 5.0, 5.0, level=1),
    )


def test_steps_that_are_heard_of_together_lie_one_before_the_other() -> None:
    events = [
        event("step_finished", 20, 2.0, stage="prepare_vps", step="node", status="done"),
        event("step_finished", 20, 3.0, stage="prepare_vps", step="openclaw", status="done"),
    ]
    assert [(span.start, span.end) for span in spans_of(events, started=0.0, seconds=30.0)] == [(15, 17), (17, 20)]


def test_steps_that_ran_beside_each_other_stay_so() -> None:
    events = [
        event("step_finished", 18, 6.0, stage="prepare_vps", step="node", status="done"),
        event("step_finished", 20, 5.0, stage="prepare_vps", step="caddy", status="done"),
    ]
    assert [(span.start, span.end) for span in spans_of(events, started=0.0, seconds=30.0)] == [(12, 18), (15, 20)]


def test_the_picture_is_well_formed_and_shows_every_stretch() -> None:
    cold = run(10.0, Span("a & b", 0.0, 4.0), Span("c", 4.0, 6.0), Span("c/d", 5.0, 3.0, level=1))
    picture = ET.fromstring(timeline.as_svg({"cold": cold, "floor": run(5.0)}, "<5 runs>"))  # noqa: S314 - ours
    titles = [one.text for one in picture.iter("{http://www.w3.org/2000/svg}title")]
    assert titles == ["a & b: 4.00 s, from 0.00 s", "c: 6.00 s, from 4.00 s", "c/d: 3.00 s, from 5.00 s"]


def test_parts_lie_below_their_stretch_in_a_terminal() -> None:
    cold = run(10.0, Span("c", 0.0, 5.0), Span("e", 5.0, 5.0), Span("c/d", 2.5, 2.5, level=1))
    lines = list(timeline.as_text("cold", cold, 20.0))
    assert [line.split()[0] for line in lines] == ["cold:", "c", "d", "e"]
    assert lines[2].split("|")[1].rstrip() == " " * 8 + "-" * 8


def test_the_seeds_script_has_the_originals_length_and_is_a_script() -> None:
    script = script_for(Origin("1", "certificate", "key"))
    assert abs(len(script) - SCRIPT_BYTES) < 100
    assert not re.search(r"@[A-Z_]+@", script)
    assert subprocess.run(["bash", "-n"], input=script, text=True, check=False).returncode == 0


def test_the_seed_waits_as_long_as_the_original_and_no_longer() -> None:
    script = (Path(timeline.__file__).parent / "seed.sh").read_text()
    assert re.findall(r"^sleep (\d+)$", script, re.MULTILINE) == ["2", "5", "3", "2"]


def test_parts_are_measured_as_the_product_does_them() -> None:
    assert f'npm ci --prefix "$1" {parts.NPM_CI}' in PRODUCT
    assert 'node "$INPUT_FOLDER/packages.js" && chmod -R u=rwX,go=rX .' in PRODUCT
    assert "node /opt/packages.js && chmod -R u=rwX,go=rX ." in parts.PACKAGES
    assert parts.UNPACK_NODE in PRODUCT


def test_the_lock_gets_the_addresses_that_npm_would_ask_for() -> None:
    lock = {
        "packages": {
            "": {"name": "vps"},
            "node_modules/a": {"version": "1.0.0", "integrity": "x"},
            "node_modules/a/node_modules/@scope/b": {"version": "2.0.0", "integrity": "y"},
            "node_modules/alias": {"name": "real", "version": "3.0.0", "integrity": "z"},
        }
    }
    found = parts.addressed(lock, "https://registry.example/")["packages"]
    assert [entry.get("resolved") for entry in found.values()] == [
        None,
        "https://registry.example/a/-/a-1.0.0.tgz",
        "https://registry.example/@scope/b/-/b-2.0.0.tgz",
        "https://registry.example/real/-/real-3.0.0.tgz",
    ]
