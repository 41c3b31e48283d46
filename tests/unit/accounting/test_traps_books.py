"""Traps of accounting.md that are the ledger's: each rule, and what is wrong without it, on both databases."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from msgspec import structs
from sqlalchemy import select, text
from sqlalchemy.exc import DBAPIError

from accounting import store as books
from accounting.ledger import ACCRUED, Entry, Posting, accrued
from accounting.store import accruals, charges, periods, posting, readings, replacing
from accounting.store.accruals import Running
from accounting.store.schema import CHARGES, USAGE
from accounting.usage import Meter
from gateway.db import Database
from tests.unit.accounting.makers import (
    LONG_AGO,
    NOW,
    PROJECT,
    T0,
    add_rules,
    assigned,
    charge,
    kinds,
    owed,
    rule,
    run,
    standing,
)

MONTH_END = datetime(2026, 10, 31, 16, tzinfo=UTC)  # of October in China


def running(**more: Any) -> Running:
    values = {"site_id": "alpha", "run_key": "1", "job_id": "j1", "task": None, "project_id": PROJECT,
              "currency": "CNY", "amount_micro": 40_000, "core_seconds": 400}  # fmt: skip
    return Running(**values | more)


def test_trap_08_what_was_accrued_is_taken_back_by_the_final_record(
    db: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    add_rules(db, rule())
    with db.write() as conn:
        for _ in range(2):  # a tick that runs twice
            accruals.accrue(conn, [running(), running(job_id="j2", run_key="2")], period_end=MONTH_END, now=MONTH_END)
    assert standing(db, accrued(PROJECT)) == 80_000
    assert standing(db, accrued(PROJECT), effective_before=MONTH_END) == 80_000
    assert owed(db) == 0

    charge(db, run("1", start=MONTH_END - timedelta(seconds=50)))
    assert (standing(db, accrued(PROJECT)), owed(db)) == (40_000, 40_000)
    assert standing(db, accrued(PROJECT), effective_before=MONTH_END) == 80_000  # October stays as it was

    monkeypatch.setattr(posting, "take_back", lambda *_args, **_more: 0)
    charge(db, run("2", start=MONTH_END - timedelta(seconds=50)))
    assert standing(db, accrued(PROJECT)) == 40_000  # counted twice: accrued and charged
    assert standing(db, ACCRUED) == -40_000


def test_a_run_over_two_month_ends_is_accrued_by_what_came_since(db: Database) -> None:
    month_later = MONTH_END + timedelta(days=30)
    add_rules(db, rule())
    with db.write() as conn:
        accruals.accrue(conn, [running()], period_end=MONTH_END, now=MONTH_END)
        for _ in range(2):
            accruals.accrue(conn, [running(amount_micro=140_000, core_seconds=1400)], period_end=month_later,
                            now=month_later)  # fmt: skip
        stood_still = running(amount_micro=140_000, core_seconds=1400)
        assert accruals.accrue(conn, [stood_still], period_end=month_later + timedelta(days=31), now=month_later) == 0
    assert standing(db, accrued(PROJECT)) == 140_000
    assert standing(db, accrued(PROJECT), "core-seconds") == 1400
    assert standing(db, accrued(PROJECT), effective_before=MONTH_END) == 40_000
    charge(db, run("1", start=MONTH_END - timedelta(seconds=50), elapsed=400))
    assert (standing(db, accrued(PROJECT)), owed(db)) == (0, 160_000)


def test_trap_18_a_runaway_is_accrued_to_its_limit_and_may_become_nothing(
    db: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    weeks_ago = MONTH_END - timedelta(days=40)
    assert accruals.capped_seconds(weeks_ago, MONTH_END, limit_s=3600) == 4200
    add_rules(db, rule())
    charge(db, run(elapsed=4200))
    assert owed(db) == 4200 * 400
    charge(db, run(elapsed=0, cores=4, raw={"fixed": "by runawayjobs"}))
    assert owed(db) == 0

    monkeypatch.setattr(accruals, "min", lambda seconds, _limit: seconds, raising=False)
    assert accruals.capped_seconds(weeks_ago, MONTH_END, limit_s=3600) == 40 * 86400


def test_trap_20_a_correction_appends_a_revision_and_posts_the_difference(
    db: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    add_rules(db, rule())
    for elapsed, total in ((100, 40_000), (150, 60_000), (50, 20_000)):
        charge(db, run(elapsed=elapsed))
        assert owed(db) == total
    with db.read() as conn:
        kept = conn.execute(select(USAGE.c.revision, USAGE.c.supersedes, USAGE.c.elapsed_s).order_by(USAGE.c.id)).all()
    assert [(r.revision, r.elapsed_s) for r in kept] == [(1, 100), (2, 150), (3, 50)]
    assert kept[0].supersedes is None and None not in (kept[1].supersedes, kept[2].supersedes)

    monkeypatch.setattr(replacing, "_replaces", lambda _item, _live: False)
    charge(db, run(elapsed=60))
    with db.read() as conn:
        assert next(e for e in books.exposure(conn, PROJECT) if e.commodity == "CNY").settled == 20_000 + 24_000


@contextmanager
def without_triggers(db: Database, *history: str) -> Iterator[Any]:
    with db.write() as conn:
        for table in history:
            if db.is_sqlite:
                conn.execute(text(f"DROP TRIGGER {table}_no_delete"))
            else:
                conn.execute(text(f"ALTER TABLE {table} DISABLE TRIGGER {table}_no_delete"))
        yield conn


def test_trap_21_a_key_is_known_as_long_as_the_ledger(db: Database) -> None:
    postings = (Posting("a", "CNY", 1), Posting("b", "CNY", -1))
    entry = Entry("once", "grant", LONG_AGO, postings)

    def book(now: datetime) -> bool:
        with db.write() as conn:
            return bool(books.book(conn, [entry], now=now))

    assert book(LONG_AGO)
    assert not book(LONG_AGO + timedelta(days=3650))

    with db.write() as conn:
        books.book(conn, [structs.replace(entry, idem_key="another", kind="other")], now=NOW)
    with without_triggers(db, "journal_entry") as conn:  # a roll-up that forgets old keys
        conn.execute(text("DELETE FROM journal_entry WHERE idem_key = 'once'"))
    assert book(LONG_AGO + timedelta(days=3650))
    with db.read() as conn:  # booked twice: the first one's postings hang in the air
        assert conn.scalar(text("SELECT count(*) FROM posting WHERE amount = 1")) == 3


def test_trap_21_a_run_delivered_again_after_years_is_charged_once_however_the_books_were_archived(
    db: Database,
) -> None:
    """What says that a run is charged may not be rolled up: neither by a window, nor with the month that it was in."""
    add_rules(db, rule())
    charge(db, run(), run("2"))
    with db.write() as conn:
        month = periods.open_period(conn, year=2026, month=11, zone="UTC", by="ada", now=NOW)
        periods.begin_closing(conn, month, by="ada", now=NOW + timedelta(days=10))
        periods.close_period(conn, month, by="ada", now=NOW + timedelta(days=10))
    later = NOW + timedelta(days=3650)

    def settled() -> int:
        with db.read() as conn:
            return next(e.settled for e in books.exposure(conn, PROJECT) if e.commodity == "CNY")

    assert charge(db, run(), now=later) == 0
    assert settled() == 80_000
    keys = ("usage_record", "charge", "journal_entry")
    for table in keys:  # a roll-up of old rows is refused by the database itself
        with pytest.raises(DBAPIError, match="append-only"), db.write() as conn:
            conn.execute(text(f"DELETE FROM {table}"))

    with without_triggers(db, *keys) as conn:  # without the rule: sums are kept, keys are not
        for table in keys:
            conn.execute(text(f"DELETE FROM {table} WHERE id = (SELECT min(id) FROM {table})"))
    assert charge(db, run(), now=later) == 1
    assert settled() == 120_000


def test_trap_22_work_is_found_by_what_is_missing_not_by_a_cursor(
    db: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    charge(db, run("1"), run("2"), run("3"))  # nothing has a price yet
    assert owed(db) == 0
    add_rules(db, rule())
    with db.write() as conn:
        found = readings.uncharged(conn)
        assert [r.run_key for r in found] == ["1", "2", "3"]
        assert books.charge_pending(conn, {PROJECT: "CNY"}, now=NOW) == 3
        assert books.charge_pending(conn, {PROJECT: "CNY"}, now=NOW) == 0
    assert owed(db) == 120_000

    charge(db, run("4", queue="new"), now=NOW)
    seen = found[-1].id + 100  # a cursor that has moved on meanwhile
    monkeypatch.setattr(charges, "uncharged", lambda conn: [r for r in readings.uncharged(conn) if r.id > seen])
    charge(db, run("5", site_id="beta", queue="x"), currency="EUR")
    with db.write() as conn:
        books.add_tariff(conn, rule(currency="EUR"), now=NOW)
        assert books.charge_pending(conn, {PROJECT: "EUR"}, now=NOW) == 0  # skipped for ever
    with db.read() as conn:
        assert [r.run_key for r in readings.uncharged(conn)] == ["5"]


def test_trap_27_what_passes_the_hold_is_an_entry_of_its_own(db: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    add_rules(db, rule())

    def over(job_id: str) -> None:
        with db.write() as conn:
            books.place_hold(conn, project_id=PROJECT, job_id=job_id, amounts={"CNY": 30_000}, now=T0)
            books.record_and_book(conn, [assigned(run(job_id), job_id)], now=NOW)
            books.release_hold(conn, job_id=job_id, now=NOW)

    over("j1")
    with db.read() as conn:
        lines = [
            r for r in conn.execute(books.posting_lines()) if r.code == "project:r1:usage" and r.commodity == "CNY"
        ]
        assert [(r.kind, r.amount) for r in lines] == [("charge", 30_000), ("overage", 10_000)]
        assert [c.overage for c in books.charges_of_job(conn, "j1")] == [True]
    assert owed(db) == 40_000

    monkeypatch.setattr(posting, "_overages", lambda *_args: {})
    over("j2")
    assert kinds(db)[-1] == "charge"  # nobody sees that it was more than what was set aside


def test_both_meters_in_one_call_charge_once(db: Database) -> None:
    add_rules(db, rule())
    ours = structs.replace(run("t.1:-1:0", elapsed=90), meter=Meter.GATEWAY)
    with db.write() as conn:
        items = [assigned(ours, "j"), assigned(run("7"), "j"), assigned(run("7", elapsed=110, raw={"x": "2"}), "j")]
        done = books.record_and_book(conn, items, now=NOW)
    assert (done.recorded, done.charged) == (3, 2)
    assert owed(db) == 44_000
    with db.read() as conn:
        assert len(conn.execute(select(CHARGES)).all()) == 2
