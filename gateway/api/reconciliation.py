"""Centres' statements, comparisons and breaks: what a centre bills, where it differs, and who settles it how."""

from __future__ import annotations

import base64
import binascii
import re
import zlib
from collections.abc import Mapping
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Path, Query
from sqlalchemy import Connection
from sqlalchemy.exc import IntegrityError
from starlette.responses import Response

from accounting.calendar import month
from accounting.money import format_micro, parse_amount
from accounting.reconciling import store as recon_store
from accounting.reconciling.breaks import Act, Category, Refused, State
from accounting.reconciling.statement import Header
from accounting.reconciling.statement_formats import Profile, Unreadable
from accounting.reconciling.statement_store import signer_of, statement_problems, statement_row, statements
from accounting.reconciling.store import BreakNow
from accounting.reconciling.terms import Narrower
from gateway.api import describe
from gateway.api import recon_schemas as schemas
from gateway.api.context import Admin, Body, LongBody, Svc, Who, Word, answer, read
from gateway.api.paging import cursor_of, from_cursor
from gateway.billing import reconcile
from gateway.billing.names import Names
from gateway.billing.recon_rules import rules_for
from gateway.errors import Conflict, Forbidden, Invalid, NotFound, Problem
from gateway.identity.access import Person, Verb, can
from gateway.jobs.views import stamp
from gateway.services import Services

router = APIRouter(tags=["billing"], prefix="/billing")

Number = Annotated[int, Path(ge=1, le=2**31 - 1)]
Period = Annotated[str, Query(pattern=r"^\d{4}-\d{2}$")]
_CURSOR = re.compile(r"b[0-9]{1,18}\Z")
_UNPACKED = 4  # times as long as a body may be is what was packed in it
_ACTS = Literal["propose", "countersign", "dispute", "reopen"]


# ---------------------------------------------------------------- statements


@router.get("/statements", **describe.route(schemas.StatementHeads))
def list_statements(services: Svc, person: Who, site: Word | None = None, period: Period | None = None) -> Response:
    """What centres have billed, with what is still open of it (operator: all; centre staff: their own)."""
    with services.db.read() as conn:
        rows = statements(conn, site_ids=_sites(services, person, site), period=period or "")
        return answer({"items": [_statement(services, conn, row) for row in rows]})


@router.post("/statements", **describe.route(
    schemas.StatementReceived, body=schemas.StatementIn, refuses=(403, 413, 422)
))  # fmt: skip
def receive_statement(services: Svc, person: Who, body: LongBody) -> Response:
    """A centre's statement (its staff, or the operator). The same bytes again are the same statement."""
    wanted = read(schemas.StatementIn, body)
    _must(services, person, wanted.site, Verb.BILL_SITE)
    try:
        profile = Profile(**wanted.profile.model_dump()) if wanted.profile is not None else None
        got = reconcile.receive(
            services, _content(wanted, services.settings.statement_bytes_max), site_id=wanted.site,
            period=wanted.period, currency=wanted.currency, format_name=wanted.format, by=person.name,
            profile=profile, totals=_totals(wanted), signature=wanted.signature.encode() or None,
        )  # fmt: skip
    except (Unreadable, ValueError, KeyError) as exc:
        raise Invalid(
            str(exc), problems=(Problem("/content", str(exc), "unreadable", "Check format and profile."),)
        ) from exc
    with services.db.read() as conn:
        shown = _received(services, conn, got.statement_id) | {"new": got.new, "findings": list(got.findings)}
    return answer(shown)


@router.get("/statements/{number}", **describe.route(schemas.StatementReceived, refuses=(404,)))
def show_statement(services: Svc, person: Who, number: Number) -> Response:
    """One statement, with every line that could not be read."""
    with services.db.read() as conn:
        row = _statement_row(services, conn, person, number)
        return answer(_received(services, conn, row.id) | {"new": False, "findings": []})


# ---------------------------------------------------------------- comparisons


@router.post("/reconciliations", **describe.route(
    schemas.ReconciliationDone, body=schemas.ReconcileIn, refuses=(403, 404, 409, 422)
))  # fmt: skip
def compare(services: Svc, admin: Admin, body: Body) -> Response:
    """Compare a statement with the books by the signed agreement (operator); what that lets stand is posted, once."""
    wanted = read(schemas.ReconcileIn, body)
    with services.db.read() as conn:
        row = _statement_row(services, conn, admin, wanted.statement)
        rules = rules_for(conn, row, _narrower(wanted), now=services.clock())
    try:
        done = reconcile.reconcile(services, row.id, rules=rules, by=admin.name)
    except Refused as exc:
        raise Conflict(str(exc)) from exc
    with services.db.read() as conn:
        made = next(
            r for r in recon_store.reconciliations(conn, site_ids=[row.site_id]) if r.id == done.reconciliation_id
        )
    return answer(_reconciliation(made) | {"posted": done.posted})


@router.get("/reconciliations", **describe.route(schemas.Reconciliations))
def list_reconciliations(
    services: Svc, person: Who, site: Word | None = None, period: Period | None = None
) -> Response:
    """Comparisons made, with the rules they were made by."""
    with services.db.read() as conn:
        rows = recon_store.reconciliations(conn, site_ids=_sites(services, person, site), period=period or "")
        return answer({"items": [_reconciliation(row) for row in rows]})


# ---------------------------------------------------------------- breaks


@router.get("/breaks", **describe.route(schemas.Breaks))
def list_breaks(
    services: Svc, person: Who, site: Word | None = None, period: Period | None = None, state: State | None = None,
    limit: Annotated[int, Query(ge=1, le=500)] = 100, cursor: Word | None = None,
) -> Response:  # fmt: skip
    """Differences, oldest first, with their money and age."""
    after = from_cursor(cursor)
    if after is not None and not _CURSOR.match(after):
        raise Invalid("That cursor is none of ours.")
    with services.db.read() as conn:
        found = recon_store.breaks(conn, site_ids=_sites(services, person, site), period=period or "",
                                   after=int(after[1:]) if after else 0, state=state, limit=limit + 1)  # fmt: skip
        items, names = found[:limit], Names(services, conn, None)
        shown = [_break(services, names, item) for item in items]
    last = f"b{items[-1].row.id}" if len(found) > limit else None
    return answer({"items": shown, "cursor": cursor_of(last)})


@router.get("/breaks/{number}", **describe.route(schemas.BreakShown, refuses=(404,)))
def show_break(services: Svc, person: Who, number: Number) -> Response:
    """One difference: the centre's line, the arithmetic, and what was done about it."""
    with services.db.read() as conn:
        return answer(_shown(services, conn, _break_row(services, conn, person, number)))


@router.post("/breaks/{number}/{verb}", **describe.route(
    schemas.BreakShown, body=schemas.BreakActIn, refuses=(403, 404, 409, 422)
))  # fmt: skip
def take(services: Svc, person: Who, number: Number, verb: _ACTS, body: Body) -> Response:
    """Propose, countersign, dispute or reopen (operator, or the centre's staff); who proposes does not countersign."""
    wanted = read(schemas.BreakActIn, body)
    with services.db.write() as conn:
        item = _break_row(services, conn, person, number)
        _must(services, person, item.row.site_id, Verb.BILL_SITE)
        try:
            reconcile.act(services, conn, number, Act(verb), by=person.name, note=wanted.note,
                          resolution=wanted.resolution or "")  # fmt: skip
        except Refused as exc:
            raise Conflict(str(exc)) from exc
        except IntegrityError as exc:
            raise Conflict("Somebody else did something to this break just now.", remedy="Look again.") from exc
        (item,) = recon_store.breaks(conn, ids=[number])
        return answer(_shown(services, conn, item))


# ---------------------------------------------------------------- parts


def _sites(services: Services, person: Person, wanted: str | None) -> list[str] | None:
    """The centres whose money this person may see; None: all of them."""
    if can(person, Verb.OPERATE):
        return None if wanted is None else [wanted]
    own = [site for site in services.sites if can(person, Verb.SEE_SITE, ("site", site))]
    return own if wanted is None else [site for site in own if site == wanted]


def _must(services: Services, person: Person, site_id: str, verb: Verb) -> None:
    if site_id not in services.sites:
        raise NotFound(f"There is no site {site_id!r}.")
    if not (can(person, Verb.OPERATE) or can(person, verb, ("site", site_id))):
        raise Forbidden("Only the operator and the centre's own staff may do this.")


def _statement_row(services: Services, conn: Connection, person: Person, number: int) -> Any:
    row = statement_row(conn, number)
    allowed = _sites(services, person, None)
    if row is None or (allowed is not None and row.site_id not in allowed):
        raise NotFound(f"There is no statement {number} that you may see.")
    return row


def _break_row(services: Services, conn: Connection, person: Person, number: int) -> BreakNow:
    found = recon_store.breaks(conn, ids=[number], site_ids=_sites(services, person, None))
    if not found:
        raise NotFound(f"There is no break {number} that you may see.")
    return found[0]


def _content(wanted: schemas.StatementIn, bytes_max: int) -> bytes:
    if bool(wanted.content) == bool(wanted.content_base64):
        problem = Problem("/content", "Give either `content` or `content_base64`.", "required")
        raise Invalid("Where is the file?", problems=(problem,))
    if wanted.content:
        return wanted.content.encode()
    try:
        found = base64.b64decode(wanted.content_base64, validate=True)
    except (binascii.Error, ValueError) as exc:
        raise Invalid("`content_base64` is no Base64.", problems=(Problem("/content_base64", str(exc)),)) from exc
    return found if wanted.packed is None else _unpacked(found, _UNPACKED * bytes_max)


def _unpacked(data: bytes, bytes_max: int) -> bytes:
    """What was packed by gzip; a few bytes that would become a great many are refused."""
    reader = zlib.decompressobj(wbits=31)
    try:
        found = reader.decompress(data, bytes_max)
    except zlib.error as exc:
        raise Invalid("`content_base64` is not packed by gzip.", problems=(Problem("/packed", str(exc)),)) from exc
    if not reader.eof or reader.unused_data:
        text = f"It is not whole, or longer than {bytes_max} bytes."
        raise Invalid(text, problems=(Problem("/content_base64", text),))
    return found


def _totals(wanted: schemas.StatementIn) -> Header:
    said = wanted.totals
    amount = parse_amount(said.amount) if said is not None and said.amount is not None else None
    return Header(month(wanted.period), wanted.currency, said.lines if said else None,
                  said.core_seconds if said else None, amount, wanted.number)  # fmt: skip


def _narrower(wanted: schemas.ReconcileIn) -> Narrower:
    try:
        one, whole, more = (None if text is None else parse_amount(text)
                            for text in (wanted.auto_break, wanted.auto_statement, wanted.increase))  # fmt: skip
    except ValueError as exc:
        raise Invalid(str(exc), problems=(Problem("", str(exc), "invalid", "Write it like 12.50."),)) from exc
    causes = None if wanted.auto_causes is None else frozenset(wanted.auto_causes)
    return Narrower(causes, one, whole, more, wanted.skew_s, wanted.must_be_signed)


def _statement(services: Services, conn: Connection, row: Any) -> dict[str, Any]:
    now, signer = reconcile.standing(conn, row, now=services.clock()), signer_of(conn, row.id)
    return {
        "id": row.id, "site": row.site_id, "period": row.period, "currency": row.currency, "number": row.number,
        "format": row.format, "sha256": row.sha256, "signer": signer,
        "signature_refused": "" if signer else row.signature_refused,
        "received_by": row.received_by, "received_at": stamp(row.received_at), "lines": row.lines,
        "unreadable": row.problems, "core_seconds": row.core_seconds, "amount": _money(row.amount_micro),
        "agreed": now.agreed, "open_breaks": now.open_breaks, "open_amount": format_micro(now.open_micro),
        "oldest_days": now.oldest_days, "by_category": dict(now.by_category), "signed_off": now.signed_off,
        "replaced": now.replaced,
        "late": now.late, "quarantined": now.quarantined,
    }  # fmt: skip


def _received(services: Services, conn: Connection, number: int) -> dict[str, Any]:
    names = Names(services, conn, None)
    bad = [
        {"line": p.line_no, "raw": names.opened(p.raw), "why": names.shown(p.why)}
        for p in statement_problems(conn, number)[:100]
    ]
    return _statement(services, conn, statement_row(conn, number)) | {"unreadable_lines": bad}


def _reconciliation(row: Any) -> dict[str, Any]:
    return {"id": row.id, "statement": row.statement_id, "site": row.site_id, "period": row.period,
            "counts": row.counts, "rules": row.rules, "by": row.by, "at": stamp(row.at)}  # fmt: skip


def _break(services: Services, names: Names, item: BreakNow) -> dict[str, Any]:
    row = item.row
    return {
        "id": row.id, "statement": row.statement_id, "site": row.site_id, "period": row.period,
        "category": row.category, "kind": Category(row.category).name.lower(), "state": item.state.value,
        "causes": row.causes, "explanation": names.shown(row.explanation), "tier": row.tier, "line": row.line_no,
        "job": row.job_id, "native_id": row.native_id, "username": names.shown(row.username),
        "currency": row.currency,
        "ours_core_seconds": row.ours_core_seconds, "theirs_core_seconds": row.theirs_core_seconds,
        "ours_amount": _money(row.ours_micro), "theirs_amount": _money(row.theirs_micro),
        "delta_amount": format_micro(reconcile.delta_micro(item)), "opened_at": stamp(row.opened_at),
        "age_days": item.age_days(services.clock()),
    }  # fmt: skip


def _shown(services: Services, conn: Connection, item: BreakNow) -> Mapping[str, Any]:
    line, names = recon_store.line_of_break(conn, item.row), Names(services, conn, None)
    events = [
        {"act": e.act.value, "state": e.state.value, "by": e.by, "at": stamp(e.at), "note": names.shown(e.note),
         "resolution": e.resolution}
        for e in recon_store.history(conn, item.row.id)
    ]  # fmt: skip
    return _break(services, names, item) | {"history": events, "raw": None if line is None else names.raw(line.raw)}


def _money(micro: int | None) -> str | None:
    return None if micro is None else format_micro(micro)
