"""What stands on a document: each charge (or taken-back charge) on one of its lines, and the hash of that list.

A document's leaf commits to the list, so that nobody can say later that another run was meant:

    line number, kind, entry of the charge, part, core-seconds, micro-units     separated by tabs, one a line, by charge

Prices of orders come behind the charges: their kind is `order`, their entry the order's (order_lines.py). Adjustments
come last: their kind is `adjustment`, their entry the one that posted them (adjustment_lines.py).
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator

from sqlalchemy import Connection, select

from accounting import tables
from accounting.invoicing.adjustment_lines import adjustment_items
from accounting.invoicing.invoice import Document, LineKind
from accounting.invoicing.order_lines import order_items
from accounting.store.schema import CHARGES, ENTRIES, core

ITEMS = core(tables.BillingItemRow)

Listed = tuple[str, ...]  # as above; numbers as text, so that no reader rounds them


def items_of(conn: Connection, made: Document) -> Iterator[Listed]:
    """The items of a document in the order that is hashed; none of a credit that somebody decided."""
    line_of = {
        (line.site_id, line.user_id, line.service_start): line.number
        for line in made.lines if not line.ordered and line.kind is not LineKind.ADJUSTMENT
    }  # fmt: skip
    query = (
        select(ITEMS, ENTRIES.c.idem_key)
        .join(CHARGES, CHARGES.c.id == ITEMS.c.charge_id)
        .join(ENTRIES, ENTRIES.c.id == CHARGES.c.entry_id)
        .where(ITEMS.c.document == made.number)
        .order_by(ITEMS.c.charge_id, ITEMS.c.kind, ITEMS.c.part)
    )
    for row in conn.execute(query):
        line = line_of[row.site_id, row.user_id, row.service_start]
        yield str(line), row.kind, row.idem_key, row.part, str(row.core_seconds), str(row.amount_micro)
    yield from order_items(conn, made)
    yield from adjustment_items(conn, made)


def items_sha256(items: Iterable[Listed]) -> str:
    """What the document's leaf says of its items."""
    digest = hashlib.sha256()
    for item in items:
        digest.update(("\t".join(item) + "\n").encode())
    return digest.hexdigest()
