"""Another one pays from a month on: what was done before stays with who paid then, however late it is told."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import httpx
import pytest

from accounting.calendar import month_of
from accounting.store.allocations import place_order
from accounting.store.orders import Order
from tests.builders import Gateway
from tests.unit.accounting.invoicing import charge, run
from tests.unit.gateway.test_api_billing import Billing

ZONE = "Asia/Shanghai"


class TwoMonths(Billing):
    """The month before the last was billed to uni, and lab pays from the last one on."""

    def __init__(self, gateway: Gateway, client: httpx.Client, operator: dict[str, str]) -> None:
        super().__init__(gateway, client, operator)
        self.post("entities", {"id": "lab", "legal_name": "Laboratory"}, 201)
        self.last = month_of(self.within, ZONE)
        self.before = month_of(self.last.start - timedelta(days=1), ZONE)
        self.told(self.ran(36_000, key="first"))
        assert [d["payer"] for d in self.billed(self.before.name)] == ["uni"]

    def ran(self, core_seconds: int, *, key: str = "") -> Any:
        """A run of the month before the last."""
        return run(core_seconds, at=self.before.start + timedelta(days=5), key=key, project=self.gateway.project_id,
                   site="local")  # fmt: skip

    def told(self, *runs: Any) -> None:
        with self.gateway.services.db.write() as conn:
            charge(conn, *runs, now=self.now)

    def billed(self, month: str) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = self.post("invoices", {"month": month})["made"]
        return sorted(found, key=lambda d: str(d["payer"]))

    def now_pays(self, payer: str, since: str) -> None:
        body = {"payer": payer, "valid_from": since}
        answer = self.client.put("billing/projects/demo/payer", json=body, headers=self.operator)
        assert answer.status_code == 200, answer.text


@pytest.fixture
def months(gateway: Gateway, client: httpx.Client, operator: dict[str, str]) -> TwoMonths:
    return TwoMonths(gateway, client, operator)


def test_a_late_run_is_billed_to_who_paid_when_it_ran(months: TwoMonths) -> None:
    months.now_pays("lab", months.last.start.isoformat())
    months.told(months.ran(7_200))
    months.work(3_600)
    assert [(d["payer"], d["net"]) for d in months.billed(months.month)] == [("lab", "0.36"), ("uni", "0.72")]
    assert months.billed(months.month) == []


def test_a_corrected_run_stays_with_who_was_billed(months: TwoMonths) -> None:
    months.now_pays("lab", months.last.start.isoformat())
    months.told(months.ran(18_000, key="first"))
    assert [(d["payer"], d["kind"], d["net"]) for d in months.billed(months.month)] == [("uni", "credit_note", "-1.80")]


def test_an_order_of_then_is_billed_to_who_paid_then(months: TwoMonths) -> None:
    months.now_pays("lab", months.last.start.isoformat())
    at = months.before.start + timedelta(days=9)
    block = Order("o1", months.gateway.project_id, "uni", "block", "core-seconds", 36_000, "CNY", at,
                  price_micro=2_000_000)  # fmt: skip
    with months.gateway.services.db.write() as conn:
        place_order(conn, block, now=at)
    assert [(d["payer"], d["net"]) for d in months.billed(months.month)] == [("uni", "2.00")]


def test_who_pays_from_within_a_month_pays_from_the_next_one_on(months: TwoMonths) -> None:
    months.now_pays("lab", (months.last.start + timedelta(hours=1)).isoformat())
    months.work(3_600)
    assert [(d["payer"], d["net"]) for d in months.billed(months.month)] == [("uni", "0.36")]


def test_who_is_named_anew_for_always_pays_what_is_told_from_now_on(months: TwoMonths) -> None:
    answer = months.client.put("billing/projects/demo/payer", json={"payer": "lab"}, headers=months.operator)
    assert answer.status_code == 200
    months.told(months.ran(7_200))
    assert [(d["payer"], d["net"]) for d in months.billed(months.month)] == [("lab", "0.72")]


def test_a_payer_of_a_far_year_changes_nothing_now(months: TwoMonths) -> None:
    months.now_pays("lab", "2400-01-01T00:00:00Z")
    months.work(3_600)
    assert [(d["payer"], d["net"]) for d in months.billed(months.month)] == [("uni", "0.36")]
