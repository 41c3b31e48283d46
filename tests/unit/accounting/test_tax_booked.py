"""The issuer's tax account is what its documents say, with prices that include the tax, agreed with a centre or not."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from datetime import timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from accounting import store as books
from accounting.agreement import Tax as AgreedTax
from accounting.agreement import TaxKind as Agreed
from accounting.invoicing.credit_notes import Credit
from accounting.invoicing.legal_entities import add_tax_rule, save_entity
from accounting.invoicing.store import issue_credit_note, issue_invoice
from accounting.invoicing.tax_booked import part_of_tax
from accounting.store.contracts import Terms, set_terms
from gateway.db import Database
from tests.unit.accounting.invoicing import NOW, OPERATOR, PAYER, T0, VAT, bill, charge, parties, run, wanted
from tests.unit.accounting.makers import agree, agreement

INSIDE = replace(VAT, code="inside", inclusive=True)


@pytest.fixture
def db(db_url: str) -> Iterator[Database]:
    made = Database(db_url)
    with made.write() as conn:
        parties(conn, tax="vat")
        add_tax_rule(conn, INSIDE, now=T0)
        save_entity(conn, OPERATOR, tax_code="inside", now=T0)
        save_entity(conn, replace(PAYER, id="lab"), now=T0)
    yield made
    made.dispose()


def on(db: Database, account: str) -> int:
    with db.read() as conn:
        assert books.check_books(conn) == []
        return books.balances(conn).get((account, "CNY"), 0)


def test_tax_inside_a_price_that_no_agreement_divides_is_owed_and_is_no_revenue(db: Database) -> None:
    with db.write() as conn:
        charge(conn, run(7_632_000))
        made = bill(conn)
    assert (made.net_minor, made.tax_minor, made.gross_minor) == (10_000, 600, 10_600)
    assert on(db, "tax:op:inside") == -6_000_000
    assert on(db, "operator:revenue") == -100_000_000
    assert on(db, "operator:tax") == 0


def test_what_an_agreement_put_aside_goes_to_the_issuer_and_a_credit_note_takes_it_back(db: Database) -> None:
    """The agreement counts 5 % inside, the issuer's rule 6 %: what is owed is what the invoice says."""
    agree(db, agreement(site_ids=("alpha",), tax=AgreedTax(Agreed.INCLUSIVE, "VAT", 5, 100)))
    with db.write() as conn:
        charge(conn, run(7_632_000))
    aside = -on(db, "operator:tax")
    assert aside == 106_000_000 * 5 // 105
    earned = on(db, "operator:revenue")
    with db.write() as conn:
        assert bill(conn).tax_minor == 600
    assert (on(db, "tax:op:inside"), on(db, "operator:tax")) == (-6_000_000, 0)
    assert on(db, "operator:revenue") == earned + 6_000_000 - aside
    with db.write() as conn:
        note = issue_credit_note(conn, "PS-000001", [Credit(1, 5000)], reason="node failed", now=NOW)
        assert note.tax_minor == -300
    assert (on(db, "tax:op:inside"), on(db, "operator:tax")) == (-3_000_000, 0)


def test_payers_who_share_and_records_that_come_late_leave_nothing_aside(db: Database) -> None:
    agree(db, agreement(site_ids=("alpha",), tax=AgreedTax(Agreed.INCLUSIVE, "VAT", 6, 100)))
    with db.write() as conn:
        set_terms(conn, Terms("r1", T0 - timedelta(days=900), "", (("uni", 60), ("lab", 40))), now=T0)
        charge(conn, run(1_234_567, key="k"), run(99_991))
        for payer, whole in (("uni", True), ("lab", False)):
            assert issue_invoice(conn, replace(wanted(), payer_id=payer, whole=whole), now=NOW) is not None
    assert on(db, "operator:tax") == 0
    with db.write() as conn:
        charge(conn, run(777_777, key="k", note="late"), now=NOW)
        for payer, whole in (("uni", True), ("lab", False)):
            assert issue_invoice(conn, replace(wanted(), payer_id=payer, whole=whole), now=NOW) is not None
    assert on(db, "operator:tax") == 0


@given(st.integers(-(10**13), 10**13), st.lists(st.integers(0, 10**14), min_size=1, max_size=5))
def test_parts_of_a_tax_make_up_the_tax(tax: int, amounts: list[int]) -> None:
    payers = {f"p{n}": amount for n, amount in enumerate(amounts)}
    parts = [part_of_tax(tax, payers, payer) for payer in payers]
    assert sum(parts) == tax
    if sum(amounts):
        assert all(abs(p - tax * a / sum(amounts)) <= len(amounts) + abs(tax) / 10**6
                   for p, a in zip(parts, amounts, strict=True))  # fmt: skip
