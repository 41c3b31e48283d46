"""Notice what is missing in a log that ought to have everybody's jobs: holes in the ids, days without a record.

A purged database and a rotated log leave no trace but this (accounting.md, trap 29).
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import pairwise

from accounting.usage import UsageRecord

# Ids are also used up by refused submissions and by what still runs: a hole must be wider than this to mean something.
HOLE_MIN = 50
_NUMBER = re.compile(r"\d+", re.ASCII)


@dataclass(frozen=True, slots=True)
class Hole:
    """No record has an id in [first, last]; `usual` is how many ids in a row are missing elsewhere, on average."""

    first: int
    last: int
    usual: int

    @property
    def missing(self) -> int:
        return self.last - self.first + 1


def holes(records: Iterable[UsageRecord], *, at_least: int = HOLE_MIN) -> list[Hole]:
    """Holes in the ids that are at least so wide, and ten times as wide as usual."""
    ids = sorted({int(match[0]) for r in records if (match := _NUMBER.match(r.native_id))})
    if len(ids) < 3:
        return []
    steps = sorted(after - before - 1 for before, after in pairwise(ids))
    usual = steps[len(steps) // 2]
    return [Hole(a + 1, b - 1, usual) for a, b in pairwise(ids) if _means_something(b - a - 1, usual, at_least)]


def _means_something(missing: int, usual: int, at_least: int) -> bool:
    return missing >= max(at_least, 10 * usual)
