"""Check the books: every invariant that must hold, in words where it does not."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from typing import Any

from sqlalchemy import BigInteger, Connection, cast, func, select

from accounting.store.check_orders import order_prices_off
from accounting.store.check_receivables import receivables_off
from accounting.store.schema import (
    ACCOUNTS,
    BALANCES,
    CHARGES,
    ENTRIES,
    HOLDS,
    PERIODS,
    POSTINGS,
    REVERSALS,
    TIER_COUNTS,
)

Standing = Mapping[tuple[str, str], int]


def check_books(conn: Connection) -> list[str]:
    """Every invariant that the books break, in words; empty where they are sound."""
    usage, credit = _postings_of_projects(conn)
    beside = _beside_charges(conn)
    of_charges = {key: amount - beside.get(key, 0) for key, amount in usage.items()}
    return [
        *_unbalanced(conn),
        *_balances_off(conn, usage, credit),
        *(
            f"{project}/{currency}: charges {amount}, postings {of_charges.get((project, currency), 0)}"
            for (project, currency), amount in _live_charges(conn).items()
            if amount != of_charges.get((project, currency), 0)
        ),
        *_divisions_off(conn),
        *_misrated(conn),
        *order_prices_off(conn),
        *receivables_off(conn),
        *_tiers_off(conn),
        *_late_in_closed(conn),
    ]


def _unbalanced(conn: Connection) -> list[str]:
    """I1: each entry sums to zero in each commodity."""
    total = func.sum(POSTINGS.c.amount)
    query = (
        select(POSTINGS.c.entry_id, ACCOUNTS.c.commodity, total)
        .join(ACCOUNTS, ACCOUNTS.c.id == POSTINGS.c.account_id)
        .group_by(POSTINGS.c.entry_id, ACCOUNTS.c.commodity)
    )
    found = [
        f"entry {e}: {commodity} sums to {amount}" for e, commodity, amount in conn.execute(query.having(total != 0))
    ]
    bare = select(ENTRIES.c.id).outerjoin(POSTINGS, POSTINGS.c.entry_id == ENTRIES.c.id)
    found += [f"entry {e} has no postings" for e in conn.scalars(bare.where(POSTINGS.c.entry_id.is_(None)))]
    return found


def _postings_of_projects(conn: Connection) -> tuple[Standing, Standing]:
    """What each project used, and what it was given and paid, by (project, commodity)."""
    usage: dict[tuple[str, str], int] = defaultdict(int)
    credit: dict[tuple[str, str], int] = defaultdict(int)
    query = (
        select(ACCOUNTS.c.code, ACCOUNTS.c.commodity, func.sum(POSTINGS.c.amount))
        .join(ACCOUNTS, ACCOUNTS.c.id == POSTINGS.c.account_id)
        .where(ACCOUNTS.c.code.startswith("project:"))
        .group_by(ACCOUNTS.c.code, ACCOUNTS.c.commodity)
    )
    for code, commodity, amount in conn.execute(query):
        _, project, kind, *_ = code.split(":")
        if kind == "usage":
            usage[project, commodity] += int(amount)
        elif kind in ("credit", "paid"):
            credit[project, commodity] -= int(amount)
    return usage, credit


def _balances_off(conn: Connection, usage: Standing, credit: Standing) -> list[str]:
    """I4, I7: the cached balance is the sum of postings, held the sum of open holds, the limit what was given."""
    open_holds = select(HOLDS.c.project_id, HOLDS.c.commodity, func.sum(HOLDS.c.amount)).where(HOLDS.c.state == "open")
    held = {(r[0], r[1]): int(r[2]) for r in conn.execute(open_holds.group_by(HOLDS.c.project_id, HOLDS.c.commodity))}
    found = []
    for row in conn.execute(select(BALANCES)):
        key = (row.project_id, row.commodity)
        name = f"{row.project_id}/{row.commodity}"
        if usage.get(key, 0) != row.posted:
            found.append(f"{name}: balance {row.posted}, postings {usage.get(key, 0)}")
        if held.get(key, 0) != row.held:
            found.append(f"{name}: held {row.held}, holds {held.get(key, 0)}")
        if row.limit_amount is not None and credit.get(key, 0) != row.limit_amount:
            found.append(f"{name}: limit {row.limit_amount}, given {credit.get(key, 0)}")
    return found


def _live_charges(conn: Connection) -> Standing:
    """I3: what live charges come to, by (project, currency)."""
    query = (
        select(CHARGES.c.project_id, CHARGES.c.currency, func.sum(CHARGES.c.amount_micro))
        .outerjoin(REVERSALS, REVERSALS.c.charge_id == CHARGES.c.id)
        .where(REVERSALS.c.charge_id.is_(None))
        .group_by(CHARGES.c.project_id, CHARGES.c.currency)
    )
    return {(project, currency): int(amount) for project, currency, amount in conn.execute(query)}


def _beside_charges(conn: Connection) -> Standing:
    """What adjustments, refunds, fees and write-offs moved on what projects owe."""
    query = (
        select(ACCOUNTS.c.code, ACCOUNTS.c.commodity, func.sum(POSTINGS.c.amount))
        .join(ACCOUNTS, ACCOUNTS.c.id == POSTINGS.c.account_id)
        .join(ENTRIES, ENTRIES.c.id == POSTINGS.c.entry_id)
        .where(ACCOUNTS.c.code.startswith("project:"), ENTRIES.c.kind.not_in(("charge", "correction", "overage")))
        .group_by(ACCOUNTS.c.code, ACCOUNTS.c.commodity)
    )
    found: dict[tuple[str, str], int] = defaultdict(int)
    for code, commodity, amount in conn.execute(query):
        _, project, kind, *_ = code.split(":")
        if kind == "usage":
            found[project, commodity] += int(amount)
    return found


def _divisions_off(conn: Connection) -> list[str]:
    """I9: nobody owes or gets more than the gross, and payers' parts make up the amount.

    A correction may come to less than nothing, where it takes a month's tiered price down with it.
    """
    unearned = CHARGES.c.gross_micro - CHARGES.c.amount_micro - CHARGES.c.borne_micro
    earned, divided = CHARGES.c.amount_micro + CHARGES.c.borne_micro, CHARGES.c.centre_micro + CHARGES.c.tax_micro
    over = func.abs(divided) > func.abs(earned)
    query = select(CHARGES.c.id).where((unearned < 0) | over)
    found = [f"charge {id_}: its parts are more than the whole" for id_ in conn.scalars(query)]
    split = select(CHARGES.c.id, CHARGES.c.amount_micro, CHARGES.c.payers).where(CHARGES.c.payers.is_not(None))
    return found + [
        f"charge {r.id}: payers owe {sum(r.payers.values())} of {r.amount_micro}"
        for r in conn.execute(split)
        if r.payers and sum(r.payers.values()) != r.amount_micro
    ]


def rated(quantity: Any, price_micro: Any, per: int = 3600) -> Any:
    """Half up, in 64 bits on both databases: 10^12 core-seconds × 10^8 micro-units would pass them (trap 24).

    Whole units first, so that only the rest of less than one unit is multiplied.
    """
    return (quantity // per) * price_micro + ((quantity % per) * price_micro + per // 2) // per


def _misrated(conn: Connection) -> list[str]:
    """Charges of one plain segment of core time are what the database itself makes of quantity and price."""

    def whole(name: str) -> Any:
        return cast(CHARGES.c.segments[0][name].as_string(), BigInteger)

    plain = (
        (func.json_array_length(CHARGES.c.segments) == 1)
        & CHARGES.c.segments[0]["discount"].as_string().is_(None)
        & CHARGES.c.segments[0]["tier_key"].as_string().is_(None)
        & CHARGES.c.segments[0]["list", "rule"].as_string().is_(None)
        & (whole("per") == 3600)
    )
    query = select(CHARGES.c.id, CHARGES.c.gross_micro).where(plain)
    off = query.where(CHARGES.c.gross_micro != rated(whole("quantity"), whole("price_micro")))
    return [f"charge {r.id}: {r.gross_micro} is not quantity × price" for r in conn.execute(off)]


def _tiers_off(conn: Connection) -> list[str]:
    """The cached tier counts are the sums over live charges."""
    kept = {(r.project_id, r.tier_key): (r.quantity, r.amount_micro) for r in conn.execute(select(TIER_COUNTS))}
    if not kept:
        return []
    query = (
        select(CHARGES.c.project_id, CHARGES.c.segments)
        .outerjoin(REVERSALS, REVERSALS.c.charge_id == CHARGES.c.id)
        .where(REVERSALS.c.charge_id.is_(None))
    )
    sums: dict[tuple[str, str], list[int]] = defaultdict(lambda: [0, 0])
    for project_id, segments in conn.execute(query):
        for s in segments:
            for of in (s, s.get("list", {})):
                if of.get("tier_key"):
                    sums[project_id, of["tier_key"]][0] += s["quantity"]
                    sums[project_id, of["tier_key"]][1] += of["amount_micro"]
    return [
        f"{project}/{key}: count {kept[project, key]}, charges {tuple(sums[project, key])}"
        for project, key in kept
        if kept[project, key] != tuple(sums[project, key])
    ]


def _late_in_closed(conn: Connection) -> list[str]:
    """I6: nothing that counts in a closed period was recorded after its closing."""
    from_closing = (
        select(ENTRIES.c.id)
        .join(PERIODS, (PERIODS.c.tenant == ENTRIES.c.tenant) & (PERIODS.c.state == "closed"))
        .where(ENTRIES.c.effective_at >= PERIODS.c.starts_at, ENTRIES.c.effective_at < PERIODS.c.ends_at)
        .where(ENTRIES.c.recorded_at > PERIODS.c.closed_at)
    )
    return [f"entry {id_} came into a closed period" for id_ in conn.scalars(from_closing)]
