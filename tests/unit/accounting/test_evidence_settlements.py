"""An operator who holds the log's key and cheats in a settlement: what the verifier tells the centre."""

from __future__ import annotations

import base64
from collections.abc import Callable
from dataclasses import replace
from datetime import date
from pathlib import Path
from types import ModuleType

import pytest
from sqlalchemy import Connection

from accounting import store as books
from accounting.agreement import Payout
from accounting.calendar import month
from accounting.evidence.about import About
from accounting.evidence.bundle import bundle
from accounting.ledger import DIFFERENCES, Entry, Posting
from accounting.settle import Rate
from accounting.store import settlements
from gateway.db import Database
from tests.unit.accounting import makers
from tests.unit.accounting.evidence_case import LOG, SEAL, T0, append_all, book, checkpoint
from tests.unit.accounting.test_evidence_verifier import verifier
from tests.unit.accounting.test_settlement import AGREEMENT, MONTH, agree, db, draw, lines, public_keys, sign_agreement

_ = verifier, db  # the fixtures
AWAY = (Posting("centre:c1:payable", "CNY", 5_000_000), Posting("operator:revenue", "CNY", -5_000_000))


def settled(conn: Connection, *cheats: Entry) -> list[str]:
    """The bundle of a settlement that both have signed, with entries of the operator's own in it."""
    books.book(conn, cheats, now=T0)
    agree(conn, draw(conn, 1))
    append_all(conn)
    checkpoint(conn)
    return lines(conn)


@pytest.fixture
def verdict(
    verifier: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> Callable[[list[str]], tuple[int, str]]:
    """What the file says of a bundle, as it is typed: its exit code and its words."""

    def verdict(bundle: list[str]) -> tuple[int, str]:
        (tmp_path / "s.jsonl").write_text("\n".join(bundle))
        signers = [f"--signer={side}={base64.b64encode(key).decode()}" for side, key in public_keys().items()]
        code = verifier.main([str(tmp_path / "s.jsonl"), "--log-key", LOG.vkey, "--processes", "1", "--runs", *signers])
        return code, capsys.readouterr().out

    return verdict


def test_money_taken_off_a_centre_as_a_charge_that_charges_nothing_is_found(
    db: Database, verdict: Callable[[list[str]], tuple[int, str]]
) -> None:
    with db.write() as conn:
        code, said = verdict(settled(conn, Entry("charge:9999", "charge", T0, AWAY, "j1 at alpha")))
    assert code == 1
    assert "(charge:9999): an entry of charges without any charge" in said


@pytest.mark.parametrize("kind", ["adjustment", "credit_share", "order"])
def test_an_entry_under_which_no_charge_stands_is_told_with_its_money(
    db: Database, verdict: Callable[[list[str]], tuple[int, str]], kind: str
) -> None:
    with db.write() as conn:
        code, said = verdict(settled(conn, Entry("fix:1", kind, T0, AWAY, "as agreed")))
    assert code == 3
    assert f"UNDER NO CHARGE: 1 entries of kind {kind}, -5.000000 CNY to the centre" in said
    assert f"fix:1: {kind} under no charge, -5.000000 CNY to the centre: as agreed" in said
    assert "1 ENTRIES STAND UNDER NO CHARGE" in said


def difference(net: int, centre: int) -> Entry:
    """A difference of a break, as it is booked."""
    postings = (Posting(DIFFERENCES, "CNY", net), Posting("centre:c1:payable", "CNY", -centre),
                Posting("operator:revenue", "CNY", centre - net))  # fmt: skip
    return Entry("recon:1", "reconciliation", T0, postings, "break 1 (B04) of statement 1: price")


def test_a_difference_that_was_agreed_is_told_with_its_money_and_its_fee_is_taken(
    db: Database, verdict: Callable[[list[str]], tuple[int, str]]
) -> None:
    with db.write() as conn:
        without = int(draw(conn, 1).said["fees"][0]["amount"])
        settlements.withdraw(conn, "s1", by="test", reason="", now=T0)
        books.book(conn, [difference(80_000_001, 56_000_000)], now=T0)
        found = agree(conn, draw(conn, 2))
        assert int(found.said["fees"][0]["amount"]) - without in (1_000_000, 1_000_001)
        append_all(conn)
        checkpoint(conn)
        about = About(*MONTH, settlement_id="s2")
        code, said = verdict(list(bundle(conn, about, log_key=LOG, seal=SEAL, signers=public_keys())))
    assert (code, "WRONG" in said) == (3, False)
    assert "UNDER NO CHARGE: 1 entries of kind reconciliation, 56.000000 CNY to the centre" in said


@pytest.mark.parametrize(("net", "centre"), [(80_000_000, 55_999_990), (80_000_000, 0), (0, -5_000_000)])
def test_a_difference_of_which_the_centre_has_another_part_than_agreed_is_found(
    db: Database, verdict: Callable[[list[str]], tuple[int, str]], net: int, centre: int
) -> None:
    with db.write() as conn:
        code, said = verdict(settled(conn, difference(net, centre)))
    assert code == 1
    assert f"a difference of {net} gives {centre} to c1, by the agreement {net * 70 // 100}" in said


def test_a_settlement_of_charges_alone_fits(db: Database, verdict: Callable[[list[str]], tuple[int, str]]) -> None:
    with db.write() as conn:
        code, said = verdict(settled(conn))
    assert code == 0, said
    assert "UNDER NO CHARGE" not in said


@pytest.mark.parametrize("zone", ["UTC", "Asia/Shanghai", "America/New_York"])
def test_the_rate_of_the_day_after_a_period_is_not_the_periods(db: Database, verifier: ModuleType, zone: str) -> None:
    agreement = replace(AGREEMENT, version=2, payout=Payout(currency="EUR"), zone=zone)
    period = month("2026-11", zone)
    with db.write() as conn:
        sign_agreement(conn, agreement)
        for day, num in ((date(2026, 11, 30), 128_413), (date(2026, 12, 1), 999_999)):
            settlements.add_rate(conn, Rate("CNY", "EUR", day, num, 1_000_000, "ECB"), now=T0)
        found = makers.draw(conn, agreement, settlement_id="s1", start=period.start, end=period.end, disputed={},
                                 now=T0)  # fmt: skip
        assert found.said["rate"]["day"] == "2026-11-30"
        append_all(conn)
        checkpoint(conn)
        drawn = list(bundle(conn, About(period.start, period.end, settlement_id="s1"), log_key=LOG, seal=SEAL))
    options = verifier.Options(LOG.vkey, [], None, 1)
    assert verifier.main_of(iter(drawn), options)[0] == []
    later = [line.replace('"day":"2026-11-30"', '"day":"2026-12-01"') for line in drawn]
    assert any("of a day after the period" in told for told in verifier.main_of(iter(later), options)[0])


def test_a_month_of_which_all_is_in_dispute_is_a_statement_of_nothing_and_fits(
    db: Database, verdict: Callable[[list[str]], tuple[int, str]]
) -> None:
    with db.write() as conn:
        open_entries = [
            key for key, *_ in conn.exec_driver_sql("SELECT idem_key FROM journal_entry") if "charge:" in key
        ]
        found = draw(conn, 1, **dict.fromkeys(open_entries, "all of it"))
        assert (found.said["net"], found.said["entries"]) == ("0", "0")
        agree(conn, found)
        append_all(conn)
        checkpoint(conn)
        code, said = verdict(lines(conn))
    assert code == 0, said


def test_what_was_owed_before_is_what_the_statement_before_closed_with(db: Database, verifier: ModuleType) -> None:
    with db.write() as conn:
        first = agree(conn, draw(conn, 1))
        book(conn, [8], ElapsedRaw="50")
        period = month("2026-12", "UTC")
        makers.draw(conn, AGREEMENT, settlement_id="s2", start=period.start, end=period.end, disputed={}, now=T0)
        append_all(conn)
        checkpoint(conn)
        drawn = list(bundle(conn, About(period.start, period.end, settlement_id="s2"), log_key=LOG, seal=SEAL))

    def told(before: str | None, lines: list[str] = drawn) -> tuple[list[str], dict[str, int]]:
        findings, notes, _ = verifier.main_of(iter(lines), verifier.Options(LOG.vkey, [], None, 1, before=before))
        return findings, notes

    findings, notes = told(None)
    assert findings == []
    assert [text for text in notes if "were owed before" in text]
    findings, notes = told(first.statement)
    assert (findings, [text for text in notes if "were owed before" in text]) == ([], [])
    closed = f'"closing":"{first.said["closing"]}"'
    assert any(
        "the statement before closed with" in f for f in told(first.statement.replace(closed, '"closing":"7"'))[0]
    )
    left = f'"carried":"{first.said["carried"]}"'
    assert any("left 9999 to it" in f for f in told(first.statement.replace(left, '"carried":"9999"'))[0])
    assert any("of centre" in f for f in told(first.statement.replace('"centre":"c1"', '"centre":"c2"'))[0])
