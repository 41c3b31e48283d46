"""What is held and allowed goes by the same contract as what is charged."""

from __future__ import annotations

from sqlalchemy import Connection

from accounting import store as books
from accounting.agreement import PostingLimits
from accounting.store import adjustments, allocations, contracts, holds, payments
from accounting.store.allocations import Allocation
from accounting.store.contracts import Terms
from accounting.store.payments import Part, Payment
from gateway.db import Database
from tests.unit.accounting.makers import (
    LONG_AGO,
    NOW,
    PROJECT,
    T0,
    add_rules,
    agree,
    agreement,
    charge,
    owed,
    rule,
    run,
)


def limit(db: Database, commodity: str) -> int | None:
    with db.read() as conn:
        assert books.check_books(conn) == []
        return next(e.limit for e in books.exposure(conn, PROJECT) if e.commodity == commodity)


def line(conn: Connection, amount: int, key: str) -> None:
    books.credit_line(conn, project_id=PROJECT, commodity="EUR", limit=amount, idem_key=key, now=NOW, reason="agreed")


def paid_in(db: Database, micro: int) -> None:
    with db.write() as conn:
        came = Payment("p1", "uni", "EUR", micro, NOW, "bank", "r1")
        payments.receive_payment(conn, came, now=NOW)
        payments.allocate_payment(conn, "p1", [Part(PROJECT, micro)], idem_key="a", now=NOW)


def test_money_for_a_project_without_a_limit_makes_it_no_limited_one(db: Database) -> None:
    with db.write() as conn:
        holds.open_account(conn, PROJECT, "EUR")
    paid_in(db, 500)
    assert limit(db, "EUR") is None
    with db.write() as conn:
        payments.refund(conn, project_id=PROJECT, currency="EUR", amount_micro=100, idem_key="r", reason="x", now=NOW)
    assert limit(db, "EUR") is None
    with db.write() as conn:
        line(conn, 1000, "c")
    assert limit(db, "EUR") == 1400  # the credit line beside what was paid and not paid back


def test_another_credit_line_takes_the_place_of_the_line_alone(db: Database) -> None:
    """In its third month a project has paid much of what it used: that, and what was granted, is beside the line."""
    with db.write() as conn:
        holds.open_account(conn, PROJECT, "EUR")
        line(conn, 1000, "c1")
        allocations.allocate(conn, Allocation("al1", PROJECT, "EUR", 70, T0), now=NOW)
    paid_in(db, 5000)
    for number, wanted in enumerate((1200, 300, 1000)):
        with db.write() as conn:
            line(conn, wanted, f"n{number}")
            assert books.check_books(conn) == []
        assert limit(db, "EUR") == wanted + 70 + 5000


def test_a_grant_limits_what_was_not_limited_to_all_that_was_given(db: Database) -> None:
    with db.write() as conn:
        holds.open_account(conn, PROJECT, "EUR")
    paid_in(db, 500)
    with db.write() as conn:
        allocations.allocate(conn, Allocation("al1", PROJECT, "EUR", 70, T0), now=NOW)
    assert limit(db, "EUR") == 570


def test_a_hold_knows_grade_and_user_class_as_the_charge_does(db: Database) -> None:
    add_rules(
        db, rule(1), rule(2, 720_000, grade="quality"), rule(3, 1_440_000, grade="quality", user_class="industry")
    )
    agree(db, agreement(grades={"cpu": "quality"}))
    with db.write() as conn:
        contracts.set_terms(conn, Terms(PROJECT, LONG_AGO, "industry"), now=LONG_AGO)
    charge(db, run())
    with db.read() as conn:
        where = contracts.contracts(conn, PROJECT).scope(site_id="alpha", queue="cpu", qos="", currency="CNY", at=T0,
                                                         project_id=PROJECT)  # fmt: skip
        assert books.estimate(books.price_book(conn), where, core_seconds=400, at=T0) == owed(db) == 160_000


def test_a_second_person_is_asked_for_from_the_agreements_threshold_on(db: Database) -> None:
    add_rules(db, rule())
    agree(db, agreement(limits=PostingLimits(four_eyes_micro=7)))
    charge(db, run())
    with db.read() as conn:
        (line,) = books.charges_of_job(conn, "j1")
        assert adjustments.four_eyes_from(conn, charge_id=line.charge_id, currency="CNY", now=NOW) == 7
        assert adjustments.four_eyes_from(conn, charge_id=None, currency="CNY", now=NOW) == 7
        assert adjustments.four_eyes_from(conn, charge_id=None, currency="USD", now=NOW) is None
