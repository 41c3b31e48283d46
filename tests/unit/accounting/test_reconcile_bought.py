"""A statement that bills runs by their prices which an order paid for: no false alarm, and no money twice."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import pytest

from accounting import store as books
from accounting.reconciling import store as recon_store
from accounting.reconciling.breaks import Act, Cause
from accounting.store import allocations
from accounting.store.orders import Order
from tests import builders
from tests.builders import Gateway, local_site, make_gateway
from tests.unit.accounting.makers import agree, agreement
from tests.unit.accounting.test_reconcile import RULES, T0, act, an_operator, compare, have, kinds, line, receive, row


@pytest.fixture
def gateway(db_url: str, tmp_path: Path) -> Iterator[Gateway]:
    """A project that has bought core-hours at the centre, under an agreement, from `T0` on."""
    made = make_gateway(tmp_path, db_url, local_site(tmp_path))
    an_operator(made)
    agree(made.services.db, agreement(site_ids=("local",)))
    with made.services.db.write() as conn:
        books.grant_credit(conn, project_id=made.project_id, commodity="CNY", amount=10**10, idem_key="m", now=T0)
        block = Order("o1", made.project_id, "uni", "block", "core-seconds", 10**7, "CNY", T0, T0 + timedelta(days=9),
                      price_micro=10**9, site_id="local")  # fmt: skip
        allocations.place_order(conn, block, now=T0)
    yield made
    builders.OPENED.clear()
    made.services.close()


def centre(gateway: Gateway) -> int:
    """What the centre has earned."""
    gateway.check_books()
    with gateway.services.db.read() as conn:
        found = books.balances(conn, code="centre:")
    return -sum(amount for (_, commodity), amount in found.items() if commodity == "CNY")


@pytest.mark.parametrize("amount", ["1.4468", "0"])
def test_a_run_that_an_order_paid_for_agrees_with_its_price_and_with_nothing(gateway: Gateway, amount: str) -> None:
    have(gateway, row(1), row(2))
    done, found = compare(gateway, receive(gateway, line(1, amount=amount), line(2, amount=amount)))
    assert (done.counts["agreed"], found) == (2, [])


def test_so_does_one_in_which_the_order_began(gateway: Gateway) -> None:
    begin = int(T0.timestamp()) - 1000
    have(gateway, row(0, Submit=str(begin - 5), Start=str(begin), End=str(begin + 3617)))
    _, found = compare(gateway, receive(gateway, line(0, start=begin, end=begin + 3617)))
    assert [b.row.explanation for b in found] == []


@pytest.mark.parametrize("amount", ["2.8936", "0"])
def test_so_does_a_sum_of_such_runs(gateway: Gateway, amount: str) -> None:
    have(gateway, row(1), row(2))
    _, found = compare(gateway, receive(gateway, {"queue": "cpu", "quantity": 28_936, "amount": amount}))
    assert found == []


def test_a_difference_of_time_is_found_under_it_and_draws_no_money(gateway: Gateway) -> None:
    have(gateway, row(1, ElapsedRaw="3500", Suspended="00:01:57"))
    before = centre(gateway)
    done, found = compare(gateway, receive(gateway, line(1)))
    assert kinds(found) == [("B03", "suspended", "posted")]
    assert done.posted == 1
    assert centre(gateway) == before
    with gateway.services.db.read() as conn:
        assert allocations.remaining(conn, gateway.project_id, "core-seconds") == {"o1": 10**7 - 14_468}


def test_another_price_of_such_a_run_is_a_break_for_which_nothing_is_due(gateway: Gateway) -> None:
    have(gateway, row(1))
    before = centre(gateway)
    _, [found] = compare(gateway, receive(gateway, line(1, amount="2.8936")))
    assert (found.row.category, found.row.causes) == ("B04", [Cause.PRICE])
    assert found.row.ours_micro == 1_446_800
    assert "an order paid for the run" in found.row.explanation
    act(gateway, found.row.id, Act.PROPOSE, "admin", note="theirs", resolution="post")
    act(gateway, found.row.id, Act.COUNTERSIGN, "boss")
    assert centre(gateway) == before
    with gateway.services.db.read() as conn:
        [posted] = recon_store.breaks(conn, ids=[found.row.id])
    assert posted.state == "posted"


def test_a_contract_that_lets_prices_stand_pays_nothing_for_it_either(gateway: Gateway) -> None:
    have(gateway, row(1))
    before = centre(gateway)
    rules = RULES.__class__(ground=RULES.ground, auto_causes=frozenset({Cause.PRICE}))
    done, [found] = compare(gateway, receive(gateway, line(1, amount="2.8936")), rules)
    assert (done.posted, found.state) == (1, "posted")
    assert centre(gateway) == before
