"""A statement full of lines that nobody knows costs as much more as it is longer, and no more than that."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from accounting.reconciling import match
from accounting.reconciling.found import Tolerance

FAR = 10_000


@dataclass(frozen=True)
class OfAlice:
    """A line or a run of hers, which tells how often its start was asked for."""

    id: int
    at: int
    asked: Callable[[], None]
    native_id: str = ""
    task: int | None = None
    username: str = "alice"
    cores: int = 4

    @property
    def line_no(self) -> int:
        return self.id

    @property
    def started(self) -> int:
        self.asked()
        return self.at


def looks(lines: list[int], runs: list[int]) -> tuple[int, list[tuple[int, int]]]:
    """How often a start was looked at, and what was found, as (line, run)."""
    asked = 0

    def count() -> None:
        nonlocal asked
        asked += 1

    theirs = [OfAlice(n, at, count) for n, at in enumerate(lines)]
    ours = [OfAlice(n, at, count) for n, at in enumerate(runs)]
    found = list(match._by_person_and_time(theirs, ours, Tolerance()))
    return asked, [(pair.theirs.id, pair.ours.id) for pair in found]


def test_one_persons_lines_are_not_each_held_against_each_of_the_persons_runs() -> None:
    few, many = ([n * FAR for n in range(count)] for count in (200, 2_000))
    shifted = [at + FAR // 2 for at in many]
    assert looks(many, shifted)[1] == []
    assert looks(many, shifted)[0] < 20 * looks(few, shifted[:200])[0]


def test_lines_and_runs_that_have_nobody_but_each_other_are_proposed() -> None:
    lines = [0, 1 * FAR, 2 * FAR, 2 * FAR + 299, 3 * FAR]
    runs = [300, 1 * FAR - 1, 1 * FAR + 1, 2 * FAR, 3 * FAR + 301]
    assert looks(lines, runs)[1] == [(0, 0)]
