"""The books over HTTP: charges and why, months, payments, adjustments, balances as of any day."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Annotated, Any
from zoneinfo import ZoneInfo, available_timezones

from fastapi import APIRouter, Path, Query
from sqlalchemy import Connection
from starlette.responses import Response

from accounting import store as books
from accounting.errors import PaymentRefused
from accounting.invoicing.legal_entities import entities, entity
from accounting.money import format_micro
from accounting.payments.top_up_store import top_up as top_up_of
from accounting.reconciling.confirmed import confirmed
from accounting.store import adjustments, periods
from accounting.store.adjustments import Adjustment
from accounting.store.payments import Payment
from accounting.store.periods import Period
from accounting.store.reading import charge_page
from gateway.api import billing_models as models
from gateway.api import describe
from gateway.api.context import Admin, Body, IdemHeader, Svc, Who, Word, answer, read
from gateway.api.idempotency import Once
from gateway.api.projects import coins_of, micro_of, project_row
from gateway.api.schemas import Instant
from gateway.billing import closing
from gateway.errors import Conflict, Invalid, NotFound, Problem
from gateway.identity.access import Person, Verb, can
from gateway.identity.vault import Opener
from gateway.ids import new_id
from gateway.jobs import views

router = APIRouter(prefix="/billing", tags=["billing"])
Number = Annotated[int, Path(ge=1, le=2**62)]
Limit = Annotated[int, Query(ge=1, le=200)]
_FOUR_EYES_MICRO = 1_000_000_000


# ---------------------------------------------------------------- charges


@router.get("/charges", **describe.route(models.ChargeList, refuses=(404,)))
def list_charges(
    services: Svc,
    person: Who,
    project: Word,
    limit: Limit = 50,
    before: Annotated[int | None, Query(ge=1, le=2**62)] = None,
) -> Response:
    """A project's charges, newest first, the replaced ones too (its owner: all; who works for it: their own)."""
    with services.db.read() as conn:
        row = project_row(conn, person, project, Verb.SEE_PROJECT)
        whose = None if can(person, Verb.SEE_BILL, ("project", row.id)) else person.user_id
        rows = charge_page(conn, row.id, limit=limit + 1, before=before, user_id=whose)
    following = rows[limit - 1].id if len(rows) > limit else None
    return answer({"items": [_charge(r) for r in rows[:limit]], "next": following})


@router.get("/charges/{charge}", **describe.route(models.Explanation, refuses=(404,)))
def explain(services: Svc, person: Who, charge: Number) -> Response:
    """Why a charge is what it is: the raw record, the rule, each price, who gets what."""
    with services.db.read() as conn:
        found = books.explain(conn, charge)
        if found is None or not _may_see(person, found):
            raise NotFound(f"There is no charge {charge} that you may see.")
        seen = _explained(found, Opener(services, conn)(found.reading.raw))
        return answer(seen | {"evidence": _evidence(conn, found.reading)})


# ---------------------------------------------------------------- months


@router.get("/periods", **describe.route(models.Periods, refuses=(403,)))
def list_periods(services: Svc, _admin: Admin) -> Response:
    """Every month that was opened (operator)."""
    with services.db.read() as conn:
        return answer({"items": [_period(conn, p) for p in periods.periods(conn)]})


@router.post("/periods", **describe.route(models.Period, status=201, body=models.PeriodIn, refuses=(403, 409, 422)))
def open_period(services: Svc, admin: Admin, body: Body, idempotency_key: IdemHeader = None) -> Response:
    """Open a month of a named zone (operator)."""
    wanted = read(models.PeriodIn, body)

    def make(conn: Connection) -> Mapping[str, Any]:
        made = periods.open_period(conn, year=wanted.year, month=wanted.month, zone=zone_of(wanted.zone),
                                   by=admin.user_id, now=services.clock())  # fmt: skip
        return _period(conn, made)

    return answer(Once.of(admin, idempotency_key, "POST /billing/periods", body).made(services, make), 201)


@router.post("/periods/{year}/{month}/closing", **describe.route(models.Period, refuses=(403, 404, 409)))
def begin_closing(services: Svc, admin: Admin, year: Number, month: Number) -> Response:
    """Cut a month off: what still runs is accrued (operator)."""
    with services.db.write() as conn:
        closing.begin(conn, _find(conn, year, month), by=admin.user_id, now=services.clock())
        return answer(_period(conn, _find(conn, year, month)))


@router.post("/periods/{year}/{month}/close", **describe.route(models.Period, refuses=(403, 404, 409)))
def close_period(services: Svc, admin: Admin, year: Number, month: Number, leave_unbilled: bool = False) -> Response:
    """Close a month for ever; what comes late is a correction in the open one (operator).

    Refused while runs of it are on no document, unless `leave_unbilled` says that the next invoices take them up.
    """
    with services.db.write() as conn:
        closing.close(conn, _find(conn, year, month), by=admin.user_id, leave_unbilled=leave_unbilled,
                      now=services.clock())  # fmt: skip
        return answer(_period(conn, _find(conn, year, month)))


# ---------------------------------------------------------------- prepaid money


@router.post("/top-ups", **describe.route(
    models.TopUp, status=201, body=models.TopUpIn, refuses=(403, 404, 409, 422)
))  # fmt: skip
def top_up(services: Svc, admin: Admin, body: Body, idempotency_key: IdemHeader = None) -> Response:
    """Money that came in for a project to spend; the same bank reference again is the same money (operator).

    It is booked once, whether the bank's file is imported before or after.
    """
    wanted = read(models.TopUpIn, body)
    now = services.clock()

    def make(conn: Connection) -> Mapping[str, Any]:
        row = project_row(conn, admin, wanted.project, Verb.SEE_PROJECT)
        amount = coins_of(wanted.amount, row.currency, "/amount")
        payment = Payment(new_id("y", now), wanted.payer, row.currency, amount, wanted.received_at, wanted.source,
                          wanted.reference)  # fmt: skip
        try:
            made = top_up_of(conn, payment, project_id=row.id, transaction_id=wanted.transaction,
                             separate=wanted.separate, now=now)  # fmt: skip
        except PaymentRefused as exc:
            raise Conflict(str(exc)) from exc
        return {"id": made, "project": row.id, "amount": format_micro(amount), "currency": row.currency}

    return answer(Once.of(admin, idempotency_key, "POST /billing/top-ups", body).made(services, make), 201)


# ---------------------------------------------------------------- adjustments


@router.get("/adjustments", **describe.route(models.Adjustments, refuses=(403, 404)))
def list_adjustments(services: Svc, person: Who, project: Word | None = None) -> Response:
    """What was asked for and decided: of a project, or all (operator)."""
    with services.db.read() as conn:
        project_id = None if project is None else project_row(conn, person, project, Verb.SEE_PROJECT).id
        if project_id is None and not can(person, Verb.OPERATE):
            raise Invalid("Which project?", problems=(Problem("/project", "Name a project.", "required"),))
        return answer({"items": [_adjustment(a) for a in adjustments.adjustments(conn, project_id)]})


@router.post("/adjustments", **describe.route(
    models.Outcome, status=201, body=models.AdjustmentIn, refuses=(403, 404, 409, 422)
))  # fmt: skip
def adjust(services: Svc, admin: Admin, body: Body, idempotency_key: IdemHeader = None) -> Response:
    """Change what a project owes, with a reason; above the agreement's threshold a second operator decides."""
    wanted = read(models.AdjustmentIn, body)
    now = services.clock()

    def make(conn: Connection) -> Mapping[str, Any]:
        row = project_row(conn, admin, wanted.project, Verb.SEE_PROJECT)
        amount = micro_of(wanted.amount, "/amount", signed=True)
        asked = Adjustment(new_id("x", now), wanted.kind, row.id, row.currency, amount, wanted.reason, admin.user_id,
                           wanted.charge)  # fmt: skip
        threshold = four_eyes_micro(conn, charge_id=wanted.charge, currency=row.currency, now=now)
        state = adjustments.request_adjustment(conn, asked, four_eyes_micro=threshold, now=now)
        return {"id": asked.id, "state": state}

    return answer(Once.of(admin, idempotency_key, "POST /billing/adjustments", body).made(services, make), 201)


@router.post("/adjustments/{adjustment}/decide", **describe.route(
    models.Outcome, body=models.DecisionIn, refuses=(403, 404, 409, 422)
))  # fmt: skip
def decide(services: Svc, admin: Admin, adjustment: Word, body: Body) -> Response:
    """Post or refuse what another operator asked for."""
    wanted = read(models.DecisionIn, body)
    with services.db.write() as conn:
        state = adjustments.decide(conn, adjustment, approve=wanted.approve, by=admin.user_id, now=services.clock())
    return answer({"id": adjustment, "state": state})


# ---------------------------------------------------------------- reports


@router.get("/balances", **describe.route(models.Balances, refuses=(403, 422)))
def balances(
    services: Svc, _admin: Admin, known_at: Instant | None = None, before: Instant | None = None, account: Word = ""
) -> Response:
    """What stands on each account (operator): as the books knew it at `known_at`, of what counts before `before`."""
    with services.db.read() as conn:
        found = books.balances(conn, known_at=known_at, effective_before=before, code=account)
    items = [{"account": code, "commodity": c, "amount": str(amount)} for (code, c), amount in found.items()]
    return answer({"items": items})


# ---------------------------------------------------------------- parts


def four_eyes_micro(conn: Connection, *, currency: str, now: datetime, charge_id: int | None = None) -> int:
    """Above this a second person decides: by the agreements, or what holds without any."""
    agreed = adjustments.four_eyes_from(conn, charge_id=charge_id, currency=currency, now=now)
    return _FOUR_EYES_MICRO if agreed is None else agreed


def assert_payers(conn: Connection, named: Mapping[str, str]) -> None:
    """Raise `Invalid` for payers (by their place in the request) that nobody has entered: a bill could go to nobody."""
    unknown = [(place, name) for place, name in named.items() if entity(conn, name) is None]
    if not unknown:
        return
    known = [found.id for found, _ in entities(conn)]
    shown = (", ".join(known[:10]) + (", …" if len(known) > 10 else "")) or "nobody"
    remedy = f"Known: {shown}. Enter them first: POST /billing/entities."
    problems = tuple(Problem(at, f"There is no payer {name!r}.", "unknown_payer", remedy) for at, name in unknown)
    raise Invalid(problems[0].detail, problems=problems)


def _may_see(person: Person, found: books.Explained) -> bool:
    """Those who see the bill, the centre's staff, and whose work it was while they are in the project."""
    project, site = found.charge.project_id, found.reading.site_id
    own = found.reading.user_id == person.user_id and can(person, Verb.SEE_PROJECT, ("project", project))
    return own or can(person, Verb.SEE_BILL, ("project", project)) or can(person, Verb.SEE_SITE, ("site", site))


def _charge(r: Any, reading: Any = None, replaced: bool | None = None) -> dict[str, Any]:
    of = r if reading is None else reading
    return {
        "id": r.id, "job": r.job_id, "project": r.project_id, "site": of.site_id, "meter": r.meter,
        "amount": format_micro(r.amount_micro), "currency": r.currency, "core_seconds": r.core_seconds,
        "grade": r.grade, "start": views.stamp(of.start_time), "end": views.stamp(of.end_time), "reason": r.reason,
        "replaced": r.replaced_by is not None if replaced is None else replaced,
    }  # fmt: skip


def _explained(found: books.Explained, raw: Mapping[str, Any]) -> dict[str, Any]:
    c, reading = found.charge, found.reading
    shown = ("run_key", "native_id", "state", "username", "queue", "qos", "cores", "requested_cores", "nodes",
             "elapsed_s", "suspended_s", "exclusive", "core_seconds", "node_seconds", "gpu_seconds",
             "memory_mib_seconds", "revision", "estimated")  # fmt: skip
    return _charge(c, reading, found.replaced_by is not None) | {
        "rule": c.rule, "policy": c.policy_version,
        "agreement": None if c.agreement_id is None else f"{c.agreement_id}/{c.agreement_version}",
        "gross": format_micro(c.gross_micro), "borne_by_operator": format_micro(c.borne_micro),
        "centre": format_micro(c.centre_micro), "tax": format_micro(c.tax_micro), "steps": list(found.steps),
        "segments": list(c.segments), "reading": {name: getattr(reading, name) for name in shown},
        "raw": dict(raw),
    }  # fmt: skip


def _evidence(conn: Connection, reading: Any) -> dict[str, Any]:
    """Whether the centre has put its name to a reading, and where."""
    if reading.signed_by:
        return {"sides": 2, "signed_by": reading.signed_by, "statement": reading.statement_id, "line": None}
    found = confirmed(conn, [reading.id]).get(reading.id)
    if found is None:
        return {"sides": 1, "signed_by": None, "statement": None, "line": None}
    return {"sides": 2, "signed_by": found.signed_by, "statement": found.statement_id, "line": found.line_no}


def _find(conn: Connection, year: int, month: int) -> Period:
    from_zone = [p for p in periods.periods(conn) if _is(p, year, month)]
    if not from_zone:
        raise NotFound(f"The month {year}-{month:02d} was not opened.")
    return from_zone[0]


def _is(period: Period, year: int, month: int) -> bool:
    local = period.starts_at.astimezone(ZoneInfo(period.zone))
    return (local.year, local.month) == (year, month)


def zone_of(name: str) -> str:
    if name not in available_timezones():
        problem = Problem("/zone", f"{name!r} is no time zone.", "invalid", "Write it like Asia/Shanghai.")
        raise Invalid("That zone is not known.", problems=(problem,))
    return name


def _period(conn: Connection, p: Period) -> dict[str, Any]:
    return {
        "starts_at": views.stamp(p.starts_at), "ends_at": views.stamp(p.ends_at), "zone": p.zone, "state": p.state,
        "closed_at": views.stamp(p.closed_at), "seal": periods.seal_of(conn, p),
    }  # fmt: skip


def _adjustment(a: Any) -> dict[str, Any]:
    return {
        "id": a.id, "kind": a.kind, "project": a.project_id, "currency": a.currency,
        "amount": format_micro(a.amount_micro), "reason": a.reason, "state": a.decision or "waiting",
        "requested_by": a.requested_by, "decided_by": a.decided_by, "charge": a.charge_id,
    }  # fmt: skip
