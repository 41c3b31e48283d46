"""The rules of a comparison: the prices that hold or held at a centre, and what its contract allows."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import Connection

from accounting import store as books
from accounting.agreement import Agreement
from accounting.explain import Ground
from accounting.store import contracts
from accounting.usage import CORE_SECONDS


def agreement_for(conn: Connection, statement: Any, *, now: datetime) -> Agreement | None:
    """The signed agreement by which a statement is read: that of its period's end, else the one signed since."""
    signed = contracts.contracts(conn)
    at_end = signed.agreement(statement.site_id, statement.ends_at - timedelta(microseconds=1))
    return at_end or signed.agreement(statement.site_id, now)


def with_prices(conn: Connection, ground: Ground, *, site_id: str, currency: str, at: datetime) -> Ground:
    """The price of a core-hour at that moment, and every other that a centre may have taken for it."""
    rules = [
        r for r in books.tariffs(conn)
        if r.resource == CORE_SECONDS and r.currency == currency and r.site_id in (None, site_id) and not r.tier_from
    ]  # fmt: skip
    valid = [r for r in rules if r.valid_from <= at and (r.valid_to is None or at < r.valid_to)]
    now = max(valid, key=lambda r: (r.specificity, r.id), default=None)
    per_hour = {f"of rule {r.id}": r.price_micro * 3600 // r.per for r in rules if now is None or r.id != now.id}
    price = None if now is None else now.price_micro * 3600 // now.per
    others = {label: micro for label, micro in per_hour.items() if micro != price}
    return Ground(
        ground.cores_per_node, ground.threads_per_core, ground.skew_s, ground.observed_s, ground.period, price, others,
        ground.rates, ground.taxes, ground.units,
    )  # fmt: skip
