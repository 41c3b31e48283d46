"""Take the match of a top-up with the wrong money of the bank back: appended, with a reason, above a threshold by two.

The top-up stands in `operator:cash` again and waits for its own money; the bank's money is unallocated again:

  matched    Dr unallocated:A   Cr operator:cash
  undone     Dr operator:cash   Cr unallocated:A

What the project may spend does not change: somebody still says that money came in for it.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import Connection, insert, select

from accounting.errors import PaymentRefused
from accounting.invoicing.postings import unallocated as suspense
from accounting.ledger import CASH, Entry, Posting
from accounting.minor_units import to_micro
from accounting.payments.top_up_store import keep_receipt, lock_money
from accounting.store import book
from accounting.store.consents import assert_may_decide
from accounting.store.schema import (
    PAYMENTS,
    TOP_UP_RECEIPTS,
    TOP_UP_UNDO_DECISIONS,
    TOP_UP_UNDOS,
    TRANSACTIONS,
)


@dataclass(frozen=True, slots=True)
class Undo:
    """A person asks to let the money of `payment_id` (a top-up) go again."""

    id: str
    payment_id: str
    reason: str
    requested_by: str


def request_undo(conn: Connection, wanted: Undo, *, four_eyes_micro: int, now: datetime) -> str:
    """Ask for it; `posted` at once up to the threshold, else `waiting` for a second person.

    Raises `PaymentRefused` where the top-up has no money of the bank, or somebody has asked for it already.
    """
    lock_money(conn)
    receipt = _receipt(conn, wanted.payment_id)
    asked = select(TOP_UP_UNDOS.c.id).outerjoin(
        TOP_UP_UNDO_DECISIONS, TOP_UP_UNDO_DECISIONS.c.undo_id == TOP_UP_UNDOS.c.id
    ).where(TOP_UP_UNDOS.c.payment_id == wanted.payment_id, TOP_UP_UNDO_DECISIONS.c.undo_id.is_(None))  # fmt: skip
    if (waits := conn.scalar(asked.limit(1))) is not None:
        raise PaymentRefused(f"{waits} asks for this already, and waits for a second person")
    four_eyes = to_micro(receipt.amount_minor, receipt.currency) > four_eyes_micro
    conn.execute(insert(TOP_UP_UNDOS).values(
        id=wanted.id, payment_id=wanted.payment_id, receipt_entry_id=receipt.entry_id, reason=wanted.reason,
        four_eyes=four_eyes, requested_by=wanted.requested_by, recorded_at=now,
    ))  # fmt: skip
    if four_eyes:
        return "waiting"
    _carry_out(conn, wanted, receipt, by=wanted.requested_by, now=now)
    return "posted"


def decide_undo(conn: Connection, undo_id: str, *, approve: bool, by: str, now: datetime) -> str:
    """Carry out or refuse what waits; never the person who asked for it."""
    lock_money(conn)
    made = TOP_UP_UNDO_DECISIONS
    query = select(TOP_UP_UNDOS, made.c.decision).outerjoin(made, made.c.undo_id == TOP_UP_UNDOS.c.id)
    row = conn.execute(query.where(TOP_UP_UNDOS.c.id == undo_id)).one_or_none()
    assert_may_decide(row, undo_id, by=by, error=PaymentRefused)
    assert row is not None
    if not approve:
        _decision(conn, undo_id, "refused", by, None, now)
        return "refused"
    wanted = Undo(row.id, row.payment_id, row.reason, row.requested_by)
    _carry_out(conn, wanted, _receipt(conn, row.payment_id), by=by, now=now)
    return "posted"


def undos(conn: Connection) -> list[Any]:
    """Everything that was asked for, with its decision (None: waiting), newest first."""
    query = (
        select(TOP_UP_UNDOS, TOP_UP_UNDO_DECISIONS.c.decision, TOP_UP_UNDO_DECISIONS.c.decided_by,
               TOP_UP_RECEIPTS.c.transaction_id, TOP_UP_RECEIPTS.c.amount_minor, PAYMENTS.c.currency)
        .join(TOP_UP_RECEIPTS, TOP_UP_RECEIPTS.c.entry_id == TOP_UP_UNDOS.c.receipt_entry_id)
        .join(PAYMENTS, PAYMENTS.c.id == TOP_UP_UNDOS.c.payment_id)
        .outerjoin(TOP_UP_UNDO_DECISIONS, TOP_UP_UNDO_DECISIONS.c.undo_id == TOP_UP_UNDOS.c.id)
        .order_by(TOP_UP_UNDOS.c.id.desc())
    )  # fmt: skip
    return list(conn.execute(query))


# ---------------------------------------------------------------- parts


def _receipt(conn: Connection, payment_id: str) -> Any:
    """The money of the bank that a top-up has now, with its account."""
    query = (
        select(TOP_UP_RECEIPTS, TRANSACTIONS.c.account, TRANSACTIONS.c.currency)
        .join(TRANSACTIONS, TRANSACTIONS.c.id == TOP_UP_RECEIPTS.c.transaction_id)
        .where(TOP_UP_RECEIPTS.c.payment_id == payment_id)
        .order_by(TOP_UP_RECEIPTS.c.entry_id)
    )
    rows = conn.execute(query).all()
    if sum(r.amount_minor for r in rows) <= 0:
        raise PaymentRefused(f"no money of the bank is matched to {payment_id!r}")
    return rows[-1]


def _carry_out(conn: Connection, wanted: Undo, receipt: Any, *, by: str, now: datetime) -> None:
    micro = to_micro(receipt.amount_minor, receipt.currency)
    postings = (Posting(CASH, receipt.currency, micro), Posting(suspense(receipt.account), receipt.currency, -micro))
    key = f"top-up-undone:{wanted.id}"
    entry = Entry(key, "top_up_undone", now, postings, wanted.reason, linked_entry_id=receipt.entry_id)
    entry_id = book(conn, [entry], now=now)[key]
    keep_receipt(conn, wanted.payment_id, receipt.transaction_id, -receipt.amount_minor,
                 f"undone by hand: {wanted.id}", entry_id, now)  # fmt: skip
    _decision(conn, wanted.id, "posted", by, entry_id, now)


def _decision(conn: Connection, undo_id: str, decision: str, by: str, entry_id: int | None, now: datetime) -> None:
    conn.execute(insert(TOP_UP_UNDO_DECISIONS).values(
        undo_id=undo_id, decision=decision, decided_by=by, entry_id=entry_id, recorded_at=now
    ))  # fmt: skip
