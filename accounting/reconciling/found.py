"""What a comparison of a statement with the books finds, before anybody asks why."""

from __future__ import annotations

from array import array
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

_HUNDREDTH = 36  # core-seconds of a hundredth of a core-hour, as quantities are mostly printed


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
    accounts: bool = True  # whether another account is a difference


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
    sums: list[tuple[Any, int, int | None, int | None]] = field(default_factory=list)


def differs(pair: Pair, tolerance: Tolerance) -> bool:
    """Whether a line says something else of a run than the books."""
    t, o = pair.theirs, pair.ours
    another = t.username and o.username and t.username != o.username
    figures = figures_differ(pair, tolerance) or units_apart(pair)
    return bool(figures or another or other_account(pair, tolerance) or not o.in_period)


def other_account(pair: Pair, tolerance: Tolerance) -> bool:
    """Whether a line names another account than the scheduler did; capitals make no other."""
    theirs, ours = pair.theirs.account.casefold(), pair.ours.account.casefold()
    return bool(tolerance.accounts and theirs and ours and theirs != ours)


def units_apart(pair: Pair) -> dict[str, tuple[int, int]]:
    """The centre's and our count of each unit (shots, licences) that a line names, where they differ."""
    ours = pair.ours.units or {}
    return {name: (count, ours.get(name, 0)) for name, count in (pair.theirs.units or {}).items()
            if count != ours.get(name, 0)}  # fmt: skip


def figures_differ(pair: Pair, tolerance: Tolerance) -> bool:
    """Whether quantity or money are apart: of what was metered, and of what of it is billed by the agreement (threads
    as cores, whole nodes, cores asked for)."""
    t, o = pair.theirs, pair.ours
    money_differs = t.amount_micro is not None and all(
        abs(t.amount_micro - (ours or 0)) > tolerance.micro for ours in (o.amount_micro, comparable_micro(pair))
    )
    return money_differs or time_differs(pair, tolerance)


def time_differs(pair: Pair, tolerance: Tolerance) -> bool:
    """The same of core-seconds alone."""
    t, o = pair.theirs, pair.ours
    return all(
        _apart(t.core_seconds, ours, o.cores, tolerance) and not _printed(t, ours)
        for ours in {o.core_seconds, o.billed_core_seconds}
    )


def comparable_micro(pair: Pair) -> int | None:
    """Our money of a run as a line has it: where an order paid for the run, and its centre bills it by its prices all
    the same, what it had cost without."""
    t, o = pair.theirs, pair.ours
    ours: int | None = o.list_micro if o.list_micro is not None and t.amount_micro else o.amount_micro
    return ours


def _apart(theirs: int, ours: int, cores: int, tolerance: Tolerance) -> bool:
    apart = abs(theirs - ours)
    return apart > tolerance.seconds * cores and apart * 1_000_000 > tolerance.ppm * ours


def _printed(line: Any, ours: int) -> bool:
    """Whether it is our quantity in hundredths of a core-hour, with the money of the exact one."""
    near = abs(line.core_seconds - ours) < _HUNDREDTH and line.core_seconds % _HUNDREDTH == 0
    return line.amount_micro is not None and near
