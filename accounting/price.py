"""Price usage: a tariff and a metered record make a charge, split where the price changes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from itertools import pairwise

from accounting.meter import Metered
from accounting.tariff import PriceRule, boundaries, rule_at
from accounting.usage import UsageRecord


@dataclass(frozen=True, slots=True)
class Segment:
    """`core_seconds` in [start, end) at one price; `amount_micro` is rounded half up, once."""

    start: datetime
    end: datetime
    core_seconds: int
    rule_id: int
    micro_per_core_hour: int
    amount_micro: int


@dataclass(frozen=True, slots=True)
class Charge:
    """The price of one run: the sum of its segments, whose core-seconds sum to what was metered."""

    currency: str
    amount_micro: int
    core_seconds: int
    segments: tuple[Segment, ...]
    rule: str


class NoPrice(Exception):
    """No rule of the tariff prices a moment of this run."""


def rate(core_seconds: int, micro_per_core_hour: int) -> int:
    """Micro-units for core-seconds at a price per core-hour, half up, exact in integers (accounting.md, trap 24)."""
    hours, rest = divmod(core_seconds, 3600)
    return hours * micro_per_core_hour + (rest * micro_per_core_hour + 1800) // 3600


def price(record: UsageRecord, metered: Metered, rules: Sequence[PriceRule], *, currency: str) -> Charge:
    """Charge a run; raises `NoPrice` where some of it has none. `rules` may hold rules of other scopes."""
    if metered.core_seconds == 0:
        return Charge(currency, 0, 0, (), metered.rule)
    start, end = record.start_time, record.end_time
    if start is None or end is None:
        raise NoPrice("a run with usage has no start or no end")
    scoped = [r for r in rules if r.applies(site_id=record.site_id, queue=record.queue, currency=currency)]
    cuts = [start, *boundaries(scoped, start, end), end]
    shares = split(metered.core_seconds, [_microseconds(a, b) for a, b in pairwise(cuts)])
    segments = []
    for (begin, finish), share in zip(pairwise(cuts), shares, strict=True):
        rule = rule_at(scoped, begin)
        if rule is None:
            raise NoPrice(f"{record.site_id}/{record.queue} has no {currency} price at {begin.isoformat()}")
        amount = rate(share, rule.micro_per_core_hour)
        segments.append(Segment(begin, finish, share, rule.id, rule.micro_per_core_hour, amount))
    total = sum(s.amount_micro for s in segments)
    return Charge(currency, total, metered.core_seconds, tuple(segments), metered.rule)


def split(quantity: int, weights: Sequence[int]) -> list[int]:
    """Share a quantity by weights into whole units that sum to it exactly (largest remainder, earlier first)."""
    total = sum(weights)
    if total == 0:
        return [quantity] + [0] * (len(weights) - 1)
    shares = [quantity * weight // total for weight in weights]
    by_remainder = sorted(range(len(weights)), key=lambda i: (-(quantity * weights[i] % total), i))
    for i in by_remainder[: quantity - sum(shares)]:
        shares[i] += 1
    return shares


def _microseconds(a: datetime, b: datetime) -> int:
    delta = b - a
    return (delta.days * 86400 + delta.seconds) * 1_000_000 + delta.microseconds
