"""Prepaid money: received once by the bank's own key, given to projects to spend, and what is left paid back.

Money of the bank's files is that of `accounting/payments`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import Connection, func, insert, select

from accounting.errors import AccountingError, RefundTooLarge
from accounting.ledger import CASH, Entry, Posting, paid, unallocated
from accounting.store.holds import available, raise_limit
from accounting.store.journal import book
from accounting.store.schema import ACCOUNTS, ENTRIES, PAYMENT_ALLOCATIONS, PAYMENTS, POSTINGS, lock

# What moves a project's prepaid money; what is settled of its invoices is on the same account.
_PREPAID_KINDS = ("payment_allocation", "refund", "deposit_used")


@dataclass(frozen=True, slots=True)
class Payment:
    """What came in: `source` (an account, a file's kind) and `reference` are unique together."""

    id: str
    payer_id: str
    currency: str
    amount_micro: int
    received_at: datetime
    source: str
    reference: str


@dataclass(frozen=True, slots=True)
class Part:
    """What of a payment is for a project, and for which invoice where it is known."""

    project_id: str
    amount_micro: int
    invoice_id: str | None = None


def receive_payment(conn: Connection, payment: Payment, *, out_of: str = CASH, now: datetime) -> bool:
    """Book money that came in; False where this reference was booked before (other content: `KeyReused`).

    `out_of`: the account that it is taken from, where the money was booked already.
    """
    if payment.amount_micro <= 0:
        raise AccountingError("a payment is more than nothing")
    postings = (
        Posting(out_of, payment.currency, payment.amount_micro),
        Posting(unallocated(payment.payer_id), payment.currency, -payment.amount_micro),
    )
    key = f"payment:{payment.source}:{payment.reference}"
    ids = book(conn, [Entry(key, "payment", payment.received_at, postings, payment.reference)], now=now)
    if key not in ids:
        return False
    conn.execute(
        insert(PAYMENTS).values(
            id=payment.id, payer_id=payment.payer_id, currency=payment.currency, amount_micro=payment.amount_micro,
            received_at=payment.received_at, source=payment.source, reference=payment.reference, entry_id=ids[key],
            recorded_at=now,
        )
    )  # fmt: skip
    return True


def allocate_payment(conn: Connection, payment_id: str, parts: Sequence[Part], *, idem_key: str, now: datetime) -> bool:
    """Say what a payment is for; never more than is left of it. Each project may spend that much more."""
    lock(conn, {f"payment:{payment_id}"})
    row = conn.execute(select(PAYMENTS).where(PAYMENTS.c.id == payment_id)).one_or_none()
    if row is None:
        raise AccountingError(f"there is no payment {payment_id!r}")
    entries = [
        Entry(
            f"{idem_key}:{i}", "payment_allocation", now,
            (Posting(unallocated(row.payer_id), row.currency, part.amount_micro),
             Posting(paid(part.project_id), row.currency, -part.amount_micro)),
            part.invoice_id or "",
        )
        for i, part in enumerate(parts)
    ]  # fmt: skip
    left = left_of(conn, payment_id)
    ids = book(conn, entries, now=now)
    if not ids:
        return False
    total = sum(part.amount_micro for part in parts)
    if any(part.amount_micro <= 0 for part in parts) or total > left:
        raise AccountingError(f"{total} of {left} that are left cannot be allocated")
    for part, entry in zip(parts, entries, strict=True):
        conn.execute(
            insert(PAYMENT_ALLOCATIONS).values(
                entry_id=ids[entry.idem_key], payment_id=payment_id, project_id=part.project_id,
                invoice_id=part.invoice_id, amount_micro=part.amount_micro, recorded_at=now,
            )
        )  # fmt: skip
        raise_limit(conn, project_id=part.project_id, commodity=row.currency, amount=part.amount_micro)
    return True


def left_of(conn: Connection, payment_id: str) -> int:
    """What of a payment is for nothing yet."""
    amount = conn.scalar(select(PAYMENTS.c.amount_micro).where(PAYMENTS.c.id == payment_id)) or 0
    query = select(func.coalesce(func.sum(PAYMENT_ALLOCATIONS.c.amount_micro), 0))
    return int(amount) - int(conn.scalar(query.where(PAYMENT_ALLOCATIONS.c.payment_id == payment_id)) or 0)


def refund(
    conn: Connection, *, project_id: str, currency: str, amount_micro: int, idem_key: str, reason: str, now: datetime
) -> bool:
    """Pay money back that came in for a project and that it has not used; `RefundTooLarge` where there is less.

    Credit that was granted, or given by a voucher, was never paid: it is used, and not paid out.
    """
    if amount_micro <= 0:
        raise AccountingError("a refund is more than nothing")
    lock_prepaid(conn, project_id, currency)
    most = refundable(conn, project_id, currency)
    postings = (Posting(paid(project_id), currency, amount_micro), Posting(CASH, currency, -amount_micro))
    if not book(conn, [Entry(idem_key, "refund", now, postings, reason)], now=now):
        return False
    if amount_micro > most:
        raise RefundTooLarge(currency, amount_micro, most)
    raise_limit(conn, project_id=project_id, commodity=currency, amount=-amount_micro, check=True)
    return True


def lock_prepaid(conn: Connection, project_id: str, currency: str) -> None:
    """Whoever spends what came in holds this from the look to the commit: it pays an invoice, or is paid back."""
    lock(conn, {f"refund:{project_id}:{currency}"})


def refundable(conn: Connection, project_id: str, currency: str) -> int:
    """What can be paid back now: of what came in, what is neither used nor set aside for jobs."""
    came_in, unused = prepaid(conn, project_id, currency), available(conn, project_id, currency)
    return max(0, came_in if unused is None else min(came_in, unused))


def prepaid(conn: Connection, project_id: str, currency: str) -> int:
    """What came in for a project before use and was not paid back."""
    query = (
        select(func.coalesce(func.sum(POSTINGS.c.amount), 0))
        .join(ENTRIES, ENTRIES.c.id == POSTINGS.c.entry_id)
        .join(ACCOUNTS, ACCOUNTS.c.id == POSTINGS.c.account_id)
        .where(ACCOUNTS.c.code == paid(project_id), ACCOUNTS.c.commodity == currency,
               ENTRIES.c.kind.in_(_PREPAID_KINDS))
    )  # fmt: skip
    return -int(conn.scalar(query) or 0)
