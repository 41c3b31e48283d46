"""What is refused before it is granted: more than 64 bits count, and payers that nobody knows."""

from __future__ import annotations

import httpx
import pytest

from accounting import store as books
from accounting.errors import TooMuch
from accounting.ledger import GRANTS
from accounting.store import allocations
from accounting.store.allocations import Allocation
from tests.builders import Gateway
from tests.unit.gateway.test_api_books import ok, payer

Headers = dict[str, str]
GREATEST = "100000000000"  # CNY in one request: 10^17 micro-units


def test_grants_add_up_to_no_more_than_can_be_told(gateway: Gateway, client: httpx.Client, operator: Headers) -> None:
    """46 × 10^17 is within 2^62, of one project or of several: the account that they come from is one."""
    ok(client.post("projects", json={"name": "second", "currency": "CNY"}, headers=operator), 201)
    answers = [
        client.post(f"projects/{name}/credit", json={"amount": GREATEST}, headers=operator)
        for name in ["demo"] * 24 + ["second"] * 24
    ]
    assert [a.status_code for a in answers] == [201] * 46 + [422] * 2, answers[-1].text
    problem = answers[-1].json()
    assert (problem["code"], problem["errors"][0]["code"], problem["errors"][0]["pointer"]) == (
        "invalid", "over_limit", "/amount",
    )  # fmt: skip
    assert "all projects together would have more CNY than can be counted" in answers[-1].text
    balances = ok(client.get("billing/balances", params={"account": GRANTS}, headers=operator))["items"]
    assert [b["amount"] for b in balances] == [str(46 * 10**17 + 10**9)]
    gateway.check_books()


@pytest.mark.parametrize("amount", [2**62, 2**63, 2**64])
def test_one_grant_beyond_counting_keeps_nothing(gateway: Gateway, amount: int) -> None:
    now = gateway.services.clock()
    for commodity in ("core-seconds", "shots"):
        with pytest.raises(TooMuch, match="more than can be counted"), gateway.services.db.write() as conn:
            made = Allocation("a1", gateway.project_id, commodity, amount, now)
            allocations.allocate(conn, made, now=now)
    with pytest.raises(TooMuch), gateway.services.db.write() as conn:
        books.grant_credit(conn, project_id=gateway.project_id, commodity="CNY", amount=amount, idem_key="g", now=now)
    with gateway.services.db.read() as conn:
        assert {c for _, c in books.balances(conn)} == {"CNY"}
    gateway.check_books()


def test_an_order_names_a_payer_that_is_known(gateway: Gateway, client: httpx.Client, operator: Headers) -> None:
    order = {"project": "demo", "payer": "inst", "kind": "trial", "amount": 36_000}
    refused = client.post("orders", json=order, headers=operator)
    assert refused.status_code == 422, refused.text
    assert refused.json()["errors"] == [{
        "pointer": "/payer", "detail": "There is no payer 'inst'.", "code": "unknown_payer",
        "remedy": "Known: nobody. Enter them first: POST /billing/entities.",
    }]  # fmt: skip
    assert ok(client.get("projects/demo/allocations"))["items"] == []
    payer(client, operator)
    ok(client.post("orders", json=order, headers=operator), 201)


def test_terms_name_payers_that_are_known(client: httpx.Client, operator: Headers) -> None:
    payer(client, operator)
    terms = {"payers": [{"payer": name, "weight": 1} for name in ("inst", "grant-1", "grant-2")]}
    refused = client.post("projects/demo/terms", json=terms, headers=operator)
    assert refused.status_code == 422, refused.text
    assert [(e["pointer"], e["detail"]) for e in refused.json()["errors"]] == [
        ("/payers/1/payer", "There is no payer 'grant-1'."), ("/payers/2/payer", "There is no payer 'grant-2'."),
    ]  # fmt: skip
    ok(client.post("projects/demo/terms", json={"payers": terms["payers"][:1]}, headers=operator), 201)
