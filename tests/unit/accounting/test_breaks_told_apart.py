"""Differences that look like others: a line there twice without a key, prices by queue, units, threads."""

from __future__ import annotations

from typing import Any

import pytest

from accounting import store as books
from accounting.agreement import PostingLimits, StatementTerms
from accounting.meter import MeteringPolicy
from accounting.tariff import PriceRule
from tests.builders import Gateway
from tests.unit.accounting.makers import LONG_AGO, agree, agreement
from tests.unit.accounting.test_reconcile import (
    PRICE,
    compare,
    gateway,
    have,
    kinds,
    line,
    owed,
    receive,
    row,
)
from tests.unit.accounting.test_reconcile_by_contract import rules

_ = gateway  # the fixture

NO_KEY: dict[str, Any] = {"run_key": ""}
HALF = MeteringPolicy(version="m1", threads_per_core={"*": 2})


def agreed(gateway: Gateway, **more: Any) -> None:
    limits = PostingLimits(increase_micro=10**9)
    agree(gateway.services.db, agreement(site_ids=("local",), limits=limits, statements=StatementTerms(), **more))


def by_contract(gateway: Gateway, *lines: dict[str, Any]) -> list[tuple[str, str, str]]:
    received = receive(gateway, *lines)
    return kinds(compare(gateway, received, rules(gateway, received.statement_id))[1])


@pytest.mark.parametrize("first", [{}, NO_KEY], ids=["the first has its key", "neither has"])
def test_a_line_without_a_key_that_bills_a_run_once_more_is_a_duplicate(
    gateway: Gateway, first: dict[str, Any]
) -> None:
    """Not a run that never went through us, and not the next best run of that person."""
    have(gateway, row(1), row(2))
    again = line(1, **NO_KEY)
    _, found = compare(gateway, receive(gateway, line(1, **first), again))
    assert [(b.row.category, b.row.explanation) for b in found] == [
        ("B06", "line 1 bills this run already"), ("B01", "the centre does not bill it"),
    ]  # fmt: skip


def test_another_run_of_the_same_number_is_no_duplicate(gateway: Gateway) -> None:
    have(gateway, row(1))
    other = line(1, run_key="", start=int(row(9)["Start"]), end=int(row(9)["Start"]) + 9)
    _, found = compare(gateway, receive(gateway, line(1), other))
    assert kinds(found) == [("B02", "", "open")]


def test_a_price_of_another_queue_is_named_and_a_runs_own_is_not(gateway: Gateway) -> None:
    agreed(gateway)
    with gateway.services.db.write() as conn:
        dear = PriceRule(0, "CNY", 2 * PRICE, LONG_AGO, site_id="local", queue="gpu")
        books.add_tariff(conn, dear, now=LONG_AGO)
    have(gateway, row(1), row(2), row(3, Partition="gpu"))
    assert by_contract(
        gateway, line(1, amount="2.8936"), line(2, quantity=14_468 * 3, amount="1.4468"), line(3, amount="1.4468")
    ) == [("B04", "price", "explained"), ("B03", "", "open"), ("B04", "price", "explained")]


def test_a_quantity_in_another_unit_with_the_right_money_is_a_matter_of_the_unit(gateway: Gateway) -> None:
    have(gateway, row(1))
    _, found = compare(gateway, receive(gateway, line(1, quantity=14_468 * 3600)))
    assert kinds(found) == [("B10", "unit", "explained")]
    assert found[0].row.explanation == "unit: hours as seconds; the money is that of the right quantity"


def test_nothing_billed_for_a_run_is_no_matter_of_the_unit(gateway: Gateway) -> None:
    have(gateway, row(1, ElapsedRaw="100"))
    _, found = compare(gateway, receive(gateway, line(1, quantity=0, amount="0", elapsed=0)))
    assert kinds(found) == [("B03", "truncation,state", "open")], "in whole hours it is nothing too"


def test_nothing_billed_for_a_short_run_that_failed_is_a_matter_of_its_state(gateway: Gateway) -> None:
    have(gateway, row(1, ElapsedRaw="100", State="NODE_FAIL"))
    _, found = compare(gateway, receive(gateway, line(1, quantity=0, amount="0", elapsed=0)))
    assert kinds(found) == [("B09", "state", "posted")]


def test_a_line_of_cores_agrees_with_a_run_whose_threads_are_billed_as_cores(gateway: Gateway) -> None:
    agreed(gateway, metering=HALF)
    have(gateway, row(1), row(2))
    assert owed(gateway) == 2 * 723_400
    assert by_contract(gateway, line(1, cores=2, quantity=7_234, amount="0.7234"), line(2, amount="0.7234")) == []


def test_threads_that_the_centre_bills_as_cores_are_named_as_such(gateway: Gateway) -> None:
    agreed(gateway, metering=HALF)
    have(gateway, row(1, ReqCPUS=""))
    assert by_contract(gateway, line(1, amount="1.4468")) == [("B03", "threads", "explained")]


@pytest.mark.parametrize(
    "theirs",
    [{"cores": 4, "quantity": 4 * 3619}, {"cores": 2, "quantity": 2 * 3619}, {"cores": 0, "quantity": 4 * 3619},
     {"cores": 0, "quantity": 2 * 3619}],
    ids=["threads", "cores", "threads, said of no line", "cores, said of no line"],
)  # fmt: skip
def test_what_is_posted_of_a_run_is_billed_by_the_agreements_policy_once(
    gateway: Gateway, theirs: dict[str, Any]
) -> None:
    """Two seconds more, of which the payer bears those of two cores: threads do not become cores by being corrected."""
    agreed(gateway, metering=HALF)
    have(gateway, row(1))
    end = int(row(1)["Start"]) + 3619
    more = line(1, **theirs, end=end, elapsed=3619, amount="0.7238")
    assert by_contract(gateway, more) == [("B03", "skew", "posted")]
    assert owed(gateway) == 723_800
    gateway.check_books()


def test_core_hours_printed_with_two_decimals_are_no_difference_where_the_money_is_exact(gateway: Gateway) -> None:
    """3000 s of a core are 0.8333 core-hours: 0.83 on paper, which is 2988 s."""
    have(gateway, *[row(n, AllocCPUS="1", ElapsedRaw="3000") for n in (1, 2, 3)])
    printed = {"cores": 1, "quantity": 2988, "end": None, "elapsed": 3000}
    _, found = compare(gateway, receive(
        gateway, line(1, **printed, amount="0.30"), line(2, **printed, amount=None), line(3, **printed, amount="0.2988")
    ))  # fmt: skip
    assert [(b.row.category, ",".join(b.row.causes), b.row.line_no) for b in found] == [("B03", "", 2), ("B03", "", 3)]


def test_a_few_seconds_that_are_no_hundredth_of_a_core_hour_stay_a_difference(gateway: Gateway) -> None:
    have(gateway, row(1, AllocCPUS="1", ElapsedRaw="3000"))
    _, found = compare(gateway, receive(gateway, line(1, cores=1, quantity=2990, elapsed=3000, amount="0.30")))
    assert kinds(found) == [("B03", "", "open")]
