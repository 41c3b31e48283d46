"""Orders, the allocations they become, transfers between projects, vouchers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from fastapi import APIRouter
from sqlalchemy import Connection, select
from starlette.responses import Response

from accounting.bound import kind_of, place_of
from accounting.store import allocations, openings
from accounting.store.allocations import Allocation
from accounting.store.openings import Wanted
from accounting.store.orders import Order
from accounting.store.schema import ALLOCATIONS
from gateway.api import billing_models as models
from gateway.api import describe, order_schemas
from gateway.api.billing import assert_payers, zone_of
from gateway.api.context import Admin, Body, IdemHeader, Svc, Who, Word, answer, read
from gateway.api.idempotency import Once
from gateway.api.openings import site_of
from gateway.api.projects import micro_of, project_row
from gateway.errors import Forbidden, Invalid, NotFound, Problem
from gateway.identity.access import Verb, can
from gateway.ids import new_id
from gateway.jobs import views

router = APIRouter(tags=["allocations"])


@router.post(
    "/orders", **describe.route(models.Made, status=201, body=order_schemas.OrderIn, refuses=(402, 403, 404, 409, 422))
)
def place_order(services: Svc, admin: Admin, body: Body, idempotency_key: IdemHeader = None) -> Response:
    """A block, a subscription, a trial, or pay as used (operator)."""
    wanted = read(order_schemas.OrderIn, body)
    now = services.clock()

    def make(conn: Connection) -> Mapping[str, Any]:
        row = project_row(conn, admin, wanted.project, Verb.SEE_PROJECT)
        assert_payers(conn, {"/payer": wanted.payer})
        site = None if wanted.site is None else site_of(services, wanted.site)
        order = Order(
            new_id("o", now), row.id, wanted.payer, wanted.kind,
            row.currency if wanted.kind == "as_used" else wanted.commodity, wanted.amount, row.currency,
            wanted.starts_at or now, wanted.ends_at, micro_of(wanted.price, "/price"), wanted.carry_over_max,
            zone_of(wanted.zone), wanted.agreement, admin.user_id, site,
        )  # fmt: skip
        allocations.place_order(conn, order, now=now)
        if site is not None:
            if order.commodity != "core-seconds":
                problem = Problem("/site", "Only core-seconds are opened at a centre.", "invalid", "Leave it out.")
                raise Invalid("What would be opened?", problems=(problem,))
            asked = Wanted(
                new_id("op", now),
                row.id,
                site,
                "core_hours",
                order.id,
                core_seconds=order.amount,
                valid_until=order.ends_at,
            )
            openings.place(conn, asked, by=admin.name, now=now)
        return {"id": order.id}

    return answer(Once.of(admin, idempotency_key, "POST /orders", body).made(services, make), 201)


@router.get("/projects/{name}/allocations", **describe.route(order_schemas.Allocations, refuses=(404,)))
def list_allocations(services: Svc, person: Who, name: Word) -> Response:
    """What a project was given, and what of it is left."""
    with services.db.read() as conn:
        row = project_row(conn, person, name, Verb.SEE_PROJECT)
        found = allocations.allocations(conn, row.id)
        left: dict[str, int] = {}
        for commodity in {kind_of(a.commodity) for a in found}:
            left |= allocations.remaining(conn, row.id, commodity)
    return answer({"items": [_allocation(a, left.get(a.id)) for a in found]})


@router.post("/allocations", **describe.route(
    models.Made, status=201, body=order_schemas.AllocationIn, refuses=(403, 404, 409, 422)
))  # fmt: skip
def allocate(services: Svc, admin: Admin, body: Body, idempotency_key: IdemHeader = None) -> Response:
    """Grant an amount of a commodity with its expiry (operator)."""
    wanted = read(order_schemas.AllocationIn, body)
    now = services.clock()

    def make(conn: Connection) -> Mapping[str, Any]:
        row = project_row(conn, admin, wanted.project, Verb.SEE_PROJECT)
        made = Allocation(new_id("a", now), row.id, wanted.commodity, wanted.amount, now, wanted.expires_at,
                          carry_over_max=wanted.carry_over_max)  # fmt: skip
        allocations.allocate(conn, made, now=now)
        return {"id": made.id}

    return answer(Once.of(admin, idempotency_key, "POST /allocations", body).made(services, make), 201)


@router.post("/allocations/{allocation}/transfer", **describe.route(
    models.Made, status=201, body=order_schemas.TransferIn, refuses=(402, 403, 404, 409, 422)
))  # fmt: skip
def transfer(services: Svc, person: Who, allocation: Word, body: Body, idempotency_key: IdemHeader = None) -> Response:
    """Move what is left to another project (an owner of both, or the operator)."""
    wanted = read(order_schemas.TransferIn, body)
    now = services.clock()

    def make(conn: Connection) -> Mapping[str, Any]:
        found = conn.execute(select(ALLOCATIONS).where(ALLOCATIONS.c.id == allocation)).one_or_none()
        owner = "" if found is None else str(found.project_id)
        if found is None or not can(person, Verb.SEE_PROJECT, ("project", owner)):
            raise NotFound(f"There is no allocation {allocation!r} that you may see.")
        kind = kind_of(str(found.commodity))
        if wanted.commodity not in (None, kind):
            problem = Problem("/commodity", f"It is of {kind}.", "invalid", "Count the amount in these.")
            raise Invalid(f"The allocation is of {kind}.", problems=(problem,))
        to = project_row(conn, person, wanted.to_project, Verb.MANAGE_PROJECT)
        if not can(person, Verb.MANAGE_PROJECT, ("project", owner)):
            raise Forbidden("Only an owner of the project may do this.", remedy="Ask one of its owners.")
        key = f"transfer:{new_id('t', now)}"
        allocations.transfer(conn, allocation, to_project=to.id, amount=wanted.amount, idem_key=key, now=now)
        return {"id": key}

    once = Once.of(person, idempotency_key, f"POST /allocations/{allocation}/transfer", body)
    return answer(once.made(services, make), 201)


@router.post(
    "/vouchers", **describe.route(models.Made, status=201, body=order_schemas.VoucherIn, refuses=(403, 409, 422))
)
def add_voucher(services: Svc, admin: Admin, body: Body, idempotency_key: IdemHeader = None) -> Response:
    """A code that is worth an amount once; only its hash is kept (operator)."""
    wanted = read(order_schemas.VoucherIn, body)

    def make(conn: Connection) -> Mapping[str, Any]:
        allocations.add_voucher(conn, wanted.code, commodity=wanted.commodity, amount=wanted.amount,
                                expires_at=wanted.expires_at, now=services.clock())  # fmt: skip
        return {"id": "voucher"}

    return answer(Once.of(admin, idempotency_key, "POST /vouchers", body).made(services, make), 201)


@router.post("/vouchers/redeem", **describe.route(
    models.Made, status=201, body=order_schemas.RedeemIn, refuses=(403, 404, 409, 422)
))  # fmt: skip
def redeem(services: Svc, person: Who, body: Body, idempotency_key: IdemHeader = None) -> Response:
    """Use a voucher for a project (its owner)."""
    wanted = read(order_schemas.RedeemIn, body)

    def make(conn: Connection) -> Mapping[str, Any]:
        row = project_row(conn, person, wanted.project, Verb.MANAGE_PROJECT)
        return {"id": allocations.redeem(conn, wanted.code, project_id=row.id, now=services.clock()).id}

    return answer(Once.of(person, idempotency_key, "POST /vouchers/redeem", body).made(services, make), 201)


def _allocation(a: Any, left: int | None) -> dict[str, Any]:
    return {
        "id": a.id, "commodity": kind_of(a.commodity), "place": place_of(a.commodity),
        "amount": a.amount, "remaining": left, "source": a.source,
        "order": a.order_id, "valid_from": views.stamp(a.valid_from), "expires_at": views.stamp(a.expires_at),
    }  # fmt: skip
