"""What cannot be understood, or not be counted by, is told before anybody signs it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any

import pytest

from accounting.agreement import Tax, Tolerances, agreement_of
from accounting.calendar import Window
from accounting.errors import AccountingError
from accounting.meter import MeteringPolicy
from accounting.store import contracts, prices
from accounting.tariff import Discount, Tariff, tariff_of
from accounting.terms import agreement_problems, discount_problems, not_understood, rule_problems, tariff_problems
from gateway.db import Database
from tests.unit.accounting.makers import LONG_AGO, NOW, add_rules, agree, agreement, rule


@pytest.fixture
def db(db_url: str) -> Iterator[Database]:
    found = Database(db_url)
    yield found
    found.dispose()


@pytest.mark.parametrize(
    ("terms", "told"),
    [
        ({"zone": "Asia/Shangai"}, "no time zone"),
        ({"currency": "yuan"}, "no currency"),
        ({"version": 0}, "count from 1"),
        ({"valid_from": datetime(2026, 11, 1)}, "without a time zone"),  # noqa: DTZ001 - what is wrong with it
        ({"tax": Tax(numerator=6, denominator=0)}, "tax"),
        ({"no_rise_after_days": -1}, "no_rise_after_days"),
        ({"tolerances": Tolerances(quantity_ppm=-1)}, "tolerances/quantity_ppm"),
        ({"metering": MeteringPolicy(threads_per_core={"*": 0})}, "threads_per_core"),  # would divide by it
        ({"metering": MeteringPolicy(cores_per_node={"cpu": -4})}, "cores_per_node"),
        ({"metering": MeteringPolicy(held_while_suspended=("gpu",))}, "held_while_suspended"),
    ],
)
def test_an_agreement_that_nobody_can_count_by_is_not_kept(db: Database, terms: dict[str, Any], told: str) -> None:
    with pytest.raises(AccountingError, match=told), db.write() as conn:
        contracts.save_agreement(conn, agreement(**terms), now=NOW)
    with db.read() as conn:
        assert contracts.agreements(conn) == []


@pytest.mark.parametrize(
    ("price", "told"),
    [
        ({"zone": "Mars/Olympus", "window": Window(0, 60)}, "no time zone"),
        ({"resource": "core-seconds"}, "no resource"),
        ({"resource": "unit:"}, "no resource"),
        ({"currency": "cny"}, "no currency"),
        ({"queue": ""}, "queue is empty"),
    ],
)
def test_nor_a_price_of_a_tariff_or_of_the_operators_own(db: Database, price: dict[str, Any], told: str) -> None:
    agree(db)
    wrong = rule(0, **price)
    with pytest.raises(AccountingError, match=told), db.write() as conn:
        contracts.save_tariff(conn, Tariff("t1", 1, "a1", LONG_AGO, (wrong,)), now=NOW)
    with pytest.raises(AccountingError, match=told):
        add_rules(db, wrong)


def test_a_ratio_of_a_resource_that_is_none_or_of_no_time_is_refused(db: Database) -> None:
    half = Discount(0, "p1", 1, 2, LONG_AGO)
    for wrong in (replace(half, resource="gpu-seconds"), replace(half, valid_to=LONG_AGO)):
        with pytest.raises(AccountingError), db.write() as conn:
            prices.add_discount(conn, wrong, now=NOW)


def test_a_misspelt_term_is_found_at_any_depth() -> None:
    document = json.loads(agreement().payload)
    assert not_understood(document, agreement_of(document)) == []
    document["no_rise_after_day"] = 30
    document["metering"]["bill_requeue"] = False
    document["shares"]["parts"][1]["numerater"] = 70
    found = not_understood(document, agreement_of(document))
    assert sorted(found) == ["/metering/bill_requeue", "/no_rise_after_day", "/shares/parts/1/numerater"]
    # What is a name of the parties' own (a queue, a state) is none of ours to know.
    named = {"grades": {"q": "economy"}, "metering": {"liability": {"X": {"payer": 0, "centre": 1}}}}
    assert not_understood(named, agreement_of(json.loads(agreement().payload) | named)) == []


def test_what_the_examples_say_is_understood_and_sound() -> None:
    for name in ("agreement", "tariff"):
        with open(f"docs/examples/{name}.json") as file:
            given = json.load(file)
        document = agreement_of(given) if name == "agreement" else tariff_of(json.dumps(given))
        assert not_understood(given, document) == []
        assert (tariff_problems if isinstance(document, Tariff) else agreement_problems)(document) == []  # type: ignore[operator]
    assert rule_problems(rule(window=Window(60, 60), zone="Europe/Berlin", valid_to=NOW + timedelta(days=1))) == []


def test_a_ratio_of_more_than_one_is_no_discount() -> None:
    assert discount_problems(Discount(0, "p1", 1, 1, LONG_AGO)) == []
    [wrong] = discount_problems(Discount(0, "p1", 3, 2, LONG_AGO))
    assert "3/2 is more than the price" in wrong
