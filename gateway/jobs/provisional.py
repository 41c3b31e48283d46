"""At a job's end the gateway's own meter makes a provisional charge in place of the hold (DESIGN section 4)."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any

from sqlalchemy import Connection, select

from accounting import store as books
from accounting.meter import MeteringPolicy
from accounting.usage import Kind, Meter, UsageRecord
from gateway.identity import vault
from gateway.jobs import checks, repository
from gateway.jobs.repository import JOBS, RUNS
from gateway.services import Services
from site_adapters.states import Reason

POLICY = MeteringPolicy()


def book_job(conn: Connection, services: Services, *, job_id: str, now: datetime) -> None:
    """Charge every run of an ended job by what the gateway saw, and give its hold back."""
    job = conn.execute(
        select(JOBS.c.id, JOBS.c.project_id, JOBS.c.user_id, JOBS.c.site_id, JOBS.c.tag, JOBS.c.queue, JOBS.c.native_id,
               JOBS.c.spec, JOBS.c.cores_charged, JOBS.c.site_account_id, repository.ORDERED_GRADE)
        .where(JOBS.c.id == job_id)
    ).one()  # fmt: skip
    currency = repository.project_currency(conn, job.project_id)
    username = repository.site_account(conn, job.site_account_id).username
    runs = conn.execute(select(RUNS).where(RUNS.c.job_id == job_id)).all()
    key = vault.keys_of(services, conn, [job.user_id], now)[job.user_id]
    assigned = [
        books.Assigned(
            vault.seal_record(record, person=job.user_id, key=key),
            job.id,
            job.project_id,
            job.user_id,
            currency,
            job.grade or "",
        )
        for record in _records(job, username, runs)
    ]
    books.record_and_book(conn, assigned, policy=POLICY, now=now)
    books.release_hold(conn, job_id=job_id, now=now)


def _records(job: Any, username: str, runs: Sequence[Any]) -> list[UsageRecord]:
    """What the gateway saw of each run that had resources and has ended; no centre record is needed for it.

    Accelerators are those that the job asked for, as in its hold: no status command tells what it was given.
    """
    records = []
    spec = repository.spec_from_json(job.spec)
    gpus = checks.gpus_charged(spec, None)
    for run in runs:
        if run.start_time is None or run.end_time is None or run.end_time <= run.start_time:
            continue
        elapsed = int((run.end_time - run.start_time).total_seconds())
        cores = run.cores or job.cores_charged
        tag = f"{job.tag}.{run.attempt}"
        records.append(
            UsageRecord(
                site_id=job.site_id, run_key=f"{tag}:{run.task}:{run.restart}", meter=Meter.GATEWAY,
                kind=Kind.FENCED_COPY if run.reason == Reason.FENCED.value else Kind.RUN, native_id=run.native_id,
                task=None if run.task < 0 else run.task, state=run.native_state.split(" ")[0], username=username,
                queue=job.queue, qos=spec.attributes.qos or "", cores=cores, nodes=0, elapsed_s=elapsed,
                core_seconds=cores * elapsed, node_seconds=0, gpu_seconds=gpus * elapsed, start_time=run.start_time,
                end_time=run.end_time, submit_time=run.submit_time, tag=tag,
                units=dict(spec.resources.units),
                cpus=run.cores,  # as the scheduler counts them: threads, where the agreement says so
                raw={"native_state": run.native_state, "observed_at": run.observed_at.isoformat()},
            )
        )  # fmt: skip
    return records
