"""Units (shots, licences) that a centre's statement names are compared, and what is agreed of them is posted."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest

from accounting import store as books
from accounting.reconciling.statement_formats import Profile
from accounting.tariff import PriceRule
from gateway.billing import reconcile
from gateway.billing.reconcile import Received
from tests.builders import MICRO, Gateway
from tests.unit.accounting.test_reconcile import compare, gateway, have, kinds, line, owed, receive, row
from tests.unit.accounting.test_reconcile_by_contract import posted, signed

_ = gateway  # the fixture

SHOT = PriceRule(0, "CNY", MICRO, datetime(2020, 1, 1, tzinfo=UTC), resource="unit:shots", per=1000)
TIME = 1_446_800  # what a run costs without its shots


@pytest.fixture
def counted(gateway: Gateway) -> Gateway:
    """One run of 1,000 shots, which cost one yuan, and one of none."""
    signed(gateway)
    with gateway.services.db.write() as conn:
        books.add_tariff(conn, SHOT, now=gateway.services.clock())
    have(gateway, row(1, AllocTRES="cpu=4,license/shots=1000"), row(2))
    assert owed(gateway) == 2 * TIME + MICRO
    return gateway


def shots(gateway: Gateway) -> int:
    with gateway.services.db.read() as conn:
        return books.balances(conn, code=f"project:{gateway.project_id}:usage").get(
            (f"project:{gateway.project_id}:usage", "shots"), 0
        )


def billed(**more: Any) -> dict[str, Any]:
    """The centre's line for the run, as our books have it."""
    return line(1, amount="2.4468") | more


@pytest.mark.parametrize("told", [{"unit:shots": 1000}, {"unit:shots": "1000"}, {}, {"unit:shots": None}])
def test_the_same_units_agree_and_a_line_that_names_none_is_about_time(counted: Gateway, told: dict[str, Any]) -> None:
    done, found = compare(counted, receive(counted, billed(**told), line(2)))
    assert (done.counts["agreed"], found) == (2, [])


@pytest.mark.parametrize("amount", ["2.3468", None])
def test_other_units_are_a_break_and_the_centres_count_is_posted(counted: Gateway, amount: str | None) -> None:
    had = shots(counted)
    _, (item,) = compare(counted, receive(counted, billed(amount=amount, **{"unit:shots": 900}), line(2)))
    assert kinds([item]) == [("B03", "", "open")]
    assert item.row.explanation == "900 shots by the centre, 1000 by ours"
    posted(counted, item.row.id)
    assert owed(counted) == 2 * TIME + 900_000
    assert shots(counted) == had - 100 or had == 0
    counted.check_books()


def test_units_that_only_the_centre_counts_are_a_break(counted: Gateway) -> None:
    _, (item,) = compare(counted, receive(counted, billed(), line(2, **{"unit:shots": 5})))
    assert item.row.explanation == "5 shots by the centre, 0 by ours"


def test_units_beside_another_difference_wait_for_a_person(counted: Gateway) -> None:
    """Suspended time alone would stand by the contract."""
    have(counted, row(3, ElapsedRaw="3500", Suspended="00:01:57", AllocTRES="cpu=4,license/shots=10"))
    one, other = line(3, amount=None), {"unit:shots": 11}
    _, found = compare(counted, receive(counted, billed(), line(2), one | other))
    assert kinds(found) == [("B03", "suspended", "open")]
    assert found[0].row.explanation.endswith("; 11 shots by the centre, 10 by ours")


def test_a_run_keeps_its_units_when_the_centres_time_is_posted(counted: Gateway) -> None:
    have(counted, row(3, ElapsedRaw="3500", Suspended="00:01:57", AllocTRES="cpu=4,license/shots=1000"))
    before = owed(counted)
    done, found = compare(counted, receive(counted, billed(), line(2), line(3, amount=None)))
    assert (kinds(found), done.posted) == ([("B03", "suspended", "posted")], 1)
    assert owed(counted) == before + 46_800


def csv(gateway: Gateway, text: str, profile: Profile | None = None) -> Received:
    return reconcile.receive(gateway.services, text.encode(), site_id="local", period="2026-11", currency="CNY",
                             format_name="csv", by="centre", profile=profile)  # fmt: skip


@pytest.mark.parametrize("count", ["900", "1.000", "x"])
def test_a_csv_has_units_in_columns_of_their_own(counted: Gateway, count: str) -> None:
    columns = {"run_key": "key", "native_id": "job", "quantity": "sum", "unit:shots": "Schuesse"}
    text = f"key,job,sum,Schuesse\nalpha:101,1,14468,{count}\nalpha:102,2,14468,\n"
    received = csv(counted, text, Profile(columns, decimal=",", thousands="."))
    _, found = compare(counted, received)
    expected = {
        "900": ["900 shots by the centre, 1000 by ours"], "1.000": [],
        "x": ["the centre does not bill it", "1 lines cannot be read; the first is line 2: 'x' is no whole number"],
    }  # fmt: skip
    said = sorted((b.row.explanation for b in found), reverse=True)
    assert [text.partition(": 'x'")[0] for text in said] == [t.partition(": 'x'")[0] for t in expected[count]]


def test_a_csv_without_a_profile_has_them_by_our_names_and_sacct_by_its_licences(counted: Gateway) -> None:
    plain = csv(counted, "run_key,quantity,unit:shots\nalpha:101,14468,7\nalpha:102,14468,\n")
    assert [b.row.explanation for b in compare(counted, plain)[1]] == ["7 shots by the centre, 1000 by ours"]
    fields = [row(1, AllocTRES="cpu=4,license/shots=8"), row(2)]
    text = "\n".join("|".join(part) for part in [list(fields[0]), *(list(f.values()) for f in fields)])
    received = reconcile.receive(counted.services, text.encode(), site_id="local", period="2026-11", currency="CNY",
                                 format_name="sacct", by="centre")  # fmt: skip
    assert [b.row.explanation for b in compare(counted, received)[1]] == ["8 shots by the centre, 1000 by ours"]


@pytest.mark.parametrize("name", ["unit:", "unit:Shots", "unit:gpu-seconds", "shots"])
def test_what_is_no_name_of_a_unit_is_no_field(name: str) -> None:
    with pytest.raises(ValueError, match="no such fields"):
        Profile({"quantity": "q", name: "n"})
