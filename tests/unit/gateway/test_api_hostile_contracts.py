"""Documents that no book could be kept by, at the routes of contracts: refused by what is wrong, never a 500."""

from __future__ import annotations

from typing import Any

import httpx
import pytest

AGREEMENT: dict[str, Any] = {
    "id": "a1", "version": 1, "operator_id": "op", "centre_id": "alphac", "site_ids": ["local"], "model": "agency",
    "seller_of_record": "op", "brand": "P", "collector": "op", "currency": "CNY", "valid_from": "2026-01-01T00:00:00Z",
    "shares": {"denominator": 100, "parts": [{"party_id": "op", "numerator": 30},
                                             {"party_id": "alphac", "numerator": 70}], "remainder_to": "op"},
}  # fmt: skip
RULE: dict[str, Any] = {"id": 0, "currency": "CNY", "price_micro": 1, "valid_from": "2026-01-01T00:00:00Z"}
TARIFF: dict[str, Any] = {"id": "t1", "version": 1, "agreement_id": "a0", "valid_from": RULE["valid_from"]}
YEAR_9999 = "9999-12-31T23:59:59-14:00"
BOTH: list[dict[str, Any]] = [
    {"version": 2**63}, {"version": 10**400}, {"version": 0}, {"id": "a\0b"}, {"id": "x" * 5000}, {"id": ""},
    {"valid_from": "2026-11-01"}, {"valid_from": "2026-11-01T00:00:00"}, {"valid_from": YEAR_9999},
    {"valid_from": "0001-01-01T00:00:00Z"},
]  # fmt: skip
AGREEMENTS = [*BOTH, {"zone": "Mars"}, {"valid_to": "2026-11-01"}, {"valid_to": YEAR_9999}, {"currency": "="},
              {"tax": {"kind": "inclusive", "numerator": 0, "denominator": 0}},
              {"operator_id": "alphac", "seller_of_record": "alphac", "collector": "alphac",
               "shares": {"denominator": 1, "parts": [{"party_id": "alphac", "numerator": 1}],
                          "remainder_to": "alphac"}}]  # fmt: skip
RULES: list[dict[str, Any]] = [
    {"price_micro": 2**63}, {"price_micro": -1}, {"per": 0}, {"per": 2**64}, {"tier_from": 2**64}, {"zone": "a\0b"},
    {"currency": "America"}, {"queue": "q" * 65}, {"site_id": "\0"}, {"valid_to": "2027-01-01"}, {"resource": "cores"},
    {"valid_to": YEAR_9999}, {"window": {"weekdays": [9], "from_minute": 0, "to_minute": 9**9}},
]  # fmt: skip


def refused(answer: httpx.Response, asked: Any) -> None:
    assert answer.status_code in (409, 422), (asked, answer.status_code, answer.text[:500])
    assert answer.json()["detail"]


def test_an_agreement_and_a_tariff_that_no_book_could_be_kept_by_are_refused(
    client: httpx.Client, operator: dict[str, str]
) -> None:
    def propose(path: str, document: dict[str, Any]) -> httpx.Response:
        return client.post(path, json={"document": document}, headers=operator)

    assert propose("agreements", AGREEMENT | {"id": "a0"}).status_code == 201
    for change in AGREEMENTS:
        refused(propose("agreements", AGREEMENT | change), change)
    for change in BOTH:
        refused(propose("tariffs/versions", TARIFF | {"rules": [RULE]} | change), change)
    for change in RULES:
        refused(propose("tariffs/versions", TARIFF | {"rules": [RULE | change]}), change)
    assert [a["id"] for a in client.get("agreements", headers=operator).json()["items"]] == ["a0"]
    assert client.get("tariffs/versions", headers=operator).json()["items"] == []
    assert propose("tariffs/versions", TARIFF | {"rules": [RULE]}).status_code == 201


@pytest.mark.parametrize("public", ["", "AAAA", "+1+1", "A" * 44])
def test_what_is_no_key_speaks_for_nobody(client: httpx.Client, operator: dict[str, str], public: str) -> None:
    body = {"id": "p", "role": "centre", "legal_name": "P", "keys": [{"key_id": "k", "public": public}]}
    refused(client.post("parties", json=body, headers=operator), public)


@pytest.mark.parametrize("at", ["100000000000", "1971-01-01T00:00:00+14:00", "1971-01-01T00:00:00Z",
                                "2499-12-31T23:59:59Z", "9999-12-31T23:59:59-14:00"])  # fmt: skip
@pytest.mark.parametrize("kind", ["block", "subscription"])
def test_an_order_begins_within_the_calendar(
    client: httpx.Client, operator: dict[str, str], kind: str, at: str
) -> None:
    body = {"project": "demo", "payer": "p", "kind": kind, "amount": 10, "starts_at": at, "zone": "America/New_York"}
    refused(client.post("orders", json=body, headers=operator), at)


def test_digits_of_other_scripts_are_no_amount(client: httpx.Client, operator: dict[str, str]) -> None:
    for amount in ("１２", "١٢", "१२"):
        body = {"project": "demo", "kind": "adjustment", "amount": amount, "reason": "why not"}
        refused(client.post("billing/adjustments", json=body, headers=operator), amount)
