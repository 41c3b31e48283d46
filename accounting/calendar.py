"""The billing calendar: months and days of a named zone, and hours of its days, as half-open intervals of UTC.

Wall clocks repeat an hour and skip one; sums of UTC intervals do neither (accounting.md, traps 5 to 7). Boundaries are
computed once by zoneinfo (a day may have 23 or 25 hours), never by adding 86,400 s.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from functools import lru_cache
from zoneinfo import ZoneInfo

_MONTH = re.compile(r"([0-9]{4})-([0-9]{2})\Z")
_DAY = timedelta(days=1)
_MINUTES = 24 * 60


@dataclass(frozen=True, slots=True)
class Period:
    """[start, end) in UTC, with the name people use for it: `2026-11` or `2026-11-23`."""

    name: str
    start: datetime
    end: datetime

    @property
    def epochs(self) -> tuple[int, int]:
        return int(self.start.timestamp()), int(self.end.timestamp())


@lru_cache(maxsize=1024)
def month(name: str, zone: str = "UTC") -> Period:
    """The month `2026-11` of a zone; ValueError where the text names none."""
    match = _MONTH.match(name)
    if match is None or not 1 <= int(match[2]) <= 12 or not 1971 <= int(match[1]) < 2500:
        raise ValueError(f"{name!r} is no month like 2026-11")
    first = date(int(match[1]), int(match[2]), 1)
    return Period(name, start_of_day(first, zone), start_of_day((first + 31 * _DAY).replace(day=1), zone))


def month_of(at: datetime, zone: str = "UTC") -> Period:
    """The month in which a moment lies."""
    local = at.astimezone(ZoneInfo(zone))
    return month(f"{local.year:04d}-{local.month:02d}", zone)


def months(start: datetime, end: datetime, zone: str = "UTC") -> Iterator[Period]:
    """Every month that [start, end) touches, ascending."""
    found = month_of(start, zone)
    while found.start < end:
        yield found
        found = month_of(found.end, zone)


def month_edges(start: datetime, end: datetime, zone: str) -> set[datetime]:
    """The starts of months of `zone` in (start, end)."""
    return {found.start for found in months(start, end, zone) if found.start > start}


def day(of: date, zone: str = "UTC") -> Period:
    """One day of the zone's calendar; ValueError where no bill is ever written."""
    if not 1971 <= of.year < 2500:
        raise ValueError(f"{of} is no day of a billing calendar")
    return Period(of.isoformat(), start_of_day(of, zone), start_of_day(of + _DAY, zone))


def days(start: datetime, end: datetime, zone: str = "UTC") -> Iterator[Period]:
    """Every day that [start, end) touches, ascending."""
    of = start.astimezone(ZoneInfo(zone)).date()
    while (found := day(of, zone)).start < end:
        yield found
        of += _DAY


def start_of_day(of: date, zone: str) -> datetime:
    """The first moment of a day; where midnight is skipped, the moment of the jump."""
    return datetime.combine(of, time(), ZoneInfo(zone)).astimezone(UTC)


# ---------------------------------------------------------------- hours of the day


@dataclass(frozen=True, slots=True)
class Window:
    """Minutes of the day [from_minute, to_minute) by the wall clock, on some weekdays (0 = Monday).

    Where `to_minute` is not after `from_minute` it goes over midnight; the weekday is the one it begins on.
    """

    from_minute: int
    to_minute: int
    weekdays: tuple[int, ...] = (0, 1, 2, 3, 4, 5, 6)

    def __post_init__(self) -> None:
        if not (0 <= self.from_minute < _MINUTES and 0 < self.to_minute <= _MINUTES):
            raise ValueError("minutes of the day are 0 to 1440")
        if not self.weekdays or not set(self.weekdays) <= set(range(7)):
            raise ValueError("weekdays are 0 (Monday) to 6")

    def holds(self, at: datetime, zone: str) -> bool:
        local = at.astimezone(ZoneInfo(zone))
        return self._minute_of_week(local.weekday(), local.hour * 60 + local.minute)

    def meets(self, other: Window) -> bool:
        """Whether both hold at some minute of the week."""
        return any(
            self._minute_of_week(day, minute) and other._minute_of_week(day, minute)
            for day in range(7)
            for minute in (self.from_minute, other.from_minute, 0)
        )

    def _minute_of_week(self, day: int, minute: int) -> bool:
        if self.from_minute < self.to_minute:
            return day in self.weekdays and self.from_minute <= minute < self.to_minute
        return (day in self.weekdays and minute >= self.from_minute) or (
            (day - 1) % 7 in self.weekdays and minute < self.to_minute
        )

    def edges(self, start: datetime, end: datetime, zone: str) -> set[datetime]:
        """Every moment in (start, end) at which `holds` may change: both minutes of each day, and the clock's jumps."""
        found: set[datetime] = set()
        tz = ZoneInfo(zone)
        day, last = start.astimezone(tz).date() - _DAY, end.astimezone(tz).date() + _DAY
        while day <= last:
            for minute in {self.from_minute, self.to_minute, 0}:
                wall = datetime.combine(day, time()) + timedelta(minutes=minute)
                found |= {wall.replace(tzinfo=tz, fold=fold).astimezone(UTC) for fold in (0, 1)}
            found |= _jumps(day, zone)
            day += _DAY
        return {moment for moment in found if start < moment < end}


@lru_cache(maxsize=4096)
def _jumps(day: date, zone: str) -> frozenset[datetime]:
    """The moment of the day's clock change, to the second, where it has one."""
    tz = ZoneInfo(zone)
    low, high = start_of_day(day, zone), start_of_day(day + _DAY, zone)
    before = low.astimezone(tz).utcoffset()
    if before == high.astimezone(tz).utcoffset():
        return frozenset()
    while high - low > timedelta(seconds=1):
        middle = (low + (high - low) / 2).replace(microsecond=0)
        low, high = (middle, high) if middle.astimezone(tz).utcoffset() == before else (low, middle)
    return frozenset({high})
