"""Tick: what falls due by itself: allocations lapse and renew, budgets tell, runs that had no price get one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

import structlog
from sqlalchemy import Connection, select

from accounting import store as books
from accounting.money import format_micro
from accounting.store import allocations, budgets, paid_spans
from accounting.store.budgets import Alert
from gateway.db import table_of
from gateway.identity.tables import ProjectRow
from gateway.jobs import repository
from gateway.notices import deliver, outbox
from gateway.services import Lease, Services

log = structlog.get_logger()
_PROJECTS = table_of(ProjectRow)


@dataclass(frozen=True, slots=True)
class UpkeepReport:
    """What one run did; a second one at the same moment does nothing."""

    expired: int
    renewed: int
    charged: int
    alerts: int


def upkeep(services: Services, lease: Lease, now: datetime) -> UpkeepReport:
    """Every site's worker may run it: each step happens once, whoever takes it."""
    with services.db.read() as conn:
        currencies = {r.id: r.currency for r in conn.execute(select(_PROJECTS.c.id, _PROJECTS.c.currency))}
        waiting = bool(books.uncharged(conn, limit=1))
    with services.db.write() as conn:
        repository.assert_served_by(conn, lease)
        expired = allocations.expire_due(conn, now=now)
        renewed = allocations.renew_due(conn, now=now)
        paid_spans.end_canceled(conn, now=now)
        charged = books.charge_pending(conn, currencies, now=now) if waiting else 0
        alerts = budgets.alert(conn, now=now)
        _tell(services, conn, alerts, now)
    for order, why in renewed.refused.items():
        log.warning("order_not_begun", order=order, why=why)
    for alert in alerts:
        there = alert.standing
        log.warning("budget_reached", budget=there.budget.id, project=there.budget.project_id, percent=alert.threshold,
                    spent=there.spent, held=there.held, amount=there.budget.amount)  # fmt: skip
    return UpkeepReport(expired, renewed.given, charged, len(alerts))


def _tell(services: Services, conn: Connection, alerts: Sequence[Alert], now: datetime) -> None:
    """Put a notice into the outbox for each threshold, in the transaction that has found it passed."""
    if not alerts:
        return
    names = {r.id: r.name for r in conn.execute(select(_PROJECTS.c.id, _PROJECTS.c.name))}
    news = []
    for alert in alerts:
        there, budget = alert.standing, alert.standing.budget
        data = {
            "budget": budget.id, "project": names.get(budget.project_id, budget.project_id),
            "threshold_percent": alert.threshold, "amount": format_micro(budget.amount),
            "spent": format_micro(there.spent), "held": format_micro(there.held), "currency": budget.commodity,
            "span": budget.span, "span_start": there.span_start.isoformat(), "zone": budget.zone,
            "stops_submissions": budget.stop and there.left == 0,
        }  # fmt: skip
        to = deliver.ways(services, conn, budget.project_id)
        news.append(outbox.News("budget.reached", budget.project_id, budget.id, data, to))
    outbox.put(conn, news, now=now)
