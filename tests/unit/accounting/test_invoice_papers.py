"""Invoices on paper: PDF and CSV in English and Chinese, with names that want to be formulas or turn the page round."""

from __future__ import annotations

import csv
import io
import re
import shutil
import subprocess
import unicodedata
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest

from accounting import csv_text
from accounting.invoicing.as_csv import HEADER, invoice_csv
from accounting.invoicing.as_pdf import Steps
from accounting.invoicing.as_pdf import pdf as printed
from accounting.invoicing.credit_notes import Credit, credit_note
from accounting.invoicing.invoice import Document, DocumentKind, Item, LineKind, Unbilled, document
from accounting.invoicing.texts import LANGUAGES, TEXTS, core_hours, describe, language, money
from tests.unit.accounting.invoicing import NOW, OPERATOR, PAYER, T0, VAT

HOSTILE = ["=cmd|' /C calc'!A0", "+1", "-2+3", "@SUM(A1)", "\t=1", " =1", "＝1", '"; DROP', "a,b\nc", "\u202egpj.exe"]


def invoice(lines: int = 3, *, user: str = "王小明 alice") -> Document:
    items = [
        (LineKind.CORRECTION if n == 0 else LineKind.USAGE,
         Item("alpha", f"u{n}", T0, T0 + timedelta(days=30), n, n * 12_345, n * 7_000_000 - 5_000), user, "")
        for n in range(lines)
    ]  # fmt: skip
    return document(
        number="PS-000001", kind=DocumentKind.INVOICE, issuer=OPERATOR, payer=PAYER, project_id="r1", project="demo",
        currency="CNY", period=(T0, T0 + timedelta(days=30)), issued_at=NOW, due_at=NOW + timedelta(days=30), tax=VAT,
        items=items, unbilled=Unbilled(2, 5_000_000),
    )  # fmt: skip


def pdf(doc: Document, lang: str, steps: Steps | None = None) -> bytes:
    return printed(doc, lang, steps or {})


def words_of(data: bytes, folder: Path) -> str:
    if shutil.which("pdftotext") is None:
        pytest.skip("pdftotext (poppler-utils) is not installed")
    (folder / "x.pdf").write_bytes(data)
    return subprocess.run(["pdftotext", "-layout", folder / "x.pdf", "-"], capture_output=True, check=True,
                          text=True).stdout  # fmt: skip


@pytest.mark.parametrize(("lang", "seen"), [
    ("en", ["Invoice", "PS-000001", "Penstock Operations Ltd", "物理研究院", "2 November 2026", "CN¥22.25", "VAT 6%",
            "Correction: computing at alpha", "Net", "Quantity"]),
    ("zh", ["账单", "PS-000001", "物理研究院", "2026年11月2日", "增值税 6%", "合计", "王小明", "核时", "更正"]),
])  # fmt: skip
def test_pdf_says_who_what_and_how_much_in_both_languages(lang: str, seen: list[str], tmp_path: Path) -> None:
    text = words_of(pdf(invoice(3), lang), tmp_path)
    for word in seen:
        assert word in text, (word, text)


def test_pdf_is_the_same_bytes_for_the_same_document_and_has_its_font_inside() -> None:
    made = pdf(invoice(), "zh")
    assert made == pdf(invoice(), "zh")
    assert made.startswith(b"%PDF-") and b"/FontFile" in made
    assert len(made) < 200_000


def test_a_long_invoice_repeats_its_heading_and_counts_its_pages(tmp_path: Path) -> None:
    text = words_of(pdf(invoice(120), "en"), tmp_path)
    pages = re.findall(r"Page (\d+) of (\d+)", text)
    assert len(pages) >= 3 and {of for _, of in pages} == {str(len(pages))}
    assert text.count("Unit price") == len(pages) or text.count("Unit price") == len(pages) - 1


@pytest.mark.parametrize("name", ["\n".join(HOSTILE), "\u202egpj.exe", "x" * 500, "😀", "\x00\x07", "مرحبا"])
def test_pdf_takes_any_name(name: str) -> None:
    """A page knows no formulas: those names share one, and a quarter of a second for its font."""
    odd = replace(PAYER, legal_name=name or "-", address=name, tax_id=name)
    assert pdf(replace(invoice(user=name), payer=odd, project=name), "zh").startswith(b"%PDF-")


def test_names_of_europe_are_whole_and_none_vanishes(tmp_path: Path) -> None:
    named = replace(PAYER, legal_name="Politechnika Łódzka\nErdős Boğaziçi\n한국 😀", address="ul. Żeromskiego 116")
    text = words_of(pdf(replace(invoice(user="Paweł"), payer=named), "en"), tmp_path)
    for word in ("Politechnika Łódzka", "Erdős", "Boğaziçi", "□", "ul. Żeromskiego 116", "Paweł"):
        assert word in text, (word, text)


def test_arabic_is_joined_and_turned_and_its_lines_keep_their_order(tmp_path: Path) -> None:
    name = "جامعة الملك عبدالله للعلوم والتقنية قسم الحوسبة الفائقة"
    made = pdf(replace(invoice(user="مرحبا"), payer=replace(PAYER, legal_name=name)), "en")
    assert made == pdf(replace(invoice(user="مرحبا"), payer=replace(PAYER, legal_name=name)), "en")
    drawn = unicodedata.normalize("NFKC", re.sub(r"[\u202a-\u202e\u2066-\u2069]", "", words_of(made, tmp_path)))
    lines = drawn.split("\n")
    at = [next((n for n, line in enumerate(lines) if word in line or word[::-1] in line), None)
          for word in ("جامعة", "الفائقة")]  # fmt: skip
    assert None not in at, drawn
    assert at == sorted(at) and len(set(at)) == 2, "the name begins on the first of its lines"


def test_credit_note_names_the_invoice_and_the_reason(tmp_path: Path) -> None:
    note = credit_note(invoice(), [Credit(3, 100)], number="PSC-000001", reason="节点故障", at=NOW, earlier={})
    text = words_of(pdf(note, "zh"), tmp_path)
    assert "贷项通知单" in text and "PS-000001" in text and "节点故障" in text and "-¥1.06" in text


def test_csv_adds_up_to_its_total_row() -> None:
    rows = list(csv.reader(io.StringIO(invoice_csv(invoice(), "en"))))
    assert tuple(rows[0]) == HEADER
    net, gross = HEADER.index("net"), HEADER.index("gross")
    cents = [[round(float(row[i]) * 100) for i in (net, gross)] for row in rows[1:]]
    assert [sum(c[i] for c in cents[:-1]) for i in (0, 1)] == cents[-1]


@pytest.mark.parametrize("name", HOSTILE)
def test_names_in_csv_are_never_formulas_and_come_back_whole(name: str) -> None:
    rows = list(csv.reader(io.StringIO(invoice_csv(invoice(user=name), "en"))))
    found = rows[1][HEADER.index("user")]
    assert not found.lstrip(" ").startswith(("=", "+", "-", "@", "\t", "\r", "＝"))
    assert found.removeprefix("'") == name


def test_numbers_in_csv_stay_numbers() -> None:
    assert csv_text.write(("a",), [[-5], ["-5"], [None]]) == "a\r\n-5\r\n'-5\r\n\r\n".replace("\r\n\r\n", '\r\n""\r\n')


def test_every_text_is_there_in_both_languages_with_the_same_places() -> None:
    for key, texts in TEXTS.items():
        assert len(texts) == len(LANGUAGES) and all(texts), key
        assert len({tuple(sorted(re.findall(r"{\w+}", text))) for text in texts}) == 1, key


def test_numbers_are_written_as_the_language_writes_them() -> None:
    assert (money(-123456, "CNY", "zh"), money(123456, "EUR", "en")) == ("-¥1,234.56", "€1,234.56")
    assert (core_hours(-1800, "en"), core_hours(3600 * 12_345, "zh")) == ("-0.50", "12,345.00")
    assert [language(x) for x in ("zh-Hans", "zh_CN", "fr", None)] == ["zh", "zh", "en", "en"]
    assert "alpha" in describe(invoice().lines[0], "en")
