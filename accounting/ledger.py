"""The ledger: balanced entries over commodities (currencies and core-seconds). An unbalanced entry cannot be built."""

from __future__ import annotations

import hashlib
import json
from collections import defaultdict
from dataclasses import dataclass
from datetime import datetime

from accounting.errors import UnbalancedEntry

CORE_SECONDS = "core-seconds"

# What a project owes (debit positive), and what it was given.
REVENUE = "operator:usage"
GRANTS = "operator:grants"


def receivable(project_id: str) -> str:
    """The account of what a project has used and owes."""
    return f"project:{project_id}:usage"


def credit(project_id: str) -> str:
    """The account of what a project was given to use."""
    return f"project:{project_id}:credit"


@dataclass(frozen=True, slots=True)
class Posting:
    """`amount` (micro-units, or core-seconds) to one account; debits are positive."""

    account: str
    commodity: str
    amount: int


@dataclass(frozen=True, slots=True)
class Entry:
    """What happened, once: `idem_key` is unique in the books for ever."""

    idem_key: str
    kind: str
    effective_at: datetime
    postings: tuple[Posting, ...]
    memo: str = ""

    def __post_init__(self) -> None:
        sums: dict[str, int] = defaultdict(int)
        for posting in self.postings:
            sums[posting.commodity] += posting.amount
        off = {commodity: total for commodity, total in sums.items() if total}
        if off or not self.postings:
            raise UnbalancedEntry(f"{self.idem_key}: {off or 'no postings'}")

    @property
    def content_sha256(self) -> str:
        lines = [[p.account, p.commodity, str(p.amount)] for p in self.postings]
        text = json.dumps([self.kind, lines], sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()


def usage_postings(project_id: str, *, currency: str, micro: int, core_seconds: int) -> tuple[Posting, ...]:
    """A charge (or, with negative figures, its correction): the project owes, the operator earns."""
    return (
        Posting(receivable(project_id), currency, micro),
        Posting(REVENUE, currency, -micro),
        Posting(receivable(project_id), CORE_SECONDS, core_seconds),
        Posting(REVENUE, CORE_SECONDS, -core_seconds),
    )


def grant_postings(project_id: str, *, commodity: str, amount: int) -> tuple[Posting, ...]:
    """A grant of credit: the project may use it, the operator has promised it."""
    return (Posting(credit(project_id), commodity, -amount), Posting(GRANTS, commodity, amount))
