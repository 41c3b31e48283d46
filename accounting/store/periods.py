"""The months of the billing calendar: open, closing, closed. A closed month takes nothing more, for ever."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import Connection, insert, select, update

from accounting import calendar
from accounting.agreement import canonical
from accounting.errors import AccountingError, InvoiceRefused, PeriodClosed
from accounting.store.reading import balances
from accounting.store.schema import PERIOD_EVENTS, PERIODS, lock


@dataclass(frozen=True, slots=True)
class Period:
    """[starts_at, ends_at) of a tenant; `state`: open, closing, closed."""

    tenant: str
    starts_at: datetime
    ends_at: datetime
    zone: str
    state: str
    closed_at: datetime | None


def open_period(
    conn: Connection, *, year: int, month: int, zone: str, by: str, now: datetime, tenant: str = "operator"
) -> Period:
    """Begin a month in a named zone; one that overlaps another of the tenant's is refused."""
    wanted = calendar.month(f"{year:04d}-{month:02d}", zone)
    starts_at, ends_at = wanted.start, wanted.end
    lock(conn, {f"period:{tenant}"})
    for other in periods(conn, tenant):
        if (other.starts_at, other.ends_at) == (starts_at, ends_at):
            return other
        if other.starts_at < ends_at and starts_at < other.ends_at:
            raise AccountingError(f"the period from {other.starts_at.isoformat()} overlaps it")
    conn.execute(
        insert(PERIODS).values(
            tenant=tenant, starts_at=starts_at, ends_at=ends_at, zone=zone, state="open", closed_at=None
        )
    )
    _note(conn, tenant, starts_at, "open", by, "", now)
    return Period(tenant, starts_at, ends_at, zone, "open", None)


def begin_closing(conn: Connection, period: Period, *, by: str, now: datetime) -> None:
    """Cut off: the month is over, and what is left is to be reconciled."""
    if now < period.ends_at:
        raise PeriodClosed(f"it ends at {period.ends_at.isoformat()}")
    _step(conn, period, "open", "closing", now)
    _note(conn, period.tenant, period.starts_at, "closing", by, "", now)


def close_period(conn: Connection, period: Period, *, by: str, now: datetime) -> str:
    """Close for ever, the earlier ones first; the seal is the hash over every account's balance at its end."""
    lock(conn, {f"period:{period.tenant}"})  # waits for entries that are being booked, and holds off the next
    earlier = [p for p in periods(conn, period.tenant) if p.starts_at < period.starts_at and p.state != "closed"]
    if earlier:
        raise PeriodClosed(f"the period from {earlier[0].starts_at.isoformat()} comes first")
    _step(conn, period, "closing", "closed", now)
    stood = balances(conn, effective_before=period.ends_at)
    lines = [[code, commodity, str(amount)] for (code, commodity), amount in stood.items()]
    seal = hashlib.sha256(canonical(lines)).hexdigest()
    _note(conn, period.tenant, period.starts_at, "closed", by, seal, now)
    return seal


def assert_may_bill(conn: Connection, starts_at: datetime, ends_at: datetime, *, tenant: str = "operator") -> None:
    """Raise where a month to be billed is closed in the books, or cut otherwise there. Holds off closing.

    What comes late to a closed month is a correction on the bill of an open one.
    """
    lock(conn, {f"period:{tenant}"}, shared=True)
    for p in periods(conn, tenant):
        if p.starts_at >= ends_at or p.ends_at <= starts_at:
            continue
        if (p.starts_at, p.ends_at) != (starts_at, ends_at):
            raise InvoiceRefused(f"the books' month from {p.starts_at.isoformat()} is that of {p.zone}: bill the same")
        if p.state == "closed":
            raise InvoiceRefused("this month is closed: what came late to it is billed with an open one")


def periods(conn: Connection, tenant: str = "operator") -> list[Period]:
    """All months of a tenant, oldest first."""
    rows = conn.execute(select(PERIODS).where(PERIODS.c.tenant == tenant).order_by(PERIODS.c.starts_at))
    return [Period(r.tenant, r.starts_at, r.ends_at, r.zone, r.state, r.closed_at) for r in rows]


def seal_of(conn: Connection, period: Period) -> str | None:
    """The seal of a closed period."""
    query = select(PERIOD_EVENTS.c.seal_sha256).where(
        PERIOD_EVENTS.c.tenant == period.tenant,
        PERIOD_EVENTS.c.starts_at == period.starts_at,
        PERIOD_EVENTS.c.state == "closed",
    )
    return conn.scalar(query)


def _step(conn: Connection, period: Period, before: str, after: str, now: datetime) -> None:
    at = (PERIODS.c.tenant == period.tenant) & (PERIODS.c.starts_at == period.starts_at)
    values = {"state": after} | ({"closed_at": now} if after == "closed" else {})
    if conn.execute(update(PERIODS).where(at, PERIODS.c.state == before).values(**values)).rowcount != 1:
        raise PeriodClosed(f"only a period that is {before} can be {after}")


def _note(conn: Connection, tenant: str, starts_at: datetime, state: str, by: str, seal: str, now: datetime) -> None:
    conn.execute(
        insert(PERIOD_EVENTS).values(
            tenant=tenant, starts_at=starts_at, state=state, by=by, seal_sha256=seal, recorded_at=now
        )
    )
