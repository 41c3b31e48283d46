"""Budgets over HTTP, and the alerts of them that went out."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Annotated, Any

from fastapi import APIRouter, Query
from sqlalchemy import Connection
from starlette.responses import Response

from accounting.ledger import CORE_SECONDS
from accounting.money import format_micro
from accounting.store import budgets
from accounting.store.budgets import Budget
from gateway.api import billing_models as models
from gateway.api import describe
from gateway.api.billing import zone_of
from gateway.api.context import Body, IdemHeader, Svc, Who, Word, answer, read
from gateway.api.idempotency import Once
from gateway.api.projects import micro_of, project_row
from gateway.errors import NotFound
from gateway.identity.access import Verb, can
from gateway.ids import new_id
from gateway.jobs import views
from gateway.notices.outbox import notices

router = APIRouter(prefix="/billing", tags=["billing"])


@router.get("/budgets", **describe.route(models.Budgets, refuses=(404,)))
def list_budgets(services: Svc, person: Who, project: Word) -> Response:
    """A project's budgets, what of them is spent, and what its jobs hold."""
    with services.db.read() as conn:
        row = project_row(conn, person, project, Verb.SEE_PROJECT)
        items = [_budget(conn, b, services.clock()) for b in budgets.budgets(conn, row.id)]
    return answer({"items": items})


@router.post("/budgets", **describe.route(models.Budget, status=201, body=models.NewBudgetIn, refuses=(403, 404, 422)))
def add_budget(services: Svc, person: Who, body: Body, idempotency_key: IdemHeader = None) -> Response:
    """Watch what a project spends, in its currency; with `stop` it submits nothing beyond (its owner)."""
    wanted = read(models.NewBudgetIn, body)
    now = services.clock()

    def make(conn: Connection) -> Mapping[str, Any]:
        row = project_row(conn, person, wanted.project, Verb.MANAGE_PROJECT)
        budget = Budget(new_id("b", now), row.id, row.currency, micro_of(wanted.amount, "/amount"), wanted.span,
                        zone_of(wanted.zone), wanted.thresholds, wanted.stop)  # fmt: skip
        budgets.add_budget(conn, budget, now=now)
        return _budget(conn, budget, now)

    return answer(Once.of(person, idempotency_key, "POST /billing/budgets", body).made(services, make), 201)


@router.delete("/budgets/{budget}", **describe.route(models.Outcome, refuses=(403, 404)))
def close_budget(services: Svc, person: Who, budget: Word) -> Response:
    """Watch it no more (the project's owner)."""
    with services.db.write() as conn:
        found = next((b for b in budgets.budgets(conn) if b.id == budget), None)
        if found is None:
            raise NotFound(f"There is no budget {budget!r} that you may see.")
        project_row(conn, person, found.project_id, Verb.MANAGE_PROJECT)
        budgets.close_budget(conn, budget, now=services.clock())
    return answer({"id": budget, "state": "closed"})


@router.get("/alerts", **describe.route(models.Alerts, refuses=(404,)))
def list_alerts(services: Svc, person: Who, project: Word, limit: Annotated[int, Query(ge=1, le=200)] = 50) -> Response:
    """What was told of a project's budgets, newest first, and whether it went out (its members; why not: operator)."""
    with services.db.read() as conn:
        row = project_row(conn, person, project, Verb.SEE_PROJECT)
        found = notices(conn, row.id, limit=limit)
    why = can(person, Verb.OPERATE)
    return answer({"items": [_alert(notice, ways, why=why) for notice, ways in found]})


def _budget(conn: Connection, b: Budget, now: Any) -> dict[str, Any]:
    there = budgets.standing(conn, b, now=now)
    shown = str if b.commodity == CORE_SECONDS else format_micro
    return {
        "id": b.id, "project": b.project_id, "commodity": b.commodity, "amount": shown(b.amount),
        "spent": shown(there.spent), "held": shown(there.held), "left": shown(there.left), "span": b.span,
        "span_start": views.stamp(there.span_start), "zone": b.zone, "thresholds": list(b.thresholds),
        "reached": list(there.reached), "stop": b.stop,
    }  # fmt: skip


def _alert(notice: Any, ways: Sequence[Any], *, why: bool) -> dict[str, Any]:
    sent = [
        {"channel": w.channel, "state": w.state, "tries": w.tries, "error": w.error if why else "",
         "at": views.stamp(w.done_at or w.next_at)}
        for w in ways
    ]  # fmt: skip
    told: dict[str, Any] = json.loads(notice.body)["data"]
    return told | {"recorded_at": views.stamp(notice.recorded_at), "deliveries": sent}
