"""What accounting refuses.

AccountingError
├── CreditExhausted   a hold would pass the limit; says which commodity, needed and available
├── TooMuch           a grant would pass what the books count, 2^62 in all
├── UnbalancedEntry   postings of an entry do not sum to zero in some commodity
├── TariffOverlap     two rules would apply to the same usage
├── KeyReused         an idempotency key came back with other content
├── PeriodClosed      an entry would count in a period that is closed, or a period cannot take that step
├── NotSigned         a document has no valid signature of the party that is asked for
├── FourEyes          a second person must decide what the first one asked for
├── InvoiceRefused    an invoice, credit note or dispute that cannot be made, in words for whoever asked
├── PaymentRefused    a payment that cannot be read or allocated, in words for whoever asked
└── BooksUnsafe       the append-only triggers are missing
"""

from __future__ import annotations


class AccountingError(Exception):
    """Something that the books must not take."""


class CreditExhausted(AccountingError):
    """The project's credit does not cover the hold."""

    def __init__(self, commodity: str, needed: int, available: int) -> None:
        super().__init__(f"{needed} {commodity} needed, {available} available")
        self.commodity, self.needed, self.available = commodity, needed, available


class RefundTooLarge(CreditExhausted):
    """More is to be paid back than came in before use and is not used; `available` is what can be."""


class TooMuch(AccountingError):
    """More than a database counts safely in 64 bits; nothing was kept."""


class UnbalancedEntry(AccountingError):
    """Postings must sum to zero for each commodity."""


class TariffOverlap(AccountingError):
    """A rule with the same scope and time exists already (`rule_id`), or runs are charged by what held till now."""

    def __init__(self, text: str, *, rule_id: int | None = None) -> None:
        super().__init__(text)
        self.rule_id = rule_id


class KeyReused(AccountingError):
    """The key was used for other content."""


class PeriodClosed(AccountingError):
    """The period takes no entry, or not this step."""


class NotSigned(AccountingError):
    """The signature is not valid, or its key is not the party's at that time."""


class FourEyes(AccountingError):
    """Another person than the one who asked must decide."""


class BooksUnsafe(AccountingError):
    """A trigger that keeps history append-only is not there."""


class InvoiceRefused(AccountingError):
    """This document or dispute cannot be made; the text says why."""


class PaymentRefused(AccountingError):
    """This payment cannot be read or allocated; the text says why."""
