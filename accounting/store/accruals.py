"""Accrue what runs have cost that are not over at the end of a period; their final record takes it back."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta

from sqlalchemy import Connection, select

from accounting.ledger import ACCRUED, CORE_SECONDS, Entry, Posting, accrued
from accounting.store.journal import book
from accounting.store.schema import ACCRUAL_REVERSALS, ACCRUALS, among, insert_all, new_ids
from accounting.usage import UsageRecord


@dataclass(frozen=True, slots=True)
class Running:
    """A run that goes on: what it has cost in all until the end of the period, as far as its time limit goes."""

    site_id: str
    run_key: str
    job_id: str
    task: int | None
    project_id: str
    currency: str
    amount_micro: int
    core_seconds: int


def capped_seconds(start: datetime, until: datetime, *, limit_s: int, grace_s: int = 600) -> int:
    """How long a run can have gone by then: a runaway job is not accrued for ever (accounting.md, trap 18)."""
    return min(max(0, int((until - start).total_seconds())), limit_s + grace_s)


def accrue(conn: Connection, running: Sequence[Running], *, period_end: datetime, now: datetime) -> int:
    """Book accruals in the last moment of a period, each run once; returns how many are new.

    Of a run that was going on at the end of an earlier period as well only what came since is accrued.
    """
    entries = []
    before = _accrued_before(conn, running, period_end)
    running = [run for run in (_since(run, before) for run in running) if run.amount_micro or run.core_seconds]
    for run in running:
        postings = [
            Posting(accrued(run.project_id), run.currency, run.amount_micro),
            Posting(ACCRUED, run.currency, -run.amount_micro),
            Posting(accrued(run.project_id), CORE_SECONDS, run.core_seconds),
            Posting(ACCRUED, CORE_SECONDS, -run.core_seconds),
        ]
        key = f"accrual:{run.site_id}:{run.run_key}:{period_end.isoformat()}"
        last = period_end - timedelta(microseconds=1)
        entries.append(Entry(key, "accrual", last, tuple(postings), f"{run.job_id} goes on"))
    ids = book(conn, entries, now=now)
    new = [(e, run) for e, run in zip(entries, running, strict=True) if e.idem_key in ids]
    rows = [
        {"id": id_, "site_id": run.site_id, "run_key": run.run_key, "period_end": period_end, "job_id": run.job_id,
         "task": run.task, "project_id": run.project_id, "currency": run.currency, "amount_micro": run.amount_micro,
         "core_seconds": run.core_seconds, "entry_id": ids[e.idem_key], "recorded_at": now}
        for id_, (e, run) in zip(new_ids(conn, ACCRUALS, len(new)), new, strict=True)
    ]  # fmt: skip
    insert_all(conn, ACCRUALS, rows)
    return len(rows)


def _accrued_before(
    conn: Connection, running: Sequence[Running], period_end: datetime
) -> dict[tuple[str, str], tuple[int, int]]:
    """(micro-units, core-seconds) that stand as accrued of these runs at the ends of earlier periods."""
    query = (
        select(ACCRUALS.c.site_id, ACCRUALS.c.run_key, ACCRUALS.c.amount_micro, ACCRUALS.c.core_seconds)
        .outerjoin(ACCRUAL_REVERSALS, ACCRUAL_REVERSALS.c.accrual_id == ACCRUALS.c.id)
        .where(among(conn, ACCRUALS.c.job_id, {run.job_id for run in running}), ACCRUALS.c.period_end < period_end,
               ACCRUAL_REVERSALS.c.accrual_id.is_(None))
    )  # fmt: skip
    found: dict[tuple[str, str], tuple[int, int]] = {}
    for row in conn.execute(query) if running else ():
        micro, seconds = found.get((row.site_id, row.run_key), (0, 0))
        found[row.site_id, row.run_key] = micro + int(row.amount_micro), seconds + int(row.core_seconds)
    return found


def _since(run: Running, before: Mapping[tuple[str, str], tuple[int, int]]) -> Running:
    micro, seconds = before.get((run.site_id, run.run_key), (0, 0))
    return replace(run, amount_micro=run.amount_micro - micro, core_seconds=run.core_seconds - seconds)


def take_back(conn: Connection, job_ids: Collection[str], final: Sequence[UsageRecord], *, now: datetime) -> int:
    """Reverse the accruals of jobs' tasks that have final records now; returns how many."""
    query = (
        select(ACCRUALS)
        .outerjoin(ACCRUAL_REVERSALS, ACCRUAL_REVERSALS.c.accrual_id == ACCRUALS.c.id)
        .where(among(conn, ACCRUALS.c.job_id, job_ids), ACCRUAL_REVERSALS.c.accrual_id.is_(None))
    )
    ended = {(r.site_id, r.task) for r in final}
    live = [row for row in conn.execute(query) if (row.site_id, row.task) in ended]
    entries = []
    for row in live:
        postings = (
            Posting(accrued(row.project_id), row.currency, -row.amount_micro),
            Posting(ACCRUED, row.currency, row.amount_micro),
            Posting(accrued(row.project_id), CORE_SECONDS, -row.core_seconds),
            Posting(ACCRUED, CORE_SECONDS, row.core_seconds),
        )
        entries.append(Entry(f"accrual-back:{row.id}", "accrual_reversal", max(now, row.period_end), postings,
                             f"{row.job_id} has ended", linked_entry_id=row.entry_id))  # fmt: skip
    ids = book(conn, entries, now=now)
    rows = [
        {"accrual_id": row.id, "entry_id": ids[e.idem_key], "recorded_at": now}
        for row, e in zip(live, entries, strict=True)
    ]
    insert_all(conn, ACCRUAL_REVERSALS, rows)
    return len(rows)
