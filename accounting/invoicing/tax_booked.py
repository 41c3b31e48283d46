"""Let the issuer's tax account hold what its documents say, whether prices include the tax or not.

Where prices include tax, each charge has put aside what its agreement says (`operator:tax`; nothing without an
agreement). The document then says what is owed to the tax office, rounded once, by the issuer's own rule:

  Dr operator:tax what its charges put aside      Cr tax:E:CODE what it says      Dr/Cr operator:revenue the difference

A credit note takes its tax out of `operator:tax`, and this puts it there from `tax:E:CODE`. Where the tax is added to
the price, the document's own entry has it, and what charges have put aside all the same was never owed.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from sqlalchemy import BigInteger, Connection, case, func, select

from accounting.invoicing.invoice import Document
from accounting.invoicing.items import ITEMS
from accounting.invoicing.postings import tax_account
from accounting.ledger import REVENUE, TAX, Entry, Posting
from accounting.minor_units import to_micro
from accounting.store import book
from accounting.store.schema import CHARGES, ORDER_ITEMS, ORDER_PRICES

KIND = "document_tax"


def book_tax(conn: Connection, made: Document, *, entry_id: int) -> None:
    """Move the tax of a document that was kept just now; `entry_id`: that of the document."""
    said = to_micro(made.tax_minor, made.currency) if made.tax.inclusive else 0
    aside = said if made.corrects else tax_aside(conn, made.number)
    legs = ((TAX, aside), (tax_account(made.issuer.id, made.tax.code), -said), (REVENUE, said - aside))
    postings = tuple(Posting(account, made.currency, amount) for account, amount in legs if amount)
    if postings:
        book(conn, [Entry(f"document-tax:{made.number}", KIND, made.issued_at, postings, made.number,
                          linked_entry_id=entry_id)], now=made.issued_at)  # fmt: skip


def tax_aside(conn: Connection, number: str) -> int:
    """What the charges and prices on a document have put aside for tax, exact; negative where they were taken back."""
    on = ITEMS.join(CHARGES, CHARGES.c.id == ITEMS.c.charge_id)
    signed = case((ITEMS.c.kind == "reversal", -CHARGES.c.tax_micro), else_=CHARGES.c.tax_micro)
    whole = select(func.coalesce(func.sum(signed, type_=BigInteger), 0)).select_from(on)
    found = int(conn.scalar(whole.where(ITEMS.c.document == number, ITEMS.c.part == "")) or 0)
    return found + sum(_of_shared_charges(conn, number)) + sum(_of_prices(conn, number))


def part_of_tax(tax: int, payers: Mapping[str, int], payer: str) -> int:
    """A payer's part of a tax, by its part of the amount, cut towards zero; the last by name takes what is left."""
    total = sum(payers.values())

    def cut(amount: int) -> int:
        sign = -1 if tax * amount * total < 0 else 1
        return sign * (abs(tax * amount) // abs(total)) if total else 0

    if payer != max(payers):
        return cut(payers[payer])
    return tax - sum(cut(amount) for name, amount in payers.items() if name != payer)


def _of_shared_charges(conn: Connection, number: str) -> Iterator[int]:
    query = (
        select(ITEMS.c.kind, ITEMS.c.part, CHARGES.c.tax_micro, CHARGES.c.payers)
        .join(CHARGES, CHARGES.c.id == ITEMS.c.charge_id)
        .where(ITEMS.c.document == number, ITEMS.c.part != "", CHARGES.c.tax_micro != 0)
    )
    for row in conn.execute(query):
        tax = part_of_tax(int(row.tax_micro), row.payers, row.part)
        yield -tax if row.kind == "reversal" else tax


def _of_prices(conn: Connection, number: str) -> Iterator[int]:
    query = (
        select(ORDER_ITEMS.c.part, ORDER_PRICES.c.tax_micro, ORDER_PRICES.c.payers)
        .join(ORDER_PRICES, ORDER_PRICES.c.allocation_id == ORDER_ITEMS.c.allocation_id)
        .where(ORDER_ITEMS.c.document == number, ORDER_PRICES.c.tax_micro != 0)
    )
    for row in conn.execute(query):
        yield part_of_tax(int(row.tax_micro), row.payers, row.part) if row.part else int(row.tax_micro)
