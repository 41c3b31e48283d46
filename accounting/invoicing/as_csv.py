"""An invoice's lines as CSV: exact micro-units beside the rounded amounts, totals in the last row."""

from __future__ import annotations

from decimal import Decimal

from accounting import csv_text
from accounting.invoicing import texts as words
from accounting.invoicing.invoice import Document
from accounting.minor_units import decimal_of

HEADER = (
    "number", "line", "kind", "project", "site", "user", "service_start", "service_end", "runs", "core_seconds",
    "amount_exact", "net", "tax", "gross", "currency", "text",
)  # fmt: skip


def invoice_csv(doc: Document, lang: str) -> str:
    """One row per line and one `total`."""
    rows: list[tuple[object, ...]] = [
        (doc.number, line.number, line.kind.value, doc.project, line.site_id, line.user or line.user_id,
         line.service_start.isoformat(), line.service_end.isoformat(), line.runs, line.core_seconds,
         Decimal(line.amount_micro) / 1_000_000, decimal_of(line.net_minor, doc.currency),
         decimal_of(line.tax_minor, doc.currency), decimal_of(line.net_minor + line.tax_minor, doc.currency),
         doc.currency, words.describe(line, lang))
        for line in doc.lines
    ]  # fmt: skip
    rows.append((
        doc.number, "", "total", doc.project, "", "", doc.period_start.isoformat(), doc.period_end.isoformat(),
        sum(line.runs for line in doc.lines), sum(line.core_seconds for line in doc.lines),
        Decimal(sum(line.amount_micro for line in doc.lines)) / 1_000_000, decimal_of(doc.net_minor, doc.currency),
        decimal_of(doc.tax_minor, doc.currency), decimal_of(doc.gross_minor, doc.currency), doc.currency,
        words.tax_label(doc, lang),
    ))  # fmt: skip
    return csv_text.write(HEADER, rows)
