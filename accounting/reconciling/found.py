"""What a comparison of a statement with the books finds, before anybody asks why."""

from __future__ import annotations

from array import array
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from accounting.evidence.confirmations import leaf_of

_HASH = 32


@dataclass(frozen=True, slots=True)
class Tolerance:
    """Below this a difference is none: seconds × cores of the run, or millionths of its quantity, or micro-units.

    `statement_micro`: between the sums of many lines and a total that was rounded once.
    """

    seconds: int = 0
    ppm: int = 0
    micro: int = 1
    statement_micro: int = 10_000
    start_s: int = 5
    person_s: int = 300


@dataclass(frozen=True, slots=True)
class Pair:
    """One run in both: a line (statement.Line) and the governing reading (sides.Run)."""

    tier: str
    theirs: Any
    ours: Any


class Agreed:
    """Runs that agree with a line: numbers alone, as there may be a million. With them the hash that a confirmation
    of each commits to (evidence/confirmations.py), where a statement can confirm."""

    __slots__ = ("_leaves", "has_leaves", "lines", "readings")

    def __init__(self, *, has_leaves: bool = False) -> None:
        self.readings, self.lines = array("q"), array("q")
        self.has_leaves, self._leaves = has_leaves, bytearray()

    def __len__(self) -> int:
        return len(self.readings)

    def add(self, reading: int, line_no: int, key: Sequence[Any]) -> None:
        """`key`: site, run, meter and revision of the reading."""
        self.readings.append(reading)
        self.lines.append(line_no)
        if self.has_leaves:
            self._leaves += leaf_of(key, line_no)

    def leaf(self, at: int) -> bytes:
        return bytes(self._leaves[_HASH * at : _HASH * (at + 1)])


@dataclass(slots=True)
class Matched:
    """What the comparison found; only what differs is here as rows. `missing` and the like are lines and readings."""

    agreeing: Agreed
    lines: int = 0
    runs: int = 0
    agreed: int = 0
    pairs: list[Pair] = field(default_factory=list)
    proposals: list[Pair] = field(default_factory=list)
    duplicates: list[tuple[Any, int]] = field(default_factory=list)  # with the line that bills the run before
    unknown: list[Any] = field(default_factory=list)
    missing: list[Any] = field(default_factory=list)
    sums: list[tuple[Any, int, int | None]] = field(default_factory=list)
