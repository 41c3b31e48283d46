"""Settlements in the database: statements signed, agreed or withdrawn, and paid (`drawing.py` draws them)."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Set
from dataclasses import dataclass
from datetime import date, datetime
from typing import Any

from sqlalchemy import (
    Connection,
    func,
    insert,
    select,
)

from accounting import settle, tables
from accounting.errors import AccountingError
from accounting.evidence.outbox import put
from accounting.ledger import Entry, Posting
from accounting.minor_units import micro_per_minor
from accounting.money import format_micro
from accounting.settle import Rate, Sums
from accounting.store.journal import book
from accounting.store.schema import ACCOUNTS, POSTINGS, core, lock
from accounting.store.settlement_sums import items_sha256, sums

SETTLEMENTS = core(tables.SettlementRow)
SIGNED, ENDS = core(tables.SettlementSignatureRow), core(tables.SettlementEndRow)
PAID, RATES = core(tables.SettlementPaymentRow), core(tables.FxRateRow)
KIND = "settlement"


@dataclass(frozen=True, slots=True)
class Settlement:
    """A statement as it stands. `state`: `drawn` (one side signed), `agreed`, `withdrawn`."""

    id: str
    centre_id: str
    currency: str
    start: datetime
    end: datetime
    revision: int
    statement: str
    sha256: str
    drawn_at: datetime
    signatures: Mapping[str, str]
    state: str
    reason: str
    entry_id: int | None
    paid: int

    @property
    def said(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(self.statement)
        return found


# ---------------------------------------------------------------- exchange rates


def add_rate(conn: Connection, rate: Rate, *, now: datetime) -> None:
    """Keep a dated rate; another one of the same day and source is refused by its key."""
    row = {"base": rate.base, "quote": rate.quote, "day": rate.day, "source": rate.source, "num": rate.num,
           "den": rate.den, "recorded_at": now}  # fmt: skip
    conn.execute(insert(RATES), [row])


def rate_on(conn: Connection, base: str, quote: str, day: date) -> Rate | None:
    """The newest rate that was published by a day."""
    query = select(RATES).where(RATES.c.base == base, RATES.c.quote == quote, RATES.c.day <= day)
    row = conn.execute(query.order_by(RATES.c.day.desc(), RATES.c.source).limit(1)).one_or_none()
    return None if row is None else Rate(row.base, row.quote, row.day, row.num, row.den, row.source)


def rates(conn: Connection, pair: Set[str], first: date, last: date) -> list[Rate]:
    """The rates between two currencies of the days from `first` to `last`, either way, oldest first."""
    query = select(RATES).where(RATES.c.base.in_(pair), RATES.c.quote.in_(pair), RATES.c.day >= first,
                                RATES.c.day <= last)  # fmt: skip
    rows = conn.execute(query.order_by(RATES.c.day, RATES.c.base, RATES.c.source))
    return [Rate(r.base, r.quote, r.day, r.num, r.den, r.source) for r in rows]


# ---------------------------------------------------------------- signatures, end, payment


def add_signature(conn: Connection, settlement_id: str, side: str, *, key_id: str, jws: str, now: datetime) -> None:
    """Keep a side's signature, once; whoever calls has checked it."""
    row = {"settlement_id": settlement_id, "side": side, "key_id": key_id, "jws": jws, "signed_at": now}
    conn.execute(insert(SIGNED), [row])


def agree(conn: Connection, settlement_id: str, *, by: str, now: datetime) -> Settlement:
    """Both have signed: book what the statement says, and make it a leaf."""
    found = one(conn, settlement_id)
    if found.state != "drawn" or set(found.signatures) != {"operator", "centre"}:
        raise AccountingError(f"statement {settlement_id} is {found.state}, signed by {sorted(found.signatures)}")
    lines = tuple(Posting(account, commodity, int(amount)) for account, commodity, amount in found.said["movements"])
    entry = Entry(f"settlement:{settlement_id}", KIND, now, lines, f"settlement with {found.centre_id}")
    entry_id = book(conn, [entry], now=now)[entry.idem_key]
    _end(conn, settlement_id, "agreed", "", by, entry_id, now)
    signed = {f"{side}_jws_sha256": hashlib.sha256(jws.encode()).hexdigest() for side, jws in found.signatures.items()}
    put(conn, KIND, settlement_id, found.said, centre=found.centre_id, site=found.said["sites"][0], **signed)
    return one(conn, settlement_id)


def withdraw(conn: Connection, settlement_id: str, *, by: str, reason: str, now: datetime) -> Settlement:
    """Take a statement back before both signed; what was in it is open again."""
    if one(conn, settlement_id).state != "drawn":
        raise AccountingError(f"statement {settlement_id} has ended")
    _end(conn, settlement_id, "withdrawn", reason, by, None, now)
    return one(conn, settlement_id)


def _end(
    conn: Connection, settlement_id: str, outcome: str, reason: str, by: str, entry_id: int | None, now: datetime
) -> None:
    row = {"settlement_id": settlement_id, "outcome": outcome, "reason": reason[:500], "decided_by": by,
           "entry_id": entry_id, "ended_at": now}  # fmt: skip
    conn.execute(insert(ENDS), [row])


def pay(
    conn: Connection, settlement_id: str, *, amount: int, cost: int, reference: str, paid_at: datetime, now: datetime
) -> Settlement:
    """Record money that left for a centre: `amount` in its currency, `cost` in the settlement's own.

    The same reference again is the same payment. Raises `AccountingError` where it is more than is open, of another
    amount than before, or the settlement is not agreed.
    """
    lock(conn, {f"settlement:{settlement_id}"})
    found = one(conn, settlement_id)
    total = int(found.said["pay"])
    of_reference = select(PAID).where(PAID.c.settlement_id == settlement_id, PAID.c.reference == reference)
    if (known := conn.execute(of_reference).one_or_none()) is not None:
        if (known.amount_micro, known.cost_micro) != (amount, cost):
            raise AccountingError(f"{reference} was recorded with another amount")
        return found
    if found.state != "agreed" or not 0 < amount <= total - found.paid:
        left = f"{format_micro(total - found.paid)} {found.said['pay_currency']}"
        raise AccountingError(f"{settlement_id} is {found.state}, and {left} of it is still to be paid")
    for sum_, currency in ((amount, found.said["pay_currency"]), (cost, found.currency)):
        if sum_ % micro_per_minor(currency):
            raise AccountingError(f"{format_micro(sum_)} {currency} is no whole coins: no bank has paid that")
    # In proportion, so that the last part carries what is left and the clearing accounts are even.
    worth, before = int(found.said["pay_worth"]), found.paid
    carried = settle.cut(worth, before + amount, total) - settle.cut(worth, before, total)
    lines = settle.payment_postings(found.centre_id, currency=found.said["pay_currency"], pay=amount, cost=cost,
                                    cost_currency=found.currency, carried=carried)  # fmt: skip
    key = f"settlement-payment:{settlement_id}:{reference}"
    entry_id = book(conn, [Entry(key, "settlement_payment", paid_at, lines, reference)], now=now)[key]
    row = {"settlement_id": settlement_id, "reference": reference, "amount_micro": amount, "cost_micro": cost,
           "entry_id": entry_id, "paid_at": paid_at}  # fmt: skip
    conn.execute(insert(PAID), [row])
    return one(conn, settlement_id)


# ---------------------------------------------------------------- reading


def one(conn: Connection, settlement_id: str) -> Settlement:
    """A settlement; `AccountingError` where there is none."""
    found = _read(conn, SETTLEMENTS.c.id == settlement_id)
    if not found:
        raise AccountingError(f"there is no settlement {settlement_id!r}")
    return found[0]


def of_centre(conn: Connection, centre_id: str, currency: str | None = None) -> list[Settlement]:
    """A centre's statements, oldest first."""
    query = SETTLEMENTS.c.centre_id == centre_id
    return _read(conn, query if currency is None else query & (SETTLEMENTS.c.currency == currency))


def every(conn: Connection) -> list[Settlement]:
    return _read(conn, SETTLEMENTS.c.id.is_not(None))


def _read(conn: Connection, condition: Any) -> list[Settlement]:
    paid = (
        select(func.coalesce(func.sum(PAID.c.amount_micro), 0)).where(PAID.c.settlement_id == SETTLEMENTS.c.id)
    ).scalar_subquery()  # fmt: skip
    query = (
        select(SETTLEMENTS, ENDS.c.outcome, ENDS.c.reason, ENDS.c.entry_id, paid.label("paid"))
        .outerjoin(ENDS, ENDS.c.settlement_id == SETTLEMENTS.c.id)
        .where(condition)
        .order_by(SETTLEMENTS.c.drawn_at, SETTLEMENTS.c.id)
    )
    rows = conn.execute(query).all()
    signed: dict[str, dict[str, str]] = {}
    for s in conn.execute(select(SIGNED).where(SIGNED.c.settlement_id.in_([r.id for r in rows]))):
        signed.setdefault(s.settlement_id, {})[s.side] = s.jws
    return [
        Settlement(r.id, r.centre_id, r.currency, r.starts_at, r.ends_at, r.revision, r.statement, r.sha256,
                   r.drawn_at, signed.get(r.id, {}), r.outcome or "drawn", r.reason or "", r.entry_id, int(r.paid))
        for r in rows
    ]  # fmt: skip


def check_settlements(conn: Connection) -> list[str]:
    """Every agreed statement whose totals are not the movements of its accounts (I9, I10), in words."""
    found = []
    for s in every(conn):
        said = s.said
        if hashlib.sha256(s.statement.encode()).hexdigest() != s.sha256:
            found.append(f"{s.id}: the statement was changed")
        if s.state != "agreed":
            continue
        booked = sorted(
            [r.code, r.commodity, str(r.amount)]
            for r in conn.execute(
                select(ACCOUNTS.c.code, ACCOUNTS.c.commodity, POSTINGS.c.amount)
                .join(ACCOUNTS, ACCOUNTS.c.id == POSTINGS.c.account_id)
                .where(POSTINGS.c.entry_id == s.entry_id)
            )
        )
        if booked != sorted(said["movements"]):
            found.append(f"{s.id}: what was booked is not what was signed")
        summed = sums(conn, s.id, s.currency, s.start)
        whole = sum((*summed.grades.values(), *summed.late.values()), Sums())
        if (whole.earned, whole.centre, whole.tax) != (
            int(said["earned"]), int(said["centre_share"]), int(said["tax"])
        ) or items_sha256(conn, s.id) != said["items_sha256"]:  # fmt: skip
            found.append(f"{s.id}: its items come to {whole}")
        due = int(said["net"]) + int(said["carried_before"])
        if int(said["pay"]) % micro_per_minor(said["pay_currency"]) or due != int(said["pay_worth"]) + int(
            said["carried"]
        ):
            found.append(f"{s.id}: what is paid and carried is not what is due, in whole coins")
        kept = sum(int(fee["amount"]) for fee in said["fees"]) + int(said["withheld"]["amount"]) + int(said["net"])
        if kept + int(said["operator_keeps"]) + int(said["tax"]) != int(said["earned"]):
            found.append(f"{s.id}: its legs do not make up what was earned")
    return found
