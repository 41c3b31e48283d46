"""What was decided reaches the bill: adjustments are lines, and credit notes of corrections are set off."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterator
from datetime import datetime, timedelta
from decimal import Decimal
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from accounting import store as books
from accounting.errors import PaymentRefused, PeriodClosed
from accounting.exports.focus import focus_csv
from accounting.invoicing.ageing import aged, standings
from accounting.invoicing.as_csv import invoice_csv
from accounting.invoicing.credit_notes import Credit
from accounting.invoicing.invoice import Document, DocumentKind, LineKind
from accounting.invoicing.lines import charges_of_line
from accounting.invoicing.store import issue_credit_note
from accounting.invoicing.texts import describe
from accounting.payments.payment import BankTransaction
from accounting.payments.store import allocate_by_hand, import_payments, open_documents
from accounting.reports.spending import By, Question, Scope, spent
from accounting.store import periods
from accounting.store.adjustments import Adjustment, decide, request_adjustment
from accounting.store.contracts import Terms, set_terms
from accounting.tariff import PriceRule
from gateway.billing import closing
from gateway.db import Database
from tests.unit.accounting.evidence_case import MICRO, POLICY, T0, append_all, checkpoint, record
from tests.unit.accounting.test_evidence_verifier import verifier
from tests.unit.accounting.test_exports import focus_verdicts
from tests.unit.accounting.test_orders import BILLED_AT, DECEMBER, NOVEMBER, bill, billed, checked, db, evidence, on

_ = verifier, db  # the fixtures
WITHIN = NOVEMBER.end - timedelta(days=1)


@pytest.fixture
def priced(db: Database) -> Iterator[Database]:
    with db.write() as conn:
        books.add_tariff(conn, PriceRule(0, "CNY", 360_000, T0 - timedelta(days=99)), now=T0)
    yield db


def ran(db: Database, *numbers: int, now: datetime = WITHIN, **changes: str) -> None:
    with db.write() as conn:
        items = [books.Assigned(record(n, **changes), f"j{n}", "p1", "u1", "CNY") for n in numbers]
        books.record_and_book(conn, items, policy=POLICY, now=now)


def adjusted(
    db: Database, micro: int, *, name: str = "x1", four_eyes: int = 10_000 * MICRO, now: datetime = WITHIN
) -> str:
    with db.write() as conn:
        wanted = Adjustment(name, "adjustment", "p1", "CNY", micro, "node n3 was slow", "ada")
        return request_adjustment(conn, wanted, four_eyes_micro=four_eyes, now=now)


def open_minor(db: Database) -> dict[str, int]:
    with db.read() as conn:
        assert books.check_books(conn) == []
        return {d.number: d.open_minor for d in open_documents(conn)}


def pays(db: Database, minor: int, for_: str, *, reference: str = "B1") -> dict[str, int]:
    came = BankTransaction("CN-1", reference, BILLED_AT, "CNY", minor, "uni", for_, "csv")
    with db.write() as conn:
        return dict(import_payments(conn, [came], now=BILLED_AT).allocated_minor)


def exact(made: Document) -> int:
    return sum(line.amount_micro for line in made.lines)


# ---------------------------------------------------------------- adjustments


def test_an_adjustment_is_a_line_of_the_next_bill_and_of_no_other(priced: Database) -> None:
    ran(priced, 1, 2)
    owed = on(priced, "project:p1:usage")
    adjusted(priced, -440_000)
    made = billed(priced)
    assert exact(made) == owed - 440_000 == on(priced, "project:p1:usage")
    line = made.lines[-1]
    assert (line.kind, line.amount_micro, line.runs) == (LineKind.ADJUSTMENT, -440_000, 0)
    assert describe(line, "en") == "Adjustment. node n3 was slow" and "账目调整" in describe(line, "zh")
    with priced.read() as conn:
        assert charges_of_line(conn, made, line) == []
    assert bill(priced) is None and bill(priced, "2026-12") is None


def test_focus_and_the_csv_have_a_row_for_it(priced: Database, tmp_path: Path) -> None:
    ran(priced, 1, 2)
    adjusted(priced, -20_000)
    made = billed(priced)
    rows = list(csv.DictReader(io.StringIO(focus_csv([made]))))
    [row] = [row for row in rows if row["ChargeCategory"] == "Adjustment"]
    assert (row["ChargeFrequency"], row["ConsumedQuantity"], row["BilledCost"]) == ("One-Time", "", "-0.02")
    assert sum(Decimal(row["BilledCost"]) for row in rows) * 100 == made.gross_minor
    assert "adjustment" in invoice_csv(made, "en")
    [verdict] = focus_verdicts([focus_csv([made])], tmp_path)
    assert "Validation succeeded" in verdict, verdict


def test_what_was_spent_is_what_the_bill_says(priced: Database) -> None:
    ran(priced, 1, 2)
    adjusted(priced, -2_000)
    adjusted(priced, -MICRO, name="x2", four_eyes=1)  # waits
    made = billed(priced)

    def told(*by: By, **more: Any) -> dict[tuple[str, ...], int]:
        with priced.read() as conn:
            question = Question(by, NOVEMBER.start, NOVEMBER.end, "Asia/Shanghai", **more)
            return {row.keys: row.amount_micro for row in spent(conn, question, Scope(True))}

    assert told() == {(): exact(made)}
    assert told(By.KIND)["adjustment",] == -2_000
    assert told(By.MONTH, By.PROJECT) == {("2026-11", "p1"): exact(made)}
    assert told(user_ids=("u1",)) == told(site_ids=("alpha",)) == {(): exact(made) + 2_000}
    assert told(as_of=WITHIN - timedelta(seconds=1)) == {}


def test_what_waits_or_was_refused_or_came_later_is_on_no_bill(priced: Database) -> None:
    ran(priced, 1)
    owed = on(priced, "project:p1:usage")
    assert adjusted(priced, -5 * MICRO, name="x1", four_eyes=1) == "waiting"
    assert adjusted(priced, -7 * MICRO, name="x2", four_eyes=1) == "waiting"
    with priced.write() as conn:
        decide(conn, "x1", approve=False, by="bob", now=WITHIN)
    adjusted(priced, -MICRO // 100, name="x3", now=NOVEMBER.end + timedelta(hours=1))
    assert exact(billed(priced)) == owed
    with priced.write() as conn:
        decide(conn, "x2", approve=True, by="bob", now=BILLED_AT)
    later = billed(priced, "2026-12")
    assert later.kind is DocumentKind.CREDIT_NOTE  # it comes to less than nothing
    assert sorted(line.amount_micro for line in later.lines) == [-7 * MICRO, -MICRO // 100]


def test_payers_that_share_get_their_parts_to_the_last_micro_unit(priced: Database) -> None:
    with priced.write() as conn:
        set_terms(conn, Terms("p1", T0 - timedelta(days=1), payers=(("uni", 2), ("grant", 1))), now=T0)
    adjusted(priced, 1_000_000)
    mine, other = billed(priced, whole=True), billed(priced, payer="grant", whole=False)
    assert (exact(mine), exact(other)) == (666_667, 333_333)
    assert bill(priced, payer="grant", whole=False) is None


def test_a_month_is_not_closed_before_its_adjustments_are_billed(priced: Database) -> None:
    adjusted(priced, 440_000)
    with priced.write() as conn:
        period = periods.open_period(conn, year=2026, month=11, zone="Asia/Shanghai", by="ada", now=BILLED_AT)
        closing.begin(conn, period, by="ada", now=BILLED_AT)
    with pytest.raises(PeriodClosed, match="1 adjustments"), priced.write() as conn:
        closing.close(conn, period, by="ada", now=BILLED_AT)
    billed(priced)
    with priced.write() as conn:
        assert closing.close(conn, period, by="ada", now=BILLED_AT)


def test_the_verifier_re_adds_adjustments_and_finds_one_that_was_changed(
    priced: Database, verifier: ModuleType
) -> None:
    ran(priced, 1, 2, 3)
    adjusted(priced, -440_000)
    adjusted(priced, 125_000, name="x2")
    number = billed(priced).number
    with priced.write() as conn:
        append_all(conn)
        checkpoint(conn)
    for about in ({"payer_id": "uni"}, {"document": number}):
        lines = evidence(priced, **about)
        assert checked(verifier, lines)[0] == []
        for i, line in enumerate(map(json.loads, lines)):
            if line["t"] == "items":
                found = next(n for n, item in enumerate(line["items"]) if item[1] == "adjustment")
                for place, value in ((0, "9"), (2, "adjustment:x9"), (5, "-450000")):
                    changed = json.loads(lines[i])
                    changed["items"][found][place] = value
                    assert checked(verifier, [*lines[:i], json.dumps(changed) + "\n", *lines[i + 1 :]])[0]


def test_the_verifier_re_adds_a_bill_that_charges_again_what_was_given_back_twice(
    priced: Database, verifier: ModuleType
) -> None:
    ran(priced, 1)
    first = billed(priced)
    with priced.write() as conn:
        back = first.lines[0].net_minor // 2
        issue_credit_note(conn, first.number, [Credit(1, back)], reason="the node failed", now=BILLED_AT)
    ran(priced, 1, now=DECEMBER.start + timedelta(days=9), ElapsedRaw="1")
    again = billed(priced, "2026-12")
    assert [line.kind for line in again.lines] == [LineKind.CORRECTION, LineKind.ADJUSTMENT]
    assert 0 < again.lines[1].amount_micro < -again.lines[0].amount_micro
    with priced.write() as conn:
        append_all(conn)
        checkpoint(conn)
    for about in ({"payer_id": "uni"}, {"document": again.number}):
        assert checked(verifier, evidence(priced, **about))[0] == []
    with priced.read() as conn:
        assert books.check_books(conn) == []


# ---------------------------------------------------------------- credit notes of corrections


@pytest.fixture
def given_back(priced: Database) -> Document:
    """November was billed and paid; then its run turned out to be shorter: December's bill is a credit note."""
    ran(priced, 1)
    november = billed(priced)
    assert pays(priced, november.gross_minor, november.number) == {"CNY": november.gross_minor}
    ran(priced, 1, now=DECEMBER.start + timedelta(days=9), ElapsedRaw="1")
    return billed(priced, "2026-12")


def used_in_january(db: Database) -> Document:
    with db.write() as conn:
        wanted = Adjustment("x7", "adjustment", "p1", "CNY", 20 * MICRO, "storage", "ada")
        request_adjustment(conn, wanted, four_eyes_micro=10**12, now=DECEMBER.end + timedelta(days=1))
    return billed(db, "2027-01")


def test_what_a_correction_gave_back_is_set_off_against_the_next_invoice(
    priced: Database, given_back: Document
) -> None:
    assert given_back.kind is DocumentKind.CREDIT_NOTE and given_back.gross_minor < 0
    assert open_minor(priced) == {given_back.number: given_back.gross_minor}
    january = used_in_january(priced)
    left = january.gross_minor + given_back.gross_minor
    assert open_minor(priced) == {january.number: left}
    assert on(priced, "payer:uni:receivable") == left * 10_000
    assert pays(priced, left, "thank you", reference="B2") == {"CNY": left}
    assert open_minor(priced) == {}
    assert on(priced, "payer:uni:receivable") == 0


def test_it_is_set_off_against_what_is_open_already_and_once(priced: Database) -> None:
    ran(priced, 1, 2)
    november = billed(priced)
    ran(priced, 1, now=DECEMBER.start + timedelta(days=9), ElapsedRaw="1")
    credit = billed(priced, "2026-12")
    assert open_minor(priced) == {november.number: november.gross_minor + credit.gross_minor}
    january = used_in_january(priced)
    assert open_minor(priced)[january.number] == january.gross_minor


def test_a_credit_that_is_larger_than_the_invoice_goes_on_to_the_next(priced: Database, given_back: Document) -> None:
    adjusted(priced, 30_000, name="x8", now=DECEMBER.end + timedelta(days=1))
    small = billed(priced, "2027-01")
    assert small.gross_minor == 3
    assert open_minor(priced) == {given_back.number: given_back.gross_minor + 3}


def test_a_credit_is_nobodys_debt_and_no_payment_goes_to_it(priced: Database, given_back: Document) -> None:
    with priced.read() as conn:
        found = aged(open_documents(conn), {}, given_back.due_at + timedelta(days=60))
    assert [(a.days_overdue, a.dunning_level) for a in found] == [(0, 0)]
    assert standings(found)[0].total == given_back.gross_minor
    assert pays(priced, 500, given_back.number, reference="B3") == {}
    with pytest.raises(PaymentRefused, match="set off"), priced.write() as conn:
        allocate_by_hand(conn, 2, given_back.number, 100, by="ada", now=BILLED_AT)


def test_what_is_set_off_cannot_be_credited_or_paid_again_and_what_may_be_spent_stays_right(
    priced: Database, given_back: Document
) -> None:
    def available() -> int:
        with priced.read() as conn:
            found = next(e.available for e in books.exposure(conn, "p1") if e.commodity == "CNY")
        assert found is not None
        return found

    before = available()
    january = used_in_january(priced)
    assert abs(before - available() - 20 * MICRO) <= 10_000  # the coin that set-off rounds to
    pays(priced, january.gross_minor + given_back.gross_minor, january.number, reference="B2")
    # Paid are the 20 less what the correction had given back: so much more was free before.
    assert abs(available() - (before + exact(given_back))) <= 10_000
    with priced.write() as conn:
        issue_credit_note(conn, january.number, [Credit(1, 100)], reason="too much", now=BILLED_AT)
    assert open_minor(priced)[january.number] < 0  # overpaid by the credit: it is theirs
