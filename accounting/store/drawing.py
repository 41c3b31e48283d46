"""Draw a settlement's statement while others book: look, put what was found on it some at a time, add it up, and only
then hold the centre's lock, to see that nothing changed that it says, and keep it.

  choose    reads: which entries are open, what is held back
  take      writes, shortly and many times: so many of them as items of a statement that is not there yet
  add_up    reads: what the items come to
  complete  writes, shortly: the statement

Entries are only ever appended. What is booked after the look is not on the statement: it is open, and the next one has
it. What was put on a statement that is never completed (a killed process, a change in between) is open as before.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence, Set
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any
from zoneinfo import ZoneInfo

from sqlalchemy import Connection, func, insert, literal, select

from accounting import settle
from accounting.agreement import Agreement
from accounting.errors import AccountingError
from accounting.ledger import payable
from accounting.settle import Held, Rate
from accounting.store.schema import ACCOUNTS, ENTRIES, POSTINGS, among, lock
from accounting.store.settlement_sums import ITEMS, Summed, items_sha256, sums
from accounting.store.settlements import ENDS, KIND, SETTLEMENTS, Settlement, of_centre, one, rate_on

# Items that are written in one transaction: some 40 ms on SQLite (DESIGN: at most 50).
AT_ONCE = 5_000
_COUNTED_MAX = 2**62  # beyond it an amount leaves what a database counts


class Changed(AccountingError):
    """Another statement of the centre was drawn, signed or withdrawn while this one was added up: draw it again."""


@dataclass(frozen=True, slots=True)
class Chosen:
    """What a statement will settle: its entries as first and last number of each part that is taken at once."""

    id: str
    agreement: Agreement
    start: datetime
    end: datetime
    parts: tuple[tuple[int, int], ...]
    disputed: tuple[str, ...]
    held: tuple[Held, ...]
    earlier: tuple[tuple[str, str], ...]


@dataclass(frozen=True, slots=True)
class Added:
    """What the items that were taken come to."""

    chosen: Chosen
    summed: Summed
    items_sha256: str


def choose(
    conn: Connection, agreement: Agreement, *, settlement_id: str, start: datetime, end: datetime,
    disputed: Mapping[str, str],
) -> Chosen:  # fmt: skip
    """What a centre earned until `end` and nothing has settled yet.

    `disputed`: keys of entries that are held back, with the reason; the next statement takes them up again. Raises
    `AccountingError` while another statement of this centre and currency waits for its signatures.
    """
    centre, currency = agreement.centre_id, agreement.currency
    earlier = _earlier(conn, agreement)
    _rate(conn, agreement, end)  # raises before anything is written
    held = _held(conn, centre, currency, end, disputed) if disputed else []
    query = select(ENTRIES.c.id).where(*_open_entries(conn, centre, currency, end)).order_by(ENTRIES.c.id)
    ids = conn.scalars(query).all()
    parts = tuple((ids[at], ids[min(at + AT_ONCE, len(ids)) - 1]) for at in range(0, len(ids), AT_ONCE))
    return Chosen(settlement_id, agreement, start, end, parts, tuple(sorted(disputed)), tuple(held),
                  tuple((s.id, s.state) for s in earlier))  # fmt: skip


def take(conn: Connection, chosen: Chosen, part: tuple[int, int]) -> None:
    """Put one part on the statement."""
    agreement = chosen.agreement
    query = select(literal(chosen.id), ENTRIES.c.id).where(
        *_open_entries(conn, agreement.centre_id, agreement.currency, chosen.end, part)
    )
    query = query.where(ENTRIES.c.idem_key.not_in(chosen.disputed)) if chosen.disputed else query
    # In their order: else each finds its own place in the indices.
    conn.execute(insert(ITEMS).from_select(["settlement_id", "entry_id"], query.order_by(ENTRIES.c.id)))
    if part == chosen.parts[-1] and conn.dialect.name == "postgresql":
        # Without it the planner takes a million items for a few.
        conn.exec_driver_sql(f"ANALYZE {ITEMS.name}")


def add_up(conn: Connection, chosen: Chosen) -> Added:
    """What was taken comes to; it stays so, whatever is booked."""
    summed = sums(conn, chosen.id, chosen.agreement.currency, chosen.start)
    return Added(chosen, summed, items_sha256(conn, chosen.id))


def complete(conn: Connection, added: Added, *, now: datetime) -> Settlement:
    """Keep the statement; raises `Changed` where the centre has other statements than it had at the look."""
    chosen, agreement = added.chosen, added.chosen.agreement
    lock(conn, {_lock_of(agreement)})
    earlier = _earlier(conn, agreement)
    if tuple((s.id, s.state) for s in earlier) != chosen.earlier:
        raise Changed(f"the statements with {agreement.centre_id} changed while this one was added up: draw it again")
    pay_currency = agreement.payout.currency or agreement.currency
    agreed = [s for s in earlier if s.state == "agreed"]
    carried = int(agreed[-1].said["carried"]) if agreed else 0
    agreed = [s for s in agreed if s.said["pay_currency"] == pay_currency]  # what is owed in another is beside this
    opening = int(agreed[-1].said["closing"]) if agreed else 0
    unpaid = sum(int(s.said["pay"]) - s.paid for s in agreed)
    revision = 1 + sum((s.start, s.end) == (chosen.start, chosen.end) for s in earlier)
    draft = settle.Draft(
        id=chosen.id, revision=revision, agreement=agreement, start=chosen.start, end=chosen.end,
        currency=agreement.currency, grades=added.summed.grades, late=added.summed.late, disputed=chosen.held,
        credits=added.summed.credits, opening=opening, paid=opening - unpaid, carried_before=carried,
        rate=_rate(conn, agreement, chosen.end),
        items_sha256=added.items_sha256, drawn_at=now,
    )  # fmt: skip
    said = settle.statement(draft)
    if any(abs(int(amount)) >= _COUNTED_MAX for *_, amount in said["movements"]):
        pair = f"{agreement.currency} in {pay_currency}"
        raise AccountingError(f"what it comes to cannot be counted: is the rate of {pair} right?")
    text = settle.payload(said)
    conn.execute(insert(SETTLEMENTS), [{
        "id": chosen.id, "centre_id": agreement.centre_id, "currency": agreement.currency, "starts_at": chosen.start,
        "ends_at": chosen.end, "revision": revision, "statement": text.decode(),
        "sha256": hashlib.sha256(text).hexdigest(), "drawn_at": now,
    }])  # fmt: skip
    return one(conn, chosen.id)


def still_open(conn: Connection, centre: str, currency: str, end: datetime, keys: Set[str]) -> set[str]:
    """Which of these entries a statement until `end` would settle."""
    query = select(ENTRIES.c.idem_key).where(*_open_entries(conn, centre, currency, end))
    return set(conn.scalars(query.where(among(conn, ENTRIES.c.idem_key, keys))))


# ---------------------------------------------------------------- parts


def _lock_of(agreement: Agreement) -> str:
    return f"settle:{agreement.centre_id}:{agreement.currency}"


def _earlier(conn: Connection, agreement: Agreement) -> Sequence[Settlement]:
    earlier = of_centre(conn, agreement.centre_id, agreement.currency)
    if waiting := next((s for s in earlier if s.state == "drawn"), None):
        raise AccountingError(f"statement {waiting.id} waits for its signatures: sign or withdraw it first")
    return earlier


def _rate(conn: Connection, agreement: Agreement, end: datetime) -> Rate | None:
    currency, pay_currency = agreement.currency, agreement.payout.currency or agreement.currency
    if pay_currency == currency:
        return None
    last_day = (end - timedelta(microseconds=1)).astimezone(ZoneInfo(agreement.zone)).date()
    rate = rate_on(conn, currency, pay_currency, last_day)
    if rate is None:
        raise AccountingError(f"no rate of {currency} in {pay_currency} is known by {last_day}")
    return rate


def _open_entries(
    conn: Connection, centre: str, currency: str, end: datetime, part: tuple[int, int] | None = None
) -> Iterator[Any]:
    """Entries that earned (or took back) something for a centre, and that no live statement has. Items of a statement
    that is not there (never completed) take nothing. `part`: of these numbers only, so that no other is looked at."""
    # The account's number, not a query for it: so PostgreSQL's planner knows that it is on half of all entries.
    account = select(ACCOUNTS.c.id).where(ACCOUNTS.c.code == payable(centre), ACCOUNTS.c.commodity == currency)
    taken = (
        select(ITEMS.c.entry_id)
        .join(SETTLEMENTS, SETTLEMENTS.c.id == ITEMS.c.settlement_id)
        .outerjoin(ENDS, ENDS.c.settlement_id == ITEMS.c.settlement_id)
        .where(ITEMS.c.entry_id == ENTRIES.c.id, func.coalesce(ENDS.c.outcome, "") != "withdrawn")
        .exists()
    )
    touched = select(POSTINGS.c.entry_id).where(POSTINGS.c.account_id.in_(conn.scalars(account).all()))
    if part is not None:
        touched = touched.where(POSTINGS.c.entry_id.between(*part))
        yield ENTRIES.c.id.between(*part)
    yield from (ENTRIES.c.id.in_(touched), ENTRIES.c.kind != KIND, ENTRIES.c.effective_at < end, ~taken)


def _held(conn: Connection, centre: str, currency: str, end: datetime, disputed: Mapping[str, str]) -> list[Held]:
    mine = (ACCOUNTS.c.code == payable(centre)) & (ACCOUNTS.c.commodity == currency)
    query = (
        select(ENTRIES.c.idem_key, func.sum(-POSTINGS.c.amount))
        .join(POSTINGS, POSTINGS.c.entry_id == ENTRIES.c.id)
        .join(ACCOUNTS, ACCOUNTS.c.id == POSTINGS.c.account_id)
        .where(*_open_entries(conn, centre, currency, end), mine, ENTRIES.c.idem_key.in_(sorted(disputed)))
        .group_by(ENTRIES.c.idem_key)
        .order_by(ENTRIES.c.idem_key)
    )
    found = [Held(key, int(amount), disputed[key]) for key, amount in conn.execute(query)]
    if unknown := sorted(set(disputed) - {h.entry for h in found}):
        raise AccountingError(f"not among what is to be settled: {', '.join(unknown)}")
    return found
