"""Check the control accounts: what payers owe is what is open of their documents; the same of banks and taxes."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from typing import Any

from sqlalchemy import Connection, func, select

from accounting.minor_units import micro_per_minor
from accounting.store.cleared import CLEARING_DECISIONS, CLEARINGS, REFUND, SET_OFF
from accounting.store.schema import ACCOUNTS, POSTINGS, TOP_UP_RECEIPTS, TRANSACTIONS
from accounting.store.settled import DOCUMENTS, PAID

Sums = Mapping[tuple[str, str], int]


def receivables_off(conn: Connection) -> list[str]:
    """Every payer and bank account whose ledger account is not the sum of what it stands for, in words."""
    expected = dict(_owed(conn)) | dict(_banks(conn)) | dict(_taxed(conn))
    booked = _booked(conn)
    found = []
    for account, currency in sorted(expected.keys() | booked.keys()):
        said = expected.get((account, currency), 0) * micro_per_minor(currency)
        if (stands := booked.get((account, currency), 0)) != said:
            found.append(f"{account}/{currency}: ledger {stands}, documents {said}")
    return found


def _owed(conn: Connection) -> Sums:
    """Documents, less what was paid and cleared, in minor units; a set-off moves nothing between payers."""
    found: dict[tuple[str, str], int] = defaultdict(int)
    d = DOCUMENTS.c
    billed = select(d.payer_id, d.currency, func.sum(d.gross_minor)).group_by(d.payer_id, d.currency)
    came = (
        select(d.payer_id, d.currency, -func.sum(PAID.c.amount_minor))
        .join(PAID, PAID.c.document == d.number).group_by(d.payer_id, d.currency)
    )  # fmt: skip
    cleared = (
        select(d.payer_id, d.currency, CLEARINGS.c.kind, func.sum(CLEARINGS.c.amount_minor))
        .join(CLEARINGS, CLEARINGS.c.document == d.number)
        .join(CLEARING_DECISIONS, CLEARING_DECISIONS.c.clearing_id == CLEARINGS.c.id)
        .where(CLEARING_DECISIONS.c.decision == "posted", CLEARINGS.c.kind != SET_OFF)
        .group_by(d.payer_id, d.currency, CLEARINGS.c.kind)
    )
    for query in (billed, came):
        for payer, currency, minor in conn.execute(query):
            found[f"payer:{payer}:receivable", currency] += int(minor)
    for payer, currency, kind, minor in conn.execute(cleared):
        found[f"payer:{payer}:receivable", currency] += int(minor) if kind == REFUND else -int(minor)
    return found


def _taxed(conn: Connection) -> Sums:
    """The tax that an issuer's documents say."""
    d = DOCUMENTS.c
    query = select(d.issuer_id, d.currency, func.sum(d.tax_minor)).group_by(d.issuer_id, d.currency)
    return {(f"tax:{issuer}", currency): -int(minor) for issuer, currency, minor in conn.execute(query)}


def _banks(conn: Connection) -> Sums:
    """What each bank account brought, and what of it is allocated to nothing."""
    found: dict[tuple[str, str], int] = defaultdict(int)
    t = TRANSACTIONS.c
    for account, currency, minor in conn.execute(
        select(t.account, t.currency, func.sum(t.amount_minor)).group_by(t.account, t.currency)
    ):
        found[f"bank:{account}", currency] += int(minor)
        found[f"unallocated:{account}", currency] -= int(minor)
    for used in (PAID, TOP_UP_RECEIPTS):
        query = select(t.account, t.currency, func.sum(used.c.amount_minor)).join(used, used.c.transaction_id == t.id)
        for account, currency, minor in conn.execute(query.group_by(t.account, t.currency)):
            found[f"unallocated:{account}", currency] += int(minor)
    return found


def _booked(conn: Connection) -> Sums:
    """The ledger's side; an issuer's tax accounts (one for each code) are one."""
    code: Any = ACCOUNTS.c.code
    control = (code.startswith("payer:") & code.endswith(":receivable")) | code.startswith("bank:")
    query = (
        select(code, ACCOUNTS.c.commodity, func.sum(POSTINGS.c.amount))
        .join(POSTINGS, POSTINGS.c.account_id == ACCOUNTS.c.id)
        .where(control | code.startswith("unallocated:") | code.startswith("tax:")).group_by(code, ACCOUNTS.c.commodity)
    )  # fmt: skip
    found: dict[tuple[str, str], int] = defaultdict(int)
    for account, currency, amount in conn.execute(query):
        found[account.rpartition(":")[0] if account.startswith("tax:") else account, currency] += int(amount)
    return found
