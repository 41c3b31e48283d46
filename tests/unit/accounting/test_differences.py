"""A difference that is agreed with a centre is divided as the charge that it corrects: share, fees, tiers, tax."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from accounting import store as books
from accounting.agreement import Agreement, Bills, Payout, Share, Shares, ShareTier, StatementTerms, Tax, TaxKind
from accounting.ledger import DIFFERENCES, REVENUE, Posting, divide, payable
from accounting.meter import Bears, MeteringPolicy
from accounting.reconciling import difference
from accounting.reconciling import store as recon_store
from accounting.settle import Sums, legs
from accounting.store import settlements
from tests.builders import Gateway
from tests.unit.accounting import makers
from tests.unit.accounting.makers import LONG_AGO, agreement, standing
from tests.unit.accounting.test_reconcile import RULES, compare, gateway, have, line, receive, row
from tests.unit.accounting.test_reconcile_by_contract import posted, rules, signed

_ = gateway  # the fixture

TERMS: dict[str, Any] = {
    "fees": (Share("op", 12_500),), "tax": Tax(TaxKind.INCLUSIVE, "VAT", 6, 100),
    "payout": Payout((ShareTier(0, 70), ShareTier(1_000_000, 80)), "WHT", 10),
}  # fmt: skip
WITH_FEES = agreement(site_ids=("local",), **TERMS)
_MICRO = st.integers(0, 10**15)


def said(gateway: Gateway, agreed: Agreement, number: int = 1) -> dict[str, Any]:
    """What a statement of everything until now says."""
    end = gateway.services.clock() + timedelta(days=1)
    with gateway.services.db.write() as conn:
        drawn = makers.draw(conn, settlement_id=f"s{number}", agreement=agreed, start=LONG_AGO, end=end, disputed={},
                            now=end)  # fmt: skip
        settlements.withdraw(conn, drawn.id, by="test", reason="looked at", now=end)
    return drawn.said


@pytest.mark.parametrize("payout", [TERMS["payout"], Payout()], ids=["tiers", "no tiers"])
def test_a_charge_and_its_difference_are_settled_as_a_charge_of_the_centres_figure(
    gateway: Gateway, payout: Payout
) -> None:
    agreed = replace(WITH_FEES, payout=payout)
    makers.agree(gateway.services.db, agreed)
    have(gateway, row(1))
    received = receive(gateway, line(1, amount="2.8936"))
    _, (item,) = compare(gateway, received, rules(gateway, received.statement_id))
    posted(gateway, item.row.id)
    found = said(gateway, agreed)

    one = divide(2_893_600, Bears(), agreed)
    whole = legs(Sums(one.amount, 0, one.centre, one.tax, one.amount - one.centre - one.tax), agreed)
    assert int(found["fees"][0]["amount"]) == whole.fees["op"] > 0
    assert int(found["net"]) == whole.net
    assert int(found["withheld"]["amount"]) == whole.withheld
    assert int(found["operator_keeps"]) == whole.operator
    gateway.check_books()


def test_a_difference_of_work_of_an_earlier_period_is_a_correction_of_that(gateway: Gateway) -> None:
    makers.agree(gateway.services.db, WITH_FEES)
    have(gateway, row(1))
    received = receive(gateway, line(1, amount="2.8936"))
    _, (item,) = compare(gateway, received, rules(gateway, received.statement_id))
    posted(gateway, item.row.id)
    with gateway.services.db.write() as conn:
        start = datetime(2026, 11, 20, tzinfo=UTC)
        drawn = makers.draw(conn, settlement_id="s1", agreement=WITH_FEES, start=start, end=start + timedelta(days=365),
                            disputed={}, now=start)  # fmt: skip
    assert drawn.said["grades"] == []
    assert sum(int(g["entries"]) for g in drawn.said["corrections_of_earlier_periods"]) == 2


def test_a_run_that_the_centre_bears_earns_it_nothing_by_another_price(gateway: Gateway) -> None:
    metering = MeteringPolicy(liability={"COMPLETED": Bears(1, 1, 0)})
    signed(gateway, metering=metering)
    have(gateway, row(1))
    before = standing(gateway.services.db, payable("centre"))
    received = receive(gateway, line(1, amount="2.8936"))
    _, (item,) = compare(gateway, received, rules(gateway, received.statement_id))
    posted(gateway, item.row.id)
    assert before - standing(gateway.services.db, payable("centre")) == 506_380  # 70 % of the half that is earned
    assert standing(gateway.services.db, DIFFERENCES) == 723_400


def test_a_charge_is_explained_with_what_was_agreed_about_it_since(gateway: Gateway) -> None:
    signed(gateway)
    have(gateway, row(1))
    received = receive(gateway, line(1, amount="2.8936"))
    _, (item,) = compare(gateway, received, rules(gateway, received.statement_id))
    posted(gateway, item.row.id)
    with gateway.services.db.read() as conn:
        explained = books.explain(conn, 1)
    assert explained is not None
    assert explained.steps[-1] == (
        "break 1 was agreed with the centre: 1.4468 CNY net, divided alike: centre 1.01276 CNY, operator 0.43404 CNY"
    )


def test_a_bill_that_comes_again_with_more_is_booked_by_what_is_more(gateway: Gateway) -> None:
    makers.agree(gateway.services.db, WITH_FEES)
    for n, amount in enumerate(("10", "12.5"), 1):
        received = receive(gateway, line(9, username="mallory", amount=amount), totals={"lines": 1}, number=str(n))
        _, found = compare(gateway, received, replace(RULES, basis="gross_micro"))
        (item,) = [b for b in found if b.row.category == "B02"]
        posted(gateway, item.row.id)
    whole = difference.of_list_price(0, 12_500_000, WITH_FEES)
    assert standing(gateway.services.db, DIFFERENCES) == whole.net
    assert standing(gateway.services.db, payable("centre")) == -whole.centre


def last_note(gateway: Gateway, break_id: int) -> str:
    with gateway.services.db.read() as conn:
        return str(recon_store.history(conn, break_id)[-1].note)


def test_a_run_of_nobody_of_ours_without_money_says_that_nothing_is_owed_for_it(gateway: Gateway) -> None:
    signed(gateway)
    _, (item,) = compare(gateway, receive(gateway, line(9, username="mallory", amount=None)))
    posted(gateway, item.row.id)
    assert last_note(gateway, item.row.id) == (
        "agreed without money: the statement names no amount for it, so that nothing is owed for it"
    )


def test_a_line_that_names_no_money_takes_nothing_back(gateway: Gateway) -> None:
    """It is billed to another person; what the run earned stays earned."""
    signed(gateway)
    have(gateway, row(1))
    before = standing(gateway.services.db, payable("centre"))
    _, (item,) = compare(gateway, receive(gateway, line(1, username="bob", amount=None)))
    assert item.row.category == "B08"
    posted(gateway, item.row.id)
    assert standing(gateway.services.db, payable("centre")) == before


def test_a_break_whose_money_is_booked_says_so_and_one_of_the_same_money_too(gateway: Gateway) -> None:
    signed(gateway)
    have(gateway, row(1))
    for name, notes in (("bob", "same amount on both sides"), ("bob2", "same amount on both sides")):
        _, found = compare(gateway, receive(gateway, line(1, username=name)))
        item = next(b for b in found if b.state.value == "open")
        posted(gateway, item.row.id)
        assert notes in last_note(gateway, item.row.id)
    for number in ("1", "2"):
        received = receive(gateway, line(9, username="mallory", amount="10"), number=number, totals={"number": number})
        _, found = compare(gateway, received, replace(RULES, basis="gross_micro"))
        (item,) = [b for b in found if b.row.category == "B02"]
        posted(gateway, item.row.id)
    assert last_note(gateway, item.row.id) == "agreed: breaks about it that were posted before have booked its money"


# ---------------------------------------------------------------- arithmetic


@given(_MICRO, _MICRO, st.integers(0, 100), st.tuples(*[st.integers(0, 3)] * 3).filter(any))
def test_charge_and_difference_sum_to_the_charge_at_the_centres_figure(
    ours: int, theirs: int, percent: int, weights: tuple[int, int, int]
) -> None:
    shares = Shares(100, (Share("centre", percent), Share("op", 100 - percent)), "op")
    agreed, bears = replace(WITH_FEES, shares=shares), Bears(*weights)
    apart = difference.of_list_price(ours, theirs, agreed, bears)
    first, whole = divide(ours, bears, agreed), divide(theirs, bears, agreed)
    assert first.centre + apart.centre == whole.centre
    assert (first.amount + first.borne - first.tax) + apart.net == whole.amount + whole.borne - whole.tax
    lines = difference.postings_of(apart, agreed, "CNY", {})
    assert sum(p.amount for p in lines) == 0


@given(st.integers(-(10**15), 10**15), st.integers(0, 100))
def test_a_difference_of_the_share_is_paid_whole_and_its_net_has_that_share(delta: int, percent: int) -> None:
    shares = Shares(100, (Share("centre", percent), Share("op", 100 - percent)), "op")
    agreed = replace(WITH_FEES, shares=shares, statements=StatementTerms(Bills.SHARE))
    apart = difference.of_share(5, 5 + delta, agreed)
    assert apart.centre == delta
    if percent:
        assert abs(shares.split(apart.net)["centre"] - delta) <= 1


def test_what_is_booked_already_is_taken_off_account_by_account() -> None:
    apart = difference.of_list_price(0, 1_060_000, WITH_FEES)
    booked = {DIFFERENCES: 500_000, payable("centre"): -350_000, REVENUE: -150_000}
    assert difference.postings_of(apart, WITH_FEES, "CNY", booked) == (
        Posting(DIFFERENCES, "CNY", 500_000), Posting(payable("centre"), "CNY", -350_000),
        Posting(REVENUE, "CNY", -150_000),
    )  # fmt: skip
    wanted = {DIFFERENCES: 1_000_000, payable("centre"): -700_000, REVENUE: -300_000}
    assert difference.postings_of(apart, WITH_FEES, "CNY", wanted) == ()
