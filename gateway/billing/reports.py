"""Reports and exports for a person: whose work they may see, ids by their names."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from decimal import Decimal
from typing import Any

from sqlalchemy import Connection, func, select

from accounting.calendar import Period
from accounting.invoicing import texts as invoice_texts
from accounting.invoicing.adjustment_lines import adjusted_within
from accounting.invoicing.ageing import aged
from accounting.invoicing.dispute_store import disputed_minor, disputes
from accounting.invoicing.disputes import LIVE
from accounting.invoicing.items import ITEMS
from accounting.invoicing.order_lines import priced_within
from accounting.minor_units import to_minor
from accounting.money import format_micro
from accounting.payments.store import open_documents, received
from accounting.reports.plots import Bar, bars_svg
from accounting.reports.spending import By, Question, Scope, Spent, spent
from accounting.store.overlaps import BOOKS
from accounting.store.schema import CHARGES, REVERSALS, USAGE
from accounting.store.settled import DOCUMENTS
from gateway.billing.invoices import PROJECTS, USERS
from gateway.identity.access import Person, Verb, can


@dataclass(frozen=True, slots=True)
class Report:
    """Rows with names for ids, and what they sum to in each currency."""

    by: tuple[By, ...]
    rows: tuple[Spent, ...]
    totals: tuple[Spent, ...]


def scope_of(person: Person) -> Scope:
    """The operator sees everything, an owner the project, a centre's staff its site, everybody their own work."""
    if can(person, Verb.OPERATE):
        return Scope(True)
    owned = tuple(p for p in person.roles if can(person, Verb.SEE_BILL, ("project", p)))
    sites = tuple(s for s in sorted(person.staff_of) if can(person, Verb.SEE_SITE, ("site", s)))
    return Scope(False, owned, person.user_id, sites)


def report(conn: Connection, person: Person, question: Question) -> Report:
    """What was spent, as this person may know it."""
    rows = spent(conn, question, scope_of(person))
    totals: dict[str, Spent] = {}
    for row in rows:
        totals[row.currency] = totals.get(row.currency, Spent((), row.currency, 0, 0, 0, 0)).plus(row)
    return Report(question.by, tuple(_named(conn, question.by, rows)), tuple(totals[c] for c in sorted(totals)))


def plot(found: Report, title: str, lang: str = "en") -> str:
    """One bar per row of the largest currency; what is provisional is lighter."""
    currency = max(found.totals, key=lambda t: t.amount_micro).currency if found.totals else ""
    bars = []
    for row in found.rows:
        if row.currency == currency:
            money = invoice_texts.money(to_minor(row.amount_micro, currency), currency, lang)
            label = " / ".join(row.keys) or "total"
            bars.append(Bar(label, _decimal(row.amount_micro), money, _decimal(row.provisional_micro)))
    note = "lighter: provisional" if any(r.provisional_micro for r in found.rows) else ""
    return bars_svg(title, bars, note=note)


def ids_of(conn: Connection, names: Sequence[str], table: Any) -> tuple[str, ...]:
    """Ids of projects or users by name (or id); a name that nobody has stays, and matches nothing."""
    if not names:
        return ()
    known = {r.name: r.id for r in conn.execute(select(table.c.id, table.c.name).where(table.c.name.in_(names)))}
    return tuple(known.get(name, name) for name in names)


def month_view(conn: Connection, month: Period, now: datetime) -> dict[str, Any]:
    """The month for the operator: what is charged, ordered and adjusted, billed, provisional, owed, disputed and not
    matched."""
    governed, provisional = _charged(conn, month, "centre"), _charged(conn, month, "gateway")
    billed = conn.execute(
        select(DOCUMENTS.c.currency, DOCUMENTS.c.kind, func.count(), func.sum(DOCUMENTS.c.gross_minor))
        .where(DOCUMENTS.c.period_start == month.start).group_by(DOCUMENTS.c.currency, DOCUMENTS.c.kind)
    )  # fmt: skip
    found = aged(open_documents(conn), disputed_minor(conn), now)
    live = [d for d in disputes(conn) if d.state in LIVE]
    return {
        "charged": governed, "provisional": provisional, "not_billed": _not_billed(conn, month),
        "orders": _beside(priced_within(conn, month.start, month.end)),
        "adjustments": _beside(adjusted_within(conn, month.start, month.end)),
        "charged_again": _beside(adjusted_within(conn, month.start, month.end, by=BOOKS)),
        "documents": [(c, k, int(n), int(g)) for c, k, n, g in billed], "open": found,
        "disputes": live, "unallocated": received(conn, only_unallocated=True),
    }  # fmt: skip


def _beside(found: Sequence[tuple[str, int, int]]) -> list[tuple[str, int, int, int]]:
    """Currency, how many, micro-units, and what of them is on no document, of what costs beside runs."""
    sums: dict[str, list[int]] = {}
    for currency, micro, billed in found:
        at = sums.setdefault(currency, [0, 0, 0])
        at[0], at[1], at[2] = at[0] + 1, at[1] + micro, at[2] + micro - billed
    return [(currency, count, micro, left) for currency, (count, micro, left) in sorted(sums.items())]


def _named(conn: Connection, by: Sequence[By], rows: Sequence[Spent]) -> list[Spent]:
    tables = {By.PROJECT: PROJECTS, By.USER: USERS}
    names = {
        n: {r.id: r.name for r in conn.execute(select(tables[b].c.id, tables[b].c.name))}
        for n, b in enumerate(by) if b in tables
    }  # fmt: skip
    return [
        replace(row, keys=tuple(names[n].get(k, k) if n in names else k for n, k in enumerate(row.keys)))
        for row in rows
    ]


def _charged(conn: Connection, month: Period, meter: str) -> list[tuple[str, int, int, int]]:
    """Currency, runs, core-seconds, micro-units of live charges by one meter."""
    query = (
        select(CHARGES.c.currency, func.count(), func.sum(CHARGES.c.core_seconds), func.sum(CHARGES.c.amount_micro))
        .select_from(CHARGES.join(USAGE, USAGE.c.id == CHARGES.c.usage_record_id)
                     .outerjoin(REVERSALS, REVERSALS.c.charge_id == CHARGES.c.id))
        .where(REVERSALS.c.charge_id.is_(None), CHARGES.c.meter == meter, USAGE.c.end_time >= month.start,
               USAGE.c.end_time < month.end)
        .group_by(CHARGES.c.currency).order_by(CHARGES.c.currency)
    )  # fmt: skip
    return [(c, int(n), int(s), int(m)) for c, n, s, m in conn.execute(query)]


def _not_billed(conn: Connection, month: Period) -> list[tuple[str, int, int]]:
    """Currency, runs, micro-units of what the centre metered and no document has."""
    query = (
        select(CHARGES.c.currency, func.count(), func.sum(CHARGES.c.amount_micro))
        .select_from(CHARGES.join(USAGE, USAGE.c.id == CHARGES.c.usage_record_id)
                     .outerjoin(REVERSALS, REVERSALS.c.charge_id == CHARGES.c.id)
                     .outerjoin(ITEMS, (ITEMS.c.kind == "charge") & (ITEMS.c.charge_id == CHARGES.c.id)))
        .where(REVERSALS.c.charge_id.is_(None), ITEMS.c.charge_id.is_(None), CHARGES.c.meter == "centre",
               USAGE.c.end_time >= month.start, USAGE.c.end_time < month.end)
        .group_by(CHARGES.c.currency).order_by(CHARGES.c.currency)
    )  # fmt: skip
    return [(c, int(n), int(m)) for c, n, m in conn.execute(query)]


def _decimal(micro: int) -> Decimal:
    return Decimal(format_micro(micro))
