"""What one person has given up or paid out alone lately, through whichever door: small pieces are one large one.

Counted together for all projects that have a payer in common: adjustments, write-offs and credits paid back, deposits
paid back, vouchers that pay, credit notes.
"""

from __future__ import annotations

from collections.abc import Collection
from datetime import datetime, timedelta

from sqlalchemy import Connection, func, select

from accounting.minor_units import to_micro
from accounting.store.cleared import CLEARINGS, REFUND, VOUCHER, WRITE_OFF
from accounting.store.schema import ADJUSTMENTS, CONSENTS, DEPOSIT_REFUNDS, PAYERS, TERMS, lock

# What one person may post alone, up to the threshold, is counted over so long.
ALONE_FOR = timedelta(days=30)
CREDIT_NOTE = "credit_note"  # the kind of a consent
NEED_TWO = (WRITE_OFF, REFUND, VOUCHER)  # of a document: money is given up, goes out, or never came


def alone_micro(conn: Connection, person: str, *, project_id: str, currency: str, now: datetime) -> int:
    """In micro-units, whichever way it went; what a second person decided is not in it.

    Takes the person's lock: of two pieces asked for at once, the second one sees the first.
    """
    lock(conn, {f"alone:{person}"})
    projects = _of_the_same_payers(conn, project_id)
    since = now - ALONE_FOR
    adjusted = select(func.coalesce(func.sum(func.abs(ADJUSTMENTS.c.amount_micro)), 0)).where(
        ADJUSTMENTS.c.requested_by == person, ADJUSTMENTS.c.project_id.in_(projects),
        ADJUSTMENTS.c.currency == currency, ADJUSTMENTS.c.four_eyes.is_(False), ADJUSTMENTS.c.recorded_at > since,
    )  # fmt: skip
    refunded = select(func.coalesce(func.sum(DEPOSIT_REFUNDS.c.amount_micro), 0)).where(
        DEPOSIT_REFUNDS.c.requested_by == person, DEPOSIT_REFUNDS.c.project_id.in_(projects),
        DEPOSIT_REFUNDS.c.currency == currency, DEPOSIT_REFUNDS.c.four_eyes.is_(False),
        DEPOSIT_REFUNDS.c.recorded_at > since,
    )  # fmt: skip
    # Of documents all that a person clears counts, of whichever payer.
    cleared = select(func.coalesce(func.sum(func.abs(CLEARINGS.c.amount_minor)), 0)).where(
        CLEARINGS.c.requested_by == person, CLEARINGS.c.currency == currency, CLEARINGS.c.kind.in_(NEED_TWO),
        CLEARINGS.c.four_eyes.is_(False), CLEARINGS.c.recorded_at > since,
    )  # fmt: skip
    credited = select(func.coalesce(func.sum(CONSENTS.c.amount_micro), 0)).where(
        CONSENTS.c.requested_by == person, CONSENTS.c.currency == currency, CONSENTS.c.kind == CREDIT_NOTE,
        CONSENTS.c.four_eyes.is_(False), CONSENTS.c.recorded_at > since,
    )  # fmt: skip
    found = [int(conn.scalar(query) or 0) for query in (adjusted, refunded, credited, cleared)]
    return sum(found[:3]) + to_micro(found[3], currency)


def _of_the_same_payers(conn: Connection, project_id: str) -> Collection[str]:
    """The project, and those that share a payer with it: who is billed, or by their terms, at any time."""
    pays = {(row.project_id, str(payer)) for row in conn.execute(select(TERMS)) for payer, _ in row.payers}
    pays |= {(r.project_id, r.payer_id) for r in conn.execute(select(PAYERS.c.project_id, PAYERS.c.payer_id))}
    payers = {payer for project, payer in pays if project == project_id}
    return {project_id} | {project for project, payer in pays if payer in payers}
