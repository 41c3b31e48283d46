"""Periods, payments, adjustments, allocations, budgets: each walks once through both databases."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone

import pytest
from sqlalchemy import text
from sqlalchemy.exc import DBAPIError

from accounting import store as books
from accounting.bound import kind_of
from accounting.calendar import month
from accounting.errors import AccountingError, CreditExhausted, FourEyes, KeyReused, PeriodClosed
from accounting.ledger import BAD_DEBT, CASH, CORE_SECONDS, Entry, Posting, unallocated
from accounting.store import adjustments, allocations, budgets, payments, periods
from accounting.store.adjustments import Adjustment
from accounting.store.allocations import Allocation, Order
from accounting.store.budgets import Budget
from accounting.store.payments import Part, Payment
from gateway.db import Database
from tests.unit.accounting.makers import NOW, PROJECT, T0, add_rules, charge, owed, rule, run, standing

ZONE = "Asia/Shanghai"
START, END = month("2026-11", ZONE).start, month("2026-11", ZONE).end
LATER = END + timedelta(days=5)


def closed(db: Database, *, now: datetime = LATER) -> periods.Period:
    with db.write() as conn:
        made = periods.open_period(conn, year=2026, month=11, zone=ZONE, by="ada", now=START)
        periods.begin_closing(conn, made, by="ada", now=now)
        periods.close_period(conn, made, by="ada", now=now)
    return made


def test_a_late_record_of_a_closed_month_counts_now_and_keeps_its_month(db: Database) -> None:
    add_rules(db, rule())
    charge(db, run("1"))
    period = closed(db)
    assert period.ends_at == datetime(2026, 11, 30, 16, tzinfo=UTC)
    charge(db, run("2"), run("1", elapsed=50), now=LATER + timedelta(hours=1))
    assert owed(db) == 60_000
    usage = f"project:{PROJECT}:usage"
    assert standing(db, usage, effective_before=END) == 40_000
    with db.read() as conn:
        late = [r for r in conn.execute(books.posting_lines()) if r.effective_at >= END and r.commodity == "CNY"]
        assert {r.service_at for r in late} == {T0 + timedelta(seconds=100), T0 + timedelta(seconds=50)}
        assert periods.seal_of(conn, period) is not None
    assert standing(db, usage, known_at=NOW) == 40_000  # what did we know then
    with pytest.raises(DBAPIError, match="period is closed"), db.write() as conn:
        conn.execute(text(
            "INSERT INTO journal_entry (tenant, idem_key, content_sha256, kind, effective_at, memo, recorded_at) "
            "SELECT tenant, 'x', content_sha256, kind, effective_at, memo, recorded_at FROM journal_entry "
            "WHERE idem_key = 'charge:1'"
        ))  # fmt: skip


def test_months_close_in_order_and_never_open_again(db: Database) -> None:
    with db.write() as conn:
        october = periods.open_period(conn, year=2026, month=10, zone=ZONE, by="ada", now=START)
        november = periods.open_period(conn, year=2026, month=11, zone=ZONE, by="ada", now=START)
        assert periods.open_period(conn, year=2026, month=11, zone=ZONE, by="ada", now=START) == november
        with pytest.raises(AccountingError, match="overlaps"):
            periods.open_period(conn, year=2026, month=11, zone="UTC", by="ada", now=START)
        with pytest.raises(PeriodClosed, match="ends"):
            periods.begin_closing(conn, november, by="ada", now=NOW)
        periods.begin_closing(conn, november, by="ada", now=LATER)
        with pytest.raises(PeriodClosed, match="first"):
            periods.close_period(conn, november, by="ada", now=LATER)
        periods.begin_closing(conn, october, by="ada", now=LATER)
        periods.close_period(conn, october, by="ada", now=LATER)
        with pytest.raises(PeriodClosed):
            periods.begin_closing(conn, october, by="ada", now=LATER)


def pay(db: Database, reference: str, micro: int, *, id_: str = "p1") -> bool:
    with db.write() as conn:
        payment = Payment(id_, "inst", "CNY", micro, NOW, "bank", reference)
        return payments.receive_payment(conn, payment, now=NOW)


def test_a_payment_is_received_once_and_allocated_within_itself(db: Database) -> None:
    add_rules(db, rule())
    charge(db, run("1"), run("2"), run("3"))
    assert pay(db, "R-1", 70_000) and not pay(db, "R-1", 70_000)
    with pytest.raises(KeyReused):
        pay(db, "R-1", 70_001, id_="p2")
    with db.write() as conn:
        part = [Part(PROJECT, 50_000, "INV-1")]
        assert payments.allocate_payment(conn, "p1", part, idem_key="k", now=NOW)
        assert not payments.allocate_payment(conn, "p1", part, idem_key="k", now=NOW)
        assert payments.left_of(conn, "p1") == 20_000
    with pytest.raises(AccountingError, match="left"), db.write() as conn:
        payments.allocate_payment(conn, "p1", [Part(PROJECT, 20_001)], idem_key="k2", now=NOW)
    assert (standing(db, CASH), standing(db, unallocated("inst"))) == (70_000, -20_000)
    assert owed(db) == 120_000


def test_prepaid_money_is_credit_and_what_is_left_can_be_paid_back(db: Database) -> None:
    with db.write() as conn:
        books.open_project_accounts(conn, "pre", currency="CNY")
    pay(db, "R-2", 50_000)
    with db.write() as conn:
        payments.allocate_payment(conn, "p1", [Part("pre", 50_000)], idem_key="k", now=NOW)
        books.place_hold(conn, project_id="pre", job_id="j", amounts={"CNY": 30_000}, now=NOW)
    with pytest.raises(CreditExhausted), db.write() as conn:
        payments.refund(conn, project_id="pre", currency="CNY", amount_micro=20_001, idem_key="r", reason="", now=NOW)
    with db.write() as conn:
        more = {"project_id": "pre", "currency": "CNY", "reason": "left", "now": NOW}
        assert payments.refund(conn, amount_micro=20_000, idem_key="r1", **more)
        assert not payments.refund(conn, amount_micro=20_000, idem_key="r1", **more)
    with pytest.raises(CreditExhausted), db.write() as conn:
        books.place_hold(conn, project_id="pre", job_id="k", amounts={"CNY": 1}, now=NOW)
    assert owed(db, "pre") == 0


def test_above_a_threshold_a_second_person_decides(db: Database) -> None:
    add_rules(db, rule())
    charge(db, run())

    def ask(id_: str, kind: str, micro: int, by: str = "ada") -> str:
        with db.write() as conn:
            wanted = Adjustment(id_, kind, PROJECT, "CNY", micro, "agreed by phone", by)
            return adjustments.request_adjustment(conn, wanted, four_eyes_micro=10_000, now=NOW)

    assert ask("x1", "adjustment", -10_000) == "posted"
    assert owed(db) == 30_000
    assert ask("x2", "adjustment", -10_001) == "waiting"
    assert owed(db) == 30_000
    with pytest.raises(FourEyes), db.write() as conn:
        adjustments.decide(conn, "x2", approve=True, by="ada", now=NOW)
    with db.write() as conn:
        assert adjustments.decide(conn, "x2", approve=True, by="bob", now=NOW) == "posted"
    assert owed(db) == 19_999
    with pytest.raises(AccountingError, match="posted already"), db.write() as conn:
        adjustments.decide(conn, "x2", approve=True, by="eve", now=NOW)
    assert ask("x3", "write_off", 9_999, by="cyd") == "posted"
    assert (owed(db), standing(db, BAD_DEBT)) == (10_000, 9_999)
    with db.read() as conn:
        money = next(e for e in books.exposure(conn, PROJECT) if e.commodity == "CNY")
        assert money.limit == 10**12 - 9_999  # a debt that is written off is no credit
        assert [a.decision for a in adjustments.adjustments(conn, PROJECT)] == ["posted"] * 3


def test_no_more_is_written_off_than_is_owed(db: Database) -> None:
    """Found by hand: 400 were written off twice of a debt of 17, and the operator owed the project 783."""
    add_rules(db, rule())
    charge(db, run())

    def write_off(id_: str, micro: int) -> str:
        with db.write() as conn:
            wanted = Adjustment(id_, "write_off", PROJECT, "CNY", micro, "they are gone", "ada")
            return adjustments.request_adjustment(conn, wanted, four_eyes_micro=30_000, now=NOW)

    with pytest.raises(AccountingError, match=r"owes 0\.04"):
        adjusted = write_off("x1", 40_001)
        assert adjusted == "waiting"
        with db.write() as conn:
            adjustments.decide(conn, "x1", approve=True, by="bob", now=NOW)
    assert write_off("x2", 30_000) == "posted"
    with pytest.raises(AccountingError, match=r"owes 0\.01"), db.write() as conn:
        wanted = Adjustment("x3", "write_off", PROJECT, "CNY", 10_001, "they are gone", "cyd")
        adjustments.request_adjustment(conn, wanted, four_eyes_micro=30_000, now=NOW)
    assert (owed(db), standing(db, BAD_DEBT)) == (10_000, 30_000)


def core_seconds(db: Database, project: str = PROJECT) -> dict[str, int]:
    with db.read() as conn:
        return allocations.remaining(conn, project, CORE_SECONDS)


def test_core_hours_lapse_are_carried_over_and_moved(db: Database) -> None:
    add_rules(db, rule())
    with db.write() as conn:
        books.open_project_accounts(conn, "r2", currency="CNY")
        for allocation in (
            Allocation("old", PROJECT, CORE_SECONDS, 1_000, T0, T0 + timedelta(days=1), carry_over_max=150),
            Allocation("new", PROJECT, CORE_SECONDS, 1_000, T0, T0 + timedelta(days=9)),
        ):
            assert allocations.allocate(conn, allocation, now=T0)
            assert not allocations.allocate(conn, allocation, now=T0)
    charge(db, run())
    assert core_seconds(db) == {"old": 600, "new": 1_000}
    with db.write() as conn:
        assert allocations.transfer(conn, "old", to_project="r2", amount=400, idem_key="m", now=T0)
        assert not allocations.transfer(conn, "old", to_project="r2", amount=400, idem_key="m", now=T0)
    with pytest.raises(CreditExhausted), db.write() as conn:
        allocations.transfer(conn, "old", to_project="r2", amount=201, idem_key="m2", now=T0)
    assert list(core_seconds(db, "r2").values()) == [400]
    assert owed(db, commodity=CORE_SECONDS) == 400

    with db.write() as conn:
        due = T0 + timedelta(days=1)
        assert allocations.expire_due(conn, now=due) == 2  # the old one, and what was moved with its expiry
        assert allocations.expire_due(conn, now=due) == 0
    assert core_seconds(db) == {"old+carried": 150, "new": 1_000}
    assert owed(db, commodity=CORE_SECONDS) == 400
    with pytest.raises(CreditExhausted), db.write() as conn:
        books.place_hold(conn, project_id=PROJECT, job_id="j", amounts={CORE_SECONDS: 1_151}, now=NOW)


def test_orders_become_allocations_and_a_paid_block_is_not_paid_twice(db: Database) -> None:
    add_rules(db, rule())
    with db.write() as conn:
        block = Order("o1", PROJECT, "inst", "block", CORE_SECONDS, 10_000, "CNY", T0, price_micro=700)
        allocations.place_order(conn, block, now=T0)
    charge(db, run("1"), run("2", start=T0 - timedelta(days=1)))
    assert owed(db) == 700 + 40_000  # the run before the block began costs money
    assert core_seconds(db) == {"o1": 9_600}  # and takes nothing of it
    with db.write() as conn:
        beijing = START.astimezone(timezone(timedelta(hours=8)))  # as a person in China writes it
        monthly = Order("o2", PROJECT, "inst", "subscription", "gpu-seconds", 3_600, "CNY", beijing,
                        ends_at=START + timedelta(days=70), price_micro=9)  # fmt: skip
        allocations.place_order(conn, monthly, now=START)
        assert allocations.renew_due(conn, now=START) == allocations.Renewed(0, {})
        assert allocations.renew_due(conn, now=END) == allocations.Renewed(1, {})
        given = [a for a in allocations.allocations(conn, PROJECT) if kind_of(a.commodity) == "gpu-seconds"]
        assert [(a.valid_from, a.expires_at) for a in given[:1]] == [(START, END)]
    assert owed(db) == 40_700 + 18


def test_a_voucher_is_worth_its_amount_once(db: Database) -> None:
    with db.write() as conn:
        allocations.add_voucher(conn, "TRY-1", commodity=CORE_SECONDS, amount=360, expires_at=LATER, now=NOW)
        allocations.redeem(conn, " try-1", project_id=PROJECT, now=NOW)
    for code, at in (("TRY-1", NOW), ("TRY-1", LATER), ("nothing", NOW)):
        with pytest.raises(AccountingError, match="voucher"), db.write() as conn:
            allocations.redeem(conn, code, project_id=PROJECT, now=at)
    assert list(core_seconds(db).values()) == [360]


def test_a_budget_tells_each_threshold_once_and_stops(db: Database) -> None:
    add_rules(db, rule())
    with db.write() as conn:
        budgets.add_budget(conn, Budget("b", PROJECT, "CNY", 80_000, zone=ZONE, stop=True), now=NOW)
    for key, told in (("1", [50]), ("2", [80, 100]), ("3", [])):
        charge(db, run(key))
        with db.write() as conn:
            assert [a.threshold for a in budgets.alert(conn, now=NOW)] == told
            stop = budgets.tightest_stop(conn, PROJECT, now=NOW)
            assert stop is not None and (stop.left > 0) == (key == "1")
    with db.read() as conn:
        following = budgets.tightest_stop(conn, PROJECT, now=END)
        assert following is not None and following.left == 80_000  # the next month


def test_an_entry_may_be_booked_again_only_as_it_was(db: Database) -> None:
    def entry(amount: int) -> Entry:
        return Entry("k", "x", NOW, (Posting("a", "CNY", amount), Posting("b", "CNY", -amount)))

    with db.write() as conn:
        assert len(books.book(conn, [entry(1), entry(1)], now=NOW)) == 1
    with pytest.raises(KeyReused), db.write() as conn:
        books.book(conn, [entry(2)], now=NOW)


def granted(db: Database, id_: str, *, carry: int, ends: datetime, project: str = PROJECT) -> None:
    with db.write() as conn:
        books.open_project_accounts(conn, "other", currency="CNY")
        made = Allocation(id_, project, CORE_SECONDS, 100, NOW, ends, carry_over_max=carry)
        allocations.allocate(conn, made, now=NOW)


def move(db: Database, allocation: str, to: str, amount: int, key: str, now: datetime = NOW) -> str:
    with db.write() as conn:
        assert allocations.transfer(conn, allocation, to_project=to, amount=amount, idem_key=key, now=now)
        parts = [a.id for a in allocations.allocations(conn, to) if a.source == "transfer"]
        return max(parts, key=lambda name: int(name.rpartition(">")[2]))


def test_what_goes_round_in_circles_carries_no_more_over(db: Database) -> None:
    """Of 100 core-seconds at most 10 may be carried over, however they were moved about before."""
    end = NOW + timedelta(days=10)
    granted(db, "a", carry=10, ends=end)
    for n in range(10):
        part = move(db, "a", "other", 10, f"there{n}")
        move(db, part, PROJECT, 10, f"back{n}")
    assert sum(core_seconds(db).values()) == 100
    with db.write() as conn:
        assert allocations.expire_due(conn, now=end) >= 1
    assert sum(core_seconds(db).values()) <= 10


def test_an_allocation_that_moves_as_a_whole_takes_its_carry_over_along(db: Database) -> None:
    end = NOW + timedelta(days=10)
    granted(db, "a", carry=10, ends=end)
    move(db, "a", "other", 100, "whole")
    with db.write() as conn:
        allocations.expire_due(conn, now=end)
    assert (sum(core_seconds(db).values()), sum(core_seconds(db, "other").values())) == (0, 10)


def test_what_has_lapsed_is_not_moved_and_stops_no_other_from_lapsing(db: Database) -> None:
    """Between the end of its time and the next tick an allocation is over already."""
    end = NOW + timedelta(days=10)
    granted(db, "a", carry=10, ends=end)
    granted(db, "b", carry=0, ends=end)
    with pytest.raises(AccountingError, match="lapsed"):
        move(db, "a", "other", 50, "late", now=end + timedelta(minutes=5))
    with db.write() as conn:
        assert allocations.expire_due(conn, now=end + timedelta(minutes=10)) == 2
    assert sum(core_seconds(db).values()) == 10
    assert owed(db) == 0


def test_no_sum_of_credit_leaves_what_a_database_can_count(db: Database) -> None:
    for n in range(3):
        grant = {"project_id": PROJECT, "commodity": "shots", "amount": 2**61, "now": NOW}
        try:
            with db.write() as conn:
                books.open_account(conn, PROJECT, "shots", limit=0)
                books.grant_credit(conn, idem_key=f"huge{n}", **grant)
        except AccountingError:
            break
    with db.read() as conn:
        limit = next(e.limit for e in books.exposure(conn, PROJECT) if e.commodity == "shots")
    assert limit == 2**62  # two of them, and the third was refused
