"""Settlements with centres: what will you pay me, sign here; and the exchange rates for them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

from fastapi import APIRouter, Query
from sqlalchemy import Connection, select
from sqlalchemy.exc import IntegrityError
from starlette.responses import Response, StreamingResponse

from accounting.money import parse_amount
from accounting.settle import Rate
from accounting.store import settlements
from accounting.store.schema import PARTIES
from gateway.api import describe, proof_answers
from gateway.api.context import Admin, Body, IdemHeader, Svc, Who, Word, answer, read
from gateway.api.idempotency import Once
from gateway.api.schemas import PayoutIn, RateIn, SettlementIn, SignIn, WithdrawIn
from gateway.billing import settle
from gateway.errors import Conflict, Invalid, Problem

router = APIRouter(prefix="/billing", tags=["settlements"])

Seen = Annotated[int | None, Query(ge=0, le=2**62, description="The size of a checkpoint that one has kept")]


@router.get("/settlements", **describe.route(proof_answers.Settlements))
def list_settlements(services: Svc, person: Who) -> Response:
    """The statements that I may see (operator, a centre's staff), newest first."""
    with services.db.read() as conn:
        found = settle.listed(conn, person)
        names = _names(conn)
    return answer({"items": [settle.settlement_json(s) | {"centre_name": names.get(s.centre_id, "")} for s in found]})


@router.post("/settlements", **describe.route(
    proof_answers.Settlement, status=201, body=SettlementIn, refuses=(403, 404, 409, 422)
))  # fmt: skip
def draw(services: Svc, admin: Admin, body: Body, idempotency_key: IdemHeader = None) -> Response:
    """Draw the statement of a centre for a period, signed by the operator (operator)."""
    wanted = read(SettlementIn, body)
    if wanted.since >= wanted.until:
        problem = Problem("/until", "A period ends after it begins.", "invalid")
        raise Invalid("The period cannot be read.", problems=(problem,))
    disputed = {d.entry: d.reason for d in wanted.disputed}

    once, now = Once.of(admin, idempotency_key, "POST /billing/settlements", body), services.clock()
    if (before := once.known(services)) is not None:
        return answer(before, 201)
    prepared = settle.prepare(services, centre_id=wanted.centre, start=wanted.since, end=wanted.until,
                              disputed=disputed, now=now)  # fmt: skip

    def make(conn: Connection) -> Mapping[str, Any]:
        return settle.settlement_json(settle.draw(services, conn, prepared, now=now))

    return answer(once.made(services, make), 201)


@router.get("/settlements/{settlement_id}", **describe.route(proof_answers.SignedStatement, refuses=(404,)))
def show(services: Svc, person: Who, settlement_id: Word) -> Response:
    """A statement in full, with its signatures."""
    with services.db.read() as conn:
        found = settle.visible(conn, person, settlement_id)
        return answer(settle.settlement_json(found) | settle.statement_json(found) | {
            "centre_name": _names(conn).get(found.centre_id, ""), "keys": settle.signers(conn, found)
        })  # fmt: skip


@router.get("/settlements/{settlement_id}/statement", **describe.route("application/json", refuses=(404,)))
def statement(services: Svc, person: Who, settlement_id: Word) -> Response:
    """The canonical bytes that both sides sign."""
    with services.db.read() as conn:
        return Response(settle.visible(conn, person, settlement_id).statement, media_type="application/json")


@router.get("/settlements/{settlement_id}/bundle", **describe.route("application/x-ndjson", refuses=(404, 409)))
def bundle(services: Svc, person: Who, settlement_id: Word, seen: Seen = None) -> Response:
    """Everything that the independent verifier needs to add the statement up again from the raw records."""
    with services.db.read() as conn:
        found = settle.visible(conn, person, settlement_id)
    lines = settle.lines(services, found, seen, services.clock())
    return StreamingResponse(lines, media_type="application/x-ndjson")


@router.post("/settlements/{settlement_id}/sign", **describe.route(
    proof_answers.Settlement, body=SignIn, refuses=(403, 404, 409, 422)
))  # fmt: skip
def sign(services: Svc, person: Who, settlement_id: Word, body: Body) -> Response:
    """Counter-sign for the centre (its staff): with this it is agreed and booked."""
    wanted = read(SignIn, body)
    with services.db.write() as conn:
        done = settle.countersign(services, conn, person, settlement_id, wanted.jws, services.clock())
        return answer(settle.settlement_json(done))


@router.post("/settlements/{settlement_id}/withdraw", **describe.route(
    proof_answers.Settlement, body=WithdrawIn, refuses=(403, 404, 409, 422)
))  # fmt: skip
def withdraw(services: Svc, person: Who, settlement_id: Word, body: Body) -> Response:
    """Take a statement back (operator), or object to it (the centre's staff), before both have signed."""
    wanted = read(WithdrawIn, body)
    with services.db.write() as conn:
        return answer(settle.settlement_json(
            settle.withdraw(conn, person, settlement_id, wanted.reason, services.clock())
        ))  # fmt: skip


@router.post("/settlements/{settlement_id}/payments", **describe.route(
    proof_answers.Settlement, status=201, body=PayoutIn, refuses=(403, 404, 409, 422)
))  # fmt: skip
def pay(services: Svc, admin: Admin, settlement_id: Word, body: Body, idempotency_key: IdemHeader = None) -> Response:
    """Record money that was paid to the centre (operator)."""
    wanted = read(PayoutIn, body)

    def make(conn: Connection) -> Mapping[str, Any]:
        return settle.settlement_json(settle.pay(
            conn, settlement_id, amount=parse_amount(wanted.amount),
            cost=None if wanted.cost is None else parse_amount(wanted.cost), reference=wanted.reference,
            paid_at=wanted.paid_at or services.clock(), now=services.clock(),
        ))  # fmt: skip

    once = Once.of(admin, idempotency_key, f"POST /billing/settlements/{settlement_id}/payments", body)
    return answer(once.made(services, make), 201)


@router.post("/fx-rates", **describe.route(proof_answers.FxRate, status=201, body=RateIn, refuses=(403, 409, 422)))
def add_rate(services: Svc, admin: Admin, body: Body, idempotency_key: IdemHeader = None) -> Response:
    """Keep a dated exchange rate as a ratio of integers, with its source (operator)."""
    wanted = read(RateIn, body)
    try:
        rate = Rate(wanted.base, wanted.quote, wanted.day, wanted.num, wanted.den, wanted.source)
    except ValueError as exc:
        raise Invalid(str(exc), problems=(Problem("/quote", str(exc), "invalid"),)) from exc

    def make(conn: Connection) -> Mapping[str, Any]:
        settlements.add_rate(conn, rate, now=services.clock())
        return wanted.model_dump(mode="json")

    try:
        return answer(Once.of(admin, idempotency_key, "POST /billing/fx-rates", body).made(services, make), 201)
    except IntegrityError as exc:
        raise Conflict("That source's rate of that day is kept already.") from exc


def _names(conn: Connection) -> dict[str, str]:
    """The legal names of parties by their ids."""
    return {r.id: r.legal_name for r in conn.execute(select(PARTIES.c.id, PARTIES.c.legal_name))}
