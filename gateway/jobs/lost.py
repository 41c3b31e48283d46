"""Jobs that a good look did not show: never finished because absent, lost only after repeated good looks and some time.

Looks come seconds apart, and a controller that starts anew may know nothing for longer: so the first look that missed
a job must also be `lost_after_s` ago, whatever came between. It is searched by its tag in both sources when enough
looks have missed it, and once more before it is given up. What was forgotten before it ran (its fence is free) is
handed over again; what ran and left no record is `failed`, reason `lost`, with a break.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any

import structlog
from sqlalchemy import Connection, select, update

from gateway.ids import new_id
from gateway.jobs import lookup, repository
from gateway.jobs.lifecycle import FINAL, Event, Phase, State
from gateway.jobs.lookup import Lost
from gateway.jobs.outcome import Seen, apply_runs, end, expected_tasks, run_rows
from gateway.jobs.repository import JOBS
from gateway.services import Lease, Services
from site_adapters.errors import SiteError
from site_adapters.states import ObservedState, Reason
from site_adapters.types import FenceOwned, FenceTaken, Observation, ObservedRun, SiteAccount

log = structlog.get_logger()

_CLOCK_SLACK = timedelta(minutes=15)


def settle_missing(
    services: Services,
    lease: Lease,
    absent: Sequence[Seen],
    accounts: Mapping[str, SiteAccount],
    seen: Observation,
    now: datetime,
) -> int:
    """Count a good look for each absent job, and settle those that were absent often enough."""
    if not (seen.queue.good and seen.accounting.good):
        return len(absent)
    given_up = [m for m in absent if _missed_enough(services, m.job, now)]
    waiting = []
    for m in absent:
        if _missed_enough(services, m.job, now):
            continue
        # Some sources answer by tag alone: one search as soon as looks have missed it, and not with each look after.
        searched = m.job.missing_looks + 1 == services.settings.good_looks
        if not searched or _found(services, lease, m.job, accounts[m.job.site_account_id], now) is False:
            waiting.append(m.job)
    if waiting:
        with services.db.write() as conn:
            repository.assert_served_by(conn, lease)
            for first in (True, False):
                ids = [job.id for job in waiting if (_missing_since(job) is None) is first]
                since = {"missing_since": now} if first else {}
                more = update(JOBS).where(JOBS.c.id.in_(ids)).values(missing_looks=JOBS.c.missing_looks + 1, **since)
                conn.execute(more)
    for gone in given_up:
        _settle(services, lease, gone, accounts[gone.job.site_account_id], seen, now)
    return len(absent)


def _missing_since(job: Any) -> datetime | None:
    """When a look missed it first; None for a job that the last look showed."""
    since: datetime | None = job.missing_since if job.missing_looks else None
    return since


def _missed_enough(services: Services, job: Any, now: datetime) -> bool:
    """Whether this look, which does not show the job, is the last that was needed."""
    since = _missing_since(job) or now
    floor = timedelta(seconds=services.sites[job.site_id].lost_after_s)
    return job.missing_looks + 1 >= services.settings.good_looks and now - since >= floor


def settle_incomplete(
    services: Services,
    lease: Lease,
    shown: Sequence[Seen],
    accounts: Mapping[str, SiteAccount],
    seen: Observation,
    now: datetime,
) -> None:
    """Arrays of which some tasks were never seen: a pending task canceled alone at the site leaves no trace."""
    good = seen.queue.good and seen.accounting.good
    there = []
    for array in shown:
        job = array.job
        shown_tasks = {r.task for r in array.ours}
        if job.array_size is None or len(shown_tasks) >= job.array_size:
            there += [job.id] if job.missing_looks else []
            continue
        if not good:
            continue
        with services.db.write() as conn:
            repository.assert_served_by(conn, lease)
            if not _unaccounted(conn, job, shown_tasks):
                there += [job.id] if job.missing_looks else []
                continue
            since = _missing_since(job) or now
            counted = {"missing_looks": job.missing_looks + 1, "missing_since": since}
            conn.execute(update(JOBS).where(JOBS.c.id == job.id).values(**counted))
        if _missed_enough(services, job, now):
            _settle_tasks(services, lease, job, accounts[job.site_account_id], now)
    if there:  # looks that missed them are counted from none again, also where nothing else has changed
        with services.db.write() as conn:
            repository.assert_served_by(conn, lease)
            conn.execute(update(JOBS).where(JOBS.c.id.in_(there)).values(missing_looks=0))


def _settle_tasks(services: Services, lease: Lease, job: Any, account: SiteAccount, now: datetime) -> None:
    runs = _search(services, lease, job, account)
    if runs is None:
        return
    with services.db.write() as conn:
        repository.assert_served_by(conn, lease)
        if runs:
            apply_runs(conn, services, [Seen(job, tuple(runs))], now)
        lost = _unaccounted(conn, job, {r.task for r in runs})
        if not lost:
            return
        detail = {"tasks": lost[:1000], "count": len(lost)}
        repository.note(conn, job.id, "tasks_lost", detail, now=now)
        repository.open_break(conn, break_id=new_id("b", now), job_id=job.id, site_id=job.site_id, kind="lost",
                              detail=detail, now=now)  # fmt: skip
        state = ObservedState.CANCELED if job.wish == "cancel" else ObservedState.FAILED
        reason = Reason.NONE if job.wish == "cancel" else Reason.LOST
        gone = tuple(
            ObservedRun(job.native_id, state, "", task=task, reason=reason, submit_time=job.native_submit_time)
            for task in lost
        )
        apply_runs(conn, services, [Seen(job, gone)], now)


def _unaccounted(conn: Connection, job: Any, shown: set[int | None]) -> list[int]:
    """Tasks that are neither shown now nor known to have ended."""
    ended = {row.task for row in run_rows(conn, job.id, job.attempt) if row.state in FINAL}
    spec = conn.scalar(select(JOBS.c.spec).where(JOBS.c.id == job.id)) or {}
    return [task for task in expected_tasks(spec) if task not in ended and task not in shown]


def _settle(
    services: Services, lease: Lease, gone: Seen, account: SiteAccount, seen: Observation, now: datetime
) -> None:
    job = gone.job
    if _found(services, lease, job, account, now) is not False:
        return
    lost = Lost(job.id, job.attempt, job.tag, job.wish, account, job.submitted_at, 0)
    fence = lookup.take(services.sites[lease.site_id], [lost])[lost.fence_name]
    with services.db.write() as conn:
        repository.assert_served_by(conn, lease)
        if isinstance(fence, FenceTaken) and job.wish != "cancel" and seen.accounting_kept and job.started_at is None:
            lookup.fence_off(conn, job.id, job.attempt, now, expected=Phase.AT_SITE)
        elif isinstance(fence, FenceTaken | FenceOwned):
            _give_up(conn, services, job, fence, now)
        else:
            message = "The site shows no trace of it, and its fence cannot be reached."
            lookup.ask_a_person(conn, job.id, job.site_id, message, now, expected=Phase.AT_SITE)


def _found(services: Services, lease: Lease, job: Any, account: SiteAccount, now: datetime) -> bool | None:
    """Search it by its tag, and note what that shows; None where no source can tell."""
    runs = _search(services, lease, job, account)
    if not runs:
        return None if runs is None else False
    with services.db.write() as conn:
        repository.assert_served_by(conn, lease)
        native = {r.native_id for r in runs}
        if job.native_id in native:
            ours = tuple(r for r in runs if r.native_id == job.native_id)
            apply_runs(conn, services, [Seen(job, ours)], now)
        else:
            # The site knows it under another id (its numbers were given anew).
            first = min(runs, key=lambda r: (r.submit_time or now, r.native_id))
            conn.execute(
                update(JOBS)
                .where(JOBS.c.id == job.id)
                .values(native_id=first.native_id, cluster=first.cluster, missing_looks=0, observed_digest="")
            )
            repository.note(conn, job.id, "adopted", {"native_id": first.native_id, "found_by": "tag"}, now=now)
    return True


def _give_up(conn: Connection, services: Services, job: Any, fence: FenceTaken | FenceOwned, now: datetime) -> None:
    canceled = job.wish == "cancel"
    state = State.CANCELED if canceled else State.FAILED
    message = "" if canceled else "The site shows no trace of it any more."
    detail = {"native_id": job.native_id, "fence": fence.owner if isinstance(fence, FenceOwned) else "free"}
    end(conn, services, job, state, Reason.NONE if canceled else Reason.LOST, now, payload=detail, runs=(),
        event=Event.LOST, message=message)  # fmt: skip
    if not canceled:
        repository.open_break(conn, break_id=new_id("b", now), job_id=job.id, site_id=job.site_id, kind="lost",
                              detail=detail, now=now)  # fmt: skip


def _search(services: Services, lease: Lease, job: Any, account: SiteAccount) -> list[ObservedRun] | None:
    """Both sources by tag; None where one of them gave no good answer."""
    name = f"{job.tag}.{job.attempt}"
    try:
        look = services.sites[lease.site_id].management.find(
            [name], accounts=[account], since=job.submitted_at - _CLOCK_SLACK
        )
    except SiteError as exc:
        log.warning("lookup_failed", site=lease.site_id, job=job.id, error=str(exc))
        return None
    if not look.good:
        return None
    return [r for r in look.runs if name in r.tags_seen and r.username in ("", account.username)]
