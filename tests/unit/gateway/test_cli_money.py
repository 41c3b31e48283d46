"""`penstock spend`, `invoices`, `dispute` and `month` against a served gateway."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest
from click.testing import CliRunner, Result
from penstock.cli import penstock
from penstock.errors import NotFound

from gateway.billing import evidence
from tests.builders import Gateway
from tests.unit.gateway.test_api_billing import Billing


@pytest.fixture
def billing(gateway: Gateway, client: httpx.Client, operator: dict[str, str]) -> Billing:
    made = Billing(gateway, client, operator)
    made.work(36_000)
    made.work(7_200, user="someone")
    made.bill()
    return made


@pytest.fixture
def cli(billing: Billing) -> Callable[..., Result]:
    url = str(billing.client.base_url).removesuffix("/api/v2/")

    def run(*args: str, headers: dict[str, str] | None = None) -> Result:
        token = (headers or {}).get("Authorization", f"Bearer {billing.gateway.secret}").removeprefix("Bearer ")
        env = {"PENSTOCK_URL": url, "PENSTOCK_TOKEN": token, "COLUMNS": "200"}
        return CliRunner().invoke(penstock, args, env=env, standalone_mode=False)

    return run


def said(result: Result) -> str:
    assert result.exception is None, result.exception
    return result.output


def test_owner_sees_what_was_spent_on_what(billing: Billing, cli: Callable[..., Result], tmp_path: Path) -> None:
    text = said(cli("spend", "--month", billing.month, "--by", "user"))
    lines = [line.split() for line in text.splitlines()]
    assert lines[0] == ["USER", "RUNS", "CORE-HOURS", "AMOUNT", "IN"]
    assert lines[1][:5] == ["alice", "1", "10.000", "3.60", "CNY"] and lines[1][5] == "█" * 24
    total, span = text.splitlines()[-2:]
    assert total == "Total 4.32 CNY · 2 runs · 12.000 core-hours"
    assert span.startswith(f"Work that ended {billing.month}-01 to {billing.month}-") and "(Asia/Shanghai)" in span
    found: dict[str, Any] = json.loads(said(cli("spend", "--month", billing.month, "--json")))
    assert found["totals"][0]["amount"] == "4.32"
    said(cli("spend", "--month", billing.month, "--plot", str(tmp_path / "x.svg"), "--csv", str(tmp_path / "x.csv")))
    assert (tmp_path / "x.svg").read_text().startswith("<svg") and "4.32" in (tmp_path / "x.csv").read_text()
    assert said(cli("spend", "--project", "nothing")).splitlines()[-2] == "Nothing was spent."


def test_owner_reads_an_invoice_and_why_a_line_is_there(
    billing: Billing, cli: Callable[..., Result], tmp_path: Path
) -> None:
    [row] = [line for line in said(cli("invoices")).splitlines() if line.startswith("PS-")]
    assert row.split()[:7] == ["PS-000001", "invoice", "demo", "uni", billing.month, "4.58", "CNY"]
    text = said(cli("invoices", "PS-000001", "--pdf", str(tmp_path / "x.pdf"), "--lang", "zh"))
    assert "Billed to uni" in text
    assert "Net 4.32 CNY + tax 0.26 CNY = 4.58 CNY" in text and "Open 4.58 CNY" in text
    assert (tmp_path / "x.pdf").read_bytes().startswith(b"%PDF-")
    why = said(cli("invoices", "PS-000001", "--why", "1"))
    assert "allocated cores" in why
    number = why.splitlines()[1].split()[0]  # of its charge: explain takes it
    assert "allocated cores" in said(cli("billing", "explain", number))
    assert len(json.loads(said(cli("invoices", "PS-000001", "--why", "1", "--json")))) == 1


def test_owner_disputes_a_line(billing: Billing, cli: Callable[..., Result]) -> None:
    assert "open" in said(cli("dispute", "PS-000001", "1", "--reason", "node failed"))
    [found] = json.loads(said(cli("dispute", "--json")))
    assert (found["invoice"], found["state"], found["reason"]) == ("PS-000001", "open", "node failed")
    assert "Say which line" in str(cli("dispute", "PS-000001").exception)


def test_operator_sees_the_month(billing: Billing, cli: Callable[..., Result], operator: dict[str, str]) -> None:
    text = said(cli("month", billing.month, headers=operator))
    assert "Charged by the centres' meters: 4.32 CNY (2 runs)" in text and "1 invoice(s): 4.58 CNY" in text
    assert any(line.startswith("PS-000001") for line in text.splitlines())
    assert json.loads(said(cli("month", billing.month, "--json", headers=operator)))["month"] == billing.month
    assert cli("month", billing.month).exception is not None  # the owner may not


VERIFIER = Path(__file__).parents[3] / "docs" / "verify" / "penstock_verify.py"


def test_money_is_written_as_money_and_months_by_their_names(
    billing: Billing, cli: Callable[..., Result], operator: dict[str, str]
) -> None:
    rows = [line.split() for line in said(cli("billing", "balances", headers=operator)).splitlines()]
    assert ["payer:uni:receivable", "4.58", "CNY"] in rows
    assert [r[1] for r in rows if r[2] == "core-hours"] == ["-12.000", "12.000"]
    stored = json.loads(said(cli("billing", "balances", "--json", headers=operator)))["items"]
    assert next(b["amount"] for b in stored if b["account"] == "payer:uni:receivable") == "4580000", "as the API has it"

    said(cli("billing", "period", "2026-07", "open", headers=operator))
    text = said(cli("billing", "periods", headers=operator))
    assert text.splitlines()[-1].split()[0] == "2026-07", "it begins on 30 June by UTC"
    said(cli("billing", "budget", "demo", "--set", "9", "--stop"))
    assert said(cli("billing", "budget", "demo")).splitlines()[-1].split()[-1] == "stop"


def test_owner_checks_an_invoice_without_trusting_the_gateway(
    billing: Billing, cli: Callable[..., Result], tmp_path: Path, login: Callable[..., dict[str, str]]
) -> None:
    services = billing.gateway.services
    evidence.append(services, None, services.clock())
    bundle = tmp_path / "invoice.jsonl"
    said(cli("evidence", "bundle", "--invoice", "PS-000001", "-o", str(bundle)))
    key = json.loads(said(cli("evidence", "status", "--json")))["vkey"]
    argv = [sys.executable, "-I", str(VERIFIER), str(bundle), "--log-key", key]
    done = subprocess.run(argv, capture_output=True, text=True, check=False)
    assert (done.returncode, "everything fits" in done.stdout) == (0, True), done.stdout + done.stderr
    assert "Say --since and --until" in str(cli("evidence", "bundle", "-o", str(bundle)).exception)
    refused = cli("evidence", "bundle", "--invoice", "PS-000001", "-o", str(bundle), headers=login("stranger"))
    assert isinstance(refused.exception, NotFound)


def test_the_month_shows_how_far_each_centre_is_settled(
    billing: Billing, cli: Callable[..., Result], operator: dict[str, str]
) -> None:
    shown = said(cli("month", billing.month, headers=operator))
    assert "LATE RUNS" in shown
    assert json.loads(said(cli("month", billing.month, "--json", headers=operator)))["statements"] == []
