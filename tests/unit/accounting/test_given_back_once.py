"""A run's price is given back once: by a person, by its changed record, or the greater of both, in either order."""

from __future__ import annotations

import random
from collections.abc import Iterator
from datetime import UTC, datetime

import pytest
from sqlalchemy import select

from accounting import store as books
from accounting.errors import AccountingError, InvoiceRefused
from accounting.invoicing.credit_notes import Credit
from accounting.invoicing.dispute_store import raise_dispute, take
from accounting.invoicing.disputes import Side, Step
from accounting.invoicing.invoice import Document, LineKind
from accounting.invoicing.store import issue_credit_note, issue_invoice
from accounting.ledger import CREDITS, payable
from accounting.store import periods
from accounting.store.adjustments import Adjustment, adjustments, decide, request_adjustment
from accounting.store.contracts import Terms, set_terms
from accounting.store.schema import CHARGES, REVERSALS
from gateway.db import Database
from tests.unit.accounting.invoicing import NOW, T0, bill, charge, parties, run, wanted
from tests.unit.accounting.makers import agree, agreement, standing

HOUR = 3600
TEN = 200 * HOUR  # core-seconds that cost 10.00
LATER = datetime(2026, 11, 20, 9, 0, tzinfo=UTC)
DECEMBER = datetime(2026, 12, 2, 9, 0, tzinfo=UTC)
JANUARY = datetime(2027, 1, 2, 9, 0, tzinfo=UTC)
MICRO = 10**6


@pytest.fixture
def db(db_url: str) -> Iterator[Database]:
    made = Database(db_url)
    with made.write() as conn:
        parties(conn)
    yield made
    made.dispose()


def billed(db: Database, *keys: str) -> Document:
    """Runs of 10.00 each, on one line."""
    with db.write() as conn:
        charge(conn, *(run(TEN, key=key) for key in keys or ("a",)))
        return bill(conn)


def says(db: Database, money: int, *, key: str = "a", note: str = "", now: datetime = LATER) -> None:
    """The centre's record of a run, read again: it comes to so much."""
    with db.write() as conn:
        charge(conn, run(TEN * money // 10, key=key, note=note or str(money)), now=now)


def credit(db: Database, invoice: Document, money: int, *, line: int = 1) -> Document:
    with db.write() as conn:
        return issue_credit_note(conn, invoice.number, [Credit(line, money * 100)], reason="so it was", now=NOW)


def win_dispute(db: Database, invoice: Document, *, name: str = "d1") -> None:
    with db.write() as conn:
        raise_dispute(conn, dispute_id=name, invoice=invoice.number, line=1, reason="it failed", by="owner", now=LATER)
        take(conn, name, Step.CREDIT, side=Side.OPERATOR, by="op", now=LATER)


def adjust(db: Database, money: int, *, key: str = "a", name: str = "x1") -> str:
    with db.write() as conn:
        asked = Adjustment(name, "adjustment", "r1", "CNY", money * MICRO, "another reason", "ada", live(db, key))
        return request_adjustment(conn, asked, four_eyes_micro=10**9, now=LATER)


def live(db: Database, key: str) -> int:
    with db.read() as conn:
        query = (
            select(CHARGES.c.id).outerjoin(REVERSALS, REVERSALS.c.charge_id == CHARGES.c.id)
            .where(CHARGES.c.job_id == f"j-{key}", REVERSALS.c.charge_id.is_(None))
        )  # fmt: skip
        return int(conn.execute(query).scalar_one())


def pays(db: Database, *, now: datetime = DECEMBER, month: str = "2026-11") -> int:
    """What the payer pays in all, net of tax, once everything is billed; the books are sound."""
    with db.write() as conn:
        issue_invoice(conn, wanted(month), now=now)
    with db.read() as conn:
        assert books.check_books(conn) == []
        assert issue_invoice(conn, wanted(month), now=now) is None
        found = conn.exec_driver_sql("SELECT sum(net_minor) FROM billing_document").scalar_one()
    whole, rest = divmod(int(found), 100)
    assert rest == 0
    return whole


# ---------------------------------------------------------------- first by hand, then by the record


def test_what_a_person_and_then_the_record_found_alike_is_given_back_once(db: Database) -> None:
    credit(db, billed(db), 4)
    says(db, 6)
    assert pays(db) == 6


def test_a_line_that_was_credited_whole_gives_nothing_back_again(db: Database) -> None:
    win_dispute(db, billed(db))
    says(db, 6)
    assert pays(db) == 0


def test_of_a_smaller_and_a_greater_the_greater_is_given_back(db: Database) -> None:
    credit(db, billed(db), 4)
    says(db, 8)
    assert pays(db) == 6
    says(db, 3)
    assert pays(db, now=JANUARY, month="2026-12") == 3


def test_what_the_record_no_longer_gives_back_the_credit_does(db: Database) -> None:
    credit(db, billed(db), 4)
    for money in (6, 8, 2, 7, 10):
        says(db, money)
        assert standing(db, "project:r1:usage") == min(money, 10) * MICRO + min(4, 10 - money) * MICRO
    assert pays(db) == 6


def test_a_rise_after_a_credit_and_its_return_change_nothing(db: Database) -> None:
    credit(db, billed(db), 4)
    says(db, 13)
    assert standing(db, "project:r1:usage") == 13 * MICRO
    says(db, 10, note="again")
    assert pays(db) == 6


def test_another_run_of_the_line_that_rises_hides_nothing(db: Database) -> None:
    credit(db, billed(db, "a", "b"), 4)
    says(db, 6)
    says(db, 14, key="b")
    assert pays(db) == 20 - 4 + 4


def test_what_the_credit_left_of_the_line_is_given_back_by_the_record_of_another_run(db: Database) -> None:
    credit(db, billed(db, "a", "b"), 4)
    says(db, 4)
    says(db, 7, key="b")
    assert pays(db) == 11  # 9 were too much by the records; 4 of them had been given back


def test_an_adjustment_of_the_charge_is_counted_as_a_credit_note_is(db: Database) -> None:
    billed(db)
    adjust(db, -4)
    says(db, 6)
    assert pays(db) == 6
    assert standing(db, "operator:adjustments") == 0


def test_an_adjustment_that_was_taken_back_counts_no_more(db: Database) -> None:
    billed(db)
    adjust(db, -4)
    adjust(db, 4, name="x2")
    says(db, 6)
    assert pays(db) == 6


# ---------------------------------------------------------------- first by the record, then by hand


@pytest.mark.parametrize("on_a_bill", [True, False])
def test_of_a_corrected_line_the_dispute_gives_back_what_is_left(db: Database, on_a_bill: bool) -> None:
    invoice = billed(db)
    says(db, 6)
    if on_a_bill:
        assert pays(db) == 6
    win_dispute(db, invoice)
    assert pays(db) == 0


def test_no_more_than_what_is_left_is_credited_by_hand(db: Database) -> None:
    invoice = billed(db)
    says(db, 6)
    with pytest.raises(InvoiceRefused, match=r"has 6\.00 CNY left to credit: its runs were corrected"):
        credit(db, invoice, 7)
    with pytest.raises(AccountingError, match=r"6\.00 CNY is left of charge"):
        adjust(db, -7)
    credit(db, invoice, 6)
    with pytest.raises(AccountingError, match=r"0\.00 CNY is left"):
        adjust(db, -1)
    says(db, 2)
    assert pays(db) == 0


def test_a_line_with_nothing_left_is_not_disputed(db: Database) -> None:
    invoice = billed(db)
    adjust(db, -10)
    with pytest.raises(InvoiceRefused, match="nothing is left to pay"):
        win_dispute(db, invoice)


def test_a_second_person_cannot_approve_what_is_left_no_more(db: Database) -> None:
    invoice = billed(db)
    with db.write() as conn:
        asked = Adjustment("x1", "adjustment", "r1", "CNY", -8 * MICRO, "slow", "ada", live(db, "a"))
        assert request_adjustment(conn, asked, four_eyes_micro=1, now=LATER) == "waiting"
    credit(db, invoice, 5)
    with db.write() as conn, pytest.raises(AccountingError, match=r"5\.00 CNY is left"):
        decide(conn, "x1", approve=True, by="eve", now=LATER)


# ---------------------------------------------------------------- a person decides, and sees why


def test_a_person_who_knows_of_two_reasons_gives_both_back(db: Database) -> None:
    credit(db, billed(db), 4)
    says(db, 7)
    with db.read() as conn:
        [held] = adjustments(conn, "r1")
        assert (held.amount_micro, held.requested_by, held.decision) == (3 * MICRO, "books", "posted")
    adjust(db, -3)
    assert pays(db) == 3


def test_the_bill_says_what_was_given_back_already(db: Database) -> None:
    note = credit(db, billed(db), 4)
    says(db, 7)
    with db.write() as conn:
        made = bill(conn, "2026-11", now=DECEMBER)
    assert [(line.kind, line.amount_micro) for line in made.lines] == [
        (LineKind.CORRECTION, -3 * MICRO), (LineKind.ADJUSTMENT, 3 * MICRO)]  # fmt: skip
    assert made.lines[1].text.startswith(f"given back already by {note.number}")
    assert made.lines[1].service_start == made.lines[0].service_start


def test_it_is_on_the_bill_of_the_correction_also_where_the_month_is_closed(db: Database) -> None:
    credit(db, billed(db), 4)
    with db.write() as conn:
        october = periods.open_period(conn, year=2026, month=10, zone="Asia/Shanghai", by="op", now=NOW)
        periods.begin_closing(conn, october, by="op", now=NOW)
        periods.close_period(conn, next(iter(periods.periods(conn))), by="op", now=NOW)
    says(db, 6, now=DECEMBER)
    assert pays(db) == 6


def test_the_centre_loses_its_share_once(db: Database) -> None:
    agree(db, agreement())
    credit(db, billed(db), 4)
    says(db, 6)
    assert pays(db) == 6
    assert -standing(db, payable("centre")) == 4_200_000
    assert standing(db, CREDITS) == 0
    assert -standing(db, "operator:revenue") == 1_800_000


def test_payers_who_share_a_project_are_charged_again_what_each_was_given(db: Database) -> None:
    with db.write() as conn:
        terms = Terms("r1", T0.replace(year=2020), payers=(("uni", 60), ("lab", 40)))
        set_terms(conn, terms, now=T0.replace(year=2020))
    invoice = billed(db)
    assert invoice.lines[0].amount_micro == 6 * MICRO
    credit(db, invoice, 3)
    says(db, 5)
    with db.read() as conn:
        [held] = adjustments(conn, "r1")
        assert held.amount_micro == 3 * MICRO
    assert pays(db) == 3


@pytest.mark.parametrize("seed", range(5))
def test_whatever_comes_in_whatever_order_no_line_gives_back_more_than_it_cost(db: Database, seed: int) -> None:
    chance = random.Random(seed)
    invoice = billed(db, "a", "b")
    level = {"a": 10, "b": 10}
    for n in range(12):
        what = chance.choice(("record", "record", "credit", "adjust"))
        key = chance.choice("ab")
        try:
            if what == "record":
                level[key] = chance.randint(0, 12)
                says(db, level[key], key=key, note=str(n))
            elif what == "credit":
                credit(db, invoice, chance.randint(1, 8))
            else:
                adjust(db, -chance.randint(1, 5), key=key, name=f"x{n}")
        except (InvoiceRefused, AccountingError):
            continue
    assert 0 <= pays(db) <= sum(level.values())
