"""Children wait in the gateway for their parents, at whatever centre those run (DESIGN law 16)."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

from sqlalchemy import Connection, insert, select, update

from gateway.db import table_of
from gateway.jobs.lifecycle import FINAL, State
from gateway.jobs.repository import JOBS
from gateway.jobs.tables import DependencyRow
from site_adapters.states import Reason
from site_adapters.types import Condition, Dependency

_TABLE = table_of(DependencyRow)

OPEN, SATISFIED, IMPOSSIBLE = 0, 1, -1


def verdict(condition: Condition, state: State, *, started: bool) -> int:
    """Whether a parent in `state` lets its child go: satisfied, open, or never to be."""
    final = state in FINAL
    if condition is Condition.AFTER:
        return SATISFIED if started or final else OPEN
    if not final:
        return OPEN
    if condition is Condition.AFTERANY:
        return SATISFIED
    good = state is State.COMPLETED
    return SATISFIED if good == (condition is Condition.AFTEROK) else IMPOSSIBLE


def insert_all(conn: Connection, job_id: str, wanted: Sequence[Dependency], *, now: datetime) -> int:
    """Keep the dependencies of a new job; returns how many still keep it from starting (impossible ones too).

    The parents' rows are read after the child's rows are visible to whoever ends them: on PostgreSQL they are locked
    first, on SQLite there is one writer.
    """
    if not wanted:
        return 0
    parents = select(JOBS.c.id, JOBS.c.state, JOBS.c.started_at).where(JOBS.c.id.in_({d.job_id for d in wanted}))
    if conn.dialect.name == "postgresql":
        parents = parents.order_by(JOBS.c.id).with_for_update(read=True)
    known = {r.id: (State(r.state), r.started_at is not None) for r in conn.execute(parents)}
    rows = []
    for dependency in {(d.job_id, d.condition): d for d in wanted}.values():
        state, started = known[dependency.job_id]
        decided = verdict(dependency.condition, state, started=started)
        rows.append(
            {"job_id": job_id, "parent_id": dependency.job_id, "condition": dependency.condition.value,
             "decided": decided}
        )  # fmt: skip
    conn.execute(insert(_TABLE), rows)
    return sum(1 for row in rows if row["decided"] != SATISFIED)


def parent_changed(conn: Connection, parent_id: str, state: State, *, started: bool, now: datetime) -> None:
    """Decide what hangs on this parent; children with nothing left to wait for join the line.

    Children that can never start are found by `doomed` and ended by the dispatch tick, one step at a time, so that a
    long chain does not end in one transaction.
    """
    open_rows = conn.execute(
        select(_TABLE.c.job_id, _TABLE.c.condition).where(_TABLE.c.parent_id == parent_id, _TABLE.c.decided == OPEN)
    ).all()
    for row in open_rows:
        decided = verdict(Condition(row.condition), state, started=started)
        if decided == OPEN:
            continue
        conn.execute(
            update(_TABLE)
            .where(_TABLE.c.job_id == row.job_id, _TABLE.c.parent_id == parent_id, _TABLE.c.condition == row.condition)
            .values(decided=decided)
        )
        if decided == SATISFIED:
            conn.execute(
                update(JOBS).where(JOBS.c.id == row.job_id).values(blocked_by=JOBS.c.blocked_by - 1, updated_at=now)
            )
            conn.execute(
                update(JOBS)
                .where(JOBS.c.id == row.job_id, JOBS.c.blocked_by == 0, JOBS.c.reason == Reason.DEPENDENCY.value)
                .values(reason=Reason.WAITING_LINE.value)
            )


def doomed(conn: Connection, site_id: str, *, most: int) -> list[str]:
    """Jobs that wait at this site for something that can never happen."""
    query = (
        select(JOBS.c.id)
        .join(_TABLE, _TABLE.c.job_id == JOBS.c.id)
        .where(JOBS.c.site_id == site_id, JOBS.c.phase == "waiting", _TABLE.c.decided == IMPOSSIBLE)
        .distinct()
        .limit(most)
    )
    return list(conn.scalars(query))
