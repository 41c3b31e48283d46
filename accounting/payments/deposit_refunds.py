"""Pay a deposit back that a project has neither used nor set aside: with a reason, above a threshold by two persons."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import Connection, insert, select

from accounting.errors import AccountingError, RefundTooLarge
from accounting.store.alone import alone_micro
from accounting.store.consents import assert_may_decide
from accounting.store.payments import lock_prepaid, refund, refundable
from accounting.store.schema import DEPOSIT_REFUND_DECISIONS, DEPOSIT_REFUNDS, ENTRIES, lock


@dataclass(frozen=True, slots=True)
class DepositRefund:
    """A person asks to pay `amount_micro` back that came in for a project."""

    id: str
    project_id: str
    currency: str
    amount_micro: int
    reason: str
    requested_by: str


def request_refund(conn: Connection, wanted: DepositRefund, *, four_eyes_micro: int, now: datetime) -> str:
    """Ask for it; `posted` at once up to the threshold, else `waiting` for a second person.

    What a person has given up or paid out alone counts (`store/alone.py`). Raises `RefundTooLarge` for more than
    came in and is not used; nothing is set aside for what waits.
    """
    if wanted.amount_micro <= 0 or not wanted.reason.strip():
        raise AccountingError("a refund is more than nothing, with a reason")
    alone = alone_micro(conn, wanted.requested_by, project_id=wanted.project_id, currency=wanted.currency, now=now)
    lock_prepaid(conn, wanted.project_id, wanted.currency)
    most = refundable(conn, wanted.project_id, wanted.currency)
    if wanted.amount_micro > most:
        raise RefundTooLarge(wanted.currency, wanted.amount_micro, most)
    four_eyes = alone + wanted.amount_micro > four_eyes_micro
    conn.execute(insert(DEPOSIT_REFUNDS).values(
        id=wanted.id, project_id=wanted.project_id, currency=wanted.currency, amount_micro=wanted.amount_micro,
        reason=wanted.reason, four_eyes=four_eyes, requested_by=wanted.requested_by, recorded_at=now,
    ))  # fmt: skip
    if four_eyes:
        return "waiting"
    _carry_out(conn, wanted, by=wanted.requested_by, now=now)
    return "posted"


def decide_refund(conn: Connection, refund_id: str, *, approve: bool, by: str, now: datetime) -> str:
    """Pay back or refuse what waits, as far as it is still there; never the person who asked for it."""
    lock(conn, {f"deposit-refund:{refund_id}"})
    row = conn.execute(_with_decisions().where(DEPOSIT_REFUNDS.c.id == refund_id)).one_or_none()
    assert_may_decide(row, refund_id, by=by)
    assert row is not None
    if not approve:
        _decision(conn, refund_id, "refused", by, None, now)
        return "refused"
    wanted = DepositRefund(row.id, row.project_id, row.currency, int(row.amount_micro), row.reason, row.requested_by)
    _carry_out(conn, wanted, by=by, now=now)
    return "posted"


def refunds(conn: Connection) -> list[Any]:
    """Everything that was asked for, with its decision (None: waiting), newest first."""
    return list(conn.execute(_with_decisions().order_by(DEPOSIT_REFUNDS.c.id.desc())))


def _carry_out(conn: Connection, wanted: DepositRefund, *, by: str, now: datetime) -> None:
    key = f"refund:{wanted.id}"
    refund(conn, project_id=wanted.project_id, currency=wanted.currency, amount_micro=wanted.amount_micro,
           idem_key=key, reason=wanted.reason, now=now)  # fmt: skip
    entry_id = conn.scalar(select(ENTRIES.c.id).where(ENTRIES.c.idem_key == key))
    _decision(conn, wanted.id, "posted", by, entry_id, now)


def _with_decisions() -> Any:
    decisions = DEPOSIT_REFUND_DECISIONS
    return select(DEPOSIT_REFUNDS, decisions.c.decision, decisions.c.decided_by).outerjoin(
        decisions, decisions.c.refund_id == DEPOSIT_REFUNDS.c.id
    )


def _decision(conn: Connection, refund_id: str, decision: str, by: str, entry_id: int | None, now: datetime) -> None:
    conn.execute(insert(DEPOSIT_REFUND_DECISIONS).values(
        refund_id=refund_id, decision=decision, decided_by=by, entry_id=entry_id, recorded_at=now
    ))  # fmt: skip
