"""Round micro-units to the smallest coin of a currency, once, and share the result out by largest remainder."""

from __future__ import annotations

from collections.abc import Sequence
from decimal import Decimal

_MICRO_DIGITS = 6
# Decimals by ISO 4217 (table A.1, "minor unit") where they are not 2: banks pay in these. What people write (CLDR) has
# fewer places in some currencies, and changes with each edition; a bill may not.
DECIMALS = {
    **dict.fromkeys(("BHD", "IQD", "JOD", "KWD", "LYD", "OMR", "TND"), 3), **dict.fromkeys(("CLF", "UYW"), 4),
    **dict.fromkeys(("BIF", "CLP", "DJF", "GNF", "ISK", "JPY", "KMF", "KRW", "PYG", "RWF", "UGX", "UYI", "VND", "VUV",
                     "XAF", "XOF", "XPF"), 0),
}  # fmt: skip


def digits_of(currency: str) -> int:
    """How many decimals a currency is paid in: 2 for CNY, 0 for JPY, 3 for KWD; 2 where it is not known."""
    return DECIMALS.get(currency, 2)


def micro_per_minor(currency: str) -> int:
    """Micro-units in one minor unit, the smallest coin: 10,000 in a fen."""
    return int(10 ** (_MICRO_DIGITS - digits_of(currency)))


def divide(numerator: int, denominator: int) -> int:
    """An exact quotient rounded half away from zero."""
    sign = -1 if numerator < 0 else 1
    return sign * ((2 * abs(numerator) + denominator) // (2 * denominator))


def to_minor(micro: int, currency: str) -> int:
    """Micro-units as whole minor units, half away from zero."""
    return divide(micro, micro_per_minor(currency))


def to_micro(minor: int, currency: str) -> int:
    return minor * micro_per_minor(currency)


def distribute(total: int, exact: Sequence[int], scale: int) -> list[int]:
    """Whole parts that sum to `total`, each next to its exact value `exact[i] / scale` (largest remainder, then order).

    `total` is the rounded sum of the exact values: it differs from it by less than one.
    """
    parts = [value // scale for value in exact]
    order = sorted(range(len(exact)), key=lambda i: (-(exact[i] % scale), i))
    missing = total - sum(parts)
    if not 0 <= missing <= len(parts):
        raise ValueError(f"{total} is not the rounded sum of {len(exact)} parts")
    for i in order[:missing]:
        parts[i] += 1
    return parts


def plain(minor: int, currency: str) -> str:
    """Minor units as a plain decimal string in the currency's own places: 1234 CNY -> `12.34`, 5 JPY -> `5`."""
    digits = digits_of(currency)
    sign = "-" if minor < 0 else ""
    if digits == 0:
        return f"{minor}"
    whole, part = divmod(abs(minor), 10**digits)
    return f"{sign}{whole}.{part:0{digits}d}"


def decimal_of(minor: int, currency: str) -> Decimal:
    """For formatters at the edge, in the currency's own places: 140 CNY -> 1.40."""
    return Decimal(minor).scaleb(-digits_of(currency))
