"""What was ordered stands in reports, in a project's and a centre's evidence, and is checked with the books."""

from __future__ import annotations

import json
from datetime import timedelta
from types import ModuleType
from typing import Any

import pytest
from sqlalchemy import text

from accounting import store as books
from accounting.reports.spending import By, Question, Scope, Spent, spent
from accounting.store.contracts import Terms, set_terms
from accounting.tariff import PriceRule
from gateway.db import Database
from tests.unit.accounting.evidence_case import MICRO, T0, append_all, book, checkpoint
from tests.unit.accounting.test_evidence_verifier import verifier
from tests.unit.accounting.test_orders import (
    DECEMBER,
    NOVEMBER,
    PRICE,
    ZONE,
    billed,
    checked,
    db,
    evidence,
    monthly,
    place,
    renew,
)

_ = verifier, db  # the fixtures


def asked(*by: By, until: Any = NOVEMBER.end, **more: Any) -> Question:
    return Question(by, NOVEMBER.start, until, ZONE, **more)


def found(db: Database, question: Question, scope: Scope = Scope(True)) -> list[Spent]:  # noqa: B008
    with db.read() as conn:
        return spent(conn, question, scope)


def runs(db: Database) -> None:
    """Three runs of a tenth of a core-hour or so, at 0.36 CNY an hour; all of them before the block."""
    with db.write() as conn:
        books.add_tariff(conn, PriceRule(0, "CNY", 360_000, T0 - timedelta(days=99)), now=T0)
        book(conn, range(3))


def test_a_report_has_what_was_ordered_beside_what_ran(db: Database) -> None:
    runs(db)
    [before] = found(db, asked(By.PROJECT))
    place(db)
    place(db, monthly(), now=T0)
    [row] = found(db, asked(By.PROJECT))
    bought = PRICE + 4_000 * MICRO
    assert (row.runs, row.orders, row.ordered_micro) == (3, 2, bought)
    assert row.amount_micro == before.amount_micro + bought
    kinds = {r.keys[0]: (r.runs, r.orders, r.amount_micro) for r in found(db, asked(By.KIND))}
    assert kinds == {
        "run": (3, 0, before.amount_micro), "block": (0, 1, PRICE), "subscription": (0, 1, 4_000 * MICRO)
    }  # fmt: skip
    assert {r.keys for r in found(db, asked(By.SITE, By.KIND)) if r.orders} == {
        ("alpha", "block"), ("alpha", "subscription")
    }  # fmt: skip
    nobodys = [r for r in found(db, asked(By.USER, By.QUEUE, By.STATE)) if r.keys == ("", "", "")]
    assert [r.ordered_micro for r in nobodys] == [bought]


def test_a_months_price_counts_in_its_own_month_and_day(db: Database) -> None:
    place(db, monthly(), now=T0)
    assert renew(db, DECEMBER.start) == 1
    rows = found(db, asked(By.MONTH, until=DECEMBER.end))
    assert [(r.keys, r.amount_micro) for r in rows] == [(("2026-11",), 4_000 * MICRO), (("2026-12",), 4_000 * MICRO)]
    assert [r.keys for r in found(db, asked(By.DAY))] == [(T0.astimezone(NOVEMBER.start.tzinfo).strftime("%Y-%m-%d"),)]


def test_filters_and_earlier_knowledge_hold_for_orders_too(db: Database) -> None:
    place(db)
    for none in ({"project_ids": ("p2",)}, {"site_ids": ("beta",)}, {"user_ids": ("u1",)},
                 {"as_of": T0 - timedelta(seconds=1)}):  # fmt: skip
        assert found(db, asked(By.PROJECT, **none)) == []
    for one in ({"project_ids": ("p1",)}, {"site_ids": ("alpha",)}, {"as_of": T0}):
        assert [r.amount_micro for r in found(db, asked(By.PROJECT, **one))] == [PRICE]


def test_an_order_is_seen_by_owners_and_not_by_every_member(db: Database) -> None:
    place(db)
    assert [r.amount_micro for r in found(db, asked(By.PROJECT), Scope(False, ("p1",), "u1"))] == [PRICE]
    assert found(db, asked(By.PROJECT), Scope(False, (), "u1")) == []


# ---------------------------------------------------------------- evidence


def logged(db: Database) -> None:
    with db.write() as conn:
        append_all(conn)
        checkpoint(conn)


@pytest.fixture
def both(db: Database) -> Database:
    """Three runs and a month of a subscription, in the log."""
    runs(db)
    place(db, monthly(), now=T0)
    logged(db)
    return db


@pytest.mark.parametrize("about", [{"project_id": "p1"}, {"site_id": "alpha"}])
def test_a_bundle_of_a_project_or_centre_has_runs_and_orders_and_is_added_again(
    both: Database, verifier: ModuleType, about: dict[str, str]
) -> None:
    lines = evidence(both, **about)
    findings, notes = checked(verifier, lines)
    assert findings == []
    assert sum(n for note, n in notes.items() if "no raw records are under it" in note) == 1
    bill = next(json.loads(line) for line in lines if line.startswith('{"t":"bill"'))
    [row] = found(both, asked(By.PROJECT))
    assert bill["totals"] == {"CNY": str(row.amount_micro)}
    assert [(o["order"], o["amount"]) for o in bill["orders"]] == [("s1", str(4_000 * MICRO))]


def test_an_order_that_is_changed_or_left_out_in_a_projects_bill_is_found(both: Database, verifier: ModuleType) -> None:
    lines = evidence(both, project_id="p1")
    at = next(i for i, line in enumerate(lines) if line.startswith('{"t":"bill"'))
    [order] = json.loads(lines[at])["orders"]
    for wrong in ([], [order, order], *([order | {name: "7"}] for name in order)):
        changed = json.dumps(json.loads(lines[at]) | {"orders": wrong}, separators=(",", ":"))
        findings, _ = checked(verifier, [*lines[:at], changed + "\n", *lines[at + 1 :]])
        assert any("the bill" in text for text in findings), wrong


def test_a_bundle_of_another_month_or_centre_bills_no_order(db: Database) -> None:
    runs(db)
    place(db, now=NOVEMBER.end)
    logged(db)
    lines = evidence(db, project_id="p1")
    assert not any('"t":"entry"' in line and '"order-price' in line for line in lines)
    [bill] = [json.loads(line) for line in lines if line.startswith('{"t":"bill"')]
    assert bill["orders"] == []


# ---------------------------------------------------------------- check_books


WRONG = {
    "price_micro": "price_micro + 1", "centre_micro": "centre_micro + 1", "tax_micro": "tax_micro - 1",
    "payers": '\'{"uni": 7}\'', "project_id": "'p2'",
}  # fmt: skip


@pytest.mark.parametrize("column", WRONG)
def test_a_price_that_is_not_as_booked_is_found_by_the_check(db: Database, column: str) -> None:
    with db.write() as conn:
        set_terms(conn, Terms("p1", T0 - timedelta(days=1), payers=(("uni", 2), ("grant", 1))), now=T0)
    place(db)
    billed(db)
    with db.write() as conn:
        assert books.check_books(conn) == []
        _forget_history(conn, "order_price")
        conn.execute(text(f"UPDATE order_price SET {column} = {WRONG[column]}"))
        assert any(line.startswith("price of o1: ") for line in books.check_books(conn))


def test_a_part_that_is_billed_for_more_than_it_is_is_found_by_the_check(db: Database) -> None:
    place(db)
    billed(db)
    with db.write() as conn:
        _forget_history(conn, "order_item")
        conn.execute(text("UPDATE order_item SET amount_micro = amount_micro + 1"))
        assert any("is billed as the part of ''" in line for line in books.check_books(conn))


def _forget_history(conn: Any, table: str) -> None:
    """Somebody with the rights of a database administrator."""
    if conn.dialect.name == "sqlite":
        query = text("SELECT name FROM sqlite_master WHERE type = 'trigger' AND tbl_name = :t")
        for name in conn.scalars(query, {"t": table}).all():
            conn.execute(text(f'DROP TRIGGER "{name}"'))
    else:
        conn.execute(text(f"ALTER TABLE {table} DISABLE TRIGGER USER"))
