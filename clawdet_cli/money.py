"""Prices, in the currency of the Hetzner account: most pay in euro, and not all. Imports nothing of ours."""

import re
from collections.abc import Iterable
from decimal import Decimal
from typing import Self

EURO = "EUR"
_RECORDED = re.compile(r"([0-9]{1,9}(?:\.[0-9]{1,9})?)(?: ([A-Z]{3}))?", re.ASCII)


class Price(Decimal):
    """An amount per month, without VAT. As text `19.99` is euro, and `21.50 USD` says what it is."""

    currency: str

    def __new__(cls, text: str | Decimal, currency: str = EURO) -> Self:
        """Read an amount, or what `str` gave. Raises ValueError."""
        found = _RECORDED.fullmatch(str(text) if currency == EURO else f"{text} {currency}")
        if found is None:
            raise ValueError(f"{text!r} {currency!r} is no price")
        price = super().__new__(cls, found[1])
        price.currency = found[2] or EURO
        return price

    def __str__(self) -> str:
        amount = format(self, "f")
        return amount if self.currency == EURO else f"{amount} {self.currency}"

    def __repr__(self) -> str:
        return f"Price({str(self)!r})"

    @property
    def shown(self) -> str:
        """Return it as people read it."""
        return f"{self.currency} {self:.2f}"

    @property
    def euro(self) -> float | None:
        """Return the amount, if it is in euro."""
        return float(self) if self.currency == EURO else None

    def times(self, number: int) -> "Price":
        """Return what so many cost."""
        return Price(Decimal(self) * number, self.currency)


def totals(prices: Iterable[Price]) -> list[Price]:
    """Sum up by currency: nobody here knows what one is worth in another."""
    found: dict[str, Decimal] = {}
    for price in prices:
        found[price.currency] = found.get(price.currency, Decimal(0)) + price
    return [Price(amount, currency) for currency, amount in sorted(found.items())]


def shown(prices: Iterable[Price]) -> str:
    """Return the totals as people read them."""
    return " and ".join(price.shown for price in totals(prices))
