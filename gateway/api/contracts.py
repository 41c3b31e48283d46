"""Who agreed to what: parties, agreements and tariffs with their signatures, discounts, a project's terms."""

from __future__ import annotations

import base64
import binascii
import json
from collections.abc import Collection, Mapping
from datetime import datetime
from typing import Annotated, Any

from fastapi import APIRouter, Path
from sqlalchemy import Connection, select
from starlette.responses import Response

from accounting import organisations
from accounting import store as books
from accounting.agreement import Agreement, agreement_of
from accounting.parties import Party, Role, Signature, SigningKey
from accounting.store import contracts
from accounting.store.contracts import Terms
from accounting.tariff import Discount, Tariff, tariff_of
from accounting.terms import not_understood
from gateway.api import billing_models as models
from gateway.api import describe
from gateway.api.billing import assert_payers
from gateway.api.context import Admin, Body, IdemHeader, Svc, Who, Word, answer, read
from gateway.api.idempotency import Once
from gateway.api.projects import project_row
from gateway.billing.invoices import PROJECTS
from gateway.billing.signing import verify
from gateway.errors import Forbidden, Invalid, NotFound, Problem
from gateway.identity.access import Person, Verb, can
from gateway.jobs import views

router = APIRouter(tags=["contracts"])
Version = Annotated[int, Path(ge=1, le=2**31 - 1)]


@router.get("/parties", **describe.route(models.Parties, refuses=(403,)))
def list_parties(services: Svc, _admin: Admin) -> Response:
    """Every party with its public keys (operator)."""
    with services.db.read() as conn:
        return answer({"items": [_party(conn, p) for p in contracts.parties(conn).values()]})


@router.post("/parties", **describe.route(models.Party, status=201, body=models.PartyIn, refuses=(403, 422)))
def save_party(services: Svc, admin: Admin, body: Body, idempotency_key: IdemHeader = None) -> Response:
    """Add a party, or its next revision; keys are added, never taken away (operator)."""
    wanted = read(models.PartyIn, body)
    now = services.clock()
    keys = [SigningKey(k.key_id, k.algorithm, _bytes(k.public, f"/keys/{i}/public"), k.valid_from or now, k.valid_to)
            for i, k in enumerate(wanted.keys)]  # fmt: skip

    def make(conn: Connection) -> Mapping[str, Any]:
        party = Party(wanted.id, Role(wanted.role), wanted.legal_name, wanted.tax_id, wanted.country, wanted.did,
                      wanted.sites)  # fmt: skip
        organisations.save_party(conn, party, now=now)
        for key in keys:
            contracts.add_key(conn, party.id, key)
        return _party(conn, party)

    return answer(Once.of(admin, idempotency_key, "POST /parties", body).made(services, make), 201)


@router.get("/agreements", **describe.route(models.Documents))
def list_agreements(services: Svc, person: Who) -> Response:
    """Every version of the agreements that I may see: the operator all, a centre's staff its own."""
    with services.db.read() as conn:
        since = {i.agreement.sha256: i.since for i in contracts.in_force(conn)}
        items = [_document(a, s, since.get(a.sha256)) for a, s in contracts.agreements(conn) if _may_see(person, a)]
    return answer({"items": items})


@router.post("/agreements", **describe.route(
    models.Document, status=201, body=models.DocumentIn, refuses=(403, 409, 422)
))  # fmt: skip
def save_agreement(services: Svc, admin: Admin, body: Body, idempotency_key: IdemHeader = None) -> Response:
    """Propose a version of an agreement; it holds once both sides signed (operator)."""
    document = _parsed(agreement_of, read(models.DocumentIn, body).document)

    def make(conn: Connection) -> Mapping[str, Any]:
        contracts.save_agreement(conn, document, now=services.clock())
        return _document(document, contracts.signatures(conn, document.sha256), None)

    return answer(Once.of(admin, idempotency_key, "POST /agreements", body).made(services, make), 201)


@router.post("/agreements/{name}/{version}/signatures", **describe.route(
    models.Document, body=models.SignatureIn, refuses=(403, 404, 409, 422)
))  # fmt: skip
def sign_agreement(services: Svc, person: Who, name: Word, version: Version, body: Body) -> Response:
    """Add a party's signature (the operator, or the centre's staff); twice is once."""
    with services.db.write() as conn:
        found = next((a for a, _ in contracts.agreements(conn) if (a.id, a.version) == (name, version)), None)
        if found is None or not _may_see(person, found):
            raise NotFound(f"There is no version {version} of agreement {name!r} that you may see.")
        _sign(conn, person, found, found, body, services.clock())
        since = {i.agreement.sha256: i.since for i in contracts.in_force(conn)}
        return answer(_document(found, contracts.signatures(conn, found.sha256), since.get(found.sha256)))


@router.get("/tariffs/versions", **describe.route(models.Documents))
def list_tariff_versions(services: Svc, person: Who) -> Response:
    """Tariffs under agreements, with who signed them; `GET /tariffs` has the prices that hold."""
    with services.db.read() as conn:
        seen = {a.id for a, _ in contracts.agreements(conn) if _may_see(person, a)}
        items = [_document(t, s, None) for t, s in contracts.tariff_versions(conn) if t.agreement_id in seen]
    return answer({"items": items})


@router.post("/tariffs/versions", **describe.route(
    models.Document, status=201, body=models.DocumentIn, refuses=(403, 409, 422)
))  # fmt: skip
def save_tariff(services: Svc, admin: Admin, body: Body, idempotency_key: IdemHeader = None) -> Response:
    """Propose a version of a tariff under an agreement; it prices nothing until both sides signed (operator)."""
    document = _parsed(tariff_of, read(models.DocumentIn, body).document)

    def make(conn: Connection) -> Mapping[str, Any]:
        contracts.save_tariff(conn, document, now=services.clock())
        return _document(document, contracts.signatures(conn, document.sha256), None)

    return answer(Once.of(admin, idempotency_key, "POST /tariffs/versions", body).made(services, make), 201)


@router.post("/tariffs/versions/{name}/{version}/signatures", **describe.route(
    models.Document, body=models.SignatureIn, refuses=(403, 404, 409, 422)
))  # fmt: skip
def sign_tariff(services: Svc, person: Who, name: Word, version: Version, body: Body) -> Response:
    """Add a party's signature to a tariff; from the second one on it prices."""
    with services.db.write() as conn:
        found = next((t for t, _ in contracts.tariff_versions(conn) if (t.id, t.version) == (name, version)), None)
        under = [a for a, _ in contracts.agreements(conn) if found is not None and a.id == found.agreement_id]
        if found is None or not any(_may_see(person, a) for a in under):
            raise NotFound(f"There is no version {version} of tariff {name!r} that you may see.")
        _sign(conn, person, under[-1], found, body, services.clock())
        return answer(_document(found, contracts.signatures(conn, found.sha256), None))


@router.post(
    "/discounts", **describe.route(models.Made, status=201, body=models.DiscountIn, refuses=(403, 404, 409, 422))
)
def add_discount(services: Svc, admin: Admin, body: Body, idempotency_key: IdemHeader = None) -> Response:
    """A contract's ratio on the prices of a project (operator)."""
    wanted = read(models.DiscountIn, body)
    now = services.clock()
    if wanted.numerator > wanted.denominator:
        problem = Problem("/numerator", f"{wanted.numerator}/{wanted.denominator} is more than the price.", "invalid",
                          "A discount is at most 1/1; a higher price is a tariff of its own.")  # fmt: skip
        raise Invalid("A surcharge is no discount.", problems=(problem,))

    def make(conn: Connection) -> Mapping[str, Any]:
        row = project_row(conn, admin, wanted.project, Verb.SEE_PROJECT)
        discount = Discount(0, row.id, wanted.numerator, wanted.denominator, wanted.valid_from or now,
                            wanted.valid_to, wanted.site, wanted.grade, wanted.resource, wanted.reason)  # fmt: skip
        return {"id": str(books.add_discount(conn, discount, now=now))}

    return answer(Once.of(admin, idempotency_key, "POST /discounts", body).made(services, make), 201)


@router.get("/discounts", **describe.route(models.Discounts, refuses=(404,)))
def list_discounts(services: Svc, person: Who, project: Word | None = None) -> Response:
    """What projects pay of the prices: the operator sees all, a project's people theirs, a centre's staff those at its
    sites."""
    with services.db.read() as conn:
        wanted = None if project is None else project_row(conn, person, project, Verb.SEE_PROJECT).id
        sites = {site for a, _ in contracts.agreements(conn) if _may_see(person, a) for site in a.site_ids}
        names = {r.id: r.name for r in conn.execute(select(PROJECTS.c.id, PROJECTS.c.name))}
        found = [d for d in reversed(books.discounts(conn)) if wanted in (None, d.project_id)
                 and _may_see_discount(person, d, sites)]  # fmt: skip
    return answer({"items": [_discount(d, names.get(d.project_id, d.project_id)) for d in found]})


@router.post("/projects/{name}/terms", **describe.route(
    models.Made, status=201, body=models.TermsIn, refuses=(403, 404, 409, 422)
))  # fmt: skip
def set_terms(services: Svc, admin: Admin, name: Word, body: Body, idempotency_key: IdemHeader = None) -> Response:
    """A project's class of user, and who pays in which parts, from a moment on (operator)."""
    wanted = read(models.TermsIn, body)
    now = services.clock()

    def make(conn: Connection) -> Mapping[str, Any]:
        row = project_row(conn, admin, name, Verb.SEE_PROJECT)
        assert_payers(conn, {f"/payers/{place}/payer": p.payer for place, p in enumerate(wanted.payers)})
        payers = tuple((p.payer, p.weight) for p in wanted.payers)
        contracts.set_terms(conn, Terms(row.id, wanted.valid_from or now, wanted.user_class, payers), now=now)
        return {"id": row.id}

    return answer(Once.of(admin, idempotency_key, f"POST /projects/{name}/terms", body).made(services, make), 201)


# ---------------------------------------------------------------- parts


def _may_see(person: Person, agreement: Agreement) -> bool:
    return can(person, Verb.OPERATE) or any(can(person, Verb.SEE_SITE, ("site", s)) for s in agreement.site_ids)


def _may_see_discount(person: Person, d: Discount, sites: Collection[str]) -> bool:
    """Whoever it lowers something for: the project, and the centres at whose sites it holds."""
    here = bool(sites) if d.site_id is None else d.site_id in sites
    return can(person, Verb.OPERATE) or here or can(person, Verb.SEE_PROJECT, ("project", d.project_id))


def _discount(d: Discount, project: str) -> dict[str, Any]:
    return {"id": str(d.id), "project": project, "numerator": d.numerator, "denominator": d.denominator,
            "site": d.site_id, "grade": d.grade, "resource": d.resource, "order": d.order_id, "reason": d.reason,
            "valid_from": views.stamp(d.valid_from), "valid_to": views.stamp(d.valid_to)}  # fmt: skip


def _sign(
    conn: Connection, person: Person, agreement: Agreement, document: Agreement | Tariff, body: bytes, now: datetime
) -> None:
    """The signature itself proves the party; who hands it in is the operator or of that centre."""
    wanted = read(models.SignatureIn, body)
    if wanted.party == agreement.operator_id and not can(person, Verb.OPERATE):
        raise Forbidden("Only the operator hands in the operator's signature.")
    signature = Signature(wanted.party, wanted.key_id, _bytes(wanted.signature, "/signature"), now)
    contracts.sign(conn, document.sha256, signature, verify)


def _parsed(reader: Any, document: Mapping[str, Any]) -> Any:
    try:
        found = reader(json.dumps(document))
    except ValueError as exc:
        errors = getattr(exc, "errors", None)
        if errors is None:
            raise Invalid(str(exc), problems=(Problem("/document", str(exc), "invalid"),)) from exc
        problems = tuple(
            Problem("/document/" + "/".join(map(str, e["loc"])), str(e["msg"]), "invalid") for e in errors()
        )
        raise Invalid(f"The document has {len(problems)} problems: {problems[0].detail}", problems=problems) from exc
    if unknown := not_understood(document, found):
        problems = tuple(
            Problem(f"/document{at}", "Nothing here is called so, and it would not be signed.", "invalid",
                    "Check the spelling: docs/books.md.") for at in unknown
        )  # fmt: skip
        raise Invalid(f"The document says what nothing understands: {', '.join(unknown)}.", problems=problems)
    return found


def _bytes(text: str, pointer: str) -> bytes:
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError) as exc:
        raise Invalid("That is no base64.", problems=(Problem(pointer, "This is no base64.", "invalid"),)) from exc


def _party(conn: Connection, p: Party) -> dict[str, Any]:
    keys = [{"key_id": k.key_id, "algorithm": k.algorithm, "public": base64.b64encode(k.public).decode(),
             "valid_from": views.stamp(k.valid_from), "valid_to": views.stamp(k.valid_to)}
            for k in contracts.keys_of(conn, p.id)]  # fmt: skip
    return {"id": p.id, "role": p.role.value, "legal_name": p.legal_name, "tax_id": p.tax_id, "country": p.country,
            "did": p.did, "sites": list(p.site_ids), "keys": keys}  # fmt: skip


def _document(document: Agreement | Tariff, signatures: Any, since: datetime | None) -> dict[str, Any]:
    return {
        "id": document.id, "version": document.version, "sha256": document.sha256,
        "payload": base64.b64encode(document.payload).decode(), "document": json.loads(document.payload),
        "signatures": [{"party": s.party_id, "key_id": s.key_id, "signed_at": views.stamp(s.signed_at),
                        "signature": base64.b64encode(s.signature).decode()} for s in signatures],
        "in_force_since": views.stamp(since),
    }  # fmt: skip
