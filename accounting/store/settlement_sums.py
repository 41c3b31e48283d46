"""What the entries of a settlement come to, as they were posted: earned, borne, the centre's, tax, the operator's."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import Column, Connection, Integer, MetaData, Table, case, func, insert, or_, select, text

from accounting import tables
from accounting.ledger import BORNE, CREDITS, DIFFERENCES, TAX
from accounting.settle import Sums
from accounting.store.schema import ACCOUNTS, CHARGES, ENTRIES, POSTINGS, core, is_kind

ITEMS = core(tables.SettlementItemRow)
_NAMES = ("owed", "borne", "centre", "tax", "core_seconds")

# While a statement is drawn: what each account holds of an entry, by its sign (`_parts`).
_PARTS = Table(
    "settlement_account", MetaData(),
    Column("account_id", tables.Id, primary_key=True, autoincrement=False), *(Column(name, Integer) for name in _NAMES),
    prefixes=["TEMPORARY"],
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Summed:
    """What a statement's entries come to: by grade in the period, by grade of work before it; and what those come to
    that took something back."""

    grades: Mapping[str, Sums]
    late: Mapping[str, Sums]
    credits: int


def sums(conn: Connection, settlement_id: str, currency: str, start: datetime) -> Summed:
    """The sums of a statement's entries, as they were posted."""
    if conn.dialect.name == "postgresql":
        found = conn.execute(_by_account(settlement_id, currency, start)).all()
    else:
        with _accounts_by_part(conn, currency):
            found = conn.execute(_by_entry(settlement_id, start)).all()
    graded: tuple[dict[str, Sums], dict[str, Sums]] = ({}, {})
    for row in found:
        earned, shared, tax = int(row.owed) + int(row.borne), int(row.centre), int(row.tax)
        graded[bool(row.late)][row.grade] = Sums(
            earned, int(row.borne), shared, tax, earned - shared - tax, int(row.core_seconds), int(row.entries)
        )
    return Summed(*graded, _credits(conn, settlement_id, currency))


def items_sha256(conn: Connection, settlement_id: str) -> str:
    """SHA-256 over the keys of the items, one on each line, in the order of their bytes."""
    query = select(ENTRIES.c.idem_key).join(ITEMS, ITEMS.c.entry_id == ENTRIES.c.id)
    keys = sorted(conn.scalars(query.where(ITEMS.c.settlement_id == settlement_id)))
    return hashlib.sha256("".join(f"{key}\n" for key in keys).encode()).hexdigest()


def _late_and_grade(start: datetime) -> tuple[Any, Any, Any]:
    """(whether the work was before the period, its grade, how its charge is found)."""
    charged = case((ENTRIES.c.kind == "overage", ENTRIES.c.linked_entry_id), else_=ENTRIES.c.id)
    late = func.coalesce(ENTRIES.c.service_at, ENTRIES.c.effective_at) < start
    return late, func.coalesce(CHARGES.c.grade, ""), CHARGES.c.entry_id == charged


def _by_account(settlement_id: str, currency: str, start: datetime) -> Any:
    """Postings by account, then what accounts hold: PostgreSQL hashes the groups, with several processes."""
    late, grade, of_charge = _late_and_grade(start)
    each = (
        select(late.label("late"), grade.label("grade"), POSTINGS.c.account_id,
               func.sum(case((POSTINGS.c.line == 0, 1), else_=0)).label("entries"),
               func.sum(POSTINGS.c.amount).label("amount"))
        .select_from(ITEMS)
        .join(ENTRIES, ENTRIES.c.id == ITEMS.c.entry_id)
        .join(POSTINGS, POSTINGS.c.entry_id == ENTRIES.c.id)
        .outerjoin(CHARGES, of_charge)
        .where(ITEMS.c.settlement_id == settlement_id)
        .group_by(late, grade, POSTINGS.c.account_id)
        .subquery()
    )  # fmt: skip
    return (
        select(each.c.late, each.c.grade, func.sum(each.c.entries).label("entries"),
               *(func.sum(each.c.amount * part).label(name) for name, part in _parts(currency).items()))
        .join(ACCOUNTS, ACCOUNTS.c.id == each.c.account_id)
        .group_by(each.c.late, each.c.grade)
    )  # fmt: skip


def _parts(currency: str) -> dict[str, Any]:
    """Which part of what an entry comes to an account holds, and its sign: 1 or -1, or 0 where it holds none.

    What is taken off the operator's credits was given back to a payer, not earned (credit_share.py); a difference that
    was agreed with a centre no payer is billed, so that the operator bears it (reconciling/difference.py).
    """
    money = ACCOUNTS.c.commodity == currency
    of_project = ACCOUNTS.c.code.startswith("project:")

    def sign(condition: Any, value: int = 1) -> Any:
        return case((condition, value), else_=0)

    return {
        "owed": sign(money & (of_project | (ACCOUNTS.c.code == CREDITS))),
        "borne": sign(money & ACCOUNTS.c.code.in_((BORNE, DIFFERENCES))),
        "centre": sign(money & ACCOUNTS.c.code.startswith("centre:"), -1),
        "tax": sign(money & (ACCOUNTS.c.code == TAX), -1),
        "core_seconds": sign(of_project & is_kind(ACCOUNTS.c.commodity, "core-seconds")),
    }  # fmt: skip


@contextmanager
def _accounts_by_part(conn: Connection, currency: str) -> Iterator[None]:
    """What accounts hold, as numbers: not to be worked out of their names for each of some million postings."""
    conn.execute(text(f"DROP TABLE IF EXISTS {_PARTS.name}"))
    _PARTS.create(conn, checkfirst=False)
    parts = _parts(currency)
    query = select(ACCOUNTS.c.id, *parts.values()).where(or_(*(part != 0 for part in parts.values())))
    conn.execute(insert(_PARTS).from_select(["account_id", *parts], query))
    yield
    _PARTS.drop(conn, checkfirst=False)


def _by_entry(settlement_id: str, start: datetime) -> Any:
    """Postings by entry, in their order, then by grade: SQLite sorts what it groups, here a row for each entry."""
    each = (
        select(ITEMS.c.entry_id,
               *(func.coalesce(func.sum(POSTINGS.c.amount * _PARTS.c[name]), 0).label(name) for name in _NAMES))
        .select_from(ITEMS)
        .outerjoin(POSTINGS, POSTINGS.c.entry_id == ITEMS.c.entry_id)
        .outerjoin(_PARTS, _PARTS.c.account_id == POSTINGS.c.account_id)
        .where(ITEMS.c.settlement_id == settlement_id)
        .group_by(ITEMS.c.entry_id)
        .subquery()
    )  # fmt: skip
    late, grade, of_charge = _late_and_grade(start)
    return (
        select(late.label("late"), grade.label("grade"), func.count().label("entries"),
               *(func.sum(each.c[name]).label(name) for name in _NAMES))
        .select_from(each)
        .outerjoin(ENTRIES, ENTRIES.c.id == each.c.entry_id)
        .outerjoin(CHARGES, of_charge)
        .group_by(late, grade)
    )  # fmt: skip


def _credits(conn: Connection, settlement_id: str, currency: str) -> int:
    """What entries that took something back come to; a charge that replaced none never does."""
    parts = _parts(currency)
    earned = func.sum(POSTINGS.c.amount * (parts["owed"] + parts["borne"]))
    each = (
        select(earned.label("earned"))
        .select_from(ITEMS)
        .join(ENTRIES, ENTRIES.c.id == ITEMS.c.entry_id)
        .join(POSTINGS, POSTINGS.c.entry_id == ITEMS.c.entry_id)
        .join(ACCOUNTS, ACCOUNTS.c.id == POSTINGS.c.account_id)
        .where(ITEMS.c.settlement_id == settlement_id, ENTRIES.c.kind.not_in(("charge", "overage")))
        .group_by(ITEMS.c.entry_id)
        .having(earned < 0)
        .subquery()
    )
    return int(conn.scalar(select(func.coalesce(func.sum(each.c.earned), 0))) or 0)
