"""The money over HTTP on both databases: sign, price, run, explain, allocate, pay, adjust, close; and who may not."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from typing import Any

import httpx
import pytest
from click.testing import CliRunner
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from penstock.cli.billing import billing

from accounting import store as books
from accounting.store import allocations
from accounting.store.prices import discounts
from accounting.usage import Kind, Meter, UsageRecord
from gateway import leases
from gateway.billing.upkeep import upkeep
from gateway.services import Lease
from tests.builders import Gateway
from tests.unit.accounting.makers import agreement, run

Headers = dict[str, str]
Login = Callable[..., Headers]


def ok(answer: httpx.Response, status: int = 200) -> Any:
    assert answer.status_code == status, answer.text
    return answer.json()


def payer(client: httpx.Client, operator: Headers, name: str = "inst") -> None:
    """Somebody who may be named as the one who pays."""
    ok(client.post("billing/entities", json={"id": name, "legal_name": name}, headers=operator), 201)


def charge(gateway: Gateway, key: str = "1", **more: Any) -> None:
    """A run of an hour on four cores that the centre read, from two hours ago."""
    values: dict[str, Any] = {"site_id": "local", "queue": "default", "elapsed": 3600,
                              "start": datetime.now(UTC) - timedelta(hours=2)} | more  # fmt: skip
    record: UsageRecord = run(key, **values)
    assert (record.kind, record.meter) == (Kind.RUN, Meter.CENTRE)
    with gateway.services.db.write() as conn:
        item = books.Assigned(record, f"job{key}", gateway.project_id, gateway.person.user_id, "CNY")
        books.record_and_book(conn, [item], now=datetime.now(UTC))


def signed(client: httpx.Client, path: str, document: dict[str, Any], headers: Headers) -> dict[str, Any]:
    """Propose a document and let both sides sign it, each with a key of its own."""
    made = ok(client.post(path, json={"document": document}, headers=headers), 201)
    for party in ("op", "centre"):
        key = Ed25519PrivateKey.generate()
        public = base64.b64encode(key.public_key().public_bytes_raw()).decode()
        name = f"{party}-{made['sha256'][:8]}"
        body = {"id": party, "role": "operator" if party == "op" else "centre", "legal_name": party,
                "keys": [{"key_id": name, "public": public}]}  # fmt: skip
        ok(client.post("parties", json=body, headers=headers), 201)
        signature = base64.b64encode(key.sign(base64.b64decode(made["payload"]))).decode()
        url = f"{path}/{made['id']}/{made['version']}/signatures"
        wrong = {"party": party, "key_id": name, "signature": base64.b64encode(b"x" * 64).decode()}
        assert client.post(url, json=wrong, headers=headers).status_code == 409
        found = ok(client.post(url, json=wrong | {"signature": signature}, headers=headers))
    assert {s["party"] for s in found["signatures"]} == {"op", "centre"}
    return dict(found)


def agreed(client: httpx.Client, operator: Headers) -> None:
    terms = agreement(site_ids=("local",), grades={"*": "超算"})
    document = json.loads(terms.payload)
    assert signed(client, "agreements", document, operator)["in_force_since"] is not None
    rule = {"id": 0, "currency": "CNY", "price_micro": 720_000, "valid_from": "2020-01-01T00:00:00Z",
            "site_id": "local", "grade": "超算"}  # fmt: skip
    tariff = {"id": "t1", "version": 1, "agreement_id": "a1", "valid_from": "2020-01-01T00:00:00Z", "rules": [rule]}
    signed(client, "tariffs/versions", tariff, operator)


def test_from_signatures_to_an_explained_charge(
    gateway: Gateway, client: httpx.Client, operator: Headers, login: Login
) -> None:
    agreed(client, operator)
    assert len(ok(client.get("agreements", headers=operator))["items"]) == 1
    assert ok(client.get("agreements"))["items"] == []  # alice is of no centre
    # What was signed just now holds from now on: a run before it costs the operator's own price.
    charge(gateway)
    items = ok(client.get("billing/charges", params={"project": "demo"}))["items"]
    assert [(i["amount"], i["core_seconds"], i["replaced"]) for i in items] == [("1.44", 14_400, False)]
    found = ok(client.get(f"billing/charges/{items[0]['id']}"))
    assert found["raw"] == {"key": "1"} and found["reading"]["cores"] == 4
    assert any("0.36 CNY per core-hour = 1.44 CNY" in step for step in found["steps"])
    stranger = login("stranger")
    assert client.get(f"billing/charges/{items[0]['id']}", headers=stranger).status_code == 404
    assert client.get("billing/charges", params={"project": "demo"}, headers=stranger).status_code == 404


def test_allocations_budgets_and_vouchers_of_a_project(
    gateway: Gateway, client: httpx.Client, operator: Headers
) -> None:
    payer(client, operator)
    key = {"Idempotency-Key": "once"}
    order = {"project": "demo", "payer": "inst", "kind": "trial", "amount": 36_000}
    first = ok(client.post("orders", json=order, headers=operator | key), 201)
    assert ok(client.post("orders", json=order, headers=operator | key), 201) == first
    other = client.post("orders", json=order | {"amount": 1}, headers=operator | key)
    assert (other.status_code, other.json()["code"]) == (422, "idempotency_mismatch")
    ok(client.post("vouchers", json={"code": "TRY-ME-NOW", "amount": 60}, headers=operator), 201)
    ok(client.post("vouchers/redeem", json={"code": "try-me-now", "project": "demo"}), 201)
    again = client.post("vouchers/redeem", json={"code": "try-me-now", "project": "demo"})
    assert (again.status_code, again.headers["content-type"]) == (409, "application/problem+json")
    charge(gateway)
    left = {a["source"]: a["remaining"] for a in ok(client.get("projects/demo/allocations"))["items"]}
    assert left == {"trial": 36_000, "voucher": 0}, "a run from before the trial takes of what was given for no place"

    budget = {"project": "demo", "amount": "1.44", "stop": True}
    made = ok(client.post("billing/budgets", json=budget), 201)
    assert (made["spent"], made["thresholds"], made["reached"]) == ("1.44", [50, 80, 100], [50, 80, 100])
    lease = Lease("local", _fencing(gateway))
    assert upkeep(gateway.services, lease, gateway.services.clock()).alerts == 3
    assert upkeep(gateway.services, lease, gateway.services.clock()).alerts == 0
    refused = client.post("jobs", json={"script": "#!/bin/sh\ntrue\n", "attributes": {"duration": 60}})
    assert (refused.status_code, refused.json()["errors"][0]["code"]) == (422, "budget_spent")
    ok(client.delete(f"billing/budgets/{made['id']}"))
    assert client.post("jobs", json={"script": "#!/bin/sh\ntrue\n", "attributes": {"duration": 60}}).status_code == 202


def test_a_project_buys_a_second_block_before_the_first_is_used_up(
    gateway: Gateway, client: httpx.Client, operator: Headers
) -> None:
    """A bounded block, one that begins within it and ends after it, one without an end: each is given in its time."""
    now = gateway.services.clock()
    payer(client, operator)

    def buys(price: str, begins: timedelta, ends: timedelta | None) -> None:
        block = {"project": "demo", "payer": "inst", "kind": "block", "amount": 36_000, "price": price}
        block["starts_at"] = (now + begins).isoformat()
        ok(client.post("orders", json=block | ({"ends_at": (now + ends).isoformat()} if ends else {}),
                       headers=operator), 201)  # fmt: skip

    day = timedelta(days=1)
    buys("3.00", 0 * day, 10 * day)
    buys("2.00", 5 * day, 20 * day)
    buys("1.00", -5 * day, None)
    buys("4.00", 6 * day, 7 * day)

    def given() -> list[int]:
        found = ok(client.get("projects/demo/allocations"))["items"]
        return [a["amount"] for a in found if a["source"] == "block"]

    assert given() == [36_000] * 2, "the others have not begun"
    with gateway.services.db.write() as conn:
        assert allocations.renew_due(conn, now=now + 6 * day) == allocations.Renewed(2, {})
    assert given() == [36_000] * 4
    with gateway.services.db.read() as conn:
        free = sorted((d.valid_from, d.valid_to) for d in discounts(conn))
        assert books.check_books(conn) == []
    assert free[0][0] == now - 5 * day and free[-1][1] is None
    assert all(before[1] == after[0] for before, after in pairwise(free))  # nothing twice, and no gap


def test_a_block_must_be_covered_and_names_the_agreement_that_divides_it(
    client: httpx.Client, operator: Headers
) -> None:
    payer(client, operator)
    block = {"project": "demo", "payer": "inst", "kind": "block", "amount": 36_000, "price": "3000000.00"}
    refused = client.post("orders", json=block, headers=operator)
    assert (refused.status_code, refused.json()["code"]) == (402, "credit_exhausted")
    assert ok(client.get("projects/demo/allocations"))["items"] == []
    unknown = client.post("orders", json=block | {"price": "1.00", "agreement": "nobody-1"}, headers=operator)
    assert unknown.status_code in (409, 422)
    assert "not signed by both" in unknown.text


def _fencing(gateway: Gateway) -> int:
    return leases.take(gateway.services.db, "local", "test").fencing


def test_prepaid_money_adjustments_and_a_closed_month(
    gateway: Gateway, client: httpx.Client, operator: Headers, login: Login
) -> None:
    money = {"project": "demo", "payer": "inst", "amount": "10.00", "received_at": "2026-11-01T00:00:00Z",
             "reference": "R-1"}  # fmt: skip
    made = ok(client.post("billing/top-ups", json=money, headers=operator), 201)
    assert ok(client.post("billing/top-ups", json=money, headers=operator), 201)["id"] == made["id"]
    assert client.post("billing/top-ups", json=money | {"amount": "11"}, headers=operator).status_code == 409
    file = "reference,date,amount\nR-1,2026-11-02,10.00\nR-2,2026-11-02,10.00\n"
    bank = {"format": "csv", "content": file, "profile": {"account": "ACC"}}
    done = ok(client.post("billing/payments-import", json=bank, headers=operator))
    assert (done["new"], done["top_ups"], done["unallocated"]) == (2, 1, 1)
    other = ok(client.get("billing/payments", params={"unallocated": True}, headers=operator))["items"][0]
    more = money | {"reference": "by mail"}
    assert client.post("billing/top-ups", json=more, headers=operator).status_code == 409
    added = ok(client.post("billing/top-ups", json=more | {"separate": True}, headers=operator), 201)
    (other,) = ok(client.get("billing/payments", params={"unallocated": True}, headers=operator))["items"]
    assert other["perhaps_top_ups"] == [added["id"]]
    matched = client.post(f"billing/payments/{other['id']}/top-up", json={"top_up": added["id"]}, headers=operator)
    assert (ok(matched)["unallocated"], ok(matched)["perhaps_top_ups"]) == ("0.00", [])
    assert (
        client.post(f"billing/payments/{other['id']}/top-up", json={"top_up": "y"}, headers=operator).status_code == 409
    )
    wrong = ok(
        client.post(f"billing/top-ups/{added['id']}/unmatch", json={"reason": "not theirs"}, headers=operator), 201
    )
    assert wrong["state"] == "posted"
    assert client.post("billing/unmatches/u9/decide", json={"approve": True}, headers=operator).status_code == 409
    (let_go,) = ok(client.get("billing/unmatches", headers=operator))["items"]
    assert (let_go["top_up"], let_go["amount"], let_go["state"]) == (added["id"], "10.00", "posted")
    matched = client.post(f"billing/payments/{other['id']}/top-up", json={"top_up": added["id"]}, headers=operator)
    assert ok(matched)["unallocated"] == "0.00"
    back = {"project": "demo", "amount": "1020.01", "reason": "left over"}
    assert client.post("billing/refunds", json=back, headers=operator).status_code == 402
    assert ok(client.post("billing/refunds", json=back | {"amount": "4"}, headers=operator), 201)["amount"] == "-4.00"

    small = {"project": "demo", "kind": "adjustment", "amount": "-1.00", "reason": "goodwill"}
    assert ok(client.post("billing/adjustments", json=small, headers=operator), 201)["state"] == "posted"
    large = ok(client.post("billing/adjustments", json=small | {"amount": "1000.01"}, headers=operator), 201)
    assert large["state"] == "waiting"
    decide = f"billing/adjustments/{large['id']}/decide"
    assert client.post(decide, json={"approve": True}, headers=operator).status_code == 403
    second = login("second", operator=True, scopes=("read", "admin"))
    assert ok(client.post(decide, json={"approve": False}, headers=second))["state"] == "refused"

    month = {"year": 2025, "month": 11}
    ok(client.post("billing/periods", json=month, headers=operator), 201)
    assert client.post("billing/periods/2025/11/close", headers=operator).status_code == 409
    ok(client.post("billing/periods/2025/11/closing", headers=operator))
    closed = ok(client.post("billing/periods/2025/11/close", headers=operator))
    assert (closed["state"], len(closed["seal"])) == ("closed", 64)
    stood = ok(client.get("billing/balances", params={"account": "operator:"}, headers=operator))["items"]
    assert {"account": "operator:cash", "commodity": "CNY", "amount": "-4000000"} in stood  # what was paid back
    gateway.check_books()


def test_only_the_operator_may(client: httpx.Client) -> None:
    party = {"id": "x", "role": "payer", "legal_name": "x"}
    posts = {"parties": party, "agreements": {"document": {}}, "orders": {}, "allocations": {}, "vouchers": {},
             "billing/top-ups": {}, "billing/refunds": {}, "billing/adjustments": {}, "billing/top-ups/y/unmatch": {},
             "billing/periods": {}}  # fmt: skip
    for path, body in posts.items():
        assert client.post(path, json=body).status_code == 403, path
    for path in ("billing/periods", "billing/balances", "parties"):
        assert client.get(path).status_code == 403, path


def test_bad_input_says_what_and_where(client: httpx.Client, operator: Headers) -> None:
    for path, body, pointer in (
        ("agreements", {"document": {"id": "a"}}, "/document/version"),
        ("parties", {"id": "x", "role": "payer", "legal_name": "x", "keys": [{"key_id": "k", "public": "%"}]},
         "/keys/0/public"),
        ("billing/periods", {"year": 2026, "month": 11, "zone": "Mars/Base"}, "/zone"),
        ("billing/top-ups", {"payer": "p"}, "/project"),
        ("orders", {"project": "demo", "payer": "p", "kind": "gift", "amount": 1}, "/kind"),
    ):  # fmt: skip
        answer = client.post(path, json=body, headers=operator)
        assert answer.status_code == 422, (path, answer.text)
        assert pointer in [e["pointer"] for e in answer.json()["errors"]], (path, answer.text)


def test_the_command_line_reads_the_books(
    gateway: Gateway, client: httpx.Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    charge(gateway)
    monkeypatch.setenv("PENSTOCK_URL", str(client.base_url).removesuffix("/api/v2/"))
    monkeypatch.setenv("PENSTOCK_TOKEN", gateway.secret)
    runner = CliRunner()
    listed = runner.invoke(billing, ["charges", "demo", "--json"], catch_exceptions=False)
    number = json.loads(listed.output)["items"][0]["id"]
    told = runner.invoke(billing, ["explain", str(number)], catch_exceptions=False)
    assert "4 allocated cores × 3600 s" in told.output and "1.44 CNY" in told.output
    made = runner.invoke(billing, ["budget", "demo", "--set", "5"], catch_exceptions=False)
    assert "1.44 of 5.00 CNY spent, 0.00 held" in made.output
    runner.invoke(billing, ["budget", "demo", "--set", "2.88"], catch_exceptions=False)
    rows = [r.split() for r in runner.invoke(billing, ["budget", "demo"], catch_exceptions=False).output.splitlines()]
    assert [(r[1], r[3], r[4], r[5], r[10]) for r in rows[1:]] == [
        ("5.00", "1.44", "0.00", "28.8", "–"),
        ("2.88", "1.44", "0.00", "50.0", "50"),
    ]
    assert runner.invoke(billing, ["budget", "demo", "--close", rows[2][0]], catch_exceptions=False).exit_code == 0
    assert rows[2][0] not in runner.invoke(billing, ["budget", "demo"], catch_exceptions=False).output


@pytest.mark.parametrize(("body", "pointer", "remedy"), [
    ({"valid_from": "2026-12-01T00:00:00Z", "valid_to": "2026-11-01T00:00:00Z"}, "/valid_to", "be later than"),
    ({"site": ""}, "/site", "all sites"),
    ({"queue": ""}, "/queue", "all queues"),
    ({"valid_from": "1960-01-01T00:00:00Z"}, "/valid_from", ""),
    ({"price_per_core_hour": "9999999999"}, "/price_per_core_hour", "what one core-hour costs"),
    ({"resource": "gpu_seconds"}, "/resource", "POST /tariffs/versions"),
    ({"tier_from": 3600}, "/tier_from", "POST /tariffs/versions"),
    ({"colour": "red"}, "/colour", "Check the spelling"),
])  # fmt: skip
def test_a_price_that_is_refused_names_the_field_and_what_to_write_there(
    client: httpx.Client, operator: dict[str, str], body: dict[str, Any], pointer: str, remedy: str
) -> None:
    asked = {"currency": "CNY", "price_per_core_hour": "0.5"} | body
    answer = client.post("tariffs", json=asked, headers=operator)
    assert answer.status_code == 422, answer.text
    [problem] = answer.json()["errors"]
    assert (problem["pointer"], remedy in problem["remedy"]) == (pointer, True), problem


def test_a_price_that_overlaps_names_the_other_one_and_how_to_end_it(
    client: httpx.Client, operator: dict[str, str]
) -> None:
    asked = {"currency": "EUR", "price_per_core_hour": "0.5", "queue": "big"}
    made = client.post("tariffs", json=asked, headers=operator).json()
    refused = client.post("tariffs", json=asked, headers=operator)
    assert refused.status_code == 409 and f"POST /tariffs/{made['id']}/close" in refused.json()["remedy"]


def test_a_discount_is_no_surcharge(client: httpx.Client, operator: dict[str, str]) -> None:
    asked = {"project": "demo", "numerator": 11, "denominator": 10, "valid_from": "2099-01-01T00:00:00Z"}
    refused = client.post("discounts", json=asked, headers=operator)
    assert refused.status_code == 422 and refused.json()["errors"][0]["pointer"] == "/numerator"
    assert client.post("discounts", json=asked | {"numerator": 10}, headers=operator).status_code == 201


@pytest.mark.parametrize(("path", "more"), [
    ("billing/top-ups", {"payer": "uni", "reference": "TT-9", "received_at": "2026-11-20T00:00:00Z"}),
    ("billing/refunds", {"reason": "asked for it"}),
])  # fmt: skip
def test_no_money_of_less_than_a_coin_comes_in_or_goes_out(
    client: httpx.Client, operator: dict[str, str], path: str, more: dict[str, str]
) -> None:
    refused = client.post(path, json={"project": "demo", "amount": "0.005"} | more, headers=operator)
    assert refused.status_code == 422, refused.text
    assert refused.json()["errors"][0]["remedy"] == "Write it like 12.50."
