"""Invoices and credit notes: who bills whom, issuing a month, reading and printing documents, why a line is there."""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Path, Query
from sqlalchemy import Connection, or_, select
from starlette.responses import Response

from accounting import organisations
from accounting.errors import InvoiceRefused
from accounting.invoicing import legal_entities
from accounting.invoicing import texts as invoice_texts
from accounting.invoicing.as_csv import invoice_csv
from accounting.invoicing.as_pdf import pdf
from accounting.invoicing.credit_notes import Credit
from accounting.invoicing.invoice import Document, LegalEntity
from accounting.invoicing.lines import charges_of_line
from accounting.invoicing.store import issue_credit_note, load
from accounting.invoicing.tax import TaxKind, TaxRule
from accounting.invoicing.unit_prices import steps_of
from accounting.minor_units import plain
from accounting.money import format_micro
from accounting.payments.bank_csv import minor_of
from accounting.payments.store import open_documents
from gateway.api import billing_schemas as schemas
from gateway.api import billing_views as views
from gateway.api import describe
from gateway.api.context import Admin, Body, IdemHeader, Svc, Who, Word, answer, read
from gateway.api.idempotency import Once
from gateway.api.paging import cursor_of, from_cursor
from gateway.billing.invoices import PROJECTS, bill_month, document_row, visible
from gateway.errors import Conflict, Invalid, NotFound, Problem
from gateway.jobs.views import stamp

router = APIRouter(tags=["billing"], prefix="/billing")

Number = Annotated[Word, Path(max_length=32)]
LineNumber = Annotated[int, Path(ge=1, le=2**31 - 1)]
Language = Annotated[Literal["en", "zh"] | None, Query(description="Default: the payer's")]
Limit = Annotated[int, Query(ge=1, le=500)]
_CURSOR = re.compile(r"c[0-9]{1,18}\Z")
_ALWAYS = datetime(1971, 1, 1, tzinfo=UTC)


# ---------------------------------------------------------------- who issues, who pays, by which rules


@router.get("/entities", **describe.route(schemas.Entities, refuses=(403,)))
def list_entities(services: Svc, _admin: Admin) -> Response:
    """Who issues and who pays invoices (operator)."""
    with services.db.read() as conn:
        return answer({"items": [views.entity_json(e, code) for e, code in legal_entities.entities(conn)]})


@router.post("/entities", **describe.route(schemas.Entity, status=201, body=schemas.EntityIn, refuses=(403, 409, 422)))
def save_entity(services: Svc, admin: Admin, body: Body, idempotency_key: IdemHeader = None) -> Response:
    """A legal entity, or its next revision (operator); documents keep the revision that they were issued with."""
    wanted = read(schemas.EntityIn, body)
    entity = LegalEntity(**wanted.model_dump(exclude={"tax_code"}))

    def make(conn: Connection) -> Mapping[str, Any]:
        try:
            organisations.save_entity(conn, entity, tax_code=wanted.tax_code, now=services.clock())
        except InvoiceRefused as exc:
            raise Conflict(str(exc)) from exc
        return views.entity_json(entity, wanted.tax_code)

    return answer(Once.of(admin, idempotency_key, "POST /billing/entities", body).made(services, make), 201)


@router.put("/projects/{name}/payer", **describe.route(
    schemas.Payer, body=schemas.PayerIn, refuses=(403, 404, 409, 422)
))  # fmt: skip
def set_payer(services: Svc, _admin: Admin, name: Word, body: Body) -> Response:
    """Who pays for a project, from a moment on (operator)."""
    wanted = read(schemas.PayerIn, body)
    now = services.clock()
    with services.db.write() as conn:
        project = conn.scalar(select(PROJECTS.c.id).where(or_(PROJECTS.c.name == name, PROJECTS.c.id == name)))
        if project is None:
            raise NotFound(f"There is no project {name!r}.")
        since = wanted.valid_from or _ALWAYS
        try:
            legal_entities.set_payer(conn, project_id=project, payer_id=wanted.payer, valid_from=since, now=now)
        except InvoiceRefused as exc:
            raise Conflict(str(exc)) from exc
        return answer({"project": name, "payer": legal_entities.payer_of(conn, project, now)})


@router.get("/tax-rules", **describe.route(schemas.TaxRules))
def list_tax_rules(services: Svc, _person: Who) -> Response:
    """Every tax rule with when it holds."""
    with services.db.read() as conn:
        return answer({"items": [views.tax_json(rule) for rule in legal_entities.tax_rules(conn)]})


@router.post("/tax-rules", **describe.route(
    schemas.TaxRule, status=201, body=schemas.TaxRuleIn, refuses=(403, 409, 422)
))  # fmt: skip
def add_tax_rule(services: Svc, admin: Admin, body: Body, idempotency_key: IdemHeader = None) -> Response:
    """A dated tax rule (operator); it ends the one of the same code that began before."""
    wanted = read(schemas.TaxRuleIn, body)
    fields = wanted.model_dump() | {"kind": TaxKind(wanted.kind)}
    try:
        rule = TaxRule(**fields)
    except ValueError as exc:
        raise Invalid(str(exc), problems=(Problem("/rate_ppm", str(exc), "invalid"),)) from exc

    def make(conn: Connection) -> Mapping[str, Any]:
        try:
            legal_entities.add_tax_rule(conn, rule, now=services.clock())
        except InvoiceRefused as exc:
            raise Conflict(str(exc), remedy="Give it another day to begin.") from exc
        return views.tax_json(rule)

    return answer(Once.of(admin, idempotency_key, "POST /billing/tax-rules", body).made(services, make), 201)


# ---------------------------------------------------------------- issuing


@router.post("/invoices", **describe.route(
    schemas.MonthBilled, body=schemas.BillMonthIn, refuses=(403, 404, 409, 422)
))  # fmt: skip
def bill(services: Svc, admin: Admin, body: Body) -> Response:
    """Bill a month that has ended (operator). What is billed already is not billed again: asking twice is safe."""
    wanted = read(schemas.BillMonthIn, body)
    try:
        found = bill_month(services, name=wanted.month, issuer_id=wanted.issuer, project=wanted.project,
                           sites=wanted.sites, by=admin.user_id, now=services.clock())  # fmt: skip
    except InvoiceRefused as exc:
        raise Conflict(str(exc)) from exc
    refused = [{"project": r.project, "why": r.why} for r in found.refused]
    return answer({"made": [views.made_json(d) for d in found.made], "refused": refused})


@router.post("/credit-notes", **describe.route(
    schemas.BillHead, status=201, body=schemas.CreditNoteIn, refuses=(403, 404, 409, 422)
))  # fmt: skip
def credit(services: Svc, admin: Admin, body: Body, idempotency_key: IdemHeader = None) -> Response:
    """Give back part of an invoice by a document of its own (operator)."""
    wanted = read(schemas.CreditNoteIn, body)

    def make(conn: Connection) -> Mapping[str, Any]:
        row = document_row(conn, admin, wanted.invoice)
        credits = [Credit(c.line, minor_in(c.net, row.currency, f"/credits/{n}/net"), c.charges)
                   for n, c in enumerate(wanted.credits)]  # fmt: skip
        try:
            made = issue_credit_note(conn, row.number, credits, reason=wanted.reason, now=services.clock())
        except InvoiceRefused as exc:
            raise Conflict(str(exc)) from exc
        return views.made_json(made)

    return answer(Once.of(admin, idempotency_key, "POST /billing/credit-notes", body).made(services, make), 201)


# ---------------------------------------------------------------- reading


@router.get("/invoices", **describe.route(schemas.Bills, refuses=(422,)))
def list_documents(
    services: Svc, person: Who, project: Word | None = None, kind: Literal["invoice", "credit_note"] | None = None,
    limit: Limit = 100, cursor: Word | None = None,
) -> Response:  # fmt: skip
    """Invoices and credit notes of projects whose bills I may see, the newest first."""
    after = from_cursor(cursor)
    with services.db.read() as conn:
        rows = visible(conn, person, project=project, kind=kind, after=after, limit=limit)
        left = {d.number: d.open_minor for d in open_documents(conn)} if rows else {}
    items = [views.head_json(r, r.project, None if r.corrects else left.get(r.number, 0)) for r in rows]
    return answer({"items": items, "next_cursor": cursor_of(rows[-1].number if len(rows) == limit else None)})


@router.get("/invoices/{number}", **describe.route(schemas.Bill, refuses=(404,)))
def show_document(services: Svc, person: Who, number: Number) -> Response:
    """One document as it was issued, and what is left to pay of it."""
    with services.db.read() as conn:
        row, doc = _document(conn, person, number)
        left = next((d.open_minor for d in open_documents(conn, number=number)), None)
    return answer(views.document_json(row, doc, None if doc.corrects else left))


@router.get("/invoices/{number}/pdf", **describe.route("application/pdf", refuses=(404,)))
def print_document(services: Svc, person: Who, number: Number, lang: Language = None) -> Response:
    """On paper, in English or Chinese."""
    with services.db.read() as conn:
        _, doc = _document(conn, person, number)
        steps = steps_of(conn, doc)
    made = pdf(doc, invoice_texts.language(lang or doc.payer.language), steps)
    headers = {"Content-Disposition": f'inline; filename="{doc.number}.pdf"', "X-Content-Type-Options": "nosniff"}
    return Response(made, 200, headers, media_type="application/pdf")


@router.get("/invoices/{number}/csv", **describe.route("text/csv", refuses=(404,)))
def table_document(services: Svc, person: Who, number: Number, lang: Language = None) -> Response:
    """Its lines as a table."""
    with services.db.read() as conn:
        _, doc = _document(conn, person, number)
    return csv_answer(invoice_csv(doc, invoice_texts.language(lang or doc.payer.language)), f"{doc.number}.csv")


@router.get("/invoices/{number}/snapshot", **describe.route("application/json", refuses=(404,)))
def snapshot(services: Svc, person: Who, number: Number) -> Response:
    """The kept text itself: its SHA-256 is the leaf in the transparency log."""
    with services.db.read() as conn:
        row = document_row(conn, person, number)
    return Response(row.snapshot.encode(), media_type="application/json")


@router.get("/invoices/{number}/lines/{line}/charges", **describe.route(schemas.BilledCharges, refuses=(404, 422)))
def why(
    services: Svc, person: Who, number: Number, line: LineNumber, limit: Limit = 100, cursor: Word | None = None
) -> Response:
    """Why a line is what it is: the runs on it, each with its arithmetic."""
    after = from_cursor(cursor)
    if after is not None and not _CURSOR.match(after):
        problem = Problem("/cursor", "This is no cursor of this list.", "invalid", "Start again without a cursor.")
        raise Invalid("The cursor is not valid.", problems=(problem,))
    with services.db.read() as conn:
        _, doc = _document(conn, person, number)
        found = next((x for x in doc.lines if x.number == line), None)
        if found is None:
            raise NotFound(f"{number} has no line {line}.")
        charges = charges_of_line(conn, doc, found, after=int(after[1:]) if after else 0, limit=limit)
    items = [
        {"kind": c.kind, "charge": c.id, "job": c.job_id, "run": c.run_key, "queue": c.queue, "state": c.state,
         "start": stamp(c.start), "end": stamp(c.end), "cores": c.cores, "core_seconds": c.core_seconds,
         "amount": format_micro(c.amount_micro), "rule": c.rule, "segments": [dict(s) for s in c.segments]}
        for c in charges
    ]  # fmt: skip
    return answer({"items": items, "next_cursor": cursor_of(f"c{charges[-1].id}" if len(charges) == limit else None)})


# ---------------------------------------------------------------- parts


def csv_answer(text: str, filename: str) -> Response:
    headers = {"Content-Disposition": f'attachment; filename="{filename}"', "X-Content-Type-Options": "nosniff"}
    return Response(("\ufeff" + text).encode(), 200, headers, media_type="text/csv; charset=utf-8")


def _document(conn: Connection, person: Any, number: str) -> tuple[Any, Document]:
    row = document_row(conn, person, number)
    doc = load(conn, number)
    assert doc is not None
    return row, doc


def minor_in(text: str, currency: str, pointer: str) -> int:
    """An amount of the request in the document's smallest coin."""
    try:
        return minor_of(text, currency)
    except ValueError as exc:
        remedy = f"Write it like {plain(1250, currency)}."
        raise Invalid(str(exc), problems=(Problem(pointer, str(exc), "invalid", remedy),)) from exc
