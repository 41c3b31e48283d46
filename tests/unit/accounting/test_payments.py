"""Payments: read from banks' files, imported once, matched to invoices, aged; and disputes of a line."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from itertools import product
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import func, select, text
from sqlalchemy.exc import DBAPIError

from accounting import store as books
from accounting.errors import InvoiceRefused, PaymentRefused
from accounting.invoicing import dispute_store
from accounting.invoicing.ageing import aged, standings
from accounting.invoicing.credit_notes import Credit
from accounting.invoicing.dispute_store import Evidence, raise_dispute, take
from accounting.invoicing.disputes import LIVE, TABLE, DisputeState, Side, Step, advance
from accounting.invoicing.invoice import Document, LegalEntity
from accounting.invoicing.legal_entities import save_entity
from accounting.invoicing.store import issue_credit_note, load
from accounting.payments.bank_csv import CsvProfile, minor_of, read_csv
from accounting.payments.camt import read_camt
from accounting.payments.clearing import Clearing, request_clearing
from accounting.payments.payer import alike, contradicts
from accounting.payments.payment import Allocation, BankTransaction, OpenDocument, in_order
from accounting.payments.payment import allocate as allocate_by
from accounting.payments.store import PAID, allocate_by_hand, import_payments, open_documents, received
from accounting.store.cleared import WRITE_OFF
from gateway.db import Database
from tests.unit.accounting.invoicing import NOW, bill, charge, parties, run

DAY = datetime(2026, 11, 20, tzinfo=UTC)


def paid(
    amount: int, remittance: str = "", *, ref: str = "b1", name: str = "", currency: str = "CNY"
) -> BankTransaction:
    return BankTransaction("ACC", ref, DAY, currency, amount, name, remittance)


def owed(number: str, minor: int, *, name: str = "Uni", currency: str = "CNY", day: int = 0) -> OpenDocument:
    return OpenDocument(number, "p", name, currency, minor, DAY + timedelta(days=day))


# ---------------------------------------------------------------- matching


def allocate(transaction: BankTransaction, documents: list[OpenDocument], *owners: str) -> list[Allocation]:
    return allocate_by(transaction, documents, lambda t, d: contradicts(t, d, owners))


@pytest.mark.parametrize(("said", "owner"), [
    ("Other Lab GmbH", "Uni"), ("University of Basel", "University of Bern"), ("北京大学", "清华大学"),
    ("AG", "Uni AG"),
])  # fmt: skip
def test_an_amount_alone_books_nothing_where_the_payer_is_another_one(said: str, owner: str) -> None:
    assert allocate(paid(500, name=said), [owed("PS-000001", 500, name=owner)]) == []
    assert len(allocate(paid(500, "for PS-000001", name=said), [owed("PS-000001", 500, name=owner)])) == 1


@pytest.mark.parametrize(("said", "owner"), [
    ("", "Uni"), ("UNIVERSITAET ZUERICH", "Universität Zürich"), ("Bern, University of", "University of Bern"),
    ("DEUTSCHES KLIMARECHENZE", "Deutsches Klimarechenzentrum GmbH"), ("北京大学", "北京大学计算中心"),
    ("UNI", "Uni AG"),
])  # fmt: skip
def test_a_payer_is_known_however_the_bank_writes_the_name(said: str, owner: str) -> None:
    assert len(allocate(paid(500, name=said), [owed("PS-000001", 500, name=owner)])) == 1


def test_the_account_says_more_than_the_name() -> None:
    invoice = [owed("PS-000001", 500)]
    assert allocate(paid(500, name="Uni"), invoice, "somebody") == []
    assert len(allocate(paid(500, name="State treasury"), invoice, "somebody", "p")) == 1


def test_no_names_are_alike_that_share_only_a_legal_form() -> None:
    assert not alike("AG", "Lab AG") and not alike("", "Lab") and alike("Lab AG", "lab ag")


@pytest.mark.parametrize(
    "text", ["PS-000001", "ps 000001", "Invoice PS000001, thanks", "no.PS-000001/Oct", "/PS 000001/"]
)
def test_number_is_found_however_the_bank_writes_it(text: str) -> None:
    found = allocate(paid(500, text), [owed("PS-000001", 500), owed("PS-000002", 500)])
    assert [(a.document, a.amount_minor) for a in found] == [("PS-000001", 500)]


@pytest.mark.parametrize("text", ["PS-0000011", "XPS-000001", "1PS-000001", "PS-00001", ""])
def test_part_of_another_number_is_no_mention(text: str) -> None:
    assert allocate(paid(499, text), [owed("PS-000001", 500)]) == []


def test_one_payment_pays_the_invoices_it_names_in_that_order_and_keeps_the_rest() -> None:
    found = allocate(paid(1000, "PS-000002 and PS-000001"), [owed("PS-000001", 500), owed("PS-000002", 300)])
    assert [(a.document, a.amount_minor) for a in found] == [("PS-000002", 300), ("PS-000001", 500)]


def test_amount_decides_only_where_it_fits_one_invoice() -> None:
    two = [owed("PS-000001", 500, name="A Uni"), owed("PS-000002", 500, name="B Uni")]
    assert [a.document for a in allocate(paid(500), two[:1])] == ["PS-000001"]
    assert allocate(paid(500), two) == []
    assert [a.document for a in allocate(paid(500, name="b  uni."), two)] == ["PS-000002"]
    assert allocate(paid(500, currency="EUR"), two[:1]) == []
    assert allocate(paid(-500, "PS-000001"), two) == []


# The machine may be busy: slow drawing says nothing of the code.
@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.integers(1, 10**6), st.lists(st.integers(1, 10**6), max_size=6))
def test_no_more_is_allocated_than_was_paid_or_is_owed(amount: int, debts: list[int]) -> None:
    documents = [owed(f"PS-{n:06d}", debt) for n, debt in enumerate(debts)]
    found = allocate(paid(amount, " ".join(d.number for d in documents)), documents)
    assert sum(a.amount_minor for a in found) == min(amount, sum(debts)) or not debts
    assert all(a.amount_minor <= debts[int(a.document[3:])] for a in found)


# ---------------------------------------------------------------- files


def test_csv_is_read_by_a_profile() -> None:
    profile = CsvProfile("ACC", bank_ref="Ref", booked_on="Datum", amount="Betrag", payer_name="Name",
                         remittance="Zweck", currency_column="W", delimiter=";", date_format="%d.%m.%Y",
                         decimal_mark=",")  # fmt: skip
    data = "Ref;Datum;Betrag;W;Name;Zweck\nr1;20.11.2026;1.234,50;EUR;Uni;PS-000001\nr2;20.11.2026;-5,00;EUR;x;fee\n"
    found = read_csv(("\ufeff" + data).encode(), profile)
    assert found.transactions == (BankTransaction("ACC", "r1", DAY, "EUR", 123450, "Uni", "PS-000001"),)
    assert found.problems == ()
    [fee] = found.left_out
    assert (fee.where, fee.amount_minor, fee.currency, fee.remittance) == ("row 3", -500, "EUR", "fee")
    assert fee.why == "money that went out, and no returned payment"


HEAD = "reference,date,amount,payer,remittance"


@pytest.mark.parametrize(("head", "row", "profile"), [
    (HEAD, "b1,2026-11-21,-38.16,Uni,Return PS-000001", {}),
    (f"{HEAD},side", "b1,2026-11-21,38.16,Uni,Rücklastschrift PS-000001,S", {"side": "side"}),
    (f"{HEAD},side", "b1,2026-11-21,-38.16,Uni,退汇 PS-000001,借", {"side": "side"}),
    (f"{HEAD},out", "b1,2026-11-21,,Uni,Returned: PS-000001,38.16", {"debit": "out"}),
    (f"{HEAD},what", "b1,2026-11-21,-38.16,Uni,PS-000001,REVERSAL", {"kind": "what"}),
    (f"{HEAD},what", "b1,2026-11-21,-38.16,Uni,PS-000001,XYZ", {"kind": "what", "return_words": ("xyz",)}),
])  # fmt: skip
def test_a_debit_that_the_bank_calls_a_return_is_money_that_went_back(
    head: str, row: str, profile: dict[str, Any]
) -> None:
    found = read_csv(f"{head}\n{row}\n".encode(), CsvProfile("ACC", **profile))
    assert (found.problems, found.left_out) == ((), ())
    assert [(t.bank_ref, t.amount_minor) for t in found.transactions] == [("b1/returned", -3816)]


@pytest.mark.parametrize(("head", "row", "profile"), [
    (HEAD, "b1,2026-11-21,-38.16,Uni,Refund PS-000001", {}),
    (HEAD, "b1,2026-11-21,-38.16,Uni,Returnable box", {}),
    (HEAD, "b1,2026-11-21,-38.16,Bank,Fee for returned payment PS-000001", {}),
    (HEAD, "b1,2026-11-21,-38.16,Bank,Rücklastschriftgebühr PS-000001", {}),
    (f"{HEAD},what", "b1,2026-11-21,-38.16,Uni,return of PS-000001,fee", {"kind": "what"}),
    (f"{HEAD},side", "b1,2026-11-21,38.16,Uni,PS-000001,DBIT", {"side": "side"}),
])  # fmt: skip
def test_any_other_debit_is_left_out_and_told(head: str, row: str, profile: dict[str, Any]) -> None:
    found = read_csv(f"{head}\n{row}\n".encode(), CsvProfile("ACC", **profile))
    assert (found.problems, found.transactions) == ((), ())
    assert [(x.where, x.amount_minor) for x in found.left_out] == [("row 2", -3816)]


@pytest.mark.parametrize(("head", "row", "profile", "why"), [
    (f"{HEAD},side", "b1,2026-11-21,38.16,Uni,x,?", {"side": "side"}, "neither debit nor credit"),
    (f"{HEAD},side", "b1,2026-11-21,-38.16,Uni,x,C", {"side": "side"}, "negative"),
    (f"{HEAD},out", "b1,2026-11-21,1.00,Uni,x,38.16", {"debit": "out"}, "came in and one that went out"),
])  # fmt: skip
def test_columns_that_contradict_each_other_are_a_problem(
    head: str, row: str, profile: dict[str, Any], why: str
) -> None:
    [problem] = read_csv(f"{head}\n{row}\n".encode(), CsvProfile("ACC", **profile)).problems
    assert why in problem.why


def test_every_bad_row_of_a_csv_is_told_with_its_place() -> None:
    rows = ["r1,2026-11-20,abc", "r2,20.11.2026,5.00", ",2026-11-20,5.00", "r4,2026-11-20,5.001", "r5,2026-11-20,0",
            "r6,2026-11-20,99999999999999999.00", "r7,2026-11-20", "r8,2026-11-20,5.00"]  # fmt: skip
    found = read_csv(("reference,date,amount\n" + "\n".join(rows)).encode(), CsvProfile("ACC"))
    assert [p.where for p in found.problems] == [f"row {n}" for n in range(2, 9)]
    assert [t.bank_ref for t in found.transactions] == ["r8"]


@pytest.mark.parametrize(
    "data", [b"", b"\xff\xfe\x00", b"a,b\n1,2", b"\x00\x00", b'reference,date,amount\n"x', b"PK\x03\x04"]
)
def test_what_is_no_such_csv_is_refused(data: bytes) -> None:
    with pytest.raises(PaymentRefused):
        read_csv(data, CsvProfile("ACC"))


@pytest.mark.parametrize(
    ("text", "currency", "minor"), [("5", "CNY", 500), ("1,234.5", "CNY", 123450), ("500", "JPY", 500)]
)
def test_amounts_are_exact(text: str, currency: str, minor: int) -> None:
    assert minor_of(text, currency) == minor


@pytest.mark.parametrize(("text", "mark"), [
    ("1,50", "."), ("1.50", ","), ("1,2345.00", "."), ("12,34", "."), ("1.234.5", "."), ("1,234,5", ","), ("1e5", "."),
    ("--5", "."), ("", "."), (",500", "."),
])  # fmt: skip
def test_an_amount_with_the_other_decimal_mark_is_refused_and_not_read_a_hundred_times_too_large(
    text: str, mark: str
) -> None:
    with pytest.raises(ValueError, match="is no amount"):
        minor_of(text, "EUR", mark)


@pytest.mark.parametrize("text", ["٣.50", "１２", "1,٢٣٤.00", "1.5٠"])
def test_digits_of_other_scripts_are_no_amount(text: str) -> None:
    with pytest.raises(ValueError, match="is no amount"):
        minor_of(text, "EUR")


@pytest.mark.parametrize(("text", "mark", "minor"), [
    ("1.234,50", ",", 123_450), ("1 234,50", ",", 123_450), ("1'234.50", ".", 123_450), ("1,234,567", ".", 123_456_700),
    ("+12.3", ".", 1230), ("-0,05", ",", -5), ("1\u202f234,5", ",", 123_450),
])  # fmt: skip
def test_amounts_are_read_as_banks_group_them(text: str, mark: str, minor: int) -> None:
    assert minor_of(text, "EUR", mark) == minor


def entry(amount: str, *, ref: str = "B1", side: str = "CRDT", status: str = "<Sts><Cd>BOOK</Cd></Sts>", more: str = "",
          details: str = "") -> str:  # fmt: skip
    reference = f"<AcctSvcrRef>{ref}</AcctSvcrRef>" if ref else ""
    return (f'<Ntry><Amt Ccy="CNY">{amount}</Amt><CdtDbtInd>{side}</CdtDbtInd>{more}{status}'
            f"<BookgDt><Dt>2026-11-20</Dt></BookgDt>{reference}{details}</Ntry>")  # fmt: skip


def detail(amount: str, text: str, *, ref: str = "", name: str = "<Pty><Nm>Uni</Nm></Pty>") -> str:
    own = f"<AcctSvcrRef>{ref}</AcctSvcrRef>" if ref else ""
    return (f'<TxDtls><Refs>{own}<EndToEndId>NOTPROVIDED</EndToEndId></Refs><Amt Ccy="CNY">{amount}</Amt>'
            f"<RltdPties><Dbtr>{name}</Dbtr></RltdPties><RmtInf><Ustrd>{text}</Ustrd></RmtInf></TxDtls>")  # fmt: skip


def camt(*entries: str, balances: str = "", version: str = "08") -> bytes:
    return (
        f'<?xml version="1.0"?><Document xmlns="urn:iso:std:iso:20022:tech:xsd:camt.053.001.{version}"><BkToCstmrStmt>'
        f"<Stmt><Id>S</Id><Acct><Id><IBAN>CH001</IBAN></Id></Acct>{balances}{''.join(entries)}</Stmt>"
        "</BkToCstmrStmt></Document>"
    ).encode()


def balance(code: str, amount: str, side: str = "CRDT") -> str:
    return (f"<Bal><Tp><CdOrPrtry><Cd>{code}</Cd></CdOrPrtry></Tp><Amt Ccy='CNY'>{amount}</Amt>"
            f"<CdtDbtInd>{side}</CdtDbtInd></Bal>")  # fmt: skip


@pytest.mark.parametrize(("version", "status"), [("02", "<Sts>BOOK</Sts>"), ("08", "<Sts><Cd>BOOK</Cd></Sts>")])
def test_camt_entries_are_read_in_old_and_new_versions(version: str, status: str) -> None:
    one = entry(
        "12.34", status=status, details=f"<NtryDtls>{detail('12.34', 'PS-000001', name='<Nm>Uni</Nm>')}</NtryDtls>"
    )
    found = read_camt(camt(one, version=version))
    assert found.transactions == (BankTransaction("CH001", "B1", DAY, "CNY", 1234, "Uni", "PS-000001", "camt.053"),)


def test_a_batch_is_split_into_its_transactions() -> None:
    batch = entry("30.00", details=f"<NtryDtls>{detail('10.00', 'a', ref='T1')}{detail('20.00', 'b')}</NtryDtls>")
    found = read_camt(camt(batch))
    assert [(t.bank_ref, t.amount_minor) for t in found.transactions] == [("T1", 1000), ("B1/2", 2000)]
    wrong = entry("31.00", details=f"<NtryDtls>{detail('10.00', 'a')}{detail('20.00', 'b')}</NtryDtls>")
    assert "do not sum" in read_camt(camt(wrong)).problems[0].why


def test_movements_that_a_bank_gives_one_reference_are_each_booked() -> None:
    """A batch whose parts repeat its reference; two entries of a day and amount with one: the balances count them."""
    parts = [detail("10.00", payer, ref="B1") for payer in ("a", "b")]
    batch = entry("20.00", details=f"<NtryDtls>{''.join(parts)}</NtryDtls>")
    sums = balance("OPBD", "0.00") + balance("CLBD", "34.00")
    found = read_camt(camt(batch, entry("7.00", ref="X"), entry("7.00", ref="X"), balances=sums))
    assert found.problems == ()
    assert [(t.bank_ref, t.amount_minor) for t in found.transactions] == [
        ("B1/1", 1000), ("B1/2", 1000), ("X", 700), ("X/2", 700)
    ]  # fmt: skip


def test_debits_and_pending_entries_are_no_payments_but_returned_payments_are() -> None:
    found = read_camt(camt(entry("1.00", side="DBIT", ref="a"), entry("2.00", ref="b", status="<Sts>PDNG</Sts>"),
                           entry("3.00", side="DBIT", ref="c", more="<RvslInd>true</RvslInd>")))  # fmt: skip
    assert [(t.bank_ref, t.amount_minor) for t in found.transactions] == [("c", -300)]
    assert [(x.why, x.amount_minor) for x in found.left_out] == [
        ("money that went out, and no returned payment", -100), ("not booked yet", 200)
    ]  # fmt: skip


@pytest.mark.parametrize("how", [
    "<NtryDtls><TxDtls><RtrInf><Rsn><Cd>MS03</Cd></Rsn></RtrInf></TxDtls></NtryDtls>",
    "<BkTxCd><Domn><Cd>PMNT</Cd><Fmly><Cd>IDDT</Cd><SubFmlyCd>UPDD</SubFmlyCd></Fmly></Domn></BkTxCd>",
])  # fmt: skip
def test_a_returned_direct_debit_is_known_by_its_reason_or_its_code(how: str) -> None:
    """As banks in Germany and Switzerland write it: the reversal indicator is left out."""
    back = entry("3.00", side="DBIT", ref="c", details=how)
    fee = entry(
        "1.00", side="DBIT", ref="d", details="<BkTxCd><Domn><Fmly><SubFmlyCd>CHRG</SubFmlyCd></Fmly></Domn></BkTxCd>"
    )
    found = read_camt(camt(back, fee))
    assert [(t.bank_ref, t.amount_minor) for t in found.transactions] == [("c", -300)]


def test_a_reference_that_says_there_is_none_does_not_make_two_payments_one(db: Database) -> None:
    first, second = (camt(entry(amount, ref="NONREF")) for amount in ("5.00", "6.00"))
    with db.write() as conn:
        assert import_payments(conn, read_camt(first).transactions, now=NOW).new == 1
        assert import_payments(conn, read_camt(second).transactions, now=NOW).new == 1
        assert import_payments(conn, read_camt(first).transactions, now=NOW).known == 1


def test_statement_must_add_up_to_its_closing_balance() -> None:
    good = balance("OPBD", "10.00") + balance("CLBD", "22.34")
    assert read_camt(camt(entry("12.34"), balances=good)).problems == ()
    bad = balance("OPBD", "10.00") + balance("CLBD", "22.35")
    assert "0.01 CNY" in read_camt(camt(entry("12.34"), balances=bad)).problems[0].why


def test_equal_payments_without_a_reference_stay_two_and_keep_their_names() -> None:
    twice = camt(entry("5.00", ref=""), entry("5.00", ref=""))
    first, second = read_camt(twice).transactions
    assert first.bank_ref != second.bank_ref
    assert read_camt(twice).transactions == (first, second)


@pytest.mark.parametrize("data", [
    b"", b"<a/>", b"not xml", b"\x00", b'<?xml version="1.0" encoding="x-nope"?><a/>', b"<Document><Stmt/></Document>",
    b'<!DOCTYPE x [<!ENTITY a "aaaaaaaaaa"><!ENTITY b "&a;&a;&a;&a;&a;">]><Document><Stmt>&b;</Stmt></Document>',
    b'<!DOCTYPE x [<!ENTITY f SYSTEM "file:///etc/passwd">]><Document><Stmt>&f;</Stmt></Document>',
    b'<!DOCTYPE x SYSTEM "http://127.0.0.1/x.dtd"><Document><Stmt/></Document>',
])  # fmt: skip
def test_bombs_foreign_files_and_nonsense_are_refused(data: bytes) -> None:
    with pytest.raises(PaymentRefused):
        read_camt(data)


def test_each_bad_entry_is_told_with_its_place() -> None:
    found = read_camt(camt(entry("x"), entry("1.00", side="??"), entry("1.001"), entry("4.00")))
    assert [p.where[-7:] for p in found.problems] == ["entry 1", "entry 2", "entry 3"]
    assert len(found.transactions) == 1


# ---------------------------------------------------------------- the books


@pytest.fixture
def db(db_url: str) -> Iterator[Database]:
    made = Database(db_url)
    with made.write() as conn:
        parties(conn)
    yield made
    made.dispose()


@pytest.fixture
def invoice(db: Database) -> Document:
    """36.00 net, 2.16 tax, 38.16 gross."""
    with db.write() as conn:
        charge(conn, run(1_440_000), run(1_152_000, user="u2"))
        return bill(conn)


def balance_of(db: Database, account: str) -> int:
    with db.read() as conn:
        return books.balances(conn).get((account, "CNY"), 0)


def test_payment_is_imported_once_and_pays_its_invoice(db: Database, invoice: Document) -> None:
    assert invoice.gross_minor == 3816
    with db.write() as conn:
        found = import_payments(conn, [paid(3816, "PS-000001")], now=NOW)
        assert (found.new, found.known, found.allocated_minor, found.unallocated) == (1, 0, {"CNY": 3816}, 0)
    with db.write() as conn:
        assert import_payments(conn, [paid(3816, "PS 000001 reworded")], now=NOW).known == 1
        assert open_documents(conn) == []
    assert balance_of(db, "payer:uni:receivable") == 0
    assert balance_of(db, "bank:ACC") == 38_160_000
    assert balance_of(db, "unallocated:ACC") == 0


def test_a_returned_debit_of_a_csv_opens_its_invoice_again_whatever_the_order_of_the_rows(
    db: Database, invoice: Document
) -> None:
    rows = ["b1,2026-11-21,-38.16,Uni,Return PS-000001", "b1,2026-11-20,38.16,Uni,PS-000001"]  # the newest first
    found = read_csv("\n".join((HEAD, *rows)).encode(), CsvProfile("ACC"))
    for known in (0, 2):
        with db.write() as conn:
            done = import_payments(conn, in_order(found.transactions), now=NOW)
            assert (done.known, done.unallocated) == (known, 0)
            assert [d.open_minor for d in open_documents(conn)] == [3816]
            assert books.check_books(conn) == []
    assert balance_of(db, "bank:ACC") == 0


def test_money_of_another_payer_is_proposed_and_a_person_books_it(db: Database, invoice: Document) -> None:
    line = replace(paid(3816, "thanks", name="Other Lab GmbH"), payer_account="DE02")
    with db.write() as conn:
        done = import_payments(conn, [line], now=NOW)
        assert (done.allocated_minor, done.unallocated, done.proposed) == ({}, 1, 1)
        [waiting] = received(conn, only_unallocated=True)
        assert (waiting.proposed, waiting.transaction.payer_account) == (("PS-000001",), "DE02")
        assert [d.open_minor for d in open_documents(conn)] == [3816]
        allocate_by_hand(conn, waiting.id, "PS-000001", 3816, by="olga", now=NOW)
        assert received(conn)[0].proposed == ()


def test_who_has_paid_from_an_account_is_known_by_it(db: Database, invoice: Document) -> None:
    """A treasury pays for a university: named once, its account is known."""
    lines = [replace(paid(minor, text, ref=ref, name="Treasury"), payer_account="DE 02 1200")
             for minor, text, ref in ((1000, "PS-000001", "b1"), (2816, "", "b2"))]  # fmt: skip
    with db.write() as conn:
        assert import_payments(conn, lines[:1], now=NOW).allocated_minor == {"CNY": 1000}
        assert import_payments(conn, lines[1:], now=NOW).allocated_minor == {"CNY": 2816}


def test_an_account_that_another_payer_gives_as_its_own_is_that_ones(db: Database, invoice: Document) -> None:
    with db.write() as conn:
        save_entity(conn, LegalEntity("lab", "Lab", bank_details="IBAN DE02 1200"), now=NOW)
        line = replace(paid(3816, name="Uni"), payer_account="DE021200")
        assert import_payments(conn, [line], now=NOW).proposed == 1


def test_a_reference_with_another_amount_is_refused_and_nothing_is_half_done(db: Database, invoice: Document) -> None:
    with db.write() as conn:
        import_payments(conn, [paid(100)], now=NOW)
    with pytest.raises(PaymentRefused, match="another amount"), db.write() as conn:
        import_payments(conn, [paid(5, ref="b2"), paid(101)], now=NOW)
    with pytest.raises(PaymentRefused, match="another amount"), db.write() as conn:
        import_payments(conn, [paid(5, ref="b3"), paid(6, ref="b3")], now=NOW)
    assert balance_of(db, "bank:ACC") == 1_000_000


def test_partial_and_over_payment(db: Database, invoice: Document) -> None:
    with db.write() as conn:
        import_payments(conn, [paid(1000, "PS-000001")], now=NOW)
        assert [d.open_minor for d in open_documents(conn)] == [2816]
        import_payments(conn, [paid(3000, "PS-000001", ref="b2")], now=NOW)
        assert open_documents(conn) == []
        assert [r.unallocated_minor for r in received(conn, only_unallocated=True)] == [184]
        assert books.check_books(conn) == []
    assert balance_of(db, "unallocated:ACC") == -1_840_000


def test_what_is_paid_or_credited_may_be_spent_again(db: Database, invoice: Document) -> None:
    def left() -> int | None:
        with db.read() as conn:
            assert books.check_books(conn) == []
            return next(e.available for e in books.exposure(conn, "r1") if e.commodity == "CNY")

    before = left()
    assert before is not None
    with db.write() as conn:
        import_payments(conn, [paid(1908, "PS-000001")], now=NOW)  # half of it, with half of the tax
    assert left() == before + 18_000_000
    with db.write() as conn:
        issue_credit_note(conn, "PS-000001", [Credit(2, 1000)], reason="node failed", now=NOW)
    assert left() == before + 28_000_000
    with db.write() as conn:
        import_payments(conn, [paid(3816, "PS-000001", ref="b2")], now=NOW)
    assert left() == before + 36_000_000
    assert balance_of(db, "project:r1:invoiced") == 0
    assert balance_of(db, "project:r1:paid") == -36_000_000


def test_allocation_by_hand_and_back(db: Database, invoice: Document) -> None:
    with db.write() as conn:
        import_payments(conn, [paid(5000, "thank you")], now=NOW)
        [waiting] = received(conn, only_unallocated=True)
        after = allocate_by_hand(conn, waiting.id, "PS-000001", 3816, by="olga", now=NOW)
        assert (after.unallocated_minor, after.documents) == (1184, (("PS-000001", 3816),))
        for wrong in (1, 0, -3817):
            with pytest.raises(PaymentRefused, match="can be allocated"):
                allocate_by_hand(conn, waiting.id, "PS-000001", wrong, by="olga", now=NOW)
        back = allocate_by_hand(conn, waiting.id, "PS-000001", -3816, by="olga", now=NOW)
        assert (back.unallocated_minor, back.documents) == (5000, ())
        with pytest.raises(PaymentRefused, match="no invoice"):
            allocate_by_hand(conn, waiting.id, "PS-9", 1, by="olga", now=NOW)
        with pytest.raises(PaymentRefused, match="no transaction"):
            allocate_by_hand(conn, 99, "PS-000001", 1, by="olga", now=NOW)
        assert books.check_books(conn) == []


def test_a_returned_payment_opens_the_invoice_that_it_names_again(db: Database, invoice: Document) -> None:
    with db.write() as conn:
        import_payments(conn, [paid(3816, "PS-000001")], now=NOW)
        done = import_payments(conn, [paid(-4166, "RETURN PS-000001 account closed", ref="r1")], now=NOW)
        assert (done.allocated_minor, done.unallocated) == ({"CNY": -3816}, 1)  # 3.50 of it is the bank's fee
        assert [d.open_minor for d in open_documents(conn)] == [3816]
        assert [(r.unallocated_minor, r.documents) for r in received(conn, only_unallocated=True)] == [
            (-350, (("PS-000001", -3816),))
        ]  # fmt: skip
        assert books.check_books(conn) == []
    assert balance_of(db, "payer:uni:receivable") == 38_160_000
    assert balance_of(db, "bank:ACC") == -3_500_000
    assert balance_of(db, "project:r1:paid") == 0


def test_a_returned_payment_is_matched_by_hand_where_it_names_nothing(db: Database, invoice: Document) -> None:
    with db.write() as conn:
        import_payments(conn, [paid(1000, "PS-000001"), paid(-1000, "unpaid", ref="r1")], now=NOW)
        back = next(r for r in received(conn) if r.transaction.amount_minor < 0)
        assert back.unallocated_minor == -1000
        for wrong in (-1001, 1, 0):
            with pytest.raises(PaymentRefused, match=r"between -10\.00 and 0\.00"):
                allocate_by_hand(conn, back.id, "PS-000001", wrong, by="olga", now=NOW)
        assert allocate_by_hand(conn, back.id, "PS-000001", -1000, by="olga", now=NOW).unallocated_minor == 0
        assert [d.open_minor for d in open_documents(conn)] == [3816]
        assert received(conn, only_unallocated=True) == []
        assert allocate_by_hand(conn, back.id, "PS-000001", 1000, by="olga", now=NOW).unallocated_minor == -1000
        assert [d.open_minor for d in open_documents(conn)] == [2816]
        assert books.check_books(conn) == []


def test_the_same_file_imported_by_eight_at_once_counts_once(db: Database, invoice: Document) -> None:
    file = [paid(100 + n, "PS-000001", ref=f"r{n}") for n in range(20)]
    failures: list[BaseException] = []

    def worker() -> None:
        try:
            with db.write() as conn:
                import_payments(conn, file, now=NOW)
        except BaseException as exc:  # noqa: BLE001 - told below
            failures.append(exc)

    threads = [threading.Thread(target=worker) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert not failures
    assert balance_of(db, "bank:ACC") == sum(t.amount_minor for t in file) * 10_000
    with db.read() as conn:
        assert int(conn.scalar(select(func.sum(PAID.c.amount_minor))) or 0) == sum(t.amount_minor for t in file)


def test_ageing_keeps_disputed_money_out_of_dunning(db: Database, invoice: Document) -> None:
    with db.write() as conn:
        raise_dispute(conn, dispute_id="d1", invoice="PS-000001", line=2, reason="node failed", by="alice", now=NOW)
        disputed = dispute_store.disputed_minor(conn)
        documents = open_documents(conn)
    late = invoice.due_at + timedelta(days=40)
    [before] = aged(documents, {}, invoice.due_at)
    assert (before.bucket, before.dunning_level) == ("not_due", 0)
    [after] = aged(documents, disputed, late)
    assert (after.bucket, after.days_overdue, after.dunning_level) == ("days_31_60", 40, 3)
    [sums] = standings([after])
    assert (sums.buckets["days_31_60"], sums.buckets["disputed"], sums.total) == (3816 - 1696, 1696, 3816)
    [only] = aged(documents, {"PS-000001": 3816}, late)
    assert only.dunning_level == 0


def test_ageing_says_what_was_known_at_a_moment(db: Database, invoice: Document) -> None:
    """What came later, paid, credited, written off or disputed, was not known before, and age is of that day."""
    after = [NOW + timedelta(days=n) for n in range(1, 6)]
    with db.write() as conn:
        raise_dispute(
            conn, dispute_id="d1", invoice="PS-000001", line=2, reason="node failed", by="alice", now=after[0]
        )
        take(conn, "d1", Step.WITHDRAW, side=Side.PAYER, by="alice", now=after[1])
        import_payments(conn, [paid(1000, "PS-000001")], now=after[2])
        issue_credit_note(conn, "PS-000001", [Credit(1, 100)], reason="agreed", now=after[3])
        request_clearing(conn, Clearing("w1", WRITE_OFF, "PS-000001", "bank charges", "olga", 200),
                         four_eyes_micro=10**12, now=after[4])  # fmt: skip

    def known(at: datetime) -> list[tuple[int, int]]:
        with db.read() as conn:
            found = aged(open_documents(conn, as_of=at), dispute_store.disputed_minor(conn, as_of=at), at)
        return [(a.document.open_minor, a.disputed_minor) for a in found]

    assert known(NOW - timedelta(seconds=1)) == [], "nothing was billed yet"
    assert known(NOW) == [(3816, 0)]
    assert [known(at)[0] for at in after] == [(3816, 1696), (3816, 0), (2816, 0), (2710, 0), (2510, 0)]
    assert [known(at - timedelta(seconds=1))[0] for at in after] == [
        (3816, 0), (3816, 1696), (3816, 0), (2816, 0), (2710, 0)
    ]  # fmt: skip
    late = invoice.due_at + timedelta(days=40)
    with db.read() as conn:
        [now] = aged(open_documents(conn, as_of=late), {}, late)
        [then] = aged(open_documents(conn, as_of=after[4]), {}, after[4])
    assert (now.days_overdue, then.days_overdue) == (40, 0)


def test_the_day_that_the_invoice_names_is_in_time_to_its_last_minute(db: Database, invoice: Document) -> None:
    """Issued at 17:00 in Shanghai and due on 2 December: not overdue on that evening, and a day late at midnight."""
    with db.read() as conn:
        documents = open_documents(conn)
    midnight = datetime(2026, 12, 2, 16, tzinfo=UTC)
    assert invoice.due_at == datetime(2026, 12, 2, 9, tzinfo=UTC)
    edges = {midnight - timedelta(seconds=1): (0, "not_due", 0), midnight: (1, "days_1_30", 1),
             midnight + timedelta(days=14): (15, "days_1_30", 2), midnight + timedelta(days=29): (30, "days_1_30", 3),
             midnight + timedelta(days=30): (31, "days_31_60", 3), midnight + timedelta(days=60): (61, "days_61_90", 3),
             midnight + timedelta(days=90): (91, "over_90", 3)}  # fmt: skip
    for at, expected in edges.items():
        [found] = aged(documents, {}, at)
        assert (found.days_overdue, found.bucket, found.dunning_level) == expected, at


# ---------------------------------------------------------------- disputes


def test_the_dispute_table_is_closed_and_ends_are_ends() -> None:
    for state, step, side in product([None, *DisputeState], Step, Side):
        allowed = (state, step) in TABLE and side in TABLE[state, step][1]
        if allowed:
            assert advance(state, step, side) in DisputeState
            assert state is None or state in LIVE
        else:
            with pytest.raises(InvoiceRefused):
                advance(state, step, side)


def test_dispute_goes_to_the_centre_and_ends_with_a_credit_note(db: Database, invoice: Document) -> None:
    proof = Evidence("sinfo.txt", "0" * 64)
    with db.write() as conn:
        made = raise_dispute(conn, dispute_id="d1", invoice="PS-000001", line=2, reason="node failed", by="alice",
                             evidence=[proof], now=NOW)  # fmt: skip
        assert (made.amount_minor, made.state, made.site_id) == (1696, DisputeState.OPEN, "alpha")
        take(conn, "d1", Step.PASS_ON, side=Side.OPERATOR, by="olga", now=NOW)
        assert [d.id for d in dispute_store.disputes(conn, site_id="alpha", state=DisputeState.WITH_CENTRE)] == ["d1"]
        take(conn, "d1", Step.CENTRE_ANSWER, side=Side.CENTRE, by="carl", text="it did fail", now=NOW)
        ended = take(conn, "d1", Step.CREDIT, side=Side.OPERATOR, by="olga", now=NOW)
        history = dispute_store.events(conn, "d1")
        note = load(conn, history[-1].credit_note)
    assert ended.state is DisputeState.CREDITED and not ended.live
    assert [e.step.value for e in history] == ["raise", "pass_on", "centre_answer", "credit"]
    assert history[0].evidence == (proof,)
    assert note is not None and (note.corrects, note.gross_minor) == ("PS-000001", -1696)
    assert balance_of(db, "payer:uni:receivable") == (3816 - 1696) * 10_000
    with db.read() as conn:
        assert dispute_store.disputed_minor(conn) == {}
        assert [d.open_minor for d in open_documents(conn)] == [3816 - 1696]


def test_dispute_that_cannot_be_is_refused(db: Database, invoice: Document) -> None:
    def attempt(**changes: object) -> None:
        given: dict[str, object] = {
            "dispute_id": "d1",
            "invoice": "PS-000001",
            "line": 1,
            "reason": "r",
            "by": "a",
            "now": NOW,
        }
        with db.write() as conn:
            raise_dispute(conn, **{**given, **changes})  # type: ignore[arg-type]

    for changes, why in [({"line": 9}, "no line"), ({"invoice": "PS-9"}, "no document"),
                         ({"now": NOW + timedelta(days=61)}, "60 days")]:  # fmt: skip
        with pytest.raises(InvoiceRefused, match=why):
            attempt(**changes)
    attempt()
    with pytest.raises(InvoiceRefused, match="already"):
        attempt(dispute_id="d2")
    with db.write() as conn:
        with pytest.raises(InvoiceRefused, match="reason"):
            take(conn, "d1", Step.REJECT, side=Side.OPERATOR, by="o", now=NOW)
        with pytest.raises(InvoiceRefused, match="operator"):
            take(conn, "d1", Step.REJECT, side=Side.PAYER, by="a", text="x", now=NOW)
        take(conn, "d1", Step.WITHDRAW, side=Side.PAYER, by="a", now=NOW)
        with pytest.raises(InvoiceRefused, match="takes no step"):
            take(conn, "d1", Step.COMMENT, side=Side.PAYER, by="a", now=NOW)


@pytest.mark.parametrize("table", ["dispute", "dispute_event", "bank_transaction", "invoice_payment"])
def test_disputes_and_payments_refuse_update_and_delete(db: Database, invoice: Document, table: str) -> None:
    with db.write() as conn:
        import_payments(conn, [paid(100, "PS-000001")], now=NOW)
        raise_dispute(conn, dispute_id="d1", invoice="PS-000001", line=2, reason="r", by="a", now=NOW)
    column = "opened_at" if table == "dispute" else "recorded_at"
    for statement in (f"UPDATE {table} SET {column} = {column}", f"DELETE FROM {table}"):
        with pytest.raises(DBAPIError, match="append-only"), db.write() as conn:
            conn.execute(text(statement))


def test_a_transaction_of_nothing_cannot_be_built() -> None:
    for changes in ({"amount_minor": 0}, {"bank_ref": ""}, {"account": ""}, {"amount_minor": 10**16}):
        with pytest.raises(PaymentRefused):
            replace(paid(1), **changes)


def test_two_payments_of_one_amount_without_a_reference_are_two(db: Database) -> None:
    """NONREF, as many exports write, was one reference: of two payments of a day and amount one was lost."""
    head = "date,reference,amount,payer,remittance\n"
    rows = "2026-11-05,NONREF,20.00,Lab A,monthly\n2026-11-05,NONREF,20.00,Lab B,monthly\n"
    twice = "2026-11-05,nonref,20.00,Lab B,monthly\n2026-11-06,NONREF,-20.00,Lab B,returned monthly\n"
    statement = read_csv((head + rows + twice).encode(), CsvProfile("ACC"))
    assert (statement.problems, [t.amount_minor for t in statement.transactions]) == ((), [2000, 2000, 2000, -2000])
    with db.write() as conn:
        assert import_payments(conn, statement.transactions, now=NOW).new == 4
        assert import_payments(conn, statement.transactions, now=NOW).known == 4
        assert books.balances(conn)["bank:ACC", "CNY"] == 40_000_000


def test_a_reference_that_two_rows_of_a_file_have_is_none_of_the_banks() -> None:
    head = "date,reference,amount,payer,remittance\n"
    rows = "2026-11-05,PS,20.00,Lab A,\n2026-11-05,PS,20.00,Lab B,\n2026-11-06,PS,-20.00,Lab B,returned\n"
    found = read_csv((head + rows).encode(), CsvProfile("ACC"))
    assert [(p.where, p.why) for p in found.problems] == [
        ("row 3", "'PS' is the reference of row 2 too: is it the bank's own?")
    ]
