"""An order is given when it begins; what is left of it is canceled, and goes back as far as the agreement says."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import datetime, timedelta
from types import ModuleType
from typing import Any

import pytest

from accounting import store as books
from accounting.agreement import PartialMonths
from accounting.errors import AccountingError, FourEyes, InvoiceRefused
from accounting.evidence.about import About
from accounting.evidence.bundle import bundle
from accounting.exports.focus import focus_csv
from accounting.invoicing.credit_notes import Credit
from accounting.invoicing.store import issue_credit_note
from accounting.invoicing.texts import describe
from accounting.reports.spending import By, Question, Scope, spent
from accounting.store import allocations, discounts, openings
from accounting.store.cancellations import Cancellation, cancellations, decide_cancellation, request_cancellation
from accounting.store.contracts import Terms, set_terms
from accounting.store.holds import Hold, place_holds
from accounting.store.orders import Order
from accounting.tariff import PriceRule
from gateway.db import Database
from tests.unit.accounting.evidence_case import LOG, MICRO, SEAL, T0, append_all, book, checkpoint
from tests.unit.accounting.test_evidence_verifier import verifier
from tests.unit.accounting.test_orders import (
    BLOCK,
    DECEMBER,
    NOVEMBER,
    PRICE,
    ZONE,
    bill,
    billed,
    checked,
    db,
    evidence,
    monthly,
    on,
    opened,
    place,
    renew,
    settled,
)
from tests.unit.accounting.test_settlement import public_keys

_ = verifier, db  # the fixtures
LATER = T0 + timedelta(days=10)
CANCELED_AT = T0 + timedelta(days=5)
BACK_PPM = 800_000


@pytest.fixture
def generous(db_url: str) -> Iterator[Database]:
    """The agreement gives 80 % of the price of what is unused back."""
    found = opened(db_url, unused_back_ppm=BACK_PPM)
    yield found
    found.dispose()


def cancel(
    db: Database, order: str = "o1", *, name: str = "k1", by: str = "ada", four_eyes: int = 10_000 * MICRO,
    now: datetime = CANCELED_AT,
) -> str:  # fmt: skip
    with db.write() as conn:
        asked = Cancellation(name, order, "the project ended", by)
        return request_cancellation(conn, asked, four_eyes_micro=four_eyes, now=now)


def left(db: Database, order: str = "o1", commodity: str = "core-seconds") -> int | None:
    with db.read() as conn:
        return allocations.remaining(conn, "p1", commodity).get(order)


def use(db: Database) -> int:
    """Runs in the block; how many core-seconds they took."""
    before = left(db)
    with db.write() as conn:
        books.add_tariff(conn, PriceRule(0, "CNY", 360_000, T0 - timedelta(days=99)), now=T0)
        book(conn, range(3))
    after = left(db)
    assert before is not None and after is not None and 0 < after < before
    return before - after


# ---------------------------------------------------------------- given when it begins


def test_a_block_that_begins_later_is_given_and_owed_when_it_begins(db: Database) -> None:
    place(db, replace(BLOCK, starts_at=LATER))
    assert (left(db), on(db, "project:p1:usage")) == (None, 0)
    assert bill(db) is None
    assert [renew(db, LATER - timedelta(seconds=1)), renew(db, LATER), renew(db, LATER)] == [0, 1, 0]
    assert (left(db), on(db, "project:p1:usage")) == (BLOCK.amount, PRICE)
    with db.read() as conn:
        [free] = discounts(conn)
    assert (free.valid_from, free.valid_to) == (LATER, BLOCK.ends_at)


def test_what_is_given_late_makes_no_run_before_cost_less(db: Database) -> None:
    place(db, replace(BLOCK, starts_at=LATER))
    renew(db, LATER + timedelta(minutes=1))
    with db.read() as conn:
        [free] = discounts(conn)
    assert free.valid_from == LATER + timedelta(minutes=1)


def test_a_block_that_is_not_covered_when_it_begins_waits_until_it_is_and_never_beyond_its_end(db: Database) -> None:
    dear = replace(BLOCK, starts_at=LATER, ends_at=LATER + timedelta(days=2), price_micro=12_000 * MICRO)
    place(db, dear)
    place(db, replace(dear, id="o2", ends_at=LATER + timedelta(days=20)))
    assert renew(db, LATER) == 0
    with db.write() as conn:
        books.grant_credit(conn, project_id="p1", commodity="CNY", amount=90_000 * MICRO, idem_key="g2", now=LATER)
    assert renew(db, LATER + timedelta(days=3)) == 1
    assert (left(db), left(db, "o2")) == (None, BLOCK.amount)


def test_a_trial_begins_later_too_and_a_credit_line_must_not(db: Database) -> None:
    place(db, replace(BLOCK, kind="trial", price_micro=0, starts_at=LATER))
    assert left(db) is None
    assert renew(db, LATER) == 1
    assert left(db) == BLOCK.amount
    with pytest.raises(AccountingError, match="begins at once"):
        place(db, Order("o9", "p1", "uni", "as_used", "CNY", 5 * MICRO, "CNY", LATER))


def test_two_workers_that_begin_a_block_at_once_give_it_once(db: Database) -> None:
    place(db, replace(BLOCK, starts_at=LATER))
    with ThreadPoolExecutor(4) as pool:
        assert sum(pool.map(lambda _: renew(db, LATER), range(8))) == 1
    assert on(db, "project:p1:usage") == PRICE


# ---------------------------------------------------------------- canceled


def test_a_block_that_has_not_begun_is_canceled_in_full(db: Database) -> None:
    place(db, replace(BLOCK, starts_at=LATER))
    assert cancel(db) == "posted"
    assert renew(db, LATER) == 0
    assert (left(db), on(db, "project:p1:usage")) == (None, 0)
    with pytest.raises(AccountingError, match="canceled already"):
        cancel(db, name="k2")


def test_what_has_begun_stays_where_the_agreement_gives_nothing_back(db: Database) -> None:
    place(db)
    with pytest.raises(AccountingError, match="the agreement gives nothing back"):
        cancel(db)
    assert (left(db), on(db, "project:p1:usage")) == (BLOCK.amount, PRICE)
    with db.read() as conn:
        assert cancellations(conn) == []


def test_the_unused_rest_goes_back_as_agreed_and_everybody_loses_the_share_of_it(generous: Database) -> None:
    place(generous)
    used = use(generous)
    before = {name: on(generous, name) for name in ("centre:c1:payable", "operator:tax", "operator:revenue")}
    cancel(generous)
    back = PRICE * (BLOCK.amount - used) * BACK_PPM // (BLOCK.amount * 10**6)
    assert (left(generous), on(generous, "project:p1:usage")) == (0, PRICE - back)
    after = {name: on(generous, name) for name in before}
    tax = (2 * back * 6 + 106) // (2 * 106)
    centre = (back - tax) * 7 // 10
    assert {name: after[name] - before[name] for name in before} == {
        "centre:c1:payable": centre, "operator:tax": tax, "operator:revenue": back - tax - centre
    }  # fmt: skip
    with generous.read() as conn:
        [row] = spent(conn, Question((By.PROJECT,), NOVEMBER.start, NOVEMBER.end, ZONE), Scope(True))
    assert (row.orders, row.ordered_micro) == (1, PRICE - back)
    with pytest.raises(AccountingError, match="canceled already"):
        cancel(generous, name="k2")


def test_what_is_set_aside_for_a_running_job_is_no_rest(generous: Database) -> None:
    place(generous)
    with generous.write() as conn:
        place_holds(conn, [Hold("p1", "j1", {"core-seconds@site:alpha": 600_000})], now=T0)
    cancel(generous)
    assert left(generous) == 600_000
    assert on(generous, "project:p1:usage") == PRICE - PRICE * 3_000_000 * 8 // (BLOCK.amount * 10)


def test_the_invoice_of_the_month_has_both_lines_and_a_later_one_is_a_credit_note(generous: Database) -> None:
    place(generous)
    cancel(generous)
    made = billed(generous)
    assert [line.amount_micro for line in made.lines] == [PRICE, -(PRICE * 8 // 10)]
    assert describe(made.lines[1], "en") == "Canceled, given back: Order o1: 1,000.00 core-hours, once at alpha"
    assert describe(made.lines[1], "zh").startswith("取消退回：订单 o1：1,000.00 核时")
    rows = [row for row in csv.DictReader(io.StringIO(focus_csv([made]))) if row["ChargeCategory"] == "Purchase"]
    assert [row["ChargeClass"] for row in rows] == ["", "Correction"]
    place(generous, replace(BLOCK, id="o2", starts_at=DECEMBER.start), now=DECEMBER.start)
    billed(generous, "2026-12")
    cancel(generous, "o2", name="k2", now=DECEMBER.end + timedelta(days=3))
    note = billed(generous, "2027-01")
    assert (note.kind, note.gross_minor < 0, note.lines[0].amount_micro) == ("credit_note", True, -(PRICE * 8 // 10))
    assert on(generous, "project:p1:usage") == 2 * (PRICE - PRICE * 8 // 10)


def credit_of(db: Database, net_minor: int) -> int:
    """Give so much of November's only line back; what that is of the price (its tax is inside)."""
    made = billed(db)
    with db.write() as conn:
        credit = [Credit(1, net_minor)]
        note = issue_credit_note(conn, made.number, credit, reason="the machine stood still", now=LATER)
    return -sum(line.amount_micro for line in note.lines)


def test_what_a_credit_note_gave_back_is_not_given_back_again(generous: Database, verifier: ModuleType) -> None:
    place(generous)
    credited = credit_of(generous, 90_000)
    cancel(generous, now=NOVEMBER.end + timedelta(days=3))
    again = billed(generous, "2026-12")
    back = -sum(line.amount_micro for line in again.lines)
    assert back == (PRICE - credited) * 8 // 10
    assert credited + back <= PRICE
    with generous.write() as conn:
        append_all(conn)
        checkpoint(conn)
    assert checked(verifier, evidence(generous, payer_id="uni"))[0] == []
    ordered = About(NOVEMBER.start, DECEMBER.end, project_id="p1")  # from the order to its cancellation
    with generous.read() as conn:
        lines = list(bundle(conn, ordered, log_key=LOG, seal=SEAL, signers=public_keys()))
    findings, notes = checked(verifier, lines)
    assert findings == [] and any("gave less back" in text for text in notes)


def test_where_the_whole_price_was_credited_the_rest_is_taken_back_for_nothing(generous: Database) -> None:
    place(generous)
    net = billed(generous).lines[0].net_minor
    with generous.write() as conn:
        issue_credit_note(conn, "PS-000001", [Credit(1, net)], reason="it never worked", now=LATER)
    assert cancel(generous, now=NOVEMBER.end + timedelta(days=3)) == "posted"
    assert left(generous) == 0
    assert bill(generous, "2026-12") is None


def test_of_a_canceled_order_only_what_did_not_go_back_is_credited(generous: Database) -> None:
    place(generous)
    line = billed(generous).lines[0]
    cancel(generous, now=NOVEMBER.end + timedelta(days=3))
    with generous.write() as conn, pytest.raises(InvoiceRefused, match="left to credit"):
        issue_credit_note(conn, "PS-000001", [Credit(1, line.net_minor // 5 + 1)], reason="it stood still", now=LATER)
    with generous.write() as conn:
        issue_credit_note(conn, "PS-000001", [Credit(1, line.net_minor // 5)], reason="it stood still", now=LATER)


def test_of_a_subscription_of_whole_months_those_to_come_are_not_given_and_this_one_stays(db_url: str) -> None:
    db = opened(db_url, partial_months=PartialMonths.WHOLE)
    place(db, monthly(), now=T0)
    cancel(db, "s1")
    assert renew(db, DECEMBER.start) == 0
    assert on(db, "project:p1:usage") == 4_000 * MICRO
    assert left(db, "s1:2026-10-31T16:00:00+00:00", "gpu-seconds") == 7_200
    db.dispose()


def test_runs_within_a_trial_cost_nothing_and_those_after_it_do(db: Database) -> None:
    place(db, replace(BLOCK, kind="trial", price_micro=0, ends_at=T0 + timedelta(days=1)))
    with db.write() as conn:
        books.add_tariff(conn, PriceRule(0, "CNY", 360_000, T0 - timedelta(days=99)), now=T0)
        book(conn, range(3))
    assert on(db, "project:p1:usage") == 0 and (left(db) or 0) < BLOCK.amount
    with db.read() as conn:
        [free] = discounts(conn)
    assert (free.numerator, free.valid_from, free.valid_to) == (0, T0, T0 + timedelta(days=1))


def test_a_trial_is_taken_back(db: Database) -> None:
    place(db, replace(BLOCK, kind="trial", price_micro=0))
    cancel(db)
    assert (left(db), on(db, "project:p1:usage")) == (0, 0)


def test_what_is_opened_for_it_at_the_centre_is_closed(generous: Database) -> None:
    place(generous)
    with generous.write() as conn:
        openings.place(conn, openings.Wanted("op1", "p1", "alpha", "core_hours", "o1", core_seconds=BLOCK.amount),
                       by="ada", now=T0)  # fmt: skip
    cancel(generous)
    with generous.read() as conn:
        assert openings.one(conn, "op1").closing


def test_a_dear_order_is_canceled_by_two(generous: Database) -> None:
    place(generous)
    assert cancel(generous, four_eyes=PRICE - 1) == "waiting"
    assert left(generous) == BLOCK.amount
    with pytest.raises(AccountingError, match="waits for a second person"):
        cancel(generous, name="k2", by="bob")
    with generous.write() as conn, pytest.raises(FourEyes):
        decide_cancellation(conn, "k1", approve=True, by="ada", now=CANCELED_AT)
    with generous.write() as conn:
        assert decide_cancellation(conn, "k1", approve=False, by="bob", now=CANCELED_AT) == "refused"
    assert cancel(generous, name="k2", four_eyes=PRICE - 1) == "waiting"
    with generous.write() as conn:
        assert decide_cancellation(conn, "k2", approve=True, by="bob", now=CANCELED_AT) == "posted"
    with generous.write() as conn, pytest.raises(AccountingError, match="posted already"):
        decide_cancellation(conn, "k2", approve=True, by="bob", now=CANCELED_AT)
    assert left(generous) == 0


def test_two_who_cancel_at_once_cancel_once(generous: Database) -> None:
    place(generous)

    def one(n: int) -> bool:
        try:
            return cancel(generous, name=f"k{n}") == "posted"
        except AccountingError:
            return False

    with ThreadPoolExecutor(4) as pool:
        assert sum(pool.map(one, range(8))) == 1
    assert on(generous, "project:p1:usage") == PRICE - PRICE * 8 // 10


# ---------------------------------------------------------------- evidence


@pytest.fixture
def sealed(generous: Database) -> Database:
    """A block of two payers that was used, canceled, billed, settled and logged."""
    with generous.write() as conn:
        set_terms(conn, Terms("p1", T0 - timedelta(days=1), payers=(("uni", 2), ("grant", 1))), now=T0)
    place(generous)
    cancel(generous)
    billed(generous)
    billed(generous, payer="grant", whole=False)
    with generous.write() as conn:
        settled(conn)
        append_all(conn)
        checkpoint(conn)
    return generous


@pytest.mark.parametrize("about", [{"payer_id": "grant"}, {"settlement_id": "s1"}, {"project_id": "p1"}])
def test_the_verifier_divides_again_what_went_back_and_finds_another_amount(
    sealed: Database, verifier: ModuleType, about: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    lines = evidence(sealed, **about)
    assert checked(verifier, lines)[0] == []
    assert abs(on(sealed, "project:p1:usage:grant") - (PRICE - PRICE * 8 // 10) // 3) <= 1
    at = next(i for i, text in enumerate(lines) if '"allocation_id":"o1!canceled"' in text and '"t":"order"' in text)
    for name, value in (("quantity", "-7"), ("price_micro", "-7"), ("order_id", "o7")):
        changed = json.loads(lines[at])
        changed["content"][name] = value
        monkeypatch.setattr(verifier, "hashed", lambda _content, said=changed: said["leaf"]["sha256"])
        again = json.dumps(changed, separators=(",", ":")) + "\n"
        findings, _ = checked(verifier, [*lines[:at], again, *lines[at + 1 :]])
        assert any("went back" in text or "booked is" in text for text in findings), name
        monkeypatch.undo()
