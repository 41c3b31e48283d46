"""Money that came in: what the bank says of it, and which documents it pays."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import datetime

from accounting.errors import PaymentRefused

AMOUNT_MINOR_MAX = 10**15
REFERENCE_MAX = 140
NAMED = "named in the reference"
RETURNED = "returned, and named in the reference"


@dataclass(frozen=True, slots=True)
class BankTransaction:
    """One booked movement of an account. `amount_minor` is negative where money went back to the payer."""

    account: str
    bank_ref: str
    booked_on: datetime
    currency: str
    amount_minor: int
    payer_name: str = ""
    remittance: str = ""
    source: str = "csv"
    payer_account: str = ""

    def __post_init__(self) -> None:
        if not self.bank_ref or not self.account:
            raise PaymentRefused("a bank transaction has an account and the bank's reference")
        if len(self.bank_ref) > REFERENCE_MAX:  # cut short, two payments could become one
            raise PaymentRefused(f"a bank's reference has at most {REFERENCE_MAX} characters, not {len(self.bank_ref)}")
        if not 0 < abs(self.amount_minor) <= AMOUNT_MINOR_MAX:
            raise PaymentRefused(f"{self.bank_ref}: {self.amount_minor} is no amount of a payment")
        if not 1970 < self.booked_on.year < 2500:
            raise PaymentRefused(f"{self.bank_ref}: no payment was booked in the year {self.booked_on.year}")

    @property
    def content_sha256(self) -> str:
        """The same reference with another amount or day is another thing, and is refused. Names may be reworded."""
        text = json.dumps([self.booked_on.date().isoformat(), self.currency, str(self.amount_minor)])
        return hashlib.sha256(text.encode()).hexdigest()


@dataclass(frozen=True, slots=True)
class Problem:
    """A line or entry that cannot be read: shown to whoever imports, with where it is."""

    where: str
    why: str


@dataclass(frozen=True, slots=True)
class LeftOut:
    """A movement that is no payment of a customer: shown to whoever imports, with why. `amount_minor` is signed."""

    where: str
    why: str
    amount_minor: int
    currency: str
    remittance: str = ""


@dataclass(frozen=True, slots=True)
class BankStatement:
    """What a file holds. `left_out`: debits that are no returned payment, and what is not booked yet. With problems,
    nothing is imported."""

    transactions: tuple[BankTransaction, ...]
    problems: tuple[Problem, ...] = ()
    left_out: tuple[LeftOut, ...] = ()


WENT_OUT = "money that went out, and no returned payment"


@dataclass(frozen=True, slots=True)
class OpenDocument:
    """An invoice that is not fully paid. `open_minor` is what is left of it after credits and payments; `zone` is whose
    days count."""

    number: str
    payer_id: str
    payer_name: str
    currency: str
    open_minor: int
    due_at: datetime
    zone: str = "UTC"


@dataclass(frozen=True, slots=True)
class Allocation:
    """`amount_minor` of a transaction pays a document, and why we think so."""

    document: str
    payer_id: str
    amount_minor: int
    how: str


@dataclass(slots=True)
class _Purse:
    left: int
    found: list[Allocation] = field(default_factory=list)

    def pay(self, document: OpenDocument, how: str) -> None:
        amount = min(self.left, document.open_minor)
        if amount > 0:
            self.left -= amount
            self.found.append(Allocation(document.number, document.payer_id, amount, how))


def of_its_amount(transaction: BankTransaction, open_documents: Sequence[OpenDocument]) -> list[OpenDocument]:
    """The open documents of exactly this amount."""
    wanted = (transaction.currency, transaction.amount_minor)
    return [d for d in open_documents if wanted == (d.currency, d.open_minor) and d.open_minor > 0]


def in_order(transactions: Sequence[BankTransaction]) -> list[BankTransaction]:
    """By day, what came in before what went back: banks list the newest first, and a return needs its payment."""
    return sorted(transactions, key=lambda t: (t.booked_on, t.amount_minor < 0))


def allocate(
    transaction: BankTransaction, open_documents: Sequence[OpenDocument],
    contradicts: Callable[[BankTransaction, OpenDocument], bool],
) -> list[Allocation]:  # fmt: skip
    """Which open documents a payment pays: those it names, else the only one of its amount. The rest stays unallocated.

    An amount alone decides nothing where the payer on the bank's line is another one (`contradicts`): a person does.
    A number is found whatever stands between its letters and digits (`ps 000001`, `PS000001`); one that is only the
    beginning or the end of a longer one is none.
    """
    if transaction.amount_minor < 0:
        return []  # `reopen` is for these
    fitting = [d for d in open_documents if d.currency == transaction.currency and d.open_minor > 0]
    purse = _Purse(transaction.amount_minor)
    named = [(at, d) for d in fitting if (at := mention(d.number, transaction.remittance)) is not None]
    for _, document in sorted(named, key=lambda pair: (pair[0], pair[1].due_at, pair[1].number)):
        purse.pay(document, NAMED)
    if named:
        return purse.found
    same = of_its_amount(transaction, fitting)
    if len(same) > 1:
        name = squeezed(transaction.payer_name)
        same = [d for d in same if name and squeezed(d.payer_name) == name]
    if len(same) == 1 and not contradicts(transaction, same[0]):
        purse.pay(same[0], "the only open document of this amount")
    return purse.found


def reopen(transaction: BankTransaction, paid: Sequence[OpenDocument]) -> list[Allocation]:
    """Which paid documents are open again because their money went back: those that it names, with negative amounts.

    `open_minor` of `paid` is what was paid of each.
    """
    left, found = -transaction.amount_minor, []
    named = [(at, d) for d in paid if (at := mention(d.number, transaction.remittance)) is not None]
    for _, document in sorted(named, key=lambda pair: (pair[0], pair[1].number)):
        amount = min(left, document.open_minor) if document.currency == transaction.currency else 0
        if amount > 0:
            left -= amount
            found.append(Allocation(document.number, document.payer_id, -amount, RETURNED))
    return found


def mention(number: str, text: str) -> int | None:
    """Where a number stands in free text, or None."""
    parts = re.findall(r"[A-Za-z]+|\d+", number)
    pattern = r"[\s\-_/.:#]*".join(re.escape(part) for part in parts)
    match = re.search(rf"(?<![A-Za-z0-9]){pattern}(?![A-Za-z0-9])", text, re.IGNORECASE)
    return None if match is None else match.start()


def squeezed(text: str) -> str:
    return "".join(c for c in text.casefold() if c.isalnum())
