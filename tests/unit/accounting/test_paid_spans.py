"""What a canceled order had made cost nothing costs money again, as soon as nothing of the order is used any more."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import datetime, timedelta
from types import ModuleType

import pytest

from accounting import store as books
from accounting.agreement import PartialMonths
from accounting.store import prices
from accounting.store.holds import Hold, place_holds, release_hold
from accounting.store.paid_spans import end_canceled
from accounting.store.schema import CHARGES
from accounting.tariff import PriceRule
from gateway.db import Database
from tests.unit.accounting.evidence_case import POLICY, T0, append_all, checkpoint, record
from tests.unit.accounting.test_evidence_verifier import verifier
from tests.unit.accounting.test_order_cancellations import CANCELED_AT, cancel, generous
from tests.unit.accounting.test_orders import BLOCK, NOVEMBER, checked, evidence, monthly, opened, place

_ = verifier, generous  # the fixtures
HOUR = timedelta(hours=1)


@pytest.fixture
def priced(generous: Database) -> Database:
    with generous.write() as conn:
        books.add_tariff(conn, PriceRule(0, "CNY", 360_000, T0 - timedelta(days=99)), now=T0)
    return generous


def ends(db: Database, now: datetime) -> int:
    with db.write() as conn:
        return end_canceled(conn, now=now)


def paid(db: Database) -> list[tuple[datetime, datetime | None]]:
    with db.read() as conn:
        return [(d.valid_from, d.valid_to) for d in prices.discounts(conn)]


def costs(db: Database, number: int, start: datetime) -> int:
    """Micro-units of a run of 100 s on 4 cores."""
    at = {"Submit": start, "Start": start, "End": start + timedelta(seconds=100)}
    times = {name: str(int(moment.timestamp())) for name, moment in at.items()}
    one = record(number, ElapsedRaw="100", AllocCPUS="4", **times)
    with db.write() as conn:
        books.record_and_book(conn, [books.Assigned(one, f"j{number}", "p1", "u1", "CNY")], policy=POLICY,
                              now=start + HOUR)  # fmt: skip
    with db.read() as conn:
        return int(conn.execute(CHARGES.select().where(CHARGES.c.job_id == f"j{number}")).one().amount_micro)


def test_a_run_after_the_cancellation_costs_and_one_before_it_does_not(priced: Database, verifier: ModuleType) -> None:
    place(priced)
    assert ends(priced, T0 + HOUR) == 0  # it lasts
    cancel(priced)
    assert ends(priced, CANCELED_AT) == 1
    assert ends(priced, CANCELED_AT + HOUR) == 0
    assert paid(priced) == [(T0, CANCELED_AT)]
    assert costs(priced, 1, CANCELED_AT - timedelta(seconds=100)) == 0
    assert costs(priced, 2, CANCELED_AT - timedelta(seconds=50)) == 50 * 4 * 100
    assert costs(priced, 3, CANCELED_AT + HOUR) == 100 * 4 * 100
    with priced.write() as conn:
        append_all(conn)
        checkpoint(conn)
    lines = evidence(priced, project_id="p1")
    assert checked(verifier, lines)[0] == []
    without = [text for text in lines if '"t":"discount_end"' not in text]
    assert len(without) == len(lines) - 1
    changed = [
        json.dumps(line | {"content": line["content"] | {"valid_to": (T0 + HOUR).isoformat()}}) + "\n"
        if line["t"] == "leaf" and line["leaf"]["t"] == "discount_end" else text
        for text, line in ((text, json.loads(text)) for text in lines)
    ]  # fmt: skip
    assert checked(verifier, changed)[0]
    with pytest.raises(ValueError, match="missing"):
        checked(verifier, without)


def test_a_job_that_had_set_core_hours_aside_ends_under_the_order(priced: Database) -> None:
    place(priced)
    with priced.write() as conn:
        place_holds(conn, [Hold("p1", "j1", {"core-seconds@site:alpha": 400})], now=T0 + HOUR)
    cancel(priced)
    assert ends(priced, CANCELED_AT + HOUR) == 0
    assert costs(priced, 1, CANCELED_AT + HOUR) == 0
    with priced.write() as conn:
        release_hold(conn, job_id="j1", now=CANCELED_AT + 2 * HOUR)
        place_holds(conn, [Hold("p1", "j2", {"core-seconds": 400})], now=CANCELED_AT + HOUR, check=False)  # a new one
    assert ends(priced, CANCELED_AT + 2 * HOUR) == 1
    assert costs(priced, 2, CANCELED_AT + 3 * HOUR) > 0


def test_what_another_order_pays_for_stays_paid(priced: Database) -> None:
    place(priced)
    place(priced, replace(BLOCK, id="o2", price_micro=5, ends_at=T0 + timedelta(days=200)), now=T0 + HOUR)
    cancel(priced)
    assert ends(priced, CANCELED_AT) == 1
    assert costs(priced, 1, CANCELED_AT + HOUR) == 0
    last = T0 + timedelta(days=200)
    assert max(end for _, end in paid(priced) if end) == last
    cancel(priced, "o2", name="k2", now=CANCELED_AT + 2 * HOUR)
    assert ends(priced, CANCELED_AT + 2 * HOUR) == 2
    assert costs(priced, 2, CANCELED_AT + 3 * HOUR) > 0


def test_a_month_that_stays_is_used_to_its_end(db_url: str) -> None:
    priced = opened(db_url, partial_months=PartialMonths.WHOLE)
    with priced.write() as conn:
        books.add_tariff(conn, PriceRule(0, "CNY", 360_000, T0 - timedelta(days=99)), now=T0)
    place(priced, replace(monthly(), commodity="core-seconds", id="s2"), now=T0)
    cancel(priced, "s2")
    assert ends(priced, CANCELED_AT) == 0
    assert costs(priced, 1, CANCELED_AT + HOUR) == 0
    assert ends(priced, NOVEMBER.end) == 1
    assert costs(priced, 2, NOVEMBER.end + HOUR) > 0
    priced.dispose()
