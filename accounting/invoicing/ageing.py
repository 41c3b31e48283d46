"""What is owed and for how long; what is in dispute is shown apart and never dunned."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from zoneinfo import ZoneInfo

from accounting.payments.payment import OpenDocument

# Days overdue from which a reminder of each level is due.
DUNNING_DAYS = (1, 15, 30)
BUCKETS = ("not_due", "days_1_30", "days_31_60", "days_61_90", "over_90", "disputed")


@dataclass(frozen=True, slots=True)
class Aged:
    """One open invoice. `dunning_level` 0: nothing to remind of."""

    document: OpenDocument
    days_overdue: int
    disputed_minor: int
    bucket: str
    dunning_level: int

    @property
    def dunnable_minor(self) -> int:
        return self.document.open_minor - self.disputed_minor


@dataclass(frozen=True, slots=True)
class Standing:
    """What one payer owes in one currency, by age, in minor units. A bucket may be negative: overpaid."""

    payer_id: str
    payer_name: str
    currency: str
    buckets: Mapping[str, int]

    @property
    def total(self) -> int:
        return sum(self.buckets.values())


def aged(documents: Sequence[OpenDocument], disputed: Mapping[str, int], now: datetime) -> list[Aged]:
    """Each open invoice with its age; the longest overdue first."""
    found = []
    for document in documents:
        days = _days_overdue(document, now) if document.open_minor > 0 else 0
        held = min(disputed.get(document.number, 0), max(document.open_minor, 0))
        level = sum(days >= limit for limit in DUNNING_DAYS) if document.open_minor - held > 0 else 0
        found.append(Aged(document, days, held, _bucket(days), level))
    return sorted(found, key=lambda a: (-a.days_overdue, a.document.number))


def standings(found: Sequence[Aged]) -> list[Standing]:
    """Summed by payer and currency."""
    sums: dict[tuple[str, str, str], dict[str, int]] = {}
    for a in found:
        key = (a.document.payer_id, a.document.payer_name, a.document.currency)
        buckets = sums.setdefault(key, dict.fromkeys(BUCKETS, 0))
        buckets["disputed"] += a.disputed_minor
        buckets[a.bucket] += a.dunnable_minor
    return [Standing(*key, buckets) for key, buckets in sorted(sums.items())]


def _days_overdue(document: OpenDocument, now: datetime) -> int:
    """In the issuer's calendar: the whole of the day that the invoice names is in time, and the next one is a day late,
    whatever the hour that it was issued at."""
    here = ZoneInfo(document.zone)
    return max(0, (now.astimezone(here).date() - document.due_at.astimezone(here).date()).days)


def _bucket(days: int) -> str:
    if days == 0:
        return "not_due"
    return next((name for limit, name in ((30, "days_1_30"), (60, "days_31_60"), (90, "days_61_90")) if days <= limit),
                "over_90")  # fmt: skip
