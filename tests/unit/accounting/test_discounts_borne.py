"""What the operator gives off the list price alone is its own cost; the centre's share is of the price before it."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest

from accounting import store as books
from accounting.agreement import Agreement, agreement_of
from accounting.calendar import Window
from accounting.errors import AccountingError
from accounting.ledger import BORNE, payable
from accounting.meter import CENTRE, PAYER, Bears, MeteringPolicy
from accounting.store.allocations import place_order
from accounting.store.orders import Order
from accounting.tariff import Discount, PriceRule, Tariff
from accounting.usage import Kind
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
    sign_both,
    standing,
)

HALF = Discount(0, PROJECT, 1, 2, LONG_AGO, reason="friends")
SHARED, BY_CENTRE = Bears(0, 1, 1), Bears(0, 1, 0)


def signed(db: Database, *rules: PriceRule, agreed: Agreement | None = None, name: str = "t1") -> None:
    """An agreement and a tariff under it, both signed."""
    agree(db, agreed)
    tariff = Tariff(name, 1, "a1", LONG_AGO, rules)
    with db.write() as conn:
        books.contracts.save_tariff(conn, tariff, now=LONG_AGO)
        sign_both(conn, tariff)


def off(db: Database, discount: Discount = HALF) -> None:
    with db.write() as conn:
        books.add_discount(conn, discount, now=LONG_AGO)


def trial(db: Database, **more: object) -> None:
    values = {"starts_at": T0 - timedelta(days=1), "agreement_id": "a1"} | more
    order = Order("o1", PROJECT, "uni", "trial", "core-seconds", 10**6, "CNY", **values)  # type: ignore[arg-type]
    with db.write() as conn:
        place_order(conn, order, now=T0 - timedelta(days=1))


def centre(db: Database) -> int:
    return -standing(db, payable("centre"))


def test_a_discount_lowers_what_is_owed_and_not_what_the_centre_gets(db: Database) -> None:
    signed(db, rule(0))
    off(db)
    charge(db, run())  # 400 core-seconds at 100: 40,000
    assert (owed(db), centre(db), standing(db, BORNE)) == (20_000, 28_000, 20_000)


def test_a_trial_is_free_for_the_payer_and_paid_to_the_centre(db: Database) -> None:
    signed(db, rule(0))
    trial(db)
    charge(db, run())
    assert (owed(db), centre(db), standing(db, BORNE)) == (0, 28_000, 40_000)


@pytest.mark.parametrize(
    ("borne", "earned"), [(BY_CENTRE, 14_000), (SHARED, 21_000), (Bears(0, 0, 1), 28_000), (Bears(0, 1, 3), 24_500)]
)
def test_what_both_signed_says_who_bears_a_discount(db: Database, borne: Bears, earned: int) -> None:
    signed(db, rule(0), agreed=agreement(discounts_borne=borne))
    off(db)
    charge(db, run())
    assert (owed(db), centre(db)) == (20_000, earned)
    assert standing(db, BORNE) == earned * 100 // 70 - 20_000


def test_an_own_price_of_the_operator_below_the_signed_one_is_its_own_cost_too(db: Database) -> None:
    """A rule that names the project goes before the centre's tariff: it was a discount by another door."""
    signed(db, rule(0))
    add_rules(db, rule(0, 90_000, project_id=PROJECT))
    charge(db, run())
    assert (owed(db), centre(db), standing(db, BORNE)) == (10_000, 28_000, 30_000)


def test_a_price_for_the_project_that_both_signed_is_a_discount_that_the_centre_agreed_to(db: Database) -> None:
    signed(db, rule(0), rule(0, 90_000, project_id=PROJECT))
    charge(db, run())
    assert (owed(db), centre(db), standing(db, BORNE)) == (10_000, 7_000, 0)


def test_a_dearer_own_price_raises_the_centres_share_with_it(db: Database) -> None:
    signed(db, rule(0))
    add_rules(db, rule(0, 720_000, project_id=PROJECT))
    charge(db, run())
    assert (owed(db), centre(db), standing(db, BORNE)) == (80_000, 56_000, 0)


def test_without_a_signed_tariff_the_list_price_is_the_operators_for_everybody(db: Database) -> None:
    add_rules(db, rule(0), rule(0, 36_000, project_id=PROJECT))
    agree(db)
    charge(db, run())
    assert (owed(db), centre(db), standing(db, BORNE)) == (4_000, 28_000, 36_000)


def test_where_no_agreement_is_nothing_is_borne(db: Database) -> None:
    add_rules(db, rule(0))
    off(db)
    charge(db, run())
    assert (owed(db), standing(db, BORNE)) == (20_000, 0)


def test_what_a_priced_block_paid_earns_nothing_more(db: Database) -> None:
    signed(db, rule(0))
    order = Order("o1", PROJECT, "uni", "block", "core-seconds", 3600, "CNY", T0 - timedelta(days=1),
                  price_micro=360_000, agreement_id="a1")  # fmt: skip
    trial(db)
    with db.write() as conn:
        place_order(conn, replace(order, id="o2"), now=T0 - timedelta(days=1))
    charge(db, run())
    assert (owed(db), centre(db), standing(db, BORNE)) == (360_000, 252_000, 0)


def test_a_run_that_failed_by_the_centres_fault_is_borne_as_agreed_whatever_was_given_off(db: Database) -> None:
    liability = {"NODE_FAIL": CENTRE, "PREEMPTED": Bears(1, 1, 2)}
    signed(db, rule(0), agreed=agreement(metering=MeteringPolicy("m2", liability=liability)))
    off(db)
    charge(db, run("1", state="NODE_FAIL"))
    assert (owed(db), centre(db), standing(db, BORNE)) == (0, 0, 0)
    charge(db, run("2", state="PREEMPTED"))  # of 40,000: payer 10,000 (half of it), centre 10,000, operator 20,000
    assert (owed(db), centre(db), standing(db, BORNE)) == (5_000, 21_000, 25_000)


def test_a_correction_takes_back_what_was_borne(db: Database) -> None:
    signed(db, rule(0))
    off(db)
    charge(db, run())
    charge(db, run(elapsed=50))
    assert (owed(db), centre(db), standing(db, BORNE)) == (10_000, 14_000, 10_000)


def test_a_list_price_by_volume_counts_all_that_was_charged_otherwise(db: Database) -> None:
    """The first 400 core-seconds of the month at 100, the next at 50: by the list, whatever the project paid."""
    signed(db, rule(0), rule(0, 180_000, tier_from=400))
    off(db)
    charge(db, run("1"))
    charge(db, run("2", start=T0 + timedelta(hours=1)))
    assert (owed(db), centre(db), standing(db, BORNE)) == (30_000, 42_000, 30_000)
    charge(db, run("1", elapsed=50))  # 600 in all: 400 at 100, 200 at 50
    assert (owed(db), centre(db), standing(db, BORNE)) == (25_000, 35_000, 25_000)


def test_a_count_of_the_list_that_a_correction_left_is_brought_to_its_total(db: Database) -> None:
    signed(db, rule(0), rule(0, 180_000, tier_from=400))
    add_rules(db, rule(0, 36_000, project_id=PROJECT, queue="cheap"))
    cheap = run("1", queue="cheap")
    charge(db, cheap)
    charge(db, run("2", queue="cheap", start=T0 + timedelta(hours=1)))
    assert (owed(db), centre(db)) == (8_000, 42_000)
    charge(db, run("1", queue="cpu", raw={"key": "moved"}))  # a queue at the list price itself, whose count begins anew
    assert (owed(db), centre(db)) == (4_000 + 40_000, 28_000 + 28_000)


NEVER = {"kind": Kind.NEVER_RAN, "cores": 0, "elapsed": 0, "raw": {"key": "gone"}}


@pytest.mark.parametrize("gone", [{**NEVER, "start_time": None}, {**NEVER, "kind": Kind.TOLD_AGAIN, "cores": 4}])
def test_a_run_that_was_none_after_all_leaves_the_months_count_right(db: Database, gone: dict[str, Any]) -> None:
    """The other run is the first of the month then; a run that was none costs no least price either."""
    signed(db, rule(0), rule(0, 180_000, tier_from=400),
           PriceRule(0, "CNY", 1_000, LONG_AGO, resource="minimum"))  # fmt: skip
    charge(db, run("1"))
    charge(db, run("2", start=T0 + timedelta(hours=1)))
    assert (owed(db), centre(db)) == (60_000, 42_000)
    charge(db, run("1", **gone))
    assert (owed(db), centre(db), standing(db, BORNE)) == (40_000, 28_000, 0)
    charge(db, run("2", start=T0 + timedelta(hours=1), **gone))
    assert (owed(db), centre(db), standing(db, BORNE)) == (0, 0, 0)
    with db.read() as conn:
        assert books.check_books(conn) == []


def test_the_hours_of_the_list_cut_a_run_that_the_operator_prices_flat(db: Database) -> None:
    signed(db, rule(0), rule(0, 720_000, window=Window(12 * 60 + 1, 24 * 60)))
    add_rules(db, rule(0, 36_000, project_id=PROJECT))
    charge(db, run(cores=1, elapsed=120))  # a minute at 100, a minute at 200
    assert (owed(db), centre(db)) == (1_200, 12_600)


def test_the_least_that_a_run_costs_by_the_list_is_the_centres_base_too(db: Database) -> None:
    signed(db, rule(0), PriceRule(0, "CNY", 100_000, LONG_AGO, resource="minimum"))
    off(db, replace(HALF, valid_to=T0 + timedelta(days=1)))
    charge(db, run())
    assert (owed(db), centre(db), standing(db, BORNE)) == (100_000, 70_000, 0)
    off(db, Discount(0, PROJECT, 0, 1, T0 + timedelta(days=1), reason="gift"))
    charge(db, run("2", start=T0 + timedelta(days=2)), now=NOW + timedelta(days=2))
    assert (owed(db), centre(db), standing(db, BORNE)) == (100_000, 140_000, 100_000)


def test_what_was_signed_before_keeps_its_bytes_and_the_payer_bears_no_discount() -> None:
    before, later = agreement(), agreement(discounts_borne=SHARED)
    assert b"discounts_borne" not in before.payload and agreement_of(before.payload).sha256 == before.sha256
    assert agreement_of(later.payload) == later
    with pytest.raises(ValueError, match="let off"):
        agreement(discounts_borne=PAYER)


def test_explain_says_the_list_price_and_who_bears_the_difference(db: Database) -> None:
    signed(db, rule(0))
    off(db)
    charge(db, run())
    with db.read() as conn:
        found = books.explain(conn, 1)
    assert found is not None
    text = "\n".join(found.steps)
    assert "at the list price (rule 1: 0.36 CNY per core-hour) 0.04 CNY" in text
    assert "0.02 CNY was given off the list price, and the operator bears it: the centre's share is of 0.04 CNY" in text
    assert "is not paid" not in text


def test_a_block_below_what_the_centre_signed_is_refused_with_the_price(db: Database) -> None:
    """Else a block for next to nothing would be a discount by another door."""
    signed(db, rule(0), rule(0, 180_000, queue="night"))
    order = Order("o1", PROJECT, "uni", "block", "core-seconds", 36_000, "CNY", T0, price_micro=1_799_999,
                  agreement_id="a1")  # fmt: skip
    with pytest.raises(AccountingError, match=r"cost at least 1\.80 CNY by what centre signed"), db.write() as conn:
        place_order(conn, order, now=T0)
    with db.write() as conn:
        place_order(conn, replace(order, price_micro=1_800_000), now=T0)


def test_a_centre_that_bears_discounts_by_its_agreement_sells_blocks_at_any_price(db: Database) -> None:
    signed(db, rule(0), agreed=agreement(discounts_borne=BY_CENTRE))
    order = Order("o1", PROJECT, "uni", "block", "core-seconds", 36_000, "CNY", T0, price_micro=1, agreement_id="a1")
    with db.write() as conn:
        place_order(conn, order, now=T0)
