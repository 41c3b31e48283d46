"""Top-ups and the bank's files: money that a person recorded and an import brings again is booked once.

  recorded by hand      Dr operator:cash      Cr payer:Y:unallocated
  its import, later     Dr bank:A             Cr unallocated:A          and   Dr unallocated:A   Cr operator:cash
  from an import        Dr unallocated:A      Cr payer:Y:unallocated

so that `operator:cash` holds what people say came in and no bank has shown yet.
"""

from __future__ import annotations

from datetime import datetime
from typing import Any

from sqlalchemy import Connection, func, insert, select

from accounting.errors import KeyReused, PaymentRefused
from accounting.invoicing.postings import unallocated as suspense
from accounting.ledger import CASH, Entry, Posting
from accounting.minor_units import micro_per_minor, plain, to_micro
from accounting.payments.payment import BankTransaction
from accounting.payments.top_up import NEAR, TopUp, recognise, refers
from accounting.store import book
from accounting.store.payments import Part, Payment, allocate_payment, receive_payment
from accounting.store.schema import PAYMENT_ALLOCATIONS, PAYMENTS, TOP_UP_RECEIPTS, TRANSACTIONS, lock
from accounting.store.settled import PAID

BY_HAND = "by hand"


def lock_money(conn: Connection) -> None:
    """One import, allocation or top-up at a time: what waits must not change between the look and the posting."""
    lock(conn, {"money-in"})


def top_up(
    conn: Connection, payment: Payment, *, project_id: str, transaction_id: int | None = None, separate: bool = False,
    now: datetime,
) -> str:  # fmt: skip
    """Let a project spend money that came in; the payment's id. The same source and reference again is the same money.

    `transaction_id`: the imported transaction it is part of. Without one, an imported transaction with its reference
    and amount is taken. Raises `PaymentRefused` where money that waits may be the same and nobody says (`separate`:
    it is other money), or the transaction has less left; `KeyReused` for a known reference with other content.
    """
    lock_money(conn)
    if (known := _known(conn, payment, project_id)) is not None:
        return known
    source = _named(conn, transaction_id) if transaction_id is not None else _recognised(conn, payment, separate)
    part = [Part(project_id, payment.amount_micro)]
    if source is None:
        receive_payment(conn, payment, now=now)
    else:
        minor = _taken(conn, source, payment)
        receive_payment(conn, payment, out_of=suspense(source.account), now=now)
        entry_id = conn.scalar(select(PAYMENTS.c.entry_id).where(PAYMENTS.c.id == payment.id))
        how = "named by the operator" if transaction_id is not None else "its bank reference"
        keep_receipt(conn, payment.id, source.id, minor, how, int(entry_id or 0), now)
    allocate_payment(conn, payment.id, part, idem_key=f"top-up:{payment.id}", now=now)
    return payment.id


def match_import(conn: Connection, transaction_id: int, t: BankTransaction, found: TopUp, *, how: str,
                 now: datetime) -> None:  # fmt: skip
    """An imported transaction is the money of a top-up that was recorded before: no new money."""
    micro = to_micro(found.amount_minor, found.currency)
    before = conn.scalar(select(func.count()).where(TOP_UP_RECEIPTS.c.payment_id == found.id))
    key = f"top-up-matched:{found.id}" + (f":{before}" if before else "")
    postings = (Posting(suspense(t.account), t.currency, micro), Posting(CASH, t.currency, -micro))
    entry_id = book(conn, [Entry(key, "top_up_matched", now, postings, found.reference)], now=now)[key]
    keep_receipt(conn, found.id, transaction_id, found.amount_minor, how, entry_id, now)


def match_by_hand(conn: Connection, transaction_id: int, payment_id: str, *, by: str, now: datetime) -> None:
    """A person says that a transaction is this top-up's money; raises `PaymentRefused` where it cannot be."""
    lock_money(conn)
    found = next((t for t in waiting(conn) if t.id == payment_id), None)
    if found is None:
        raise PaymentRefused(f"no top-up {payment_id!r} waits for its money")
    source = _named(conn, transaction_id)
    left = source.amount_minor - used_minor(conn, transaction_id)
    if source.currency != found.currency or found.amount_minor > left:
        wanted = f"the top-up is {plain(found.amount_minor, found.currency)} {found.currency}"
        raise PaymentRefused(f"{wanted}, and {plain(left, source.currency)} {source.currency} of the payment are left")
    match_import(conn, transaction_id, _transaction(source), found, how=f"{BY_HAND}: {by}"[:200], now=now)


def waiting(conn: Connection) -> list[TopUp]:
    """Top-ups that no imported transaction accounts for yet (or any more), oldest first."""
    came = (
        select(TOP_UP_RECEIPTS.c.payment_id, func.sum(TOP_UP_RECEIPTS.c.amount_minor).label("minor"))
        .group_by(TOP_UP_RECEIPTS.c.payment_id)
        .subquery()
    )
    query = (
        select(PAYMENTS)
        .outerjoin(came, came.c.payment_id == PAYMENTS.c.id)
        .where(func.coalesce(came.c.minor, 0) == 0)
        .order_by(PAYMENTS.c.received_at, PAYMENTS.c.id)
    )
    return [
        TopUp(r.id, r.payer_id, r.currency, r.amount_micro // micro_per_minor(r.currency), r.received_at, r.reference)
        for r in conn.execute(query)
        if r.amount_micro % micro_per_minor(r.currency) == 0
    ]


def used_minor(conn: Connection, transaction_id: int) -> int:
    """What of a transaction pays invoices or is top-ups' money."""
    from_paid = select(func.coalesce(func.sum(PAID.c.amount_minor), 0))
    from_top_ups = select(func.coalesce(func.sum(TOP_UP_RECEIPTS.c.amount_minor), 0))
    return int(conn.scalar(from_paid.where(PAID.c.transaction_id == transaction_id)) or 0) + int(
        conn.scalar(from_top_ups.where(TOP_UP_RECEIPTS.c.transaction_id == transaction_id)) or 0
    )


def keep_receipt(
    conn: Connection, payment_id: str, transaction_id: int, minor: int, how: str, entry_id: int, now: datetime
) -> None:
    """An entry says that so much of a transaction is a top-up's money, or (negative) that it is not."""
    conn.execute(insert(TOP_UP_RECEIPTS).values(
        payment_id=payment_id, transaction_id=transaction_id, amount_minor=minor, how=how, entry_id=entry_id,
        recorded_at=now,
    ))  # fmt: skip


# ---------------------------------------------------------------- parts


def _known(conn: Connection, payment: Payment, project_id: str) -> str | None:
    """The payment of this source and reference, where it was recorded before; `KeyReused` where it was another."""
    query = (
        select(PAYMENTS, PAYMENT_ALLOCATIONS.c.project_id)
        .outerjoin(PAYMENT_ALLOCATIONS, PAYMENT_ALLOCATIONS.c.payment_id == PAYMENTS.c.id)
        .where(PAYMENTS.c.source == payment.source, PAYMENTS.c.reference == payment.reference)
    )
    row = conn.execute(query).first()
    if row is None:
        return None
    said = (payment.payer_id, payment.currency, payment.amount_micro, payment.received_at, project_id)
    if said != (row.payer_id, row.currency, row.amount_micro, row.received_at, row.project_id):
        raise KeyReused(f"{payment.reference} of {payment.source} was recorded with other content")
    return str(row.id)


def _named(conn: Connection, transaction_id: int) -> Any:
    row = conn.execute(select(TRANSACTIONS).where(TRANSACTIONS.c.id == transaction_id)).one_or_none()
    if row is None:
        raise PaymentRefused(f"there is no transaction {transaction_id}")
    return row


def _recognised(conn: Connection, payment: Payment, separate: bool) -> Any | None:
    """The imported transaction that brings this money; None where none may be it."""
    minor, rest = divmod(payment.amount_micro, micro_per_minor(payment.currency))
    wanted = TopUp(payment.id, payment.payer_id, payment.currency, minor, payment.received_at, payment.reference)
    perhaps = []
    for row in conn.execute(_candidates(payment)):
        found = recognise(_transaction(row), [wanted])
        if found.top_up is not None and not rest and used_minor(conn, row.id) == 0:
            return row
        referred = refers(_transaction(row), payment.reference)
        if referred or (found.perhaps and used_minor(conn, row.id) == 0):
            perhaps.append(row)
    if perhaps and not separate:
        shown = ", ".join(f"{r.id} ({r.bank_ref}: {plain(r.amount_minor, r.currency)} {r.currency})" for r in perhaps)
        raise PaymentRefused(f"the bank's transaction {shown} may be this money: name it, or say that it is separate")
    return None


def _candidates(payment: Payment) -> Any:
    """Imported transactions that may be a payment's money: near in time, the oldest first."""
    near = TRANSACTIONS.c.booked_on.between(payment.received_at - NEAR, payment.received_at + NEAR)
    return select(TRANSACTIONS).where(TRANSACTIONS.c.amount_minor > 0, near).order_by(TRANSACTIONS.c.id)


def _taken(conn: Connection, source: Any, payment: Payment) -> int:
    """The minor units that a payment takes of a transaction; raises where it has not so much left, or other money."""
    minor, rest = divmod(payment.amount_micro, micro_per_minor(payment.currency))
    left = source.amount_minor - used_minor(conn, source.id)
    if rest or source.currency != payment.currency or minor > left:
        raise PaymentRefused(f"{plain(max(left, 0), source.currency)} {source.currency} of the bank's transaction "
                             f"{source.id} are left")  # fmt: skip
    return minor


def _transaction(r: Any) -> BankTransaction:
    return BankTransaction(r.account, r.bank_ref, r.booked_on, r.currency, r.amount_minor, r.payer_name, r.remittance,
                           r.source)  # fmt: skip
