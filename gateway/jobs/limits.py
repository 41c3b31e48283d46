"""Limits that the gateway itself enforces where asked: a walltime the scheduler does not keep, a cost."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import Connection, select, update

from accounting import store as books
from accounting.price import PriceBook
from accounting.store import contracts
from accounting.store.contracts import Contracts
from gateway.jobs import repository
from gateway.jobs.lifecycle import Phase, State
from gateway.jobs.repository import JOBS, RUNS
from gateway.services import Lease, Services
from site_adapters.states import Reason

# The scheduler's own limit, where it has one, should strike first.
GRACE = timedelta(seconds=30)


def enforce(services: Services, lease: Lease, now: datetime) -> None:
    """Wish the end of jobs that ran over a limit; the wish stays until the site has confirmed it."""
    query = select(JOBS).where(
        JOBS.c.site_id == lease.site_id,
        JOBS.c.phase == Phase.AT_SITE.value,
        JOBS.c.state == State.ACTIVE.value,
        JOBS.c.limit_hit == "",
        JOBS.c.enforce_duration.is_(True) | JOBS.c.max_cost_micro.is_not(None),
    )
    with services.db.read() as conn:
        jobs = conn.execute(query).all()
        prices = books.price_book(conn) if jobs else PriceBook((), ())
        agreed = contracts.contracts(conn) if jobs else Contracts((), ())
        over = [(job, why) for job in jobs if (why := _limit_hit(conn, job, prices, agreed, now)) is not None]
    if not over:
        return
    with services.db.write() as conn:
        repository.assert_served_by(conn, lease)
        for job, why in over:
            changed = conn.execute(
                update(JOBS)
                .where(JOBS.c.id == job.id, JOBS.c.phase == Phase.AT_SITE.value)
                .values(limit_hit=why.value, wish="cancel", wish_at=now, wish_tried_at=None)
            )
            if changed.rowcount:
                repository.note(conn, job.id, "limit_reached", {"limit": why.value}, now=now)


def _limit_hit(conn: Connection, job: Any, prices: PriceBook, agreed: Contracts, now: datetime) -> Reason | None:
    runs = conn.execute(select(RUNS).where(RUNS.c.job_id == job.id, RUNS.c.start_time.is_not(None))).all()
    if job.enforce_duration:
        longest = max((now - r.start_time for r in runs if r.end_time is None), default=timedelta(0))
        if longest > timedelta(seconds=job.duration_max) + GRACE:
            return Reason.TIME_LIMIT
    if job.max_cost_micro is not None:
        used = sum(_core_seconds(r, job.cores_charged, now) for r in runs)
        amount = (job.estimate or {}).get("amount") or {}
        where = agreed.scope(
            site_id=job.site_id, queue=job.queue, qos=job.spec.get("attributes", {}).get("qos") or "",
            currency=amount.get("currency", ""), project_id=job.project_id, at=now,
            grade=job.spec.get("attributes", {}).get("service_grade") or "",
        )  # fmt: skip
        cost = books.estimate(prices, where, core_seconds=used, at=now)
        if cost is not None and cost >= job.max_cost_micro:
            return Reason.COST_LIMIT
    return None


def _core_seconds(run: Any, cores_charged: int, now: datetime) -> int:
    seconds = int(((run.end_time or now) - run.start_time).total_seconds())
    return max(0, seconds) * (run.cores or cores_charged)
