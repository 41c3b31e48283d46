"""What of a project's orders is opened at the centres: ask, change, renew, close; and the way from order to charge."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

from fastapi import APIRouter, Query
from sqlalchemy import Connection, select
from starlette.responses import Response

from accounting.invoicing.order_lines import prices_of
from accounting.money import format_micro
from accounting.store import openings
from accounting.store.openings import Wanted
from accounting.store.schema import ALLOCATIONS, ORDERS
from gateway.api import describe, order_schemas
from gateway.api.context import Admin, Body, IdemHeader, Svc, Who, Word, answer, read
from gateway.api.idempotency import Once
from gateway.api.projects import project_row
from gateway.billing.opened_work import jobs_under
from gateway.errors import Invalid, NotFound, Problem
from gateway.identity import service
from gateway.identity.access import Person, Verb, can
from gateway.ids import new_id
from gateway.jobs import views
from gateway.services import Services

router = APIRouter(tags=["orders"])


@router.get("/orders/{order}", **describe.route(order_schemas.OrderTrace, refuses=(404,)))
def trace_order(services: Svc, person: Who, order: Word) -> Response:
    """An order with what it became: allocations, their prices and who earns them, openings, jobs under them."""
    with services.db.read() as conn:
        row = conn.execute(select(ORDERS).where(ORDERS.c.id == order)).one_or_none()
        if row is None or not can(person, Verb.SEE_PROJECT, ("project", row.project_id)):
            raise NotFound(f"There is no order {order!r} that you may see.")
        given = conn.execute(select(ALLOCATIONS).where(ALLOCATIONS.c.order_id == order)).all()
        prices = [_price(row, documents) for row, documents in prices_of(conn, order)]
        opened = [_traced(conn, person, o) for o in openings.of_order(conn, order)]
        name = conn.scalar(select(service.PROJECTS.c.name).where(service.PROJECTS.c.id == row.project_id))
    return answer({
        "id": row.id, "project": row.project_id, "project_name": name, "payer": row.payer_id,
        "kind": row.kind, "commodity": row.commodity,
        "amount": row.amount, "starts_at": views.stamp(row.starts_at), "ends_at": views.stamp(row.ends_at),
        "allocations": [a.id for a in given], "prices": prices, "openings": opened,
    })  # fmt: skip


@router.get("/openings", **describe.route(order_schemas.Openings, refuses=(404,)))
def list_openings(services: Svc, person: Who, project: Annotated[Word, Query(max_length=64)]) -> Response:
    """What is opened, or asked for, at the centres for a project."""
    with services.db.read() as conn:
        row = project_row(conn, person, project, Verb.SEE_PROJECT)
        return answer({"items": [opening_json(o) for o in openings.of_project(conn, row.id)]})


@router.get("/openings/{opening}", **describe.route(order_schemas.OpeningTrace, refuses=(404,)))
def show_opening(services: Svc, person: Who, opening: Word) -> Response:
    """One opening: how it stands, what happened to it, jobs under it and their charges."""
    with services.db.read() as conn:
        return answer(_traced(conn, person, _seen(conn, person, opening)))


@router.post("/openings", **describe.route(
    order_schemas.Opening, status=201, body=order_schemas.OpeningIn, refuses=(403, 404, 409, 422)
))  # fmt: skip
def ask_opening(services: Svc, admin: Admin, body: Body, idempotency_key: IdemHeader = None) -> Response:
    """Core-hours, a person's account, or a share of a queue, to be opened at a centre (operator)."""
    wanted = read(order_schemas.OpeningIn, body)
    now = services.clock()

    def make(conn: Connection) -> Mapping[str, Any]:
        row = project_row(conn, admin, wanted.project, Verb.SEE_PROJECT)
        if wanted.order is not None:
            owner = conn.scalar(select(ORDERS.c.project_id).where(ORDERS.c.id == wanted.order))
            if owner != row.id:
                raise NotFound(f"The project has no order {wanted.order!r}.")
        person_id = service.user_id_of(conn, wanted.person) if wanted.person is not None else ""
        w, site_id = wanted, site_of(services, wanted.site)
        asked = Wanted(new_id("op", now), row.id, site_id, w.kind, w.order, person_id, w.username, w.queue,
                       w.core_seconds, w.cores, w.valid_until)  # fmt: skip
        openings.place(conn, asked, by=admin.name, now=now)
        return opening_json(openings.one(conn, asked.id))

    return answer(Once.of(admin, idempotency_key, "POST /openings", body).made(services, make), 201)


@router.post("/openings/{opening}/change", **describe.route(
    order_schemas.Opening, body=order_schemas.OpeningChangeIn, refuses=(403, 404, 409, 422)
))  # fmt: skip
def change_opening(services: Svc, admin: Admin, opening: Word, body: Body) -> Response:
    """Other terms; the centre may want to approve them first (operator)."""
    return _changed(services, admin, opening, read(order_schemas.OpeningChangeIn, body).model_dump(), "change")


@router.post("/openings/{opening}/renew", **describe.route(
    order_schemas.Opening, body=order_schemas.OpeningRenewIn, refuses=(403, 404, 409, 422)
))  # fmt: skip
def renew_opening(services: Svc, admin: Admin, opening: Word, body: Body) -> Response:
    """A later end, and for core-hours a new cap in all (operator)."""
    return _changed(services, admin, opening, read(order_schemas.OpeningRenewIn, body).model_dump(), "renew")


@router.post("/openings/{opening}/close", **describe.route(
    order_schemas.Opening, body=order_schemas.OpeningCloseIn, refuses=(403, 404, 422)
))  # fmt: skip
def close_opening(services: Svc, admin: Admin, opening: Word, body: Body) -> Response:
    """Nothing more can be submitted under it; what ran stays in the books (operator). Twice is once."""
    wanted = read(order_schemas.OpeningCloseIn, body)
    with services.db.write() as conn:
        row = _seen(conn, admin, opening)
        openings.close(conn, row.id, reason=wanted.reason, by=admin.name, now=services.clock())
        return answer(opening_json(openings.one(conn, row.id)))


# ---------------------------------------------------------------- parts


def site_of(services: Services, site: str) -> str:
    """A docked centre's id; `Invalid` where there is none."""
    if site not in services.sites:
        problem = Problem("/site", f"There is no site {site!r}.", "unknown", "See /sites.")
        raise Invalid("Opened where?", problems=(problem,))
    return site


def opening_json(row: Any) -> dict[str, Any]:
    return {
        "id": row.id, "order": row.order_id, "project": row.project_id, "site": row.site_id, "kind": row.kind,
        "state": row.state, "detail": row.detail, "pending": bool(row.closing or row.told < row.revision)
        and row.state not in openings.OVER, "core_seconds": row.core_seconds, "cores": row.cores, "queue": row.queue,
        "username": row.native_username or row.username, "native_account": row.native_account, "qos": row.qos,
        "valid_until": views.stamp(row.valid_until), "opened_at": views.stamp(row.opened_at),
        "closed_at": views.stamp(row.closed_at),
    }  # fmt: skip


def _price(row: Any, documents: list[str]) -> dict[str, Any]:
    price, tax, centre = int(row.price_micro), int(row.tax_micro), int(row.centre_micro)
    agreement = None if row.agreement_id is None else f"{row.agreement_id}/{row.agreement_version}"
    return {
        "allocation": row.allocation_id, "amount": format_micro(price), "currency": row.currency,
        "tax": format_micro(tax), "centre": format_micro(centre), "operator": format_micro(price - tax - centre),
        "agreement": agreement, "booked_at": views.stamp(row.recorded_at), "documents": documents,
    }  # fmt: skip


def _traced(conn: Connection, person: Person, row: Any) -> dict[str, Any]:
    happened = [{"n": e.n, "at": views.stamp(e.at), "act": e.act, "state": e.state, "detail": e.detail, "by": e.by}
                for e in openings.events(conn, row.id)]  # fmt: skip
    return {**opening_json(row), "events": happened, "jobs": jobs_under(conn, person, row)}


def _seen(conn: Connection, person: Person, opening: str) -> Any:
    row = openings.one(conn, opening)
    if row is None or not can(person, Verb.SEE_PROJECT, ("project", row.project_id)):
        raise NotFound(f"There is no opening {opening!r} that you may see.")
    return row


def _changed(services: Services, admin: Person, opening: str, terms: dict[str, Any], act: str) -> Response:
    with services.db.write() as conn:
        row = _seen(conn, admin, opening)
        openings.change(conn, row.id, terms, act=act, by=admin.name, now=services.clock())
        return answer(opening_json(openings.one(conn, row.id)))
