"""Orders become allocations: amounts of a commodity with an expiry, drawn oldest expiry first, carried over, moved."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import Connection, func, insert, select

from accounting import calendar
from accounting.errors import AccountingError, CreditExhausted
from accounting.ledger import EXPIRED, Entry, Posting, credit, grant_postings
from accounting.store.holds import (
    assert_counted,
    credit_line,
    give,
    leave_out_used,
    open_account,
    raise_limit,
    used_before,
)
from accounting.store.journal import book
from accounting.store.order_floor import assert_not_below_list
from accounting.store.orders import (
    Order,
    assert_for_a_centre,
    available,
    canceled,
    charge_price,
    may_owe,
    month_part,
    order_of,
    pays_for_runs,
)
from accounting.store.paid_spans import assert_alone, free_of_charge, pay_for_rest
from accounting.store.schema import (
    ALLOCATION_EVENTS,
    ALLOCATIONS,
    BALANCES,
    ORDERS,
    VOUCHER_USES,
    VOUCHERS,
    is_kind,
    lock,
    upsert,
)

ORDER_KINDS = ("block", "subscription", "trial", "as_used")


@dataclass(frozen=True, slots=True)
class Allocation:
    """An amount in [valid_from, expires_at); `order_id` None: granted, carried over or moved."""

    id: str
    project_id: str
    commodity: str
    amount: int
    valid_from: datetime
    expires_at: datetime | None = None
    source: str = "grant"
    order_id: str | None = None
    carry_over_max: int = 0


def place_order(conn: Connection, order: Order, *, now: datetime) -> None:
    """Keep an order and give what it is for, once it has begun; what a paid block's resource costs is paid with it.

    Raises `CreditExhausted` where the price of what begins now is more than the project may still spend.
    """
    if order.kind not in ORDER_KINDS or order.amount <= 0 or order.price_micro < 0:
        raise AccountingError(f"an order is one of {', '.join(ORDER_KINDS)}, for more than nothing")
    if order.ends_at is not None and order.ends_at <= max(order.starts_at, now):
        raise AccountingError("an order ends after it begins, and not before now")
    if order.kind == "subscription" and order.ends_at is None:
        raise AccountingError("a subscription says when it ends")
    if order.price_micro and order.kind in ("trial", "as_used"):
        raise AccountingError(f"an order of kind {order.kind} has no price of its own")
    if pays_for_runs(order):
        assert_for_a_centre(conn, order)
        assert_not_below_list(conn, order)
        assert_alone(conn, order)
    conn.execute(insert(ORDERS).values(
        id=order.id, project_id=order.project_id, payer_id=order.payer_id, agreement_id=order.agreement_id,
        kind=order.kind, commodity=order.commodity, amount=order.amount, price_micro=order.price_micro,
        currency=order.currency, starts_at=order.starts_at, ends_at=order.ends_at,
        carry_over_max=order.carry_over_max, zone=order.zone, ordered_by=order.ordered_by, recorded_at=now,
        site_id=order.site_id,
    ))  # fmt: skip
    if order.kind == "as_used":
        if order.starts_at > now:
            raise AccountingError("a credit line begins at once: order it when it is to begin")
        credit_line(conn, project_id=order.project_id, commodity=order.commodity, limit=order.amount,
                    idem_key=f"order:{order.id}", now=now, reason="pay as used")  # fmt: skip
        return
    if order.starts_at > now:
        return  # `renew_due` gives it when it begins
    if order.kind == "subscription":
        renew(conn, order, now=now, free_since=order.starts_at)
        lacking = next((month_part(conn, order, start, end) for _, start, end in _due(conn, order, now)), None)
    else:
        lacking = None if _begin(conn, order, now=now, free_since=order.starts_at) else order
    if lacking is not None:
        raise CreditExhausted(order.currency, lacking.price_micro, available(conn, order))


def _begin(conn: Connection, order: Order, *, now: datetime, free_since: datetime) -> bool:
    """Give a block or a trial whole; False, and nothing is done, where the project may not owe its price."""
    if order.price_micro and not may_owe(conn, order):
        return False
    draws = free_of_charge(conn, order, order.starts_at, free_since, now)
    _give(conn, order, order.id, order.starts_at, order.ends_at, now, draws=draws)
    return True


def renew(conn: Connection, order: Order, *, now: datetime, free_since: datetime) -> int:
    """Give a subscription's months that have begun; each once. Returns how many are new.

    A month that costs is given when the project may owe its price, and no more once it is over. Of one that begins or
    ends within it, the part of its days.
    """
    lock(conn, {"allocations"})  # two workers renew at once: the second finds the month given
    given = 0
    for name, start, end in _due(conn, order, now):
        part = month_part(conn, order, start, end)
        if part.price_micro and not may_owe(conn, part):
            return given
        draws = free_of_charge(conn, order, start, free_since, now)
        _give(conn, part, name, start, end, now, draws=draws, month=order)
        given += 1
    return given


def _due(conn: Connection, order: Order, now: datetime) -> list[tuple[str, datetime, datetime]]:
    """(allocation, from, until) of the months that have begun and were not given."""
    found = []
    at = order.starts_at
    assert order.ends_at is not None
    while at < order.ends_at and at <= now:
        until = min(calendar.month_of(at, order.zone).end, order.ends_at)
        name = f"{order.id}:{at.astimezone(UTC).isoformat()}"
        given = conn.scalar(select(ALLOCATIONS.c.id).where(ALLOCATIONS.c.id == name)) is not None
        if not given and (until > now or not order.price_micro):
            found.append((name, at, until))
        at = until
    return found


@dataclass(frozen=True, slots=True)
class Renewed:
    """How much was given, and why orders (by id) could not begin: they are tried again."""

    given: int
    refused: Mapping[str, str]


def renew_due(conn: Connection, *, now: datetime) -> Renewed:
    """Give what of the orders has begun: a subscription's months, and blocks and trials that started later.

    What is given late is free of charge from now on only: runs before were charged at the prices that held. An order
    that cannot begin holds up no other.
    """
    lock(conn, {"allocations"})
    given = select(ALLOCATIONS.c.id).where(ALLOCATIONS.c.id == ORDERS.c.id).exists()
    live = (ORDERS.c.starts_at <= now) & (ORDERS.c.ends_at.is_(None) | (ORDERS.c.ends_at > now))
    monthly = ORDERS.c.kind == "subscription"
    begins = ORDERS.c.kind.in_(("block", "trial")) & ~given
    rows = conn.execute(select(ORDERS).where(live, monthly | begins, ORDERS.c.id.not_in(canceled()))).all()
    done, refused = 0, dict[str, str]()
    for order in map(order_of, rows):
        try:
            with conn.begin_nested():
                if order.kind == "subscription":
                    done += renew(conn, order, now=now, free_since=now)
                else:
                    done += _begin(conn, order, now=now, free_since=now)
        except AccountingError as exc:
            refused[order.id] = str(exc)
    return Renewed(done, refused)


def last_end(conn: Connection, order_id: str) -> datetime | None:
    """Until when an order was given; None where nothing was. What has no end was given for ever."""
    ends = conn.scalars(select(ALLOCATIONS.c.expires_at).where(ALLOCATIONS.c.order_id == order_id)).all()
    if not ends:
        return None
    return max(end or datetime.max.replace(tzinfo=UTC) for end in ends)


def allocate(conn: Connection, allocation: Allocation, *, now: datetime) -> bool:
    """Grant an amount with its expiry; False where this id was granted before."""
    a = allocation
    if a.amount <= 0 or (a.expires_at is not None and a.expires_at <= a.valid_from):
        raise AccountingError("an allocation is more than nothing, and ends after it begins")
    assert_counted(a.amount, a.commodity)
    open_account(conn, a.project_id, a.commodity)
    key = f"allocation:{a.id}"
    postings = grant_postings(a.project_id, commodity=a.commodity, amount=a.amount)
    ids = book(conn, [Entry(key, "allocation", now, postings, a.source)], now=now)
    if key not in ids:
        return False
    leave_out_used(conn, a.project_id, a.commodity, now=now)
    give(conn, project_id=a.project_id, commodity=a.commodity, amount=a.amount)
    _insert(conn, a, ids[key], now)
    return True


def expire_due(conn: Connection, *, now: datetime) -> int:
    """End allocations whose time is over: what is left lapses, or is carried over as far as agreed."""
    lock(conn, {"allocations"})
    query = (
        select(ALLOCATIONS)
        .where(ALLOCATIONS.c.expires_at <= now, ALLOCATIONS.c.id.not_in(_expired()))
        .order_by(ALLOCATIONS.c.expires_at, ALLOCATIONS.c.id)
    )
    due = conn.execute(query).all()
    for row in due:
        _expire(conn, row, now)
    return len(due)


def transfer(
    conn: Connection, allocation_id: str, *, to_project: str, amount: int, idem_key: str, now: datetime
) -> bool:
    """Move what is left of an allocation to another project, with its expiry; never what is used or held.

    Its carry-over goes along with the last of it only: else each part, moved to and fro, would carry over as much.
    """
    lock(conn, {"allocations"})
    row = conn.execute(select(ALLOCATIONS).where(ALLOCATIONS.c.id == allocation_id)).one_or_none()
    if row is None or amount <= 0:
        raise AccountingError(f"there is no allocation {allocation_id!r}, or nothing to move")
    postings = (
        Posting(credit(row.project_id), row.commodity, amount),
        Posting(credit(to_project), row.commodity, -amount),
    )
    ids = book(conn, [Entry(idem_key, "transfer", now, postings, allocation_id)], now=now)
    if idem_key not in ids:
        return False
    if row.expires_at is not None and row.expires_at <= now:
        raise AccountingError(f"allocation {allocation_id!r} has lapsed")
    left = remaining(conn, row.project_id, row.commodity).get(allocation_id, 0)
    if amount > left:
        raise CreditExhausted(row.commodity, amount, left)
    open_account(conn, to_project, row.commodity)
    raise_limit(conn, project_id=row.project_id, commodity=row.commodity, amount=-amount, check=True)
    leave_out_used(conn, to_project, row.commodity, now=now)
    give(conn, project_id=to_project, commodity=row.commodity, amount=amount)
    keep_event(conn, ids[idem_key], allocation_id, "transferred", amount, 0, now)
    carry = row.carry_over_max if amount == left else 0
    moved = Allocation(f"{_moved_name(allocation_id)}{ids[idem_key]}", to_project, row.commodity, amount, now,
                       row.expires_at, "transfer", None, carry)  # fmt: skip
    _insert(conn, moved, ids[idem_key], now)
    pay_for_rest(conn, commodity=row.commodity, project_id=row.project_id, to_project=to_project, since=now,
                 until=row.expires_at, now=now)  # fmt: skip
    return True


def remaining(conn: Connection, project_id: str, kind: str) -> dict[str, int]:
    """What is left of each live allocation of a kind, by the place that it is bound to, oldest expiry first: what runs
    there use is drawn in this order."""
    there = select(ALLOCATIONS.c.commodity).where(ALLOCATIONS.c.project_id == project_id)
    found: dict[str, int] = {}
    for commodity in sorted(conn.scalars(there.where(is_kind(ALLOCATIONS.c.commodity, kind)).distinct())):
        found |= _remaining(conn, project_id, commodity)
    return found


def _remaining(conn: Connection, project_id: str, commodity: str) -> dict[str, int]:
    events: dict[str, list[Any]] = {}
    for e in conn.execute(
        select(ALLOCATION_EVENTS)
        .join(ALLOCATIONS, ALLOCATIONS.c.id == ALLOCATION_EVENTS.c.allocation_id)
        .where(ALLOCATIONS.c.project_id == project_id, ALLOCATIONS.c.commodity == commodity)
    ):
        events.setdefault(e.allocation_id, []).append(e)
    used = int(
        conn.scalar(
            select(BALANCES.c.posted).where(BALANCES.c.project_id == project_id, BALANCES.c.commodity == commodity)
        )
        or 0
    )
    used -= used_before(conn, project_id, commodity)
    used -= sum(int(e.used) for of_one in events.values() for e in of_one if e.kind == "expired")
    rows = conn.execute(
        select(ALLOCATIONS).where(ALLOCATIONS.c.project_id == project_id, ALLOCATIONS.c.commodity == commodity)
    ).all()
    live = [r for r in rows if not any(e.kind == "expired" for e in events.get(r.id, ()))]
    found = {}
    for row in sorted(live, key=lambda r: (r.expires_at is None, r.expires_at or r.valid_from, r.id)):
        amount = int(row.amount) - sum(int(e.amount) for e in events.get(row.id, ()))
        taken = min(amount, max(0, used))
        used -= taken
        found[row.id] = amount - taken
    return found


def allocations(conn: Connection, project_id: str) -> Sequence[Any]:
    """Every allocation of a project, oldest first."""
    query = select(ALLOCATIONS).where(ALLOCATIONS.c.project_id == project_id)
    return conn.execute(query.order_by(ALLOCATIONS.c.valid_from, ALLOCATIONS.c.id)).all()


def keep_event(
    conn: Connection, entry_id: int, allocation_id: str, kind: str, amount: int, used: int, now: datetime
) -> None:
    """What became of an allocation beyond use, by the entry that says so."""
    conn.execute(insert(ALLOCATION_EVENTS).values(
        entry_id=entry_id, allocation_id=allocation_id, kind=kind, amount=amount, used=used, recorded_at=now
    ))  # fmt: skip


def add_voucher(
    conn: Connection, code: str, *, commodity: str, amount: int, expires_at: datetime | None, now: datetime
) -> None:
    """A code that is worth an amount, once; only its hash is kept."""
    if amount <= 0:
        raise AccountingError("a voucher is worth more than nothing")
    conn.execute(insert(VOUCHERS).values(
        code_sha256=_code(code), commodity=commodity, amount=amount, expires_at=expires_at, recorded_at=now
    ))  # fmt: skip


def redeem(conn: Connection, code: str, *, project_id: str, now: datetime) -> Allocation:
    """Give a project what a voucher is worth; a second time, or after its end, is refused."""
    row = conn.execute(select(VOUCHERS).where(VOUCHERS.c.code_sha256 == _code(code))).one_or_none()
    if row is None or (row.expires_at is not None and row.expires_at <= now):
        raise AccountingError("there is no such voucher, or its time is over")
    use = {"code_sha256": row.code_sha256, "project_id": project_id, "recorded_at": now}
    taken = upsert(conn, VOUCHER_USES).on_conflict_do_nothing().returning(VOUCHER_USES.c.code_sha256)
    if not conn.execute(taken, [use]).all():
        raise AccountingError("this voucher was used already")
    found = Allocation(f"voucher:{row.code_sha256[:32]}", project_id, row.commodity, int(row.amount), now,
                       row.expires_at, "voucher")  # fmt: skip
    allocate(conn, found, now=now)
    return found


def _give(
    conn: Connection, order: Order, name: str, starts_at: datetime, ends_at: datetime | None, now: datetime,
    *, draws: str, month: Order | None = None,
) -> None:  # fmt: skip
    given = Allocation(name, order.project_id, draws, order.amount, starts_at, ends_at, order.kind, order.id,
                       order.carry_over_max)  # fmt: skip
    if not allocate(conn, given, now=now):
        raise AccountingError(f"allocation {name} was given before")
    if order.price_micro:
        charge_price(conn, order, name, start=starts_at, end=ends_at, month=month, now=now)


def _expire(conn: Connection, row: Any, now: datetime) -> None:
    moved = conn.scalar(
        select(func.coalesce(func.sum(ALLOCATION_EVENTS.c.amount), 0)).where(
            ALLOCATION_EVENTS.c.allocation_id == row.id
        )
    )
    amount = int(row.amount) - int(moved or 0)
    left = remaining(conn, row.project_id, row.commodity).get(row.id, 0)
    postings = (Posting(credit(row.project_id), row.commodity, left), Posting(EXPIRED, row.commodity, -left))
    key = f"expiry:{row.id}"
    ids = book(conn, [Entry(key, "expiry", now, postings, row.id)], now=now)
    raise_limit(conn, project_id=row.project_id, commodity=row.commodity, amount=-left)
    keep_event(conn, ids[key], row.id, "expired", amount, amount - left, now)
    gone = ALLOCATIONS.c.id.startswith(_moved_name(row.id), autoescape=True) & (ALLOCATIONS.c.carry_over_max > 0)
    carried = min(left, int(row.carry_over_max))
    if carried and conn.scalar(select(ALLOCATIONS.c.id).where(gone).limit(1)) is not None:
        carried = 0  # its carry-over was moved with it
    if carried:
        until = row.expires_at + (row.expires_at - row.valid_from)
        allocate(conn, Allocation(f"{row.id[:72]}+carried", row.project_id, row.commodity, carried, row.expires_at,
                                  until, "carried"), now=now)  # fmt: skip
        pay_for_rest(conn, commodity=row.commodity, project_id=row.project_id, to_project=row.project_id,
                     since=row.expires_at, until=until, now=now)  # fmt: skip


def _moved_name(allocation_id: str) -> str:
    """What the ids of the parts begin with that were moved from an allocation."""
    return f"{allocation_id[:40]}>"


def _expired() -> Any:
    return select(ALLOCATION_EVENTS.c.allocation_id).where(ALLOCATION_EVENTS.c.kind == "expired")


def _insert(conn: Connection, a: Allocation, entry_id: int, now: datetime) -> None:
    conn.execute(insert(ALLOCATIONS).values(
        id=a.id, order_id=a.order_id, project_id=a.project_id, commodity=a.commodity, amount=a.amount,
        source=a.source, valid_from=a.valid_from, expires_at=a.expires_at, carry_over_max=a.carry_over_max,
        entry_id=entry_id, recorded_at=now,
    ))  # fmt: skip


def _code(code: str) -> str:
    return hashlib.sha256(code.strip().upper().encode()).hexdigest()
