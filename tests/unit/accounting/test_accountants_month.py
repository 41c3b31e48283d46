"""An accountant's autumn, its data its own: two legal entities, three currencies, credit notes, a dispute, exports."""

from __future__ import annotations

import csv
import io
from collections import defaultdict
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path

import pytest
from msgspec.structs import replace as changed
from sqlalchemy import Connection

from accounting import store as books
from accounting.calendar import Window, month
from accounting.exports import rows as export_rows
from accounting.exports.focus import focus_csv
from accounting.exports.general_ledger import beancount
from accounting.invoicing import dispute_store, legal_entities
from accounting.invoicing.ageing import aged, standings
from accounting.invoicing.as_csv import invoice_csv
from accounting.invoicing.credit_notes import Credit
from accounting.invoicing.disputes import Side, Step
from accounting.invoicing.invoice import Document, LegalEntity
from accounting.invoicing.store import Wanted, issue_credit_note, issue_invoice
from accounting.invoicing.tax import TaxKind, TaxRule
from accounting.invoicing.unit_prices import steps_of
from accounting.meter import MeteringPolicy
from accounting.minor_units import decimal_of, plain
from accounting.money import MICRO
from accounting.payments.payment import BankTransaction
from accounting.payments.store import import_payments, open_documents
from accounting.store import allocations
from accounting.store.orders import Order
from accounting.tariff import PriceRule
from gateway.db import Database
from tests.unit.accounting.invoicing import run
from tests.unit.accounting.test_exports import focus_verdicts, tool

OLD = datetime(2024, 1, 1, tzinfo=UTC)
OCTOBER = datetime(2026, 10, 12, 8, tzinfo=UTC)
DECEMBER = datetime(2026, 12, 20, tzinfo=UTC)
RULES = (
    TaxRule("vat", TaxKind.STANDARD, 60_000, OLD, name_en="VAT"), TaxRule("mwst", TaxKind.STANDARD, 81_000, OLD),
    TaxRule("jct", TaxKind.STANDARD, 100_000, OLD, inclusive=True, name_en="JCT"),
    TaxRule("rc", TaxKind.REVERSE, 0, OLD, note_en="Reverse charge: the customer accounts for the tax."),
)  # fmt: skip
ENTITIES = {
    LegalEntity("op", "Penstock Operations Ltd", country="CN", prefix="PS"): "vat",
    LegalEntity("eu", "Penstock Europe GmbH", country="CH", prefix="EU", zone="Europe/Zurich"): "mwst",
    LegalEntity("uni", "物理研究院", country="CN"): "",
    LegalEntity("todai", "University of Tokyo", country="JP"): "jct",
    LegalEntity("tum", "TU München", country="DE"): "rc",
}  # fmt: skip


def work(conn: Connection, currency: str, *runs: books.Assigned) -> None:
    books.record_and_book(conn, [changed(r, currency=currency) for r in runs], policy=MeteringPolicy(), now=OCTOBER)


def bill(conn: Connection, issuer: str, payer: str, project: str, currency: str, *sites: str) -> Document:
    span = month("2026-10", "Asia/Shanghai" if issuer == "op" else "Europe/Zurich")
    wanted = Wanted(issuer, payer, project, project, currency, span, sites, {"u1": "alice"}, True)
    made = issue_invoice(conn, wanted, now=span.end + timedelta(days=2))
    assert made is not None
    return made


@pytest.fixture
def db(db_url: str) -> Iterator[Database]:
    made = Database(db_url)
    with made.write() as conn:
        for rule in RULES:
            legal_entities.add_tax_rule(conn, rule, now=OLD)
        for entity, code in ENTITIES.items():
            legal_entities.save_entity(conn, entity, tax_code=code, now=OLD)
        for project, payer, currency, price in (
            ("r1", "uni", "CNY", 123_457), ("r2", "todai", "JPY", 2_345_678), ("r3", "tum", "EUR", 17_333),
        ):  # fmt: skip
            legal_entities.set_payer(conn, project_id=project, payer_id=payer, valid_from=OLD, now=OLD)
            books.open_project_accounts(conn, project, currency=currency)
            books.add_tariff(conn, PriceRule(0, currency, price, OLD), now=OLD)
        night = PriceRule(0, "EUR", 9_999, OLD, window=Window(22 * 60, 6 * 60), zone="Europe/Zurich")
        books.add_tariff(conn, night, now=OLD)
        allocations.add_voucher(conn, "JP-WELCOME", commodity="JPY", amount=5_000 * MICRO, expires_at=None, now=OLD)
        allocations.redeem(conn, "JP-WELCOME", project_id="r2", now=OCTOBER)
        work(conn, "CNY", run(1_234_567, at=OCTOBER), run(999_999, at=OCTOBER, user="u2"))
        work(conn, "JPY", run(777_777, at=OCTOBER, project="r2"))
        work(conn, "EUR", run(555_555, at=OCTOBER, site="beta", project="r3"))
        begins = OCTOBER + timedelta(days=1)
        allocations.place_order(conn, Order("t1", "r3", "tum", "trial", "core-seconds", 36_000, "EUR", begins,
                                            ends_at=begins + timedelta(days=30)), now=begins)  # fmt: skip
        work(conn, "EUR", run(7_200, at=begins + timedelta(hours=9), site="beta", project="r3", user="u2"))
    yield made
    made.dispose()


def test_the_books_the_papers_and_the_exports_say_the_same(db: Database, tmp_path: Path) -> None:
    with db.write() as conn:
        cny = bill(conn, "op", "uni", "r1", "CNY", "alpha")
        jpy = bill(conn, "op", "todai", "r2", "JPY", "alpha")
        eur = bill(conn, "eu", "tum", "r3", "EUR", "beta")
        for doc in (cny, jpy, eur):
            for line in doc.lines:
                assert sum(s.amount_micro for s in steps_of(conn, doc)[line.number]) == line.amount_micro
    assert [(d.number, plain(d.net_minor, d.currency), plain(d.tax_minor, d.currency)) for d in (cny, jpy, eur)] == [
        ("PS-000001", "76.63", "4.60"), ("PS-000002", "461", "46"), ("EU-000001", "2.28", "0.00"),
    ]  # fmt: skip
    assert [line.amount_micro for line in eur.lines if line.user_id == "u2"] == [0], "the trial costs nothing"

    with db.write() as conn:  # credited in another month; disputed, and the clock runs out
        issue_credit_note(conn, "EU-000001", [Credit(1, 33)], reason="goodwill", now=DECEMBER)
        raised = datetime(2026, 11, 12, tzinfo=UTC)
        dispute_store.raise_dispute(conn, dispute_id="d1", invoice="PS-000002", line=1, reason="queue", by="a",
                                    now=raised)  # fmt: skip
        [dispute] = dispute_store.disputes(conn)
        assert not dispute.overdue(raised) and dispute.overdue(DECEMBER)
        dispute_store.take(conn, "d1", Step.CREDIT, side=Side.OPERATOR, by="o", credit_net_minor=100, now=DECEMBER)
        [back] = [d for d in export_rows.documents(conn, OLD, DECEMBER + timedelta(days=1))
                  if d.corrects == "PS-000002"]  # fmt: skip
        assert (back.net_minor, back.tax_minor) == (-100, -10), "9.98 yen of tax are ten"
        paid = [BankTransaction("CN", "b1", DECEMBER, "CNY", cny.gross_minor, "物理研究院", "PS 000001"),
                BankTransaction("JP", "b2", DECEMBER, "JPY", 396, "UNIV OF TOKYO", "PS-000002"),
                BankTransaction("EU", "b3", DECEMBER, "EUR", 195, "TUM", "")]  # fmt: skip
        done = import_payments(conn, paid, now=DECEMBER)
        assert (done.unallocated, done.proposed) == (1, 1), "TUM is another name than TU München: a person says"
        [owes_one_yen, waits] = standings(aged(open_documents(conn), {}, DECEMBER))
        assert (owes_one_yen.currency, owes_one_yen.total, waits.total) == ("JPY", 1, 195)
        assert books.check_books(conn) == []

    with db.read() as conn:
        documents = export_rows.documents(conn, OLD, DECEMBER + timedelta(days=1))
        lines = export_rows.journal(conn, OLD, DECEMBER + timedelta(days=1))
    focus = focus_csv(documents)
    costs: dict[str, Decimal] = defaultdict(Decimal)
    for row in csv.DictReader(io.StringIO(focus)):
        costs[row["x_InvoiceId"]] += Decimal(row["BilledCost"])
    assert costs == {d.number: decimal_of(d.gross_minor, d.currency) for d in documents}
    for doc in documents:
        *rows, total = csv.DictReader(io.StringIO(invoice_csv(doc, "en")))
        assert total["gross"] == plain(doc.gross_minor, doc.currency)
        assert sum(Decimal(row["gross"]) for row in rows) == Decimal(total["gross"])

    booked: dict[tuple[str, str], int] = defaultdict(int)
    for line in lines:
        if line.kind in ("invoice", "credit_note") and line.account.startswith("payer:"):
            booked["receivable", line.commodity] += line.amount
        elif line.account.startswith("tax:"):  # of a price with its tax inside, moved by an entry of its own
            booked[line.account, line.commodity] += line.amount
    for currency, entity, code in (("CNY", "op", "vat"), ("JPY", "op", "jct"), ("EUR", "eu", "rc")):
        mine = [d for d in documents if d.currency == currency]
        coin = Decimal(MICRO)
        assert booked["receivable", currency] / coin == sum(decimal_of(d.gross_minor, currency) for d in mine)
        tax = -booked[f"tax:{entity}:{code}", currency] / coin
        assert tax == sum(decimal_of(d.tax_minor, currency) for d in mine)

    [verdict] = focus_verdicts([focus], tmp_path)
    assert "Validation succeeded" in verdict, verdict
    (tmp_path / "books.beancount").write_text(beancount(lines))
    checked = tool("-m", "beancount.scripts.check", str(tmp_path / "books.beancount"))
    assert (checked.returncode, checked.stdout, checked.stderr) == (0, "", "")
