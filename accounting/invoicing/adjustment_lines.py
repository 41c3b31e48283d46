"""Put adjustments on invoices: what a person decided that a project owes more or less, each payer's part once for ever.

A write-off of an invoice is none of these: it changes what is open of that invoice (accounting/payments/clearing.py).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import BigInteger, Connection, Select, and_, func, insert, select

from accounting.calendar import month_of
from accounting.invoicing.invoice import Document, Item, LineKind
from accounting.ledger import parts_of
from accounting.store.contracts import contracts
from accounting.store.orders import part_of
from accounting.store.schema import ADJUSTMENT_ITEMS, ADJUSTMENTS, CHARGES, DECISIONS, ENTRIES, OVERLAPS, USAGE
from accounting.tables import UtcTime


@dataclass(frozen=True, slots=True)
class AdjustedPart:
    """What of an adjustment one payer has still to be billed; `part` is empty where one pays the whole."""

    adjustment_id: str
    part: str
    item: Item
    reason: str


def unbilled_adjustments(
    conn: Connection, project_id: str, currency: str, payer_id: str, *, pays_whole: Callable[[datetime], bool],
    sold_here: Callable[[str], bool], before: datetime, zone: str,
) -> list[AdjustedPart]:  # fmt: skip
    """Adjustments that count before a moment, as far as this payer owes them and no document has them, oldest first."""
    query = _posted(before).where(ADJUSTMENTS.c.project_id == project_id, ADJUSTMENTS.c.currency == currency)
    billed = {(r.adjustment_id, r.part) for r in conn.execute(
        select(ADJUSTMENT_ITEMS.c.adjustment_id, ADJUSTMENT_ITEMS.c.part)
        .join(ADJUSTMENTS, ADJUSTMENTS.c.id == ADJUSTMENT_ITEMS.c.adjustment_id)
        .where(ADJUSTMENTS.c.project_id == project_id)
    )}  # fmt: skip
    agreed = contracts(conn, project_id)
    found = []
    for row in conn.execute(query.order_by(ENTRIES.c.id)):
        mine = _mine(row, agreed.terms(project_id, row.counts_at).payers, payer_id,
                     whole=pays_whole(row.counts_at))  # fmt: skip
        if mine is None or not sold_here(row.site_id or "") or (row.id, mine[0]) in billed:
            continue
        month = month_of(row.counts_at, zone)
        item = Item("", "", month.start, month.end, 0, 0, mine[1], adjusts=row.id)
        found.append(AdjustedPart(row.id, mine[0], item, row.reason))
    return found


def _mine(row: Any, payers: Sequence[tuple[str, int]], payer_id: str, *, whole: bool) -> tuple[str, int] | None:
    """Whose part of an adjustment this payer owes, and how much; None: none of it."""
    amount = owed(row)
    if row.payer_id:  # what the books charge again goes to whom it was given back
        return ("", amount) if row.payer_id == payer_id else None
    return part_of(parts_of(amount, payers) if payers else None, amount, payer_id, whole=whole)


def owed(row: Any) -> int:
    """By how much an adjustment lets the project owe more; a write-off lets it owe less."""
    return int(row.amount_micro) if row.kind == "adjustment" else -int(row.amount_micro)


def claim_adjustments(conn: Connection, number: str, parts: Sequence[AdjustedPart]) -> None:
    """Put adjustments on a document; the primary key refuses any that another document has."""
    rows = [
        {"adjustment_id": p.adjustment_id, "part": p.part, "document": number, "amount_micro": p.item.amount_micro}
        for p in parts
    ]
    if rows:
        conn.execute(insert(ADJUSTMENT_ITEMS), rows)


def adjustment_items(conn: Connection, made: Document) -> Iterator[tuple[str, ...]]:
    """The items of a document that are adjustments, in the form of `items.py`, in the order of their entries, in which
    their lines are too."""
    query = (
        select(ADJUSTMENT_ITEMS, ENTRIES.c.idem_key)
        .join(DECISIONS, DECISIONS.c.adjustment_id == ADJUSTMENT_ITEMS.c.adjustment_id)
        .join(ENTRIES, ENTRIES.c.id == DECISIONS.c.entry_id)
        .where(ADJUSTMENT_ITEMS.c.document == made.number)
        .order_by(ENTRIES.c.id)
    )
    rows = conn.execute(query).all()
    lines = [line for line in made.lines if line.kind is LineKind.ADJUSTMENT]
    for row, line in zip(rows, lines, strict=True) if rows else ():
        yield str(line.number), "adjustment", row.idem_key, row.part, "0", str(row.amount_micro)


def left_to_adjust(conn: Connection, before: datetime) -> list[tuple[str, str, int]]:
    """(project, currency, micro-units) of each adjustment that counts before a moment and is not wholly billed."""
    billed: dict[str, int] = {}
    for row in conn.execute(select(ADJUSTMENT_ITEMS.c.adjustment_id, ADJUSTMENT_ITEMS.c.amount_micro)):
        billed[row.adjustment_id] = billed.get(row.adjustment_id, 0) + int(row.amount_micro)
    return [
        (row.project_id, row.currency, owed(row) - billed.get(row.id, 0))
        for row in conn.execute(_posted(before))
        if owed(row) != billed.get(row.id, 0)
    ]


def adjusted_within(
    conn: Connection, start: datetime, end: datetime, *, by: str | None = None
) -> list[tuple[str, int, int]]:
    """(currency, micro-units, what of them is on documents) of each adjustment that counts within [start, end); `by`:
    of those that one asked for."""
    on = select(func.coalesce(func.sum(ADJUSTMENT_ITEMS.c.amount_micro), 0, type_=BigInteger))
    on = on.where(ADJUSTMENT_ITEMS.c.adjustment_id == ADJUSTMENTS.c.id)
    within = and_(ENTRIES.c.effective_at >= start, ENTRIES.c.effective_at < end)
    within = within if by is None else within & (ADJUSTMENTS.c.requested_by == by)
    query = _posted(end).add_columns(on.scalar_subquery().label("billed")).where(within)
    return [(row.currency, owed(row), int(row.billed)) for row in conn.execute(query)]


def entries_on(documents: Select[Any]) -> Select[Any]:
    """The entries of the adjustments that stand on documents."""
    query = select(DECISIONS.c.entry_id).join(
        ADJUSTMENT_ITEMS, ADJUSTMENT_ITEMS.c.adjustment_id == DECISIONS.c.adjustment_id
    )
    return query.where(ADJUSTMENT_ITEMS.c.document.in_(documents))


def _posted(before: datetime) -> Select[Any]:
    """What was posted and is billed with what was done before a moment; with the site of the charge that it is about.

    `counts_at`: what the books charged again is billed with the correction, also where that month is closed.
    `payer_id`: who was given it back, where it is such; None: who pays.
    """
    counts_at = func.coalesce(ENTRIES.c.service_at, ENTRIES.c.effective_at, type_=UtcTime())
    back_to = select(func.max(OVERLAPS.c.payer_id)).where(OVERLAPS.c.adjustment_id == ADJUSTMENTS.c.id)
    return (
        select(ADJUSTMENTS, counts_at.label("counts_at"), USAGE.c.site_id, back_to.scalar_subquery().label("payer_id"))
        .join(DECISIONS, and_(DECISIONS.c.adjustment_id == ADJUSTMENTS.c.id, DECISIONS.c.decision == "posted"))
        .join(ENTRIES, ENTRIES.c.id == DECISIONS.c.entry_id)
        .outerjoin(CHARGES, CHARGES.c.id == ADJUSTMENTS.c.charge_id)
        .outerjoin(USAGE, USAGE.c.id == CHARGES.c.usage_record_id)
        .where(counts_at < before)
    )
