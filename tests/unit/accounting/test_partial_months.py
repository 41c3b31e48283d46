"""A subscription that begins, ends or is canceled within a month: by its days, or whole where the agreement says so."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from types import ModuleType
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from accounting import month_parts
from accounting.agreement import PartialMonths, agreement_of
from accounting.calendar import month
from accounting.errors import AccountingError, CreditExhausted
from accounting.store.allocations import transfer
from accounting.store.orders import Order
from gateway.db import Database
from tests.unit.accounting.evidence_case import MICRO, append_all, checkpoint
from tests.unit.accounting.makers import agreement
from tests.unit.accounting.test_evidence_verifier import verifier
from tests.unit.accounting.test_order_cancellations import cancel, left
from tests.unit.accounting.test_orders import ZONE, billed, checked, evidence, on, opened, place, renew

_ = verifier  # the fixture
NOVEMBER, DECEMBER = month("2026-11", ZONE), month("2026-12", ZONE)
SIXTEENTH = NOVEMBER.start + timedelta(days=15, hours=10)  # 10:00 on 16 November in Shanghai
UNTIL = DECEMBER.start + timedelta(days=9)  # the end of 9 December
PRICE = 4_000 * MICRO


@pytest.fixture
def db(db_url: str) -> Iterator[Database]:
    """Books whose agreement says that months go by days."""
    found = opened(db_url, partial_months=PartialMonths.BY_DAY)
    yield found
    found.dispose()


def subscription(**more: Any) -> Order:
    made = Order("s1", "p1", "uni", "subscription", "gpu-seconds", 7_200, "CNY", SIXTEENTH, site_id="alpha",
                 ends_at=UNTIL, price_micro=PRICE)  # fmt: skip
    return replace(made, **more)


def first_of(db: Database) -> int | None:
    return left(db, f"s1:{SIXTEENTH.astimezone(UTC).isoformat()}", "gpu-seconds")


def test_a_month_that_begins_late_and_one_that_ends_early_cost_the_part_of_their_days(db: Database) -> None:
    place(db, subscription(), now=SIXTEENTH)
    assert (on(db, "project:p1:usage"), first_of(db)) == (PRICE * 15 // 30, 7_200 * 15 // 30)
    assert renew(db, DECEMBER.start) == 1
    nine_days = (2 * PRICE * 9 + 31) // 62
    assert on(db, "project:p1:usage") == PRICE // 2 + nine_days
    december = left(db, f"s1:{DECEMBER.start.isoformat()}", "gpu-seconds")
    assert december == 7_200 * 9 // 31
    [line] = billed(db, "2026-12").lines[1:]
    assert (line.amount_micro, line.service_start, line.service_end) == (nine_days, DECEMBER.start, UNTIL)


def test_an_agreement_that_says_nothing_means_whole_months(db_url: str) -> None:
    db = opened(db_url)
    place(db, subscription(), now=SIXTEENTH)
    assert (on(db, "project:p1:usage"), first_of(db)) == (PRICE, 7_200)
    cancel(db, "s1", now=SIXTEENTH + timedelta(days=4))  # December is not given, and November stays
    assert (on(db, "project:p1:usage"), first_of(db), renew(db, DECEMBER.start)) == (PRICE, 7_200, 0)
    db.dispose()


def test_only_the_part_must_be_covered(db: Database) -> None:
    place(db, subscription(price_micro=20_000 * MICRO), now=SIXTEENTH)
    assert on(db, "project:p1:usage") == 10_000 * MICRO
    with pytest.raises(CreditExhausted):
        place(db, subscription(id="s2", price_micro=2), now=SIXTEENTH)


def test_a_canceled_month_gives_the_days_that_are_left_back(db: Database) -> None:
    """On 20 November: ten of the fifteen days are to come, and nothing was used."""
    place(db, subscription(), now=SIXTEENTH)
    assert cancel(db, "s1", now=SIXTEENTH + timedelta(days=4)) == "posted"
    assert on(db, "project:p1:usage") == PRICE // 2 - PRICE // 2 * 10 // 15
    assert first_of(db) == 0
    assert renew(db, DECEMBER.start) == 0


def test_what_is_used_before_it_is_canceled_is_paid(db: Database) -> None:
    place(db, subscription(commodity="core-seconds", amount=7_200), now=SIXTEENTH)
    given = f"s1:{SIXTEENTH.astimezone(UTC).isoformat()}"
    with db.write() as conn:  # 3,000 of 3,600 are moved away as used ones are
        transfer(conn, given, to_project="p2", amount=3_000, idem_key="t1", now=SIXTEENTH)
    cancel(db, "s1", now=SIXTEENTH + timedelta(days=4))
    assert on(db, "project:p1:usage") == PRICE // 2 - PRICE // 2 * 600 // 3_600


def test_on_the_last_day_nothing_is_left(db: Database) -> None:
    place(db, subscription(ends_at=NOVEMBER.end), now=SIXTEENTH)
    with pytest.raises(AccountingError, match="nothing is left"):
        cancel(db, "s1", now=NOVEMBER.end - timedelta(hours=3))


def test_what_was_signed_before_keeps_its_bytes() -> None:
    before, by_day = agreement(), agreement(partial_months=PartialMonths.BY_DAY)
    assert b"partial_months" not in before.payload and agreement_of(before.payload).partial_months == "whole"
    assert b'"partial_months":"by_day"' in by_day.payload and agreement_of(by_day.payload) == by_day


@pytest.fixture
def sealed(db: Database) -> Database:
    place(db, subscription(), now=SIXTEENTH)
    cancel(db, "s1", now=SIXTEENTH + timedelta(days=4))
    billed(db)
    with db.write() as conn:
        append_all(conn)
        checkpoint(conn)
    return db


def test_the_verifier_divides_the_month_again(
    sealed: Database, verifier: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    lines = evidence(sealed, payer_id="uni")
    assert checked(verifier, lines)[0] == []
    at = [i for i, text in enumerate(lines) if '"t":"order"' in text and '"month":{' in text]
    for name, value in (("quantity", "7199"), ("price_micro", str(PRICE + 1)), ("zone", "UTC")):
        changed = json.loads(lines[at[0]])
        changed["content"]["month"][name] = value
        monkeypatch.setattr(verifier, "hashed", lambda _content, said=changed: said["leaf"]["sha256"])
        again = json.dumps(changed, separators=(",", ":")) + "\n"
        findings, _ = checked(verifier, [*lines[: at[0]], again, *lines[at[0] + 1 :]])
        assert any("of a month" in text for text in findings), name
        monkeypatch.undo()


@given(st.datetimes(datetime(2026, 1, 1), datetime(2026, 12, 31)), st.integers(0, 40 * 24), st.integers(1, 10**12))  # noqa: DTZ001
def test_the_parts_before_and_after_a_moment_have_the_days_of_the_whole(at: datetime, hours: int, whole: int) -> None:
    moment = at.replace(tzinfo=UTC)
    span = month(f"{moment:%Y-%m}", "Europe/Berlin")
    moment = max(span.start, min(moment + timedelta(hours=hours), span.end - timedelta(seconds=1)))
    parts = [(span.start, moment), (moment, span.end)]
    days = [month_parts.days_between(a, b, "Europe/Berlin") for a, b in parts]
    first_day = moment < span.start + timedelta(days=1)
    assert sum(days) - (first_day and days[0] == 1) == month_parts.days_between(span.start, span.end, "Europe/Berlin")
    prices = [month_parts.price_of(whole, a, b, "Europe/Berlin") for a, b in parts]
    assert first_day or abs(sum(prices) - whole) <= 1
    assert month_parts.price_of(whole, span.start, span.end, "Europe/Berlin") == whole
