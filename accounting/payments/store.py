"""Import payments once, allocate them to documents through the ledger, and say what is owed and for how long."""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from functools import partial
from typing import Any

from sqlalchemy import Connection, func, insert, select

from accounting.errors import PaymentRefused
from accounting.invoicing.invoice import Document, DocumentKind
from accounting.invoicing.legal_entities import ENTITIES, SERIES, entities
from accounting.invoicing.postings import allocation_postings, receipt_postings, settled_micro, settled_postings
from accounting.invoicing.store import load, may_spend_again
from accounting.ledger import Entry
from accounting.minor_units import plain
from accounting.payments.payer import contradicts
from accounting.payments.payment import (
    NAMED,
    Allocation,
    BankTransaction,
    OpenDocument,
    allocate,
    of_its_amount,
    reopen,
    squeezed,
)
from accounting.payments.top_up import Recognised, recognise
from accounting.payments.top_up_store import lock_money, match_import, waiting
from accounting.store import book
from accounting.store.cleared import cleared_sums
from accounting.store.schema import TOP_UP_RECEIPTS, TRANSACTIONS, upsert
from accounting.store.settled import DOCUMENTS, PAID, settled_minor

_CHUNK = 200
# A shorter number stands in bank details by chance.
_ACCOUNT_MIN = 6
BY_REFERENCE = "its bank reference"


@dataclass(frozen=True, slots=True)
class Imported:
    """What one import did; `known`: transactions that came before, `top_ups`: recorded by hand before, recognised,
    `proposed`: of those unallocated, how many a person may give to an invoice of their amount."""

    new: int
    known: int
    allocated_minor: Mapping[str, int]
    unallocated: int
    top_ups: int = 0
    proposed: int = 0


@dataclass(frozen=True, slots=True)
class Received:
    """A transaction as it stands: how much of it is allocated, and to what. `perhaps`: top-ups that it may be;
    `proposed`: invoices of its amount, of another payer or not the only ones."""

    id: int
    transaction: BankTransaction
    allocated_minor: int
    documents: tuple[tuple[str, int], ...]
    top_ups: tuple[tuple[str, int], ...] = ()
    perhaps: tuple[str, ...] = ()
    proposed: tuple[str, ...] = ()

    @property
    def unallocated_minor(self) -> int:
        return self.transaction.amount_minor - self.allocated_minor


def import_payments(conn: Connection, transactions: Sequence[BankTransaction], *, now: datetime) -> Imported:
    """Book what is new and allocate what can be matched; a reference that came before is left alone.

    Raises `PaymentRefused` where a known reference comes back with another amount or day.
    """
    lock_receivables(conn)
    fresh = _fresh(conn, transactions)
    if not fresh:
        return Imported(0, len(transactions), {}, 0)
    entries = [
        Entry(_key(t), "payment", t.booked_on,
              receipt_postings(t.account, currency=t.currency, minor=t.amount_minor), t.remittance[:500])
        for t in fresh
    ]  # fmt: skip
    booked = book(conn, entries, now=now)
    rows = [
        {"account": t.account, "bank_ref": t.bank_ref, "content_sha256": t.content_sha256, "source": t.source,
         "booked_on": t.booked_on, "currency": t.currency, "amount_minor": t.amount_minor, "payer_name": t.payer_name,
         "remittance": t.remittance, "payer_account": t.payer_account, "entry_id": booked[e.idem_key],
         "recorded_at": now}
        for t, e in zip(fresh, entries, strict=True)
    ]  # fmt: skip
    made = conn.execute(upsert(conn, TRANSACTIONS).returning(
        TRANSACTIONS.c.id, TRANSACTIONS.c.account, TRANSACTIONS.c.bank_ref), rows)  # fmt: skip
    ids = {(r.account, r.bank_ref): int(r.id) for r in made}
    sums: dict[str, int] = defaultdict(int)
    left_over = recognised = proposed = 0
    owed = {d.number: d for d in open_documents(conn)}
    recorded = {top_up.id: top_up for top_up in waiting(conn)}
    owners = _owners(conn, {t.payer_account for t in fresh if t.payer_account})
    for t in fresh:
        if t.amount_minor < 0:
            found = reopen(t, _paid_documents(conn))
            _save(conn, ids[t.account, t.bank_ref], t, found, now)
            for a in found:
                sums[t.currency] += a.amount_minor
                [owed[a.document]] = open_documents(conn, number=a.document)
            left_over += sum(a.amount_minor for a in found) != t.amount_minor
            continue
        owner = owners.get(t.payer_account, frozenset())
        found = allocate(t, list(owed.values()), partial(contradicts, owners=owner))
        top_up = recognise(t, list(recorded.values()))
        if top_up.top_up is not None and not any(a.how == NAMED for a in found):
            match_import(conn, ids[t.account, t.bank_ref], t, recorded.pop(top_up.top_up.id), how=BY_REFERENCE, now=now)
            recognised += 1
            continue
        if top_up.top_up is not None or top_up.perhaps:  # may be either: only what it names is paid by itself
            found = [a for a in found if a.how == NAMED and top_up.top_up is None]
        _save(conn, ids[t.account, t.bank_ref], t, found, now)
        proposed += not found and bool(of_its_amount(t, list(owed.values())))
        for a in found:
            sums[t.currency] += a.amount_minor
            before = owed[a.document]
            left = before.open_minor - a.amount_minor
            owed[a.document] = replace(before, open_minor=left)
        left_over += sum(a.amount_minor for a in found) != t.amount_minor
    return Imported(len(fresh), len(transactions) - len(fresh), dict(sums), left_over, recognised, proposed)


def assert_as_before(conn: Connection, transactions: Sequence[BankTransaction]) -> None:
    """Raise `PaymentRefused` where a known reference (or one of this file) comes with another amount or day."""
    _fresh(conn, transactions)


def allocate_by_hand(
    conn: Connection, transaction_id: int, number: str, amount_minor: int, *, by: str, now: datetime
) -> Received:
    """Let part of a transaction pay a document, or (negative) take that back; refused beyond what is there."""
    lock_receivables(conn)
    received = find(conn, transaction_id)
    if received is None:
        raise PaymentRefused(f"there is no transaction {transaction_id}")
    t = received.transaction
    document = next((d for d in open_documents(conn, number=number) if d.currency == t.currency), None)
    if document is not None and document.open_minor < 0 and not dict(received.documents).get(number):
        raise PaymentRefused(f"{number} owes nothing: what it gives back is set off against open invoices")
    if document is None:
        raise PaymentRefused(f"there is no invoice {number} in {t.currency}")
    here = dict(received.documents).get(number, 0)
    if t.amount_minor > 0:
        low, high = -here, max(0, min(received.unallocated_minor, document.open_minor))
    else:  # money that went back: what it had paid is open again
        in_all = next((d.open_minor for d in _paid_documents(conn) if d.number == number), 0)
        low, high = min(0, max(received.unallocated_minor, -in_all)), -here
    if amount_minor == 0 or not low <= amount_minor <= high:
        raise PaymentRefused(f"between {plain(low, t.currency)} and {plain(high, t.currency)} {t.currency} "
                             f"can be allocated to {number}")  # fmt: skip
    _save(conn, transaction_id, t, [Allocation(number, document.payer_id, amount_minor, f"by hand: {by}"[:200])], now)
    found = find(conn, transaction_id)
    assert found is not None
    return found


def open_documents(
    conn: Connection, *, number: str | None = None, beside: Document | None = None, as_of: datetime | None = None
) -> list[OpenDocument]:
    """Invoices with what is left of them after credit notes, payments and clearings, and credit notes of no invoice of
    their own (negative); all that are open (or those of the same issuer, payer, project and currency), or one (open or
    not). `as_of`: as the books stood then, payers by the name that they have now."""
    came_in = select(PAID.c.document, func.sum(PAID.c.amount_minor).label("minor")).group_by(PAID.c.document)
    given = select(DOCUMENTS.c.corrects, func.sum(DOCUMENTS.c.gross_minor).label("minor")).where(
        DOCUMENTS.c.corrects.is_not(None)
    ).group_by(DOCUMENTS.c.corrects)  # fmt: skip
    if as_of is not None:
        came_in, given = came_in.where(PAID.c.recorded_at <= as_of), given.where(DOCUMENTS.c.recorded_at <= as_of)
    paid, back, cleared = came_in.subquery(), given.subquery(), cleared_sums(as_of)
    off = func.coalesce(paid.c.minor, 0) + func.coalesce(cleared.c.minor, 0)
    left = (DOCUMENTS.c.gross_minor + func.coalesce(back.c.minor, 0) - off).label("left")
    newest = select(ENTITIES.c.id, func.max(ENTITIES.c.revision).label("revision")).group_by(ENTITIES.c.id).subquery()
    query = (
        select(DOCUMENTS.c.number, DOCUMENTS.c.payer_id, DOCUMENTS.c.currency, DOCUMENTS.c.due_at, left,
               ENTITIES.c.legal_name, DOCUMENTS.c.issuer_id)
        .outerjoin(paid, paid.c.document == DOCUMENTS.c.number)
        .outerjoin(back, back.c.corrects == DOCUMENTS.c.number)
        .outerjoin(cleared, cleared.c.document == DOCUMENTS.c.number)
        .join(newest, newest.c.id == DOCUMENTS.c.payer_id)
        .join(ENTITIES, (ENTITIES.c.id == newest.c.id) & (ENTITIES.c.revision == newest.c.revision))
        .where((DOCUMENTS.c.kind == DocumentKind.INVOICE.value) | DOCUMENTS.c.corrects.is_(None))
        .order_by(DOCUMENTS.c.due_at, DOCUMENTS.c.number)
    )  # fmt: skip
    query = query.where(left != 0) if number is None else query.where(DOCUMENTS.c.number == number)
    if as_of is not None:
        query = query.where(DOCUMENTS.c.recorded_at <= as_of)
    if beside is not None:
        query = query.where(
            DOCUMENTS.c.issuer_id == beside.issuer.id, DOCUMENTS.c.payer_id == beside.payer.id,
            DOCUMENTS.c.project_id == beside.project_id, DOCUMENTS.c.currency == beside.currency,
        )  # fmt: skip
    zones = {entity.id: entity.zone for entity, _ in entities(conn) if entity.prefix}
    return [OpenDocument(r.number, r.payer_id, r.legal_name, r.currency, int(r.left), r.due_at, zones[r.issuer_id])
            for r in conn.execute(query)]  # fmt: skip


def find(conn: Connection, transaction_id: int) -> Received | None:
    return next(iter(_received(conn, select(TRANSACTIONS).where(TRANSACTIONS.c.id == transaction_id))), None)


def received(conn: Connection, *, only_unallocated: bool = False, limit: int = 500) -> list[Received]:
    """The newest transactions, with what they pay."""
    query = select(TRANSACTIONS).order_by(TRANSACTIONS.c.id.desc()).limit(limit)
    if only_unallocated:
        used = select(func.coalesce(func.sum(PAID.c.amount_minor), 0)).where(PAID.c.transaction_id == TRANSACTIONS.c.id)
        in_top_ups = select(func.coalesce(func.sum(TOP_UP_RECEIPTS.c.amount_minor), 0))
        in_top_ups = in_top_ups.where(TOP_UP_RECEIPTS.c.transaction_id == TRANSACTIONS.c.id)
        query = query.where(TRANSACTIONS.c.amount_minor != used.scalar_subquery() + in_top_ups.scalar_subquery())
    return _received(conn, query)


# ---------------------------------------------------------------- parts


def _owners(conn: Connection, accounts: set[str]) -> dict[str, frozenset[str]]:
    """Who pays from an account: the entities that name it as theirs, else those whose invoices it has paid before."""
    if not accounts:
        return {}
    found: dict[str, set[str]] = defaultdict(set)
    payers = [entity for entity, _ in entities(conn) if not entity.prefix]
    for account in accounts:
        plain = squeezed(account)
        found[account] = {e.id for e in payers if len(plain) >= _ACCOUNT_MIN and plain in squeezed(e.bank_details)}
    query = (
        select(TRANSACTIONS.c.payer_account, DOCUMENTS.c.payer_id)
        .join(PAID, PAID.c.transaction_id == TRANSACTIONS.c.id).join(DOCUMENTS, DOCUMENTS.c.number == PAID.c.document)
        .where(TRANSACTIONS.c.payer_account.in_(accounts))
        .group_by(TRANSACTIONS.c.payer_account, DOCUMENTS.c.payer_id).having(func.sum(PAID.c.amount_minor) > 0)
    )  # fmt: skip
    named = {account for account, owners in found.items() if owners}
    for account, payer_id in conn.execute(query):
        if account not in named:
            found[account].add(payer_id)
    return {account: frozenset(owners) for account, owners in found.items()}


def _paid_documents(conn: Connection) -> list[OpenDocument]:
    """Invoices with what payments have brought of each, in `open_minor`."""
    query = (
        select(DOCUMENTS.c.number, DOCUMENTS.c.payer_id, DOCUMENTS.c.currency, DOCUMENTS.c.due_at,
               func.sum(PAID.c.amount_minor).label("minor"))
        .join(PAID, PAID.c.document == DOCUMENTS.c.number)
        .group_by(DOCUMENTS.c.number, DOCUMENTS.c.payer_id, DOCUMENTS.c.currency, DOCUMENTS.c.due_at)
        .having(func.sum(PAID.c.amount_minor) > 0)
    )  # fmt: skip
    return [OpenDocument(r.number, r.payer_id, "", r.currency, int(r.minor), r.due_at) for r in conn.execute(query)]


def _key(t: BankTransaction) -> str:
    whole = "\n".join((t.account, t.bank_ref))
    return f"payment:{hashlib.sha256(whole.encode()).hexdigest()}"


def lock_receivables(conn: Connection) -> None:
    """One import, allocation or clearing at a time: what is open must not change between the look and the posting."""
    lock_money(conn)
    conn.execute(select(SERIES.c.kind).order_by(SERIES.c.issuer_id, SERIES.c.kind).with_for_update()).all()


def _fresh(conn: Connection, transactions: Sequence[BankTransaction]) -> list[BankTransaction]:
    known: dict[tuple[str, str], str] = {}
    references = sorted({t.bank_ref for t in transactions})
    for start in range(0, len(references), _CHUNK):
        query = select(TRANSACTIONS.c.account, TRANSACTIONS.c.bank_ref, TRANSACTIONS.c.content_sha256)
        found = conn.execute(query.where(TRANSACTIONS.c.bank_ref.in_(references[start : start + _CHUNK])))
        known |= {(r.account, r.bank_ref): r.content_sha256 for r in found}
    fresh = []
    for t in transactions:
        before = known.get((t.account, t.bank_ref))
        if before is None:
            known[t.account, t.bank_ref] = t.content_sha256
            fresh.append(t)
        elif before != t.content_sha256:
            raise PaymentRefused(f"{t.bank_ref} was imported with another amount or day; ask the bank which holds")
    return fresh


def _save(
    conn: Connection, transaction_id: int, t: BankTransaction, found: Sequence[Allocation], now: datetime
) -> None:
    if not found:
        return
    n = int(conn.scalar(select(func.count()).where(PAID.c.transaction_id == transaction_id)) or 0)
    for a in found:
        n += 1
        invoice = load(conn, a.document)
        assert invoice is not None
        before = settled_minor(conn, a.document)
        again = settled_micro(invoice, before, before + a.amount_minor)
        key = f"allocation:{transaction_id}:{n}"
        moved = allocation_postings(t.account, a.payer_id, currency=t.currency, minor=a.amount_minor)
        entry = Entry(key, "allocation", now, (*moved, *settled_postings(invoice, again)), a.document)
        entry_id = book(conn, [entry], now=now)[key]
        conn.execute(insert(PAID).values(
            transaction_id=transaction_id, document=a.document, amount_minor=a.amount_minor, how=a.how,
            entry_id=entry_id, recorded_at=now,
        ))  # fmt: skip
        may_spend_again(conn, invoice, again)


def _received(conn: Connection, query: Any) -> list[Received]:
    rows = conn.execute(query).all()
    paid: dict[int, dict[str, int]] = defaultdict(lambda: defaultdict(int))
    ids = [r.id for r in rows]
    sums = select(PAID.c.transaction_id, PAID.c.document, func.sum(PAID.c.amount_minor)).where(
        PAID.c.transaction_id.in_(ids)
    )
    for transaction_id, document, minor in conn.execute(sums.group_by(PAID.c.transaction_id, PAID.c.document)):
        paid[transaction_id][document] = int(minor)
    came: dict[int, list[tuple[str, int]]] = defaultdict(list)
    of, by = TOP_UP_RECEIPTS.c.transaction_id, TOP_UP_RECEIPTS.c.payment_id
    minor_now = func.sum(TOP_UP_RECEIPTS.c.amount_minor)
    receipts = select(of, by, minor_now).where(of.in_(ids)).group_by(of, by).having(minor_now != 0).order_by(by)
    for transaction_id, payment_id, minor in conn.execute(receipts):
        came[transaction_id].append((payment_id, int(minor)))
    recorded = waiting(conn)
    owed = open_documents(conn)
    found = []
    for r in rows:
        t = BankTransaction(r.account, r.bank_ref, r.booked_on, r.currency, r.amount_minor, r.payer_name,
                            r.remittance, r.source, r.payer_account)  # fmt: skip
        used = sum(paid[r.id].values()) + sum(minor for _, minor in came[r.id])
        maybe = recognise(t, recorded) if used != t.amount_minor else Recognised()
        perhaps = maybe.perhaps if maybe.top_up is None else (maybe.top_up,)
        documents = tuple(sorted((d, m) for d, m in paid[r.id].items() if m))
        found.append(Received(r.id, t, used, documents, tuple(came[r.id]), tuple(p.id for p in perhaps),
                              tuple(d.number for d in of_its_amount(t, owed)) if used == 0 else ()))  # fmt: skip
    return found
