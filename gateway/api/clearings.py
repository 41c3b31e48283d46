"""Documents cleared without money of the bank: write-offs, deposits, set-offs, refunds."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from fastapi import APIRouter
from sqlalchemy import Connection
from starlette.responses import Response

from accounting.errors import PaymentRefused
from accounting.payments.clearing import Clearing, clearings, decide_clearing, request_clearing
from gateway.api import billing_models as models
from gateway.api import billing_views as views
from gateway.api import describe, payment_schemas
from gateway.api.billing import four_eyes_micro
from gateway.api.context import Admin, Body, IdemHeader, Svc, Word, answer, read
from gateway.api.idempotency import Once
from gateway.api.invoices import minor_in
from gateway.billing.invoices import document_row
from gateway.errors import Conflict
from gateway.ids import new_id

router = APIRouter(tags=["billing"], prefix="/billing")


@router.post("/clearings", **describe.route(
    models.Outcome, status=201, body=payment_schemas.ClearingIn, refuses=(403, 404, 409, 422)
))  # fmt: skip
def clear(services: Svc, admin: Admin, body: Body, idempotency_key: IdemHeader = None) -> Response:
    """Clear what is open of a document without money of the bank (operator).

    Of much that is written off or paid back a second operator decides.
    """
    wanted = read(payment_schemas.ClearingIn, body)
    now = services.clock()

    def make(conn: Connection) -> Mapping[str, Any]:
        currency = document_row(conn, admin, wanted.invoice).currency
        amount = None if wanted.amount is None else minor_in(wanted.amount, currency, "/amount")
        asked = Clearing(new_id("w", now), wanted.kind, wanted.invoice, wanted.reason, admin.user_id, amount,
                         wanted.source)  # fmt: skip
        threshold = four_eyes_micro(conn, currency=currency, now=now)
        try:
            state = request_clearing(conn, asked, four_eyes_micro=threshold, now=now)
        except PaymentRefused as exc:
            raise Conflict(str(exc)) from exc
        return {"id": asked.id, "state": state}

    return answer(Once.of(admin, idempotency_key, "POST /billing/clearings", body).made(services, make), 201)


@router.get("/clearings", **describe.route(payment_schemas.Clearings, refuses=(403,)))
def list_clearings(services: Svc, _admin: Admin, invoice: Word | None = None) -> Response:
    """What was cleared, or waits for a second person, newest first (operator)."""
    with services.db.read() as conn:
        return answer({"items": [views.clearing_json(r) for r in clearings(conn, invoice)]})


@router.post("/clearings/{clearing}/decide", **describe.route(
    models.Outcome, body=models.DecisionIn, refuses=(403, 409, 422)
))  # fmt: skip
def decide_clearing_of(services: Svc, admin: Admin, clearing: Word, body: Body) -> Response:
    """Post or refuse what another operator asked for."""
    wanted = read(models.DecisionIn, body)
    with services.db.write() as conn:
        try:
            state = decide_clearing(conn, clearing, approve=wanted.approve, by=admin.user_id, now=services.clock())
        except PaymentRefused as exc:
            raise Conflict(str(exc)) from exc
    return answer({"id": clearing, "state": state})
