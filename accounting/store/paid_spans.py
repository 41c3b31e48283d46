"""When what a resource costs is paid with an order: from its beginning, until it ends or what is left was canceled."""

from __future__ import annotations

from collections.abc import Iterator, Set
from dataclasses import replace
from datetime import datetime

from sqlalchemy import Connection, func, or_, select

from accounting.bound import is_unagreed, place_of
from accounting.errors import AccountingError
from accounting.ledger import resource_of
from accounting.store.orders import Order, agreement_for, canceled, drawn_from, order_of, pays_at, pays_for_runs
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


def free_of_charge(conn: Connection, order: Order, begins: datetime, since: datetime, now: datetime) -> str:
    """What a resource costs is paid with the order of it (nothing, with a trial) from a moment on, where no other order
    has done so; at the sites of the centre that has a share of its price. Returns the commodity that runs there draw.

    `begins`: when what is given begins, by which it is seen whose share that is. What is charged already stays so: an
    order that begins in the past pays from the latest charged run on.
    """
    agreement = agreement_for(conn, order, begins)
    draws = drawn_from(order, agreement)
    if pays_for_runs(order):
        paid_with = order.id if order.price_micro and agreement is not None else None
        paid_for = Discount(0, order.project_id, 0, 1, since, order.ends_at, resource=resource_of(order.commodity),
                            reason=_reason(order), order_id=paid_with, draws=draws)  # fmt: skip
        for site_id in pays_at(order, agreement):
            _pay(conn, replace(paid_for, site_id=site_id), now)
    return draws


def _pay(conn: Connection, wanted: Discount, now: datetime) -> None:
    charged = charged_until(conn, project_id=wanted.project_id, site_id=wanted.site_id)
    begins = wanted.valid_from if charged is None else max(wanted.valid_from, charged)
    if wanted.valid_to is None or begins < wanted.valid_to:
        wanted = replace(wanted, valid_from=begins)
        for start, end in _not_yet_paid(conn, wanted):
            add_discount(conn, replace(wanted, valid_from=start, valid_to=end), now=now)


def pay_for_rest(
    conn: Connection, *, commodity: str, project_id: str, to_project: str, since: datetime, until: datetime | None,
    now: datetime,
) -> None:  # fmt: skip
    """What is left of something bought and carried over, or moved to another project, pays where it paid before."""
    if place_of(commodity) is None:
        return
    paid = {d.scope: d for d in discounts(conn) if d.project_id == project_id and d.draws == commodity}
    for d in paid.values():
        _pay(conn, replace(d, id=0, project_id=to_project, valid_from=since, valid_to=until), now)


def assert_alone(conn: Connection, order: Order) -> None:
    """A moment at a site is paid with what was bought for that site, or under its agreement: not with both.

    Raises `AccountingError` where another order of the project pays there in the order's time, for another place.
    """
    if not pays_for_runs(order):
        return
    agreement = agreement_for(conn, order, order.starts_at)
    draws, resource = drawn_from(order, agreement), resource_of(order.commodity)
    for site_id in pays_at(order, agreement):
        for d in discounts(conn):
            rival = d.project_id == order.project_id and d.site_id == site_id and d.resource == resource
            late = d.valid_to is not None and d.valid_to <= order.starts_at
            early = order.ends_at is not None and order.ends_at <= d.valid_from
            both = is_unagreed(d.draws) == is_unagreed(draws)
            if rival and d.draws not in (None, draws) and both and not (late or early):
                end = "" if d.valid_to is None else f" until {d.valid_to.isoformat()}"
                raise AccountingError(f"runs at {site_id} are {d.reason}{end}, for {place_of(d.draws or '')}: "
                                      "name the same, or order what begins when that ends")  # fmt: skip


def _not_yet_paid(conn: Connection, wanted: Discount) -> list[tuple[datetime, datetime | None]]:
    """The spans of an order in which no earlier order of the project has made core-hours cost nothing more; what a
    trial has, which nobody paid, is paid with a priced order."""
    paid = [d for d in discounts(conn) if d.place == wanted.place and d.numerator == 0
            and d.draws in (None, wanted.draws) and (d.order_id is not None or wanted.order_id is None)]  # fmt: skip
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
        if not mine or _used(conn, order, {d.draws for d in mine if d.draws}, decided_at, now):
            continue
        since = max(now, charged_until(conn, project_id=order.project_id) or now)
        for paid in mine:
            end_discount(conn, paid.id, ends_at=max(since, paid.valid_from), now=now)
        for other, begins in _beside(conn, order, now):
            free_of_charge(conn, other, begins, since, now)
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


def _used(conn: Connection, order: Order, draws: Set[str], decided_at: datetime, now: datetime) -> bool:
    """Whether something that the order gave may still be used (carried over and moved too), or was set aside for a job
    that has not ended."""
    gone = select(ALLOCATION_EVENTS.c.allocation_id).where(ALLOCATION_EVENTS.c.kind.in_(("canceled", "expired")))
    stays = select(ALLOCATIONS.c.id).where(
        (ALLOCATIONS.c.order_id == order.id) | (ALLOCATIONS.c.project_id == order.project_id)
        & ALLOCATIONS.c.order_id.is_(None) & ALLOCATIONS.c.commodity.in_(draws),
        ALLOCATIONS.c.id.not_in(gone),
        or_(ALLOCATIONS.c.expires_at.is_(None), ALLOCATIONS.c.expires_at > now),
    )  # fmt: skip
    held = select(HOLDS.c.job_id).where(
        HOLDS.c.project_id == order.project_id, HOLDS.c.commodity.in_(draws or {order.commodity}),
        HOLDS.c.state == "open", HOLDS.c.placed_at <= decided_at,
    )  # fmt: skip
    return conn.scalar(stays.limit(1)) is not None or conn.scalar(held.limit(1)) is not None


def _beside(conn: Connection, order: Order, now: datetime) -> list[tuple[Order, datetime]]:
    """The project's other orders of the same commodity that have begun and go on, with when the latest that they gave
    begins."""
    latest = (
        select(ALLOCATIONS.c.order_id, func.max(ALLOCATIONS.c.valid_from).label("begins"))
        .where(ALLOCATIONS.c.project_id == order.project_id, ALLOCATIONS.c.order_id.is_not(None))
        .group_by(ALLOCATIONS.c.order_id)
        .subquery()
    )
    query = select(ORDERS, latest.c.begins).join(latest, latest.c.order_id == ORDERS.c.id).where(
        ORDERS.c.project_id == order.project_id, ORDERS.c.commodity == order.commodity, ORDERS.c.id != order.id,
        ORDERS.c.id.not_in(canceled()), or_(ORDERS.c.ends_at.is_(None), ORDERS.c.ends_at > now),
    )  # fmt: skip
    return [(order_of(row), row.begins) for row in conn.execute(query.order_by(ORDERS.c.starts_at)).all()]
