"""Give back part of an invoice: a document of its own that names the invoice's lines. The invoice is never edited."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime

from accounting.errors import InvoiceRefused
from accounting.invoicing.invoice import Document, DocumentKind, Line, LineKind
from accounting.minor_units import divide, plain, to_micro


@dataclass(frozen=True, slots=True)
class Credit:
    """`net_minor` (positive) of a line of an invoice, given back. `charges`: of which runs; none: of the line."""

    line: int
    net_minor: int
    charges: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class Credited:
    """What earlier credit notes gave back of one line: positive minor units."""

    net_minor: int = 0
    tax_minor: int = 0


def credit_note(
    invoice: Document, credits: Sequence[Credit], *, number: str, reason: str, at: datetime,
    earlier: Mapping[int, Credited], beside: Mapping[int, int] | None = None,
) -> Document:  # fmt: skip
    """The credit note; raises `InvoiceRefused` where a line has less left than is given back. `beside`: net minor units
    of lines that were given back otherwise.

    The tax goes back by cumulated share, each rounded half up, so that crediting a line in any number of parts gives
    back its tax exactly.
    """
    if invoice.kind is not DocumentKind.INVOICE:
        raise InvoiceRefused(f"{invoice.number} is no invoice: only an invoice is credited")
    if not reason.strip():
        raise InvoiceRefused("a credit note says why")
    billed = {line.number: line for line in invoice.lines}
    lines: list[Line] = []
    for credit in credits:
        if credit.line not in billed:
            raise InvoiceRefused(f"{invoice.number} has no line {credit.line}")
        if credit.line in {line.number for line in lines}:
            raise InvoiceRefused(f"line {credit.line} is named twice")
        before, otherwise = earlier.get(credit.line, Credited()), (beside or {}).get(credit.line, 0)
        lines.append(_line(invoice, billed[credit.line], credit, before, otherwise))
    if not lines:
        raise InvoiceRefused("a credit note has a line")
    net, tax = sum(line.net_minor for line in lines), sum(line.tax_minor for line in lines)
    return replace(
        invoice, number=number, kind=DocumentKind.CREDIT_NOTE, issued_at=at, due_at=at, lines=tuple(lines),
        net_minor=net, tax_minor=tax, gross_minor=net + tax, rounding_micro=0, corrects=invoice.number, reason=reason,
    )  # fmt: skip


def left_of_line(billed: Line, before: Credited, beside: int) -> Credited:
    """What of a line can still be credited, with its tax."""
    net = max(0, billed.net_minor - before.net_minor - beside)
    return Credited(net, _tax(billed, before, net)) if net else Credited()


def _tax(billed: Line, before: Credited, net_minor: int) -> int:
    return divide(billed.tax_minor * (before.net_minor + net_minor), billed.net_minor) - before.tax_minor


def _line(invoice: Document, billed: Line, credit: Credit, before: Credited, beside: int) -> Line:
    left = left_of_line(billed, before, beside).net_minor
    if not 0 < credit.net_minor <= left:
        has = f"line {billed.number} of {invoice.number} has {plain(left, invoice.currency)} {invoice.currency} left"
        why = ": its runs were corrected since, or adjusted" if beside else ""
        raise InvoiceRefused(f"{has} to credit{why}")
    tax = _tax(billed, before, credit.net_minor)
    micro = -to_micro(credit.net_minor + (tax if invoice.tax.inclusive else 0), invoice.currency)
    return replace(
        billed, kind=LineKind.CREDIT, runs=0, core_seconds=0, amount_micro=micro, text="",
        net_minor=-credit.net_minor, tax_minor=-tax,
    )  # fmt: skip
