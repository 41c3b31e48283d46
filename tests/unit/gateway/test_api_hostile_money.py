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


def test_files_that_one_database_could_not_keep_are_told_so(billing: Billing) -> None:
    """Found by hand on PostgreSQL, each a 500: NUL in a line, a reference of any length."""
    line = json.dumps({"lines": [{"run_key": "a", "username": "x\0y", "quantity": 5}]})
    found = billing.post("statements", STATEMENT | {"format": "json", "content": line})
    assert (found["lines"], found["unreadable"]) == (0, 1), found
    for content in (b"run_key,quantity\na\0b,5\n", b"\0" * 9):
        body = STATEMENT | {"content": "", "content_base64": base64.b64encode(content).decode()}
        assert "NUL" in billing.post("statements", body, 422)["detail"]
    long = "R" * 150  # cut short, two payments would be one
    camt = CAMT.format("2026-11-02T00:00:00Z").replace("</BookgDt>", f"</BookgDt><AcctSvcrRef>{long}</AcctSvcrRef>")
    rows = "".join(f"{long}{n},2026-11-02,1.00\n" for n in range(2))
    for body in ({"format": "camt.053", "content": camt}, FILE | {"content": f"reference,date,amount\n{rows}"}):
        found = billing.post("payments-import", body)
        assert (found["new"], found["problems"][0]["why"][:31]) == (0, "a bank's reference has at most "), found
    assert billing.get("payments", headers=billing.operator)["items"] == []


def test_a_signature_of_nested_brackets_is_a_bad_signature(billing: Billing, login: Login) -> None:
    gateway, client = billing.gateway, billing.client
    agree(gateway.services.db, agreement(site_ids=("local",)))
    drawn = billing.post("settlements", {"centre": "centre", "since": T, "until": "2026-11-02T00:00:00Z"}, 201)["id"]
    head = base64.urlsafe_b64encode(b"[" * 100_000).rstrip(b"=").decode()
    carl = staff(gateway, login, "carl")
    got = client.post(f"billing/settlements/{drawn}/sign", json={"jws": f"{head}.e30.AA"}, headers=carl)
    assert got.status_code == 422, got.text
    body = statement() | {"signature": f"{head}.e30.AA"}
    assert ok(client.post("billing/statements", json=body, headers=carl))["signature_refused"]


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


# ---------------------------------------------------------------- the wrong people

OPERATORS = [
    "POST parties", "POST agreements", "POST tariffs/versions", "POST discounts", "POST projects/demo/terms",
    "POST orders",
    "POST allocations", "POST vouchers", "POST openings", "POST openings/o/change", "POST openings/o/renew",
    "POST openings/o/close", "POST billing/periods", "POST billing/periods/2026/10/closing",
    "POST billing/periods/2026/10/close", "POST billing/top-ups", "POST billing/top-ups/y/unmatch",
    "POST billing/refunds",
    "POST billing/unmatches/u/decide", "POST billing/adjustments", "POST billing/adjustments/x/decide",
    "POST billing/entities", "PUT billing/projects/demo/payer", "POST billing/tax-rules", "POST billing/invoices",
    "POST billing/credit-notes", "POST billing/payments-import", "POST billing/payments/1/allocate",
    "POST billing/payments/1/top-up", "POST billing/reconciliations", "POST billing/settlements",
    "POST billing/settlements/s/payments", "POST billing/fx-rates", "POST evidence/keys", "POST evidence/erasures",
    "GET parties", "GET billing/periods", "GET billing/unmatches", "GET billing/balances", "GET billing/entities",
    "GET billing/payments", "GET billing/ageing", "GET billing/months/2026-10", "GET billing/exports/general-ledger",
    "GET billing/exports/focus",
]  # fmt: skip


def test_what_is_the_operators_nobody_else_may(gateway: Gateway, client: httpx.Client, login: Login) -> None:
    """An owner, a researcher, a stranger, a centre's staff, and an operator whose token lacks the scope."""
    people = {
        "owner": {}, "researcher": login("rita", role="researcher"), "stranger": login("sam"),
        "staff": staff(gateway, login, "carl"), "no scope": login("olga", operator=True, scopes=("read", "submit")),
    }  # fmt: skip
    for line in OPERATORS:
        method, path = line.split()
        for who, headers in people.items():
            answer = client.request(method, path, json=None if method == "GET" else {}, headers=headers)
            assert answer.status_code == 403, (line, who, answer.status_code, answer.text)


def test_nobody_takes_part_in_what_is_anothers(billing: Billing, login: Login) -> None:
    """A project's bills, disputes and allocations, and a centre's statements, breaks and settlements."""
    gateway, client, operator = billing.gateway, billing.client, billing.operator
    agree(gateway.services.db, agreement(site_ids=("local",)))
    billing.work(36_000)
    billing.bill()
    dispute = billing.post("disputes", {"invoice": "PS-000001", "line": 1, "reason": "twice"}, 201, headers={})["id"]
    sent = ok(client.post("billing/statements", json=statement(), headers=staff(gateway, login, "carl")))["id"]
    ok(client.post("billing/reconciliations", json={"statement": sent}, headers=operator))
    found = ok(client.get("billing/breaks", headers=operator))["items"][0]["id"]
    ok(client.post("vouchers", json={"code": "TRY-ME-NOW", "amount": 60}, headers=operator), 201)
    given = ok(client.post("vouchers/redeem", json={"code": "TRY-ME-NOW", "project": "demo"}), 201)["id"]
    budget = billing.post("budgets", {"project": "demo", "amount": "5"}, 201, headers={})["id"]
    ok(client.post("projects", json={"name": "mine"}, headers=operator), 201)
    span = {"since": T, "until": "2026-11-02T00:00:00Z"}
    drawn = ok(client.post("billing/settlements", json={"centre": "centre"} | span, headers=operator), 201)["id"]

    elsewhere = login("eve")
    with gateway.services.db.write() as conn:
        user_id = service.user_id_of(conn, "eve")
        conn.execute(insert(table_of(CentreStaffRow)), [{"user_id": user_id, "site_id": "elsewhere"}])
        mine = service.create_project(conn, name="eves", currency="CNY", now=gateway.services.clock())
        service.add_member(conn, project_id=mine, user_id=user_id, role="owner", now=gateway.services.clock())
    asks: list[tuple[str, str, Any]] = [
        ("POST", "billing/disputes", {"invoice": "PS-000001", "line": 1, "reason": "x"}),
        *(("POST", f"billing/disputes/{dispute}/{step}", {"text": "x"})
          for step in ("comment", "withdraw", "credit", "reject", "pass_on", "centre_answer")),
        ("POST", f"allocations/{given}/transfer", {"to_project": "eves", "amount": 60}),
        ("POST", "vouchers/redeem", {"code": "TRY-ME-NOW", "project": "demo"}),
        ("POST", "billing/budgets", {"project": "demo", "amount": "1", "stop": True}),
        ("DELETE", f"billing/budgets/{budget}", None),
        ("POST", "billing/statements", statement(amount="7")),
        *(("POST", f"billing/breaks/{found}/{act}", {"note": "x", "resolution": "post"})
          for act in ("propose", "countersign", "dispute", "reopen")),
        ("POST", f"billing/settlements/{drawn}/sign", {"jws": "a.b.c"}),
        ("POST", f"billing/settlements/{drawn}/withdraw", {"reason": "x"}),
        ("POST", "agreements/a1/1/signatures", {"party": "centre", "key_id": "k", "signature": "AAAA"}),
        *(("GET", path, None) for path in (
            "billing/invoices/PS-000001", "billing/invoices/PS-000001/pdf",
            "billing/invoices/PS-000001/lines/1/charges", f"billing/disputes/{dispute}",
            "billing/charges?project=demo", "billing/charges/1", f"billing/breaks/{found}",
            f"billing/statements/{sent}", f"billing/settlements/{drawn}", f"billing/settlements/{drawn}/bundle",
            "billing/budgets?project=demo", "projects/demo/allocations", "billing/adjustments?project=demo",
            "billing/exports/focus?project=demo", "billing/exports/ogf-ur?project=demo", "openings?project=demo",
            "billing/meters/local", "evidence/bundle?invoice=PS-000001",
            "evidence/proof?kind=entry&ref=1")),
    ]  # fmt: skip
    for method, path, body in asks:
        answer = client.request(method, path, json=body, headers=elsewhere)
        assert answer.status_code in (403, 404), (method, path, answer.status_code, answer.text[:300])
    for path in ("billing/invoices", "billing/disputes", "billing/breaks", "billing/statements", "billing/settlements",
                 "billing/reconciliations", "agreements", "tariffs/versions", "billing/alarms"):  # fmt: skip
        assert ok(client.get(path, headers=elsewhere))["items"] == [], path
    assert ok(client.get("billing/reports", headers=elsewhere))["rows"] == []
    assert ok(client.get(f"billing/breaks/{found}", headers=operator))["state"] in ("open", "explained")
    assert ok(client.get(f"billing/disputes/{dispute}", headers=operator))["state"] == "open"
    gateway.check_books()
