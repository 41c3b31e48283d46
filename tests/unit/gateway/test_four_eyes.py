"""Above the threshold two persons decide, whichever door the money takes, and in however many pieces. 1000 CNY here."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any

import httpx
import pytest

from tests.builders import Gateway
from tests.unit.gateway.test_api_billing import Billing
from tests.unit.gateway.test_money_races import at_once

Headers = dict[str, str]


@pytest.fixture
def billing(gateway: Gateway, client: httpx.Client, operator: Headers) -> Billing:
    return Billing(gateway, client, operator)


@pytest.fixture
def other(login: Callable[..., Headers]) -> Headers:
    return login("other", operator=True, scopes=("read", "submit", "admin"))


def adjust(billing: Billing, amount: str, project: str = "demo") -> str:
    body = {"project": project, "kind": "adjustment", "amount": amount, "reason": "goodwill"}
    return str(billing.post("adjustments", body, 201)["state"])


def clear(billing: Billing, amount: str) -> str:
    body = {"invoice": "PS-000001", "kind": "write_off", "amount": amount, "reason": "bankrupt"}
    return str(billing.post("clearings", body, 201)["state"])


def refund(billing: Billing, amount: str, status: int = 201) -> dict[str, Any]:
    return billing.post("refunds", {"project": "demo", "amount": amount, "reason": "left over"}, status)


def top_up(billing: Billing, amount: str) -> None:
    came = {"project": "demo", "payer": "uni", "amount": amount, "reference": amount,
            "received_at": "2026-11-20T00:00:00Z"}  # fmt: skip
    billing.post("top-ups", came, 201)


def test_small_pieces_through_two_doors_are_one_large_one(billing: Billing) -> None:
    billing.work(9_000_000)  # 900 CNY
    billing.bill()
    assert (adjust(billing, "-400"), clear(billing, "400")) == ("posted", "posted")
    assert (adjust(billing, "-201"), clear(billing, "201")) == ("waiting", "waiting")
    assert (adjust(billing, "-200"), clear(billing, "0.01")) == ("posted", "waiting")


def test_a_large_gift_by_voucher_pays_after_two_have_said_so(
    billing: Billing, client: httpx.Client, other: Headers
) -> None:
    """Else whoever makes a voucher and owns a project pays its bills with nothing."""
    billing.work(20_000_000)  # 2 000 CNY, and 120 of tax
    billing.bill()
    voucher = {"code": "FROM-ME-TO-ME", "commodity": "CNY", "amount": 5_000_000_000}
    assert client.post("vouchers", json=voucher, headers=billing.operator).status_code == 201
    assert client.post("vouchers/redeem", json={"code": "FROM-ME-TO-ME", "project": "demo"}).status_code == 201
    body = {"invoice": "PS-000001", "kind": "voucher", "reason": "a gift"}
    small = billing.post("clearings", body | {"amount": "900"}, 201)
    assert (small["state"], adjust(billing, "-200")) == ("posted", "waiting")
    rest = billing.post("clearings", body, 201)
    assert (rest["state"], billing.get("invoices/PS-000001")["open"]) == ("waiting", "1220.00")
    billing.post(f"clearings/{rest['id']}/decide", {"approve": True}, 403)
    billing.post(f"clearings/{rest['id']}/decide", {"approve": True}, headers=other)
    assert billing.get("invoices/PS-000001")["open"] == "0.00"
    billing.gateway.check_books()


def test_projects_of_one_payer_are_counted_together(billing: Billing, client: httpx.Client) -> None:
    for name, payer in (("second", "uni"), ("third", "else")):
        made = client.post("projects", json={"name": name, "currency": "CNY"}, headers=billing.operator)
        assert made.status_code == 201
        if payer != "uni":
            billing.post("entities", {"id": payer, "legal_name": payer}, 201)
        put = client.put(f"billing/projects/{name}/payer", json={"payer": payer}, headers=billing.operator)
        assert put.status_code == 200
    assert adjust(billing, "600") == "posted"
    assert adjust(billing, "600", "second") == "waiting"
    assert adjust(billing, "600", "third") == "posted"


def test_a_large_deposit_is_paid_back_by_two(billing: Billing, other: Headers, type_: Callable[..., str]) -> None:
    top_up(billing, "3000")
    assert refund(billing, "1000")["state"] == "posted"
    asked = refund(billing, "0.01")
    assert asked["state"] == "waiting"
    refused = refund(billing, "2000.01", 402)
    assert refused["code"] == "credit_exhausted"
    assert refused["detail"].startswith("At most 2000.00 CNY can be paid back"), refused
    large = refund(billing, "2000")["id"]
    decide = {"approve": True}
    assert billing.post(f"refunds/{large}/decide", decide, 403)["detail"] == "somebody else must decide this"
    assert f"{large}: posted" in type_("billing", "decide", large, "--approve", as_=other)
    assert billing.post(f"refunds/{large}/decide", decide, 409, headers=other)["detail"].endswith("posted already.")
    assert billing.post(f"refunds/{asked['id']}/decide", decide, 402, headers=other)["code"] == "credit_exhausted"
    assert billing.post(f"refunds/{asked['id']}/decide", {"approve": False}, headers=other)["state"] == "refused"
    billing.post("refunds/q9/decide", decide, 409, headers=other)
    listed = billing.get("refunds", headers=billing.operator)["items"]
    assert [(r["amount"], r["state"]) for r in listed] == [("-2000.00", "posted"), ("-0.01", "refused"),
                                                           ("-1000.00", "posted")]  # fmt: skip
    billing.get("refunds", 403)
    billing.post(f"refunds/{large}/decide", decide, 403, headers={})
    assert "-2000.00" in type_("billing", "refunds")
    billing.gateway.check_books()


def test_a_deposit_and_an_adjustment_count_together(billing: Billing) -> None:
    top_up(billing, "900")
    assert refund(billing, "600")["state"] == "posted"
    assert adjust(billing, "-401") == "waiting"
    assert adjust(billing, "-400") == "posted"
    assert refund(billing, "0.01")["state"] == "waiting"


def test_pieces_asked_for_at_once_see_each_other(billing: Billing) -> None:
    top_up(billing, "4000")
    back = {"project": "demo", "amount": "600", "reason": "left over"}
    piece = {"project": "demo", "kind": "adjustment", "amount": "-600", "reason": "goodwill"}
    asks = [("billing/refunds", back, billing.operator), ("billing/adjustments", piece, billing.operator)] * 3
    found = Counter(a.json()["state"] for a in at_once(billing.client, *asks))
    assert found == {"posted": 1, "waiting": 5}
    billing.gateway.check_books()


def credit(billing: Billing, net: str, status: int = 201) -> dict[str, Any]:
    body = {"invoice": "PS-000001", "reason": "the node failed", "credits": [{"line": 1, "net": net}]}
    return billing.post("credit-notes", body, status)


def test_a_large_credit_note_is_issued_by_two(billing: Billing, other: Headers, type_: Callable[..., str]) -> None:
    billing.work(20_000_000)  # 2000 CNY and tax
    billing.bill()
    small = credit(billing, "100")
    assert (small["state"], small["number"], small["gross"]) == ("posted", "PSC-000001", "-106.00")
    asked = type_("billing", "credit", "PS-000001", "1", "900", "--reason", "the node failed", as_=billing.operator)
    assert asked.endswith(": waiting \n") and billing.get("invoices/PS-000001")["open"] == "2014.00"
    waits = asked.partition(":")[0]
    billing.post(f"credit-notes/{waits}/decide", {"approve": True}, 403)  # not by who asked
    assert f"{waits}: posted" in type_("billing", "decide", waits, "--approve", as_=other)
    assert billing.get("invoices/PS-000001")["open"] == "1060.00"
    billing.post(f"credit-notes/{waits}/decide", {"approve": True}, 409, headers=other)
    again = credit(billing, "900")
    assert billing.post(f"credit-notes/{again['id']}/decide", {"approve": False}, headers=other)["state"] == "refused"
    credit(billing, "1000.01", 409)
    listed = type_("billing", "credits", as_=billing.operator)
    assert "954.00" in listed and "PSC-000002" in listed and "refused" in listed
    shown = billing.get("credit-notes", headers=billing.operator)["items"]
    assert [c["state"] for c in shown] == ["refused", "posted", "posted"]


def test_credit_notes_in_pieces_and_through_a_dispute_are_one_large_one(billing: Billing, other: Headers) -> None:
    billing.work(20_000_000)
    billing.bill()
    assert (credit(billing, "500")["state"], adjust(billing, "-400")) == ("posted", "posted")
    assert (credit(billing, "500")["state"], adjust(billing, "-100")) == ("waiting", "waiting")
    made = billing.post("disputes", {"invoice": "PS-000001", "line": 1, "reason": "it stood still"}, 201, headers={})
    where = f"disputes/{made['id']}"
    asked = billing.post(f"{where}/credit", {"net": "600", "text": "sorry"})
    assert asked["state"] == "open" and "waits for a second operator" in asked["events"][-1]["text"]
    billing.post(f"{where}/credit", {"net": "600"}, 409)
    [waits] = [c for c in billing.get("credit-notes", headers=billing.operator)["items"] if c["dispute"] == made["id"]]
    done = billing.post(f"credit-notes/{waits['id']}/decide", {"approve": True}, headers=other)
    assert (done["state"], done["gross"]) == ("posted", "-636.00")
    ended = billing.get(where)
    assert (ended["state"], ended["events"][-1]["credit_note"]) == ("credited", done["number"])


def test_a_large_credit_note_asked_for_at_once_is_issued_once(billing: Billing, other: Headers) -> None:
    billing.work(20_000_000)
    billing.bill()
    body = {"invoice": "PS-000001", "reason": "so", "credits": [{"line": 1, "net": "900"}]}
    answers = at_once(billing.client, *[("billing/credit-notes", body, billing.operator)] * 4)
    assert [a.status_code for a in answers] == [201] * 4
    waiting = [c for c in billing.get("credit-notes", headers=billing.operator)["items"] if c["state"] == "waiting"]
    assert len(waiting) == 3  # the first within 1000, the others beyond it
