"""Discounts and transfers at the terminal, as an operator, an owner and a centre's staff type them."""

from __future__ import annotations

from collections.abc import Callable

import httpx
import pytest

from tests.builders import Gateway
from tests.unit.accounting.makers import agree, agreement
from tests.unit.gateway.test_api_billing import Billing

Headers = dict[str, str]


@pytest.fixture
def billing(gateway: Gateway, client: httpx.Client, operator: Headers) -> Billing:
    return Billing(gateway, client, operator)


def test_a_discount_is_given_and_seen_by_whom_it_concerns(
    billing: Billing, type_: Callable[..., str], login: Callable[..., Headers]
) -> None:
    agree(billing.gateway.services.db, agreement(site_ids=("local",)))
    made = type_("billing", "discount", "demo", "4/5", "--site", "local", "--reason", "a friend").strip()
    shown = type_("billing", "discounts", "--project", "demo")
    assert made in shown and "4/5" in shown and "a friend" in shown
    staff, stranger = login("carl", staff="local"), login("sam")
    assert "a friend" in type_("billing", "discounts", as_=staff)
    assert "a friend" not in type_("billing", "discounts", as_=stranger)
    assert "4/5" in type_("billing", "discount", "demo", "four fifths", "--reason", "x", fails=True)
    assert "surcharge" in type_("billing", "discount", "demo", "5/4", "--reason", "x", fails=True)
    assert "of the same scope" in type_(
        "billing", "discount", "demo", "1/2", "--site", "local", "--reason", "x", fails=True
    )


def test_a_discounted_run_is_explained_with_who_bears_it(billing: Billing, type_: Callable[..., str]) -> None:
    agree(billing.gateway.services.db, agreement(site_ids=("local",)))
    type_("billing", "discount", "demo", "1/2", "--from", "2020-01-01T00:00:00Z", "--reason", "a friend")
    billing.work(36_000)
    said = type_("billing", "explain", "1")
    assert "at the list price" in said and "was given off the list price, and the operator bears it" in said
    shown = billing.get("charges/1", headers=billing.operator)
    assert (shown["gross"], shown["borne_by_operator"]) == ("3.60", "1.80")


def test_what_is_left_of_an_allocation_moves_to_another_project(
    billing: Billing, client: httpx.Client, type_: Callable[..., str]
) -> None:
    assert client.post("projects", json={"name": "lab", "currency": "CNY"}, headers=billing.operator).status_code == 201
    grant = {"project": "demo", "commodity": "core-seconds", "amount": 36_000}
    made = client.post("allocations", json=grant, headers=billing.operator)
    assert made.status_code == 201, made.text
    which = made.json()["id"]
    told = type_("billing", "transfer", which, "lab", "4")
    assert told == f"4 core-hours of {which} are lab's now.\n"
    assert "4.000" in type_("billing", "allocations", "lab") and "6.000" in type_("billing", "allocations", "demo")
    assert "core-seconds" in type_("billing", "transfer", which, "lab", "4", "--of", "shots", fails=True)
    assert "6.0 are left" in type_("billing", "transfer", which, "lab", "7", fails=True)
    assert "no allocation" in type_("billing", "transfer", "a0", "lab", "1", fails=True)


def test_what_was_bought_for_a_place_moves_by_the_same_words(
    billing: Billing, client: httpx.Client, type_: Callable[..., str]
) -> None:
    assert client.post("projects", json={"name": "lab", "currency": "CNY"}, headers=billing.operator).status_code == 201
    type_("orders", "place", "demo", "block", "10", "--price", "8", "--payer", "uni", "--site", "local")
    (bought,) = client.get("projects/demo/allocations", headers=billing.operator).json()["items"]
    type_("billing", "transfer", bought["id"], "lab", "4")
    (moved,) = client.get("projects/lab/allocations", headers=billing.operator).json()["items"]
    assert (moved["commodity"], moved["place"], moved["amount"]) == ("core-seconds", "unagreed:local", 4 * 3600)
    assert "of core-seconds" in type_("billing", "transfer", bought["id"], "lab", "4", "--of", "shots", fails=True)
