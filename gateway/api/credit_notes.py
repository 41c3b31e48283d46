"""Credit notes over HTTP: asked for by one operator, of much decided by a second one."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from fastapi import APIRouter
from sqlalchemy import Connection
from starlette.responses import Response

from accounting.errors import InvoiceRefused
from accounting.invoicing.credit_notes import Credit
from accounting.invoicing.credit_requests import CreditWanted, decide_credit, request_credit
from accounting.invoicing.store import load
from accounting.money import format_micro
from accounting.store.alone import CREDIT_NOTE
from accounting.store.consents import consents
from gateway.api import billing_models as models
from gateway.api import billing_schemas as schemas
from gateway.api import billing_views as views
from gateway.api import describe
from gateway.api.billing import four_eyes_micro
from gateway.api.context import Admin, Body, IdemHeader, Svc, Word, answer, read
from gateway.api.idempotency import Once
from gateway.api.invoices import minor_in
from gateway.billing.invoices import document_row
from gateway.errors import Conflict
from gateway.ids import new_id
from gateway.jobs.views import stamp

router = APIRouter(tags=["billing"], prefix="/billing")


@router.post("/credit-notes", **describe.route(
    schemas.CreditNoteAsked, status=201, body=schemas.CreditNoteIn, refuses=(403, 404, 409, 422)
))  # fmt: skip
def credit(services: Svc, admin: Admin, body: Body, idempotency_key: IdemHeader = None) -> Response:
    """Give back part of an invoice by a document of its own (operator); of much a second operator decides."""
    wanted = read(schemas.CreditNoteIn, body)
    now = services.clock()

    def make(conn: Connection) -> Mapping[str, Any]:
        row = document_row(conn, admin, wanted.invoice)
        credits = [Credit(c.line, minor_in(c.net, row.currency, f"/credits/{n}/net"), c.charges)
                   for n, c in enumerate(wanted.credits)]  # fmt: skip
        asked = CreditWanted(new_id("n", now), row.number, credits, wanted.reason, admin.user_id)
        try:
            state, number = request_credit(
                conn, asked, four_eyes_micro=four_eyes_micro(conn, currency=row.currency, now=now), now=now
            )
        except InvoiceRefused as exc:
            raise Conflict(str(exc)) from exc
        return _asked(conn, asked.id, state, number)

    return answer(Once.of(admin, idempotency_key, "POST /billing/credit-notes", body).made(services, make), 201)


@router.get("/credit-notes", **describe.route(schemas.CreditNotesAsked, refuses=(403,)))
def list_credits(services: Svc, _admin: Admin) -> Response:
    """Credit notes that operators asked for, by disputes too, and what was decided; newest first (operator)."""
    with services.db.read() as conn:
        items = [_short(c) for c in consents(conn, CREDIT_NOTE)]
    return answer({"items": items})


@router.post("/credit-notes/{asked}/decide", **describe.route(
    schemas.CreditNoteAsked, body=models.DecisionIn, refuses=(403, 409, 422)
))  # fmt: skip
def decide_credit_of(services: Svc, admin: Admin, asked: Word, body: Body) -> Response:
    """Issue or refuse the credit note that another operator asked for."""
    wanted = read(models.DecisionIn, body)
    with services.db.write() as conn:
        try:
            state, number = decide_credit(
                conn, asked, approve=wanted.approve, by=admin.user_id, now=services.clock()
            )  # fmt: skip
        except InvoiceRefused as exc:
            raise Conflict(str(exc)) from exc
        return answer(_asked(conn, asked, state, number))


def _short(c: Any) -> dict[str, Any]:
    return {
        "id": c.id, "invoice": c.subject, "dispute": c.what["about"] or None, "amount": format_micro(c.amount_micro),
        "currency": c.currency, "reason": c.reason, "state": c.decision or "waiting", "credit_note": c.made or None,
        "requested_by": c.requested_by, "decided_by": c.decided_by, "at": stamp(c.recorded_at),
    }  # fmt: skip


def _asked(conn: Connection, asked: str, state: str, number: str) -> dict[str, Any]:
    document = load(conn, number) if number else None
    return {"id": asked, "state": state, **({} if document is None else views.made_json(document))}
