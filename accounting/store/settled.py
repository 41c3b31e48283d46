"""What of a document is settled: paid, credited, set off, paid back; what was credited of an order's price."""

from __future__ import annotations

import json

from sqlalchemy import Connection, func, select

from accounting import tables
from accounting.store.cleared import settled_by_clearing
from accounting.store.schema import ORDER_ITEMS, core

DOCUMENTS = core(tables.BillingDocumentRow)
PAID = core(tables.InvoicePaymentRow)


def settled_minor(conn: Connection, invoice_number: str) -> int:
    """What of a document's gross is paid, credited, set off or paid back so far; a write-off settles nothing."""
    paid = select(func.coalesce(func.sum(PAID.c.amount_minor), 0)).where(PAID.c.document == invoice_number)
    back = select(func.coalesce(func.sum(DOCUMENTS.c.gross_minor), 0)).where(DOCUMENTS.c.corrects == invoice_number)
    return int(conn.scalar(paid) or 0) - int(conn.scalar(back) or 0) + settled_by_clearing(conn, invoice_number)


def credited_of_price(conn: Connection, allocation_id: str) -> int:
    """Micro-units that credit notes gave back of the price of an allocation, on whichever documents it stands."""
    on = select(ORDER_ITEMS.c.document).where(ORDER_ITEMS.c.allocation_id == allocation_id)
    notes = conn.scalars(select(DOCUMENTS.c.snapshot).where(DOCUMENTS.c.corrects.in_(on)))
    lines = [line for text in notes for line in json.loads(text)["lines"]]
    mine = [line for line in lines if (line.get("ordered") or {}).get("allocation_id") == allocation_id]
    return -sum(int(line["amount_micro"]) for line in mine)
