"""Projects: members, credit, exposure; and the tariffs that price their work."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields, replace
from typing import Annotated, Any

from fastapi import APIRouter, Path
from pydantic import ValidationError
from sqlalchemy import Connection, or_, select
from starlette.responses import Response

from accounting import store as books
from accounting.bound import kind_of, place_of
from accounting.errors import TariffOverlap
from accounting.ledger import CORE_SECONDS, PEOPLE_COUNT
from accounting.minor_units import micro_per_minor, plain
from accounting.money import format_micro, is_currency, parse_amount
from accounting.store import Exposure
from accounting.store.prices import own_rule_problems
from accounting.tariff import PriceRule
from accounting.terms import Wrong
from accounting.usage import CORE_SECONDS as OF_CORES
from gateway.api import answers, describe
from gateway.api.context import Admin, Body, IdemHeader, Svc, Who, Word, answer, read
from gateway.api.idempotency import Once
from gateway.api.problems import as_invalid, of_validation
from gateway.api.schemas import CloseTariffIn, CreditIn, MemberIn, ProjectIn, TariffIn
from gateway.errors import Conflict, Forbidden, Invalid, NotFound, Problem
from gateway.identity import service
from gateway.identity.access import Person, Verb, can
from gateway.identity.service import MEMBERS, PROJECTS, USERS
from gateway.ids import new_id
from gateway.jobs import views

router = APIRouter(tags=["projects"])

RuleId = Annotated[int, Path(ge=1, le=2**31 - 1)]


@router.get("/projects", **describe.route(answers.Projects))
def list_projects(services: Svc, person: Who) -> Response:
    """The projects I may see, with their standing."""
    with services.db.read() as conn:
        rows = conn.execute(select(PROJECTS).order_by(PROJECTS.c.name)).all()
        items = [_project(conn, r) for r in rows if can(person, Verb.SEE_PROJECT, ("project", r.id))]
    return answer({"items": items})


@router.get("/projects/{name}", **describe.route(answers.Project, refuses=(404,)))
def show_project(services: Svc, person: Who, name: Word) -> Response:
    """One project: members, and settled + in flight + committed in money and core-hours."""
    with services.db.read() as conn:
        return answer(_project(conn, project_row(conn, person, name, Verb.SEE_PROJECT)))


@router.post("/projects", **describe.route(answers.Project, status=201, body=ProjectIn, refuses=(403, 409, 422)))
def create_project(services: Svc, admin: Admin, body: Body, idempotency_key: IdemHeader = None) -> Response:
    """A new project (operator)."""
    wanted = read(ProjectIn, body)
    currency = wanted.currency or services.settings.currency

    def make(conn: Connection) -> Mapping[str, Any]:
        project_id = service.create_project(
            conn, name=wanted.name, currency=currency, title=wanted.title, now=services.clock()
        )
        return _project(conn, conn.execute(select(PROJECTS).where(PROJECTS.c.id == project_id)).one())

    return answer(Once.of(admin, idempotency_key, "POST /projects", body).made(services, make), 201)


@router.post("/projects/{name}/members", **describe.route(
    answers.Project, status=201, body=MemberIn, refuses=(403, 404, 422)
))  # fmt: skip
def add_member(services: Svc, person: Who, name: Word, body: Body) -> Response:
    """Let a person work for a project, or change the role (its owner, or the operator). Twice is once."""
    wanted = read(MemberIn, body)
    with services.db.write() as conn:
        row = project_row(conn, person, name, Verb.MANAGE_PROJECT)
        user_id = service.user_id_of(conn, wanted.user)
        service.add_member(conn, project_id=row.id, user_id=user_id, role=wanted.role, now=services.clock())
        return answer(_project(conn, row), 201)


@router.delete("/projects/{name}/members/{user}", **describe.route(answers.Project, refuses=(403, 404)))
def remove_member(services: Svc, person: Who, name: Word, user: Word) -> Response:
    """Let a person work for a project no more; what they have running goes on (its owner, or the operator)."""
    with services.db.write() as conn:
        row = project_row(conn, person, name, Verb.MANAGE_PROJECT)
        service.remove_member(conn, project_id=row.id, user_id=service.user_id_of(conn, user))
        return answer(_project(conn, row))


@router.post("/projects/{name}/credit", **describe.route(
    answers.Project, status=201, body=CreditIn, refuses=(403, 404, 409, 422)
))  # fmt: skip
def grant(services: Svc, admin: Admin, name: Word, body: Body, idempotency_key: IdemHeader = None) -> Response:
    """Grant money or core-hours (operator). With `Idempotency-Key` a retry grants nothing more."""
    wanted = read(CreditIn, body)
    if (wanted.amount is None) == (wanted.core_hours is None):
        problem = Problem("", "Grant either `amount` or `core_hours`.", "required", "Name one of them.")
        raise Invalid("What is granted?", problems=(problem,))
    now = services.clock()

    def make(conn: Connection) -> Mapping[str, Any]:
        row = project_row(conn, admin, name, Verb.SEE_PROJECT)
        commodity, amount = _granted(wanted, row.currency)
        books.grant_credit(conn, project_id=row.id, commodity=commodity, amount=amount,
                           idem_key=f"grant:{new_id('g', now)}", now=now, reason=wanted.reason)  # fmt: skip
        return _project(conn, row)

    once = Once.of(admin, idempotency_key, f"POST /projects/{name}/credit", body)
    return answer(once.made(services, make), 201)


@router.get("/tariffs", **describe.route(answers.Tariffs))
def list_tariffs(services: Svc, person: Who) -> Response:
    """Every price per core-hour, with when and where it holds."""
    with services.db.read() as conn:
        return answer({"items": [_rule(r) for r in books.tariffs(conn)]})


@router.post("/tariffs", **describe.route(answers.Tariff, status=201, body=TariffIn, refuses=(403, 409, 422)))
def add_tariff(services: Svc, admin: Admin, body: Body, idempotency_key: IdemHeader = None) -> Response:
    """A new price (operator); one of the same scope and time is refused."""
    wanted = _tariff(body)
    now = services.clock()
    micro = micro_of(wanted.price_per_core_hour, "/price_per_core_hour")
    rule = PriceRule(0, wanted.currency, micro, wanted.valid_from or now, wanted.valid_to, wanted.site, wanted.queue)
    if wrong := own_rule_problems(rule):
        raise as_invalid(tuple(_of_rule(text) for text in wrong))

    def make(conn: Connection) -> Mapping[str, Any]:
        try:
            made = books.add_tariff(conn, rule, now=now)
        except TariffOverlap as exc:
            raise Conflict(f"{str(exc).capitalize()}.", remedy=(
                f"End rule {exc.rule_id} first (POST /tariffs/{exc.rule_id}/close), or let this one hold when that "
                "does not: `valid_from`, `valid_to`, or another `site` or `queue`."
            )) from exc  # fmt: skip
        return _rule(next(r for r in books.tariffs(conn) if r.id == made))

    return answer(Once.of(admin, idempotency_key, "POST /tariffs", body).made(services, make), 201)


@router.post("/tariffs/{rule_id}/close", **describe.route(
    answers.Tariff, body=CloseTariffIn, refuses=(403, 404, 409, 422)
))  # fmt: skip
def close_tariff(services: Svc, _admin: Admin, rule_id: RuleId, body: Body) -> Response:
    """End an open price at a moment, once (operator); what it priced before stays priced."""
    wanted = read(CloseTariffIn, body)
    with services.db.write() as conn:
        if all(rule.id != rule_id for rule in books.tariffs(conn)):
            raise NotFound(f"There is no tariff {rule_id}.")
        if not books.close_tariff(conn, rule_id, valid_to=wanted.valid_to or services.clock()):
            raise Conflict("That tariff is closed already, or begins later.")
        return answer(_rule(next(rule for rule in books.tariffs(conn) if rule.id == rule_id)))


# ---------------------------------------------------------------- parts


def project_row(conn: Connection, person: Person, name: str, verb: Verb) -> Any:
    """A project by name or id that this person may see and do `verb` on."""
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
    """Money, core-hours, GPU-hours and GiB-months as decimal strings, other units (shots) as they are counted."""
    kind = kind_of(e.commodity)
    name, per = PEOPLE_COUNT.get(kind, (kind, 0))

    def shown(value: int | None) -> str | None:
        if value is None:
            return None
        if not per:
            return format_micro(value) if is_currency(e.commodity) else str(value)
        sign, whole, rest = "-" * (value < 0), abs(value) // per, abs(value) % per
        return f"{sign}{whole}.{rest * 100 // per:02d}"

    return {
        "commodity": name, "place": place_of(e.commodity),
        "settled": shown(e.settled), "in_flight": shown(e.in_flight), "committed": shown(e.committed),
        "limit": shown(e.limit), "available": shown(e.available),
    }  # fmt: skip


def _granted(wanted: CreditIn, currency: str) -> tuple[str, int]:
    if wanted.core_hours is not None:
        return CORE_SECONDS, wanted.core_hours * 3600
    return currency, micro_of(wanted.amount or "", "/amount")


def micro_of(text: str, pointer: str, *, signed: bool = False) -> int:
    """An amount in micro-units; `Invalid` with its pointer where it is none, or negative unless `signed`."""
    try:
        micro = parse_amount(text)
    except ValueError as exc:
        raise Invalid(str(exc), problems=(Problem(pointer, str(exc), "invalid", "Write it like 12.50."),)) from exc
    if micro < 0 and not signed:
        raise Invalid("Negative.", problems=(Problem(pointer, "It must not be negative.", "invalid"),))
    return micro


def _tariff(body: bytes) -> TariffIn:
    """A field that only a signed tariff has is told as such."""
    try:
        return read(TariffIn, body)
    except ValidationError as exc:
        problems = of_validation(exc.errors(include_url=False))
        raise as_invalid(tuple(
            replace(p, remedy=_SIGNED_ONLY) if p.pointer[1:] in _OF_SIGNED_RULES else p for p in problems
        )) from exc  # fmt: skip


_OF_SIGNED_RULES = frozenset({"price", "price_per_gpu_hour"}) | {field.name for field in fields(PriceRule)}
_OF_SIGNED_RULES -= TariffIn.model_fields.keys()
_SIGNED_ONLY = (
    "This is a price per core-hour. One of GPUs, nodes, memory or units, with tiers, hours of the day, a grade or a "
    "class of users is a rule of a tariff that both sides sign: POST /tariffs/versions."
)
# A field of a price, as the books name it: the field of the request, and what to write there.
_FIELD_OF = {
    "valid_from": ("/valid_from", "Write a day of our time, with its zone: 2026-11-01T00:00:00+08:00."),
    "valid_to": ("/valid_to", "A day of our time; it must be later than `valid_from` (now, where that is left out)."),
    "currency": ("/currency", "Write its ISO 4217 code, like CNY."),
    "site_id": ("/site", "Leave it out, and the price is for all sites."),
    "queue": ("/queue", "Leave it out, and the price is for all queues."),
    "price_micro": ("/price_per_core_hour", "Write what one core-hour costs, in whole units of the currency."),
}


def _of_rule(wrong: str) -> Problem:
    pointer, remedy = _FIELD_OF.get(wrong.field, ("", "")) if isinstance(wrong, Wrong) else ("", "")
    return Problem(pointer, str(wrong), "invalid", remedy)


def coins_of(text: str, currency: str, pointer: str) -> int:
    """Micro-units of money that moves: nobody transfers less than the smallest coin (a fen, a yen)."""
    micro = micro_of(text, pointer)
    if micro % micro_per_minor(currency):
        problem = Problem(
            pointer, f"{currency} has no such coin.", "invalid", f"Write it like {plain(1250, currency)}."
        )
        raise Invalid(f"{text} {currency} cannot be paid.", problems=(problem,))
    return micro


def _rule(r: PriceRule) -> dict[str, Any]:
    return {
        "id": r.id, "currency": r.currency, "price_per_core_hour": _per_core_hour(r), "resource": r.resource,
        "price": format_micro(r.price_micro), "per": r.per, "tier_from": r.tier_from, "grade": r.grade,
        "site": r.site_id, "queue": r.queue, "valid_from": views.stamp(r.valid_from),
        "valid_to": views.stamp(r.valid_to),
    }  # fmt: skip


def _per_core_hour(r: PriceRule) -> str | None:
    """None for a price of something else, or one with more than six places for a core-hour."""
    micro, rest = divmod(r.price_micro * 3600, r.per)
    return format_micro(micro) if r.resource == OF_CORES and not rest else None
