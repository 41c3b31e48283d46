"""A month that is billed and a month that is closed are the same month, and each is so once."""

from __future__ import annotations

from datetime import datetime, timedelta

import pytest
from sqlalchemy import Connection

from accounting import store as books
from accounting.errors import InvoiceRefused
from accounting.invoicing.invoice import LineKind
from accounting.invoicing.store import issue_invoice
from accounting.store import periods
from gateway.db import Database
from tests.unit.accounting.invoicing import NOW, OPERATOR, bill, charge, parties, run, wanted

NEXT = NOW + timedelta(days=31)


def close(conn: Connection, *, number: int = 10, zone: str = OPERATOR.zone, now: datetime = NOW) -> None:
    made = periods.open_period(conn, year=2026, month=number, zone=zone, by="ada", now=now)
    periods.begin_closing(conn, made, by="ada", now=now)
    periods.close_period(conn, made, by="ada", now=now)


def test_what_comes_late_to_a_closed_month_is_billed_once_and_with_an_open_one(db: Database) -> None:
    with db.write() as conn:
        parties(conn)
        charge(conn, run(3600))
        first = bill(conn)
        close(conn)
        charge(conn, run(7200), now=NOW + timedelta(days=1))
    with pytest.raises(InvoiceRefused, match="closed"), db.write() as conn:
        issue_invoice(conn, wanted("2026-10"), now=NOW + timedelta(days=2))
    with db.write() as conn:
        late = bill(conn, "2026-11", now=NEXT)
        assert issue_invoice(conn, wanted("2026-11"), now=NEXT) is None
        assert [(line.kind, line.runs) for line in late.lines] == [(LineKind.CORRECTION, 1)]
        assert (first.net_minor, late.net_minor) == (5, 10)
        closed = periods.periods(conn)[0]
        entries = [r for r in conn.execute(books.posting_lines()) if r.memo == late.number]
        assert entries and all(r.effective_at >= closed.ends_at for r in entries)
        assert books.check_books(conn) == []


def test_a_month_that_the_books_cut_otherwise_is_not_billed(db: Database) -> None:
    with db.write() as conn:
        parties(conn)
        charge(conn, run(3600))
        periods.open_period(conn, year=2026, month=10, zone="Europe/Berlin", by="ada", now=NOW)
    with pytest.raises(InvoiceRefused, match="Europe/Berlin"), db.write() as conn:
        issue_invoice(conn, wanted("2026-10"), now=NOW)
