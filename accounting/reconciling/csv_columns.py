"""Read many lines of a CSV statement at once: a column of plain figures is converted in one go.

What is not plain is read word by word, as a single line is, by the same functions; ValueError: one of the lines cannot
be read, and each has to be looked at by itself.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

# Digits that no limit of accounting/sources/figures.py refuses.
_SAFE_DIGITS = 9


def words(column: Sequence[str]) -> Sequence[str]:
    """The cells without the blanks around them."""
    text = "".join(column)
    plain = text.isascii() and text.isprintable() and " " not in text
    return column if plain else [cell.strip() for cell in column]


def are_digits(column: Sequence[str]) -> bool:
    """Whether each word is a short number in ASCII digits."""
    text = "".join(column)
    return text.isascii() and text.isdigit() and all(column) and max(map(len, column)) <= _SAFE_DIGITS


def are_ten_digits(column: Sequence[str]) -> bool:
    """Whether each word is a moment as epoch seconds of this century."""
    text = "".join(column)
    plain = text.isascii() and text.isdigit() and set(map(len, column)) == {10}
    return plain and min(column) >= "1"


def figures(column: Sequence[str], read: Callable[[str], int]) -> list[int]:
    """Whole numbers, 0 where there is no word; `read` is how a single one is read."""
    if not any(column):
        return [0] * len(column)
    return list(map(int, column)) if are_digits(column) else [read(word) for word in column]


def each(column: Sequence[str], read: Callable[[str], Any], *, nothing: Any) -> list[Any]:
    """What each word says, and `nothing` where there is none."""
    if not any(column):
        return [nothing] * len(column)
    return [read(word) if word else nothing for word in column]
