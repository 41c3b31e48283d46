"""Put the prices of orders on invoices: each payer's part on one document, once for ever."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import BigInteger, Connection, Select, func, insert, select

from accounting.invoicing.invoice import Document, Item, LineKind, Ordered
from accounting.store.orders import part_of
from accounting.store.schema import ENTRIES, ORDER_ITEMS, ORDER_PRICES


@dataclass(frozen=True, slots=True)
class PricePart:
    """What of an order's price one payer has still to be billed; `part` is empty where one pays the whole."""

    part: str
    item: Item


def unbilled_prices(
    conn: Connection, project_id: str, currency: str, payer_id: str, *, pays_whole: Callable[[datetime], bool],
    sold_here: Callable[[str], bool], before: datetime,
) -> list[PricePart]:  # fmt: skip
    """Prices that count before a moment, as far as this payer owes them and no document has them, oldest first."""
    query = _counting_before(before).where(ORDER_PRICES.c.project_id == project_id, ORDER_PRICES.c.currency == currency)
    billed = {(r.allocation_id, r.part) for r in conn.execute(
        select(ORDER_ITEMS.c.allocation_id, ORDER_ITEMS.c.part)
        .join(ORDER_PRICES, ORDER_PRICES.c.allocation_id == ORDER_ITEMS.c.allocation_id)
        .where(ORDER_PRICES.c.project_id == project_id)
    )}  # fmt: skip
    found = []
    for row in conn.execute(query.order_by(ORDER_PRICES.c.entry_id)):
        mine = part_of(row.payers, int(row.price_micro), payer_id, whole=pays_whole(row.counts_at))
        if mine is None or not sold_here(row.site_id) or (row.allocation_id, mine[0]) in billed:
            continue
        ordered = Ordered(row.order_id, row.allocation_id, row.kind, row.commodity, int(row.quantity))
        found.append(PricePart(mine[0], Item(row.site_id, "", row.service_start, row.service_end, 0, 0, mine[1],
                                             ordered)))  # fmt: skip
    return found


def claim(conn: Connection, number: str, parts: Sequence[PricePart]) -> None:
    """Put prices on a document; the primary key refuses any that another document has."""
    rows = [
        {"allocation_id": p.item.ordered.allocation_id, "part": p.part, "document": number,
         "amount_micro": p.item.amount_micro}
        for p in parts
        if p.item.ordered is not None
    ]  # fmt: skip
    if rows:
        conn.execute(insert(ORDER_ITEMS), rows)


def order_items(conn: Connection, made: Document) -> Iterator[tuple[str, ...]]:
    """The items of a document that are prices of orders, in the form of `items.py`, in the order of their entries."""
    line_of = {x.ordered.allocation_id: x.number for x in made.lines if x.ordered and x.kind is LineKind.ORDER}
    query = (
        select(ORDER_ITEMS, ENTRIES.c.idem_key)
        .join(ORDER_PRICES, ORDER_PRICES.c.allocation_id == ORDER_ITEMS.c.allocation_id)
        .join(ENTRIES, ENTRIES.c.id == ORDER_PRICES.c.entry_id)
        .where(ORDER_ITEMS.c.document == made.number)
        .order_by(ORDER_PRICES.c.entry_id, ORDER_ITEMS.c.part)
    )
    for row in conn.execute(query):
        yield str(line_of[row.allocation_id]), "order", row.idem_key, row.part, "0", str(row.amount_micro)


def prices_of(conn: Connection, order_id: str) -> list[tuple[Any, list[str]]]:
    """Each price of an order (a row of order_price), oldest first, with the documents that it stands on."""
    on: dict[str, list[str]] = {}
    items = select(ORDER_ITEMS.c.allocation_id, ORDER_ITEMS.c.document).join(
        ORDER_PRICES, ORDER_PRICES.c.allocation_id == ORDER_ITEMS.c.allocation_id
    )
    for row in conn.execute(items.where(ORDER_PRICES.c.order_id == order_id).order_by(ORDER_ITEMS.c.document)):
        on.setdefault(row.allocation_id, []).append(row.document)
    query = select(ORDER_PRICES).where(ORDER_PRICES.c.order_id == order_id).order_by(ORDER_PRICES.c.entry_id)
    return [(row, on.get(row.allocation_id, [])) for row in conn.execute(query)]


def left_to_bill(conn: Connection, before: datetime) -> list[tuple[str, str, int]]:
    """(project, currency, micro-units) of each price that counts before a moment and is not wholly on documents."""
    billed: dict[str, int] = {}
    for row in conn.execute(select(ORDER_ITEMS.c.allocation_id, ORDER_ITEMS.c.amount_micro)):
        billed[row.allocation_id] = billed.get(row.allocation_id, 0) + int(row.amount_micro)
    return [
        (row.project_id, row.currency, int(row.price_micro) - billed.get(row.allocation_id, 0))
        for row in conn.execute(_counting_before(before))
        if int(row.price_micro) != billed.get(row.allocation_id, 0)
    ]


def priced_within(conn: Connection, start: datetime, end: datetime) -> list[tuple[str, int, int]]:
    """(currency, micro-units, what of them is on documents) of each price that counts within [start, end)."""
    on = select(func.coalesce(func.sum(ORDER_ITEMS.c.amount_micro), 0, type_=BigInteger))
    on = on.where(ORDER_ITEMS.c.allocation_id == ORDER_PRICES.c.allocation_id)
    query = (
        select(ORDER_PRICES.c.currency, ORDER_PRICES.c.price_micro, on.scalar_subquery())
        .join(ENTRIES, ENTRIES.c.id == ORDER_PRICES.c.entry_id)
        .where(ENTRIES.c.effective_at >= start, ENTRIES.c.effective_at < end)
    )
    return [(currency, int(price), int(billed)) for currency, price, billed in conn.execute(query)]


def _counting_before(moment: datetime) -> Select[Any]:
    return (
        select(ORDER_PRICES, ENTRIES.c.effective_at.label("counts_at"))
        .join(ENTRIES, ENTRIES.c.id == ORDER_PRICES.c.entry_id)
        .where(ENTRIES.c.effective_at < moment)
    )
