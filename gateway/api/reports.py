"""Reports, the operator's month, and exports."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from datetime import datetime
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Query
from sqlalchemy import Connection, select
from starlette.responses import Response

from accounting import csv_text
from accounting.calendar import Period, month
from accounting.exports import rows as export_rows
from accounting.exports.focus import focus_csv
from accounting.exports.general_ledger import beancount, hledger, journal_csv, trial_balance
from accounting.exports.ogf_ur import ogf_ur_xml
from accounting.invoicing.ageing import standings
from accounting.minor_units import plain
from accounting.money import format_micro
from accounting.reports.spending import By, Question, Spent, default_span
from gateway.api import billing_schemas as schemas
from gateway.api import billing_views as views
from gateway.api import describe
from gateway.api.context import Admin, Svc, Who, Word, answer
from gateway.api.invoices import csv_answer
from gateway.api.schemas import Instant
from gateway.billing.invoices import PROJECTS, USERS
from gateway.billing.reports import ids_of, month_view, plot, report
from gateway.errors import Forbidden, Invalid, NotFound, Problem
from gateway.identity.access import Person, Verb, can
from gateway.identity.vault import Opener
from gateway.jobs.views import stamp

router = APIRouter(tags=["billing"], prefix="/billing")

MonthName = Annotated[str | None, Query(pattern=r"^\d{4}-\d{2}$", description="Instead of `start` and `end`")]
Words = Annotated[list[Word] | None, Query(max_length=100)]
Zone = Annotated[Word, Query(max_length=64)]
At = Annotated[Instant | None, Query()]
ZONE = "Asia/Shanghai"


@router.get("/reports", **describe.route(schemas.SpentReport, refuses=(422,)))
def spend(
    services: Svc, person: Who, by: Annotated[list[By] | None, Query()] = None, month: MonthName = None,
    start: At = None, end: At = None, project: Words = None, site: Words = None, user: Words = None,
    as_of: At = None, zone: Zone = ZONE, format: Literal["json", "csv", "svg"] = "json",
    lang: Literal["en", "zh"] = "en",
) -> Response:  # fmt: skip
    """What was spent on runs and orders: the operator sees all, an owner the project, a centre's staff what ran and
    was ordered there, everybody their own work; also as CSV or plot."""
    try:
        first, last = _span(services.clock(), zone, month, start, end)
        with services.db.read() as conn:
            question = Question(
                tuple(by or (By.PROJECT,)), first, last, zone, ids_of(conn, project or [], PROJECTS),
                tuple(site or ()), ids_of(conn, user or [], USERS), as_of,
            )  # fmt: skip
            found = report(conn, person, question)
    except ValueError as exc:
        raise Invalid(str(exc), problems=(Problem("", str(exc), "invalid"),)) from exc
    names = [b.value for b in found.by]
    if format == "csv":
        rows = ((*r.keys, r.currency, r.runs, r.core_seconds, format_micro(r.amount_micro),
                 format_micro(r.provisional_micro), r.orders, format_micro(r.ordered_micro))
                for r in found.rows)  # fmt: skip
        header = (*names, "currency", "runs", "core_seconds", "amount", "provisional", "orders", "ordered")
        return csv_answer(csv_text.write(header, rows), "spend.csv")
    if format == "svg":
        title = f"{' / '.join(names)}, {first.date()} – {last.date()}"
        return _svg(plot(found, title, lang))
    return answer({
        "by": names, "start": stamp(first), "end": stamp(last), "as_of": stamp(as_of),
        "rows": [_row(r, names) for r in found.rows], "totals": [_row(r, []) for r in found.totals],
    })  # fmt: skip


@router.get("/months/{name}", **describe.route(schemas.MonthView, refuses=(403, 422)))
def show_month(services: Svc, _admin: Admin, name: Word, zone: Zone = ZONE) -> Response:
    """A month on one page (operator)."""
    wanted = _month(name, zone)
    now = services.clock()
    with services.db.read() as conn:
        found = month_view(conn, wanted, now)
    disputed: dict[str, int] = defaultdict(int)
    for d in found["disputes"]:
        disputed[d.currency] += d.amount_minor
    waiting: dict[str, int] = defaultdict(int)
    for r in found["unallocated"]:
        waiting[r.transaction.currency] += r.unallocated_minor
    return answer({
        "month": name,
        "charged": [_sum(c, n, m) for c, n, _, m in found["charged"]],
        "provisional": [_sum(c, n, m) for c, n, _, m in found["provisional"]],
        "not_billed": [_sum(c, n, m) for c, n, m in found["not_billed"]],
        "orders": [_beside(*x) for x in found["orders"]],
        "adjustments": [_beside(*x) for x in found["adjustments"]],
        "charged_again": [_beside(*x) for x in found["charged_again"]],
        "documents": [{"currency": c, "kind": kind, "count": n, "gross": plain(gross, c)}
                      for c, kind, n, gross in found["documents"]],
        "open": views.ageing_json(found["open"], standings(found["open"]))["invoices"],
        "disputed": [{"amount": plain(m, c), "currency": c} for c, m in sorted(disputed.items())],
        "disputes_overdue": sum(d.overdue(now) for d in found["disputes"]),
        "unallocated": [{"amount": plain(m, c), "currency": c} for c, m in sorted(waiting.items())],
    })  # fmt: skip


# ---------------------------------------------------------------- exports


@router.get("/exports/focus", **describe.route("text/csv", refuses=(403, 404, 422)))
def export_focus(
    services: Svc, person: Who, month: MonthName = None, start: At = None, end: At = None, project: Word | None = None,
    zone: Zone = ZONE,
) -> Response:  # fmt: skip
    """Documents issued in a span as FOCUS 1.0 (of my project; the operator: of all)."""
    first, last = _export_span(services.clock(), zone, month, start, end)
    with services.db.read() as conn:
        found = export_rows.documents(conn, first, last, project_id=_project(conn, person, project))
    return csv_answer(focus_csv(found), "focus.csv")


@router.get("/exports/ogf-ur", **describe.route("application/xml", refuses=(403, 404, 422)))
def export_usage_records(
    services: Svc, person: Who, month: MonthName = None, start: At = None, end: At = None, project: Word | None = None,
    zone: Zone = ZONE,
) -> Response:  # fmt: skip
    """Runs that ended in a span as Open Grid Forum usage records (of my project; the operator: of all)."""
    first, last = _export_span(services.clock(), zone, month, start, end)
    with services.db.read() as conn:
        runs = export_rows.charged_runs(
            conn, first, last, people=_names(conn, USERS), projects=_names(conn, PROJECTS),
            project_id=_project(conn, person, project), whole=Opener(services, conn),
        )  # fmt: skip
    text = '<?xml version="1.0" encoding="UTF-8"?>\n' + ogf_ur_xml(runs, created=services.clock())
    headers = {"Content-Disposition": 'attachment; filename="usage-records.xml"', "X-Content-Type-Options": "nosniff"}
    return Response(text.encode(), 200, headers, media_type="application/xml")


@router.get("/exports/general-ledger", **describe.route("text/csv", refuses=(403, 422)))
def export_ledger(
    services: Svc, _admin: Admin, month: MonthName = None, start: At = None, end: At = None, zone: Zone = ZONE,
    format: Literal["csv", "balances", "beancount", "hledger"] = "csv",
) -> Response:  # fmt: skip
    """The journal of a span for an auditor: CSV, a trial balance, or a beancount or hledger file (operator)."""
    first, last = _export_span(services.clock(), zone, month, start, end)
    with services.db.read() as conn:
        lines = export_rows.journal(conn, first, last)
        opening = export_rows.opening_balances(conn, first) if format == "balances" else {}
    if format == "csv":
        return csv_answer(journal_csv(lines), "journal.csv")
    if format == "balances":
        return csv_answer(trial_balance(lines, opening), "balances.csv")
    text = beancount(lines) if format == "beancount" else hledger(lines)
    headers = {"Content-Disposition": f'attachment; filename="ledger.{format}"', "X-Content-Type-Options": "nosniff"}
    return Response(text.encode(), 200, headers, media_type="text/plain; charset=utf-8")


# ---------------------------------------------------------------- parts


def _span(
    now: datetime, zone: str, name: str | None, start: datetime | None, end: datetime | None
) -> tuple[datetime, datetime]:
    """The month, or [start, end); what is missing comes from the month that runs. ValueError for nonsense."""
    if name is not None:
        found = _month(name, zone)
        return found.start, found.end
    try:
        first, last = default_span(now, zone)
    except (KeyError, OSError) as exc:
        raise ValueError(f"{zone!r} is no time zone like Asia/Shanghai") from exc
    return start or min(first, end or first), end or max(last, start or last)


def _export_span(
    now: datetime, zone: str, name: str | None, start: datetime | None, end: datetime | None
) -> tuple[datetime, datetime]:
    try:
        first, last = _span(now, zone, name, start, end)
    except ValueError as exc:
        raise Invalid(str(exc), problems=(Problem("", str(exc), "invalid"),)) from exc
    if last <= first:
        problem = Problem("/end", "It is not after `start`.", "invalid")
        raise Invalid("The span ends before it begins.", problems=(problem,))
    return first, last


def _month(name: str, zone: str) -> Period:
    try:
        return month(name, zone)
    except (ValueError, KeyError, OSError) as exc:
        problem = Problem("/month", str(exc), "invalid", "Write a month like 2026-11 and a zone like Asia/Shanghai.")
        raise Invalid("There is no such month.", problems=(problem,)) from exc


def _project(conn: Connection, person: Person, name: str | None) -> str | None:
    """The project whose books may be exported; None (all of them) is for the operator."""
    if name is None:
        if not can(person, Verb.OPERATE):
            raise Forbidden("Name the project whose books you want.", remedy="Add ?project=NAME.")
        return None
    found = conn.scalar(select(PROJECTS.c.id).where((PROJECTS.c.name == name) | (PROJECTS.c.id == name)))
    if found is None or not can(person, Verb.SEE_BILL, ("project", found)):
        raise NotFound(f"There is no project {name!r} whose bills you may see.")
    return str(found)


def _names(conn: Connection, table: Any) -> Mapping[str, str]:
    return {r.id: r.name for r in conn.execute(select(table.c.id, table.c.name))}


def _row(r: Spent, names: list[str]) -> dict[str, Any]:
    return {
        "keys": dict(zip(names, r.keys, strict=True)), "currency": r.currency, "runs": r.runs,
        "core_seconds": r.core_seconds, "amount": format_micro(r.amount_micro),
        "provisional": format_micro(r.provisional_micro), "orders": r.orders, "ordered": format_micro(r.ordered_micro),
    }  # fmt: skip


def _sum(currency: str, runs: int, micro: int) -> dict[str, Any]:
    return {"currency": currency, "runs": runs, "amount": format_micro(micro)}


def _beside(currency: str, count: int, micro: int, left: int) -> dict[str, Any]:
    return {"currency": currency, "count": count, "amount": format_micro(micro), "not_billed": format_micro(left)}


def _svg(text: str) -> Response:
    headers = {
        "X-Content-Type-Options": "nosniff",
        "Content-Security-Policy": "default-src 'none'; style-src 'unsafe-inline'",
    }
    return Response(text.encode(), 200, headers, media_type="image/svg+xml")
