"""What a contract may not say: what could not be kept, computed with, or signed by two."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from accounting.agreement import (
    Payout,
    PostingLimits,
    Share,
    ShareTier,
    StatementTerms,
    Tax,
    TaxKind,
    Tolerances,
    agreement_of,
)
from accounting.meter import MeteringPolicy, meter
from accounting.price import CHARGE_MICRO_MAX, NoPrice, PriceBook, price
from accounting.tariff import PriceRule, Tariff
from accounting.terms import Wrong, agreement_problems, rule_problems, tariff_problems
from accounting.tier_counts import TierCounts
from tests.unit.accounting.makers import HERE, LONG_AGO, agreement, rule, run

NAIVE = datetime(2026, 1, 1)  # noqa: DTZ001 - that is the point
YEAR_1, YEAR_9999 = datetime(1, 1, 1, tzinfo=UTC), datetime(9999, 12, 31, 23, 59, tzinfo=UTC)
POISON: list[dict[str, Any]] = [
    {"operator_id": "centre", "seller_of_record": "centre", "collector": "centre"},
    {"site_ids": ()}, {"version": 0}, {"version": 2**31}, {"id": ""}, {"id": "a\0b"}, {"id": "x" * 33},
    {"brand": "\u0007"}, {"currency": "yuan"}, {"zone": "Mars/Base"}, {"zone": ""}, {"no_rise_after_days": 10**12},
    {"valid_from": YEAR_1}, {"valid_to": YEAR_9999}, {"fees": (Share("op", -1),)},
    {"fees": (Share("op", 600_000), Share("op", 600_000))},
    {"tax": Tax(TaxKind.INCLUSIVE, "VAT", 0, 0)}, {"tax": Tax(TaxKind.INCLUSIVE, "VAT", 6, -100)},
    {"tax": Tax(TaxKind.INCLUSIVE, "VAT", -6, 100)}, {"payout": Payout(tiers=(ShareTier(0, 101),))},
    {"payout": Payout(currency="dollars")}, {"tolerances": Tolerances(quantity_ppm=-1)},
    {"limits": PostingLimits(four_eyes_micro=-1)}, {"limits": PostingLimits(four_eyes_micro=2**63)},
    {"metering": MeteringPolicy(cores_per_node={"*": 0})}, {"metering": MeteringPolicy(threads_per_core={"q": -2})},
    {"statements": StatementTerms(auto_causes=("whatever",))}, {"grades": {"q": "g" * 33}},
]  # fmt: skip
WRONG_RULES: list[dict[str, Any]] = [
    {"price_micro": 2**63 - 1}, {"per": 2**62}, {"tier_from": 2**60}, {"currency": "CN"}, {"zone": "Mars"},
    {"resource": "core_second"}, {"resource": ""}, {"valid_from": YEAR_1}, {"valid_to": YEAR_9999},
]  # fmt: skip


@pytest.mark.parametrize("terms", POISON, ids=str)
def test_an_agreement_that_could_not_be_computed_with_is_told_so(terms: dict[str, Any]) -> None:
    if terms.get("operator_id") == "centre":
        shares = replace(agreement().shares, parts=(Share("centre", 100),))
        terms = terms | {"shares": shares}
    wrong = agreement(**terms)
    assert len(agreement_problems(wrong)) == 1


def test_what_people_sign_has_no_problem() -> None:
    terms: dict[str, Any] = {
        "tax": Tax(TaxKind.INCLUSIVE, "增值税 VAT", 6, 100), "fees": (Share("op", 10_000),), "grades": {"*": "economy"},
        "valid_to": datetime(2030, 1, 1, tzinfo=UTC), "payout": Payout(tiers=(ShareTier(0, 70),), currency="USD"),
        "statements": StatementTerms(auto_causes=("unit",)), "no_rise_after_days": 90,
    }  # fmt: skip
    good = agreement(**terms)
    assert agreement_problems(good) == []
    tariff = Tariff("t1", 1, "a1", LONG_AGO, (rule(0), rule(0, resource="unit:shots"), rule(0, resource="minimum")))
    assert tariff_problems(tariff) == []


@pytest.mark.parametrize("terms", WRONG_RULES, ids=str)
def test_a_price_that_prices_nothing_or_everything_is_told_so(terms: dict[str, Any]) -> None:
    assert len(list(rule_problems(rule(0, **terms)))) == 1


def test_a_time_without_its_zone_is_refused_where_the_document_is_read() -> None:
    plain = json.loads(agreement().payload) | {"valid_from": NAIVE.isoformat()}
    with pytest.raises(ValueError, match="timezone"):
        agreement_of(plain)


def test_a_run_that_costs_more_than_books_hold_has_no_price_and_moves_no_count() -> None:
    """Found by hand: the charge of one absurd record stopped all of its centre's."""
    rules = [rule(1, 10**15, per=1), rule(2, 10**15, per=1, tier_from=1)]
    book, counts = PriceBook(rules, []), TierCounts("r1")
    record = run(cores=10, elapsed=100)
    with pytest.raises(NoPrice, match="look at the tariff"):
        price(record, meter(record, MeteringPolicy()), book, HERE, counts=counts)
    assert list(counts.counts.values()) == [[0, 0]]
    cheap = PriceBook([PriceRule(1, "CNY", CHARGE_MICRO_MAX // 1000, LONG_AGO - timedelta(days=1), per=1)], [])
    assert price(record, meter(record, MeteringPolicy()), cheap, HERE).amount_micro == CHARGE_MICRO_MAX


@pytest.mark.parametrize(
    ("given", "field"),
    [({"valid_to": datetime(2600, 1, 1, tzinfo=UTC)}, "valid_to"), ({"valid_from": datetime(1960, 1, 1, tzinfo=UTC)},
     "valid_from"), ({"currency": "queue"}, "currency"), ({"queue": ""}, "queue"), ({"site_id": ""}, "site_id"),
     ({"price_micro": 10**18}, "price_micro"), ({"resource": "currency"}, "resource"), ({"zone": "queue"}, "zone")],
)  # fmt: skip
def test_what_is_wrong_with_a_price_names_its_field_whatever_its_words_are(given: dict[str, Any], field: str) -> None:
    """Found by words before: a zone called `queue`, a resource called `currency` sent people to another field."""
    [wrong] = rule_problems(rule(**given))
    assert isinstance(wrong, Wrong) and wrong.field == field
