"""When what a resource costs is paid with an order: from its beginning, until it ends or what is left was canceled."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from datetime import datetime

from sqlalchemy import Connection, or_, select

from accounting.agreement import Agreement
from accounting.ledger import resource_of
from accounting.store.orders import Order, agreement_for, canceled, order_of
from accounting.store.prices import add_discount, charged_until, discounts, end_discount
from accounting.store.schema import (
    ALLOCATION_EVENTS,
    ALLOCATIONS,
    CANCELLATION_DECISIONS,
    CANCELLATIONS,
    HOLDS,
    ORDERS,
    lock,
)
from accounting.tariff import Discount


def free_of_charge(conn: Connection, order: Order, since: datetime, now: datetime) -> None:
    """What a resource costs is paid with the order of it (nothing, with a trial) from a moment on, where no other order
    has done so; at the sites of the centre that has a share of its price.

    What is charged already stays so: an order that begins in the past pays from the latest charged run on.
    """
    if not pays_for_runs(order):
        return
    agreement = agreement_for(conn, order, since)
    paid_with = order.id if order.price_micro and agreement is not None else None
    for site_id in _sites(order, agreement):
        begins = max(since, charged_until(conn, project_id=order.project_id, site_id=site_id) or since)
        if order.ends_at is not None and order.ends_at <= begins:
            continue
        paid_for = Discount(0, order.project_id, 0, 1, begins, order.ends_at, site_id=site_id,
                            resource=resource_of(order.commodity), reason=_reason(order),
                            order_id=paid_with)  # fmt: skip
        for start, end in _not_yet_paid(conn, paid_for):
            add_discount(conn, replace(paid_for, valid_from=start, valid_to=end), now=now)


def pays_for_runs(order: Order) -> bool:
    """Whether what an order gives costs nothing when it is used."""
    return bool(order.price_micro) or order.kind == "trial"


def _sites(order: Order, agreement: Agreement | None) -> Sequence[str | None]:
    """Where an order pays; None: everywhere, as where no agreement is in force (orders.py, `assert_for_a_centre`)."""
    if order.site_id is not None:
        return (order.site_id,)
    return (None,) if agreement is None else agreement.site_ids


def _not_yet_paid(conn: Connection, wanted: Discount) -> list[tuple[datetime, datetime | None]]:
    """The spans of an order in which no earlier order of the project has made core-hours cost nothing more; what a
    trial has, which nobody paid, is paid with a priced order."""
    paid = [d for d in discounts(conn) if d.place == wanted.place and d.numerator == 0
            and (d.order_id is not None or wanted.order_id is None)]  # fmt: skip
    spans: list[tuple[datetime, datetime | None]] = []
    start = wanted.valid_from
    for other in sorted(paid, key=lambda d: d.valid_from):
        if other.valid_to is not None and other.valid_to <= start:
            continue
        if wanted.valid_to is not None and other.valid_from >= wanted.valid_to:
            break
        if other.valid_from > start:
            spans.append((start, other.valid_from))
        if other.valid_to is None:
            return spans
        start = other.valid_to
    return spans if wanted.valid_to is not None and start >= wanted.valid_to else [*spans, (start, wanted.valid_to)]


def end_canceled(conn: Connection, *, now: datetime) -> int:
    """Let canceled orders pay for nothing more, once nothing of them is used any more; returns how many ended.

    A month that stays, and jobs that had set credit aside before, go on under the order. What other orders of the
    project pay for stays paid.
    """
    lock(conn, {"allocations"})
    ended = 0
    for order, decided_at in _canceled(conn, now):
        mine = [d for d in discounts(conn) if d.project_id == order.project_id and d.reason == _reason(order)
                and (d.valid_to is None or d.valid_to > now)]  # fmt: skip
        if not mine or _used(conn, order, decided_at, now):
            continue
        since = max(now, charged_until(conn, project_id=order.project_id) or now)
        for paid in mine:
            end_discount(conn, paid.id, ends_at=max(since, paid.valid_from), now=now)
        for other in _beside(conn, order, now):
            free_of_charge(conn, other, since, now)
        ended += len(mine)
    return ended


def _reason(order: Order) -> str:
    return f"paid with order {order.id}"


def _canceled(conn: Connection, now: datetime) -> Iterator[tuple[Order, datetime]]:
    """Priced orders and trials that were canceled before their end, with when that was decided."""
    query = (
        select(ORDERS, CANCELLATION_DECISIONS.c.recorded_at.label("decided_at"))
        .join(CANCELLATIONS, CANCELLATIONS.c.order_id == ORDERS.c.id)
        .join(CANCELLATION_DECISIONS, CANCELLATION_DECISIONS.c.cancellation_id == CANCELLATIONS.c.id)
        .where(CANCELLATION_DECISIONS.c.decision == "posted",
               or_(ORDERS.c.price_micro > 0, ORDERS.c.kind == "trial"),
               or_(ORDERS.c.ends_at.is_(None), ORDERS.c.ends_at > now))
    )  # fmt: skip
    for row in conn.execute(query).all():
        yield order_of(row), row.decided_at


def _used(conn: Connection, order: Order, decided_at: datetime, now: datetime) -> bool:
    """Whether something that the order gave may still be used, or was set aside for a job that has not ended."""
    gone = select(ALLOCATION_EVENTS.c.allocation_id).where(ALLOCATION_EVENTS.c.kind.in_(("canceled", "expired")))
    stays = select(ALLOCATIONS.c.id).where(
        ALLOCATIONS.c.order_id == order.id, ALLOCATIONS.c.id.not_in(gone),
        or_(ALLOCATIONS.c.expires_at.is_(None), ALLOCATIONS.c.expires_at > now),
    )  # fmt: skip
    held = select(HOLDS.c.job_id).where(
        HOLDS.c.project_id == order.project_id, HOLDS.c.commodity == order.commodity, HOLDS.c.state == "open",
        HOLDS.c.placed_at <= decided_at,
    )  # fmt: skip
    return conn.scalar(stays.limit(1)) is not None or conn.scalar(held.limit(1)) is not None


def _beside(conn: Connection, order: Order, now: datetime) -> list[Order]:
    """The project's other orders of the same commodity that have begun and go on."""
    given = select(ALLOCATIONS.c.order_id).where(ALLOCATIONS.c.project_id == order.project_id)
    query = select(ORDERS).where(
        ORDERS.c.project_id == order.project_id, ORDERS.c.commodity == order.commodity, ORDERS.c.id != order.id,
        ORDERS.c.id.in_(given.where(ALLOCATIONS.c.order_id.is_not(None))), ORDERS.c.id.not_in(canceled()),
        or_(ORDERS.c.ends_at.is_(None), ORDERS.c.ends_at > now),
    )  # fmt: skip
    return [order_of(row) for row in conn.execute(query.order_by(ORDERS.c.starts_at)).all()]
