"""Who bears a decided credit note: the agreement says, and the centre's next settlement shows it.

The credit note itself puts the whole net amount on `operator:credits`. What the centre bears of it was never earned:

  Dr centre:C:payable its share      Dr operator:revenue the operator's      Cr operator:credits both

What the operator bears stays on `operator:credits`, and the centre keeps its share of it. Without a signed agreement
nobody but the operator bears anything.
"""

from __future__ import annotations

from datetime import datetime, timedelta

from sqlalchemy import Connection

from accounting.credit_share import KIND, postings_of
from accounting.invoicing.invoice import Document
from accounting.ledger import Entry
from accounting.minor_units import to_micro
from accounting.store import book
from accounting.store.contracts import contracts
from accounting.store.orders import agreement_of_price

_MOMENT = timedelta(microseconds=1)


def share_credit(conn: Connection, made: Document, *, entry_id: int, now: datetime) -> None:
    """Take from the centres what they bear of a credit note; `entry_id`: that of the credit note."""
    agreed = contracts(conn)
    entries = []
    for line in made.lines:
        if line.ordered is not None:
            agreement = agreement_of_price(conn, line.ordered.allocation_id)
        else:
            agreement = agreed.agreement(line.site_id, line.service_end - _MOMENT)
        if agreement is None:
            continue
        postings = postings_of(agreement, to_micro(-line.net_minor, made.currency), made.currency)
        if postings:
            key = f"credit-share:{made.number}:{line.number}"
            memo = f"{made.number} gives back of line {line.number} of {made.corrects}: {made.reason}"
            entries.append(Entry(key, KIND, now, postings, memo[:500], service_at=line.service_start,
                                 linked_entry_id=entry_id))  # fmt: skip
    book(conn, entries, now=now)
