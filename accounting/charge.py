"""What a run costs: a charge of segments, each with its arithmetic."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from msgspec import Struct

from accounting.meter import PAYER, Bears


class Listed(Struct, frozen=True, gc=False):
    """What a segment costs at the list price: the one that its centre signed, before what the operator alone gave off.

    Tiered, its month's count is of all that was charged otherwise (`tier_key`).
    """

    rule_id: int
    price_micro: int
    per: int
    amount_micro: int
    tier_key: str = ""
    count_before: int | None = None


class Segment(Struct, frozen=True, gc=False):
    """`quantity` of `resource` in [start, end) at one price; `amount_micro` is rounded half up, once.

    `tier_key` names the count that a tiered price goes by: `amount_micro` is then what the month's total rose by.
    `listed`: where the list price is another one.
    """

    start: datetime
    end: datetime
    resource: str
    quantity: int
    rule_id: int
    price_micro: int
    per: int
    amount_micro: int
    numerator: int = 1
    denominator: int = 1
    discount_id: int | None = None
    tier_key: str = ""
    count_before: int | None = None
    listed: Listed | None = None

    @property
    def is_paid(self) -> bool:
        """Whether it was paid with an order: its centre has had a share of that price."""
        return self.numerator == 0 and self.listed is None


class Charge(Struct, frozen=True, gc=False):
    """The price of one run: the sum of its segments, whose quantities sum to what was metered. `list_micro`: what it
    costs before what the operator alone gave off, and not less than what is charged."""

    currency: str
    amount_micro: int
    core_seconds: int
    segments: tuple[Segment, ...]
    rule: str
    bears: Bears = PAYER
    list_micro: int = 0


def segment_json(s: Segment) -> dict[str, Any]:
    """A segment as it is kept on the charge: the arithmetic of the bill."""
    found: dict[str, Any] = {
        "start": s.start.isoformat(), "end": s.end.isoformat(), "resource": s.resource, "quantity": s.quantity,
        "rule": s.rule_id, "price_micro": s.price_micro, "per": s.per, "amount_micro": s.amount_micro,
    }  # fmt: skip
    if s.discount_id is not None:
        found |= {"discount": s.discount_id, "numerator": s.numerator, "denominator": s.denominator}
    if s.tier_key:
        found |= {"tier_key": s.tier_key, "count_before": s.count_before}
    if s.listed is not None:
        found["list"] = _listed_json(s.listed)
    return found


def _listed_json(at: Listed) -> dict[str, Any]:
    found: dict[str, Any] = {"rule": at.rule_id, "price_micro": at.price_micro, "per": at.per,
                             "amount_micro": at.amount_micro}  # fmt: skip
    return found | {"tier_key": at.tier_key, "count_before": at.count_before} if at.tier_key else found
