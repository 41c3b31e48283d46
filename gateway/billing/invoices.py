"""Conduct the month's billing: for each project its payer, for each issuer its sites, one transaction per document."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import Connection, select

from accounting.calendar import Period, month
from accounting.errors import AccountingError, InvoiceRefused
from accounting.invoicing import legal_entities
from accounting.invoicing.invoice import Document
from accounting.invoicing.store import Wanted, issue_invoice
from accounting.payments.clearing import set_off_open
from accounting.store.contracts import in_force
from accounting.store.schema import TERMS
from accounting.store.settled import DOCUMENTS
from gateway.db import table_of
from gateway.errors import Invalid, NotFound, Problem
from gateway.identity.access import Person, Verb, can
from gateway.identity.tables import ProjectRow, UserRow
from gateway.ids import new_id
from gateway.services import Services

PROJECTS, USERS = table_of(ProjectRow), table_of(UserRow)


@dataclass(frozen=True, slots=True)
class Refused:
    """A project that was not billed, and why."""

    project: str
    why: str


@dataclass(frozen=True, slots=True)
class MonthBilled:
    """What one call made. Projects with nothing new are in neither list."""

    made: tuple[Document, ...]
    refused: tuple[Refused, ...]


def bill_month(
    services: Services, *, name: str, issuer_id: str | None, project: str | None, sites: Sequence[str] | None,
    by: str, now: datetime,
) -> MonthBilled:  # fmt: skip
    """Issue what a month's usage comes to, project by project; a project that cannot be billed holds up no other."""
    with services.db.read() as conn:
        issuer = _issuer(conn, issuer_id)
        entity = legal_entities.entity(conn, issuer)
        assert entity is not None
        period = _month(name, entity[0].zone)
        projects = [
            p for p in conn.execute(select(PROJECTS).order_by(PROJECTS.c.id)) if project in (None, p.name, p.id)
        ]
        only, but = (tuple(sites), ()) if sites is not None else _sold_by(conn, issuer, period.end)
        people: Mapping[str, str] = {r.id: r.name for r in conn.execute(select(USERS.c.id, USERS.c.name))}
    if project is not None and not projects:
        raise NotFound(f"There is no project {project!r}.")
    made: list[Document] = []
    refused: list[Refused] = []
    for row in projects:
        with services.db.read() as conn:
            times = legal_entities.payer_times(conn, row.id, period.start, entity[0].zone)
            payers = _payers(conn, row.id, set(times))
        if not payers:
            refused.append(Refused(row.name, "nobody is named who pays for it"))
        for payer in payers:
            wanted = Wanted(issuer, payer, row.id, row.name, row.currency, period, only, people, payer in times, but,
                            times.get(payer, ()))  # fmt: skip
            try:
                made.extend(_issued(services, wanted, by, now))
            except AccountingError as exc:
                refused.append(Refused(row.name, str(exc)))
    return MonthBilled(tuple(made), tuple(refused))


def _issued(services: Services, wanted: Wanted, by: str, now: datetime) -> Iterator[Document]:
    """One document, or one for each tax rule that holds for the work; each in a transaction of its own."""
    rule_ends: datetime | None = wanted.month.start
    while rule_ends is not None and rule_ends < wanted.month.end:
        with services.db.write() as conn:
            found = issue_invoice(conn, wanted, now=now)
            if found is None:
                return
            set_off_open(conn, found, new_id=lambda: new_id("w", now), by=by, now=now)
        yield found
        rule_ends = found.tax.valid_to


def visible(
    conn: Connection, person: Person, *, project: str | None = None, kind: str | None = None, after: str | None = None,
    limit: int = 100,
) -> list[Any]:  # fmt: skip
    """The newest documents that a person may see, with their projects' names."""
    query = (
        select(DOCUMENTS, PROJECTS.c.name.label("project"))
        .join(PROJECTS, PROJECTS.c.id == DOCUMENTS.c.project_id)
        .order_by(DOCUMENTS.c.issued_at.desc(), DOCUMENTS.c.number.desc())
    )  # fmt: skip
    if not can(person, Verb.OPERATE):
        mine = [p for p in person.roles if can(person, Verb.SEE_BILL, ("project", p))]
        query = query.where(DOCUMENTS.c.project_id.in_(mine))
    if project is not None:
        query = query.where((PROJECTS.c.name == project) | (PROJECTS.c.id == project))
    if kind is not None:
        query = query.where(DOCUMENTS.c.kind == kind)
    if after is not None:
        last = select(DOCUMENTS.c.issued_at).where(DOCUMENTS.c.number == after).scalar_subquery()
        query = query.where(
            (DOCUMENTS.c.issued_at < last) | ((DOCUMENTS.c.issued_at == last) & (DOCUMENTS.c.number < after))
        )
    return list(conn.execute(query.limit(limit)))


def document_row(conn: Connection, person: Person, number: str, verb: Verb = Verb.SEE_BILL) -> Any:
    """The row of a document that the person may see (or dispute); `NotFound` tells no more."""
    row = conn.execute(select(DOCUMENTS).where(DOCUMENTS.c.number == number)).one_or_none()
    if row is None or not can(person, Verb.SEE_BILL, ("project", row.project_id)):
        raise NotFound(f"There is no document {number!r} that you may see.")
    if verb is not Verb.SEE_BILL and not can(person, verb, ("project", row.project_id)):
        raise NotFound(f"There is no document {number!r} that you may dispute.")
    return row


def _month(name: str, zone: str) -> Period:
    try:
        return month(name, zone)
    except ValueError as exc:
        raise Invalid(str(exc), problems=(Problem("/month", str(exc), "invalid", "Write it like 2026-11."),)) from exc


def _payers(conn: Connection, project_id: str, whole: set[str]) -> list[str]:
    """Who may have something to pay: who pays the whole or did, all who ever shared it or were billed before."""
    found = set(conn.scalars(select(DOCUMENTS.c.payer_id).where(DOCUMENTS.c.project_id == project_id).distinct()))
    for shares in conn.scalars(select(TERMS.c.payers).where(TERMS.c.project_id == project_id)):
        found |= {str(payer) for payer, _ in shares}
    return sorted(found | whole)


def _sold_by(conn: Connection, issuer: str, at: datetime) -> tuple[tuple[str, ...] | None, tuple[str, ...]]:
    """The sites that an issuer sells by the agreements in force: only these, or (None) all but these.

    A centre that is seller of record bills its own sites; the operator bills all that no other issuer sells.
    """
    known = set(legal_entities.issuers(conn))
    holding = [f.agreement for f in in_force(conn) if f.since < at and (f.until is None or at <= f.until)]
    seller = {site: a.seller_of_record for a in holding for site in a.site_ids if a.seller_of_record in known}
    operates = all(a.operator_id == issuer for a in holding if issuer in (a.operator_id, a.centre_id))
    mine = tuple(sorted(site for site, party in seller.items() if party == issuer))
    if mine and not operates:
        return mine, ()
    return None, tuple(sorted(site for site, party in seller.items() if party != issuer))


def _issuer(conn: Connection, wanted: str | None) -> str:
    issuers = legal_entities.issuers(conn)
    if wanted is not None and wanted not in issuers:
        raise NotFound(f"There is no issuer {wanted!r}.")
    if wanted is None and len(issuers) != 1:
        known = ", ".join(issuers) or "none: make a legal entity with a number prefix first"
        raise InvoiceRefused(f"say which issuer bills (there are: {known})")
    return wanted or issuers[0]
