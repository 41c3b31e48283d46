"""Clear what is open of a document without money of the bank: appended, with a reason.

  write_off   a debt that nobody will pay      Dr operator:bad-debt         Cr payer:Y:receivable
  deposit     a top-up pays an invoice         Dr project:P:paid            Cr payer:Y:receivable
  voucher     a voucher pays an invoice        Dr project:P:credit          Cr payer:Y:receivable
  set_off     a credit of the payer pays it    Dr payer:Y:receivable        Cr payer:Y:receivable
  refund      a credit is paid back            Dr payer:Y:receivable        Cr operator:cash

All but a write-off also move what is settled (`invoicing/postings.py`): a write-off is no new credit. A negative one
takes a write-off back, so that what is paid after all finds its invoice. Tax stays as it was billed: what a tax office
gives back of a bad debt is for the issuer's return, or a credit note.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import Connection, func, insert, select

from accounting.errors import PaymentRefused
from accounting.invoicing.invoice import Document
from accounting.invoicing.postings import payer_receivable, settled_micro, settled_postings
from accounting.invoicing.store import load, may_spend_again
from accounting.ledger import BAD_DEBT, CASH, Entry, Posting, credit, paid
from accounting.minor_units import micro_per_minor, plain, to_micro
from accounting.payments.store import lock_receivables, open_documents
from accounting.payments.vouchers import keep_taken, shared_out, worth
from accounting.store import book
from accounting.store.alone import NEED_TWO, alone_micro
from accounting.store.cleared import (
    CLEARING_DECISIONS,
    CLEARINGS,
    DEPOSIT,
    REFUND,
    SET_OFF,
    VOUCHER,
    WRITE_OFF,
    written_off,
)
from accounting.store.consents import assert_may_decide
from accounting.store.payments import lock_prepaid, prepaid
from accounting.store.schema import PAYMENT_ALLOCATIONS, PAYMENTS, lock
from accounting.store.settled import DOCUMENTS, settled_minor

KINDS = (WRITE_OFF, DEPOSIT, VOUCHER, SET_OFF, REFUND)


@dataclass(frozen=True, slots=True)
class Clearing:
    """`amount_minor` None: all that can be. `source`: of a set-off, the document with the credit."""

    id: str
    kind: str
    document: str
    reason: str
    requested_by: str
    amount_minor: int | None = None
    source: str | None = None


@dataclass(frozen=True, slots=True)
class _Decided:
    """A clearing whose amount has been checked, with its document."""

    id: str
    kind: str
    document: Document
    amount_minor: int
    reason: str
    source: Document | None


def request_clearing(conn: Connection, wanted: Clearing, *, four_eyes_micro: int, now: datetime) -> str:
    """Ask for it; `posted` at once, or `waiting` where so much is written off, paid back or paid by a voucher that a
    second one decides.

    What the person has given up or paid out alone of late counts, also by adjustments (`store/alone.py`). Raises
    `PaymentRefused` for more than there is.
    """
    lock_receivables(conn)
    if wanted.kind not in KINDS or not wanted.reason.strip():
        raise PaymentRefused(f"a clearing is one of {', '.join(KINDS)}, with a reason")
    checked = _checked(conn, wanted)
    currency, amount = checked.document.currency, checked.amount_minor
    four_eyes = False
    if wanted.kind in NEED_TWO:
        project_id = checked.document.project_id
        alone = alone_micro(conn, wanted.requested_by, project_id=project_id, currency=currency, now=now)
        four_eyes = alone + to_micro(abs(amount), currency) > four_eyes_micro
    conn.execute(insert(CLEARINGS).values(
        id=wanted.id, kind=wanted.kind, document=wanted.document, source=wanted.source, amount_minor=amount,
        currency=currency, reason=wanted.reason, four_eyes=four_eyes, requested_by=wanted.requested_by,
        recorded_at=now,
    ))  # fmt: skip
    if four_eyes:
        return "waiting"
    _decision(conn, wanted.id, "posted", wanted.requested_by, _post(conn, checked, now), now)
    return "posted"


def decide_clearing(conn: Connection, clearing_id: str, *, approve: bool, by: str, now: datetime) -> str:
    """Post or refuse what waits, as far as it still can be; never the person who asked for it."""
    lock_receivables(conn)
    row = conn.execute(_with_decisions().where(CLEARINGS.c.id == clearing_id)).one_or_none()
    assert_may_decide(row, clearing_id, by=by, error=PaymentRefused)
    assert row is not None
    if not approve:
        _decision(conn, clearing_id, "refused", by, None, now)
        return "refused"
    asked = Clearing(row.id, row.kind, row.document, row.reason, row.requested_by, int(row.amount_minor), row.source)
    _decision(conn, clearing_id, "posted", by, _post(conn, _checked(conn, asked), now), now)
    return "posted"


def set_off_open(conn: Connection, made: Document, *, new_id: Callable[[], str], by: str, now: datetime) -> None:
    """Set what corrections gave back off against what is open once a document was made: of the same issuer, payer,
    project and currency, the oldest first. What is left of a credit waits for the next invoice.
    """
    lock_receivables(conn)
    found = open_documents(conn, beside=made)
    credits = {d.number: -d.open_minor for d in found if d.open_minor < 0}
    for invoice in (d for d in found if d.open_minor > 0):
        left = invoice.open_minor
        for source, there in credits.items():
            if amount := min(left, there):
                asked = Clearing(new_id(), SET_OFF, invoice.number, f"{source} gave it back", by, amount, source)
                request_clearing(conn, asked, four_eyes_micro=0, now=now)
                left, credits[source] = left - amount, there - amount


def clearings(conn: Connection, document: str | None = None) -> list[Any]:
    """Everything that was asked for (of a document), with its decision (None: waiting), newest first."""
    query = _with_decisions().order_by(CLEARINGS.c.recorded_at.desc(), CLEARINGS.c.id.desc())
    if document is not None:
        query = query.where((CLEARINGS.c.document == document) | (CLEARINGS.c.source == document))
    return list(conn.execute(query))


def deposit_left(conn: Connection, document: Document) -> int:
    """What of the payer's top-ups for the project has paid nothing yet and was not paid back, in minor units."""
    came = select(func.coalesce(func.sum(PAYMENT_ALLOCATIONS.c.amount_micro), 0)).join(
        PAYMENTS, PAYMENTS.c.id == PAYMENT_ALLOCATIONS.c.payment_id
    )
    mine = came.where(
        PAYMENTS.c.payer_id == document.payer.id, PAYMENTS.c.currency == document.currency,
        PAYMENT_ALLOCATIONS.c.project_id == document.project_id,
    )  # fmt: skip
    used = (
        select(func.coalesce(func.sum(CLEARINGS.c.amount_minor), 0))
        .join(CLEARING_DECISIONS, CLEARING_DECISIONS.c.clearing_id == CLEARINGS.c.id)
        .join(DOCUMENTS, DOCUMENTS.c.number == CLEARINGS.c.document)
        .where(CLEARINGS.c.kind == DEPOSIT, CLEARING_DECISIONS.c.decision == "posted",
               DOCUMENTS.c.payer_id == document.payer.id, DOCUMENTS.c.project_id == document.project_id,
               CLEARINGS.c.currency == document.currency)
    )  # fmt: skip
    per = micro_per_minor(document.currency)
    left = int(conn.scalar(mine) or 0) // per - int(conn.scalar(used) or 0)
    return max(0, min(left, prepaid(conn, document.project_id, document.currency) // per))


# ---------------------------------------------------------------- parts


def _checked(conn: Connection, wanted: Clearing) -> _Decided:
    document, left = _standing(conn, wanted.document)
    source = None
    if (wanted.kind == SET_OFF) != (wanted.source is not None):
        raise PaymentRefused("a set-off names the document with the credit, and nothing else does")
    if wanted.source is not None:
        source, its_credit = _standing(conn, wanted.source)
        if _parties(source) != _parties(document):
            raise PaymentRefused(f"{source.number} is not of the same issuer, payer and currency")
    low = 0
    if wanted.kind == WRITE_OFF:
        low, high = -written_off(conn, document.number), left
    elif wanted.kind == DEPOSIT:
        lock_prepaid(conn, document.project_id, document.currency)
        high = min(left, deposit_left(conn, document))
    elif wanted.kind == VOUCHER:
        lock(conn, {"allocations"})
        there = sum(voucher.micro for voucher in worth(conn, document.project_id, document.currency))
        high = min(left, there // micro_per_minor(document.currency))
    elif source is not None:
        high = min(left, -its_credit)
    else:
        high = -left
    high = max(0, high)
    amount = high if wanted.amount_minor is None else wanted.amount_minor
    if amount == 0 or not low <= amount <= high:
        c = document.currency
        raise PaymentRefused(f"between {plain(low, c)} and {plain(high, c)} {c} of {document.number} can be cleared "
                             f"as {wanted.kind}")  # fmt: skip
    return _Decided(wanted.id, wanted.kind, document, amount, wanted.reason, source)


def _standing(conn: Connection, number: str) -> tuple[Document, int]:
    """A document and what is open of it (negative: a credit)."""
    document = load(conn, number)
    found = open_documents(conn, number=number)
    if document is None or not found:
        raise PaymentRefused(f"there is no document {number} with something open of its own")
    return document, found[0].open_minor


def _parties(document: Document) -> tuple[str, str, str]:
    return document.issuer.id, document.payer.id, document.currency


def _post(conn: Connection, c: _Decided, now: datetime) -> int:
    """Book it; the id of its entry."""
    document = c.document
    owes, micro = payer_receivable(document.payer.id), to_micro(c.amount_minor, document.currency)
    if c.kind == WRITE_OFF:
        return _book(conn, c, c.kind, [(BAD_DEBT, micro), (owes, -micro)], (), now)
    if c.kind == REFUND:
        settled = _settled(conn, document, -c.amount_minor)
        entry_id = _book(conn, c, "credit_refund", [(owes, micro), (CASH, -micro)],
                         settled_postings(document, settled), now)  # fmt: skip
        may_spend_again(conn, document, settled)
        return entry_id
    settled = _settled(conn, document, c.amount_minor)
    if c.source is None:
        entry_id = _post_given(conn, c, settled, now)
        if settled:
            key = f"clearing:{c.id}:settled"
            moved = settled_postings(document, settled)
            kind = f"{c.kind}_settled"
            book(conn, [Entry(key, kind, now, moved, document.number, linked_entry_id=entry_id)], now=now)
        may_spend_again(conn, document, settled - micro)
        return entry_id
    back = _settled(conn, c.source, -c.amount_minor)
    moved = (*settled_postings(c.source, back), *settled_postings(document, settled))
    entry_id = _book(conn, c, "set_off", [(owes, micro), (owes, -micro)], moved, now)
    may_spend_again(conn, c.source, back)
    may_spend_again(conn, document, settled)
    return entry_id


def _post_given(conn: Connection, c: _Decided, settled: int, now: datetime) -> int:
    """Book that a deposit, or vouchers, pay it: an entry for each voucher; the id of the first."""
    owes, micro = payer_receivable(c.document.payer.id), to_micro(c.amount_minor, c.document.currency)
    project = c.document.project_id
    if c.kind == DEPOSIT:
        return _book(conn, c, "deposit_used", [(paid(project), micro), (owes, -micro)], (), now)
    ids = []
    vouchers = worth(conn, project, c.document.currency)
    for number, (voucher, part, net) in enumerate(shared_out(vouchers, micro, settled)):
        legs = [(credit(project), part), (owes, -part)]
        ids.append(_book(conn, c, "voucher_used", legs, (), now, more_key=f":{number}" if number else ""))
        keep_taken(conn, ids[-1], voucher, part, net, now=now)
    return ids[0]


def _settled(conn: Connection, document: Document, minor: int) -> int:
    """What of the billed usage is settled (or no longer) by so much more."""
    before = settled_minor(conn, document.number)
    return settled_micro(document, before, before + minor)


def _book(
    conn: Connection, c: _Decided, kind: str, legs: list[tuple[str, int]], more: tuple[Posting, ...], now: datetime,
    *, more_key: str = "",
) -> int:  # fmt: skip
    key = f"clearing:{c.id}{more_key}"
    postings = (*(Posting(account, c.document.currency, amount) for account, amount in legs), *more)
    return book(conn, [Entry(key, kind, now, postings, f"{c.document.number}: {c.reason}"[:500])], now=now)[key]


def _with_decisions() -> Any:
    return select(CLEARINGS, CLEARING_DECISIONS.c.decision, CLEARING_DECISIONS.c.decided_by).outerjoin(
        CLEARING_DECISIONS, CLEARING_DECISIONS.c.clearing_id == CLEARINGS.c.id
    )


def _decision(conn: Connection, clearing_id: str, decision: str, by: str, entry_id: int | None, now: datetime) -> None:
    conn.execute(insert(CLEARING_DECISIONS).values(
        clearing_id=clearing_id, decision=decision, decided_by=by, entry_id=entry_id, recorded_at=now
    ))  # fmt: skip
