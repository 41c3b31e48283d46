"""Read the numbers of a centre's statement: its decimal mark, what stands between thousands, whole units of ours."""

from __future__ import annotations

import re
from collections.abc import Sequence
from decimal import Decimal, InvalidOperation

from accounting.money import MICRO

BETWEEN_THOUSANDS = ("", ",", ".", " ", "'")
_BLANKS = str.maketrans("\u00a0\u202f", "  ")
_MICRO_MAX = 10**17


class Numbers:
    """Numbers as a centre writes them, as Python does: a point for the decimal mark, nothing between thousands."""

    def __init__(self, decimal: str, thousands: str) -> None:
        self._decimal, self._thousands = decimal, thousands
        self._as_python = decimal == "." and not thousands
        between, mark = re.escape(thousands), re.escape(decimal)
        self._grouped = re.compile(rf"[+-]?[0-9]{{1,3}}(?:{between}[0-9]{{3}})+(?:{mark}[0-9]*)?")

    def many(self, column: Sequence[str]) -> Sequence[str]:
        return column if self._as_python else [self.plain(word) for word in column]

    def plain(self, word: str) -> str:
        """ValueError: a mark where none can be, like the point of `1.234` where the decimal mark is a comma."""
        if self._as_python:
            return word
        found = word.translate(_BLANKS)
        if self._thousands and self._thousands in found:
            if not self._grouped.fullmatch(found):
                raise ValueError(f"{word!r} is no number")
            found = found.replace(self._thousands, "")
        if self._decimal != "." and "." in found:
            raise ValueError(f"{word!r} has a point, and its decimal mark is {self._decimal!r}")
        return found.replace(self._decimal, ".")


def scaled(text: str, factor: int, *, signed: bool = False) -> int:
    """A decimal number times a factor, half up to a whole; nothing stands between its digits."""
    if (found := _plain(text, factor)) is not None:
        return found
    try:
        number = Decimal(text) * factor
    except InvalidOperation:
        raise ValueError(f"{text!r} is no number") from None
    if not number.is_finite() or abs(number) > _MICRO_MAX or (number < 0 and not signed):
        raise ValueError(f"{text!r} is out of range")
    return int((abs(number) + Decimal("0.5")).to_integral_value("ROUND_FLOOR")) * (-1 if number < 0 else 1)


def _plain(text: str, factor: int) -> int | None:
    """Most numbers: digits alone, or no more decimals than micro-units have; None for all others."""
    before, point, after = text.partition(".")
    if not (before.isascii() and before.isdigit() and len(before) <= 9):
        return None
    if not point:
        return int(before) * factor
    if factor == MICRO and after.isascii() and after.isdigit() and len(after) <= 6:
        return int(before) * MICRO + int(after.ljust(6, "0"))
    return None
