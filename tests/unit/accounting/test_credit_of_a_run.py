"""A credit or a dispute that names runs of a line is about these: another run's record gives back its own."""

from __future__ import annotations

import pytest

from accounting.errors import AccountingError, InvoiceRefused
from accounting.invoicing.credit_notes import Credit
from accounting.invoicing.dispute_store import disputes, entries_in_dispute, raise_dispute, take
from accounting.invoicing.disputes import Side, Step
from accounting.invoicing.invoice import Document
from accounting.invoicing.store import issue_credit_note
from gateway.db import Database
from tests.unit.accounting.invoicing import NOW
from tests.unit.accounting.test_given_back_once import DECEMBER, JANUARY, LATER, adjust, billed, db, live, pays, says

_ = db  # the fixture


def credit(db: Database, invoice: Document, money: int, *keys: str) -> Document:
    with db.write() as conn:
        wanted = Credit(1, money * 100, tuple(live(db, key) for key in keys))
        return issue_credit_note(conn, invoice.number, [wanted], reason="so it was", now=NOW)


def dispute(db: Database, invoice: Document, *keys: str, granted: bool = True) -> None:
    with db.write() as conn:
        raise_dispute(conn, dispute_id="d1", invoice=invoice.number, line=1, reason="it failed", by="owner",
                      charges=[live(db, key) for key in keys], now=LATER)  # fmt: skip
        if granted:
            take(conn, "d1", Step.CREDIT, side=Side.OPERATOR, by="op", now=LATER)


def test_what_is_given_back_of_one_run_is_not_met_by_the_record_of_another(db: Database) -> None:
    credit(db, billed(db, "a", "b"), 4, "a")
    says(db, 7, key="b")
    assert pays(db) == 20 - 4 - 3


def test_and_is_met_by_its_own(db: Database) -> None:
    credit(db, billed(db, "a", "b"), 4, "a")
    says(db, 7, key="b")
    says(db, 8, key="a")
    assert pays(db) == 20 - 4 - 3
    says(db, 5, key="a")
    assert pays(db, now=JANUARY, month="2026-12") == 20 - 5 - 3


def test_one_that_names_no_run_is_met_by_any(db: Database) -> None:
    credit(db, billed(db, "a", "b"), 4)
    says(db, 7, key="b")
    assert pays(db) == 20 - 4


def test_one_that_names_some_is_met_by_these_in_all(db: Database) -> None:
    credit(db, billed(db, "a", "b", "c"), 5, "a", "b")
    for key in ("a", "b", "c"):
        says(db, 7, key=key)
    assert pays(db) == 30 - 6 - 3


def test_a_dispute_names_its_runs_and_its_credit_is_of_them(db: Database) -> None:
    dispute(db, billed(db, "a", "b"), "a")
    says(db, 7, key="b")
    assert pays(db) == 20 - 10 - 3


def test_what_is_disputed_of_a_line_is_what_is_left_of_its_runs(db: Database) -> None:
    invoice = billed(db, "a", "b")
    dispute(db, invoice, "a", granted=False)
    with db.read() as conn:
        [found] = disputes(conn)
        assert found.charges == (live(db, "a"),)
        assert found.amount_minor * 2 == sum(line.net_minor + line.tax_minor for line in invoice.lines)
        assert len(entries_in_dispute(conn, [found.site_id])) == 1


def test_no_more_is_credited_of_runs_than_is_left_of_them(db: Database) -> None:
    invoice = billed(db, "a", "b")
    with pytest.raises(InvoiceRefused, match=r"10\.00 CNY are left"):
        credit(db, invoice, 11, "a")
    credit(db, invoice, 6, "a")
    with pytest.raises(InvoiceRefused, match=r"4\.00 CNY are left"):
        credit(db, invoice, 5, "a")
    with pytest.raises(AccountingError, match=r"4\.00 CNY is left of charge"):
        adjust(db, -5, key="a")
    credit(db, invoice, 10, "b")
    credit(db, invoice, 4, "a")
    assert pays(db) == 0


def test_a_changed_record_and_an_adjustment_leave_less_of_a_run(db: Database) -> None:
    invoice = billed(db, "a", "b")
    before = live(db, "a")
    says(db, 7, key="a")
    adjust(db, -2, key="a")
    with db.write() as conn, pytest.raises(InvoiceRefused, match=r"5\.00 CNY are left"):
        issue_credit_note(conn, invoice.number, [Credit(1, 600, (before,))], reason="so it was", now=DECEMBER)


def test_a_run_of_another_line_is_refused(db: Database) -> None:
    invoice = billed(db, "a", "b")
    with db.write() as conn, pytest.raises(InvoiceRefused, match="charge 99 is not on this line"):
        issue_credit_note(conn, invoice.number, [Credit(1, 100, (99,))], reason="so it was", now=NOW)
