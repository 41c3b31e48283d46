"""What of an invoice is settled so far: paid, credited, set off against a credit note, or written off."""

from __future__ import annotations

from sqlalchemy import Connection, func, select

from accounting import tables
from accounting.store.schema import SET_OFFS, core

DOCUMENTS = core(tables.BillingDocumentRow)
PAID = core(tables.InvoicePaymentRow)


def settled_minor(conn: Connection, invoice_number: str) -> int:
    """Minor units of the invoice's gross that nobody has to pay any more."""
    paid = select(func.coalesce(func.sum(PAID.c.amount_minor), 0)).where(PAID.c.document == invoice_number)
    back = select(func.coalesce(func.sum(DOCUMENTS.c.gross_minor), 0)).where(DOCUMENTS.c.corrects == invoice_number)
    off = select(func.coalesce(func.sum(SET_OFFS.c.amount_minor), 0)).where(SET_OFFS.c.document == invoice_number)
    return int(conn.scalar(paid) or 0) - int(conn.scalar(back) or 0) + int(conn.scalar(off) or 0)
