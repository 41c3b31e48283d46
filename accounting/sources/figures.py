"""Read one figure of a raw record: counts, durations, sizes, moments. ValueError says which word was none."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta, tzinfo

NEVER = frozenset({"", "None", "Unknown", "N/A", "-"})
_SIZE = re.compile(r"(\d{1,15})(?:\.(\d{1,9}))?([kKmMgGtTpP]?)(?:i?[bB])?[nc]?\Z")
_KIB = {"K": 1, "M": 1024, "G": 1024**2, "T": 1024**3, "P": 1024**4}
_MONTHS = {"Jan": 1, "Feb": 2, "Mar": 3, "Apr": 4, "May": 5, "Jun": 6, "Jul": 7, "Aug": 8, "Sep": 9, "Oct": 10,
           "Nov": 11, "Dec": 12}  # fmt: skip
_C_TIME = re.compile(r"(?:[A-Z][a-z]{2} +)?([A-Z][a-z]{2}) +(\d{1,2}) (\d\d):(\d\d):(\d\d)(?: (\d{4}))?", re.ASCII)
# Whatever is longer or later than this is damage, not usage (and would not fit a database's BIGINT once multiplied).
COUNT_MAX = 10**9
SECONDS_MAX = 10**10


def whole(text: str, limit: int = COUNT_MAX) -> int:
    """A count in ASCII digits; an empty word is 0."""
    if text == "":
        return 0
    if not (text.isascii() and text.isdigit()) or (found := int(text)) > limit:
        raise ValueError(f"{text!r} is no whole number")
    return found


def seconds(text: str) -> int:
    """`[D-]HH:MM:SS`, `MM:SS[.mmm]`, hours beyond 24, or plain seconds (a fraction is cut off)."""
    if text in NEVER:
        return 0
    if text.isascii() and text.isdigit():
        return whole(text, SECONDS_MAX)
    if match := re.fullmatch(r"(\d{1,10})(?:\.\d*)?", text, re.ASCII):
        return whole(match[1], SECONDS_MAX)
    match = re.fullmatch(r"(?:(\d{1,5})-)?(?:(\d{1,7}):)?(\d{1,2}):(\d{2})(?:\.\d+)?", text, re.ASCII)
    if match is None:
        raise ValueError(f"{text!r} is no duration")
    days, hours, minutes, rest = (int(part or 0) for part in match.groups())
    return ((days * 24 + hours) * 60 + minutes) * 60 + rest


def mib(text: str, *, unit: str = "M") -> int:
    """Memory in whole MiB (rounded down): `62.50G`, `8000Mn`, `6000kb`; `unit` is that of a bare number."""
    match = _SIZE.match(text)
    if match is None:
        raise ValueError(f"{text!r} is no amount of memory")
    if text[-1:] in "bB" and not match[3]:
        return int(match[1]) // 1024**2
    digits = match[2] or ""
    kib = int(match[1] + digits) * _KIB[match[3].upper() or unit]
    return kib // (1024 * int(10 ** len(digits)))


def epoch(text: str) -> datetime | None:
    """Epoch seconds; None for 0 and for a word that says never."""
    if text in NEVER or text == "0":
        return None
    return datetime.fromtimestamp(whole(text, SECONDS_MAX), UTC)


def moment(text: str, zone: tzinfo = UTC) -> datetime | None:
    """ISO 8601 or epoch seconds, as aware UTC; `zone` is that of a time that names none."""
    if text in NEVER:
        return None
    if text.isascii() and text.isdigit():
        return epoch(text)
    try:
        parsed = datetime.fromisoformat(text.replace("/", "-"))
    except ValueError:
        raise ValueError(f"{text!r} is no time") from None
    return local(parsed, zone) if parsed.tzinfo is None else parsed.astimezone(UTC)


def c_time(text: str, zone: tzinfo = UTC, *, year: int | None = None) -> datetime:
    """`Mon Nov 23 06:34:36 2026`, or without weekday and year (`Aug 20 12:32:17`, then `year` is needed)."""
    match = re.fullmatch(
        r"(?:[A-Z][a-z]{2} +)?([A-Z][a-z]{2}) +(\d{1,2}) (\d\d):(\d\d):(\d\d)(?: (\d{4}))?", text.strip()
    )
    month = _MONTHS.get(match[1]) if match else None
    if match is None or month is None:
        raise ValueError(f"{text!r} is no time")
    named = int(match[6]) if match[6] else year
    if named is None:
        raise ValueError(f"{text!r} has no year, and none is known")
    return local(datetime(named, month, int(match[2]), int(match[3]), int(match[4]), int(match[5])), zone)  # noqa: DTZ001


def local(naive: datetime, zone: tzinfo) -> datetime:
    """A wall-clock time of a zone as UTC; one that a change of clocks skips is refused."""
    moved = naive.replace(tzinfo=zone).astimezone(UTC)
    if moved.astimezone(zone).replace(tzinfo=None) != naive:
        raise ValueError(f"{naive.isoformat()} does not exist in {zone}")
    return moved


def between(start: datetime, end: datetime) -> int:
    """Whole seconds from start to end; ValueError where it ends before it starts."""
    if end < start:
        raise ValueError("it ends before it starts")
    return (end - start) // timedelta(seconds=1)
