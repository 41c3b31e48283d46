"""What a part of a month comes to: by calendar days of a zone, as whole integers.

The day on which a part begins counts, the day on which it ends does not, unless the part ends with that day. So the
parts before and after any moment have the days of the whole.
"""

from __future__ import annotations

from datetime import date, datetime
from zoneinfo import ZoneInfo

from accounting import calendar
from accounting.minor_units import divide


def days_between(start: datetime, end: datetime, zone: str) -> int:
    """Calendar days of [start, end); at least one."""
    return max(1, (_day(end, zone) - _day(start, zone)).days)


def days_after(moment: datetime, end: datetime, zone: str) -> int:
    """The days up to `end` behind the day of a moment, which counts as used."""
    return max(0, (_day(end, zone) - _day(moment, zone)).days - 1)


def quantity_of(whole: int, start: datetime, end: datetime, zone: str) -> int:
    """Of a month's quantity that of [start, end) within the month, cut down; never nothing."""
    days, of = _share(start, end, zone)
    return max(1, whole * days // of)


def price_of(whole: int, start: datetime, end: datetime, zone: str) -> int:
    """Of a month's price that of [start, end) within the month, rounded half up."""
    days, of = _share(start, end, zone)
    return divide(whole * days, of)


def _share(start: datetime, end: datetime, zone: str) -> tuple[int, int]:
    month = calendar.month_of(start, zone)
    return days_between(start, end, zone), days_between(month.start, month.end, zone)


def _day(at: datetime, zone: str) -> date:
    return at.astimezone(ZoneInfo(zone)).date()
