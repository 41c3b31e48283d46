"""Money that came in and disputes, by the command line: import, allocate, ageing; pass on, answer, credit."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

import httpx
import pytest

from accounting.invoicing.dispute_store import raise_dispute
from tests.builders import Gateway
from tests.unit.gateway.test_api_billing import Billing

Type = Callable[..., str]
pytestmark = pytest.mark.usefixtures("billing")
BACK = "Ref;Date;Amount;Payer;Purpose\nb1;2026-11-22;-3,00;Uni;Return PS-000001\nb3;2026-11-22;-0,50;Bank;fee\n"
BANK = "Ref;Date;Amount;Payer;Purpose\nb1;2026-11-20;3,00;Uni;PS-000001\nb2;2026-11-21;5,00;Uni;thanks\n"
PROFILE = {"account": "CN-1", "bank_ref": "Ref", "booked_on": "Date", "amount": "Amount", "payer_name": "Payer",
           "remittance": "Purpose", "delimiter": ";", "decimal_mark": ","}  # fmt: skip


@pytest.fixture
def billing(gateway: Gateway, client: httpx.Client, operator: dict[str, str]) -> Billing:
    """One invoice, PS-000001, of one line: 3.60 CNY and tax."""
    made = Billing(gateway, client, operator)
    made.work(36_000)
    made.bill()
    return made


@pytest.fixture
def alice(gateway: Gateway) -> dict[str, str]:
    return {"Authorization": f"Bearer {gateway.secret}"}


def test_a_bank_file_is_tried_imported_and_its_rest_allocated(type_: Type, tmp_path: Path) -> None:
    file, profile = tmp_path / "bank.csv", tmp_path / "profile.json"
    file.write_text(BANK)
    profile.write_text(json.dumps(PROFILE))
    words = ("billing", "import-payments", str(file), "--format", "csv", "--profile", str(profile))

    assert type_(*words, "--dry-run") == "It holds 2 payments; 0 other movements are left out.\n"
    assert json.loads(type_("billing", "payments", "--json"))["items"] == [], "a dry run imports nothing"
    told = type_(*words).splitlines()
    assert told[:2] == ["2 new payments, 0 known before, 0 other movements left out", "3.00 CNY pay invoices"]
    assert told[2].startswith("1 found no invoice")
    assert type_(*words).splitlines()[0] == "0 new payments, 2 known before, 0 other movements left out"

    [left] = json.loads(type_("billing", "payments", "--waiting", "--json"))["items"]
    told = type_("billing", "allocate", str(left["id"]), "PS-000001", "0.82").splitlines()
    assert told[0].endswith(": 4.18 CNY of 5.00 are left") and told[1].split() == ["PS-000001", "0.82"]
    assert "payer owes" not in type_("billing", "ageing")
    again = json.loads(type_("billing", "allocate", str(left["id"]), "PS-000001", "0.32", "--take-back", "--json"))
    assert (again["unallocated"], again["pays"]) == ("4.50", [{"invoice": "PS-000001", "amount": "0.50"}])
    told = type_("billing", "ageing", "--as-of", "2020-01-01T00:00:00Z")
    assert "(none)" in told and "As it was known on 2020-01-01" in told and "owes" not in told
    lines = type_("billing", "ageing").splitlines()
    assert lines[1].split()[:4] == ["PS-000001", "uni", "0.32", "CNY"] and lines[-1].endswith(" owes 0.32 CNY")


def test_what_goes_back_opens_its_invoice_again_and_what_is_left_out_is_told(
    type_: Type, tmp_path: Path, billing: Billing
) -> None:
    file, profile = tmp_path / "bank.csv", tmp_path / "profile.json"
    profile.write_text(json.dumps(PROFILE))
    words = ("billing", "import-payments", str(file), "--format", "csv", "--profile", str(profile))
    file.write_text(BANK)
    type_(*words)
    assert billing.get("invoices/PS-000001")["open"] == "0.82"
    file.write_text(BACK)
    told = type_(*words).splitlines()
    assert told[0] == "1 new payments, 0 known before, 1 other movements left out"
    assert told[-1] == "left out: row 3: -0.50 CNY, money that went out, and no returned payment: fee"
    assert billing.get("invoices/PS-000001")["open"] == "3.82"


def test_an_invoice_of_its_amount_but_another_payer_is_proposed(type_: Type, tmp_path: Path) -> None:
    file, profile = tmp_path / "bank.csv", tmp_path / "profile.json"
    profile.write_text(json.dumps(PROFILE | {"payer_account": "Account"}))
    file.write_text("Ref;Date;Amount;Payer;Purpose;Account\nb7;2026-11-20;3,82;Other Lab;thanks;DE02\n")
    told = type_("billing", "import-payments", str(file), "--format", "csv", "--profile", str(profile)).splitlines()
    assert told[1].startswith("1 have the amount of an open invoice, of another payer")
    [waiting] = json.loads(type_("billing", "payments", "--waiting", "--json"))["items"]
    assert (waiting["perhaps_invoices"], waiting["payer_account"]) == (["PS-000001"], "DE02")
    assert "PS-000001" in type_("billing", "payments", "--waiting")


def test_a_file_with_a_problem_is_told_line_by_line_and_not_imported(
    type_: Type, tmp_path: Path, alice: dict[str, str]
) -> None:
    file, profile = tmp_path / "bank.csv", tmp_path / "profile.json"
    file.write_text(BANK.replace("5,00", "five"))
    profile.write_text(json.dumps(PROFILE))
    words = ("billing", "import-payments", str(file), "--format", "csv", "--profile", str(profile))
    told = type_(*words, fails=True).splitlines()
    assert told[0].startswith("row 3: ") and told[-1] == "Nothing was imported: 1 problem(s)."
    assert json.loads(type_("billing", "payments", "--json"))["items"] == []
    type_(*words, as_=alice, fails=True)  # an owner of a project is not the operator
    type_("billing", "import-payments", str(file), "--format", "camt.053", fails=True)


def test_a_dispute_goes_to_the_centre_and_back_by_typing(
    type_: Type, tmp_path: Path, alice: dict[str, str], gateway: Gateway, login: Callable[..., dict[str, str]]
) -> None:
    carla = login("carla", staff="local")
    shown = tmp_path / "node.log"
    shown.write_bytes(b"node n3 is down")
    type_("dispute", "PS-000001", "1", "--reason", "node failed", "--evidence", str(shown), as_=alice)
    [dispute] = json.loads(type_("disputes", "list", "--json"))
    name = dispute["id"]
    assert dispute["events"][0]["evidence"] == [
        {"name": "node.log", "sha256": hashlib.sha256(b"node n3 is down").hexdigest()}
    ]
    assert type_("disputes", "list", as_=carla).splitlines()[-1] == "(none)", "the centre was not asked yet"

    type_("disputes", "comment", name, "--text", "see the log", as_=alice)
    type_("disputes", "pass-on", name, "--text", "please look", as_=alice, fails=True)
    assert "with centre" in type_("disputes", "pass-on", name, "--text", "please look")
    assert name in type_("disputes", "list", "--state", "with_centre", "--site", "local", as_=carla)
    assert "text" in type_("disputes", "answer", name, as_=carla, fails=True)
    type_("disputes", "answer", name, "--text", "it was down", "--evidence", str(shown), as_=carla)
    told = type_("disputes", "show", name, as_=carla)
    assert "centre answer by carla (centre): it was down" in told
    assert told.count(hashlib.sha256(b"node n3 is down").hexdigest()) == 2
    ended = type_("disputes", "credit", name, "--net", "1.00", "--text", "half of it")
    assert "credit note PSC-000001: half of it" in ended and "credited" in ended.splitlines()[1]
    type_("disputes", "reject", name, "--text", "no", fails=True)


def test_a_dispute_is_withdrawn_by_who_raised_it_and_rejected_with_a_reason(type_: Type, alice: dict[str, str]) -> None:
    type_("dispute", "PS-000001", "1", "--reason", "too much", as_=alice)
    [first] = json.loads(type_("disputes", "list", "--project", "demo", "--json", as_=alice))
    type_("disputes", "reject", first["id"], fails=True)
    assert "withdrawn" in type_("disputes", "withdraw", first["id"], as_=alice)
    type_("dispute", "PS-000001", "1", "--reason", "too much", as_=alice)
    [second] = json.loads(type_("disputes", "list", "--state", "open", "--json", as_=alice))
    assert "rejected" in type_("disputes", "reject", second["id"], "--text", "the log says so")


@pytest.mark.parametrize("words", [
    ("billing", "import-payments", "{file}", "--format", "csv", "--profile", "{file}"),
    ("billing", "entity", "{file}"), ("billing", "tax-rule", "{file}"), ("contracts", "propose", "agreement", "{file}"),
    ("statements", "send", "{file}", "--site", "local", "--month", "2026-11", "--currency", "CNY", "--format", "csv",
     "--profile", "{file}"),
])  # fmt: skip
def test_a_file_that_is_no_json_is_told_so(type_: Type, tmp_path: Path, words: tuple[str, ...]) -> None:
    file = tmp_path / "odd.json"
    for text in ("{not json", '["no", "object"]'):
        file.write_text(text, "utf-8")
        assert f"{file} is no JSON: " in type_(*(word.replace("{file}", str(file)) for word in words), fails=True)


def test_a_deposit_pays_an_invoice_and_the_rest_is_written_off(type_: Type, billing: Billing) -> None:
    billing.post("top-ups", {"project": "demo", "payer": "uni", "amount": "3.00", "reference": "TT-1",
                             "received_at": "2026-11-20T00:00:00Z"}, 201)  # fmt: skip
    told = type_("billing", "clear", "PS-000001", "deposit", "--reason", "paid ahead")
    assert told.endswith(": posted\n")
    assert billing.get("invoices/PS-000001")["open"] == "0.82"
    type_("billing", "clear", "PS-000001", "write-off", "--amount", "0.80", "--reason", "bank charges")
    assert billing.get("ageing", headers=billing.operator)["payers"][0]["total"] == "0.02"
    shown = json.loads(type_("billing", "clearings", "--invoice", "PS-000001", "--json"))["items"]
    assert [(x["kind"], x["amount"], x["state"]) for x in shown] == [
        ("write_off", "0.80", "posted"), ("deposit", "3.00", "posted")
    ]  # fmt: skip
    type_("billing", "clear", "PS-000001", "write-off", "--amount=-0.80", "--reason", "paid after all")
    assert billing.get("invoices/PS-000001")["open"] == "0.82"


def test_a_clearing_that_cannot_be_says_what_can_and_much_is_decided_by_two(billing: Billing) -> None:
    asked = {"invoice": "PS-000001", "kind": "write_off", "amount": "9.00", "reason": "gone away"}
    got = billing.post("clearings", asked, 409)
    assert "between 0.00 and 3.82 CNY of PS-000001" in got["detail"]
    assert billing.post("clearings", asked | {"amount": "1,5"}, 422)["code"] == "invalid"
    assert billing.post("clearings", asked | {"invoice": "PS-000009"}, 404)["code"] == "not_found"
    assert billing.client.post("billing/clearings", json=asked).status_code == 403
    assert billing.post("clearings/w9/decide", {"approve": True}, 409)["detail"].startswith("nobody asked")


def test_the_month_says_which_disputes_nobody_has_answered_in_time(type_: Type, billing: Billing) -> None:
    services = billing.gateway.services
    asked = {"invoice": "PS-000001", "line": 1, "reason": "node failed", "by": "alice"}
    with services.db.write() as conn:
        raise_dispute(conn, dispute_id="d1", now=services.clock() - timedelta(days=20), **asked)
    assert "1 dispute(s) wait beyond the day of their answer" in type_("month", billing.month)
    type_("disputes", "comment", "d1", "--text", "we look into it")
    assert "dispute(s)" not in type_("month", billing.month)
