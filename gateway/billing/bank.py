"""Import a bank's file: checked as a whole, then booked some hundred transactions at a time, so that nobody waits for
all of them. One that is cut off goes on where it stopped when the same file is sent again."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from datetime import datetime

from accounting.evidence.outbox import put_source
from accounting.payments.payment import BankTransaction, in_order
from accounting.payments.store import Imported, assert_as_before, import_payments
from gateway.services import Services

# Booked in one transaction: some 40 ms on SQLite (DESIGN: at most 50).
_AT_ONCE = 200


def import_file(
    services: Services, document: bytes, transactions: Sequence[BankTransaction], *, format_name: str, now: datetime
) -> Imported:
    """Book what is new of a file that was read without a problem.

    Raises `PaymentRefused`, before anything is booked, where a known reference comes with another amount or day.
    """
    with services.db.write() as conn:
        assert_as_before(conn, transactions)
        put_source(conn, "bank_file", document, format=format_name)
    parts: list[Imported] = []
    allocated: Counter[str] = Counter()
    ordered = in_order(transactions)
    for at in range(0, len(ordered), _AT_ONCE):
        with services.db.write() as conn:
            parts.append(import_payments(conn, ordered[at : at + _AT_ONCE], now=now))
        allocated.update(parts[-1].allocated_minor)
    return Imported(
        sum(p.new for p in parts), sum(p.known for p in parts), dict(allocated), sum(p.unallocated for p in parts),
        sum(p.top_ups for p in parts), sum(p.proposed for p in parts),
    )  # fmt: skip
