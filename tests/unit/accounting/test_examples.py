"""The documents of docs/examples, which people begin with, are whole and mean what docs/a-month.md says of them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from accounting.agreement import agreement_of
from accounting.calendar import month
from accounting.payments.bank_csv import CsvProfile, read_csv
from accounting.reconciling.statement import Header
from accounting.reconciling.statement_formats import Profile, read_statement
from accounting.tariff import problems, tariff_of
from gateway.api.billing_schemas import EntityIn, TaxRuleIn

EXAMPLES = Path(__file__).parents[3] / "docs" / "examples"


def example(name: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((EXAMPLES / name).read_text())
    return found


def test_the_agreement_and_its_tariff_are_whole() -> None:
    agreement = agreement_of((EXAMPLES / "agreement.json").read_bytes())
    tariff = tariff_of((EXAMPLES / "tariff.json").read_bytes())
    assert tariff.agreement_id == agreement.id
    assert {rule.site_id for rule in tariff.rules} == set(agreement.site_ids)
    assert not problems(tariff.rules)
    assert agreement.shares.split(100) == {"alphac": 80, "op": 20}


def test_the_profile_of_a_statement_reads_what_a_centre_in_china_exports() -> None:
    head, total = "作业号,用户,开始,结束,核数,核时,金额", "合计,,,,,4.0,0.48"
    text = f"{head}\n7,u,2026-11-02 08:00:00,2026-11-02 09:00:00,4,4.0,0.48\n{total}\n"
    found = read_statement(text.encode("gb18030"), site_id="alpha", format_name="csv",
                           header=Header(month("2026-11", "Asia/Shanghai"), "CNY"),
                           profile=Profile(**example("statement-profile.json")))  # fmt: skip
    assert (found.problems, found.read.lines, found.read.core_seconds) == ((), 1, 4 * 3600)
    assert (found.header.core_seconds, found.header.amount_micro) == (4 * 3600, 480_000)


def test_who_bills_whom_is_of_the_agreements_parties() -> None:
    vat, issuer, payer = (example(f"{name}.json") for name in ("vat", "issuer", "payer"))
    TaxRuleIn(**vat)
    assert EntityIn(**issuer).tax_code == vat["code"] and issuer["id"] == example("agreement.json")["operator_id"]
    assert not EntityIn(**payer).prefix


def test_the_profile_of_a_bank_reads_its_csv() -> None:
    text = "Ref;Date;Amount;Currency;Payer;Purpose\nB-1;2026-12-03;1000,50;CNY;University;PS-000001\n"
    found = read_csv(text.encode(), CsvProfile(**example("bank-profile.json")))
    (one,) = found.transactions
    assert (one.bank_ref, one.amount_minor, one.remittance) == ("B-1", 100_050, "PS-000001")
