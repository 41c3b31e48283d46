"""Two persons: what one asks for, above a threshold a second one decides; who decides is never who asked.

The one mechanism for whatever is new. Adjustments, clearings, deposits paid back, matches and orders taken back have
tables of their own from before; they share `assert_may_decide`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import Connection, Select, insert, select

from accounting.errors import AccountingError, FourEyes
from accounting.store.schema import CONSENT_DECISIONS, CONSENTS, lock


@dataclass(frozen=True, slots=True)
class Consent:
    """A person asks for something that is worth so much."""

    id: str
    kind: str
    subject: str
    currency: str
    amount_micro: int
    what: Mapping[str, Any]
    reason: str
    requested_by: str


def ask(conn: Connection, wanted: Consent, *, four_eyes: bool, now: datetime) -> None:
    """Keep what is asked for; where it needs no second person its decision follows in the same transaction."""
    conn.execute(insert(CONSENTS).values(
        id=wanted.id, kind=wanted.kind, subject=wanted.subject, currency=wanted.currency,
        amount_micro=wanted.amount_micro, what=dict(wanted.what), reason=wanted.reason[:500], four_eyes=four_eyes,
        requested_by=wanted.requested_by, recorded_at=now,
    ))  # fmt: skip


def waiting(conn: Connection, consent_id: str, kind: str, *, by: str) -> Consent:
    """What a person is about to decide, locked; raises `FourEyes` for who asked, `AccountingError` where none waits."""
    lock(conn, {f"consent:{consent_id}"})
    query = _with_decisions().where(CONSENTS.c.id == consent_id, CONSENTS.c.kind == kind)
    row = conn.execute(query).one_or_none()
    assert_may_decide(row, consent_id, by=by)
    assert row is not None
    return Consent(row.id, row.kind, row.subject, row.currency, int(row.amount_micro), row.what, row.reason,
                   row.requested_by)  # fmt: skip


def decided(conn: Connection, consent_id: str, decision: str, *, by: str, made: str = "", now: datetime) -> None:
    """Keep what was decided, once, with what was made of it."""
    conn.execute(insert(CONSENT_DECISIONS).values(
        consent_id=consent_id, decision=decision, decided_by=by, made=made, recorded_at=now
    ))  # fmt: skip


def consents(conn: Connection, kind: str) -> list[Any]:
    """Everything of a kind with its decision (None: waiting), newest first."""
    query = _with_decisions().where(CONSENTS.c.kind == kind)
    return list(conn.execute(query.order_by(CONSENTS.c.recorded_at.desc(), CONSENTS.c.id.desc())))


def is_asked(conn: Connection, kind: str, subject: str, what: str) -> str | None:
    """Which request about a subject waits that has this in `what["about"]`; None where none does."""
    query = _with_decisions().where(CONSENTS.c.kind == kind, CONSENTS.c.subject == subject)
    rows = conn.execute(query.where(CONSENT_DECISIONS.c.consent_id.is_(None)))
    return next((str(row.id) for row in rows if row.what.get("about") == what), None)


def assert_may_decide(row: Any, asked: str, *, by: str, error: type[AccountingError] = AccountingError) -> None:
    """Whoever decides is another one, and nobody has decided. `row`: with `requested_by` and `decision`, or None."""
    if row is None:
        raise error(f"nobody asked for {asked!r}")
    if row.requested_by == by:
        raise FourEyes("somebody else must decide this")
    if row.decision is not None:
        raise error(f"it is {row.decision} already")


def _with_decisions() -> Select[Any]:
    of = CONSENT_DECISIONS
    return select(CONSENTS, of.c.decision, of.c.decided_by, of.c.made).outerjoin(of, of.c.consent_id == CONSENTS.c.id)
