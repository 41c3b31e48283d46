"""Quantity, unit and unit price of each line on paper, from the charges that stand on it."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest
from msgspec.structs import replace as changed
from sqlalchemy import Connection

from accounting import store as books
from accounting.calendar import Window
from accounting.invoicing import price_words, unit_prices
from accounting.invoicing.as_pdf import pdf
from accounting.invoicing.invoice import Document
from accounting.invoicing.legal_entities import save_entity
from accounting.invoicing.store import issue_invoice
from accounting.invoicing.unit_prices import Step, steps_of
from accounting.store.contracts import Terms, set_terms
from accounting.tariff import Discount, PriceRule
from gateway.db import Database
from tests.unit.accounting.invoicing import NOW, PAYER, T0, bill, charge, parties, run, wanted

SINCE = T0 - timedelta(days=900)
NIGHT = Window(22 * 60, 6 * 60)


@pytest.fixture
def db(db_url: str) -> Iterator[Database]:
    made = Database(db_url)
    with made.write() as conn:
        parties(conn)
    yield made
    made.dispose()


def priced(conn: Connection, price_micro: int, **how: object) -> None:
    books.add_tariff(conn, PriceRule(0, "CNY", price_micro, SINCE, **how), now=T0)  # type: ignore[arg-type]


def on_gpus(seconds: int, *, user: str = "u1") -> books.Assigned:
    found = run(3600, user=user)
    return changed(found, record=changed(found.record, gpu_seconds=seconds))


def said(steps: list[Step], lang: str = "en") -> list[tuple[str, str, str]]:
    return [
        (price_words.quantity_of(s.resource, s.quantity, lang), price_words.price(s, "CNY", lang),
         price_words.amount(s, "CNY", lang))
        for s in steps
    ]  # fmt: skip


def billed(db: Database) -> tuple[Document, dict[int, list[Step]]]:
    with db.write() as conn:
        made = bill(conn)
        found = steps_of(conn, made)
    for line in made.lines:
        assert sum(s.amount_micro for s in found[line.number]) == line.amount_micro
    return made, found


def test_one_price_is_the_unit_price_of_the_line(db: Database) -> None:
    with db.write() as conn:
        charge(conn, run(7200), run(3600))
    made, found = billed(db)
    assert said(found[1]) == [("3.00 core-hours", "CN¥0.05", "CN¥0.15")]
    assert price_words.unit_price(found[1], "CNY", "zh") == "¥0.05"
    assert price_words.quantity(made.lines[0], found[1], "zh") == "3.00 核时"


def test_hours_of_the_day_are_various_with_each_price_and_its_hours(db: Database) -> None:
    with db.write() as conn:
        priced(conn, 20_000, window=NIGHT, zone="UTC")
        charge(conn, run(3600), run(4 * 3600, at=T0.replace(hour=23)))
    made, found = billed(db)
    assert price_words.unit_price(found[1], "CNY", "en") == "various"
    assert price_words.quantity(made.lines[0], found[1], "en") == "5.00 core-hours"
    assert said(found[1]) == [("4.00 core-hours", "CN¥0.05", "CN¥0.20"), ("1.00 core-hours", "CN¥0.02", "CN¥0.02")]
    assert [price_words.condition(s, "en") for s in found[1]] == ["", "22:00–06:00 (UTC)"]


def test_tiers_are_shown_with_their_bounds(db: Database) -> None:
    with db.write() as conn:
        priced(conn, 40_000, site_id="beta", zone="UTC")
        priced(conn, 10_000, site_id="beta", zone="UTC", tier_from=10 * 3600)
        charge(conn, run(8 * 3600, site="beta"), run(4 * 3600, site="beta"))
    _, found = billed(db)
    assert said(found[1]) == [
        ("12.00 core-hours", "CN¥0.04; beyond 10.00 core-hours a month: CN¥0.01", "CN¥0.42")
    ]  # fmt: skip
    assert price_words.is_various(found[1])


def test_a_contracts_ratio_stands_beside_the_price(db: Database) -> None:
    with db.write() as conn:
        books.add_discount(conn, Discount(0, "r1", 2, 3, SINCE), now=T0)
        charge(conn, run(7200))
    _, found = billed(db)
    assert said(found[1]) == [("2.00 core-hours", "CN¥0.05 × 2/3", "CN¥0.066667")]


def test_gpus_memory_and_a_minimum_have_their_own_units(db: Database) -> None:
    with db.write() as conn:
        priced(conn, 1_000_000, resource="gpu_seconds")
        priced(conn, 5_000_000, resource="minimum")
        charge(conn, on_gpus(7200))
    made, found = billed(db)
    assert price_words.quantity(made.lines[0], found[1], "en") == "various"
    assert said(found[1], "zh")[1] == ("2.00 GPU 卡时", "¥1.00", "¥2.00")
    assert price_words.condition(found[1][0], "zh") == "最低收费"


def test_what_is_taken_back_is_negative_at_the_price_that_it_was_billed_at(db: Database) -> None:
    with db.write() as conn:
        charge(conn, run(7200, key="a"), run(3600, key="b"))
        bill(conn)
        charge(conn, run(3600, key="a"), now=NOW)
        note = bill(conn, "2026-11", now=NOW + timedelta(days=30))
        found = steps_of(conn, note)
    assert said(found[1]) == [("-1.00 core-hours", "CN¥0.05", "-CN¥0.05")]


def test_of_a_shared_run_each_payer_sees_the_own_part(db: Database) -> None:
    with db.write() as conn:
        save_entity(conn, replace(PAYER, id="lab"), now=T0)
        set_terms(conn, Terms("r1", SINCE, "", (("uni", 60), ("lab", 40))), now=T0)
        charge(conn, run(3 * 3600))
        parts = [issue_invoice(conn, replace(wanted(), payer_id=who, whole=who == "uni"), now=NOW)
                 for who in ("uni", "lab")]  # fmt: skip
        steps = [steps_of(conn, doc)[1] for doc in parts if doc is not None]
    assert [said(s) for s in steps] == [
        [("1.80 core-hours", "CN¥0.05", "CN¥0.09")], [("1.20 core-hours", "CN¥0.05", "CN¥0.06")]
    ]  # fmt: skip


@pytest.mark.parametrize(("price", "per", "text"), [
    (1_234_567, 3_600_000, "CN¥0.001234567"), (1, 7, "≈ CN¥0.000514286"), (100_000_000, 3600, "CN¥100.00"),
])  # fmt: skip
def test_a_unit_price_has_all_its_places(price: int, per: int, text: str) -> None:
    assert price_words.price(Step("core_seconds", 1, 1, price, per), "CNY", "en") == text


def test_yen_have_no_places() -> None:
    assert price_words.price(Step("core_seconds", 1, 1, 12_000_000, 3600), "JPY", "en") == "JP¥12"
    assert price_words.price(Step("core_seconds", 1, 1, 12_500_000, 3600), "JPY", "en") == "JP¥12.5"


@pytest.mark.parametrize("lang", ["en", "zh"])
def test_the_page_shows_quantity_unit_price_and_steps(db: Database, lang: str, tmp_path: Path) -> None:
    if shutil.which("pdftotext") is None:
        pytest.skip("pdftotext (poppler-utils) is not installed")
    with db.write() as conn:
        priced(conn, 20_000, window=NIGHT, zone="UTC")
        charge(conn, run(3600), run(4 * 3600, at=T0.replace(hour=23)), run(3600, user="u2"))
    made, found = billed(db)
    (tmp_path / "x.pdf").write_bytes(pdf(made, lang, found))
    command = ["pdftotext", "-layout", tmp_path / "x.pdf", "-"]
    text = subprocess.run(command, capture_output=True, check=True, text=True).stdout
    seen = {"en": ("Unit price", "various", "of which", "22:00–06:00 (UTC)", "CN¥0.02", "4.00 core-hours", "2 runs"),
            "zh": ("单价", "多种", "其中", "22:00–06:00", "¥0.02", "4.00 核时", "2 个作业")}[lang]  # fmt: skip
    for word in seen:
        assert word in text, (word, text)


def test_a_long_document_is_added_page_by_page(db: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(unit_prices, "_AT_ONCE", 2)
    with db.write() as conn:
        charge(conn, *(run(3600) for _ in range(5)))
    with db.write() as conn:
        made = bill(conn)
    with db.read() as conn:
        found = steps_of(conn, made)
    assert said(found[1]) == [("5.00 core-hours", "CN¥0.05", "CN¥0.25")]
