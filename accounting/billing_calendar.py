"""Billing months of a named time zone as half-open UTC intervals (accounting.md, traps 5 to 7)."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

_MONTH = re.compile(r"(\d{4})-(\d{2})\Z")


@dataclass(frozen=True, slots=True)
class Month:
    """[start, end) in UTC, and its name where the bill is written: `2026-11`."""

    name: str
    start: datetime
    end: datetime

    def days(self, zone: str) -> Iterator[tuple[datetime, datetime]]:
        """Its days as half-open UTC intervals; one on which the clocks change has 23 or 25 hours."""
        here, day = ZoneInfo(zone), self.start.astimezone(ZoneInfo(zone)).date()
        first = self.start
        while first < self.end:
            day += timedelta(days=1)
            last = datetime(day.year, day.month, day.day, tzinfo=here).astimezone(UTC)
            yield first, last
            first = last


def month(name: str, zone: str) -> Month:
    """The month `2026-11` of a zone; ValueError where the text names none."""
    match = _MONTH.match(name)
    if match is None or not 1 <= int(match[2]) <= 12 or not 1971 <= int(match[1]) < 2500:
        raise ValueError(f"{name!r} is no month like 2026-11")
    year, number = int(match[1]), int(match[2])
    after = (year + 1, 1) if number == 12 else (year, number + 1)
    here = ZoneInfo(zone)
    start = datetime(year, number, 1, tzinfo=here).astimezone(UTC)
    return Month(name, start, datetime(*after, 1, tzinfo=here).astimezone(UTC))


def month_of(at: datetime, zone: str) -> Month:
    """The month in which a moment lies."""
    local = at.astimezone(ZoneInfo(zone))
    return month(f"{local.year:04d}-{local.month:02d}", zone)


def months(first: datetime, until: datetime, zone: str) -> Iterator[Month]:
    """The months from the one of `first` up to `until`, ascending."""
    found = month_of(first, zone)
    while found.start < until:
        yield found
        found = month_of(found.end, zone)
