"""What the operator's accountant and a centre type to agree: parties, documents, signatures, an order, the exports."""

from __future__ import annotations

import base64
import subprocess
from collections.abc import Callable
from pathlib import Path
from zoneinfo import ZoneInfo

import httpx
from sqlalchemy import select

from accounting.store.schema import CHARGES
from tests.builders import Gateway
from tests.unit.gateway.test_api_billing import Billing

Type = Callable[..., str]
EXAMPLES = Path(__file__).parents[3] / "docs" / "examples"


def keygen(file: Path) -> str:
    """A key pair as `penstock_witness.py keygen` makes it; the public half."""
    subprocess.run(["openssl", "genpkey", "-algorithm", "ed25519", "-out", file], check=True, capture_output=True)
    shown = subprocess.run(["openssl", "pkey", "-in", file, "-pubout", "-outform", "DER"], check=True,
                           capture_output=True)  # fmt: skip
    return base64.b64encode(shown.stdout[-32:]).decode()


def test_both_sides_sign_an_agreement_by_the_command_line_alone(type_: Type, tmp_path: Path) -> None:
    public = {name: keygen(tmp_path / name) for name in ("op", "alphac")}
    type_("contracts", "party", "op", "--role", "operator", "--legal-name", "Op", "--key", f"o={public['op']}")
    shown = type_("contracts", "party", "alphac", "--role", "centre", "--legal-name", "Alpha", "--site", "alpha",
                  "--key", f"c={public['alphac']}")  # fmt: skip
    assert f"c={public['alphac']}" in shown and "Alpha" in shown
    type_("contracts", "propose", "agreement", str(EXAMPLES / "agreement.json"))

    sign = ("contracts", "sign", "agreement", "a1", "1")
    assert "signed by op" in type_(*sign, "--party", "op", "--key-id", "o", "--key", str(tmp_path / "op"))
    wrong = (*sign, "--party", "alphac", "--key-id", "c")
    assert "confirms this signature" in type_(*wrong, "--key", str(tmp_path / "op"), fails=True)
    assert "--signature-file" in type_(*wrong, fails=True)
    assert "op alphac" in type_(*wrong, "--key", str(tmp_path / "alphac"))


def test_a_party_needs_a_role_a_name_and_keys_with_an_id(type_: Type) -> None:
    assert "KEY_ID=PUBLIC" in type_("contracts", "party", "op", "--role", "operator", fails=True)
    words = ("--role", "operator", "--legal-name", "Op", "--key", "abc")
    assert "KEY_ID=PUBLIC" in type_("contracts", "party", "op", *words, fails=True)


def test_a_block_of_core_hours_is_ordered(
    gateway: Gateway, client: httpx.Client, operator: dict[str, str], type_: Type
) -> None:
    Billing(gateway, client, operator)
    number = type_("orders", "place", "demo", "block", "10", "--price", "8", "--payer", "uni").strip()
    [row] = [line.split() for line in type_("orders", "placed", "demo").splitlines() if line.startswith(number)]
    assert row[1:6] == ["block", "10.000", "core-hours", "8.00", "CNY"]
    assert "whole number" in type_("orders", "place", "demo", "block", "1.5", "--payer", "uni", fails=True)


def test_a_month_is_exported_to_files(
    gateway: Gateway, client: httpx.Client, operator: dict[str, str], type_: Type, tmp_path: Path
) -> None:
    billing = Billing(gateway, client, operator)
    billing.work(36_000)
    billing.bill()
    for kind, more, begins in (
        ("general-ledger", ("--format", "beancount"), 'option "title"'), ("ogf-ur", (), "<?xml"), ("focus", (), ""),
    ):  # fmt: skip
        type_("billing", "export", kind, billing.month, "-o", str(tmp_path / kind), *more)
        assert (tmp_path / kind).read_text().startswith(begins)
    refused = ("billing", "export", "focus", billing.month, "-o", str(tmp_path / "x"), "--format", "csv")
    assert "general ledger" in type_(*refused, fails=True)
    type_("billing", "export", "focus", billing.month, "-o", str(tmp_path / "x"), "--project", "nobodys", fails=True)
    assert not list(tmp_path.glob("x*"))  # nor a part of it


def test_a_bill_shared_by_two_and_a_voucher_are_typed(
    gateway: Gateway, client: httpx.Client, operator: dict[str, str], type_: Type
) -> None:
    billing = Billing(gateway, client, operator)
    billing.post("entities", {"id": "lab", "legal_name": "Laboratory"}, 201)
    type_("billing", "payers", "demo", "uni=60", "lab=40", "--from", "2026-01-01T00:00:00Z")
    billing.work(36_000)
    with gateway.services.db.read() as conn:
        [(number, parts)] = conn.execute(select(CHARGES.c.id, CHARGES.c.payers)).all()
    assert parts == {"uni": 2_160_000, "lab": 1_440_000}
    assert "uni pays 2.16 CNY of it\nlab pays 1.44 CNY of it" in type_("billing", "explain", str(number))
    assert "ENTITY=WEIGHT" in type_("billing", "payers", "demo", "uni:60", fails=True)

    assert "12.50 CNY" in type_("billing", "voucher", "WELCOME-2026", "12.50")
    assert "3.000 core-hours" in type_("billing", "voucher", "HOURS-2026", "3", "--core-hours")
    for wrong in ("-1", "x", "0.0000001", "nan"):
        assert "number" in type_("billing", "voucher", "WELCOME-2027", "--", wrong, fails=True)
    for code in ("WELCOME-2026", "HOURS-2026"):
        type_("billing", "redeem", code, "demo")
    shown = type_("billing", "allocations", "demo")
    assert "12.50" in shown and "3.000" in shown


def test_a_month_names_the_orders_that_no_invoice_has(
    type_: Type, gateway: Gateway, client: httpx.Client, operator: dict[str, str]
) -> None:
    Billing(gateway, client, operator)
    type_("orders", "place", "demo", "block", "10", "--price", "8", "--payer", "uni")
    month = f"{gateway.services.clock().astimezone(ZoneInfo('Asia/Shanghai')):%Y-%m}"
    assert "Ordered: 8.00 CNY (1), of which 8.00 not billed" in type_("month", month)
