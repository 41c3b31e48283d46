"""What a comparison of a statement with the books finds, before anybody asks why."""

from __future__ import annotations

from array import array
from collections.abc import Iterator
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
    """One run in both; `theirs` and `ours` are rows of the staging tables."""

    tier: str
    theirs: Any
    ours: Any


@dataclass(slots=True)
class Matched:
    """What the comparison found; only what differs is here as rows.

    `agreeing`: reading, line, reading, line … of what agrees (flat: there may be a million).
    """

    lines: int = 0
    runs: int = 0
    agreed: int = 0
    pairs: list[Pair] = field(default_factory=list)
    proposals: list[Pair] = field(default_factory=list)
    duplicates: list[Any] = field(default_factory=list)
    unknown: list[Any] = field(default_factory=list)
    missing: list[Any] = field(default_factory=list)
    sums: list[tuple[Any, int, int | None]] = field(default_factory=list)
    agreeing: array[int] = field(default_factory=lambda: array("q"))

    def agreed_runs(self) -> Iterator[tuple[int, int]]:
        """(reading, line) of what agrees."""
        flat = iter(self.agreeing)
        return zip(flat, flat, strict=True)
