"""Load and save who issues, who pays and by which tax rules. Nothing here commits."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime
from itertools import zip_longest
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from sqlalchemy import Connection, func, insert, select

from accounting import calendar, tables
from accounting.errors import InvoiceRefused
from accounting.invoicing.invoice import DocumentKind, LegalEntity
from accounting.invoicing.tax import TaxKind, TaxRule
from accounting.store.schema import core, upsert

ENTITIES = core(tables.LegalEntityRow)
PAYERS = core(tables.ProjectPayerRow)
TAX_RULES = core(tables.TaxRuleRow)
SERIES = core(tables.DocumentSeriesRow)

# Where an issuer names no tax rule of its own: nothing is added, and the document says that.
NO_TAX = "none"
_COLUMNS = ("legal_name", "address", "country", "tax_id", "bank_details", "language", "zone", "payment_days", "prefix")


def save_entity(conn: Connection, entity: LegalEntity, *, tax_code: str = "", now: datetime) -> int:
    """A new revision of a legal entity; an issuer (one with a prefix) gets its number series with the first.

    Raises `InvoiceRefused` where the prefix is another issuer's, or would change: numbers of a series go on.
    """
    try:
        ZoneInfo(entity.zone)
    except (ZoneInfoNotFoundError, ValueError, OSError) as exc:
        raise InvoiceRefused(f"{entity.zone!r} is no time zone like Asia/Shanghai") from exc
    if entity.prefix:
        _open_series(conn, entity)
    revision = int(conn.scalar(select(func.max(ENTITIES.c.revision)).where(ENTITIES.c.id == entity.id)) or 0) + 1
    row = {name: getattr(entity, name) for name in _COLUMNS}
    conn.execute(insert(ENTITIES).values(
        id=entity.id, revision=revision, issuer=bool(entity.prefix), tax_code=tax_code, recorded_at=now, **row
    ))  # fmt: skip
    return revision


def entity(conn: Connection, entity_id: str) -> tuple[LegalEntity, str] | None:
    """The newest revision and its tax code; None where nobody is known by this id."""
    query = select(ENTITIES).where(ENTITIES.c.id == entity_id).order_by(ENTITIES.c.revision.desc()).limit(1)
    row = conn.execute(query).one_or_none()
    if row is None:
        return None
    return LegalEntity(row.id, **{name: getattr(row, name) for name in _COLUMNS}), row.tax_code


def entities(conn: Connection) -> list[tuple[LegalEntity, str]]:
    """The newest revision of everybody, by id."""
    ids = conn.scalars(select(ENTITIES.c.id).distinct().order_by(ENTITIES.c.id)).all()
    return [found for found in (entity(conn, entity_id) for entity_id in ids) if found is not None]


def issuers(conn: Connection) -> list[str]:
    return list(conn.scalars(select(SERIES.c.issuer_id).distinct().order_by(SERIES.c.issuer_id)))


def set_payer(conn: Connection, *, project_id: str, payer_id: str, valid_from: datetime, now: datetime) -> None:
    """Let an entity pay for a project from a moment on."""
    if entity(conn, payer_id) is None:
        raise InvoiceRefused(f"there is no legal entity {payer_id!r}")
    conn.execute(insert(PAYERS).values(
        project_id=project_id, payer_id=payer_id, valid_from=valid_from, recorded_at=now
    ))  # fmt: skip


def payer_of(conn: Connection, project_id: str, at: datetime) -> str | None:
    """Who pays for a project at a moment; None where nobody has been named."""
    query = select(PAYERS.c.payer_id).where(PAYERS.c.project_id == project_id, PAYERS.c.valid_from <= at)
    found = conn.scalar(query.order_by(PAYERS.c.valid_from.desc(), PAYERS.c.id.desc()).limit(1))
    return None if found is None else str(found)


def payer_times(
    conn: Connection, project_id: str, at: datetime, zone: str
) -> dict[str, tuple[tuple[datetime | None, datetime | None], ...]]:
    """When who paid (from, until), up to the month of `zone` that begins at a moment: a month is paid by who pays at
    its beginning, and what was done before anybody was named by the first one. Empty where nobody pays by then."""
    mine = select(PAYERS.c.valid_from).where(PAYERS.c.project_id == project_id, PAYERS.c.valid_from <= at)
    named = sorted(conn.scalars(mine.distinct()))
    begins = sorted({*named[:1], *(_next_month(since, zone) for since in named[1:])})
    begins = [since for since in begins if since <= at]
    found: dict[str, list[tuple[datetime | None, datetime | None]]] = {}
    for number, since in enumerate(begins):
        payer = payer_of(conn, project_id, since)
        until = begins[number + 1] if number + 1 < len(begins) else None
        found.setdefault(str(payer), []).append((since if number else None, until))
    return {payer: tuple(times) for payer, times in found.items()}


def _next_month(since: datetime, zone: str) -> datetime:
    """The first beginning of a month from a moment on."""
    span = calendar.month_of(since, zone)
    return since if since == span.start else span.end


def add_tax_rule(conn: Connection, rule: TaxRule, *, now: datetime) -> None:
    """A dated rule; one of the same code that began earlier ends where this begins."""
    taken = select(TAX_RULES.c.id).where(TAX_RULES.c.code == rule.code, TAX_RULES.c.valid_from == rule.valid_from)
    if conn.scalar(taken) is not None:
        raise InvoiceRefused(f"tax rule {rule.code!r} has a version from {rule.valid_from.isoformat()} already")
    conn.execute(insert(TAX_RULES).values(
        code=rule.code, kind=rule.kind.value, rate_ppm=rule.rate_ppm, inclusive=rule.inclusive,
        valid_from=rule.valid_from, name_en=rule.name_en, name_zh=rule.name_zh, note_en=rule.note_en,
        note_zh=rule.note_zh, recorded_at=now,
    ))  # fmt: skip


def tax_rules(conn: Connection, code: str | None = None) -> Sequence[TaxRule]:
    """Every version, each ending where the next of its code begins."""
    query = select(TAX_RULES).order_by(TAX_RULES.c.code, TAX_RULES.c.valid_from)
    rows = conn.execute(query if code is None else query.where(TAX_RULES.c.code == code)).all()
    found = [
        TaxRule(r.code, TaxKind(r.kind), r.rate_ppm, r.valid_from, None, r.inclusive, r.name_en, r.name_zh,
                r.note_en, r.note_zh)
        for r in rows
    ]  # fmt: skip
    return [
        replace(rule, valid_to=after.valid_from) if after is not None and after.code == rule.code else rule
        for rule, after in zip_longest(found, found[1:])
    ]


def _open_series(conn: Connection, issuer: LegalEntity) -> None:
    """Counters for the issuer's invoices and credit notes, both with its own prefix."""
    kinds = {DocumentKind.INVOICE: issuer.prefix, DocumentKind.CREDIT_NOTE: f"{issuer.prefix}C"}
    rows = [{"issuer_id": issuer.id, "kind": k.value, "prefix": p, "next_number": 1} for k, p in kinds.items()]
    conn.execute(upsert(conn, SERIES).on_conflict_do_nothing(), rows)
    mine = select(SERIES.c.kind, SERIES.c.prefix).where(SERIES.c.issuer_id == issuer.id)
    if {row.kind: row.prefix for row in conn.execute(mine)} != {k.value: p for k, p in kinds.items()}:
        raise InvoiceRefused(f"the prefix {issuer.prefix!r} is taken, or {issuer.id} has begun with another")
