"""Why a line of an invoice is what it is: the charges on it, down to the run and the arithmetic."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import Connection, select

from accounting.invoicing.invoice import Document, Line, LineKind
from accounting.invoicing.items import ITEMS
from accounting.store.schema import CHARGES, USAGE


@dataclass(frozen=True, slots=True)
class BilledCharge:
    """One run on a line; of a `reversal` the amount is negative: it had been billed before."""

    id: int
    kind: str
    job_id: str
    run_key: str
    queue: str
    state: str
    start: datetime | None
    end: datetime | None
    cores: int
    core_seconds: int
    amount_micro: int
    rule: str
    segments: tuple[Mapping[str, Any], ...]


def charges_of_line(
    conn: Connection, doc: Document, line: Line, *, after: int = 0, limit: int = 100
) -> list[BilledCharge]:
    """By charge id, behind `after`. A decided credit has none of its own: its invoice's line has them. An order's price
    is of no runs."""
    if line.ordered is not None or line.kind is LineKind.ADJUSTMENT:
        return []
    number = doc.corrects if line.kind is LineKind.CREDIT else doc.number
    query = (
        select(ITEMS, CHARGES.c.job_id, CHARGES.c.rule, CHARGES.c.segments, USAGE.c.run_key, USAGE.c.queue,
               USAGE.c.state, USAGE.c.start_time, USAGE.c.end_time, USAGE.c.cores)
        .join(CHARGES, CHARGES.c.id == ITEMS.c.charge_id)
        .join(USAGE, USAGE.c.id == CHARGES.c.usage_record_id)
        .where(ITEMS.c.document == number, ITEMS.c.site_id == line.site_id, ITEMS.c.user_id == line.user_id,
               ITEMS.c.service_start == line.service_start, ITEMS.c.charge_id > after)
        .order_by(ITEMS.c.charge_id, ITEMS.c.kind).limit(limit)
    )  # fmt: skip
    return [
        BilledCharge(r.charge_id, r.kind, r.job_id, r.run_key, r.queue, r.state, r.start_time, r.end_time, r.cores,
                     r.core_seconds, r.amount_micro, r.rule, tuple(r.segments))
        for r in conn.execute(query)
    ]  # fmt: skip
