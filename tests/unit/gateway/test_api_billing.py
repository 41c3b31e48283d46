"""Billing over HTTP: a month is billed, read, printed, disputed, credited and paid; who may see and do what."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import httpx
import pytest

from accounting.calendar import month_of
from accounting.evidence.outbox import OUTBOX
from accounting.store.allocations import place_order
from accounting.store.orders import Order
from gateway.billing import bank
from gateway.db import table_of
from gateway.identity.tables import CentreStaffRow
from tests.builders import Gateway
from tests.unit.accounting.invoicing import charge, run
from tests.unit.accounting.makers import agree, agreement

ISSUER = {"id": "op", "legal_name": "Penstock Operations Ltd", "country": "CN", "prefix": "PS", "tax_code": "vat"}
PAYER = {"id": "uni", "legal_name": "物理研究院", "language": "zh"}


class Billing:
    """A gateway in which last month has two people's work, and everything to bill it."""

    def __init__(self, gateway: Gateway, client: httpx.Client, operator: dict[str, str]) -> None:
        self.gateway, self.client, self.operator = gateway, client, operator
        self.now = gateway.services.clock()
        last = month_of(month_of(self.now, "Asia/Shanghai").start - timedelta(days=1), "Asia/Shanghai")
        self.month, self.within = last.name, last.start + timedelta(days=3)
        self.post("entities", ISSUER, 201)
        self.post("entities", PAYER, 201)
        rule = {
            "code": "vat",
            "rate_ppm": 60_000,
            "valid_from": "2020-01-01T00:00:00Z",
            "name_en": "VAT",
            "name_zh": "增值税",
        }
        self.post("tax-rules", rule, 201)
        got = client.put("billing/projects/demo/payer", json={"payer": "uni"}, headers=operator)
        assert (got.status_code, got.json()) == (200, {"project": "demo", "payer": "uni"})

    def post(self, path: str, body: Any, status: int = 200, *, headers: dict[str, str] | None = None) -> dict[str, Any]:
        got = self.client.post(f"billing/{path}", json=body, headers=self.operator if headers is None else headers)
        assert got.status_code == status, got.text
        found: dict[str, Any] = got.json()
        return found

    def get(self, path: str, status: int = 200, *, headers: dict[str, str] | None = None) -> Any:
        got = self.client.get(f"billing/{path}", headers=headers or {})
        assert got.status_code == status, got.text
        return got.json()

    def work(self, core_seconds: int, user: str | None = None) -> None:
        one = run(core_seconds, at=self.within, project=self.gateway.project_id, site="local",
                  user=user or self.gateway.person.user_id)  # fmt: skip
        with self.gateway.services.db.write() as conn:
            charge(conn, one, now=self.now)

    def bill(self) -> dict[str, Any]:
        made: list[dict[str, Any]] = self.post("invoices", {"month": self.month})["made"]
        assert len(made) == 1
        return made[0]


@pytest.fixture
def billing(gateway: Gateway, client: httpx.Client, operator: dict[str, str]) -> Billing:
    return Billing(gateway, client, operator)


def test_a_month_is_billed_once_and_its_owner_reads_it_line_by_line(billing: Billing) -> None:
    billing.work(36_000)
    billing.work(7_200, user="someone")
    made = billing.bill()
    assert (made["number"], made["net"], made["tax"], made["gross"]) == ("PS-000001", "4.32", "0.26", "4.58")
    assert billing.post("invoices", {"month": billing.month}) == {"made": [], "refused": []}
    assert billing.get("invoices")["items"] == [made]
    whole = billing.get("invoices/PS-000001")
    assert [(x["user"], x["core_seconds"], x["exact"], x["net"]) for x in whole["lines"]] == [
        ("someone", 7_200, "0.72", "0.72"), ("alice", 36_000, "3.60", "3.60")
    ] or whole["lines"][0]["user"] == "alice"  # fmt: skip
    line = next(x["line"] for x in whole["lines"] if x["user"] == "alice")
    [why] = billing.get(f"invoices/PS-000001/lines/{line}/charges")["items"]
    assert (why["core_seconds"], why["amount"], why["segments"][0]["price_micro"]) == (36_000, "3.60", 360_000)
    assert billing.get("invoices/PS-000001/lines/9/charges", 404)["code"] == "not_found"


def test_a_block_is_a_line_of_the_month_that_it_was_ordered_in(billing: Billing) -> None:
    block = Order("o1", billing.gateway.project_id, "uni", "block", "core-seconds", 36_000, "CNY", billing.within,
                  price_micro=2_000_000)  # fmt: skip
    with billing.gateway.services.db.write() as conn:
        place_order(conn, block, now=billing.within)
    assert billing.bill()["net"] == "2.00"
    [line] = billing.get("invoices/PS-000001")["lines"]
    assert (line["kind"], line["net"], line["runs"], line["user"]) == ("order", "2.00", 0, "")
    assert "o1" in line["text"] and "10.00" in line["text"]
    assert billing.get("invoices/PS-000001/lines/1/charges")["items"] == []


def test_documents_come_as_pdf_csv_and_as_the_kept_text(billing: Billing) -> None:
    billing.work(36_000)
    made = billing.bill()
    for path, kind, begins in [
        ("pdf?lang=en", "application/pdf", b"%PDF-"),
        ("csv", "text/csv; charset=utf-8", b"\xef\xbb\xbf"),
    ]:
        got = billing.client.get(f"billing/invoices/PS-000001/{path}")
        assert (got.status_code, got.headers["content-type"]) == (200, kind)
        assert got.content.startswith(begins)
    kept = billing.client.get("billing/invoices/PS-000001/snapshot").content
    assert hashlib.sha256(kept).hexdigest() == made["sha256"]
    assert billing.client.get("billing/invoices/PS-000001/pdf?lang=fr").status_code == 422


def test_others_see_no_bill_and_only_the_operator_bills(billing: Billing, login: Callable[..., dict[str, str]]) -> None:
    billing.work(36_000)
    billing.bill()
    member, stranger = login("mia", role="researcher"), login("sam")
    for headers in (member, stranger):
        assert billing.get("invoices", headers=headers)["items"] == []
        for path in ("", "/pdf", "/csv", "/snapshot", "/lines/1/charges"):
            billing.get(f"invoices/PS-000001{path}", 404, headers=headers)
        billing.post("invoices", {"month": billing.month}, 403, headers=headers)
        billing.post("credit-notes", {"invoice": "PS-000001", "reason": "x", "credits": [{"line": 1, "net": "1"}]},
                     403, headers=headers)  # fmt: skip
        billing.post("payments-import", {"format": "csv", "content": "x"}, 403, headers=headers)
        billing.post("disputes", {"invoice": "PS-000001", "line": 1, "reason": "x"}, 404, headers=headers)
        billing.get("ageing", 403, headers=headers)
        billing.get("payments", 403, headers=headers)


def test_a_dispute_goes_through_the_centre_to_a_credit_note(
    billing: Billing, login: Callable[..., dict[str, str]]
) -> None:
    billing.work(36_000)
    billing.bill()
    carl = login("carl")
    services = billing.gateway.services
    with services.db.write() as conn:
        from gateway.identity.service import user_id_of

        conn.execute(table_of(CentreStaffRow).insert().values(user_id=user_id_of(conn, "carl"), site_id="local"))
    body = {"invoice": "PS-000001", "line": 1, "reason": "the node failed",
            "evidence": [{"name": "log", "sha256": "0" * 64}]}  # fmt: skip
    owner = {"Idempotency-Key": "k1"}
    made = billing.post("disputes", body, 201, headers=owner)
    assert billing.post("disputes", body, 201, headers=owner) == made
    assert billing.post("disputes", body, 409, headers={})["code"] == "conflict"
    where = f"disputes/{made['id']}"
    billing.get(where, 404, headers=carl)
    assert billing.get("ageing", headers=billing.operator)["payers"][0]["buckets"]["disputed"] == "3.82"
    billing.post(f"{where}/reject", {"text": "no"}, 409, headers={})  # the payer cannot
    assert billing.post(f"{where}/pass_on", {})["state"] == "with_centre"
    assert [d["id"] for d in billing.get("disputes?site=local&state=with_centre", headers=carl)["items"]] == [
        made["id"]
    ]
    assert billing.post(f"{where}/centre_answer", {"text": "it did"}, headers=carl)["state"] == "open"
    billing.post(f"{where}/credit", {"net": "99"}, 409)
    ended = billing.post(f"{where}/credit", {"net": "1.80"})
    assert (ended["state"], ended["events"][-1]["credit_note"]) == ("credited", "PSC-000001")
    assert billing.get("invoices/PS-000001")["open"] == "1.91"
    note = billing.get("invoices/PSC-000001")
    assert (note["kind"], note["gross"], note["corrects"], note["open"]) == ("credit_note", "-1.91", "PS-000001", None)
    assert len(billing.get("invoices/PSC-000001/lines/1/charges")["items"]) == 1


def test_a_month_is_closed_only_when_its_billing_is_done(billing: Billing) -> None:
    billing.work(36_000)
    year, number = map(int, billing.month.split("-"))
    billing.post("periods", {"year": year, "month": number}, 201)
    billing.post(f"periods/{year}/{number}/closing", {})
    refused = billing.client.post(f"billing/periods/{year}/{number}/close", headers=billing.operator)
    assert refused.status_code == 409
    assert refused.json()["detail"].startswith("The books refuse this: not billed yet: demo 1 runs, 3.60 CNY.")
    billing.bill()
    assert billing.post(f"periods/{year}/{number}/close", {})["state"] == "closed"


def test_a_month_may_be_closed_with_what_the_next_one_bills(billing: Billing) -> None:
    billing.work(36_000)
    year, number = map(int, billing.month.split("-"))
    billing.post("periods", {"year": year, "month": number}, 201)
    billing.post(f"periods/{year}/{number}/closing", {})
    closed = billing.client.post(f"billing/periods/{year}/{number}/close?leave_unbilled=true", headers=billing.operator)
    assert closed.json()["state"] == "closed"


def test_a_bank_file_pays_the_invoice_once(billing: Billing) -> None:
    billing.work(36_000)
    billing.bill()
    table = "reference,date,amount,payer,remittance\nb1,2026-11-20,3.00,Uni,PS 000001\nb2,2026-11-21,5.00,Uni,thanks\n"
    file = {"format": "csv", "content": table, "profile": {"account": "ACC"}}
    assert billing.post("payments-import", file | {"dry_run": True})["new"] == 2
    done = billing.post("payments-import", file)
    assert done == {"new": 2, "known": 0, "left_out": 0, "left_out_lines": [], "unallocated": 1, "top_ups": 0,
                    "proposed": 0, "problems": [], "allocated": [{"amount": "3.00", "currency": "CNY"}]}  # fmt: skip
    assert billing.post("payments-import", file)["known"] == 2
    with billing.gateway.services.db.read() as conn:  # the bank's file is on its way to be a leaf, once
        waiting_leaves = conn.execute(OUTBOX.select().where(OUTBOX.c.kind == "bank_file")).all()
    assert [row.ref for row in waiting_leaves] == [hashlib.sha256(table.encode()).hexdigest()]
    assert billing.get("invoices/PS-000001")["open"] == "0.82"
    [waiting] = billing.get("payments?unallocated=true", headers=billing.operator)["items"]
    where = f"payments/{waiting['id']}/allocate"
    billing.post(where, {"invoice": "PS-000001", "amount": "0.83"}, 409)
    paid = billing.post(where, {"invoice": "PS-000001", "amount": "0.82"})
    assert (paid["unallocated"], paid["pays"]) == ("4.18", [{"invoice": "PS-000001", "amount": "0.82"}])
    assert billing.get("ageing", headers=billing.operator) == {"payers": [], "invoices": [], "as_of": None}
    billing.gateway.check_books()


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("payments-import", {"format": "camt.053", "content": "<a/>"}),
        ("payments-import", {"format": "camt.053"}),
        ("payments-import", {"format": "csv", "content": "a,b\n"}),
        ("payments-import", {"format": "camt.053", "content_base64": "%%%"}),
        ("payments-import", {"format": "camt.053", "content_base64": base64.b64encode(b"\xff\xfe<").decode()}),
        ("payments-import", {"format": "camt.053", "content": '<!DOCTYPE a [<!ENTITY b "c">]><a>&b;</a>'}),
        ("payments-import", {"format": "pdf", "content": "x"}),
        ("payments-import", {"format": "csv", "content": "a", "profile": {"account": "a", "date_format": "\0"}}),
        ("invoices", {"month": "2026-13"}), ("invoices", {"month": "soon"}), ("invoices", {}),
        ("credit-notes", {"invoice": "PS-1", "reason": "", "credits": []}),
        ("tax-rules", {"code": "x", "kind": "reverse", "rate_ppm": 5, "valid_from": "2026-01-01T00:00:00Z"}),
        ("tax-rules", {"code": "x", "rate_ppm": 1.5, "valid_from": "2026-01-01T00:00:00Z"}),
        ("entities", {"id": "x", "legal_name": "a\u0000b"}), ("entities", {"id": "X", "legal_name": "y"}),
        ("disputes", {"invoice": "PS-1", "line": 0, "reason": "x"}),
        ("disputes", {"invoice": "PS-1", "line": 1, "reason": "x", "evidence": [{"name": "a", "sha256": "zz"}]}),
    ],
)  # fmt: skip
def test_bad_requests_say_what_is_wrong(billing: Billing, path: str, body: dict[str, Any]) -> None:
    found = billing.post(path, body, 422)
    assert found["errors"]


def test_requests_that_do_not_fit_the_books_are_conflicts(billing: Billing) -> None:
    billing.work(36_000)
    now_month = month_of(billing.now, "Asia/Shanghai").name
    refused = billing.post("invoices", {"month": now_month})["refused"]
    assert "cannot be billed yet" in refused[0]["why"]
    billing.post("entities", {"id": "other", "legal_name": "x", "prefix": "PS"}, 409)
    billing.post("entities", {"id": "other", "legal_name": "x", "zone": "Mars/Olympus"}, 409)
    billing.post("entities", {"id": "second", "legal_name": "x", "prefix": "TW"}, 201)
    assert "say which issuer" in billing.post("invoices", {"month": billing.month}, 409)["detail"]
    billing.post("invoices", {"month": billing.month, "issuer": "nobody"}, 404)
    billing.post("invoices", {"month": billing.month, "issuer": "op", "project": "nope"}, 404)
    billing.post("disputes", {"invoice": "PS-9", "line": 1, "reason": "x"}, 404, headers={})
    billing.post("payments/7/allocate", {"invoice": "PS-9", "amount": "1"}, 404)
    rule = {"code": "vat", "rate_ppm": 1, "valid_from": "2020-01-01T00:00:00Z"}
    assert "version from" in billing.post("tax-rules", rule, 409)["detail"]


def test_a_project_without_payer_holds_up_no_other(
    billing: Billing, operator: dict[str, str], gateway: Gateway
) -> None:
    billing.work(36_000)
    billing.client.post("projects", json={"name": "poor"}, headers=operator)
    found = billing.post("invoices", {"month": billing.month})
    assert [m["project"] for m in found["made"]] == ["demo"]
    assert found["refused"] == [{"project": "poor", "why": "nobody is named who pays for it"}]


def test_a_centre_that_is_seller_of_record_bills_its_own_sites(billing: Billing) -> None:
    billing.work(36_000)
    billing.post("entities", {"id": "centre", "legal_name": "Centre", "prefix": "CT"}, 201)
    agree(billing.gateway.services.db, agreement(site_ids=("local",)))
    assert billing.post("invoices", {"month": billing.month, "issuer": "op"})["made"] == []
    [made] = billing.post("invoices", {"month": billing.month, "issuer": "centre"})["made"]
    assert (made["number"], made["issuer"], made["net"]) == ("CT-000001", "centre", "3.60")


def test_documents_are_paged(billing: Billing) -> None:
    for _ in range(3):
        billing.work(36_000)
        billing.bill()
    first = billing.get("invoices?limit=2")
    second = billing.get(f"invoices?limit=2&cursor={first['next_cursor']}")
    assert [d["number"] for d in first["items"] + second["items"]] == ["PS-000003", "PS-000002", "PS-000001"]
    assert second["next_cursor"] is None
    assert billing.get("invoices?cursor=%00", 422)["code"] == "invalid"


# ---------------------------------------------------------------- reports and exports


def test_owner_and_member_see_what_was_spent_on_their_work(
    billing: Billing, login: Callable[..., dict[str, str]]
) -> None:
    billing.work(36_000)
    billing.work(7_200, user="someone")
    found = billing.get(f"reports?month={billing.month}&by=user&by=site")
    assert [(r["keys"], r["amount"]) for r in found["rows"]] == [
        ({"user": "alice", "site": "local"}, "3.60"), ({"user": "someone", "site": "local"}, "0.72")
    ]  # fmt: skip
    assert found["totals"][0]["core_seconds"] == 43_200
    member = login("mia", role="researcher")
    assert billing.get(f"reports?month={billing.month}", headers=member)["rows"] == []
    assert billing.get(f"reports?month={billing.month}&project=nope", headers=billing.operator)["rows"] == []
    svg = billing.client.get(f"billing/reports?month={billing.month}&by=user&format=svg")
    assert svg.headers["content-type"] == "image/svg+xml" and "alice: CN¥3.60" in svg.text
    table = billing.client.get(f"billing/reports?month={billing.month}&by=user&format=csv").text
    assert table.splitlines()[1] == "alice,CNY,1,36000,3.60,0.00,0,0.00"


@pytest.mark.parametrize("query", [
    "by=colour", "month=2026-13", "zone=Mars/X", "zone=/etc/passwd", "zone=Asia", "by=day&by=month", "by=site&by=site",
    "start=2026-01-02T00:00:00Z&end=2026-01-01T00:00:00Z", "start=yesterday", "by=day&start=2000-01-01T00:00:00Z",
    "project=%00", "format=pdf", "as_of=2026-01-01", "zone=%00",
])  # fmt: skip
def test_reports_that_cannot_be_are_refused(billing: Billing, query: str) -> None:
    assert billing.get(f"reports?{query}", 422)["code"] == "invalid"


def test_the_operator_sees_the_month_on_one_page(billing: Billing) -> None:
    billing.work(36_000)
    before = billing.get(f"months/{billing.month}", headers=billing.operator)
    assert before["not_billed"] == before["charged"] == [{"currency": "CNY", "runs": 1, "amount": "3.60"}]
    billing.bill()
    after = billing.get(f"months/{billing.month}", headers=billing.operator)
    assert (after["not_billed"], after["documents"]) == (
        [], [{"currency": "CNY", "kind": "invoice", "count": 1, "gross": "3.82"}]
    )  # fmt: skip
    assert after["open"][0]["number"] == "PS-000001"
    billing.get(f"months/{billing.month}", 403)
    billing.get("months/soon", 422, headers=billing.operator)


def test_exports_are_for_the_owner_of_the_project_or_the_operator(
    billing: Billing, login: Callable[..., dict[str, str]]
) -> None:
    billing.work(36_000)
    billing.bill()
    now = month_of(billing.now, "Asia/Shanghai").name
    for path, begins in [(f"focus?month={now}&project=demo", "\ufeffAvailabilityZone,"),
                         (f"ogf-ur?month={billing.month}&project=demo", "<?xml")]:  # fmt: skip
        got = billing.client.get(f"billing/exports/{path}")
        assert got.status_code == 200 and got.text.startswith(begins)
        assert "alice" in got.text
        for headers in (login(f"m{len(path)}", role="researcher"), login(f"s{len(path)}")):
            assert billing.client.get(f"billing/exports/{path}", headers=headers).status_code == 404
        assert billing.client.get(f"billing/exports/{path.replace('&project=demo', '')}").status_code == 403
    for kind, seen in [("csv", "invoice:PS-000001"), ("balances", "payer:uni:receivable"), ("beancount", "PS-000001"),
                       ("hledger", "payer:uni:receivable")]:  # fmt: skip
        path = f"billing/exports/general-ledger?month={now}&format={kind}"
        assert seen in billing.client.get(path, headers=billing.operator).text
        assert billing.client.get(path).status_code == 403
    billing.get("exports/general-ledger?month=2026-99", 422, headers=billing.operator)


def test_a_long_bank_file_lets_others_write_and_is_refused_whole(
    billing: Billing, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Booked some at a time; a known reference with another amount, wherever in the file, books nothing of it."""
    monkeypatch.setattr(bank, "_AT_ONCE", 2)
    billing.work(36_000)
    billing.bill()
    rows = [f"R{n},2026-11-02,{amount}\n" for n, amount in enumerate(["1.00", "3.82", "3.00", "0.82", "9.00"])]
    file = {"format": "csv", "content": "reference,date,amount\n" + "".join(rows), "profile": {"account": "ACC"}}
    twice = file | {"content": f"{file['content']}R0,2026-11-02,2.00\n"}
    doubted = billing.post("payments-import", twice)["problems"]
    assert "R0" in doubted[0]["why"] and billing.get("payments", headers=billing.operator)["items"] == []

    done = billing.post("payments-import", file)

    assert (done["new"], done["known"], done["unallocated"]) == (5, 0, 4)
    assert done["allocated"] == [{"amount": "3.82", "currency": "CNY"}]
    assert billing.post("payments-import", file)["known"] == 5
    other = file | {"content": "reference,date,amount\nR8,2026-11-02,1.00\nR9,2026-11-02,1.00\nR0,2026-11-02,2.00\n"}
    assert "R0" in billing.post("payments-import", other, 409)["detail"]
    assert len(billing.get("payments", headers=billing.operator)["items"]) == 5
    billing.gateway.check_books()
