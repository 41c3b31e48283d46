"""What a month's billing still has to put on a document: a month is closed only when nothing of it is left."""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any

from sqlalchemy import BigInteger, Connection, and_, func, select

from accounting.invoicing.adjustment_lines import left_to_adjust
from accounting.invoicing.items import ITEMS
from accounting.invoicing.order_lines import left_to_bill
from accounting.store.schema import CHARGES, REVERSALS, USAGE


@dataclass(frozen=True, slots=True)
class Waiting:
    """Runs of a project that are charged by the centre's meter and are on no document, prices of its orders and
    adjustments that are not (wholly) on any, and what all of it comes to."""

    project_id: str
    currency: str
    runs: int
    amount_micro: int
    orders: int = 0
    adjustments: int = 0


def waiting_to_be_billed(conn: Connection, before: datetime) -> list[Waiting]:
    """What ended before a moment and the next invoice would have, by project: charges, billed ones taken back,
    what orders cost, and adjustments.

    Charges of nothing are not counted, nor runs that only the gateway has metered: those are never billed.
    """
    billed, undone = ITEMS.alias("billed"), ITEMS.alias("undone")
    live = (
        _summed(func.sum(CHARGES.c.amount_micro, type_=BigInteger))
        .outerjoin(REVERSALS, REVERSALS.c.charge_id == CHARGES.c.id)
        .outerjoin(billed, and_(billed.c.kind == "charge", billed.c.charge_id == CHARGES.c.id))
        .where(REVERSALS.c.charge_id.is_(None), billed.c.charge_id.is_(None))
    )
    back = (
        _summed(-func.sum(CHARGES.c.amount_micro, type_=BigInteger))
        .join(REVERSALS, REVERSALS.c.charge_id == CHARGES.c.id)
        .join(billed, and_(billed.c.kind == "charge", billed.c.charge_id == CHARGES.c.id))
        .outerjoin(undone, and_(undone.c.kind == "reversal", undone.c.charge_id == CHARGES.c.id))
        .where(undone.c.charge_id.is_(None))
    )
    sums: dict[tuple[str, str], Waiting] = {}
    for query in (live, back):
        for project, currency, runs, amount in conn.execute(query.where(USAGE.c.end_time < before)):
            found = sums.get((project, currency), Waiting(project, currency, 0, 0))
            sums[project, currency] = Waiting(project, currency, found.runs + runs, found.amount_micro + int(amount))
    for project, currency, amount in left_to_bill(conn, before):
        found = sums.get((project, currency), Waiting(project, currency, 0, 0))
        sums[project, currency] = replace(found, amount_micro=found.amount_micro + amount, orders=found.orders + 1)
    for project, currency, amount in left_to_adjust(conn, before):
        found = sums.get((project, currency), Waiting(project, currency, 0, 0))
        sums[project, currency] = replace(
            found, amount_micro=found.amount_micro + amount, adjustments=found.adjustments + 1
        )
    return [sums[key] for key in sorted(sums)]


def _summed(amount: Any) -> Any:
    return (
        select(CHARGES.c.project_id, CHARGES.c.currency, func.count(), amount)
        .join(USAGE, USAGE.c.id == CHARGES.c.usage_record_id)
        .where(CHARGES.c.meter == "centre", CHARGES.c.amount_micro != 0)
        .group_by(CHARGES.c.project_id, CHARGES.c.currency)
    )
