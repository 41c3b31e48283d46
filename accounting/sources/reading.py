"""What reading a document of raw records gives: each row becomes a record, becomes a problem, or is passed over."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

from accounting.usage import Unreadable, UsageRecord


@dataclass(frozen=True, slots=True)
class Reading:
    """`passed` counts rows that are no run of their own (steps, queue events, headings, runs that go on)."""

    records: tuple[UsageRecord, ...] = ()
    problems: tuple[Unreadable, ...] = ()
    passed: int = 0

    @property
    def rows(self) -> int:
        return len(self.records) + len(self.problems) + self.passed


Reader = Callable[[Mapping[str, str]], UsageRecord | None]


def read_rows(rows: Iterable[Mapping[str, str]], reader: Reader, *, site_id: str, format_name: str) -> Reading:
    """Read each row; what a row says never raises (only a ValueError, KeyError or OverflowError says that)."""
    records: list[UsageRecord] = []
    problems: list[Unreadable] = []
    passed = 0
    for row in rows:
        try:
            record = reader(row)
        except (ValueError, KeyError, OverflowError) as exc:
            raw = json.dumps(dict(row), sort_keys=True, ensure_ascii=True)
            problems.append(Unreadable(site_id, format_name, raw, f"{type(exc).__name__}: {exc}"[:500]))
            continue
        if record is None:
            passed += 1
        else:
            records.append(record)
    return Reading(tuple(records), tuple(problems), passed)
