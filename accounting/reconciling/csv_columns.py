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
    """What each word says by itself, and `nothing` where there is none."""
    if not any(column):
        return [nothing] * len(column)
    return [read(word) if word else nothing for word in column]


def counts(column: Sequence[str], read: Callable[[str], int], *, nothing: int | None) -> list[int | None]:
    """Whole numbers, and `nothing` where there is no word."""
    given = [word for word in column if word]
    return each(column, int if given and are_digits(given) else read, nothing=nothing)


def amounts(column: Sequence[str], read: Callable[[str], int]) -> list[int | None]:
    """Micro-units of decimal numbers with a point, None where there is none."""
    places = _same_places([word for word in column if word])
    if not places:
        return each(column, read, nothing=None)
    whole, unit = -1 - places, int(10 ** (6 - places))
    return [int(word[:whole] + word[-places:]) * unit if word else None for word in column]


def _same_places(given: Sequence[str]) -> int:
    """How many decimals each of these numbers has, if all have as many: at most six; 0: they are not so plain."""
    places = len(given[0]) - given[0].find(".") - 1 if given else 0
    if not 1 <= places <= 6:
        return 0
    text, point = "".join(given), slice(-1 - places, -places)
    plain = text.isascii() and text.replace(".", "").isdigit() and text.count(".") == len(given)
    widths = set(map(len, given))
    fit = plain and min(widths) > places + 1 and max(widths) <= _SAFE_DIGITS + 1 + places
    return places if fit and all(word[point] == "." for word in given) else 0
