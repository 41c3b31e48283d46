"""The rules of a comparison: the prices that hold or held at a centre, and what its signed agreement allows."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any
from zoneinfo import ZoneInfo

from sqlalchemy import Connection

from accounting import store as books
from accounting.agreement import Agreement
from accounting.minor_units import micro_per_minor
from accounting.money import format_micro
from accounting.reconciling.drafts import Rules
from accounting.reconciling.explain import Ground, Ratio
from accounting.reconciling.terms import Narrower, narrowed, rules_of
from accounting.store import contracts, settlements
from accounting.usage import CORE_SECONDS

_MOMENT = timedelta(microseconds=1)


def agreement_for(conn: Connection, statement: Any, *, now: datetime) -> Agreement | None:
    """The signed agreement by which a statement is read: that of its period's end, else the one signed since."""
    return agreement_between(conn, statement.site_id, statement.ends_at, now=now)


def agreement_between(conn: Connection, site_id: str, end: datetime, *, now: datetime) -> Agreement | None:
    """The agreement in force when a period ends, else now."""
    signed = contracts.contracts(conn)
    return signed.agreement(site_id, end - _MOMENT) or signed.agreement(site_id, now)


def rules_for(conn: Connection, statement: Any, asked: Narrower, *, now: datetime) -> Rules:
    """What the contract says of this statement, as far as the request does not ask for less."""
    agreement = agreement_for(conn, statement, now=now)
    coin = micro_per_minor(statement.currency)
    agreed = rules_of(agreement, coin_micro=coin, rates=_rates(conn, agreement, statement))
    ground = with_prices(
        conn, agreed.ground, site_id=statement.site_id, currency=statement.currency, at=statement.starts_at
    )
    return narrowed(replace(agreed, ground=ground), asked)


def _rates(conn: Connection, agreement: Agreement | None, statement: Any) -> list[Ratio]:
    """The stored rates of the period's days between the agreement's currencies, each way that a centre may go."""
    if agreement is None:
        return []
    here, found = ZoneInfo(agreement.zone), []
    first, last = (at.astimezone(here).date() for at in (statement.starts_at, statement.ends_at - _MOMENT))
    for other in {statement.currency, agreement.payout.currency} - {agreement.currency, ""}:
        for rate in settlements.rates(conn, {agreement.currency, other}, first, last):
            label = f"{rate.base}/{rate.quote} of {rate.day}"
            ours_first = rate.base == agreement.currency
            found.append(Ratio(label, rate.num, rate.den) if ours_first else Ratio(label, rate.den, rate.num))
    return found


def with_prices(conn: Connection, ground: Ground, *, site_id: str, currency: str, at: datetime) -> Ground:
    """The price of a core-hour at that moment, and every other that a centre may have taken for it."""
    rules = [
        r for r in books.tariffs(conn)
        if r.resource == CORE_SECONDS and r.currency == currency and r.site_id in (None, site_id) and not r.tier_from
    ]  # fmt: skip
    valid = [r for r in rules if r.valid_from <= at and (r.valid_to is None or at < r.valid_to)]
    now = max(valid, key=lambda r: (r.specificity, r.id), default=None)
    # Which of them is a run's own depends on its queue, its hour and more: what we took for it tells.
    per_hour = {
        f"of rule {r.id} ({format_micro(r.price_micro * 3600 // r.per)} {currency} per core-hour)":
            r.price_micro * 3600 // r.per
        for r in rules
    }  # fmt: skip
    price = None if now is None else now.price_micro * 3600 // now.per
    return replace(ground, price=price, other_prices=per_hour)
