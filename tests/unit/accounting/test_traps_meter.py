"""Traps of accounting.md that are the meter's and the price's: each rule, and what is wrong without it."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone
from itertools import pairwise

import pytest
from msgspec import structs
from sqlalchemy import BigInteger, bindparam, select
from sqlalchemy.exc import DataError

from accounting import calendar, meter, price
from accounting import store as books
from accounting.calendar import Window
from accounting.ledger import divide
from accounting.meter import CENTRE, Bears, Metered, MeteringPolicy
from accounting.price import PriceBook, rate
from accounting.sources import read_usage, sacct
from accounting.store import check
from accounting.store.check import rated
from accounting.tariff import PriceRule
from accounting.usage import CORE_SECONDS, GPU_SECONDS, MEMORY, Kind, Unreadable, UsageRecord
from gateway.db import Database
from tests.unit.accounting.makers import HERE, LONG_AGO, NOW, T0, add_rules, assigned, owed, rule, run

NIGHT = Window(22 * 60, 6 * 60)


def core_seconds_at_night(zone: str, start: datetime, hours: int) -> int:
    """Of a one-core run that lasts some hours: what the night tariff priced."""
    rules = [rule(1), rule(2, 100, window=NIGHT, zone=zone)]
    record = run(cores=1, elapsed=hours * 3600, start=start)
    found = price.price(record, meter.meter(record, MeteringPolicy()), PriceBook(rules), HERE)
    assert sum(s.quantity for s in found.segments) == record.core_seconds
    return sum(s.quantity for s in found.segments if s.rule_id == 2)


def test_trap_06_night_has_seven_hours_when_the_clock_goes_back(monkeypatch: pytest.MonkeyPatch) -> None:
    before = datetime(2026, 10, 24, 12, tzinfo=UTC)  # Berlin: 26 October has 25 hours, its night 9
    assert core_seconds_at_night("Europe/Berlin", before, 24) == 9 * 3600
    assert core_seconds_at_night("Europe/Berlin", datetime(2026, 3, 28, 12, tzinfo=UTC), 24) == 7 * 3600

    for zone, offset in (("Asia/Shanghai", 8), ("Pacific/Tongatapu", 13), ("Pacific/Pago_Pago", -11)):
        start, end = calendar.month("2026-11", zone).start, calendar.month("2026-11", zone).end
        assert start == datetime(2026, 11, 1, tzinfo=UTC) - timedelta(hours=offset)
        assert end - start == timedelta(days=30)

    calendar._jumps.cache_clear()
    monkeypatch.setattr(calendar, "ZoneInfo", lambda _zone: timezone(timedelta(hours=2)))
    assert core_seconds_at_night("Europe/Berlin", before, 24) == 8 * 3600  # fixed-offset arithmetic
    calendar._jumps.cache_clear()


def test_trap_07_segments_sum_to_the_record(monkeypatch: pytest.MonkeyPatch) -> None:
    cut = T0 + timedelta(seconds=50)
    rules = [rule(1, valid_to=cut), rule(2, 720_000, valid_from=cut)]
    record = run(cores=64)

    def priced() -> int:
        found = price.price(record, meter.meter(record, MeteringPolicy()), PriceBook(rules), HERE)
        return sum(s.quantity for s in found.segments)

    assert priced() == record.core_seconds == 6400

    def until_59(quantity: int, weights: list[int]) -> list[int]:  # a period that ends at 23:59:59
        return [quantity * max(0, w - 1_000_000) // sum(weights) for w in weights]

    monkeypatch.setattr(price, "split", until_59)
    assert priced() == 6400 - 2 * 64


def test_trap_10_suspension_frees_cores_and_keeps_gpus_and_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    record = run(elapsed=70, suspended_s=30, gpu_seconds=2 * 100, memory_mib_seconds=10 * 100)
    found = meter.meter(record, MeteringPolicy()).quantities
    assert (found[CORE_SECONDS], found[GPU_SECONDS], found[MEMORY]) == (4 * 70, 200, 1000)

    freed = meter.meter(record, MeteringPolicy(held_while_suspended=())).quantities
    assert (freed[GPU_SECONDS], freed[MEMORY]) == (140, 700)
    all_held = meter.meter(record, MeteringPolicy(held_while_suspended=(CORE_SECONDS, GPU_SECONDS, MEMORY)))
    assert all_held.core_seconds == 400

    monkeypatch.setattr(meter, "_suspended", lambda r, _policy, _name, q: q * r.elapsed_s // r.wall_s)
    assert meter.meter(record, MeteringPolicy()).quantities[GPU_SECONDS] == 140  # 60 GPU-seconds unpaid


def test_trap_11_allocated_is_billed_and_whole_nodes_where_exclusive(monkeypatch: pytest.MonkeyPatch) -> None:
    policy = MeteringPolicy(cores_per_node={"cpu": 64})
    asked_one = run(requested_cores=1, exclusive=True)
    assert meter.meter(asked_one, policy).core_seconds == 64 * 100
    assert meter.meter(structs.replace(asked_one, exclusive=False), policy).core_seconds == 400

    monkeypatch.setattr(meter, "billed_cores", lambda r, _policy: (r.requested_cores, "requested cores"))
    assert meter.meter(asked_one, policy).core_seconds == 100


def test_trap_12_threads_are_billed_as_cores_on_each_node(monkeypatch: pytest.MonkeyPatch) -> None:
    policy = MeteringPolicy(threads_per_core={"cpu": 2})
    record = run(cores=10, cpus=10, nodes=2)  # 5 threads on each of two nodes: 3 cores each
    assert meter.meter(record, policy).core_seconds == 6 * 100

    monkeypatch.setattr(meter, "threads_as_cores", lambda cpus, _nodes, _threads: cpus)
    assert meter.meter(record, policy).core_seconds == 10 * 100


def test_trap_13_what_the_scheduler_gave_is_billed_and_said(monkeypatch: pytest.MonkeyPatch) -> None:
    record = run(cores=4, requested_cores=3)
    found = meter.meter(record, MeteringPolicy())
    assert (found.core_seconds, found.rule) == (400, "4 allocated cores × 100 s")

    by_request = meter.meter(record, MeteringPolicy(basis=meter.Basis.REQUESTED))
    assert (by_request.core_seconds, by_request.rule) == (300, "3 requested cores × 100 s")

    monkeypatch.setattr(meter, "billed_cores", lambda r, _policy: (r.requested_cores, ""))
    assert meter.meter(record, MeteringPolicy()).core_seconds == 300


def test_trap_14_weights_are_ratios_not_whole_numbers(monkeypatch: pytest.MonkeyPatch) -> None:
    half = rule(1, 9, per=2 * 3600, resource=GPU_SECONDS)  # 4.5 micro-units for a GPU-hour
    record = run(gpu_seconds=7200)

    def priced() -> int:
        return price.price(record, Metered({GPU_SECONDS: 7200}, ""), PriceBook([half]), HERE).amount_micro

    assert priced() == 9
    monkeypatch.setattr(price, "rate", lambda q, p, per=3600: q // 3600 * (p * 3600 // per))
    assert priced() == 8  # billing TRES truncated


def test_trap_15_who_bears_a_failed_node_is_in_the_contract(monkeypatch: pytest.MonkeyPatch) -> None:
    policy = MeteringPolicy(liability={"NODE_FAIL": CENTRE, "PREEMPTED": Bears(1, 1, 0)})

    def amount(state: str) -> int:
        record = run(state=state)
        found = price.price(record, meter.meter(record, policy), PriceBook([rule()]), HERE)
        return divide(found.amount_micro, found.bears, None).amount

    assert [amount(s) for s in ("COMPLETED", "NODE_FAIL", "PREEMPTED")] == [40_000, 0, 20_000]
    monkeypatch.setattr(MeteringPolicy, "bearer", lambda _self, _state: meter.PAYER)
    assert amount("NODE_FAIL") == 40_000


def core_seconds(record: object) -> int:
    assert isinstance(record, UsageRecord), record
    return meter.meter(record, MeteringPolicy()).core_seconds


def test_trap_16_canceled_by_somebody_costs_what_it_ran(monkeypatch: pytest.MonkeyPatch) -> None:
    start = int(T0.timestamp())
    row = {
        "DBIndex": "5", "Cluster": "alpha", "JobID": "42", "User": "alice", "State": "CANCELLED by 1000",
        "ExitCode": "0:0", "Submit": str(start), "Start": str(start), "End": str(start + 100), "ElapsedRaw": "100",
        "AllocCPUS": "4", "AllocNodes": "1", "AllocTRES": "cpu=4", "Partition": "cpu",
    }  # fmt: skip
    ran = read_usage("sacct/1", row, site_id="alpha")
    never = read_usage("sacct/1", row | {"Start": "None", "ElapsedRaw": "0", "AllocCPUS": "0"}, site_id="alpha")
    assert isinstance(ran, UsageRecord) and isinstance(never, UsageRecord)
    assert meter.meter(ran, MeteringPolicy()).core_seconds == 400
    assert (never.kind, meter.meter(never, MeteringPolicy()).core_seconds) == (Kind.NEVER_RAN, 0)

    # Released while it waited: old releases write a start, and cores that it never had.
    waited = row | {"NodeList": "None assigned"}
    assert core_seconds(read_usage("sacct/1", waited, site_id="alpha")) == 0

    with monkeypatch.context() as without_the_rule:
        without_the_rule.setattr(sacct, "_state", str)
        assert isinstance(read_usage("sacct/1", row, site_id="alpha"), Unreadable)  # 7.4 % of a real log's core-hours
    with monkeypatch.context() as without_the_rule:
        without_the_rule.setattr(sacct, "_ran", lambda start, cpus, nodes: True)
        assert core_seconds(read_usage("sacct/1", waited, site_id="alpha")) == 400  # charged for waiting
    monkeypatch.setattr(sacct, "_ran", lambda start, cpus, nodes: False)
    assert core_seconds(read_usage("sacct/1", row, site_id="alpha")) == 0  # or nothing for what it ran


def test_trap_23_small_jobs_are_not_rounded_away(monkeypatch: pytest.MonkeyPatch) -> None:
    book = PriceBook([rule(1, 50_000)])  # 0.05 for a core-hour
    records = [run(str(i), cores=1, elapsed=60 + i % 300) for i in range(1_000)]

    def total() -> tuple[int, int]:
        found = [price.price(r, meter.meter(r, MeteringPolicy()), book, HERE).amount_micro for r in records]
        return sum(found), sum(amount == 0 for amount in found)

    exact = sum(r.core_seconds for r in records) * 50_000 / 3600
    amount, for_nothing = total()
    assert for_nothing == 0 and abs(amount - exact) <= 500  # half a micro-unit each

    monkeypatch.setattr(price, "rate", lambda q, p, per=3600: round(rate(q, p, per) / 10_000) * 10_000)
    amount, for_nothing = total()
    assert for_nothing == 1_000 and amount == 0


def test_trap_24_books_of_a_very_large_run_are_checked_without_overflow(
    db: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """10^12 core-seconds at 100 an hour: the product passes 2^63, in Python and in both databases it must not."""
    add_rules(db, rule(0, 10**8))
    with db.write() as conn:
        books.record_and_book(conn, [assigned(run(cores=999_983, elapsed=1_000_003))], now=NOW)
    quantity = 999_983 * 1_000_003
    assert owed(db) == (2 * quantity * 10**8 + 3600) // 7200

    monkeypatch.setattr(check, "rated", lambda q, p, *per: (q * p + 1800) // 3600)
    with db.read() as conn:
        if db.is_sqlite:  # the product becomes a float, and good books are said to be wrong
            assert books.check_books(conn)
        else:
            with pytest.raises(DataError, match="out of range"):
                books.check_books(conn)


def test_trap_24_the_database_rates_without_overflow(db_url: str) -> None:
    quantity, micro = 10**12 + 1799, 10**8
    q, p = bindparam("q", quantity, type_=BigInteger), bindparam("p", micro, type_=BigInteger)
    db = Database(db_url)
    with db.read() as conn:
        assert conn.scalar(select(rated(q, p))) == rate(quantity, micro) == (2 * quantity * micro + 3600) // 7200
    naive = (q * p + 1800) // 3600
    if db.is_sqlite:  # becomes a float, and says nothing
        with db.read() as conn:
            assert isinstance(conn.scalar(select(naive)), float)
    else:
        with pytest.raises(DataError, match="out of range"), db.read() as conn:
            conn.scalar(select(naive))
    db.dispose()


def test_trap_25_a_run_is_split_where_the_price_changes(monkeypatch: pytest.MonkeyPatch) -> None:
    cut = T0 + timedelta(seconds=25)
    dated = [rule(1, valid_to=cut), rule(2, 720_000, valid_from=cut)]
    record = run()

    def priced(rules: list[PriceRule]) -> list[tuple[int, int]]:
        found = price.price(record, meter.meter(record, MeteringPolicy()), PriceBook(rules), HERE)
        return [(s.rule_id, s.amount_micro) for s in found.segments]

    assert priced(dated) == [(1, 10_000), (2, 60_000)]
    noon = Window(0, 12 * 60 + 1)
    assert priced([rule(1), rule(2, 720_000, window=noon, zone="UTC")]) == [(2, 48_000), (1, 16_000)]

    monkeypatch.setattr(price, "boundaries", lambda *_args: [])
    assert priced(dated) == [(1, 40_000)]


def test_hours_of_a_week_are_cut_at_every_edge_and_jump() -> None:
    window = Window(8 * 60, 18 * 60, weekdays=(0, 1, 2, 3, 4))
    start = datetime(2026, 10, 23, tzinfo=UTC)
    edges = [start, *sorted(window.edges(start, start + timedelta(days=5), "Europe/Berlin")), start + timedelta(days=5)]
    for a, b in pairwise(edges):
        inside = {window.holds(a + (b - a) * i / 7, "Europe/Berlin") for i in range(7)}
        assert len(inside) == 1, (a, b)
    assert start > LONG_AGO
