"""An operator's month by the command line alone: who bills whom, the bills, closing; budgets with alerts and a stop."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

import pytest

from accounting.calendar import month_of
from gateway.identity import service
from tests.builders import Gateway
from tests.unit.accounting.invoicing import charge, run
from tests.unit.gateway.test_api_billing import ISSUER, PAYER

Type = Callable[..., str]


@pytest.fixture
def last_month(gateway: Gateway) -> str:
    """Ten core-hours of alice's ended in it, at 0.36 CNY each."""
    now = gateway.services.clock()
    last = month_of(month_of(now, "Asia/Shanghai").start - timedelta(days=1), "Asia/Shanghai")
    one = run(36_000, at=last.start + timedelta(days=3), project=gateway.project_id, site="local",
              user=gateway.person.user_id)  # fmt: skip
    with gateway.services.db.write() as conn:
        charge(conn, one, now=now)
    return last.name


@pytest.fixture
def alice(gateway: Gateway) -> dict[str, str]:
    return {"Authorization": f"Bearer {gateway.secret}"}


def rows(text: str) -> list[list[str]]:
    return [line.split() for line in text.splitlines()]


def test_a_month_is_opened_cut_off_billed_and_closed(type_: Type, last_month: str, tmp_path: Path) -> None:
    opened = type_("billing", "period", last_month, "open")
    assert opened.startswith(f"{last_month}, {last_month}-01 to {last_month}-") and opened.endswith("Shanghai): open\n")
    assert "closing" in type_("billing", "period", last_month, "closing")
    assert "not billed yet: demo 1 runs, 3.60 CNY" in type_("billing", "period", last_month, "close", fails=True)
    rule = {"code": "vat", "rate_ppm": 60_000, "valid_from": "2020-01-01T00:00:00Z"}
    for name, content in (("issuer", ISSUER), ("payer", PAYER), ("vat", rule)):
        (tmp_path / name).write_text(json.dumps(content))
    assert rows(type_("billing", "entity", str(tmp_path / "issuer")))[1][:1] == ["op"]
    assert "物理研究院" in type_("billing", "entity", str(tmp_path / "payer"))
    assert rows(type_("billing", "tax-rule", str(tmp_path / "vat")))[1] == ["vat", "6", "%", "no", "2020-01-01"]
    assert type_("billing", "payer", "demo", "uni") == "uni pays for demo\n"
    assert rows(type_("billing", "bill", last_month))[1] == [
        "PS-000001", "invoice", "demo", "uni", "3.60", "0.22", "3.82", "CNY"]  # fmt: skip
    assert "(none)" in type_("billing", "bill", last_month)  # what is billed is not billed again
    assert "closed" in type_("billing", "period", last_month, "close")
    page = type_("month", last_month).splitlines()
    assert page[0] == f"{last_month} (Asia/Shanghai): closed"
    assert "Charged by the centres' meters: 3.60 CNY (1 runs)" in page and "No statement yet: local" in page
    [row] = [line for line in rows(type_("billing", "periods")) if line[0] == last_month]
    assert "closed" in row and len(row[-1]) == 64


def test_the_month_cannot_be_billed_before_somebody_bills_and_that_is_said(type_: Type, last_month: str) -> None:
    assert "make a legal entity with a number prefix first" in type_("billing", "bill", last_month, fails=True)
    assert type_("month", last_month).startswith(f"{last_month} (Asia/Shanghai): not opened\n")


def test_a_budget_says_what_is_spent_which_alerts_have_come_and_what_happens_at_its_end(
    type_: Type, last_month: str, alice: dict[str, str]
) -> None:
    made = type_(
        "billing", "budget", "demo", "--set", "6", "--span", "total", "--alert-at", "50,90", "--stop", as_=alice
    )
    number = made.split(":")[0]
    assert made == f"{number}: 3.60 of 6.00 CNY spent\n"
    shown = rows(type_("billing", "budget", "demo", as_=alice))[1]
    assert shown == [number, "6.00", "CNY", "3.60", "60.0", "all", "time", "50,", "90", "50", "stop"]
    assert "Write --alert-at like" in type_("billing", "budget", "demo", "--set", "6", "--alert-at", "half", fails=True)
    assert "! demo: 60 % of the budget of 6.00 CNY is spent\n" in type_("balance", as_=alice)
    type_("billing", "budget", "demo", "--set", "3", "--span", "total", "--stop", as_=alice)
    assert "! demo: 120 % of the budget of 3.00 CNY is spent: nothing more can be submitted" in type_(
        "balance", as_=alice
    )
    assert number not in type_("billing", "budget", "demo", "--close", number, as_=alice)
    assert "! demo: 60 %" not in type_("balance", as_=alice)


def test_what_stands_on_accounts_is_told_in_the_units_that_people_count_in(type_: Type, last_month: str) -> None:
    told = rows(type_("billing", "balances"))
    assert ["operator:revenue", "-3.60", "CNY"] in told
    assert ["operator:usage", "-10.000", "core-hours"] in told


def test_a_report_says_whose_days_it_counts_and_takes_any_span(
    type_: Type, last_month: str, alice: dict[str, str]
) -> None:
    told = type_("spend", "--month", last_month, "--by", "state", as_=alice).splitlines()
    assert told[1].split()[:5] == ["COMPLETED", "1", "10.000", "3.60", "CNY"]
    assert told[-1].startswith(f"Work that ended {last_month}-01 to {last_month}-")
    span = ("--since", f"{last_month}-01T00:00:00+08:00", "--until", f"{last_month}-03T00:00:00+08:00")
    told = type_("spend", *span, as_=alice).splitlines()
    assert told[-2:] == ["Nothing was spent.", f"Work that ended {last_month}-01 to {last_month}-02 (Asia/Shanghai)"]
    assert "Say --since and --until" in type_("spend", "--since", f"{last_month}-01T00:00:00Z", fails=True)


def test_everybody_is_told_what_their_token_is_good_for(
    gateway: Gateway, type_: Type, alice: dict[str, str], login: Callable[..., dict[str, str]]
) -> None:
    assert "operator" in type_("whoami").splitlines()
    assert "projects: 1, owner of 1" in type_("whoami", as_=alice)
    lin = login("lin")
    with gateway.services.db.write() as conn:
        service.add_staff(conn, site_id="local", user_id=service.user_id_of(conn, "lin"))
    assert "works for local" in type_("whoami", as_=lin)
