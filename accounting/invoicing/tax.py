"""Tax of an invoice: dated rules in whole parts per million, inclusive or exclusive, zero-rated or reverse charge."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum

from accounting.minor_units import distribute, divide, to_micro, to_minor

PPM = 1_000_000


class TaxKind(StrEnum):
    """How a supply is taxed."""

    STANDARD = "standard"  # at the rule's rate
    ZERO = "zero"  # taxable at nothing
    EXEMPT = "exempt"  # outside the tax
    REVERSE = "reverse"  # the customer accounts for it; the invoice must say so


@dataclass(frozen=True, slots=True)
class TaxRule:
    """`rate_ppm` parts per million (6 % = 60,000) of a legal entity's supplies in [valid_from, valid_to).

    `inclusive`: prices contain the tax. `note_en`, `note_zh`: the sentence that the law wants on the invoice.
    """

    code: str
    kind: TaxKind
    rate_ppm: int
    valid_from: datetime
    valid_to: datetime | None = None
    inclusive: bool = False
    name_en: str = ""
    name_zh: str = ""
    note_en: str = ""
    note_zh: str = ""

    def __post_init__(self) -> None:
        if not 0 <= self.rate_ppm <= PPM:
            raise ValueError("a tax rate lies between 0 and 1,000,000 parts per million")
        if self.kind is not TaxKind.STANDARD and self.rate_ppm:
            raise ValueError(f"{self.kind} supplies bear no tax: the rate is 0")
        if self.valid_to is not None and self.valid_to <= self.valid_from:
            raise ValueError("a tax rule ends after it begins")

    def valid_at(self, at: datetime) -> bool:
        return self.valid_from <= at and (self.valid_to is None or at < self.valid_to)


@dataclass(frozen=True, slots=True)
class Taxed:
    """What a document comes to in minor units, and each line's part; `rounding_micro` is what rounding added."""

    net: int
    tax: int
    gross: int
    rounding_micro: int
    line_net: tuple[int, ...]
    line_tax: tuple[int, ...]


def rate_text(rate_ppm: int) -> str:
    """60000 -> `6`, 81000 -> `8.1`: per cent without trailing zeros."""
    whole, rest = divmod(rate_ppm, 10_000)
    return f"{whole}.{rest:04d}".rstrip("0").rstrip(".")


def taxed(amounts_micro: Sequence[int], rule: TaxRule, currency: str) -> Taxed:
    """Round the sum of the lines once, tax it, and share both out to the lines (accounting.md, trap 23)."""
    total_micro = sum(amounts_micro)
    unit = to_micro(1, currency)
    rounded = to_minor(total_micro, currency)
    parts = distribute(rounded, amounts_micro, unit)
    rounding = to_micro(rounded, currency) - total_micro
    if rule.inclusive:
        tax = divide(rounded * rule.rate_ppm, PPM + rule.rate_ppm)
        exact = [amount * rule.rate_ppm for amount in amounts_micro]
        line_tax = distribute(tax, exact, unit * (PPM + rule.rate_ppm))
        line_net = tuple(part - share for part, share in zip(parts, line_tax, strict=True))
        return Taxed(rounded - tax, tax, rounded, rounding, line_net, tuple(line_tax))
    tax = divide(rounded * rule.rate_ppm, PPM)
    line_tax = distribute(tax, [amount * rule.rate_ppm for amount in amounts_micro], unit * PPM)
    return Taxed(rounded, tax, rounded + tax, rounding, tuple(parts), tuple(line_tax))
