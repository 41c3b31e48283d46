"""Cancel an order: nothing more of it is given, and of what has begun the unused rest goes back as far as is agreed.

not begun   nothing is owed of it yet, and nothing will be
begun       of the price of what is neither used nor set aside for jobs, the agreement's `unused_back_ppm` goes back:
            a price of its own with a minus, divided as the first one was; where nothing goes back, it stays to its end
a month     of a subscription, by days (`partial_months`): if that is more, the days that are left, as far as unused
free        (a trial) the rest is taken back
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import Connection, Select, insert, select

from accounting.agreement import PartialMonths
from accounting.errors import AccountingError
from accounting.ledger import EXPIRED, Entry, Posting, credit
from accounting.month_parts import days_after, days_between
from accounting.store import openings
from accounting.store.allocations import keep_event, last_end, remaining
from accounting.store.consents import assert_may_decide
from accounting.store.holds import raise_limit
from accounting.store.journal import book
from accounting.store.orders import Order, agreement_of_price, canceled, give_back, order_of
from accounting.store.schema import (
    ALLOCATIONS,
    BALANCES,
    CANCELLATION_DECISIONS,
    CANCELLATIONS,
    ORDER_PRICES,
    ORDERS,
    is_kind,
    lock,
)
from accounting.store.settled import credited_of_price

PPM = 10**6


@dataclass(frozen=True, slots=True)
class Cancellation:
    """A person asks to cancel what is left of an order."""

    id: str
    order_id: str
    reason: str
    requested_by: str


@dataclass(frozen=True, slots=True)
class Rest:
    """What of an allocation is taken back, and what of its price with it."""

    allocation: Any
    amount: int
    back_micro: int


def request_cancellation(conn: Connection, wanted: Cancellation, *, four_eyes_micro: int, now: datetime) -> str:
    """Ask for it; `posted` at once where the order's price (of a month) is within the threshold, else `waiting`.

    Raises `AccountingError` where nothing of the order can be canceled, or somebody has asked for it already.
    """
    lock(conn, {"allocations"})
    order = order_named(conn, wanted.order_id)
    if not wanted.reason.strip():
        raise AccountingError("an order is canceled with a reason")
    open_ones = _with_decisions().where(
        CANCELLATIONS.c.order_id == order.id, CANCELLATION_DECISIONS.c.cancellation_id.is_(None)
    )
    if (waits := conn.execute(open_ones).first()) is not None:
        raise AccountingError(f"{waits.id} asks for this already, and waits for a second person")
    _assert_left(conn, order, now)
    four_eyes = order.price_micro > four_eyes_micro
    conn.execute(insert(CANCELLATIONS).values(
        id=wanted.id, order_id=order.id, reason=wanted.reason, four_eyes=four_eyes, requested_by=wanted.requested_by,
        recorded_at=now,
    ))  # fmt: skip
    if four_eyes:
        return "waiting"
    _carry_out(conn, order, wanted, by=wanted.requested_by, now=now)
    return "posted"


def decide_cancellation(conn: Connection, cancellation_id: str, *, approve: bool, by: str, now: datetime) -> str:
    """Carry out or refuse what waits, with what is left by now; never the person who asked for it."""
    lock(conn, {"allocations"})
    row = conn.execute(_with_decisions().where(CANCELLATIONS.c.id == cancellation_id)).one_or_none()
    assert_may_decide(row, cancellation_id, by=by)
    assert row is not None
    if not approve:
        _decision(conn, cancellation_id, "refused", by, now)
        return "refused"
    order = order_named(conn, row.order_id)
    _assert_left(conn, order, now)
    _carry_out(conn, order, Cancellation(row.id, row.order_id, row.reason, row.requested_by), by=by, now=now)
    return "posted"


def cancellations(conn: Connection, project_id: str | None = None) -> list[Any]:
    """Every cancellation with its decision (None: waiting), newest first."""
    query = _with_decisions().order_by(CANCELLATIONS.c.id.desc())
    if project_id is not None:
        query = query.where(CANCELLATIONS.c.order_id.in_(select(ORDERS.c.id).where(ORDERS.c.project_id == project_id)))
    return list(conn.execute(query))


def order_named(conn: Connection, order_id: str) -> Order:
    """An order by its id; raises `AccountingError` for none."""
    row = conn.execute(select(ORDERS).where(ORDERS.c.id == order_id)).one_or_none()
    if row is None:
        raise AccountingError(f"there is no order {order_id!r}")
    return order_of(row)


def _assert_left(conn: Connection, order: Order, now: datetime) -> None:
    if conn.scalar(select(ORDERS.c.id).where(ORDERS.c.id == order.id, ORDERS.c.id.in_(canceled()))) is not None:
        raise AccountingError(f"order {order.id} is canceled already")
    if order.kind == "as_used":
        raise AccountingError("an order to pay as used has no rest: another one sets another limit")
    until = last_end(conn, order.id)
    to_come = until is None or (order.ends_at is not None and until < order.ends_at)
    over = order.ends_at is not None and order.ends_at <= now
    if over or not (to_come or any(_rests(conn, order, now))):
        why = "it is used or over, or has begun, and the agreement gives nothing back of that"
        raise AccountingError(f"nothing is left that could be canceled: {why}")


def _rests(conn: Connection, order: Order, now: datetime) -> Iterator[Rest]:
    """What of the order's live allocations goes back."""
    left, free = remaining(conn, order.project_id, order.commodity), _free(conn, order)  # by what they are bound to
    query = select(ALLOCATIONS).where(ALLOCATIONS.c.order_id == order.id)
    for row in conn.execute(query.order_by(ALLOCATIONS.c.valid_from)).all():
        if row.expires_at is not None and row.expires_at <= now:
            continue
        amount = min(left.get(row.id, 0), free.get(row.commodity, 0))
        back = _back(conn, order, row, amount, now)
        if amount > 0 and (back is not None or not order.price_micro):
            free[row.commodity] -= amount
            yield Rest(row, amount, back or 0)


def _free(conn: Connection, order: Order) -> dict[str, int]:
    """What the project may still use and is not set aside for its jobs, by commodity."""
    left = (BALANCES.c.limit_amount - BALANCES.c.posted - BALANCES.c.held).label("left")
    at = (BALANCES.c.project_id == order.project_id) & is_kind(BALANCES.c.commodity, order.commodity)
    return {
        row.commodity: max(0, int(row.left or 0)) for row in conn.execute(select(BALANCES.c.commodity, left).where(at))
    }


def _back(conn: Connection, order: Order, allocation: Any, amount: int, now: datetime) -> int | None:
    """What of the price goes back with an unused amount, by the agreement that divided it; None where it gives nothing.

    What credit notes have given back is paid no more: the rest goes by what is left of the price.
    """
    price = conn.scalar(select(ORDER_PRICES.c.price_micro).where(ORDER_PRICES.c.allocation_id == allocation.id))
    if price is None:
        return None
    agreement = agreement_of_price(conn, allocation.id)
    paid = max(0, int(price) - credited_of_price(conn, allocation.id))
    ppm = 0 if agreement is None else agreement.unused_back_ppm
    back = paid * amount * ppm // (int(allocation.amount) * PPM)
    by_day = order.kind == "subscription" and (agreement is None or agreement.partial_months is PartialMonths.BY_DAY)
    if by_day:
        start, end = allocation.valid_from, allocation.expires_at
        days, left = days_between(start, end, order.zone), days_after(now, end, order.zone)
        back = max(back, min(paid * left // days, paid * amount // int(allocation.amount)))
    return back if back or (not paid and (ppm or by_day)) else None


def _carry_out(conn: Connection, order: Order, wanted: Cancellation, *, by: str, now: datetime) -> None:
    rests = list(_rests(conn, order, now))
    for rest in rests:
        _take_back(conn, order, rest, wanted.reason, now)
    lasts = ALLOCATIONS.c.expires_at.is_(None) | (ALLOCATIONS.c.expires_at > now)
    live = set(conn.scalars(select(ALLOCATIONS.c.id).where(ALLOCATIONS.c.order_id == order.id, lasts)))
    kept = live - {rest.allocation.id for rest in rests}
    for opening in openings.of_order(conn, order.id):
        if not kept:  # a month that stays is used under what is opened for it
            openings.close(conn, opening.id, reason=f"order canceled: {wanted.reason}"[:500], by=by, now=now)
    _decision(conn, wanted.id, "posted", by, now)


def _take_back(conn: Connection, order: Order, rest: Rest, reason: str, now: datetime) -> None:
    a = rest.allocation
    key = f"order-cancel:{a.id}"
    postings = (
        Posting(credit(order.project_id), a.commodity, rest.amount),
        Posting(EXPIRED, a.commodity, -rest.amount),
    )
    ids = book(conn, [Entry(key, "cancellation", now, postings, reason)], now=now)
    raise_limit(conn, project_id=order.project_id, commodity=a.commodity, amount=-rest.amount, check=True)
    keep_event(conn, ids[key], a.id, "canceled", rest.amount, 0, now)
    if rest.back_micro:
        give_back(conn, order, a.id, amount=rest.amount, back_micro=rest.back_micro, reason=reason, now=now)


def _with_decisions() -> Select[Any]:
    return select(CANCELLATIONS, CANCELLATION_DECISIONS.c.decision, CANCELLATION_DECISIONS.c.decided_by).outerjoin(
        CANCELLATION_DECISIONS, CANCELLATION_DECISIONS.c.cancellation_id == CANCELLATIONS.c.id
    )


def _decision(conn: Connection, cancellation_id: str, decision: str, by: str, now: datetime) -> None:
    conn.execute(insert(CANCELLATION_DECISIONS).values(
        cancellation_id=cancellation_id, decision=decision, decided_by=by, recorded_at=now))  # fmt: skip
