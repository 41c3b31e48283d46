"""Payments, what is owed, and disputes of a line."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Mapping
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Path, Query
from sqlalchemy import Connection, select
from starlette.responses import Response

from accounting.errors import AccountingError, PaymentRefused
from accounting.invoicing import dispute_store
from accounting.invoicing.ageing import aged, standings
from accounting.invoicing.credit_requests import CreditWanted, disputed_credit, request_credit
from accounting.invoicing.dispute_store import Evidence, disputed_minor, raise_dispute, take
from accounting.invoicing.disputes import Dispute, DisputeState, Side, Step, advance
from accounting.minor_units import plain
from accounting.payments.bank_csv import CsvProfile, read_csv
from accounting.payments.camt import read_camt
from accounting.payments.payment import BankStatement
from accounting.payments.store import allocate_by_hand, find, open_documents, received
from accounting.payments.top_up_store import match_by_hand
from accounting.payments.top_up_undo import Undo, decide_undo, request_undo, undos
from accounting.store.schema import PAYMENTS
from accounting.store.settled import DOCUMENTS
from gateway.api import billing_models as models
from gateway.api import billing_schemas as schemas
from gateway.api import billing_views as views
from gateway.api import describe, payment_schemas
from gateway.api.billing import four_eyes_micro
from gateway.api.context import Admin, Body, IdemHeader, Svc, Who, Word, answer, read
from gateway.api.idempotency import Once
from gateway.api.invoices import minor_in
from gateway.api.schemas import Instant
from gateway.billing.bank import import_file
from gateway.billing.invoices import PROJECTS, document_row
from gateway.errors import Conflict, Forbidden, Invalid, NotFound, Problem
from gateway.identity.access import Person, Verb, can
from gateway.ids import new_id
from gateway.jobs.views import stamp

router = APIRouter(tags=["billing"], prefix="/billing")

TransactionId = Annotated[int, Path(ge=1, le=2**31 - 1)]
At = Annotated[Instant | None, Query()]
DisputeId = Annotated[Word, Path(max_length=32)]


# ---------------------------------------------------------------- payments


@router.post("/payments-import", **describe.route(
    payment_schemas.PaymentsImported, body=payment_schemas.PaymentsIn, refuses=(403, 409, 413, 422)
))  # fmt: skip
def import_bank_file(services: Svc, _admin: Admin, body: Body) -> Response:
    """Import a bank's file (operator): all of it, or with any problem nothing. The same file again imports nothing."""
    wanted = read(payment_schemas.PaymentsIn, body)
    statement = _statement(wanted)
    problems = [{"where": p.where, "why": p.why} for p in statement.problems[:100]]
    found = {"new": 0, "known": 0, "unallocated": 0, "top_ups": 0, "proposed": 0, "allocated": []}
    if not problems and not wanted.dry_run:
        try:
            done = import_file(services, _document(wanted), statement.transactions, format_name=wanted.format,
                               now=services.clock())  # fmt: skip
        except PaymentRefused as exc:
            raise Conflict(str(exc)) from exc
        sums = [{"amount": plain(minor, c), "currency": c} for c, minor in sorted(done.allocated_minor.items())]
        found = {"new": done.new, "known": done.known, "unallocated": done.unallocated, "top_ups": done.top_ups,
                 "proposed": done.proposed, "allocated": sums}  # fmt: skip
    elif not problems:
        found["new"] = len(statement.transactions)
    left_out = [views.left_out_json(x) for x in statement.left_out[:100]]
    return answer(found | {"left_out": len(statement.left_out), "left_out_lines": left_out, "problems": problems})


@router.get("/payments", **describe.route(payment_schemas.Payments, refuses=(403,)))
def list_payments(services: Svc, _admin: Admin, unallocated: bool = False) -> Response:
    """What came in, the newest first (operator); `unallocated`: only what is not matched to the last coin."""
    with services.db.read() as conn:
        return answer({"items": [views.payment_json(r) for r in received(conn, only_unallocated=unallocated)]})


@router.post("/payments/{transaction_id}/allocate", **describe.route(
    payment_schemas.Payment, body=payment_schemas.AllocateIn, refuses=(403, 404, 409, 422)
))  # fmt: skip
def allocate(
    services: Svc, admin: Admin, transaction_id: TransactionId, body: Body, idempotency_key: IdemHeader = None
) -> Response:
    """Match money to an invoice by hand, or take it back with a negative amount (operator)."""
    wanted = read(payment_schemas.AllocateIn, body)

    def make(conn: Connection) -> Mapping[str, Any]:
        before = find(conn, transaction_id)
        if before is None:
            raise NotFound(f"There is no payment {transaction_id}.")
        minor = minor_in(wanted.amount, before.transaction.currency, "/amount")
        try:
            after = allocate_by_hand(conn, transaction_id, wanted.invoice, minor, by=admin.name, now=services.clock())
        except PaymentRefused as exc:
            raise Conflict(str(exc)) from exc
        return views.payment_json(after)

    once = Once.of(admin, idempotency_key, f"POST /billing/payments/{transaction_id}/allocate", body)
    return answer(once.made(services, make))


@router.post("/payments/{transaction_id}/top-up", **describe.route(
    payment_schemas.Payment, body=payment_schemas.MatchIn, refuses=(403, 404, 409, 422)
))  # fmt: skip
def match_top_up(
    services: Svc, admin: Admin, transaction_id: TransactionId, body: Body, idempotency_key: IdemHeader = None
) -> Response:
    """Say that imported money is that of a top-up which was recorded by hand (operator): it is booked once."""
    wanted = read(payment_schemas.MatchIn, body)

    def make(conn: Connection) -> Mapping[str, Any]:
        try:
            match_by_hand(conn, transaction_id, wanted.top_up, by=admin.name, now=services.clock())
        except PaymentRefused as exc:
            raise Conflict(str(exc)) from exc
        after = find(conn, transaction_id)
        assert after is not None
        return views.payment_json(after)

    once = Once.of(admin, idempotency_key, f"POST /billing/payments/{transaction_id}/top-up", body)
    return answer(once.made(services, make))


@router.post("/top-ups/{top_up}/unmatch", **describe.route(
    models.Outcome, status=201, body=payment_schemas.UnmatchIn, refuses=(403, 409, 422)
))  # fmt: skip
def unmatch_top_up(
    services: Svc, admin: Admin, top_up: Word, body: Body, idempotency_key: IdemHeader = None
) -> Response:
    """Take the match of a top-up with imported money back (operator): it waits for its own money again.

    Above the agreements' threshold a second operator decides.
    """
    wanted = read(payment_schemas.UnmatchIn, body)
    now = services.clock()

    def make(conn: Connection) -> Mapping[str, Any]:
        asked = Undo(new_id("u", now), top_up, wanted.reason, admin.user_id)
        currency = conn.scalar(select(PAYMENTS.c.currency).where(PAYMENTS.c.id == top_up)) or ""
        threshold = four_eyes_micro(conn, currency=currency, now=now)
        try:
            state = request_undo(conn, asked, four_eyes_micro=threshold, now=now)
        except PaymentRefused as exc:
            raise Conflict(str(exc)) from exc
        return {"id": asked.id, "state": state}

    once = Once.of(admin, idempotency_key, f"POST /billing/top-ups/{top_up}/unmatch", body)
    return answer(once.made(services, make), 201)


@router.get("/unmatches", **describe.route(payment_schemas.Unmatches, refuses=(403,)))
def list_unmatches(services: Svc, _admin: Admin) -> Response:
    """Matches of top-ups that somebody takes back, newest first, and what was decided (operator)."""
    with services.db.read() as conn:
        return answer({"items": [views.unmatch_json(r) for r in undos(conn)]})


@router.post("/unmatches/{unmatch}/decide", **describe.route(
    models.Outcome, body=models.DecisionIn, refuses=(403, 409, 422)
))  # fmt: skip
def decide_unmatch(services: Svc, admin: Admin, unmatch: Word, body: Body) -> Response:
    """Carry out or refuse what another operator asked for."""
    wanted = read(models.DecisionIn, body)
    with services.db.write() as conn:
        try:
            state = decide_undo(conn, unmatch, approve=wanted.approve, by=admin.user_id, now=services.clock())
        except PaymentRefused as exc:
            raise Conflict(str(exc)) from exc
    return answer({"id": unmatch, "state": state})


@router.get("/ageing", **describe.route(schemas.Ageing, refuses=(403,)))
def show_ageing(services: Svc, _admin: Admin, as_of: At = None) -> Response:
    """What is owed, by payer and age; what is in dispute stands apart and is not dunned (operator). `as_of`: as the
    books stood then, and as old as it was then."""
    with services.db.read() as conn:
        documents, held = open_documents(conn, as_of=as_of), disputed_minor(conn, as_of=as_of)
    found = aged(documents, held, as_of or services.clock())
    return answer(views.ageing_json(found, standings(found)) | {"as_of": stamp(as_of)})


# ---------------------------------------------------------------- disputes


@router.post("/disputes", **describe.route(
    schemas.Dispute, status=201, body=schemas.DisputeIn, refuses=(404, 409, 422)
))  # fmt: skip
def dispute(services: Svc, person: Who, body: Body, idempotency_key: IdemHeader = None) -> Response:
    """Dispute a line of my project's invoice (its owner): the amount leaves dunning, the operator owes an answer."""
    wanted = read(schemas.DisputeIn, body)
    now = services.clock()

    def make(conn: Connection) -> Mapping[str, Any]:
        document_row(conn, person, wanted.invoice, Verb.DISPUTE_BILL)
        try:
            made = raise_dispute(
                conn, dispute_id=new_id("d", now), invoice=wanted.invoice, line=wanted.line, reason=wanted.reason,
                by=person.name, evidence=[Evidence(e.name, e.sha256) for e in wanted.evidence],
                charges=wanted.charges, now=now,
            )  # fmt: skip
        except AccountingError as exc:
            raise Conflict(str(exc)) from exc
        return views.dispute_json(conn, made, now)

    return answer(Once.of(person, idempotency_key, "POST /billing/disputes", body).made(services, make), 201)


@router.get("/disputes", **describe.route(schemas.Disputes, refuses=(422,)))
def list_disputes(
    services: Svc, person: Who, project: Word | None = None, site: Word | None = None,
    state: Literal["open", "with_centre", "credited", "rejected", "withdrawn"] | None = None,
) -> Response:  # fmt: skip
    """Disputes of my projects' invoices, or of my centre's work; the oldest first."""
    now = services.clock()
    with services.db.read() as conn:
        ids = {r.name: r.id for r in conn.execute(select(PROJECTS.c.name, PROJECTS.c.id))}
        found = dispute_store.disputes(
            conn, project_id=ids.get(project, project) if project else None, site_id=site,
            state=DisputeState(state) if state else None,
        )  # fmt: skip
        seen = [views.dispute_json(conn, d, now) for d in found if _sides(conn, person, d) or _may_see(conn, person, d)]
    return answer({"items": seen})


@router.get("/disputes/{dispute_id}", **describe.route(schemas.Dispute, refuses=(404,)))
def show_dispute(services: Svc, person: Who, dispute_id: DisputeId) -> Response:
    """One dispute with every step."""
    with services.db.read() as conn:
        found = _dispute(conn, person, dispute_id)
        return answer(views.dispute_json(conn, found, services.clock()))


@router.post("/disputes/{dispute_id}/{step}", **describe.route(
    schemas.Dispute, body=schemas.DisputeStepIn, refuses=(403, 404, 409, 422)
))  # fmt: skip
def step_dispute(
    services: Svc, person: Who, dispute_id: DisputeId,
    step: Annotated[Literal["comment", "pass_on", "centre_answer", "credit", "reject", "withdraw"], Path()],
    body: Body, idempotency_key: IdemHeader = None,
) -> Response:  # fmt: skip
    """The next step: payer comments or withdraws; operator passes on, credits or rejects; the centre answers."""
    wanted = read(schemas.DisputeStepIn, body)
    now = services.clock()

    def make(conn: Connection) -> Mapping[str, Any]:
        before = _dispute(conn, person, dispute_id)
        net = None if wanted.net is None else minor_in(wanted.net, before.currency, "/net")
        evidence = [Evidence(e.name, e.sha256) for e in wanted.evidence]
        sides = _sides(conn, person, before)
        if not sides:
            raise Forbidden("You see this dispute, and take no part in it.")
        try:
            if step == "credit" and Side.OPERATOR in sides:
                after = _credited(conn, person, before, wanted.text, evidence, net, wanted.charges, now)
            else:
                after = _take(
                    conn, dispute_id, Step(step), sides, person.name, wanted.text, evidence, net, wanted.charges, now
                )
        except AccountingError as exc:
            raise Conflict(str(exc)) from exc
        return views.dispute_json(conn, after, now)

    once = Once.of(person, idempotency_key, f"POST /billing/disputes/{dispute_id}/{step}", body)
    return answer(once.made(services, make))


# ---------------------------------------------------------------- parts


def _credited(
    conn: Connection, person: Person, before: Dispute, text: str, evidence: list[Evidence], net: int | None,
    charges: tuple[int, ...], now: Any,
) -> Dispute:  # fmt: skip
    """End it with a credit note; of much it stays as it is, with a comment, until a second operator has decided."""
    advance(before.state, Step.CREDIT, Side.OPERATOR)
    invoice, given = disputed_credit(conn, before.id, net, charges)
    reason = text or f"dispute {before.id}: {before.reason}"
    asked = CreditWanted(new_id("n", now), invoice, [given], reason, person.user_id, before.id, text, person.name,
                         evidence)  # fmt: skip
    threshold = four_eyes_micro(conn, currency=before.currency, now=now)
    state, _ = request_credit(conn, asked, four_eyes_micro=threshold, now=now)
    if state == "waiting":
        said = f"credit note {asked.id} asked for: it waits for a second operator"
        take(conn, before.id, Step.COMMENT, side=Side.OPERATOR, by=person.name, text=said, now=now)
    found = dispute_store.find(conn, before.id)
    assert found is not None
    return found


def _take(
    conn: Connection, dispute_id: str, step: Step, sides: list[Side], by: str, text: str, evidence: list[Evidence],
    net: int | None, charges: tuple[int, ...], now: Any,
) -> Dispute:  # fmt: skip
    """As the first side of the person's that may: an operator who owns the project still rejects as the operator."""
    for side in sides[:-1]:
        try:
            with conn.begin_nested():
                return take(conn, dispute_id, step, side=side, by=by, text=text, evidence=evidence,
                            credit_net_minor=net, charges=charges, now=now)  # fmt: skip
        except AccountingError:
            continue
    return take(conn, dispute_id, step, side=sides[-1], by=by, text=text, evidence=evidence, credit_net_minor=net,
                charges=charges, now=now)  # fmt: skip


def _sides(conn: Connection, person: Person, found: Dispute) -> list[Side]:
    """On which sides a person stands."""
    project = conn.scalar(select(DOCUMENTS.c.project_id).where(DOCUMENTS.c.number == found.invoice))
    sides = []
    if can(person, Verb.OPERATE):
        sides.append(Side.OPERATOR)
    if can(person, Verb.DISPUTE_BILL, ("project", str(project))):
        sides.append(Side.PAYER)
    if found.state is DisputeState.WITH_CENTRE and can(person, Verb.ANSWER_DISPUTE, ("site", found.site_id)):
        sides.append(Side.CENTRE)
    return sides


def _may_see(conn: Connection, person: Person, found: Dispute) -> bool:
    """Those who see the bill; a centre from the moment that it is asked."""
    project = conn.scalar(select(DOCUMENTS.c.project_id).where(DOCUMENTS.c.number == found.invoice))
    asked = any(e.state is DisputeState.WITH_CENTRE for e in dispute_store.events(conn, found.id))
    return can(person, Verb.SEE_BILL, ("project", str(project))) or (
        asked and can(person, Verb.SEE_SITE, ("site", found.site_id))
    )


def _dispute(conn: Connection, person: Person, dispute_id: str) -> Dispute:
    found = dispute_store.find(conn, dispute_id)
    if found is None or not (_sides(conn, person, found) or _may_see(conn, person, found)):
        raise NotFound(f"There is no dispute {dispute_id!r} that you may see.")
    return found


def _document(wanted: payment_schemas.PaymentsIn) -> bytes:
    """The bank's file, byte for byte."""
    if bool(wanted.content) == bool(wanted.content_base64):
        problem = Problem("/content", "Give either `content` or `content_base64`.", "required")
        raise Invalid("Where is the file?", problems=(problem,))
    try:
        if not wanted.content_base64:
            return wanted.content.encode()
        return base64.b64decode(wanted.content_base64, validate=True)
    except (binascii.Error, ValueError) as exc:
        raise Invalid("The file is no base64.", problems=(Problem("/content_base64", str(exc), "invalid"),)) from exc


def _profile(wanted: payment_schemas.CsvProfileIn) -> CsvProfile:
    said = wanted.model_dump(exclude_none=True)
    return CsvProfile(**said | ({"return_words": tuple(words)} if (words := said.get("return_words")) else {}))


def _statement(wanted: payment_schemas.PaymentsIn) -> BankStatement:
    data = _document(wanted)
    if wanted.format == "csv" and wanted.profile is None:
        problem = Problem("/profile", "A CSV needs a profile that names its columns.", "required")
        raise Invalid("How is the CSV written?", problems=(problem,))
    try:
        if wanted.profile is not None and wanted.format == "csv":
            return read_csv(data, _profile(wanted.profile))
        return read_camt(data)
    except PaymentRefused as exc:
        raise Invalid(str(exc), problems=(Problem("/content", str(exc), "invalid"),)) from exc
