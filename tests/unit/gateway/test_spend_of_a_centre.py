"""A centre's staff see what was spent at their centre, and nothing more."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from typing import Any

import httpx
import pytest

from accounting.store.allocations import place_order
from accounting.store.orders import Order
from tests.builders import Gateway
from tests.unit.accounting.makers import LONG_AGO, agree, agreement
from tests.unit.gateway.test_api_books import charge, ok

Headers = dict[str, str]
Login = Callable[..., Headers]


@pytest.fixture
def spending(gateway: Gateway, client: httpx.Client, operator: Headers) -> None:
    """A run (1.44) and a block (2.00) at `local`, a run (2.88) and a block (7.00) elsewhere, an adjustment of 5.00."""
    agree(gateway.services.db, agreement(site_ids=("local", "elsewhere")))
    charge(gateway)
    charge(gateway, "2", site_id="elsewhere", elapsed=7200)
    now = gateway.services.clock()
    with gateway.services.db.write() as conn:
        for number, site, price in (("o1", "local", 2_000_000), ("o2", "elsewhere", 7_000_000)):
            order = Order(number, gateway.project_id, "inst", "block", "core-seconds", 36_000, "CNY", now,
                          ends_at=now + timedelta(days=9), price_micro=price, site_id=site)  # fmt: skip
            place_order(conn, order, now=now)
    adjusted = {"project": "demo", "kind": "adjustment", "amount": "5.00", "reason": "goodwill"}
    ok(client.post("billing/adjustments", json=adjusted, headers=operator), 201)


def spent(client: httpx.Client, headers: Headers, by: str = "site", **more: Any) -> dict[str, str]:
    span = {"start": LONG_AGO.isoformat(), "end": "2100-01-01T00:00:00Z"}
    found = ok(client.get("billing/reports", params={"by": by, **span, **more}, headers=headers))
    return {row["keys"][by]: row["amount"] for row in found["rows"]}


def test_staff_see_runs_and_orders_at_their_site_alone(
    spending: None, client: httpx.Client, login: Login, operator: Headers, type_: Callable[..., str]
) -> None:
    lin = login("lin", staff="local")
    assert spent(client, lin) == {"local": "3.44"}
    assert spent(client, lin, by="kind") == {"run": "1.44", "block": "2.00"}
    assert spent(client, lin, by="project") == {"demo": "3.44"}
    assert spent(client, lin, site="elsewhere") == {}
    assert spent(client, login("kim", staff="elsewhere")) == {"elsewhere": "9.88"}
    assert spent(client, operator) == {"local": "3.44", "elsewhere": "9.88", "": "5.00"}
    assert "3.44" in type_("spend", "--by", "site", as_=lin) and "elsewhere" not in type_("spend", as_=lin)


def test_nobody_else_sees_the_centres_spending(
    spending: None, gateway: Gateway, client: httpx.Client, login: Login
) -> None:
    for other in (login("sam"), login("rita", role="researcher"), login("third", staff="third")):
        assert spent(client, other) == {}
    blind = login("blind", staff="local", scopes=("submit",))
    assert spent(client, blind) == {"local": "3.44"}, "who may submit may read"


def test_staff_who_also_own_a_project_see_both(spending: None, client: httpx.Client, login: Login) -> None:
    ada = login("ada", staff="local", role="owner")
    assert spent(client, ada) == {"local": "3.44", "elsewhere": "9.88", "": "5.00"}
