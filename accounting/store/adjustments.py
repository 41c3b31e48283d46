"""Changes that a person asks for, with a reason; above a threshold a second person decides."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import Connection, insert, select, update

from accounting.errors import AccountingError
from accounting.ledger import ADJUSTED, BAD_DEBT, GRANTS, Entry, Posting, credit, receivable
from accounting.money import format_micro
from accounting.store import contracts
from accounting.store.alone import alone_micro
from accounting.store.consents import assert_may_decide
from accounting.store.given_back import left_of_charge
from accounting.store.holds import raise_limit
from accounting.store.journal import book
from accounting.store.schema import ADJUSTMENTS, BALANCES, CHARGES, DECISIONS, lock, lock_projects

KINDS = ("adjustment", "write_off")


@dataclass(frozen=True, slots=True)
class Adjustment:
    """`adjustment`: the project owes `amount_micro` more (less, where negative), on its next bill. `write_off`: a debt
    that will not be paid, of what is not billed yet (of an invoice: payments/clearing.py); it does not come back as
    credit. `charge_id`: what it is about."""

    id: str
    kind: str
    project_id: str
    currency: str
    amount_micro: int
    reason: str
    requested_by: str
    charge_id: int | None = None


def request_adjustment(conn: Connection, wanted: Adjustment, *, four_eyes_micro: int, now: datetime) -> str:
    """Ask for it; `posted` at once up to the threshold, else `waiting` for a second person.

    What the person has given up or paid out alone of late counts (`alone.py`): many small ones are a large one. Raises
    `AccountingError` for a charge that is not of this project and currency.
    """
    if wanted.kind not in KINDS or not wanted.reason.strip():
        raise AccountingError(f"an adjustment is one of {', '.join(KINDS)}, with a reason")
    if wanted.amount_micro == 0 or (wanted.kind == "write_off" and wanted.amount_micro < 0):
        raise AccountingError("it changes something, and a write-off is more than nothing")
    if wanted.charge_id is not None and not _is_of(conn, wanted):
        raise AccountingError(f"the project has no charge {wanted.charge_id} in {wanted.currency}")
    _assert_left(conn, wanted)
    alone = alone_micro(conn, wanted.requested_by, project_id=wanted.project_id, currency=wanted.currency, now=now)
    four_eyes = alone + abs(wanted.amount_micro) > four_eyes_micro
    conn.execute(
        insert(ADJUSTMENTS).values(
            id=wanted.id, kind=wanted.kind, project_id=wanted.project_id, currency=wanted.currency,
            amount_micro=wanted.amount_micro, reason=wanted.reason, charge_id=wanted.charge_id,
            four_eyes=four_eyes, requested_by=wanted.requested_by, recorded_at=now,
        )
    )  # fmt: skip
    if four_eyes:
        return "waiting"
    _post(conn, wanted, by=wanted.requested_by, now=now)
    return "posted"


def four_eyes_from(conn: Connection, *, charge_id: int | None, currency: str, now: datetime) -> int | None:
    """From which amount on the agreements ask for a second person: that of the charge, else the strictest in force.

    None where no agreement says anything of this currency.
    """
    if charge_id is not None:
        of_charge = select(CHARGES.c.agreement_id, CHARGES.c.agreement_version).where(CHARGES.c.id == charge_id)
        by = [tuple(row) for row in conn.execute(of_charge)]
        for agreement, _ in contracts.agreements(conn):
            if (agreement.id, agreement.version) in by:
                return agreement.limits.four_eyes_micro
    live = [i.agreement for i in contracts.in_force(conn) if i.at(now) and i.agreement.currency == currency]
    return min((a.limits.four_eyes_micro for a in live), default=None)


def decide(conn: Connection, adjustment_id: str, *, approve: bool, by: str, now: datetime) -> str:
    """Post or refuse what waits; never the person who asked for it."""
    lock(conn, {f"adjustment:{adjustment_id}"})
    query = select(ADJUSTMENTS, DECISIONS.c.decision).outerjoin(
        DECISIONS, DECISIONS.c.adjustment_id == ADJUSTMENTS.c.id
    )
    row = conn.execute(query.where(ADJUSTMENTS.c.id == adjustment_id)).one_or_none()
    assert_may_decide(row, adjustment_id, by=by)
    assert row is not None
    if not approve:
        _decision(conn, adjustment_id, "refused", by, None, now)
        return "refused"
    wanted = Adjustment(row.id, row.kind, row.project_id, row.currency, row.amount_micro, row.reason,
                        row.requested_by, row.charge_id)  # fmt: skip
    _post(conn, wanted, by=by, now=now)
    return "posted"


def adjustments(conn: Connection, project_id: str | None = None) -> list[Any]:
    """Every adjustment with its decision (None: waiting), newest first."""
    query = (
        select(ADJUSTMENTS, DECISIONS.c.decision, DECISIONS.c.decided_by, DECISIONS.c.entry_id)
        .outerjoin(DECISIONS, DECISIONS.c.adjustment_id == ADJUSTMENTS.c.id)
        .order_by(ADJUSTMENTS.c.id.desc())
    )
    if project_id is not None:
        query = query.where(ADJUSTMENTS.c.project_id == project_id)
    return list(conn.execute(query))


def _is_of(conn: Connection, wanted: Adjustment) -> bool:
    query = select(CHARGES.c.id).where(
        CHARGES.c.id == wanted.charge_id, CHARGES.c.project_id == wanted.project_id,
        CHARGES.c.currency == wanted.currency,
    )  # fmt: skip
    return conn.scalar(query) is not None


def _assert_left(conn: Connection, a: Adjustment) -> None:
    """No more is given back of a run than it still costs, whoever gave something back of it before."""
    if a.charge_id is None or a.kind != "adjustment" or a.amount_micro >= 0:
        return
    lock_projects(conn, {a.project_id})
    left = max(0, left_of_charge(conn, a.charge_id))
    if -a.amount_micro > left:
        money = f"{format_micro(left)} {a.currency}"
        raise AccountingError(f"{money} is left of charge {a.charge_id}: the rest was given back already")


def _post(conn: Connection, a: Adjustment, *, by: str, now: datetime) -> None:
    _assert_left(conn, a)
    change = a.amount_micro if a.kind == "adjustment" else -a.amount_micro
    against = ADJUSTED if a.kind == "adjustment" else BAD_DEBT
    postings = [Posting(receivable(a.project_id), a.currency, change), Posting(against, a.currency, -change)]
    if a.kind == "write_off":
        postings += [
            Posting(credit(a.project_id), a.currency, a.amount_micro),
            Posting(GRANTS, a.currency, -a.amount_micro),
        ]
    key = f"adjustment:{a.id}"
    ids = book(conn, [Entry(key, a.kind, now, tuple(postings), a.reason)], now=now)
    at = (BALANCES.c.project_id == a.project_id) & (BALANCES.c.commodity == a.currency)
    if a.kind == "write_off":
        owed = int(conn.scalar(select(BALANCES.c.posted).where(at).with_for_update()) or 0)
        if a.amount_micro > owed:
            raise AccountingError(f"the project owes {format_micro(owed)} {a.currency}: no more can be written off")
    if conn.execute(update(BALANCES).where(at).values(posted=BALANCES.c.posted + change)).rowcount != 1:
        raise AccountingError(f"project {a.project_id} has no account in {a.currency}")
    if a.kind == "write_off":
        raise_limit(conn, project_id=a.project_id, commodity=a.currency, amount=-a.amount_micro)
    _decision(conn, a.id, "posted", by, ids[key], now)


def _decision(
    conn: Connection, adjustment_id: str, decision: str, by: str, entry_id: int | None, now: datetime
) -> None:
    conn.execute(
        insert(DECISIONS).values(
            adjustment_id=adjustment_id, decision=decision, decided_by=by, entry_id=entry_id, recorded_at=now
        )
    )
