"""Budgets: what a project means to spend in a month or in all, alerts on the way there, and a stop."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import Connection, Select, func, insert, select, update

from accounting import calendar
from accounting.errors import AccountingError
from accounting.store.holds import is_receivable
from accounting.store.schema import ACCOUNTS, ALERTS, BALANCES, BUDGETS, ENTRIES, POSTINGS, is_kind, upsert

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
class Standing:
    """What of a budget is gone in the span that now is in: charged there, and held now by jobs that wait or run.

    `elsewhere` is what the project was charged outside of the span.
    """

    budget: Budget
    span_start: datetime
    spent: int
    held: int
    elsewhere: int

    @property
    def used(self) -> int:
        return self.spent + self.held

    @property
    def left(self) -> int:
        return max(0, self.budget.amount - self.used)

    @property
    def reached(self) -> tuple[int, ...]:
        """The thresholds that are passed, in per cent."""
        return tuple(t for t in sorted(self.budget.thresholds) if self.used * 100 >= self.budget.amount * t)


@dataclass(frozen=True, slots=True)
class Alert:
    """A threshold that was passed for the first time in its span."""

    standing: Standing
    threshold: int


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


def standing(conn: Connection, budget: Budget, *, now: datetime) -> Standing:
    """Charged and held, by one statement: what is booked meanwhile is in all of it or in nothing.

    A hold counts in the span that now is in, for nobody knows yet when its run will end.
    """
    start, spent = _spent(budget, now)
    counted = select(spent.scalar_subquery().label("spent")).subquery()
    at = (BALANCES.c.project_id == budget.project_id) & is_kind(BALANCES.c.commodity, budget.commodity)
    of_all = func.sum(BALANCES.c.posted).label("posted"), func.sum(BALANCES.c.held).label("held")
    row = conn.execute(select(counted.c.spent, *of_all).select_from(counted.outerjoin(BALANCES, at))
                       .group_by(counted.c.spent)).one()  # fmt: skip
    if row.held is None:
        return Standing(budget, start, int(row.spent), 0, 0)
    return Standing(budget, start, int(row.spent), int(row.held), int(row.posted) - int(row.spent))


def _spent(budget: Budget, now: datetime) -> tuple[datetime, Select[Any]]:
    """The beginning of the span that now is in, and a query for what was charged of what counts there."""
    start, end = _EVER, None
    if budget.span == "month":
        span = calendar.month_of(now, budget.zone)
        start, end = span.start, span.end
    query = (
        select(func.coalesce(func.sum(POSTINGS.c.amount), 0))
        .join(ACCOUNTS, ACCOUNTS.c.id == POSTINGS.c.account_id)
        .join(ENTRIES, ENTRIES.c.id == POSTINGS.c.entry_id)
        .where(is_kind(ACCOUNTS.c.commodity, budget.commodity), is_receivable(budget.project_id))
        .where(ENTRIES.c.effective_at >= start)
    )
    return start, query if end is None else query.where(ENTRIES.c.effective_at < end)


def alert(conn: Connection, *, now: datetime) -> list[Alert]:
    """Thresholds that are passed and were not told yet in this span."""
    found = []
    for budget in budgets(conn):
        there = standing(conn, budget, now=now)
        rows = [
            {"budget_id": budget.id, "span_start": there.span_start, "threshold": t, "spent": there.spent,
             "recorded_at": now}
            for t in there.reached
        ]  # fmt: skip
        if rows:
            new = upsert(conn, ALERTS).on_conflict_do_nothing().returning(ALERTS.c.threshold)
            found += [Alert(there, t) for t in sorted(conn.scalars(new, rows))]
    return found


def tightest_stop(conn: Connection, project_id: str, *, now: datetime) -> Standing | None:
    """Of the budgets that stop a project the one of which the least is left."""
    stops = [standing(conn, b, now=now) for b in budgets(conn, project_id) if b.stop]
    return min(stops, key=lambda s: s.budget.amount - s.used, default=None)


def passed_since(conn: Connection, seen: Standing) -> bool:
    """Whether a project has charged and held more than a budget lets it, which stood at `seen` a moment ago.

    A row for each place is read, not the month: what the submissions of a project lock is looked at while it is locked.
    """
    query = select(func.sum(BALANCES.c.posted + BALANCES.c.held)).where(
        BALANCES.c.project_id == seen.budget.project_id, is_kind(BALANCES.c.commodity, seen.budget.commodity)
    )
    return int(conn.scalar(query) or 0) - seen.elsewhere > seen.budget.amount
