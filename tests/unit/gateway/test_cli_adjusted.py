"""Adjustments, write-offs and orders as the operator sees them: typed, billed, and on the month's page."""

from __future__ import annotations

from collections.abc import Callable

import httpx
import pytest

from accounting.calendar import month_of
from accounting.store.allocations import place_order
from accounting.store.orders import Order
from tests.builders import Gateway
from tests.unit.gateway.test_api_billing import Billing

Type = Callable[..., str]


@pytest.fixture
def billing(gateway: Gateway, client: httpx.Client, operator: dict[str, str]) -> Billing:
    return Billing(gateway, client, operator)


def test_an_amount_with_a_minus_is_typed_as_it_is_and_stands_on_the_months_page(billing: Billing, type_: Type) -> None:
    this = month_of(billing.now, "Asia/Shanghai").name
    assert type_("billing", "adjust", "demo", "-0.44", "--reason", "node slow").rstrip().endswith("posted")
    assert type_("billing", "adjust", "demo", "0.04", "--reason", "too much").rstrip().endswith("posted")
    page = type_("month", this)
    assert "Adjusted: -0.40 CNY (2), of which -0.40 not billed" in page


def test_the_months_page_has_a_line_for_orders(billing: Billing, type_: Type) -> None:
    block = Order("o1", billing.gateway.project_id, "uni", "block", "core-seconds", 36_000, "CNY", billing.within,
                  price_micro=2_000_000)  # fmt: skip
    with billing.gateway.services.db.write() as conn:
        place_order(conn, block, now=billing.within)
    assert "Ordered: 2.00 CNY (1), of which 2.00 not billed" in type_("month", billing.month)
    billing.bill()
    assert "Ordered: 2.00 CNY (1), of which 0.00 not billed" in type_("month", billing.month)
    assert "Ordered" not in type_("month", "2025-01")


def test_an_invoice_is_written_off_and_dunned_no_more(billing: Billing, type_: Type) -> None:
    billing.work(36_000)
    made = billing.bill()
    off = ("billing", "clear", made["number"], "write-off", "--reason", "gone")
    assert "between 0.00 and 3.82 CNY" in type_(*off, "--amount", "4.00", fails=True)
    type_(*off)
    assert "(none)" in type_("billing", "ageing")
    assert billing.get("invoices")["items"][0]["open"] == "0.00"
