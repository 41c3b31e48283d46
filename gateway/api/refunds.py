"""Deposits that are paid back, over HTTP."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from fastapi import APIRouter
from sqlalchemy import Connection
from starlette.responses import Response

from accounting.money import format_micro
from accounting.payments.deposit_refunds import DepositRefund, decide_refund, refunds, request_refund
from gateway.api import billing_models as models
from gateway.api import describe
from gateway.api.billing import four_eyes_micro
from gateway.api.context import Admin, Body, IdemHeader, Svc, Word, answer, read
from gateway.api.idempotency import Once
from gateway.api.projects import coins_of, project_row
from gateway.identity.access import Verb
from gateway.ids import new_id

router = APIRouter(prefix="/billing", tags=["billing"])


@router.post("/refunds", **describe.route(
    models.AskedRefund, status=201, body=models.RefundIn, refuses=(402, 403, 404, 422)
))  # fmt: skip
def refund(services: Svc, admin: Admin, body: Body, idempotency_key: IdemHeader = None) -> Response:
    """Pay back what a project has neither used nor set aside (operator); of much a second operator decides."""
    wanted = read(models.RefundIn, body)
    now = services.clock()

    def make(conn: Connection) -> Mapping[str, Any]:
        row = project_row(conn, admin, wanted.project, Verb.SEE_PROJECT)
        amount = coins_of(wanted.amount, row.currency, "/amount")
        asked = DepositRefund(new_id("q", now), row.id, row.currency, amount, wanted.reason, admin.user_id)
        threshold = four_eyes_micro(conn, currency=row.currency, now=now)
        state = request_refund(conn, asked, four_eyes_micro=threshold, now=now)
        return {"id": asked.id, "project": row.id, "amount": format_micro(-amount), "currency": row.currency,
                "state": state}  # fmt: skip

    return answer(Once.of(admin, idempotency_key, "POST /billing/refunds", body).made(services, make), 201)


@router.get("/refunds", **describe.route(models.Refunds, refuses=(403,)))
def list_refunds(services: Svc, _admin: Admin) -> Response:
    """What was paid back, or waits for a second person, newest first (operator)."""
    with services.db.read() as conn:
        return answer({"items": [_refund(r) for r in refunds(conn)]})


@router.post("/refunds/{refund}/decide", **describe.route(
    models.Outcome, body=models.DecisionIn, refuses=(402, 403, 409, 422)
))  # fmt: skip
def decide_refund_of(services: Svc, admin: Admin, refund: Word, body: Body) -> Response:
    """Pay back or refuse what another operator asked for."""
    wanted = read(models.DecisionIn, body)
    with services.db.write() as conn:
        state = decide_refund(conn, refund, approve=wanted.approve, by=admin.user_id, now=services.clock())
    return answer({"id": refund, "state": state})


def _refund(r: Any) -> dict[str, Any]:
    return {
        "id": r.id, "project": r.project_id, "amount": format_micro(-r.amount_micro), "currency": r.currency,
        "reason": r.reason, "state": r.decision or "waiting", "requested_by": r.requested_by,
        "decided_by": r.decided_by,
    }  # fmt: skip
