"""What a project may spend: credit in each commodity, and two-phase holds on it."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from types import MappingProxyType
from typing import Any

from sqlalchemy import BigInteger, Connection, bindparam, func, select, update
from sqlalchemy.dialects.postgresql import insert as pg_insert
from sqlalchemy.dialects.sqlite import insert as sqlite_insert

from accounting.errors import AccountingError, CreditExhausted, TooMuch
from accounting.ledger import (
    CORE_SECONDS,
    GPU_SECONDS,
    GRANTS,
    Entry,
    credit,
    grant_postings,
    paid,
    receivable,
    resource_of,
)
from accounting.money import is_currency
from accounting.price import PriceBook
from accounting.store.journal import book
from accounting.store.schema import ACCOUNTS, BALANCES, ENTRIES, HOLDS, POSTINGS, lock, upsert
from accounting.tariff import Scope

EMPTY: Mapping[str, str] = MappingProxyType({})

# Built once: these run in every submission, and building a statement costs as much as running it.
_PLACED = (HOLDS.c.project_id, HOLDS.c.commodity, HOLDS.c.amount)
_INSERT_HOLD = {
    "postgresql": pg_insert(HOLDS).on_conflict_do_nothing().returning(*_PLACED),
    "sqlite": sqlite_insert(HOLDS).on_conflict_do_nothing().returning(*_PLACED),
}
_HOLD_ANYWAY = (
    update(BALANCES)
    .where(BALANCES.c.project_id == bindparam("project"), BALANCES.c.commodity == bindparam("in_commodity"))
    .values(held=BALANCES.c.held + bindparam("more", type_=BigInteger))
)
_HOLD_IF_ENOUGH = _HOLD_ANYWAY.where(
    BALANCES.c.limit_amount.is_(None)
    | (BALANCES.c.posted + BALANCES.c.held + bindparam("more", type_=BigInteger) <= BALANCES.c.limit_amount)
)
_COMMODITIES = select(BALANCES.c.commodity).where(BALANCES.c.project_id == bindparam("project"))


# Credit beyond this is a mistake of whoever typed it.
_COUNTED_MAX = 2**62


def open_project_accounts(conn: Connection, project_id: str, *, currency: str) -> None:
    """A project may spend nothing until it is granted credit; core-hours are not limited until they are granted."""
    rows = [
        {"project_id": project_id, "commodity": currency, "posted": 0, "held": 0, "limit_amount": 0},
        {"project_id": project_id, "commodity": CORE_SECONDS, "posted": 0, "held": 0, "limit_amount": None},
    ]
    conn.execute(upsert(conn, BALANCES).on_conflict_do_nothing(), rows)


def grant_credit(
    conn: Connection, *, project_id: str, commodity: str, amount: int, idem_key: str, now: datetime, reason: str = ""
) -> bool:
    """Raise what a project may use by a balanced entry; False where this key was booked before."""
    if amount <= 0:
        raise AccountingError("a grant is more than nothing")
    assert_counted(amount, commodity)
    postings = grant_postings(project_id, commodity=commodity, amount=amount)
    if not book(conn, [Entry(idem_key, "grant", now, postings, reason)], now=now):
        return False
    leave_out_used(conn, project_id, commodity, now=now)
    give(conn, project_id=project_id, commodity=commodity, amount=amount)
    return True


def assert_counted(amount: int, commodity: str) -> None:
    """Before it is booked: sums of this and of what is counted already fit into 64 bits, so that they can be told."""
    if abs(amount) > _COUNTED_MAX // 2:
        raise TooMuch(f"{amount} {commodity} is more than can be counted")


def open_account(conn: Connection, project_id: str, commodity: str, *, limit: int | None = None) -> None:
    """Let a project have credit in a commodity, with what it used of it before."""
    used = (
        select(func.coalesce(func.sum(POSTINGS.c.amount), 0))
        .join(ACCOUNTS, ACCOUNTS.c.id == POSTINGS.c.account_id)
        .where(ACCOUNTS.c.commodity == commodity, is_receivable(project_id))
    )
    row = {"project_id": project_id, "commodity": commodity, "posted": int(conn.scalar(used) or 0), "held": 0,
           "limit_amount": limit}  # fmt: skip
    conn.execute(upsert(conn, BALANCES).on_conflict_do_nothing(), [row])


def is_receivable(project_id: str) -> Any:
    """The condition on accounts: what this project owes, whoever pays."""
    own = receivable(project_id)
    return (ACCOUNTS.c.code == own) | ACCOUNTS.c.code.startswith(f"{own}:", autoescape=True)


def give(conn: Connection, *, project_id: str, commodity: str, amount: int) -> None:
    """Let a project use as much more, after the posting to its credit; one without a limit is limited from now on."""
    in_all = given(conn, project_id, commodity)
    if abs(in_all) > _COUNTED_MAX:
        raise TooMuch(f"project {project_id} would have more {commodity} than can be counted")
    if abs(_granted(conn, commodity)) > _COUNTED_MAX:
        raise TooMuch(f"all projects together would have more {commodity} than can be counted")
    known = func.coalesce(BALANCES.c.limit_amount + amount, in_all)
    if conn.execute(_balance(project_id, commodity).where(_counts(amount)).values(limit_amount=known)).rowcount != 1:
        raise _no_account(conn, project_id, commodity)


def leave_out_used(conn: Connection, project_id: str, commodity: str, *, now: datetime) -> None:
    """Before a resource is granted for the first time: what was used of it without a grant is no part of the grant.

    It was charged in money; an entry of its own sets it off, once.
    """
    if is_currency(commodity):
        return
    lock(conn, {f"first-grant:{project_id}:{commodity}"})
    query = select(BALANCES.c.posted, BALANCES.c.limit_amount)
    at = (BALANCES.c.project_id == project_id) & (BALANCES.c.commodity == commodity)
    row = conn.execute(query.where(at)).one_or_none()
    if row is None or row.limit_amount is not None or row.posted <= 0:
        return
    postings = grant_postings(project_id, commodity=commodity, amount=int(row.posted))
    key = _used_before_key(project_id, commodity)
    book(conn, [Entry(key, "grant", now, postings, "used before anything was granted, and charged")], now=now)


def used_before(conn: Connection, project_id: str, commodity: str) -> int:
    """What `leave_out_used` set off."""
    query = (
        select(func.coalesce(func.sum(POSTINGS.c.amount), 0))
        .join(ENTRIES, ENTRIES.c.id == POSTINGS.c.entry_id)
        .where(ENTRIES.c.idem_key == _used_before_key(project_id, commodity), POSTINGS.c.amount > 0)
    )
    return int(conn.scalar(query) or 0)


def _used_before_key(project_id: str, commodity: str) -> str:
    return f"used-before:{project_id}:{commodity}"


def given(conn: Connection, project_id: str, commodity: str) -> int:
    """What a project was given and paid in all, by the postings: its limit, where it has one."""
    query = (
        select(func.coalesce(func.sum(POSTINGS.c.amount), 0))
        .join(ACCOUNTS, ACCOUNTS.c.id == POSTINGS.c.account_id)
        .where(ACCOUNTS.c.code.in_([credit(project_id), paid(project_id)]), ACCOUNTS.c.commodity == commodity)
    )
    return -int(conn.scalar(query) or 0)


def _granted(conn: Connection, commodity: str) -> int:
    """What all projects were granted, on the account that every grant comes from."""
    query = (
        select(func.coalesce(func.sum(POSTINGS.c.amount), 0))
        .join(ACCOUNTS, ACCOUNTS.c.id == POSTINGS.c.account_id)
        .where(ACCOUNTS.c.code == GRANTS, ACCOUNTS.c.commodity == commodity)
    )
    return int(conn.scalar(query) or 0)


def raise_limit(conn: Connection, *, project_id: str, commodity: str, amount: int, check: bool = False) -> None:
    """Move what a project may use with a posting to its credit; with `check` never below what it used and holds.

    A project that is not limited in this commodity stays so.
    """
    limit = BALANCES.c.limit_amount + amount
    statement = _balance(project_id, commodity).where(_counts(amount))
    if check:
        enough = BALANCES.c.posted + BALANCES.c.held <= limit
        statement = statement.where(BALANCES.c.limit_amount.is_(None) | enough)
    if conn.execute(statement.values(limit_amount=limit)).rowcount == 1:
        return
    if not check or amount >= 0 or available(conn, project_id, commodity) is None:
        raise _no_account(conn, project_id, commodity)
    raise CreditExhausted(commodity, -amount, max(0, available(conn, project_id, commodity) or 0))


def _counts(amount: int) -> Any:
    """Whether a limit stays within what a database counts; SQLite would go on in floats beyond 64 bits, silently."""
    low, high = -_COUNTED_MAX - min(amount, 0), _COUNTED_MAX - max(amount, 0)
    return BALANCES.c.limit_amount.is_(None) | BALANCES.c.limit_amount.between(low, high)


def _no_account(conn: Connection, project_id: str, commodity: str) -> AccountingError:
    if conn.scalar(select(BALANCES.c.project_id).where(BALANCES.c.project_id == project_id,
                                                       BALANCES.c.commodity == commodity)) is None:  # fmt: skip
        return AccountingError(f"project {project_id} has no account in {commodity}")
    return TooMuch(f"project {project_id} would have more {commodity} than can be counted")


def credit_line(
    conn: Connection, *, project_id: str, commodity: str, limit: int, idem_key: str, now: datetime, reason: str
) -> None:
    """Set what a project may owe, up or down, beside what it was granted and has paid; the difference to its line
    before is a balanced entry."""
    assert_counted(limit, commodity)
    lock(conn, {f"credit-line:{project_id}:{commodity}"})
    amount = limit - _line(conn, project_id, commodity)
    if amount == 0:
        give(conn, project_id=project_id, commodity=commodity, amount=0)
        return
    postings = grant_postings(project_id, commodity=commodity, amount=amount)
    if book(conn, [Entry(idem_key, "credit_line", now, postings, reason)], now=now):
        give(conn, project_id=project_id, commodity=commodity, amount=amount)


def _line(conn: Connection, project_id: str, commodity: str) -> int:
    """The credit line that a project has."""
    query = (
        select(func.coalesce(func.sum(POSTINGS.c.amount), 0))
        .join(ENTRIES, ENTRIES.c.id == POSTINGS.c.entry_id)
        .join(ACCOUNTS, ACCOUNTS.c.id == POSTINGS.c.account_id)
        .where(ENTRIES.c.kind == "credit_line", ACCOUNTS.c.code == credit(project_id),
               ACCOUNTS.c.commodity == commodity)
    )  # fmt: skip
    return -int(conn.scalar(query) or 0)


@dataclass(frozen=True, slots=True)
class Hold:
    """Credit to set aside for a job, in each commodity."""

    project_id: str
    job_id: str
    amounts: Mapping[str, int]


def place_hold(
    conn: Connection, *, project_id: str, job_id: str, amounts: Mapping[str, int], now: datetime, check: bool = True
) -> None:
    """Set credit aside; raises `CreditExhausted` where posted + held would pass the limit.

    `check` False books it anyway: a job that is found running at a site is a fact.
    """
    place_holds(conn, [Hold(project_id, job_id, amounts)], now=now, check=check)


def place_holds(conn: Connection, holds: Sequence[Hold], *, now: datetime, check: bool = True) -> None:
    """Set credit aside for many jobs, or for none of them: each project's balance is moved once, by their sum."""
    rows = [
        {"job_id": hold.job_id, "commodity": commodity, "project_id": hold.project_id, "amount": amount,
         "state": "open", "phase": "committed", "placed_at": now}
        for hold in holds
        for commodity, amount in sorted(hold.amounts.items())
    ]  # fmt: skip
    sums: dict[tuple[str, str], int] = defaultdict(int)
    for placed in conn.execute(_INSERT_HOLD[conn.dialect.name], rows) if rows else ():  # not what was placed before
        sums[placed.project_id, placed.commodity] += placed.amount
    for (project_id, commodity), amount in sorted(sums.items()):
        taken = {"project": project_id, "in_commodity": commodity, "more": amount}
        if conn.execute(_HOLD_IF_ENOUGH if check else _HOLD_ANYWAY, taken).rowcount != 1:
            raise CreditExhausted(commodity, amount, available(conn, project_id, commodity) or 0)


def held_for(conn: Connection, job_id: str) -> dict[str, int]:
    """What is set aside for a job now, by commodity."""
    query = select(HOLDS.c.commodity, HOLDS.c.amount).where(HOLDS.c.job_id == job_id, HOLDS.c.state == "open")
    return {row.commodity: int(row.amount) for row in conn.execute(query)}


def raise_hold(conn: Connection, *, project_id: str, job_id: str, amounts: Mapping[str, int], now: datetime) -> None:
    """Set more aside for a job that has a hold; what is held already of a commodity, or more, stays.

    Raises `CreditExhausted` where posted + held would pass the limit. The caller has the job's row locked.
    """
    held = held_for(conn, job_id)
    more = {commodity: amount - held.get(commodity, 0) for commodity, amount in sorted(amounts.items())}
    fresh = {commodity: amount for commodity, amount in amounts.items() if commodity not in held}
    place_holds(conn, [Hold(project_id, job_id, fresh)], now=now)
    for commodity, amount in more.items():
        if commodity in fresh or amount <= 0:
            continue
        taken = {"project": project_id, "in_commodity": commodity, "more": amount}
        if conn.execute(_HOLD_IF_ENOUGH, taken).rowcount != 1:
            raise CreditExhausted(commodity, amount, available(conn, project_id, commodity) or 0)
        query = update(HOLDS).where(HOLDS.c.job_id == job_id, HOLDS.c.commodity == commodity, HOLDS.c.state == "open")
        conn.execute(query.values(amount=HOLDS.c.amount + amount))


def release_hold(conn: Connection, *, job_id: str, now: datetime) -> None:
    """Give back what is still set aside for a job; a second call finds nothing."""
    query = update(HOLDS).where(HOLDS.c.job_id == job_id, HOLDS.c.state == "open")
    released = conn.execute(
        query.values(state="released", released_at=now).returning(HOLDS.c.project_id, HOLDS.c.commodity, HOLDS.c.amount)
    ).all()
    for row in sorted(released):
        conn.execute(_balance(row.project_id, row.commodity).values(held=BALANCES.c.held - row.amount))


def mark_in_flight(conn: Connection, *, job_ids: Sequence[str]) -> None:
    """These jobs have started: their holds are no longer only committed."""
    conn.execute(update(HOLDS).where(HOLDS.c.job_id.in_(job_ids), HOLDS.c.state == "open").values(phase="in_flight"))


def commodities(conn: Connection, project_id: str) -> frozenset[str]:
    """What the project has an account in."""
    return frozenset(conn.scalars(_COMMODITIES, {"project": project_id}))


def hold_amounts(
    have: Collection[str], *, currency: str, micro: int, core_seconds: int, gpu_seconds: int = 0,
    units: Mapping[str, int] | None = None, bought: Mapping[str, str] = EMPTY,
) -> dict[str, int]:  # fmt: skip
    """What to set aside, in each commodity that the project has an account in; `bought`: what is drawn in place of a
    commodity where the job would run (`bought_there`)."""
    wanted = {currency: micro, CORE_SECONDS: core_seconds}
    if gpu_seconds:
        wanted[GPU_SECONDS] = gpu_seconds
    wanted |= units or {}
    drawn = {bought.get(commodity, commodity): amount for commodity, amount in wanted.items()}
    return {commodity: amount for commodity, amount in drawn.items() if commodity in have}


def bought_there(prices: PriceBook, where: Scope, kinds: Iterable[str], at: datetime) -> dict[str, str]:
    """What runs there draw at a moment in place of each commodity, as an order pays for them."""
    found = ((kind, prices.drawn_at(where, resource_of(kind), at)) for kind in kinds)
    return {kind: drawn for kind, drawn in found if drawn is not None}


def shortfall(conn: Connection, project_id: str, amounts: Mapping[str, int]) -> dict[str, int]:
    """How much is missing in each commodity for a hold of `amounts`; empty where it would be placed now."""
    missing = {}
    for commodity, amount in amounts.items():
        left = available(conn, project_id, commodity)
        if left is not None and amount > left:
            missing[commodity] = amount - left
    return missing


@dataclass(frozen=True, slots=True)
class Exposure:
    """A project's standing in one commodity: money in micro-units, or core-seconds. None: not limited."""

    commodity: str
    settled: int
    in_flight: int
    committed: int
    limit: int | None

    @property
    def available(self) -> int | None:
        return None if self.limit is None else self.limit - self.settled - self.in_flight - self.committed


def exposure(conn: Connection, project_id: str) -> list[Exposure]:
    """Settled + in flight + committed, for each commodity."""
    held: dict[tuple[str, str], int] = defaultdict(int)
    query = select(HOLDS.c.commodity, HOLDS.c.phase, func.sum(HOLDS.c.amount)).where(
        HOLDS.c.project_id == project_id, HOLDS.c.state == "open"
    )
    for commodity, phase, amount in conn.execute(query.group_by(HOLDS.c.commodity, HOLDS.c.phase)):
        held[commodity, phase] = int(amount)
    rows = conn.execute(select(BALANCES).where(BALANCES.c.project_id == project_id).order_by(BALANCES.c.commodity))
    return [
        Exposure(r.commodity, r.posted, held[r.commodity, "in_flight"], held[r.commodity, "committed"], r.limit_amount)
        for r in rows
    ]


def _balance(project_id: str, commodity: str) -> Any:
    return update(BALANCES).where(BALANCES.c.project_id == project_id, BALANCES.c.commodity == commodity)


def available(conn: Connection, project_id: str, commodity: str) -> int | None:
    """What of a commodity a project may still use; None: it is not limited."""
    query = select(BALANCES.c.limit_amount - BALANCES.c.posted - BALANCES.c.held).where(
        BALANCES.c.project_id == project_id, BALANCES.c.commodity == commodity
    )
    value = conn.scalar(query)
    return None if value is None else int(value)
