"""Eight people at once at the money's routes: a thing happens once, who comes second is told, the books add up."""

from __future__ import annotations

import base64
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from threading import Barrier
from typing import Any

import httpx
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from sqlalchemy import func, insert, select

from accounting.ledger import paid
from accounting.parties import SigningKey
from accounting.signing import sign_jws
from accounting.store import balances, contracts, settlements
from accounting.store.payments import prepaid
from accounting.store.settled import DOCUMENTS, PAID
from gateway.billing import evidence
from gateway.db import table_of
from gateway.identity import service
from gateway.identity.tables import CentreStaffRow
from tests.builders import Gateway
from tests.unit.accounting.invoicing import charge, run
from tests.unit.accounting.makers import LONG_AGO, agree, agreement
from tests.unit.gateway.test_api_billing import Billing

Headers = dict[str, str]
CROWD = 8


@pytest.fixture
def billing(gateway: Gateway, client: httpx.Client, operator: Headers) -> Billing:
    made = Billing(gateway, client, operator)
    made.work(36_000)
    return made


def at_once(client: httpx.Client, *asks: tuple[str, Any, Headers]) -> list[httpx.Response]:
    """Every request at the same moment, each on a connection of its own."""
    ready = Barrier(len(asks))

    def ask(path: str, body: Any, headers: Headers) -> httpx.Response:
        with httpx.Client(base_url=client.base_url, headers=dict(client.headers), timeout=60) as own:
            own.get("whoami", headers=headers)
            ready.wait(60)
            return own.post(path, json=body, headers=headers)

    with ThreadPoolExecutor(len(asks)) as crowd:
        return [f.result() for f in [crowd.submit(ask, *one) for one in asks]]


def statuses(answers: list[httpx.Response]) -> Counter[int]:
    found = Counter(a.status_code for a in answers)
    assert not [a.text for a in answers if a.status_code >= 500], found
    return found


def import_money(billing: Billing, *references: str, amount: str = "3.82") -> list[int]:
    rows = "".join(f"{ref},2026-11-02,{amount}\n" for ref in references)
    file = {"format": "csv", "content": f"reference,date,amount\n{rows}", "profile": {"account": "ACC"}}
    billing.post("payments-import", file)
    return [p["id"] for p in billing.get("payments", headers=billing.operator)["items"]]


def test_the_same_key_makes_one_thing(billing: Billing) -> None:
    body = {"project": "demo", "kind": "adjustment", "amount": "-7", "reason": "goodwill"}
    once = billing.operator | {"Idempotency-Key": "k1"}
    answers = at_once(billing.client, *[("billing/adjustments", body, once)] * CROWD)
    found = statuses(answers)
    assert found[201] >= 1 and set(found) <= {201, 409}
    assert len({a.json()["id"] for a in answers if a.status_code == 201}) == 1
    assert len(billing.get("adjustments", headers=billing.operator)["items"]) == 1
    billing.gateway.check_books()


def test_a_month_is_billed_once(billing: Billing) -> None:
    answers = at_once(billing.client, *[("billing/invoices", {"month": billing.month}, billing.operator)] * CROWD)
    assert statuses(answers) == {200: CROWD}
    assert [d["number"] for a in answers for d in a.json()["made"]] == ["PS-000001"]
    billing.gateway.check_books()


def test_an_invoice_is_paid_and_credited_no_further_than_it_goes(billing: Billing) -> None:
    billing.bill()
    ids = import_money(billing, *(f"r{n}" for n in range(4)), amount="3.00")
    credit = {"invoice": "PS-000001", "reason": "goodwill", "credits": [{"line": 1, "net": "2.00"}]}
    asks = [(f"billing/payments/{i}/allocate", {"invoice": "PS-000001", "amount": "3.00"}) for i in ids]
    asks += [("billing/credit-notes", credit)] * 4
    statuses(at_once(billing.client, *[(path, body, billing.operator) for path, body in asks]))
    with billing.gateway.services.db.read() as conn:
        payments = int(conn.scalar(select(func.coalesce(func.sum(PAID.c.amount_minor), 0))) or 0)
        credits = conn.scalars(select(DOCUMENTS.c.net_minor).where(DOCUMENTS.c.kind == "credit_note")).all()
    assert payments <= 382 and sum(credits) >= -360 and len(credits) <= 1
    billing.gateway.check_books()


def test_a_line_is_disputed_once_and_its_dispute_ends_once(billing: Billing) -> None:
    billing.bill()
    body = {"invoice": "PS-000001", "line": 1, "reason": "twice"}
    answers = at_once(billing.client, *[("billing/disputes", body, {})] * CROWD)
    assert statuses(answers) == {201: 1, 409: CROWD - 1}
    where = f"billing/disputes/{next(a.json()['id'] for a in answers if a.status_code == 201)}"
    (money,) = import_money(billing, "r1")
    pays = (f"billing/payments/{money}/allocate", {"invoice": "PS-000001", "amount": "-3.82"}, billing.operator)
    yes, no = {"text": "yes"}, {"text": "no"}
    ends = [(f"{where}/credit", yes, billing.operator), (f"{where}/reject", no, billing.operator),
            (f"{where}/withdraw", {}, {}), (f"{where}/credit", yes, billing.operator)]  # fmt: skip
    found = at_once(billing.client, *ends, pays)
    statuses(found)
    assert [a.status_code for a in found[:4]].count(200) == 1
    billing.gateway.check_books()


def test_prepaid_money_is_paid_back_once(billing: Billing) -> None:
    top_up = {
        "project": "demo",
        "payer": "inst",
        "amount": "5",
        "received_at": "2026-11-01T00:00:00Z",
        "reference": "r",
    }
    assert statuses(at_once(billing.client, *[("billing/top-ups", top_up, billing.operator)] * CROWD)) == {201: CROWD}
    back = {"project": "demo", "amount": "5", "reason": "left over"}
    answers = at_once(billing.client, *[("billing/refunds", back, billing.operator)] * CROWD)
    assert statuses(answers) == {201: 1, 402: CROWD - 1}
    account = paid(billing.gateway.project_id)
    with billing.gateway.services.db.read() as conn:
        assert balances(conn, code=account)[account, "CNY"] == 0
    billing.gateway.check_books()


def test_a_voucher_and_what_is_left_of_an_allocation_go_once(billing: Billing) -> None:
    client, operator = billing.client, billing.operator
    client.post("projects", json={"name": "other"}, headers=operator)
    client.post("vouchers", json={"code": "TRY-ME-NOW", "amount": 72_000}, headers=operator)
    redeem = ("vouchers/redeem", {"code": "TRY-ME-NOW", "project": "demo"}, {})
    assert statuses(at_once(client, *[redeem] * CROWD)) == {201: 1, 409: CROWD - 1}
    (given,) = client.get("projects/demo/allocations").json()["items"]
    move = (f"allocations/{given['id']}/transfer", {"to_project": "other", "amount": 20_000}, operator)
    found = statuses(at_once(client, *[move] * CROWD))
    assert found == {201: 3, 402: CROWD - 3}
    billing.gateway.check_books()


def test_a_month_closes_once_while_it_is_being_billed(billing: Billing) -> None:
    year, month = (int(part) for part in billing.month.split("-"))
    billing.post("periods", {"year": year, "month": month}, 201)
    billing.post(f"periods/{year}/{month}/closing", None)
    close = (f"billing/periods/{year}/{month}/close?leave_unbilled=true", None, billing.operator)
    bill = ("billing/invoices", {"month": billing.month}, billing.operator)
    answers = at_once(billing.client, *[close, bill] * 4)
    statuses(answers)
    assert [a.status_code for a in answers[::2]].count(200) == 1
    assert sum(len(a.json().get("made", ())) for a in answers[1::2]) <= 1
    billing.gateway.check_books()


@pytest.mark.parametrize("objected", [False, True])
def test_a_settlement_is_signed_or_withdrawn_once_and_paid_once(
    billing: Billing, login: Callable[..., Headers], objected: bool
) -> None:
    gateway, client, operator = billing.gateway, billing.client, billing.operator
    agree(gateway.services.db, agreement(site_ids=("local",)))
    now = gateway.services.clock()
    staff = login("carl")
    private = b"c" * 32
    public = Ed25519PrivateKey.from_private_bytes(private).public_key().public_bytes_raw()
    with gateway.services.db.write() as conn:
        conn.execute(insert(table_of(CentreStaffRow)), [
            {"user_id": service.user_id_of(conn, "carl"), "site_id": "local"}])  # fmt: skip
        contracts.add_key(conn, "centre", SigningKey("c1", "Ed25519", public, LONG_AGO))
        charge(conn, run(36_000, at=now - timedelta(hours=1), project=gateway.project_id, site="local",
                         user=gateway.person.user_id), now=now)  # fmt: skip
    span = {"since": (now - timedelta(days=1)).isoformat(), "until": (now + timedelta(seconds=1)).isoformat()}
    drawn = at_once(client, *[("billing/settlements", {"centre": "centre"} | span, operator)] * CROWD)
    assert statuses(drawn) == {201: 1, 409: CROWD - 1}
    made = next(a.json() for a in drawn if a.status_code == 201)
    where = f"billing/settlements/{made['id']}"
    text = client.get(f"{where}/statement", headers=staff).content
    jws = sign_jws(text, private=private, key_id="c1", kind="penstock-settlement")
    signs = (f"{where}/sign", {"jws": jws}, staff)
    if objected:
        objects = (f"{where}/withdraw", {"reason": "no"}, staff)
        assert statuses(at_once(client, *[signs, objects] * 4)) == {200: 1, 409: CROWD - 1}
    else:
        assert statuses(at_once(client, *[signs] * CROWD)) == {200: 1, 409: CROWD - 1}
        pay = [(f"{where}/payments", {"amount": made["pay"], "reference": f"b{n}"}, operator) for n in range(CROWD)]
        assert statuses(at_once(client, *pay)) == {201: 1, 409: CROWD - 1}
    with gateway.services.db.read() as conn:
        assert settlements.check_settlements(conn) == []
    gateway.check_books()


def test_parties_entities_and_keys_saved_at_once_are_kept_once_each(billing: Billing) -> None:
    key = {"key_id": "k", "public": base64.b64encode(b"x" * 32).decode()}
    party = {"id": "c9", "role": "centre", "legal_name": "C", "keys": [key]}
    entity = {"id": "e9", "legal_name": "E", "prefix": "EE"}
    asks = [("parties", party | {"legal_name": f"C{n}"}, billing.operator) for n in range(4)]
    asks += [("billing/entities", entity | {"legal_name": f"E{n}"}, billing.operator) for n in range(4)]
    found = statuses(at_once(billing.client, *asks))
    assert set(found) <= {201, 409} and found[201] >= 2


def test_rival_prices_and_discounts_are_kept_once(billing: Billing) -> None:
    """Found by hand on PostgreSQL: of eight that were the same, seven were kept."""
    price = {"currency": "CNY", "price_per_core_hour": "0.1", "queue": "q", "valid_from": "2030-01-01T00:00:00Z"}
    ratio = {"project": "demo", "numerator": 1, "denominator": 2, "valid_from": "2030-01-01T00:00:00Z"}
    for path, body in (("tariffs", price), ("discounts", ratio)):
        answers = at_once(billing.client, *[(path, body, billing.operator)] * CROWD)
        assert statuses(answers) == {201: 1, 409: CROWD - 1}, path


def test_one_bank_file_that_many_import_leaves_the_evidence_log_going(billing: Billing) -> None:
    file = {"format": "csv", "content": "reference,date,amount\nr1,2026-11-02,3.00\n", "profile": {"account": "A"}}
    assert statuses(at_once(billing.client, *[("billing/payments-import", file, billing.operator)] * CROWD)) == {
        200: CROWD
    }
    services = billing.gateway.services
    evidence.append(services, None, services.clock())
    log = billing.client.get("evidence/log").json()
    assert (log["waiting"], log["size"]) == (0, log["checkpoint"])


def test_a_deposit_pays_an_invoice_or_is_paid_back(billing: Billing) -> None:
    """Found by hand on PostgreSQL: it did both."""
    billing.bill()
    client, operator = billing.client, billing.operator
    top_up = {"project": "demo", "payer": "uni", "amount": "3", "received_at": "2026-11-01T00:00:00Z", "reference": "r"}
    assert client.post("billing/top-ups", json=top_up, headers=operator).status_code == 201
    clears = {"kind": "deposit", "invoice": "PS-000001", "reason": "as agreed", "amount": "3.00"}
    back = {"project": "demo", "amount": "3", "reason": "left over"}
    asks = [("billing/clearings", clears, operator), ("billing/refunds", back, operator)] * 4
    answers = at_once(client, *asks)
    statuses(answers)
    assert [a.status_code for a in answers].count(201) == 1
    with billing.gateway.services.db.read() as conn:
        assert prepaid(conn, billing.gateway.project_id, "CNY") == 0
    billing.gateway.check_books()
