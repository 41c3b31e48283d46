"""Half-open periods of a billing calendar: days and months of a named zone, as UTC moments.

Boundaries are computed once by zoneinfo (a day may have 23 or 25 hours), never by adding 86,400 s.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta, tzinfo


@dataclass(frozen=True, slots=True)
class Period:
    """[start, end) in UTC, with the name people use for it: `2026-11` or `2026-11-23`."""

    name: str
    start: datetime
    end: datetime

    @property
    def epochs(self) -> tuple[int, int]:
        return int(self.start.timestamp()), int(self.end.timestamp())


def month(name: str, zone: tzinfo = UTC) -> Period:
    """The month `YYYY-MM`; ValueError where it is none."""
    year, _, number = name.partition("-")
    if not (len(year) == 4 and len(number) == 2):
        raise ValueError(f"{name!r} is no month: write it like 2026-11")
    first = date(int(year), int(number), 1)
    return Period(name, _midnight(first, zone), _midnight(_next_month(first), zone))


def day(of: date, zone: tzinfo = UTC) -> Period:
    """One day of the zone's calendar."""
    return Period(of.isoformat(), _midnight(of, zone), _midnight(of + timedelta(days=1), zone))


def days(start: datetime, end: datetime, zone: tzinfo = UTC) -> Iterator[Period]:
    """Every day that [start, end) touches."""
    at = start.astimezone(zone).date()
    while (found := day(at, zone)).start < end:
        yield found
        at += timedelta(days=1)


def months(start: datetime, end: datetime, zone: tzinfo = UTC) -> Iterator[Period]:
    """Every month that [start, end) touches."""
    at = start.astimezone(zone).date().replace(day=1)
    while (found := month(f"{at:%Y-%m}", zone)).start < end:
        yield found
        at = _next_month(at)


def _next_month(first: date) -> date:
    return (first + timedelta(days=32)).replace(day=1)


def _midnight(of: date, zone: tzinfo) -> datetime:
    """The first moment of a day; where clocks skip midnight, the moment they skip to."""
    return datetime(of.year, of.month, of.day, tzinfo=zone).astimezone(UTC)
