"""Set off what corrections gave back against what is open: the same issuer, payer, project and currency, oldest first.

A credit note that names an invoice lessens that one by itself. One of a month that came to less than nothing names
none: the payer pays that much less of the open invoices, now or when the next is issued. Nothing moves in the ledger
(the payer's account has both already), so the entry only says which went against which. What the project may spend
stays as well: the correction itself has given it back.
"""

from __future__ import annotations

from datetime import datetime
from typing import Any

from sqlalchemy import Connection, func, insert, select

from accounting.invoicing.invoice import Document, DocumentKind
from accounting.invoicing.postings import payer_receivable
from accounting.ledger import Entry, Posting
from accounting.minor_units import to_micro
from accounting.store import book
from accounting.store.schema import SET_OFFS
from accounting.store.settled import DOCUMENTS, settled_minor

KIND = "set_off"


def set_off(conn: Connection, made: Document, *, now: datetime) -> None:
    """Settle open invoices with open credit notes, as far as both go, once a document of theirs was made."""
    owed = conn.execute(_of(made, DocumentKind.INVOICE).order_by(DOCUMENTS.c.due_at, DOCUMENTS.c.number)).all()
    left = [(row.number, int(row.gross_minor) - settled_minor(conn, row.number)) for row in owed]
    open_invoices = [[number, minor] for number, minor in left if minor > 0]
    for note in conn.execute(_of(made, DocumentKind.CREDIT_NOTE).order_by(DOCUMENTS.c.serial)).all():
        credit = left_of_credit(conn, note.number, int(note.gross_minor))
        for at in open_invoices:
            minor = min(credit, at[1])
            if minor <= 0:
                continue
            _book(conn, made, invoice=at[0], note=note.number, minor=minor, now=now)
            credit, at[1] = credit - minor, at[1] - minor


def left_of_credit(conn: Connection, number: str, gross_minor: int) -> int:
    """What of a credit note of corrections has not been set off (positive)."""
    used = select(func.coalesce(func.sum(SET_OFFS.c.amount_minor), 0)).where(SET_OFFS.c.source == number)
    return -gross_minor - int(conn.scalar(used) or 0)


def _of(made: Document, kind: DocumentKind) -> Any:
    return select(DOCUMENTS.c.number, DOCUMENTS.c.gross_minor).where(
        DOCUMENTS.c.kind == kind.value, DOCUMENTS.c.corrects.is_(None), DOCUMENTS.c.issuer_id == made.issuer.id,
        DOCUMENTS.c.payer_id == made.payer.id, DOCUMENTS.c.project_id == made.project_id,
        DOCUMENTS.c.currency == made.currency,
    )  # fmt: skip


def _book(conn: Connection, made: Document, *, invoice: str, note: str, minor: int, now: datetime) -> None:
    account, micro = payer_receivable(made.payer.id), to_micro(minor, made.currency)
    key = f"set-off:{note}:{invoice}"
    postings = (Posting(account, made.currency, micro), Posting(account, made.currency, -micro))
    entry_id = book(conn, [Entry(key, KIND, now, postings, f"{note} against {invoice}")], now=now)[key]
    conn.execute(insert(SET_OFFS).values(document=invoice, source=note, amount_minor=minor, entry_id=entry_id,
                                         recorded_at=now))  # fmt: skip
