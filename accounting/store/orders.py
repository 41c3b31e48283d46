"""What an order costs: the project owes the price, and it is divided as a charge is; once for each allocation.

Which agreement divides it: the one that the order names (its newest signed version that has begun), else the one with
the centre that the order names, else none: then all of it is the operator's.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import Connection, Select, insert, select, update

from accounting import calendar, month_parts
from accounting.agreement import Agreement, PartialMonths, agreement_of
from accounting.bound import bound
from accounting.errors import AccountingError
from accounting.evidence.documents import order_price
from accounting.evidence.outbox import put
from accounting.ledger import Division, Entry, divide, parts_of, usage_postings
from accounting.meter import PAYER
from accounting.store.contracts import contracts, in_force
from accounting.store.journal import book
from accounting.store.schema import AGREEMENTS, BALANCES, CANCELLATION_DECISIONS, CANCELLATIONS, ORDER_PRICES

KIND = "order"  # of its entry, and of the leaf that says what was ordered
CANCELED = "!canceled"  # behind an allocation's id: the part of its price that went back
_NOTHING = Division(0, 0, 0, 0, 0)


@dataclass(frozen=True, slots=True)
class Order:
    """`block`: an amount once. `subscription`: an amount for each month. `trial`: an amount for nothing.
    `as_used`: pay after use, up to a credit line of `amount`. `price_micro`: of a block, or of each month.
    `site_id`: the centre that it is for, where it is for one."""

    id: str
    project_id: str
    payer_id: str
    kind: str
    commodity: str
    amount: int
    currency: str
    starts_at: datetime
    ends_at: datetime | None = None
    price_micro: int = 0
    carry_over_max: int = 0
    zone: str = "Asia/Shanghai"
    agreement_id: str | None = None
    ordered_by: str = ""
    site_id: str | None = None


def order_of(row: Any) -> Order:
    """An order as it is stored."""
    return Order(row.id, row.project_id, row.payer_id, row.kind, row.commodity, int(row.amount), row.currency,
                 row.starts_at, row.ends_at, int(row.price_micro), int(row.carry_over_max), row.zone,
                 row.agreement_id, row.ordered_by, row.site_id)  # fmt: skip


def agreement_for(conn: Connection, order: Order, at: datetime) -> Agreement | None:
    """Whose terms divide the price of what an order gives from a moment on; an order outlasts the agreement that it
    names. Raises `AccountingError` where that one is not signed by both for then."""
    if order.agreement_id is None:
        return None if order.site_id is None else contracts(conn, order.project_id).agreement(order.site_id, at)
    if (found := _newest(conn, order.agreement_id, at)) is None:
        raise AccountingError(f"agreement {order.agreement_id} is not signed by both sides for {at.isoformat()}")
    return found


def assert_for_a_centre(conn: Connection, order: Order) -> None:
    """An order that pays for runs says at whose: a centre that has no share of its price would work for nothing.

    Raises `AccountingError` where it names neither agreement nor site, though centres are to be paid by agreements, and
    where the agreement that it names is not signed by both for when it begins.
    """
    if order.agreement_id is None and order.site_id is None and in_force(conn):
        raise AccountingError("name the agreement or the site of the centre whose resources are paid with the order")
    agreement = agreement_for(conn, order, order.starts_at)
    if agreement is not None and order.site_id is not None and order.site_id not in agreement.site_ids:
        raise AccountingError(f"agreement {agreement.id} is not about {order.site_id}: its centre would be paid for it")


def drawn_from(order: Order, agreement: Agreement | None) -> str:
    """The commodity that an order gives, whose price an agreement divides: bound to where runs are paid with it."""
    if not pays_for_runs(order):
        return order.commodity
    agreed = None if agreement is None else agreement.id
    return bound(order.commodity, site_id=order.site_id, agreement_id=agreed)


def pays_for_runs(order: Order) -> bool:
    """Whether what an order gives costs nothing when it is used."""
    return bool(order.price_micro) or order.kind == "trial"


def pays_at(order: Order, agreement: Agreement | None) -> Sequence[str | None]:
    """The sites at which runs are paid with it; None: wherever no agreement holds (`assert_for_a_centre`)."""
    if order.site_id is not None:
        return (order.site_id,)
    return (None,) if agreement is None else agreement.site_ids


def month_part(conn: Connection, order: Order, start: datetime, end: datetime) -> Order:
    """A subscription as [start, end) of one of its months gives and costs: by days, unless its agreement says whole."""
    if order.price_micro or order.agreement_id is None:
        agreement = agreement_for(conn, order, start)
    else:
        agreement = _newest(conn, order.agreement_id, start)
    if agreement is not None and agreement.partial_months is PartialMonths.WHOLE:
        return order
    amount = month_parts.quantity_of(order.amount, start, end, order.zone)
    return replace(order, amount=amount, price_micro=month_parts.price_of(order.price_micro, start, end, order.zone))


def _newest(conn: Connection, agreement_id: str, at: datetime) -> Agreement | None:
    begun = [f.agreement for f in in_force(conn) if f.agreement.id == agreement_id and f.since <= at]
    return begun[-1] if begun else None


def may_owe(conn: Connection, order: Order) -> bool:
    """Count a price on what the project may spend; False, and nothing is done, where its limit does not cover it."""
    mine = (BALANCES.c.project_id == order.project_id) & (BALANCES.c.commodity == order.currency)
    enough = BALANCES.c.posted + BALANCES.c.held + order.price_micro <= BALANCES.c.limit_amount
    counted = update(BALANCES).where(mine, BALANCES.c.limit_amount.is_(None) | enough)
    if conn.execute(counted.values(posted=BALANCES.c.posted + order.price_micro)).rowcount:
        return True
    return conn.scalar(select(BALANCES.c.project_id).where(mine)) is None  # without an account nothing is limited


def available(conn: Connection, order: Order) -> int:
    """What the project may still spend in the order's currency."""
    mine = (BALANCES.c.project_id == order.project_id) & (BALANCES.c.commodity == order.currency)
    return max(0, int(conn.scalar(select(BALANCES.c.limit_amount - BALANCES.c.posted - BALANCES.c.held).where(mine))
                      or 0))  # fmt: skip


def charge_price(
    conn: Connection, order: Order, allocation_id: str, *, start: datetime, end: datetime | None,
    month: Order | None = None, now: datetime,
) -> None:  # fmt: skip
    """Book the price of an allocation that was given just now; `may_owe` has counted it.

    `end` None: the period that is shown is the month that it begins in. `month`: the subscription that it is of.
    """
    agreement = agreement_for(conn, order, start)
    division = divide(order.price_micro, PAYER, agreement)
    terms = contracts(conn, order.project_id).terms(order.project_id, now)
    payers = parts_of(division.amount, terms.payers) if terms.payers else None
    postings = usage_postings(
        order.project_id, currency=order.currency, division=division, used={}, payers=payers,
        centre_id=None if agreement is None else agreement.centre_id,
    )  # fmt: skip
    key = f"order-price:{allocation_id}"
    ids = book(conn, [Entry(key, KIND, now, postings, f"{order.kind} {order.id}")], now=now)
    if key not in ids:
        raise AccountingError(f"the price of {allocation_id} is booked already")
    _keep(conn, key, {
        "allocation_id": allocation_id, "entry_id": ids[key], "order_id": order.id, "project_id": order.project_id,
        "site_id": order.site_id or (agreement.site_ids[0] if agreement is not None and agreement.site_ids else ""),
        "kind": order.kind, "commodity": order.commodity, "quantity": order.amount, "currency": order.currency,
        "price_micro": order.price_micro, "centre_micro": division.centre, "tax_micro": division.tax,
        "agreement_id": None if agreement is None else agreement.id,
        "agreement_version": None if agreement is None else agreement.version, "payers": payers,
        "service_start": start.astimezone(UTC),
        "service_end": (end or calendar.month_of(start, order.zone).end).astimezone(UTC), "recorded_at": now,
        "month_quantity": None if month is None else month.amount, "month_zone": None if month is None else month.zone,
        "month_micro": None if month is None else month.price_micro,
    })  # fmt: skip


def give_back(
    conn: Connection, order: Order, allocation_id: str, *, amount: int, back_micro: int, reason: str, now: datetime
) -> None:
    """Book that a part of an allocation's price goes back, as a price with a minus: divided as the price was.

    It is a line of the next invoice; each allocation has one such price at most.
    """
    price = conn.execute(select(ORDER_PRICES).where(ORDER_PRICES.c.allocation_id == allocation_id)).one()._asdict()
    agreement = agreement_of_price(conn, allocation_id)
    division = _NOTHING.less(divide(back_micro, PAYER, agreement))
    payers = None if price["payers"] is None else parts_of(-back_micro, list(price["payers"].items()))
    postings = usage_postings(
        order.project_id, currency=order.currency, division=division, used={}, payers=payers,
        centre_id=None if agreement is None else agreement.centre_id,
    )  # fmt: skip
    name = f"{allocation_id}{CANCELED}"
    key = f"order-price:{name}"
    ids = book(conn, [Entry(key, KIND, now, postings, reason)], now=now)
    mine = (BALANCES.c.project_id == order.project_id) & (BALANCES.c.commodity == order.currency)
    conn.execute(update(BALANCES).where(mine).values(posted=BALANCES.c.posted - back_micro))
    until = max(price["service_end"], calendar.month_of(now, order.zone).end.astimezone(UTC))
    _keep(conn, key, price | {
        "allocation_id": name, "entry_id": ids[key], "quantity": -amount, "price_micro": -back_micro,
        "centre_micro": division.centre, "tax_micro": division.tax, "payers": payers, "service_start": now,
        "service_end": until, "recorded_at": now, "month_quantity": None, "month_micro": None, "month_zone": None,
    })  # fmt: skip


def canceled() -> Select[Any]:
    """The ids of the orders of which nothing more is given."""
    decided = CANCELLATION_DECISIONS.c.cancellation_id == CANCELLATIONS.c.id
    query = select(CANCELLATIONS.c.order_id).join(CANCELLATION_DECISIONS, decided)
    return query.where(CANCELLATION_DECISIONS.c.decision == "posted")


def _keep(conn: Connection, key: str, row: dict[str, Any]) -> None:
    """A price with its leaf; `key`: that of its entry."""
    conn.execute(insert(ORDER_PRICES), [row])
    about = {"site": row["site_id"]} if row["site_id"] else {}
    put(conn, KIND, row["allocation_id"], order_price(row | {"entry": key}), project=row["project_id"], **about)


def agreement_of_price(conn: Connection, allocation_id: str) -> Agreement | None:
    """The agreement that divided a price."""
    query = select(AGREEMENTS.c.payload).join(
        ORDER_PRICES,
        (ORDER_PRICES.c.agreement_id == AGREEMENTS.c.id) & (ORDER_PRICES.c.agreement_version == AGREEMENTS.c.version),
    )
    payload = conn.scalar(query.where(ORDER_PRICES.c.allocation_id == allocation_id))
    return None if payload is None else agreement_of(payload)


def part_of(
    payers: Mapping[str, int] | None, price_micro: int, payer_id: str, *, whole: bool
) -> tuple[str, int] | None:
    """(whose part, how much) a payer is billed of a price; None where it pays nothing of it. `whole`: this payer pays
    what is not shared."""
    if payers is None:
        return ("", price_micro) if whole else None
    return (payer_id, payers[payer_id]) if payers.get(payer_id) else None
