"""Orders as they were placed, and their cancellation."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

from fastapi import APIRouter, Query
from sqlalchemy import Connection, select
from starlette.responses import Response

from accounting.money import format_micro
from accounting.store import cancellations
from accounting.store.cancellations import Cancellation
from accounting.store.orders import agreement_for
from accounting.store.schema import ALLOCATIONS, ORDERS
from gateway.api import billing_models as models
from gateway.api import describe, order_schemas
from gateway.api.billing import four_eyes_micro
from gateway.api.context import Admin, Body, IdemHeader, Svc, Who, Word, answer, read
from gateway.api.idempotency import Once
from gateway.api.projects import project_row
from gateway.errors import NotFound
from gateway.identity.access import Verb
from gateway.identity.service import USERS
from gateway.ids import new_id
from gateway.jobs import views

router = APIRouter(tags=["orders"])
_NEWEST = (ORDERS.c.recorded_at.desc(), ORDERS.c.id.desc())


@router.get("/orders", **describe.route(order_schemas.Orders, refuses=(404,)))
def list_orders(services: Svc, person: Who, project: Annotated[Word, Query(max_length=64)]) -> Response:
    """What was ordered for a project, newest first, and what became of it."""
    now = services.clock()
    with services.db.read() as conn:
        row = project_row(conn, person, project, Verb.SEE_PROJECT)
        gone = {c.order_id: c for c in reversed(cancellations.cancellations(conn, row.id)) if c.decision != "refused"}
        given = set(conn.scalars(select(ALLOCATIONS.c.order_id).where(ALLOCATIONS.c.project_id == row.id)))
        rows = conn.execute(select(ORDERS).where(ORDERS.c.project_id == row.id).order_by(*_NEWEST)).all()
    items = [_order(o, gone.get(o.id), o.id in given or o.kind == "as_used", now) for o in rows]
    return answer({"items": items})


@router.post("/orders/{order}/cancel", **describe.route(
    models.Outcome, status=201, body=order_schemas.CancelIn, refuses=(403, 404, 409, 422)
))  # fmt: skip
def cancel_order(services: Svc, admin: Admin, order: Word, body: Body, idempotency_key: IdemHeader = None) -> Response:
    """Cancel what is left of an order, with a reason (operator); above the agreement's threshold a second one decides.

    What has not begun is not given nor owed; of what has, the unused rest goes back as far as the agreement says.
    """
    wanted = read(order_schemas.CancelIn, body)
    now = services.clock()

    def make(conn: Connection) -> Mapping[str, Any]:
        if conn.scalar(select(ORDERS.c.id).where(ORDERS.c.id == order)) is None:
            raise NotFound(f"There is no order {order!r}.")
        asked = Cancellation(new_id("k", now), order, wanted.reason, admin.user_id)
        found = cancellations.order_named(conn, order)
        agreement = agreement_for(conn, found, found.starts_at)
        threshold = four_eyes_micro(conn, currency=found.currency, now=now)
        if agreement is not None:
            threshold = agreement.limits.four_eyes_micro
        return {"id": asked.id, "state": cancellations.request_cancellation(conn, asked, four_eyes_micro=threshold,
                                                                            now=now)}  # fmt: skip

    return answer(Once.of(admin, idempotency_key, f"POST /orders/{order}/cancel", body).made(services, make), 201)


@router.get("/cancellations", **describe.route(order_schemas.Cancellations, refuses=(403,)))
def list_cancellations(services: Svc, _admin: Admin) -> Response:
    """Orders that somebody cancels, newest first, and what was decided (operator)."""
    with services.db.read() as conn:
        names = {r.id: r.name for r in conn.execute(select(USERS.c.id, USERS.c.name))}
        found = cancellations.cancellations(conn)
    return answer({"items": [
        {"id": c.id, "order": c.order_id, "reason": c.reason, "state": c.decision or "waiting",
         "requested_by": names.get(c.requested_by, c.requested_by), "at": views.stamp(c.recorded_at),
         "decided_by": names.get(c.decided_by, c.decided_by)}
        for c in found
    ]})  # fmt: skip


@router.post("/cancellations/{cancellation}/decide", **describe.route(
    models.Outcome, body=models.DecisionIn, refuses=(403, 409, 422)
))  # fmt: skip
def decide_cancellation(services: Svc, admin: Admin, cancellation: Word, body: Body) -> Response:
    """Carry out or refuse what another operator asked for; what is left by then goes back."""
    wanted = read(models.DecisionIn, body)
    with services.db.write() as conn:
        state = cancellations.decide_cancellation(conn, cancellation, approve=wanted.approve, by=admin.user_id,
                                                  now=services.clock())  # fmt: skip
    return answer({"id": cancellation, "state": state})


def _order(row: Any, cancellation: Any, given: bool, now: Any) -> dict[str, Any]:
    state = "given" if given else "waits to begin" if row.starts_at > now else "not covered"
    if cancellation is not None:
        state = "canceled" if cancellation.decision == "posted" else "cancellation asked for"
    return {
        "id": row.id, "kind": row.kind, "commodity": row.commodity, "amount": row.amount,
        "price": format_micro(int(row.price_micro)), "currency": row.currency, "site": row.site_id or "",
        "starts_at": views.stamp(row.starts_at), "ends_at": views.stamp(row.ends_at), "state": state,
    }  # fmt: skip
