"""Projects: members, credit, exposure; and the tariffs that price their work."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter
from sqlalchemy import Connection, or_, select
from starlette.responses import Response

from accounting import store as books
from accounting.errors import AccountingError
from accounting.ledger import CORE_SECONDS
from accounting.money import format_micro, parse_amount
from accounting.store import Exposure
from accounting.tariff import PriceRule
from gateway.api.context import Admin, Body, IdemHeader, Svc, Who, json_bytes, read
from gateway.api.schemas import CreditIn, MemberIn, ProjectIn, TariffIn
from gateway.errors import Conflict, Forbidden, Invalid, NotFound, Problem
from gateway.identity import service
from gateway.identity.access import Person, Verb, can
from gateway.identity.service import MEMBERS, PROJECTS, USERS
from gateway.ids import new_id
from gateway.jobs import views

router = APIRouter(tags=["projects"])


def _json(value: object, status: int = 200) -> Response:
    return Response(json_bytes(value), status, media_type="application/json")


@router.get("/projects")
def list_projects(services: Svc, person: Who) -> Response:
    """The projects I may see, with their standing."""
    with services.db.read() as conn:
        rows = conn.execute(select(PROJECTS).order_by(PROJECTS.c.name)).all()
        items = [_project(conn, r) for r in rows if can(person, Verb.SEE_PROJECT, ("project", r.id))]
    return _json({"items": items})


@router.get("/projects/{name}")
def show_project(services: Svc, person: Who, name: str) -> Response:
    """One project: members, and settled + in flight + committed in money and core-hours."""
    with services.db.read() as conn:
        return _json(_project(conn, _row(conn, person, name, Verb.SEE_PROJECT)))


@router.post("/projects", status_code=201)
def create_project(services: Svc, _admin: Admin, body: Body) -> Response:
    """A new project (operator)."""
    wanted = read(ProjectIn, body)
    currency = wanted.currency or services.settings.currency
    with services.db.write() as conn:
        service.create_project(conn, name=wanted.name, currency=currency, title=wanted.title, now=services.clock())
        return _json(_project(conn, conn.execute(select(PROJECTS).where(PROJECTS.c.name == wanted.name)).one()), 201)


@router.post("/projects/{name}/members", status_code=201)
def add_member(services: Svc, person: Who, name: str, body: Body) -> Response:
    """Let a person work for a project (its owner, or the operator)."""
    wanted = read(MemberIn, body)
    with services.db.write() as conn:
        row = _row(conn, person, name, Verb.MANAGE_PROJECT)
        user_id = service.user_id_of(conn, wanted.user)
        service.add_member(conn, project_id=row.id, user_id=user_id, role=wanted.role, now=services.clock())
        return _json(_project(conn, row), 201)


@router.post("/projects/{name}/credit", status_code=201)
def grant(services: Svc, admin: Admin, name: str, body: Body, idempotency_key: IdemHeader = None) -> Response:
    """Grant money or core-hours (operator). With `Idempotency-Key` a retry grants nothing more."""
    wanted = read(CreditIn, body)
    if (wanted.amount is None) == (wanted.core_hours is None):
        problem = Problem("", "Grant either `amount` or `core_hours`.", "required", "Name one of them.")
        raise Invalid("What is granted?", problems=(problem,))
    now = services.clock()
    with services.db.write() as conn:
        row = _row(conn, admin, name, Verb.SEE_PROJECT)
        commodity, amount = _granted(wanted, row.currency)
        key = f"grant:{admin.user_id}:{idempotency_key}" if idempotency_key else f"grant:{new_id('g', now)}"
        try:
            books.grant_credit(conn, project_id=row.id, commodity=commodity, amount=amount, idem_key=key, now=now,
                               reason=wanted.reason)  # fmt: skip
        except AccountingError as exc:
            raise Conflict(str(exc)) from exc
        return _json(_project(conn, row), 201)


@router.get("/tariffs")
def list_tariffs(services: Svc, person: Who) -> Response:
    """Every price per core-hour, with when and where it holds."""
    with services.db.read() as conn:
        return _json({"items": [_rule(r) for r in books.tariffs(conn)]})


@router.post("/tariffs", status_code=201)
def add_tariff(services: Svc, _admin: Admin, body: Body) -> Response:
    """A new price (operator); one of the same scope and time is refused."""
    wanted = read(TariffIn, body)
    now = services.clock()
    start = wanted.valid_from or now
    if start.tzinfo is None or (wanted.valid_to is not None and wanted.valid_to.tzinfo is None):
        problem = Problem("/valid_from", "A time needs its zone.", "invalid", "Write it like 2026-11-24T12:00:00Z.")
        raise Invalid("A time has no zone.", problems=(problem,))
    micro = _micro(wanted.price_per_core_hour, "/price_per_core_hour")
    rule = PriceRule(0, wanted.currency, micro, start, wanted.valid_to, wanted.site, wanted.queue)
    with services.db.write() as conn:
        try:
            made = books.add_tariff(conn, rule, now=now)
        except AccountingError as exc:
            raise Conflict(str(exc), remedy="End the other rule first.") from exc
        return _json(_rule(next(r for r in books.tariffs(conn) if r.id == made)), 201)


# ---------------------------------------------------------------- parts


def _row(conn: Connection, person: Person, name: str, verb: Verb) -> Any:
    row = conn.execute(select(PROJECTS).where(or_(PROJECTS.c.name == name, PROJECTS.c.id == name))).one_or_none()
    if row is None or not can(person, Verb.SEE_PROJECT, ("project", row.id)):
        raise NotFound(f"There is no project {name!r} that you may see.")
    if not can(person, verb, ("project", row.id)):
        raise Forbidden("Only an owner of the project may do this.", remedy="Ask one of its owners.")
    return row


def _project(conn: Connection, row: Any) -> dict[str, Any]:
    members = conn.execute(
        select(USERS.c.name, MEMBERS.c.role).join(USERS, USERS.c.id == MEMBERS.c.user_id)
        .where(MEMBERS.c.project_id == row.id).order_by(USERS.c.name)
    )  # fmt: skip
    return {
        "id": row.id, "name": row.name, "title": row.title, "currency": row.currency,
        "members": [{"user": m.name, "role": m.role} for m in members],
        "exposure": [exposure_json(e) for e in books.exposure(conn, row.id)],
    }  # fmt: skip


def exposure_json(e: Exposure) -> dict[str, Any]:
    """Money as decimal strings, core-hours too; `core_seconds` beside them as they are kept."""

    def shown(value: int | None) -> str | None:
        if value is None:
            return None
        if e.commodity != CORE_SECONDS:
            return format_micro(value)
        sign, hours, rest = "-" * (value < 0), abs(value) // 3600, abs(value) % 3600
        return f"{sign}{hours}.{rest * 100 // 3600:02d}"

    return {
        "commodity": "core-hours" if e.commodity == CORE_SECONDS else e.commodity,
        "settled": shown(e.settled), "in_flight": shown(e.in_flight), "committed": shown(e.committed),
        "limit": shown(e.limit), "available": shown(e.available),
    }  # fmt: skip


def _granted(wanted: CreditIn, currency: str) -> tuple[str, int]:
    if wanted.core_hours is not None:
        return CORE_SECONDS, wanted.core_hours * 3600
    return currency, _micro(wanted.amount or "", "/amount")


def _micro(text: str, pointer: str) -> int:
    try:
        micro = parse_amount(text)
    except ValueError as exc:
        raise Invalid(str(exc), problems=(Problem(pointer, str(exc), "invalid", "Write it like 12.50."),)) from exc
    if micro < 0:
        raise Invalid("Negative.", problems=(Problem(pointer, "It must not be negative.", "invalid"),))
    return micro


def _rule(r: PriceRule) -> dict[str, Any]:
    return {
        "id": r.id, "currency": r.currency, "price_per_core_hour": format_micro(r.micro_per_core_hour),
        "site": r.site_id, "queue": r.queue, "valid_from": views.stamp(r.valid_from),
        "valid_to": views.stamp(r.valid_to),
    }  # fmt: skip
