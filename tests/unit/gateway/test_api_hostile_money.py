"""Hostile and careless people at the money's routes: refused with a problem, never a 500, nothing half done."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import httpx
import pytest
from sqlalchemy import insert

from accounting.ledger import CASH, paid
from accounting.store import balances
from gateway.db import table_of
from gateway.identity import service
from gateway.identity.tables import CentreStaffRow
from tests.builders import Gateway
from tests.unit.accounting.invoicing import charge, run
from tests.unit.accounting.makers import agree, agreement
from tests.unit.gateway.test_api_billing import Billing
from tests.unit.gateway.test_api_reconciliation import statement

Headers = dict[str, str]
Login = Callable[..., Headers]
T = "2026-11-01T00:00:00Z"


@pytest.fixture
def billing(gateway: Gateway, client: httpx.Client, operator: Headers) -> Billing:
    return Billing(gateway, client, operator)


def ok(answer: httpx.Response, status: int = 200) -> Any:
    assert answer.status_code == status, answer.text
    return answer.json()


ORDER = {"project": "demo", "payer": "inst", "kind": "block", "amount": 10}
FILE = {"format": "csv", "profile": {"account": "acc"}}
STATEMENT = {"site": "local", "period": "2026-11", "currency": "CNY", "format": "csv", "content": "quantity\n5\n"}
CAMT = """<Document><BkToCstmrStmt><Stmt><Acct><Id><IBAN>DE1</IBAN></Id></Acct><Ntry><Amt Ccy="CNY">1.00</Amt>
<CdtDbtInd>CRDT</CdtDbtInd><Sts>BOOK</Sts><BookgDt><DtTm>{}</DtTm></BookgDt></Ntry></Stmt></BkToCstmrStmt></Document>"""
REFUSED: dict[str, list[Any]] = {
    "orders": [ORDER | {"zone": zone} for zone in ("Mars/Base", "America", "", "../../etc/passwd")]
    + [ORDER | {"amount": amount} for amount in (2**62, 2**53, True, "10", 1.0)]
    + [ORDER | {"commodity": commodity} for commodity in ("a b", 'x"\n2020-01-01 open', "=cmd()", "\u202etxt")],
    "allocations": [{"project": "demo", "amount": 2**62}, {"project": "demo", "amount": 5, "carry_over_max": 2**62}],
    "vouchers": [{"code": "abcdefgh", "amount": 2**62}, {"code": "        ", "amount": 1}],
    "billing/statements": [
        STATEMENT | {"profile": {"columns": {}, "zone": "America"}},
        STATEMENT | {"profile": {"columns": {}, "delimiter": "\n"}},
        STATEMENT | {"profile": {"columns": {}, "delimiter": '"'}},
        STATEMENT | {"content": "", "content_base64": base64.b64encode(b"\xff\xfequantity").decode()},
    ],
    "billing/budgets": [{"project": "demo", "amount": "1", "zone": "America"}],
    "billing/periods": [{"year": 2026, "month": True}, {"year": "2026", "month": 1}],
}  # fmt: skip


@pytest.mark.parametrize("path", REFUSED)
def test_nonsense_is_refused_with_its_place(
    gateway: Gateway, client: httpx.Client, operator: Headers, path: str
) -> None:
    for body in REFUSED[path]:
        answer = client.post(path, json=body, headers=operator)
        assert answer.status_code in (409, 422), (body, answer.status_code, answer.text)
        assert answer.json()["detail"]
    gateway.check_books()


@pytest.mark.parametrize("day", ["0001-01-01", "9999-12-31"])
def test_money_of_no_day_that_books_know_is_not_imported(billing: Billing, day: str) -> None:
    for body in (
        FILE | {"content": f"reference,date,amount,payer,remittance\nq1,{day},1.00,p,r\n"},
        {
            "format": "camt.053",
            "content": CAMT.format(f"{day}T00:00:00+14:00" if day[0] == "0" else f"{day}T23:00:00-14:00"),
        },
    ):
        found = billing.post("payments-import", body)
        assert (found["new"], len(found["problems"])) == (0, 1), found
    assert billing.get("payments", headers=billing.operator)["items"] == []


PATHS = [
    "billing/charges?project=demo&before=99999999999999999999999", "billing/breaks?cursor=LTEx",
    "billing/breaks?cursor=OTk5OTk5OTk5OTk5OTk5OTk5OTk5OTk5",
    "evidence/bundle?since=0001-01-01T00:00:00%2B14:00&until=2026-01-01T00:00:00Z",
    "evidence/bundle?since=2026-01-01T00:00:00Z&until=9999-12-31T23:59:59-14:00",
    "billing/months/2499-12?zone=America", "billing/reports?zone=America", "billing/exports/focus?zone=America",
]  # fmt: skip


@pytest.mark.parametrize("path", PATHS)
def test_a_broken_question_is_refused(client: httpx.Client, operator: Headers, path: str) -> None:
    answer = client.get(path, headers=operator)
    assert 400 <= answer.status_code < 500, answer.text


def test_a_cursor_of_another_list_is_no_error_of_ours(billing: Billing) -> None:
    billing.work(36_000)
    billing.bill()
    for last in ("c-1", "cABC", "c" + "9" * 30, "x1"):
        cursor = base64.urlsafe_b64encode(last.encode()).decode().rstrip("=")
        got = billing.client.get("billing/invoices/PS-000001/lines/1/charges", params={"cursor": cursor})
        assert got.status_code == 422, (last, got.text)


def test_a_voucher_that_is_known_is_refused(client: httpx.Client, operator: Headers) -> None:
    """The key in the database decides; whoever comes second is told so."""
    body = {"code": "TRY-ME-NOW", "amount": 60}
    ok(client.post("vouchers", json=body, headers=operator), 201)
    assert client.post("vouchers", json=body | {"amount": 90}, headers=operator).status_code == 409


def test_a_disputed_line_is_not_credited_in_whole_by_a_credit_of_nothing(billing: Billing) -> None:
    billing.work(36_000)
    billing.bill()
    made = billing.post("disputes", {"invoice": "PS-000001", "line": 1, "reason": "twice"}, 201, headers={})
    for net in ("0", "0.00", "-1.00", "3.61"):
        billing.post(f"disputes/{made['id']}/credit", {"text": "sorry", "net": net}, 409)
    assert billing.get("invoices/PS-000001")["open"] == "3.82"


def test_money_that_was_granted_is_not_paid_out(gateway: Gateway, client: httpx.Client, operator: Headers) -> None:
    """The project has a credit of 1000 that nobody paid for; 5 were."""
    top_up = {"project": "demo", "payer": "inst", "amount": "5", "received_at": T, "reference": "r1"}
    ok(client.post("billing/top-ups", json=top_up, headers=operator), 201)
    back = {"project": "demo", "amount": "5.01", "reason": "they left"}
    assert client.post("billing/refunds", json=back, headers=operator).status_code == 402
    ok(client.post("billing/refunds", json=back | {"amount": "5"}, headers=operator), 201)
    assert client.post("billing/refunds", json=back | {"amount": "0.01"}, headers=operator).status_code == 402
    with gateway.services.db.read() as conn:
        assert balances(conn, code=CASH)[CASH, "CNY"] == 0
        assert balances(conn, code=paid(gateway.project_id))[paid(gateway.project_id), "CNY"] == 0
    gateway.check_books()


def test_four_eyes_are_not_passed_by_many_small_adjustments(
    client: httpx.Client, operator: Headers, login: Login
) -> None:
    ask = {"project": "demo", "kind": "adjustment", "amount": "-600", "reason": "goodwill"}
    made = [ok(client.post("billing/adjustments", json=ask, headers=operator), 201) for _ in range(3)]
    assert [m["state"] for m in made] == ["posted", "waiting", "waiting"]
    other = login("other", operator=True, scopes=("read", "submit", "admin"))
    assert ok(client.post("billing/adjustments", json=ask, headers=other), 201)["state"] == "posted"
    where = f"billing/adjustments/{made[1]['id']}/decide"
    assert client.post(where, json={"approve": True}, headers=operator).status_code == 403
    assert ok(client.post(where, json={"approve": True}, headers=other))["state"] == "posted"


def staff(gateway: Gateway, login: Login, name: str) -> Headers:
    headers = login(name)
    with gateway.services.db.write() as conn:
        user_id = service.user_id_of(conn, name)
        conn.execute(insert(table_of(CentreStaffRow)), [{"user_id": user_id, "site_id": "local"}])
    return headers


def test_a_centre_does_not_countersign_its_own_proposal(
    gateway: Gateway, client: httpx.Client, operator: Headers, login: Login
) -> None:
    agree(gateway.services.db, agreement(site_ids=("local",)))
    first, second = staff(gateway, login, "first"), staff(gateway, login, "second")
    made = ok(client.post("billing/statements", json=statement(amount="9999999"), headers=first))
    ok(client.post("billing/reconciliations", json={"statement": made["id"]}, headers=operator))
    (item,) = ok(client.get("billing/breaks", headers=first))["items"]
    path = f"billing/breaks/{item['id']}"
    ok(client.post(f"{path}/propose", json={"note": "as billed", "resolution": "post"}, headers=first))
    own = client.post(f"{path}/countersign", json={"note": "yes"}, headers=second)
    assert own.status_code == 409, own.text
    ok(client.post(f"{path}/countersign", json={"note": "yes"}, headers=operator))


def test_breaks_are_listed_page_by_page(gateway: Gateway, client: httpx.Client, operator: Headers) -> None:
    lines = [{"run_key": f"x:{n}", "native_id": str(n), "username": "bob", "quantity": 5} for n in range(5)]
    body = statement() | {"content": json.dumps({"lines": lines})}
    made = ok(client.post("billing/statements", json=body, headers=operator))
    ok(client.post("billing/reconciliations", json={"statement": made["id"]}, headers=operator))
    seen: list[int] = []
    cursor: dict[str, str] = {}
    while True:
        page = ok(client.get("billing/breaks", params={"limit": 2} | cursor, headers=operator))
        seen += [item["id"] for item in page["items"]]
        if page["cursor"] is None:
            break
        cursor = {"cursor": page["cursor"]}
    assert len(seen) == len(set(seen)) >= 5


def test_the_same_bill_in_another_layout_is_not_paid_twice(
    gateway: Gateway, client: httpx.Client, operator: Headers, login: Login
) -> None:
    """A difference of money that was posted from one statement is no difference in the next one of the month."""
    agree(gateway.services.db, agreement(site_ids=("local",)))
    now = gateway.services.clock()
    one = run(36_000, at=now - timedelta(hours=1), project=gateway.project_id, site="local", key="c:9")
    with gateway.services.db.write() as conn:
        charge(conn, one, now=now)
    centre = staff(gateway, login, "first")
    start = int((now - timedelta(hours=11)).timestamp())
    line = {"run_key": "c:9", "native_id": "c:9", "username": "x", "cores": 1, "start": start, "end": start + 36_000,
            "elapsed": 36_000, "quantity": 36_000, "amount": "8.60"}  # fmt: skip
    booked = []
    for layout in (None, 1):
        body = {"site": "local", "period": f"{now:%Y-%m}", "currency": "CNY", "format": "json",
                "content": json.dumps({"lines": [line]}, indent=layout)}  # fmt: skip
        made = ok(client.post("billing/statements", json=body, headers=centre))
        ok(client.post("billing/reconciliations", json={"statement": made["id"]}, headers=operator))
        for item in ok(client.get("billing/breaks", params={"state": "open"}, headers=operator))["items"]:
            path = f"billing/breaks/{item['id']}"
            act = {"note": "as billed", "resolution": "post"}
            if item["category"] == "B12":
                act = {"note": "the same again", "resolution": "waive"}
            ok(client.post(f"{path}/propose", json=act, headers=operator))
            ok(client.post(f"{path}/countersign", json={"note": "yes"}, headers=centre))
        with gateway.services.db.read() as conn:
            booked.append(balances(conn, code="centre:centre:payable").get(("centre:centre:payable", "CNY"), 0))
    assert booked[0] == booked[1], booked
    gateway.check_books()
