"""The billing calendar: hours of the day, days and months of a named zone, as half-open intervals of UTC.

Wall clocks repeat an hour and skip one; sums of UTC intervals do neither (accounting.md, traps 6 and 7).
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from functools import lru_cache
from zoneinfo import ZoneInfo

_DAY = timedelta(days=1)
_MINUTES = 24 * 60


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


def month_of(at: datetime, zone: str) -> tuple[datetime, datetime]:
    """The month of `zone` that a moment is in, as [start, end) in UTC."""
    local = at.astimezone(ZoneInfo(zone)).date()
    return month(local.year, local.month, zone)


@lru_cache(maxsize=1024)
def month(year: int, number: int, zone: str) -> tuple[datetime, datetime]:
    """A month of `zone` as [start, end) in UTC."""
    following = (year, number + 1) if number < 12 else (year + 1, 1)
    return start_of_day(date(year, number, 1), zone), start_of_day(date(*following, 1), zone)


def month_edges(start: datetime, end: datetime, zone: str) -> set[datetime]:
    """The starts of months of `zone` in (start, end)."""
    found: set[datetime] = set()
    edge = month_of(start, zone)[1]
    while edge < end:
        found.add(edge)
        edge = month_of(edge, zone)[1]
    return {moment for moment in found if start < moment}


def start_of_day(day: date, zone: str) -> datetime:
    """The first moment of a day; where midnight is skipped, the moment of the jump."""
    return datetime.combine(day, time(), ZoneInfo(zone)).astimezone(UTC)


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
