"""An edge that does not know a new name everywhere yet, and a gateway that was started a moment ago."""

from typing import Any

import pytest

from clawdet_cli.stages import verify
from tests.e2e.operator import Operator
from tests.e2e.test_kept_out import PROVISION, amiss, checks, knobs
from tests.e2e.test_kept_out import verify as looked_at


@pytest.fixture
def in_order(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have nobody look ahead, so that the visits come in one order."""
    monkeypatch.setattr(verify._Evidence, "look_ahead", lambda _self: None)


def left(operator: Operator) -> list[Any]:
    return list(operator.control("cloudflare", "GET", "edge/knobs")["refusals"])


@pytest.mark.usefixtures("in_order")
@pytest.mark.parametrize(
    "refusals",
    [
        pytest.param([530, "alert", 409], id="the first look"),
        pytest.param([0, 530, "alert", 521], id="the nonce"),
        pytest.param([0, 0, 0, "alert", 409, 0, 522], id="the pages that want the token"),
        pytest.param([0, 0, 0, 0, 0, "alert", 523, 0, 530], id="the WebSockets"),
    ],
)
def test_what_the_edge_refuses_is_asked_for_again(operator: Operator, refusals: list[Any]) -> None:
    knobs(operator, refusals=refusals)
    said = operator.clawdet(*PROVISION)
    assert (said.code, amiss(said)) == (0, {}), said.err
    assert left(operator) == []


def test_a_share_of_refusals_in_a_names_first_minute_does_not_fail_it(operator: Operator) -> None:
    knobs(operator, unsteady_share=0.2, unsteady_seed=20)
    said = operator.clawdet(*PROVISION)
    assert (said.code, amiss(said)) == (0, {}), said.err


@pytest.mark.usefixtures("in_order")
@pytest.mark.parametrize(
    ("path", "check", "said"),
    [
        ("/.well-known/", "landing_page", "/.well-known/clawdet-nonce: HTTP 530: the edge finds no origin"),
        ("/app/control", "gateway", "/app/control-ui-config.json: HTTP 530: the edge finds no origin"),
        ("/app", "gateway", "/app/control-ui-config.json: HTTP 530: the edge finds no origin"),
    ],
)
def test_a_refusal_that_stays_is_told_and_nothing_untrue(operator: Operator, path: str, check: str, said: str) -> None:
    assert operator.clawdet(*PROVISION).code == 0
    knobs(operator, refusals=[530] * 10, refused_path=path)
    seen = looked_at(operator)
    assert (seen.code, amiss(seen)) == (6, {check: "failed"})
    assert said in checks(seen)[check]["evidence"]
    assert "another machine" not in checks(seen)[check]["evidence"]


def report(operator: Operator, **values: str) -> None:
    """Have the VPS report on itself with these values in place of the true ones."""
    true = {
        "openclaw_version": "2026.9.6",
        "node_version": "24.0.0",
        "openclaw_unit": "active",
        "openclaw_restarts": "0",
        "openclaw_active_seconds": "5",
        "listener_owner": "unit",
        "gateway_ready": "true",
        "gateway_health": "ok",
    }
    text = "".join(f"{name}={value}\n" for name, value in (true | values).items())
    operator.control("hetzner", "PUT", "servers/knobs", {"says": {"report": text}})


STARTING = {"gateway_ready": "false", "gateway_health": "failed", "listener_owner": "none"}


def test_a_gateway_that_was_just_started_is_waited_for(operator: Operator, monkeypatch: pytest.MonkeyPatch) -> None:
    assert operator.clawdet(*PROVISION).code == 0
    report(operator, **STARTING)
    asked, is_starting = [], verify._is_starting

    def then_it_answers(seen: dict[str, str]) -> bool:
        asked.append(is_starting(seen))
        if asked[-1]:
            operator.control("hetzner", "DELETE", "servers/knobs")
        return asked[-1]

    monkeypatch.setattr(verify, "_is_starting", then_it_answers)
    said = looked_at(operator)
    assert (said.code, amiss(said)) == (0, {}), said.err
    assert asked == [True, False]
    assert "the gateway was started a moment ago: waiting until it answers" in said.err


def test_one_that_never_answers_fails(operator: Operator, monkeypatch: pytest.MonkeyPatch) -> None:
    assert operator.clawdet(*PROVISION).code == 0
    report(operator, **STARTING)
    monkeypatch.setattr(verify, "STARTING_SECONDS", 0.0)
    said = looked_at(operator)
    assert (said.code, amiss(said)) == (6, {"openclaw": "failed", "gateway": "failed"})
    assert "/readyz says ready=false" in checks(said)["gateway"]["evidence"]


@pytest.mark.parametrize(
    ("values", "starting"),
    [
        ({}, True),
        ({"openclaw_unit": "activating"}, True),
        ({"openclaw_unit": "failed"}, False),
        ({"openclaw_active_seconds": "60"}, False),
        ({"openclaw_restarts": "3"}, False),
        ({"gateway_ready": "true", "gateway_health": "ok"}, False),
    ],
)
def test_only_a_first_start_of_a_moment_ago_is_waited_for(values: dict[str, str], starting: bool) -> None:
    young = {"openclaw_unit": "active", "openclaw_restarts": "0", "openclaw_active_seconds": "5", **STARTING}
    assert verify._is_starting(young | values) is starting
