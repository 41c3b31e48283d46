"""What runs in a block that was paid costs no money again, whatever else the prices say; on both databases."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from types import ModuleType
from typing import Any

import pytest
from msgspec import structs

from accounting import store as books
from accounting.errors import CreditExhausted
from accounting.meter import MeteringPolicy, meter
from accounting.price import PriceBook, price
from accounting.store import allocations, contracts, prices
from accounting.store.holds import Hold, bought_there, hold_amounts, place_holds
from accounting.store.schema import CHARGES
from accounting.tariff import MINIMUM, Discount, PriceRule
from gateway.db import Database
from tests.unit.accounting import makers
from tests.unit.accounting.evidence_case import POLICY, T0, append_all, book, checkpoint, record
from tests.unit.accounting.test_evidence_verifier import verifier
from tests.unit.accounting.test_orders import BLOCK, checked, db, evidence, place

_ = verifier, db  # the fixtures
LONG_AGO = T0 - timedelta(days=99)
GPU_THERE = "gpu-seconds@site:alpha"
GPU = {"AllocTRES": "cpu=4,mem=400M,node=1,gres/dcu=2"}


def own_prices(db: Database, *rules: PriceRule) -> None:
    with db.write() as conn:
        for rule in rules:
            books.add_tariff(conn, rule, now=T0)


def ran(db: Database, numbers: range = range(3), **changes: str) -> list[Any]:
    """Runs, as they were charged."""
    with db.write() as conn:
        book(conn, numbers, **changes)
    with db.read() as conn:
        return conn.execute(CHARGES.select().order_by(CHARGES.c.id)).all()


def assert_verified(db: Database, verifier: ModuleType) -> None:
    with db.write() as conn:
        append_all(conn)
        checkpoint(conn)
    assert checked(verifier, evidence(db, project_id="p1"))[0] == []


def test_a_ratio_of_one_centre_does_not_make_a_paid_block_cost_again(db: Database, verifier: ModuleType) -> None:
    own_prices(db, PriceRule(0, "CNY", 360_000, LONG_AGO))
    with db.write() as conn:
        prices.add_discount(conn, Discount(0, "p1", 8, 10, LONG_AGO, site_id="alpha"), now=T0)
    place(db)
    found = ran(db)
    assert [c.amount_micro for c in found] == [0, 0, 0]
    assert all(c.core_seconds > 0 for c in found)
    assert_verified(db, verifier)


@pytest.mark.parametrize("named", [{"site_id": "alpha"}, {"site_id": None, "agreement_id": "a1"}])
@pytest.mark.parametrize("order", [{}, {"kind": "trial", "price_micro": 0}])
def test_at_a_centre_that_has_no_share_of_an_order_runs_cost_what_they_cost(
    db: Database, verifier: ModuleType, named: dict[str, Any], order: dict[str, Any]
) -> None:
    own_prices(db, PriceRule(0, "CNY", 360_000, LONG_AGO))
    place(db, replace(BLOCK, **named, **order))
    with db.write() as conn:
        elsewhere = structs.replace(record(1), site_id="beta")
        books.record_and_book(conn, [books.Assigned(elsewhere, "j1", "p1", "u1", "CNY")], policy=POLICY, now=T0)
    [(there, here)] = [tuple(c.amount_micro for c in ran(db, range(2, 3)))]
    assert there == elsewhere.core_seconds * 100 and here == 0
    assert_verified(db, verifier)


def test_the_least_that_a_run_costs_is_not_asked_for_in_a_paid_block(db: Database, verifier: ModuleType) -> None:
    own_prices(db, PriceRule(0, "CNY", 360_000, LONG_AGO),
               PriceRule(0, "CNY", 990_000_000, LONG_AGO, resource=MINIMUM, per=1))  # fmt: skip
    place(db)
    assert [c.amount_micro for c in ran(db)] == [0, 0, 0]
    assert_verified(db, verifier)


def test_the_verifier_finds_a_minimum_that_was_asked_for_all_the_same(
    db: Database, verifier: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    own_prices(db, PriceRule(0, "CNY", 360_000, LONG_AGO),
               PriceRule(0, "CNY", 990_000_000, LONG_AGO, resource=MINIMUM, per=1))  # fmt: skip
    place(db)
    monkeypatch.setattr("accounting.price.any", lambda _found: False, raising=False)
    assert [c.amount_micro for c in ran(db)] == [990_000_000] * 3
    with db.write() as conn:
        append_all(conn)
        checkpoint(conn)
    findings = checked(verifier, evidence(db, project_id="p1"))[0]
    assert any("minimum" in finding for finding in findings)


def test_a_run_that_begins_before_a_block_and_ends_in_it_is_not_topped_up() -> None:
    start = makers.T0
    paid = Discount(1, makers.PROJECT, 0, 1, start + timedelta(seconds=50), resource="core_seconds")
    rules = [makers.rule(1), makers.rule(2, 1_000_000, resource=MINIMUM, per=1)]
    record = makers.run(elapsed=100)
    where = makers.HERE

    def cost(*ratios: Discount) -> int:
        there = type(where)(where.currency, where.site_id, where.queue, project_id=makers.PROJECT)
        return price(record, meter(record, MeteringPolicy()), PriceBook(rules, ratios), there).amount_micro

    assert cost() == 1_000_000
    assert cost(paid) == 50 * 4 * 100


def test_gpu_hours_of_a_paid_block_cost_nothing_and_the_cores_beside_them_do(
    db: Database, verifier: ModuleType
) -> None:
    own_prices(db, PriceRule(0, "CNY", 360_000, LONG_AGO),
               PriceRule(0, "CNY", 5_000_000, LONG_AGO, resource="gpu_seconds"))  # fmt: skip
    place(db, replace(BLOCK, commodity="gpu-seconds"))
    found = ran(db, **GPU)
    for charge in found:
        parts = {s["resource"]: (s["quantity"], s["amount_micro"]) for s in charge.segments}
        assert parts["gpu_seconds"][0] > 0 and parts["gpu_seconds"][1] == 0
        assert parts["core_seconds"][1] == charge.amount_micro > 0
    with db.read() as conn:
        left = allocations.remaining(conn, "p1", "gpu-seconds")["o1"]
    assert left == BLOCK.amount - sum(
        s["quantity"] for c in found for s in c.segments if s["resource"] == "gpu_seconds"
    )
    assert_verified(db, verifier)


def test_gpu_hours_are_set_aside_for_a_job_and_no_more_of_them_than_there_are(db: Database) -> None:
    place(db, replace(BLOCK, commodity="gpu-seconds", amount=7_200))
    with db.read() as conn:
        have = books.commodities(conn, "p1")
        where = contracts.contracts(conn, "p1").scope(site_id="alpha", queue="cpu", qos="", currency="CNY",
                                                      project_id="p1", at=T0)  # fmt: skip
        bought = bought_there(books.price_book(conn), where, ["core-seconds", "gpu-seconds"], T0)
    assert bought == {"gpu-seconds": GPU_THERE}
    wanted = hold_amounts(have, currency="CNY", micro=1, core_seconds=60, gpu_seconds=7_200, bought=bought)
    assert wanted == {"CNY": 1, "core-seconds": 60, GPU_THERE: 7_200}
    with db.write() as conn:
        place_holds(conn, [Hold("p1", "j1", wanted)], now=T0)
    with pytest.raises(CreditExhausted), db.write() as conn:
        place_holds(conn, [Hold("p1", "j2", {GPU_THERE: 1})], now=T0)
    with db.read() as conn:
        assert books.check_books(conn) == []
