"""Orders that begin later, beside other ratios of the same prices: they begin, and hold up nobody else."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import httpx
import pytest

from accounting import store as books
from accounting.errors import AccountingError
from accounting.store import allocations
from accounting.tariff import Scope
from gateway import leases
from gateway.billing.upkeep import upkeep
from tests.builders import Gateway
from tests.unit.gateway.test_api_books import Headers, ok, payer

DAY = timedelta(days=1)
HALF = {"project": "demo", "numerator": 1, "denominator": 2, "resource": "core_seconds"}


def block(gateway: Gateway, begins: timedelta) -> dict[str, Any]:
    now = gateway.services.clock()
    return {"project": "demo", "payer": "inst", "kind": "block", "amount": 36_000, "price": "1.00",
            "starts_at": (now + begins).isoformat(), "ends_at": (now + 30 * DAY).isoformat()}  # fmt: skip


def ratio(gateway: Gateway, after: timedelta) -> tuple[int, int] | None:
    with gateway.services.db.read() as conn:
        book = books.price_book(conn)
    where = Scope("CNY", "local", project_id=gateway.project_id)
    found = book.discount(where, "core_seconds", gateway.services.clock() + after)
    return None if found is None else (found.numerator, found.denominator)


def test_a_block_of_who_pays_half_begins_and_half_is_paid_after_it(
    gateway: Gateway, client: httpx.Client, operator: Headers
) -> None:
    """The ratio came after the order, for the very same prices."""
    payer(client, operator)
    ok(client.post("orders", json=block(gateway, 3 * DAY), headers=operator), 201)
    ok(client.post("discounts", json=HALF, headers=operator), 201)
    lease = leases.take(gateway.services.db, "local", "test")
    assert upkeep(gateway.services, lease, gateway.services.clock() + 4 * DAY).renewed == 1
    assert [ratio(gateway, after) for after in (DAY, 5 * DAY, 31 * DAY)] == [(1, 2), (0, 1), (1, 2)]


def test_who_pays_half_may_buy_a_block(gateway: Gateway, client: httpx.Client, operator: Headers) -> None:
    payer(client, operator)
    ok(client.post("discounts", json=HALF, headers=operator), 201)
    ok(client.post("orders", json=block(gateway, timedelta(0)), headers=operator), 201)
    again = client.post("discounts", json=HALF, headers=operator)
    assert (again.status_code, again.json()["code"]) == (409, "conflict")


def test_an_order_that_cannot_begin_holds_up_no_other(
    gateway: Gateway, client: httpx.Client, operator: Headers, monkeypatch: pytest.MonkeyPatch
) -> None:
    payer(client, operator)
    broken = ok(client.post("orders", json=block(gateway, 3 * DAY), headers=operator), 201)["id"]
    ok(client.post("orders", json=block(gateway, 3 * DAY) | {"amount": 7_200}, headers=operator), 201)
    ok(client.post("billing/budgets", json={"project": "demo", "amount": "0.50"}), 201)
    real = allocations.free_of_charge

    def refuse(conn: Any, order: Any, *more: Any) -> str:
        if order.id == broken:
            raise AccountingError("something is wrong with this one")
        return real(conn, order, *more)

    monkeypatch.setattr(allocations, "free_of_charge", refuse)
    lease = leases.take(gateway.services.db, "local", "test")
    done = upkeep(gateway.services, lease, gateway.services.clock() + 4 * DAY)
    assert (done.renewed, done.alerts) == (1, 3), "the other order begins, and the budget tells"
    gateway.check_books()
    with gateway.services.db.read() as conn:
        assert {a.order_id for a in allocations.allocations(conn, gateway.project_id)} != {broken}
