"""Jobs that were given up as lost and are seen again: final is never left, but somebody must learn of it.

A look that is taken anyway shows them (the queue lists everything of ours), or the centre's own record does: it is
booked to the job as every other one. Nothing more is asked of the centre for their sake.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from datetime import datetime
from typing import Any

from sqlalchemy import Connection, select

from accounting.store import reading
from gateway.db import table_of
from gateway.ids import new_id
from gateway.jobs import repository
from gateway.jobs.identity import Known, Proof, prove
from gateway.jobs.lifecycle import Phase
from gateway.jobs.outcome import run_rows, upsert_seen
from gateway.jobs.repository import JOBS
from gateway.jobs.tables import DecisionRow
from gateway.services import Lease, Services
from site_adapters.states import Reason
from site_adapters.types import Observation, ObservedRun

_BREAKS = table_of(DecisionRow)
# Of so many lost jobs, the latest, a look is compared with.
_MOST = 1000


def settle_returned(services: Services, lease: Lease, seen: Observation, now: datetime) -> int:
    """Say of each lost job that this look shows again that it is there; how many there were."""
    rows: dict[str, list[ObservedRun]] = defaultdict(list)
    for run in (*seen.accounting.runs, *seen.queue.runs):
        rows[run.native_id].append(run)
    if not rows:
        return 0
    with services.db.read() as conn:
        lost = [job for job in _lost(conn, lease.site_id) if job.native_id in rows]
        accounts = repository.site_accounts(conn, {job.site_account_id for job in lost})
        back = [(job, runs) for job in lost if (runs := _ours(conn, job, accounts, rows[job.native_id]))]
    for job, runs in back:
        with services.db.write() as conn:
            repository.assert_served_by(conn, lease)
            upsert_seen(conn, job, runs, now)
            newest = max(runs, key=lambda r: r.restarts)
            _tell(conn, job, newest.native_state or newest.state.value, now, live=any(not r.state.final for r in runs))
    return len(back)


def settle_recorded(services: Services, lease: Lease, now: datetime) -> int:
    """The same of lost jobs of which the centre has given a record."""
    with services.db.read() as conn:
        back = [
            job
            for job in _lost(conn, lease.site_id)
            if reading.tasks_told_since(conn, job.id, job.opened_at) - _ended_tasks(conn, job)
        ]
    for job in back:
        with services.db.write() as conn:
            repository.assert_served_by(conn, lease)
            _tell(conn, job, "in its accounting", now, live=False)
    return len(back)


def _lost(conn: Connection, site_id: str) -> list[Any]:
    """Jobs that ended as lost, and that nobody has said more of since."""
    query = (
        select(JOBS.c.id, JOBS.c.site_id, JOBS.c.site_account_id, JOBS.c.tag, JOBS.c.attempt, JOBS.c.native_id,
               JOBS.c.native_submit_time, JOBS.c.restarts, JOBS.c.array_size, _BREAKS.c.opened_at)
        .join(_BREAKS, _BREAKS.c.job_id == JOBS.c.id)
        .where(_BREAKS.c.site_id == site_id, _BREAKS.c.kind == "lost", _BREAKS.c.closed_at.is_(None),
               JOBS.c.phase == Phase.ENDED.value, JOBS.c.reason == Reason.LOST.value, JOBS.c.native_id.is_not(None))
        .order_by(JOBS.c.id.desc()).limit(_MOST)
    )  # fmt: skip
    return list(conn.execute(query))


def _ours(conn: Connection, job: Any, accounts: Any, runs: Sequence[ObservedRun]) -> list[ObservedRun]:
    """Those of the runs that are this job's, and of an array only the tasks that were lost."""
    known = Known(accounts[job.site_account_id].username, job.tag, job.attempt, job.native_submit_time, job.restarts)
    ours = [run for run in runs if prove(known, run) is Proof.OURS]
    ended = _ended_tasks(conn, job) if ours else set()
    return [run for run in ours if run.task not in ended]


def _ended_tasks(conn: Connection, job: Any) -> set[int]:
    """Of an array: the tasks that were seen to end, and are not what is missed."""
    if job.array_size is None:
        return set()
    return {row.task for row in run_rows(conn, job.id, job.attempt) if row.reason != Reason.LOST.value and row.end_time}


def _tell(conn: Connection, job: Any, shown: str, now: datetime, *, live: bool) -> None:
    detail = {"native_id": job.native_id, "native_state": shown}
    repository.note(conn, job.id, "found_again", detail, now=now)
    repository.set_columns(conn, job.id, message=f"It was given up as lost, and the centre shows it again: {shown}.")
    repository.close_breaks(conn, job.id, decision="found_again", decided_by=None, now=now)
    if live:  # it goes on, and no credit is held for it: a person may want to cancel it there
        repository.open_break(conn, break_id=new_id("b", now), job_id=job.id, site_id=job.site_id, kind="returned",
                              detail=detail, now=now)  # fmt: skip
