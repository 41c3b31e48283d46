"""What of documents is cleared without money of the bank, as far as it is posted."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from sqlalchemy import Connection, case, func, select, union_all

from accounting import tables
from accounting.store.schema import core

CLEARINGS, CLEARING_DECISIONS = core(tables.ClearingRow), core(tables.ClearingDecisionRow)
WRITE_OFF, DEPOSIT, VOUCHER = "write_off", "deposit", "voucher"
SET_OFF, REFUND = "set_off", "refund"


def cleared_parts(as_of: datetime | None = None) -> Any:
    """(document, kind, minor): by how much each posted clearing lessens what is open of a document. Negative where it
    lessens a credit: a refund, and the document that is set off. `as_of`: those that were posted by then."""
    decisions = CLEARING_DECISIONS
    query = select(CLEARINGS).join(decisions, decisions.c.clearing_id == CLEARINGS.c.id)
    query = query.where(decisions.c.decision == "posted")
    if as_of is not None:
        query = query.where(decisions.c.recorded_at <= as_of)
    posted = query.subquery("posted")
    minor = case((posted.c.kind == REFUND, -posted.c.amount_minor), else_=posted.c.amount_minor)
    return union_all(
        select(posted.c.document, posted.c.kind, minor.label("minor")),
        select(posted.c.source, posted.c.kind, -posted.c.amount_minor).where(posted.c.source.is_not(None)),
    ).subquery("cleared")


def cleared_sums(as_of: datetime | None = None) -> Any:
    """(document, minor) in all."""
    parts = cleared_parts(as_of)
    return select(parts.c.document, func.sum(parts.c.minor).label("minor")).group_by(parts.c.document).subquery()


def settled_by_clearing(conn: Connection, number: str) -> int:
    """What of it counts as settled: all but write-offs, which let nobody spend again."""
    return sum(minor for kind, minor in _by_kind(conn, number).items() if kind != WRITE_OFF)


def written_off(conn: Connection, number: str) -> int:
    """What of it nobody will pay."""
    return _by_kind(conn, number).get(WRITE_OFF, 0)


def _by_kind(conn: Connection, number: str) -> dict[str, int]:
    parts = cleared_parts()
    query = select(parts.c.kind, func.sum(parts.c.minor)).where(parts.c.document == number).group_by(parts.c.kind)
    return {kind: int(minor) for kind, minor in conn.execute(query)}
