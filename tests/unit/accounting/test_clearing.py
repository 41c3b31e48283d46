"""Documents cleared without money of the bank; the trial balance, drawn up from the exported journal, tells it."""

from __future__ import annotations

import csv
import io
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from itertools import count

import pytest
from sqlalchemy import Connection, insert

from accounting import store as books
from accounting.errors import AccountingError, FourEyes, PaymentRefused
from accounting.exports.general_ledger import journal_csv
from accounting.exports.rows import journal
from accounting.invoicing.ageing import aged, standings
from accounting.invoicing.credit_notes import Credit
from accounting.invoicing.legal_entities import save_entity
from accounting.invoicing.store import issue_credit_note, issue_invoice
from accounting.payments.clearing import Clearing, clearings, decide_clearing, request_clearing
from accounting.payments.payment import BankTransaction
from accounting.payments.store import import_payments, open_documents
from accounting.payments.top_up_store import top_up
from accounting.store import allocations
from accounting.store.payments import Payment, refund
from accounting.store.settled import PAID
from gateway.db import Database
from tests.unit.accounting.invoicing import NOW, PAYER, bill, charge, parties, run, wanted

LATER = NOW + timedelta(days=30)
ALWAYS = datetime(1980, 1, 1, tzinfo=UTC), datetime(2400, 1, 1, tzinfo=UTC)
_ids = count(1)


@pytest.fixture
def db(db_url: str) -> Iterator[Database]:
    made = Database(db_url)
    with made.write() as conn:
        parties(conn)
        charge(conn, run(1_440_000, key="a"), run(1_152_000, user="u2"))
        assert bill(conn).gross_minor == 3816  # 36.00 net, 2.16 tax
    yield made
    made.dispose()


def trial_balance(conn: Connection) -> dict[str, Decimal]:
    """Accounts of CNY that are not zero, from the exported journal alone."""
    sums: dict[str, Decimal] = defaultdict(Decimal)
    entries: dict[tuple[str, str], Decimal] = defaultdict(Decimal)
    for row in csv.DictReader(io.StringIO(journal_csv(journal(conn, *ALWAYS)))):
        entries[row["entry"], row["commodity"]] += Decimal(row["amount"])
        if row["commodity"] == "CNY":
            sums[row["account"]] += Decimal(row["amount"])
    assert not any(entries.values())
    assert books.check_books(conn) == []
    return {account: amount for account, amount in sums.items() if amount}


def clear(
    conn: Connection, kind: str, minor: int | None = None, *, document: str = "PS-000001", source: str | None = None,
    by: str = "olga", limit: int = 10**9, now: datetime = NOW,
) -> str:  # fmt: skip
    asked = Clearing(f"w{next(_ids)}", kind, document, "as agreed", by, minor, source)
    return request_clearing(conn, asked, four_eyes_micro=limit, now=now)


def owed(conn: Connection) -> dict[str, int]:
    return {d.number: d.open_minor for d in open_documents(conn)}


def paid(minor: int, text: str = "PS-000001") -> BankTransaction:
    return BankTransaction("ACC", f"b{next(_ids)}", NOW, "CNY", minor, "", text)


def available(conn: Connection) -> int:
    found = next(e.available for e in books.exposure(conn, "r1") if e.commodity == "CNY")
    assert found is not None
    return found


def prepaid(conn: Connection, micro: int, payer: str = "uni") -> None:
    one = Payment(f"y{next(_ids)}", payer, "CNY", micro, NOW, "bank", f"TOPUP{next(_ids)}")
    top_up(conn, one, project_id="r1", now=NOW)


def test_a_written_off_invoice_is_no_receivable_any_more_and_no_new_credit(db: Database) -> None:
    with db.write() as conn:
        before = available(conn)
        import_payments(conn, [paid(1908)], now=NOW)
        half = available(conn)
        assert clear(conn, "write_off") == "posted"
        assert owed(conn) == {} and aged(open_documents(conn), {}, LATER) == []
        assert (before, available(conn)) == (half - 18_000_000, half)
        assert trial_balance(conn) == {
            "bank:ACC": Decimal("19.08"), "operator:bad-debt": Decimal("19.08"), "tax:op:vat": Decimal("-2.16"),
            "operator:revenue": Decimal(-36), "project:r1:usage": Decimal(36), "project:r1:invoiced": Decimal(-18),
            "project:r1:paid": Decimal(-18),
        }  # fmt: skip
        with pytest.raises(PaymentRefused, match=r"between -19\.08 and 0\.00 CNY"):
            clear(conn, "write_off", 1)


def test_what_was_written_off_and_is_paid_after_all_finds_its_invoice(db: Database) -> None:
    with db.write() as conn:
        clear(conn, "write_off")
        assert import_payments(conn, [paid(1000)], now=LATER).unallocated == 1
        assert clear(conn, "write_off", -1000, now=LATER) == "posted"
        assert owed(conn) == {"PS-000001": 1000}
        assert import_payments(conn, [paid(1000)], now=LATER).unallocated == 0
        assert owed(conn) == {}
        found = trial_balance(conn)
        assert (found["operator:bad-debt"], found["unallocated:ACC"]) == (Decimal("28.16"), Decimal(-10))
        assert "payer:uni:receivable" not in found


def test_a_deposit_pays_the_invoice_of_what_was_used_and_the_rest_goes_back(db: Database) -> None:
    with db.write() as conn:
        before = available(conn)
        prepaid(conn, 100_000_000)
        assert available(conn) == before + 100_000_000
        clear(conn, "deposit")
        assert owed(conn) == {}
        assert available(conn) == before + 100_000_000 - 2_160_000  # the tax of what was used
        found = trial_balance(conn)
        assert found["project:r1:paid"] == Decimal("-97.84") and "project:r1:invoiced" not in found
        assert found["project:r1:usage"] + found["project:r1:paid"] == Decimal("-61.84")  # what is left of 100.00
    with pytest.raises(AccountingError), db.write() as conn:
        refund(conn, project_id="r1", currency="CNY", amount_micro=61_850_000, idem_key="q1", reason="end", now=NOW)
    with db.write() as conn:
        refund(conn, project_id="r1", currency="CNY", amount_micro=61_840_000, idem_key="q2", reason="end", now=NOW)
        found = trial_balance(conn)
        assert found["operator:cash"] == Decimal("38.16")
        assert found["project:r1:usage"] + found["project:r1:paid"] == 0


def voucher(conn: Connection, code: str, micro: int, expires_at: datetime | None = None) -> None:
    allocations.add_voucher(conn, code, commodity="CNY", amount=micro, expires_at=expires_at, now=NOW)
    allocations.redeem(conn, code, project_id="r1", now=NOW)


def test_a_voucher_pays_an_invoice_once_and_is_no_credit_line(db: Database) -> None:
    with db.write() as conn:
        before = available(conn)
        voucher(conn, "WELCOME-1", 10_000_000)
        voucher(conn, "WELCOME-2", 5_000_000, expires_at=LATER)
        assert available(conn) == before + 15_000_000
        assert clear(conn, "voucher", 1200) == "posted"
        assert owed(conn) == {"PS-000001": 2616}
        assert available(conn) == before + 15_000_000 - 12_000_000 + 11_320_754  # its tax is paid by it too
        found = trial_balance(conn)
        assert found["payer:uni:receivable"] == Decimal("26.16")
        assert clear(conn, "voucher") == "posted"
        assert owed(conn) == {"PS-000001": 2316}
        with pytest.raises(PaymentRefused, match="can be cleared as voucher"):
            clear(conn, "voucher", 1)
    with pytest.raises(AccountingError), db.write() as conn:
        refund(conn, project_id="r1", currency="CNY", amount_micro=1, idem_key="q1", reason="end", now=NOW)
    with db.write() as conn:
        left = available(conn)
        assert allocations.expire_due(conn, now=LATER) == 1
        assert available(conn) == left  # all of it was spent
        assert books.check_books(conn) == []


def test_what_of_a_voucher_has_lapsed_pays_nothing(db: Database) -> None:
    with db.write() as conn:
        voucher(conn, "WELCOME-3", 50_000_000, expires_at=LATER)
        assert clear(conn, "voucher", 500) == "posted"
        allocations.expire_due(conn, now=LATER)
        used = 36_000_000  # of the 50.00, before tax; the 0.28 of tax in the 5.00 lapse no more
        assert clear(conn, "voucher", now=LATER) == "posted"
        assert owed(conn) == {"PS-000001": 3816 - 500 - (used - 4_716_981) // 10_000}
        assert books.check_books(conn) == []


def test_only_the_payers_own_deposit_pays_its_invoice_and_only_what_is_left(db: Database) -> None:
    with db.write() as conn:
        save_entity(conn, replace(PAYER, id="lab"), now=NOW)
        prepaid(conn, 100_000_000, payer="lab")
        with pytest.raises(PaymentRefused, match="can be cleared as deposit"):
            clear(conn, "deposit")
        prepaid(conn, 20_000_000)
        assert clear(conn, "deposit") == "posted"
        assert owed(conn) == {"PS-000001": 1816}
        with pytest.raises(PaymentRefused, match="can be cleared as deposit"):
            clear(conn, "deposit", 1)


def test_a_months_corrections_are_set_off_against_the_next_invoice(db: Database) -> None:
    """The payer has paid October; its correction makes November's document a credit note of no invoice of its own."""
    with db.write() as conn:
        before = available(conn)
        import_payments(conn, [paid(3816)], now=NOW)
        charge(conn, run(720_000, key="a", note="corrected"), now=NOW)
        note = issue_invoice(conn, wanted("2026-11"), now=LATER)
        assert note is not None and (note.number, note.gross_minor) == ("PSC-000001", -1060)
        assert owed(conn) == {"PSC-000001": -1060}
        [standing] = standings(aged(open_documents(conn), {}, LATER))
        assert standing.total == -1060
        assert trial_balance(conn)["payer:uni:receivable"] == Decimal("-10.60")
        charge(conn, run(1_440_000, at=LATER - timedelta(days=5)), now=LATER)
        following = issue_invoice(conn, wanted("2026-11"), now=LATER)
        assert following is not None and following.gross_minor == 2120
        clear(conn, "set_off", document="PS-000002", source="PSC-000001", now=LATER)
        assert owed(conn) == {"PS-000002": 1060}
        assert trial_balance(conn)["payer:uni:receivable"] == Decimal("10.60")
        import_payments(conn, [paid(1060, "PS-000002")], now=LATER)
        found = trial_balance(conn)
        assert not {"payer:uni:receivable", "project:r1:invoiced"} & set(found)
        assert found["project:r1:usage"] == -found["project:r1:paid"] == Decimal(46)
        assert available(conn) == before + 36_000_000


def test_a_credit_after_payment_is_paid_back_once_and_much_of_it_by_two(db: Database) -> None:
    with db.write() as conn:
        import_payments(conn, [paid(3816)], now=NOW)
        issue_credit_note(conn, "PS-000001", [Credit(1, 1000)], reason="node failed", now=NOW)
        assert owed(conn) == {"PS-000001": -1060}
        assert clear(conn, "refund", 1060, limit=10_000_000) == "waiting"
        [asked] = clearings(conn, "PS-000001")
        with pytest.raises(FourEyes):
            decide_clearing(conn, asked.id, approve=True, by="olga", now=NOW)
        assert owed(conn) == {"PS-000001": -1060}
        assert decide_clearing(conn, asked.id, approve=True, by="petra", now=NOW) == "posted"
        with pytest.raises(PaymentRefused, match="posted already"):
            decide_clearing(conn, asked.id, approve=True, by="petra", now=NOW)
        assert owed(conn) == {}
        found = trial_balance(conn)
        assert (found["operator:cash"], found["bank:ACC"]) == (Decimal("-10.60"), Decimal("38.16"))
        assert "payer:uni:receivable" not in found and "project:r1:invoiced" not in found
        assert found["project:r1:paid"] == -Decimal(36)
        with pytest.raises(PaymentRefused, match="can be cleared as refund"):
            clear(conn, "refund", 1)


def test_what_waits_is_posted_only_as_far_as_it_is_still_owed(db: Database) -> None:
    with db.write() as conn:
        assert clear(conn, "write_off", 3816, limit=10_000_000) == "waiting"
        [asked] = clearings(conn)
        import_payments(conn, [paid(3000)], now=NOW)
        with pytest.raises(PaymentRefused, match=r"between 0\.00 and 8\.16 CNY"):
            decide_clearing(conn, asked.id, approve=True, by="petra", now=NOW)
        assert decide_clearing(conn, asked.id, approve=False, by="petra", now=NOW) == "refused"
        assert owed(conn) == {"PS-000001": 816}


def test_many_small_write_offs_of_one_person_are_a_large_one(db: Database) -> None:
    with db.write() as conn:
        assert [clear(conn, "write_off", 400, limit=10_000_000) for _ in range(3)] == ["posted", "posted", "waiting"]
        assert clear(conn, "write_off", 400, limit=10_000_000, by="petra") == "posted"


def test_a_set_off_stays_between_one_issuer_payer_and_currency(db: Database) -> None:
    with db.write() as conn:
        save_entity(conn, replace(PAYER, id="lab"), now=NOW)
        charge(conn, run(1_440_000))
        other = issue_invoice(conn, replace(wanted(), payer_id="lab"), now=NOW)
        assert other is not None
        issue_credit_note(conn, "PS-000001", [Credit(1, 1000)], reason="node failed", now=NOW)
        import_payments(conn, [paid(2756), paid(1000)], now=NOW)
        for kind, source, why in [("set_off", "PS-000001", "same issuer"), ("set_off", None, "names the document"),
                                  ("refund", "PS-000001", "names the document"), ("gift", None, "is one of"),
                                  ("set_off", "PSC-000001", "no document")]:  # fmt: skip
            with pytest.raises(PaymentRefused, match=why):
                clear(conn, kind, document=other.number, source=source)


def test_a_receivable_that_its_documents_do_not_explain_is_found(db: Database) -> None:
    with db.write() as conn:
        conn.execute(insert(PAID).values(transaction_id=9, document="PS-000001", amount_minor=100, how="by nobody",
                                         entry_id=1, recorded_at=NOW))  # fmt: skip
        assert books.check_books(conn) == ["payer:uni:receivable/CNY: ledger 38160000, documents 37160000"]
