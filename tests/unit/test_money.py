"""Prices keep their currency wherever they go, and none is taken for another."""

import copy
import json
from dataclasses import asdict, replace
from decimal import Decimal
from typing import Any

import pytest

from clawdet_cli import cli
from clawdet_cli.model import Category, Finding, Reconciled
from clawdet_cli.money import Price, shown, totals
from clawdet_cli.stages.runner import left_behind
from tests.unit.fake_operations import FakeOperations, an_instance

ZONE = ("--zone", "example.com")


@pytest.mark.parametrize("text", ["19.99", "0.5", "21.50 USD", "7"])
def test_what_is_recorded_is_read_again_as_it_was(text: str) -> None:
    price = Price(text)
    assert str(price) == text
    assert (str(copy.deepcopy(price)), copy.deepcopy(price).currency) == (text, price.currency)


@pytest.mark.parametrize("text", ["", "free", "-1", "1e3", "19.99 usd", "19.99USD", "19.99 EURO", "NaN"])
def test_what_is_no_price_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="is no price"):
        Price(text)


def test_an_amount_of_another_currency_is_never_called_euro() -> None:
    dollars = Price(Decimal("21.50"), "USD")
    assert (dollars.shown, dollars.euro, str(dollars)) == ("USD 21.50", None, "21.50 USD")
    assert (dollars.times(3).shown, Price("5.99").shown) == ("USD 64.50", "EUR 5.99")


def test_sums_are_made_by_currency() -> None:
    prices = [Price("1.10"), Price("2.20 USD"), Price("3.30"), Price("4.40 USD")]
    assert [price.shown for price in totals(prices)] == ["EUR 4.40", "USD 6.60"]
    assert shown(prices) == "EUR 4.40 and USD 6.60"
    assert shown([]) == ""


def test_what_exists_after_a_failure_is_told_with_its_currency() -> None:
    (line, *_) = left_behind(replace(an_instance("alice"), monthly="21.50 USD"))
    assert "USD 21.50 per month until it is destroyed" in line
    assert "EUR" not in line


def test_documents_say_the_currency_and_leave_the_euro_out(
    fake: FakeOperations, capsys: pytest.CaptureFixture[str]
) -> None:
    fake.instances["alice"] = an_instance("alice", monthly="21.50 USD")
    assert cli.main(["status", "alice", *ZONE, "--json"]) == 0
    found: dict[str, Any] = json.loads(capsys.readouterr().out)
    (instance,) = found["instances"] if "instances" in found else [found["instance"]]
    assert (instance["monthly_eur"], instance["monthly"], instance["currency"]) == (None, 21.5, "USD")
    assert cli.main(["status", "alice", *ZONE]) == 0
    out = capsys.readouterr().out
    assert "USD 21.50 per month" in out
    assert "EUR" not in out


def test_orphans_are_summed_up_by_currency() -> None:
    def orphan(price: str) -> Finding:
        return Finding(Category.ORPHAN, "server", "alice", "clawdet-alice", "1", "", Price(price))

    found = Reconciled((orphan("1.00"), orphan("2.00 USD"), orphan("3.00")), {})
    assert shown(found.orphans_monthly) == "EUR 4.00 and USD 2.00"
    assert asdict(found)["findings"][1]["monthly"].currency == "USD"
