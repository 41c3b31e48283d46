"""What a comparison of a statement with the books finds, before anybody asks why."""

from __future__ import annotations

from array import array
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any


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
    """Runs that agree with a line: numbers alone, as there may be a million."""

    __slots__ = ("lines", "readings")

    def __init__(self) -> None:
        self.readings, self.lines = array("q"), array("q")

    def __len__(self) -> int:
        return len(self.readings)

    def add(self, readings: Iterable[int], lines: Iterable[int]) -> None:
        """Each reading with its line."""
        self.readings.extend(readings)
        self.lines.extend(lines)


@dataclass(slots=True)
class Matched:
    """What the comparison found; only what differs is here as rows. `missing` and the like are lines and readings."""

    agreeing: Agreed = field(default_factory=Agreed)
    lines: int = 0
    runs: int = 0
    agreed: int = 0
    pairs: list[Pair] = field(default_factory=list)
    proposals: list[Pair] = field(default_factory=list)
    duplicates: list[tuple[Any, int]] = field(default_factory=list)  # with the line that bills the run before
    unknown: list[Any] = field(default_factory=list)
    missing: list[Any] = field(default_factory=list)
    sums: list[tuple[Any, int, int | None]] = field(default_factory=list)
