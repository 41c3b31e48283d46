"""Who worked for money first and buys core-hours then has all that was bought."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta

import pytest

from accounting import store as books
from accounting.bound import kind_of
from accounting.errors import CreditExhausted
from accounting.store import allocations
from accounting.store.allocations import Allocation, place_order
from accounting.store.orders import Order
from gateway.db import Database
from tests.unit.accounting.makers import NOW, PROJECT, T0, add_rules, charge, rule, run

CORE_SECONDS = "core-seconds"
BOUGHT = "core-seconds@unagreed"
BLOCK = Order("o1", PROJECT, "uni", "block", CORE_SECONDS, 1_000, "CNY", NOW, NOW + timedelta(days=30), 5_000)


@pytest.fixture
def worked(db: Database) -> Database:
    """400 core-seconds were used and charged; the project has money left and no core-hours yet."""
    add_rules(db, rule())
    charge(db, run("1"), now=T0 + timedelta(seconds=200))
    return db


def left(db: Database, project_id: str = PROJECT) -> tuple[int | None, dict[str, int]]:
    with db.read() as conn:
        assert books.check_books(conn) == []
        found = [e.available for e in books.exposure(conn, project_id) if kind_of(e.commodity) == CORE_SECONDS]
        given = [available for available in found if available is not None]
        return sum(given) if given else None, allocations.remaining(conn, project_id, CORE_SECONDS)


def hold(db: Database, core_seconds: int) -> None:
    with db.write() as conn:
        books.place_hold(conn, project_id=PROJECT, job_id="j9", amounts={BOUGHT: core_seconds}, now=NOW)


def test_a_block_is_whole_for_who_worked_before_it(worked: Database) -> None:
    """Found by hand: it was eaten by runs that had been charged in money, and every job was refused."""
    with worked.write() as conn:
        place_order(conn, BLOCK, now=NOW)
    assert left(worked) == (1_000, {"o1": 1_000})
    hold(worked, 1_000)
    with pytest.raises(CreditExhausted), worked.write() as conn:
        books.place_hold(conn, project_id=PROJECT, job_id="j10", amounts={BOUGHT: 1}, now=NOW)


def test_what_is_used_of_it_counts_and_a_second_block_adds_to_the_rest(worked: Database) -> None:
    with worked.write() as conn:
        place_order(conn, BLOCK, now=NOW)
    charge(worked, run("2", start=NOW), now=NOW + timedelta(seconds=200))
    assert left(worked) == (600, {"o1": 600})
    with worked.write() as conn:
        allocations.allocate(conn, Allocation("a2", PROJECT, CORE_SECONDS, 500, NOW), now=NOW)
    assert left(worked) == (1_100, {"o1": 600, "a2": 500})


@pytest.mark.parametrize("by", ["grant", "voucher", "transfer"])
def test_so_is_a_grant_a_voucher_and_what_another_project_moves(worked: Database, by: str) -> None:
    with worked.write() as conn:
        if by == "grant":
            books.grant_credit(conn, project_id=PROJECT, commodity=CORE_SECONDS, amount=70, idem_key="g2", now=NOW)
        elif by == "voucher":
            allocations.add_voucher(conn, "TRY-ME-NOW", commodity=CORE_SECONDS, amount=70, expires_at=None, now=NOW)
            allocations.redeem(conn, "TRY-ME-NOW", project_id=PROJECT, now=NOW)
        else:
            books.open_project_accounts(conn, "r2", currency="CNY")
            allocations.allocate(conn, Allocation("a1", "r2", CORE_SECONDS, 100, NOW), now=NOW)
            allocations.transfer(conn, "a1", to_project=PROJECT, amount=70, idem_key="t", now=NOW)
    assert left(worked)[0] == 70


def test_two_first_grants_at_once_are_both_whole(worked: Database) -> None:
    def give(n: int) -> None:
        with worked.write() as conn:
            allocations.allocate(conn, Allocation(f"a{n}", PROJECT, CORE_SECONDS, 100, NOW), now=NOW)

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(give, range(4)))
    assert left(worked)[0] == 400


def test_a_late_correction_of_a_run_before_the_block_does_not_touch_it(worked: Database) -> None:
    with worked.write() as conn:
        place_order(conn, BLOCK, now=NOW)
    charge(worked, run("1", elapsed=90), now=NOW)
    assert left(worked)[0] == 1_000  # it was no part of the block, which did not pay for it
