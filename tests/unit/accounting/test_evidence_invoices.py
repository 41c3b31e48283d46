"""The independent verifier adds a payer's invoices up again: from raw records, on both databases."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from types import ModuleType
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from msgspec import structs
from sqlalchemy import Connection

from accounting import store as books
from accounting.calendar import Window, month
from accounting.evidence import log, note
from accounting.evidence.about import About, NothingToShow
from accounting.evidence.bundle import bundle
from accounting.invoicing import invoice as invoices
from accounting.invoicing import legal_entities, texts
from accounting.invoicing.credit_notes import Credit
from accounting.invoicing.invoice import Document, LegalEntity
from accounting.invoicing.store import Wanted, issue_credit_note, issue_invoice
from accounting.invoicing.tax import TaxKind, TaxRule, taxed
from accounting.ledger import parts_of
from accounting.meter import MeteringPolicy
from accounting.minor_units import DECIMALS
from accounting.store import charges, contracts, posting, prices
from accounting.store.contracts import Terms, set_terms
from accounting.tariff import Discount, PriceRule
from gateway.db import Database
from tests.unit.accounting.evidence_case import LOG, MICRO, SEAL, T0, append_all, book, checkpoint
from tests.unit.accounting.test_evidence_verifier import WITNESS, WITNESS_KEY, check, mutate, verifier

_ = verifier  # the fixture

ZONE = "Asia/Shanghai"
NOVEMBER = month("2026-11", ZONE)
OPERATOR = LegalEntity("op", "Penstock Operations Ltd", prefix="PS", zone=ZONE)
PEOPLE = {f"u{n}": f"person {n}" for n in range(7)}
LONG_AGO = T0 - timedelta(days=99)


def rule(micro: int, **more: Any) -> PriceRule:
    return PriceRule(**{"id": 0, "currency": "CNY", "price_micro": micro, "valid_from": LONG_AGO} | more)


def wanted(payer: str, name: str, *, whole: bool = True, project: str = "p1") -> Wanted:
    return Wanted("op", payer, project, project, "CNY", month(name, ZONE), None, PEOPLE, whole)


def invoice(conn: Connection, payer: str, name: str, **more: Any) -> Document:
    made = issue_invoice(conn, wanted(payer, name, **more), now=month(name, ZONE).end + timedelta(days=2))
    assert made is not None
    return made


@pytest.fixture
def db(db_url: str) -> Iterator[Database]:
    """Two payers share p1; prices by the hour, by volume, with a minimum and a discount; an invoice that was disputed,
    a correction after it, and the next month's invoice that takes it back."""
    found = Database(db_url)
    with found.write() as conn:
        legal_entities.add_tax_rule(conn, TaxRule("vat", TaxKind.STANDARD, 61_300, LONG_AGO, name_en="VAT"), now=T0)
        legal_entities.save_entity(conn, OPERATOR, tax_code="vat", now=T0)
        for payer in ("uni", "grant"):
            legal_entities.save_entity(conn, LegalEntity(payer, payer), now=T0)
        for project in ("p1", "p2"):
            books.open_project_accounts(conn, project, currency="CNY")
            books.grant_credit(conn, project_id=project, commodity="CNY", amount=10**6 * MICRO, idem_key=f"g:{project}",
                               now=T0, reason="start")  # fmt: skip
        set_terms(conn, Terms("p1", LONG_AGO, payers=(("uni", 60), ("grant", 40))), now=T0)
        for one in (
            rule(360_001, zone=ZONE, valid_to=T0 + timedelta(hours=9)),
            rule(330_007, zone=ZONE, tier_from=400_000, valid_to=T0 + timedelta(hours=9)),
            rule(301_999, valid_from=T0 + timedelta(hours=9)),
            rule(200_003, zone=ZONE, window=Window(22 * 60, 6 * 60 + 30)),
            rule(777, resource="memory_mib_seconds", per=3_686_400, queue="gpu"),
            rule(120_000, resource="minimum", per=1),
        ):
            books.add_tariff(conn, one, now=T0)
        off = Discount(0, "p2", 9, 10, LONG_AGO, T0 + timedelta(hours=5, minutes=7), resource="core_seconds")
        books.add_discount(conn, off, now=T0)
        book(conn, range(40))
        book(conn, range(40, 60), project="p2")
        for payer in ("uni", "grant"):
            issued = invoice(conn, payer, "2026-11", whole=payer == "uni")
        invoice(conn, "uni", "2026-11", project="p2")
        for part in (1, 2):
            issue_credit_note(conn, issued.number, [Credit(1, 7 * part)], reason="a line was wrong", now=T0)
        book(conn, [3, 4], ElapsedRaw="500")  # the centre changed its mind
        late = {"Start": str(int(NOVEMBER.end.timestamp()) + 50), "End": str(int(NOVEMBER.end.timestamp()) + 1050),
                "Submit": str(int(NOVEMBER.end.timestamp())), "ElapsedRaw": "1000"}  # fmt: skip
        book(conn, [90], **late)
        for payer in ("uni", "grant"):
            invoice(conn, payer, "2026-12", whole=payer == "uni")
        seal(conn)
    yield found
    found.dispose()


def seal(conn: Connection) -> None:
    append_all(conn)
    signed = checkpoint(conn)
    line = note.cosign(note.parse(signed.note).body, name=WITNESS.name, key=WITNESS_KEY, timestamp=1_700_000_000)
    log.keep_cosignature(conn, size=signed.size, key_id=WITNESS.key_id.hex(), line=line, now=T0)


def lines_of(conn: Connection, **asked: Any) -> list[str]:
    """The bundle of a payer's month, or of what is asked for."""
    asked = {"start": NOVEMBER.start, "end": NOVEMBER.end} | (asked or {"payer_id": "uni"})
    return list(bundle(conn, About(**asked), log_key=LOG, seal=SEAL, witnesses=[WITNESS]))


def numbers(lines: list[str]) -> list[str]:
    found = [json.loads(line) for line in lines if '"t":"invoice"' in line or '"t":"credit_note"' in line]
    return [line["content"]["number"] for line in found]


def test_the_bundle_of_a_payers_month_holds_the_invoices_and_they_are_added_up_again(
    db: Database, verifier: ModuleType
) -> None:
    december = month("2026-12", ZONE)
    with db.read() as conn:
        for asked, count in (
            ({"payer_id": "uni"}, 2), ({"payer_id": "grant"}, 3), ({"payer_id": "uni", "project_id": "p2"}, 1),
            ({"payer_id": "grant", "start": december.start, "end": december.end}, 1), ({"document": "PS-000002"}, 3),
            ({"payer_id": "uni", "end": december.end}, 3),
        ):  # fmt: skip
            lines = lines_of(conn, **asked)
            assert len(numbers(lines)) == count, asked
            assert check(verifier, lines) == [], asked
        with pytest.raises(NothingToShow, match="no invoice"):
            lines_of(conn, payer_id="nobody")


def test_each_kind_of_price_is_in_what_is_verified(db: Database) -> None:
    with db.read() as conn:
        text = "".join(lines_of(conn, payer_id="uni", end=month("2026-12", ZONE).end))
    for word in ('"resource":"minimum"', '"tier_key"', '"discount"', "memory_mib_seconds", '"kind":"correction"',
                 '"reversal"', '"payers":{'):  # fmt: skip
        assert word in text
    hours = [len(json.loads(line)["charges"][0]["charge"]["segments"]) for line in text.splitlines()
             if line.startswith('{"t":"entry"') and '"charges":[{' in line]  # fmt: skip
    assert max(hours) > 2


def test_changed_values_of_a_payers_bundle_are_found(db: Database, verifier: ModuleType) -> None:
    """Other values on each database: what is read from either is the same bundle."""
    assert campaign(db, verifier, 75, seed=5 if db.is_sqlite else 500) == []


@pytest.mark.soak
def test_ten_thousand_changed_values_of_payers_bundles_are_found(db: Database, verifier: ModuleType) -> None:
    assert campaign(db, verifier, 5_000, seed=6) == []  # on each database


def campaign(db: Database, verifier: ModuleType, count: int, seed: int) -> list[str]:
    rng, missed = random.Random(seed), []
    with db.read() as conn:
        whole = [lines_of(conn, payer_id=payer, end=month("2026-12", ZONE).end) for payer in ("uni", "grant")]
    for number in range(count):
        forged, what = mutate(whole[number % 2], rng)
        if not check(verifier, forged):
            missed.append(what)
    return missed


@pytest.mark.parametrize("kept", ["items", "invoice", "entry", "price_end", "discount", "project_terms"])
def test_a_payers_bundle_with_a_part_left_out_does_not_fit(db: Database, verifier: ModuleType, kept: str) -> None:
    with db.read() as conn:
        lines = lines_of(conn)
    for index, line in enumerate(lines):
        value = json.loads(line)
        if kept in (value["t"], value.get("leaf", {}).get("t") if value["t"] == "leaf" else None):
            assert check(verifier, lines[:index] + lines[index + 1 :]), line
            break
    else:
        raise AssertionError(f"no {kept} in the bundle")


# ---------------------------------------------------------------- an operator who cheats signs a log that is consistent


def test_an_invoice_that_rounds_each_line_up_is_found_though_the_log_signs_it(
    db: Database, verifier: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    def greedy(amounts: Any, tax: TaxRule, currency: str) -> Any:
        fair = taxed(amounts, tax, currency)
        lines = (fair.line_net[0] + 1, *fair.line_net[1:])
        return replace(fair, net=fair.net + 1, gross=fair.gross + 1, line_net=lines,
                       rounding_micro=fair.rounding_micro + 10_000)  # fmt: skip

    monkeypatch.setattr(invoices, "taxed", greedy)
    with db.write() as conn:
        made = invoice(conn, "uni", "2026-12", project="p2") if _book_more(conn) else None
        seal(conn)
        assert made is not None
        assert f"{made.number}: net_minor is {made.net_minor - 1}" in " ".join(
            check(verifier, lines_of(conn, document=made.number))
        )


def _book_more(conn: Connection, project: str = "p2") -> bool:
    book(conn, [91], project=project, **at(NOVEMBER.end + timedelta(seconds=9000)))
    return True


def test_a_run_that_is_metered_dearer_than_agreed_is_found(db: Database, verifier: ModuleType) -> None:
    """The record is as the centre wrote it; what was charged of it is not what the policy gives."""
    start = int(NOVEMBER.end.timestamp()) + 9000
    with db.write() as conn:
        from tests.unit.accounting.evidence_case import record

        changes = {"Start": str(start), "End": str(start + 1000), "Submit": str(start), "ElapsedRaw": "800",
                   "Suspended": "00:03:20"}  # fmt: skip
        dearer = MeteringPolicy(held_while_suspended=("core_seconds",))
        items = [books.Assigned(record(95, **changes), "j95", "p2", "u1", "CNY")]
        books.record_and_book(conn, items, policy=dearer, now=T0 + timedelta(days=40))
        made = invoice(conn, "uni", "2026-12", project="p2")
        seal(conn)
        found = " ".join(check(verifier, lines_of(conn, document=made.number)))
    assert "by the agreement they are" in found


def test_a_price_of_another_hour_is_found(db: Database, verifier: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    # The cheap night is forgotten (in a price book of its own: books are kept between calls).
    monkeypatch.setattr(prices, "_book", prices._book.__wrapped__)
    monkeypatch.setattr(Window, "holds", lambda *_: False)
    start = int(datetime(2026, 12, 3, 15, tzinfo=UTC).timestamp())
    with db.write() as conn:
        book(conn, [96], project="p2", Start=str(start), End=str(start + 1000), Submit=str(start), ElapsedRaw="1000")
        made = invoice(conn, "uni", "2026-12", project="p2")
        seal(conn)
        found = " ".join(check(verifier, lines_of(conn, document=made.number)))
    assert "by the prices that held" in found


def test_payers_parts_that_are_not_by_the_terms_are_found_though_the_log_signs_them(
    db: Database, verifier: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(charges, "_payers", lambda d, _terms: parts_of(d.amount, [("uni", 50), ("grant", 50)]))
    found = billed_in_december(db, verifier, project="p1")
    assert "the payers owe {'uni': '2066698', 'grant': '1377798'} by the project's terms" in found


def test_a_part_that_is_posted_to_another_payer_is_found_though_the_charge_is_right(
    db: Database, verifier: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    fair = posting._payers_delta
    other = {"uni": "grant", "grant": "uni"}
    monkeypatch.setattr(posting, "_payers_delta", lambda d: {other[p]: part for p, part in (fair(d) or {}).items()})
    assert "charged and posted differ by {('CNY', 'owed by uni')" in billed_in_december(db, verifier, project="p1")


def test_parts_of_a_project_that_nobody_shares_are_found(
    db: Database, verifier: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(charges, "_payers", lambda d, _terms: parts_of(d.amount, [("uni", 1)]))
    assert "the payers owe None by the project's terms" in billed_in_december(db, verifier, project="p2")


def test_a_user_class_that_the_terms_do_not_give_is_found(
    db: Database, verifier: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    where = contracts.Contracts.where
    monkeypatch.setattr(
        contracts.Contracts,
        "where",
        lambda *args, **place: structs.replace(where(*args, **place), user_class="x"),
    )
    assert "is of class '', the charge says 'x'" in billed_in_december(db, verifier, project="p2")


def billed_in_december(db: Database, verifier: ModuleType, *, project: str) -> str:
    """What the verifier finds in the bundle of an invoice for one more run."""
    with db.write() as conn:
        _book_more(conn, project)
        made = invoice(conn, "uni", "2026-12", project=project)
        seal(conn)
        return " ".join(check(verifier, lines_of(conn, document=made.number)))


def test_new_terms_are_for_what_ends_later_and_change_nothing_that_was_charged(
    db: Database, verifier: ModuleType
) -> None:
    change = NOVEMBER.end + timedelta(hours=1)
    with db.write() as conn:
        set_terms(conn, Terms("p1", change, payers=(("grant", 2), ("uni", 1))), now=T0)
        book(conn, [97], **at(change - timedelta(minutes=30)))
        book(conn, [98], **at(change))
        seal(conn)
        lines = lines_of(conn, project_id="p1", end=month("2026-12", ZONE).end)
        assert check(verifier, lines) == []
        payers = {json.loads(text)["leaf"]["key"]: json.loads(text)["charges"][0]["charge"] for text in lines
                  if '"charges":[{' in text}  # fmt: skip
    before, after = list(payers.values())[-2:]
    assert int(before["payers"]["uni"]) > int(before["payers"]["grant"])
    assert int(after["payers"]["grant"]) > int(after["payers"]["uni"])


def test_terms_that_are_set_backwards_do_not_touch_what_was_charged_before(db: Database, verifier: ModuleType) -> None:
    with db.write() as conn:
        set_terms(conn, Terms("p2", LONG_AGO, "industry", (("grant", 1),)), now=T0)
        seal(conn)
        assert check(verifier, lines_of(conn, project_id="p2")) == []


def at(start: datetime) -> dict[str, str]:
    """A run of 1000 seconds from then on, as sacct tells it."""
    begin = int(start.timestamp())
    return {"Start": str(begin), "End": str(begin + 1000), "Submit": str(begin), "ElapsedRaw": "1000"}


def test_the_decimals_of_every_currency_are_those_that_invoices_round_to(verifier: ModuleType) -> None:
    assert verifier.DECIMALS == DECIMALS


def test_a_bill_has_the_places_of_its_currency_whatever_people_write() -> None:
    assert [texts.money(12345, currency, "en") for currency in ("CNY", "JPY", "KWD", "RSD")] == [
        "CN¥123.45", "JP¥12,345", "KWD12.345", "RSD123.45"
    ]  # fmt: skip
    assert texts.money(-500, "CNY", "zh") == "-¥5.00"


def test_each_agreement_and_tariff_must_bear_both_signatures(verifier: ModuleType) -> None:
    key = Ed25519PrivateKey.from_private_bytes(b"\x05" * 32)
    content = {"id": "a1", "version": 1, "operator_id": "op", "centre_id": "c1"}
    whole = verifier.Whole({"about": {}}, verifier.Options())
    whole.terms["agreements"]["a1/1"] = content
    document, signature = verifier.hashed(content), key.sign(verifier.jcs(content))
    import base64
    import hashlib

    leaf = {"t": "signature", "ref": f"{document}/op", "sha256": hashlib.sha256(signature).hexdigest(), "at": "x"}
    line = {"seq": 0, "leaf": leaf, "algorithm": "Ed25519", "key": base64.b64encode(note.public_bytes(key)).decode(),
            "signature": base64.b64encode(signature).decode()}  # fmt: skip
    whole.signature(line)
    whole.prices()
    assert whole.findings == ["agreement a1/1 is not signed by c1"]
    content["version"] = 2
    whole.signature(line)
    assert "a signature under nothing" in whole.findings[-1]
