"""Orders by the command line: what they cost and why, and how they are canceled."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import timedelta

import httpx
import pytest

from accounting.store.allocations import place_order
from accounting.store.orders import Order
from gateway.identity import service, tokens
from tests.builders import Gateway
from tests.unit.gateway.test_api_billing import Billing
from tests.unit.gateway.test_api_books import payer

Type = Callable[..., str]


@pytest.fixture
def order(client: httpx.Client, operator: dict[str, str]) -> Callable[..., str]:
    def place(**more: object) -> str:
        if not client.get("billing/entities", headers=operator).json()["items"]:
            payer(client, operator, "uni")
        body = {"project": "demo", "payer": "uni", "kind": "block", "amount": 36_000, "price": "8.00", **more}
        made = client.post("orders", json=body, headers=operator)
        assert made.status_code == 201, made.text
        return str(made.json()["id"])

    return place


def test_an_owner_sees_what_was_ordered_and_why_the_line_is_there(
    gateway: Gateway, type_: Type, order: Callable[..., str]
) -> None:
    alice = {"Authorization": f"Bearer {gateway.secret}"}
    name = order()
    spent = type_("spend", "--by", "kind", as_=alice).splitlines()
    assert spent[0].split() == ["KIND", "RUNS", "CORE-HOURS", "ORDERED", "AMOUNT", "IN"]
    assert spent[1].split()[:6] == ["block", "0", "0.000", "8.00", "8.00", "CNY"]
    assert spent[2].startswith("Total 8.00 CNY, of which 8.00 for 1 order(s) · 0 runs")
    shown = type_("orders", "show", name, as_=alice)
    assert f"8.00 CNY for {name} = tax 0.00 + centre 0.00 + operator 8.00 (no agreement; no invoice yet)" in shown
    [row] = [line for line in type_("orders", "placed", "demo", as_=alice).splitlines() if line.startswith(name)]
    assert row.split()[1:6] == ["block", "10.000", "core-hours", "8.00", "CNY"] and row.endswith("given")


def test_the_line_of_an_order_leads_to_the_order(
    gateway: Gateway, client: httpx.Client, operator: dict[str, str], type_: Type
) -> None:
    alice = {"Authorization": f"Bearer {gateway.secret}"}
    billing = Billing(gateway, client, operator)
    block = Order("o1", gateway.project_id, "uni", "block", "core-seconds", 36_000, "CNY", billing.within,
                  price_micro=2_000_000)  # fmt: skip
    with gateway.services.db.write() as conn:
        place_order(conn, block, now=billing.within)
    billing.bill()
    why = type_("invoices", "PS-000001", "--why", "1", as_=alice)
    assert "o1" in why and "penstock orders show o1" in why and "arithmetic" not in why
    assert "PS-000001" in type_("orders", "show", "o1", as_=alice)


def test_an_order_that_has_not_begun_is_canceled_with_a_reason(
    gateway: Gateway, type_: Type, order: Callable[..., str]
) -> None:
    later = (gateway.services.clock() + timedelta(days=3)).isoformat()
    name = order(starts_at=later)
    alice = {"Authorization": f"Bearer {gateway.secret}"}
    assert type_("orders", "placed", "demo").splitlines()[-1].endswith("waits to begin")
    assert type_("billing", "allocations", "demo").splitlines()[-1] == "(none)"
    type_("orders", "cancel", name, "--reason", "not needed", as_=alice, fails=True)  # her project's, and no operator
    type_("orders", "cancel", name, fails=True)
    assert type_("orders", "cancel", name, "--reason", "not needed").rstrip().endswith("posted")
    assert type_("orders", "placed", "demo").splitlines()[-1].endswith("canceled")
    assert "canceled already" in type_("orders", "cancel", name, "--reason", "again", fails=True)
    assert "no order" in type_("orders", "cancel", "o77", "--reason", "again", fails=True)


def test_a_dear_order_is_canceled_by_two_operators(
    gateway: Gateway, type_: Type, order: Callable[..., str], client: httpx.Client, operator: dict[str, str]
) -> None:
    now = gateway.services.clock()
    name = order(price="5000.00", starts_at=(now + timedelta(days=3)).isoformat())
    with gateway.services.db.write() as conn:
        other = service.create_user(conn, name="olga", operator_admin=True, now=now)
        made = tokens.issue(conn, user_id=other, name="t", scopes=tokens.SCOPES, lifetime=timedelta(days=1), now=now)
    olga = {"Authorization": f"Bearer {made.secret}"}
    asked = json.loads(type_("orders", "cancel", name, "--reason", "too dear", "--json"))
    assert asked["state"] == "waiting" and asked["id"].startswith("k")
    assert "cancellation asked for" in type_("orders", "placed", "demo")
    assert "waiting" in type_("orders", "cancellations")
    assert "somebody else" in type_("billing", "decide", asked["id"], "--approve", fails=True)
    assert type_("billing", "decide", asked["id"], "--approve", as_=olga).rstrip().endswith("posted")
    assert "olga" in type_("orders", "cancellations")
    again = client.post(f"orders/{name}/cancel", json={"reason": "x"}, headers=operator)
    assert again.status_code == 422
