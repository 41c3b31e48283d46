"""An invoice as PDF (fpdf2, with Noto Sans SC embedded by subset), the same bytes for the same document."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import cast

import pylopdf_fonts_zh_cn
from fpdf import FPDF
from fpdf.enums import TableBordersLayout, WrapMode
from fpdf.fonts import FontFace

from accounting.invoicing import price_words
from accounting.invoicing import texts as words
from accounting.invoicing.invoice import Document, LegalEntity, Line
from accounting.invoicing.unit_prices import Step
from accounting.invoicing.writing import add_fonts, printable, shown, turned
from accounting.minor_units import plain, to_minor

FONT = Path(pylopdf_fonts_zh_cn.__file__).parent / "NotoSansSC-Regular.otf"
_GREY, _BLUE, _BLACK = (110, 110, 110), (26, 73, 120), (20, 20, 20)
_WIDTHS = (8, 49, 45, 30, 31, 27)
Steps = Mapping[int, Sequence[Step]]


def pdf(doc: Document, lang: str, steps: Steps) -> bytes:
    """A4 pages; `lang` is `en` or `zh`. `steps`: what the amount of each line is made of, by its number."""
    page = _Page(doc, lang, steps)
    page.set_creation_date(doc.issued_at)
    page.set_title(f"{words.title(doc, lang)} {doc.number}")
    page.set_lang("zh-Hans" if lang == "zh" else "en")
    page.add_font("noto", "", FONT)
    page.known = add_fonts(page, "noto", doc.snapshot)
    page.set_font("noto", size=9)
    page.alias_nb_pages()
    page.set_auto_page_break(True, margin=18)
    page.add_page()
    page.heading()
    page.lines()
    page.totals()
    page.closing()
    return bytes(page.output())


class _Page(FPDF):
    def __init__(self, doc: Document, lang: str, steps: Steps) -> None:
        super().__init__(format="A4")
        self._steps = steps
        self._doc, self._lang, self._zone = doc, lang, doc.issuer.zone
        self.known: frozenset[int] = frozenset()
        self.set_margins(10, 14, 10)

    def footer(self) -> None:
        self.set_y(-14)
        self.set_font("noto", size=6.5)
        self.set_text_color(*_GREY)
        self.cell(140, 4, f"{words.say('fingerprint', self._lang)}: {self._doc.sha256}")
        self.cell(0, 4, words.say("page", self._lang, page=self.page_no()), align="R")
        self.set_text_color(*_BLACK)

    def heading(self) -> None:
        doc, lang = self._doc, self._lang
        self.set_text_color(*_BLUE)
        self.set_font("noto", size=20)
        self.cell(0, 11, words.title(doc, lang), new_x="LMARGIN", new_y="NEXT")
        self.set_font("noto", size=9)
        self.set_text_color(*_BLACK)
        top = self.get_y() + 3
        self._party(doc.issuer, 10, top, "")
        left = self.get_y()
        self._party(doc.payer, 70, top, words.say("bill_to", lang))
        middle = self.get_y()
        facts = [("number", doc.number), ("issued", words.day(doc.issued_at, self._zone, lang))]
        if doc.gross_minor >= 0:
            facts.append(("due", words.day(doc.due_at, self._zone, lang)))
        facts += [("period", words.days(doc.period_start, doc.period_end, self._zone, lang)), ("project", doc.project)]
        why = words.reason(doc, lang)
        facts += [(key, value) for key, value in (("corrects", doc.corrects), ("reason", why)) if value]
        self.set_xy(131, top)
        for key, value in facts:
            self._fact(words.say(key, lang), value)
        self.set_xy(10, max(left, middle, self.get_y()) + 6)

    def _fact(self, label: str, value: str) -> None:
        self.set_x(131)
        self.set_text_color(*_GREY)
        self.multi_cell(17, 5, label, new_x="RIGHT", new_y="TOP")
        self.set_text_color(*_BLACK)
        self._written(53, value, new_x="LMARGIN")

    def _party(self, party: LegalEntity, x: float, y: float, label: str) -> None:
        tax_id = f"{words.say('tax_id', self._lang)} {party.tax_id}" if party.tax_id else ""
        self.set_xy(x, y)
        if label:
            self.set_text_color(*_GREY)
            self.multi_cell(56, 5, label, new_x="LEFT", new_y="NEXT")
            self.set_text_color(*_BLACK)
        for text in (party.legal_name, party.address, party.country, tax_id):
            if text:
                self._written(56, text, new_x="LEFT")

    def _written(self, width: float, text: str, *, new_x: str) -> None:
        """A paragraph; lines are broken as they are read, and then turned."""
        clean = printable(text)
        if turned(clean) != clean:
            broken = self.multi_cell(width, 5, clean, dry_run=True, output="LINES")
            clean = turned("\n".join(cast(list[str], broken)))
        self.multi_cell(width, 5, shown(clean, self.known), new_x=new_x, new_y="NEXT", wrapmode=WrapMode.CHAR)

    def _cell(self, text: str) -> str:
        return shown(turned(printable(text)), self.known)

    def lines(self) -> None:
        doc, lang = self._doc, self._lang
        style = FontFace(color=_BLUE, fill_color=(238, 242, 246))
        head = [words.say(k, lang) for k in ("line", "what", "service", "quantity", "unit_price", "amount")]
        aligns = ("RIGHT", "LEFT", "LEFT", "RIGHT", "RIGHT", "RIGHT")
        self.set_font("noto", size=8)
        with self.table(
            col_widths=_WIDTHS, text_align=aligns, headings_style=style, line_height=5, padding=0.6,
            borders_layout=TableBordersLayout.HORIZONTAL_LINES, wrapmode=WrapMode.CHAR,
        ) as table:  # fmt: skip
            table.row(head)
            for line in doc.lines:
                table.row(self._row(line))
                for row in self._step_rows(line):
                    table.row(row, style=FontFace(color=_GREY))

    def _row(self, line: Line) -> list[str]:
        doc, lang = self._doc, self._lang
        steps = self._steps.get(line.number, ())
        what = words.describe(line, lang)
        if line.runs:
            hours = words.core_hours(line.core_seconds, lang)
            what = words.say("runs_of", lang, text=what, runs=words.number(line.runs, lang), hours=hours)
        return [
            str(line.number), self._cell(what), words.days(line.service_start, line.service_end, self._zone, lang),
            self._cell(price_words.quantity(line, steps, lang)), price_words.unit_price(steps, doc.currency, lang),
            words.money(line.net_minor + (line.tax_minor if doc.tax.inclusive else 0), doc.currency, lang),
        ]  # fmt: skip

    def _step_rows(self, line: Line) -> list[list[str]]:
        """What a line with several prices is made of, each to the micro-unit."""
        lang, currency = self._lang, self._doc.currency
        steps = self._steps.get(line.number, ())
        if not price_words.is_various(steps):
            return []
        return [
            ["", self._cell(f"{words.say('of_which', lang)} {price_words.condition(s, lang)}"), "",
             self._cell(price_words.quantity_of(s.resource, s.quantity, lang)) if s.quantity else "–",
             price_words.price(s, currency, lang), price_words.amount(s, currency, lang)]
            for s in steps
        ]  # fmt: skip

    def totals(self) -> None:
        doc, lang = self._doc, self._lang
        self.ln(3)
        rows = [(words.say("net", lang), doc.net_minor), (words.tax_label(doc, lang), doc.tax_minor),
                (words.say("total", lang), doc.gross_minor)]  # fmt: skip
        for label, minor in rows:
            last = minor is doc.gross_minor and label == rows[-1][0]
            self.set_font("noto", size=11 if last else 9)
            self.set_x(110)
            self.cell(50, 6, label, align="R")
            self.cell(40, 6, words.money(minor, doc.currency, lang), align="R", new_x="LMARGIN", new_y="NEXT")
        self.set_font("noto", size=9)

    def closing(self) -> None:
        doc, lang = self._doc, self._lang
        notes = [words.tax_note(doc, lang)]
        if doc.unbilled.runs:
            amount = words.money(to_minor(doc.unbilled.amount_micro, doc.currency), doc.currency, lang)
            notes.append(words.say("unbilled", lang, runs=doc.unbilled.runs, amount=amount))
        if doc.gross_minor > 0 and doc.issuer.bank_details:
            details = f"{words.say('pay_to', lang)}: {doc.issuer.bank_details}"
            notes.append(f"{details}\n{doc.number} · {plain(doc.gross_minor, doc.currency)} {doc.currency}. "
                         f"{words.say('reference', lang)}")  # fmt: skip
        self.ln(4)
        for note in filter(None, notes):
            self.multi_cell(0, 5, self._cell(note), new_x="LMARGIN", new_y="NEXT", wrapmode=WrapMode.CHAR)
            self.ln(2)
