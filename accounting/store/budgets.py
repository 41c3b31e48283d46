"""Budgets: what a project means to spend in a month or in all, alerts on the way there, and a stop."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime

from sqlalchemy import Connection, func, insert, select, update

from accounting import calendar
from accounting.errors import AccountingError
from accounting.store.holds import is_receivable
from accounting.store.schema import ACCOUNTS, ALERTS, BUDGETS, ENTRIES, POSTINGS, upsert

_EVER = datetime(1970, 1, 1, tzinfo=UTC)


@dataclass(frozen=True, slots=True)
class Budget:
    """`amount` of a commodity in each `span` (`month` of `zone`, or `total`); thresholds in per cent; `stop` at 100."""

    id: str
    project_id: str
    commodity: str
    amount: int
    span: str = "month"
    zone: str = "Asia/Shanghai"
    thresholds: tuple[int, ...] = (50, 80, 100)
    stop: bool = False


@dataclass(frozen=True, slots=True)
class Alert:
    """A threshold that was passed for the first time in its span."""

    budget: Budget
    span_start: datetime
    threshold: int
    spent: int


def reached(budget: Budget, used: int) -> tuple[int, ...]:
    """The thresholds that what was used has passed, in per cent."""
    return tuple(t for t in sorted(budget.thresholds) if used * 100 >= budget.amount * t)


def add_budget(conn: Connection, budget: Budget, *, now: datetime) -> None:
    """Begin to watch a budget."""
    if budget.amount <= 0 or budget.span not in ("month", "total"):
        raise AccountingError("a budget is more than nothing, by `month` or in `total`")
    if any(not 0 < t <= 1000 for t in budget.thresholds):
        raise AccountingError("thresholds are per cent of the budget")
    conn.execute(insert(BUDGETS).values(
        id=budget.id, project_id=budget.project_id, commodity=budget.commodity, amount=budget.amount, span=budget.span,
        zone=budget.zone, thresholds=list(budget.thresholds), stop=budget.stop, created_at=now, closed_at=None,
    ))  # fmt: skip


def close_budget(conn: Connection, budget_id: str, *, now: datetime) -> bool:
    """Watch it no more."""
    query = update(BUDGETS).where(BUDGETS.c.id == budget_id, BUDGETS.c.closed_at.is_(None))
    return conn.execute(query.values(closed_at=now)).rowcount == 1


def budgets(conn: Connection, project_id: str | None = None) -> list[Budget]:
    """The budgets that are watched."""
    query = select(BUDGETS).where(BUDGETS.c.closed_at.is_(None)).order_by(BUDGETS.c.id)
    if project_id is not None:
        query = query.where(BUDGETS.c.project_id == project_id)
    return [
        Budget(r.id, r.project_id, r.commodity, int(r.amount), r.span, r.zone, tuple(r.thresholds), r.stop)
        for r in conn.execute(query)
    ]


def spent(conn: Connection, budget: Budget, *, now: datetime) -> tuple[datetime, int]:
    """The span that now is in, and what was used in it by what counts there."""
    start, end = _EVER, None
    if budget.span == "month":
        span = calendar.month_of(now, budget.zone)
        start, end = span.start, span.end
    query = (
        select(func.coalesce(func.sum(POSTINGS.c.amount), 0))
        .join(ACCOUNTS, ACCOUNTS.c.id == POSTINGS.c.account_id)
        .join(ENTRIES, ENTRIES.c.id == POSTINGS.c.entry_id)
        .where(ACCOUNTS.c.commodity == budget.commodity, is_receivable(budget.project_id))
        .where(ENTRIES.c.effective_at >= start)
    )
    if end is not None:
        query = query.where(ENTRIES.c.effective_at < end)
    return start, int(conn.scalar(query) or 0)


def alert(conn: Connection, *, now: datetime) -> list[Alert]:
    """Thresholds that are passed and were not told yet in this span."""
    found = []
    for budget in budgets(conn):
        start, used = spent(conn, budget, now=now)
        rows = [
            {"budget_id": budget.id, "span_start": start, "threshold": t, "spent": used, "recorded_at": now}
            for t in reached(budget, used)
        ]
        if rows:
            new = upsert(conn, ALERTS).on_conflict_do_nothing().returning(ALERTS.c.threshold)
            found += [Alert(budget, start, t, used) for t in sorted(conn.scalars(new, rows))]
    return found


def stopped_by(conn: Connection, project_id: str, *, now: datetime) -> Budget | None:
    """The budget that lets this project submit nothing more, if any."""
    for budget in budgets(conn, project_id):
        if budget.stop and spent(conn, budget, now=now)[1] >= budget.amount:
            return budget
    return None
