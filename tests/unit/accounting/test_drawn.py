"""What was bought is drawn by the runs that it pays for, and by no others; on both databases."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime, timedelta
from types import ModuleType
from typing import Any

import pytest
from msgspec import structs

from accounting import store as books
from accounting.errors import AccountingError, CreditExhausted
from accounting.store import allocations, budgets, contracts
from accounting.store.budgets import Budget
from accounting.store.holds import Hold, bought_there, hold_amounts, place_holds, release_hold
from accounting.store.orders import Order
from accounting.store.schema import CHARGES
from accounting.tariff import PriceRule
from gateway.db import Database
from tests.unit.accounting.evidence_case import POLICY, T0, append_all, checkpoint, record
from tests.unit.accounting.test_evidence_verifier import verifier
from tests.unit.accounting.test_orders import BLOCK, checked, db, evidence, place
from tests.unit.accounting.test_settlement import AGREEMENT, sign_agreement

_ = verifier, db  # the fixtures
HOUR = timedelta(hours=1)
FULL = BLOCK.amount
HERE, ANYWHERE = "core-seconds@site:alpha", "core-seconds"
NAMED_BY = pytest.mark.parametrize(
    "named", [{"site_id": "alpha"}, {"site_id": None, "agreement_id": "a1"}], ids=["site", "agreement"]
)


@pytest.fixture
def priced(db: Database) -> Database:
    with db.write() as conn:
        books.add_tariff(conn, PriceRule(0, "CNY", 360_000, T0 - timedelta(days=99)), now=T0)
    return db


def ran(db: Database, number: int, start: datetime = T0, *, site: str = "alpha", seconds: int = 100, dbindex: int = 0,
        project: str = "p1") -> int:  # fmt: skip
    """Micro-units that a run of 4 cores costs."""
    at = {"Submit": start, "Start": start, "End": start + timedelta(seconds=seconds)}
    times = {name: str(int(moment.timestamp())) for name, moment in at.items()}
    one = structs.replace(record(number, ElapsedRaw=str(seconds), AllocCPUS="4", **times), site_id=site)
    with db.write() as conn:
        books.record_and_book(conn, [books.Assigned(one, f"j{number}", project, "u1", "CNY")], policy=POLICY,
                              now=start + HOUR)  # fmt: skip
    with db.read() as conn:
        rows = conn.execute(CHARGES.select().where(CHARGES.c.job_id == f"j{number}").order_by(CHARGES.c.id)).all()
        return int(rows[-1].amount_micro)


def left(db: Database, project: str = "p1") -> dict[str, int]:
    """What is left of each allocation, after the books were checked."""
    with db.read() as conn:
        assert books.check_books(conn) == []
        return allocations.remaining(conn, project, "core-seconds")


def held(db: Database, job: str, core_seconds: int, *, site: str = "alpha", at: datetime = T0) -> dict[str, int]:
    """Set aside what a job may use and cost there, as a submission does."""
    with db.write() as conn:
        where = contracts.contracts(conn, "p1").scope(site_id=site, queue="cpu", qos="", currency="CNY",
                                                      project_id="p1", at=at)  # fmt: skip
        prices = books.price_book(conn)
        micro = books.estimate(prices, where, core_seconds=core_seconds, at=at)
        assert micro is not None
        wanted = hold_amounts(books.commodities(conn, "p1"), currency="CNY", micro=micro, core_seconds=core_seconds,
                              bought=bought_there(prices, where, ["core-seconds"], at))  # fmt: skip
        place_holds(conn, [Hold("p1", job, wanted)], now=at)
        return wanted


def sealed(db: Database) -> Sequence[str]:
    with db.write() as conn:
        append_all(conn)
        checkpoint(conn)
    return evidence(db, project_id="p1")


@NAMED_BY
@pytest.mark.parametrize("order", [{}, {"kind": "trial", "price_micro": 0}], ids=["block", "trial"])
def test_a_run_that_costs_money_elsewhere_takes_nothing_of_what_was_bought(
    priced: Database, verifier: ModuleType, named: dict[str, Any], order: dict[str, Any]
) -> None:
    place(priced, replace(BLOCK, **named, **order))
    assert ran(priced, 1, site="beta") == 400 * 100
    assert left(priced) == {"o1": FULL}
    assert ran(priced, 2) == 0
    assert left(priced) == {"o1": FULL - 400}
    assert checked(verifier, sealed(priced))[0] == []


def test_of_a_run_in_which_an_order_begins_it_takes_what_is_after_that(priced: Database, verifier: ModuleType) -> None:
    place(priced)
    assert ran(priced, 1, T0 - timedelta(seconds=75)) == 75 * 4 * 100
    assert left(priced) == {"o1": FULL - 100}
    assert checked(verifier, sealed(priced))[0] == []


def test_a_changed_record_gives_back_to_where_it_was_drawn(priced: Database, verifier: ModuleType) -> None:
    place(priced)
    ran(priced, 1)
    ran(priced, 2, site="beta")
    assert ran(priced, 1, seconds=40) == 0
    assert ran(priced, 2, site="beta", seconds=40) == 160 * 100
    assert left(priced) == {"o1": FULL - 160}
    assert checked(verifier, sealed(priced))[0] == []


def test_the_verifier_finds_a_run_that_drew_what_does_not_pay_for_it(
    priced: Database, verifier: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    place(priced)
    monkeypatch.setattr("accounting.price.PriceBook.drawn", lambda *_: None)
    ran(priced, 1)
    assert any("drawn by other runs" in said for said in checked(verifier, sealed(priced))[0])


def test_a_job_sets_aside_what_it_would_draw_and_no_more_than_is_left_there(priced: Database) -> None:
    place(priced)
    assert held(priced, "j1", FULL - 400) == {"CNY": 0, HERE: FULL - 400}
    assert held(priced, "j2", FULL * 3, site="beta") == {"CNY": FULL * 300, ANYWHERE: FULL * 3}
    with pytest.raises(CreditExhausted) as refused:
        held(priced, "j3", 401)
    assert (refused.value.commodity, refused.value.available) == (HERE, 400)
    with priced.write() as conn:
        for job in ("j1", "j2"):
            release_hold(conn, job_id=job, now=T0)
    assert left(priced) == {"o1": FULL}


def test_a_grant_bounds_the_runs_that_no_order_pays_for(priced: Database) -> None:
    place(priced)
    with priced.write() as conn:
        books.grant_credit(conn, project_id="p1", commodity="core-seconds", amount=1000, idem_key="cs", now=T0)
    held(priced, "j1", 2000)
    with pytest.raises(CreditExhausted):
        held(priced, "j2", 1001, site="beta")
    held(priced, "j2", 1000, site="beta")


def test_a_budget_of_core_hours_counts_what_was_bought_too(priced: Database) -> None:
    place(priced)
    ran(priced, 1)
    ran(priced, 2, site="beta")
    held(priced, "j3", 100)
    with priced.write() as conn:
        budget = Budget("b1", "p1", "core-seconds", 1_000, span="total")
        budgets.add_budget(conn, budget, now=T0)
        standing = budgets.standing(conn, budget, now=T0 + HOUR)
    assert (standing.spent, standing.held, standing.elsewhere) == (800, 100, 0)
    with priced.read() as conn:
        assert not budgets.passed_since(conn, standing)
    held(priced, "j4", 101)
    with priced.read() as conn:
        assert budgets.passed_since(conn, standing)


def test_what_is_moved_to_another_project_pays_there_as_it_did_before(priced: Database, verifier: ModuleType) -> None:
    place(priced)
    with priced.write() as conn:
        books.open_project_accounts(conn, "p2", currency="CNY")
        allocations.transfer(conn, "o1", to_project="p2", amount=1_000, idem_key="t", now=T0)
    assert ran(priced, 1, T0 + HOUR, project="p2") == 0
    assert ran(priced, 2, T0 + HOUR, project="p2", site="beta") == 400 * 100
    assert list(left(priced, "p2").values()) == [600]
    assert checked(verifier, sealed(priced))[0] == []


def test_what_is_carried_over_pays_until_it_lapses(priced: Database) -> None:
    short = replace(BLOCK, ends_at=T0 + timedelta(days=2), carry_over_max=1_000)
    place(priced, short)
    assert short.ends_at is not None
    with priced.write() as conn:
        allocations.expire_due(conn, now=short.ends_at)
    assert ran(priced, 1, short.ends_at + HOUR) == 0
    assert left(priced) == {"o1+carried": 600}
    assert ran(priced, 2, T0 + timedelta(days=4) + HOUR) == 400 * 100


def test_two_orders_for_one_place_are_one_and_for_two_they_may_not_meet(priced: Database) -> None:
    place(priced)
    place(priced, replace(BLOCK, id="o2"))
    held(priced, "j1", FULL * 2)
    with pytest.raises(AccountingError, match=r"paid with order o1 until .*, for site:alpha: name the same"):
        place(priced, replace(BLOCK, id="o3", site_id=None, agreement_id="a1"))
    place(priced, replace(BLOCK, id="o4", site_id=None, agreement_id="a1", starts_at=T0 + timedelta(days=90),
                          ends_at=T0 + timedelta(days=99)))  # fmt: skip


def test_an_order_names_a_site_of_the_agreement_that_it_names(priced: Database) -> None:
    with pytest.raises(AccountingError, match="not about beta"):
        place(priced, replace(BLOCK, site_id="beta", agreement_id="a1"))


# ---------------------------------------------------------------- made before an agreement was in force

BARE = Order("o1", "p1", "uni", "block", "core-seconds", 3_600_000, "CNY", T0, ends_at=T0 + timedelta(days=90),
             price_micro=1_000_000)  # fmt: skip


@pytest.fixture
def unagreed(db_url: str) -> Any:
    """Books of an operator who has signed with nobody yet."""
    found = Database(db_url)
    with found.write() as conn:
        books.add_tariff(conn, PriceRule(0, "CNY", 360_000, T0 - timedelta(days=99)), now=T0)
        books.open_project_accounts(conn, "p1", currency="CNY")
        books.grant_credit(conn, project_id="p1", commodity="CNY", amount=10**12, idem_key="g", now=T0)
    yield found
    found.dispose()


@pytest.mark.parametrize("named", [{}, {"site_id": "alpha"}], ids=["nothing", "site"])
@pytest.mark.parametrize("order", [{}, {"kind": "trial", "price_micro": 0}], ids=["block", "trial"])
def test_an_order_that_no_agreement_divides_pays_for_runs_under_no_agreement(
    unagreed: Database, verifier: ModuleType, named: dict[str, Any], order: dict[str, Any]
) -> None:
    place(unagreed, replace(BARE, **named, **order))
    assert ran(unagreed, 1) == 0
    assert ran(unagreed, 2, site="beta") == (400 * 100 if named else 0)
    taken = 400 if named else 800
    assert left(unagreed) == {"o1": FULL - taken}
    with unagreed.write() as conn:
        sign_agreement(conn, replace(AGREEMENT, grades={}, valid_from=T0 + timedelta(days=1)))
    assert ran(unagreed, 3, T0 + timedelta(days=2)) == 400 * 100  # the centre works for its share
    assert left(unagreed) == {"o1": FULL - taken}
    with unagreed.read() as conn:
        earned = books.balances(conn, code="centre:")
    assert sum(-amount for (_, commodity), amount in earned.items() if commodity == "CNY") > 0
    assert ran(unagreed, 4, T0 + timedelta(days=2), site="beta") == (400 * 100 if named else 0)
    assert checked(verifier, sealed(unagreed))[0] == []


def test_months_of_a_subscription_are_for_the_centre_from_when_it_has_a_share_of_them(unagreed: Database) -> None:
    monthly = replace(BARE, kind="subscription", site_id="alpha")
    place(unagreed, monthly)
    with unagreed.write() as conn:
        sign_agreement(conn, replace(AGREEMENT, grades={}, valid_from=T0 + timedelta(days=1)))
    assert ran(unagreed, 1, T0 + timedelta(days=2)) == 400 * 100
    later = T0 + timedelta(days=35)
    with unagreed.write() as conn:
        assert allocations.renew_due(conn, now=later) == allocations.Renewed(1, {})
    assert ran(unagreed, 2, later + HOUR) == 0
    assert FULL - 400 in left(unagreed).values()
