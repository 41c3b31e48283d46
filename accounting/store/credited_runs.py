"""Which runs a credit or a dispute of a line names; one that names none is about the whole line."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Mapping
from datetime import datetime

from sqlalchemy import Connection, insert, select

from accounting import tables
from accounting.store.schema import among, core

CREDITED_RUNS = core(tables.CreditedRunRow)


def name_runs(conn: Connection, source: str, charge_ids: Collection[int], *, now: datetime) -> None:
    """Keep which charges `source` (`credit note:line`, or a dispute's id) is about."""
    rows = [{"source": source, "charge_id": charge_id, "recorded_at": now} for charge_id in sorted(set(charge_ids))]
    if rows:
        conn.execute(insert(CREDITED_RUNS), rows)


def named_by(conn: Connection, sources: Collection[str]) -> Mapping[str, frozenset[int]]:
    """The charges that each of these sources names; those that name none are missing."""
    found: dict[str, set[int]] = defaultdict(set)
    for row in conn.execute(select(CREDITED_RUNS).where(among(conn, CREDITED_RUNS.c.source, sources))):
        found[row.source].add(row.charge_id)
    return {source: frozenset(ids) for source, ids in found.items()}
