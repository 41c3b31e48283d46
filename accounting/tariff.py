"""A tariff: dated prices per core-hour; the most specific rule that is valid at a moment wins."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime


@dataclass(frozen=True, slots=True)
class PriceRule:
    """`micro_per_core_hour` micro-units of `currency` in [valid_from, valid_to) at a site's queue.

    `site_id` or `queue` None: everywhere, every queue. `id` is the stored version that charges name.
    """

    id: int
    currency: str
    micro_per_core_hour: int
    valid_from: datetime
    valid_to: datetime | None = None
    site_id: str | None = None
    queue: str | None = None

    @property
    def specificity(self) -> tuple[bool, bool]:
        return self.site_id is not None, self.queue is not None

    def applies(self, *, site_id: str, queue: str, currency: str) -> bool:
        return self.currency == currency and self.site_id in (None, site_id) and self.queue in (None, queue)

    def valid_at(self, at: datetime) -> bool:
        return self.valid_from <= at and (self.valid_to is None or at < self.valid_to)


def overlaps(a: PriceRule, b: PriceRule) -> bool:
    """Whether two rules of equal scope would both hold at some moment: such a tariff is refused."""
    if (a.currency, a.site_id, a.queue) != (b.currency, b.site_id, b.queue):
        return False
    a_ends_first = a.valid_to is not None and a.valid_to <= b.valid_from
    b_ends_first = b.valid_to is not None and b.valid_to <= a.valid_from
    return not (a_ends_first or b_ends_first)


def rule_at(rules: Sequence[PriceRule], at: datetime) -> PriceRule | None:
    """The rule that prices a moment, among rules that apply; None where there is no price."""
    valid = [rule for rule in rules if rule.valid_at(at)]
    return max(valid, key=lambda rule: (rule.specificity, rule.id), default=None)


def boundaries(rules: Sequence[PriceRule], start: datetime, end: datetime) -> list[datetime]:
    """The moments strictly inside (start, end) at which the price may change, ascending."""
    moments = {rule.valid_from for rule in rules} | {rule.valid_to for rule in rules if rule.valid_to is not None}
    return sorted(moment for moment in moments if start < moment < end)
