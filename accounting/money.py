"""Money is an integer of micro-units with a currency; `Decimal` only at the edge."""

from __future__ import annotations

import re
from dataclasses import dataclass
from decimal import Decimal

MICRO = 1_000_000
_CURRENCY = re.compile(r"[A-Z]{3}\Z")


@dataclass(frozen=True, slots=True)
class Money:
    """`micro` millionths of one unit of `currency` (ISO 4217)."""

    micro: int
    currency: str

    def __post_init__(self) -> None:
        if not isinstance(self.micro, int) or isinstance(self.micro, bool):
            raise TypeError("money is counted in whole micro-units")
        if not _CURRENCY.match(self.currency):
            raise ValueError(f"{self.currency!r} is no ISO 4217 code")

    @property
    def decimal(self) -> Decimal:
        return Decimal(self.micro) / MICRO

    def __str__(self) -> str:
        return f"{format_micro(self.micro)} {self.currency}"


def is_currency(commodity: str) -> bool:
    """Whether it is counted in micro-units of money, not in units of a resource."""
    return _CURRENCY.match(commodity) is not None


def format_micro(micro: int) -> str:
    """A plain decimal string with at least two places: 1500000 -> `1.50`, -1 -> `-0.000001`."""
    sign = "-" if micro < 0 else ""
    whole, part = divmod(abs(micro), MICRO)
    digits = f"{part:06d}".rstrip("0").ljust(2, "0")
    return f"{sign}{whole}.{digits}"


def parse_amount(text: str) -> int:
    """A decimal string in micro-units; ValueError where it is none or has more than six places."""
    match = re.fullmatch(r"(-?)([0-9]{1,15})(?:\.([0-9]{1,6}))?", text.strip())
    if match is None:
        raise ValueError(f"{text!r} is no amount with at most six decimal places")
    micro = int(match[2]) * MICRO + int((match[3] or "").ljust(6, "0") or 0)
    return -micro if match[1] else micro
