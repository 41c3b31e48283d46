"""A payer's documents for a bundle: each with its leaf and its items, and the entries that they stand on."""

from __future__ import annotations

import json
from collections.abc import Iterator
from itertools import islice
from typing import Any

from sqlalchemy import Connection, Select, String, cast, or_, select

from accounting.evidence import log
from accounting.evidence.about import About, NothingToShow
from accounting.evidence.outbox import ENTRY
from accounting.invoicing.adjustment_lines import entries_on
from accounting.invoicing.invoice import from_snapshot
from accounting.invoicing.items import ITEMS, items_of
from accounting.store.schema import CHARGES, ENTRIES, ORDER_ITEMS, ORDER_PRICES, REVERSALS
from accounting.store.settled import DOCUMENTS

_ITEMS_A_LINE = 1000


def documents(conn: Connection, about: About, size: int) -> list[tuple[Any, log.Leaf]]:
    """Invoices and credit notes of what is asked for, in the order of the log. Raises `NothingToShow`."""
    found = []
    for row in conn.execute(select(DOCUMENTS).where(DOCUMENTS.c.number.in_(_numbers(about)))):
        leaf = log.find(conn, row.kind, row.number)
        if leaf is None or leaf.seq >= size:
            raise NothingToShow(f"{row.number} is in no checkpoint yet")
        found.append((row, leaf))
    if not found:
        raise NothingToShow("there is no invoice of this payer in this period")
    return sorted(found, key=lambda pair: pair[1].seq)


def span(found: list[tuple[Any, log.Leaf]]) -> tuple[Any, Any]:
    """From when until when the documents bill: issuers may keep their months in different zones."""
    return min(row.period_start for row, _ in found), max(row.period_end for row, _ in found)


def lines(conn: Connection, found: list[tuple[Any, log.Leaf]]) -> Iterator[dict[str, Any]]:
    """The lines of the bundle: a document with its leaf, then its items."""
    for row, leaf in found:
        yield {"t": "leaf", "seq": leaf.seq, "leaf": json.loads(leaf.payload), "content": json.loads(row.snapshot)}
        items = items_of(conn, from_snapshot(row.snapshot))
        while part := list(islice(items, _ITEMS_A_LINE)):
            yield {"t": "items", "document": row.number, "items": part}


def charges_of(about: About) -> Select[Any]:
    """The charges that stand on the documents, or are taken back by them."""
    return select(ITEMS.c.charge_id).where(ITEMS.c.document.in_(_numbers(about)))


def orders_of(about: About) -> Select[Any]:
    """The entries of the prices of orders that stand on the documents."""
    on = select(ORDER_ITEMS.c.allocation_id).where(ORDER_ITEMS.c.document.in_(_numbers(about)))
    return select(ORDER_PRICES.c.entry_id).where(ORDER_PRICES.c.allocation_id.in_(on))


def entry_ids(conn: Connection, about: About, size: int) -> list[tuple[int, int]]:
    """(entry, leaf number) of everything that the documents stand on: the charges, what took their place, what of them
    went beyond a hold, the prices of orders, adjustments, and the documents' own entries."""
    charged = select(CHARGES.c.entry_id).where(CHARGES.c.id.in_(charges_of(about)))
    undone = select(REVERSALS.c.entry_id).where(REVERSALS.c.charge_id.in_(charges_of(about)))
    ordered, adjusted = orders_of(about), entries_on(_numbers(about))
    own = select(DOCUMENTS.c.entry_id).where(DOCUMENTS.c.number.in_(_numbers(about)))
    over = select(ENTRIES.c.id).where(
        ENTRIES.c.kind == "overage", or_(ENTRIES.c.linked_entry_id.in_(charged), ENTRIES.c.linked_entry_id.in_(undone))
    )
    leaf = (log.LEAVES.c.kind == ENTRY) & (log.LEAVES.c.ref == cast(ENTRIES.c.id, String))
    wanted = or_(*(ENTRIES.c.id.in_(part) for part in (charged, undone, ordered, adjusted, own, over)))
    query = select(ENTRIES.c.id, log.LEAVES.c.seq).join(log.LEAVES, leaf).where(wanted, log.LEAVES.c.seq < size)
    return [(int(i), int(seq)) for i, seq in conn.execute(query.order_by(log.LEAVES.c.seq))]


def _numbers(about: About) -> Select[Any]:
    """The numbers of the documents that are asked for; a document comes with the credit notes about it."""
    query = select(DOCUMENTS.c.number)
    if about.document is not None:
        return query.where(or_(DOCUMENTS.c.number == about.document, DOCUMENTS.c.corrects == about.document))
    query = query.where(
        DOCUMENTS.c.payer_id == about.payer_id,
        DOCUMENTS.c.period_start < about.end,
        DOCUMENTS.c.period_end > about.start,
    )
    return query if about.project_id is None else query.where(DOCUMENTS.c.project_id == about.project_id)
