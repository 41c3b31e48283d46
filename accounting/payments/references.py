"""By what a bank's movement is known where the bank gives it no reference of its own."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import replace

from accounting.payments.payment import BankTransaction

NONE = "?"  # until `referenced` has named it


def own_of(reference: str) -> str:
    """The bank's reference; empty where it only says that there is none (German banks: NONREF)."""
    return "" if reference.upper() in ("NONREF", "NOTPROVIDED", "NOREF") else reference


def referenced(found: Iterable[BankTransaction]) -> Iterator[BankTransaction]:
    """A bank that gives no reference: what the transaction says, and which of several equal ones it is."""
    seen: Counter[str] = Counter()
    for t in found:
        if t.bank_ref != NONE:
            yield t
            continue
        said = "\x1f".join((t.content_sha256, t.account, t.payer_name, t.remittance))
        seen[said] += 1
        digest = hashlib.sha256(said.encode()).hexdigest()[:32]
        yield replace(t, bank_ref=f"sha256:{digest}/{seen[said]}")


def told_apart(found: Iterable[BankTransaction]) -> Iterator[BankTransaction]:
    """Movements of one statement, where a bank gives two of a day and amount the same reference: both moved money (the
    statement's balances say so), and the second is no repetition of the first."""
    seen: Counter[tuple[str, str]] = Counter()
    for t in found:
        seen[t.bank_ref, t.content_sha256] += 1
        number = seen[t.bank_ref, t.content_sha256]
        yield t if number == 1 or t.bank_ref == NONE else replace(t, bank_ref=f"{t.bank_ref}/{number}")
