"""From a raw record to balanced postings: the traps, the arithmetic, the books on both databases."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import structs
from sqlalchemy import text
from sqlalchemy.exc import DBAPIError

from accounting import store as books
from accounting.errors import CreditExhausted, KeyReused, TariffOverlap, UnbalancedEntry
from accounting.ledger import CORE_SECONDS, Entry, Posting, divide
from accounting.meter import CENTRE, Metered, MeteringPolicy, meter
from accounting.money import format_micro, parse_amount
from accounting.price import NoPrice, PriceBook, price, rate, split
from accounting.sources import read_usage
from accounting.tables import APPEND_ONLY, metadata
from accounting.tariff import PriceRule, Scope
from accounting.usage import CORE_SECONDS as CORES
from accounting.usage import Kind, Meter, Unreadable, UsageRecord
from gateway.db import Database
from gateway.migrations import schema

T0 = datetime(2026, 11, 24, 12, 0, tzinfo=UTC)
POLICY = MeteringPolicy()
ALWAYS = PriceRule(1, "CNY", 360_000, T0 - timedelta(days=365))


def sacct(**changes: str) -> dict[str, str]:
    start = int(T0.timestamp())
    row = {
        "DBIndex": "5", "Cluster": "alpha", "JobID": "42", "JobIDRaw": "42", "User": "alice", "UID": "1",
        "Account": "p",
        "QOS": "normal", "Partition": "cpu", "State": "COMPLETED", "ExitCode": "0:0", "Submit": str(start - 10),
        "Eligible": str(start - 10), "Start": str(start), "End": str(start + 100), "ElapsedRaw": "100",
        "Suspended": "00:00:00", "AllocCPUS": "4", "AllocNodes": "1", "AllocTRES": "cpu=4,mem=400M,node=1",
        "ReqTRES": "cpu=4", "Reason": "None", "NodeList": "n1", "SubmitLine": "sbatch", "Comment": "", "JobName": "x",
    }  # fmt: skip
    return row | changes


def read(**changes: str) -> UsageRecord:
    record = read_usage("sacct/1", sacct(**changes), site_id="alpha")
    assert isinstance(record, UsageRecord)
    return record


# ---------------------------------------------------------------- sources


def test_allocated_cores_times_elapsed_is_what_was_used() -> None:
    record = read(ReqTRES="cpu=1")
    assert (record.core_seconds, record.memory_mib_seconds, record.cores) == (400, 40_000, 4)


def test_requeued_job_is_charged_for_both_runs() -> None:
    first, second = read(State="REQUEUED", DBIndex="5"), read(DBIndex="6")
    assert first.run_key != second.run_key
    assert meter(first, POLICY).core_seconds + meter(second, POLICY).core_seconds == 800
    assert meter(first, replace(POLICY, bill_requeued=False)).core_seconds == 0


def test_steps_and_bracket_rows_are_no_runs() -> None:
    assert read_usage("sacct/1", sacct(JobID="42.batch"), site_id="a") is None
    assert read_usage("sacct/1", sacct(JobID="42_[1-3]", State="CANCELLED by 7"), site_id="a") is None


def test_canceled_before_its_start_costs_nothing_and_after_it_costs() -> None:
    never = read(State="CANCELLED by 1000", Start="None", ElapsedRaw="0", AllocCPUS="0")
    ran = read(State="CANCELLED by 1000")
    assert (never.kind, meter(never, POLICY).core_seconds) == (Kind.NEVER_RAN, 0)
    assert meter(ran, POLICY).core_seconds == 400


def test_unknown_state_is_kept_never_dropped() -> None:
    found = read_usage("sacct/1", sacct(State="MELTED"), site_id="a")
    assert isinstance(found, Unreadable) and "MELTED" in found.why


def test_resized_row_is_clipped_to_its_own_submit() -> None:
    start = int(T0.timestamp())
    second = read(Submit=str(start + 60), ElapsedRaw="100")
    assert second.elapsed_s == 40


def test_suspended_time_frees_cores_but_not_memory() -> None:
    record = read(Suspended="00:00:30")
    assert (record.core_seconds, record.memory_mib_seconds) == (400, 400 * 130)


def test_second_copy_that_the_fence_turned_away_is_never_charged() -> None:
    record = read(State="FAILED", ExitCode="75:0", JobName="x-pabcd12345678901.1")
    assert (record.kind, meter(record, POLICY).core_seconds) == (Kind.FENCED_COPY, 0)


def test_node_failure_is_charged_by_policy() -> None:
    failed = read(State="NODE_FAIL")
    assert meter(failed, POLICY).core_seconds == 400
    metered = meter(failed, replace(POLICY, liability={"NODE_FAIL": CENTRE}))
    assert (metered.core_seconds, divide(1000, metered.bears, None).amount) == (400, 0)


def test_threads_are_counted_as_cores_where_the_centre_says_so() -> None:
    record = read_usage("sacct/1", sacct(AllocCPUS="5"), site_id="a", cpus_per_core=2)
    assert isinstance(record, UsageRecord) and record.cores == 3


@given(st.dictionaries(st.sampled_from(sorted(sacct())), st.text(max_size=20)))
def test_whatever_a_row_says_it_is_read_or_kept(garbage: dict[str, str]) -> None:
    found = read_usage("sacct/1", sacct(**garbage), site_id="a")
    assert found is None or isinstance(found, UsageRecord | Unreadable)


# ---------------------------------------------------------------- price


@given(q=st.integers(0, 10**12), p=st.integers(0, 10**9))
def test_rating_is_exact_half_up(q: int, p: int) -> None:
    assert rate(q, p) == (2 * q * p + 3600) // 7200


@given(quantity=st.integers(0, 10**9), weights=st.lists(st.integers(0, 10**6), min_size=1, max_size=8))
def test_shares_sum_to_the_whole(quantity: int, weights: list[int]) -> None:
    assert sum(split(quantity, weights)) == quantity


def test_price_change_in_the_middle_splits_the_run() -> None:
    rules = [
        PriceRule(1, "CNY", 360_000, T0 - timedelta(days=1), T0 + timedelta(seconds=40)),
        PriceRule(2, "CNY", 720_000, T0 + timedelta(seconds=40)),
    ]
    record = read()
    charge = price(record, Metered({CORES: 400}, ""), PriceBook(rules), Scope("CNY", "alpha", "cpu"))
    assert [(s.rule_id, s.quantity, s.amount_micro) for s in charge.segments] == [
        (1, 160, 16_000),
        (2, 240, 48_000),
    ]
    assert sum(s.quantity for s in charge.segments) == charge.core_seconds


def test_the_most_specific_price_wins_and_no_price_is_an_error() -> None:
    rules = [ALWAYS, PriceRule(2, "CNY", 1, T0 - timedelta(days=1), None, "alpha"),
             PriceRule(3, "CNY", 2, T0 - timedelta(days=1), None, "alpha", "cpu")]  # fmt: skip
    assert (
        price(read(), Metered({CORES: 3600}, ""), PriceBook(rules), Scope("CNY", "alpha", "cpu")).segments[0].rule_id
        == 3
    )
    with pytest.raises(NoPrice):
        price(read(), Metered({CORES: 1}, ""), PriceBook(rules), Scope("EUR", "alpha", "cpu"))


@given(st.integers(-(10**15), 10**15))
def test_amounts_survive_their_text(micro: int) -> None:
    assert parse_amount(format_micro(micro)) == micro


def test_an_unbalanced_entry_cannot_be_built() -> None:
    with pytest.raises(UnbalancedEntry):
        Entry("k", "x", T0, (Posting("a", "CNY", 1), Posting("b", "CNY", -2)))


# ---------------------------------------------------------------- the books


@pytest.fixture
def db(db_url: str) -> Iterator[Database]:
    database = Database(db_url)
    schema.upgrade(database)
    with database.write() as conn:
        books.open_project_accounts(conn, "r1", currency="CNY")
        books.grant_credit(conn, project_id="r1", commodity="CNY", amount=1_000_000, idem_key="g", now=T0)
        books.add_tariff(conn, ALWAYS, now=T0)
    yield database
    database.dispose()


def assigned(record: UsageRecord, job_id: str = "j1") -> books.Assigned:
    return books.Assigned(record, job_id, "r1", "u1", "CNY")


def settled(db: Database) -> int:
    with db.read() as conn:
        assert books.check_books(conn) == []
        return next(e.settled for e in books.exposure(conn, "r1") if e.commodity == "CNY")


def test_same_record_twice_is_charged_once_and_a_changed_one_posts_the_difference(db: Database) -> None:
    for elapsed, total in (("100", 40_000), ("100", 40_000), ("150", 60_000), ("50", 20_000)):
        with db.write() as conn:
            books.record_and_book(conn, [assigned(read(ElapsedRaw=elapsed))], policy=POLICY, now=T0)
        assert settled(db) == total


def test_the_centres_record_replaces_the_gateways_provisional_charge(db: Database) -> None:
    ours = structs.replace(read(), meter=Meter.GATEWAY, run_key="t.1:-1:0", core_seconds=360, elapsed_s=90)
    for record, total in ((ours, 36_000), (read(), 40_000), (ours, 40_000)):
        with db.write() as conn:
            books.record_and_book(conn, [assigned(record)], policy=POLICY, now=T0)
        assert settled(db) == total
    with db.read() as conn:
        assert [c.meter for c in books.charges_of_job(conn, "j1")] == ["centre"]


def test_a_run_beyond_its_hold_is_booked_in_full_and_flagged(db: Database) -> None:
    with db.write() as conn:
        books.place_hold(conn, project_id="r1", job_id="j1", amounts={"CNY": 30_000}, now=T0)
        books.record_and_book(conn, [assigned(read())], policy=POLICY, now=T0)
        books.release_hold(conn, job_id="j1", now=T0)
        books.release_hold(conn, job_id="j1", now=T0)
    with db.read() as conn:
        assert [c.overage for c in books.charges_of_job(conn, "j1")] == [True]
    assert settled(db) == 40_000


def test_a_thousand_racing_submissions_never_pass_the_limit(db: Database) -> None:
    refused: list[int] = []

    def submit(first: int) -> None:
        for number in range(first, 1000, 8):
            try:
                with db.write() as conn:
                    books.place_hold(conn, project_id="r1", job_id=f"j{number}", amounts={"CNY": 3_000}, now=T0)
            except CreditExhausted:
                refused.append(number)

    threads = [threading.Thread(target=submit, args=(i,)) for i in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    with db.read() as conn:
        money = next(e for e in books.exposure(conn, "r1") if e.commodity == "CNY")
        assert books.check_books(conn) == []
    assert (money.committed, len(refused)) == (999_000, 1000 - 333)


def test_core_hours_are_a_limit_of_their_own(db: Database) -> None:
    with db.write() as conn:
        books.grant_credit(conn, project_id="r1", commodity=CORE_SECONDS, amount=100, idem_key="c", now=T0)
    with pytest.raises(CreditExhausted), db.write() as conn:
        books.place_hold(conn, project_id="r1", job_id="j", amounts={"CNY": 1, CORE_SECONDS: 101}, now=T0)
    assert settled(db) == 0


def test_history_refuses_update_and_delete(db: Database) -> None:
    assert {"usage_record", "posting", "charge", "agreement", "payment", "period_event"} <= set(APPEND_ONLY)
    for name in APPEND_ONLY:
        table = metadata.tables[name]
        with db.write() as conn:
            conn.execute(table.insert(), {c.name: _some(c.type) for c in table.columns})
        for statement in (f"UPDATE {name} SET {table.columns.keys()[-1]} = NULL", f"DELETE FROM {name}"):
            with pytest.raises(DBAPIError, match="append-only"), db.write() as conn:
                conn.execute(text(statement))


def _some(kind: Any) -> Any:
    """A value that a column takes."""
    words: dict[str, Any] = {
        "UtcTime": T0,
        "JSON": [],
        "LargeBinary": b"x",
        "Boolean": True,
        "Date": T0.date(),
        "String": "x",
    }
    return words.get(type(kind).__name__, 7_000)


def test_keys_and_prices_are_not_used_twice(db: Database) -> None:
    with pytest.raises(TariffOverlap), db.write() as conn:
        books.add_tariff(conn, ALWAYS, now=T0)
    with db.write() as conn:
        assert not books.grant_credit(conn, project_id="r1", commodity="CNY", amount=1_000_000, idem_key="g", now=T0)
    with pytest.raises(KeyReused), db.write() as conn:
        books.grant_credit(conn, project_id="r1", commodity="CNY", amount=2, idem_key="g", now=T0)
