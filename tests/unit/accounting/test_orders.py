"""Orders with a price: billed once, shared with the centre, covered by the evidence; on both databases."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import timedelta
from decimal import Decimal
from types import ModuleType
from typing import Any
from uuid import uuid4

import pytest
from msgspec import structs
from sqlalchemy import Connection, select
from sqlalchemy.exc import IntegrityError

from accounting import store as books
from accounting.calendar import month
from accounting.errors import AccountingError, CreditExhausted, PeriodClosed
from accounting.evidence.about import About
from accounting.evidence.bundle import bundle
from accounting.exports.focus import focus_csv
from accounting.exports.general_ledger import journal_csv
from accounting.exports.rows import journal
from accounting.invoicing import dispute_store, legal_entities, price_words
from accounting.invoicing.as_csv import invoice_csv
from accounting.invoicing.as_pdf import pdf
from accounting.invoicing.credit_notes import Credit
from accounting.invoicing.invoice import Document, LegalEntity, LineKind, from_snapshot
from accounting.invoicing.lines import charges_of_line
from accounting.invoicing.store import Wanted, issue_credit_note, issue_invoice
from accounting.invoicing.tax import TaxKind, TaxRule
from accounting.invoicing.texts import describe
from accounting.invoicing.unbilled import waiting_to_be_billed
from accounting.invoicing.unit_prices import steps_of
from accounting.ledger import divide
from accounting.payments.clearing import set_off_open
from accounting.store import allocations, contracts, periods, prices, settlements
from accounting.store.contracts import Terms, set_terms
from accounting.store.orders import Order
from accounting.store.schema import ORDER_PRICES, POSTINGS
from accounting.tariff import PriceRule
from gateway.billing import closing
from gateway.db import Database
from tests.unit.accounting import makers
from tests.unit.accounting.evidence_case import LOG, MICRO, SEAL, T0, append_all, book, checkpoint
from tests.unit.accounting.test_evidence_verifier import verifier
from tests.unit.accounting.test_settlement import AGREEMENT, agree, public_keys, sign_agreement

_ = verifier  # the fixture

ZONE = "Asia/Shanghai"
NOVEMBER, DECEMBER = month("2026-11", ZONE), month("2026-12", ZONE)
BILLED_AT = NOVEMBER.end + timedelta(days=2)
PRICE = 1_234_567_891  # 1,234.567891
BLOCK = Order("o1", "p1", "uni", "block", "core-seconds", 3_600_000, "CNY", T0, ends_at=T0 + timedelta(days=90),
              price_micro=PRICE, site_id="alpha")  # fmt: skip


@pytest.fixture
def db(db_url: str) -> Iterator[Database]:
    """A project with money and a payer; its centre has 70 % of what is left when the tax inside is off."""
    found = opened(db_url)
    yield found
    found.dispose()


def opened(db_url: str, **agreed: Any) -> Database:
    """The books of `db`, with more in the agreement."""
    found = Database(db_url)
    with found.write() as conn:
        inside = TaxRule("vat", TaxKind.STANDARD, 60_000, T0 - timedelta(days=99), inclusive=True, name_en="VAT")
        legal_entities.add_tax_rule(conn, inside, now=T0)
        legal_entities.save_entity(conn, LegalEntity("op", "Operations Ltd", prefix="PS", zone=ZONE), tax_code="vat",
                                   now=T0)  # fmt: skip
        for payer in ("uni", "grant"):
            legal_entities.save_entity(conn, LegalEntity(payer, payer), now=T0)
        sign_agreement(conn, replace(AGREEMENT, grades={}, **agreed))
        books.open_project_accounts(conn, "p1", currency="CNY")
        books.grant_credit(conn, project_id="p1", commodity="CNY", amount=10_000 * MICRO, idem_key="g", now=T0)
    return found


def place(db: Database, order: Order = BLOCK, *, now: Any = T0) -> None:
    with db.write() as conn:
        allocations.place_order(conn, order, now=now)


def bill(
    db: Database, name: str = "2026-11", *, payer: str = "uni", whole: bool = True,
    sites: tuple[str, ...] | None = None, not_sites: tuple[str, ...] = (),
) -> Document | None:  # fmt: skip
    span = month(name, ZONE)
    wanted = Wanted("op", payer, "p1", "demo", "CNY", span, sites, {}, whole, not_sites)
    now = span.end + timedelta(days=2)
    with db.write() as conn:
        made = issue_invoice(conn, wanted, now=now)
        if made is not None:
            set_off_open(conn, made, new_id=lambda: uuid4().hex, by="ada", now=now)
        return made


def billed(db: Database, name: str = "2026-11", **more: Any) -> Document:
    made = bill(db, name, **more)
    assert made is not None
    return made


def on(db: Database, account: str) -> int:
    """What stands on an account, after the books were checked."""
    with db.read() as conn:
        assert books.check_books(conn) == []
        assert settlements.check_settlements(conn) == []
        return books.balances(conn, code=account).get((account, "CNY"), 0)


def divided(price: int) -> tuple[int, int]:
    """(tax, the centre's) of a price by an independent way: 6/106 half up, then 70 % cut down."""
    tax = int((Decimal(price) * 6 / 106).quantize(Decimal(1), rounding="ROUND_HALF_UP"))
    return tax, int((price - tax) * 7 // 10)


# ---------------------------------------------------------------- booking


def test_a_block_is_divided_as_the_agreement_says(db: Database) -> None:
    place(db)
    tax, centre = divided(PRICE)
    assert on(db, "project:p1:usage") == PRICE
    assert on(db, "operator:tax") == -tax
    assert on(db, "centre:c1:payable") == -centre
    assert on(db, "operator:revenue") == -(PRICE - tax - centre)


def test_an_order_that_names_its_agreement_goes_by_that_one_and_one_of_no_centre_is_refused(db: Database) -> None:
    place(db, replace(BLOCK, site_id=None, agreement_id="a1"))
    assert on(db, "centre:c1:payable") == -divided(PRICE)[1]
    for kind, price in (("block", PRICE), ("trial", 0)):
        with pytest.raises(AccountingError, match="whose resources are paid"):
            place(db, replace(BLOCK, id="o2", kind=kind, price_micro=price, site_id=None))
    assert on(db, "centre:c1:payable") == -divided(PRICE)[1]
    with pytest.raises(AccountingError, match="not signed by both"):
        place(db, replace(BLOCK, id="o3", agreement_id="a2"))
    with pytest.raises(AccountingError, match="no price of its own"):
        place(db, replace(BLOCK, id="o3", kind="trial"))


def test_an_order_that_is_placed_twice_or_whose_transaction_dies_is_owed_once(db: Database) -> None:
    with pytest.raises(RuntimeError, match="killed"), db.write() as conn:
        allocations.place_order(conn, BLOCK, now=T0)
        raise RuntimeError("killed")
    assert on(db, "project:p1:usage") == 0
    place(db)
    with pytest.raises(IntegrityError):
        place(db)
    assert on(db, "project:p1:usage") == PRICE


def test_the_price_must_be_within_what_the_project_may_still_spend(db: Database) -> None:
    with pytest.raises(CreditExhausted):
        place(db, replace(BLOCK, price_micro=10_000 * MICRO + 1))
    place(db, replace(BLOCK, price_micro=10_000 * MICRO))
    with pytest.raises(CreditExhausted):
        place(db, replace(BLOCK, id="o2", price_micro=1))
    assert on(db, "project:p1:usage") == 10_000 * MICRO


def monthly(price: int = 4_000 * MICRO) -> Order:
    return Order("s1", "p1", "uni", "subscription", "gpu-seconds", 7_200, "CNY", NOVEMBER.start, site_id="alpha",
                 ends_at=NOVEMBER.end + timedelta(days=100), price_micro=price)  # fmt: skip


def renew(db: Database, now: Any) -> int:
    with db.write() as conn:
        done = allocations.renew_due(conn, now=now)
    assert done.refused == {}
    return done.given


def test_each_month_of_a_subscription_is_owed_once_and_billed_in_its_own_month(db: Database) -> None:
    place(db, monthly(), now=T0)
    assert [renew(db, T0), renew(db, DECEMBER.start), renew(db, DECEMBER.start)] == [0, 1, 0]
    assert on(db, "project:p1:usage") == 8_000 * MICRO
    for name, span in (("2026-11", NOVEMBER), ("2026-12", DECEMBER)):
        made = billed(db, name)
        assert [(x.kind, x.amount_micro, x.service_start, x.service_end) for x in made.lines] == [
            (LineKind.ORDER, 4_000 * MICRO, span.start, span.end)
        ]
    assert on(db, "project:p1:invoiced") == -8_000 * MICRO


def test_two_workers_that_renew_at_once_give_and_charge_a_month_once(db: Database) -> None:
    place(db, monthly(), now=T0)
    with ThreadPoolExecutor(4) as pool:
        assert sum(pool.map(lambda _: renew(db, DECEMBER.start), range(8))) == 1
    assert on(db, "project:p1:usage") == 8_000 * MICRO


def test_a_month_that_cannot_be_paid_is_not_given_and_not_made_up_for_when_it_is_over(db: Database) -> None:
    place(db, monthly(6_000 * MICRO), now=T0)
    assert renew(db, DECEMBER.start) == 0
    with db.write() as conn:
        books.grant_credit(conn, project_id="p1", commodity="CNY", amount=9_000 * MICRO, idem_key="g2", now=T0)
    assert renew(db, DECEMBER.end) == 1  # January's; December's time is over
    with db.read() as conn:
        starts = [a.valid_from for a in allocations.allocations(conn, "p1")]
    assert starts == [NOVEMBER.start, DECEMBER.end]
    with pytest.raises(CreditExhausted):
        place(db, replace(monthly(8_000 * MICRO), id="s2"), now=T0)


# ---------------------------------------------------------------- invoices


def test_the_invoice_of_the_month_has_a_line_for_it_and_no_other_ever(db: Database) -> None:
    place(db)
    made = billed(db)
    (line,) = made.lines
    assert (made.gross_minor, line.kind, line.amount_micro) == (123_457, LineKind.ORDER, PRICE)
    assert made.tax_minor == round(Decimal(123_457) * 6 / 106)
    assert describe(line, "en") == "Order o1: 1,000.00 core-hours, once at alpha"
    assert describe(line, "zh") == "订单 o1：1,000.00 核时，一次性购买，alpha"
    assert from_snapshot(made.snapshot) == made
    with db.read() as conn:
        assert charges_of_line(conn, made, line) == []
    assert bill(db) is None
    assert bill(db, "2026-12") is None
    assert on(db, "project:p1:invoiced") == -PRICE


def test_an_invoice_that_dies_takes_no_number_and_no_price(db: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    place(db)

    def dies(*_args: Any) -> Iterator[tuple[str, ...]]:
        raise RuntimeError("killed")

    with monkeypatch.context() as patched:
        patched.setattr("accounting.invoicing.items.order_items", dies)
        with pytest.raises(RuntimeError, match="killed"):
            bill(db)
    assert billed(db).number == "PS-000001"


def test_two_payers_get_their_parts_on_documents_of_their_own(db: Database) -> None:
    with db.write() as conn:
        set_terms(conn, Terms("p1", T0 - timedelta(days=1), payers=(("uni", 2), ("grant", 1))), now=T0)
    place(db)
    third = PRICE // 3
    assert on(db, "project:p1:usage:grant") == third
    assert on(db, "project:p1:usage:uni") == PRICE - third
    assert billed(db, payer="grant", whole=False).lines[0].amount_micro == third
    with db.read() as conn:
        (left,) = waiting_to_be_billed(conn, NOVEMBER.end)
    assert (left.orders, left.amount_micro) == (1, PRICE - third)
    assert billed(db).lines[0].amount_micro == PRICE - third
    assert bill(db, payer="grant", whole=False) is None
    with db.read() as conn:
        assert waiting_to_be_billed(conn, NOVEMBER.end) == []


def test_a_centre_that_sells_by_itself_bills_the_orders_for_it(db: Database) -> None:
    place(db)
    assert bill(db, not_sites=("alpha",)) is None
    assert bill(db, sites=("beta",)) is None
    assert billed(db, sites=("alpha",)).lines[0].amount_micro == PRICE


def test_a_month_is_not_closed_before_its_orders_are_billed(db: Database) -> None:
    place(db)
    with db.write() as conn:
        period = periods.open_period(conn, year=2026, month=11, zone=ZONE, by="ada", now=T0)
        closing.begin(conn, period, by="ada", now=BILLED_AT)
    with pytest.raises(PeriodClosed, match=r"1 prices of orders, 1234\.567891 CNY"), db.write() as conn:
        closing.close(conn, period, by="ada", now=BILLED_AT)
    billed(db)
    with db.write() as conn:
        closing.close(conn, period, by="ada", now=BILLED_AT)


def test_runs_of_the_block_and_its_price_stand_on_one_invoice(db: Database) -> None:
    place(db)
    with db.write() as conn:
        books.add_tariff(conn, PriceRule(0, "CNY", 360_000, T0 - timedelta(days=99)), now=T0)
        book(conn, range(3))
    made = billed(db)
    assert [line.kind for line in made.lines][-1] is LineKind.ORDER
    assert sum(line.amount_micro for line in made.lines) == PRICE  # the runs are paid with the block
    assert on(db, "project:p1:usage") == PRICE
    with db.read() as conn:
        [line] = books.charges_of_job(conn, "j0")
        explained = books.explain(conn, line.charge_id)
    assert {s["reason"] for s in line.segments} == {"paid with order o1"}
    assert explained is not None
    assert any("0.36 CNY per core-hour × 0/1 (paid with order o1) = 0.00 CNY" in step for step in explained.steps)


def test_a_block_from_the_past_leaves_what_is_charged_as_it_is_and_the_verifier_agrees(
    db: Database, verifier: ModuleType
) -> None:
    with db.write() as conn:
        books.add_tariff(conn, PriceRule(0, "CNY", 360_000, T0 - timedelta(days=99)), now=T0)
        book(conn, range(3))
        charged = prices.charged_until(conn, project_id="p1")
    assert charged is not None and charged > T0
    owed = on(db, "project:p1:usage")
    with db.write() as conn:
        allocations.place_order(conn, replace(BLOCK, starts_at=T0), now=charged + timedelta(days=1))
        assert [d.valid_from for d in prices.discounts(conn)] == [charged]
        append_all(conn)
        checkpoint(conn)
    assert owed > 0 and on(db, "project:p1:usage") == owed + PRICE
    assert checked(verifier, evidence(db, project_id="p1"))[0] == []


# ---------------------------------------------------------------- papers and exports


def test_csv_pdf_focus_and_general_ledger_show_the_purchase(db: Database) -> None:
    place(db)
    place(db, monthly(), now=T0)
    made = billed(db)
    rows = list(csv.DictReader(io.StringIO(invoice_csv(made, "zh"))))
    assert [(row["kind"], row["amount_exact"]) for row in rows[:2]] == [("order", "1234.567891"), ("order", "4000")]
    assert "2.00 GPU 卡时" in rows[1]["text"]
    with db.read() as conn:
        steps = steps_of(conn, made)
    assert [price_words.unit_price(steps[n], "CNY", "zh") for n in (1, 2)] == ["¥1.234567891", "¥2,000.00"]
    assert pdf(made, "zh", steps).startswith(b"%PDF")
    focus = list(csv.DictReader(io.StringIO(focus_csv([made]))))
    bought = [row for row in focus if row["ChargeCategory"] == "Purchase"]
    assert [(r["ChargeFrequency"], r["ChargeClass"], r["PricingUnit"]) for r in bought] == [
        ("One-Time", "", "Core-Hours"), ("Recurring", "", "GPU-Hours")
    ]  # fmt: skip
    assert sum(Decimal(row["BilledCost"]) for row in focus) == Decimal(made.gross_minor) / 100
    with db.read() as conn:
        ledger = journal_csv(journal(conn, NOVEMBER.start, NOVEMBER.end))
    assert "order-price:o1" in ledger
    assert "centre:c1:payable" in ledger


def test_a_credit_note_gives_the_price_back_and_takes_the_centres_share(db: Database) -> None:
    place(db)
    made = billed(db)
    before = on(db, "centre:c1:payable")
    with db.write() as conn:
        note = issue_credit_note(conn, made.number, [Credit(1, 50_000)], reason="half a block", now=BILLED_AT)
    assert describe(note.lines[0], "en") == "Credit for line 1: Order o1: 1,000.00 core-hours, once at alpha"
    assert on(db, "centre:c1:payable") - before == 500 * MICRO * 7 // 10


def test_the_price_of_a_disputed_line_is_held_back_from_the_settlement(db: Database) -> None:
    place(db)
    made = billed(db)
    with db.write() as conn:
        dispute_store.raise_dispute(conn, dispute_id="d1", invoice=made.number, line=1, reason="never got it", by="u",
                                    now=BILLED_AT)  # fmt: skip
        assert list(dispute_store.entries_in_dispute(conn, ["alpha"])) == ["order-price:o1"]


# ---------------------------------------------------------------- settlement and evidence


def settled(conn: Connection) -> settlements.Settlement:
    held = contracts.in_force(conn)[0].agreement
    return agree(conn, makers.draw(conn, held, settlement_id="s1", start=NOVEMBER.start, end=NOVEMBER.end,
                                        disputed={}, now=BILLED_AT))  # fmt: skip


def test_the_centre_earns_its_share_of_a_block(db: Database) -> None:
    place(db)
    tax, centre = divided(PRICE)
    with db.write() as conn:
        said = settled(conn).said
    assert (int(said["earned"]), int(said["tax"]), int(said["centre_share"])) == (PRICE, tax, centre)
    assert on(db, "centre:c1:payable") == 0
    with db.read() as conn:
        postings = conn.scalars(select(POSTINGS.c.amount).where(POSTINGS.c.entry_id == select(
            ORDER_PRICES.c.entry_id).scalar_subquery())).all()  # fmt: skip
    assert sum(postings) == 0


def evidence(db: Database, **about: Any) -> list[str]:
    with db.read() as conn:
        asked = About(NOVEMBER.start, NOVEMBER.end, **about)
        return list(bundle(conn, asked, log_key=LOG, seal=SEAL, signers=public_keys()))


def checked(verifier: ModuleType, lines: list[str]) -> tuple[list[str], dict[str, int]]:
    findings, notes, _ = verifier.main_of(iter(lines), verifier.Options(LOG.vkey, [], None, 1))
    return findings, notes


@pytest.fixture
def sealed(db: Database) -> Database:
    """A block for two payers and a month of a subscription: billed, settled, in the log."""
    with db.write() as conn:
        set_terms(conn, Terms("p1", T0 - timedelta(days=1), payers=(("uni", 2), ("grant", 1))), now=T0)
    place(db)
    place(db, monthly(), now=T0)
    billed(db)
    billed(db, payer="grant", whole=False)
    with db.write() as conn:
        settled(conn)
        append_all(conn)
        checkpoint(conn)
    return db


ABOUT = ({"payer_id": "uni"}, {"payer_id": "grant"}, {"settlement_id": "s1"})


def test_the_verifier_divides_the_price_again_and_says_that_no_records_are_under_it(
    sealed: Database, verifier: ModuleType
) -> None:
    for about in ABOUT:
        findings, notes = checked(verifier, evidence(sealed, **about))
        assert findings == []
        assert sum(n for text, n in notes.items() if "no raw records are under it" in text) == 2


def changes(line: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """The line of a bundle with one value of an order changed each time."""
    text = json.dumps(line)
    if line["t"] == "leaf" and line["leaf"]["t"] == "order":
        for name, value in line["content"].items():
            changed = json.loads(text)
            changed["content"][name] = "7" if value != "7" else "8"
            yield changed
    if line["t"] == "entry" and line["leaf"]["kind"] == "order":
        for i in range(len(line["leaf"]["postings"])):
            changed = json.loads(text)
            changed["leaf"]["postings"][i][2] = "7"
            yield changed
    if line["t"] == "items":
        changed = json.loads(text)
        changed["items"][0][5] = "7"
        yield changed


def test_a_changed_price_quantity_share_or_part_is_found(sealed: Database, verifier: ModuleType) -> None:
    for about in ABOUT:
        lines = evidence(sealed, **about)
        tried = 0
        for i, text in enumerate(lines):
            for changed in changes(json.loads(text)):
                tried += 1
                again = json.dumps(changed, ensure_ascii=False, separators=(",", ":")) + "\n"
                try:
                    findings, _ = checked(verifier, [*lines[:i], again, *lines[i + 1 :]])
                except (ValueError, KeyError, TypeError):
                    continue
                assert findings, changed
        assert tried > 35


def test_a_share_that_was_booked_against_the_agreement_is_found(
    db: Database, verifier: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("accounting.store.orders.divide", lambda *a: structs.replace(divide(*a), centre=1))
    place(db)
    billed(db)
    with db.write() as conn:
        append_all(conn)
        checkpoint(conn)
    findings, _ = checked(verifier, evidence(db, payer_id="uni"))
    assert any("by the order and its agreement" in text for text in findings)


def test_an_entry_whose_order_is_missing_is_told_as_not_added_again(
    sealed: Database, verifier: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("accounting.evidence.ordered.orders", lambda *_: ())
    findings, notes = checked(verifier, evidence(sealed, payer_id="uni"))
    assert findings == []
    assert notes["this entry is of an order that is not in the bundle: its price was not re-added"] == 2
    assert notes["a line of an order that is not in the bundle: it was not re-added from the order"] == 2
