"""What invoices, credit notes and payments of invoices do to the ledger.

A charge makes the project owe (`project:P:usage`); an invoice turns that into a claim against the payer:

  invoice      Dr payer:Y:receivable gross   Cr project:P:invoiced exact   Cr tax:E:C tax   Dr/Cr operator:rounding
  credit note  Dr operator:credits net       Dr tax:E:C tax                Cr payer:Y:receivable gross
  payment in   Dr bank:A amount              Cr unallocated:A
  allocation   Dr unallocated:A part         Cr payer:Y:receivable

and what is settled (paid or credited) of it moves from `project:P:invoiced` to `project:P:paid`, so that the project
may spend as much again. `usage` + `invoiced` + `paid` of a project is what is used and neither billed nor paid ahead.
Where prices include tax, the charge has a leg for it already (`operator:tax`); `tax_booked.py` moves it.
"""

from __future__ import annotations

from accounting.invoicing.invoice import Document
from accounting.ledger import CREDITS, TAX, Posting, paid
from accounting.minor_units import to_micro

ROUNDING = "operator:rounding"


def payer_receivable(payer_id: str) -> str:
    """What a payer has been billed and has not paid."""
    return f"payer:{payer_id}:receivable"


def invoiced(project_id: str) -> str:
    """The contra account of `project:P:usage`: what of it has been billed."""
    return f"project:{project_id}:invoiced"


def tax_account(issuer_id: str, code: str) -> str:
    """Tax that an issuer has billed and owes."""
    return f"tax:{issuer_id}:{code}"


def bank(account: str) -> str:
    return f"bank:{account}"


def unallocated(account: str) -> str:
    """Money that came in and is not matched to a document yet (credit balance)."""
    return f"unallocated:{account}"


def invoice_postings(made: Document) -> tuple[Posting, ...]:
    """Used and exact becomes billed and rounded; what rounding added or took has an account of its own."""
    tax = 0 if made.tax.inclusive else to_micro(made.tax_minor, made.currency)
    return _nonzero(made.currency, [
        (payer_receivable(made.payer.id), to_micro(made.gross_minor, made.currency)),
        (invoiced(made.project_id), -exact_micro(made)),
        (tax_account(made.issuer.id, made.tax.code), -tax),
        (ROUNDING, -made.rounding_micro),
    ])  # fmt: skip


def credit_postings(made: Document) -> tuple[Posting, ...]:
    """A decided credit: the document's amounts are negative."""
    return _nonzero(made.currency, [
        (CREDITS, -to_micro(made.net_minor, made.currency)),
        (TAX if made.tax.inclusive else tax_account(made.issuer.id, made.tax.code),
         -to_micro(made.tax_minor, made.currency)),
        (payer_receivable(made.payer.id), to_micro(made.gross_minor, made.currency)),
    ])  # fmt: skip


def exact_micro(made: Document) -> int:
    """What the lines come to before rounding: what of the project's usage is billed."""
    return sum(line.amount_micro for line in made.lines)


def settled_micro(invoice: Document, before_minor: int, after_minor: int) -> int:
    """What of the billed usage is settled between two gross amounts; all of it at the invoice's gross."""
    if invoice.gross_minor == 0:
        return 0
    exact = exact_micro(invoice)
    return exact * after_minor // invoice.gross_minor - exact * before_minor // invoice.gross_minor


def settled_postings(invoice: Document, micro: int) -> tuple[Posting, ...]:
    """Billed usage that is settled."""
    if micro == 0:
        return ()
    return (Posting(invoiced(invoice.project_id), invoice.currency, micro),
            Posting(paid(invoice.project_id), invoice.currency, -micro))  # fmt: skip


def receipt_postings(account: str, *, currency: str, minor: int) -> tuple[Posting, ...]:
    micro = to_micro(minor, currency)
    return (Posting(bank(account), currency, micro), Posting(unallocated(account), currency, -micro))


def allocation_postings(account: str, payer_id: str, *, currency: str, minor: int) -> tuple[Posting, ...]:
    micro = to_micro(minor, currency)
    return (Posting(unallocated(account), currency, micro), Posting(payer_receivable(payer_id), currency, -micro))


def _nonzero(currency: str, amounts: list[tuple[str, int]]) -> tuple[Posting, ...]:
    """At least the first two, so that a document of nothing is booked too."""
    return tuple(Posting(a, currency, m) for i, (a, m) in enumerate(amounts) if m or i < 2)
